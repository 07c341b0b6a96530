"""Held-out scores: no leak, the closed forms are scikit-learn's, nulls are nulls, intervals cover."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.metrics import roc_auc_score

from interp.analyses.directions import fit_direction
from interp.analyses.directions.crossval import Plan, auc_interval, held_out
from interp.analyses.directions.folds import grouped_folds, shuffled_labels
from interp.core.errors import BadInput

from .conftest import planted


def test_no_group_is_torn_apart_and_classes_are_shared_out():
    yes = np.arange(90) % 3 == 0
    groups = (np.arange(90) // 2).tolist()
    folds = grouped_folds(yes, groups, 5, seed=0, name="x")
    for group in set(groups):
        assert len({fold for fold, one in zip(folds, groups, strict=True) if one == group}) == 1
    assert all(0.2 < yes[folds == fold].mean() < 0.5 for fold in range(5))
    assert (folds == grouped_folds(yes, groups, 5, seed=0, name="x")).all()
    assert (folds != grouped_folds(yes, groups, 5, seed=1, name="x")).any()


def test_equal_texts_in_several_folds_would_leak_and_do_not():
    rng = np.random.default_rng(0)
    x = np.repeat(rng.standard_normal((40, 60)), 3, axis=0)  # each row three times, labels without meaning
    yes = np.repeat(np.arange(40) % 2 == 0, 3)
    groups = np.repeat(np.arange(40), 3)
    whole = held_out(x, yes[None], "ridge", Plan.of(yes, groups.tolist(), 5, 3, 0))
    torn = held_out(x, yes[None], "ridge", Plan.of(yes, list(range(120)), 5, 3, 0))
    assert torn.auc[0] > 0.9 and 0.2 < whole.auc[0] < 0.75


@pytest.mark.parametrize("method", ["mean", "lda", "ridge", "logistic", "pca"])
def test_a_fold_is_scored_by_what_fit_direction_fits_on_the_others(method):
    x, yes, _ = planted(120, gap=1.0)
    yes[:20] = False
    groups = np.arange(120)
    plan = Plan.of(yes, groups.tolist(), 4, 3, 0)
    found = held_out(x, yes[None], method, plan, strengths=(0.3,))
    for fold in range(4):
        train, held = plan.folds != fold, plan.folds == fold
        direction = fit_direction(x[train], yes[train].tolist(), method, groups=groups[train].tolist(), strength=0.3)
        score, seen = direction.score(x[held]).numpy(), direction.score(x[train]).numpy()
        inner = np.concatenate(
            [seen[yes[train]] - seen[yes[train]].mean(), seen[~yes[train]] - seen[~yes[train]].mean()]
        )
        assert np.allclose(found.score[held], score / np.sqrt((inner**2).mean()), atol=1e-4)


def test_closed_forms_are_those_of_scikit_learn_also_with_more_features_than_rows():
    from interp.analyses.directions.crossval import _weights

    x, yes, _ = planted(60, width=150, gap=2.0)
    targets = np.stack([yes, np.roll(yes, 7) ^ (np.arange(60) % 5 == 0)])
    standard = (x - x.mean(axis=0)) / x.std(axis=0)
    for method in ("ridge", "logistic"):
        weights, _ = _weights(x, targets, method, np.arange(60), np.zeros(60), (0.05,), True, None)
        for row, label in enumerate(targets):
            if method == "ridge":
                want = Ridge(alpha=0.05 * 60).fit(standard, label * 2.0 - 1).coef_
            else:
                want = (
                    LogisticRegression(C=1 / 3, class_weight="balanced", tol=1e-10, max_iter=5000)
                    .fit(standard, label)
                    .coef_[0]
                )
            assert np.allclose(weights[:, row] * x.std(axis=0), want, atol=1e-6)


def test_auc_is_the_share_of_pairs_in_order_within_folds():
    x, yes, _ = planted(80, gap=1.0)
    plan = Plan.of(yes, list(range(80)), 4, 3, 0)
    held = held_out(x, yes[None], "mean", plan)
    folds = [plan.folds == fold for fold in range(4)]
    pairs = [yes[rows].sum() * (~yes[rows]).sum() for rows in folds]
    want = sum(n * roc_auc_score(yes[rows], held.score[rows]) for n, rows in zip(pairs, folds, strict=True)) / sum(
        pairs
    )
    assert held.auc[0] == pytest.approx(want)
    low, high = auc_interval(held.score[None], plan, n=500)
    assert low[0] < held.auc[0] < high[0] and high[0] - low[0] < 0.4


def test_nothing_is_found_in_noise_and_shuffles_keep_the_design():
    rng = np.random.default_rng(1)
    yes = np.arange(200) % 2 == 0
    groups = np.arange(200) // 2  # pairs
    plan = Plan.of(yes, groups.tolist(), 5, 3, 0)
    targets = shuffled_labels(yes, groups.tolist(), plan.folds, 99, seed=0, name="x")
    assert (targets.reshape(99, 100, 2).sum(axis=2) == 1).all()  # flipped within pairs
    assert abs(targets[:, 0].mean() - 0.5) < 0.2
    for width in (20, 400):
        found = held_out(rng.standard_normal((200, width)), np.concatenate([yes[None], targets]), "ridge", plan)
        assert abs(found.auc.mean() - 0.5) < 0.02 and 0.38 < found.auc[0] < 0.62
        assert found.fitted[1:].mean() > (0.99 if width == 400 else 0.6)  # on its own rows it fits anything


def test_shuffles_of_unpaired_texts_keep_groups_and_class_sizes():
    yes = np.repeat(np.arange(30) % 3 == 0, 2)
    groups = np.repeat(np.arange(30), 2)
    folds = grouped_folds(yes, groups.tolist(), 3, seed=0, name="x")
    targets = shuffled_labels(yes, groups.tolist(), folds, 50, seed=0, name="x")
    assert (targets.reshape(50, 30, 2).std(axis=2) == 0).all()
    for fold in range(3):
        assert (targets[:, folds == fold].sum(axis=1) == yes[folds == fold].sum()).all()
    assert (targets != yes).any(axis=1).mean() > 0.9


def test_classes_smaller_than_the_folds_are_refused_with_their_number():
    yes = np.arange(40) < 3
    with pytest.raises(BadInput, match="positive texts fall into 3 groups"):
        Plan.of(yes, list(range(40)), 5, 3, 0)


@pytest.mark.parametrize("method", ["mean", "ridge", "logistic", "pca"])
def test_rounding_that_knows_the_label_is_no_difference(method):
    rng, yes = np.random.default_rng(0), np.arange(60) % 2 == 0
    size = rng.standard_normal(20) * 3
    x = (size + 3e-7 * np.abs(size) * yes[:, None]).astype(np.float32).astype(float)
    plan = Plan.of(yes, list(range(60)), 3, 3, 0)
    found = held_out(x, np.stack([yes, ~yes]), method, plan)
    assert (found.auc == 0.5).all() and (found.accuracy == 0.5).all() and not found.score.any()
    with pytest.raises(BadInput, match="is zero"):
        fit_direction(x, yes.tolist(), method)
    real = x.copy()
    real[:, 3] += yes  # one feature that differs, beside nineteen of rounding
    at = fit_direction(real, yes.tolist(), method).unit.numpy()
    assert held_out(real, yes[None], method, plan).auc[0] == 1.0 and abs(at[3]) > 0.999


def test_labels_that_no_exchange_can_change_are_refused():
    from interp.analyses.directions.steering.arms import exchanged

    yes = np.array([True] * 8 + [False] * 4)
    groups = [0, 0, 1, 1, 2, 2, 3, 3, 4, 5, 6, 7]  # the size of a group gives its label away
    folds = np.array([0, 0, 1, 1, 0, 0, 1, 1, 0, 1, 0, 1])
    with pytest.raises(BadInput, match="no labels can be exchanged"):
        shuffled_labels(yes, groups, folds, 5, seed=0, name="x")
    with pytest.raises(BadInput, match="no labels can be exchanged"):
        exchanged(yes, list(map(str, groups)), np.random.default_rng(0))
