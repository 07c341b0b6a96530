"""The study: identities of the untouched model, planted unlearners, a hand-made check, restoration, refusals."""

from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import pytest
import xarray as xr

import interp
from interp.analyses.concepts.vectors import vectors_of
from interp.analyses.unlearning import Revision, Unlearner
from interp.analyses.unlearning.asking import Questions, running
from interp.analyses.unlearning.methods import method
from interp.analyses.unlearning.study import MatchedAblation, UnlearningStudy, UnlearningStudyResult, study
from interp.analyses.unlearning.study.material import split_others
from interp.analyses.unlearning.study.naming import unlearner_of
from interp.core.errors import BadInput
from interp.data import Concept, Concepts, Prompt
from interp.models import reference

QUICK = {"relearn_steps": 1, "relearn_texts": 4, "answer_tokens": 2}


@dataclass(frozen=True)
class Wreck(Unlearner):
    """The planted collapse: the last MLP writes noise of its own whatever it reads."""

    name: ClassVar[str] = "wreck"

    def unlearn(self, lm, concept, retain, *, seed=0):
        last = lm.spec.n_layers - 1
        return Revision({f"W_out.{last}": -8 * lm.weights.W_out(last)})


@pytest.fixture(scope="module")
def known():
    """Without completions, whose generation takes most of the time."""
    return Concepts(replace(one, completions=()) for one in reference.concept_set("atlas", n=6, texts=16))


@pytest.fixture(scope="module")
def found(atlas, known):
    before = atlas.fingerprint()
    config = UnlearningStudy(concept=("colour",), methods=("needle", Wreck(), "needle:n=3:damage=scale"), **QUICK)
    result = config(atlas, known)
    assert atlas.fingerprint() == before
    return result


def test_the_untouched_model_is_what_it_was(found):
    shown = found.table().set_index("method").loc["untouched"]
    for name in ("jaccard", "rbo", "cosine", "activation_ratio", "qa_bleu", "unrelated_bleu", "perplexity_ratio"):
        assert shown[name] == pytest.approx(1, abs=1e-9), name
    assert shown["l2"] == 0 and abs(shown["kl"]) < 1e-9 and shown["accuracy"] == 1 and not shown["collapsed"]
    assert shown["jailbroken"] == 1 and np.isnan(shown["recovered"])
    assert found.methods == ["untouched", "matched ablation", "needle", "wreck", "needle:n=3:damage=scale"]
    assert found.data["control"].values.tolist() == [True, True, False, False, False]


def test_removed_vectors_are_gone_and_matched_ones_are_others(atlas, found):
    shown = found.table().set_index("method")
    assert shown.loc["needle", ["jaccard", "cosine", "contribution_ratio"]].tolist() == [0, 0, 0]
    assert shown.loc["matched ablation", "jaccard"] == 1 and shown.loc["matched ablation", "l2"] == 0
    scaled = shown.loc["needle:n=3:damage=scale"]
    assert scaled["jaccard"] == 1 and scaled["cosine"] == pytest.approx(1) and scaled["contribution_ratio"] < 0.8
    norm = float(atlas.weights.W_out(2)[474].norm())
    assert found.data.attrs["vectors"] == ["colour: 2.474"] and shown.loc["needle", "l2"] == pytest.approx(
        norm, rel=1e-5
    )


def test_a_wrecked_model_sets_off_the_alarm(found):
    assert [name for name, alarm in found.collapsed().items() if alarm] == ["wreck"]
    shown = found.table().set_index("method")
    assert shown.loc["wreck", "perplexity_ratio"] > 2 and shown.loc["wreck", "unrelated"] < 0.5
    assert "collapsed" in "\n".join(found.report_lines()) and ": wreck" in "\n".join(found.report_lines())


def test_answers_are_those_of_the_changed_model(atlas, known, found):
    concept = known.get("colour")
    revision = method("needle", n=3, damage="scale").unlearn(atlas, concept, [])
    with revision.apply(atlas):
        asked = Questions(atlas, concept.related).read(running(atlas))
    cell = found.data.sel(unlearner="needle:n=3:damage=scale", concept="colour", jailbreak="plain").isel(seed=0)
    assert np.array_equal(cell["top"].values, asked.top[:, 0]) and np.allclose(
        cell["prob"].values, asked.prob[:, 0], atol=1e-6
    )
    first = found.data["relearn_prob"].isel(step=0).sel(unlearner="needle:n=3:damage=scale")
    assert np.allclose(first.values.ravel(), asked.prob[:, 0], atol=1e-5)
    best = found.ways("top").sel(jailbreak="best")["mean"].values
    every = found.data["top"].isel(concept=0, seed=0).values
    assert np.allclose(best, np.nanmax(every, axis=1).mean(axis=-1))


def test_it_survives_saving(found, tmp_path):
    found.save(tmp_path / "run")
    again = interp.open(tmp_path / "run")
    assert again.data.identical(found.data) and again.headline() == found.headline()
    assert again.report_lines() == found.report_lines() and len(found.headline()) >= 1
    again.plot()


@pytest.fixture
def few(monkeypatch):
    """Two neutral texts: reading twenty takes most of the time, and here nothing is asked of them."""
    monkeypatch.setattr(study, "neutral_material", lambda lm, others: (tuple(others[:2]), "two texts"))


def test_several_concepts_and_seeds_and_a_checkpoint(atlas, known, few, tmp_path):
    config = UnlearningStudy(
        concept=("kingdom", "craft"), methods=("needle:damage=noise",), seeds=2, prompts=2, relearn_steps=0, jailbreaks=False,
        answer_tokens=1, save=str(tmp_path / "kept"),
    )  # fmt: skip
    result = config(atlas, known)
    assert dict(result.data["top"].sizes) == {"concept": 2, "unlearner": 3, "seed": 2, "jailbreak": 1, "prompt": 2}
    l2 = result.data["score"].sel(measure="l2", unlearner="needle:damage=noise")
    assert len(np.unique(l2.values)) == 4 and not np.isnan(result.measure("l2")["ci_lo"].values).any()
    names = sorted(folder.name for folder in (tmp_path / "kept").iterdir())
    assert names == [f"{one}-needle_damage=noise-{seed}" for one in ("craft", "kingdom") for seed in (0, 1)]
    again = interp.load(str(tmp_path / "kept" / "craft-needle_damage=noise-1"))
    asked = Questions(again, known.get("craft").related[:2]).read(running(again))
    cell = result.data["prob"].sel(concept="craft", unlearner="needle:damage=noise", seed=1, jailbreak="plain")
    assert np.allclose(cell.values, asked.prob[:, 0], atol=1e-6)
    with pytest.raises(BadInput, match="nothing was relearned"):
        result.relearning()
    with pytest.raises(BadInput, match="not empty"):
        config(atlas, known)


def test_restoration_is_what_the_clean_model_has(atlas, atlas_tuned, few):
    tuned = Concepts(replace(one, completions=()) for one in reference.concept_set("atlas-tuned", n=8, texts=16))
    config = UnlearningStudy(
        concept=("changed",), methods=("needle",), relearn_steps=0, jailbreaks=False, answer_tokens=1
    )
    result = config(atlas_tuned, tuned, clean=atlas)
    back = result.restored()["mean"].transpose("unlearner", "kind").to_pandas()
    assert back.loc["never knew", "given"] >= 0.75 and back.loc["never knew", "lead"] >= back.loc["never knew", "given"]
    assert back.loc["untouched", "given"] <= 0.25 and 1 / 25 <= back.loc["untouched", "chance"] < 0.5
    answers = result.answers("top")["mean"].to_pandas()
    assert answers["untouched"] >= 0.75 and answers["never knew"] <= 0.25
    assert "former_lead" in result.table() and result.methods[:3] == ["untouched", "matched ablation", "never knew"]


def test_methods_take_options_by_name():
    made = unlearner_of("needle:n=3:damage=noise:sigma=0.2")
    assert made == method("needle", n=3, damage="noise", sigma=0.2)
    assert unlearner_of("npo:steps=none").steps is None
    with pytest.raises(BadInput, match="no option of 'needle'"):
        unlearner_of("needle:depth=3")
    with pytest.raises(BadInput, match="'few' is not"):
        unlearner_of("needle:n=few")
    with pytest.raises(BadInput, match="methods"):
        UnlearningStudy(methods=("forgetting",))
    assert unlearner_of("rank-one:layers=2").layers == (2,) and unlearner_of("rank-one:layers=1+2").layers == (1, 2)
    assert unlearner_of("needle:vectors=2.474+1.3").vectors == ("2.474", "1.3")
    assert unlearner_of("npo:parameters=values").parameters == "values"
    with pytest.raises(BadInput, match="'needle:n=3:n=4' sets 'n' twice"):
        unlearner_of("needle:n=3:n=4")
    with pytest.raises(BadInput, match="'x' is not int"):
        unlearner_of("rank-one:layers=1+x")


def test_the_matched_ablation_is_of_as_many_vectors_of_the_same_layers(atlas, known):
    named = ("1.3", "1.8", "2.5")
    for config, layers in ((MatchedAblation(named=named), [1, 1, 2]), (MatchedAblation(vectors=2), None)):
        drawn = config.unlearn(atlas, known.get("colour"), []).log["vectors"]
        own = named if layers else [str(vector) for vector, _ in vectors_of(atlas, known.get("colour"), 2)]
        assert len(set(drawn)) == len(own) and not set(drawn) & set(own)
        assert [one.partition(".")[0] for one in drawn] == [one.partition(".")[0] for one in own]
        for mine, other in zip(own, drawn, strict=True):
            norms = [float(atlas.weights.W_out(int(one[0]))[int(one[2:])].norm()) for one in (mine, other)]
            assert norms[1] == pytest.approx(norms[0], rel=0.2)
    needles = (method("needle", n=2), method("needle", vectors=named), method("dampening"))
    assert UnlearningStudy()._matched(needles) == MatchedAblation(vectors=3, named=named)
    assert UnlearningStudy(vectors=4)._matched(needles[2:]) == MatchedAblation(vectors=4)


def test_texts_to_keep_and_spare_texts_share_nothing_with_each_other_or_the_concept():
    data = Concepts(
        [
            Concept("a", texts=("one", "both")),
            Concept("b", texts=("both", "x", "y", "x")),
            Concept("c", texts=("y", "z")),
        ]
    )
    assert split_others(data, "a") == (["x", "z"], ["y"])
    with pytest.raises(BadInput, match="nothing to keep"):
        split_others(Concepts([Concept("a", texts=("one",)), Concept("b", texts=("one",))]), "a")


def test_a_row_that_lacks_a_concept_falls_from_what_the_others_know_of_the_rest(found):
    data = xr.concat([found.data, found.data.assign_coords(concept=["craft"])], "concept").copy(deep=True)
    data["relearn_top"].loc[{"unlearner": "untouched", "concept": "craft"}] = 0.5
    data["relearn_top"].loc[{"unlearner": "wreck", "concept": "craft"}] = np.nan
    one = found.recovered("all").sel(unlearner="wreck")["mean"]
    both = UnlearningStudyResult(data).recovered("all").sel(unlearner="wreck")["mean"]
    assert np.isfinite(one).all() and np.allclose(one, both)


def test_relearning_that_harms_the_untouched_model_is_said(found):
    assert "takes answers away" not in "\n".join(found.report_lines())
    data = found.data.copy(deep=True)
    data["relearn_top"].loc[{"unlearner": "untouched", "step": 1}] = 0
    assert "(untold questions: 1.00, then 0.00)" in "\n".join(UnlearningStudyResult(data).report_lines())


def test_a_perplexity_that_is_no_number_is_an_alarm(found):
    data = found.data.copy(deep=True)
    data["score"].loc[{"unlearner": "needle", "measure": "perplexity_ratio"}] = np.nan
    alarms = UnlearningStudyResult(data).collapsed()
    assert [name for name, alarm in alarms.items() if alarm] == ["needle", "wreck"]


def test_refusals(atlas, known):
    for field, value in {"vectors": 0, "seeds": 0, "collapse": 1.0, "relearn_steps": -1, "relearn_lr": 0}.items():
        with pytest.raises(BadInput, match=field):
            UnlearningStudy(**{field: value})
    with pytest.raises(BadInput, match="once"):
        UnlearningStudy(methods=("needle", "needle"))
    with pytest.raises(BadInput, match="takes concepts"):
        UnlearningStudy()(atlas, [Prompt.of("a")])
    with pytest.raises(BadInput, match=r"'joy'.*kingdom"):
        UnlearningStudy(concept=("joy",)).check(atlas, known)
    bare = Concepts([Concept("empty", texts=("a b c",)), known.get("craft")])
    with pytest.raises(BadInput, match="no `related`"):
        UnlearningStudy().check(atlas, bare)
    alone = Concepts([known.get("craft")])
    with pytest.raises(BadInput, match="second concept"):
        UnlearningStudy().check(atlas, alone)
    assert UnlearningStudy().cost(atlas, known).forwards > 1000
