"""What a task is: pairs of prompts with an answer each, how well guessing does, and the positions that matter.

A `Task` is a list of `PromptPair`s that any method taking pairs accepts as it is. Both prompts of a pair carry their own answer and foil;
the clean prompt's foil is the corrupted prompt's answer unless the task says otherwise, so that the logit difference `answer - foil`
is positive on the clean prompt and negative on the corrupted one for a model that does the task. Both have the same spans and,
in the tokenizer that the task was made for, the same number of tokens in each.

A `Desideratum` says what an output must become if a patched component carries one variable (Davies et al. 2023, "Discovering
variable binding circuitry with desiderata"; Prakash et al. 2024, section 4): patched from `source` into `base`, the answer must be
`target`. A target that is the base's own answer would be "found" by a component that does nothing, so it is refused.

It misleads when accuracy is read as understanding: `chance` is what a guess among the listed candidates scores, and a model may beat
it by position or recency alone. Compare the accuracy for each `meta` entry (order, slot, missing) first.

    from interp.data import tasks
    task = tasks.named("ioi", lm.tokenizer, n=4)
    task.chance, task.vital, task[0].clean.answer, task[0].corrupted.answer
"""

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, SupportsIndex, overload

from interp.core.errors import BadInput, listing

from ..prompts import Prompt, PromptPair


class Task(list[PromptPair]):
    """Pairs, with what a reader of their numbers must know. A slice is a `Task` too."""

    def __init__(
        self,
        pairs: Iterable[PromptPair],
        *,
        name: str,
        chance: float,
        describe: str,
        vital: Sequence[str] = ("last",),
    ) -> None:
        super().__init__(pairs)
        self.name = name
        self.chance = float(chance)
        """Accuracy of guessing among the candidates that the prompt lists (`prompt.meta["candidates"]`; else answer and foil)."""
        self.describe = describe
        """What is asked and how the corrupted prompt differs, in a sentence."""
        self.vital = tuple(vital)
        """Names of the spans that matter, in reading order; `last` is the token that predicts."""
        _check(self)

    @property
    def clean(self) -> list[Prompt]:
        """The clean prompts."""
        return [pair.clean for pair in self]

    @property
    def corrupted(self) -> list[Prompt]:
        """The corrupted prompts."""
        return [pair.corrupted for pair in self]

    def digest(self) -> str:
        """Content hash of everything a model sees or is asked (32 hex digits)."""
        content = [self.name, self.vital, [[_content(pair.clean), _content(pair.corrupted)] for pair in self]]
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:32]

    @overload
    def __getitem__(self, item: SupportsIndex) -> PromptPair: ...
    @overload
    def __getitem__(self, item: slice) -> "Task": ...
    def __getitem__(self, item: Any) -> Any:
        """A pair, or for a slice a shorter `Task`."""
        if not isinstance(item, slice):
            return super().__getitem__(item)
        pairs = list(self)[item]
        return Task(pairs, name=self.name, chance=self.chance, describe=self.describe, vital=self.vital)

    def __repr__(self) -> str:
        return f"Task({self.name!r}, {len(self)} pairs, chance {self.chance:.3g}): {self.describe}"


@dataclass(frozen=True)
class Desideratum:
    """Base, source, and the answer that `base` must get once the component that carries the variable is patched from `source`."""

    base: Prompt
    source: Prompt
    target: str
    """Continuation of the base's text, character for character (with its leading space)."""

    def __post_init__(self) -> None:
        if self.base.answer is None or self.source.answer is None:
            raise BadInput(f"both prompts of a desideratum need an answer: {self.base.text!r}, {self.source.text!r}.")
        if self.target == self.base.answer:
            raise BadInput(
                f"the target {self.target!r} is what {self.base.text!r} answers unpatched: a component that does nothing would pass. "
                "Choose a source that asks for something else."
            )
        if not self.target.strip():
            raise BadInput(f"the target of {self.base.text!r} is empty ({self.target!r}). Give the wanted answer.")
        PromptPair(self.base, self.source)  # refuses other spans and equal texts

    @property
    def id(self) -> str:
        """The base's name."""
        return self.base.id

    @property
    def pair(self) -> PromptPair:
        """As a pair: clean = `base` asked for the target, with its own answer as foil; corrupted = `source`.

        Each prompt's spans are its own, so a span may stand in other columns of base and source (a `position` desideratum lives on
        that). `tokenize_pair` refuses such pairs: read the columns off `tokenize(base)` and `tokenize(source)`.
        """
        return PromptPair(replace(self.base, answer=self.target, foil=self.base.answer), self.source)


class Desiderata(list[Desideratum]):
    """Desiderata of one variable of a task."""

    def __init__(
        self, triples: Iterable[Desideratum], *, task: str, which: str, describe: str, vital: Sequence[str] = ("last",)
    ) -> None:
        super().__init__(triples)
        self.task, self.which, self.describe, self.vital = task, which, describe, tuple(vital)
        if not self:
            raise BadInput(f"no desiderata for {which!r} of {task!r}. Ask for at least one.")

    @property
    def name(self) -> str:
        """Task and variable, as in "entity_tracking/position"."""
        return f"{self.task}/{self.which}"

    @property
    def pairs(self) -> list[PromptPair]:
        """Each as a pair to patch, see `Desideratum.pair`."""
        return [triple.pair for triple in self]

    def digest(self) -> str:
        """Content hash (32 hex digits)."""
        content = [self.name, [[_content(d.base), _content(d.source), d.target] for d in self]]
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:32]

    def __repr__(self) -> str:
        return f"Desiderata({self.name!r}, {len(self)}): {self.describe}"


def _content(prompt: Prompt) -> list[Any]:
    return [prompt.text, prompt.answer, prompt.foil, {name: list(chars) for name, chars in prompt.spans.items()}]


def _check(task: Task) -> None:
    if not task:
        raise BadInput(f"the task {task.name!r} has no pairs. Give at least one.")
    if not 0 <= task.chance <= 1:
        raise BadInput(f"`chance` of the task {task.name!r} must be between 0 and 1; not {task.chance}.")
    for number, pair in enumerate(task):
        for side, prompt in (("clean", pair.clean), ("corrupted", pair.corrupted)):
            if prompt.answer is None or prompt.foil is None:
                raise BadInput(
                    f"pair {number} of {task.name!r}: the {side} prompt {prompt.text!r} needs an answer and a foil; "
                    f"it has answer={prompt.answer!r}, foil={prompt.foil!r}."
                )
            if prompt.answer == prompt.foil:
                raise BadInput(
                    f"pair {number} of {task.name!r}: answer and foil of {prompt.text!r} are both {prompt.answer!r}."
                )
        if missing := [name for name in task.vital if name != "last" and name not in pair.clean.spans]:
            raise BadInput(
                f"pair {number} of {task.name!r} has no span {listing(missing)}, which `vital` names; "
                f"it has {listing(pair.clean.spans)}."
            )
