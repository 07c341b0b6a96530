"""How alike two ranked lists of tokens are, and which of the tokens belong to a concept."""

import re
from collections.abc import Iterable, Sequence

import numpy as np
import torch
from torch import Tensor

from interp.core.errors import BadInput
from interp.core.lm import Tokenizer
from interp.data.concepts import Concept

NOTHING = -1
"""Token id in the place of a top token that there is none of: a vector of zeros prefers nothing."""
_FUNCTION_WORDS = """
a about above after again against all also although always am among an and another any are around as at away back be became because
become been before behind being below between both but by came can cannot come could did do does doing done down during each either else
even ever every few first for from further gave get give go goes got had has have having he her here hers herself him himself his how
however i if in into is it its itself just last later least less like made make many may me might mine more most much must my myself
near never new next no nor not now of off often on once one only onto or other others our ours ourselves out over own per rather same
second several shall she should since so some still such take than that the their theirs them themselves then there these they this
those though three through thus to together too toward towards two under until up upon us use used using very was we well went were what
when where whether which while who whom whose why will with within without would yet you your yours yourself yourselves
"""
STOP_WORDS = frozenset(_FUNCTION_WORDS.split())
"""English function words, which are in every article."""


def top_tokens(rows: Tensor, unembedding: Tensor, k: int) -> Tensor:
    """Ids of the k tokens that each row of `rows` [vector, d_model] promotes most, [vector, k]; `NOTHING` for a row of zeros.

    `unembedding` is [d_model, vocab], no final norm applied. Equal logits rank by id, so that equal rows have equal lists.
    """
    if not 1 <= k <= unembedding.shape[1]:
        raise BadInput(f"`top_k` must be 1 to {unembedding.shape[1]}, the size of the vocabulary; not {k}.")
    found = []
    for part in rows.split(16):
        logits = part.to(unembedding.device, unembedding.dtype) @ unembedding
        found.append(logits.sort(dim=-1, descending=True, stable=True).indices[:, :k].cpu())
    ids = torch.cat(found)
    ids[(rows == 0).all(dim=-1).cpu()] = NOTHING
    return ids


def jaccard(a: Iterable[int], b: Iterable[int]) -> float:
    """|A ∩ B| / |A ∪ B| of two sets of tokens; NaN where both are empty. Of k tokens, m replaced: (k - m) / (k + m)."""
    one, two = _known(a), _known(b)
    either = set(one) | set(two)
    return len(set(one) & set(two)) / len(either) if either else float("nan")


def rank_biased_overlap(a: Sequence[int], b: Sequence[int], p: float = 0.9) -> float:
    """Rank-biased overlap of two lists of k tokens, extrapolated: 1 for equal lists, 0 for lists without a common token.

    With A_d the share of common tokens among the first d of both, and A_d = A_k from k on (Webber et al. 2010, RBO_ext),

        RBO = (1 - p) sum_d p^(d-1) A_d = 1 - (1 - p) sum_(d <= k) p^(d-1) (1 - A_d) - p^k (1 - A_k)

    The second form is computed: it is exactly 1 where the lists are equal. One list empty gives 0, both NaN. Raises `BadInput` for lists
    of different lengths, tokens that recur, and a `p` outside 0 to 1.
    """
    one, two = _known(a), _known(b)
    if not 0 < p < 1:
        raise BadInput(f"`p` of the rank-biased overlap must lie between 0 and 1; not {p}.")
    if not one or not two:
        return float("nan") if not one and not two else 0.0
    if len(one) != len(two) or len(set(one)) < len(one) or len(set(two)) < len(two):
        raise BadInput(
            f"rank-biased overlap takes two lists of one length without repeats; not {len(one)} and {len(two)} tokens."
        )
    lacking, common = np.empty(len(one)), 0
    seen: tuple[set[int], set[int]] = (set(), set())
    for depth, (x, y) in enumerate(zip(one, two, strict=True)):
        common += 1 if x == y else (x in seen[1]) + (y in seen[0])
        seen[0].add(x)
        seen[1].add(y)
        lacking[depth] = 1 - common / (depth + 1)
    weights = (1 - p) * p ** np.arange(len(one))
    return float(1 - (weights * lacking).sum() - p ** len(one) * lacking[-1])


def related_tokens(tokenizer: Tokenizer, concept: Concept, ids: Iterable[int]) -> frozenset[int]:
    """Those of the tokens that belong to the concept: they are one of its words, or a word of its texts and no stop word.

    A token counts as the whole word that it spells, spaces and case aside, of two letters or more; pieces of words are no words.
    """
    words = {word.strip().casefold() for word in concept.words}
    article = set(re.findall(r"\w+", concept.article.casefold())) - STOP_WORDS
    found = []
    for token in _known(ids):
        text = tokenizer.decode([token]).strip().casefold()
        if text in words or (len(text) > 1 and any(map(str.isalpha, text)) and text in article):
            found.append(token)
    return frozenset(found)


def retention(related: Iterable[int], after: Iterable[int]) -> float:
    """Share of a vector's related top tokens that are still among its top tokens; NaN where there were none. Never above 1.

    The published ratio divides by the number of those tokens even where it is zero, and counts tokens that have come in since.
    """
    before = set(related)
    return len(before & set(_known(after))) / len(before) if before else float("nan")


def _known(ids: Iterable[int]) -> list[int]:
    return [int(token) for token in ids if token != NOTHING]
