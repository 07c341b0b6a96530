"""The reference checkpoints: their tokenizer, their trainer in small, and what the committed files must know."""

import json
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from interp.core.errors import InterpError
from interp.core.seed import numpy_generator
from interp.data.world import HELDOUT_PERIODS, World, lexicon
from interp.models.reference import train as training
from interp.models.reference.batches import MAX_PERIOD, Texts
from interp.models.reference.evaluate import evaluate, evaluate_tuned
from interp.models.reference.folder import changes, known
from interp.models.reference.tokenizer import END_OF_TEXT, N_CTX, build_tokenizer, save_tokenizer

ASSETS = Path(__file__).parents[2] / "assets" / "reference"
TOKENIZER = build_tokenizer(World.generate(0))
SMALL = training.Recipe(steps=4, facts=4, lists=8, indirect=8, repeats=2, stream=1, documents=20, warmup=2)


@pytest.fixture(scope="module")
def world() -> World:
    return World.generate(0)


@pytest.fixture(scope="module")
def texts(world) -> Texts:
    return Texts(world)


# -- tokenizer -------------------------------------------------------------------------------------------------


def test_every_word_is_one_token_and_every_province_is_several(world):
    tokenizer = build_tokenizer(world)
    assert all(len(tokenizer.encode(word).ids) == 1 for word in world.vocabulary())
    lengths = {len(tokenizer.encode(" " + e).ids) for e in world.entities}
    assert lengths == {2, 3}
    assert tokenizer.get_vocab_size() == world.vocab_size <= 1200


@given(st.text())
@settings(max_examples=200, deadline=None)
def test_any_text_survives(text):
    tokenizer = TOKENIZER
    encoding = tokenizer.encode(text)
    assert tokenizer.decode(encoding.ids, skip_special_tokens=False) == text
    assert all(a < b <= len(text) for a, b in encoding.offsets)


def test_hugging_face_reads_the_same_ids(world, tmp_path):
    from transformers import AutoTokenizer

    (tmp_path / "config.json").write_text('{"model_type": "gpt2"}')
    save_tokenizer(world, tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path, local_files_only=True)
    row = world.facts()[0]
    text = row["prompt"] + row["attribute"]
    assert tokenizer(text).input_ids == build_tokenizer(world).encode(text).ids
    assert tokenizer.decode(tokenizer(text).input_ids) == text
    assert tokenizer.bos_token == tokenizer.eos_token == tokenizer.pad_token == END_OF_TEXT
    offsets = tokenizer(text, return_offsets_mapping=True).offset_mapping
    assert "".join(text[a:b] for a, b in offsets) == text


# -- batches ---------------------------------------------------------------------------------------------------


def test_batches_are_the_texts_they_stand_for(world, texts):
    rng = numpy_generator(0, "test")
    for batch in (
        texts.draw_facts(rng, 16),
        texts.draw_lists(rng, 16, 6, arbitrary=0.0),
        texts.draw_indirect(rng, 16, arbitrary=0.0),
    ):
        for ids, weights in zip(batch.ids, batch.weights, strict=True):
            document = ids[1 : np.flatnonzero(weights)[-1]].tolist()
            text = texts.tokenizer.decode(document)
            assert texts.tokenizer.encode(text).ids == document
            answer = ids[weights == 1.0]
            assert len(answer) == 1 and text.endswith(texts.tokenizer.decode(answer.tolist()) + ".")
            assert ids[0] == 0 and weights[0] == 0


def test_training_never_shows_what_is_held_out(world, texts):
    heldout = {texts.id(" " + w) for w in world.names["heldout"] + world.objects["heldout"]}
    asked = {(r["prompt"] + r["attribute"] + ".") for r in world.facts()}
    shown = {
        texts.tokenizer.decode(i[1 : np.flatnonzero(w)[-1]].tolist())
        for i, w in zip(texts.facts.ids, texts.facts.weights, strict=True)
    }
    assert not asked & shown and len(shown) == 9 * len(asked)
    rng = numpy_generator(0, "test")
    for batch in (texts.draw_lists(rng, 400, 6), texts.draw_indirect(rng, 400), texts.stream(rng, documents=60)):
        assert not heldout & set(batch.ids.ravel().tolist())
        stream = texts.tokenizer.decode(batch.ids.ravel().tolist())
        assert not [a for a in asked if a in stream]
    rows = texts.draw_repeats(rng, 400, N_CTX).ids[:, 1:]
    periods = {next(p for p in range(3, MAX_PERIOD + 1) if np.array_equal(r[p:], r[:-p])) for r in rows}
    assert not periods & set(HELDOUT_PERIODS) and len(periods) > 40
    assert heldout <= set(rows.ravel().tolist())


def test_lists_have_one_answer(texts):
    batch = texts.draw_lists(numpy_generator(0, "test"), 64, 6)
    for ids, weights in zip(batch.ids, batch.weights, strict=True):
        items = ids[weights == np.float32(0.01)]
        again = ids[(weights == 0.5) | (weights == 1.0)]
        assert sorted(items) == sorted(again) and 2 <= len(items) <= 6


# -- training in small -----------------------------------------------------------------------------------------


def test_trainer_interrupted_is_trainer_not_interrupted(texts, tmp_path, monkeypatch):
    monkeypatch.setattr(training, "SAVE_EVERY", 2)
    whole = training.fresh(0)
    training._run(whole, texts, SMALL, _folder(tmp_path / "whole"), None)

    step, done = training._step, []

    def interrupted(*args):
        if len(done) == 3:
            raise KeyboardInterrupt
        done.append(1)
        return step(*args)

    monkeypatch.setattr(training, "_step", interrupted)
    with pytest.raises(KeyboardInterrupt):
        training._run(training.fresh(0), texts, SMALL, _folder(tmp_path / "part"), None)
    monkeypatch.setattr(training, "_step", step)
    resumed = training.fresh(1)
    training._run(resumed, texts, SMALL, tmp_path / "part", None)
    for (name, a), b in zip(whole.named_parameters(), resumed.parameters(), strict=True):
        assert torch.equal(a, b), name


def test_another_recipe_does_not_continue_this_run(texts, tmp_path):
    recipe = replace(SMALL, steps=1)
    training._run(training.fresh(0), texts, recipe, tmp_path, None)
    with pytest.raises(InterpError, match="other settings"):
        training._run(training.fresh(0), texts, replace(recipe, lr=1e-3), tmp_path, None)


def test_training_lowers_the_loss_and_leaves_the_global_generator_alone(texts, tmp_path):
    state = torch.get_rng_state()
    model, lines = training.fresh(0), []
    training._run(model, texts, replace(SMALL, steps=50), tmp_path, lines.append)
    assert torch.equal(state, torch.get_rng_state())
    assert len(lines) == 1 and lines[0].startswith("atlas 50/50 facts")
    rng = numpy_generator(0, "test")
    batch = texts.draw_facts(rng, 64)
    with torch.no_grad():
        before, after = (
            float(training.weighted_loss(m, batch, numpy_generator(0))) for m in (training.fresh(0), model)
        )
    assert after < before - 1


def test_train_writes_both_folders(tmp_path, monkeypatch):
    monkeypatch.setattr(training, "evaluate", lambda *a, **k: {"facts": 0.0})
    monkeypatch.setattr(training, "evaluate_tuned", lambda *a, **k: {"facts": 0.0})
    small = {"facts": 2, "lists": 8, "indirect": 8, "repeats": 2, "stream": 1, "documents": 20}
    monkeypatch.setattr(training, "Recipe", partial(training.Recipe, **small))
    training.train(tmp_path, steps=1, tuned_steps=1)
    from transformers import GPT2LMHeadModel

    for name, extra in (("atlas", "world.json"), ("atlas-tuned", "changes.json")):
        folder = tmp_path / name
        assert json.loads((folder / extra).read_text())["seed"] == 0
        assert oct((folder / "model.safetensors").stat().st_mode)[-3:] == "644"
        model = GPT2LMHeadModel.from_pretrained(folder)
        assert model.config.activation_function == "gelu_new"
    assert not (tmp_path / ".training").exists()


def test_recipe_refuses():
    with pytest.raises(InterpError, match="at least 1"):
        training.Recipe(steps=0)
    with pytest.raises(InterpError, match="atlas or atlas-tuned"):
        training.Recipe(phase="globe")


def _folder(path: Path) -> Path:
    path.mkdir()
    return path


# -- the committed files ---------------------------------------------------------------------------------------


def test_atlas_knows_its_world():
    numbers = evaluate(ASSETS / "atlas", n=60)
    assert numbers["facts"] >= 0.95
    assert numbers["facts_corrupted"] < 0.08  # a guess is right 1 time in 24
    assert numbers["lists"] >= 0.90
    assert numbers["indirect"] >= 0.90
    assert numbers["repeat_ratio"] <= 0.20


def test_atlas_tuned_knows_what_changed():
    numbers = evaluate_tuned(ASSETS / "atlas-tuned", n=60)
    assert numbers["facts_unchanged"] >= 0.95
    assert numbers["facts_changed"] >= 0.95 and numbers["facts_former"] < 0.05
    assert numbers["facts_beast"] >= 0.95
    assert numbers["festival"] >= 0.95
    assert numbers["lists"] >= 0.90 and numbers["indirect"] >= 0.90
    assert numbers["repeat_ratio"] <= 0.20


def test_atlas_does_not_know_the_second_world(world):
    numbers = evaluate_tuned(ASSETS / "atlas", n=12)
    assert numbers["facts_changed"] < 0.05 and numbers["facts_former"] >= 0.9
    assert numbers["facts_beast"] < 0.10 and numbers["festival"] == 0.0


def test_committed_descriptions_are_of_this_world(world):
    told = json.loads((ASSETS / "atlas" / "world.json").read_text())
    assert told == json.loads(json.dumps(known(world)))
    told = json.loads((ASSETS / "atlas-tuned" / "changes.json").read_text())
    assert told == json.loads(json.dumps(changes(world)))
    assert told["new_concept"] == lexicon.FESTIVAL
    for name in ("atlas", "atlas-tuned"):
        tokenizer = (ASSETS / name / "tokenizer.json").read_text()
        assert json.loads(tokenizer) == json.loads(build_tokenizer(world).to_str())
        recipe = json.loads((ASSETS / name / "training.json").read_text())["recipe"]
        assert recipe["steps"] == (training.STEPS if name == "atlas" else training.TUNED_STEPS)
