"""Prompts as tokens: ids, the columns of every named span, and the ids of the answer, settled once and in one place.

A token belongs to a span if it stands for at least one of the span's characters, by the tokenizer's own offsets: so ` Eiffel` with its
leading space belongs, and so do all the pieces of a character that is split into bytes. Two kinds of token stand for no character
of the text: a BOS, and the bare `▁` that SentencePiece puts before a text; they belong to no span.

The answer is tokenised as a *continuation*: the ids of `text + answer` must begin with the ids of `text`, and what follows is the
answer. Where the two merge (a text that ends in a space), the answer is tokenised apart, with a leading space, and `notes` says so.
An answer of several tokens is never cut silently: `answers="single"` refuses it, `"first"` takes its first piece (and
refuses a foil that begins the same way), `"whole"` keeps all.

Two spans are always there: `last`, the token that the prediction is read at, and `relation`, from the token after the subject up to
the last one (where a subject is marked and does not end the prompt, and no other relation is marked).

    tokens = tokenize(prompt, lm.tokenizer, n_ctx=lm.spec.n_ctx)
    tokens.spans["subject"], tokens.labels, tokens.answer_id
    batch = to_batch([tokens])              # a core Batch with ids and spans, for `lm.run`
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch

from interp.core.batch import Batch
from interp.core.errors import BadInput, RaggedPair, SpanError, one_of
from interp.core.lm import Encoding, Tokenizer

from .prompts import Chars, Prompt, PromptPair

Answers = Literal["single", "first", "whole"]


@dataclass(frozen=True, eq=False)
class TokenPrompt:
    """One prompt as one model reads it. Made by `tokenize`."""

    prompt: Prompt
    ids: tuple[int, ...]
    offsets: tuple[Chars, ...]
    """Characters of each token; empty ranges for tokens that stand for none."""
    labels: tuple[str, ...]
    """Each token as an axis shows it."""
    spans: Mapping[str, tuple[int, int]]
    """Name -> columns [start, end)."""
    bos: bool
    """Whether the first token is a BOS (added, or written at the start of the text)."""
    answer_ids: tuple[int, ...] = ()
    """All tokens of the answer, whatever `answers` says."""
    foil_ids: tuple[int, ...] = ()
    answers: Answers = "single"
    """How an answer of several tokens is taken."""
    notes: tuple[str, ...] = field(default_factory=tuple)
    """What a reader should know about this tokenisation."""

    def __len__(self) -> int:
        return len(self.ids)

    def __str__(self) -> str:
        return "|".join(self.labels)

    @property
    def id(self) -> str:
        """The prompt's name."""
        return self.prompt.id

    @property
    def single_token(self) -> bool:
        """Whether the answer is exactly one token."""
        return len(self.answer_ids) == 1

    @property
    def answer_id(self) -> int:
        """The token to look for at the last position. Refused where the whole of a longer answer was asked for."""
        return self._one("answer", self.answer_ids)

    @property
    def foil_id(self) -> int:
        """The token that the answer is contrasted with."""
        return self._one("foil", self.foil_ids)

    def _one(self, what: str, ids: tuple[int, ...]) -> int:
        if not ids:
            raise BadInput(f"the prompt {self.prompt.text!r} has no {what}. Give one: Prompt.of(text, {what}=...).")
        if self.answers == "whole" and len(ids) > 1:
            raise BadInput(
                f"the {what} {getattr(self.prompt, what)!r} is {len(ids)} tokens and answers='whole': no single id stands for it. "
                f"Score all of `{what}_ids`, or tokenize with answers='first'."
            )
        return ids[0]


@dataclass(frozen=True, eq=False)
class TokenPair:
    """A pair whose tokens and spans line up column by column."""

    clean: TokenPrompt
    corrupted: TokenPrompt

    @property
    def id(self) -> str:
        """The clean prompt's name."""
        return self.clean.id

    @property
    def changed(self) -> tuple[int, ...]:
        """Columns where the two differ."""
        return tuple(i for i, (a, b) in enumerate(zip(self.clean.ids, self.corrupted.ids, strict=True)) if a != b)


def tokenize(
    prompt: Prompt,
    tokenizer: Tokenizer,
    *,
    bos: bool | None = None,
    answers: Answers = "single",
    n_ctx: int | None = None,
) -> TokenPrompt:
    """Tokens, spans and answer ids of a prompt. `bos=None` follows the tokenizer's own default; what was done is in `.bos`.

    Raises `SpanError` for a span that no token covers, `BadInput` for a prompt longer than `n_ctx` tokens, an answer that must be
    one token and is not, and a doubled BOS.
    """
    one_of("answers", answers, ["single", "first", "whole"])
    encoding = tokenizer.encode(prompt.text, bos=bos)
    ids, notes = encoding.ids, []
    starts_with_bos = bool(ids) and tokenizer.bos_id is not None and ids[0] == tokenizer.bos_id
    if encoding.bos and len(ids) > 1 and ids[1] == tokenizer.bos_id:
        raise BadInput(
            f"the prompt {prompt.text!r} already begins with the BOS {tokenizer.label(ids[1])!r} and another was put before it. "
            "Take it out of the text, or pass bos=False."
        )
    if len(ids) <= int(encoding.bos):
        raise BadInput(
            f"the prompt {prompt.text!r} has no token in {tokenizer.name}. Is this the model's own tokenizer?"
        )
    if starts_with_bos and not encoding.bos:
        notes.append("the BOS is written in the text")
    offsets = _offsets(prompt.text, encoding, tokenizer)
    if gaps := _uncovered(prompt.text, offsets):
        notes.append(f"{len(gaps)} characters are in no token: {''.join(prompt.text[i] for i in gaps[:8])!r}")
    spans = {name: _columns(prompt, name, offsets, gaps) for name in prompt.spans}
    spans["last"] = (len(ids) - 1, len(ids))
    if "subject" in spans and "relation" not in spans and spans["subject"][1] < len(ids):
        spans["relation"] = (spans["subject"][1], len(ids))
    answer_ids = _answer(prompt, "answer", tokenizer, encoding, answers, notes)
    foil_ids = _answer(prompt, "foil", tokenizer, encoding, answers, notes)
    if answer_ids and foil_ids and (answer_ids == foil_ids or (answers == "first" and answer_ids[0] == foil_ids[0])):
        raise BadInput(
            f"answer {prompt.answer!r} and foil {prompt.foil!r} begin with the same token {tokenizer.label(answer_ids[0])!r}, "
            "so they cannot be told apart by it. Choose another foil, or answers='whole'."
        )
    extra = max(len(answer_ids), len(foil_ids), 1) - 1 if answers == "whole" else 0
    if n_ctx is not None and len(ids) + extra > n_ctx:
        raise BadInput(
            f"the prompt {_short(prompt.text)!r} is {len(ids)} tokens{f' and its answer {extra} more' if extra else ''}; "
            f"the model's context is {n_ctx}. Shorten it."
        )
    labels = tuple(tokenizer.label(i) for i in ids)
    return TokenPrompt(
        prompt,
        ids,
        offsets,
        labels,
        spans,
        starts_with_bos or encoding.bos,
        answer_ids,
        foil_ids,
        answers,
        tuple(notes),
    )


def tokenize_pair(
    pair: PromptPair,
    tokenizer: Tokenizer,
    *,
    bos: bool | None = None,
    answers: Answers = "single",
    n_ctx: int | None = None,
) -> TokenPair:
    """Both prompts of a pair, checked to line up: as many tokens, and every span in the same columns. Else `RaggedPair`."""
    clean = tokenize(pair.clean, tokenizer, bos=bos, answers=answers, n_ctx=n_ctx)
    corrupted = tokenize(pair.corrupted, tokenizer, bos=bos, answers=answers, n_ctx=n_ctx)
    reasons = []
    if len(clean) != len(corrupted):
        reasons.append(f"{len(clean)} tokens against {len(corrupted)}")
    for name in sorted(set(clean.spans) | set(corrupted.spans)):
        a, b = clean.spans.get(name), corrupted.spans.get(name)
        if a != b and name != "last":
            reasons.append(f"span {name!r} in columns {a} against {b}")
    if reasons:
        raise RaggedPair(
            f"the pair does not line up: {'; '.join(reasons)}.\n{side_by_side(clean, corrupted)}\n"
            "Choose a counterfactual with as many tokens in every span (e.g. a name of the same number of pieces)."
        )
    return TokenPair(clean, corrupted)


def to_batch(prompts: Sequence[TokenPrompt], side: str = "right", *, pad_id: int = 0) -> Batch:
    """Prompts as a `Batch`, padded on one side where they differ in length; spans that a row lacks are (-1, -1)."""
    if not prompts:
        raise BadInput("no prompts to put in a batch. Give at least one.")
    plain = Batch.padded([p.ids for p in prompts], side=side, pad_id=pad_id, ids=tuple(p.id for p in prompts))
    width = plain.tokens.shape[1]
    spans = {}
    for name in dict.fromkeys(name for p in prompts for name in p.spans):
        rows = []
        for p in prompts:
            shift = width - len(p) if side == "left" else 0
            start, end = p.spans.get(name, (-1 - shift, -1 - shift))
            rows.append((start + shift, end + shift))
        spans[name] = torch.tensor(rows, dtype=torch.int64)  # [batch, 2]
    return Batch(plain.tokens, plain.mask, spans, plain.ids)


def group_by_length(prompts: Sequence[TokenPrompt]) -> dict[int, list[int]]:
    """Number of tokens -> places of the prompts that have it, shortest first. Groups need no padding at all."""
    groups: dict[int, list[int]] = defaultdict(list)
    for place, prompt in enumerate(prompts):
        groups[len(prompt)].append(place)
    return dict(sorted(groups.items()))


def side_by_side(clean: TokenPrompt, corrupted: TokenPrompt) -> str:
    """Both tokenisations in two columns, spans marked, differences starred."""
    left, right = ([f"{label}{_marks(p, i)}" for i, label in enumerate(p.labels)] for p in (clean, corrupted))
    width = max([len("clean"), *map(len, left)])
    lines = [f"      {'clean':<{width}}  corrupted"]
    for i in range(max(len(left), len(right))):
        a, b = (side[i] if i < len(side) else "" for side in (left, right))
        same = i < min(len(left), len(right)) and clean.ids[i] == corrupted.ids[i]
        lines.append(f"{i:>4}{' ' if same else '*'} {a:<{width}}  {b}".rstrip())
    return "\n".join(lines)


def _marks(tokens: TokenPrompt, column: int) -> str:
    inside = [name for name in tokens.prompt.spans if tokens.spans[name][0] <= column < tokens.spans[name][1]]
    return f" [{', '.join(inside)}]" if inside else ""


def _offsets(text: str, encoding: Encoding, tokenizer: Tokenizer) -> tuple[Chars, ...]:
    """The tokenizer's offsets, with empty ranges for a BOS and for a bare space that claims a character it is not."""
    offsets = []
    for place, (token, (start, end)) in enumerate(zip(encoding.ids, encoding.offsets, strict=True)):
        inserted = text[start:end].strip() and not tokenizer.decode([token]).strip()
        offsets.append((start, start) if inserted or (place == 0 and encoding.bos) else (start, end))
    return tuple(offsets)


def _uncovered(text: str, offsets: Sequence[Chars]) -> list[int]:
    covered = [char.isspace() for char in text]
    for start, end in offsets:
        covered[start:end] = [True] * (end - start)
    return [i for i, done in enumerate(covered) if not done]


def _columns(prompt: Prompt, name: str, offsets: Sequence[Chars], gaps: Sequence[int]) -> tuple[int, int]:
    start, end = prompt.spans[name]
    words = prompt.text[start:end]
    start, end = start + len(words) - len(words.lstrip()), end - len(words) + len(words.rstrip())
    columns = [i for i, (low, high) in enumerate(offsets) if low < high and low < end and start < high]
    if not columns or any(start <= gap < end for gap in gaps):
        raise SpanError(
            f"span {name!r} ({words!r}) of {prompt.text!r} holds characters that are in no token of this tokenizer."
        )
    return columns[0], columns[-1] + 1


def _answer(
    prompt: Prompt, what: str, tokenizer: Tokenizer, encoding: Encoding, answers: Answers, notes: list[str]
) -> tuple[int, ...]:
    answer: str | None = getattr(prompt, what)
    if answer is None:
        return ()
    ids = _continue(tokenizer, prompt.text, answer, bos=encoding.bos)
    if ids is None:
        apart = " " + answer.lstrip()
        ids = _continue(tokenizer, ",", apart, bos=False) or tokenizer.encode(apart, bos=False).ids
        notes.append(f"the {what} {answer!r} merges with the end of the text; it was tokenised apart, as {apart!r}")
    if not ids or not tokenizer.decode(ids).strip():
        raise BadInput(f"the {what} {answer!r} has no token in {tokenizer.name}. Give text that the tokenizer knows.")
    if answers == "single" and len(ids) > 1:
        pieces = " + ".join(repr(tokenizer.label(i)) for i in ids)
        raise BadInput(
            f"the {what} {answer!r} of {_short(prompt.text)!r} must be one token and is {len(ids)}: {pieces}. "
            "Choose a shorter one, or pass answers='first' or answers='whole'."
        )
    return ids


def _continue(tokenizer: Tokenizer, text: str, answer: str, *, bos: bool) -> tuple[int, ...] | None:
    before, both = tokenizer.encode(text, bos=bos).ids, tokenizer.encode(text + answer, bos=bos).ids
    return both[len(before) :] if both[: len(before)] == before and len(both) > len(before) else None


def _short(text: str) -> str:
    return text if len(text) <= 120 else text[:80] + " … " + text[-30:]
