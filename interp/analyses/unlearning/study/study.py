"""Unlearning methods side by side: what is left in the parameters, what is left of the answers, and what comes back.

The question. A method is said to make a model forget a concept. Three things can be true of what it leaves, and none implies another:

    intrinsic    are the concept's value vectors still what they were? Jaccard and rank-biased overlap of the tokens that they promote,
                 cosine, distance; how strongly they are still active on the concept's texts (`activation_ratio`), and how
                 much they still write there (`contribution_ratio`, activation times norm)
    behaviour    are its questions still answered, and those on other things? accuracy, probability, overlap with the answers before
    robustness   does it come back? after relearning from a few texts, on questions that these do not answer; under jailbreak-style prompts
    collapse     is it still a language model? perplexity of texts that no method was given, over what it was

Two rows are no methods: the model untouched, under the same attacks; and a matched ablation, of as many other value vectors as needle
removes at most, of the same layers and of like norm. A model that never knew the concept can be given as a third (`clean`).

Where questions have a former answer (`foil`: what was true before the knowledge that is now unlearned came in), two more numbers ask for
restoration: whether the former answer is given again, and whether it is the most probable of all candidates but the unlearned one. The
second is above chance, 1 in so many candidates, only where something of the former state is back, beyond mere forgetting.

Source. Hong et al. 2024, "Intrinsic Evaluation of Unlearning Using Parametric Knowledge Traces" (ConceptVectors, arXiv 2406.11614), for
intrinsic against behavioural success, needle and jailbreaks; Rezaei et al. 2024, "RESTOR" (arXiv 2411.00204), for restoration; Yang et
al. 2024, "The Butterfly Effect of Model Editing" (arXiv 2402.09656), for perplexity as the alarm. Deviations: relearning with told and
untold questions, decoys and matched ablations are ours.

How. Each method is run on the model as it is, on the concept's texts and every other text of the other concepts. Perplexity is of
neutral English, or, for a model that cannot read that, of prose of the reference world, or of the remaining texts of the other concepts
(`neutral` says which): no method sees any of these. Nothing is written: everything is measured inside `Revision.apply`.

What `atlas` says of three of its relations, colour, kingdom and craft (40 questions each, one seed, defaults). Training leaves the
traces: ascent, difference, NPO and DPO keep a Jaccard overlap of 0.90 to 1.00 and a cosine of 1.00, while accuracy falls to 0.20 to
0.45, 0.38 to 0.73 and 0.73 to 0.85; 0.90 to 1.00 of the unrelated questions are still answered. Twenty steps on sixteen sentences then
bring accuracy on questions that these do not answer back to 0.91 to 1.00, and the best way of asking gets 0.65 to 0.95 answered (a wrong
answer: 0.03 to 0.10). Needle removes the trace (Jaccard 0) and nothing else: accuracy stays 1.00 on all three, since the vector that
promotes exactly the colours is not what the answers hang on. With a hundred vectors accuracy is 0.70, 0.47 and 0.68 (a hundred matched
ones: 1.00), and relearning returns 0.88, 0.91 and 0.94. Rank-one edits leave 0.47, 0.07 and 0.47; what they leave of the trace depends
on where it is watched: Jaccard 0.16 and 0.01 in the layer that they edit, 1.00 where the vector lies in another (craft). No row's
perplexity rises by more than a third. The default settings were chosen with the questions on colour in view (see `methods`); craft, where
training forgets least, was measured once they were fixed.

When it misleads
- Traces and behaviour can part both ways, as above. Neither number alone is a success of unlearning.
- On a model that is tuned to another style of text, relearning may take the answers away: read the untouched row beside it.
- Methods are compared at their default settings. A method that changes little keeps everything: read accuracy before overlap.
- Intrinsic numbers are about the vectors that are watched. A concept held elsewhere is not seen, and needle removes what is watched.
- The best of many jailbreaks is a maximum; its decoy says what such a maximum is worth.

    import interp
    from interp.analyses.unlearning.study import UnlearningStudy
    lm, known = interp.load("atlas"), interp.models.reference.concept_set("atlas", n=4, texts=20)
    study = UnlearningStudy(concept=("colour",), methods=("needle",), relearn_steps=1, jailbreaks=False, answer_tokens=2)
    found = study(lm, known)
    found.table(), found.recovered(), found.collapsed()
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from interp.core.analysis import Analysis, Cost
from interp.core.errors import BadInput, InterpError
from interp.core.lm import LM
from interp.core.progress import Progress
from interp.data.concepts import Concept, Concepts

from ...concepts.traces import Material, Settings, compare, measure
from ...concepts.traces.settings import neutral_material
from ...concepts.vectors import vectors_of
from ..asking import running
from ..jailbreaks import NAMES
from ..methods import METHODS, Needle
from ..recovery import Relearning
from ..revision import Revision, Unlearner
from .assemble import Found, gather
from .controls import MatchedAblation, Untouched
from .material import Asked, asked, former, split_others, with_answers
from .naming import label_of, unlearner_of
from .result import UnlearningStudyResult

NEVER, MANY = "never knew", "needle:n=100"


@dataclass(frozen=True)
class UnlearningStudy(Analysis[UnlearningStudyResult]):
    """Run unlearning methods on concepts, and measure traces, answers, recovery and collapse of each."""

    takes: ClassVar[str] = "concepts"

    concept: tuple[str, ...] = ()
    """Names of the concepts to unlearn, one at a time; none given means the first."""
    methods: tuple[str, ...] = ()
    """Methods by name, with options if wanted: `npo:lr=1e-4:epochs=5`; none given means all that this model and these data allow, and
    needle with 100 vectors beside the one."""
    vectors: int = 1
    """Value vectors of the concept that are watched."""
    prompts: int = 40
    """Related and unrelated questions at most, each."""
    seeds: int = 1
    """Runs of every method, with different seeds."""
    relearn_steps: int = 20
    """Adam steps of relearning; 0 leaves it out."""
    relearn_texts: int = 16
    """Texts to relearn from."""
    relearn_lr: float = 3e-4
    """Adam's step size when relearning; its default learns exchanged answers of `atlas` in about ten steps."""
    jailbreaks: bool = True
    """Ask in all the ways of `JAILBREAKS`, too."""
    answer_tokens: int = 12
    """Tokens of a generated answer, for its overlap with the answer before."""
    collapse: float = 2.0
    """A perplexity of so many times what it was, and more, counts as collapse."""
    save: str | None = None
    """Folder for the unlearned checkpoints, one folder each; None keeps none."""
    seed: int = 0
    """Seed of methods, texts, jailbreaks and controls."""

    def __post_init__(self) -> None:
        for name in ("concept", "methods"):
            given = getattr(self, name)
            object.__setattr__(self, name, (given,) if isinstance(given, str | Unlearner) else tuple(given))
        for method in self.methods:
            unlearner_of(method)
        labels = [label_of(method) for method in self.methods]
        if len(set(labels)) < len(labels) or len(set(self.concept)) < len(self.concept):
            raise BadInput(f"`methods` and `concept` name each once; not {labels!r}, {list(self.concept)!r}.")
        for name in ("vectors", "prompts", "seeds", "relearn_texts", "answer_tokens"):
            if getattr(self, name) < 1:
                raise BadInput(f"`{name}` must be at least 1; not {getattr(self, name)}.")
        if self.relearn_steps < 0:
            raise BadInput(f"`relearn_steps` must be 0 or more; not {self.relearn_steps}.")
        if not self.collapse > 1:
            raise BadInput(f"`collapse` must be above 1, a perplexity over what it was; not {self.collapse}.")
        if not self.relearn_lr > 0:
            raise BadInput(f"`relearn_lr` must be positive; not {self.relearn_lr}.")

    def __call__(self, lm: LM, data: Any = None, *, store: Any = None, clean: LM | None = None) -> UnlearningStudyResult:  # fmt: skip
        """Run the study. `clean`: a model of the same tokenizer that never knew the concepts; it is measured and attacked, too."""
        self.check(lm, data)
        if clean is not None and clean.tokenizer.digest != lm.tokenizer.digest:
            raise BadInput(
                f"{clean.spec.name} reads other tokens than {lm.spec.name}, so their answers cannot be compared. Give a clean model with "
                "the same tokenizer."
            )
        inputs = {"data": data} | ({} if clean is None else {"clean": clean})
        return self._recorded(lm, inputs, lambda: self._study(lm, data, clean))

    def check(self, lm: LM, data: Any) -> None:
        """Refuse data that are no concepts, concepts that are not there or lack what is asked for, and a folder that is in use."""
        for concept in self._chosen(data):
            data.others(concept.name)
            for field, needed in (("texts", "forget"), ("related", "ask"), ("unrelated", "compare with")):
                if not getattr(concept, field):
                    raise BadInput(
                        f"the concept {concept.name!r} has no `{field}`, so there is nothing to {needed}. Give it some."
                    )
        if self.save is not None and Path(self.save).exists() and any(Path(self.save).iterdir()):
            raise BadInput(f"the folder {self.save!r} of `save` is not empty. Give another one.")

    def cost(self, lm: LM, data: Any = None) -> Cost:
        """An estimate: about 250 steps a method, its measures, and its recovery."""
        concepts = self._chosen(data)
        length = max(len(lm.tokenizer.encode(prompt.text).ids) for one in concepts for prompt in one.related)
        runs = len(concepts) * self.seeds * (len(self.methods or METHODS) + 2)
        rows = 2 * self.prompts * (2 + len(NAMES) * self.jailbreaks + self.answer_tokens // 2)
        rows += 3 * 16 * 250 + 3 * 2 * self.relearn_texts * self.relearn_steps + 6 * self.prompts
        size = 12 * sum(int(np.prod(info.shape)) for info in lm.tensors())
        return Cost(float(runs * rows), runs * rows * length, size, f"{runs} models; a backward pass counted as two forwards")  # fmt: skip

    def run(self, lm: LM, data: Any, store: Any = None) -> UnlearningStudyResult:
        """The study without a clean model."""
        return self._study(lm, data, None)

    def _chosen(self, data: Any) -> list[Concept]:
        if not isinstance(data, Concepts) or not data:
            raise BadInput(
                'an unlearning study takes concepts: interp.data.concepts(FILE), or interp.models.reference.concept_set("atlas").'
            )
        return [data.get(name) for name in self.concept] if self.concept else [data[0]]

    def _study(self, lm: LM, data: Concepts, clean: LM | None) -> UnlearningStudyResult:
        chosen = self._chosen(data)
        methods = {label_of(given): unlearner_of(given) for given in self.methods or (*METHODS, MANY)}
        rows: dict[str, Unlearner] = {one.name: one for one in (Untouched(), self._matched(methods.values()))}
        controls = [*rows, *([NEVER] if clean is not None else [])]
        rows |= methods
        found: dict[tuple[int, str, int], Found] = {}
        materials, left_out = [], dict[str, str]()
        with Progress("unlearning", total=len(chosen) * self.seeds * len(rows)) as progress:
            for place, concept in enumerate(chosen):
                made = _Made.of(self, lm, concept, data)
                materials.append(made)
                for seed in range(self.seeds):
                    for label, method in rows.items():
                        revision = self._revision(lm, method, made, seed, left_out, label)
                        if revision is not None:
                            with revision.apply(lm):
                                found[place, label, seed] = made.look(self, lm, seed)
                                self._keep(lm, concept, label, seed, controls)
                        progress.update(1)
                    if clean is not None:
                        found[place, NEVER, seed] = made.look(self, clean, seed)
        labels = dict.fromkeys(label for label in (*controls, *rows) if any(key[1] == label for key in found))
        return self._result(chosen, list(labels), controls, found, materials, left_out)

    def _matched(self, methods: Iterable[Unlearner]) -> MatchedAblation:
        """As many other vectors as the needle that removes most."""
        needles = [one for one in methods if isinstance(one, Needle)]
        if not needles:
            return MatchedAblation(vectors=self.vectors)
        most = max(needles, key=lambda one: len(one.vectors) or one.n)
        return MatchedAblation(vectors=len(most.vectors) or most.n, named=most.vectors)

    def _relearning(self) -> Relearning:
        return Relearning(texts=self.relearn_texts, steps=self.relearn_steps, lr=self.relearn_lr)

    def _revision(
        self, lm: LM, method: Unlearner, made: "_Made", seed: int, left_out: dict[str, str], label: str
    ) -> Revision | None:
        """What a method makes of the model; None, and the reason kept, where one that was not asked for by name cannot be used."""
        try:
            return method.unlearn(lm, made.concept, made.retain, seed=self.seed + seed)
        except InterpError as error:
            if self.methods:
                raise
            left_out[f"{label} of {made.concept.name}"] = str(error)
            return None

    def _keep(self, lm: LM, concept: Concept, label: str, seed: int, controls: Sequence[str]) -> None:
        """Write the model as it is now, where checkpoints are wanted."""
        if self.save is None or label in controls:
            return
        name = f"{concept.name}-{label}" + (f"-{seed}" if self.seeds > 1 else "")
        folder = Path(self.save) / "".join(sign if sign.isalnum() or sign in "-_.=" else "_" for sign in name)
        folder.parent.mkdir(parents=True, exist_ok=True)
        lm.save(folder)

    def _result(
        self,
        chosen: Sequence[Concept],
        methods: list[str],
        controls: list[str],
        found: "dict[tuple[int, str, int], Found]",
        materials: "Sequence[_Made]",
        left_out: dict[str, str],
    ) -> UnlearningStudyResult:
        data = gather(
            found, [concept.name for concept in chosen], methods, self.seeds, [made.related for made in materials],
            [made.unrelated for made in materials],
        )  # fmt: skip
        data = data.assign_coords(control=("unlearner", [method in controls for method in methods]))
        data.attrs = {
            "collapse": float(self.collapse),
            "vectors": [
                f"{concept.name}: {', '.join(made.vectors)}" for concept, made in zip(chosen, materials, strict=True)
            ],
            "neutral": materials[0].neutral_is,
            "skipped": [f"{way}: {reason}" for way, reason in materials[0].related.skipped.items()],
            "left_out": [f"{name}: {reason}" for name, reason in left_out.items()],
            "silent": [name for made in materials for name in made.silent],
            "relearned": [text for made in materials for text in made.texts][:64],
        }
        return UnlearningStudyResult(data)


@dataclass(frozen=True, eq=False)
class _Made:
    """What one concept's models are asked."""

    concept: Concept
    silent: list[str]
    retain: list[str]
    related: Asked
    unrelated: Asked
    before: Any
    former: Any
    vectors: list[str]
    texts: tuple[str, ...]
    neutral_is: str

    @classmethod
    def of(cls, study: UnlearningStudy, lm: LM, given: Concept, data: Concepts) -> "_Made":
        concept, silent = with_answers(lm, given, study.prompts)
        retain, spare = split_others(data, given.name)
        vectors = [vector for vector, _ in vectors_of(lm, concept, study.vectors)]
        neutral, neutral_is = neutral_material(lm, spare)
        settings = Settings(nulls=0, tokens=study.answer_tokens, texts=20, seed=study.seed)
        before = measure(lm, concept, vectors, settings, material=Material(neutral=neutral, neutral_is=neutral_is))
        names = NAMES if study.jailbreaks else ("plain",)
        related, unrelated = (
            asked(lm, prompts, concept, spare, names=names, seed=study.seed)
            for prompts in (concept.related, concept.unrelated)
        )
        texts = study._relearning().pick(concept, concept.related, seed=study.seed) if study.relearn_steps else ()
        words = [str(vector) for vector in vectors]
        past = former(lm, concept.related)
        return cls(concept, silent, retain, related, unrelated, before, past, words, texts, neutral_is)

    def look(self, study: UnlearningStudy, lm: LM, seed: int) -> Found:
        """Everything about a model as it is now."""
        traces = compare(self.before, self.before.again(lm))
        forward = running(lm)
        past = self.former.read(forward) if self.former is not None else None
        relearned = None
        if study.relearn_steps:
            relearned = study._relearning().run(
                lm, self.concept, self.concept.related, seed=study.seed + seed, decoy=True
            )
        return Found(traces.measures(), self.related.read(forward), self.unrelated.read(forward), past, relearned)
