"""Erasers: closed forms, guarantees on the fit rows, least change, and the same map in the forward pass."""

import numpy as np
import pytest
import torch

from interp.analyses.directions import fit_eraser, gather, leace
from interp.analyses.directions.erasers import ERASERS, random_eraser, text_edits
from interp.core.errors import BadInput
from interp.core.site import Site

from .conftest import planted


def skewed(rows: int = 300):
    x, yes, unit = planted(rows, gap=2.0)
    mix = np.random.default_rng(3).standard_normal((12, 12))
    return x @ mix, yes, unit @ mix


@pytest.mark.parametrize("shrinkage", [None, 0.0, 0.5])
def test_leace_leaves_no_linear_trace_on_the_fit_rows(shrinkage):
    x, yes, _ = skewed()
    erased = leace(x, yes[:, None].astype(float), shrinkage=shrinkage)(x)
    assert np.abs(erased[yes].mean(axis=0) - erased[~yes].mean(axis=0)).max() < 1e-10
    # at the constant probe, the slope of a linear probe's logistic loss is the covariance with the labels
    assert np.abs((yes.mean() - yes) @ erased).max() / len(x) < 1e-10
    assert np.allclose(erased.mean(axis=0), x.mean(axis=0))


def test_leace_of_two_classes_is_its_closed_form_and_of_three_guards_all():
    x, yes, _ = skewed()
    gap = x[yes].mean(axis=0) - x[~yes].mean(axis=0)
    solved = np.linalg.solve(np.cov(x.T, bias=True), gap)
    found = leace(x, yes[:, None].astype(float), shrinkage=0.0)
    assert np.allclose(found.left @ found.right.T, np.outer(solved, gap) / (gap @ solved), atol=1e-10)
    three = np.eye(3)[np.random.default_rng(0).integers(0, 3, len(x))]
    x = x + three @ np.random.default_rng(1).standard_normal((3, 12))
    found = leace(x, three)
    assert found.rank == 2
    assert np.abs((three - three.mean(axis=0)).T @ found(x)).max() < 1e-8


def test_leace_moves_the_rows_less_than_any_other_map_that_makes_the_means_equal():
    x, yes, _ = skewed()
    gap = x[yes].mean(axis=0) - x[~yes].mean(axis=0)
    best = ((leace(x, yes[:, None].astype(float), shrinkage=0.0)(x) - x) ** 2).sum()
    rng = np.random.default_rng(0)
    for _ in range(20):
        read = rng.standard_normal(12)
        other = x - np.outer((x - x.mean(axis=0)) @ read / (gap @ read), gap)
        assert np.allclose(other[yes].mean(axis=0), other[~yes].mean(axis=0))
        assert ((other - x) ** 2).sum() > best
    assert ((fit_eraser(x, yes.tolist(), "mean")(x) - x) ** 2).sum() > best


def test_projections_remove_what_they_say_and_nothing_else():
    x, yes, _ = skewed()
    erased = fit_eraser(x, yes.tolist(), "mean")(x)
    assert np.abs(erased[yes].mean(axis=0) - erased[~yes].mean(axis=0)).max() < 1e-10
    for method in ERASERS:
        eraser = fit_eraser(x, yes.tolist(), method, rounds=3)
        assert eraser.rank == (3 if method == "inlp" else 1)
        assert np.allclose(eraser(eraser(x)), eraser(x), atol=1e-8)  # once is enough
        assert np.linalg.matrix_rank(eraser(x) - x, tol=1e-8) == eraser.rank
    one, more = (fit_eraser(x, yes.tolist(), "inlp", rounds=rounds) for rounds in (1, 4))
    assert np.allclose(one.left[:, 0], more.left[:, 0]) and np.allclose(more.left.T @ more.left, np.eye(4), atol=1e-10)


def test_leace_guards_the_fit_rows_with_more_features_than_rows_too():
    x, yes, _ = planted(40, width=100, gap=1.0)
    erased = fit_eraser(x, yes.tolist(), "leace")(x)
    assert np.abs(erased[yes].mean(axis=0) - erased[~yes].mean(axis=0)).max() < 1e-10


@pytest.mark.parametrize("site", ["blocks.2.hook_resid_post", "blocks.1.attn.hook_z"])
@pytest.mark.parametrize("method", ["mean", "leace"])
def test_the_forward_pass_does_what_the_map_does(stories, site, method):
    texts = [
        f"One day a {thing} was {how}."
        for thing in ("dog", "red ball", "cat", "big old tree")
        for how in ("sad", "very happy")
    ]
    labels = ["happy" in text for text in texts]
    heads = (1, 4) if site.endswith("z") else None
    clean = gather(stories, texts, site, pool="mean", heads=heads)
    eraser = fit_eraser(clean[site], labels, method)
    edits = text_edits({Site.parse(site): eraser}, clean.tokens[0].bos, heads)
    erased = gather(stories, texts, site, pool="mean", heads=heads, edits=edits)
    assert torch.allclose(erased[site].double(), torch.from_numpy(eraser(clean[site])), atol=2e-5)
    whole = gather(stories, texts, site, pool="mean"), gather(stories, texts, site, pool="mean", edits=edits)
    if heads is not None:  # the other heads are left alone
        shape = (len(texts), stories.spec.n_heads, stories.spec.d_head)
        before, after = (one[site].reshape(shape)[:, [0, 2, 3, 5]] for one in whole)
        assert torch.allclose(before, after, atol=2e-6)
    ids = stories.encode(texts[0])
    run = stories.run(ids, capture=site, edits=edits(ids))[site]
    assert torch.equal(run[:, 0], stories.run(ids, capture=site)[site][:, 0])  # the BOS is left alone


def test_what_cannot_be_erased_is_refused():
    x, yes, _ = planted(60)
    with pytest.raises(BadInput, match="`rounds`"):
        fit_eraser(x, yes.tolist(), "inlp", rounds=12)
    with pytest.raises(BadInput, match="one of"):
        fit_eraser(x, yes.tolist(), "lobotomy")
    same = np.concatenate([x[:30], x[:30]])
    with pytest.raises(BadInput, match="equal already"):
        fit_eraser(same, [True] * 30 + [False] * 30, "leace")
    assert random_eraser(x, 3).rank == 3 and np.allclose(random_eraser(x, 3)(x).mean(axis=0), x.mean(axis=0))
