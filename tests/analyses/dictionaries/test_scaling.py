"""Delta, latent scaling and labels on hand-made dictionaries, against sums written out over (latent, row, component)."""

import numpy as np
import pytest
import torch

from interp.analyses.dictionaries.diffing.delta import bins, extremes, relative_difference
from interp.analyses.dictionaries.diffing.labels import Thresholds, label, same_number
from interp.analyses.dictionaries.diffing.scaling import SIDES, TARGETS, ScalingSums
from interp.core.dictionary import Codes
from interp.core.errors import BadInput

N, M = 700, 9


def drawn(base: int = 12, tuned: int = 12):
    """Rows, codes and decoders of nothing in particular, float64."""
    draw = torch.Generator().manual_seed(0)
    widths = {"base": base, "tuned": tuned}
    codes = torch.rand(N, M, generator=draw, dtype=torch.float64) * (torch.rand(N, M, generator=draw) < 0.3)
    codes[:, -1] = 0.0
    decoders = {name: torch.randn(M, d, generator=draw, dtype=torch.float64) for name, d in widths.items()}
    rows = {name: torch.randn(N, d, generator=draw, dtype=torch.float64) + 0.3 for name, d in widths.items()}
    made = {name: codes @ decoders[name] + 0.1 for name in widths}
    return rows, made, codes, decoders


def summed(rows, made, codes, decoders, step: int = 151):
    sums = ScalingSums(M, {name: decoder.shape[1] for name, decoder in decoders.items()})
    for start in range(0, N, step):
        part = slice(start, start + step)
        sums.add(Codes.of(codes[part]), {k: v[part] for k, v in rows.items()}, {k: v[part] for k, v in made.items()})
    return sums.finish(decoders)


def targets(rows, made, codes, decoders, model):
    """[target] of (latent, row, component): what each beta is fitted to."""
    whole = made[model].expand(M, N, -1)
    own = codes.T[:, :, None] * decoders[model][:, None]
    return {"reconstruction": whole, "error": rows[model] - whole + own}


def test_sums_over_rows_give_what_the_sums_over_everything_give():
    rows, made, codes, decoders = drawn()
    found = summed(rows, made, codes, decoders)
    on = slice(0, M - 1)
    for s, side in enumerate(SIDES):
        for m, model in enumerate(("base", "tuned")):
            for t, target in enumerate(TARGETS):
                y, d = targets(rows, made, codes, decoders, model)[target], decoders[side]
                above = torch.einsum("nj,jnd,jd->j", codes, y, d)
                beta = above / (codes.square().sum(dim=0) * d.square().sum(dim=1))
                assert np.allclose(found.beta[s, t, m, on], beta[on].numpy(), rtol=1e-10)
                design = torch.stack([codes, torch.ones_like(codes)], dim=-1).transpose(0, 1)[on]  # [latent, row, 2]
                slope = torch.linalg.lstsq(design, y[on]).solution[:, 0]
                assert np.allclose(found.length[t, m, on], slope.norm(dim=1).numpy(), rtol=1e-9)
    assert found.active.tolist() == (codes > 0).sum(dim=0).tolist() and found.rows == N
    assert (
        np.isnan(found.beta[..., -1]).all() and np.isnan(found.length[..., -1]).all() and np.isnan(found.strength[-1])
    )


def test_the_size_of_batches_does_not_matter():
    given = drawn()
    one, other = summed(*given, step=N), summed(*given, step=37)
    assert np.allclose(one.beta, other.beta, rtol=1e-12, equal_nan=True) and np.allclose(
        one.length, other.length, rtol=1e-12, equal_nan=True
    )


@pytest.mark.parametrize("b", [-1.5, 0.0, 0.25, 3.0])
def test_a_planted_factor_is_found_under_orthogonal_noise(b):
    draw = torch.Generator().manual_seed(1)
    d = torch.zeros(1, 6, dtype=torch.float64)
    d[0, 0] = 2.0
    codes = torch.rand(N, 1, generator=draw, dtype=torch.float64)
    noise = torch.randn(N, 6, generator=draw, dtype=torch.float64)
    noise[:, 0] = 0.0
    made = {"base": b * codes * d + noise, "tuned": codes * d}
    sums = ScalingSums(1, {"base": 6, "tuned": 6})
    sums.add(Codes.of(codes), made, made)
    found = sums.finish({"base": 0 * d, "tuned": d})
    assert found.nu("tuned")[0, 0] == pytest.approx(b, abs=1e-10)
    assert found.beta[0, 1, 1, 0] == pytest.approx(1.0, abs=1e-10)  # its own error, without itself, is itself
    assert np.isnan(found.nu("base")).all()  # there is no decoder to project on


def test_without_a_direction_the_ratio_of_strengths_is_found_in_any_basis_and_width():
    draw = torch.Generator().manual_seed(2)
    codes = (torch.rand(6000, 1, generator=draw) * (torch.rand(6000, 1, generator=draw) < 0.3)).double()
    d, away = torch.eye(8, dtype=torch.float64)[:1], torch.eye(5, dtype=torch.float64)[3:4]
    rows = {"base": 0.4 * codes * away, "tuned": codes * d}
    rows = {name: x + 0.02 * torch.randn(x.shape, generator=draw, dtype=torch.float64) for name, x in rows.items()}
    sums = ScalingSums(1, {"base": 5, "tuned": 8})
    sums.add(Codes.of(codes), rows, {"base": torch.zeros(6000, 5), "tuned": codes * d})
    found = sums.finish({"base": torch.zeros(1, 5, dtype=torch.float64), "tuned": d})
    assert found.free("tuned")[1, 0] == pytest.approx(0.4, abs=0.01)
    assert np.isnan(found.nu("tuned")[:, 0]).all()  # nothing to project on in another width


def test_chance_is_what_independent_targets_give_and_follows_the_simple_law():
    draw = torch.Generator().manual_seed(3)
    d, share = 24, 0.05
    codes = (torch.rand(8000, 40, generator=draw) < share).double()
    rows = {name: torch.randn(8000, d, generator=draw, dtype=torch.float64) for name in ("base", "tuned")}
    sums = ScalingSums(40, {"base": d, "tuned": d})
    sums.add(Codes.of(codes), rows, {name: torch.zeros(8000, d) for name in rows})
    zeros = torch.zeros(40, d)
    found = sums.finish({"base": zeros, "tuned": zeros})
    assert float(np.median(found.length[1] / found.floor[1])) == pytest.approx(1.0, abs=0.05)
    law = np.sqrt(d / found.active)
    assert np.allclose(found.floor[1, 0], law, rtol=0.05)  # unit contributions, unit variance a component


@pytest.mark.parametrize(
    ("ratio", "delta", "named"),
    [
        (0.0, 1.0, "tuned only"),
        (0.05, 0.975, "tuned only"),
        (0.5, 0.75, "other"),
        (1.0, 0.5, "shared"),
        (2.0, 0.25, "other"),
        (np.inf, 0.0, "base only"),
    ],
)
def test_hand_made_decoders_fall_into_their_bins(ratio, delta, named):
    base, tuned = (1.0, 0.0) if np.isinf(ratio) else (ratio, 1.0)
    found = relative_difference(np.array([base]), np.array([tuned]))
    assert found[0] == pytest.approx(delta) and bins(found, np.array([True]))[0] == named
    assert bins(found, np.array([False]))[0] == "dead"


def test_edges_of_bins_and_dead_latents():
    delta = np.array([0.9, 0.1, 0.4, 0.6, 0.5, np.nan])
    assert bins(delta, np.ones(6, bool)).tolist() == ["tuned only", "base only", "other", "other", "shared", "dead"]
    assert extremes(delta, np.ones(6, bool), 2).tolist() == [0, 3]
    assert extremes(delta, np.array([0, 1, 1, 1, 1, 1], bool), 9, top=False).tolist() == [1, 2, 4, 3]
    assert np.isnan(relative_difference(np.zeros(1), np.zeros(1)))[0]
    with pytest.raises(BadInput, match="none negative"):
        relative_difference(np.array([-1.0]), np.array([1.0]))
    with pytest.raises(BadInput, match="follow one another"):
        bins(delta, np.ones(6, bool), tuned_only=0.5)


def test_labels_by_their_ratios():
    rec = np.array([0.05, 0.7, 0.05, 0.7, -0.05, 0.05, 3.0, np.nan, -0.3])
    err = np.array([0.05, 0.05, 0.3, 0.3, 0.0, 0.05, 0.05, 0.05, 0.0])
    on = np.array([50, 50, 50, 50, 50, 3, 50, 50, 50])
    said = label(rec, err, on)
    assert said.tolist() == [
        "specific", "latent decoupling", "complete shrinkage", "latent decoupling", "specific", *["undecided"] * 4,
    ]  # fmt: skip
    noisy = np.array([[0.3], [0.25]]) * np.ones((2, 9))
    assert label(rec, err, on, chance=noisy).tolist()[:3] == ["undecided", "latent decoupling", "undecided"]
    assert label(rec, err, on, thresholds=Thresholds(error=0.4))[2] == "specific"
    with pytest.raises(BadInput, match="valid range"):
        Thresholds(reconstruction=3.0)


def test_random_sets_are_as_large_as_asked_for_and_repeat():
    pool = np.array([3, 5, 8, 13, 21])
    first = same_number(pool, 3, np.random.default_rng(1))
    assert (
        len(first) == 3 and set(first) <= set(pool) and (first == same_number(pool, 3, np.random.default_rng(1))).all()
    )
    assert same_number(pool, 9, np.random.default_rng(0)).tolist() == pool.tolist()
