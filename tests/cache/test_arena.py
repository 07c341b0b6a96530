"""Mapping shards side by side: nothing is left behind, and platforms without it read the same."""

import gc
import sys
from pathlib import Path

import pytest
import torch

from interp.cache import Store, arena

from .fake import MIXED, FakeLM, direct, documents


def captured(root):
    return Store(root, shard_bytes=4 * 16 * 100).capture(FakeLM(), documents(), MIXED)


def test_without_mmap_of_ones_choosing(tmp_path, monkeypatch):
    captured(tmp_path)
    monkeypatch.setattr(arena, "_SUPPORTED", False)
    acts = captured(tmp_path)
    assert acts.hit and torch.equal(acts.tensor(), direct(FakeLM(), documents(), MIXED))
    assert torch.equal(next(iter(acts.batches(len(acts), mixing="none")))[acts.only.site], acts.tensor())


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_address_space_is_given_back(tmp_path):
    captured(tmp_path)

    def mapped():
        return Path("/proc/self/maps").read_text().count(".safetensors")

    before = mapped()
    acts = captured(tmp_path)
    view = acts.rows(0, 10, copy=False)
    acts.tensor()
    assert mapped() > before + 3
    del acts
    gc.collect()
    assert mapped() > before  # the view still needs it
    del view
    gc.collect()
    assert mapped() == before


def test_writing_to_a_view_never_reaches_the_disk(tmp_path):
    captured(tmp_path).rows(0, 10, copy=False).zero_()
    assert torch.equal(captured(tmp_path).tensor(), direct(FakeLM(), documents(), MIXED))
    assert Store(tmp_path).verify() == []
