"""Capturing and reading: what comes back is what the model gives, once."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from interp.cache import Store
from interp.core.batch import At, Batch
from interp.core.edit import add, call, replace
from interp.core.errors import BadInput, EditDidNotFire, StoreError, UnknownSite

from .fake import HEADS, MIXED, NEURONS, FakeLM, direct, documents

SMALL = 4 * 16 * 100  # shards of about 100 rows


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "store", shard_bytes=SMALL, forward_tokens=64)


def test_rows_are_what_the_model_gives(store):
    lm, docs = FakeLM(), documents()
    acts = store.capture(lm, docs, [MIXED, NEURONS, HEADS])
    assert not acts.hit and acts.complete
    for site in (MIXED, NEURONS, HEADS):
        assert torch.equal(acts[site].tensor(), direct(lm, docs, site))
    assert torch.equal(acts.tokens, torch.cat(docs))
    assert acts[HEADS].shape == (len(acts), 2, 8)


def test_second_capture_is_a_hit_and_runs_nothing(store):
    lm, docs = FakeLM(), documents()
    store.capture(lm, docs, [MIXED])
    before = lm.forwards
    again = store.capture(FakeLM(), docs, [MIXED])
    assert again.hit and lm.forwards == before
    assert "hit" in repr(again) and again[MIXED].key[:8] in repr(again)


def test_another_site_computes_only_that_site(store):
    lm, docs = FakeLM(), documents()
    store.capture(lm, docs, [MIXED])
    acts = store.capture(lm, docs, [MIXED, NEURONS])
    assert acts[MIXED].hit and not acts[NEURONS].hit and not acts.hit
    assert torch.equal(acts[NEURONS].tensor(), direct(lm, docs, NEURONS))


def test_partial_reads(store):
    lm, docs = FakeLM(), documents()
    acts = store.capture(lm, docs, MIXED)
    whole = acts.tensor()
    for index in (0, 7, 39, -1):
        assert torch.equal(acts.example(index), direct(lm, [docs[index]], MIXED))
    for start, stop in ((0, 1), (95, 305), (17, 17), (len(acts) - 3, len(acts))):
        assert torch.equal(acts.rows(start, stop), whole[start:stop])
    view = acts.rows(3, 20, copy=False)
    assert torch.equal(view, whole[3:20])
    document, position = acts.position(torch.tensor([0, len(docs[0]), len(acts) - 1]))
    assert document.tolist() == [0, 1, 39] and position.tolist() == [0, 0, len(docs[39]) - 1]
    with pytest.raises(BadInput, match="no example 40"):
        acts.example(40)
    with pytest.raises(BadInput, match="there are"):
        acts.rows(0, len(acts) + 1)


def test_what_comes_back_is_yours(store):
    acts = store.capture(FakeLM(), documents(), MIXED)
    acts.rows(0, 50).zero_()
    assert torch.equal(acts.tensor(), direct(FakeLM(), documents(), MIXED))


@pytest.mark.parametrize("side", ["left", "right"])
def test_batches_lose_their_padding(store, side):
    lm, docs = FakeLM(), documents()
    batch = Batch.padded([d.tolist() for d in docs], side=side, ids=tuple(f"p{i}" for i in range(40)))
    acts = store.capture(lm, batch, MIXED)
    assert len(acts) == sum(map(len, docs)) and acts.ids[3] == "p3"
    assert torch.allclose(acts.tensor(), direct(lm, docs, MIXED), atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
def test_dtypes_come_back_bit_for_bit(store, dtype):
    lm, docs = FakeLM(), documents()
    acts = store.capture(lm, docs, HEADS, dtype=dtype)
    assert acts.only.dtype == dtype
    assert torch.equal(acts.tensor(), direct(lm, docs, HEADS).to(dtype))
    low = FakeLM(dtype="bfloat16")
    assert store.capture(low, docs, MIXED).only.dtype == torch.bfloat16


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_statistics_are_those_of_the_stored_numbers(store, dtype):
    acts = store.capture(FakeLM(), documents(60), [HEADS, MIXED], dtype=dtype)
    for site in (HEADS, MIXED):
        rows, stats = acts[site].tensor().double(), acts[site].stats
        assert stats.count == len(rows)
        torch.testing.assert_close(stats.mean, rows.mean(0), rtol=1e-12, atol=1e-14)
        torch.testing.assert_close(stats.var, rows.var(0, correction=0), rtol=1e-10, atol=1e-14)
        np.testing.assert_allclose(stats.rms_norm, float((rows**2).sum() / len(rows)) ** 0.5, rtol=1e-12)


def test_shards_are_plain_safetensors(store):
    from safetensors.torch import load_file

    acts = store.capture(FakeLM(), documents(41), MIXED, dtype="bfloat16")
    shards = sorted(acts.only.entry.path.glob("*.safetensors"))
    assert len(shards) > 3
    assert torch.equal(torch.cat([load_file(shard)["rows"] for shard in shards]), acts.tensor())
    assert oct(shards[0].stat().st_mode)[-3:] == "644"
    assert not list(store.root.rglob(".tmp-*")) and not list(store.root.rglob("*.claim"))


def test_preview_says_the_bytes_and_touches_nothing(store):
    lm, docs = FakeLM(), documents()
    rows = sum(map(len, docs))
    preview = store.preview(lm, docs, [MIXED, NEURONS])
    assert not store.root.exists() and lm.forwards == 0
    assert preview.bytes == preview.total_bytes > rows * (16 + 24) * 4
    assert preview.tokens == preview.forward_tokens == rows and not preview.hit
    store.capture(lm, docs, [MIXED, NEURONS])
    assert lm.forwards == preview.forwards
    assert preview.bytes == sum(path.stat().st_size for path in store.root.rglob("0*.safetensors"))
    assert store.preview(lm, docs, [MIXED]).hit and store.preview(lm, docs, [MIXED]).bytes == 0


def test_it_says_hit_or_miss_and_bytes_first(tmp_path):
    said = []
    store = Store(tmp_path, say=said.append)
    lm, docs = FakeLM(), documents()
    store.capture(lm, docs, MIXED)
    store.capture(lm, docs, MIXED)
    store.capture(lm, docs, [MIXED, NEURONS])
    store.capture(lm, docs, MIXED, quiet=True)
    assert len(said) == 3
    assert said[0].startswith("miss") and "kB" in said[0]
    assert said[1].startswith("hit") and "1 hit, 1 miss" in said[2]


def test_corpora_and_lists_are_the_same_thing(store):
    lm, docs = FakeLM(), documents()
    corpus = SimpleNamespace(documents=tuple(docs), ids=tuple(f"doc{i}" for i in range(40)))
    store.capture(lm, docs, MIXED)
    acts = store.capture(lm, corpus, MIXED)
    assert acts.hit and acts.ids[5] == "doc5"


# -- edits


def test_edited_runs_are_cached_too(store):
    lm, docs = FakeLM(), documents()
    clean = store.capture(lm, docs, MIXED).tensor()
    edit = add("blocks.0.hook_resid_post", 1.0, at=At.last())
    acts = store.capture(lm, docs, MIXED, edits=[edit])
    assert not acts.hit and not torch.allclose(acts.tensor(), clean)
    expected = [lm.run(d, capture=[MIXED], edits=[edit])[MIXED][0] for d in docs]
    assert torch.allclose(acts.tensor(), torch.cat(expected), atol=1e-6)
    assert store.capture(lm, docs, MIXED, edits=[edit]).hit
    assert not store.capture(lm, docs, MIXED, edits=[add("blocks.0.hook_resid_post", 1.5, at=At.last())]).hit


def test_values_with_a_batch_axis_are_cut_with_the_batch(store):
    lm, docs = FakeLM(), documents()
    batch = Batch.padded([d.tolist() for d in docs])
    noise = torch.randn(*batch.tokens.shape, 16, generator=torch.Generator().manual_seed(1))
    edits = [replace("hook_embed", noise, at=At.index(0).in_rows(0, 5, 39)), add("blocks.1.hook_resid_pre", noise)]
    acts = store.capture(lm, batch, MIXED, edits=edits)
    whole = lm.run(batch, capture=[MIXED], edits=edits)[MIXED][batch.mask]
    assert torch.allclose(acts.tensor(), whole, atol=1e-6)
    assert lm.forwards > 10  # it really was cut


def test_the_same_span_elsewhere_is_another_key(store):
    lm = FakeLM()
    rows = torch.randint(0, 97, (2, 8), generator=torch.Generator().manual_seed(0))
    mask = torch.ones_like(rows, dtype=torch.bool)
    edit = add("hook_embed", 1.0, at=At.span("subject"))
    here = Batch(rows, mask, {"subject": torch.tensor([[1, 3], [1, 3]])})
    there = Batch(rows, mask, {"subject": torch.tensor([[2, 4], [1, 3]])})
    first = store.capture(lm, here, MIXED, edits=[edit])
    second = store.capture(lm, there, MIXED, edits=[edit])
    assert not second.hit and not torch.equal(first.tensor(), second.tensor())


def test_edits_that_cannot_act_or_be_named_are_refused(store):
    lm, docs = FakeLM(), documents()
    with pytest.raises(EditDidNotFire, match="after the last captured site"):
        store.capture(lm, docs, MIXED, edits=[add("blocks.2.hook_resid_post", 1.0)])
    with pytest.raises(EditDidNotFire, match="no such position"):
        store.capture(lm, docs[:1], MIXED, edits=[add("hook_embed", 1.0, at=At.token(96))])
    with pytest.raises(BadInput, match="function"):
        store.capture(lm, docs, MIXED, edits=[call("hook_embed", torch.tanh)])
    assert lm.forwards == 0


# -- refusals


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ([], "no documents"),
        ([torch.zeros(0, dtype=torch.int64)], "document 0 has no tokens"),
        ([torch.zeros(3)], "token ids"),
        ("a text", "cannot capture a str"),
        ([torch.full((3,), 97)], "ids 0 to 96"),
        ([torch.zeros(65, dtype=torch.int64)], "the context of fake is 64"),
    ],
)
def test_bad_input_is_refused_before_anything_is_made(store, what, message):
    with pytest.raises(BadInput, match=message):
        store.capture(FakeLM(), what, MIXED)
    assert not store.root.exists()


def test_sites_that_are_not_rows_of_tokens_are_refused(store):
    with pytest.raises(BadInput, match="pair of tokens"):
        store.capture(FakeLM(), documents(), "blocks.0.attn.hook_pattern")
    with pytest.raises(UnknownSite):
        store.capture(FakeLM(), documents(), "blocks.0.hook_resid_pots")
    with pytest.raises(UnknownSite, match="Add it to `sites`"):
        store.capture(FakeLM(), documents(), MIXED)[NEURONS]
    with pytest.raises(BadInput, match="several sites"):
        store.capture(FakeLM(), documents(), [MIXED, NEURONS]).tensor()
    with pytest.raises(BadInput, match="dtype"):
        store.capture(FakeLM(), documents(), MIXED, dtype="int8")


def test_values_that_are_not_finite_are_not_stored(store):
    lm = FakeLM()
    lm.params["out1"][0, 0] = float("nan")
    with pytest.raises(BadInput, match=r"not finite.*NaN"):
        store.capture(lm, documents(), MIXED)
    big = FakeLM()
    big.params["embed"] *= 1e5
    with pytest.raises(BadInput, match="65504"):
        store.capture(big, documents(), MIXED, dtype="float16")
    assert not list(store.root.rglob("0*.json"))
    assert store.capture(big, documents(), MIXED, dtype="bfloat16").complete


def test_open_never_computes(store):
    lm, docs = FakeLM(), documents()
    with pytest.raises(StoreError, match="has nothing"):
        store.open(lm, docs, MIXED)
    store.capture(lm, docs, MIXED)
    before = lm.forwards
    assert store.open(lm, docs, MIXED).complete and lm.forwards == before


def test_root_comes_from_the_environment(private_cache):
    assert Store().root == private_cache


@pytest.mark.parametrize("width", [16, 15, 1, 2305])
def test_rows_of_any_width_map_side_by_side(tmp_path, width):
    lm, docs = FakeLM(d_model=width, n_heads=1, d_head=width), documents(80, longest=60)
    site = "blocks.0.hook_resid_pre"
    acts = Store(tmp_path, shard_bytes=width * 4 * 300).capture(lm, docs, site, dtype="bfloat16")
    truth = lm.params["embed"][torch.cat(docs)].to(torch.bfloat16)
    order = torch.randperm(len(acts), generator=torch.Generator().manual_seed(0))
    assert torch.equal(acts.only.take(order), truth[order]) and torch.equal(acts.tensor(), truth)


def test_rows_outlive_the_capture(store):
    acts = store.capture(FakeLM(), documents(), MIXED)
    view, truth = acts.rows(5, 20, copy=False), acts.rows(5, 20)
    del acts
    assert torch.equal(view, truth)
