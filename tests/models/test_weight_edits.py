"""Weight edits act on exactly the numbers that are named, and leave no trace."""

import pytest
import torch
from torch import Tensor

from interp.core.errors import BadInput, InterpError
from interp.models.weights import edit_weights

from .test_weights import views_of
from .tiny import EXPERTS, FAMILIES, tiny, tokens


def snapshot(module) -> dict[str, Tensor]:
    return {name: parameter.detach().clone() for name, parameter in module.named_parameters()}


def unchanged(module, before: dict[str, Tensor]) -> bool:
    now = dict(module.named_parameters())
    return now.keys() == before.keys() and all(torch.equal(now[name], old) for name, old in before.items())


@pytest.mark.parametrize("model_type", FAMILIES)
def test_every_view_can_be_edited_and_comes_back(model_type):
    module = tiny(model_type)
    w, before = views_of(module), snapshot(module)
    with torch.no_grad():
        clean = module(tokens()).logits
    mlp = () if model_type in EXPERTS else ("W_in", "W_gate", "W_out", "b_in", "b_out")
    for name in ("W_Q", "W_K", "W_V", "W_O", "b_Q", "b_V", "b_O", *mlp):
        view = w.raw(name, 2)
        if view is None:
            with pytest.raises(BadInput, match="no"), edit_weights(module, {f"{name}.2": torch.zeros(1)}):
                pass
            continue
        new = torch.randn(view.shape, generator=torch.Generator().manual_seed(1))
        matrices = ("W_Q", "W_K", "W_V", "W_O", *mlp[:3])
        others = {key: w.raw(key, 2) for key in matrices if key != name}
        others = {key: old.clone() for key, old in others.items() if old is not None}
        with edit_weights(module, {f"{name}.2": new}), torch.no_grad():
            assert torch.equal(w.raw(name, 2), new), name
            assert all(torch.equal(w.raw(key, 2), old) for key, old in others.items()), name
            if name != "b_K":
                assert not torch.equal(module(tokens()).logits, clean), name
        assert unchanged(module, before), name
    with torch.no_grad():
        assert torch.equal(module(tokens()).logits, clean)


def test_parts_of_views():
    module = tiny("gpt2", tie_word_embeddings=False)
    w, before = views_of(module), snapshot(module)
    changes = {
        "W_O.1.3": torch.ones(8, 32), ("W_out", 2, 17): torch.ones(32), "W_in.0.5": torch.ones(32), "b_Q.1.2": torch.ones(8),
        "W_E.50": torch.ones(32), "W_U.7": torch.ones(32), "W_pos.3": torch.ones(32), "b_in.0.5": torch.tensor(2.0),
    }  # fmt: skip
    with edit_weights(module, changes):
        assert (
            bool((w.W_O(1)[3] == 1).all()) and bool((w.W_out(2)[17] == 1).all()) and bool((w.W_in(0)[:, 5] == 1).all())
        )
        assert bool((w.b_Q(1)[2] == 1).all()) and bool((w.W_E[50] == 1).all()) and bool((w.W_U[:, 7] == 1).all())
        assert bool((w.W_pos[3] == 1).all()) and float(w.b_in(0)[5]) == 2
        changed = sum(int((now != before[name]).sum()) for name, now in module.named_parameters())
        assert changed == 8 * 32 + 5 * 32 + 8 + 1
    assert unchanged(module, before)


def test_an_exception_restores_and_passes_through():
    module = tiny("llama")
    before = snapshot(module)
    with pytest.raises(ZeroDivisionError), edit_weights(module, {"W_out.1": torch.zeros(48, 32)}):
        raise ZeroDivisionError
    assert unchanged(module, before)


def test_edits_nest():
    module = tiny("gpt2")
    before = snapshot(module)
    name = "transformer.h.1.mlp.c_proj.weight"
    with edit_weights(module, {name: torch.zeros(128, 32)}):
        with edit_weights(module, {"W_out.1.4": torch.ones(32)}):
            assert float(module.get_parameter(name).detach().sum()) == 32
        assert not module.get_parameter(name).any()
    assert unchanged(module, before)


def test_values_that_are_views_of_the_model_are_taken_before_anything_changes():
    module = tiny("gpt_neox")
    w, before = views_of(module), snapshot(module)
    old_q, old_k = w.W_Q(1).clone(), w.W_K(1).clone()
    with edit_weights(module, {"W_Q.1": w.W_K(1), "W_K.1": w.W_Q(1)}):
        assert torch.equal(w.W_Q(1), old_k) and torch.equal(w.W_K(1), old_q)
    assert unchanged(module, before)


@pytest.mark.parametrize("model_type", ["gpt2", "qwen3"])
def test_tied_embeddings_are_edited_by_their_own_name_only(model_type):
    module = tiny(model_type)
    owner = "transformer.wte.weight" if model_type == "gpt2" else "model.embed_tokens.weight"
    before = snapshot(module)
    for key in ("W_E", "W_U", "W_E.3", "lm_head.weight"):
        with pytest.raises(BadInput, match=owner), edit_weights(module, {key: torch.zeros(1)}):
            pass
    with edit_weights(module, {owner: torch.ones(160, 32)}):
        assert bool((views_of(module).W_U == 1).all()) and module.lm_head.weight is module.get_parameter(owner)
    assert unchanged(module, before) and module.lm_head.weight is module.get_parameter(owner)


def test_the_embedding_of_gemma_is_edited_as_it_enters_the_stream():
    module = tiny("gemma2", tie_word_embeddings=False)
    w, before = views_of(module), snapshot(module)
    with edit_weights(module, {"W_E.5": torch.full((32,), 3.0)}):
        assert torch.allclose(w.W_E[5], torch.tensor(3.0)) and not torch.allclose(
            module.model.embed_tokens.weight[5], torch.tensor(3.0)
        )
    assert unchanged(module, before)


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"W_out.9": torch.zeros(128, 32)}, "layers 0 to 3"),
        ({"W_otu.1": torch.zeros(128, 32)}, "Did you mean"),
        ({"W_out": torch.zeros(128, 32)}, "W_out.LAYER"),
        ({"W_out.x": torch.zeros(128, 32)}, "cannot be read"),
        ({"b_O.1.2": torch.zeros(1)}, "cannot be read"),
        ({"W_O.1.4": torch.zeros(8, 32)}, "heads 0 to 3"),
        ({"W_out.1": torch.zeros(32, 128)}, r"\(128, 32\)"),
        ({"transformer.h.1.mlp.c_proj.weight": torch.zeros(3)}, r"\(128, 32\)"),
        ({"W_gate.1": torch.zeros(3)}, "no W_gate"),
        ({"W_out.1": torch.zeros(128, 32), "W_out.1.3": torch.ones(32)}, "overlaps"),
    ],
)
def test_edits_that_cannot_be_meant(changes, match):
    module = tiny("gpt2")
    before = snapshot(module)
    with pytest.raises(BadInput, match=match), edit_weights(module, changes):
        raise AssertionError("must not get here")
    assert unchanged(module, before)


def test_nan_and_negative_zero_come_back_too():
    module = tiny("gpt2")
    weight = module.transformer.h[0].mlp.c_proj.weight
    with torch.no_grad():
        weight[0, 0], weight[0, 1] = float("nan"), -0.0
    raw = weight.detach().clone().view(torch.uint8)
    with edit_weights(module, {"W_out.0": torch.zeros(128, 32)}):
        pass
    assert torch.equal(weight.detach().view(torch.uint8), raw)


def test_someone_else_replacing_the_parameter_is_told():
    module = tiny("gpt2")
    with pytest.raises(InterpError, match="not what it was"), edit_weights(module, {"W_out.0": torch.zeros(128, 32)}):
        module.transformer.h[0].mlp.c_proj.weight = torch.nn.Parameter(torch.ones(128, 32))


def test_many_edits_leave_the_model_bit_identical():
    """The aliasing bug of a published benchmark: each 'restored' copy kept all earlier noises."""
    module = tiny("gpt2")
    before = snapshot(module)
    for neuron in range(20):
        noise = torch.randn(32, generator=torch.Generator().manual_seed(neuron))
        with edit_weights(module, {("W_out", 1, neuron): views_of(module).W_out(1)[neuron] + noise}):
            assert not unchanged(module, before)
    assert unchanged(module, before)


@pytest.mark.parametrize("model_type", EXPERTS)
def test_experts_are_edited_by_their_parameters_and_not_by_a_view(model_type):
    module = tiny(model_type)
    before = snapshot(module)
    with pytest.raises(BadInput, match=r"W_out: .*6 experts"), edit_weights(module, {"W_out.1": torch.zeros(24, 32)}):
        pass
    name = "model.layers.1.mlp.experts.down_proj"
    with torch.no_grad():
        clean = module(tokens()).logits
        with edit_weights(module, {name: torch.zeros_like(before[name])}):
            assert not torch.allclose(module(tokens()).logits, clean, atol=1e-2)
    assert unchanged(module, before)
