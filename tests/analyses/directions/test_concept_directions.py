"""The verb `directions`: known concepts of atlas, nothing in shuffled ones, words alone, and what is refused."""

import numpy as np
import pytest

import interp
from interp import ConceptDirections
from interp.core.errors import BadInput, UnknownSite
from interp.data import labelled


@pytest.fixture(scope="module")
def found(atlas, colours):
    sites = ("hook_embed", "blocks.1.hook_resid_post", "blocks.1.attn.hook_z")
    return ConceptDirections(
        sites=sites, methods=("mean", "ridge", "logistic"), shuffles=79, refits=3, randoms=20, strengths=(0.1, 1.0)
    )(atlas, colours)


def test_a_concept_of_atlas_is_read_from_its_layers_and_from_its_words(found):
    curves = found.curves()
    at = curves.sel(site="blocks.1.hook_resid_post", fit="ridge")
    assert (
        float(at["auc"]) > 0.98
        and float(at["p"]) == pytest.approx(1 / 80)
        and float(at["p_holm"]) == pytest.approx(3 / 80)
    )
    assert float(at["ci_lo"]) > 0.9 and float(at["null_lo"]) < 0.5 < float(at["null_hi"]) < 0.8
    assert float(at["selectivity"]) == pytest.approx(float(at["accuracy"]) - 0.5, abs=0.1)
    assert abs(float(at["null_mean"]) - 0.5) < 0.05
    assert float(curves["p"].sel(fit="logistic").min()) == pytest.approx(1 / 4)  # three refits
    assert found.words()["auc"] > 0.95
    assert any("logistic: with 3 shuffles and 3 sites no p (Holm) can be below 0.75" in note for note in found.notes())
    assert not any(note.startswith("ridge") for note in found.notes())
    assert any("bag of words" in note for note in found.notes()) and any(
        "More features" in note for note in found.notes()
    )
    lines = "\n".join(found.report_lines())
    assert "bag of words" in lines and "blocks.1.attn.hook_z" in lines
    assert list(found.headline()) == [
        f"AUC, {found.best()[1]} at {found.best()[0]}",
        "bag of words",
        "shuffled labels, upper end",
    ]


def test_directions_come_back_after_saving(found, atlas, tmp_path):
    found.save(tmp_path / "d")
    again = interp.open(tmp_path / "d")
    for site in ("blocks.1.hook_resid_post", "blocks.1.attn.hook_z"):
        one, other = (result.direction(site, "ridge") for result in (found, again))
        assert (one.vector == other.vector).all() and one.bias == other.bias and one.shape == other.shape
    assert again.direction("blocks.1.attn.hook_z", "mean").at_site().shape == (atlas.spec.n_heads, atlas.spec.d_head)
    assert again.curves().equals(found.curves())
    cosines = found.cosines("ridge")
    assert np.allclose(np.diag(cosines), 1.0) and found.agreement("hook_embed").shape == (3, 3)
    assert found.thumbnail().shape == (3, 3)
    assert len(found.to_frame()) == 3 * 3 * 80


def test_labels_without_meaning_are_not_found(atlas, colours):
    rng = np.random.default_rng(0)
    mixed = labelled(
        [
            {"text": text, "label": int(label), "group": group}
            for text, label, group in zip(colours.texts, rng.permutation(80) < 40, colours.groups, strict=True)
        ]
    )
    null = ConceptDirections(sites=("blocks.1.hook_resid_post",), methods=("mean", "ridge"), shuffles=59, randoms=10)(
        atlas, mixed
    )
    curves = null.curves()
    assert float(curves["p"].min()) > 0.02 and float(curves["auc"].max()) < 0.75
    assert any(note.startswith("Nothing is found") for note in null.notes())
    assert not any("tell these texts apart" in note for note in null.notes())  # words do not, either


def test_lda_and_small_or_single_classes_are_refused_in_words(atlas, colours):
    with pytest.raises(BadInput, match="128 features, and 64 rows"):
        ConceptDirections(methods=("lda",)).check(atlas, colours)
    small = labelled(positive=["a red boat", "a blue boat"], negative=[f"boat number {i}" for i in range(20)])
    with pytest.raises(BadInput, match="positive texts fall into 2 groups"):
        ConceptDirections()(atlas, small)
    with pytest.raises(BadInput, match="needs labelled texts"):
        ConceptDirections()(atlas, ["a text"])
    with pytest.raises(BadInput, match="0 positive"):
        labelled([{"text": "a", "label": 0}, {"text": "b", "label": 0}])
    with pytest.raises(UnknownSite):
        ConceptDirections(sites=("blocks.9.hook_resid_post",))(atlas, colours)


@pytest.mark.parametrize(
    ("option", "words"),
    [
        ({"methods": ("svm",)}, "one of 'mean'"),
        ({"methods": ("mean", "mean")}, "each once"),
        ({"pool": "each"}, "`pool`"),
        ({"folds": 1}, "`folds` must be at least 2"),
        ({"strengths": (0.0, 1.0)}, "must be positive"),
    ],
)
def test_options_are_checked(option, words):
    with pytest.raises(BadInput, match=words):
        ConceptDirections(**option)


def test_a_real_checkpoint_and_its_cost(stories):
    happy = [
        f"The {thing} was {how}." for thing in ("dog", "cat", "bird", "boy", "girl", "man") for how in ("happy", "glad")
    ]
    sad = [text.replace("happy", "sad").replace("glad", "angry") for text in happy]
    texts = labelled(positive=happy, negative=sad, paired=True)
    method = ConceptDirections(methods=("mean",), pool="mean", folds=3, shuffles=39, randoms=10)
    assert method.cost(stories, texts).forwards == 24
    found = method(stories, texts)
    assert found.data.sizes["site"] == stories.spec.n_layers + 1
    assert float(found.curves()["auc"].max()) > 0.9


@pytest.fixture(scope="module")
def stopped():
    """Texts that all end in the same token, of which the embedding's last token says nothing; each sentence its own group."""
    pairs = [(f"The {one} was happy.", f"A {one} is very sad.") for one in ("dog", "cat", "bird", "boy", "girl", "man")]
    return labelled(positive=[a for a, _ in pairs], negative=[b for _, b in pairs])


def test_a_site_without_any_difference_scores_a_half_and_is_told(stories, stopped, tmp_path):
    small = {
        "methods": ("mean", "ridge", "logistic", "pca"),
        "folds": 3,
        "inner": 2,
        "shuffles": 19,
        "refits": 2,
        "randoms": 5,
    }
    sites = ("hook_embed", "blocks.0.attn.hook_q", "blocks.1.hook_resid_post")
    found = ConceptDirections(sites=sites, **small)(stories, stopped)
    curves = found.curves()
    for name in sites[:2]:  # hook_q of layer 0 knows the last token only
        at = curves.sel(site=name)
        assert (at[["auc", "accuracy", "null_lo", "null_hi", "random_hi"]].to_array() == 0.5).all() and (
            at["p"] == 1
        ).all()
        with pytest.raises(BadInput, match="no ridge direction"):
            found.direction(name, "ridge")
    assert found.data.attrs["alike"] == list(sites[:2]) and any(
        "No difference at hook_embed" in one for one in found.notes()
    )
    assert float(curves["auc"].sel(site=sites[2], fit="ridge")) > 0.8 and found.best()[0] == sites[2]
    assert np.isnan(found.cosines("mean").sel(site="hook_embed")).all()
    found.save(tmp_path / "d")
    assert interp.open(tmp_path / "d").report_lines() == found.report_lines()
    assert found.plot() is not None and found.plot(theme="paper") is not None
    with pytest.raises(BadInput, match="same values at 'hook_embed'"):
        ConceptDirections(sites=("hook_embed",), **small)(stories, stopped)


def test_pairs_that_differ_before_their_last_token_only_have_no_direction_in_it(stories):
    ends = ["dog.", "cat!", "bird?", "boy", "girl.", "man!", "king", "tree?"]
    texts = labelled(
        positive=[f"I love the {end}" for end in ends], negative=[f"I hate the {end}" for end in ends], paired=True
    )
    found = ConceptDirections(
        sites=("hook_embed", "blocks.2.hook_resid_post"), folds=2, inner=2, shuffles=9, refits=1, randoms=3
    )(stories, texts)
    assert (found.curves()["auc"].sel(site="hook_embed") == 0.5).all() and found.data.attrs["alike"] == ["hook_embed"]
