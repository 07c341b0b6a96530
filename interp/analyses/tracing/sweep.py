"""One batch of prompts: its clean and corrupted runs, and every cell of every prompt by partial recomputation.

Denoising records the corrupted rows and puts clean values in; noising records the clean rows and puts corrupted values in. All cells of
a batch are one call of `LM.resume`, which reads the metrics off the logits at once. A cell acts in the rows of those prompts whose
corruption begins no later than its position; in the others it would change nothing.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from interp.core.batch import At, Batch
from interp.core.edit import Edit, replace
from interp.core.errors import InterpError
from interp.core.lm import LM, Recording
from interp.core.run import Run
from interp.core.site import Site

from ..readout import METRICS, best_wrong, read_metrics, whole_answer
from .cells import SEVERED, SITES, Cell, plan
from .corrupt import Corruption
from .jobs import Job

if TYPE_CHECKING:
    from .control import Bank
    from .trace import CausalTrace

TOLERANCE = {"float64": 1e-5, "float32": 2e-3, "bfloat16": 0.5, "float16": 0.1}
"""How far, in nats, a restoration that must be exact may be off in each precision before the run is refused.

RMS norms and rotary tables of transformers compute in float32 whatever the model's precision, so float64 cannot be held to its own."""


@dataclass(frozen=True, eq=False)
class Trace:
    """The numbers of one prompt, before they are put beside the others'."""

    score: np.ndarray
    """[direction, kind, pos, layer, row, metric]; `pos` are the prompt's own tokens, not the answer's."""
    base: np.ndarray
    """Score of the run that the cells change, [direction, row, metric]."""
    low: np.ndarray
    """[row, metric]."""
    high: np.ndarray
    """[metric]."""
    control: np.ndarray
    """Effect of random matched values, [direction, kind, pos, layer, metric], NaN where none was tried; empty without controls."""
    answer: tuple[int, ...]
    foil: int
    """-1 where no logit difference is defined."""
    foil_given: bool
    """Whether the prompt (or its counterfactual) named the foil."""
    predicted: tuple[int, ...]
    restored: float
    """Largest difference, in nats, between the fully restored and the clean score (nan without hidden)."""


@dataclass
class Sweep:
    """The cells of one batch of jobs, all of one length."""

    config: "CausalTrace"
    lm: LM
    jobs: Sequence[Job]
    corruption: Corruption
    bank: "Bank | None" = None
    """Where random matched values come from."""
    _edits: dict[tuple[object, ...], Edit] = field(default_factory=dict)

    def trace(self) -> list[Trace]:
        """Every job's numbers, in order."""
        layers = range(self.lm.spec.n_layers)
        self.sites = [
            Site(kind, layer) for kind in dict.fromkeys(SITES.get(k, "resid_post") for k in self.config.kinds) for layer in layers
        ]  # fmt: skip
        self.held = [Site(SEVERED[kind], layer) for kind in self.config.kinds if kind in SEVERED for layer in layers]
        self.clean = self.lm.run(Batch.of(torch.tensor([job.ids for job in self.jobs])), capture=self.sites)
        self._settle_answers()
        assert self.clean.logits is not None
        high = self._read(self.clean.logits[:, self.read_from :], torch.arange(len(self.jobs)), draws=1)
        corrupted = self._corrupted()
        low = self._read_run(corrupted.run)
        scores, bases, controls = [], [], []
        for direction in self.config.direction:
            base = corrupted if direction == "denoise" else self._record_clean()
            before = self._read_run(base.run)
            score = self._cells(base, before, self.clean if direction == "denoise" else corrupted.run)
            self._edits.clear()
            scores.append(score)
            bases.append(before)
            if self.bank is not None:
                controls.append(self.bank.controls(self, base, before))
        ends = {"denoise": self._by_job(high.repeat_interleave(self.config.draws, 0)), "noise": self._by_job(low)}
        restored = [
            self._check_ends(direction, score, ends[direction])
            for direction, score in zip(self.config.direction, scores, strict=True)
        ]
        return [
            Trace(
                np.stack([score[:, :, :, index] for score in scores]), np.stack([self._by_job(b)[index] for b in bases]),
                self._by_job(low)[index], high[index].numpy(),
                np.stack([control[:, :, :, index] for control in controls]) if controls else np.empty((0,)),
                tuple(self.answers[index].tolist()), int(self.foils[index]) if self.contrast[index] else -1, self.foil_given[index],
                tuple(self.predicted[index].tolist()), max(part[index] for part in restored),
            )
            for index in range(len(self.jobs))
        ]  # fmt: skip

    @property
    def length(self) -> int:
        """Tokens a prompt."""
        return len(self.jobs[0].tokens)

    @property
    def read_from(self) -> int:
        """The first position that is read: the prompt's last."""
        return self.length - 1

    def rows_at(self, pos: int) -> list[int]:
        """Rows in which position `pos` may differ between the clean and the corrupted run."""
        draws = self.config.draws
        return [
            row for index, job in enumerate(self.jobs) if job.start <= pos for row in range(index * draws, (index + 1) * draws)
        ]  # fmt: skip

    def cells(self) -> list[Cell]:
        """The cells that have to be computed, for the job whose corruption begins first."""
        start = min(job.start for job in self.jobs)
        return list(
            plan(
                self.config.kinds, length=self.length, start=start, n_layers=self.lm.spec.n_layers, width=self.config.window,
                rule=self.config.window_rule,
            )
        )  # fmt: skip

    def resume(self, base: Recording, cells: Sequence[Sequence[Edit]]) -> np.ndarray:
        """Scores [cell, row, metric] of cells on a recorded run of this batch."""
        tokens = self.jobs[0].n_answer
        values = self.lm.resume(
            base, cells, positions=range(self.read_from, self.read_from + tokens), readout=self._every_token
        )  # [cell, row, position, token * metric]
        own = (
            values.unflatten(-1, (tokens, len(METRICS))).diagonal(dim1=2, dim2=3).movedim(-1, 2)
        )  # each token at its position
        return whole_answer(own, contrast=self.contrast.repeat_interleave(self.config.draws)).numpy()

    def held_edits(self, cell: Cell, base: Recording) -> list[Edit]:
        """For a severed kind: that token's later MLP or attention outputs, held at what the recorded run has."""
        if cell.kind not in SEVERED:
            return []
        after = range(cell.layers[-1] + 1, self.lm.spec.n_layers)
        return [self._edit(SEVERED[cell.kind], layer, cell.pos, base.run, "held") for layer in after]

    def _edits_of(self, cell: Cell, source: Run, base: Recording) -> list[Edit]:
        site = SITES.get(cell.kind, "resid_post")
        put = [self._edit(site, layer, cell.pos, source, "put") for layer in cell.layers]
        return put + self.held_edits(cell, base)

    def _edit(self, kind: str, layer: int, pos: int, source: Run, why: str) -> Edit:
        """The same object for the same restoration, so that an engine can see which cells begin alike."""
        key = (kind, layer, pos, why)
        if key not in self._edits:
            value = source[Site(kind, layer)][:, pos : pos + 1]  # [prompt or row, 1, d_model]
            if len(value) < len(self.jobs) * self.config.draws:
                value = value.repeat_interleave(self.config.draws, dim=0)
            self._edits[key] = replace(Site(kind, layer), value, at=self.at(pos))
        return self._edits[key]

    def at(self, pos: int, rows: Sequence[int] | None = None) -> At:
        """Position `pos` in the rows where it matters."""
        rows = self.rows_at(pos) if rows is None else rows
        at = At.index(pos)
        return at if len(rows) == len(self.jobs) * self.config.draws else at.in_rows(*rows)

    def _settle_answers(self) -> None:
        """What is scored: the given answer or the model's own, against the given foil or the best wrong token of the clean run."""
        assert self.clean.logits is not None
        final = self.clean.logits[:, self.read_from :]  # [prompt, token, vocab]
        self.predicted = final.argmax(dim=-1).cpu()
        rows = zip(self.jobs, self.predicted.tolist(), strict=True)
        self.answers = torch.tensor([list(job.answer_ids or own) for job, own in rows])  # [prompt, token]
        foils, self.foil_given, contrast = [], [], []
        for index, job in enumerate(self.jobs):
            right = int(self.answers[index, 0])
            given = bool(job.foil_ids) and (len(job.foil_ids) > 1 or job.foil_ids[0] != right)
            foils.append(job.foil_ids[0] if given else best_wrong(final[index, 0], right))
            self.foil_given.append(given)
            contrast.append(job.n_answer == 1 and len(job.foil_ids) < 2)
        self.foils, self.contrast = torch.tensor(foils), torch.tensor(contrast)

    def _every_token(self, logits: Tensor, rows: Tensor) -> Tensor:
        """Metrics [n, position, token * metric] of every answer token at whichever positions are read, logits [n, position, vocab]."""
        index = rows.cpu() // self.config.draws
        answers, foils = (
            ids.to(logits.device) for ids in (self.answers[index][:, None], self.foils[index][:, None, None])
        )
        wide = logits[:, :, None].expand(-1, -1, answers.shape[-1], -1)  # [n, position, token, vocab]
        return read_metrics(wide, answers, foils).flatten(-2)

    def _read(self, logits: Tensor, rows: Tensor, *, draws: int) -> Tensor:
        """Scores [n, metric] of logits [n, token, vocab]."""
        index = rows // draws
        answers, foils = self.answers[index].to(logits.device), self.foils[index][:, None].to(logits.device)
        return whole_answer(read_metrics(logits, answers, foils), contrast=self.contrast[index])

    def _read_run(self, run: Run) -> Tensor:
        assert run.logits is not None
        rows = torch.arange(len(self.jobs) * self.config.draws)
        return self._read(run.logits[:, self.read_from :], rows, draws=self.config.draws)  # [row, metric]

    def _corrupted(self) -> Recording:
        batch, edits = self.corruption.rows(self.jobs)
        wanted = [*self.held, *(self.sites if "noise" in self.config.direction else ())]
        return self.lm.record(batch, capture=list(dict.fromkeys(wanted)), edits=edits)

    def _record_clean(self) -> Recording:
        ids = torch.tensor([job.ids for job in self.jobs]).repeat_interleave(self.config.draws, dim=0)
        return self.lm.record(Batch.of(ids), capture=self.held)

    def _cells(self, base: Recording, before: Tensor, source: Run) -> np.ndarray:
        """Scores [kind, pos, layer, job, row, metric]; cells that cost nothing keep the score of the recorded run, to the bit."""
        kinds, n_layers = self.config.kinds, self.lm.spec.n_layers
        score = np.broadcast_to(before.numpy(), (len(kinds), self.length, n_layers, *before.shape)).copy()
        cells = self.cells()
        values = self.resume(base, [self._edits_of(cell, source, base) for cell in cells])
        for cell, value in zip(cells, values, strict=True):
            score[kinds.index(cell.kind), cell.pos, list(cell.centres)] = value
        return score.reshape(*score.shape[:3], len(self.jobs), self.config.draws, len(METRICS))

    def _by_job(self, values: Tensor) -> np.ndarray:
        """[row, metric] as [job, draw, metric]."""
        return values.numpy().reshape(len(self.jobs), self.config.draws, len(METRICS))

    def check(self) -> float:
        """Putting nothing in must be the recorded run to the bit; a restored cell, what a whole forward pass makes of it.

        Gives the largest difference of a logit. Raises `InterpError` where it is more than rounding.
        """
        lm = self.lm
        self.sites = [Site(SITES.get(self.config.kinds[0], "resid_post"), layer) for layer in range(lm.spec.n_layers)]
        self.held = [
            Site(SEVERED[kind], layer)
            for kind in self.config.kinds[:1]
            if kind in SEVERED
            for layer in range(lm.spec.n_layers)
        ]
        self.clean = lm.run(Batch.of(torch.tensor([job.ids for job in self.jobs])), capture=self.sites)
        base = self._corrupted()
        cell = Cell(self.config.kinds[0], self.jobs[0].start, ((lm.spec.n_layers - 1) // 2,), ())
        edits = self._edits_of(cell, self.clean, base)
        nothing, resumed = lm.resume(base, [[], edits])[:, :, 0]
        whole, before = lm.run(base.batch, edits=[*base.edits, *edits]).last_logits, base.run.last_logits
        off = float((resumed.double() - whole.double()).abs().max())
        if not torch.equal(nothing, before) or not off <= TOLERANCE[lm.spec.dtype] * max(
            1.0, float(before.abs().max())
        ):
            raise InterpError(
                f"a resumed run of {lm.spec.name} is off the whole forward pass by up to {off:.2g} in a logit: partial recomputation "
                "does not fit this model. Run `interp verify` and report this checkpoint."
            )
        self._edits.clear()
        return off

    def _check_ends(self, direction: str, score: np.ndarray, end: np.ndarray) -> list[float]:
        """The last state of the last token decides the answer: put in, it must give the other run's score. Off by [job]."""
        if "hidden" not in self.config.kinds or self.jobs[0].n_answer > 1:
            return [float("nan")] * len(self.jobs)
        keep = [METRICS.index("logprob"), METRICS.index("logit_diff")]
        last = score[self.config.kinds.index("hidden"), -1, -1][..., keep]  # [job, draw, 2]
        off = np.nanmax(np.abs(last - end[..., keep]), axis=(1, 2))
        for job, one, wanted in zip(self.jobs, off, end[..., keep], strict=True):
            if not one <= TOLERANCE[self.lm.spec.dtype] * max(1.0, float(np.nanmax(np.abs(wanted)))):
                whole = "clean" if direction == "denoise" else "corrupted"
                raise InterpError(
                    f"putting in the last layer's state at the last token of {job.tokens.prompt.text!r} is {one:.2g} nats off the "
                    f"{whole} run, and must be it. Run `interp verify` and report this checkpoint ({self.lm.spec.name})."
                )
        return [float(one) for one in off]
