"""What a method is given besides its model, as the caller says it: facts, pairs, a task, concepts, labelled or running texts.

Which of these options a verb has follows from what its analysis `takes` (`OPTIONS`). Reference checkpoints bring data of every kind;
other models are asked for a file, by name.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .running import Facts, SkipBad, Text, facts_for

if TYPE_CHECKING:
    from interp.core.lm import LM

_PROMPTS = ("facts", "pairs", "task", "skip_bad", "limit")
OPTIONS = {
    "weights": (),
    "lexicon": (),
    "concepts": ("concepts", "words", "template", "limit"),
    "labelled": ("labelled", "positive", "negative", "paired", "topic", "limit"),
    "text": ("text", "limit_tokens"),
}
"""What may be said on the data, by what a method takes; all else takes prompts."""
PROMPTS = 100
"""Facts or pairs that are used where no limit is given."""
TOKENS = 20_000
"""Tokens of a reference checkpoint's prose that are used where no limit is given."""
TOKENS_A_TEXT = 60
"""Tokens of one of its texts, about."""

Pairs = Annotated[Path | None, typer.Option(help="Pairs: JSONL with clean, corrupted, answer and foil.")]
Task = Annotated[str | None, typer.Option(help="Pairs generated for this model's tokenizer, such as ioi or induction.")]
ConceptFile = Annotated[Path | None, typer.Option(help="Concepts: JSON as ConceptVectors publishes it, or with words.")]
Words = Annotated[str | None, typer.Option(help="One concept by its words, separated by commas, instead of a file.")]
Template = Annotated[
    str | None,
    typer.Option(help="How --concepts asks its questions: a text with {q} in it. Of cloze sentences: '{q}'."),
]
LabelledFile = Annotated[
    Path | None,
    typer.Option(help="Labelled texts: .tsv of text and label, or JSONL {positive, negative} or {text, label}."),
]
Positive = Annotated[Path | None, typer.Option(help="Texts that have the property, one a line.")]
Negative = Annotated[Path | None, typer.Option(help="Texts that have not, one a line.")]
Paired = Annotated[bool, typer.Option("--paired", help="Line i of --positive and of --negative are a pair.")]
Topic = Annotated[str | None, typer.Option(help="Reference checkpoints: which of their concepts, such as colour.")]
Tokens = Annotated[
    int | None,
    typer.Option(min=2, help=f"Use at most so many tokens of text (all; {TOKENS:,} of a reference checkpoint's)."),
]
Limit = Annotated[
    int | None,
    typer.Option(
        min=1, help=f"Use at most so many facts or pairs ({PROMPTS} if not said), concepts, or texts a label."
    ),
]


def options_for(takes: Any) -> tuple[str, ...]:
    """The options that a method has by which its data are said; of all, where it may take one or the other (a tuple)."""
    if isinstance(takes, tuple):
        return tuple(dict.fromkeys(name for one in takes for name in options_for(one)))
    return OPTIONS.get(takes, _PROMPTS) if isinstance(takes, str) else _PROMPTS


def without(takes: Any) -> tuple[str, ...]:
    """The options of the others."""
    every = dict.fromkeys([*_PROMPTS, *(name for names in OPTIONS.values() for name in names)])
    return tuple(name for name in every if name not in options_for(takes))


@dataclass(frozen=True)
class Source:
    """Where the data come from, as the caller said it."""

    facts: Facts = None
    pairs: Pairs = None
    task: Task = None
    skip_bad: SkipBad = False
    concepts: ConceptFile = None
    words: Words = None
    template: Template = None
    labelled: LabelledFile = None
    positive: Positive = None
    negative: Negative = None
    paired: Paired = False
    topic: Topic = None
    limit: Limit = None
    text: Text = None
    limit_tokens: Tokens = None

    @property
    def prompts(self) -> int:
        """How many facts or pairs to use."""
        return self.limit or PROMPTS

    def check(self, takes: str) -> None:
        """Refuse, before a model is loaded, what does not fit."""
        from interp.core.errors import BadInput

        given = [name for name in ("facts", "pairs", "task") if getattr(self, name) is not None]
        if len(given) > 1:
            raise BadInput(f"give one of --{' and --'.join(given)}, not {len(given)}.")
        if takes != "desiderata" and self.task is not None and "/" in self.task:
            raise BadInput(
                f"--task {self.task!r} names a variable of a task, and this takes pairs. Leave it out after the slash."
            )
        if takes == "facts" and given and given[0] != "facts":
            raise BadInput(f"--{given[0]} gives pairs; this needs prompts with a subject. Give --facts FILE.")
        if self.concepts is not None and self.words is not None:
            raise BadInput("give one of --concepts and --words, not both. Words can also stand in the file.")
        if self.template is not None and self.concepts is None:
            raise BadInput("--template is how the questions of --concepts are asked. Give --concepts FILE.")
        if self.labelled is not None and (self.positive is not None or self.negative is not None):
            raise BadInput("give either --labelled, or --positive and --negative.")

    def early(self, model: str, takes: str, *, optional: bool = False) -> Any:
        """What can be read without the model; None for what needs its tokenizer, and for what is optional and not given."""
        from interp import data

        self.check(takes)
        if takes in ("weights", "lexicon"):
            return None
        if takes == "concepts":
            return self._concepts(model, optional)
        if takes == "labelled":
            return self._labelled(model)
        if takes == "text":
            return self._text(model)
        if self.pairs is not None:
            return data.pairs(self.pairs, limit=self.prompts)
        if takes == "facts" or self.facts is not None or (takes == "prompts" and self.task is None):
            return facts_for(model, self.facts, self.prompts, self.skip_bad)
        self.task_for(model)
        return None

    def task_for(self, model: str) -> str:
        """The name of the task; refuses what is none."""
        from interp.core.errors import BadInput, one_of
        from interp.data import tasks
        from interp.models import reference

        if model in reference.names():
            name = self.task or "ioi"
            one_of("--task", name.partition("/")[0], reference.tasks(model))
            return name
        if self.task is None:
            raise BadInput(
                f"{model!r} needs pairs: give --task NAME ({', '.join(tasks.NAMES)}), --pairs FILE or --facts FILE."
            )
        one_of("--task", self.task.partition("/")[0], tasks.NAMES)
        return self.task

    def late(self, lm: "LM", model: str, takes: str, found: Any) -> Any:
        """The data, now that there is a tokenizer."""
        from interp import data
        from interp.data import tasks
        from interp.models import reference

        if takes in ("weights", "concepts", "labelled"):
            return found
        if takes == "text":
            return data.corpus(found, lm.tokenizer, n_ctx=lm.spec.n_ctx, limit_tokens=self.limit_tokens)
        if takes == "lexicon":
            return reference.lexicon(model, "laundry_list") if model in reference.names() else None
        if takes == "facts" or self.pairs is not None or (takes == "prompts" and found is not None):
            return found
        if found is not None:
            return tasks.facts_swapped(found, lm.tokenizer, n=self.prompts)
        name, _, variable = self.task_for(model).partition("/")
        if variable:
            lexicon = reference.lexicon(model, name) if model in reference.names() else None
            return tasks.desiderata(name, lm.tokenizer, variable, n=self.prompts, lexicon=lexicon)
        if model in reference.names():
            return reference.task(model, name, n=self.prompts)
        return tasks.named(name, lm.tokenizer, n=self.prompts)

    def _text(self, model: str) -> Any:
        from interp.core.errors import BadInput
        from interp.models import reference

        if self.text is not None:
            return self.text
        if model in reference.names():
            return reference.text(model, n=-(-(self.limit_tokens or TOKENS) // TOKENS_A_TEXT) + 1)
        raise BadInput(f"{model!r} needs running text: give --text FILE (.txt, .jsonl, .json or a folder).")

    def _concepts(self, model: str, optional: bool) -> Any:
        from interp import data
        from interp.core.errors import BadInput
        from interp.models import reference

        if self.concepts is not None:
            how = {} if self.template is None else {"template": self.template}
            return data.concepts(self.concepts, limit=self.limit, **how)
        if self.words is not None:
            words = tuple(dict.fromkeys(word.strip() for word in self.words.split(",") if word.strip()))
            return data.Concepts([data.Concept("words", words)])
        if model in reference.names():
            return reference.concept_set(model)[: self.limit]
        if optional:
            return None
        raise BadInput(
            f"{model!r} needs concepts: give --concepts FILE, JSON with Concept, words, QA and texts (or as ConceptVectors publishes it)."
        )

    def _labelled(self, model: str) -> Any:
        from interp import data
        from interp.core.errors import BadInput
        from interp.models import reference

        if self.labelled is not None or self.positive is not None or self.negative is not None:
            if self.topic is not None:
                raise BadInput(
                    f"--topic {self.topic!r} is of a reference checkpoint's own texts. Leave it out, or the files."
                )
            return data.labelled(
                self.labelled, positive=self.positive, negative=self.negative, paired=self.paired, limit=self.limit
            )
        if model in reference.names():
            how = {} if self.limit is None else {"n": self.limit}
            return reference.labelled(model, self.topic or "colour", **how)
        raise BadInput(
            f"{model!r} needs labelled texts: give --labelled FILE (.tsv of text and label, JSONL {{positive, negative}}), or --positive "
            "FILE and --negative FILE, one text a line."
        )
