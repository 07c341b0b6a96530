"""What is nnsight's own: forward order, the pattern, early stop, errors inside a trace, and no method on every object."""

import subprocess
import sys

import pytest
import torch

from interp.core.edit import call, scale
from interp.core.errors import BadInput
from interp.core.site import Site
from interp.models.load import wrap
from interp.models.tracer import TracerLM, load_nnsight
from tests.models.tiny import FAMILIES, SDPA, tiny, tokens
from tests.models.wrapped import lm, tokenizer


def tracer(family: str) -> TracerLM:
    model = lm(family, "nnsight")
    assert isinstance(model, TracerLM)
    return model


def test_nnsight_leaves_no_method_on_every_object() -> None:
    code = "from interp.models.tracer import load_nnsight; load_nnsight(); assert not hasattr(1, 'save'), 'mounted'"
    subprocess.run([sys.executable, "-c", code], check=True)
    assert load_nnsight() is sys.modules["nnsight"]


@pytest.mark.parametrize("family", FAMILIES)
def test_sites_may_be_asked_for_in_any_order(family: str) -> None:
    model = tracer(family)
    names = [info.site.name for info in model.sites()]
    forward, backward = model.run(tokens(), capture=names), model.run(tokens(), capture=names[::-1])
    assert list(forward.captured) != [] and all(torch.equal(forward[name], backward[name]) for name in names)


def test_several_sites_of_one_module_are_edited_together() -> None:
    model = tracer("gpt2")
    edits = [scale(f"blocks.1.attn.hook_{kind}", factor) for kind, factor in (("q", 0.5), ("k", 2.0), ("v", 0.0))]
    assert torch.equal(model.run(tokens(), edits=edits).logits, model.plain.run(tokens(), edits=edits).logits)
    keeping = [
        scale("blocks.1.attn.hook_q", 0.5),
        scale("blocks.1.attn.hook_k", 2.0),
    ]  # q·k unchanged: a power of two is exact
    assert torch.equal(model.run(tokens(), edits=keeping).logits, model.run(tokens()).logits)


@pytest.mark.parametrize("family", SDPA)
def test_attention_stays_the_models_own_unless_its_pattern_is_asked_for(family: str) -> None:
    model = tracer(family)
    assert model.spec.attention == "sdpa"
    assert torch.equal(model.run(tokens()).logits, model.module(tokens()).logits)
    seen = model.run(tokens(), capture="blocks.1.attn.hook_pattern")
    rows = seen["blocks.1.attn.hook_pattern"].sum(-1)
    torch.testing.assert_close(rows, torch.ones_like(rows))
    assert model._inner.config._attn_implementation == "sdpa"


def test_a_pass_that_stops_computes_nothing_behind() -> None:
    model = wrap(tiny("llama").requires_grad_(False), tokenizer(), "m", backend="nnsight")
    assert isinstance(model, TracerLM)
    visited = []
    for index, layer in enumerate(model._inner.model.layers):
        layer.mlp.register_forward_hook(lambda *_, index=index: visited.append(index))
    for stop in ("blocks.1.hook_resid_post", "blocks.2.attn.hook_pattern"):
        visited.clear()
        model.run(tokens(), stop_after=stop)
        assert visited == [0, 1]


def test_errors_inside_a_trace_keep_their_kind_and_the_model_stays_usable() -> None:
    model = tracer("llama")
    clean = model.run(tokens()).logits

    def narrow(x: torch.Tensor) -> torch.Tensor:
        return x[..., :1]

    with pytest.raises(BadInput, match="Give it the site's shape"):
        model.run(tokens(), edits=[call("blocks.1.hook_mlp_out", narrow)])
    with pytest.raises(BadInput, match="Give it the site's shape"):
        model.run(tokens(), edits=[call("blocks.1.attn.hook_pattern", narrow)])
    assert torch.equal(model.run(tokens()).logits, clean)


@torch.no_grad()
def test_traces_of_the_users_own_still_work() -> None:
    nnsight = load_nnsight()
    model = tracer("llama")
    site = Site("resid_post", 2)
    with model.nn.trace(input_ids=tokens(), use_cache=False):
        state = nnsight.save(model.nn.model.layers[2].output)
    assert torch.equal(state, model.run(tokens(), capture=site)[site])
