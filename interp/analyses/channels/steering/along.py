"""Moving what heads write along directions of their write space, exactly, in the d_head coordinates where it is written.

With a head's `Space` (take_i, put_i) one coordinate is set by `z + (c - z · take) put`, and a whole write is replaced by `Σ c_i put_i`;
any unit direction of the write space is a mixture of components. z holds the values' bias, so coordinates do.

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
from ..decompose import single
from ..factors import Setting, reader
from ..space import Space

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


class Spaces:
    """The write spaces of a model's heads; each is read once."""

    def __init__(self, lm: "LM", setting: Setting) -> None:
        self.lm, self.setting = lm, setting
        self._of: dict[Head, Space] = {}

    def of(self, head: Head) -> Space:
        """The space of one head."""
        if head not in self._of:
            self._of[head] = Space.of(self.lm, head, setting=self.setting)
        return self._of[head]

    def named(self, name: "str | Component") -> Axis:
        """A component, by its name. Raises `BadInput` for one that is not determined."""
        one = single(self.lm, name, self.setting)
        return self.axis(str(one.component), one.component.owner, one.write)

    def writes(self, head: Head) -> Tensor:
        """The write directions of all components of a head, orthonormal rows [rank, d_model]."""
        return self.of(head).write.cpu()

    def random(self, head: Head, k: int, seed: int, *names: object) -> list[Axis]:
        """`k` orthonormal directions, uniformly random in the head's write space."""
        space = self.of(head)
        if k > space.rank:
            raise BadInput(f"head {head} writes into {space.rank} dimensions; {k} random ones do not fit.")
        mixed = space.mixed(k, generator(seed, "channel directions", head, *names)).cpu()
        return [self.axis(f"random in {head}", head, row) for row in mixed.mT @ self.writes(head)]

    def axis(self, name: str, head: Head, write: Tensor) -> Axis:
        """A unit direction of the head's write space. Raises `BadInput` for any other."""
        space, write = self.of(head), write.double().cpu()
        mixed = self.writes(head) @ write  # [component]
        if not float((mixed @ self.writes(head) - write).norm()) < 1e-3:
            raise BadInput(
                f"the direction {name!r} is not one that head {head} can write: W_O reaches it to rounding only. Take a stronger component."
            )
        return Axis(name, head, write, space.take.cpu() @ mixed, mixed @ space.put.cpu())

    def coordinates(self, head: Head, z: Tensor) -> Tensor:
        """Coordinates of a head's outputs z [..., d_head] along all its components, [..., rank], float64."""
        return z.double().cpu() @ self.of(head).take.cpu()


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
    space: Spaces, head: Head, batches: "Sequence[Batch]", role: str, *, others: "Sequence[Batch]" = ()
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
        heard = size * (space.writes(one) @ side).norm(dim=-1)
        if not len(heard):
            continue
        parts = space.of(one).parts
        alone = torch.tensor([len(parts.block(0, index)) == 1 for index in range(len(heard))])
        heard = heard.masked_fill(~alone, 0.0)
        if float(heard.max()) > best:
            best, found = float(heard.max()), Component(one.layer, one.head, int(heard.argmax()))
    if found is None:
        raise BadInput(
            f"nothing that earlier heads write at {role!r} changes what the query of head {head} reads. Name the `components`."
        )
    return found
