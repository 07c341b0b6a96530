"""Singular components of heads: one direction that is read, one that is written, and how strongly.

    OV = Σ s_i u_i v_iᵀ        u_i reads, v_i writes, s falls; component i of head 10 in layer 8 is called `8.10.i`

How. QR of both thin factors and the SVD of a d_head x d_head core, in float64; signs are such that the largest entry of v is positive (the
first, of equal ones). The full SVD of the d_model x d_model product gives the same and costs (d_model / d_head)² as much.

When it misleads
- Where two singular values (nearly) agree, only their common plane is determined, and any two directions in it are as good: `block` says
  which components cannot be told apart, and one of them is refused by name. All of a block, together, are a well-defined subspace.
- The number of a component is not a property of the function: folding a norm's gain rescales what is read, and 8.10.1 may be 8.10.2
  in other coordinates. Name components by what they do, and state the `Setting`.
- The sign is a convention. A write strength can only be compared between models after it is fixed in some other way.

Source: Merullo et al. 2024, "Talking Heads", section 3.

    from interp.analyses.channels import decompose, single
    parts = decompose(lm, 0)
    parts.values.shape, parts.gap.shape             # [head, component], [head, component - 1]
    single(lm, "0.1.0").write.norm()
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from interp.core.errors import BadInput, one_of

from .component import Component
from .factors import DEFAULT, Factors, Setting, ov, qk

if TYPE_CHECKING:
    from interp.core.lm import LM

DEGENERATE = 1e-3
"""Relative difference of neighbouring singular values below which their directions are not told apart."""
TIED = 1e-6
"""Entries of a direction that differ by less than this share are equally large: the first of them decides the sign."""
ROUNDING = float(torch.finfo(torch.float32).eps)
"""What weights are stored with, at best: singular values that it explains are zero."""


@dataclass(frozen=True)
class Components:
    """The singular components of all heads of one layer, float64. Beyond a head's rank, directions are NaN."""

    read: Tensor
    """u, unit rows [head, component, d_model (+ 1 with biases)]."""
    values: Tensor
    """s, falling [head, component]."""
    write: Tensor
    """v, unit rows [head, component, d_model]; of QK, the direction in the key's stream (+ 1 with biases)."""

    @property
    def gap(self) -> Tensor:
        """s_i / s_{i+1} [head, component - 1]; infinite at the rank, NaN beyond it."""
        return self.values[:, :-1] / self.values[:, 1:]

    @property
    def rank(self) -> Tensor:
        """How many components a head has, [head]; 0 for a head that writes nothing."""
        return (self.values > 0).sum(-1)

    def block(self, head: int, index: int) -> range:
        """The components that share a subspace with this one: itself alone, as a rule."""
        s = self.values[head]
        close = ((s[:-1] - s[1:]) <= DEGENERATE * s[:-1]) & (s[1:] > 0)
        first = last = index
        while first > 0 and close[first - 1]:
            first -= 1
        while last < len(s) - 1 and close[last]:
            last += 1
        return range(first, last + 1)


@dataclass(frozen=True)
class One:
    """One component, told apart from all others of its head."""

    component: Component
    read: Tensor
    """u, unit [d_model (+ 1 with biases)]"""
    value: float
    """s"""
    write: Tensor
    """v, unit [d_model]"""
    gap: tuple[float, float]
    """s_{i-1} / s_i and s_i / s_{i+1}, infinite at the ends: how well the direction is determined."""


def decompose(
    lm: "LM",
    layer: int,
    setting: Setting = DEFAULT,
    *,
    which: str = "ov",
    offset: int | None = None,
    heads: Sequence[int] | None = None,
) -> Components:
    """Components of the heads of a layer, of their OV or QK matrices; of some `heads` only, in that order.

    Raises `BadInput` for weights that are not finite, and as `qk` does for `offset`.
    """
    one_of("which", which, ("ov", "qk"))
    if which == "ov" and offset is not None:
        raise BadInput(f"OV is the same at every distance; leave out offset={offset!r}.")
    factors = ov(lm, layer, setting) if which == "ov" else qk(lm, layer, setting, offset=offset)
    if heads is not None:
        factors = Factors(factors.left[list(heads)], factors.right[list(heads)])
    return components(factors)


def components(factors: Factors) -> Components:
    """The singular value decomposition of `left @ right` for every head, by QR and a core of [d_head, d_head]."""
    left, right = torch.linalg.qr(factors.left), torch.linalg.qr(factors.right.mT)
    u, s, vt = torch.linalg.svd(left.R @ right.R.mT)
    read, write = (left.Q @ u).mT, vt @ right.Q.mT
    size = write.abs()
    first = (size >= size.amax(-1, keepdim=True) * (1 - TIED)).int().argmax(-1, keepdim=True)
    sign = torch.where(write.gather(-1, first) < 0, -1.0, 1.0)
    limit = s[:, :1] * s.shape[1] * ROUNDING
    none = (s <= limit) | (s == 0)
    gone = torch.where(none, torch.nan, 1.0)[..., None]
    return Components(read * sign * gone, s.masked_fill(none, 0.0), write * sign * gone)


def single(
    lm: "LM",
    name: "str | Component",
    setting: Setting = DEFAULT,
    *,
    which: str = "ov",
    offset: int | None = None,
) -> One:
    """One component by its name. Raises `BadInput` if it cannot be told from its neighbours, or does not exist."""
    component = Component.parse(name).check(lm)
    parts = decompose(lm, component.layer, setting, which=which, offset=offset, heads=[component.head])
    exists(parts, component, 0)
    block = parts.block(0, component.index)
    if len(block) > 1:
        raise BadInput(
            f"component {str(component)!r} cannot be told from its neighbours: singular values {block[0]} to {block[-1]} of head "
            f"{component.owner} agree to {DEGENERATE:g}, so only their common subspace is determined. Name all of them together."
        )
    s = [float("inf"), *parts.values[0].tolist(), 0.0]
    before, value, after = s[component.index : component.index + 3]
    return One(
        component,
        parts.read[0, component.index],
        value,
        parts.write[0, component.index],
        (before / value, value / after if after else float("inf")),
    )


def subspace(
    lm: "LM", names: "Sequence[str | Component]", setting: Setting = DEFAULT, *, which: str = "ov", side: str = "write"
) -> Tensor:
    """Orthonormal rows [n, d_model] that span the directions which the named components write (or read).

    Raises `BadInput` for a part of a block that cannot be told apart, for a name given twice, and where the directions of several heads
    do not span as many dimensions as there are names.
    """
    one_of("side", side, ("write", "read"))
    wanted = [Component.parse(name).check(lm) for name in names]
    if not wanted or len(set(wanted)) < len(wanted):
        raise BadInput(f"name one component or more, each once; not {[str(name) for name in names]}.")
    rows = []
    for owner in dict.fromkeys(component.owner for component in wanted):
        parts = decompose(lm, owner.layer, setting, which=which, heads=[owner.head])
        indices = [component.index for component in wanted if component.owner == owner]
        for index in indices:
            exists(parts, Component(owner.layer, owner.head, index), 0)
            if left_out := [other for other in parts.block(0, index) if other not in indices]:
                others = ", ".join(f"{owner}.{other}" for other in left_out)
                raise BadInput(
                    f"component {f'{owner}.{index}'!r} cannot be told from {others}: their singular values agree to {DEGENERATE:g}. "
                    "Name all of them together."
                )
        rows.append((parts.write if side == "write" else parts.read)[0, indices])
    stacked = torch.cat(rows)
    if len(stacked) > stacked.shape[-1] or float(torch.linalg.svdvals(stacked)[-1]) < DEGENERATE:
        raise BadInput(
            f"{', '.join(map(str, wanted))} span fewer than {len(wanted)} dimensions: some of them {side} the same. Name fewer."
        )
    return stacked if len(rows) == 1 else torch.linalg.qr(stacked.mT).Q.mT


def exists(parts: Components, component: Component, row: int) -> None:
    """Refuse a component beyond its head's rank. `row` is the head's place in `parts`."""
    rank = int(parts.rank[row])
    if component.index >= rank:
        what = "is zero" if not rank else f"has rank {rank}: components 0 to {rank - 1}"
        raise BadInput(f"there is no component {str(component)!r}: the matrix of head {component.owner} {what}.")
