"""The experiment itself: both runs of every group of pairs recorded, all cells through `lm.resume`, checks on the way."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from interp.core.batch import At
from interp.core.edit import replace
from interp.core.errors import InterpError
from interp.core.lm import LM
from interp.core.site import Site
from interp.data.tokens import TokenPair

from ..pairs import PairGroup
from ..readout import METRICS
from .cells import STREAMS, Cell, Grid, cells_of
from .controls import Strong, tried
from .sources import Means, Sides, partners, resampled

if TYPE_CHECKING:
    from .patch import ActivationPatching

TOLERANCE = {"float64": 1e-5, "float32": 2e-3, "bfloat16": 0.5, "float16": 0.1}
"""How far a logit that must be another run's may be off in each precision, for logits of size 1, before the call is refused."""


@dataclass(eq=False)
class Job:
    """What is filled in, group by group."""

    config: "ActivationPatching"
    lm: LM
    pairs: list[TokenPair]
    grids: list[Grid]
    means: Means = field(default_factory=dict)
    checks: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        config, n = self.config, len(self.pairs)
        self.partner = partners(self.pairs, config.positions, config.seed) if config.source == "resample" else []
        width = max(len(pair.clean) for pair in self.pairs)
        places = len(config.positions) or width
        self.low, self.high = (np.full((n, len(METRICS)), np.nan) for _ in range(2))
        self.score: dict[str, np.ndarray] = {}
        for grid in self.grids:
            shape = (len(grid.layers), *([len(grid.heads)] if grid.heads else []), *([places] if grid.by_place else []))
            self.score[grid.kind] = np.full((n, len(config.directions), *shape, len(METRICS)), np.nan)
        self.control_score = np.empty(0)

    @property
    def sites(self) -> list[Site]:
        """Everything that any cell replaces, in forward order."""
        found = {Site(grid.kind, layer) for grid in self.grids for window in grid.windows for layer in window}
        return sorted(found, key=lambda site: site.order)

    def patch(self, group: PairGroup, *, check: bool) -> None:
        """All cells of a group, in every direction."""
        sides = self._sides(group, extra=check)
        rows, config = list(group.index), self.config
        places = sides.where.shape[0]
        for row, end in (("denoise", self.low), ("noise", self.high)):
            end[rows] = self.lm.resume(sides.base(row), [[]], readout=sides.readout)[0, :, 0].numpy()
        cells = [cell for grid in self.grids for cell in cells_of(grid, places)]
        for number, direction in enumerate(config.directions):
            edits = [sides.edits(direction, cell) for cell in cells]
            found = self.lm.resume(sides.base(direction), edits, readout=sides.readout)[:, :, 0].numpy()
            for cell, values in zip(cells, found, strict=True):
                values = np.where(sides.exists(cell.place).numpy()[:, None], values, np.nan)  # [row, metric]
                for spot in cell.spots:
                    index: tuple[Any, ...] = (rows, number, *spot)
                    self.score[cell.kind][index] = values
        if check:
            self._check(sides, cells)

    def control(self, group: PairGroup, strong: "list[Strong]") -> None:
        """The matched random draws for the strongest cells."""
        sides = self._sides(group, extra=False)
        found = tried(
            self.lm, sides, strong, draws=self.config.controls, seed=self.config.seed
        )  # [strong, draw, row, metric]
        if not self.control_score.size:
            self.control_score = np.full((len(self.pairs), *found.shape[:2], len(METRICS)), np.nan)
        self.control_score[list(group.index)] = np.moveaxis(found, 2, 0)

    def _sides(self, group: PairGroup, *, extra: bool) -> Sides:
        config = self.config
        sites = {*self.sites, *(_checked(self.lm) if extra else ())}
        others = resampled(group, self.pairs, self.partner) if self.partner else None
        return Sides.of(
            self.lm, group, capture=sorted(sites, key=lambda site: site.order), names=config.positions, source=config.source,
            means=self.means, others=others,
        )  # fmt: skip

    def _check(self, sides: Sides, cells: Sequence[Cell]) -> None:
        """What must hold of any model: nothing replaced changes nothing; a whole stream replaced is the other run; and a resumed cell is
        what a whole forward pass makes of it."""
        lm, whole = self.lm, At.all()
        inner, last = _checked(lm)
        width = sides.group.width
        restored, resumed = [], []
        for direction in self.config.directions:
            base, other = sides.base(direction), sides.other(direction)
            here, there = base.run.last_logits, other.run.last_logits
            idle = [[]] if width < 2 else [[], [replace(last, other.run, at=At.index(width - 2))]]
            if (off := self._off(sides, direction, idle, here)) != 0:
                raise InterpError(
                    f"replacing nothing, or what nobody reads, moves a logit of {lm.spec.name} by {off:.2g}, and must not move it at all. "
                    "Run `interp verify` and report this checkpoint."
                )
            full = [[replace(inner, other.run, at=whole)], [replace(last, other.run, at=At.last())]]
            restored.append(self._off(sides, direction, full, there))
            cell = next((edits for edits in (sides.edits(direction, one) for one in cells) if edits), [])
            want = lm.run(base.batch, edits=cell).last_logits
            resumed.append(self._off(sides, direction, [cell], want))
            room = TOLERANCE[lm.spec.dtype] * max(1.0, float(here.abs().max()))
            if not max(restored[-1], resumed[-1]) <= room:
                raise InterpError(
                    f"the whole stream of {lm.spec.name} replaced is up to {restored[-1]:.2g} in a logit off the other run, a resumed cell "
                    f"{resumed[-1]:.2g} off a whole forward pass; neither may exceed {room:.2g}. Run `interp verify` and report this "
                    "checkpoint."
                )
        self.checks = {
            "nothing_difference": 0.0, "restored_difference": max(restored), "resume_difference": max(resumed)
        }  # fmt: skip

    def _off(self, sides: Sides, direction: str, cells: Any, want: Tensor) -> float:
        """The largest difference of a logit at the last position between any of the cells and `want` [row, vocab]."""

        def distance(logits: Tensor, rows: Tensor) -> Tensor:
            target = want.to(logits.device)[rows.to(want.device)][:, None].double()
            return (logits.double() - target).abs().amax(dim=-1, keepdim=True)

        return float(self.lm.resume(sides.base(direction), cells, readout=distance).max())


def _checked(lm: LM) -> tuple[Site, Site]:
    """The streams that the self-checks replace: one in the middle, the last."""
    return Site(STREAMS[0], lm.spec.n_layers // 2), Site("resid_post", lm.spec.n_layers - 1)
