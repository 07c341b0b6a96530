"""Moving what heads write along directions of their write space, exactly, in the d_head coordinates where it is written.

A head writes `z W_O`. For a unit direction v in its write space (a component's write direction, or any mixture of them) there are two
vectors of length d_head:

    take = W_O v        z · take is the coordinate of the head's write along v
    put  = v W_O⁺       adding c · put to z adds c · v to the write, and nothing else

and `put_i · take_j` is 1 for i = j, else 0, for orthonormal directions of one head. So one coordinate is set by
`z + (c - z · take) put`, and a whole write is replaced by `Σ c_i put_i`. `W_O` is read as the `Setting` says; with the mean taken
out of it, what is put along the mean beside `c v` is read by nobody behind a LayerNorm. z holds the values' bias, so coordinates do.

Writers in several layers are set in order: a later head has already heard of what an earlier one was made to say, so its own coordinate is
read off the run in which the earlier edits act.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from interp.core import edit
from interp.core.batch import At
from interp.core.errors import BadInput
from interp.core.seed import generator
from interp.core.site import Site

from ...paths.places import where
from ..component import Component, Head
from ..decompose import ROUNDING, decompose, single
from ..factors import Setting, ov, reader

if TYPE_CHECKING:
    from interp.core.batch import Batch
    from interp.core.edit import Edit
    from interp.core.lm import LM, Recording


@dataclass(frozen=True, eq=False)
class Axis:
    """A unit direction in the write space of one head."""

    name: str
    head: Head
    write: Tensor
    """v, unit [d_model], float64."""
    take: Tensor
    """[d_head]: `z @ take` is the coordinate."""
    put: Tensor
    """[d_head]: what added to z adds v to the write."""

    def coordinate(self, z: Tensor) -> Tensor:
        """Coordinates [...] of head outputs z [..., d_head], float64."""
        return z.double() @ self.take.to(z.device)

    def flipped(self) -> "Axis":
        """The same line, the other way round."""
        return replace(self, write=-self.write, take=-self.take, put=-self.put)


Move = tuple[Axis, Tensor]
"""An axis and the coordinate that it is to have, [row or 1, pos or 1] over the columns that are edited."""


class Space:
    """Directions in the write spaces of a model's heads; each layer's weights are read once."""

    def __init__(self, lm: "LM", setting: Setting) -> None:
        self.lm, self.setting = lm, setting
        self._writes: dict[Head, Tensor] = {}
        self._right: dict[int, Tensor] = {}
        self._back: dict[Head, Tensor] = {}

    def named(self, name: "str | Component") -> Axis:
        """A component, by its name. Raises `BadInput` for one that is not determined."""
        one = single(self.lm, name, self.setting)
        return self.axis(str(one.component), one.component.owner, one.write)

    def writes(self, head: Head) -> Tensor:
        """The write directions of all components of a head, orthonormal rows [rank, d_model]."""
        if head not in self._writes:
            parts = decompose(self.lm, head.layer, self.setting, heads=[head.head])
            self._writes[head] = parts.write[0, : int(parts.rank[0])]
        return self._writes[head]

    def random(self, head: Head, k: int, seed: int, *names: object) -> list[Axis]:
        """`k` orthonormal directions, uniformly random in the head's write space."""
        rows = self.writes(head)
        if k > len(rows):
            raise BadInput(f"head {head} writes into {len(rows)} dimensions; {k} random ones do not fit.")
        draw = torch.randn(
            len(rows), k, generator=generator(seed, "channel directions", head, *names), dtype=torch.float64
        )
        basis = torch.linalg.qr(draw).Q.mT @ rows.cpu()  # [k, d_model]
        return [self.axis(f"random in {head}", head, row) for row in basis]

    def axis(self, name: str, head: Head, write: Tensor) -> Axis:
        """A unit direction of the head's write space."""
        right, write = self.right(head), write.double().cpu()
        if head not in self._back:
            self._back[head] = torch.linalg.pinv(right, rtol=len(right) * ROUNDING)  # [d_model, d_head]
        put = write @ self._back[head]
        if not float((put @ right - write).norm()) < 1e-3:
            raise BadInput(
                f"the direction {name!r} is not one that head {head} can write: W_O reaches it to rounding only. Take a stronger component."
            )
        return Axis(name, head, write, right @ write, put)

    def coordinates(self, head: Head, z: Tensor) -> Tensor:
        """Coordinates of a head's outputs z [..., d_head] along all its components, [..., rank], float64."""
        return z.double().cpu() @ (self.right(head) @ self.writes(head).cpu().mT)

    def right(self, head: Head) -> Tensor:
        """What a head's output is written by [d_head, d_model], as the setting reads it."""
        if head.layer not in self._right:
            self._right[head.layer] = ov(self.lm, head.layer, self.setting).right.cpu()
        return self._right[head.layer][head.head]


def columns_of(mask: Tensor) -> list[int]:
    """The columns in which any row has a position, of a mask [row, pos]."""
    return [int(column) for column in mask.any(0).nonzero()[:, 0]]


def outputs(base: "Recording", head: Head, columns: Sequence[int]) -> Tensor:
    """What the recorded run has as the head's output, [row, column, d_head]."""
    return base.run[Site("z", head.layer)][:, list(columns), head.head]


def set_coordinates(
    lm: "LM", base: "Recording", cells: Sequence[Sequence[Move]], mask: Tensor, *, whole: bool = False
) -> "list[list[Edit]]":
    """The edits that give each cell's axes their coordinates at the positions `mask` [row, pos].

    With `whole` a head's write becomes the sum of its moves and nothing else; otherwise the rest of it stays. `base` must have captured `z`
    in the layers of the axes. Axes of one head must be orthonormal.
    """
    columns, at = columns_of(mask), At.mask(mask)
    edits: list[list[Edit]] = [[] for _ in cells]
    layers = sorted({axis.head.layer for cell in cells for axis, _ in cell})
    for place, layer in enumerate(layers):
        site, now = Site("z", layer), None
        if not whole and place:
            now = lm.resume_sites(base, edits, [site], at=columns)[site]  # [cell, row, column, head, d_head]
        for number, cell in enumerate(cells):
            for head, moves in _by_head(cell, layer).items():
                here = outputs(base, head, columns) if now is None else now[number, :, :, head.head]
                value = _whole(moves, here) if whole else _moved(moves, here)
                spread = _spread(value, columns, mask.shape[1])
                edits[number].append(edit.replace(site, spread, at=at, heads=[head.head]))
    return edits


def _by_head(cell: Sequence[Move], layer: int) -> Mapping[Head, list[Move]]:
    found: dict[Head, list[Move]] = {}
    for axis, value in cell:
        if axis.head.layer == layer:
            found.setdefault(axis.head, []).append((axis, value))
    return found


def _whole(moves: Sequence[Move], here: Tensor) -> Tensor:
    total: Any = sum(value[..., None].cpu() * axis.put for axis, value in moves)  # [row or 1, column or 1, d_head]
    return total.to(here.device, here.dtype)


def _moved(moves: Sequence[Move], here: Tensor) -> Tensor:
    change: Any = sum(
        (value.cpu() - axis.coordinate(here).cpu())[..., None] * axis.put for axis, value in moves
    )  # [row, column, d_head]
    return (here.double() + change.to(here.device)).to(here.dtype)


def _spread(value: Tensor, columns: Sequence[int], width: int) -> Tensor:
    """[row or 1, column or 1, d_head] as an edit's value [row or 1, pos or 1, 1, d_head]."""
    if value.shape[1] == 1:
        return value[:, :, None]
    out = value.new_zeros(value.shape[0], width, value.shape[2])
    out[:, list(columns)] = value
    return out[:, :, None]


def loudest_into(
    space: Space, head: Head, batches: "Sequence[Batch]", role: str, *, others: "Sequence[Batch]" = ()
) -> Component:
    """The component of an earlier head through which this one's query is told most on these prompts: its coordinate's standard deviation
    at the position `role` times |v M| / |M|, how much of it the query reads (in rotary models, for the token before). With `others`, the
    counterparts of `batches`, it is the root mean square of the coordinate's difference between the two instead.

    Raises `BadInput` for a head of the first layer, and where nothing is told.
    """
    lm = space.lm
    offset = 1 if lm.spec.positions == "rotary" else None
    side = reader(lm, head.layer, "Q", space.setting, offset=offset).side[head.head].cpu()  # [d_model, d_head]
    every = [Head(layer, number) for layer in range(head.layer) for number in range(lm.spec.n_heads)]
    seen: dict[Head, list[Tensor]] = {one: [] for one in every}
    for number, batch in enumerate(batches):
        mask = where(batch, role).cpu()
        sites = [Site("z", layer) for layer in range(head.layer)]
        runs = [lm.run(one, capture=sites) for one in (batch, *others[number : number + 1])]
        for one in every:
            told = [space.coordinates(one, run[Site("z", one.layer)][:, :, one.head].cpu()[mask]) for run in runs]
            seen[one].append(told[0] - told[1] if others else told[0])  # [token, component]
    best, found = 0.0, None
    for one in every:
        c = torch.cat(seen[one])
        size = c.square().mean(dim=0).sqrt() if others else c.std(dim=0, correction=0)
        heard = size * (space.writes(one).cpu() @ side).norm(dim=-1)
        if not len(heard):
            continue
        parts = decompose(lm, one.layer, space.setting, heads=[one.head])
        alone = torch.tensor([len(parts.block(0, index)) == 1 for index in range(len(heard))])
        heard = heard.masked_fill(~alone, 0.0)
        if float(heard.max()) > best:
            best, found = float(heard.max()), Component(one.layer, one.head, int(heard.argmax()))
    if found is None:
        raise BadInput(
            f"nothing that earlier heads write at {role!r} changes what the query of head {head} reads. Name the `components`."
        )
    return found
