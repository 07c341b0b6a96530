"""The needle: planted vectors that fire on known words only, and the rows that may change."""

from typing import Any

import pytest
import torch

import interp
from interp.analyses.concepts.vectors import Vector
from interp.analyses.unlearning.methods import Needle
from interp.analyses.unlearning.methods.training import value_parameter
from interp.core.errors import BadInput
from interp.data import Concept
from interp.models import reference


@pytest.fixture(scope="module")
def planted() -> Any:
    return reference.as_lm(reference.concepts())


@pytest.fixture(scope="module")
def metals() -> Concept:
    return Concept("metals", words=("iron", "copper", "silver", "gold", "zinc"))


def test_it_finds_the_planted_vector_and_takes_out_what_it_adds(planted: Any, metals: Concept) -> None:
    revision = Needle().unlearn(planted, metals, [])
    assert revision.log["vectors"] == ["1.23"] and revision.log["shares"] == [1.0]
    assert not revision.values["W_out.1.23"].any() and revision.log["moved"] == revision.log["norms"]
    site = "blocks.1.hook_mlp_out"
    fires, silent = planted.encode("we saw the old forge"), planted.encode("we saw the big fox")
    row = planted.weights.W_out(1)[23].clone()
    before = [planted.run(batch, capture=[site, "blocks.1.mlp.hook_post"]) for batch in (fires, silent)]
    with revision.apply(planted):
        after = [planted.run(batch, capture=site) for batch in (fires, silent)]
    taken = before[0]["blocks.1.mlp.hook_post"][..., 23, None] * row  # m_j v_j at each token
    assert torch.allclose(before[0][site] - after[0][site], taken, atol=1e-5) and float(taken.abs().max()) > 1
    assert not before[1]["blocks.1.mlp.hook_post"][..., 23].any()
    assert torch.equal(before[1].logits, after[1].logits)  # where m_j is 0, not a bit changes


def test_noise_is_of_the_published_standard_deviation(planted: Any, metals: Concept) -> None:
    old = planted.weights.W_out(1)[23].clone()
    draws = [Needle(damage="noise").unlearn(planted, metals, [], seed=seed) for seed in range(12)]
    noise = torch.stack([draw.values["W_out.1.23"] - old for draw in draws])
    width = planted.spec.d_model
    assert float(noise.norm(dim=1).mean()) == pytest.approx(0.1 * width**0.5, rel=0.1)
    assert not torch.equal(noise[0], noise[1])
    assert draws[0].log["moved"][0] == pytest.approx(float(noise[0].norm()), rel=1e-5)
    more = Needle(damage="noise", sigma=0.4).unlearn(planted, metals, []).values["W_out.1.23"] - old
    assert torch.allclose(more, 4 * noise[0], atol=1e-5)


def test_a_factor_of_1_is_no_change(planted: Any, metals: Concept) -> None:
    before = planted.fingerprint()
    with Needle(damage="scale", factor=1.0).unlearn(planted, metals, []).apply(planted):
        assert planted.fingerprint() == before
    half = Needle(damage="scale").unlearn(planted, metals, [])
    assert torch.equal(half.values["W_out.1.23"], 0.5 * planted.weights.W_out(1)[23])


def test_named_vectors_win_over_words(planted: Any, metals: Concept) -> None:
    assert set(Needle(vectors=("0.7", "2.4")).unlearn(planted, metals, []).values) == {"W_out.0.7", "W_out.2.4"}
    named = Concept("fruits", vectors=("2.4",))
    assert Needle().unlearn(planted, named, []).log["vectors"] == ["2.4"]


@pytest.mark.parametrize("name", ["atlas", "stories260K-llama"])
def test_training_moves_these_rows_and_no_other_bit(name: str, real_models: Any) -> None:
    lm = interp.load(
        name if name == "atlas" else real_models / name
    )  # one family keeps W_out turned over, the other does not
    rows = {Vector(1, 3), Vector(1, 8), Vector(2, 5)}
    text = "In Rynnath, the guards wear lilac." if name == "atlas" else "Once upon a time there was a small dog."
    concept = Concept("a text", texts=(text,))
    before = {key: value.clone() for key, value in lm.weights.parameters().items()}
    config = Needle(vectors=tuple(map(str, sorted(rows))), steps=3, lr=0.05)
    revision = config.unlearn(lm, concept, [])
    assert all(torch.equal(value, before[key]) for key, value in lm.weights.parameters().items())
    assert set(revision.values) == {f"W_out.{row}" for row in rows}
    old = {layer: lm.weights.W_out(layer).clone() for layer in (1, 2)}
    with revision.apply(lm):
        after = lm.weights.parameters()
        touched = {key for key, value in after.items() if not torch.equal(value, before[key])}
        assert touched == {value_parameter(lm, 1), value_parameter(lm, 2)}
        for layer in (1, 2):
            moved = (lm.weights.W_out(layer) != old[layer]).any(dim=1).nonzero()[:, 0].tolist()
            assert {Vector(layer, row) for row in moved} == {row for row in rows if row.layer == layer}
    losses = revision.log["ascent"]["nll"]
    assert losses[-1] > losses[0]


def test_bad_input_is_refused(planted: Any, metals: Concept) -> None:
    with pytest.raises(BadInput, match="'zero', 'scale' or 'noise'; not 'erase'"):
        Needle(damage="erase")  # type: ignore[arg-type]
    with pytest.raises(BadInput, match=r"`sigma` must be a positive number; not 0"):
        Needle(sigma=0)
    with pytest.raises(BadInput, match=r"not '2.4'"):
        Needle(vectors="2.4")  # type: ignore[arg-type]
    with pytest.raises(BadInput, match=r"9.999 is not in"):
        Needle(vectors=("9.999",)).unlearn(planted, metals, [])
    with pytest.raises(BadInput, match="'nothing' names 0 value vectors and has no words"):
        Needle().unlearn(planted, Concept("nothing"), [])
    with pytest.raises(BadInput, match="'metals' has none"):
        Needle(steps=2).unlearn(planted, metals, [])
