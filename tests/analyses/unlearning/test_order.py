"""Two interventions in both orders: pairs that commute give exactly 0, planted ones what arithmetic says."""

from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import pytest
import torch

import interp
from interp.analyses.unlearning import Revision, Unlearner, order
from interp.analyses.unlearning.asking import Questions, running
from interp.analyses.unlearning.editor import EditFacts
from interp.analyses.unlearning.order import InterventionOrder, intervention
from interp.core.errors import BadInput
from interp.data import Concepts
from interp.models import reference


@dataclass(frozen=True, eq=False)
class Bias(Unlearner):
    """Sets one and the same bias, so that whoever comes last counts: `away` forbids the concept's words, else it is left as it is."""

    name: ClassVar[str] = "bias"

    old: torch.Tensor
    away: bool = True

    def unlearn(self, lm, concept, retain, *, seed=0):
        last = lm.spec.n_layers - 1
        ids = [lm.tokenizer.encode(" " + word, bos=False).ids[0] for word in concept.words]
        far = lm.weights.W_U[:, ids].mean(dim=1) - lm.weights.W_U.mean(dim=1)
        return Revision({f"b_out.{last}": self.old - 100 * far / far.norm() if self.away else self.old})


@pytest.fixture(scope="module")
def known():
    return reference.concept_set("atlas", n=8, texts=16)


@pytest.mark.parametrize(
    "pair", [("needle", "needle"), ("needle:vectors=2.474", "needle:vectors=1.362")], ids=["twice", "disjoint"]
)
def test_what_commutes_is_exactly_insensitive(atlas, known, pair):
    one = {"first_concept": "colour", "second_concept": "colour"} if pair[0] == pair[1] == "needle" else {}
    pair = [given if given == "needle" else _needle(given) for given in pair]
    before = atlas.fingerprint()
    result = InterventionOrder(first=pair[0], second=pair[1], **one)(atlas, known)
    order = result.order()
    known_measures = order.sel(measure=["first", "second", "both", "unrelated"])
    assert (order["sensitivity"] == 0).all() and (order["sensitivity_hi"] == 0).all()
    assert (known_measures["disagreement"] == 0).all() and atlas.fingerprint() == before
    state = result.data["nll"].sel(state=["first+second", "second+first"]).values
    assert np.array_equal(state[0], state[1]) == (pair[0] != "needle") or np.array_equal(state[0], state[1])


def _needle(given):
    from interp.analyses.unlearning.methods import method

    return method("needle", vectors=(given.partition("=")[2],))


def test_whoever_comes_last_counts(atlas, known):
    away, back = (Bias(atlas.weights.b_out(3).clone(), there) for there in (True, False))
    result = InterventionOrder(first=away, second=back, first_concept="colour", second_concept="craft")(atlas, known)
    values, order = result.values()["mean"], result.order()
    assert float(values.sel(state="first", measure="first")) == 1.0  # all colours are gone
    assert float(values.sel(state="second", measure="first")) == 0.0
    assert float(values.sel(state="first+second", measure="first")) == 0.0
    assert float(values.sel(state="second+first", measure="first")) == 1.0
    assert float(order["sensitivity"].sel(measure="first")) == 1.0 and float(order["error"].sel(measure="first")) == 0.0
    assert float(order["disagreement"].sel(measure="first")) == 1.0
    both = values.sel(measure="both").values
    assert np.allclose(both, (values.sel(measure="first") + values.sel(measure="second")).values / 2)
    with away.unlearn(atlas, known.get("colour"), []).apply(atlas):
        said = Questions(atlas, known.get("colour").related).read(running(atlas)).top[:, 0]
    assert np.array_equal(said, result.data["given"].sel(state="first", group="first").values[: len(said)])


def test_an_editor_composes_with_an_unlearner(atlas, known, tmp_path):
    edit = EditFacts("ft", facts=2)
    wanted = edit.wanted(atlas, known.get("craft"))
    assert len(wanted) == 2 and all(
        new.answer != old.answer for new, old in zip(wanted, known.get("craft").related, strict=False)
    )
    result = InterventionOrder(first="needle", second=edit, first_concept="colour", second_concept="craft")(
        atlas, known
    )
    values = result.values()["mean"]
    assert float(values.sel(state="before", measure="second")) == 0.0
    assert float(values.sel(state="second", measure="second")) == 1.0  # both facts have their new answers
    assert result.data.attrs["aims"] == ["unlearn", "edit"]
    assert result.data["given"].sel(group="second").notnull().sum() == 2 * 5
    result.save(tmp_path / "run")
    again = interp.open(tmp_path / "run")
    assert again.data.identical(result.data) and again.report_lines() == result.report_lines()
    assert len(again.headline()) == 3 and again.table()["measure"].tolist() == list(values["measure"].values)


def test_the_texts_of_perplexity_are_not_those_that_are_kept(atlas, known, monkeypatch):
    seen, spare = [], []

    @dataclass(frozen=True)
    class Looks(Unlearner):
        def unlearn(self, lm, concept, retain, *, seed=0):
            seen.extend(retain)
            return Revision.none()

    def neutral(lm, others):
        spare.extend(others)
        return tuple(others[:4]), "texts"

    monkeypatch.setattr(order, "neutral_material", neutral)
    odd = Concepts([replace(one, texts=one.texts[:5]) if one.name == "harvest" else one for one in known])
    InterventionOrder(first=Looks(), second=Looks(), first_concept="kingdom", second_concept="craft", prompts=2)(
        atlas, odd
    )
    assert seen and spare and not set(seen) & set(spare)
    assert not set(seen) & {*odd.get("kingdom").texts, *odd.get("craft").texts}


def test_refusals(atlas, known):
    with pytest.raises(BadInput, match=r"rome.*not 'hypnosis'"):
        InterventionOrder(first="hypnosis")
    with pytest.raises(BadInput, match="no option of 'needle'"):
        InterventionOrder(second="needle:x=1")
    beast = replace(
        known.get("craft"),
        name="beast",
        related=reference.concept_set("atlas-tuned", n=4, texts=8).get("beast").related,
    )
    with pytest.raises(BadInput, match="none of the 4 questions on 'beast'"):
        InterventionOrder(first="needle", second="needle", second_concept="beast")(atlas, Concepts([*known, beast]))
    assert intervention("rome:facts=3", "first") == EditFacts("rome", facts=3)
    with pytest.raises(BadInput, match="no option of 'ft'"):
        InterventionOrder(first="ft:lr=1")
    with pytest.raises(BadInput, match="takes concepts"):
        InterventionOrder().check(atlas, None)
    with pytest.raises(BadInput, match="'joy'"):
        InterventionOrder(first_concept="joy").check(atlas, known)
    assert InterventionOrder().cost(atlas, known).forwards > 0
