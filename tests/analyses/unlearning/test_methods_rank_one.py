"""Rank-one erasure: requests are the concept's words where its texts say them; the editors do the rest."""

from typing import Any

import pytest
import torch

from interp.analyses.editing.editors import matrix_of
from interp.analyses.unlearning.methods import RankOneErasure
from interp.core.errors import BadInput, UnsupportedArchitecture
from interp.data import Concept
from interp.models import reference


@pytest.fixture(scope="module")
def known() -> Any:
    return reference.concept_set("atlas", texts=24)


def test_a_request_is_a_text_up_to_a_word_of_the_concept(lm: Any) -> None:
    concept = Concept(
        "colour", words=("amber", "red"), texts=("The walls are amber, not red.", "A redder sky.", "Red is a colour.")
    )
    (request,) = RankOneErasure().requests(
        lm, concept
    )  # a part of a word is none, and nothing stands before the last one
    assert request.prompt.text == "The walls are" and request.target == " amber" and request.objective == "lower"
    assert request.subject == "are"
    (other,) = RankOneErasure(target=" nothing").requests(lm, concept)
    assert other.target == " nothing" and other.objective == "raise"


def test_words_become_unlikely_where_they_were_said_and_one_layer_moves_by_few_ranks(lm: Any, known: Any) -> None:
    colour, keep = known.get("colour"), known.others("colour")
    config = RankOneErasure(n=3, steps=15)
    revision = config.unlearn(lm, colour, keep)
    requests = config.requests(lm, colour)
    assert revision.log["prompts"] == [request.prompt.text for request in requests]
    found = {}
    for when in ("before", "after"):
        with revision.apply(lm) if when == "after" else lm.edit_weights({}):
            found[when] = [
                float(lm.run(torch.tensor([one.tokens(lm).ids])).last_logits[0].softmax(-1)[one.ids[0]])
                for one in requests
            ]
    assert min(found["before"]) > 0.8 and max(found["after"]) < 0.3
    assert set(revision.values) == {"W_out.2"}
    change = revision.values["W_out.2"].double() - matrix_of(lm, "W_out.2")
    sizes = torch.linalg.svdvals(change)
    assert float(sizes[2]) > 1e-3 and float(sizes[3]) < 1e-4 * float(sizes[0])  # rank one a request, but for rounding


def test_memit_spreads_one_edit_and_a_dummy_can_be_said_instead(lm: Any, known: Any) -> None:
    colour, keep = known.get("colour"), known.others("colour")
    revision = RankOneErasure(editor="memit", n=6, steps=15, target=" the").unlearn(lm, colour, keep)
    assert set(revision.values) == {"W_out.2", "W_out.3"} and revision.log["target"] == " the"
    assert max(revision.log["residual"]) < 0.5


def test_bad_input_is_refused(lm: Any, known: Any) -> None:
    colour, keep = known.get("colour"), known.others("colour")
    with pytest.raises(BadInput, match="'rome' or 'memit'; not 'grace'"):
        RankOneErasure(editor="grace")  # type: ignore[arg-type]
    with pytest.raises(BadInput, match=r"`target` must be 'lower' or a text"):
        RankOneErasure(target=" ")
    with pytest.raises(BadInput, match=r"'colour' has no `words`"):
        RankOneErasure().unlearn(lm, Concept("colour", texts=colour.texts), keep)
    with pytest.raises(BadInput, match="none of the 24 texts of 'colour' says one of its words"):
        RankOneErasure().unlearn(lm, Concept("colour", words=("zebra",), texts=colour.texts), keep)
    with pytest.raises(BadInput, match=r"layers \[9\] are not in this model|0 to 3"):
        RankOneErasure(layers=(9,)).unlearn(lm, colour, keep)


@pytest.mark.parametrize("fields", [{"family": "gemma2", "post_norm": True}, {"family": "qwen3_moe", "experts": 8}])
def test_families_without_a_closed_form_are_refused_by_name(lm: Any, known: Any, fields: dict[str, Any]) -> None:
    import dataclasses
    from types import SimpleNamespace

    odd: Any = SimpleNamespace(spec=dataclasses.replace(lm.spec, **fields), sites=lm.sites)
    with pytest.raises(UnsupportedArchitecture, match=fields["family"]):
        RankOneErasure().unlearn(odd, known.get("colour"), known.others("colour"))
