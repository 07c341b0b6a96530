"""What is TransformerLens' own: hook points, copies of fused weights, other people's hooks."""

import pytest
import torch
from torch import nn

from interp.core.edit import scale
from interp.core.errors import UnsupportedArchitecture
from interp.core.site import Site
from interp.models.bridge import BridgeLM
from interp.models.load import wrap
from tests import oracle
from tests.models.tiny import FAMILIES, tiny, tokens
from tests.models.wrapped import lm, module, tokenizer


def bridge(family: str, **options) -> BridgeLM:
    model = lm(family, "transformer_lens", **options)
    assert isinstance(model, BridgeLM)
    return model


@pytest.mark.parametrize("family", FAMILIES)
def test_every_site_is_a_hook_point_of_its_own_name(family: str) -> None:
    model = bridge(family)
    points = model.bridge.hook_dict
    for info in model.sites():
        own = model._points[info.site]
        assert own is points[info.site.name] or (family == "gpt_neo" and info.site.kind == "pattern")
    assert len({id(point) for point in model._points.values()}) == len(model._points), "two sites at one hook point"


@pytest.mark.parametrize("family", FAMILIES)
def test_the_bridge_shares_the_parameters(family: str) -> None:
    """Memory is not doubled: what is not shared is GPT-NeoX's split of its fused projections, and zeros for a missing bias."""
    model = bridge(family)
    own = {parameter.untyped_storage().data_ptr() for parameter in model.module.parameters()}
    extra = {
        name: parameter
        for name, parameter in model.bridge.original_model.named_parameters()
        if parameter.untyped_storage().data_ptr() not in own
    }
    head = {name: parameter for name, parameter in extra.items() if name.endswith("head._original_component.bias")}
    assert all(not bool(parameter.any()) for parameter in head.values())
    rest = sum(parameter.numel() for parameter in extra.values()) - sum(
        parameter.numel() for parameter in head.values()
    )
    fused = sum(p.numel() for name, p in model.module.named_parameters() if "query_key_value" in name)
    assert rest == fused == (0 if family != "gpt_neox" else fused)
    assert len(model._fused) == (model.spec.n_layers if family == "gpt_neox" else 0)


def test_the_module_that_was_given_is_left_as_it_was() -> None:
    own = tiny("gpt2")
    names = [name for name, _ in own.named_modules()]
    before, attention = own(tokens()).logits, own.config._attn_implementation
    wrap(own, tokenizer(), "m").run(tokens())
    assert [name for name, _ in own.named_modules()] == names and own.config._attn_implementation == attention
    assert torch.equal(own(tokens()).logits, before) and all(parameter.requires_grad for parameter in own.parameters())


def test_hooks_of_the_user_stay_and_act_first() -> None:
    model = wrap(tiny("llama").requires_grad_(False), tokenizer(), "hooked")
    assert isinstance(model, BridgeLM)
    site = Site.parse("blocks.1.hook_mlp_out")
    clean = model.run(tokens(), capture=site)
    point = model.bridge.hook_dict[site.name]
    point.add_hook(lambda x, hook: 2 * x)
    assert torch.equal(model.run(tokens(), capture=site)[site], 2 * clean[site])
    model.run(tokens(), edits=[scale(site, 0.0)])
    assert len(point.fwd_hooks) == 1 and len(point._forward_hooks) == 1
    point.remove_hooks()
    assert torch.equal(model.run(tokens()).logits, clean.logits)


def test_a_hook_point_that_is_missing_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    from transformer_lens.model_bridge import TransformerBridge

    real = TransformerBridge.hook_dict.fget
    hidden = "blocks.2.hook_mlp_out"
    monkeypatch.setattr(
        TransformerBridge, "hook_dict", property(lambda self: {k: v for k, v in real(self).items() if k != hidden})
    )
    with pytest.raises(UnsupportedArchitecture, match=r"no hook 'blocks.2.hook_mlp_out' for llama.*backend='nnsight'"):
        wrap(module("llama"), tokenizer(), "m")


def test_a_site_that_is_computed_twice_is_an_error() -> None:
    model = wrap(tiny("llama").requires_grad_(False), tokenizer(), "twice")
    assert isinstance(model, BridgeLM)
    point = model.bridge.hook_dict["blocks.0.hook_resid_post"]

    class Twice(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return point(point(x))

    model.bridge.blocks[0].hook_out = point
    model.bridge.blocks[0]._modules["hook_out"] = Twice()
    with pytest.raises(RuntimeError, match="2 times in one pass"):
        model.run(tokens(), capture="blocks.0.hook_resid_post")


def test_bfloat16_runs() -> None:
    for family in ("gpt2", "gpt_neox", "llama", "gemma2"):
        model = wrap(tiny(family, dtype=torch.bfloat16).requires_grad_(False), tokenizer(), "half")
        run = model.run(tokens(), capture="blocks.*.hook_resid_post", edits=[scale("blocks.1.hook_attn_out", 0.5)])
        assert model.spec.dtype == "bfloat16" and run.logits.dtype == torch.bfloat16
        want = model.plain.run(tokens(), edits=[scale("blocks.1.hook_attn_out", 0.5)]).logits
        assert float((run.logits - want).abs().max()) < 0.1 * float(want.abs().max())


def test_split_inputs_and_per_head_results_of_the_bridge_may_be_on() -> None:
    """A user may switch on TransformerLens' own extras; the sites keep their meaning."""
    model = wrap(tiny("llama").requires_grad_(False), tokenizer(), "extras")
    assert isinstance(model, BridgeLM)
    names = ["blocks.1.attn.hook_q", "blocks.1.attn.hook_k", "blocks.1.attn.hook_z"]
    before = model.run(tokens(), capture=names)
    model.bridge.set_use_attn_result(True)
    model.bridge.set_use_split_qkv_input(True)
    after = model.run(tokens(), capture=names)
    for name in names:
        torch.testing.assert_close(after[name], before[name], rtol=0, atol=1e-5)
    edits = [scale("blocks.1.attn.hook_k", 0.0)]
    torch.testing.assert_close(
        model.run(tokens(), edits=edits).logits, model.plain.run(tokens(), edits=edits).logits, rtol=0, atol=4e-5
    )


@pytest.mark.parametrize(
    ("family", "odd"),
    [
        ("gpt2", {"scale_attn_weights": False}),  # it divides all the same: logits off by their own size
        ("gpt_neox", {"attention_bias": False}),  # it takes the absent bias apart
    ],
)
def test_what_transformerlens_computes_wrongly_is_refused_and_nnsight_computes_it(family: str, odd: dict) -> None:
    model = tiny(family, **odd)
    with pytest.raises(UnsupportedArchitecture, match=rf"{next(iter(odd))}.*backend='nnsight'"):
        wrap(model, tokenizer(), "odd")
    other = wrap(model, tokenizer(), "odd", backend="nnsight")
    assert other.fidelity().ok
    assert torch.equal(other.run(tokens()).logits, oracle.logits(model, tokens()))
    assert not torch.allclose(other.run(tokens()).logits, lm(family, "nnsight").run(tokens()).logits, atol=1e-2)


@pytest.mark.parametrize(
    ("family", "rare"),
    [
        ("gpt2", {"scale_attn_by_inverse_layer_idx": True}),
        ("gpt2", {"reorder_and_upcast_attn": True, "n_inner": 40}),
        ("gpt_neox", {"use_parallel_residual": False, "rotary_pct": 0.25}),
        ("llama", {"head_dim": 12, "attention_bias": True, "mlp_bias": True}),
        ("mistral", {"sliding_window": None}),
        ("qwen3", {"layer_types": None, "max_window_layers": 2}),
    ],
)
def test_rarer_variants_agree_with_plain_transformers(family: str, rare: dict) -> None:
    for backend in ("transformer_lens", "nnsight"):
        found = lm(family, backend, **{key: value for key, value in rare.items()}).fidelity()
        assert found.ok, found.line


@pytest.mark.parametrize("what", ["all of it", "one head", "one direction", "a bias"])
def test_changes_that_pytorch_does_not_count_reach_the_copies(what: str) -> None:
    """`parameter.data[...] = x` leaves the version counter alone; a bridge would go on with the old queries, keys and values."""
    own = tiny("gpt_neox").requires_grad_(False)
    model = wrap(own, tokenizer(), "mine")
    before = model.run(tokens()).logits
    fused = own.get_submodule("gpt_neox.layers.1.attention.query_key_value")
    version = fused.weight._version
    match what:
        case "all of it":
            fused.weight.data.mul_(0.3)
        case "one head":
            fused.weight.data[48:72] = 0.0
        case "one direction":
            direction = torch.randn(32, generator=torch.Generator().manual_seed(0))
            fused.weight.data -= torch.outer(fused.weight.data @ direction, direction) / direction.norm() ** 2
        case "a bias":
            fused.bias.data[30:40] += 1.0
    assert fused.weight._version == version
    got = model.run(tokens()).logits
    torch.testing.assert_close(got, oracle.logits(own, tokens()), rtol=0, atol=4e-5)
    assert not torch.allclose(got, before, atol=1e-2)


def test_olmo2_in_half_precision_is_refused_and_nnsight_computes_it() -> None:
    model = tiny("olmo2", dtype=torch.bfloat16)
    with pytest.raises(UnsupportedArchitecture, match=r"half precision.*backend='nnsight'"):
        wrap(model, tokenizer(), "odd")
    assert torch.isfinite(wrap(model, tokenizer(), "odd", backend="nnsight").run(tokens()).logits).all()
