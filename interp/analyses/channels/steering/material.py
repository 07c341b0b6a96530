"""What steering needs to know of its prompts: spans that compete, kinds of prompts, and the answers that were on offer."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from interp.core.errors import BadInput, SpanError, listing
from interp.data.tokens import Answers, TokenPrompt, to_batch, tokenize

from ...paths.places import where
from ..attention import span_mask
from ..component import Component, Head
from ..readers import best_reader

if TYPE_CHECKING:
    from interp.core.lm import LM

ORDER, SUBJECT_FIRST = "order", "BAB"
"""The key of `meta`, and its value, by which signs are fixed where nothing else is said."""
SVD = "svd"


def spans_of(prompts: Sequence[TokenPrompt]) -> tuple[str, ...]:
    """The spans that compete for attention: item_0, item_1, ... where every prompt marks some, else IO and S1. Raises `SpanError`."""
    common = [name for name in prompts[0].spans if all(name in one.spans for one in prompts)]
    items = sorted(
        (name for name in common if re.fullmatch(r"item_\d+", name)), key=lambda name: int(name.partition("_")[2])
    )
    if len(items) > 1:
        return tuple(items)
    if {"IO", "S1"} <= set(common):
        return "IO", "S1"
    have = [name for name in common if name not in ("last", "relation")]
    raise SpanError(
        f"nothing says which spans compete for the reader's attention; all prompts mark {listing(have)}. Name them: spans=('...', '...')."
    )


def kinds_of(prompts: Sequence[TokenPrompt], key: str) -> tuple[str, list[str]]:
    """The key of `meta` by which prompts are told apart ("" for none), and the kind of each. Raises `BadInput` for a key that some lack."""
    if not key:
        if all(ORDER in one.prompt.meta for one in prompts):
            return ORDER, [str(one.prompt.meta[ORDER]) for one in prompts]
        return "", ["all"] * len(prompts)
    _known(prompts, key, "split")
    return key, [str(one.prompt.meta[key]) for one in prompts]


def matching(prompts: Sequence[TokenPrompt], rule: str) -> tuple[str, np.ndarray]:
    """The rule by which signs are fixed, as it is stated, and the prompts that it is about, bool [prompt]; all for `svd`.

    Raises `BadInput` for a rule that no prompt fits.
    """
    if not rule:
        kinds = {str(one.prompt.meta.get(ORDER)) for one in prompts}
        rule = f"{ORDER}={SUBJECT_FIRST}" if SUBJECT_FIRST in kinds else SVD
    if rule == SVD:
        return rule, np.ones(len(prompts), dtype=bool)
    key, _, value = rule.partition("=")
    _known(prompts, key, "sign")
    chosen = np.array([str(one.prompt.meta[key]) == value for one in prompts])
    if not chosen.any():
        have = sorted({str(one.prompt.meta[key]) for one in prompts})
        raise BadInput(f"`sign={rule!r}`: no prompt has {key} = {value!r}; there are {listing(have)}.")
    return rule, chosen


def candidates_of(
    lm: "LM", prompts: Sequence[TokenPrompt], *, bos: bool | None, answers: Answers
) -> list[tuple[tuple[int, ...], int]]:
    """Token ids of the answers on offer in each prompt (`meta["candidates"]`), and the place of the right one (-1 without).

    Raises `BadInput` where two candidates begin with one token, or one is longer than `answers` allows.
    """
    known: dict[str, int] = {}
    out = []
    for one in prompts:
        words = [str(word) for word in one.prompt.meta.get("candidates", ())]
        for word in words:
            if word not in known:
                asked = tokenize(replace(one.prompt, answer=word, foil=None), lm.tokenizer, bos=bos, answers=answers)
                known[word] = asked.answer_ids[0]
        ids = tuple(known[word] for word in words)
        if len(set(ids)) < len(ids):
            raise BadInput(
                f"two of the candidates {listing(words)} of the prompt {one.id!r} are one token, so they cannot be told apart."
            )
        right = one.answer_ids[0] if one.answer_ids else None
        out.append((ids, ids.index(right) if right in ids else -1))
    return out


def looked_at(
    prompts: Sequence[TokenPrompt], spans: Sequence[str], to: str, minus: str
) -> tuple[tuple[str, ...], str, str]:
    """The spans whose attention is read, and the two of the score; what is not named is settled here. Raises `BadInput`."""
    chosen = tuple(spans) or spans_of(prompts)
    first = to or chosen[0]
    second = minus or next((span for span in chosen if span != first), "")
    if first == second:
        raise BadInput(f"`to` and `minus` are both {first!r}: the score would be 0. Name two spans.")
    return tuple(dict.fromkeys([*chosen, first, *([second] if second else [])])), first, second


def readers_of(config: Any, lm: "LM", prompts: Sequence[Any], to: str, minus: str, *, first: int) -> tuple[str, ...]:
    """The readers that a config names, else the head of the layers from `first` on that attends most to `to` rather than `minus`."""
    if config.readers:
        return tuple(config.readers)
    return (best_reader(lm, prompts, first=first, to=to, minus=minus, bos=config.bos, answers=config.answers)[0],)


def check_places(prompts: Sequence[TokenPrompt], spans: Sequence[str], positions: Sequence[str]) -> None:
    """Refuse spans and positions that some prompt lacks (`SpanError`, `BadInput`), before anything is run."""
    for one in prompts:
        batch = to_batch([one])
        for span in spans:
            span_mask(batch, span)
        for position in filter(None, positions):
            where(batch, position)


class Offered:
    """The candidates of some rows, padded to one width."""

    def __init__(self, candidates: Sequence[Sequence[int]]) -> None:
        width = max(1, max(len(one) for one in candidates))
        self.ids = torch.tensor([[*one, *[0] * (width - len(one))] for one in candidates])  # [row, candidate]
        self.real = torch.tensor([[place < len(one) for place in range(width)] for one in candidates])

    def logits(self, logits: Tensor, rows: Tensor) -> Tensor:
        """Logits of the candidates [n, position, candidate], float64; minus infinity where a row has fewer."""
        ids = self.ids[rows][:, None].expand(-1, logits.shape[1], -1)
        return logits.cpu().gather(-1, ids).double().masked_fill(~self.real[rows][:, None], -torch.inf)


def check_names(config: Any) -> None:
    """Components, readers and spans of a config as tuples of text, each well written and there once. Raises `BadInput`."""
    for name in ("components", "readers", "spans"):
        value = getattr(config, name)
        value = (value,) if isinstance(value, str | Component | Head) else value
        if not isinstance(value, Iterable):
            raise BadInput(f"`{name}` must be names, such as ('8.10.1',) or ('9.9',); not {value!r}.")
        value = tuple(value)
        object.__setattr__(config, name, tuple(str(one) for one in value))
        if len(set(getattr(config, name))) < len(value):
            raise BadInput(f"`{name}` must name each of its entries once; not {list(map(str, value))}.")
    for component in config.components:
        Component.parse(component)
    for head in config.readers:
        Head.parse(head)


def check_order(lm: "LM", components: Sequence[str], readers: Sequence[str], *, later: bool = True) -> list[Head]:
    """The readers, if the model has them and the components and (with `later`) the readers come after these. Raises `BadInput`."""
    if lm.spec.n_layers < 2:
        raise BadInput(f"{lm.spec.name} has one layer: no head can tell a later one anything.")
    heads = [Head.parse(name).check(lm) for name in readers]
    for name in components:
        one = Component.parse(name).check(lm)
        if later and (bad := [str(head) for head in heads if head.layer <= one.layer]):
            raise BadInput(
                f"the reader {bad[0]} does not come after component {name!r}: what a head writes is read in later layers only."
            )
    return heads


def _known(prompts: Sequence[TokenPrompt], key: str, option: str) -> None:
    lacking = [one for one in prompts if key not in one.prompt.meta]
    if lacking:
        have = listing(sorted(map(str, lacking[0].prompt.meta)))
        raise BadInput(f"`{option}` goes by {key!r} of the prompts' meta; {lacking[0].id!r} has {have}.")
