"""What a cell changes, and where it has to start.

A cell is a list of edits on top of a recorded run. Nothing before its first changed position can differ, nor any layer before its
first changed layer, so a cell is worked off in *strands*: rows of the batch that share their edits so far, held from one position on.

Some changes are none. An edit that puts in what is there already (a clean state at a position before the first corrupted token)
is recognised where the recording knows the site's value: the residual stream always, any other site if it was captured by
`record`. Such cells are free, and their effect is exactly 0, not 0 up to rounding. In the last layer a change that does not pass
through keys and values can only reach its own position, so it is free unless that position is read out.
"""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from interp.core.edit import Edit
from interp.core.errors import EditDidNotFire
from interp.core.site import Site

if TYPE_CHECKING:
    from .recording import PlainRecording

LOCAL = {"q", "z", "attn_out", "resid_mid", "mlp_pre", "mlp_pre_linear", "mlp_post", "mlp_out", "resid_post"}
"""Sites whose change reaches no other position within the same layer."""


@dataclass(frozen=True, eq=False)
class Change:
    """An edit with the positions at which it really changes something."""

    edit: Edit
    where: Tensor
    """bool [row, pos], on the CPU."""
    layer: int
    """-1 for the embedding, the number of layers for the final norm."""
    key: tuple[Any, ...]
    """Equal for edits that do the same; cells are worked off together as long as their keys agree."""

    def local(self, rows: list[int], places: slice | Tensor) -> tuple[Edit, Tensor]:
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


@dataclass(frozen=True, eq=False)
class Entrant:
    """Rows of one cell that start to differ in the same layer and from the same position on."""

    cell: int
    rows: tuple[int, ...]
    layer: int
    """First changed layer."""
    start: int
    """First changed position in any layer."""
    span: tuple[int, int]
    """Positions [low, high) that are changed in the first layer."""
    mode: str
    """`whole`: run the first layer on all positions from `start`; `local`: on the changed span only; `after`: not at all."""


def changes_of(base: "PlainRecording", cell: Sequence[Edit], n_layers: int, read: Sequence[int]) -> list[Change]:
    """The changes of one cell, in forward order, without those that change nothing. Raises `EditDidNotFire`."""
    batch, width = base.batch.tokens.shape
    positions = torch.arange(width)
    reached = torch.full((batch,), width)  # first changed position of each row so far
    out = []
    for edit in sorted(cell, key=lambda edit: edit.site.order):
        where = edit.where(base.batch).cpu()
        if not bool(where.any()) and not edit.may_not_fire:
            raise EditDidNotFire(
                f"the edit «{edit.describe()}» changed nothing: it selects no position of this batch. "
                "Check the positions, or build it with `may_not_fire=True` if that is intended."
            )
        layer = layer_of(edit.site, n_layers)
        where = where & (_differs(base, edit, where) | (positions >= reached[:, None]))
        if layer == n_layers or (layer == n_layers - 1 and edit.site.kind in LOCAL):
            where = where & torch.isin(positions, torch.tensor(list(read)))
        if not bool(where.any()):
            continue
        first = torch.where(where, positions, width).amin(dim=1)
        reached = torch.minimum(reached, first)
        out.append(Change(edit, where, layer, _key(edit, where)))
    return out


def layer_of(site: Site, n_layers: int) -> int:
    """Where a site lies: -1 for the embedding, the number of layers for the final norm."""
    if site.layer is not None:
        return site.layer
    return n_layers if site.kind == "final" else -1


def entrants_of(cell: int, changes: list[Change], *, cached: bool) -> list[Entrant]:
    """The rows of a cell grouped by where they start. Without a cache they start at position 0, all together."""
    if not changes:
        return []
    batch, width = changes[0].where.shape
    groups: dict[tuple[int, int], list[int]] = {}
    if cached:
        for row in range(batch):
            acting = [change for change in changes if bool(change.where[row].any())]
            if acting:
                start = min(int(change.where[row].int().argmax()) for change in acting)
                groups.setdefault((min(change.layer for change in acting), start), []).append(row)
    else:
        acts = torch.stack([change.where for change in changes]).any(dim=0).any(dim=1)  # [row]
        mixing = any(change.edit.op == "call" for change in changes)  # a function must see the whole batch
        rows = list(range(batch)) if mixing else acts.nonzero().flatten().tolist()
        groups[min(change.layer for change in changes), 0] = rows
    out = []
    for (layer, start), rows in groups.items():
        here = [change for change in changes if change.layer == layer]
        span = torch.stack([change.where[rows].any(dim=0) for change in here]).any(dim=0).nonzero().flatten().tolist()
        kinds = {change.edit.site.kind for change in here}
        mode = "whole"
        if kinds == {"resid_post"}:
            mode = "after"
        elif cached and kinds <= LOCAL and span[-1] + 1 - span[0] < width - start:
            mode = "local"
        out.append(Entrant(cell, tuple(rows), layer, start, (span[0], span[-1] + 1), mode))
    return out


def _differs(base: "PlainRecording", edit: Edit, where: Tensor) -> Tensor:
    """Where a replacement really differs from what the recorded run has there; everywhere for other operations."""
    known = _known(base, edit.site)
    if known is None or edit.op != "replace" or not isinstance(edit.value, Tensor | float | int):
        return where
    value = torch.as_tensor(edit.value).to(known.device, known.dtype)
    try:
        value = value.expand_as(known)
    except RuntimeError:
        return where  # the edit itself will say what is wrong with its shape
    at = where.to(known.device).nonzero(as_tuple=True)
    old, new = known[at], value[at]  # [selected, ...]
    if edit.heads is not None:
        old, new = old[:, list(edit.heads)], new[:, list(edit.heads)]
    out = torch.zeros_like(where)
    out[where] = (old != new).flatten(1).any(dim=1).cpu()
    return out


def _known(base: "PlainRecording", site: Site) -> Tensor | None:
    if site.kind == "pattern":
        return None
    if site.kind == "resid_post" and site.layer is not None:
        return base.states[site.layer + 1]
    if site.kind == "resid_pre" and site.layer is not None and not any(edit.site == site for edit in base.edits):
        return base.states[site.layer]
    return base.run.captured.get(site)


def _key(edit: Edit, where: Tensor) -> tuple[Any, ...]:
    value = edit.value if isinstance(edit.value, int | float) else id(edit.value)
    return (edit.site, edit.op, value, where.numpy().tobytes(), edit.heads, id(edit.basis), id(edit.strength))


def _index(rows: list[int]) -> Any:
    """A slice where the rows are neighbours, which copies nothing."""
    if rows == list(range(rows[0], rows[0] + len(rows))):
        return slice(rows[0], rows[0] + len(rows))
    return rows
