"""List, measure, make room; nothing in use goes."""

import os
import time

import pytest

from interp.cache import Store, ledger
from interp.core.errors import StoreError

from .fake import MIXED, NEURONS, FakeLM, documents


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "store", shard_bytes=4 * 16 * 100)


def age(store, days, **match):
    for item in store.ls():
        if all(getattr(item, name) == value for name, value in match.items()):
            then = time.time() - 86400 * days
            os.utime(item.path / "lock", (then, then))


def test_ls_and_size(store):
    assert store.ls() == [] and store.size() == 0
    acts = store.capture(FakeLM(), documents(), [MIXED, NEURONS])
    items = {item.site: item for item in store.ls()}
    assert set(items) == {MIXED, NEURONS}
    item = items[MIXED]
    assert item.model == "fake" and item.tokens == item.rows == len(acts) and item.documents == 40 and item.complete
    assert item.key == acts[MIXED].key and item.in_use and abs(item.created - time.time()) < 60
    assert sum(i.bytes for i in items.values()) < store.size()
    acts.close()
    assert not any(item.in_use for item in store.ls())


def test_incomplete_captures_are_listed_as_such(store):
    store.capture(FakeLM(), documents(), MIXED, shard=(0, 2))
    (item,) = store.ls()
    assert not item.complete and 0 < item.rows < item.tokens
    assert [gone.site for gone in store.gc(incomplete=True)] == [MIXED]
    assert store.ls() == []


def test_gc_takes_the_least_recently_used_first(store):
    for seed in range(3):
        store.capture(FakeLM(seed), documents(), MIXED)
    first, second, third = sorted(store.ls(), key=lambda item: item.created)
    age(store, 3, key=second.key), age(store, 2, key=first.key)
    keep = store.size() - 1
    assert [item.key for item in store.gc(max_bytes=keep, dry_run=True)] == [second.key]
    assert len(store.ls()) == 3
    assert [item.key for item in store.gc(max_bytes=keep)] == [second.key]
    assert {item.key for item in store.ls()} == {first.key, third.key}
    assert len(store.gc(max_bytes=0)) == 2
    assert store.size() == 0  # runs without a site go too


def test_using_it_counts_as_use(store):
    store.capture(FakeLM(0), documents(), MIXED)
    store.capture(FakeLM(1), documents(), MIXED)
    age(store, 30)
    store.capture(FakeLM(0), documents(), MIXED)
    (gone,) = store.gc(older_than=10 * ledger.DAY)
    assert store.capture(FakeLM(0), documents(), MIXED).hit
    assert gone.last_used < time.time() - 86400 * 20


def test_nothing_in_use_is_removed(store):
    acts = store.capture(FakeLM(), documents(), [MIXED])
    other = store.capture(FakeLM(), documents(), [NEURONS])
    other.close()
    assert [item.site for item in store.gc(max_bytes=0)] == [NEURONS]
    assert len(acts.tensor()) == len(acts)
    del acts, other
    assert [item.site for item in store.gc(max_bytes=0)] == [MIXED]


def test_old_unfinished_files_are_swept(store):
    acts = store.capture(FakeLM(), documents(), MIXED)
    old, new = acts.only.entry.path / ".tmp-1-old", acts.only.entry.path / ".tmp-1-new"
    old.write_bytes(b"x"), new.write_bytes(b"x")
    os.utime(old, (0, 0))
    store.gc()
    assert not old.exists() and new.exists()


def test_other_files_in_the_directory_are_left_alone(store):
    store.capture(FakeLM(), documents(), MIXED)
    (store.root / "notes.txt").write_text("mine")
    (store.root / "folder").mkdir()
    store.gc(max_bytes=0)
    assert (store.root / "notes.txt").exists() and (store.root / "folder").exists()


def test_find_by_key(store):
    acts = store.capture(FakeLM(), documents(), [MIXED, NEURONS])
    assert store.find(acts[NEURONS].key[:8]).only.site.name == NEURONS
    assert {site.name for site in store.find(acts.group.path.name[:8]).sites} == {MIXED, NEURONS}
    with pytest.raises(StoreError, match="no capture"):
        store.find("zzz")


def test_rows_for_a_table_are_text(store):
    acts = store.capture(FakeLM(), documents(), MIXED)
    (item,) = store.ls()
    key, model, site, tokens, _, state, _ = item.row()
    assert (key, model, state) == (acts.only.key[:8], "fake", "complete, in use")
    assert site == f"{MIXED} (float32)" and tokens == f"{len(acts):,}"
    store.capture(FakeLM(1), documents(), MIXED, shard=(0, 2))
    assert any("there" in item.row()[5] for item in store.ls())
