"""How good a dictionary is on rows that it was not trained on, by the rule of inference, one row at a time."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..core.dictionary import Dictionary
from .data import TrainingData

if TYPE_CHECKING:
    from .distributed import Parallel

TILE = 16 << 20
"""Pre-activations that are held at once."""


@dataclass(frozen=True)
class Heldout:
    """The first `limit` rows that were kept aside; of several processes each looks at its part and all add up."""

    data: TrainingData
    limit: int
    parallel: "Parallel"

    @property
    def rows(self) -> int:
        """How many they are, on all processes."""
        return min(self.limit, self.data.heldout_rows or self.data.rows)

    @torch.no_grad()
    def measure(self, dictionary: Dictionary) -> tuple[dict[str, float], float]:
        """(FVU of each written view, L0). FVU: sum of squared errors over the sum of squared distances from the mean of these rows."""
        writes = [view.name for view in dictionary.config.writes]
        errors = torch.zeros(len(writes), dtype=torch.float64, device=dictionary.device)
        squares = torch.zeros_like(errors)
        sums = [
            torch.zeros(view.width, dtype=torch.float64, device=dictionary.device) for view in dictionary.config.writes
        ]
        on = torch.zeros((), dtype=torch.float64, device=dictionary.device)
        for raw in self._parts(dictionary):
            codes = dictionary.activate(dictionary.pre(dictionary.normalise(raw)))
            made, goal = dictionary.reconstruct(codes, raw), dictionary.normalise(raw, written=True)
            on += (codes != 0).sum()
            for place, name in enumerate(writes):
                wide = goal[name].double()
                errors[place] += (made[name] - goal[name]).double().square().sum()
                squares[place] += wide.square().sum()
                sums[place] += wide.sum(dim=0)
        for tensor in (errors, squares, on, *sums):
            self.parallel.sum_(tensor)
        self.parallel.latents.sum_(on)
        means = torch.stack([total.square().sum() for total in sums]) / self.rows
        fvu = (errors / (squares - means)).tolist()
        return dict(zip(writes, fvu, strict=True)), float(on) / self.rows

    @torch.no_grad()
    def scores(self, dictionary: Dictionary, view: str | None) -> Iterator[Tensor]:
        """What latents compete with, [row, latent] at a time: codes times their scale (of one view, where it is decoupled)."""
        scale = dictionary.scale(view)
        for raw in self._parts(dictionary):
            yield dictionary.pre(dictionary.normalise(raw)).relu() * scale

    def _parts(self, dictionary: Dictionary) -> Iterator[dict[str, Tensor]]:
        tile = max(1, TILE // dictionary.latents)
        for batch in self.data.heldout(limit=self.limit):
            first, last = self.parallel.part(len(next(iter(batch.values()))))
            for start in range(first, max(last, first + 1), tile):  # no rows, where there are fewer than processes
                stop = min(start + tile, last)
                yield {
                    view.name: batch[view.name][start:stop].to(dictionary.device) for view in dictionary.config.views
                }
