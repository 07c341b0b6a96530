"""The rotation between a query and a key, against the attention that the models themselves compute."""

import numpy as np
import pytest
import torch
from torch import Tensor

from interp.core.errors import BadInput
from interp.models.load import load
from interp.models.plain import PlainModel
from interp.models.weights import Weights
from tests import oracle

from .tiny import FAMILIES, tiny, tokens

LEARNED = ("gpt2", "gpt_neo")
ROTARY = [name for name in FAMILIES if name not in LEARNED]
LENGTH = 14
SCALED = {
    "linear": {"rope_type": "linear", "factor": 3.0, "rope_theta": 1e4},
    "dynamic": {"rope_type": "dynamic", "factor": 3.0, "rope_theta": 1e4},
    "llama3": {
        "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 16, "rope_theta": 1e4,
    },
    "yarn": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16, "rope_theta": 1e4},
}  # fmt: skip


class Tiny(PlainModel):
    """A tiny model with its weights' views beside it."""

    def __init__(self, name: str, **overrides) -> None:
        super().__init__(tiny(name, **overrides))
        self.weights = Weights(self.module, self.family, self.spec)


@torch.no_grad()
def normed(module, layer: int, which: str, x: Tensor) -> Tensor:
    """The query or key norm of a layer, where it has one: over the head, or (OLMo 2) over all heads at once."""
    norm = getattr(module.model.layers[layer].self_attn, f"{which}_norm", None) if hasattr(module, "model") else None
    if norm is None:
        return x
    flat = x.flatten(2) if norm.weight.shape[0] != x.shape[-1] else x
    return norm(flat).reshape(x.shape)


@torch.no_grad()
def attend(lm, layer: int, scores: Tensor) -> Tensor:
    """Attention from products q R kᵀ (-inf where a key is hidden): the model's scale, soft cap and sinks, float64."""
    attention = oracle.attention_of(lm.module, layer)
    if lm.spec.family == "gpt2":
        scale = lm.spec.d_head**-0.5
    else:
        scale = 1.0 if lm.spec.family == "gpt_neo" else attention.scaling
    scores, cap = scores * scale, getattr(attention, "attn_logit_softcapping", None)
    scores = scores if cap is None else torch.where(scores.isinf(), scores, cap * torch.tanh(scores / cap))
    if not lm.spec.sinks:
        return scores.softmax(-1)
    sinks = attention.sinks.double()[None, :, None, None].expand(*scores.shape[:3], 1)
    return torch.cat([scores, sinks], dim=-1).softmax(-1)[..., :-1]


@torch.no_grad()
def pattern_of(lm: PlainModel, layer: int, run, rotation) -> Tensor:
    """softmax(scale · q R(i - j) kᵀ + mask) from the sites q and k."""
    q = normed(lm.module, layer, "q", run[f"blocks.{layer}.attn.hook_q"]).double()
    k = normed(lm.module, layer, "k", run[f"blocks.{layer}.attn.hook_k"]).double()
    k = k.repeat_interleave(lm.spec.n_heads // lm.spec.n_kv_heads, dim=2)
    n = q.shape[1]
    scores = torch.full((len(q), lm.spec.n_heads, n, n), -torch.inf, dtype=torch.float64)
    for offset in range(min(n, lm.spec.windows[layer] or n)):
        at = torch.arange(offset, n)
        turned = q @ rotation(layer, offset)
        scores[:, :, at, at - offset] = torch.einsum("bphd,bphd->bhp", turned[:, at], k[:, at - offset])
    return attend(lm, layer, scores)


def check(lm: PlainModel, ids: Tensor, tolerance: float = 1e-5) -> None:
    sites = ["blocks.*.attn.hook_q", "blocks.*.attn.hook_k", "blocks.*.attn.hook_pattern"]
    run = lm.run(ids, capture=sites)
    for layer in range(lm.spec.n_layers):
        want = run[f"blocks.{layer}.attn.hook_pattern"].double()
        got = pattern_of(lm, layer, run, lm.weights.rotation)
        torch.testing.assert_close(got, want, rtol=0, atol=tolerance)
        still = pattern_of(lm, layer, run, lambda layer, offset: lm.weights.rotation(layer, 0))
        assert float((still - want).abs().max()) > 1e-2, "the rotations make no difference here"


@pytest.mark.parametrize("name", ROTARY)
def test_the_pattern_follows_from_queries_keys_and_the_rotation(name: str) -> None:
    check(Tiny(name), tokens(2, LENGTH))


@pytest.mark.parametrize("kind", SCALED)
def test_stretched_positions_as_the_model_stretches_them(kind: str) -> None:
    lm = Tiny("llama", rope_parameters=SCALED[kind])
    check(lm, tokens(1, 40))
    plain = Tiny("llama")
    same = torch.allclose(lm.weights.rotation(0, 7), plain.weights.rotation(0, 7))
    assert same == (kind == "dynamic")  # which stretches beyond the context only
    factor = float(lm.weights.rotation(0, 0)[0, 0])
    assert factor == pytest.approx((0.1 * np.log(4) + 1) ** 2 if kind == "yarn" else 1.0, rel=1e-6)


def test_local_and_global_layers_of_gemma_3_turn_differently() -> None:
    lm = Tiny("gemma3_text")
    local, whole = lm.weights.rotation(0, 3), lm.weights.rotation(1, 3)
    assert float((local - whole).abs().max()) > 0.1
    assert torch.equal(local, lm.weights.rotation(2, 3)) and torch.equal(whole, lm.weights.rotation(-1, 3))


@pytest.mark.parametrize("name", ["gpt_neox", "phi3"])
def test_the_unturned_part_of_a_head_stays(name: str) -> None:
    lm = Tiny(name)
    turn, half = lm.weights.rotation(1, 5), lm.spec.d_head // 2
    one = torch.eye(half, dtype=torch.float64)
    assert turn.dtype == torch.float64 and turn.shape == (lm.spec.d_head, lm.spec.d_head)
    assert torch.equal(turn[half:, half:], one) and not turn[half:, :half].any() and not turn[:half, half:].any()
    assert float((turn[:half, :half] - one).abs().max()) > 0.1


def test_distances_add_up_and_zero_is_no_turn() -> None:
    lm = Tiny("llama")
    turn = lm.weights.rotation
    torch.testing.assert_close(turn(1, 3) @ turn(1, 4), turn(1, 7), rtol=0, atol=1e-6)
    assert torch.equal(turn(1, 0), torch.eye(lm.spec.d_head, dtype=torch.float64))
    assert torch.equal(turn(1, np.int64(3)), turn(1, 3))


def test_a_trained_model_s_pattern(real_models) -> None:
    lm = load(real_models / "stories260K-llama")
    check(lm, lm.encode("Once upon a time there was a little dog").tokens, 2e-5)


@pytest.mark.parametrize("name", LEARNED)
def test_learned_positions_have_no_rotation(name: str) -> None:
    with pytest.raises(BadInput, match=rf"learned positions, not rotary ones \({name}\).*Leave out the offset \(4\)"):
        Tiny(name).weights.rotation(0, 4)


def test_offsets_that_are_no_distances() -> None:
    turn = Tiny("llama").weights.rotation
    with pytest.raises(BadInput, match=r"offset -2 lies behind the query.*from 0 .* to 63"):
        turn(0, -2)
    for odd in (1.5, "4", None, True):
        with pytest.raises(BadInput, match=rf"offset {odd!r} is no whole number of tokens"):
            turn(0, odd)
    with pytest.raises(BadInput, match=r"64 tokens before its query"):
        turn(0, 64)
    with pytest.raises(BadInput, match="layer 9 is not in"):
        turn(9, 1)
