"""The synthetic world: rows are what their codes say, and features are on as often and together as they were told to."""

import pytest
import torch

from interp.core.errors import BadInput
from interp.data.features import FeatureWorld

N = 40_000


def test_rows_are_sums_of_the_directions() -> None:
    world = FeatureWorld()
    codes = world.codes(500, seed=3)
    torch.testing.assert_close(world.rows(500, seed=3), codes @ world.directions)
    on = codes[codes > 0]
    assert abs(float(on.mean()) - 1) < 0.02 and abs(float(on.std()) - 0.2) < 0.02
    noisy = FeatureWorld(noise=0.1)
    left = noisy.rows(500, seed=3) - noisy.codes(500, seed=3) @ noisy.directions
    assert torch.equal(noisy.codes(500, seed=3), codes) and abs(float(left.std()) - 0.1) < 0.005


def test_seeds_name_the_draw() -> None:
    world = FeatureWorld()
    assert torch.equal(world.rows(50, seed=1), FeatureWorld().rows(50, seed=1))
    assert not torch.equal(world.rows(50, seed=1), world.rows(50, seed=2))
    assert not torch.equal(world.directions, FeatureWorld(seed=1).directions)


def test_probabilities_are_kept() -> None:
    for world in (
        FeatureWorld(),
        FeatureWorld(zipf=1.0, probability=0.05),
        FeatureWorld(pairs=0.8),
        FeatureWorld(parents=12, children=3, probability=0.2),
    ):
        seen = (world.codes(N) > 0).double().mean(0)
        assert (seen - world.probabilities).abs().max() < 5 * (0.25 / N) ** 0.5
        assert abs(float(seen.sum()) - world.l0) < 0.06
    assert FeatureWorld(zipf=1.0).probabilities.diff().max() < 0


def test_pairs_have_the_correlation() -> None:
    on = (FeatureWorld(pairs=0.8).codes(N) > 0).double()
    found = torch.corrcoef(on.T)
    assert abs(float(found[0::2, 1::2].diagonal().mean()) - 0.8) < 0.02
    assert abs(float(found[0::2, 0::2].fill_diagonal_(0).mean())) < 0.01


def test_children_are_on_with_their_parent_and_never_two() -> None:
    world = FeatureWorld(parents=12, children=3, probability=0.2)
    on = world.codes(N) > 0
    assert world.parent[:12].tolist() == [-1] * 12 and world.parent[12:].tolist() == [i // 3 for i in range(36)]
    for child in range(12, 48):
        assert bool((on[:, child] <= on[:, world.parent[child]]).all())
    assert int(on[:, 12:].reshape(N, 12, 3).sum(2).max()) == 1
    share = on[:, 12:].sum() / on[:, :12].sum()
    assert abs(float(share) - 0.6) < 0.02


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"probability": 1.5}, r"not 1\.5"),
        ({"parents": 10}, "features=40"),
        ({"pairs": 0.5, "features": 47}, "even number"),
        ({"zipf": 2.0, "probability": 0.5}, "at most 0.0"),
        ({"features": 0}, "not 0"),
        ({"noise": float("nan")}, "noise"),
        ({"parents": 4, "children": 0}, "with children"),
    ],
)
def test_refusals(fields: dict, said: str) -> None:
    with pytest.raises(BadInput, match=said):
        FeatureWorld(**fields)
    with pytest.raises(BadInput, match="one row"):
        FeatureWorld().codes(0)
