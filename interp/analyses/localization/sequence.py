"""Edits that follow each other: what becomes of a model that is edited again and again?

The question. One edit of a fact looks harmless. Fifty, each made on the model as the ones before left it, may push the edited matrix
and the activations behind it far from where they were, overwrite each other, and in the end break the model. How fast, by which
editor, and does a penalty on the norm prevent it?

    growth      |W_n| / |W_0|                 change   |W_n - W_0| / |W_0|      Frobenius, of the edited matrices after n edits
    drift       mean over tokens of |h_n - h_0| / |h_0|               residual stream after each layer, on running text
    share       mean over tokens of |mlp_out| / |resid_post|          how much of the stream the edited layer writes: its importance
    retention   share of the first n targets that are still the top continuation, and their probability
    locality    min(1, p_n / p_0) of a neighbour's own answer         neighbours whose subject is edited, too, are not taken
    perplexity  of the running text, over what it was                 the alarm of collapse

Editors (W is d_mlp x d_model, C the second moment of keys of the model as it was at first):

    ROME          rank one                                                     no restraint on the norm at all
    MEMIT         D = (lc C + K^T K)^-1 K^T R
    MEMIT-stop    the same, with early stopping: a value is improved only until the target is on top in every context
    Ridge         D = (lc C + ln 1 + K^T K)^-1 K^T R, with early stopping      ENCORE's two parts: MEMIT-stop tells which of them did what
    FT-1          constrained fine-tuning of one layer

Source. Gupta et al. 2025, "Lifelong Knowledge Editing requires Better Regularization" (ENCORE), whose claims these are: every editor's
norms grow, the edited layer's share of the stream grows with them, and the penalty with early stopping slows both. All editors here
edit the same layers, so that only the rule differs.

When it misleads
- Little growth alone is no merit: an editor that edits nothing has none. Read it beside the success of the latest edit. 20 edits of
  `atlas`: norms grow to 2.09 (ROME), 1.34 (MEMIT), 1.27 (early stopping), 1.12 (Ridge); 100, 100, 90 and 85 % of the edits last; but
  Ridge's streams drift no less than those of early stopping alone (7.7 and 7.8 %): its penalty does not look at ordinary keys.
- On a small model a change of a layer's norm by a half is reached within a few edits; a large one takes thousands. Compare editors.
- Facts left out of `retention` because they are not edited yet are measured all the same: see `target` in the data.
- Probe text of a small world may talk about an edited subject; its loss then rises although nothing broke.

    import interp
    lm, facts = interp.load("atlas"), interp.reference.facts("atlas", 2)
    sequence = interp.EditSequence(editors=("Ridge",), essence=None, probe_tokens=200, text_tokens=2000)
    found = sequence(lm, facts)
    found.curve("growth"), found.curve("retention")     # editor, edits: mean, ci_lo, ci_hi
    found.table()                                       # where each editor ends
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import xarray as xr
from torch import Tensor

from interp.core.analysis import Analysis, Cost
from interp.core.errors import BadInput, one_of
from interp.core.lm import LM
from interp.core.progress import Progress
from interp.data import Corpus
from interp.data.prompts import Prompt

from ..editing import (
    MEMIT,
    PROBLEMS,
    Editor,
    Probe,
    Request,
    Ridge,
    SecondMoments,
    WeightChange,
    check_editable,
    measure,
    presets,
    probe,
    requests_for,
    second_moments,
)
from ..editing.contexts import sample_prefixes
from ..editing.editors import matrix_of
from ..editing.values import ValueEditor
from .material import SCALES, Scale, check_text, editable_facts, essence_of, fitting_essence, running_text, scale_of
from .probing import States, states
from .sequence_result import EditSequenceResult

EDITORS = ("ROME", "MEMIT", "MEMIT-stop", "Ridge", "FT-1")
SPARE = 8
"""Neighbours that are looked for, so that one is left whose subject no edit is about."""
MEASURED = ("target", "top", "paraphrase", "kept", "essence")


@dataclass(frozen=True)
class EditSequence(Analysis[EditSequenceResult]):
    """Edit facts one after another, each on the model as edited so far, and watch what that does to it."""

    editors: tuple[str, ...] = ("ROME", "MEMIT", "Ridge")
    """ROME, MEMIT, MEMIT-stop (with early stopping), Ridge (and a penalty on the norm), FT-1; each in a sequence of its own."""
    problem: str = "error_injection"
    """Editing problem: error_injection, tracing_reversal, fact_erasure, fact_amplification, fact_forcing."""
    layer: int | None = None
    """Centre of the layers that are edited; None is as deep as ROME's layer 5 of GPT-J's 28."""
    window: int = 1
    """Layers that MEMIT and Ridge share an edit between, around the centre; ROME and FT-1 edit the centre."""
    norm_weight: float = 0.01
    """Ridge's penalty on the norm of the change, as a multiple of E|k|^2; the editor's own 0.1 leaves many edits of `atlas` undone."""
    settings: Scale = "auto"
    """The paper's settings (for GPT-J and GPT-2 XL), ones for small models, or by the model's width (small below 512)."""
    checkpoints: tuple[int, ...] = ()
    """Numbers of edits after which all is measured; none given means 1, 2, 5, 10, 20, 50, ... and the last."""
    text: str | None = None
    """File of running text for second moments and probing; None is the generated world's prose for its own facts, else built-in text."""
    text_tokens: int = 20_000
    """Tokens of it that second moments are of."""
    probe_tokens: int = 1_000
    """Tokens of text that drift and perplexity are of; of a file, the same text's first ones."""
    essence: str | None = "auto"
    """Beginning of the texts whose perplexity is watched, with {} for the subject; `auto` fits the facts, None measures none."""
    seed: int = 0
    """Seed of false answers, noise, prefixes and paraphrases."""

    def __post_init__(self) -> None:
        for name in ("editors", "checkpoints"):
            given = getattr(self, name)
            object.__setattr__(self, name, (given,) if isinstance(given, str | int) else tuple(given))
        for editor in self.editors:
            one_of("editors", editor, EDITORS)
        if not self.editors or len(set(self.editors)) < len(self.editors):
            raise BadInput(f"`editors` must name each editor once, at least one; not {self.editors!r}.")
        one_of("problem", self.problem, PROBLEMS)
        one_of("settings", self.settings, SCALES)
        for name in ("window", "text_tokens", "probe_tokens"):
            if getattr(self, name) < 1:
                raise BadInput(f"`{name}` must be at least 1; not {getattr(self, name)}.")
        if not self.norm_weight >= 0:
            raise BadInput(f"`norm_weight` must be 0 or more; not {self.norm_weight}.")
        if any(count < 1 for count in self.checkpoints) or len(set(self.checkpoints)) < len(self.checkpoints):
            raise BadInput(
                f"`checkpoints` must be different numbers of edits, 1 or more; not {list(self.checkpoints)}."
            )

    def check(self, lm: LM, data: Any) -> None:
        """Refuse models that cannot be edited, a layer that is not there, unusable facts, and checkpoints beyond the last edit."""
        check_editable(lm)
        if self.layer is not None and not 0 <= self.layer < lm.spec.n_layers:
            raise BadInput(f"layer {self.layer} is not in {lm.spec.name}: it has layers 0 to {lm.spec.n_layers - 1}.")
        facts = editable_facts(data)
        if late := [count for count in self.checkpoints if count > len(facts)]:
            raise BadInput(
                f"checkpoints {late} lie beyond the {len(facts)} facts. Give more facts, or earlier checkpoints."
            )
        asked = [(fact.text, fact.span("subject")) for fact in facts]
        if twice := [text for text, _ in asked if asked.count((text, _)) > 1]:
            raise BadInput(
                f"two facts have the same prompt {twice[0]!r}: the later edit would undo the earlier. Keep one of them."
            )
        check_text(self.text)

    def cost(self, lm: LM, data: Any = None) -> Cost:
        """About 60 passes of 11 rows an edit, and one pass of every probe at every checkpoint."""
        facts = editable_facts(data)
        width = max(len(lm.tokenizer.encode(fact.text).ids) for fact in facts) + 6
        edits, steps = len(facts) * len(self.editors), len(self._steps(len(facts)))
        rows = 60.0 * 11 * edits + 10.0 * len(facts) * steps * len(self.editors)
        tokens = rows * width + self.probe_tokens * steps * len(self.editors) + self.text_tokens
        held = 8 * lm.spec.d_mlp**2 + 4 * self.probe_tokens * lm.spec.d_model * lm.spec.n_layers
        return Cost(rows, int(tokens), held, f"{edits:,} edits; a backward pass counted as two forwards")

    def run(self, lm: LM, data: Any, store: Any = None) -> EditSequenceResult:
        """One sequence of edits for each editor, from the same model."""
        facts = editable_facts(data)
        requests = requests_for(lm, facts, self.problem, seed=self.seed, n_neighbours=SPARE)
        edited = {request.subject for request in requests}
        one = [replace(request, neighbours=_untouched(request, edited)) for request in requests]
        essence = essence_of(self.essence, facts)
        judges = [probe(lm, request, seed=self.seed, essence=essence) for request in one]
        editors, layer = self.editors_for(lm, essence or fitting_essence(facts)), self.layer_for(lm)
        layers = sorted({at for editor in editors.values() for at in editor.layers_of(layer, lm.spec.n_layers)})
        moments = None
        if any(editor.uses_moments for editor in editors.values()):
            read = running_text(lm, facts, self.text, tokens=self.text_tokens, name="editing moments")
            moments = second_moments(lm, read, layers, store=store)
        text = running_text(lm, facts, self.text, tokens=self.probe_tokens, name="sequence probe")
        steps = [count for count in self._steps(len(one)) if count <= len(one)]
        first = states(lm, text)
        with Progress("editing", total=len(editors) * len(one)) as progress:
            parts = [
                self._sequence(lm, one, judges, editor, layer, layers, moments, text, first, steps, progress)
                for editor in editors.values()
            ]
        return self._result(lm, one, parts, layer, layers, text, steps, requests.skipped)

    def layer_for(self, lm: LM) -> int:
        """The centre of the edited layers."""
        return 5 * lm.spec.n_layers // 28 if self.layer is None else self.layer

    def editors_for(self, lm: LM, essence: str) -> dict[str, Editor]:
        """The editors by name, with prefixes sampled once from the model as it is now and their essence prompt."""
        every = presets(self.problem, scale_of(lm, self.settings))
        base = every["MEMIT"]
        assert isinstance(base, MEMIT)
        given = {one.name: getattr(base, one.name) for one in fields(base)} | {"window": self.window}
        made: dict[str, Editor] = {
            "ROME": every["ROME"], "MEMIT": MEMIT(**given), "MEMIT-stop": MEMIT(**given | {"until_top": True}),
            "Ridge": Ridge(**given | {"until_top": True, "norm_weight": self.norm_weight}), "FT-1": every["FT-1"],
        }  # fmt: skip
        sampled = any(isinstance(made[name], ValueEditor) for name in self.editors)
        prefixes = sample_prefixes(lm, seed=self.seed) if sampled else ()
        return {
            name: replace(one, prefixes=prefixes, essence=essence) if isinstance(one, ValueEditor) else one
            for name, one in ((name, made[name]) for name in self.editors)
        }

    def _steps(self, edits: int) -> list[int]:
        """Numbers of edits after which all is measured; 0 is the model as it was."""
        if self.checkpoints:
            return [0, *sorted(self.checkpoints)]
        usual = [base * 10**power for power in range(7) for base in (1, 2, 5)]
        return [0, *(count for count in usual if count < edits), edits]

    def _sequence(
        self,
        lm: LM,
        requests: Sequence[Request],
        judges: Sequence[Probe],
        editor: Editor,
        layer: int,
        layers: Sequence[int],
        moments: SecondMoments | None,
        text: Corpus,
        first: States,
        steps: Sequence[int],
        progress: Progress,
    ) -> dict[str, np.ndarray]:
        """Everything that is measured of one editor's sequence, by name; the model is as before afterwards."""
        keys = [f"W_out.{at}" for at in layers]
        base = {key: matrix_of(lm, key) for key in keys}
        total, last = WeightChange.none(), WeightChange.none()
        size = {name: np.full((len(requests), len(layers)), np.nan) for name in ("update", "update_cosine")}
        latest = np.full((len(requests), 2), np.nan)
        marks: list[dict[str, np.ndarray]] = [self._mark(lm, total, base, judges, text, first)]
        for number, request in enumerate(requests):
            with total.apply(lm):
                change = editor.edit(lm, [request], layers=layer, moments=moments, seed=self.seed)
            total = total + change
            for place, key in enumerate(keys):
                if key in change.deltas:
                    size["update"][number, place] = float(change.deltas[key].double().norm())
                    size["update_cosine"][number, place] = _cosine(last.deltas.get(key), change.deltas[key])
            last = change
            with total.apply(lm):
                done = measure(lm, replace(judges[number], essence=None))
            latest[number] = done.rewrite, done.top
            if number + 1 in steps:
                marks.append(self._mark(lm, total, base, judges, text, first))
            progress.update(1)
            if number + 1 == steps[-1]:
                break
        found = {name: np.stack([mark[name] for mark in marks]) for name in marks[0]}
        untouched = np.isnan(size["update"]).all(axis=0)  # matrices that this editor leaves alone
        found["norm"][:, untouched] = found["change"][:, untouched] = np.nan
        return found | size | {"latest": latest[:, 0], "latest_top": latest[:, 1]}

    def _mark(
        self,
        lm: LM,
        total: WeightChange,
        base: dict[str, Tensor],
        judges: Sequence[Probe],
        text: Corpus,
        first: States,
    ) -> dict[str, np.ndarray]:
        """What is measured at one checkpoint."""
        with total.apply(lm):
            now = states(lm, text)
            read = [measure(lm, judge) for judge in judges]
        away = [float(total.deltas[key].double().norm()) if key in total.deltas else 0.0 for key in base]
        grown = [matrix + total.deltas[key] if key in total.deltas else matrix for key, matrix in base.items()]
        drift, cosine = now.against(first)
        facts = {
            "target": [one.rewrite for one in read], "top": [float(one.top) for one in read],
            "paraphrase": [_mean(one.paraphrase) for one in read], "kept": [_mean(one.kept) for one in read],
            "essence": [one.perplexity for one in read],
        }  # fmt: skip
        return {
            "norm": np.array([float(matrix.norm()) for matrix in grown]), "change": np.array(away), "drift": drift, "cosine": cosine,
            "share": now.share, "nll": now.nll, **{name: np.asarray(facts[name], dtype=np.float64) for name in MEASURED},
        }  # fmt: skip

    def _result(
        self, lm: LM, requests: Sequence[Request], parts: Sequence[dict[str, np.ndarray]], layer: int, layers: Sequence[int], text: Corpus,
        steps: Sequence[int], skipped: Sequence[str],
    ) -> EditSequenceResult:  # fmt: skip
        dims = {
            **dict.fromkeys(("norm", "change"), ("edits", "matrix")),
            **dict.fromkeys(("drift", "cosine", "share"), ("edits", "document", "layer")), "nll": ("edits", "document"),
            **dict.fromkeys(MEASURED, ("edits", "fact")), **dict.fromkeys(("update", "update_cosine"), ("fact", "matrix")),
            **dict.fromkeys(("latest", "latest_top"), ("fact",)),
        }  # fmt: skip
        columns: dict[str, Any] = {
            name: (("editor", *axes), np.stack([part[name] for part in parts])) for name, axes in dims.items()
        }
        coords = {
            "editor": list(self.editors), "edits": list(steps), "matrix": [f"W_out.{at}" for at in layers],
            "layer": list(range(lm.spec.n_layers)), "document": list(text.ids), "tokens": ("document", [n - 1 for n in text.lengths]),
            "fact": [request.id for request in requests], "subject": ("fact", [request.subject for request in requests]),
            "wanted": ("fact", [request.target for request in requests]),
        }  # fmt: skip
        attrs = {
            "centre": layer, "problem": self.problem, "objective": PROBLEMS[self.problem].objective, "skipped": list(skipped),
        }  # fmt: skip
        return EditSequenceResult(xr.Dataset(columns, coords, attrs))


def _untouched(request: Request, edited: set[str]) -> tuple[Prompt, ...]:
    """The first neighbour whose subject no edit is about."""
    return tuple(one for one in request.neighbours if not any(name in one.text for name in edited))[:1]


def _cosine(last: Tensor | None, now: Tensor) -> float:
    if last is None:
        return float("nan")
    a, b = last.double().flatten(), now.double().flatten()
    return float(a @ b / (a.norm() * b.norm())) if float(a.norm() * b.norm()) > 0 else float("nan")


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values)) if values else float("nan")
