"""The regressions: explicit design matrices, the null gain, planted slopes, and facts whose rows depend on each other."""

import numpy as np
import pytest
from scipy import stats

from interp.analyses.localization import null_gain, regress
from interp.core.errors import BadInput


def r2(design, y):
    """By least squares on an explicit design matrix."""
    fitted = design @ np.linalg.lstsq(design, y, rcond=None)[0]
    return 1 - ((y - fitted) ** 2).sum() / ((y - y.mean()) ** 2).sum()


def designs(x):
    """(a) layer as a factor, (b) the effect, (c) both with their interaction; rows fact by fact."""
    facts, layers = x.shape
    factor = np.tile(np.eye(layers)[:, 1:], (facts, 1))
    one, effect = np.ones((facts * layers, 1)), x.reshape(-1, 1)
    a, b = np.hstack([one, factor]), np.hstack([one, effect])
    return a, b, np.hstack([one, factor, effect, factor * effect])


def drawn(seed, facts=60, layers=6, *, noise=0.2):
    rng = np.random.default_rng(seed)
    return np.linspace(0, 1, layers) + noise * rng.normal(size=(facts, layers)), rng.random((facts, layers))


@pytest.mark.parametrize("seed", range(3))
def test_the_three_fits_are_those_of_explicit_design_matrices(seed):
    y, x = drawn(seed, facts=17 + seed, layers=4)
    y = y + 0.3 * x
    found = regress(y, x, permutations=5, resamples=5)
    a, b, c = (r2(design, y.reshape(-1)) for design in designs(x))
    assert found.layer == pytest.approx(a, abs=1e-12) and found.tracing == pytest.approx(b, abs=1e-12)
    assert found.both == pytest.approx(c, abs=1e-12) and found.diff == pytest.approx(c - a, abs=1e-12)
    n, k = y.size, y.shape[1]
    f = ((c - a) / k) / ((1 - c) / (n - 2 * k))
    assert found.f == pytest.approx(f, rel=1e-9) and found.p == pytest.approx(stats.f.sf(f, k, n - 2 * k), rel=1e-9)
    assert found.null == pytest.approx((1 - a) * k / (n - k), rel=1e-12) and found.gain == pytest.approx(
        c - a - found.null
    )
    assert (found.n_facts, found.n_rows) == (17 + seed, n)


def test_layers_whose_effects_are_alike_have_no_slope():
    y, x = drawn(3, facts=30, layers=5)
    x[:, 3:] = 0.25
    found = regress(y, x, permutations=5, resamples=5)
    a, _, c = (r2(design, y.reshape(-1)) for design in designs(x))
    n = y.size
    f = ((c - a) / 3) / ((1 - c) / (n - 5 - 3))
    assert found.both == pytest.approx(c, abs=1e-10) and found.f == pytest.approx(f, rel=1e-8)
    assert found.p == pytest.approx(stats.f.sf(f, 3, n - 8), rel=1e-8) and found.null == pytest.approx(
        (1 - a) * 3 / (n - 5)
    )
    nothing = regress(y, np.ones_like(x), permutations=5, resamples=5)
    assert (
        nothing.diff == pytest.approx(0, abs=1e-12)
        and nothing.tracing == 0
        and nothing.null == 0
        and np.isnan(nothing.p)
    )


def test_irrelevant_effects_gain_what_the_formula_says():
    """K8b: over 40 datasets of the paper's shape (few facts, so that the gain can be seen)."""
    found = [regress(*drawn(seed), permutations=40, resamples=60, seed=seed) for seed in range(40)]
    ratio = np.array([one.diff / one.null for one in found])
    assert abs(ratio.mean() - 1) < 4 * ratio.std() / np.sqrt(40) and abs(ratio.mean() - 1) < 0.25
    shuffled = np.array([one.null_ratio for one in found])
    assert abs(shuffled.mean() - 1) < 0.1
    assert np.mean([one.gain_low <= 0 <= one.gain_high for one in found]) >= 0.9
    for p in ([one.p for one in found], [one.p_facts for one in found]):
        assert np.mean(np.array(p) < 0.05) <= 0.15 and 0.3 < np.mean(p) < 0.7


def test_shuffling_takes_a_true_gain_away():
    y, x = drawn(1)
    found = regress(y + x, x, permutations=60, resamples=50)
    assert found.diff > 20 * found.null and abs(found.null_ratio - 1) < 0.2  # the null is of shuffled effects


def test_a_planted_slope_is_found_with_its_size():
    """K8c: score = eta_layer + 0.3 where the fact lies + noise; the effect says where it lies."""
    rng = np.random.default_rng(7)
    facts, layers = 150, 6
    home = rng.integers(layers, size=facts)
    here = np.eye(layers)[home]
    y = np.linspace(0.3, 0.6, layers) + 0.3 * here + 0.1 * rng.normal(size=here.shape)
    found = regress(y, here + 0.02 * rng.normal(size=here.shape), permutations=99, resamples=300)
    expected = 0.09 * here.var() / y.var()
    assert found.gain_low <= expected <= found.gain_high and found.gain_low > 0.2
    assert found.p < 1e-10 and found.p_facts == 0.01
    elsewhere = np.eye(layers)[rng.permutation(home)]
    null = regress(y, elsewhere + 0.02 * rng.normal(size=here.shape), permutations=99, resamples=300)
    assert null.gain_low <= 0 <= null.gain_high and null.p_facts > 0.05


def test_where_rows_of_a_fact_depend_whole_facts_are_permuted():
    """A score and an effect that each belong to the fact, not the layer, and have nothing to do with each other.

    With rows that repeat each other the gain has one degree of freedom instead of 20: F is a chi-squared of one, beyond the
    1 % point of F(20, n) in about 17 % of datasets.
    """
    f, facts = [], []
    for seed in range(60):
        rng = np.random.default_rng(seed)
        y = np.linspace(0, 1, 20) + rng.normal(size=(25, 1)) + 0.05 * rng.normal(size=(25, 20))
        x = rng.normal(size=(25, 1)) + 0.05 * rng.normal(size=(25, 20))
        found = regress(y, x, permutations=99, resamples=2, seed=seed)
        f.append(found.p)
        facts.append(found.p_facts)
    assert np.mean(np.array(f) < 0.01) > 0.08  # one fact, 20 times, taken for 20 facts
    assert np.mean(np.array(facts) <= 0.01) <= 0.05 and np.mean(np.array(facts) <= 0.05) <= 0.12
    assert 0.35 < np.mean(facts) < 0.65


def test_facts_with_a_missing_value_are_left_out_whole():
    y, x = drawn(2, facts=20)
    holed, gaps = y.copy(), x.copy()
    holed[3, 1], gaps[7, :] = np.nan, np.nan
    keep = [i for i in range(20) if i not in (3, 7)]
    assert regress(holed, gaps, permutations=9, resamples=9) == regress(y[keep], x[keep], permutations=9, resamples=9)
    assert regress(holed, gaps, permutations=1, resamples=1).n_facts == 18


def test_the_last_layer_makes_most_of_the_layers_share():
    """A layer in which nothing works explains a great deal; without it the layer says little."""
    rng = np.random.default_rng(0)
    y = 0.97 + 0.02 * rng.normal(size=(40, 6))
    y[:, -1] = 0.02 * rng.random(40)
    x = rng.random(y.shape)
    assert regress(y, x, permutations=1, resamples=1).layer > 0.95
    assert regress(y[:, :-1], x[:, :-1], permutations=1, resamples=1).layer < 0.15


def test_same_seed_same_numbers():
    y, x = drawn(4, facts=12)
    assert regress(y, x, permutations=20, resamples=20, seed=1) == regress(y, x, permutations=20, resamples=20, seed=1)
    assert regress(y, x, permutations=20, resamples=20, seed=1) != regress(y, x, permutations=20, resamples=20, seed=2)


def test_refusals():
    y, x = drawn(0, facts=10)
    with pytest.raises(BadInput, match=r"one shape; not \(10, 6\) and \(10, 5\)"):
        regress(y, x[:, :5])
    with pytest.raises(BadInput, match=r"at least 4 facts.*there are 3 facts and 6 layers"):
        regress(y[:3], x[:3])
    with pytest.raises(BadInput, match="10 facts and 1 layers"):
        regress(y[:, :1], x[:, :1])
    with pytest.raises(BadInput, match=r"all scores are 0\.5"):
        regress(np.full_like(y, 0.5), x)
    assert null_gain(0.5, 100, 10) == pytest.approx(0.5 * 10 / 90)
