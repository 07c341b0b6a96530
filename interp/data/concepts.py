"""Concepts: what a checkpoint is supposed to know, the words that belong to it, and the prompts that ask for it.

The published layout of ConceptVectors is read as it is: a JSON list of records with

    Concept, Layer, Dim         its name, and the one MLP value vector found for it ("Layer.Dim")
    QA, unrelated_QA            questions about it, and about others; no gold answers, so answers are compared with the model's own
    text_completion             {First_half, Second_half}
    wikipedia_content           an article, cut here into chunks of more than 400 characters: the texts to forget

and so is our own superset of it, in which any of these may be added, and all but the name left out:

    words                       words that belong to the concept
    vectors                     value vectors by name, ["23.743"], where there are several
    answers, unrelated_answers  gold answers, one a question
    texts                       running texts about it, instead of an article

Questions are put into a `template`; the published one is "Question: {q}\\n Answer:". Cloze sentences want "{q}".

It misleads when unrelated questions are not unrelated: the published lists are questions on five other concepts, which may share words
with this one. And a word is not a concept: what a word list cannot say, nothing here can.

    from interp.data import concepts
    both = concepts([{"Concept": "colours", "words": ["red", "green"]}, {"Concept": "metals", "words": ["iron", "zinc"]}])
    both.names, both.get("metals").words
    lm = interp.load("atlas")
    concept_tokens(lm.tokenizer, [" crimson", " teal"]).ids
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, SupportsIndex, overload

from interp.core.digest import digest_of
from interp.core.errors import BadInput, hint, listing
from interp.core.lm import Tokenizer

from .prompts import Prompt, check_text
from .reading import find_file, json_records

TEMPLATE = "Question: {q}\n Answer:"
CHUNK = 400
"""Characters that a chunk of an article has at least (but for the last)."""
KNOWN = (
    "ID", "id", "Concept", "Layer", "Dim", "QA", "unrelated_QA", "text_completion", "wikipedia_content", "words", "vectors", "answers",
    "unrelated_answers", "texts",
)  # fmt: skip


@dataclass(frozen=True)
class Concept:
    """One concept. All but its name may be missing; a method that needs what is not there says so."""

    name: str
    words: tuple[str, ...] = ()
    """Words that belong to it."""
    vectors: tuple[str, ...] = ()
    """MLP value vectors that are said to hold it, `layer.neuron`."""
    related: tuple[Prompt, ...] = ()
    """Prompts that ask for it; `answer` is the gold answer, or None where only a model's own can be compared."""
    unrelated: tuple[Prompt, ...] = ()
    """Prompts that ask for other things."""
    completions: tuple[Prompt, ...] = ()
    """First halves of sentences about it; `answer` is the second half."""
    texts: tuple[str, ...] = ()
    """Running texts about it: what there is to forget."""
    id: str = ""

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not self.name.strip():
            raise BadInput(f"a concept needs a name; not {self.name!r}.")
        for group in ("words", "vectors", "related", "unrelated", "completions", "texts"):
            given = getattr(self, group)
            if isinstance(given, str):
                raise BadInput(f"`{group}` of the concept {self.name!r} must be a list; not the text {given[:60]!r}.")
            object.__setattr__(self, group, tuple(given))
        for group in ("words", "texts"):
            for entry in getattr(self, group):
                check_text(entry, f"one of the {group} of the concept {self.name!r}")
        for group in ("related", "unrelated", "completions"):
            for entry in getattr(self, group):
                if not isinstance(entry, Prompt):
                    raise BadInput(
                        f"`{group}` of the concept {self.name!r} are prompts; not {str(entry)[:60]!r}. Write Prompt.of(text, answer=...)."
                    )
        if doubled := sorted({word for word in self.words if self.words.count(word) > 1}):
            raise BadInput(f"the concept {self.name!r} lists {listing(doubled)} more than once. Give each word once.")

    @property
    def article(self) -> str:
        """All its texts as one."""
        return "\n\n".join(self.texts)


class Concepts(list[Concept]):
    """A list of concepts with different names."""

    def __init__(self, concepts: Iterable[Concept]) -> None:
        super().__init__(concepts)
        if doubled := sorted({name for name in self.names if self.names.count(name) > 1}):
            raise BadInput(f"several concepts are called {listing(doubled)}. Give each a name of its own.")

    @property
    def names(self) -> list[str]:
        """Their names, in order."""
        return [concept.name for concept in self]

    @overload
    def __getitem__(self, item: SupportsIndex) -> Concept: ...
    @overload
    def __getitem__(self, item: slice) -> "Concepts": ...
    def __getitem__(self, item: Any) -> Any:
        found = super().__getitem__(item)
        return Concepts(found) if isinstance(item, slice) else found

    def get(self, name: str) -> Concept:
        """The concept of that name; `BadInput` lists the names there are."""
        for concept in self:
            if concept.name == name:
                return concept
        raise BadInput(f"no concept is called {name!r}; there are {listing(self.names)}.{hint(name, self.names)}")

    def named(self, names: Sequence[str]) -> "Concepts":
        """Those of these names, in that order; all where none is given. Raises `BadInput` for a name that there is not."""
        chosen = (names,) if isinstance(names, str) else tuple(names)
        return Concepts([self.get(name) for name in chosen]) if chosen else self

    def others(self, name: str) -> list[str]:
        """The texts of all concepts but this one: what there is to keep. Refuses where there are none."""
        self.get(name)
        texts = [text for concept in self if concept.name != name for text in concept.texts]
        if not texts:
            raise BadInput(
                f"there are no texts on anything but {name!r} to compare with, or to keep. Give a second concept with `texts`."
            )
        return texts

    def digest(self) -> str:
        """Content hash (32 hex digits)."""
        return digest_of([vars(concept) for concept in self])

    def __repr__(self) -> str:
        return f"Concepts({', '.join(self.names)})"


def concepts(
    source: "str | Path | Iterable[Mapping[str, Any]]", *, template: str = TEMPLATE, limit: int | None = None
) -> Concepts:
    """Concepts from a JSON (or JSONL) file in the layout of ConceptVectors, or in ours, or from rows (dicts); at most `limit`.

    Raises `BadInput` with file, line and field.
    """
    if "{q}" not in template:
        raise BadInput(
            f"`template` has no place for the question, {{q}}: {template!r}. The published one is {TEMPLATE!r}."
        )
    if limit is not None and limit < 1:
        raise BadInput(f"`limit` must be at least 1; not {limit}.")
    found: list[Concept] = []
    for where, row in _rows(source):
        if limit is not None and len(found) == limit:
            break
        try:
            found.append(_concept(row, template))
        except BadInput as error:
            raise type(error)(f"{where}: {error}") from None
    if not found:
        raise BadInput(f"no concepts in {source if isinstance(source, str | Path) else 'the rows'}. Give at least one.")
    return Concepts(found)


def chunks(article: str, at_least: int = CHUNK) -> tuple[str, ...]:
    """An article as texts of more than `at_least` characters: paragraphs, joined until they are that long."""
    parts, held = list[str](), ""
    for paragraph in (part.strip() for part in re.split(r"\n+", article)):
        if not paragraph:
            continue
        held = f"{held}\n{paragraph}" if held else paragraph
        if len(held) > at_least:
            parts.append(held)
            held = ""
    return (*parts, held) if held else tuple(parts)


@dataclass(frozen=True)
class ConceptTokens:
    """Which tokens stand for the words of a concept."""

    ids: tuple[int, ...]
    """Token ids, each once."""
    words: tuple[str, ...]
    """The words that have a token of their own, in the order given."""
    split: tuple[str, ...] = field(default_factory=tuple)
    """The words that have none: this tokenizer cuts them, or does not know them."""


def concept_tokens(tokenizer: Tokenizer, words: Sequence[str], *, at_least: int = 2) -> ConceptTokens:
    """The tokens of words, with and without a leading space, wherever a word is one token; the words that are cut are in `split`.

    A vector promotes tokens and not words, so a word of several tokens cannot be looked for. Raises `BadInput` where fewer than
    `at_least` words are left.
    """
    ids: dict[int, None] = {}
    whole, split = list[str](), list[str]()
    for word in words:
        forms = dict.fromkeys([word, " " + word.strip(), word.strip()])
        alone = [tokenizer.encode(form, bos=False).ids for form in forms]
        alone = [one for one in alone if len(one) == 1 and _spells(tokenizer, one[0], word)]
        (whole if alone else split).append(word)
        ids |= dict.fromkeys(one[0] for one in alone)
    if len(whole) < at_least:
        cut = f"; {listing(split[:8])} are several tokens each, or unknown" if split else ""
        raise BadInput(
            f"{len(whole)} of {len(words)} words are one token of this tokenizer{cut}. Value vectors promote tokens: give "
            f"{at_least} or more words that it has, such as its commonest ones on the subject."
        )
    return ConceptTokens(tuple(ids), tuple(whole), tuple(split))


def _spells(tokenizer: Tokenizer, token: int, word: str) -> bool:
    """Whether a token is this word, case and spaces aside; a word that a tokenizer does not know may be its one `<unk>`."""
    return tokenizer.decode([token]).strip().casefold() == word.strip().casefold()


def _rows(source: "str | Path | Iterable[Mapping[str, Any]]") -> Iterable[tuple[str, Any]]:
    if isinstance(source, str | Path):
        for line, row in json_records(find_file(source)):
            yield f"{source}, line {line}", row
    else:
        for number, row in enumerate(source):
            yield f"row {number}", row


def _concept(row: Any, template: str) -> Concept:
    if not isinstance(row, Mapping) or "Concept" not in row:
        have = listing(row) if isinstance(row, Mapping) and row else type(row).__name__
        raise BadInput(f"a concept is a record with a field 'Concept', its name; this has {have}.")
    if unknown := [key for key in row if key not in KNOWN]:
        raise BadInput(f"unknown field {unknown[0]!r}; there are {listing(KNOWN)}.{hint(str(unknown[0]), KNOWN)}")
    name = row["Concept"]
    vectors = _strings(row, "vectors")
    if ("Layer" in row) != ("Dim" in row):
        raise BadInput(f"the concept {name!r} has only one of `Layer` and `Dim`. Together they name its value vector.")
    if "Layer" in row:
        one = f"{_whole(row, 'Layer')}.{_whole(row, 'Dim')}"
        if vectors and one not in vectors:
            raise BadInput(
                f"the concept {name!r} has `Layer` and `Dim` of {one}, and `vectors` {listing(vectors)} without it. Give one of the two."
            )
        vectors = vectors or (one,)
    texts = _strings(row, "texts")
    if "wikipedia_content" in row:
        check_text(row["wikipedia_content"], "`wikipedia_content`")
        texts = (*texts, *chunks(row["wikipedia_content"]))
    return Concept(
        name, _strings(row, "words"), vectors, _prompts(row, "QA", "answers", template),
        _prompts(row, "unrelated_QA", "unrelated_answers", template), _completions(row), texts, str(row.get("ID", row.get("id", ""))),
    )  # fmt: skip


def _prompts(row: Mapping[str, Any], key: str, answers: str, template: str) -> tuple[Prompt, ...]:
    questions, gold = _strings(row, key), _strings(row, answers)
    if gold and len(gold) != len(questions):
        raise BadInput(f"`{answers}` has {len(gold)} entries and `{key}` {len(questions)}. Give one answer a question.")
    return tuple(
        Prompt.of(template.replace("{q}", question.strip()), answer=gold[place] if gold else None)
        for place, question in enumerate(questions)
    )


def _completions(row: Mapping[str, Any]) -> tuple[Prompt, ...]:
    given = row.get("text_completion", ())
    if isinstance(given, str) or not isinstance(given, Sequence):
        raise BadInput(f"`text_completion` must be a list; not {type(given).__name__}.")
    found = []
    for entry in given:
        if not isinstance(entry, Mapping) or not {"First_half", "Second_half"} <= set(entry):
            raise BadInput(
                f"an entry of `text_completion` needs 'First_half' and 'Second_half'; not {str(entry)[:80]!r}."
            )
        found.append(Prompt.of(entry["First_half"], answer=entry["Second_half"]))
    return tuple(found)


def _strings(row: Mapping[str, Any], key: str) -> tuple[str, ...]:
    given = row.get(key, ())
    if isinstance(given, str) or not isinstance(given, Sequence) or not all(isinstance(entry, str) for entry in given):
        raise BadInput(f"`{key}` must be a list of texts; not {str(given)[:80]!r}.")
    return tuple(given)


def _whole(row: Mapping[str, Any], key: str) -> int:
    value = row[key]
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise BadInput(f"`{key}` must be a whole number from 0 on; not {value!r}.")
    return value
