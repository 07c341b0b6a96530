"""Nulls of composition scores: against Beta distributions and draws, uniform where nothing is planted, honest where it is."""

import numpy as np
import pytest
import torch
from scipy import integrate, special, stats

import interp
from interp.analyses.channels import Setting, decompose, nulls, ov, reader
from interp.analyses.channels.component import Head
from interp.analyses.channels.decompose import components
from interp.analyses.channels.nulls import (
    Null,
    log10_positive,
    log10_shared,
    log10_tail,
    null_of,
    outstanding,
    rotation_null,
    second_moment,
    shuffle_null,
    weights_of,
)
from interp.core.errors import BadInput
from interp.core.seed import generator, numpy_generator
from interp.core.stats import holm
from interp.models import reference


def beta(score, free, width=1):
    """log10 P(c² >= score²) of equal weights: a Beta distribution, -inf where floats cannot hold it."""
    with np.errstate(divide="ignore"):
        return np.log10(special.betainc((free - 1) * width / 2, width / 2, 1 - np.asarray(score) ** 2))


# ---------------------------------------------------------------- the analytic tail


@pytest.mark.parametrize("free", [2, 3, 7, 63, 300])
def test_one_direction_is_a_beta_distribution_from_the_bulk_into_the_tail(free):
    score = np.r_[1e-6, 1e-3, np.linspace(0.02, 0.98, 25), 0.999]
    want = beta(score, free)
    known = np.isfinite(want)
    assert want[known].min() < (-1 if free < 7 else -8)
    np.testing.assert_allclose(log10_tail(score, [1.0], free)[known], want[known], atol=1e-8)


def test_the_tail_goes_on_where_floats_end():
    """P of one coordinate: ∫ (1 - x²)^((n-3)/2) dx from c to 1, its logarithm by pulling the largest factor out."""
    n, c = 767, 0.95
    f = lambda x: np.exp((n - 3) / 2 * (np.log1p(-(x**2)) - np.log1p(-(c**2))))  # noqa: E731
    mass = integrate.quad(f, c, 1, epsabs=0, epsrel=1e-10, points=[c + 1e-3])[0]
    log = (n - 3) / 2 * np.log1p(-(c**2)) + np.log(mass) + np.log(2) - special.betaln(0.5, (n - 1) / 2)
    found = float(log10_tail(c, [1.0], n))
    assert found < -380 and found == pytest.approx(log / np.log(10), abs=1e-6)


def test_equal_weights_and_several_at_once_are_beta_distributions_too():
    score = np.linspace(0.05, 0.95, 10)
    for rank, width in ((4, 1), (16, 1), (4, 3)):  # Σ_m g²/rank over all: a Beta(rank/2, (n - rank)/2) of rank c²
        want = np.log10(special.betainc((63 - rank) * width / 2, rank * width / 2, 1 - score**2))
        found = log10_tail(score / rank**0.5, np.full(rank, 1 / rank), 63, width=width)
        np.testing.assert_allclose(found, want, atol=1e-6)


def test_draws_agree_with_the_tail_of_uneven_weights():
    weights = 0.64 ** np.arange(16)
    weights /= weights.sum()
    g = numpy_generator(0, "tail").normal(size=(60_000, 63)) ** 2
    score = np.sqrt(g[:, :16] @ weights / g.sum(axis=1))
    assert float((score**2).mean()) == pytest.approx(1 / 63, rel=0.01)
    for c in (0.06, 0.1, 63**-0.5, 0.16, 0.2, 0.25):
        share = float((score >= c).mean())
        within = 4 * (share * (1 - share) / len(score)) ** 0.5
        assert 10 ** float(log10_tail(c, weights, 63)) == pytest.approx(share, abs=within)


def test_random_forms_agree_with_finer_steps(monkeypatch):
    draw = numpy_generator(0, "forms")
    cases = []
    for _ in range(40):
        n = int(draw.integers(2, 200))
        w = draw.random(int(draw.integers(1, min(n, 30) + 1))) ** draw.choice([0.1, 1, 10])
        w /= w.sum()
        c = np.r_[draw.uniform(0, w.max() ** 0.5, 4), n**-0.5 * draw.uniform(0.8, 1.2, 2)]
        cases.append((np.sort(c[c < w.max() ** 0.5]), w, n, int(draw.choice([1, 2, 16]))))
    found = [log10_tail(c, w, n, width=k) for c, w, n, k in cases]
    monkeypatch.setattr("interp.analyses.channels.nulls.STEP", 0.02)
    for (c, w, n, k), coarse in zip(cases, found, strict=True):
        np.testing.assert_allclose(coarse, log10_tail(c, w, n, width=k), atol=1e-4)
        assert (np.diff(coarse) <= 1e-4).all() and (coarse <= 0).all()


def test_interpolated_and_single_scores_are_the_same():
    weights = 0.8 ** np.arange(32)
    weights /= weights.sum()
    score = np.sort(numpy_generator(0, "grid").uniform(0, weights.max() ** 0.5, 4000))
    every = log10_tail(score.reshape(2, 2000), weights, 127).ravel()
    for place in (0, 1, 40, 300, 1000, 2500, 3990, 3998, 3999):
        assert every[place] == pytest.approx(float(log10_tail(score[place], weights, 127)), abs=1e-3)
    assert (np.diff(every) <= 1e-6).all()


def test_the_ends_of_the_tail():
    w = [0.5, 0.3, 0.2]
    assert log10_tail(0.0, w, 63) == 0 and np.isnan(log10_tail(np.nan, w, 63))
    assert log10_tail([0.5**0.5, 0.8], w, 63).tolist() == [-np.inf, -np.inf]  # at the ceiling, and above it
    assert -500 < log10_tail(0.5**0.5 * (1 - 1e-12), w, 63) < -100
    np.testing.assert_allclose(log10_tail([0.4, 0.6], [0.25] * 4, 4), [0, -np.inf])  # every direction scores 0.5
    mean = float(log10_tail(63**-0.5, w, 63))  # the saddle point is singular at the mean; the integral is not
    near = log10_tail(63**-0.5 * np.array([1 - 1e-9, 1 + 1e-9]), w, 63)
    assert near[0] == pytest.approx(mean, abs=1e-4) and near[1] == pytest.approx(mean, abs=1e-4) and -1 < mean < -0.1
    with_zeros = log10_tail([0.2, 0.6], [*w, 0.0, 0.0], 63)  # a reader without full rank
    np.testing.assert_allclose(with_zeros, log10_tail([0.2, 0.6], w, 63), atol=1e-9)


def test_a_form_against_direct_sums():
    rows = np.array([[3.0, 1.0, -2.0, -5.0], [0.5, 0.1, -0.2, -0.3], [1.0, 1.0, 1.0, 1.0], [-1.0, -1.0, 0.0, 0.0]])
    found = 10 ** log10_positive(rows, np.ones(4))
    g = numpy_generator(0, "form").normal(size=(200_000, 4)) ** 2
    share = (g @ rows.T >= 0).mean(axis=0)
    np.testing.assert_allclose(found[:3], share[:3], atol=5e-3)
    assert found[2] == 1 and found[3] == 0


@pytest.mark.parametrize(
    ("score", "weights", "free", "width", "words"),
    [
        (0.1, [0.0, 0.0], 63, 1, "one at least is positive"),
        (0.1, [float("nan")], 63, 1, "one at least is positive"),
        (0.1, [1.0, -0.5], 63, 1, "not negative"),
        (0.1, [1.0] * 9, 8, 1, "9 weights in 8"),
        (0.1, [1.0], 1, 1, "in 1 free"),
        (0.1, [1.0], 8, 0, "0 at once"),
        (-0.1, [1.0], 8, 1, "not negative"),
        (float("inf"), [1.0], 8, 1, "finite"),
    ],
)
def test_what_is_no_score_is_refused(score, weights, free, width, words):
    with pytest.raises(BadInput, match=words):
        log10_tail(score, weights, free, width=width)


# ---------------------------------------------------------------- p-values of models


def scores_of(lm, setting=Setting()):
    """Every component of layer 0 into every head and input of layer 1: scores, and the weights of each reader."""
    write = decompose(lm, 0, setting).write
    found = []
    for kind in ("Q", "K", "V"):
        side = reader(lm, 1, kind, setting).side
        found += [((write @ one).norm(dim=-1).flatten().numpy(), weights_of(one).numpy(), one) for one in side]
    return found


def test_p_values_are_uniform_in_a_random_model_and_nothing_is_left_after_correction(null):
    n = null.spec.d_model - 1
    logs = np.concatenate([log10_tail(score, weights, n) for score, weights, _ in scores_of(null)])
    assert len(logs) == 3072 and stats.kstest(10**logs, "uniform").pvalue > 0.01
    assert 10 ** holm(logs, log10=True).min() > 0.05


def test_planted_channels_are_found_and_only_the_shared_null_knows_how_few_dimensions_are_used(planted):
    """Everything lies in 63 of 127 dimensions, so the analytic null calls too much surprising; that of shared directions does not."""
    cases = scores_of(planted)
    logs = np.stack([log10_tail(score, weights, 127) for score, weights, _ in cases])
    adjusted = holm(logs, log10=True)
    assert (adjusted < -400).sum() == 3 and (adjusted < -2).sum() > 3
    moment = second_moment([decompose(planted, layer) for layer in range(2)])
    assert float(moment.trace()) == pytest.approx(1)
    shared = np.stack([log10_shared(score[:24], side, moment) for score, _, side in cases])
    p = 10 ** np.where(shared < -100, np.nan, shared)
    assert 0.35 < np.nanmean(p) < 0.65 and (10 ** holm(shared, log10=True) < 0.01).sum() == (shared < -100).sum()


def test_the_shared_null_is_the_analytic_one_where_nothing_is_shared():
    side = torch.randn(24, 6, generator=generator(0, "side"), dtype=torch.float64)
    side /= side.norm()
    score = np.linspace(0.1, 0.5, 5)
    found = log10_shared(score, side, torch.eye(24, dtype=torch.float64) / 24)
    np.testing.assert_allclose(found, log10_tail(score, weights_of(side).numpy(), 24), atol=1e-6)


def test_the_shared_null_agrees_with_draws_of_its_covariance():
    draw = generator(0, "shared")
    mix = torch.randn(20, 20, generator=draw, dtype=torch.float64) * 0.7 ** torch.arange(20)
    side = torch.randn(20, 4, generator=draw, dtype=torch.float64)
    side /= side.norm()
    x = torch.randn(100_000, 20, generator=draw, dtype=torch.float64) @ mix.T
    score = (x @ side).norm(dim=1) / x.norm(dim=1)
    for level in (0.5, 0.9, 0.99):
        c = float(score.quantile(level))
        assert 10 ** float(log10_shared(c, side, mix @ mix.T)) == pytest.approx(1 - level, rel=0.1)


# ---------------------------------------------------------------- within a head, rotated, shuffled


def test_outstanding_leaves_the_component_out():
    score = torch.tensor([[1.0, 2.0, 3.0, 4.0, 20.0], [1.0, 2.0, 3.0, float("nan"), 9.0]], dtype=torch.float64)
    z = outstanding(score)
    assert float(z[0, 4]) == pytest.approx((20 - 2.5) / np.std([1, 2, 3, 4], ddof=1))
    assert float(z[1, 4]) == pytest.approx((9 - 2) / 1.0) and bool(z[1, 3].isnan())
    block = torch.eye(5, dtype=torch.bool)
    block[3, 4] = block[4, 3] = True
    assert float(outstanding(score[0], block)[4]) == pytest.approx((20 - 2) / 1.0)
    assert bool(outstanding(torch.ones(5, dtype=torch.float64)).isnan().all())  # all alike: none stands out
    assert bool(outstanding(score[0, :2]).isnan().all())  # one other has no spread


def test_rotations_keep_orthogonality_and_give_the_maximum_of_random_frames(planted, null):
    found = null_of(planted, "0.1", "1.2", kind="Q", draws=100)
    assert (
        found.observed == pytest.approx((0.36 / (1 - 0.64**16)) ** 0.5, abs=1e-6)
        and found.z > 6
        and found.p == pytest.approx(1 / 101)
    )
    p = [
        null_of(null, f"0.{head}", Head(1, 2), kind="Q", draws=60, setting=Setting(folded=False)).p for head in range(8)
    ]
    assert min(p) * 8 > 0.05 and max(p) > 0.5
    again = null_of(planted, "0.1", "1.2", kind="Q", draws=100)
    np.testing.assert_array_equal(found.draws, again.draws)
    one = null_of(planted, "0.1", "1.2", kind="Q", draws=100, seed=1)
    assert not np.array_equal(found.draws, one.draws)
    whole = torch.eye(6, dtype=torch.float64)  # all six of six directions: every rotation spans everything
    side = torch.diag(torch.tensor([1.0, 0, 0, 0, 0, 0], dtype=torch.float64))[:, :1]
    drawn = rotation_null(whole, side, draws=400).draws
    marginal = rotation_null(whole[:1], side, draws=400).draws
    assert drawn.min() >= 6**-0.5 - 1e-9 and marginal.min() < 0.1  # the best of a full frame cannot be below 1/sqrt(6)
    assert stats.kstest(marginal**2, stats.beta(0.5, 2.5).cdf).pvalue > 0.01


def test_a_massive_dimension_fools_the_other_nulls_and_not_the_shuffle(planted):
    """Every head writes much into one dimension, and the reader reads it: a high score that says nothing about this pair."""
    factors = ov(planted, 0)
    factors.right[..., 7] *= 30
    side = reader(planted, 1, "Q").side[3].clone()
    side[7] += 3
    side = side / side.norm()
    score = (components(factors).write[2] @ side).norm(dim=-1)
    analytic = log10_tail(float(score.max()), weights_of(side).numpy(), 127)
    shuffled = shuffle_null(factors, side, draws=10, centred=True)
    best = Null(float(score.max()), shuffled[:, 2].amax(dim=-1).numpy())
    assert analytic < -20 and rotation_null(components(factors).write[2], side, draws=50).p < 0.05
    assert best.p > 0.05 and abs(best.z) < 6
    assert tuple(shuffled.shape) == (10, 8, 16)


def test_a_shuffle_keeps_the_scale_of_every_dimension(planted, monkeypatch):
    seen = []
    real = nulls.components
    monkeypatch.setattr(nulls, "components", lambda factors: seen.append(factors.right) or real(factors))
    factors = ov(planted, 0)
    shuffle_null(factors, reader(planted, 1, "Q").side[0], draws=1)
    before, after = (x.reshape(-1, 128).sort(dim=0).values for x in (factors.right, seen[0]))
    assert torch.equal(before, after) and not torch.equal(factors.right, seen[0])


def test_the_shuffle_confirms_a_planted_channel(planted):
    found = null_of(planted, "0.1", "1.2", kind="Q", null="shuffle", draws=20)
    assert found.z > 5 and found.p == pytest.approx(1 / 21) and len(found.draws) == 20


@pytest.mark.parametrize(
    ("writer", "to", "options", "words"),
    [
        ("1.2", "0.1", {}, "does not come after"),
        ("1.2", "1.3", {}, "does not come after"),
        ("0.9", "1.2", {}, "heads 0 to 7"),
        ("0.1", "1.2", {"null": "bootstrap"}, "rotation"),
        ("0.1", "1.2", {"kind": "O"}, "'Q', 'K' or 'V'"),
        ("0.1", "1.2", {"draws": 1}, "two draws"),
    ],
)
def test_bad_questions(planted, writer, to, options, words):
    with pytest.raises(BadInput, match=words):
        null_of(planted, writer, to, **options)


def test_heads_that_say_nothing_are_refused():
    lm = reference.as_lm(reference.induction())
    with pytest.raises(BadInput, match="writes nothing"):
        null_of(lm, "0.1", "1.0", kind="K")
    with pytest.raises(BadInput, match="no head writes"):
        second_moment([decompose(lm, 0, heads=[1])])


def test_the_real_checkpoint(real_models):
    lm = interp.load(str(real_models / "stories260K-llama"), check=False)
    found = null_of(lm, "0.1", "2.3", kind="Q", offset=1, draws=20)
    assert np.isfinite(found.z) and 0 < found.observed < 1
    assert null_of(lm, "0.1", "2.3", kind="V", null="shuffle", draws=5).draws.shape == (5,)


@pytest.mark.parametrize("score", [0.0, 0.1, 0.6])
def test_many_equal_scores_have_one_tail(score):
    weights = [0.5, 0.3, 0.2]
    alone = float(log10_tail(score, weights, 127))
    for spread in (0.0, 1e-13):
        many = log10_tail(score + spread * np.arange(50), weights, 127)
        assert np.allclose(many, alone, atol=1e-8)
