"""Matched random controls: would something else of the same size, in the same layer and at the same place, have done as much?

    a head       D = other - base, all heads of the layer side by side [head * d_head]; put in is  base + D U U'  with U a uniformly random
                 subspace of rank d_head: as many dimensions as the head has, of the same layer's heads, but not the head's own
    the rest     base + |D| u  with u a uniformly random unit vector: as large a change at each position, in an arbitrary direction

A head is also compared with the other heads of its layer, which are cells already. The strongest of many cells is strong by selection
too, so a percentile among controls is no p-value for the grid; that is what `PatchingResult.significant` is for.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from interp.core.batch import At
from interp.core.edit import Edit, replace
from interp.core.lm import LM
from interp.core.seed import generator
from interp.core.site import Site
from interp.core.stats import random_subspace

from ..readout import METRICS
from .cells import Grid, head_dim
from .sources import Sides

METRIC = "logit_diff"
"""What the strongest cells are strongest in."""


@dataclass(frozen=True)
class Strong:
    """One of the strongest cells."""

    kind: str
    direction: str
    layer: int
    head: int | None
    place: int | None
    spot: tuple[int, ...]
    """Its indices in the kind's array: direction, layer, head, place; those axes that it has."""


def strongest(
    score: "dict[str, np.ndarray]",
    low: np.ndarray,
    high: np.ndarray,
    grids: Sequence[Grid],
    directions: Sequence[str],
    count: int,
) -> list[Strong]:
    """The `count` cells of each kind and direction with the largest mean effect; cells that do nothing are left out."""
    column, out = METRICS.index(METRIC), []
    for grid in grids:
        for number, direction in enumerate(directions):
            values = score[grid.kind][:, number, ..., column]  # [pair, layer, ...]
            shape = (-1, *[1] * (values.ndim - 1))
            ends = low[:, column].reshape(shape), high[:, column].reshape(shape)
            effect = values - ends[0] if direction == "denoise" else ends[1] - values
            known = np.isfinite(effect)
            size = np.abs(np.where(known, effect, 0.0).sum(axis=0) / np.maximum(known.sum(axis=0), 1))
            for flat in np.argsort(-size, axis=None, kind="stable")[:count]:
                spot = tuple(int(index) for index in np.unravel_index(flat, size.shape))
                if size[spot] > 0:
                    head = grid.heads[spot[1]] if grid.heads else None
                    place = spot[-1] if grid.by_place else None
                    out.append(Strong(grid.kind, direction, grid.layers[spot[0]], head, place, (number, *spot)))
    return out


def tried(lm: LM, sides: Sides, strong: Sequence[Strong], *, draws: int, seed: int) -> np.ndarray:
    """Scores of the controls of each cell, [strong, draw, row, metric]; NaN where a row lacks the place."""
    out = np.full((len(strong), draws, len(sides.group), len(METRICS)), np.nan)
    for direction in dict.fromkeys(one.direction for one in strong):
        mine = [index for index, one in enumerate(strong) if one.direction == direction]
        cells = [_edits(sides, strong[index], draw, seed) for index in mine for draw in range(draws)]
        found = lm.resume(sides.base(direction), cells, readout=sides.readout)[:, :, 0].numpy()
        for index, values in zip(mine, found.reshape(len(mine), draws, *found.shape[1:]), strict=True):
            there = sides.exists(strong[index].place).numpy()[:, None]
            out[index] = np.where(there, values, np.nan)
    return out


def _edits(sides: Sides, one: Strong, draw: int, seed: int) -> list[Edit]:
    where = sides.at(one.place)
    if not bool(where.any()):
        return []
    site = Site(one.kind, one.layer)
    base = sides.base(one.direction).run[site]
    put = torch.as_tensor(sides.value(one.direction, site, one.place), device=base.device, dtype=base.dtype)
    change = (put - base).double().flatten(2).cpu()  # [row, pos, width]
    if one.head is not None and head_dim(one.kind):
        basis = random_subspace(base.shape[-1], change.shape[-1], seed, f"control {site} {draw}").double()
        change = change @ basis @ basis.T
    else:
        change = change.norm(dim=-1, keepdim=True) * _directions(sides, one, change.shape, draw, seed)
    return [replace(site, base + change.reshape(base.shape).to(base), at=At.mask(where))]


def _directions(sides: Sides, one: Strong, shape: torch.Size, draw: int, seed: int) -> Tensor:
    """Unit vectors [row, pos, width], drawn pair by pair, so that batches do not matter."""
    names = (one.kind, one.layer, draw)
    rows = [
        torch.randn(shape[1:], generator=generator(seed, "control", *names, place), dtype=torch.float64)
        for place in sides.group.index
    ]
    x = torch.stack(rows)
    return x / x.norm(dim=-1, keepdim=True)
