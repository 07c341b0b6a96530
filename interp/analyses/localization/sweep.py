"""The sweep itself: trace every fact, then edit it in every layer, and measure. The essay is the package's."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import xarray as xr

from interp.core.analysis import Analysis, Cost
from interp.core.digest import digest_of
from interp.core.errors import BadInput, one_of
from interp.core.lm import LM
from interp.core.progress import Progress
from interp.core.unfinished import Unfinished
from interp.data.prompts import Prompt

from ..editing import (
    PROBLEMS,
    Editor,
    Request,
    SecondMoments,
    check_editable,
    edit_scores,
    measure,
    presets,
    probe,
    requests_for,
    second_moments,
)
from ..editing.contexts import sample_prefixes
from ..editing.values import ValueEditor
from ..tracing import CausalTrace
from .material import SCALES, Scale, check_text, editable_facts, essence_of, fitting_essence, running_text, scale_of
from .result import EFFECTS, SCORES, EditSweepResult

HOWS = ("max", "last subject")


@dataclass(frozen=True)
class EditSweep(Analysis[EditSweepResult]):
    """Edit every fact in every layer by every editor, trace it, and compare (Hase et al. 2023)."""

    problems: tuple[str, ...] = tuple(PROBLEMS)
    """Editing problems: error_injection, tracing_reversal, fact_erasure, fact_amplification, fact_forcing."""
    editors: tuple[str, ...] = ()
    """Editors by the names of the settings (FT-1, FT-3 or FT-5, ROME, MEMIT); none given means all."""
    settings: Scale = "auto"
    """The paper's settings (for GPT-J and GPT-2 XL), ones for small models, or by the model's width (small below 512)."""
    layers: tuple[int, ...] = ()
    """Centres to edit and trace; none given means every layer."""
    window: int | None = None
    """MLP layers restored together when tracing; None is 5, as in the paper, for models of 20 layers and more, else 1."""
    trace_samples: int = 10
    """Noise draws of the tracing."""
    noise: float = 3.0
    """Noise of tracing and of the problems that use it, in standard deviations of the subjects' embeddings."""
    min_prob: float = 0.02
    """Facts whose answer is less probable than this are edited and traced, but left out of regressions."""
    text: str | None = None
    """File of running text for the keys' second moments; None is the generated world's prose for its own facts, else built-in text."""
    text_tokens: int = 20_000
    """Tokens of it that are read."""
    essence: str | None = "auto"
    """Beginning of the texts whose perplexity is watched, with {} for the subject; `auto` fits the facts, None measures none."""
    resume_from: str | None = None
    """Folder in which finished facts are kept, so that an interrupted sweep goes on where it stopped."""
    seed: int = 0
    """Seed of false answers, noise, prefixes and paraphrases."""

    def __post_init__(self) -> None:
        for name in ("problems", "editors", "layers"):
            given = getattr(self, name)
            object.__setattr__(self, name, (given,) if isinstance(given, str | int) else tuple(given))
        for problem in self.problems:
            one_of("problems", problem, PROBLEMS)
        if not self.problems or len(set(self.problems)) < len(self.problems):
            raise BadInput(f"`problems` must name each problem once; not {self.problems!r}.")
        one_of("settings", self.settings, SCALES)
        for name in ("trace_samples", "text_tokens"):
            if getattr(self, name) < 1:
                raise BadInput(f"`{name}` must be at least 1; not {getattr(self, name)}.")
        if self.window is not None and self.window < 1:
            raise BadInput(f"`window` must be at least 1; not {self.window}.")

    def check(self, lm: LM, data: Any) -> None:
        """Refuse models that cannot be edited, unknown layers and editors, and facts without subject or answer."""
        check_editable(lm)
        if bad := [layer for layer in self.layers if not 0 <= layer < lm.spec.n_layers]:
            raise BadInput(f"layers {bad} are not in {lm.spec.name}: it has layers 0 to {lm.spec.n_layers - 1}.")
        self.editors_for(lm, self.problems[0])
        facts = editable_facts(data)
        self._trace(lm).check(lm, facts)
        check_text(self.text)

    def cost(self, lm: LM, data: Any = None) -> Cost:
        """Passes of the tracing, and about 40 passes of 10 rows an edit."""
        facts = editable_facts(data)
        trace = self._trace(lm).cost(lm, facts)
        edits = (
            sum(len(self.editors_for(lm, problem)) for problem in self.problems) * len(self._layers(lm)) * len(facts)
        )
        width = trace.tokens / max(trace.forwards, 1.0)
        passes = 40.0 * 10 * 3 * edits
        moments = 2 * 8 * lm.spec.d_mlp**2 * lm.spec.n_layers
        note = f"{edits:,} edits; a backward pass counted as two forwards"
        return Cost(trace.forwards + passes, int(trace.tokens + passes * width), max(trace.bytes, moments), note)

    def run(self, lm: LM, data: Any, store: Any = None) -> EditSweepResult:
        """Trace, then edit fact by fact; finished facts are kept where `resume_from` says so."""
        facts, layers = editable_facts(data), self._layers(lm)
        traced = self._trace(lm)(lm, facts, store=store)
        moments = self._moments(lm, facts, store)
        names = list(dict.fromkeys(name for problem in self.problems for name in self.editors_for(lm, problem)))
        shape = (len(self.problems), len(names), len(facts), len(layers))
        score, before, after = np.full((*shape, len(SCORES)), np.nan), np.full(shape, np.nan), np.full(shape, np.nan)
        skipped: list[str] = []
        key = (
            digest_of([replace(self, resume_from=None).to_dict(), lm.fingerprint(), facts]) if self.resume_from else ""
        )
        kept = Unfinished(self.resume_from, key, what="sweep")
        sampled = any(isinstance(one, ValueEditor) for one in self.editors_for(lm, self.problems[0]).values())
        prefixes = sample_prefixes(lm, seed=self.seed) if sampled else ()
        essence = essence_of(self.essence, facts)
        with Progress("editing", total=len(self.problems) * len(facts)) as progress:
            for p, problem in enumerate(self.problems):
                requests = requests_for(lm, facts, problem, seed=self.seed, noise=self.noise)
                skipped += [f"{problem}: {line}" for line in requests.skipped]
                by_id = {request.id: request for request in requests}
                editors = self._ready(lm, problem, prefixes, essence or fitting_essence(facts))
                for f, fact in enumerate(facts):
                    if fact.id in by_id:
                        part = f"{problem}-{f}"
                        found = kept.get(part)
                        arrays = (
                            found[0] if found else self._edit(lm, by_id[fact.id], editors, layers, moments, essence)
                        )
                        if not found:
                            kept.put(part, arrays, {})
                        score[p, :, f], before[p, :, f], after[p, :, f] = (
                            arrays["score"],
                            arrays["before"],
                            arrays["after"],
                        )
                    progress.update(1)
        return self._result(lm, facts, names, layers, score, before, after, traced, skipped)

    def editors_for(self, lm: LM, problem: str) -> dict[str, Editor]:
        """The editors of one problem by name. Raises `BadInput` for one that the settings do not have."""
        every = presets(problem, scale_of(lm, self.settings))
        for name in self.editors:
            one_of("editors", name, every)
        return {name: every[name] for name in (self.editors or every)}

    def _ready(self, lm: LM, problem: str, prefixes: tuple[str, ...], essence: str) -> dict[str, Editor]:
        """The editors with the sweep's prefixes and essence text, which are sampled once for all edits."""
        return {
            name: replace(one, prefixes=prefixes, essence=essence) if isinstance(one, ValueEditor) else one
            for name, one in self.editors_for(lm, problem).items()
        }

    def _layers(self, lm: LM) -> list[int]:
        return list(self.layers or range(lm.spec.n_layers))

    def _trace(self, lm: LM) -> CausalTrace:
        window = self.window or (5 if lm.spec.n_layers >= 20 else 1)
        return CausalTrace(
            kinds=("mlp",),
            window=window,
            noise=self.noise,
            noise_samples=self.trace_samples,
            answers="whole",
            seed=self.seed,
        )

    def _moments(self, lm: LM, facts: Sequence[Prompt], store: Any) -> SecondMoments | None:
        editors = [one for problem in self.problems for one in self.editors_for(lm, problem).values()]
        if not any(one.uses_moments for one in editors):
            return None
        needed = sorted(
            {
                layer
                for one in editors
                for centre in self._layers(lm)
                for layer in one.layers_of(centre, lm.spec.n_layers)
            }
        )
        read = running_text(lm, facts, self.text, tokens=self.text_tokens, name="editing moments")
        return second_moments(lm, read, needed, store=store)

    def _edit(
        self,
        lm: LM,
        request: Request,
        editors: dict[str, Editor],
        layers: Sequence[int],
        moments: SecondMoments | None,
        essence: str | None,
    ) -> dict[str, np.ndarray]:
        """Scores and probabilities of one request, [editor, layer, score] and [editor, layer]."""
        judge = probe(lm, request, seed=self.seed, essence=essence)
        start = measure(lm, judge)
        score = np.full((len(editors), len(layers), len(SCORES)), np.nan)
        after = np.full((len(editors), len(layers)), np.nan)
        for e, editor in enumerate(editors.values()):
            for place, layer in enumerate(layers):
                change = editor.edit(lm, [request], layers=layer, moments=moments, seed=self.seed)
                with change.apply(lm):
                    found = edit_scores(start, measure(lm, judge), request.objective)
                score[e, place] = [getattr(found, one) for one in SCORES]
                after[e, place] = found.after.rewrite
        return {"score": score, "before": np.full_like(after, start.rewrite), "after": after}

    def _result(
        self, lm: LM, facts: Sequence[Prompt], names: Sequence[str], layers: Sequence[int], score: np.ndarray, before: np.ndarray,
        after: np.ndarray, traced: Any, skipped: Sequence[str],
    ) -> EditSweepResult:  # fmt: skip
        ids = [fact.id for fact in facts]
        effects = np.full((len(EFFECTS), len(HOWS), len(facts), len(layers)), np.nan)
        for m, kind in enumerate(EFFECTS):
            for h, how in enumerate(HOWS):
                found = traced.layer_effects("mlp", how, measure=kind, drop=True).reindex(prompt=ids)
                effects[m, h] = found.sel(layer=list(layers)).transpose("prompt", "layer").values
        ends = traced.data[["low", "high"]].sel(metric="prob")
        cells = ("problem", "editor", "fact", "layer")
        columns: dict[str, Any] = {
            "scores": ((*cells, "score"), score), "before": (cells, before), "after": (cells, after),
            "effect": (("measure", "how", "fact", "layer"), effects), "clean": ("fact", ends["high"].values),
            "total": ("fact", (ends["high"] - ends["low"]).values),
        }  # fmt: skip
        coords = {
            "problem": list(self.problems), "editor": list(names), "fact": ids,
            "subject": ("fact", [fact.span("subject") for fact in facts]), "layer": list(layers),
            "measure": list(EFFECTS), "how": list(HOWS), "score": list(SCORES),
        }  # fmt: skip
        attrs = {
            "n_layers": lm.spec.n_layers, "window": self._trace(lm).window, "min_prob": self.min_prob, "skipped": list(skipped),
        }  # fmt: skip
        return EditSweepResult(xr.Dataset(columns, coords, attrs))
