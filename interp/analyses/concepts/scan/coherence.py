"""Do the top tokens of a vector belong together? Without a judge: by their embeddings, or by how often texts have them together.

    embedding   mean cosine of all pairs of the tokens' centred input embeddings,  (|Σ ê_t|² - k) / (k (k - 1))
    pmi         mean normalised pointwise mutual information of all pairs, over texts: 1 for tokens that only occur together, 0 by chance

Both stand in for the published step, in which a language model reads the tokens and gives a score. Tokens with similar embeddings are
neighbours of any direction, so the top tokens of a random direction are coherent too, most of all where embedding and unembedding are one
table: only what goes beyond random directions says anything.
"""

import string
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from interp.core.errors import BadInput
from interp.core.seed import generator

if TYPE_CHECKING:
    from interp.core.lm import LM, Tokenizer

GATHERED = 8_000_000
"""Numbers of embeddings that are held at once."""
MOST_SEEN = 4096
"""Tokens that co-occurrence is counted for, the commonest in the texts."""
BINS = 10
KINDS = ("word", "part", "byte", "other")
"""A word that stands alone or begins one; a piece from within a word; bytes that are no character; punctuation, digits, control tokens."""


class Embeddings:
    """Coherence by the input embeddings; the table is read by gathers, never copied."""

    def __init__(self, lm: "LM", rows: int) -> None:
        self.table = lm.weights.W_E.detach()[:rows]
        self.middle = self.table.mean(dim=0, dtype=torch.float32)
        step = max(1, GATHERED // self.table.shape[1])
        self.size = torch.cat([(part.float() - self.middle).norm(dim=1) for part in self.table.split(step)])
        if not bool(self.size.isfinite().all()):
            raise BadInput(f"W_E of {lm.spec.name} has NaN or infinite numbers. Is the checkpoint whole?")
        self.order = self.size.argsort(stable=True).cpu()
        self.rank = torch.empty_like(self.order)
        self.rank[self.order] = torch.arange(len(self.order))

    def of(self, ids: Tensor) -> Tensor:
        """Mean pairwise cosine [row] of the tokens ids [row, k]; NaN for fewer than two."""
        k = ids.shape[1]
        if k < 2:
            return torch.full((len(ids),), torch.nan)
        step, found = max(1, GATHERED // (k * self.table.shape[1])), []
        for part in ids.split(step):
            weight = 1 / self.size[part].clamp_min(1e-12)
            total = (
                torch.einsum("rk,rkd->rd", weight, self.table[part].float()) - weight.sum(1, keepdim=True) * self.middle
            )
            found.append((total.double().square().sum(dim=1) - k) / (k * (k - 1)))
        return torch.cat(found) if found else torch.zeros(0)

    def matched(self, ids: Tensor, seed: int, *names: str) -> Tensor:
        """Other tokens in the place of `ids` [row, k], each of an embedding about as long (a tenth of the vocabulary to choose from)."""
        order, rank = self.order, self.rank
        width = max(1, -(-len(order) // BINS))
        low = (rank[ids.cpu()] // width) * width
        high = (low + width).clamp(max=len(order))
        draw = torch.rand(ids.shape, generator=generator(seed, "matched tokens", *names), dtype=torch.float64)
        return order[(low + (draw * (high - low)).long()).clamp(max=len(order) - 1)].to(ids.device)


class Together:
    """Coherence by co-occurrence in texts: a token counts once a text."""

    def __init__(self, tokenizer: "Tokenizer", texts: Sequence[str], rows: int) -> None:
        documents = [sorted({i for i in tokenizer.encode(text, bos=False).ids if i < rows}) for text in texts]
        if len(documents) < 20:
            raise BadInput(
                f"coherence='pmi' counts in how many texts tokens occur together, and there are {len(documents)}. Give 20 or more "
                "(`corpus`, or concepts with `texts`), or take coherence='embedding'."
            )
        often = torch.bincount(torch.tensor([i for one in documents for i in one]), minlength=rows)
        seen = [i for i in often.argsort(descending=True, stable=True)[:MOST_SEEN].tolist() if often[i] >= 2]
        self.place = torch.full((rows,), -1)
        self.place[seen] = torch.arange(len(seen))
        held = torch.zeros(len(documents), len(seen))
        for row, one in enumerate(documents):
            columns = self.place[torch.tensor(one, dtype=torch.int64)]
            held[row, columns[columns >= 0]] = 1.0
        both, n = held.T @ held / len(documents), held.mean(dim=0)
        known = both > 0
        chance = torch.log(both.clamp_min(1e-12)) - torch.log(n[:, None] * n)
        self.npmi = torch.where(known, chance / -torch.log(both.clamp(1e-12, 1 - 1e-9)), -1.0).clamp(-1, 1)
        self.npmi.fill_diagonal_(0.0)

    def of(self, ids: Tensor) -> Tensor:
        """Mean pairwise NPMI [row] of those of the tokens ids [row, k] that the texts have; NaN for fewer than three."""
        place = self.place[ids.cpu()]
        member = torch.zeros(len(ids), len(self.npmi) + 1).scatter_(
            1, torch.where(place < 0, len(self.npmi), place), 1.0
        )[:, :-1]
        many = member.sum(dim=1).double()
        total = ((member @ self.npmi) * member).sum(dim=1).double()
        return torch.where(many >= 3, total / (many * (many - 1)).clamp_min(1), torch.nan)


@dataclass(frozen=True)
class Kinds:
    """What kind of token each id of a vocabulary is, `kind` [vocab] by number in `KINDS`."""

    kind: np.ndarray
    marked: bool
    """Whether this vocabulary marks where words begin; if not, every token of letters counts as a word."""


def kinds_of(tokenizer: "Tokenizer", rows: int) -> Kinds:
    """The kind of each token, by its label. In a vocabulary that marks beginnings of words, letters without a mark are a part."""
    labels = [tokenizer.label(i) for i in range(rows)]
    spaced = sum(label.startswith("␣") and label[1:].isalpha() for label in labels)
    marked = spaced > 0.05 * sum(label.lstrip("␣").isalpha() for label in labels)
    kind = np.empty(rows, dtype=np.int8)
    for place, label in enumerate(labels):
        word = label[1:] if label.startswith("␣") else label
        if _bytes(label):
            kind[place] = 2
        elif word.replace("'", "").replace("-", "").isalpha():
            kind[place] = 0 if label != word or (len(word) > 1 and not marked) else 1
        else:
            kind[place] = 3
    return Kinds(kind, marked)


def _bytes(label: str) -> bool:
    """Whether a label is bytes that are no character (`0xC3 0xA9`) or one that cannot be shown (`U+0003`)."""
    if label.startswith("0x"):
        return all(len(one) == 4 and set(one[2:]) <= set(string.hexdigits) for one in label.split(" "))
    return label.startswith("U+") and set(label[2:]) <= set(string.hexdigits)
