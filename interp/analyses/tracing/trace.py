"""The trace itself: its options, its checks, and the prompts worked off batch by batch."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch

from interp.core.analysis import Analysis, Cost
from interp.core.digest import digest_of
from interp.core.errors import BadInput, one_of
from interp.core.lm import LM
from interp.core.progress import Progress
from interp.core.spec import BYTES
from interp.core.unfinished import Unfinished

from .assemble import assemble, pack, unpack
from .cells import KINDS, work
from .control import CONTROLLED, Bank, bank_of
from .corrupt import CORRUPTIONS, DRAWN, Corruption, corruption_of, donors_of
from .jobs import Job, batches, jobs_of
from .result import DIRECTIONS, TraceResult
from .sweep import Sweep, Trace


@dataclass(frozen=True)
class CausalTrace(Analysis[TraceResult]):
    """Causal tracing: corrupt the subject, then restore (or break) one state at a time and see what becomes of the answer."""

    kinds: tuple[str, ...] = ("hidden", "mlp", "attn")
    """What is restored: hidden (residual stream after one layer), mlp and attn (outputs over a window of layers), hidden_without_mlp
    and hidden_without_attn (severed: the hidden state, that token's later MLP or attention outputs held as they were)."""
    direction: tuple[str, ...] = ("denoise",)
    """denoise puts clean states into the corrupted run, noise corrupted states into the clean run; both give two maps side by side."""
    corruption: Literal["noise", "uniform", "zero", "mean", "resample", "counterfactual"] = "noise"
    """What takes the subject away: Gaussian or uniform noise on its token embeddings, zero or mean embeddings, another prompt's
    subject of as many tokens, or a counterfactual prompt's tokens (needs pairs)."""
    noise: float = 3.0
    """Size of the noise in multiples of sigma."""
    sigma: Literal["subjects", "vocabulary", "unit"] = "subjects"
    """Standard deviation of the token embeddings of all subjects, of the whole vocabulary, or 1 (`noise` is then absolute)."""
    mean_of: Literal["subjects", "vocabulary"] = "subjects"
    """Whose mean embedding corruption='mean' takes: of all subject tokens of the prompts, or of the whole vocabulary."""
    noise_samples: int = 10
    """Draws a prompt, of noise or of resampled subjects."""
    rng: Literal["named", "numpy"] = "named"
    """Noise by seed and prompt id, or ROME's own stream: numpy's RandomState(1), the same draw for every prompt."""
    window: int = 10
    """Layers restored together for mlp and attn, around the centre layer."""
    window_rule: Literal["code", "text"] = "code"
    """Where an even window lies: -5...+4 as in ROME's code or -4...+5 as in its text (for 10)."""
    answers: Literal["single", "first", "whole"] = "single"
    """Refuse answers of several tokens, score their first token, or the probability of all their tokens in a row."""
    controls: int = 0
    """Random matched values a cell (another prompt's state, same kind, layer and role) as a control; 0 for none."""
    bos: bool | None = None
    """Put a BOS before each prompt; None follows the model's tokenizer."""
    seed: int = 0
    """Seed of the noise and of every other draw."""
    keep_noise_rows: bool = False
    """Keep every noise draw's score, not only their mean (noise_samples times the size)."""
    batch_tokens: int = 2048
    """Tokens of one recorded batch, prompts times draws times length; more is faster and takes more memory. A prompt is never split."""
    resume_from: str | None = None
    """Folder in which finished batches are kept, so that an interrupted trace goes on where it stopped."""

    def __post_init__(self) -> None:
        for name in ("kinds", "direction"):
            value = getattr(self, name)
            object.__setattr__(self, name, (value,) if isinstance(value, str) else tuple(value))
            legal = KINDS if name == "kinds" else DIRECTIONS
            for item in getattr(self, name):
                one_of(name, item, legal)
            if not getattr(self, name) or len(set(getattr(self, name))) < len(getattr(self, name)):
                raise BadInput(f"`{name}` must name each of its words once; not {getattr(self, name)!r}.")
        one_of("corruption", self.corruption, CORRUPTIONS)
        one_of("sigma", self.sigma, ["subjects", "vocabulary", "unit"])
        one_of("mean_of", self.mean_of, ["subjects", "vocabulary"])
        one_of("rng", self.rng, ["named", "numpy"])
        one_of("window_rule", self.window_rule, ["code", "text"])
        one_of("answers", self.answers, ["single", "first", "whole"])
        for name in ("noise_samples", "window", "batch_tokens"):
            if getattr(self, name) < 1:
                raise BadInput(f"`{name}` must be at least 1; not {getattr(self, name)}.")
        if self.controls < 0:
            raise BadInput(f"`controls` must be at least 0; not {self.controls}.")
        if not self.noise > 0:
            raise BadInput(f"`noise` must be positive; not {self.noise}.")

    @property
    def takes(self) -> str:  # type: ignore[override]
        """`pairs` for counterfactuals, else `facts`."""
        return "pairs" if self.corruption == "counterfactual" else "facts"

    @property
    def draws(self) -> int:
        """Corrupted rows a prompt."""
        return self.noise_samples if self.corruption in DRAWN else 1

    def check(self, lm: LM, data: Any) -> None:
        """Refuse prompts that cannot be traced (`BadInput`, `SpanError`, `RaggedPair`) before anything is computed."""
        jobs = jobs_of(self, lm, data)
        if self.corruption == "resample":
            donors_of(jobs)

    def run(self, lm: LM, data: Any, store: Any = None) -> TraceResult:
        """Trace every prompt, batch by batch; finished batches are kept where `resume_from` says so."""
        jobs = jobs_of(self, lm, data)
        corruption = corruption_of(self, lm, jobs)
        bank = bank_of(self, lm, jobs) if self.controls else None
        kept = Unfinished(self.resume_from, self._key(lm, data) if self.resume_from else "", what="trace")
        traces: list[Trace | None] = [None] * len(jobs)
        resumed = Sweep(self, lm, jobs[:1], corruption).check()
        with Progress("tracing", total=len(jobs)) as progress:
            for number, places in enumerate(batches(jobs, self.draws, self.batch_tokens)):
                found = kept.get(f"batch-{number}")
                done = unpack(*found) if found else self._batch(lm, [jobs[place] for place in places], corruption, bank)
                if not found:
                    kept.put(f"batch-{number}", *pack(done))
                for place, trace in zip(places, done, strict=True):
                    traces[place] = trace
                progress.update(len(places))
        return assemble(self, lm, jobs, [trace for trace in traces if trace is not None], corruption.sigma, resumed)

    def cost(self, lm: LM, data: Any = None) -> Cost:
        """Rows through the whole model, against ROME's one full forward of `noise_samples + 1` rows a cell.

        Counts what has to be recomputed. In small models, where calls cost more than tokens, the engine runs up to twice as many.
        """
        jobs, spec, rows = jobs_of(self, lm, data), lm.spec, self.draws
        naive = used = tokens = 0.0
        for index, job in enumerate(jobs):
            length, whole = len(job.tokens), len(job.ids)
            naive += len(self.direction) * len(self.kinds) * length * spec.n_layers * (rows + 1)
            checked = 1 + 2 * rows if index == 0 else 0  # the self-check: a clean row, a recording, a whole pass
            mine = whole * (1.0 + rows * len(self.direction) + checked)
            controlled = [pos for pos, role in enumerate(job.roles) if role in CONTROLLED]
            for pos in range(job.start, length):
                wide, single = work(self.kinds, spec.n_layers, self.window, self.window_rule, read=pos == length - 1)
                times = len(self.direction) * (1 + self.controls * (pos in controlled))
                mine += times * rows * (wide * (whole - pos) + single) / spec.n_layers
            used, tokens = used + mine / whole, tokens + mine
        size, n_kinds = BYTES[spec.dtype], len(self.kinds)
        held = max(self.batch_tokens, rows * max(len(job.ids) for job in jobs))
        kept = held * (spec.n_layers * (3 + 2 * n_kinds) * spec.d_model + spec.vocab) * size
        note = f"{len(jobs)} prompts; {naive / used:.1f}x fewer rows than a full forward a cell ({naive:,.0f})"
        return Cost(forwards=used, tokens=int(tokens), bytes=int(kept), note=note)

    def _batch(self, lm: LM, jobs: Sequence[Job], corruption: Corruption, bank: "Bank | None") -> list[Trace]:
        """One batch; where the device's memory does not suffice, in halves, and says so."""
        try:
            return Sweep(self, lm, jobs, corruption, bank).trace()
        except torch.OutOfMemoryError:
            if len(jobs) == 1:
                raise
        half = len(jobs) // 2
        warnings.warn(
            f"out of memory with {len(jobs)} prompts at once; going on with {half}. "
            f"A smaller batch_tokens than {self.batch_tokens} avoids it.",
            stacklevel=2,
        )
        return [*self._batch(lm, jobs[:half], corruption, bank), *self._batch(lm, jobs[half:], corruption, bank)]

    def _key(self, lm: LM, data: Any) -> str:
        """What finished batches are only good for: the same options, model and data."""
        return digest_of([replace(self, resume_from=None).to_dict(), lm.fingerprint(), data])
