"""Texts as training rows: tokens cut into pieces of a length that the model reads, drawn in a seeded order.

An article is cut into pieces of at most `max_tokens`; a text that is shorter is one piece. Every piece begins with the BOS that
this model is meant to see, not only a text's first. What is too short to learn from is left out, and counted.

    forget = pieces(lm, ["Kammar is amber. " * 3], what="forget texts")
    forget.batch([0]).tokens.shape
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import count

import torch
from torch import Tensor

from interp.core.batch import Batch
from interp.core.errors import BadInput, listing
from interp.core.lm import LM
from interp.core.seed import generator

PUBLISHED = 500
"""Tokens of a piece at most in the published program."""
SHORTEST = 3
"""Tokens of a piece at least, the BOS counted: fewer predict one token from one."""


@dataclass(frozen=True)
class Pieces:
    """Rows of tokens, and how many were too short."""

    rows: tuple[tuple[int, ...], ...]
    """Token ids of each piece, BOS included."""
    short: int
    """Pieces that were left out, because they are shorter than `min_tokens`."""
    marks: tuple[tuple[bool, ...], ...] = ()
    """Of each piece, which tokens belong to one of the `words`; empty where no words were asked for."""

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def tokens(self) -> int:
        """Tokens of all pieces together."""
        return sum(map(len, self.rows))

    def batch(self, index: Sequence[int]) -> Batch:
        """Some pieces as a batch, padded on the right."""
        return Batch.padded([self.rows[row] for row in index])

    def marked(self, index: Sequence[int]) -> Tensor | None:
        """Which tokens of that batch belong to one of the words, bool [row, pos]; None where no words were asked for."""
        if not self.marks:
            return None
        return Batch.padded([[int(mark) for mark in self.marks[row]] for row in index]).tokens.bool()

    def some(self, limit: int | None, seed: int, *names: object) -> "Pieces":
        """`limit` of them, drawn by seed, in their order; all where there are no more."""
        if limit is None or len(self) <= limit:
            return self
        chosen = torch.randperm(len(self), generator=generator(seed, *names))[:limit].sort().values.tolist()
        marks = tuple(self.marks[row] for row in chosen) if self.marks else ()
        return Pieces(tuple(self.rows[row] for row in chosen), self.short, marks)


def pieces(
    lm: LM,
    texts: Sequence[str],
    *,
    what: str,
    max_tokens: int | None = None,
    min_tokens: int = SHORTEST,
    words: Sequence[str] = (),
) -> Pieces:
    """`texts` as pieces of `min_tokens` to `max_tokens` tokens (None: 500, or the model's context where that is less).

    `what` names the texts in messages. With `words`, tokens that belong to one of them are marked, and pieces without any are left out (and
    counted as short). Raises `BadInput` where there are no texts, nothing is left of them, or a piece would not fit.
    """
    longest = _longest(lm, max_tokens, min_tokens)
    if isinstance(texts, str):
        raise BadInput(f"the {what} must be a list of texts; not one text, {texts[:40]!r}. Put it into a list.")
    if not texts:
        raise BadInput(f"there are no {what}. Give at least one.")
    finder = word_finder(words) if words else None
    rows: list[tuple[int, ...]] = []
    marks: list[tuple[bool, ...]] = []
    short = 0
    for text in texts:
        encoded = lm.tokenizer.encode(text)
        first = int(encoded.bos)
        said = [match.span() for match in finder.finditer(text)] if finder else []
        marked = [any(low < end and start < high for low, high in said) for start, end in encoded.offsets]
        size = longest - first
        for start in range(first, max(len(encoded.ids), first + 1), size):
            row = (*encoded.ids[:first], *encoded.ids[start : start + size])
            mark = (*[False] * first, *marked[start : start + size])
            if len(row) < min_tokens or (finder and not any(mark[1:])):
                short += 1
                continue
            rows.append(row)
            marks.append(mark)
    if not rows:
        saying = f" that says {listing(words[:6])}" if words else ""
        raise BadInput(
            f"none of the {len(texts)} {what} has a piece of {min_tokens} tokens{saying}. Give longer ones, or a smaller `min_tokens`."
        )
    return Pieces(tuple(rows), short, tuple(marks) if finder else ())


def word_finder(words: Sequence[str]) -> "re.Pattern[str]":
    """A pattern that finds any of the words where it stands as a whole word."""
    return re.compile(r"(?<!\w)(?:" + "|".join(re.escape(one.strip()) for one in words) + r")(?!\w)")


def _longest(lm: LM, max_tokens: int | None, min_tokens: int) -> int:
    n_ctx = lm.spec.n_ctx
    longest = min(PUBLISHED, n_ctx) if max_tokens is None else max_tokens
    if longest > n_ctx:
        raise BadInput(
            f"`max_tokens` is {max_tokens}, and {lm.spec.name} reads {n_ctx} tokens at most. Give {n_ctx} or less, or None."
        )
    if not 2 <= min_tokens <= longest:
        raise BadInput(f"`min_tokens` must be from 2 to `max_tokens` ({longest}); not {min_tokens}.")
    return longest


def batches(n: int, batch: int, seed: int, *names: object) -> Iterator[list[int]]:
    """Row numbers without end, `batch` at a time: each epoch a seeded order of all `n`, its last batch smaller if it does not go up."""
    for rows in _epochs(n, seed, *names):
        yield from (rows[start : start + batch] for start in range(0, n, batch))


def stream(n: int, seed: int, *names: object) -> Iterator[int]:
    """Row numbers without end, one at a time, each epoch in a seeded order."""
    for rows in _epochs(n, seed, *names):
        yield from rows


def _epochs(n: int, seed: int, *names: object) -> Iterator[list[int]]:
    for epoch in count():
        yield torch.randperm(n, generator=generator(seed, *names, epoch)).tolist()
