"""Repeated random tokens: the probe for induction and copying, for any tokenizer.

Each sequence is `[BOS] s s`, with `s` drawn *without replacement* from a clean range of ids, so that nothing but the first copy can
tell what comes next in the second. Periods vary: a model can learn one fixed period as a position trick without any induction, so
scores and losses at one period alone mislead.

The pool is, where there are enough of them, the tokens that are one alphabetic word with its leading space; otherwise the middle 80 %
of the vocabulary without special and byte tokens. `kind` says which. Tokens that were hardly trained make a copying model look worse
than it is: prefer the word pool.

    from interp.data import repeated_tokens
    probe = repeated_tokens(lm.tokenizer, vocab=lm.spec.vocab, n_ctx=lm.spec.n_ctx)
    for period, batch in probe.by_period(): ...     # unpadded; spans "first" and "second" mark the two copies
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from interp.core.batch import Batch
from interp.core.errors import BadInput
from interp.core.lm import Tokenizer
from interp.core.seed import generator

PERIODS = (16, 24, 32, 48, 64)
SPACES = "␣▁Ġ "
WORD = re.compile(rf"[{SPACES}][A-Za-z]{{2,}}")
SPECIAL = re.compile(r"<.*>|\[.*\]|.*\ufffd.*", re.DOTALL)


@dataclass(frozen=True, eq=False)
class RepeatedTokens:
    """Rows of `[BOS] s s`."""

    batch: Batch
    """Padded on the right where periods differ; spans `first` and `second` are the two copies."""
    periods: Tensor
    """Length of `s` in each row, int64 [batch]."""
    bos: bool
    kind: str
    """Which ids were drawn from: "words" or "middle"."""
    pool: int
    """How many ids that was."""

    def by_period(self) -> Iterator[tuple[int, Batch]]:
        """(period, its rows without padding), shortest first."""
        for period in self.periods.unique().tolist():
            rows = self.batch.rows(torch.nonzero(self.periods == period).flatten().tolist())
            width = 2 * period + int(self.bos)
            yield period, Batch(rows.tokens[:, :width], rows.mask[:, :width], rows.spans, rows.ids)


def repeated_tokens(
    tokenizer: Tokenizer,
    *,
    n_sequences: int = 16,
    periods: Sequence[int] | None = None,
    n_ctx: int | None = None,
    vocab: int | None = None,
    bos: bool | None = None,
    seed: int = 0,
) -> RepeatedTokens:
    """`n_sequences` rows for each period. Without `periods`, those of 16, 24, 32, 48 and 64 that fit the context.

    `vocab` is the model's, where it is smaller than the tokenizer's. A row depends on the seed, its period and its number only.
    """
    use_bos = (tokenizer.default_bos if bos is None else bos) and tokenizer.bos_id is not None
    chosen = [p for p in PERIODS if _fits(p, n_ctx, use_bos)] if periods is None else list(dict.fromkeys(periods))
    if bad := [p for p in chosen if p < 2 or not _fits(p, n_ctx, use_bos)]:
        raise BadInput(
            f"periods {bad} do not fit: 2 copies and BOS must be at most {n_ctx} tokens, and a period at least 2."
        )
    if not chosen or n_sequences < 1:
        raise BadInput(
            f"nothing to draw: n_sequences={n_sequences}, periods={list(periods or PERIODS)}, context {n_ctx}."
        )
    size = min(tokenizer.vocab, vocab or tokenizer.vocab)
    kind, ids = clean_ids(tokenizer, size, at_least=max(4 * max(chosen), 200))
    if len(ids) < max(chosen):
        raise BadInput(
            f"{tokenizer.name} has {len(ids)} clean tokens, too few for a period of {max(chosen)}. Use shorter periods."
        )
    pool, start = torch.tensor(ids), int(use_bos)
    rows, names, spans = [], [], []
    for period in sorted(chosen):
        for number in range(n_sequences):
            draw = torch.randperm(len(pool), generator=generator(seed, "repeated tokens", period, number))[:period]
            once = pool[draw].tolist()
            rows.append([tokenizer.bos_id] * start + once + once)
            names.append(f"repeat-{period}-{number}")
            spans.append((start, start + period, start + 2 * period))
    plain = Batch.padded([[int(i or 0) for i in row] for row in rows], ids=tuple(names))
    edges = torch.tensor(spans)  # [batch, 3]
    batch = Batch(plain.tokens, plain.mask, {"first": edges[:, :2].clone(), "second": edges[:, 1:].clone()}, plain.ids)
    return RepeatedTokens(batch, edges[:, 1] - edges[:, 0], bool(use_bos), kind, len(ids))


def clean_ids(tokenizer: Tokenizer, vocab: int, *, at_least: int) -> tuple[str, list[int]]:
    """("words", ids of alphabetic one-token words) if there are enough, else ("middle", the middle 80 % of the vocabulary)."""
    labels = [tokenizer.label(i) for i in range(vocab)]
    words = [i for i, label in enumerate(labels) if WORD.fullmatch(label)]
    if len(words) >= at_least:
        return "words", words
    low, high = vocab // 10, vocab - vocab // 10
    return "middle", [i for i in range(low, high) if _is_clean(tokenizer, i, labels[i])]


def _is_clean(tokenizer: Tokenizer, token: int, label: str) -> bool:
    text = tokenizer.decode([token])
    return token != tokenizer.bos_id and bool(text.strip()) and not SPECIAL.fullmatch(label) and "\ufffd" not in text


def _fits(period: int, n_ctx: int | None, bos: bool) -> bool:
    return n_ctx is None or 2 * period + int(bos) <= n_ctx
