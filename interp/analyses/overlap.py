"""How much of one answer another answer still says: BLEU and ROUGE-L of two texts.

The question. A model was changed, and gives other answers than before. How far do they overlap with the original ones, word for word?

    BLEU(reference, hypothesis) = min(1, exp(1 - r/c)) (p1 p2 p3 p4)^(1/4)   p_n: share of the hypothesis' n-grams that the reference has
    ROUGE-L(reference, hypothesis) = 2 P R / (P + R)                         P = LCS / c, R = LCS / r: longest common subsequence

with r and c the numbers of words in reference and hypothesis. Words are what whitespace separates: case and punctuation count.

Source. Papineni et al. 2002 (BLEU), with method 3 of Chen and Cherry 2014 for n-grams that never match (the k-th order without a match
gets 1 / (2^k n-grams)), as `nltk.translate.bleu_score.sentence_bleu` computes it; Lin 2004 (ROUGE-L), F1. These are the scores of
ConceptVectors (Hong et al., "Intrinsic Test of Unlearning", arXiv 2406.11614).

How. The reference is the answer that counts as right: everywhere in this package the ORIGINAL model's, and the hypothesis the changed
model's. BLEU is not symmetric (it punishes a hypothesis that is too short, never one that is too long), so the order matters; the
published ConceptVectors program passes them the other way round, which is `bleu(hypothesis, reference)` here. ROUGE-L is symmetric.

When it misleads
- Both empty is 1 (nothing said, nothing lost), one empty is 0. Both happen where models stop at once: `overlaps` marks those pairs in
  `empty`, and a mean should be read beside their number.
- A text has BLEU 1 with itself by definition here. The usual program gives less below four words (it smooths the n-grams that such a
  text does not have: 0.35 for one word). Texts of fewer than four words that differ keep its value, so they lie low.
- A paraphrase that is just as right scores low, and a wrong number in a right sentence scores high. Overlap is not accuracy.
- The `rouge` package cuts at full stops and ignores words that repeat; `rouge_score` drops case and punctuation. Both agree with this
  one only on texts without those.

    from interp.analyses.overlap import bleu, overlaps, rouge_l
    original, changed = "the festival is held in the third month of spring", "the festival is held in winter"
    bleu(original, changed), rouge_l(original, changed)
    scores = overlaps([original, "red"], [changed, "red"])
    scores.bleu.mean(), scores.rouge_l.mean(), scores.empty.sum()
"""

import math
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from interp.core.errors import BadInput

ORDER = 4
"""Longest n-grams of BLEU, in words; all orders weigh the same."""


class Overlaps(NamedTuple):
    """Overlap of pairs of texts, float64 [pair] each."""

    bleu: np.ndarray
    """BLEU of the hypothesis against the reference, 0 to 1."""
    rouge_l: np.ndarray
    """F1 of the longest common subsequence, 0 to 1."""
    empty: np.ndarray
    """Whether one of the two, or both, hold no word; bool."""


def bleu(reference: str, hypothesis: str) -> float:
    """Sentence BLEU of `hypothesis` against `reference`, 0 to 1, smoothed by method 3; 1 for the same words, 0 without a common one.

    Not symmetric. Raises `BadInput` for what is no text.
    """
    right, said = _words("reference", reference), _words("hypothesis", hypothesis)
    if right == said:
        return 1.0
    if not right or not said:
        return 0.0
    logs, unmatched = [], 0
    for n in range(1, ORDER + 1):
        found = _ngrams(said, n)
        hits, total = (found & _ngrams(right, n)).total(), max(1, found.total())
        if not hits and n == 1:
            return 0.0
        unmatched += not hits
        logs.append(math.log(hits / total if hits else 1 / (2**unmatched * total)))
    return min(1.0, math.exp(1 - len(right) / len(said))) * math.exp(math.fsum(logs) / ORDER)


def rouge_l(reference: str, hypothesis: str) -> float:
    """F1 of the longest common subsequence of words, 0 to 1; 1 where both are empty, 0 where one is.

    Symmetric. Raises `BadInput` for what is no text.
    """
    right, said = _words("reference", reference), _words("hypothesis", hypothesis)
    if not right and not said:
        return 1.0
    return 2 * _common(right, said) / (len(right) + len(said))


def overlaps(references: Sequence[str], hypotheses: Sequence[str]) -> Overlaps:
    """BLEU and ROUGE-L of each hypothesis against its reference, [pair]. Raises `BadInput` where their numbers differ or there is none."""
    for name, texts in (("references", references), ("hypotheses", hypotheses)):
        if isinstance(texts, str):
            raise BadInput(f"`{name}` is a list of texts; not the one text {texts[:60]!r}. Give [text].")
    if len(references) != len(hypotheses) or not references:
        raise BadInput(
            f"there are {len(references)} references and {len(hypotheses)} hypotheses. Give as many of both, and at least one."
        )
    pairs = list(zip(references, hypotheses, strict=True))
    return Overlaps(
        np.array([bleu(*pair) for pair in pairs]),
        np.array([rouge_l(*pair) for pair in pairs]),
        np.array([not all(text.split() for text in pair) for pair in pairs]),
    )


def _words(name: str, text: str) -> list[str]:
    if not isinstance(text, str):
        raise BadInput(
            f"the {name} is {text!r}, which is no text. Give the words as a str; several pairs go to `overlaps`."
        )
    return text.split()


def _ngrams(words: list[str], n: int) -> Counter[tuple[str, ...]]:
    return Counter(tuple(words[start : start + n]) for start in range(len(words) - n + 1))


def _common(a: list[str], b: list[str]) -> int:
    """Length of the longest common subsequence (Allison and Dix 1986): bit i of `row` says that word i of `a` lengthens it."""
    places: dict[str, int] = {}
    for place, word in enumerate(a):
        places[word] = places.get(word, 0) | 1 << place
    row = 0
    for word in b:
        reached = row | places.get(word, 0)
        row = reached & ~(reached - (row << 1 | 1))
    return row.bit_count()
