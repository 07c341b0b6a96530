"""Disks that are full, directories that are closed, bytes that changed: a clear error or a correct store, never a wrong number."""

import errno
import os
import subprocess

import pytest
import torch

from interp.cache import Store, disk, shard
from interp.core.errors import CorruptShard, StoreError

from .fake import MIXED, NEURONS, FakeLM, direct, documents

SMALL = {"shard_bytes": 4 * 16 * 100, "forward_tokens": 64}


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "store", **SMALL)


@pytest.fixture
def filled(store):
    store.capture(FakeLM(), documents(), MIXED)
    shard._verified.clear()
    return store


def files(store, pattern="0*.safetensors"):
    return sorted(store.root.rglob(pattern))


def flip(path, at):
    with path.open("r+b") as file:
        file.seek(at)
        byte = file.read(1)[0]
        file.seek(at)
        file.write(bytes([byte ^ 4]))


# -- changed bytes


def test_a_truncated_shard_is_refused_and_repaired(filled):
    victim = files(filled)[2]
    os.truncate(victim, victim.stat().st_size - 100)
    with pytest.raises(CorruptShard, match=rf"{victim.name}.*--repair"):
        filled.capture(FakeLM(), documents(), MIXED)
    (problem,) = filled.verify()
    assert problem.path == victim and not problem.repaired
    filled.verify(repair=True)
    check_recovery(filled, rows_at_most=110)


def test_a_flipped_bit_is_refused_and_repaired(filled):
    victim = files(filled)[3]
    flip(victim, 3000)
    acts = filled.capture(FakeLM(), documents(), MIXED)
    with pytest.raises(CorruptShard, match=rf"{victim.name}.*checksum"):
        acts.tensor()
    assert torch.equal(acts.example(0), direct(FakeLM(), documents()[:1], MIXED))  # other shards are fine
    assert [problem.repaired for problem in filled.verify(repair=True)] == [True]
    check_recovery(filled, rows_at_most=110)


@pytest.mark.parametrize("where", ["header", "rows", "sums"])
def test_every_part_of_a_shard_is_covered(filled, where):
    victim = files(filled)[0]
    flip(victim, {"header": 20, "rows": victim.stat().st_size // 2, "sums": victim.stat().st_size - 5}[where])
    acts = filled.capture(FakeLM(), documents(), MIXED)
    with pytest.raises(CorruptShard):
        _ = acts.stats if where == "sums" else acts.example(0)


@pytest.mark.parametrize("name", ["manifest.json", "00001.json", "run.json", "tokens.safetensors"])
def test_damaged_bookkeeping_is_refused_and_repaired(filled, name):
    victim = next(filled.root.rglob(name))
    if name == "00001.json":
        next(filled.root.rglob("manifest.json")).unlink()
    flip(victim, victim.stat().st_size // 2)
    with pytest.raises(CorruptShard, match=name):
        acts = filled.capture(FakeLM(), documents(), MIXED)
        _ = acts.tokens
    assert filled.ls()
    assert filled.verify(repair=True)
    check_recovery(filled)


def test_a_missing_shard_is_refused_and_repaired(filled):
    files(filled)[1].unlink()
    with pytest.raises(CorruptShard, match="it is missing"):
        filled.capture(FakeLM(), documents(), MIXED)
    filled.verify(repair=True)
    check_recovery(filled, rows_at_most=110)


def test_a_shard_cut_short_under_an_open_reader_is_refused(filled):
    acts = filled.capture(FakeLM(), documents(), MIXED)
    acts.tensor()
    victim = files(filled)[0]
    os.truncate(victim, 500)
    with pytest.raises(CorruptShard, match="500 bytes"):
        acts.example(0)


def test_verify_always_and_never(filled):
    def reader(verify):
        return Store(filled.root, verify=verify, **SMALL).capture(FakeLM(), documents(), MIXED)

    always, first, never = (reader(verify) for verify in ("always", "first", "never"))
    assert torch.equal(always.example(0), first.example(0))
    victim = files(filled)[0]
    stamp = victim.stat()
    flip(victim, 1000)
    os.utime(victim, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))  # not even the time of change gives it away
    with pytest.raises(CorruptShard):
        always.example(0)
    first.example(0), never.example(0)


def check_recovery(store, rows_at_most=None):
    lm = FakeLM()
    acts = store.capture(lm, documents(), MIXED)
    assert torch.equal(acts.tensor(), direct(FakeLM(), documents(), MIXED))
    assert rows_at_most is None or lm.tokens_run <= rows_at_most
    assert store.verify() == [] and store.capture(lm, documents(), MIXED).hit


# -- full disks


def test_the_disk_fills_up_in_mid_write(store, monkeypatch):
    real, written = os.write, 0
    pair = sum(shard.file_bytes(100, (width,), "float32") for width in (16, 24))  # one shard of each site, at most

    def write(fd, data):
        nonlocal written
        if written > 2.5 * pair:
            raise OSError(errno.ENOSPC, "No space left on device")
        data = data[:1000]  # a system call may also write less than it was given
        written += len(data)
        return real(fd, data)

    monkeypatch.setattr(disk.os, "write", write)
    with pytest.raises(StoreError, match=r"disk is full.*interp cache gc.*INTERP_CACHE"):
        store.capture(FakeLM(), documents(), [MIXED, NEURONS])
    assert not list(store.root.rglob(".tmp-*")) and not list(store.root.rglob("*.claim"))
    monkeypatch.undo()
    assert store.verify() == [] and len(files(store)) >= 4  # what was whole when the disk was full is kept
    lm = FakeLM()
    acts = store.capture(lm, documents(), [MIXED, NEURONS])
    assert torch.equal(acts[MIXED].tensor(), direct(FakeLM(), documents(), MIXED))
    assert 0 < lm.tokens_run < len(acts)


def test_a_disk_that_is_really_full(tmp_path):
    mount = tmp_path / "small"
    mount.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", mount], capture_output=True).returncode:
        pytest.skip("mounting a small tmpfs needs root")
    try:
        store = Store(mount / "store", shard_bytes=4 * 16 * 400, forward_tokens=64)
        with pytest.raises(StoreError, match=r"needs .* free. Nothing was computed"):
            store.capture(FakeLM(), documents(1500), [MIXED])
        assert not store.root.exists()
        (mount / "ballast").write_bytes(b"x" * 750_000)
        store._afford = lambda preview: None  # as if somebody else filled it meanwhile
        with pytest.raises(StoreError, match="disk is full"):
            store.capture(FakeLM(), documents(200), [MIXED])
        (mount / "ballast").unlink()
        assert store.verify() == [] and not list(store.root.rglob(".tmp-*"))
        assert store.capture(FakeLM(), documents(200), [MIXED]).complete
    finally:
        subprocess.run(["umount", "-l", mount], check=True)


def test_max_disk_is_enforced_before_anything_is_computed(tmp_path):
    lm, docs = FakeLM(), documents()
    store = Store(tmp_path, max_disk=200_000, **SMALL)
    store.capture(lm, docs, MIXED)
    before = lm.forwards, store.size()
    with pytest.raises(
        StoreError, match=r"needs .*kB; the store may hold 200.0 kB .*--max-disk.* leaves.*interp cache gc"
    ):
        store.capture(lm, docs, [MIXED, NEURONS])
    assert (lm.forwards, store.size()) == before
    assert store.capture(lm, docs, MIXED).hit  # reading costs nothing
    store.gc(max_bytes=0)
    assert store.capture(lm, docs, NEURONS).complete


# -- closed directories


def test_a_root_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StoreError, match=r"cannot write.*INTERP_CACHE"):
        Store(tmp_path / "file" / "store").capture(FakeLM(), documents(), MIXED)


def test_a_read_only_store_can_still_be_read(filled):
    root = filled.root
    bound = subprocess.run(["mount", "--bind", root, root], capture_output=True).returncode == 0
    if not bound or subprocess.run(["mount", "-o", "remount,ro,bind", root], capture_output=True).returncode:
        pytest.skip("a read-only mount needs root")
    try:
        acts = filled.capture(FakeLM(), documents(), MIXED)
        assert acts.hit and torch.equal(acts.tensor(), direct(FakeLM(), documents(), MIXED))
        with pytest.raises(StoreError, match=r"cannot write.*[Rr]ead-only.*INTERP_CACHE"):
            filled.capture(FakeLM(), documents(), NEURONS)
        assert filled.ls() and filled.verify() == []
        with pytest.raises(StoreError, match="cannot write"):
            filled.gc(max_bytes=0) if acts.close() is None else None
    finally:
        subprocess.run(["umount", "-l", root], check=True)


# -- what goes wrong in the model or the thread


def test_an_error_in_the_model_leaves_complete_shards_only(store):
    lm = FakeLM()
    read, calls = lm.read, 0

    def failing(documents, sites):
        nonlocal calls
        calls += 1
        if calls > 5:
            raise RuntimeError("the GPU fell off")
        return read(documents, sites)

    lm.read = failing
    with pytest.raises(RuntimeError, match="fell off"):
        store.capture(lm, documents(), MIXED)
    assert not list(store.root.rglob(".tmp-*")) and not list(store.root.rglob("*.claim"))
    assert store.verify() == []
    lm.read = read
    assert torch.equal(store.capture(lm, documents(), MIXED).tensor(), direct(FakeLM(), documents(), MIXED))


def test_a_model_that_gives_too_few_rows_is_refused(store):
    lm = FakeLM()
    read = lm.read
    lm.read = lambda documents, sites: {site: rows[:-1] for site, rows in read(documents, sites).items()}
    with pytest.raises(Exception, match="instead of"):
        store.capture(lm, documents(), MIXED)
