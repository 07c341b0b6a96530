"""Loss by position: plain cross entropy document by document; context helps where induction is planted and nowhere in the null."""

import numpy as np
import pytest
import torch

import tests.oracle as oracle
from interp.analyses.loss import LossByPosition
from interp.core.artifact import open_result
from interp.core.errors import BadInput
from interp.models.load import wrap
from interp.models.reference import as_lm
from interp.models.reference import planted as wired
from tests.models.tiny import tiny, tokens

from .test_lens import corpus_of
from .test_tracing import words


@pytest.mark.parametrize("family", ["gpt2", "gpt_neo", "gemma3_text"])
def test_losses_equal_plain_cross_entropy_of_each_document_alone(family):
    model = tiny(family)
    lm = wrap(model, words(), family)
    rows = [tokens(1, length, seed=length)[0] for length in (9, 30, 2, 17, 1)]
    found = LossByPosition(batch_tokens=40)(lm, corpus_of(rows))
    for place, row in enumerate(rows):
        logits = oracle.logits(model, row[None])[0, :-1]
        nll = torch.nn.functional.cross_entropy(logits, row[1:], reduction="none")
        entropy = torch.special.entr(logits.softmax(-1)).sum(-1)
        got = found.data.isel(document=place)
        assert np.allclose(got["nll"].values[1 : len(row)], nll, atol=1e-4), (family, place)
        assert np.allclose(got["entropy"].values[1 : len(row)], entropy, atol=1e-4)
        assert np.isnan(got["nll"].values[0]) and np.isnan(got["nll"].values[len(row) :]).all()
    every = np.concatenate([found.data["nll"].values[i, 1 : len(row)] for i, row in enumerate(rows)]).astype(float)
    mean = found.mean()  # tokens count, not documents
    assert mean["nll"] == pytest.approx(every.mean()) and mean["n"] == len(every)
    assert found.perplexity()["nll"] == pytest.approx(np.exp(every.mean()))


def test_context_helps_where_induction_is_planted():
    rows = wired.repeated(8, 20)
    gain = LossByPosition()(as_lm(wired.induction()), corpus_of(rows)).gain(early=10, late=30)
    assert gain["ci_lo"] > 1.0 and gain["n"] == 8
    null = LossByPosition()(as_lm(wired.induction(null=True)), corpus_of(wired.repeated(64, 20))).gain(
        early=10, late=30
    )
    assert null["ci_lo"] < 0 < null["ci_hi"] and abs(null["gain"]) < 0.2 * gain["gain"]


def test_positions_count_who_reaches_them():
    lm = wrap(tiny("gpt2"), words(), "gpt2")
    rows = [tokens(1, length, seed=length)[0] for length in (5, 9, 9)]
    found = LossByPosition()(lm, corpus_of(rows))
    table = found.by_position()
    assert table["pos"].values.tolist() == [*range(1, 9)] and table["n"].values.tolist() == [3] * 4 + [2] * 4
    assert np.allclose(table["mean"], np.nanmean(found.data["nll"].values[:, 1:], axis=0))
    with pytest.raises(BadInput, match="longest has 8"):
        found.gain(early=2, late=50)
    with pytest.raises(BadInput, match="early"):
        found.gain(early=5, late=3)


def test_neighbouring_positions_are_taken_together_document_by_document():
    lm = wrap(tiny("gpt2"), words(), "gpt2")
    found = LossByPosition()(lm, corpus_of([tokens(1, length, seed=length)[0] for length in (9, 16, 16)]))
    table, whole = found.by_position(bins=4), found.by_position()
    assert table.sizes["pos"] == 4 and table["pos"].values[0] == 1  # 1 | 2 3 | 4 ... 7 | 8 ... 15
    values = found.data["nll"].values
    assert table["mean"].values[-1] == pytest.approx(np.mean([np.nanmean(row[8:16]) for row in values]))
    assert table["n"].values.tolist() == [3, 3, 3, 3] and table["pos"].values[1] == pytest.approx(6**0.5)
    assert found.by_position(bins=50).equals(whole)  # fewer positions than bins: nothing to take together


def test_intervals_resample_texts_not_pieces():
    lm = wrap(tiny("gpt2"), words(), "gpt2")
    rows = [*tokens(2, 10)] * 6
    apart, together = (LossByPosition()(lm, corpus_of(rows, texts=t)).mean() for t in (None, [0, 1] * 6))
    wide, narrow = (float(found["ci_hi"] - found["ci_lo"]) for found in (together, apart))
    # of two texts either may be drawn twice; the mean of twelve pieces covers two thirds of the distance between them
    assert wide == pytest.approx(1.5 * narrow, rel=1e-6)
    one = LossByPosition()(lm, corpus_of(rows[:1])).mean()
    assert np.isnan(one["ci_lo"]) and np.isfinite(one["nll"])


def test_padding_and_batches_change_nothing():
    lm = wrap(tiny("mistral"), words(), "mistral")
    rows = [tokens(1, length, seed=length)[0] for length in (3, 20, 11, 6)]
    small, large = (LossByPosition(batch_tokens=size)(lm, corpus_of(rows)).data["nll"].values for size in (1, 4096))
    assert np.allclose(small, large, atol=1e-5, equal_nan=True)


def test_it_is_saved_and_says_its_cost(tmp_path):
    lm = wrap(tiny("gpt2"), words(), "gpt2")
    data = corpus_of(tokens(4, 10))
    found = LossByPosition()(lm, data)
    assert open_result(found.save(tmp_path / "loss")).data.identical(found.data)
    assert LossByPosition().cost(lm, data).tokens == 40 and len(found.headline()) == 3
    assert len(found.to_frame()) == 36
    with pytest.raises(BadInput, match="one token"):
        LossByPosition()(lm, corpus_of([[5]]))
