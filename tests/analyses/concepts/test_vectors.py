"""Value vectors: names, the planted ones found, and changes that touch one row only."""

import pytest
import torch

from interp.analyses.concepts import Vector, check_vectors, replaced, scaled, value_vectors, vectors_of
from interp.core.errors import BadInput
from interp.data import Concept
from interp.models import reference


@pytest.fixture(scope="module")
def planted():
    wired = reference.concepts()
    return reference.as_lm(wired), wired.answers["concepts"]


def test_names():
    assert Vector.parse("23.743") == Vector(23, 743) and str(Vector.parse("2.e3.17")) == "2.e3.17"
    for bad in ("23", "a.b", "1.2.3", "2.e3", "-1.2"):
        with pytest.raises(BadInput, match="names no value vector"):
            Vector.parse(bad)


def test_the_planted_vectors_are_found_first(planted):
    lm, answers = planted
    for truth in answers:
        (vector, share), (_, next_share) = vectors_of(lm, Concept(truth.name, truth.words), 2)
        assert vector == Vector(truth.layer, truth.neuron) and share == 1 and next_share < 0.8


def test_the_null_model_holds_none(planted):
    lm = reference.as_lm(reference.concepts(null=True))
    for truth in planted[1]:
        assert vectors_of(lm, Concept(truth.name, truth.words))[0][1] < 0.8


def test_a_named_vector_comes_first(planted):
    lm, answers = planted
    truth = answers[0]
    named = Concept(truth.name, truth.words, vectors=("2.2",))
    found = [str(vector) for vector, _ in vectors_of(lm, named, 2)]
    assert found == ["2.2", f"{truth.layer}.{truth.neuron}"]
    assert str(vectors_of(lm, named, search=True)[0][0]) == found[1]
    with pytest.raises(BadInput, match="names 1 value vectors"):
        vectors_of(lm, Concept("bare", vectors=("2.2",)), 2)


def test_a_named_vector_needs_no_words_that_are_tokens(planted):
    found = vectors_of(planted[0], Concept("split", ("qqq zzz", "zzz qqq"), vectors=("2.2",)))
    assert str(found[0][0]) == "2.2" and found[0][1] != found[0][1]
    with pytest.raises(BadInput, match="0 of 2 words"):
        vectors_of(planted[0], Concept("split", ("qqq zzz", "zzz qqq"), vectors=("2.2",)), 2)


def test_atlas_holds_its_colours_in_one_vector(atlas):
    colour = reference.concept_set("atlas").get("colour")
    vector, share = vectors_of(atlas, colour)[0]
    top = (value_vectors(atlas, vector.layer)[vector.index] @ atlas.weights.W_U).topk(24).indices
    assert share == 1 and {atlas.tokenizer.decode([int(one)]).strip() for one in top} == set(colour.words)


def test_changes_touch_one_row(planted):
    lm, _ = planted
    before = [value_vectors(lm, layer) for layer in range(3)]
    print_of = lm.fingerprint()
    with lm.edit_weights(scaled(lm, [Vector(1, 5)], 0.5)):
        after = value_vectors(lm, 1)
        assert torch.equal(after[5], 0.5 * before[1][5])
        after[5] = before[1][5]
        assert torch.equal(after, before[1]) and torch.equal(value_vectors(lm, 0), before[0])
    assert lm.fingerprint() == print_of
    with lm.edit_weights(replaced(lm, {Vector(0, 1): torch.ones(lm.spec.d_model)})):
        assert float(value_vectors(lm, 0)[1].sum()) == lm.spec.d_model


@pytest.mark.parametrize("names", [["9.1"], ["0.999"], ["0.1", "0.1"], [], ["0.e1.1"]])
def test_vectors_that_are_not_there(planted, names):
    with pytest.raises(BadInput):
        check_vectors(planted[0], names)


def test_a_vector_of_zeros_holds_nothing(planted):
    lm, _ = planted
    first = tuple(lm.tokenizer.decode([token]) for token in range(2, 6))  # equal logits would rank the first ids first
    plain = vectors_of(lm, Concept("first", first), lm.spec.n_layers * lm.spec.d_mlp)
    dead = [Vector(0, index) for index in range(lm.spec.d_mlp)]
    with lm.edit_weights(scaled(lm, dead, 0.0)):
        found = vectors_of(lm, Concept("first", first), lm.spec.n_layers * lm.spec.d_mlp)
    assert {vector for vector, _ in found[-len(dead) :]} == set(dead) and all(
        share == 0 for _, share in found[-len(dead) :]
    )
    assert found[: -len(dead)] == [one for one in plain if one[0].layer != 0]


def test_there_are_no_more_vectors_than_the_model_has_and_no_negative_ones(planted):
    lm, answers = planted
    assert len(vectors_of(lm, Concept("x", answers[0].words), 121)) == 120
    with pytest.raises(BadInput, match=r"-1\.0 is not in"):
        check_vectors(lm, [Vector(-1, 0)])
