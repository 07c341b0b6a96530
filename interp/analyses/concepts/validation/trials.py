"""One concept put through every damage: sets of its vectors at every dose, and the matched sets, on all its prompts.

Answers under a factor are measured by resuming a recorded run with the coefficients scaled, which is the change of weights (the strongest
one is also made in the weights, and the difference kept); noise, and whatever is generated, is measured with changed weights.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from interp.core.errors import BadInput, InterpError
from interp.core.lm import LM
from interp.core.progress import Progress

from ...overlap import overlaps
from ..vectors import Vector, value_vectors
from .damage import changes, deviation, noise_of, scaling
from .material import KINDS, Asked, Group, groups_of
from .measure import MEASURED, Meter, coefficients, firing, targets_of
from .nulls import matched

if TYPE_CHECKING:
    from .validate import ConceptValidation

METRICS = (*MEASURED, "kl_answer", "bleu", "rouge_l")
"""What is kept of every damaged model on every prompt."""
CELLS = 64
"""Damages that one resumption is asked for at once."""
CLOSE = 1e-3
"""What changed weights and a resumed run may differ by in float32, in nats."""


@dataclass(frozen=True, eq=False)
class Found:
    """All that was measured on one concept."""

    asked: Asked
    gold: list[bool]
    base: np.ndarray
    """Original values [prompt, metric]."""
    score: np.ndarray
    """Damaged values [prompt, size, dose, metric]; sizes are the concept's own."""
    null: np.ndarray
    """Mean damaged values of matched sets [draw, size, dose, kind, metric], NaN where a draw was not made."""
    original: tuple[str, ...]
    """The original model's answers [prompt]; empty strings where nothing was generated."""
    damaged: np.ndarray
    """The damaged model's [prompt, size, dose], of the first draw of noise."""
    firing: np.ndarray
    """Mean |m_j| [prompt, vector]."""
    norm: np.ndarray
    noise: np.ndarray
    """Length of the noise [vector, dose]: its deviation times the root of d_model."""
    null_norm: np.ndarray
    """Mean norm of the matched vectors [vector]."""
    null_firing: np.ndarray
    """Mean |m_j| of the matched vectors [kind, vector]."""
    draws: int
    difference: float
    """Largest difference between the changed weights and the resumed run, in nats; NaN for noise."""


@dataclass(frozen=True)
class Trial:
    """One damage: where its values go, and what is damaged."""

    size: int
    dose: int
    draw: int
    """-1 for the concept's own vectors."""
    vectors: tuple[Vector, ...]


class Trials:
    """Runs all damages of one concept."""

    def __init__(self, config: "ConceptValidation", lm: LM, asked: Asked) -> None:
        self.config, self.lm, self.asked = config, lm, asked
        self.targets, self.gold = targets_of(lm, asked, config.batch_tokens)
        self.members = [np.flatnonzero(asked.kinds == kind) for kind in KINDS]
        self.coefficient = coefficients(lm, asked, config.batch_tokens)
        related = torch.from_numpy(self.members[0])
        writes = {layer: values[related].mean(dim=0) for layer, values in self.coefficient.items()}
        self.matched = matched(lm, asked, config.draws, match=config.match, writes=writes, seed=config.seed)
        self.groups = groups_of([one.ids for one in asked.tokens], self.targets, config.batch_tokens)
        prompts, sizes, doses = len(asked.tokens), len(asked.sizes), len(config.doses)
        self.base = np.full((prompts, len(METRICS)), np.nan)
        self.score = np.full((prompts, sizes, doses, len(METRICS)), np.nan)
        self.null = np.full((len(self.matched), sizes, doses, len(KINDS), len(METRICS)), np.nan)
        self.samples = config.noise_samples if config.noisy else 1

    def trials(self) -> list[Trial]:
        """The concept's own sets first; then the matched ones, all of them for the largest set at the main dose, `band` elsewhere."""
        cells = [(size, dose) for size in range(len(self.asked.sizes)) for dose in range(len(self.config.doses))]
        found = [Trial(size, dose, -1, self.asked.vectors[: self.asked.sizes[size]]) for size, dose in cells]
        for size, dose in cells:
            main = dose == self.config.main and size == int(np.argmax(self.asked.sizes))
            for draw in range(len(self.matched) if main else min(self.config.band, len(self.matched))):
                found.append(Trial(size, dose, draw, self.matched[draw][: self.asked.sizes[size]]))
        return found

    @torch.no_grad()
    def run(self) -> Found:
        """Every damage on every prompt."""
        trials, config = self.trials(), self.config
        (self._in_weights if config.noisy else self._resumed)(trials)
        difference = float("nan") if config.noisy else self._agreement(trials)
        original, damaged = self._spoken(trials)
        asked, lm = self.asked, self.lm
        rows = {layer: value_vectors(lm, layer).cpu() for layer in asked.layers}
        norm = np.array([float(rows[one.layer][one.index].norm()) for one in asked.vectors])
        noise = [
            [deviation(rows[one.layer][one.index], config.how, dose) * lm.spec.d_model**0.5 for dose in config.doses]
            for one in asked.vectors
        ]
        null_norm, null_firing = self._matching(rows)
        return Found(
            asked, self.gold, self.base, self.score, self.null, original, damaged, firing(self.coefficient, asked.vectors).numpy(), norm,
            np.array(noise), null_norm, null_firing, len(self.matched), difference,
        )  # fmt: skip

    def _resumed(self, trials: Sequence[Trial]) -> None:
        """Fill in what is measured by resuming, one group of prompts at a time."""
        parts = _Parts(self, trials)
        silent = [(firing(self.coefficient, one.vectors) == 0).all(dim=1).numpy() for one in trials]  # [prompt] each
        edits = [scaling(self.lm, one.vectors, self.config.doses[one.dose]) for one in trials]
        with Progress(f"damaging {self.asked.concept.name}", total=len(self.groups) * len(trials)) as progress:
            for group in self.groups:
                meter = Meter(self.lm, group)
                before, rows = parts.before(group, meter), list(group.places)
                bare = group.targets.shape[1] == 1  # else the vector may fire on the answer's own tokens
                for first in range(0, len(trials), CELLS):
                    found = meter.resumed(edits[first : first + CELLS]).numpy()
                    for place, values in enumerate(
                        found, start=first
                    ):  # what never fires changes nothing, not even rounding
                        same = bare & silent[place][rows, None]
                        parts.put(place, group, np.where(same, before, values))
                    progress.update(len(found))
        parts.done()

    def _in_weights(self, trials: Sequence[Trial]) -> None:
        """Fill in what is measured with changed weights, one damage at a time, mean over the draws of noise."""
        meters = [Meter(self.lm, group, record=False) for group in self.groups]
        parts = _Parts(self, trials)
        for group, meter in zip(self.groups, meters, strict=True):
            parts.before(group, meter)
        with Progress(f"damaging {self.asked.concept.name}", total=len(trials)) as progress:
            for place, trial in enumerate(trials):
                for sample in range(self.samples):
                    with self.lm.edit_weights(self._changes(trial, sample)):
                        for group, meter in zip(self.groups, meters, strict=True):
                            parts.put(place, group, meter.now().numpy() / self.samples)
                progress.update()
        parts.done()

    def _changes(self, trial: Trial, sample: int) -> dict[str, torch.Tensor]:
        config, noise = self.config, None
        if config.noisy:
            noise = noise_of(self.lm, len(trial.vectors), seed=config.seed, name=self.asked.concept.name, sample=sample)
        return changes(self.lm, trial.vectors, config.how, config.doses[trial.dose], noise)

    def _agreement(self, trials: Sequence[Trial]) -> float:
        """The largest set at the main dose in the weights, against the resumed run, on the first group. Raises `InterpError`."""
        trial = next(
            one for one in trials if one.dose == self.config.main and one.size == int(np.argmax(self.asked.sizes))
        )
        group = self.groups[0]
        meter = Meter(self.lm, group, record=False)
        with self.lm.edit_weights(self._changes(trial, 0)):
            now = meter.now().numpy()
        kept = [METRICS.index("logprob"), METRICS.index("kl")]
        resumed = self.score[list(group.places), trial.size, trial.dose][:, kept]
        off = float(np.abs(now[:, kept] - resumed).max())
        if self.lm.spec.dtype == "float32" and not off <= CLOSE * max(1.0, float(np.abs(resumed).max())):
            raise InterpError(
                f"scaling the coefficients of {self.asked.concept.name!r} in {self.lm.spec.name} is {off:.2g} nats off scaling its "
                "vectors. Run `interp verify` and report this checkpoint."
            )
        return off

    def _spoken(self, trials: Sequence[Trial]) -> tuple[tuple[str, ...], np.ndarray]:
        """Answers before and after, and the measures of both."""
        asked, config = self.asked, self.config
        own = [trial for trial in trials if trial.draw < config.null_answers]
        damaged = np.full((len(asked.tokens), len(asked.sizes), len(config.doses)), "", dtype=object)
        if not config.tokens:
            return ("",) * len(asked.tokens), damaged
        prompts = [list(one.ids) for one in asked.tokens]
        before = self.lm.generate(prompts, config.tokens)
        groups = groups_of(prompts, before.ids, config.batch_tokens)
        meters = [Meter(self.lm, group, record=False) for group in groups]
        spoken = [METRICS.index(name) for name in ("kl_answer", "bleu", "rouge_l")]
        self.base[:, spoken] = (0.0, 1.0, 1.0)
        with Progress(f"answers on {asked.concept.name}", total=len(own)) as progress:
            for trial in own:
                values = np.zeros((len(prompts), len(spoken)))
                for sample in range(self.samples):
                    with self.lm.edit_weights(self._changes(trial, sample)):
                        after = self.lm.generate(prompts, config.tokens)
                        for group, meter in zip(groups, meters, strict=True):
                            far = meter.divergence().mean(dim=1).numpy()
                            values[list(group.places), 0] += far / self.samples
                    pair = (
                        (before.texts, after.texts) if config.reference == "original" else (after.texts, before.texts)
                    )
                    shared = overlaps(*pair)
                    values[:, 1:] += np.stack([shared.bleu, shared.rouge_l], axis=1) / self.samples
                    if trial.draw < 0 and not sample:
                        damaged[:, trial.size, trial.dose] = after.texts
                if trial.draw < 0:
                    self.score[:, trial.size, trial.dose, spoken] = values
                else:
                    mean = np.stack([values[rows].mean(axis=0) for rows in self.members])
                    self.null[trial.draw, trial.size, trial.dose, :, spoken] = mean.T
                progress.update()
        return before.texts, damaged

    def _matching(self, rows: dict[int, torch.Tensor]) -> tuple[np.ndarray, np.ndarray]:
        """Mean norm [vector] and mean |m_j| [kind, vector] of the matched vectors."""
        n = len(self.asked.vectors)
        if not self.matched:
            return np.full(n, np.nan), np.full((len(KINDS), n), np.nan)
        norm = np.mean([[float(rows[v.layer][v.index].norm()) for v in one] for one in self.matched], axis=0)
        fires = np.stack([firing(self.coefficient, one).numpy() for one in self.matched])  # [draw, prompt, vector]
        return norm, np.stack([fires[:, members].mean(axis=(0, 1)) for members in self.members])


class _Parts:
    """Where measured values go: prompt by prompt for the concept's own sets, added up by kind for the matched ones."""

    def __init__(self, trials: Trials, listed: Sequence[Trial]) -> None:
        self.of, self.listed = trials, listed
        self.sums = np.zeros((len(listed), len(KINDS), len(MEASURED)))
        for trial in listed:
            if trial.draw < 0:
                trials.score[:, trial.size, trial.dose, : len(MEASURED)] = 0.0
        self.kind: Callable[[int], int] = lambda place: KINDS.index(str(trials.asked.kinds[place]))

    def before(self, group: Group, meter: Meter) -> np.ndarray:
        """The original values [row, measured] of one group, which are kept."""
        values = meter.before().numpy()
        self.of.base[list(group.places), : len(MEASURED)] = values
        return values

    def put(self, place: int, group: Group, values: np.ndarray) -> None:
        """Add the values [row, measured] of one damage on one group. Raises `BadInput` where the damaged model gives no numbers."""
        trial, of = self.listed[place], self.of
        if np.isnan(values).any():
            which = (
                f"sets matched to those of {of.asked.concept.name!r}"
                if trial.draw >= 0
                else repr(of.asked.concept.name)
            )
            raise BadInput(
                f"{of.lm.spec.name} ({of.lm.spec.dtype}) gives NaN with how={of.config.how!r} at dose {of.config.doses[trial.dose]:g} on "
                f"{len(trial.vectors)} vectors of {which}: numbers overflow. Ask for smaller `doses`."
            )
        if trial.draw < 0:
            of.score[list(group.places), trial.size, trial.dose, : len(MEASURED)] += values
            return
        for row, prompt in enumerate(group.places):
            self.sums[place, self.kind(prompt)] += values[row]

    def done(self) -> None:
        """Matched sets as means over the prompts of each kind."""
        count = np.array([len(rows) for rows in self.of.members])[:, None]
        for trial, total in zip(self.listed, self.sums, strict=True):
            if trial.draw >= 0:
                self.of.null[trial.draw, trial.size, trial.dose, :, : len(MEASURED)] = total / count
