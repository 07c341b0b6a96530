"""The write space of a head, in the d_head coordinates between its two factors: where components are scaled, set and mixed.

A head writes z W_O, and z = x W_V; with the components OV = Σ s_i u_i v_iᵀ there are, for each, two vectors of length d_head:

    take_i = W_O v_i          z · take_i is the coordinate of the write along v_i
    put_i  = u_i W_V / s_i    put_i W_O = v_i: adding c put_i to z adds c v_i to the write, and nothing else

put_i · take_j is 1 for i = j, else 0. Any other direction of the write space is a mixture of the v_i, and its vectors are the same mixture
of theirs. `W_O` and `W_V` are read as the `Setting` says; with the mean taken out of what is written, what is put along the mean beside
c v is read by nobody behind a LayerNorm. The same with QK = W_Q W_Kᵀ, on the query.

    import interp
    from interp.analyses.channels import Head, Space
    space = Space.of(interp.load("atlas"), Head(1, 3))
    space.put @ space.take                      # the identity
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from interp.core.errors import BadInput
from interp.core.shapes import Float

from .component import Head
from .decompose import Components, components
from .factors import DEFAULT, Factors, Setting, ov, qk

if TYPE_CHECKING:
    from interp.core.lm import LM

Which = Literal["ov", "qk"]


@dataclass(frozen=True, eq=False)
class Space:
    """A head's components in the d_head coordinates of its z (or q): `y @ take` are a write's coordinates along the write directions, and
    `put` are the vectors that write them."""

    take: Tensor
    """W_O vᵀ [d_head, component], float64; of as many components as the head's rank."""
    put: Tensor
    """u W_V / s [component, d_head]; put @ take is the identity."""
    parts: Components
    """The components, of this head alone."""

    @classmethod
    def of(
        cls, lm: "LM", head: Head, *, which: Which = "ov", setting: Setting = DEFAULT, offset: int | None = None
    ) -> "Space":
        """The space of one head. Raises what `decompose` raises."""
        factors = _factors(lm, head, which, setting, offset)
        parts = components(factors)
        rank = int(parts.rank[0])
        take = factors.right[0] @ parts.write[0, :rank].mT
        put = (parts.read[0, :rank] @ factors.left[0]) / parts.values[0, :rank, None]
        return cls(take, put, parts)

    def part(self, loss: Float[Tensor, "component component"]) -> Float[Tensor, "d_head d_head"]:
        """What `y - y @ part` takes out: of the write's coordinates c it leaves c - c @ loss. A component alone is a diagonal with one 1,
        a plane of the write space the projection on it."""
        return self.take @ loss.to(self.take) @ self.put

    @property
    def rank(self) -> int:
        """How many components there are."""
        return self.take.shape[1]

    @property
    def write(self) -> Float[Tensor, "component d_model"]:
        """The write directions, orthonormal rows."""
        return self.parts.write[0, : self.rank]

    def mixed(self, n: int, draw: torch.Generator) -> Float[Tensor, "component n"]:
        """`n` orthonormal directions, uniformly random in the write space, as mixtures of its components, float64."""
        return torch.linalg.qr(torch.randn(self.rank, n, generator=draw, dtype=torch.float64)).Q.to(self.write)


def _factors(lm: "LM", head: Head, which: Which, setting: Setting, offset: int | None) -> Factors:
    """The factors of one head, [1, ...]; without rotation on the query's side, which is put on the key's."""
    if which == "ov":
        if offset is not None:
            raise BadInput(f"OV is the same at every distance; leave out offset={offset!r}.")
        factors = ov(lm, head.layer, setting)
    else:
        factors = qk(lm, head.layer, setting, offset=offset)
        if offset is not None:
            turn = lm.weights.rotation(head.layer, offset).to(factors.left)
            factors = Factors(
                factors.left @ torch.linalg.inv(turn), turn @ factors.right
            )  # tables are float32, so no transpose
    return Factors(factors.left[head.head, None], factors.right[head.head, None])
