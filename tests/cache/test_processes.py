"""Several processes, killed processes, readers beside writers."""

import hashlib
import json
import time

import pytest
import torch

from interp.cache import Store
from interp.core.errors import StoreError

from .fake import MIXED, NEURONS, FakeLM, direct, documents
from .worker import COUNT, SETTINGS, Worker


def contents(root):
    """Every shard, by content."""
    return {
        path.relative_to(root).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in root.rglob("0*.safetensors")
    }


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    root = tmp_path_factory.mktemp("whole")
    acts = Store(root, **SETTINGS).capture(FakeLM(), documents(COUNT), [MIXED, NEURONS])
    return contents(root), {site: acts[site].stats for site in (MIXED, NEURONS)}


@pytest.mark.parametrize("pieces", [0, 9, 31, 60])
def test_killed_in_mid_write_then_resumed_equals_uninterrupted(tmp_path, uninterrupted, pieces):
    root = tmp_path / "store"
    assert Worker(root, tmp_path / "a", die_after=pieces).killed()
    assert list(root.rglob(".tmp-*")) and list(root.rglob("*.claim"))  # it did die in the middle
    kept = contents(root)
    assert kept.items() <= uninterrupted[0].items()
    store, lm = Store(root, **SETTINGS), FakeLM()
    if kept:
        half = store.open(lm, documents(COUNT), [MIXED])
        assert not half.complete
        for record in half.only.entry.records():
            first = record.documents[0]
            assert torch.equal(half.example(first), direct(FakeLM(), documents(COUNT)[first : first + 1], MIXED))
    acts = store.capture(lm, documents(COUNT), [MIXED, NEURONS])
    assert contents(root) == uninterrupted[0]
    for site, stats in uninterrupted[1].items():
        assert (acts[site].stats.total == stats.total).all() and (acts[site].stats.squares == stats.squares).all()
    if pieces >= 31:
        assert lm.tokens_run < len(acts)  # complete shards were kept
    assert store.verify() == []


def test_two_processes_with_the_same_key_share_the_work(tmp_path, uninterrupted):
    root = tmp_path / "store"
    first = Worker(root, tmp_path / "a", delay=0.1)
    wait_for(lambda: list(root.rglob("*.claim")))
    both = [first, Worker(root, tmp_path / "b", delay=0.03)]
    ran = [worker.result() for worker in both]
    assert all(tokens for tokens, _ in ran)  # both did some of it
    assert all(complete for _, complete in ran)
    assert contents(root) == uninterrupted[0]
    rows = sum(map(len, documents(COUNT)))
    assert sum(tokens for tokens, _ in ran) == rows  # nothing was computed twice
    assert Store(root).verify() == []


def test_a_claim_of_a_killed_process_is_taken_over(tmp_path, uninterrupted):
    root = tmp_path / "store"
    slow = Worker(root, tmp_path / "a", delay=5.0)
    wait_for(lambda: list(root.rglob("*.claim")))
    fast = Worker(root, tmp_path / "b")
    wait_for(lambda: len(list(root.rglob("0*.json"))) > 5)
    assert fast.running()  # it has done the rest and waits for what is claimed
    slow.kill()
    _, complete = fast.result()
    assert complete and contents(root) == uninterrupted[0]


def test_disjoint_writers_and_a_reader_beside_them(tmp_path, uninterrupted):
    root = tmp_path / "store"
    docs, store = documents(COUNT), Store(root, **SETTINGS)
    truth = direct(FakeLM(), docs, MIXED)
    writers = [Worker(root, tmp_path / str(index), shard=(index, 3), delay=0.05) for index in range(3)]
    wait_for(lambda: list(root.rglob(f"{MIXED}.float32/0*.json")))
    acts, reads, refused = store.open(FakeLM(), docs, MIXED), 0, 0
    while any(worker.running() for worker in writers):
        acts.refresh()
        for index in range(0, COUNT, 7):
            first, last = acts.range_of(index)
            try:
                assert torch.equal(acts.example(index), truth[first:last])
                reads += 1
            except StoreError as error:
                assert "not there yet" in str(error)
                refused += 1
    results = [worker.result() for worker in writers]
    assert sum(tokens for tokens, _ in results) == len(truth)
    assert any(complete for _, complete in results)
    assert reads and refused
    assert contents(root) == uninterrupted[0]
    assert store.capture(FakeLM(), docs, [MIXED, NEURONS]).hit  # whoever was last sealed it
    manifest = json.loads(next(root.rglob(f"{MIXED}.float32/manifest.json")).read_text())
    assert manifest["rows"] == len(truth)


def wait_for(condition, seconds=60):
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.01)
