"""The stale-cache attack: change anything that a number depends on, and the store must miss."""

import pytest
import torch

from interp.cache import Store
from interp.core.batch import Batch

from .fake import MIXED, FakeLM, FakeTokenizer, documents


@pytest.fixture
def filled(tmp_path):
    store = Store(tmp_path)
    assert not store.capture(FakeLM(), documents(), MIXED).hit
    assert store.capture(FakeLM(), documents(), MIXED).hit
    return store


def test_one_weight(filled):
    lm = FakeLM()
    lm.params["in1"][0, 0] += 1e-7
    assert not filled.capture(lm, documents(), MIXED).hit


def test_one_token(filled):
    docs = documents()
    docs[11] = docs[11].clone()
    docs[11][0] = (docs[11][0] + 1) % 97
    assert not filled.capture(FakeLM(), docs, MIXED).hit


def test_a_boundary(filled):
    docs = documents()
    together = torch.cat(docs)
    cuts = [len(d) for d in docs]
    cuts[0], cuts[1] = cuts[0] + 1, cuts[1] - 1
    assert cuts[1] > 0
    assert not filled.capture(FakeLM(), list(together.split(cuts)), MIXED).hit


def test_order(filled):
    assert not filled.capture(FakeLM(), documents()[::-1], MIXED).hit


def test_bos(filled):
    docs = [torch.cat([torch.tensor([0]), document]) for document in documents()]
    assert not filled.capture(FakeLM(), docs, MIXED).hit


def test_stored_dtype(filled):
    assert not filled.capture(FakeLM(), documents(), MIXED, dtype="bfloat16").hit
    assert filled.capture(FakeLM(), documents(), MIXED, dtype="float32").hit


@pytest.mark.parametrize("change", [{"attention": "sdpa"}, {"processing": "folded"}, {"dtype": "bfloat16"}])
def test_how_the_model_computes(filled, change):
    assert not filled.capture(FakeLM(**change), documents(), MIXED, dtype="float32").hit


@pytest.mark.parametrize("change", [{"backend": "nnsight"}, {"name": "another name"}])
def test_what_does_not_matter_still_hits(filled, change):
    assert filled.capture(FakeLM(**change), documents(), MIXED).hit


def test_tokenizer(filled):
    lm = FakeLM()
    lm.tokenizer = FakeTokenizer()
    lm.tokenizer.digest = "tok-2"
    assert not filled.capture(lm, documents(), MIXED).hit


def test_padding_side(filled):
    rows = [document.tolist() for document in documents()]
    assert not filled.capture(FakeLM(), Batch.padded(rows, side="right"), MIXED).hit
    assert not filled.capture(FakeLM(), Batch.padded(rows, side="left"), MIXED).hit
    assert filled.capture(FakeLM(), Batch.padded(rows, side="left"), MIXED).hit


def test_site(filled):
    assert not filled.capture(FakeLM(), documents(), "blocks.0.hook_resid_post").hit
