"""Which vectors hold a concept: its words among the first tokens, its article among the top tokens, and what chance would give.

For each concept, of every vector or of the best:

    precision    share of the concept's w tokens among the first w tokens of a vector
    margin       mean logit of the words less that of the vocabulary, in its standard deviations
    auc          how often a word's logit exceeds that of another token
    p            how often a random direction lies as near to the words as the vector does, times all vectors and concepts
    p_words      how often random tokens would be that many among the first, times all vectors and concepts (hypergeometric)
    p_shuffled   how often the best of all vectors does as well for tokens with embeddings as long as the words' own
    article      share of the top k tokens that are commoner in the concept's texts than in the others'; article_p and
                 article_words as p and p_words, for these tokens

Only p knows that words of one kind lie together: a direction that happens on one colour happens on all, so even the vectors of a scrambled
model have half of a concept's words first, which among random tokens would be out of the question. The mean logit of the words less the
vocabulary's is v · m with m = mean of their columns of W_U less the mean of all, and the cosine of a random direction of n dimensions with
m has a known distribution: (1 + cos) / 2 is Beta((n - 1) / 2, (n - 1) / 2).
"""

import itertools
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from interp.core.errors import BadInput
from interp.core.seed import generator
from interp.data.concepts import Concept, Concepts, concept_tokens

from .coherence import Embeddings

if TYPE_CHECKING:
    from interp.core.lm import Tokenizer

LIFT = 2.0
"""How much commoner a token must be in the article than elsewhere."""
TRIES = 4
"""Draws for each word before any other token will do."""


@dataclass
class Held:
    """One concept, and the vectors that hold it best so far."""

    name: str
    ids: Tensor
    """Tokens of its words, [w]; empty where it has none."""
    split: tuple[str, ...]
    """Words that this tokenizer cuts."""
    article: Tensor
    """Tokens commoner in its article, [a]; empty without texts."""
    shuffled: Tensor
    """Random sets of as many tokens, [draw, w]."""
    rows: int
    """Tokens of the vocabulary."""
    most: int
    best: list[tuple[float, float, int, float, int]] = field(default_factory=list)
    """(precision, margin, place of the vector, share of the article, its hits), best first."""
    chance: Tensor = field(default_factory=lambda: torch.zeros(0))
    """Best precision of any vector for each shuffled set, [draw]."""

    @property
    def member(self) -> Tensor:
        """[vocab], whether a token is one of its words."""
        return _members(self.ids, self.rows)

    def see(self, top: Tensor, k: int, first: int, words: Tensor | None, mean: Tensor, spread: Tensor) -> None:
        """Look at the vectors whose top tokens are `top` [row, K]; `words` [row, w] are their logits of this concept's words."""
        w = len(self.ids)
        share = torch.full((len(top),), torch.nan, dtype=torch.float64)
        hits = torch.zeros(len(top), dtype=torch.int64)
        if len(self.article):
            hits = _members(self.article, self.rows)[top[:, :k]].sum(dim=1)
            share = hits / k
        precision, margin = torch.full_like(share, torch.nan), torch.full_like(share, torch.nan)
        order = -share
        if w and words is not None:
            precision = self.member[top[:, :w]].double().mean(dim=1)
            margin = (words.double().mean(dim=1) - mean) / spread.clamp_min(1e-30)
            order = -(precision * 1e6 + margin.clamp(-1e5, 1e5))
            sets = torch.zeros(self.rows, len(self.shuffled), dtype=torch.bool).scatter_(0, self.shuffled.T, True)
            reached = sets[top[:, :w]].float().mean(dim=1).amax(dim=0)
            self.chance = torch.maximum(self.chance, reached) if len(self.chance) else reached
        for place in order.argsort(stable=True)[: self.most].tolist():
            found = float(precision[place]), float(margin[place]), first + place, float(share[place]), int(hits[place])
            self.best.append(found)
        self.best = sorted(self.best, key=lambda one: (_key(one), one[2]))[: self.most]


def held(
    concepts: Concepts,
    tokenizer: "Tokenizer",
    embeddings: Embeddings,
    *,
    rows: int,
    draws: int,
    seed: int,
    most: int,
    corpus: Sequence[str],
) -> list[Held]:
    """The concepts of a scan. Raises `BadInput` for one with neither words nor texts, or whose words split."""
    counts = [_counted(tokenizer, concept.texts, rows) for concept in concepts]
    elsewhere = _counted(tokenizer, corpus, rows)
    found = []
    for place, concept in enumerate(concepts):
        _something(concept)
        ids, split = torch.zeros(0, dtype=torch.int64), tuple[str, ...]()
        if concept.words:
            tokens = concept_tokens(tokenizer, concept.words)
            ids, split = torch.tensor([i for i in tokens.ids if i < rows]), tokens.split
        others = sum((one for other, one in enumerate(counts) if other != place), Counter[int]()) + elsewhere
        sets = [_distinct(embeddings, ids, seed, concept.name, draw) for draw in range(draws if len(ids) else 0)]
        shuffled = torch.stack(sets) if sets else torch.zeros(0, 0, dtype=torch.int64)
        found.append(Held(concept.name, ids, split, _commoner(counts[place], others), shuffled, rows, most))
    return found


def auc(logits: Tensor, ids: Tensor) -> Tensor:
    """How often a logit of the tokens `ids` exceeds one of the others, [row], from logits [row, vocab]; ties count half."""
    inside = logits[:, ids]
    outside = torch.ones(logits.shape[1], dtype=torch.bool)
    outside[ids] = False
    rest = logits[:, outside].sort(dim=1).values.contiguous()
    below = torch.searchsorted(rest, inside.contiguous()) + torch.searchsorted(rest, inside.contiguous(), right=True)
    return below.double().mean(dim=1) / 2 / rest.shape[1]


def nearness(rows: Tensor, direction: Tensor, n: int) -> np.ndarray:
    """p of a random direction of n dimensions that has as large a cosine with `direction` [d] as rows [row, d] have; NaN for zeros."""
    from scipy.stats import beta

    wide, toward = rows.double(), direction.double()
    cosine = (wide @ toward) / (wide.norm(dim=1) * toward.norm())
    return np.asarray(beta.sf(((1 + cosine.clamp(-1, 1)) / 2).cpu().numpy(), (n - 1) / 2, (n - 1) / 2))


def enrichment(hits: int, drawn: int, members: int, vocabulary: int) -> float:
    """p of at least so many hits among `drawn` tokens of a vocabulary with so many members."""
    from scipy.stats import hypergeom

    return float(hypergeom.sf(hits - 1, vocabulary, members, drawn)) if members else float("nan")


def _key(one: tuple[float, float, int, float, int]) -> float:
    precision, margin, _, share, _ = one
    return -share if np.isnan(precision) else -(precision * 1e6 + min(max(margin, -1e5), 1e5))


def _members(ids: Tensor, rows: int) -> Tensor:
    member = torch.zeros(rows, dtype=torch.bool)
    member[ids] = True
    return member


def _distinct(embeddings: Embeddings, ids: Tensor, seed: int, name: str, draw: int) -> Tensor:
    """As many different tokens as `ids`, none of them among `ids`, each with an embedding about as long as one of theirs.

    Where no more of such a length are left, any others.
    """
    rows, wanted = len(embeddings.size), len(ids)
    taken = torch.zeros(rows, dtype=torch.bool)
    taken[ids] = True
    found = list[int]()
    tries = embeddings.matched(ids.expand(TRIES, -1), seed, name, str(draw)).flatten().tolist()
    for token in itertools.chain(tries, _others(rows, seed, name, draw)):
        if len(found) == wanted:
            break
        if not taken[token]:
            taken[token] = True
            found.append(token)
    return torch.tensor(found, dtype=torch.int64)


def _others(rows: int, seed: int, name: str, draw: int) -> Iterator[int]:
    yield from torch.randperm(rows, generator=generator(seed, "shuffled words", name, draw)).tolist()


def _counted(tokenizer: "Tokenizer", texts: Sequence[str], rows: int) -> "Counter[int]":
    return Counter(i for text in texts for i in tokenizer.encode(text, bos=False).ids if i < rows)


def _commoner(here: "Counter[int]", elsewhere: "Counter[int]") -> Tensor:
    """Tokens that the article has twice or more, at `LIFT` times the rate of elsewhere or more (half a count where they are not)."""
    many, other = sum(here.values()), max(sum(elsewhere.values()), 1)
    kept = [i for i, n in here.items() if n >= 2 and (n / many) >= LIFT * max(elsewhere[i], 0.5) / other]
    return torch.tensor(sorted(kept), dtype=torch.int64)


def _something(concept: Concept) -> None:
    if not concept.words and not concept.texts:
        raise BadInput(
            f"the concept {concept.name!r} has neither words nor texts, so there is nothing to look for. Give it one of them."
        )
