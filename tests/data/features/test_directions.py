"""Directions: unit, spread, named by their seed, and partners at the angle that was asked for."""

import pytest
import torch

from interp.core.errors import BadInput
from interp.data.features import directions as module
from interp.data.features.directions import lean, overlap, spread


def test_more_directions_than_dimensions_repel_one_another() -> None:
    random, found = spread(48, 32, 0, "a", steps=0), spread(48, 32, 0, "a")
    assert found.dtype == torch.float32 and found.shape == (48, 32)
    torch.testing.assert_close(found.norm(dim=1), torch.ones(48))
    assert overlap(random).mean() > 0.35
    assert (
        0.103 < overlap(found).mean() < 0.14 and overlap(found).max() < 0.15
    )  # Welch's bound, and the figure of the specs


def test_no_more_than_dimensions_are_orthonormal() -> None:
    found = spread(20, 32, 1, "b").double()
    torch.testing.assert_close(found @ found.T, torch.eye(20, dtype=torch.float64), atol=1e-6, rtol=0)
    assert overlap(spread(1, 4)).tolist() == [0.0]


def test_names_decide() -> None:
    assert torch.equal(spread(10, 8, 0, "a"), spread(10, 8, 0, "a"))
    assert not torch.equal(spread(10, 8, 0, "a"), spread(10, 8, 0, "b"))
    assert not torch.equal(spread(10, 8, 0, "a"), spread(10, 8, 1, "a"))


def test_in_blocks_as_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    whole, largest = spread(20, 8, steps=5), overlap(spread(20, 8, steps=5))
    monkeypatch.setattr(module, "BLOCK", 7)
    torch.testing.assert_close(spread(20, 8, steps=5), whole)
    torch.testing.assert_close(overlap(whole), largest)


@pytest.mark.parametrize("cosine", [0.95, 0.6, 0.0, -1.0, 1.0])
def test_partners_lean_by_the_angle(cosine: float) -> None:
    base = spread(30, 16)
    tuned = lean(base, cosine)
    torch.testing.assert_close((base * tuned).sum(1), torch.full((30,), cosine), atol=1e-6, rtol=0)
    torch.testing.assert_close(tuned.norm(dim=1), torch.ones(30))


def test_refusals() -> None:
    with pytest.raises(BadInput, match="0 directions of 3"):
        spread(0, 3)
    with pytest.raises(BadInput, match=r"not 1\.2"):
        lean(spread(2, 3), 1.2)
    with pytest.raises(BadInput, match="zero"):
        lean(torch.zeros(2, 3), 0.5)
    with pytest.raises(BadInput, match="one dimension"):
        lean(torch.ones(2, 1), 0.5)
