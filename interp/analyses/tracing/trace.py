"""The trace itself: jobs from prompts, one recording a prompt, cells through `lm.resume`, checks on the way."""

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from interp.core.analysis import Analysis, Cost
from interp.core.batch import At, Batch
from interp.core.edit import Edit, add, replace
from interp.core.errors import BadInput, InterpError, one_of
from interp.core.lm import LM, Recording
from interp.core.progress import track
from interp.core.run import Run
from interp.core.site import Site
from interp.core.spec import BYTES
from interp.data.prompts import Prompt, PromptPair
from interp.data.tokens import TokenPrompt, tokenize, tokenize_pair

from ..readout import METRICS, best_wrong, read_metrics
from .cells import KINDS, SEVERED, SITES, Cell, plan, work
from .corrupt import noise_value, sigma_of, subject_of
from .result import TraceResult, assemble

TOLERANCE = {"float64": 1e-5, "float32": 2e-3, "bfloat16": 0.5, "float16": 0.1}
"""How far, in nats, a restoration that must be exact may be off in each precision before the run is refused.

RMS norms and rotary tables of transformers compute in float32 whatever the model's precision, so float64 cannot be held to its own."""


@dataclass(frozen=True)
class CausalTrace(Analysis[TraceResult]):
    """Causal tracing with denoising: corrupt the subject, restore one state at a time, see what brings the answer back."""

    kinds: tuple[str, ...] = ("hidden", "mlp", "attn")
    """What is restored: hidden (residual stream after one layer), mlp and attn (outputs over a window of layers), hidden_without_mlp
    and hidden_without_attn (severed: the hidden state, that token's later MLP or attention outputs held at their corrupted values)."""
    corruption: Literal["noise", "counterfactual"] = "noise"
    """noise on the subject's token embeddings, or a counterfactual prompt's tokens (needs pairs)."""
    noise: float = 3.0
    """Size of the noise in multiples of sigma."""
    sigma: Literal["subjects", "vocabulary", "unit"] = "subjects"
    """Standard deviation of the token embeddings of all subjects, of the whole vocabulary, or 1 (`noise` is then absolute)."""
    noise_samples: int = 10
    """Noise draws a prompt."""
    rng: Literal["named", "numpy"] = "named"
    """Noise by seed and prompt id, or ROME's own stream: numpy's RandomState(1), the same draw for every prompt."""
    window: int = 10
    """Layers restored together for mlp and attn, around the centre layer."""
    window_rule: Literal["code", "text"] = "code"
    """Where an even window lies: -5...+4 as in ROME's code or -4...+5 as in its text (for 10)."""
    answers: Literal["single", "first"] = "single"
    """Refuse answers of several tokens, or score their first token."""
    bos: bool | None = None
    """Put a BOS before each prompt; None follows the model's tokenizer."""
    seed: int = 0
    """Seed of the noise."""
    keep_noise_rows: bool = False
    """Keep every noise draw's score, not only their mean (noise_samples times the size)."""
    memory_mb: int = 256
    """Logits held at once, in MB; changes the speed, not the numbers."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "kinds", (self.kinds,) if isinstance(self.kinds, str) else tuple(self.kinds))
        for kind in self.kinds:
            one_of("kinds", kind, KINDS)
        if not self.kinds or len(set(self.kinds)) < len(self.kinds):
            raise BadInput(f"`kinds` must name each kind once; not {self.kinds!r}.")
        one_of("corruption", self.corruption, ["noise", "counterfactual"])
        one_of("sigma", self.sigma, ["subjects", "vocabulary", "unit"])
        one_of("rng", self.rng, ["named", "numpy"])
        one_of("window_rule", self.window_rule, ["code", "text"])
        one_of("answers", self.answers, ["single", "first"])
        for name in ("noise_samples", "window", "memory_mb"):
            if getattr(self, name) < 1:
                raise BadInput(f"`{name}` must be at least 1; not {getattr(self, name)}.")
        if not self.noise > 0:
            raise BadInput(f"`noise` must be positive; not {self.noise}.")

    def check(self, lm: LM, data: Any) -> None:
        """Refuse prompts that cannot be traced (`BadInput`, `SpanError`, `RaggedPair`) before anything is computed."""
        self._jobs(lm, data)

    def run(self, lm: LM, data: Any, store: Any = None) -> TraceResult:
        """Trace every prompt."""
        jobs = self._jobs(lm, data)
        scale = float("nan")
        if self.corruption == "noise":
            scale = sigma_of(lm, self.sigma, [job.tokens for job in jobs])
        traces = []
        for index, job in enumerate(track(jobs, "tracing", total=len(jobs))):
            traces.append(_Tracer(self, lm, job, scale * self.noise).trace(check=index == 0))
        return assemble(self, lm, traces, scale)

    def cost(self, lm: LM, data: Any = None) -> Cost:
        """Rows through the whole model, against ROME's one full forward of `noise_samples + 1` rows a cell."""
        jobs, spec, rows = self._jobs(lm, data), lm.spec, self._rows
        naive = used = tokens = 0.0
        for index, job in enumerate(jobs):
            length = len(job.tokens)
            naive += len(self.kinds) * length * spec.n_layers * (rows + 1)
            checked = rows if index == 0 else 0  # the first prompt's self-check
            mine = length * (1.0 + rows + checked)
            for pos in range(job.start, length):
                read = pos == length - 1
                wide, single = work(self.kinds, spec.n_layers, self.window, self.window_rule, read=read)
                mine += rows * (wide * (length - pos) + single) / spec.n_layers
            used, tokens = used + mine / length, tokens + mine
        width = max(len(job.tokens) for job in jobs)
        size = BYTES[spec.dtype]
        kept = (3 * spec.n_layers + self._rows * spec.n_layers * 3) * width * spec.d_model * size
        note = f"{len(jobs)} prompts; {naive / used:.1f}x fewer rows than a full forward a cell ({naive:,.0f})"
        return Cost(forwards=used, tokens=int(tokens), bytes=kept + self.memory_mb * 1_000_000, note=note)

    @property
    def _rows(self) -> int:
        return self.noise_samples if self.corruption == "noise" else 1

    def _plan(self, n_layers: int, job: "_Job") -> Iterator[Cell]:
        return plan(
            self.kinds,
            length=len(job.tokens),
            start=job.start,
            n_layers=n_layers,
            width=self.window,
            rule=self.window_rule,
        )

    def _jobs(self, lm: LM, data: Any) -> list["_Job"]:
        items: Sequence[Any] = [data] if isinstance(data, Prompt | PromptPair) else list(data or ())
        if not items:
            raise BadInput("there are no prompts to trace. Give at least one.")
        how: dict[str, Any] = {"bos": self.bos, "answers": self.answers, "n_ctx": lm.spec.n_ctx}
        return [self._job(lm, item, how) for item in items]

    def _job(self, lm: LM, item: Any, how: dict[str, Any]) -> "_Job":
        if self.corruption == "counterfactual":
            if not isinstance(item, PromptPair):
                raise BadInput(
                    f"corruption='counterfactual' traces pairs; {item!r:.100} is none. Build a PromptPair(clean, corrupted)."
                )
            pair = tokenize_pair(item, lm.tokenizer, **how)
            clean, changed = pair.clean, pair.changed
            rival = clean.foil_ids or pair.corrupted.answer_ids
            if not changed:
                raise BadInput(
                    f"both prompts of the pair {item.id!r} have the same tokens: {clean}. Change what the model reads."
                )
            where = (changed[0], changed[-1] + 1)
            if "subject" not in clean.spans:  # roles are then told by what the counterfactual changed
                clean = dataclasses.replace(clean, spans={**clean.spans, "subject": where})
            return _Job(clean, pair.corrupted.ids, changed[0], rival)
        prompt = item.clean if isinstance(item, PromptPair) else item
        if not isinstance(prompt, Prompt):
            raise BadInput(
                f"tracing needs prompts with a marked subject; not {item!r:.100}. Build them with Prompt.of(text, subject=...)."
            )
        tokens = tokenize(prompt, lm.tokenizer, **how)
        subject_of(tokens)
        return _Job(tokens, tokens.ids, tokens.spans["subject"][0], tokens.foil_ids)


@dataclass(frozen=True)
class _Job:
    """One prompt to trace: its clean tokens, the tokens of the corrupted run, the first corrupted position."""

    tokens: TokenPrompt
    base: tuple[int, ...]
    start: int
    foil_ids: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Trace:
    """The numbers of one prompt, before they are put beside the others'."""

    tokens: TokenPrompt
    score: np.ndarray
    """[kind, pos, layer, row, metric]."""
    low: np.ndarray
    """[row, metric]."""
    high: np.ndarray
    """[metric]."""
    answer: int
    foil: int
    foil_given: bool
    """Whether the prompt (or its counterfactual) named the foil."""
    predicted: int
    resumed: float
    """Largest difference of a logit between one resumed cell and the same cell by a whole forward pass (nan where not checked)."""
    restored: float
    """Largest difference, in nats, between the fully restored and the clean score (nan without hidden)."""


@dataclass
class _Tracer:
    """One prompt's recording and its cells."""

    config: CausalTrace
    lm: LM
    job: _Job
    scale: float
    _edits: dict[tuple[str, int, int], Edit] = field(default_factory=dict)

    def trace(self, *, check: bool) -> Trace:
        config, lm, job = self.config, self.lm, self.job
        layers = range(lm.spec.n_layers)
        kinds = {SITES.get(kind, "resid_post") for kind in config.kinds}
        self.clean = lm.run(
            Batch.of([job.tokens.ids]), capture=[Site(kind, layer) for kind in sorted(kinds) for layer in layers]
        )
        final = self.clean.last_logits[0]  # [vocab]
        predicted = int(final.argmax())
        answer = job.tokens.answer_ids[0] if job.tokens.answer_ids else predicted
        foil_given = bool(job.foil_ids) and job.foil_ids[0] != answer
        foil = job.foil_ids[0] if foil_given else best_wrong(final, answer)
        self.base = self._record()
        low = read_metrics(self.base.run.last_logits, answer, foil)  # [row, metric]
        resumed = self._check_resumed() if check else float("nan")
        score = self._cells(low, answer, foil)
        high = read_metrics(final, answer, foil).numpy()
        restored = self._check_restored(score, high)
        return Trace(job.tokens, score, low.numpy(), high, answer, foil, foil_given, predicted, resumed, restored)

    def _record(self) -> Recording:
        job, rows = self.job, self.config._rows
        severed = [SEVERED[kind] for kind in self.config.kinds if kind in SEVERED]
        capture = [Site(kind, layer) for kind in severed for layer in range(self.lm.spec.n_layers)]
        edits: list[Edit] = []
        if self.config.corruption == "noise":
            value = noise_value(
                job.tokens,
                samples=rows,
                d_model=self.lm.spec.d_model,
                scale=self.scale,
                seed=self.config.seed,
                rng=self.config.rng,
            )
            edits = [add("hook_embed", value, at=At.index(*range(*job.tokens.spans["subject"])))]
        batch = Batch.of(torch.tensor([job.base] * rows))
        return self.lm.record(batch, capture=list(dict.fromkeys(capture)), edits=edits)

    def _cells(self, low: Tensor, answer: int, foil: int) -> np.ndarray:
        kinds, n_layers, length = self.config.kinds, self.lm.spec.n_layers, len(self.job.tokens)
        shape = (len(kinds), length, n_layers, *low.shape)
        score = np.broadcast_to(
            low.numpy(), shape
        ).copy()  # cells that cost nothing keep the corrupted score, to the bit
        cells = list(self.config._plan(n_layers, self.job))
        each = len(low) * self.lm.spec.vocab * 4
        step = max(1, self.config.memory_mb * 1_000_000 // each)
        for first in range(0, len(cells), step):
            part = cells[first : first + step]
            logits = self.lm.resume(self.base, [self._edits_of(cell) for cell in part])  # [cell, row, 1, vocab]
            values = read_metrics(logits[:, :, 0], answer, foil).numpy()
            for cell, value in zip(part, values, strict=True):
                score[kinds.index(cell.kind), cell.pos, list(cell.centres)] = value
        return score

    def _edits_of(self, cell: Cell) -> list[Edit]:
        if cell.kind not in SEVERED:
            return [self._edit(SITES[cell.kind], layer, cell.pos, self.clean) for layer in cell.layers]
        after = range(cell.layers[-1] + 1, self.lm.spec.n_layers)
        held = [self._edit(SEVERED[cell.kind], layer, cell.pos, self.base.run) for layer in after]
        return [self._edit("resid_post", cell.layers[0], cell.pos, self.clean), *held]

    def _edit(self, kind: str, layer: int, pos: int, source: Run) -> Edit:
        """The same object for the same restoration, so that an engine can see which cells begin alike."""
        key = (f"{kind}{'' if source is self.clean else ' held'}", layer, pos)
        if key not in self._edits:
            self._edits[key] = replace(Site(kind, layer), source, at=At.index(pos))
        return self._edits[key]

    def _check_resumed(self) -> float:
        """Restoring nothing must be the corrupted run to the bit; a restored cell, what a whole forward pass makes of it."""
        lm, base, before = self.lm, self.base, self.base.run.last_logits
        cell = self._edits_of(Cell(self.config.kinds[0], self.job.start, ((lm.spec.n_layers - 1) // 2,), ()))
        nothing, resumed = lm.resume(base, [[], cell])[:, :, 0]
        whole = lm.run(base.batch, edits=[*base.edits, *cell]).last_logits
        off = float((resumed.double() - whole.double()).abs().max())
        if not torch.equal(nothing, before) or not off <= TOLERANCE[lm.spec.dtype] * max(
            1.0, float(before.abs().max())
        ):
            raise InterpError(
                f"a resumed run of {lm.spec.name} is off the whole forward pass by up to {off:.2g} in a logit: partial recomputation "
                "does not fit this model. Run `interp verify` and report this checkpoint."
            )
        return off

    def _check_restored(self, score: np.ndarray, high: np.ndarray) -> float:
        if "hidden" not in self.config.kinds:
            return float("nan")
        keep = [METRICS.index("logprob"), METRICS.index("logit_diff")]
        last = score[self.config.kinds.index("hidden"), -1, -1][:, keep]  # [row, 2]
        off = float(np.abs(last - high[keep]).max())
        if not off <= TOLERANCE[self.lm.spec.dtype] * max(1.0, float(np.abs(high[keep]).max())):
            raise InterpError(
                f"restoring the last layer at the last token of {self.job.tokens.prompt.text!r} is {off:.2g} nats off the clean run, "
                f"and must be it. Run `interp verify` and report this checkpoint ({self.lm.spec.name})."
            )
        return off
