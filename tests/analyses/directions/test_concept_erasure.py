"""The verb `erase`: what is erased at a site is gone from the fit texts, costs are measured, random subspaces erase nothing."""

import numpy as np
import pytest

import interp
from interp import ConceptErasure
from interp.core.errors import BadInput
from interp.data import labelled
from tests import oracle


@pytest.fixture(scope="module")
def found(atlas, colours):
    method = ConceptErasure(
        site="blocks.1.hook_resid_post",
        methods=("mean", "inlp", "leace"),
        rounds=3,
        shuffles=40,
        draws=1,
        documents=2,
        folds=3,
    )
    return method(atlas, colours)


def test_means_are_equal_where_it_was_fitted_and_random_subspaces_erase_nothing(found):
    gap = found.data["gap"].sel(half="fit")
    assert float(gap.sel(eraser="none")) == 1.0
    assert float(gap.sel(eraser="mean")) < 1e-6 and float(gap.sel(eraser="leace")) < 1e-6
    assert found.data.attrs["forward_difference"] < 1e-5
    table = found.table()
    first = table.isel(site=0)
    assert float(first["auc"].sel(eraser="none", probe="linear")) > 0.98
    assert float(first["auc"].sel(eraser="random 1, 1", probe="linear")) > 0.98
    assert float(first["auc"].sel(eraser="leace", probe="transfer")) == 0.5
    assert float(first["auc"].sel(eraser="leace", probe="linear")) < 0.85
    assert bool(first["found"].sel(eraser="none", probe="nonlinear"))
    assert [str(site) for site in table["site"].values] == [f"blocks.{layer}.hook_resid_post" for layer in (1, 2, 3)]


def test_costs_are_those_of_the_edited_pass(found, atlas, colours):
    costs = found.costs()
    assert float(costs["kl_texts"].sel(eraser="none")) == 0.0
    assert float(costs["kl_texts"].sel(eraser="leace")) > 3 * float(costs["random_texts"].sel(eraser="leace"))
    assert int(found.data["rank"].sel(eraser="inlp")) == 3
    assert float(costs["random_texts"].sel(eraser="inlp")) == float(costs["kl_texts"].sel(eraser="random 3, 1"))
    eraser = found.eraser("leace")
    text = str(found.data["text"].values[4])
    ids = atlas.encode(text).tokens
    start = int(atlas.tokenizer.default_bos)
    plain = oracle.logits(atlas.module, ids).detach().double().log_softmax(-1)[0, start:]

    def erase(x):
        new = x.clone()
        new[:, start:] = x.new_tensor(np.asarray(eraser(x[0, start:])))
        return new

    changed = oracle.edited(atlas.module, [("resid_post", 1, erase)], ids).detach().double().log_softmax(-1)[0, start:]
    want = float((plain.exp() * (plain - changed)).sum(-1).mean())
    assert float(found.data["kl_texts"].sel(eraser="leace")[4]) == pytest.approx(want, rel=1e-3, abs=1e-6)


def test_it_reads_well_and_comes_back(found, tmp_path):
    assert next(iter(found.headline())) == "AUC before"
    lines = "\n".join(found.report_lines())
    assert "leace" in lines and "random 3, 1" in lines and "*" in lines
    found.save(tmp_path / "e")
    again = interp.open(tmp_path / "e")
    assert again.table().equals(found.table())
    assert np.array_equal(again.eraser("inlp").left, found.eraser("inlp").left)
    assert found.thumbnail().shape == (6, 3)
    with pytest.raises(BadInput, match="one of"):
        found.eraser("none")


def test_onwards_leaves_no_gap_at_later_sites(atlas, colours):
    method = ConceptErasure(
        site="blocks.1.hook_resid_post",
        methods=("mean",),
        onwards=True,
        shuffles=10,
        draws=1,
        documents=1,
        folds=2,
        inner=2,
    )
    found = method(atlas, colours)
    assert found.data.sizes["stage"] == 3
    last = found.table()["auc"].sel(site="blocks.3.hook_resid_post", eraser="mean")
    assert float(last.sel(probe="transfer")) < 0.75
    assert found.eraser("mean", "blocks.3.hook_resid_post").rank == 1


def test_bad_options_and_sites_are_refused(atlas, colours):
    for option in ({"methods": ("lobotomy",)}, {"rounds": 0}, {"strengths": ()}, {"pool": "each"}):
        with pytest.raises(BadInput):
            ConceptErasure(**option)
    with pytest.raises(BadInput, match="names 4 sites"):
        ConceptErasure(site="blocks.*.hook_resid_post")(atlas, colours)
    with pytest.raises(BadInput, match="fewer than the 5 folds"):
        ConceptErasure()(atlas, colours.select(range(16)))
    assert ConceptErasure().cost(atlas, colours).forwards > 0


def test_neutral_text_is_one_that_the_model_reads(found):
    assert float(found.costs()["ppl_neutral"].sel(eraser="none")) < 10
    assert found.data.attrs["neutral"] == "prose of the reference world" and "prose of" in found.report_lines()[-1]


def test_a_site_without_any_difference_is_refused_where_it_is_to_be_erased(stories):
    things = ("dog", "cat", "bird", "boy", "girl", "man", "king", "tree", "hat", "cup")
    texts = labelled(
        positive=[f"The {one} was happy." for one in things], negative=[f"A {one} is sad." for one in things]
    )
    for method in ("mean", "inlp", "leace"):
        with pytest.raises(BadInput, match=r"means are equal|direction is zero"):
            ConceptErasure(site="blocks.0.attn.hook_q", methods=(method,), folds=2, inner=2, shuffles=2, draws=1)(
                stories, texts
            )
