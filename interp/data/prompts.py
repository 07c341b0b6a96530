"""Prompts with named spans: what a method is asked about, before any tokenizer has seen it.

A span is a range of *characters* with a name ("subject"). It is given as the words themselves and must then be found without
doubt: matches that are whole words win over matches inside a word, and if more than one is left the prompt is refused rather
than the first one taken, as ROME's own span finder does (wrong whenever the words also occur earlier).

The answer is the *continuation* of the text, character for character: `text + answer` is what the model would have written. So it
nearly always begins with a space. `Prompt.of` puts that space in where it is plainly missing and shows it (`prompt.answer`);
`join=""` takes the answer as it stands.

It misleads when the answer has many spellings ("USA", "the United States"): only the one given is scored.

    from interp.data import Prompt
    prompt = Prompt.of("The Eiffel Tower is in the city of", answer="Paris", foil="Rome", subject="Eiffel Tower")
    prompt.spans      # {'subject': (4, 16)}
    prompt.answer     # ' Paris'
    prompt.swap(subject="Colosseum Arch")     # the same sentence about something else
"""

import hashlib
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from interp.core.errors import BadInput, SpanError, listing, one_of

Chars = tuple[int, int]

RESERVED = ("last", "bos", "answer")
"""Names that a span may not have: the first is always there, the others mean something else."""


@dataclass(frozen=True)
class Prompt:
    """A text, the answer and its rival, and named spans. Most are built with `Prompt.of`."""

    text: str
    """What the model reads."""
    answer: str | None = None
    """What should come next, character for character (with its leading space)."""
    foil: str | None = None
    """A contrasting answer for logit differences, in the same form."""
    spans: Mapping[str, Chars] = field(default_factory=dict, hash=False)
    """Name -> characters [start, end) of `text`."""
    id: str = ""
    """A stable name; by default a hash of the content. Noise is drawn by it, so the same prompt gets the same noise."""
    meta: Mapping[str, Any] = field(default_factory=dict, hash=False, compare=False)
    """Whatever else the source said (relation, template, ...)."""

    def __post_init__(self) -> None:
        for name, value in {"text": self.text, "answer": self.answer, "foil": self.foil}.items():
            if value is not None:
                check_text(value, f"the prompt's {name}")
        for name, chars in self.spans.items():
            _check_span(self.text, name, chars)
        if not self.id:
            content = repr((self.text, self.answer, self.foil, sorted(self.spans.items())))
            object.__setattr__(self, "id", hashlib.sha256(content.encode()).hexdigest()[:8])

    @classmethod
    def of(
        cls,
        text: str,
        *,
        answer: str | None = None,
        foil: str | None = None,
        id: str | None = None,
        occurrence: "int | Mapping[str, int] | None" = None,
        join: str | None = None,
        meta: Mapping[str, Any] | None = None,
        **spans: "str | Chars",
    ) -> "Prompt":
        """A prompt whose spans are given as their words, or as characters (start, end).

        `occurrence` picks one of several matches (0 is the first, -1 the last), for all spans or by name. `join` is what stands
        between text and answer: None puts a space where one is plainly missing, "" and " " are taken at their word.

        Raises `SpanError` where a span is not in the text, or is there more than once and `occurrence` is silent.
        """
        check_text(text, "the prompt's text")
        found: dict[str, Chars] = {}
        for name, given in spans.items():
            if isinstance(given, str):
                which = occurrence.get(name) if isinstance(occurrence, Mapping) else occurrence
                found[name] = find_span(text, given, name=name, occurrence=which)
            else:
                found[name] = (int(given[0]), int(given[1]))
        return cls(text, continuation(text, answer, join), continuation(text, foil, join), found, id or "", meta or {})

    def span(self, name: str) -> str:
        """The words of a span."""
        if name not in self.spans:
            have = listing(self.spans) if self.spans else "none"
            raise SpanError(f"the prompt {self.text!r} has no span {name!r}; it has {have}. Mark it in `Prompt.of`.")
        start, end = self.spans[name]
        return self.text[start:end]

    def swap(
        self, *, answer: str | None = None, foil: str | None = None, id: str | None = None, **words: str
    ) -> "Prompt":
        """The same prompt with other words in some spans; spans behind them move along. The answer is *not* carried over."""
        text, spans = self.text, dict(self.spans)
        for name, new in words.items():
            self.span(name)
            start, end = spans[name]
            shift = len(new) - (end - start)
            for other, (low, high) in spans.items():
                if other != name and low < end and start < high:
                    raise SpanError(
                        f"span {other!r} overlaps {name!r} in {self.text!r}; swap cannot tell where it goes."
                    )
                if low >= end:
                    spans[other] = (low + shift, high + shift)
            text, spans[name] = text[:start] + new + text[end:], (start, start + len(new))
        return Prompt(text, continuation(text, answer), continuation(text, foil), spans, id or "", self.meta)


@dataclass(frozen=True)
class PromptPair:
    """A clean prompt and its counterfactual. Their tokens must line up; `tokenize_pair` checks that."""

    clean: Prompt
    """The prompt the model answers rightly."""
    corrupted: Prompt
    """The same prompt with something changed that changes the answer."""

    def __post_init__(self) -> None:
        if self.clean.text == self.corrupted.text:
            raise BadInput(
                f"both prompts of the pair read {self.clean.text!r}. Change the corrupted one, e.g. with `swap`."
            )
        if set(self.clean.spans) != set(self.corrupted.spans):
            raise SpanError(
                f"the pair's spans differ: {sorted(self.clean.spans)} in {self.clean.text!r}, "
                f"{sorted(self.corrupted.spans)} in {self.corrupted.text!r}. Mark the same ones in both."
            )

    @property
    def id(self) -> str:
        """The clean prompt's name."""
        return self.clean.id


def find_span(text: str, words: str, *, name: str = "span", occurrence: int | None = None) -> Chars:
    """Characters of `words` in `text`. Whole words win over parts of words; what is left must be one, or be picked."""
    words = words.strip()
    if not words:
        raise SpanError(f"span {name!r} is empty. Give the words of {text!r} that it covers, or leave it out.")
    starts = [i for i in range(len(text) - len(words) + 1) if text.startswith(words, i)]
    if not starts:
        raise SpanError(f"{name} {words!r} is not in the prompt {text!r}.{_near_miss(text, words)}")
    starts = [i for i in starts if _whole_word(text, i, i + len(words))] or starts
    if occurrence is None and len(starts) > 1:
        raise SpanError(
            f"{name} {words!r} occurs {len(starts)} times in {text!r}, at characters {listing(starts)}; "
            f"give characters ({name}=({starts[0]}, {starts[0] + len(words)})) or occurrence=0 to {len(starts) - 1}."
        )
    which = occurrence or 0
    if not -len(starts) <= which < len(starts):
        raise SpanError(
            f"{name} {words!r} occurs {len(starts)} times in {text!r}; there is no occurrence={occurrence}."
        )
    return starts[which], starts[which] + len(words)


def continuation(text: str, answer: str | None, join: str | None = None) -> str | None:
    """`answer` as the continuation of `text`.

    With `join=None` a space is put in between unless one is there already, the text ends in an opening bracket or quote, the
    answer begins with punctuation, digits meet digits ("the year 19" + "84") or a script without spaces is involved.
    """
    if answer is None or not answer:
        return answer
    if join is not None:
        one_of("join", join, ["", " "])
        return join + answer
    before, after = text[-1], answer[0]
    if before.isspace() or after.isspace() or not after.isalnum() or _clings(text):
        return answer
    if (before.isdigit() and after.isdigit()) or _unspaced(before) or _unspaced(after):
        return answer
    return " " + answer


def check_text(text: object, what: str) -> None:
    """Refuse what is no text, is blank, or holds NUL characters (binary data read as text)."""
    if not isinstance(text, str):
        raise BadInput(f"{what} must be text; not {type(text).__name__} {text!r:.80}.")
    if not text.strip():
        raise BadInput(f"{what} is empty ({text!r}). Give at least one word.")
    if (place := text.find("\0")) >= 0:
        raise BadInput(f"{what} holds a NUL character at character {place}: that is binary data, not text.")


def _check_span(text: str, name: str, chars: Chars) -> None:
    if name in RESERVED:
        raise SpanError(f"a span may not be called {name!r}; {listing(RESERVED)} are taken. Choose another name.")
    start, end = chars
    if not 0 <= start < end <= len(text):
        raise SpanError(
            f"span {name!r} is characters ({start}, {end}) of a prompt of {len(text)} characters: {text!r}."
        )
    if not text[start:end].strip():
        raise SpanError(f"span {name!r} covers only blanks, characters ({start}, {end}) of {text!r}.")


def _whole_word(text: str, start: int, end: int) -> bool:
    opens = start == 0 or not (text[start - 1].isalnum() and text[start].isalnum())
    closes = end == len(text) or not (text[end].isalnum() and text[end - 1].isalnum())
    return opens and closes


def _near_miss(text: str, words: str) -> str:
    if unicodedata.normalize("NFKC", words) in unicodedata.normalize("NFKC", text):
        return " It is there in another Unicode form: normalise both (unicodedata.normalize('NFC', ...))."
    if (place := text.casefold().find(words.casefold())) >= 0:
        return f" It is there in other capitals: {text[place : place + len(words)]!r}."
    return " Give the words exactly as they stand there."


def _clings(text: str) -> bool:
    """Whether the last character holds on to the next word: an opening bracket or quote, the hyphen of a compound, a sign."""
    last, before = text[-1], text[-2:-1]
    if last in "\"'":
        return not before or before.isspace() or before in "([{"
    return last in "([{“‘«$£€#@" or (last in "-/" and before.isalnum())


def _unspaced(char: str) -> bool:
    return ord(char) >= 0x2E80  # CJK, kana, Hangul, emoji: written without spaces, or not a word
