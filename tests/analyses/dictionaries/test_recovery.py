"""Recovery: numbers by hand on dictionaries that are made of the true features, and nothing for a dictionary of noise."""

import itertools

import numpy as np
import pytest
import torch

import interp
from interp.analyses.dictionaries.recovery import recovery
from interp.core.dictionary import Codes
from interp.core.errors import BadInput
from interp.core.stats import random_directions
from interp.data.features import FeatureWorld

WORLD = FeatureWorld(features=12, width=8, probability=0.3)


def test_the_true_dictionary_has_everything() -> None:
    order = torch.randperm(12, generator=torch.Generator().manual_seed(0))
    codes, truth = WORLD.codes(500), WORLD.codes(500)
    found = recovery(-3.0 * WORLD.directions[order], WORLD.directions, codes=codes[:, order], truth=truth)
    assert found.mcc() == pytest.approx(1, abs=1e-6) and found.mmcs() == pytest.approx(1, abs=1e-6)
    assert found.recovered() == found.uniqueness() == found.coverage() == found.f1() == 1 and found.alive == 12
    assert found.data["nearest"].values.tolist() == order.tolist()
    assert float(found.data["cosine"].mean()) == pytest.approx(-1)
    assert found.chance() < 0.8
    np.testing.assert_allclose(found.data["density"], (truth[:, order] > 0).double().mean(0))


def test_missing_and_double_latents() -> None:
    decoder = torch.cat([WORLD.directions[:9], WORLD.directions[:9], torch.zeros(2, 8)])
    found = recovery(decoder, WORLD.directions)
    assert (
        found.alive == 18 and found.uniqueness() == pytest.approx(9 / 18) and found.coverage() == pytest.approx(9 / 12)
    )
    assert found.recovered() == pytest.approx(9 / 12) and found.data["nearest"].values.tolist()[-2:] == [-1, -1]
    short = recovery(WORLD.directions[:9], WORLD.directions)
    assert int((short.data["match"] < 0).sum()) == 3 and short.mcc() == pytest.approx(
        9 / 12, abs=1e-6
    )  # absent ones count as 0
    with pytest.raises(BadInput, match="codes"):
        short.f1()


def test_the_matching_is_the_best_of_all() -> None:
    decoder = random_directions(5, 4)
    directions = random_directions(4, 4, 1)
    size = (decoder @ directions.T).abs()
    best = max(
        sum(float(size[latent, f]) for f, latent in enumerate(one)) for one in itertools.permutations(range(5), 4)
    )
    assert recovery(decoder, directions).mcc() == pytest.approx(best / 4, abs=1e-6)


def test_detection_by_hand() -> None:
    directions = torch.eye(2)
    truth = torch.tensor([[1.0, 0], [1, 0], [1, 0], [0, 1], [0, 1], [0, 0]])
    codes = torch.tensor([[1.0, 0, 0], [2, 0, 0], [0, 0, 0], [1, 0.5, 0], [0, 0.5, 0], [0, 0.5, 0]])
    for given in (codes, Codes.of(codes)):
        found = recovery(torch.tensor([[1.0, 0], [0, 2], [1, 1]]), directions, codes=given, truth=truth).data
        assert found["alive"].values.tolist() == [True, True, False]
        np.testing.assert_allclose(found["precision"], [2 / 3, 2 / 3, np.nan])
        np.testing.assert_allclose(found["recall"], [2 / 3, 1, np.nan])
        np.testing.assert_allclose(found["f1"], [2 / 3, 0.8, np.nan])
        np.testing.assert_allclose(found["density"], [0.5, 0.5, 0])


def test_absorption_counts_rows_where_the_parents_latent_is_silent() -> None:
    world = FeatureWorld(features=8, width=8, parents=2, children=3, probability=0.5)
    truth = world.codes(6000)  # more than one block of rows
    codes = truth.clone()
    whole = recovery(world.directions, world.directions, codes=codes, truth=truth, parent=world.parent)
    assert whole.absorption() == 0 and whole.data["together"].values[:2].tolist() == [0, 0]
    codes[:, 0][truth[:, 2] > 0] = 0  # child 2 of parent 0 takes its part over
    found = recovery(world.directions, world.directions, codes=codes, truth=truth, parent=world.parent)
    expected = int((truth[:, 2] > 0).sum())
    assert found.data["silent"].values.tolist() == [0, 0, expected, 0, 0, 0, 0, 0]
    assert found.absorption() == pytest.approx(expected / int((truth[:, 2:] > 0).sum()))


def test_a_dictionary_of_noise_recovers_nothing_and_chance_says_so() -> None:
    world = FeatureWorld(features=48, width=32)
    found = recovery(random_directions(96, 32, 5), world.directions)
    assert found.recovered() == 0 and abs(found.mmcs() - found.chance()) < 0.03
    nothing = recovery(torch.zeros(4, 32), world.directions)
    assert nothing.mcc() == nothing.mmcs() == nothing.chance() == nothing.alive == 0 and np.isnan(nothing.uniqueness())


def test_it_is_saved_and_opened(tmp_path) -> None:
    found = recovery(WORLD.directions, WORLD.directions, codes=WORLD.codes(50), truth=WORLD.codes(50))
    found.save(tmp_path / "found")
    again = interp.open(tmp_path / "found")
    assert again.headline() == found.headline() and again.report_lines() == found.report_lines()
    assert set(found.headline()) == {"MCC", "recovered", "alive"} and len(found.to_frame("best")) == 12


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"decoder": torch.ones(3, 7)}, "7 components"),
        ({"directions": torch.zeros(2, 8)}, "no direction zero"),
        ({"truth": torch.ones(4, 12)}, "`codes`"),
        ({"codes": torch.ones(4, 9)}, "`codes` has 9"),
        ({"codes": torch.ones(4, 12), "truth": torch.ones(5, 12)}, "`truth rows` has 5"),
        ({"parent": torch.full((12,), 12)}, "0 to 11"),
        ({"alive": torch.ones(3, dtype=torch.bool)}, "`alive` has 3"),
    ],
)
def test_refusals(given: dict, said: str) -> None:
    decoder, directions = given.pop("decoder", WORLD.directions), given.pop("directions", WORLD.directions)
    with pytest.raises(BadInput, match=said):
        recovery(decoder, directions, **given)
