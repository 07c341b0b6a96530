"""The world of two models: strengths, directions and kinds are what they are said to be."""

import numpy as np
import pytest
import torch

from interp.core.errors import BadInput
from interp.data.features.pair import KINDS, PairWorld


def test_every_kind_is_as_strong_in_each_model_as_its_ratio_says():
    world = PairWorld.small(seed=3)
    strength = world.strengths(20_000, seed=1)
    assert world.concepts == 48 and world.mean_on == pytest.approx(2.4)
    assert world.kinds.tolist() == [
        kind for kind, size in zip(KINDS, (24, 6, 6, 6, 6), strict=True) for _ in range(size)
    ]
    for concept, kind in enumerate(world.kinds):
        base, tuned = strength["base"][:, concept], strength["tuned"][:, concept]
        if kind in ("shared", "weak"):
            assert torch.equal(base, tuned * {"shared": 1.0, "weak": 0.4}[kind])
        elif kind == "dec":
            assert torch.equal(base > 0, tuned > 0)
            on = base > 0
            assert abs(float(torch.corrcoef(torch.stack([base[on], tuned[on]]))[0, 1])) < 0.15
        else:
            assert bool((base > 0).any()) is (kind == "base") and bool((tuned > 0).any()) is (kind == "tuned")
        on = torch.maximum(base, tuned) > 0
        assert float(on.float().mean()) == pytest.approx(0.05, abs=0.008)
        assert 0.5 <= float(torch.maximum(base, tuned)[on].max()) <= 1.5


@pytest.mark.parametrize("cosine", [1.0, 0.6, 0.0])
def test_the_two_directions_of_a_concept_have_the_cosine_that_was_asked_for(cosine):
    directions = PairWorld.small(cosine=cosine).directions
    found = (directions["base"] * directions["tuned"]).sum(dim=1)
    assert torch.allclose(found, torch.full_like(found, cosine), atol=1e-5)
    assert torch.allclose(directions["base"].norm(dim=1), torch.ones(48), atol=1e-5)


def test_rows_are_strengths_times_directions_and_repeat_by_seed():
    world = PairWorld.small(seed=1)
    rows, strength = world.rows(500, seed=4), world.strengths(500, seed=4)
    for name in ("base", "tuned"):
        assert torch.allclose(rows[name], strength[name] @ world.directions[name], atol=1e-6)
        assert torch.equal(rows[name], world.rows(500, seed=4)[name])
        assert not torch.equal(rows[name], world.rows(500, seed=5)[name])
    noisy = PairWorld.small(seed=1, noise=0.05).rows(500, seed=4)["base"]
    assert float((noisy - rows["base"]).std()) == pytest.approx(0.05, rel=0.05)
    apart = PairWorld.small(base_width=20).rows(10)
    assert apart["base"].shape == (10, 20) and apart["tuned"].shape == (10, 32)


def test_true_decoders_are_identified_and_others_are_not():
    world = PairWorld.small()
    strong = {"base": torch.tensor(np.minimum(world.ratio, 1.0))[:, None].float(), "tuned": torch.ones(48, 1)}
    strong["tuned"][world.kinds == "base"] = 0.0
    decoders = {name: world.directions[name] * strong[name] for name in strong}
    concept, cosine = world.identify(decoders)
    assert concept.tolist() == list(range(48)) and cosine.min() > 0.999
    norms = {name: decoders[name].norm(dim=1).numpy() for name in decoders}
    delta = 0.5 * ((norms["tuned"] - norms["base"]) / np.maximum(norms["tuned"], norms["base"]) + 1)
    assert np.allclose(delta, world.true_delta(), atol=1e-6)
    mixed = {name: rows[:1] + rows[1:2] for name, rows in decoders.items()}
    assert world.identify(mixed)[0].tolist() == [-1]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"shared": -1}, "no kind fewer than none"),
        ({"share": 0.0}, "share above 0"),
        ({"ratios": (1.2,)}, "between 0 and 1"),
        ({"noise": -1.0}, "no negative noise"),
    ],
)
def test_worlds_that_cannot_be_are_refused(changes, said):
    with pytest.raises(BadInput, match=said):
        PairWorld.small(**changes)
    with pytest.raises(BadInput, match="at least one"):
        PairWorld.small().rows(0)
