"""Minibatches: every row once an epoch, the same from the same seed, aligned over sites and models, resumable."""

import pytest
import torch

from interp.cache import Batches, Store, sampler
from interp.core.errors import BadInput, StoreError, WrongModel

from .fake import HEADS, MIXED, NEURONS, FakeLM, documents


@pytest.fixture(scope="module")
def acts(tmp_path_factory):
    store = Store(tmp_path_factory.mktemp("store"), shard_bytes=4 * 16 * 100)
    return store.capture(FakeLM(), documents(120), [MIXED, NEURONS, HEADS])


@pytest.fixture(params=["rows", "blocks", "none"])
def mixing(request, monkeypatch):
    """Small windows and blocks, so that many are needed."""
    monkeypatch.setattr(sampler, "WINDOW_BYTES", 30_000)
    monkeypatch.setattr(sampler, "BLOCK_BYTES", 1000)
    return request.param


def rows_seen(acts, batches):
    """Which rows came, found by their values (all different)."""
    whole = acts[MIXED].tensor()
    number = {tuple(row.tolist()): i for i, row in enumerate(whole)}
    assert len(number) > 0.9 * len(whole)
    return [number[tuple(row.tolist())] for batch in batches for row in batch], number


@pytest.mark.parametrize("prefetch", [False, True])
def test_an_epoch_is_a_permutation(acts, mixing, prefetch):
    sampler = acts[MIXED].batches(32, seed=3, mixing=mixing, prefetch=prefetch)
    batches = list(sampler)
    assert len(batches) == len(sampler) and [len(b) for b in batches[:-1]] == [32] * (len(batches) - 1)
    seen = torch.cat(batches)
    whole = acts[MIXED].tensor()
    assert torch.equal(seen[torch.argsort(seen[:, 0])][:, 0], whole[torch.argsort(whole[:, 0])][:, 0])
    assert torch.equal(seen, whole) == (mixing == "none")
    if mixing != "none":  # neighbours in the store are far apart
        order, _ = rows_seen(acts, batches)
        steps = torch.tensor(order).diff().abs().double()
        assert steps.median() > len(whole) / 20


def test_it_is_near_uniform_in_blocks_too(acts, monkeypatch):
    monkeypatch.setattr(sampler, "WINDOW_BYTES", 40_000)
    monkeypatch.setattr(sampler, "BLOCK_BYTES", 500)
    order, _ = rows_seen(acts, acts[MIXED].batches(64, seed=0, mixing="blocks"))
    thirds = torch.bucketize(torch.tensor(order[:600]), torch.tensor([len(acts) / 3, 2 * len(acts) / 3]))
    assert torch.bincount(thirds, minlength=3).min() > 100  # the first 600 rows come from all over


def test_same_seed_same_batches_other_seed_other_batches(acts, mixing):
    first = list(acts[MIXED].batches(32, seed=3, mixing=mixing, epochs=2))
    again = list(acts[MIXED].batches(32, seed=3, mixing=mixing, epochs=2))
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    half = len(first) // 2
    if mixing != "none":
        other = list(acts[MIXED].batches(32, seed=4, mixing=mixing))
        assert not torch.equal(first[0], other[0]) and not torch.equal(first[0], first[half])


def test_sites_are_aligned(acts, mixing):
    whole = {site: acts[site].tensor() for site in (MIXED, HEADS)}
    for batch in acts.batches(50, sites=[MIXED, HEADS], mixing=mixing):
        mixed, heads = batch[acts[MIXED].site], batch[acts[HEADS].site]
        for row, head in zip(mixed[:5], heads[:5], strict=True):
            candidates = (whole[MIXED] == row).all(dim=1).nonzero().flatten()
            assert any(torch.equal(whole[HEADS][i], head) for i in candidates)


def test_models_are_aligned(tmp_path):
    docs = documents(50)
    base = Store(tmp_path / "a", shard_bytes=5000).capture(FakeLM(0), docs, MIXED)
    tuned = Store(tmp_path / "b", shard_bytes=9000).capture(FakeLM(1), docs, MIXED, dtype="bfloat16")
    key = {tuple(row.tolist()): other for row, other in zip(base.tensor(), tuned.tensor(), strict=True)}
    for batch in Batches({"base": base.only, "tuned": tuned.only}, 40, seed=1):
        for row, other in zip(batch["base"], batch["tuned"], strict=True):
            assert torch.equal(key[tuple(row.tolist())], other)
    stacked = next(iter(Batches({"base": base.only, "tuned": tuned.only}, 40, stack=True, dtype=torch.float32)))
    assert stacked.shape == (40, 2, 16) and stacked.dtype == torch.float32


def test_views_that_do_not_line_up_are_refused(tmp_path):
    store = Store(tmp_path)
    base, other = store.capture(FakeLM(0), documents(50), MIXED), store.capture(FakeLM(1), documents(50, seed=1), MIXED)
    with pytest.raises(BadInput, match="do not line up"):
        Batches({"base": base.only, "other": other.only}, 8)
    wide = store.capture(FakeLM(0), documents(50), NEURONS)
    with pytest.raises(BadInput, match="one shape"):
        Batches({"base": base.only, "wide": wide.only}, 8, stack=True)


@pytest.mark.parametrize("stop", [0, 1, 7, 40, 75])
def test_resumed_equals_uninterrupted(acts, mixing, stop):
    def build():
        return acts[MIXED].batches(32, seed=5, mixing=mixing, epochs=2)

    whole = list(build())
    first = build()
    for _, _ in zip(range(stop), first, strict=False):
        pass
    resumed = build()
    resumed.load_state_dict(first.state_dict())
    rest = list(resumed)
    assert len(rest) == len(whole) - stop
    assert all(torch.equal(a, b) for a, b in zip(rest, whole[stop:], strict=True))


def test_a_state_of_other_data_is_refused(acts):
    state = acts[MIXED].batches(32, seed=5).state_dict()
    with pytest.raises(WrongModel, match="seed"):
        acts[MIXED].batches(32, seed=6).load_state_dict(state)
    with pytest.raises(WrongModel, match="data"):
        acts[HEADS].batches(32, seed=5).load_state_dict(state)


def test_rows_can_be_left_out(acts, mixing):
    later = acts.position(torch.arange(len(acts)))[1] > 0
    batches = list(acts[MIXED].batches(32, mixing=mixing, where=later))
    assert sum(map(len, batches)) == int(later.sum())
    kept = acts[MIXED].tensor()[later]
    seen = torch.cat(batches)
    assert torch.equal(seen[:, 0].sort().values, kept[:, 0].sort().values)
    with pytest.raises(BadInput, match="bool mask"):
        acts[MIXED].batches(32, where=later[:5])


def test_drop_last_and_endless(acts):
    sampler = acts[MIXED].batches(100, epochs=None, drop_last=True)
    steady = [len(batch) for _, batch in zip(range(3 * len(sampler)), sampler, strict=False)]
    assert set(steady) == {100} and sampler.epoch == 3
    with pytest.raises(BadInput, match="rows to draw from"):
        acts[MIXED].batches(10**9)


@pytest.mark.parametrize("drop_last", [False, True])
def test_shares_of_several_processes_make_the_batches_of_one(acts, mixing, drop_last):
    options = {"seed": 3, "mixing": mixing, "drop_last": drop_last, "epochs": 2}
    whole = acts[MIXED].batches(37, **options)
    parts = [acts[MIXED].batches(37, share=(index, 3), **options) for index in range(3)]
    for batch, *mine in zip(whole, *parts, strict=True):
        assert torch.equal(torch.cat(mine), batch)
        assert max(map(len, mine)) - min(map(len, mine)) <= 1
        assert all(part.state_dict() == whole.state_dict() for part in parts)
    with pytest.raises(BadInput, match="index < count"):
        acts[MIXED].batches(37, share=(3, 3))


def test_incomplete_captures_are_refused(tmp_path):
    store = Store(tmp_path, shard_bytes=5000)
    part = store.capture(FakeLM(), documents(50), MIXED, shard=(0, 2))
    assert not part.complete and "incomplete" in part.describe()
    with pytest.raises(StoreError, match="refresh"):
        part.batches(8)
    with pytest.raises(StoreError, match="not there yet"):
        part.tensor()
