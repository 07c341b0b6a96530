"""Unlearning, evaluated: config and run. The essay is the package's."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, ClassVar

import torch
import xarray as xr

from interp.core.analysis import Comparison, Cost
from interp.core.errors import BadInput, InterpError, WrongModel
from interp.core.lm import LM
from interp.core.progress import track
from interp.data.concepts import Concept, Concepts, concept_tokens
from interp.data.prompts import check_text

from ..vectors import Vector, check_vectors, vectors_of
from .assemble import assemble
from .comparison import Traces, compare
from .result import UnlearningResult
from .settings import OTHERS, Material, Settings, neutral_material
from .snapshot import fixed_unembedding, measure
from .weights import weight_change

SAME = ("family", "n_layers", "n_heads", "n_kv_heads", "d_model", "d_head", "d_mlp", "vocab", "gated", "processing")


@dataclass(frozen=True)
class UnlearningEvaluation(Comparison[UnlearningResult], Settings):
    """What a change left of concepts: in the value vectors that held them, beside what the model answers."""

    takes: ClassVar[str] = "concepts"

    concept: tuple[str, ...] = ()
    """Names of the concepts to look at; none given means all. Texts of the others are what membership is told from."""
    n_vectors: int = 1
    """Value vectors looked for in BEFORE, for a concept that names none."""
    neutral: int = 20
    """Neutral texts for the perplexity; 0 for none."""
    weights: bool = True
    """Also say where in the weights the two models differ."""

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "concept", (self.concept,) if isinstance(self.concept, str) else tuple(self.concept))
        for name, least in (("n_vectors", 1), ("neutral", 0)):
            if getattr(self, name) < least:
                raise BadInput(f"`{name}` must be at least {least}; not {getattr(self, name)}.")

    def __call__(  # type: ignore[override]
        self,
        lm: LM,
        other: LM,
        data: Any = None,
        *,
        store: Any = None,
        clean: LM | None = None,
        heldout: Sequence[str] = (),
        neutral_texts: Sequence[str] = (),
    ) -> UnlearningResult:
        """Evaluate the change from `lm` to `other`.

        `clean` is a model that never knew the concepts (or, after a corruption, was never corrupted): PrivLeak and restoration are told
        from it. `heldout` are texts like the concepts' own that neither model was trained on; by default the texts of the other
        concepts. `neutral_texts` replace the neutral text.
        """
        for one, what in ((lm, "first"), (other, "second"), (clean, "clean")):
            if one is not None and not hasattr(one, "spec"):
                raise BadInput(f"the {what} model is {type(one).__name__!r}, no model. Load it with `interp.load`.")
        heldout, neutral_texts = _texts("heldout", heldout), _texts("neutral_texts", neutral_texts)
        models = [lm, other] if clean is None else [lm, other, clean]
        concepts = concept_list(data)
        self.check_all(models, self.chosen(concepts))
        inputs: dict[str, Any] = {"other": other, "data": concepts} | ({} if clean is None else {"clean": clean})
        inputs |= {"heldout": heldout} if heldout else {}
        inputs |= {"neutral": neutral_texts} if neutral_texts else {}
        return self._recorded(lm, inputs, lambda: self._evaluate(models, concepts, heldout, neutral_texts))

    def check_models(self, lm: LM, other: LM, data: Any) -> None:
        """Refuse what cannot be compared, before anything is paid."""
        self.check_all([lm, other], self.chosen(concept_list(data)))

    def compare(self, lm: LM, other: LM, data: Any, store: Any = None) -> UnlearningResult:
        """Compute the result without a clean model and other texts. Nothing is drawn, printed or saved."""
        return self._evaluate([lm, other], concept_list(data), (), ())

    def chosen(self, concepts: Concepts) -> Concepts:
        """The concepts that are looked at; `BadInput` lists the names where one is not there."""
        return Concepts([concepts.get(name) for name in self.concept]) if self.concept else concepts

    def check_all(self, models: Sequence[LM], concepts: Concepts) -> None:
        """Refuse models of other shapes or tokenizers (`WrongModel`), and vectors and prompts that the first does not take."""
        first = models[0]
        for other in models[1:]:
            for name in SAME:
                mine, theirs = getattr(first.spec, name), getattr(other.spec, name)
                if mine != theirs:
                    raise WrongModel(
                        f"{first.spec.name} and {other.spec.name} differ in {name}: {mine} and {theirs}. What a change left of a value "
                        "vector can be told only of a model and a changed copy of it."
                    )
            if first.tokenizer.digest != other.tokenizer.digest:
                raise WrongModel(
                    f"{first.spec.name} and {other.spec.name} have different tokenizers, so top tokens and answers cannot be compared. "
                    "Give a model and a changed copy of it."
                )
        self.top(first)
        if self.n_vectors > (most := first.spec.n_layers * first.spec.d_mlp):
            raise BadInput(
                f"`n_vectors` is {self.n_vectors}, and {first.spec.name} has {most} value vectors. Ask for fewer."
            )
        for concept in concepts:
            if concept.vectors:
                _about(concept, check_vectors, first, concept.vectors)
            elif not concept.words:
                raise BadInput(
                    f"the concept {concept.name!r} has neither `vectors` nor `words`: no value vector can be compared. Name its vectors, "
                    "or give it words to find them by."
                )
            else:
                _about(concept, concept_tokens, first.tokenizer, concept.words)
            self._check_prompts(first, concept)

    def _check_prompts(self, lm: LM, concept: Concept) -> None:
        groups = {"related": concept.related, "unrelated": concept.unrelated, "completion": concept.completions}
        for group, prompts in groups.items():
            for place, prompt in enumerate(prompts[: self.prompts]):
                text = self.request(concept, prompt.text) if group == "completion" else prompt.text
                length = len(lm.tokenizer.encode(text, bos=self.bos).ids)
                if length + self.tokens > lm.spec.n_ctx:
                    room = lm.spec.n_ctx - length
                    raise BadInput(
                        f"{group} prompt {place} of the concept {concept.name!r} has {length} tokens and its answer up to {self.tokens}; "
                        f"the context of {lm.spec.name} is {lm.spec.n_ctx}. Shorten the prompt"
                        + (f", or set `tokens` to {room} or less." if room > 0 else ".")
                    )

    def cost(self, lm: LM, other: LM, data: Any = None) -> Cost:  # type: ignore[override]
        """Every prompt's answer, every text and every neutral text, twice."""
        concepts = self.chosen(concept_list(data))
        asked = read = 0
        for concept in concepts:
            groups = (concept.related, concept.unrelated, concept.completions)
            asked += sum(len(prompts[: self.prompts]) for prompts in groups)
            read += 4 * len(concept.texts[: self.texts])  # scored, watched, continued, and as many held out
        tokens = 2 * (asked * (40 + self.tokens) + (read + self.neutral) * min(self.text_tokens, lm.spec.n_ctx))
        note = f"answers of {asked} prompts about {len(concepts)} concepts, twice"
        return Cost(2.0 * (asked + read + self.neutral), tokens, 2 * lm.spec.d_model * lm.spec.vocab * 4, note)

    def _evaluate(
        self, models: Sequence[LM], concepts: Concepts, heldout: tuple[str, ...], neutral: tuple[str, ...]
    ) -> UnlearningResult:
        before, after, *rest = models
        settings = Settings(**{entry.name: getattr(self, entry.name) for entry in fields(Settings)})
        unembedding = fixed_unembedding(before)
        found: list[Traces] = []
        for concept in track(self.chosen(concepts), "unlearning evaluation"):
            material = self._material(before, concepts, concept, heldout, neutral, first=not found)
            vectors = self._vectors(before, concept)
            start = measure(before, concept, vectors, settings, material=material, unembedding=unembedding)
            clean = start.again(rest[0]) if rest else None
            found.append(_light(compare(start, start.again(after), clean)))
        named = [vector for traces in found for vector in traces.before.vectors]
        changes = weight_change(before, after, named) if self.weights else xr.Dataset()
        return UnlearningResult(assemble(before, found, changes))

    def _vectors(self, lm: LM, concept: Concept) -> tuple[Vector, ...]:
        if concept.vectors:
            return check_vectors(lm, concept.vectors)
        found: list[tuple[Vector, float]] = _about(concept, vectors_of, lm, concept, self.n_vectors)
        return tuple(vector for vector, _ in found)

    def _material(
        self,
        lm: LM,
        concepts: Concepts,
        concept: Concept,
        heldout: tuple[str, ...],
        neutral: tuple[str, ...],
        *,
        first: bool,
    ) -> Material:
        """Held-out texts, and for the first concept the neutral ones, which are everybody's."""
        others = tuple(text for one in concepts if one.name != concept.name for text in one.texts)
        step = max(1, len(others) // (self.texts or len(others) or 1))
        part = heldout or others[::step]
        what = "given" if heldout else "texts of the other concepts" if others else ""
        if not first or not (neutral or self.neutral):
            return Material(part, what)
        if neutral:
            return Material(part, what, neutral, "given")
        plain, plain_is = neutral_material(lm, others or concept.texts, self.neutral)
        if not others and plain_is == OTHERS:
            plain_is = (
                f"the texts of {concept.name} itself: no alarm. Give `neutral_texts`, or a second concept with texts"
            )
        return Material(part, what, plain, plain_is)


def concept_list(data: Any) -> Concepts:
    """Concepts from a `Concepts`, one `Concept` or several; `BadInput` for anything else."""
    items = [data] if isinstance(data, Concept) else list(data) if isinstance(data, Iterable) else []
    if not items or not all(isinstance(item, Concept) for item in items):
        what = next((item for item in items if not isinstance(item, Concept)), data)
        raise BadInput(
            f"this takes concepts; not {what!r:.80}. Read them with `interp.data.concepts(file)`, or take those of a reference checkpoint, "
            "`interp.reference.concept_set('atlas')`."
        )
    return data if isinstance(data, Concepts) else Concepts(items)


def _texts(name: str, given: Sequence[str]) -> tuple[str, ...]:
    """Several texts, or one."""
    texts = (given,) if isinstance(given, str) else tuple(given)
    for text in texts:
        check_text(text, f"one of `{name}`")
    return texts


def _light(traces: Traces) -> Traces:
    """Without the distributions that the KL came from: a vocabulary a prompt is too much to hold for every concept."""
    none = torch.empty(0)
    states = (traces.before, traces.after, traces.clean)
    before, after, clean = (state and replace(state, next_logp=none) for state in states)
    assert before is not None and after is not None
    return replace(traces, before=before, after=after, clean=clean)


def _about(concept: Concept, call: Any, *args: Any) -> Any:
    """A call whose errors say which concept they are about."""
    try:
        return call(*args)
    except InterpError as error:
        if isinstance(error, BadInput):
            raise type(error)(f"concept {concept.name!r}: {error}") from None
        raise
