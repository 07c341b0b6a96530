"""BLEU and ROUGE-L against the usual programs, where they are installed, and against what must hold without them."""

import itertools
import math

import numpy as np
import pytest

from interp.analyses.overlap import bleu, overlaps, rouge_l
from interp.core.errors import BadInput
from interp.core.seed import numpy_generator

WORDS = [f"w{number}" for number in range(12)]


def texts(seed, n=60, longest=30):
    rng = numpy_generator(seed, "texts")
    return [" ".join(rng.choice(WORDS, size=rng.integers(1, longest))) for _ in range(n)]


@pytest.mark.parametrize("longest", [4, 30])
def test_bleu_is_the_published_one(longest):
    score = pytest.importorskip("nltk.translate.bleu_score")
    smooth = score.SmoothingFunction().method3
    for reference, hypothesis in zip(texts(0, longest=longest), texts(1, longest=longest), strict=True):
        if reference == hypothesis:
            continue
        want = score.sentence_bleu([reference.split()], hypothesis.split(), smoothing_function=smooth)
        assert bleu(reference, hypothesis) == pytest.approx(want, abs=1e-12)
    long = " ".join(WORDS)
    assert score.sentence_bleu([long.split()], long.split(), smoothing_function=smooth) == bleu(long, long) == 1


def test_bleu_by_hand():
    # 4 of 4, 2 of 3, 1 of 2, none of 1 (smoothed to 1/2); as long as the reference
    assert bleu("a b c d", "a b c e") == pytest.approx((3 / 4 * 2 / 3 * 1 / 2 * 1 / 2) ** 0.25)
    # two orders without a match: 1/(2*2) and 1/(4*1); and a penalty for brevity
    precision = (3 / 4 * 1 / 3 * 1 / 4 * 1 / 4) ** 0.25
    assert bleu("a b x c y z", "a b q c") == pytest.approx(precision * math.exp(1 - 6 / 4))


def test_bleu_is_not_symmetric_and_says_which_is_which():
    long, short = "a b c d e f g h", "a b c d e"
    assert bleu(long, short) == pytest.approx(
        math.exp(1 - 8 / 5)
    )  # every n-gram of the short one is there: brevity alone
    assert bleu(short, long) == pytest.approx((5 / 8 * 4 / 7 * 3 / 6 * 2 / 5) ** 0.25)
    assert overlaps([long], [short]).bleu[0] == bleu(long, short) == bleu(reference=long, hypothesis=short)


@pytest.mark.parametrize("text", ["a", "a b", "a b c", "a a a", "A, b. c d e f"])
def test_a_text_has_overlap_one_with_itself(text):
    assert bleu(text, text) == rouge_l(text, text) == 1
    assert bleu(text, f"  {text}\n") == 1  # the same words


def test_empty_texts():
    for score in (bleu, rouge_l):
        assert score("", "") == score(" \n", "") == 1
        assert score("a b", "") == score("", "a b") == 0
    assert overlaps(["a", "", "a", ""], ["a", "", "", "b"]).empty.tolist() == [False, True, True, True]


def test_nothing_in_common_is_zero():
    assert bleu("a b c d", "e f g h") == rouge_l("a b c d", "e f g h") == 0


def longest_common(a, b):
    table = np.zeros((len(a) + 1, len(b) + 1), dtype=int)
    for i, j in itertools.product(range(len(a)), range(len(b))):
        table[i + 1, j + 1] = table[i, j] + 1 if a[i] == b[j] else max(table[i, j + 1], table[i + 1, j])
    return table[-1, -1]


def test_rouge_l_is_the_f1_of_the_longest_common_subsequence():
    for reference, hypothesis in zip(texts(2), texts(3), strict=True):
        a, b = reference.split(), hypothesis.split()
        common = longest_common(a, b)
        precision, recall = common / len(b), common / len(a)
        want = 2 * precision * recall / (precision + recall) if common else 0.0
        assert rouge_l(reference, hypothesis) == pytest.approx(want, abs=1e-12)
        assert rouge_l(reference, hypothesis) == rouge_l(hypothesis, reference)


def test_rouge_l_agrees_with_rouge_score():
    scorer = pytest.importorskip("rouge_score.rouge_scorer").RougeScorer(["rougeL"], use_stemmer=False)
    for reference, hypothesis in zip(texts(4, n=20), texts(5, n=20), strict=True):
        assert rouge_l(reference, hypothesis) == pytest.approx(scorer.score(reference, hypothesis)["rougeL"].fmeasure)


def test_rouge_l_agrees_with_rouge_where_no_word_repeats():
    rouge = pytest.importorskip("rouge").Rouge(metrics=["rouge-l"])
    rng = numpy_generator(6, "permuted")
    for _ in range(20):
        reference, hypothesis = (" ".join(rng.permutation(WORDS)[: rng.integers(2, 12)]) for _ in range(2))
        want = rouge.get_scores(hypothesis, reference)[0]["rouge-l"]["f"]
        assert rouge_l(reference, hypothesis) == pytest.approx(want, abs=1e-6)


def test_overlaps_are_the_single_scores():
    references, hypotheses = texts(7, n=5), texts(8, n=5)
    found = overlaps(references, hypotheses)
    assert found.bleu.tolist() == [bleu(*pair) for pair in zip(references, hypotheses, strict=True)]
    assert found.rouge_l.tolist() == [rouge_l(*pair) for pair in zip(references, hypotheses, strict=True)]


def test_bad_input():
    with pytest.raises(BadInput, match="2 references and 1 hypotheses"):
        overlaps(["a", "b"], ["a"])
    with pytest.raises(BadInput, match="0 references"):
        overlaps([], [])
    with pytest.raises(BadInput, match="is a list of texts"):
        overlaps("abc", "abd")
    with pytest.raises(BadInput, match="hypothesis is None"):
        bleu("a", None)
