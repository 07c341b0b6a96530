"""Texts that were seen are told from others, exactly where they are few and nearly where they are many."""

import pytest
import torch

from interp.core.dictionary.seen import KEPT, share_seen, sketch


def documents(start: int, stop: int) -> list[torch.Tensor]:
    return [torch.arange(number, number + 9) for number in range(start, stop)]


def test_few_are_told_exactly() -> None:
    kept = sketch(documents(0, 20))
    assert share_seen(kept, documents(0, 20)) == 1.0
    assert share_seen(kept, documents(15, 25)) == 0.5
    assert share_seen(kept, documents(100, 110)) == 0.0
    assert share_seen(kept, [one.int() for one in documents(3, 5)]) == 1.0
    assert share_seen(sketch([]), documents(0, 2)) == 0.0
    assert share_seen([], documents(0, 2)) is None


def test_many_are_told_about() -> None:
    kept = sketch(documents(0, 1000))
    assert len(kept) == KEPT
    assert share_seen(kept, documents(0, 400)) == 1.0
    assert share_seen(kept, documents(2000, 2400)) == 0.0
    assert share_seen(kept, documents(800, 1200)) == pytest.approx(0.5, abs=0.2)
