"""Damage of value vectors: what was planted is found, nothing else moves, and the model is what it was after every concept."""

import copy
import dataclasses

import numpy as np
import pytest
import torch

import interp
from interp.analyses.concepts.validation import ConceptValidation, damage, material, measure, nulls
from interp.analyses.concepts.vectors import Vector, check_vectors, scaled, value_vectors
from interp.analyses.overlap import bleu
from interp.core.errors import BadInput, UnsupportedArchitecture
from interp.core.site import Site
from interp.data import Prompt, concepts
from interp.data.concepts import Concept, Concepts
from interp.models import reference
from tests.models.tiny import tiny_checkpoint

QUICK = {"tokens": 0, "draws": 0}


def planted_concepts(made):
    """The planted vectors as concepts: their triggers ask for them, the others' triggers do not."""
    rows = []
    for one in made.answers["concepts"]:
        others = [
            f"we saw the {word}" for other in made.answers["concepts"] if other is not one for word in other.triggers
        ]
        rows.append(
            {
                "Concept": one.name, "Layer": one.layer, "Dim": one.neuron, "words": list(one.words),
                "QA": [f"we saw the {word}" for word in one.triggers] + [f"she went to the {word}" for word in one.triggers],
                "unrelated_QA": [*others, "the old cat and a big", "we saw it near"],
                "answers": [f" {one.words[0]}"] * (2 * len(one.triggers)),
            }
        )  # fmt: skip
    return rows


@pytest.fixture(scope="module")
def made():
    return reference.concepts()


@pytest.fixture(scope="module")
def lm(made):
    return reference.as_lm(made)


@pytest.fixture(scope="module")
def known(made):
    rows = planted_concepts(made)
    for row in rows:
        row["unrelated_QA"] = [text.replace(" cat", "") for text in row["unrelated_QA"]]
    return concepts(rows, template="{q}")


@pytest.fixture(scope="module")
def found(lm, known):
    return ConceptValidation(doses=(0.05, 0.0, 1.0), tokens=4, draws=20, band=3, null_answers=1)(lm, known)


@pytest.fixture(scope="module")
def colours(atlas):
    """Colours on atlas, few prompts."""
    whole = reference.concept_set("atlas", n=4, texts=1).get("colour")
    return Concepts([whole])


def test_zeroing_takes_away_exactly_what_the_vector_adds(made, lm):
    for one in made.answers["concepts"]:
        out, post = Site("mlp_out", one.layer), Site("mlp_post", one.layer)
        prompt = f"we saw the {one.triggers[0]} and the old {one.triggers[1]}"
        before = lm.run(prompt, capture=[out, post])
        vector = value_vectors(lm, one.layer)[one.neuron]
        with lm.edit_weights(scaled(lm, [Vector(one.layer, one.neuron)], 0.0)):
            after = lm.run(prompt, capture=[out])
        taken = before[post][..., one.neuron, None] * vector
        assert torch.allclose(before[out] - after[out], taken, atol=2e-5) and float(taken.abs().max()) > 5
        silent = before[post][0, :, one.neuron] == 0
        assert int(silent.sum()) > 3 and torch.equal(before[out][0, silent], after[out][0, silent])


def test_prompts_without_the_vector_stay_bit_for_bit(made, lm):
    one = made.answers["concepts"][0]
    texts = ["we saw the forge", "she went to the old market"]
    before = lm.run(lm.encode(texts)).logits
    with lm.edit_weights(scaled(lm, [Vector(one.layer, one.neuron)], -1.0)):
        assert torch.equal(lm.run(lm.encode(texts)).logits, before)


def test_planted_vectors_are_found_and_touch_nothing_else(found, known):
    table = found.table()
    assert (table["related"] > 0.1).all() and (table["unrelated"] == 0).all()
    assert (table["p"] == 1 / 21).all() and (table["n_null"] == 20).all()
    asks = found.data["asks"].values == "unrelated"
    for metric in set(found.metrics) - {
        "kl_answer"
    }:  # which reads answers that may name a trigger; the others not even round
        assert (found.effects(metric).values[asks] == 0).all(), metric
    assert (table["n_unrelated"] == [len(one.unrelated) for one in known]).all()
    assert table["meets"].all() and (found.table("kl")["gap"] > 1).all()
    assert found.headline()["fall of P(answer), unrelated"] == 0


def test_half_a_vector_does_less(found):
    for name in found.concepts:
        curve = found.response(name, "logprob").sel(kind="related")["mean"]
        assert 0 == curve.sel(dose=1.0) < curve.sel(dose=0.05) < curve.sel(dose=0.0)


def test_a_factor_of_one_changes_nothing(lm, found, known):
    for metric in found.metrics:
        assert (found.effects(metric).sel(dose=1.0).values == 0).all()
    assert (found.data["answer_after"].sel(dose=1.0, size=1) == found.data["answer_before"]).all()
    batch, vectors = lm.encode("we saw the palette"), check_vectors(lm, known[0].vectors)
    before = lm.run(batch).logits
    with lm.edit_weights(scaled(lm, vectors, 1.0)):
        assert torch.equal(lm.run(batch).logits, before)


def test_each_concept_is_measured_alone(lm, known, found):
    """The published notebook kept earlier noises in the weights: concept i was measured with i - 1 others damaged."""
    noise = ConceptValidation(how="noise", doses=(0.5,), noise_samples=2, tokens=2, draws=2, band=0)
    before = lm.fingerprint()
    together = noise(lm, known[:2])
    assert lm.fingerprint() == before
    for whole, method in ((together, noise), (found, ConceptValidation(doses=(0.05, 0.0, 1.0), tokens=4, draws=0))):
        for concept in reversed(known[:2]):
            alone = method(lm, Concepts([concept]))
            mine = whole.data["of"].values == concept.name
            for name in ("score", "base", "answer_after"):
                assert np.array_equal(whole.data[name].values[mine], alone.data[name].values)
    assert (together.data["score"].sel(metric="kl").values.max() > 0.1) and lm.fingerprint() == before


def test_an_interruption_leaves_the_model_as_it_was(lm, known, monkeypatch):
    before = lm.fingerprint()

    def interrupted(self):
        raise KeyboardInterrupt

    monkeypatch.setattr(measure.Meter, "now", interrupted)
    with pytest.raises(KeyboardInterrupt):
        ConceptValidation(how="noise", **QUICK)(lm, known[:1])
    assert lm.fingerprint() == before


def test_nothing_is_found_in_random_weights(known):
    null = reference.as_lm(reference.concepts(null=True))
    table = ConceptValidation(tokens=0, draws=19, band=0)(null, known).table()
    assert (table["p_holm"] > 0.05).all() and (table["gap"].abs() < 0.02).all()


def by_hooks(lm, ids, factors):
    """Log-probabilities at the last position with inputs of the down-projections scaled, by plain hooks."""
    handles = []
    for layer, block in enumerate(
        lm.module.transformer.h if hasattr(lm.module, "transformer") else lm.module.model.layers
    ):
        down = block.mlp.c_proj if hasattr(block.mlp, "c_proj") else block.mlp.down_proj
        chosen = {index: factor for (at, index), factor in factors.items() if at == layer}

        def hook(module, args, chosen=chosen):
            x = args[0].clone()
            for index, factor in chosen.items():
                x[..., index] *= factor
            return (x,)

        handles.append(down.register_forward_pre_hook(hook))
    try:
        with torch.no_grad():
            return lm.module(torch.tensor([ids])).logits[0, -1].double().log_softmax(-1)
    finally:
        for handle in handles:
            handle.remove()


def test_effects_are_those_of_plain_hooks(atlas, colours):
    result = ConceptValidation(doses=(0.0, -1.0), sizes=(1, 4), **QUICK)(atlas, colours)
    names = result.vectors()["vector"].tolist()
    assert names[0] == "2.474" and float(result.data["weight_difference"].max()) < 1e-5
    for row, prompt in enumerate((*colours[0].related, *colours[0].unrelated)):
        ids = atlas.tokenizer.encode(prompt.text).ids
        (answer,) = atlas.tokenizer.encode(prompt.answer, bos=False).ids
        clean = by_hooks(atlas, ids, {})
        assert float(result.data["base"].sel(metric="logprob")[row]) == pytest.approx(float(clean[answer]), abs=1e-4)
        for size, dose in ((1, 0.0), (4, -1.0)):
            factors = {(Vector.parse(name).layer, Vector.parse(name).index): dose for name in names[:size]}
            after = by_hooks(atlas, ids, factors)
            got = result.data["score"].isel(prompt=row).sel(size=size, dose=dose)
            want = {
                "prob": float(after[answer].exp()), "logprob": float(after[answer]), "accuracy": float(after.argmax() == answer),
                "kl": float((clean.exp() * (clean - after)).sum()),
            }  # fmt: skip
            for metric, value in want.items():
                assert float(got.sel(metric=metric)) == pytest.approx(value, abs=1e-4), (
                    prompt.text,
                    size,
                    dose,
                    metric,
                )


def test_a_resumed_run_is_the_change_of_weights(atlas, colours):
    asked = material.asked_of(atlas, colours, sizes=(16,))[0]
    targets, gold = measure.targets_of(atlas, asked, 512)
    assert all(gold)
    for group in material.groups_of([one.ids for one in asked.tokens], targets, 512):
        meter, factors = measure.Meter(atlas, group), (0.5, 0.0, -1.0)
        resumed = meter.resumed([damage.scaling(atlas, asked.vectors, factor) for factor in factors])
        for factor, found in zip(factors, resumed, strict=True):
            with atlas.edit_weights(scaled(atlas, asked.vectors, factor)):
                changed = meter.now()
            assert torch.allclose(found, changed, atol=2e-5, rtol=1e-5)


def test_noise_is_what_was_asked_for(lm, known):
    result = ConceptValidation(how="noise", doses=(0.1, 0.0), noise_samples=2, **QUICK)(lm, known[:1])
    assert (result.effects("kl").sel(dose=0.0).values == 0).all()
    asked = material.asked_of(lm, known[:1])[0]
    row = lm.weights.W_out(0)[7].clone()
    draws = [damage.noise_of(lm, 1, seed=0, name="colours", sample=sample)[0] for sample in (0, 1)]
    assert 0.5 * lm.spec.d_model < float(draws[0].square().sum()) < 1.6 * lm.spec.d_model
    values = []
    for drawn in draws:
        with lm.edit_weights({"W_out.0.7": row + 0.1 * drawn}):
            logits = lm.run(torch.tensor([asked.tokens[0].ids])).last_logits
        values.append(float(logits[0].double().softmax(-1)[lm.tokenizer.encode("red", bos=False).ids[0]]))
    got = float(result.data["score"].isel(prompt=0, size=0).sel(dose=0.1, metric="prob"))
    assert got == pytest.approx(np.mean(values), abs=1e-6)
    told = result.vectors().iloc[0]
    assert told["noise"] == pytest.approx(0.1 * lm.spec.d_model**0.5)
    assert told["cosine"] == pytest.approx(told["norm"] / np.hypot(told["norm"], told["noise"]))
    relative = ConceptValidation(how="relative-noise", noise_samples=1, **QUICK)(lm, known[:1])
    told = relative.vectors().iloc[0]
    assert (
        told["noise"] == pytest.approx(told["norm"], rel=1e-5) and "cosine of about 0.71" in relative.report_lines()[-1]
    )


def test_answers_of_several_tokens_and_of_none(lm):
    related = (Prompt.of("we saw the palette", answer="red green"), Prompt.of("she went to the paint"))
    one = Concept("colours", vectors=("0.7",), related=related, unrelated=(Prompt.of("we saw the forge"),))
    result = ConceptValidation(how="zero", **QUICK)(lm, one)
    ids = lm.tokenizer.encode("we saw the palette red").ids
    logprobs = lm.run(torch.tensor([ids])).logits[0].double().log_softmax(-1)
    red, green = (lm.tokenizer.encode(word, bos=False).ids[0] for word in ("red", "green"))
    want = float(logprobs[-2, red] + logprobs[-1, green])
    assert float(result.data["base"].sel(metric="logprob")[0]) == pytest.approx(want, abs=1e-5)
    assert result.data["gold"].values.tolist() == [True, False, False]
    assert result.data["base"].sel(metric="accuracy").values[1:].tolist() == [1.0, 1.0]  # the model's own first token
    assert float(result.effects().sel(dose=0.0, size=1)[2]) == 0 < float(result.effects().sel(dose=0.0, size=1)[1])


def test_overlap_is_that_of_the_answers(found, lm, known):
    said = found.answers("metals")
    assert said["bleu"].tolist() == [bleu(a, b) for a, b in zip(said["before"], said["after"], strict=True)]
    assert len(said) == len(known[1].related) + len(known[1].unrelated)
    first = lm.generate([said["text"][0]], 4).texts[0]
    with lm.edit_weights(scaled(lm, check_vectors(lm, known[1].vectors), 0.0)):
        assert said["before"][0] == first != said["after"][0] == lm.generate([said["text"][0]], 4).texts[0]
    turned = ConceptValidation(how="zero", tokens=4, draws=0, reference="damaged")(lm, known[1:2]).answers("metals")
    assert turned["bleu"].tolist() == [bleu(b, a) for a, b in zip(said["before"], said["after"], strict=True)]
    assert np.isfinite(found.null_effects("bleu").sel(dose=0.0, size=1).values[:, :1]).all()


def test_distance_along_the_original_answer(found, lm, known):
    said = found.answers("metals")
    prompt, before = lm.tokenizer.encode(said["text"][0]).ids, lm.generate([said["text"][0]], 4).ids[0]
    tokens = torch.tensor([[*prompt, *before[:-1]]])
    where = slice(len(prompt) - 1, None)
    clean = lm.run(tokens).logits[0, where].double().log_softmax(-1)
    with lm.edit_weights(scaled(lm, check_vectors(lm, known[1].vectors), 0.0)):
        after = lm.run(tokens).logits[0, where].double().log_softmax(-1)
    row = int(np.flatnonzero(found.data["of"].values == "metals")[0])
    got = found.data["score"].isel(prompt=row).sel(size=1, dose=0.0, metric="kl_answer")
    assert float(got) == pytest.approx(float((clean.exp() * (clean - after)).sum(-1).mean()), rel=1e-5)


def test_matched_vectors(atlas, colours):
    asked = material.asked_of(atlas, colours, sizes=(4,))[0]
    coefficient = measure.coefficients(atlas, asked, 512)
    writes = {layer: values[asked.kinds == "related"].mean(dim=0) for layer, values in coefficient.items()}
    sets = nulls.matched(atlas, asked, 30, match="norm", writes=writes)
    assert len(sets) == 30 and all(len(set(one)) == 4 and not set(one) & set(asked.vectors) for one in sets)
    assert sets == nulls.matched(atlas, asked, 30, match="norm", writes=writes)
    for place, vector in enumerate(asked.vectors):
        assert {one[place].layer for one in sets} == {vector.layer}
        norms = value_vectors(atlas, vector.layer).norm(dim=1)
        off = max(float((norms[one[place].index] - norms[vector.index]).abs()) for one in sets)
        assert (
            int(((norms - norms[vector.index]).abs() <= off + 1e-7).sum()) <= 30 + 4 + 40
        )  # near, but for those that hold colours
    first = [one[0] for one in sets]
    assert len(set(first)) == 30  # of a single vector, every draw is another one
    write = nulls.matched(atlas, asked, 30, match="write", writes=writes)
    size = writes[2] * value_vectors(atlas, 2).norm(dim=1)
    away = [float((size[[one[0].index for one in some]] - size[474]).abs().mean()) for some in (write, sets)]
    assert away[0] < away[1]


def test_what_holds_the_concept_is_no_control(atlas, colours):
    asked = material.asked_of(atlas, colours, sizes=(1,))[0]
    writes = {2: torch.ones(atlas.spec.d_mlp)}
    taken = {one[0] for one in nulls.matched(atlas, asked, 500, match="norm", writes=writes)}
    assert Vector(2, 341) not in taken and 400 < len(taken) < 500  # 2.341 has three quarters of the colours


def test_p_and_limits_are_those_of_the_values(found):
    row = found.table("logprob", dose=0.05).set_index("concept").loc["animals"]
    effects = found.effects("logprob").sel(size=1, dose=0.05)
    mine = found.data["of"].values == "animals"
    related, unrelated = (
        effects.values[mine & (found.data["asks"].values == kind)] for kind in ("related", "unrelated")
    )
    assert row["gap"] == pytest.approx(related.mean() - unrelated.mean()) and row["n_null"] == 3
    null = found.null_effects("logprob").sel(concept="animals", size=1, dose=0.05)
    gaps = (null.sel(kind="related") - null.sel(kind="unrelated")).values[:3]
    assert row["p"] == (1 + (gaps >= row["gap"]).sum()) / 4 and np.isnan(null.values[3:]).all()
    assert row["ci_lo"] <= row["gap"] <= row["ci_hi"] and related.min() <= row["ci_lo"] + unrelated.mean()
    curve = found.response("animals", "logprob")
    assert float(curve["null_hi"].sel(kind="related", dose=0.05)) == null.sel(kind="related").max()
    assert curve["n_null"].values.tolist() == [3, 20, 3]


def test_sizes_add_up_and_ragged_concepts_say_so(lm, known):
    two = dataclasses.replace(known[0], name="two", vectors=("0.7", "0.11"), words=())
    result = ConceptValidation(how="zero", tokens=2, draws=4, band=2)(lm, Concepts([two, known[1]]))
    assert result.sizes("two") == [1, 2] and result.sizes("metals") == [1]
    assert result.table()["vectors"].tolist() == [2, 1] and np.isfinite(result.table()["p"]).all()
    assert result.response("two", along="size")["n_null"].values.tolist() == [2, 4]
    assert np.isnan(result.effects().sel(size=2).values[result.data["of"].values == "metals"]).all()
    with pytest.raises(BadInput, match="`size` must be one of 1; not 2"):
        result.table(size=2)


def test_everything_comes_back_from_disk(found, tmp_path):
    again = interp.open(found.save(tmp_path / "run"))
    assert again.report_lines() == found.report_lines() and again.headline() == found.headline()
    assert again.vectors().equals(found.vectors()) and "the first vector alone" not in found.report_lines()[-2]
    assert found.thumbnail().dims == ("concept", "size")


def test_cost_is_said_before(lm, known):
    cheap, dear = (ConceptValidation(tokens=0, draws=draws).cost(lm, known) for draws in (0, 99))
    assert 0 < cheap.forwards < dear.forwards and "4 concepts" in cheap.note


@pytest.mark.parametrize("name", ["stories260K-llama", "tinytalk-chat"])
def test_real_checkpoints(real_models, name):
    story = interp.load(str(real_models / name), check=False)
    rows = [
        {
            "Concept": "play", "Layer": 2, "Dim": 17, "QA": ["Lily and Tom went to the park to", "The dog likes to"],
            "unrelated_QA": ["Once upon a time there was a", "Mom said it is time to", "It was a cold"],
        }
    ]  # fmt: skip
    asked = concepts(rows, template="{q}")
    result = ConceptValidation(doses=(0.0, -1.0), tokens=6, draws=5, band=1)(story, asked)
    assert not result.data["gold"].any() and float(result.data["weight_difference"].max()) < 1e-5
    ids = story.tokenizer.encode(asked[0].related[0].text).ids
    clean, after = by_hooks(story, ids, {}), by_hooks(story, ids, {(2, 17): 0.0})
    want = float((clean.exp() * (clean - after)).sum())
    assert want > 0
    assert float(result.data["score"].isel(prompt=0).sel(size=1, dose=0.0, metric="kl")) == pytest.approx(
        want, abs=1e-6
    )


def test_half_precision_is_measured_and_its_floor_said(made, known):
    module = copy.deepcopy(made.module).to(torch.bfloat16)
    half = reference.as_lm(dataclasses.replace(made, module=module))
    before = half.fingerprint()
    result = ConceptValidation(how="zero", **QUICK)(half, known[:2])
    assert half.fingerprint() == before and half.spec.dtype == "bfloat16"
    assert (result.table()["related"] > 0.05).all() and np.isfinite(result.data["weight_difference"]).all()


def bad(**changes):
    related, unrelated = (Prompt.of("we saw the palette"),), (Prompt.of("we saw the forge"),)
    return Concept(**({"name": "colours", "vectors": ("0.7",), "related": related, "unrelated": unrelated} | changes))


@pytest.mark.parametrize(
    ("concept", "says"),
    [
        (bad(related=()), "no related prompts"),
        (bad(unrelated=()), "no unrelated prompts"),
        (bad(unrelated=(Prompt.of("we saw the palette"),)), "among its related and its unrelated"),
        (bad(vectors=("0.70",)), "0.70 is not in"),
        (bad(vectors=("seven",)), "names no value vector"),
        (bad(vectors=()), "no words"),
        (bad(related=(Prompt.of("we saw the " + "old " * 28 + "palette"),)), "context"),
        (bad(related=(Prompt.of("we saw the " + "old " * 20 + "palette"),)), "20 more are to be generated"),
        ([], "needs concepts"),
        ("colours", "needs concepts"),
    ],
)
def test_bad_concepts(lm, concept, says):
    with pytest.raises(BadInput, match=says):
        ConceptValidation()(lm, concept)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"how": "remove"}, "how"),
        ({"how": "zero", "doses": (0.5,)}, "one dose 0"),
        ({"how": "noise", "doses": (-0.1,)}, "0 or more"),
        ({"doses": (0.0, 0.0)}, "different finite"),
        ({"doses": (float("nan"),)}, "different finite"),
        ({"sizes": (0,)}, "whole numbers"),
        ({"draws": -1}, "at least 0"),
        ({"prompts": 0}, "at least 1"),
    ],
)
def test_bad_options(options, says):
    with pytest.raises(BadInput, match=says):
        ConceptValidation(**options)


def test_more_bad_input(lm, known, found):
    with pytest.raises(BadInput, match="sets of 200"):
        ConceptValidation(sizes=(200,))(lm, known[:1])
    with pytest.raises(BadInput, match="compare those of"):
        ConceptValidation(sizes=(110,), tokens=0)(lm, known[:1])
    with pytest.raises(BadInput, match="no answers were generated"):
        ConceptValidation(how="zero", **QUICK)(lm, known[:1]).answers("colours")
    with pytest.raises(BadInput, match="metals"):
        found.response("metal")


def test_a_vector_may_fire_on_the_answer_alone(lm):
    """The prompt never meets it, the answer's own tokens do."""
    related = (Prompt.of("we saw the", answer="palette red"),)
    one = Concept(
        "colours", vectors=("0.7",), related=related, unrelated=(Prompt.of("we saw the old", answer="forge"),)
    )
    result = ConceptValidation(how="zero", **QUICK)(lm, one)
    assert result.data["coefficient"].values.tolist() == [[0.0], [0.0]]
    lost, kept = result.effects("logprob").values.ravel()
    assert lost > 0.5 and kept == 0
    assert float(result.effects("kl").max()) < 1e-9  # at the end of the prompt nothing has fired


@pytest.mark.parametrize("family", ["gemma2", "olmo2", "gpt_neox"])
def test_scaled_coefficients_are_scaled_vectors_in_families_with_post_norms_too(family, tmp_path):
    small = interp.load(str(tiny_checkpoint(tmp_path, family)), check=False)
    rows = [
        {
            "Concept": "dogs",
            "vectors": ["1.3", "2.5"],
            "QA": ["The lazy dog", "A dog sleeps"],
            "unrelated_QA": ["one two three"],
        }
    ]
    result = ConceptValidation(how="zero", tokens=3, draws=3)(small, concepts(rows, template="{q}"))
    assert float(result.data["weight_difference"].max()) < 1e-4 < float(result.effects("kl").max())


def test_experts_are_refused_by_name(lm, known):
    class Experts:
        spec = dataclasses.replace(lm.spec, experts=8, name="mixture")

    with pytest.raises(UnsupportedArchitecture, match=r"mixture .* has 8 experts"):
        ConceptValidation().check(Experts(), known)


def test_concepts_are_chosen_by_name(lm, known, found):
    one = ConceptValidation(concept="metals", how="zero", tokens=4, draws=0)(lm, known)
    assert one.concepts == ["metals"] == ConceptValidation(concept=("metals",), how="zero", **QUICK)(lm, known).concepts
    mine = found.data["of"].values == "metals"
    np.testing.assert_allclose(
        one.data["score"].sel(dose=0.0), found.data["score"].sel(dose=0.0).values[mine], atol=1e-6
    )
    with pytest.raises(BadInput, match="no concept is called 'metal'"):
        ConceptValidation(concept="metal", **QUICK).check(lm, known)


def test_overflow_is_refused(lm, known):
    """NaN is no effect: no matched set would reach it, and p would be the smallest there is."""
    for options in ({"how": "noise", "doses": (3e38,), "noise_samples": 2}, {"doses": (1e38,)}):
        with pytest.raises(BadInput, match="gives NaN"):
            ConceptValidation(**options, tokens=0, draws=2, band=0)(lm, known[:1])


def test_too_few_matched_sets_are_said(found, lm, known):
    said = [line for line in found.report_lines() if "too few" in line]
    assert len(said) == 1 and "20 of them and 4 concepts give no p (Holm) below 0.19; ask for draws=80" in said[0]
    enough = ConceptValidation(concept="metals", how="zero", tokens=0, draws=20, band=0)(lm, known)
    assert not any("too few" in line for line in enough.report_lines()) and enough.table()["p_holm"][0] == 1 / 21
