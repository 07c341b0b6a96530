"""Two interventions in both orders: does it matter which comes first, and what can be had of both?

The question. A model is unlearned and edited, or unlearned twice, or edited twice. With f and g two interventions, each made on the model
as the other left it, and m a measure between 0 (nothing achieved) and 1 (all):

    order sensitivity   |m(g(f)) - m(f(g))|
    order-free error    1 - max(m(g(f)), m(f(g)))                what even the better order leaves to be desired
    interference        (m(f alone) + m(g alone)) / 2 - max      for `both`: what the other intervention costs, whatever the order

Measures. `first`: the first intervention's aim, `second`: the second's, `both`: the mean of the two, `unrelated`: share of the questions
on other things that are still answered as before, `language`: perplexity of neutral texts before over after (1 at most). An unlearner's aim
is that its concept's questions are no longer answered: 1 - accuracy / accuracy before. An editor's aim is that its facts get their new
answers: the share that is given.

Source. Kolbeinsson et al. 2024, "Composable Interventions for Language Models" (arXiv 2407.06483): order-free error and order sensitivity.
Measures per question with intervals, the aims and interference are ours.

How. Both get every other text of the concepts that are neither of the two as texts to keep (where there is no third concept, of the other
one: then each holds on to what the other takes away). The second intervention is made inside the first's `apply`, so it starts from what
the first left, and is measured inside both. The differences are per question: `sensitivity` is the absolute difference of means, with its
interval, and `disagreement` the share of questions whose outcome differs between the orders, which cancelling differences cannot hide.

When it misleads
- Two interventions that set different numbers to fixed values (two needles on different vectors) commute exactly, whatever they do; so does
  any intervention with nothing. Such a 0 says nothing about their effects.
- An intervention that does nothing is insensitive to order. Read `alone` beside it.
- Interventions that draw at random are given the same seed in both orders.

    import interp
    from interp.analyses.unlearning.order import InterventionOrder
    lm, known = interp.load("atlas"), interp.models.reference.concept_set("atlas", n=4, texts=8)
    found = InterventionOrder(first="needle", second="needle:n=2")(lm, known)
    found.table()
"""

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
import xarray as xr

from interp.core.analysis import Analysis, Cost
from interp.core.errors import BadInput, one_of
from interp.core.lm import LM
from interp.data.concepts import Concept, Concepts

from ..concepts.traces.reading import expect
from ..concepts.traces.settings import neutral_material
from .asking import Questions, running
from .editor import EDITORS, EditFacts
from .methods import METHODS
from .order_result import InterventionOrderResult
from .revision import Revision, Unlearner
from .study.material import split_others, with_answers
from .study.naming import label_of, unlearner_of, with_named_options

STATES = ("before", "first", "second", "first+second", "second+first")


@dataclass(frozen=True)
class InterventionOrder(Analysis[InterventionOrderResult]):
    """Apply two interventions in both orders, and measure how much the order matters."""

    takes: ClassVar[str] = "concepts"

    first: str = "needle:n=100"
    """An unlearning method, or an editor (rome, memit, ft), with options if wanted: `npo:lr=1e-4`, `rome:facts=8`."""
    second: str = "gradient-difference"
    """The other one; may be the same."""
    first_concept: str | None = None
    """What the first one unlearns, or edits facts of; None is the first concept."""
    second_concept: str | None = None
    """The second one's concept; None is the second concept."""
    prompts: int = 40
    """Questions of each concept at most, and unrelated ones."""
    seed: int = 0
    """Seed of both interventions."""

    def __post_init__(self) -> None:
        for name in ("first", "second"):
            intervention(getattr(self, name), name)
        if self.prompts < 1:
            raise BadInput(f"`prompts` must be at least 1; not {self.prompts}.")

    def check(self, lm: LM, data: Any) -> None:
        """Refuse data that are no concepts, and concepts without questions."""
        for concept in self._chosen(data):
            data.others(concept.name)
            if not concept.related:
                raise BadInput(
                    f"the concept {concept.name!r} has no `related` questions, so nobody can see what becomes of it."
                )

    def cost(self, lm: LM, data: Any = None) -> Cost:
        """An estimate: four interventions of about 250 steps, five models that are asked everything."""
        concepts = self._chosen(data)
        length = max(len(lm.tokenizer.encode(prompt.text).ids) for one in concepts for prompt in one.related)
        rows = 4 * 3 * 16 * 250 + 5 * 3 * self.prompts
        return Cost(
            float(rows), rows * length, 12 * sum(int(np.prod(info.shape)) for info in lm.tensors()), "4 interventions"
        )

    def run(self, lm: LM, data: Any, store: Any = None) -> InterventionOrderResult:
        """Both orders, each alone, and the model before."""
        chosen, silent = [], list[str]()
        for concept in self._chosen(data):
            ready, mute = with_answers(lm, concept, self.prompts)
            chosen.append(ready)
            silent += mute
        pair = [intervention(self.first, "first"), intervention(self.second, "second")]
        about = {concept.name for concept in chosen}
        rest = [text for one in data if one.name not in about for text in one.texts]
        retains = [rest[::2] or split_others(data, concept.name)[0] for concept in chosen]
        seen = {text for texts in retains for text in texts} | {text for one in chosen for text in one.texts}
        spare = [text for text in rest if text not in seen] or split_others(data, chosen[0].name)[1]
        judge = _Judge.of(lm, chosen, pair, spare, self.prompts)

        def made(which: int) -> Revision:
            return pair[which].unlearn(lm, chosen[which], retains[which], seed=self.seed)

        orders: dict[str, tuple[int, ...]] = dict(zip(STATES, ((), (0,), (1,), (0, 1), (1, 0)), strict=True))
        read = []
        for state in STATES:
            with ExitStack() as stack:
                for which in orders[state]:
                    stack.enter_context(made(which).apply(lm))
                read.append(judge.read(lm))
            if state == "before":
                _check_known(pair, chosen, read[0][0])
        data_ = judge.dataset(read)
        data_.attrs |= {
            "first": f"{label_of(self.first)} of {chosen[0].name}", "second": f"{label_of(self.second)} of {chosen[1].name}",
            "aims": ["edit" if isinstance(one, EditFacts) else "unlearn" for one in pair], "neutral": judge.neutral_is,
            "silent": silent,
        }  # fmt: skip
        return InterventionOrderResult(data_)

    def _chosen(self, data: Any) -> list[Concept]:
        if not isinstance(data, Concepts) or not data:
            raise BadInput(
                'this takes concepts: interp.data.concepts(FILE), or interp.models.reference.concept_set("atlas").'
            )
        default = [data[0].name, data[min(1, len(data) - 1)].name]
        return [
            data.get(name or other)
            for name, other in zip((self.first_concept, self.second_concept), default, strict=True)
        ]


def intervention(given: "str | Unlearner", option: str) -> Unlearner:
    """The unlearner or the editor that a name means."""
    name = str(given).partition(":")[0]
    if isinstance(given, Unlearner):
        return given
    one_of(option, name, (*METHODS, *EDITORS))
    if name in EDITORS:
        return with_named_options(name, EditFacts, str(given).split(":")[1:], editor=name)
    return unlearner_of(given)


def _check_known(pair: Sequence[Unlearner], chosen: Sequence[Concept], said: Sequence[np.ndarray]) -> None:
    """Refuse to unlearn what the model does not know, and unrelated questions of which it answers none."""
    for one, concept, answers in zip(pair, chosen, said[:2], strict=True):
        if not isinstance(one, EditFacts) and not answers.any():
            raise BadInput(
                f"the model answers none of the {len(answers)} questions on {concept.name!r} as it is, so there is nothing to unlearn. "
                "Take another concept, or other questions."
            )
    if not said[2].any():
        raise BadInput(
            f"the model answers none of the {len(said[2])} unrelated questions as it is, so nothing can be kept of them."
        )


@dataclass(frozen=True, eq=False)
class _Judge:
    """The questions on both concepts and on other things, and neutral texts."""

    groups: tuple[tuple[Any, ...], ...]
    asked: tuple[Questions, ...]
    documents: tuple[Any, ...]
    neutral_is: str

    @classmethod
    def of(
        cls, lm: LM, chosen: Sequence[Concept], pair: Sequence[Unlearner], spare: Sequence[str], limit: int
    ) -> "_Judge":
        groups: list[tuple[Any, ...]] = []
        asked = []
        about = {prompt.text for concept in chosen for prompt in concept.related}
        for concept, one in zip(chosen, pair, strict=True):
            wanted = one.wanted(lm, concept) if isinstance(one, EditFacts) else list(concept.related)
            groups.append(tuple(wanted))
            asked.append(Questions(lm, wanted))
        kinds = {
            (prompt.meta.get("topic"), prompt.meta.get("relation")) for concept in chosen for prompt in concept.related
        }
        kinds.discard((None, None))
        rest = {prompt.text: prompt for concept in chosen for prompt in concept.unrelated if prompt.text not in about}
        unrelated = [one for one in rest.values() if (one.meta.get("topic"), one.meta.get("relation")) not in kinds][
            :limit
        ]
        if not unrelated:
            raise BadInput(
                "every unrelated question is about one of the two concepts. Give `unrelated_QA` on something else."
            )
        groups.append(tuple(unrelated))
        asked.append(Questions(lm, unrelated))
        neutral, neutral_is = neutral_material(lm, spare)
        documents = tuple(_ids(lm, text) for text in neutral)
        return cls(tuple(groups), tuple(asked), tuple(ids for ids in documents if len(ids) > 1), neutral_is)

    def read(self, lm: LM) -> tuple[list[np.ndarray], np.ndarray]:
        """Whether the answer of each question is given, group by group; the loss of each neutral text, nats a token."""
        said = [asked.read(running(lm)).top[:, 0] for asked in self.asked]
        return said, np.array([-one.logp.mean() for one in expect(lm, self.documents, 2048)])

    def dataset(self, read: "list[tuple[list[np.ndarray], np.ndarray]]") -> xr.Dataset:
        """given [state, group, prompt] and nll [state, document]."""
        width = max(len(group) for group in self.groups)
        given = np.full((len(STATES), 3, width), np.nan)
        for state, (answers, _) in enumerate(read):
            for group, values in enumerate(answers):
                given[state, group, : len(values)] = values
        said = [[f"{prompt.text}{prompt.answer}" for prompt in group] for group in self.groups]
        texts = [[*lines, *[""] * (width - len(lines))] for lines in said]
        return xr.Dataset(
            {
                "given": (("state", "group", "prompt"), given),
                "nll": (("state", "document"), np.stack([nll for _, nll in read])),
            },
            {
                "state": list(STATES),
                "group": ["first", "second", "unrelated"],
                "prompt_text": (("group", "prompt"), texts),
            },
        )


def _ids(lm: LM, text: str) -> Any:
    return torch.tensor(lm.tokenizer.encode(text).ids[: min(256, lm.spec.n_ctx)], dtype=torch.int64)
