"""What is put in: the other prompt's values, zero, the mean over the data, or those of somebody else's corrupted prompt.

Both sides of a pair are recorded in runs of the same shape, so that whatever lies before the first changed token is equal to the bit and
costs nothing. With zero and mean there is no other run to restore, so these can only be put into the clean one.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from interp.core.batch import At, Batch
from interp.core.edit import Edit, replace
from interp.core.errors import BadInput
from interp.core.lm import LM, Recording
from interp.core.seed import numpy_generator
from interp.core.site import Site
from interp.data.tokens import TokenPair, to_batch

from ..pairs import PairGroup
from ..readout import read_metrics
from .cells import Cell, columns, masks

SOURCES = ("counterfactual", "zero", "mean", "resample")
Means = Mapping[Site, Tensor]
"""Site -> mean [place, ...] over the data; places are positions where none are named."""


@dataclass(eq=False)
class Sides:
    """Both runs of a group of pairs, and the edits that take a value from one into the other."""

    group: PairGroup
    clean: Recording
    corrupted: Recording
    where: Tensor
    """Where each place lies, bool [place, row, pos]."""
    source: str
    means: Means
    _edits: dict[Any, Edit] = field(default_factory=dict)
    _values: dict[Any, Any] = field(default_factory=dict)
    _ats: dict[int | None, At] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        lm: LM,
        group: PairGroup,
        *,
        capture: Sequence[Site],
        names: Sequence[str],
        source: str,
        means: Means,
        others: Batch | None = None,
    ) -> "Sides":
        """Record both runs. `others` are the corrupted prompts to take in place of the pairs' own."""
        corrupted = group.corrupted if others is None else others
        sides = [lm.record(batch, capture=list(capture)) for batch in (group.clean, corrupted)]
        return cls(group, sides[0], sides[1], masks(names, group.tokens), source, means)

    def __post_init__(self) -> None:
        apart = self.clean.batch.tokens.cpu() != self.corrupted.batch.tokens.cpu()  # [row, pos]
        first = apart.int().argmax(dim=1, keepdim=True)
        self.reached = torch.arange(apart.shape[1]) >= first
        """Positions that can differ between the two runs, bool [row, pos]."""
        if self.source in ("zero", "mean"):
            self.reached = torch.ones_like(apart)

    def base(self, direction: str) -> Recording:
        """The run that is intervened on: the corrupted one to denoise, the clean one to noise."""
        return self.corrupted if direction == "denoise" else self.clean

    def other(self, direction: str) -> Recording:
        """The run at the other end."""
        return self.clean if direction == "denoise" else self.corrupted

    def readout(self, logits: Tensor, rows: Tensor) -> Tensor:
        """The metrics [n, position, metric] of logits [n, position, vocab] of some rows of the group."""
        rows = rows.cpu()
        return read_metrics(logits, self.group.answer[rows][:, None], self.group.foil[rows][:, None])

    def at(self, place: int | None) -> Tensor:
        """Where a cell acts, bool [row, pos]: at one place or at all; nowhere before the first changed token."""
        where = self.where.any(dim=0) if place is None else self.where[place]
        return where & self.reached

    def exists(self, place: int | None) -> Tensor:
        """Rows that have this place at all, bool [row]."""
        return (self.where.any(dim=0) if place is None else self.where[place]).any(dim=1)

    def edits(self, direction: str, cell: Cell) -> list[Edit]:
        """The edits of a cell; none where it would change nothing. Cells share them, so that an engine sees which begin alike."""
        if not bool(self.at(cell.place).any()):
            return []
        return [self._edit(direction, Site(cell.kind, layer), cell.head, cell.place) for layer in cell.layers]

    def value(self, direction: str, site: Site, place: int | None) -> "Tensor | float":
        """What is put in at a site, [row, pos, ...] or anything that broadcasts to it."""
        if self.source == "zero":
            return 0.0
        if self.source != "mean":
            return self.other(direction).run[site]
        mean = self.means[site]
        if place is not None:
            return mean[place]
        full = torch.zeros_like(self.clean.run[site])
        for index, where in enumerate(self.where):
            full[where.to(full.device)] = mean[index].to(full.device)
        return full

    def _edit(self, direction: str, site: Site, head: int | None, place: int | None) -> Edit:
        key = (direction, site, head, place)
        if key not in self._edits:
            value = (direction, site, place if self.source == "mean" else None)
            if value not in self._values:
                self._values[value] = self.value(direction, site, place)
            if place not in self._ats:
                self._ats[place] = At.mask(self.at(place))
            heads = None if head is None else [head]
            self._edits[key] = replace(site, self._values[value], at=self._ats[place], heads=heads)
        return self._edits[key]


def means_of(lm: LM, groups: Sequence[PairGroup], sites: Sequence[Site], names: Sequence[str]) -> Means:
    """Mean of each site over the corrupted prompts: [place, ...] where places are named (each pair's tokens there averaged first), else
    [pos, ...]. Raises `BadInput` where there is nothing to average over, or where positions of different prompts mean different things.
    """
    pairs = sum(len(group) for group in groups)
    if pairs < 2:
        raise BadInput("source='mean' needs at least two pairs: the mean of one is its own counterfactual. Give more.")
    total: dict[Site, Tensor] = {}
    count: Tensor | None = None
    for group in groups:
        run = lm.run(group.corrupted, capture=list(sites))
        where = masks(names, group.tokens).double()  # [place, row, pos]
        length = where.sum(dim=2, keepdim=True)
        there = (length[..., 0] > 0).double()  # [place, row]
        share = where / length.clamp(min=1)
        count = there.sum(dim=1) if count is None else count + there.sum(dim=1)
        for site in sites:
            part = torch.einsum("nrp,rp...->n...", share, run[site].double().cpu())
            total[site] = total.get(site, torch.zeros_like(part)) + part
    assert count is not None
    return {site: (sums / count.reshape(-1, *[1] * (sums.ndim - 1))).float() for site, sums in total.items()}


def check_mean(pairs: Sequence[TokenPair], names: Sequence[str]) -> None:
    """Refuse a mean by position over prompts of different length."""
    lengths = sorted({len(pair.clean) for pair in pairs})
    if not names and len(lengths) > 1:
        raise BadInput(
            f"source='mean' by position needs prompts of one length; these have {', '.join(map(str, lengths))} tokens, so that position "
            "5 of one is not position 5 of another. Name `positions` (spans that all pairs mark), or give pairs of one length."
        )


def partners(pairs: Sequence[TokenPair], names: Sequence[str], seed: int) -> list[int]:
    """For each pair another one, drawn at random, whose corrupted prompt has as many tokens, with every named place in the same columns.

    Raises `BadInput` for a pair that has no such partner.
    """
    keys = [(len(pair.clean), tuple(columns(name, pair) for name in names)) for pair in pairs]
    out = []
    for index, pair in enumerate(pairs):
        fits = [
            other for other, key in enumerate(keys)
            if other != index and key == keys[index] and pairs[other].corrupted.ids != pair.clean.ids
        ]  # fmt: skip
        if not fits:
            what = f" and {', '.join(names)} in the same columns" if names else ""
            raise BadInput(
                f"source='resample' finds no other pair for {pair.id!r} with {len(pair.clean)} tokens{what}. Give more pairs of this "
                "form, or use source='counterfactual'."
            )
        draw = numpy_generator(seed, "resample", index, pair.id)
        out.append(fits[int(draw.integers(len(fits)))])
    return out


def resampled(group: PairGroup, pairs: Sequence[TokenPair], partner: Sequence[int]) -> Batch:
    """The corrupted prompts of a group's partners."""
    return to_batch([pairs[partner[place]].corrupted for place in group.index])
