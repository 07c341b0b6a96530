"""Directions: planted ones are found, closed forms hold, standardisation is folded back exactly, and the unfit is refused."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from interp.analyses.directions import fit_direction, fit_directions, gather
from interp.analyses.directions.base import METHODS
from interp.core.edit import add
from interp.core.errors import BadInput

from .conftest import planted


@pytest.mark.parametrize("method", METHODS)
def test_a_planted_direction_is_found(method):
    x, yes, unit = planted(2000, gap=4.0)
    found = fit_direction(x, yes.tolist(), method)
    assert float(found.unit.numpy() @ unit) > 0.99
    assert abs(found.scale - 4.0) < 0.2
    right = (found.score(x).numpy() > 0) == yes
    assert right.mean() > 0.96


def test_the_mean_and_whitened_directions_are_their_formulas():
    x, yes, _ = planted()
    x = x @ np.diag(np.arange(1.0, 13.0))
    gap = x[yes].mean(axis=0) - x[~yes].mean(axis=0)
    assert np.allclose(fit_direction(x, yes.tolist(), "mean").vector, gap)
    inner = np.where(yes[:, None], x - x[yes].mean(axis=0), x - x[~yes].mean(axis=0))
    want = np.linalg.solve(inner.T @ inner / (len(x) - 2), gap)
    assert np.allclose(fit_direction(x, yes.tolist(), "lda").vector, want)


@pytest.mark.parametrize("method", ["ridge", "logistic"])
def test_standardisation_is_folded_back(method):
    x, yes, _ = planted(150, gap=1.0)
    yes[:40] = False  # classes of different size
    x = x * np.geomspace(1e-3, 1e3, 12) + np.linspace(-50, 50, 12)
    x[:, 4] = 7.0  # a constant feature
    found = fit_direction(x, yes.tolist(), method, strength=0.2)
    probe = (
        Ridge(alpha=0.2 * 150)
        if method == "ridge"
        else LogisticRegression(C=1 / 30, class_weight="balanced", tol=1e-8, max_iter=5000)
    )
    pipeline = make_pipeline(StandardScaler(), probe).fit(x, yes * 2.0 - 1.0)
    want = pipeline.predict(x) if method == "ridge" else pipeline.decision_function(x)
    score = found.score(x).numpy()
    if method == "ridge":  # the threshold is put half way between the classes
        middle = (want[yes].mean() + want[~yes].mean()) / 2
        assert np.allclose(score, want - middle, atol=1e-9)
    else:
        assert np.allclose(score, want, atol=1e-9)


def test_components_of_pairs_find_what_components_of_values_miss():
    rng = np.random.default_rng(0)
    topic = rng.standard_normal((300, 6)) * np.array(
        [8.0, 1, 1, 1, 1, 1]
    )  # what pairs have in common, and most of the variance
    shift = np.array([0.0, 0, 0, 3.0, 0, 0])
    x = np.concatenate([topic + shift, topic]) + 0.1 * rng.standard_normal((600, 6))
    yes, groups = [True] * 300 + [False] * 300, list(range(300)) * 2
    assert float(fit_direction(x, yes, "pca", groups=groups).unit[3]) > 0.99
    assert abs(float(fit_direction(x, yes, "pca").unit[0])) > 0.9


def test_a_direction_has_the_shape_of_its_site(stories):
    texts, labels = ["One dog.", "Two cats ran.", "A red ball.", "The sun is up."], [True, False, True, False]
    site = "blocks.2.attn.hook_z"
    found = gather(stories, texts, site, heads=(2,))
    value = next(iter(fit_directions(found, labels, "mean").values())).at_site()
    assert value.shape == (stories.spec.n_heads, stories.spec.d_head)
    assert float(value[2].norm()) == pytest.approx(1.0) and float(value.norm()) == pytest.approx(1.0)
    plain = stories.run(stories.encode(texts[0]), capture=site)[site]
    steered = stories.run(stories.encode(texts[0]), capture=site, edits=[add(site, 2.0 * value)])[site]
    assert torch.allclose(steered - plain, (2.0 * value).expand_as(plain), atol=1e-5)


def test_what_cannot_be_fitted_is_refused_with_the_counts():
    x, yes, _ = planted(10, width=20)
    with pytest.raises(BadInput, match="10 yes and 0 no"):
        fit_direction(x, [True] * 10)
    with pytest.raises(BadInput, match="20 features and 10 rows"):
        fit_direction(x, yes.tolist(), "lda")
    with pytest.raises(BadInput, match="fewer directions"):
        fit_direction(np.repeat(planted(50, width=3)[0], 2, axis=1), (np.arange(50) % 2 == 0).tolist(), "lda")
    with pytest.raises(BadInput, match="must be positive"):
        fit_direction(x, yes.tolist(), "ridge", strength=0.0)
    with pytest.raises(BadInput, match="not finite"):
        fit_direction(np.full((4, 2), np.nan), [True, False] * 2)
    with pytest.raises(BadInput, match="the same values"):
        fit_direction(np.ones((4, 2)), [True, False] * 2)
    with pytest.raises(BadInput, match="one of 'mean'"):
        fit_direction(x, yes.tolist(), "svm")  # type: ignore[arg-type]
