"""The matched random control: what a value of the same kind, layer and role, but of another prompt, does in the same cell.

A restored state changes the run in two ways: it brings the fact, and it takes out something broken. Putting in the clean value that
another prompt (another subject, another answer) has at the same role does the second without the first. What a cell does beyond that
is about this fact. Controls are computed for the roles that a prompt has once; donors are named by the seed and the prompt's id.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from interp.core.batch import Batch
from interp.core.edit import Edit, replace
from interp.core.errors import BadInput, listing
from interp.core.lm import LM, Recording
from interp.core.seed import generator
from interp.core.site import Site

from ..readout import METRICS
from .cells import SITES, Cell
from .jobs import Job, batches

if TYPE_CHECKING:
    from .sweep import Sweep
    from .trace import CausalTrace

CONTROLLED = ("first subject", "last subject", "first after", "last")
"""Roles that a prompt has at most once."""
POOL = 64
"""Prompts that may be donors, at most."""


@dataclass(frozen=True, eq=False)
class Bank:
    """Clean values of the donors at each role."""

    config: "CausalTrace"
    jobs: tuple[Job, ...]
    """The donors."""
    values: dict[Site, Tensor]
    """[donor, role, d_model]."""
    has: np.ndarray
    """Whether a donor has a role, bool [donor, role]."""
    _edits: dict[tuple[object, ...], Edit] = field(default_factory=dict)

    def controls(self, sweep: "Sweep", base: Recording, before: Tensor) -> np.ndarray:
        """Change of score by random matched values, [kind, pos, layer, job, metric]: means over donors and noise draws.

        NaN at positions whose role is not controlled, and for prompts without a donor.
        """
        config, n_layers = self.config, sweep.lm.spec.n_layers
        where = self._roles(sweep)  # [job, pos]
        donors = np.stack([self._donors(job) for job in sweep.jobs])  # [job, role, control]
        there = (where >= 0) & (np.take_along_axis(donors[..., 0], np.maximum(where, 0), axis=1) >= 0)
        change = np.full((len(config.kinds), sweep.length, n_layers, len(sweep.jobs), len(METRICS)), np.nan)
        change[:, there.T[:, None].repeat(n_layers, axis=1)] = 0.0  # cells that cost nothing change nothing
        cells = [cell for cell in sweep.cells() if self._rows(sweep, there, cell.pos)]
        total = np.zeros((len(cells), len(sweep.jobs), len(METRICS)))
        for draw in range(config.controls):
            self._edits.clear()
            made = [self._edits_of(sweep, cell, base, where, there, donors[..., draw]) for cell in cells]
            score = sweep.resume(base, made) - before.numpy()  # [cell, row, metric]
            total += score.reshape(len(cells), len(sweep.jobs), config.draws, len(METRICS)).mean(axis=2)
        self._edits.clear()
        for cell, values in zip(cells, total / config.controls, strict=True):
            for job in np.flatnonzero(there[:, cell.pos]).tolist():
                if sweep.jobs[job].start <= cell.pos:
                    change[config.kinds.index(cell.kind), cell.pos, list(cell.centres), job] = values[job]
        return change

    def _rows(self, sweep: "Sweep", there: np.ndarray, pos: int) -> list[int]:
        draws = self.config.draws
        return [row for row in sweep.rows_at(pos) if there[row // draws, pos]]

    def _edits_of(
        self, sweep: "Sweep", cell: Cell, base: Recording, where: np.ndarray, there: np.ndarray, donors: np.ndarray
    ) -> list[Edit]:
        kind, draws = SITES.get(cell.kind, "resid_post"), self.config.draws
        edits = []
        for layer in cell.layers:
            key = (kind, layer, cell.pos)
            if key not in self._edits:
                role = torch.from_numpy(np.maximum(where[:, cell.pos], 0))
                donor = torch.from_numpy(np.maximum(donors[np.arange(len(donors)), role.numpy()], 0))
                value = self.values[Site(kind, layer)][donor, role][:, None]  # [job, 1, d_model]
                at = sweep.at(cell.pos, self._rows(sweep, there, cell.pos))
                self._edits[key] = replace(Site(kind, layer), value.repeat_interleave(draws, dim=0), at=at)
            edits.append(self._edits[key])
        return edits + sweep.held_edits(cell, base)

    def _roles(self, sweep: "Sweep") -> np.ndarray:
        """Number of the controlled role at each position, -1 for others, [job, pos]."""
        number = {role: index for index, role in enumerate(CONTROLLED)}
        return np.array([[number.get(role, -1) for role in job.roles] for job in sweep.jobs])

    def _donors(self, job: Job) -> np.ndarray:
        """A donor for each role and control [role, control]; -1 where there is none."""
        chosen = np.full((len(CONTROLLED), self.config.controls), -1)
        for role, name in enumerate(CONTROLLED):
            fits = [i for i, other in enumerate(self.jobs) if self.has[i, role] and _differ(job, other)]
            if fits:
                rng = generator(self.config.seed, "control", job.tokens.id, name)
                order = torch.randperm(len(fits), generator=rng).tolist()
                chosen[role] = [fits[order[draw % len(order)]] for draw in range(self.config.controls)]
        return chosen


def bank_of(config: "CausalTrace", lm: LM, jobs: Sequence[Job]) -> Bank:
    """Run the donors once and keep their states at each role. Raises `BadInput` for a prompt that has no donor."""
    order = torch.randperm(len(jobs), generator=generator(config.seed, "control pool")).tolist()[:POOL]
    pool = [jobs[place] for place in sorted(order)]
    alone = [job for job in jobs if not any(_differ(job, other) for other in pool)]
    if alone:
        raise BadInput(
            f"controls={config.controls} puts another prompt's values in, and {len(alone)} of {len(jobs)} prompts have no other among "
            f"them about another subject and another answer: {listing([job.subject for job in alone[:5]])}. Give more, or controls=0."
        )
    sites = [
        Site(kind, layer)
        for kind in dict.fromkeys(SITES.get(kind, "resid_post") for kind in config.kinds)
        for layer in range(lm.spec.n_layers)
    ]
    values = {site: torch.zeros(len(pool), len(CONTROLLED), lm.spec.d_model) for site in sites}
    has = np.zeros((len(pool), len(CONTROLLED)), dtype=bool)
    for places in batches(pool, 1, config.batch_tokens):
        run = lm.run(Batch.of(torch.tensor([pool[place].ids for place in places])), capture=sites)
        for row, place in enumerate(places):
            for role, name in enumerate(CONTROLLED):
                if name in pool[place].roles:
                    has[place, role], pos = True, pool[place].roles.index(name)
                    for site in sites:
                        values[site][place, role] = run[site][row, pos].float().cpu()
    return Bank(config, tuple(pool), values, has)


def _differ(job: Job, other: Job) -> bool:
    return job.subject != other.subject and (job.answer_ids != other.answer_ids or not job.answer_ids)
