"""What the edits of a cell change, and where it has to start.

A cell is a list of edits on top of a recorded run. Nothing before its first changed position can differ, nor any layer before its
first changed layer, so a cell is worked off in *strands*: rows of the batch that share their edits so far, held where they may differ
from the recording (`reach` says where that is).

Some edits change nothing. One that puts in what the recorded run has there (a clean state at a position before the first corrupted
token, a head frozen at its recorded value) is recognised where the recording knows the site's value: the residual stream always, any
other site if `record` captured it. Such an edit acts only where something before it in the cell has touched the place, so a cell of
nothing but such edits is free, and its effect is exactly 0, not 0 up to rounding.

Each edit is worked out once, however many cells have it: build an edit once and use the object, and its value, in all of them.
"""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from interp.core.edit import Edit
from interp.core.errors import BadInput, EditDidNotFire
from interp.core.site import Site
from interp.core.spec import ModelSpec

from .reach import Live
from .recording import known

if TYPE_CHECKING:
    from .recording import PlainRecording

COMPARED = ("replace", "swap", "mask")
"""Operations that change nothing where their value is what is there already."""


@dataclass(frozen=True, eq=False)
class Act:
    """An edit on the batch of a recording."""

    edit: Edit
    layer: int
    """-1 for the embedding, the number of layers for the final norm."""
    key: int
    """Equal for edits that do the same; cells are worked off together as long as the keys of what acts in them agree."""
    where: Tensor
    """Positions that it selects: bool [row, pos], on the CPU."""
    chosen: np.ndarray
    """What it selects, heads included: bool [row, pos, head or 1]."""
    alters: np.ndarray
    """Where it makes something else of the recorded value: bool [row, pos, head or 1], within `chosen`."""

    @property
    def idle(self) -> bool:
        """Whether it changes nothing of the recorded run."""
        return not self.alters.any()

    def local(self, rows: Sequence[int], places: slice | Tensor) -> tuple[Edit, Tensor]:
        """The edit and its mask for some rows of the batch and some positions only."""
        batch, width = self.where.shape
        rank, axis = len(self.edit.site.dims), self.edit.pos_axis

        def part(value: Any) -> Any:
            if not isinstance(value, Tensor):
                return value
            if value.ndim == rank and value.shape[0] == batch and batch > 1:
                value = value[_index(rows)]
            behind = axis - rank
            if value.ndim >= -behind and value.shape[behind] == width:
                index: list[Any] = [slice(None)] * value.ndim
                index[behind] = places
                value = value[tuple(index)]
            return value

        edit = dataclasses.replace(self.edit, value=part(self.edit.value), strength=part(self.edit.strength))
        return edit, self.where[_index(rows)][:, places]


class Book:
    """The edits of many cells on one recording, each worked out once."""

    def __init__(self, base: "PlainRecording", spec: ModelSpec) -> None:
        self.base, self.spec = base, spec
        self._acts: dict[int, Act] = {}  # by the edit's id
        self._edits: list[Edit] = []  # kept alive, so that no id comes twice
        self._keys: dict[tuple[Any, ...], Act] = {}

    def acts(self, cell: Sequence[Edit]) -> tuple[Act, ...]:
        """The edits of a cell in forward order. Raises `EditDidNotFire` for one that selects nothing, unless it may."""
        acts = [self._acts.get(id(edit)) or self._new(edit) for edit in cell]
        return tuple(sorted((act for act in acts if bool(act.chosen.any())), key=lambda act: act.edit.site.order))

    def always(self) -> tuple[Act, ...]:
        """The edits that the recorded run was under: they act everywhere and alter nothing of it."""
        return tuple(
            dataclasses.replace(act, alters=np.zeros_like(act.alters), key=-1) for act in self.acts(self.base.edits)
        )

    def _new(self, edit: Edit) -> Act:
        where = edit.where(self.base.batch).cpu()
        if not bool(where.any()) and not edit.may_not_fire:
            raise EditDidNotFire(
                f"the edit «{edit.describe()}» changed nothing: it selects no position of this batch. "
                "Check the positions, or build it with `may_not_fire=True` if that is intended."
            )
        value = edit.value if isinstance(edit.value, int | float) else id(edit.value)
        key = (edit.site, edit.op, value, where.numpy().tobytes(), edit.heads, id(edit.basis), id(edit.strength))
        same = self._keys.get(key)
        if same is None:
            chosen = self._chosen(edit, where.numpy())
            alters = chosen & _differs(self.base, edit, chosen)
            same = Act(edit, layer_of(edit.site, self.spec.n_layers), len(self._keys), where, chosen, alters)
            self._keys[key] = same
        self._acts[id(edit)] = same
        self._edits.append(edit)
        return same

    def _chosen(self, edit: Edit, where: np.ndarray) -> np.ndarray:
        n = {"head": self.spec.n_heads, "kv_head": self.spec.n_kv_heads}.get(edit.site.dims[2], 1)
        heads = np.ones(n, dtype=bool)
        if edit.heads is not None:
            if bad := [head for head in edit.heads if not 0 <= head < n]:
                raise BadInput(f"heads {bad} are not at {edit.site}, which has heads 0 to {n - 1}.")
            heads[:] = False
            heads[list(edit.heads)] = True
        return where[..., None] & heads


@dataclass(frozen=True, eq=False)
class Entrant:
    """Rows of one cell that start to differ in the same layer and from the same position on."""

    cell: int
    rows: tuple[int, ...]
    layer: int
    """First changed layer."""
    start: int
    """First changed position in any layer."""


def entrants_of(cell: int, acts: Sequence[Act], live: Live, *, cached: bool, mixing: bool = False) -> list[Entrant]:
    """The rows of a cell grouped by where they start; a row in which nothing that matters is changed does not start at all.

    Without a cache they start all together, and with `mixing` (a function must see the whole batch) also those that change nothing.
    """
    altering = [act for act in acts if not act.idle]
    if not altering:
        return []
    batch, width = altering[0].where.shape
    layer = np.full(batch, np.iinfo(int).max)
    start = np.full(batch, width)
    for act in altering:
        alters = act.alters.any(axis=2) & live.at(act.edit.site.kind, act.layer)  # [row, pos]
        acting = alters.any(axis=1)
        layer[acting] = np.minimum(layer[acting], act.layer)
        start[acting] = np.minimum(start[acting], alters[acting].argmax(axis=1))
    found = (start < width).nonzero()[0].tolist()
    if not found:
        return []
    if mixing or not cached:
        rows = tuple(range(batch)) if mixing else tuple(found)
        return [Entrant(cell, rows, int(layer[found].min()), 0)]
    groups: dict[tuple[int, int], list[int]] = {}
    for row in found:
        groups.setdefault((int(layer[row]), int(start[row])), []).append(row)
    return [Entrant(cell, tuple(rows), *place) for place, rows in groups.items()]


def layer_of(site: Site, n_layers: int) -> int:
    """Where a site lies: -1 for the embedding, the number of layers for the final norm."""
    if site.layer is not None:
        return site.layer
    return n_layers if site.kind == "final" else -1


def _differs(base: "PlainRecording", edit: Edit, chosen: np.ndarray) -> np.ndarray:
    """Where the value of an edit differs from what the recorded run has there, [row, pos, head or 1]; True where that is not known."""
    there = _known(base, edit.site)
    if there is None or edit.op not in COMPARED or not isinstance(edit.value, Tensor | float | int):
        return chosen
    if edit.value is there and not bool(there.isnan().any()):
        return np.zeros_like(chosen)
    value = torch.as_tensor(edit.value).to(there.device, there.dtype)
    try:
        value = value.expand_as(there)
    except RuntimeError:
        return chosen  # the edit itself will say what is wrong with its shape
    at = torch.from_numpy(chosen.any(axis=2)).to(there.device).nonzero(as_tuple=True)
    differs = (there[at] != value[at]).reshape(len(at[0]), chosen.shape[2], -1).any(dim=2)  # [selected, head or 1]
    out = np.zeros_like(chosen)
    out[chosen.any(axis=2)] = differs.cpu().numpy()
    return out


def _known(base: "PlainRecording", site: Site) -> Tensor | None:
    if site.kind == "pattern":
        return None
    if site.kind == "attn_out" and any(edit.site == Site("resid_mid", site.layer) for edit in base.edits):
        return None  # what is captured carries that edit's change, which would be made once more
    return known(base, site)


def _index(rows: Sequence[int]) -> Any:
    """A slice where the rows are neighbours, which copies nothing."""
    if list(rows) == list(range(rows[0], rows[0] + len(rows))):
        return slice(rows[0], rows[0] + len(rows))
    return list(rows)
