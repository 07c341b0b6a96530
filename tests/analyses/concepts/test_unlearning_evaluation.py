"""The evaluation of unlearning between two checkpoints: what it says, what it keeps, what it refuses."""

import copy
import dataclasses
import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import interp
from interp.analyses.concepts.traces import UnlearningEvaluation
from interp.analyses.concepts.traces.weights import spectral_norm, weight_change
from interp.analyses.concepts.vectors import Vector
from interp.core.errors import BadInput, WrongModel
from interp.data.concepts import Concept, Concepts, concepts
from interp.data.prompts import Prompt
from interp.models import reference

QUICK = UnlearningEvaluation(tokens=4, prompts=6, texts=6, neutral=6, nulls=6)


@pytest.fixture(scope="module")
def stories(real_models):
    return interp.load(str(real_models / "stories260K-llama"), check=False)


@pytest.fixture(scope="module")
def forgotten(atlas, atlas_tuned):
    """As if what only atlas-tuned knows had been unlearned; with the clean model at hand."""
    every = reference.concept_set("atlas-tuned")
    chosen = Concepts([every.get(name) for name in ("colour", "festival")])
    return QUICK(
        atlas_tuned, atlas, chosen, clean=atlas, neutral_texts=reference.text("atlas", 6),
        heldout=every.get("festival").texts[6:12],
    )  # fmt: skip


def test_what_only_the_tuned_model_knew_is_gone_and_the_rest_is_not(forgotten):
    verdict = forgotten.verdict()
    assert (
        float(verdict["accuracy"].sel(concept="festival"))
        < 0.1
        < 0.9
        < float(verdict["accuracy"].sel(concept="colour"))
    )
    assert (
        float(verdict["answers"].sel(concept="festival")) < 0.2 < 0.8 < float(verdict["answers"].sel(concept="colour"))
    )
    assert float(forgotten.of("restoration").sel(concept="festival")) == 1.0
    assert float(forgotten.of("privleak").sel(concept="festival")) == 0.0  # atlas is the clean model itself
    assert float(verdict["perplexity"].sel(concept="colour")) < 1.1


def test_averages_are_those_of_the_rows(forgotten):
    data = forgotten.data
    rows = (data["prompt_concept"] == "festival") & (data["group"] == "unrelated")
    assert float(forgotten.answers("rouge")["mean"].sel(concept="festival", group="unrelated")) == pytest.approx(
        float(data["rouge"].where(rows).mean())
    )
    assert float(forgotten.of("unrelated_rouge").sel(concept="festival")) == pytest.approx(
        float(data["rouge"].where(rows).mean())
    )
    own = (data["vector_concept"] == "colour") & data["null"]
    jaccard = data["trace"].sel(trace_measure="jaccard")
    found = forgotten.traces("jaccard").sel(concept="colour")
    assert float(found["null"]) == pytest.approx(float(jaccard.where(own).mean()))
    assert int(found["nulls"]) == 6 and 0 < float(found["p"]) <= 1
    assert float(forgotten.of("kl").sel(concept="colour")) == pytest.approx(
        float(data["kl"].where(data["prompt_concept"] == "colour").mean())
    )
    level = forgotten.answers("correct")
    assert level["mean"].sizes == {"state": 3, "concept": 2, "group": 3} and int(level["n"].max()) == 6
    verbatim = forgotten.texts()["mean"].sel(concept="festival")
    assert float(verbatim.sel(state="after")) < 0.1 < 0.4 < float(verbatim.sel(state="before"))


def test_a_result_survives_saving(forgotten, tmp_path):
    forgotten.save(tmp_path / "run")
    back = interp.open(tmp_path / "run")
    assert back.data.equals(forgotten.data) and back.data.attrs == forgotten.data.attrs
    assert back.headline() == forgotten.headline() and back.report_lines() == forgotten.report_lines()
    lines = forgotten.report_lines()
    assert lines[0].startswith("concept") and any(line.startswith("festival") for line in lines)
    assert set(forgotten.manifest.inputs) == {"other", "data", "clean", "heldout", "neutral"}
    words = forgotten.top_tokens("colour", 5)
    assert words.sizes == {"state": 3, "named": 1, "rank": 5}


def test_neutral_text_is_what_the_tokenizer_has_words_for(atlas):
    from interp.analyses.concepts.traces.settings import neutral_material

    own = reference.concept_set("atlas")[0].texts
    assert neutral_material(atlas, own, 5)[1] == "prose of the reference world"
    assert neutral_material(atlas, (), 5)[1] == "neutral English"
    planted = reference.as_lm(reference.concepts())
    texts, what = neutral_material(planted, ("we saw the fox", "we saw the wolf"), 5)
    assert what == "texts of the other concepts" and texts == ("we saw the fox", "we saw the wolf")


def test_a_model_and_itself_differ_in_nothing(stories):
    lm = stories
    play = Concept(
        "play", vectors=("2.5",), texts=("Lily went to play in the park. She was happy.", "Tom had a red ball to play with."),
        related=(Prompt.of("Once upon a time, there was a little girl named", answer="Lily"),),
        completions=(Prompt.of("She was very", answer="happy."),), unrelated=(Prompt.of("The dog ran to the"),),
    )  # fmt: skip
    other = Concept("dogs", vectors=("3.7",), texts=("The dog ran to the park.", "A big dog barked."))
    result = QUICK(lm, lm, [play, other])
    value = result.data["value"].sel(concept="play")
    same = (
        "jaccard",
        "rbo",
        "cosine",
        "gate_cosine",
        "in_cosine",
        "qa_bleu",
        "completion_rouge",
        "unrelated_bleu",
        "perplexity_ratio",
    )
    assert all(float(value.sel(measure=name)) == 1.0 for name in same)
    assert all(float(value.sel(measure=name)) == 0.0 for name in ("l2", "kl", "privleak"))
    assert float(result.data["weight_change"].max()) == 0.0 and not int(result.data["weight_small_changed"])
    assert np.isnan(result.data["weight_share"].values).all()
    assert result.data.attrs["neutral"] == "neutral English"


def test_a_saved_ablation_is_found_where_it_was_made(atlas, tmp_path):
    with atlas.edit_weights({"W_out.2.474": torch.zeros(atlas.spec.d_model)}):
        atlas.save(tmp_path / "ablated")
    ablated = interp.load(str(tmp_path / "ablated"), check=False)
    two = reference.concept_set("atlas")[1:3]  # harvest and colour
    result = dataclasses.replace(QUICK, prompts=1, texts=1, neutral=0)(atlas, ablated, two)
    trace = result.traces("jaccard")
    assert float(trace["mean"].sel(concept="colour")) == 0.0 and float(trace["mean"].sel(concept="harvest")) == 1.0
    assert (trace["null"] == 1).all() and float(trace["p"].sel(concept="colour")) == pytest.approx(1 / 7)
    changed = result.data["weight_change"].fillna(0)
    assert set(map(tuple, np.argwhere(changed.values > 0))) == {(list(changed["matrix"].values).index("W_out"), 2)}
    assert float(result.data["weight_share"].sel(matrix="W_out", layer=2)) == 1.0
    assert float(result.data["weight_stable_rank"].sel(matrix="W_out", layer=2)) == pytest.approx(1.0)
    assert float(result.data["weight_even"].sel(layer=2)) == 1 / atlas.spec.d_mlp
    assert result.top_tokens("colour", 3).sel(state="after").values.tolist() == [["", "", ""]]


def test_published_records_run_on_a_model_that_has_their_vectors():
    """The layout as published, on a random Llama with layer 23 and Dim 743, one of its rows rewritten."""
    lm, other = synthetic(layers=24), synthetic(layers=24, rewritten=743)
    record = {
        "ID": "1", "Concept": "Poland", "Layer": 23, "Dim": 743, "QA": [" What is w3?\n"], "unrelated_QA": [" What is w9?\n"],
        "text_completion": [{"First_half": "w1 w2 w3", "Second_half": "w4 w5"}], "wikipedia_content": "w1 w2 w3 w4 w5 w6 w7 w8",
    }  # fmt: skip
    both = concepts([record, record | {"Concept": "Italy", "ID": "2", "Dim": 79}])
    result = dataclasses.replace(QUICK, top_k=10, neutral=0, weights=False)(lm, other, both)
    trace = result.traces("cosine")["mean"]
    assert float(trace.sel(concept="Italy")) == 1.0 and abs(float(trace.sel(concept="Poland"))) < 0.9
    assert (result.data["null"].values.sum() == 12) and (result.traces("jaccard")["null"] == 1).all()
    asked = [str(text) for text in result.data["question"].values]
    assert "Question: What is w3?\n Answer:" in asked and "Please complete the following paragraph: w1 w2 w3" in asked


def test_published_files_are_refused_where_their_vectors_are_not(atlas, atlas_tuned, tmp_path):
    record = {
        "Concept": "Poland",
        "Layer": 23,
        "Dim": 743,
        "QA": [" Where?\n"],
        "unrelated_QA": [],
        "wikipedia_content": "Poland.",
    }
    file = tmp_path / "llama.json"
    file.write_text(json.dumps([record]))
    with pytest.raises(BadInput, match=r"concept 'Poland': 23.743 is not in atlas-tuned: it has layers 0 to 3"):
        QUICK(atlas_tuned, atlas, concepts(file))


def test_models_that_are_no_copies_are_refused_by_name(atlas, stories):
    lm, two = stories, reference.concept_set("atlas")[:1]
    with pytest.raises(WrongModel, match="differ in family: gpt2 and llama"):
        QUICK(atlas, lm, two)
    with pytest.raises(WrongModel, match="differ in family"):
        QUICK(atlas, atlas, two, clean=lm)
    with pytest.raises(BadInput, match="second model"):
        QUICK(atlas, "atlas", two)


@pytest.mark.parametrize(
    ("data", "match"),
    [
        (None, "takes concepts"), (["colour"], "takes concepts; not 'colour'"), ([], "takes concepts"),
        ([Concept("bare")], "'bare' has neither"), ([Concept("x", words=("zebra", "gnu"))], "concept 'x': 0 of 2 words"),
        ([Concept("x", vectors=("9.1",))], "concept 'x': 9.1 is not in atlas"),
        ([Concept("x", vectors=("0.1",), related=(Prompt.of("the " * 126),))], r"has 130 tokens .* is 128. Shorten the prompt\.$"),
    ],
)  # fmt: skip
def test_what_is_no_concept_is_refused(atlas, data, match):
    with pytest.raises(BadInput, match=match):
        QUICK(atlas, atlas, data)


def test_models_of_other_processing_or_rounding_are_told_apart(stories):
    folded = SimpleNamespace(spec=dataclasses.replace(stories.spec, processing="folded"), tokenizer=stories.tokenizer)
    with pytest.raises(WrongModel, match="differ in processing: raw and folded"):
        QUICK.check_all([stories, folded], [Concept("x", vectors=("0.1",))])
    rounded = SimpleNamespace(spec=dataclasses.replace(stories.spec, dtype="bfloat16"), weights=stories.weights)
    assert weight_change(stories, stories, []).attrs["floor"] == 0.0
    assert (
        weight_change(stories, rounded, []).attrs["floor"]
        == weight_change(rounded, stories, []).attrs["floor"]
        == 2.0**-9
    )


def test_some_concepts_are_looked_at_and_the_texts_of_all_are_known(atlas):
    every = reference.concept_set("atlas")
    quick = dataclasses.replace(QUICK, concept="colour", prompts=2, texts=4, neutral=0, nulls=2, weights=False)
    result = quick(atlas, atlas, every)
    assert quick.concept == ("colour",) and result.concepts == ["colour"]
    assert result.data.attrs["heldout"] == "texts of the other concepts" and result.data.sizes["heldout"] == 4
    assert quick.cost(atlas, atlas, every).note.endswith("6 prompts about 1 concepts, twice")
    with pytest.raises(BadInput, match="no concept is called 'color'"):
        dataclasses.replace(quick, concept=("color",))(atlas, atlas, every)
    with pytest.raises(BadInput, match="`n_vectors` is 2049, and atlas has 2048 value vectors"):
        dataclasses.replace(quick, n_vectors=2049)(atlas, atlas, every)
    bare = dataclasses.replace(quick, concept=())
    one = bare(
        atlas,
        atlas,
        Concept("x", vectors=("0.1",)),
        heldout="The king rode.",
        neutral_texts="The king rode to the river.",
    )
    assert one.data.sizes["heldout"] == one.data.sizes["document"] == 1  # one text, not its letters
    with pytest.raises(BadInput, match="one of `heldout` must be text; not int"):
        quick(atlas, atlas, every, heldout=[3])


def test_a_concepts_own_texts_are_not_called_those_of_others():
    lm = reference.as_lm(reference.concepts())
    alone = Concept("foxes", vectors=("0.1",), texts=("we saw the fox", "we saw the wolf"))
    assert "the texts of foxes itself: no alarm" in QUICK(lm, lm, alone).data.attrs["neutral"]


@pytest.mark.parametrize("fields", [{"n_vectors": 0}, {"neutral": -1}, {"nulls": -1}])
def test_bad_options_are_refused(fields):
    with pytest.raises(BadInput, match=next(iter(fields))):
        UnlearningEvaluation(**fields)


def test_the_cost_counts_every_prompt_twice(atlas):
    cost = QUICK.cost(atlas, atlas, reference.concept_set("atlas")[:2])
    assert cost.forwards == 2 * (36 + 48 + 6) and "36 prompts about 2 concepts" in cost.note


def test_weight_differences_have_the_planted_rank_and_place(atlas):
    changed = copy.deepcopy(atlas.module)
    draw = torch.Generator().manual_seed(0)
    left, right = torch.randn(512, 2, generator=draw), torch.randn(2, 128, generator=draw)
    low = torch.linalg.qr(left)[0] @ torch.linalg.qr(right.T)[0].T
    with torch.no_grad():
        changed.transformer.h[1].mlp.c_proj.weight += low
        changed.transformer.h[0].ln_1.weight[0] += 1
    other = type("Other", (), {})()
    from interp.models.weights import Weights

    other.weights, other.spec = Weights(changed, atlas.family, atlas.spec), atlas.spec
    found = weight_change(atlas, other, [Vector(1, 3), Vector(1, 7), Vector(2, 0)])
    cell = {"matrix": "W_out", "layer": 1}
    assert float(found["change"].sum()) == float(found["change"].sel(cell))
    assert float(found["change"].sel(cell)) == pytest.approx(2**0.5 / float(atlas.weights.W_out(1).norm()), rel=1e-4)
    assert float(found["stable_rank"].sel(cell)) == pytest.approx(2.0, rel=1e-3)
    assert float(found["share"].sel(cell)) == pytest.approx(float(low[[3, 7]].square().sum() / 2), rel=1e-3)
    assert found["even"].values.tolist() == [0, 2 / 512, 1 / 512, 0] and int(found["small_changed"]) == 1
    assert found["table_change"].values.tolist() == [0, 0]


def test_power_iteration_finds_the_largest_singular_value(monkeypatch):
    matrix = torch.randn(60, 40, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    exact = spectral_norm(matrix)
    assert exact == pytest.approx(float(torch.linalg.matrix_norm(matrix, 2)))
    monkeypatch.setattr("interp.analyses.concepts.traces.weights.EXACT", 10)
    assert spectral_norm(matrix, rounds=5000, tolerance=1e-12) == pytest.approx(exact, rel=1e-4)


def synthetic(*, layers, rewritten=None):
    """A small random Llama with word tokens w0, w1, ... and many neurons."""
    import transformers

    from interp.models.load import wrap
    from interp.models.reference.planted.wiring import word_tokenizer

    torch_state = torch.random.get_rng_state()
    torch.manual_seed(0)
    words = [f"w{i}" for i in range(40)] + ["Question:", "Answer:", "What", "is", "Please"]
    tokenizer = word_tokenizer(words, 64)
    config = transformers.LlamaConfig(
        vocab_size=len(words) + 2, hidden_size=16, intermediate_size=800, num_hidden_layers=layers, num_attention_heads=2,
        num_key_value_heads=2, max_position_embeddings=64, bos_token_id=0, eos_token_id=1,
    )  # fmt: skip
    module = transformers.LlamaForCausalLM(config).eval()
    if rewritten is not None:
        with torch.no_grad():
            module.model.layers[-1].mlp.down_proj.weight[:, rewritten] = torch.randn(16)
    torch.random.set_rng_state(torch_state)
    return wrap(module, tokenizer, "synthetic")
