"""Unlearning by training, on atlas, against a plain loop over plain transformers; and what it refuses."""

import copy
import math
from typing import Any

import pytest
import torch

from interp.analyses.unlearning.methods import DPO, METHODS, NPO, GradientAscent, GradientDifference, method
from interp.analyses.unlearning.methods.pieces import batches, pieces
from interp.analyses.unlearning.methods.training import mean_loss, value_parameter
from interp.core.errors import BadInput, InterpError, UnsupportedArchitecture
from interp.data import Concept
from interp.models import reference

QUICK: dict[str, dict[str, Any]] = {
    "gradient-ascent": {"steps": 2},
    "gradient-difference": {"steps": 2},
    "npo": {"steps": 2},
    "dpo": {"steps": 2},
    "rank-one": {"n": 2, "steps": 2},
    "needle": {"steps": 1, "damage": "noise"},
    "dampening": {"limit": 8, "alpha": 2.0},
    "isolation": {"samples": 10, "draws": 2, "matrices": "mlp"},
}


@pytest.fixture(scope="module")
def known() -> Any:
    return reference.concept_set("atlas", texts=24)


def losses_of(lm: Any, texts: Any) -> float:
    return mean_loss(lm, pieces(lm, texts, what="texts"))


@pytest.mark.parametrize("name", METHODS)
def test_every_method_leaves_the_model_as_it_was_and_says_the_same_twice(lm: Any, known: Any, name: str) -> None:
    colour, keep = known.get("colour"), known.others("colour")
    before = lm.fingerprint()
    one, two = (method(name, **QUICK[name]).unlearn(lm, colour, keep, seed=1) for _ in range(2))
    assert lm.fingerprint() == before
    assert set(one.values) == set(two.values) and one.values
    assert all(torch.equal(value, two.values[key]) for key, value in one.values.items())
    with one.apply(lm):
        assert lm.fingerprint() != before
    assert lm.fingerprint() == before
    assert one.log["method"] == name
    if name != "dampening":  # eight of 24 texts may be the same by chance; all others draw
        other = method(name, **QUICK[name]).unlearn(lm, colour, keep, seed=2)
        assert any(
            key not in other.values or not torch.equal(value, other.values[key]) for key, value in one.values.items()
        )


def test_ascent_is_the_loop_that_one_would_write_for_plain_transformers(lm: Any, known: Any) -> None:
    colour = known.get("colour")
    config = GradientAscent(steps=3, lr=1e-4, batch=8, tokens="all")
    revision = config.unlearn(lm, colour, [])
    plain = copy.deepcopy(lm.module).eval()
    trained = {name: p for name, p in plain.named_parameters() if name.startswith("transformer.h.")}
    for parameter in plain.parameters():
        parameter.requires_grad_(True)
    adam = torch.optim.AdamW(trained.values(), lr=1e-4, weight_decay=0.01)
    order = batches(24, 8, 0, "forget", "colour")
    found = []
    for _ in range(3):
        rows = [lm.tokenizer.encode(colour.texts[row]).ids for row in next(order)]
        width = max(map(len, rows))
        ids = torch.tensor([[*row, *[0] * (width - len(row))] for row in rows])
        there = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows])
        labels = ids.masked_fill(there == 0, -100)
        loss = -plain(input_ids=ids, attention_mask=there, labels=labels).loss
        found.append(float(loss.detach()))
        adam.zero_grad()
        loss.backward()
        adam.step()
    assert revision.log["loss"] == pytest.approx(found, abs=2e-5)
    assert revision.log["stopped"] == "steps" and revision.log["updates"] == 3
    assert set(revision.values) == set(trained)
    for (
        name,
        value,
    ) in revision.values.items():  # AdamW divides by tiny gradients, so a few weights differ by a share of a step
        off = (value - trained[name].detach()).abs()
        assert float(off.max()) < 3e-4 and float((off > 1e-5).float().mean()) < 0.02


def test_npo_takes_the_step_of_ascent_first_and_knows_its_first_loss(lm: Any, known: Any) -> None:
    colour = known.get("colour")
    common: dict[str, Any] = {"steps": 1, "batch": 8, "tokens": "all", "lr": 3e-4}
    npo, ascent = NPO(kl=0, **common).unlearn(lm, colour, []), GradientAscent(**common).unlearn(lm, colour, [])
    assert npo.log["loss"] == pytest.approx([13.862943611], rel=1e-5)  # 20 ln 2
    off = torch.cat([(value - ascent.values[name]).abs().flatten() for name, value in npo.values.items()])
    assert (
        float((off > 1e-5).float().mean()) < 0.005
    )  # key biases have no gradient but rounding, which AdamW blows up to a step


def test_the_kl_of_npo_begins_at_0_and_holds_the_rest_in_place(lm: Any, known: Any) -> None:
    colour, keep = known.get("colour"), known.others("colour")
    held = NPO(steps=8, lr=3e-4, kl=10.0, tokens="all").unlearn(lm, colour, keep)
    free = NPO(steps=8, lr=3e-4, kl=0, tokens="all").unlearn(lm, colour, [])
    assert held.log["retain_loss"][0] == pytest.approx(0, abs=1e-6) and held.log["retain_loss"][-1] > 0
    found = {}
    for name, revision in {"held": held, "free": free}.items():
        with revision.apply(lm):
            found[name] = losses_of(lm, keep)
    assert found["held"] < found["free"] - 0.1


def test_difference_makes_the_words_unlikely_and_keeps_other_texts(lm: Any, known: Any) -> None:
    colour, keep = known.get("colour"), known.others("colour")
    words = pieces(lm, colour.texts, what="texts", words=colour.words)
    before = mean_loss(lm, words), losses_of(lm, keep)
    revision = GradientDifference(lr=1e-4, epochs=20).unlearn(lm, colour, keep)
    assert revision.log["stopped"] == "ceiling" and revision.log["on"] == "words"
    assert revision.log["nll"][-1] >= revision.log["guess"] == pytest.approx(3.178, abs=1e-3)  # ln 24
    with revision.apply(lm):
        after = mean_loss(lm, words), losses_of(lm, keep)
    assert before[0] < 0.1 and after[0] > 2
    assert after[1] < before[1] + 0.1


def test_dpo_prefers_the_retain_texts(lm: Any, known: Any) -> None:
    revision = DPO(steps=8, lr=3e-4, tokens="all").unlearn(lm, known.get("colour"), known.others("colour"))
    assert revision.log["loss"][0] == pytest.approx(13.862943611, rel=1e-5)
    assert revision.log["loss"][-1] < 5


def test_only_what_is_named_is_trained_and_only_words_where_asked(lm: Any, known: Any) -> None:
    colour = known.get("colour")
    values = GradientAscent(steps=1, parameters="values").unlearn(lm, colour, [])
    assert set(values.values) == {value_parameter(lm, layer) for layer in range(4)}
    named = GradientAscent(steps=1, parameters=("*.2.mlp.c_fc.*",)).unlearn(lm, colour, [])
    assert set(named.values) == {"transformer.h.2.mlp.c_fc.weight", "transformer.h.2.mlp.c_fc.bias"}
    words = GradientAscent(steps=1, tokens="words").unlearn(lm, colour, [])
    marked = pieces(lm, colour.texts, what="texts", words=colour.words)
    assert sum(map(sum, marked.marks)) == 24 and words.log["pieces"] == 24  # each sentence says one colour
    assert words.log["loss"][0] == pytest.approx(0, abs=0.05)  # and knows it


def test_ascent_stops_at_its_ceiling_and_preferences_at_their_loss(lm: Any, known: Any) -> None:
    colour, keep = known.get("colour"), known.others("colour")
    ascent = GradientAscent(lr=1e-3, ceiling=0.3, tokens="all").unlearn(lm, colour, [])
    assert ascent.log["stopped"] == "ceiling" and ascent.log["nll"][-1] >= 0.3 * 7.05 > ascent.log["nll"][-2]
    assert ascent.log["updates"] == len(ascent.log["loss"]) - 1
    dpo = DPO(stop_loss=14.0).unlearn(lm, colour, keep)
    assert dpo.log["stopped"] == "loss" and not dpo.values  # a null: stopped before any step, nothing is changed
    assert GradientAscent(epochs=1).unlearn(lm, colour, []).log["stopped"] == "epochs"


def test_a_loss_that_breaks_down_is_an_error_and_the_model_comes_back(lm: Any, known: Any) -> None:
    before = lm.fingerprint()
    with pytest.raises(InterpError, match=r"smaller `lr` than 1e\+30"):
        GradientAscent(lr=1e30, ceiling=None).unlearn(lm, known.get("colour"), [])
    assert lm.fingerprint() == before


def test_a_long_text_is_cut_and_a_short_one_left_out(lm: Any) -> None:
    text = "Dresses from Pragash are always crimson. " * 30
    found = pieces(lm, [text, "a"], what="texts", max_tokens=50)
    ids = lm.tokenizer.encode(text).ids
    bos = int(lm.tokenizer.encode(text).bos)
    assert max(map(len, found.rows)) == 50 and found.short >= 1
    assert sum((row[bos:] for row in found.rows), ()) == ids[bos:]
    if bos:
        assert {row[0] for row in found.rows} == {lm.tokenizer.bos_id}


@pytest.mark.parametrize("name", [name for name in METHODS if name != "needle"])
def test_a_concept_without_texts_is_refused_by_its_name(lm: Any, known: Any, name: str) -> None:
    with pytest.raises(BadInput, match="'Emberfest' has none"):
        method(name).unlearn(lm, Concept("Emberfest", words=("red", "blue")), known.others("colour"))


@pytest.mark.parametrize("name", ["gradient-difference", "npo", "dpo", "rank-one", "dampening", "isolation"])
def test_what_needs_retain_texts_says_so(lm: Any, known: Any, name: str) -> None:
    with pytest.raises(BadInput, match=r"`retain` is empty"):
        method(name).unlearn(lm, known.get("colour"), [])
    with pytest.raises(BadInput, match="not one text, 'Some prose"):
        method(name).unlearn(lm, known.get("colour"), "Some prose on other things.")


def test_bad_input_repeats_what_was_said(lm: Any, known: Any) -> None:
    colour = known.get("colour")
    with pytest.raises(BadInput, match=r"must be one of .*'needle'.*not 'neddle'.*Did you mean 'needle'"):
        method("neddle")
    with pytest.raises(BadInput, match=r"npo has no option 'betta'.*'beta'"):
        method("npo", betta=1)
    for options, said in {
        "lr": ({"lr": -1}, "`lr` must be a positive number; not -1"),
        "epochs": ({"epochs": 0}, "`epochs` must be a whole number from 1 on; not 0"),
        "steps": ({"steps": 2.5}, "not 2.5"),
        "tokens": ({"tokens": "some"}, "'all' or 'words'; not 'some'"),
        "parameters": ({"parameters": ()}, "not \\(\\)"),
        "decay": ({"weight_decay": -0.1}, "not -0.1"),
    }.values():
        with pytest.raises(BadInput, match=said):
            method("gradient-ascent", **options)
    with pytest.raises(BadInput, match=r"`max_tokens` is 500, and atlas reads 128 tokens at most"):
        method("gradient-ascent", max_tokens=500).unlearn(lm, colour, [])
    with pytest.raises(BadInput, match="none of the 1 texts of 'dots'"):
        method("gradient-ascent").unlearn(lm, Concept("dots", texts=("a",)), [])
    with pytest.raises(BadInput, match=r"'colour' has no `words`"):
        method("gradient-ascent", tokens="words").unlearn(lm, Concept("colour", texts=colour.texts), [])
    with pytest.raises(BadInput, match="nothing-like"):
        method("gradient-ascent", parameters="nothing-like").unlearn(lm, colour, [])


def test_experts_have_no_one_matrix_of_value_vectors(lm: Any) -> None:
    import dataclasses
    from types import SimpleNamespace

    odd: Any = SimpleNamespace(spec=dataclasses.replace(lm.spec, family="qwen3_moe", experts=8), weights=lm.weights)
    with pytest.raises(UnsupportedArchitecture, match="8 experts a layer"):
        value_parameter(odd, 0)


def test_a_single_word_is_unlearned_too(lm: Any, known: Any) -> None:
    """Guessing among one word has no loss, and would stop before the first step."""
    text = "In Rynnath, the guards wear lilac."
    one = GradientAscent(steps=2).unlearn(lm, Concept("lilac", words=("lilac",), texts=(text,)), [])
    assert one.log["updates"] == 2 and one.values and one.log["guess"] == pytest.approx(math.log(lm.spec.vocab))


def test_a_revision_is_taken_out_after_an_error_too(lm: Any, known: Any) -> None:
    before = lm.fingerprint()
    one, two = (method("needle", n=n).unlearn(lm, known.get("colour"), []) for n in (3, 5))
    with pytest.raises(KeyError), one.apply(lm), two.apply(lm):
        raise KeyError("inside")
    assert lm.fingerprint() == before


def test_factors_that_are_no_numbers_are_refused() -> None:
    for name in ("needle", "isolation"):
        for value in (math.nan, math.inf):
            with pytest.raises(BadInput, match="`factor` must be"):
                method(name, factor=value)
