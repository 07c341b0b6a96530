"""Editors on every family: exact gradients, exact restoration, honest refusals, and the real checkpoints end to end."""

import copy

import pytest
import torch

import interp
from interp.analyses.editing import (
    MEMIT,
    ROME,
    FineTuning,
    Request,
    SecondMoments,
    WeightChange,
    check_editable,
    edit_scores,
    measure,
    probe,
    requests_for,
    second_moments,
)
from interp.analyses.editing.algebra import rank_one
from interp.analyses.editing.contexts import rows_of
from interp.analyses.editing.finetune import gradients
from interp.core.errors import BadInput, InterpError, UnsupportedArchitecture
from interp.data import Prompt
from interp.models.load import wrap
from interp.models.tokenizer import load_tokenizer
from tests.models.tiny import tiny, tiny_tokenizer


@pytest.fixture(scope="module")
def lm():
    return interp.load("atlas")


@pytest.fixture(scope="module")
def request_of(lm):
    return requests_for(lm, interp.reference.facts("atlas", 3), "error_injection")[0]


@pytest.fixture(scope="module")
def words(tmp_path_factory):
    return load_tokenizer(tiny_tokenizer(tmp_path_factory.mktemp("words")), "words", rows=10**6)


# -- fine-tuning -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["gpt2", "gpt_neox", "llama", "phi3"])
def test_gradients_are_those_of_autograd(family, words):
    objective = "lower" if family in ("gpt2", "llama") else "raise"
    module = tiny(family, vocab_size=words.vocab).double()
    model = wrap(module, words, family)
    prompt = Prompt.of("The Space Needle is in", answer=" Seattle.", subject="Space Needle")
    request = Request.of(model, prompt, objective=objective)
    assert len(request.ids) > 1
    layers = [1, 2]
    loss, found = gradients(model, [request], rows_of(model, [request]), layers)

    plain = copy.deepcopy(module).requires_grad_(True)
    tokens = [*request.tokens(model).ids, *request.ids]
    logp = plain(torch.tensor([tokens])).logits[0].log_softmax(-1)
    places = range(len(tokens) - len(request.ids) - 1, len(tokens) - 1)
    total = sum(logp[place, tokens[place + 1]] for place in places)
    wanted = total.exp() if objective == "lower" else -total / len(request.ids)
    wanted.backward()
    assert loss == pytest.approx(float(wanted.detach()), rel=1e-5)
    named = dict(plain.named_parameters())
    for layer in layers:
        name = next(
            name for name in named
            if f".{layer}." in name and name.endswith((".mlp.c_proj.weight", "down_proj.weight", "dense_4h_to_h.weight"))
        )  # fmt: skip
        slope = named[name].grad
        slope = slope if slope.shape == found[layer].shape and family in ("gpt2",) else slope.T
        assert float((found[layer] - slope).abs().max()) < 1e-5 * float(slope.abs().max()), (family, layer)


def test_fine_tuning_learns_within_its_clamp(lm, request_of):
    before = lm.fingerprint()
    editor = FineTuning(relative=True, lr=0.02, clamp=0.1)
    change = editor.edit(lm, [request_of], layers=1)
    assert change.log["loss"][-1] < 0.5 * change.log["loss"][0] and len(change.log["loss"]) == change.log["updates"] + 1
    bound = 0.1 * float(lm.weights.W_out(1).double().std())
    assert float(change.deltas["W_out.1"].abs().max()) <= bound * 1.0001
    with change.apply(lm):
        assert int(lm.run(lm.encode(request_of.prompt.text)).last_logits[0].argmax()) == request_of.ids[0]
    assert lm.fingerprint() == before


def test_fine_tuning_edits_most_facts_of_atlas(lm):
    requests = requests_for(lm, interp.reference.facts("atlas", 4), "error_injection")
    editor, done = FineTuning(relative=True, lr=0.05, clamp=0.2), 0
    for request in requests:
        with editor.edit(lm, [request], layers=0).apply(lm):
            done += int(lm.run(lm.encode(request.prompt.text)).last_logits[0].argmax()) == request.ids[0]
    assert done == 4


def test_the_clamp_of_large_models_changes_nothing_here(lm, request_of):
    change = FineTuning().edit(lm, [request_of], layers=1)
    assert change.log["at_bound"] > 0.99
    judge = probe(lm, request_of, essence=None)
    before = measure(lm, judge)
    with change.apply(lm):
        assert edit_scores(before, measure(lm, judge)).rewrite < 0.01


def test_windows(lm, request_of):
    editor = FineTuning(window=5, steps=1)
    assert (
        editor.layers_of(0, 4) == (0, 1, 2)
        and editor.layers_of(2, 4) == (0, 1, 2, 3)
        and editor.layers_of(3, 4) == (1, 2, 3)
    )
    assert editor.layers_of([2, 0], 4) == (0, 2) and editor.layers_of(12, 48) == (10, 11, 12, 13, 14)
    assert list(editor.edit(lm, [request_of], layers=0).deltas) == ["W_out.0", "W_out.1", "W_out.2"]
    for bad in ([], [1, 1], [4], -1):
        with pytest.raises(BadInput, match="layer"):
            editor.layers_of(bad, 4)
    for bad in ({"steps": 0}, {"lr": -1.0}, {"clamp": 0.0}, {"window": 0}):
        with pytest.raises(BadInput, match=next(iter(bad))):
            FineTuning(**bad)


# -- weight changes ----------------------------------------------------------------------------------------------------


def test_changes_add_up_nest_and_leave_no_trace(lm):
    before = lm.fingerprint()
    one, two = (
        WeightChange({key: torch.full((512, 128), size)}) for key, size in (("W_out.1", 0.25), ("W_out.2", 0.5))
    )
    both = one + two + one
    assert both.norms["W_out.1"] == pytest.approx(0.5 * 256) and list(both.deltas) == ["W_out.1", "W_out.2"]
    old = lm.weights.W_out(1).clone()
    with one.apply(lm), two.apply(lm), one.apply(lm):
        assert torch.equal(lm.weights.W_out(1), ((old.double() + 0.25).float().double() + 0.25).float())
        nested = lm.fingerprint()
    assert lm.fingerprint() == before != nested
    with pytest.raises(RuntimeError, match="on purpose"), both.apply(lm):
        raise RuntimeError("on purpose")
    assert lm.fingerprint() == before
    assert WeightChange.none().norms == {} and both.relative(lm)["W_out.1"] == pytest.approx(
        128 / float(old.double().norm())
    )
    with pytest.raises(BadInput, match="W_out only"), WeightChange({"W_in.1": torch.zeros(1)}).apply(lm):
        pass


def test_edits_are_the_same_by_the_same_seed(lm, request_of):
    moments = SecondMoments.identity(lm, [0])
    one, again, other = (
        ROME(steps=1).edit(lm, [request_of], layers=0, moments=moments, seed=seed) for seed in (0, 0, 1)
    )
    assert torch.equal(one.deltas["W_out.0"], again.deltas["W_out.0"]) and one.log["prefixes"] == again.log["prefixes"]
    assert one.log["prefixes"] != other.log["prefixes"]


def test_what_is_no_number_is_no_edit(lm, request_of):
    moments = SecondMoments.identity(lm, [1])
    with WeightChange({"W_out.0": torch.full((512, 128), torch.nan)}).apply(lm):
        for editor in (FineTuning(steps=1), ROME(steps=1, prefixes=()), MEMIT(window=1, steps=1, prefixes=())):
            with pytest.raises(InterpError, match=r"finite.*"):
                editor.edit(lm, [request_of], layers=1, moments=moments)
    with pytest.raises(BadInput, match="not finite"):
        rank_one(torch.full((3,), torch.nan), torch.ones(2), torch.ones(3))


# -- families ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["gemma2", "olmo2", "gpt_oss"])
def test_families_whose_values_do_not_reach_the_stream_are_refused_by_name(family, words):
    model = wrap(tiny(family, vocab_size=words.vocab), words, family)
    with pytest.raises(UnsupportedArchitecture, match=family):
        check_editable(model)


@pytest.mark.parametrize("name", ["tinytalk-chat", "stories260K-llama"])
def test_real_checkpoints_are_edited_end_to_end(real_models, name):
    model = interp.load(str(real_models / name))
    before = model.fingerprint()
    prompt = Prompt.of(
        "Once upon a time, there was a little girl named Lily. She liked to play in the", answer=" park", subject="Lily"
    )
    request = Request.of(model, prompt, " snow")
    moments = second_moments(model, ["Once upon a time there was a cat. It liked to run and play all day."] * 3, [1, 2])
    judge = probe(model, request, texts=2, tokens=3)
    untouched = measure(model, judge)
    scores = {}
    for editor in (
        ROME(key="bare", lr=0.2, steps=10, prefixes=()),
        MEMIT(key="bare", window=2, lr=0.1, steps=10, clamp_factor=4.0, mom2_weight=1.0, prefixes=()),
        FineTuning(relative=True, lr=0.05, clamp=0.5),
    ):
        change = editor.edit(model, [request], layers=[1, 2] if editor.name == "MEMIT" else 1, moments=moments)
        with change.apply(model):
            scores[editor.name] = edit_scores(untouched, measure(model, judge))
        if editor.name == "ROME":
            assert change.log["residual"] < 1e-4
    assert all(one.after.rewrite > one.before.rewrite for one in scores.values()), scores
    assert scores["FT"].rewrite > 0.5 and all(0 <= one.essence <= 1 for one in scores.values())
    assert model.fingerprint() == before
