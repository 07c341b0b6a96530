"""Latents as features: poolings equal dense ones, probes equal scikit-learn's, planted classes are found and random ones are not."""

from itertools import pairwise

import numpy as np
import pytest
import scipy.sparse as sp

import interp
from interp.analyses.dictionaries.classification import LatentClassification
from interp.analyses.dictionaries.classification.features import FeatureSet, reduced, scaled, words
from interp.analyses.dictionaries.classification.measures import measured, resample
from interp.analyses.dictionaries.classification.pooling import feature_names, pooled, pooled_rows, ruled
from interp.analyses.dictionaries.classification.probes import combined, logistic, logistic_fold
from interp.analyses.dictionaries.classification.reading import read_texts
from interp.analyses.dictionaries.classification.study import majority, study
from interp.analyses.directions.crossval import Plan
from interp.analyses.directions.gather import tokens_of
from interp.cache import Store
from interp.core.errors import BadInput, WrongModel
from interp.data import Labelled, labelled
from tests.analyses.dictionaries.planted_latents import planted_dictionary, random_dictionary, trigger_texts
from tests.oracle import capture

SITE = "blocks.1.hook_resid_post"


def sparse_codes(seed=0, lengths=(3, 1, 4, 2), latents=7):
    draw = np.random.default_rng(seed)
    dense = draw.uniform(0.1, 3, (sum(lengths), latents)) * (draw.random((sum(lengths), latents)) < 0.4)
    return dense, sp.csr_matrix(dense), np.cumsum([0, *lengths])


def test_poolings_are_those_of_dense_codes():
    dense, codes, starts = sparse_codes()
    parts = [dense[a:b] for a, b in pairwise(starts)]
    expected = {
        "sum": [part.sum(0) for part in parts], "mean": [part.mean(0) for part in parts], "max": [part.max(0) for part in parts],
        "last": [part[-1] for part in parts],
    }  # fmt: skip
    for pool, value in expected.items():
        assert np.allclose(pooled(codes, starts, pool).toarray(), value)
        assert np.allclose(pooled_rows(dense, starts, pool), value)
    for n in (1, 2, 50):
        marks = np.zeros_like(dense)
        for row, values in enumerate(dense):
            best = [one for one in np.argsort(-values, kind="stable")[:n] if values[one] > 0]
            marks[row, best] = 1
        assert np.array_equal(
            pooled(codes, starts, f"topn:{n}").toarray(),
            [marks[a:b].sum(0) for a, b in pairwise(starts)],
        )
    assert np.array_equal(ruled(pooled(codes, starts, "max"), ">1").toarray(), np.array(expected["max"]) > 1)
    tied = sp.csr_matrix(np.array([[2.0, 2.0, 2.0], [0, 0, 0]]))
    assert np.array_equal(pooled(tied, np.array([0, 2]), "topn:2").toarray(), [[1, 1, 0]])
    nothing = sp.csr_matrix((2, 3))
    assert pooled(nothing, np.array([0, 2]), "max").nnz == 0
    names = feature_names(("sum", "max", "last"), ("none", ">0"))
    assert list(names) == ["sum", "max", "last", "any >0", "last >0"]  # sum >0 is max >0


@pytest.mark.parametrize("width", [5, 60])
@pytest.mark.parametrize("sparse", [True, False])
def test_probes_are_scikit_learns_with_the_scaler_of_the_training_rows(width, sparse):
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    draw = np.random.default_rng(width)
    x = draw.standard_normal((40, width)) * (draw.random((40, width)) < 0.5) * draw.uniform(0.1, 9, width)
    x[:, 0] = 0
    yes = draw.random(40) < 0.35
    train = np.arange(40) < 30
    given = sp.csr_matrix(x) if sparse else x
    fitted = logistic_fold(given, train, yes[None], np.zeros(30, int), scaling="spread", strengths=(0.05,))
    pipe = make_pipeline(
        StandardScaler(), LogisticRegression(C=1 / (0.05 * 30), class_weight="balanced", tol=1e-10, max_iter=10_000)
    ).fit(x[train], yes[train])
    assert np.allclose(fitted.score[0], pipe.decision_function(x[~train]), atol=2e-4) and fitted.loose == 0
    weights = combined(given, train, fitted, "spread")
    assert np.allclose(weights, np.ravel(pipe[-1].coef_), atol=2e-4)
    changed = x.copy()
    changed[~train] *= 100  # held-out rows do not move the scaler
    again = scaled(sp.csr_matrix(changed) if sparse else changed, train, "spread")
    assert np.allclose(np.asarray(abs(again[train] - scaled(given, train, "spread")[train]).sum()), 0)


def test_label_sets_of_one_class_and_hard_fits_are_said(monkeypatch):
    x = np.random.default_rng(0).standard_normal((20, 4))
    space = reduced(x, np.ones(20, bool))
    targets = np.stack([np.ones(20, bool), np.arange(20) % 2 == 0])
    theta, loose = logistic(space.train, space.size, targets, np.array([1.0, 1.0]))
    assert not theta[0].any() and theta[1].any() and not loose.any()
    monkeypatch.setattr("interp.analyses.dictionaries.classification.probes.STEPS", 1)
    assert logistic(space.train, space.size, targets, np.array([1e-6, 1e-6]))[1].tolist() == [False, True]


def test_inverse_document_frequencies_are_of_training_rows():
    from sklearn.feature_extraction.text import TfidfTransformer

    counts = np.random.default_rng(1).poisson(0.7, (12, 9)).astype(float)
    counts[:, 0] = 1
    train = np.arange(12) < 8
    ours = scaled(sp.csr_matrix(counts), train, "tfidf").toarray()
    theirs = TfidfTransformer(norm="l2").fit((counts > 0)[train])
    expected = np.log1p(counts) * theirs.idf_
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    assert np.allclose(ours / np.linalg.norm(ours, axis=1, keepdims=True), expected)
    assert ours[train].var(axis=0).sum() == pytest.approx(8)  # min(rows, features)


def planted_codes(seed=0, texts=600, latents=512, width=64, tokens=30):
    """Four latents fire strongly at two tokens of a yes text and weakly at one of some texts of both kinds, never at the last."""
    draw = np.random.default_rng(seed)
    lengths = draw.integers(15, 46, texts)
    starts, yes = np.cumsum([0, *lengths]), np.arange(texts) % 2 == 0
    n = int(starts[-1])
    dense = np.zeros((n, latents), dtype=np.float32)
    for _ in range(4):
        dense[np.arange(n), draw.integers(4, latents, n)] = draw.uniform(0.2, 1.2, n)
    for text in range(texts):
        body = np.arange(starts[text], starts[text + 1] - 1)
        for latent in range(4):
            if draw.random() < 0.5:
                dense[draw.choice(body), latent] = draw.uniform(0.1, 0.6)
            if yes[text]:
                dense[draw.choice(body, min(draw.poisson(2.4), 8), replace=False), latent] = draw.uniform(1.0, 2.2)
    codes = sp.csr_matrix(dense.astype(np.float64))
    decoder = draw.standard_normal((latents, width))
    decoder /= np.linalg.norm(decoder, axis=1, keepdims=True)
    hidden = codes @ decoder + 0.6 * draw.standard_normal((n, width))
    return codes, hidden, starts, yes


def test_the_right_pooling_finds_planted_latents_that_hidden_states_blur():
    codes, hidden, starts, yes = planted_codes()
    chosen = {"sum": ("sum", "none"), "last": ("last", "none"), "any >0": ("sum", ">0"), "max >1": ("max", ">1")}
    sets = [FeatureSet(name, "latents", ruled(pooled(codes, starts, p), rule)) for name, (p, rule) in chosen.items()]
    sets += [FeatureSet(f"hidden {pool}", "hidden", pooled_rows(hidden, starts, pool)) for pool in ("mean", "last")]
    plan = Plan.of(yes, range(len(yes)), 5, 2, 0)
    found = study(sets, plan, probes=("logistic",), strengths=(0.1,), depth=4, shuffles=3, seed=0)
    f1 = {one.name: measured(score, yes[None], plan.folds)[0, 0] for one, score in zip(sets, found.score, strict=False)}
    assert f1["sum"] >= 0.95
    assert 0.40 <= f1["last"] <= 0.62 and f1["hidden last"] < 0.65
    assert f1["max >1"] - f1["any >0"] >= 0.10
    assert f1["sum"] - f1["hidden mean"] >= 0.10
    assert set(np.argsort(-np.abs(found.weights["sum", "logistic"]))[:4]) == {0, 1, 2, 3}
    assert found.loose == 0 and np.abs(found.null[0, :-1] - 0.5).max() < 0.12


def test_nothing_is_found_in_labels_at_random():
    draw = np.random.default_rng(3)
    codes = sp.csr_matrix(draw.random((120, 40)) * (draw.random((120, 40)) < 0.2))
    yes = draw.permutation(np.arange(120) % 2 == 0)
    plan = Plan.of(yes, range(120), 5, 2, 0)
    sets = [FeatureSet("a", "latents", codes), FeatureSet("b", "latents", ruled(codes, ">0"))]
    found = study(sets, plan, probes=("logistic", "tree"), strengths=(0.1, 1.0), depth=3, shuffles=19, seed=0)
    for row in range(2):
        for column in range(2):
            auc = measured(found.score[row, column][None], yes[None], plan.folds)[2, 0]
            assert (found.null[2, row, column] >= auc).sum() >= 1  # p > 0.05
            assert abs(found.null[2, row, column].mean() - 0.5) < 0.05


def test_measures_are_scikit_learns_and_the_larger_class_is_that_of_the_training_rows():
    from sklearn.metrics import accuracy_score, f1_score

    draw = np.random.default_rng(0)
    yes = draw.random(50) < 0.3
    score = draw.standard_normal(50) + yes
    plan = Plan.of(yes, range(50), 5, 2, 0)
    f1, accuracy, _ = measured(score[None], yes[None], plan.folds)[:, 0]
    assert f1 == pytest.approx(f1_score(yes, score > 0, average="macro"))
    assert accuracy == pytest.approx(accuracy_score(yes, score > 0))
    assert resample(score, plan).mean(axis=1) == pytest.approx([f1, accuracy], abs=0.03)
    assert (majority(plan) < 0).all()


@pytest.fixture(scope="module")
def planted():
    """Texts with a word that fires a planted latent, against texts with others' words."""
    made = interp.reference.concepts()
    lm = interp.reference.as_lm(made)
    dictionary, concepts = planted_dictionary(lm, made)
    texts = list(dict.fromkeys(trigger_texts(made, 96)))
    yes = [any(word in concepts[0].triggers for word in text.split()) for text in texts]
    data = labelled([{"text": text, "label": int(label)} for text, label in zip(texts, yes, strict=True)])
    method = LatentClassification(
        dictionary=dictionary, pools=("sum", "last"), rules=("none",), hidden=("sum",), skip_first=0, strengths=(0.1, 1.0)
    )  # fmt: skip
    return lm, method, data, method(lm, data)


def test_a_planted_latent_decides(planted):
    found = planted[3]
    assert found.best()[0] == "latents sum"
    table = found.table().set_index(["feature", "probe"])
    assert table.loc[("latents sum", "tree"), "f1"] > 0.95 and table.loc[("latents sum", "tree"), "p_best"] == 0.05
    assert table.loc[("larger class", "tree"), "auc"] == 0.5 and table.loc[("larger class", "tree"), "p"] == 1
    first = found.deciders("sum", "tree").iloc[0]
    assert first["latent"] == 0 and first["weight"] > 0.9 and first["on_yes"] == 1 and first["on_no"] == 0
    concept = next(one for one in interp.reference.concepts().answers["concepts"] if one.layer == 1)
    assert all(word in first["fires"] for word in concept.triggers)
    gap = found.difference("latents sum", "latents last", probe="tree")
    assert gap["low"] <= gap["f1"] <= gap["high"] and gap["f1"] > 0.2
    assert len(found.headline()) == 3 and any("bag of words" in note for note in found.notes())
    assert found.difference("latents sum", "latents sum")["f1"] == 0


def test_results_come_back_from_the_disk_and_do_not_depend_on_the_store(planted, tmp_path):
    lm, method, data, found = planted
    again = interp.open(found.save(tmp_path / "saved"))
    assert again.report_lines() == found.report_lines() and again.best() == found.best()
    stored = method(lm, data, store=Store(tmp_path / "store"))
    assert np.allclose(stored.data["score"], found.data["score"], atol=1e-4)


def test_codes_are_those_of_hooked_activations_without_the_first_tokens(atlas, tmp_path):
    dictionary = random_dictionary(atlas, SITE)
    tokens = tokens_of(atlas, interp.reference.labelled("atlas", "colour", 3))
    for store in (None, Store(tmp_path)):
        read = read_texts(dictionary, atlas, tokens, 2, store)
        for place, text in enumerate(tokens):
            rows = capture(atlas.module, "resid_post", 1, np_tokens(text))[0, 2:]
            here = slice(read.starts[place], read.starts[place + 1])
            assert np.allclose(read.rows[here], rows, atol=1e-5)
            assert np.allclose(read.codes[here].toarray(), dictionary.encode(rows).detach().numpy(), atol=1e-4)
            assert read.ids[here].tolist() == list(text.ids[2:])


def np_tokens(text):
    import torch

    return torch.tensor([text.ids])


def test_words_are_counts_without_the_bos(atlas):
    tokens = tokens_of(atlas, ["The king of the king .", "The guards ."])
    counts = words(tokens)
    assert counts.sum() == sum(len(text) - int(text.bos) for text in tokens) and counts.max() == 2


def test_bad_input_is_refused(atlas, planted):
    for wrong in (
        {"pools": ("median",)}, {"rules": ("1",)}, {"rules": (">-1",)}, {"hidden": ("topn:5",)}, {"probes": ("svm",)}, {"pools": ()},
        {"pools": ("sum", "sum")}, {"words": ("bm25",)}, {"folds": 1}, {"skip_first": -1}, {"strengths": (0.0,)}, {"pools": ("topn:0",)},
    ):  # fmt: skip
        with pytest.raises(BadInput):
            LatentClassification(dictionary="x", **wrong)
    texts = interp.reference.labelled("atlas", "colour", 4)
    mine = random_dictionary(atlas, SITE)
    with pytest.raises(BadInput, match="missing"):
        LatentClassification()(atlas, texts)
    with pytest.raises(BadInput, match="folds"):
        LatentClassification(dictionary=mine)(atlas, texts)
    with pytest.raises(BadInput, match="skip_first"):
        LatentClassification(dictionary=mine, folds=2, inner=2, skip_first=50)(atlas, texts)
    with pytest.raises(BadInput, match="labelled"):
        LatentClassification(dictionary=mine)(atlas, ["a text"])
    with pytest.raises(WrongModel):
        LatentClassification(dictionary=planted[1].dictionary)(atlas, texts)
    assert isinstance(texts, Labelled) and LatentClassification(dictionary=mine).cost(atlas, texts).tokens > 0
