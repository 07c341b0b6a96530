import numpy as np
import pytest
import scipy.stats
import torch
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st

from interp.core.errors import BadInput
from interp.core.stats import (
    benjamini_hochberg,
    bootstrap_ci,
    holm,
    permutation_test,
    random_directions,
    random_subspace,
    sign_flip_test,
    spearman,
    spearman_permutation,
)

RNG = np.random.default_rng(20)

# ---------------------------------------------------------------- intervals


@pytest.mark.parametrize(
    ("examples", "draw", "least"), [(15, RNG.normal, 0.93), (40, RNG.normal, 0.93), (40, RNG.exponential, 0.91)]
)
def test_intervals_cover_the_truth_as_often_as_they_say(examples: int, draw: object, least: float) -> None:
    values = draw(size=(examples, 2000))  # type: ignore[operator]
    truth = 0.0 if draw == RNG.normal else 1.0
    estimate, low, high = bootstrap_ci(values, n=1000)
    coverage = np.mean((low <= truth) & (truth <= high))
    assert least <= coverage <= 0.97, coverage
    assert ((low <= estimate) & (estimate <= high)).all() and np.allclose(estimate, values.mean(axis=0))


def test_intervals_agree_with_scipy_on_many_examples() -> None:
    values = RNG.exponential(size=400)
    _, low, high = bootstrap_ci(values, n=8000)
    theirs = scipy.stats.bootstrap(
        (values,), np.mean, method="percentile", n_resamples=8000, rng=np.random.default_rng(0)
    ).confidence_interval
    assert abs(low - theirs.low) < 0.15 * (theirs.high - theirs.low) and abs(high - theirs.high) < 0.15 * (
        theirs.high - theirs.low
    )


def test_narrower_levels_give_narrower_intervals_and_the_seed_is_by_name() -> None:
    values = RNG.normal(size=30)
    wide, narrow = bootstrap_ci(values), bootstrap_ci(values, level=0.5)
    assert wide.low < narrow.low < narrow.high < wide.high
    assert bootstrap_ci(values) == wide != bootstrap_ci(values, seed=1) and bootstrap_ci(values, name="other") != wide


def test_missing_examples_are_left_out_cell_by_cell() -> None:
    values = RNG.normal(size=(20, 4))
    values[5:, 1] = np.nan
    values[1:, 2] = np.nan
    values[:, 3] = np.nan
    estimate, low, high = bootstrap_ci(values)
    assert np.allclose(estimate[:3], [values[:, 0].mean(), values[:5, 1].mean(), values[0, 2]]) and np.isnan(
        estimate[3]
    )
    assert (
        np.isfinite(low[:2]).all() and np.isnan(low[2:]).all() and np.isnan(high[2:]).all()
    )  # one example has no interval
    assert high[1] - low[1] > high[0] - low[0]


def test_all_cells_share_their_resamples() -> None:
    """Cells stay paired: a cell that is another plus a constant has the same interval plus that constant."""
    values = RNG.normal(size=(25, 1))
    found = bootstrap_ci(np.concatenate([values, values + 3], axis=1))
    np.testing.assert_allclose(found.low[1] - found.low[0], 3)


def test_clusters_widen_the_interval_as_they_should() -> None:
    """Ten copies of each of twelve independent values know no more than the twelve."""
    base = RNG.normal(size=(12, 300))
    values, clusters = base.repeat(10, axis=0), [f"template {i}" for i in range(12) for _ in range(10)]
    naive, honest, alone = bootstrap_ci(values), bootstrap_ci(values, clusters=clusters), bootstrap_ci(base)
    np.testing.assert_allclose(honest.low, alone.low)
    assert (honest.high - honest.low).mean() > 2.5 * (naive.high - naive.low).mean()
    assert np.mean((honest.low <= 0) & (honest.high >= 0)) > 0.9 > np.mean((naive.low <= 0) & (naive.high >= 0))
    with pytest.raises(BadInput, match="3 labels for 120 examples"):
        bootstrap_ci(values, clusters=[1, 2, 3])


def test_medians_and_other_statistics() -> None:
    values = RNG.exponential(size=(60, 3))
    values[0, 0] = np.nan
    estimate, low, high = bootstrap_ci(values, statistic="median", n=400)
    assert np.allclose(estimate, np.nanmedian(values, axis=0)) and (low < estimate).all() and (estimate < high).all()
    spread = bootstrap_ci(values, statistic=np.nanstd, n=200)
    assert np.allclose(spread.estimate, np.nanstd(values, axis=0)) and (spread.low < spread.high).all()
    means = bootstrap_ci(values, n=300), bootstrap_ci(values, n=300, statistic=np.nanmean)
    np.testing.assert_allclose(means[0].low, means[1].low)  # the fast way is the plain way


def test_labels_axes_and_tensors() -> None:
    data = xr.DataArray(
        RNG.normal(size=(3, 20, 2)),
        dims=("layer", "prompt", "head"),
        coords={"layer": [4, 5, 6], "prompt": list(range(20))},
    )
    found = bootstrap_ci(data, "prompt", n=200)
    assert found.low.dims == ("layer", "head") and found.low.layer.values.tolist() == [4, 5, 6]
    plain = bootstrap_ci(torch.tensor(data.values), 1, n=200)
    np.testing.assert_array_equal(plain.high, found.high.values)
    np.testing.assert_array_equal(bootstrap_ci(data, -2, n=200).high, plain.high)
    assert isinstance(bootstrap_ci([1.0, 2.0, 3.0]).low, float)
    for wrong, axis in [(data, "position"), (data.values, "prompt"), (np.zeros((0, 3)), 0)]:
        with pytest.raises(BadInput):
            bootstrap_ci(wrong, axis)
    with pytest.raises(BadInput, match="`level`"):
        bootstrap_ci([1.0, 2.0], level=95)
    with pytest.raises(BadInput, match="`statistic` must be one of"):
        bootstrap_ci([1.0, 2.0], statistic="mode")  # type: ignore[arg-type]


def test_many_cells_are_done_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    values = RNG.normal(size=(9, 50))
    whole = bootstrap_ci(values, n=100), sign_flip_test(values, n=100), permutation_test(values[:4], values[4:], n=100)
    monkeypatch.setattr("interp.core.stats.BLOCK", 700)
    blocks = bootstrap_ci(values, n=100), sign_flip_test(values, n=100), permutation_test(values[:4], values[4:], n=100)
    np.testing.assert_allclose(whole[0].low, blocks[0].low)
    np.testing.assert_array_equal(whole[1], blocks[1])
    np.testing.assert_array_equal(whole[2], blocks[2])


# ---------------------------------------------------------------- tests


@pytest.mark.parametrize("alternative", ["two-sided", "greater", "less"])
def test_exact_tests_equal_scipys(alternative: str) -> None:
    x, y = RNG.normal(0.4, 1, size=9), RNG.normal(size=5)
    flips = scipy.stats.permutation_test(
        (x,), np.mean, permutation_type="samples", alternative=alternative, n_resamples=np.inf
    )
    assert sign_flip_test(x, alternative=alternative) == pytest.approx(flips.pvalue)  # type: ignore[arg-type]
    both = scipy.stats.permutation_test(
        (x, y), lambda a, b: a.mean() - b.mean(), alternative=alternative, n_resamples=np.inf
    )
    mine = permutation_test(x, y, alternative=alternative, n=3000)  # type: ignore[arg-type]
    if (
        alternative == "two-sided"
    ):  # scipy doubles the smaller tail; ours is the share of |difference| at least as large
        exact = scipy.stats.permutation_test(
            (x, y), lambda a, b: abs(a.mean() - b.mean()), alternative="greater", n_resamples=np.inf
        )
        assert mine == pytest.approx(exact.pvalue)
    else:
        assert mine == pytest.approx(both.pvalue)


def test_without_an_effect_p_values_are_uniform_and_with_one_they_are_small() -> None:
    null = RNG.normal(size=(30, 2000))
    for p in (sign_flip_test(null, n=999), permutation_test(null[:14], null[14:], n=999)):
        assert 0.035 < np.mean(p < 0.05) < 0.065 and p.min() >= 0.001  # never 0
    assert (
        sign_flip_test(null[:, :50] + 2, n=999).max()
        == permutation_test(null[:15, :50] + 3, null[15:, :50], n=999).max()
        == 0.001
    )
    assert sign_flip_test(null[:, :50] + 2, n=999, alternative="less").min() > 0.99


def test_tests_leave_missing_examples_out() -> None:
    x = RNG.normal(1, 1, size=(8, 3))
    x[:, 1] = np.nan
    x[4:, 2] = np.nan
    p = sign_flip_test(x)
    assert np.isnan(p[1]) and p[2] == pytest.approx(sign_flip_test(x[:4, 2]))
    q = permutation_test(x, RNG.normal(size=(6, 3)), n=500)
    assert np.isnan(q[1]) and np.isfinite(q[[0, 2]]).all()
    with pytest.raises(BadInput, match="3 and 2 cells"):
        permutation_test(x, x[:, :2])
    with pytest.raises(BadInput, match="`alternative` must be one of"):
        sign_flip_test(x, alternative="both")  # type: ignore[arg-type]


def test_equal_values_are_not_an_effect() -> None:
    assert sign_flip_test(np.zeros((6, 2))).tolist() == [1.0, 1.0]
    assert permutation_test([0.1, 0.1, 0.1], [0.1, 0.1]) == 1.0


# ---------------------------------------------------------------- many tests at once


def test_corrections_on_a_small_example_done_by_hand() -> None:
    p = np.array([0.01, 0.04, 0.03, 0.005])
    np.testing.assert_allclose(holm(p), [0.03, 0.06, 0.06, 0.02])
    np.testing.assert_allclose(benjamini_hochberg(p), [0.02, 0.04, 0.04, 0.02])
    np.testing.assert_allclose(benjamini_hochberg(p), scipy.stats.false_discovery_control(p))


@settings(deadline=None)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=20))
def test_corrections_never_lower_a_p_value_or_change_their_order(p: list[float]) -> None:
    order = np.argsort(p, kind="stable")
    strict, mild = holm(p), benjamini_hochberg(p)
    for adjusted in (strict, mild):
        assert (
            (adjusted >= np.array(p) - 1e-12).all()
            and (adjusted <= 1).all()
            and (np.diff(adjusted[order]) >= -1e-12).all()
        )
    assert (mild <= strict + 1e-12).all()


def test_corrections_skip_what_is_missing_and_keep_labels() -> None:
    p = xr.DataArray([[0.01, np.nan], [0.04, 0.03]], dims=("layer", "head"), coords={"layer": [0, 1]})
    for adjust, expected in (
        (holm, [[0.03, np.nan], [0.06, 0.06]]),
        (benjamini_hochberg, [[0.03, np.nan], [0.04, 0.04]]),
    ):
        adjusted = adjust(p)
        np.testing.assert_allclose(adjusted.values, expected)
        assert adjusted.dims == p.dims and np.isnan(adjust(np.array([np.nan]))).all()
        with pytest.raises(BadInput, match="between 0 and 1"):
            adjust([0.5, 1.5])


@settings(deadline=None)
@given(st.lists(st.floats(1e-300, 1), min_size=1, max_size=20))
def test_corrections_of_logarithms_are_the_logarithms_of_corrections(p: list[float]) -> None:
    for adjust in (holm, benjamini_hochberg):
        np.testing.assert_allclose(adjust(np.log10(p), log10=True), np.log10(adjust(p)), atol=1e-9)


def test_logarithms_reach_below_floats_and_cope_with_millions() -> None:
    np.testing.assert_allclose(holm([-1000.0, -np.inf, np.nan], log10=True), [-1000.0, -np.inf, np.nan])
    np.testing.assert_allclose(benjamini_hochberg([-1000.0, -500.0], log10=True), [-1000.0 + np.log10(2), -500.0])
    p = np.log10(np.random.default_rng(0).uniform(size=1_000_000))
    p[0] = -400.0
    for adjust in (holm, benjamini_hochberg):
        adjusted = adjust(p, log10=True)
        assert adjusted[0] == pytest.approx(-394.0) and (adjusted[1:] > -2).all()
        with pytest.raises(BadInput, match="above 0"):
            adjust([0.5], log10=True)


def test_the_false_discovery_rate_is_controlled() -> None:
    """A hundred grids with 20 real effects of 100: the share of false ones among those found is below the level, on average."""
    shares, power = [], []
    for _ in range(100):
        z = RNG.normal(size=100) + np.r_[np.full(20, 4.0), np.zeros(80)]
        found = benjamini_hochberg(2 * scipy.stats.norm.sf(np.abs(z))) < 0.1
        shares.append(found[20:].sum() / max(found.sum(), 1))
        power.append(found[:20].mean())
    assert np.mean(shares) < 0.1 and np.mean(power) > 0.8


# ---------------------------------------------------------------- ranks and random directions


def test_a_rank_correlation_by_permutation_agrees_with_scipy_and_can_stay_within_labels() -> None:
    rng = np.random.default_rng(5)
    x = rng.normal(size=40)
    y = 0.4 * x + rng.normal(size=40)
    free = spearman_permutation(x, y)
    assert free.rho == pytest.approx(spearman(x, y).rho) and free.p == pytest.approx(spearman(x, y).p, abs=0.02)
    layer = np.repeat(np.arange(4), 10)
    level = 10.0 * layer  # both rise with the label and have nothing else in common
    a, b = level + rng.normal(size=40), level + rng.normal(size=40)
    assert spearman_permutation(a, b).p < 0.001 < 0.05 < spearman_permutation(a, b, within=layer).p
    assert spearman_permutation([1, 2, 3, np.nan], [3, 2, 1, 0]).n == 3
    assert np.isnan(spearman_permutation(x, np.ones(40)).rho)
    with pytest.raises(BadInput, match="39 labels for 40"):
        spearman_permutation(x, y, within=layer[1:])


def test_spearman() -> None:
    x = np.array([1.0, 2, 3, 4, 5, np.nan])
    y = np.array([2.0, 1, 4, 3, 5, 0])
    found = spearman(x, y)
    assert (
        found.rho == pytest.approx(0.8)
        and found.n == 5
        and found.p == pytest.approx(scipy.stats.spearmanr(x[:5], y[:5]).pvalue)
    )
    assert spearman(x, np.exp(x)).rho == pytest.approx(1.0)
    assert np.isnan(spearman(x, np.ones(6)).rho) and np.isnan(spearman([1, 2], [1, 2]).rho)
    with pytest.raises(BadInput, match="Give pairs"):
        spearman([1, 2], [1, 2, 3])


def test_random_directions_are_unit_uniform_and_named() -> None:
    x = random_directions(4000, 8)
    assert x.dtype == torch.float32 and torch.allclose(x.norm(dim=1), torch.ones(4000), atol=1e-6)
    assert x.mean(dim=0).abs().max() < 0.03 and (x.T @ x / 4000 - torch.eye(8) / 8).abs().max() < 0.01
    assert torch.equal(x, random_directions(4000, 8)) and not torch.equal(x, random_directions(4000, 8, name="other"))
    assert torch.equal(random_directions(2, 3, seed=1), random_directions(2, 3, seed=1))


def test_random_subspaces_are_orthonormal_and_uniform() -> None:
    q = random_subspace(3, 16)
    assert q.shape == (16, 3) and torch.allclose(q.T @ q, torch.eye(3), atol=1e-6)
    first = torch.stack([random_subspace(1, 4, seed=seed)[:, 0] for seed in range(2000)])
    assert first.mean(dim=0).abs().max() < 0.05  # the sign is random too
    with pytest.raises(BadInput, match="rank 1 to 4"):
        random_subspace(5, 4)


def test_clusters_are_flipped_together() -> None:
    """Copies of twelve independent differences are tested as the twelve, exactly."""
    base = RNG.normal(0.4, 1.0, size=(12, 40))
    values, clusters = base.repeat(5, axis=0), [f"subject {i}" for i in range(12) for _ in range(5)]
    np.testing.assert_allclose(sign_flip_test(values, clusters=clusters), sign_flip_test(base))
    assert np.mean(sign_flip_test(values)) < 0.5 * np.mean(sign_flip_test(values, clusters=clusters))
    ragged = values.copy()
    ragged[:5, 0] = np.nan  # a whole subject
    np.testing.assert_allclose(sign_flip_test(ragged[:, :1], clusters=clusters), sign_flip_test(base[1:, :1]))
    with pytest.raises(BadInput, match="2 labels for 60"):
        sign_flip_test(values, clusters=[1, 2])
