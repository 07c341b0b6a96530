"""The table of families against the real classes, and refusals."""

import math

import pytest
import torch

from interp.core.batch import At
from interp.core.edit import add, scale
from interp.core.errors import UnknownSite, UnsupportedArchitecture
from interp.core.site import Site, sites_of
from interp.models.families import FAMILIES, family_of, spec_of
from interp.models.plain import PlainModel
from tests import oracle
from tests.models.tiny import EXPERTS, SDPA, WINDOW, tiny, tiny_config, tokens
from tests.models.tiny import FAMILIES as NAMES


def test_the_table_holds_the_families_that_the_tests_cover() -> None:
    assert set(FAMILIES) == set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_every_site_lies_in_a_module_that_exists(name: str) -> None:
    model = tiny(name)
    family, spec, modules = family_of(model.config), spec_of(model.config, model, "m"), dict(model.named_modules())
    assert spec.attention == ("sdpa" if name in SDPA else "eager")
    for info in sites_of(spec):
        if info.site.kind == "pattern" and family.interface:
            continue
        assert family.path(info.site) in modules, info.site
    for path in [family.layers, family.embed, family.final, family.head, family.layer_path(0, family.attention)]:
        assert path in modules
    for path in family.norms.values():
        assert family.layer_path(0, path) in modules


@pytest.mark.parametrize("name", NAMES)
def test_the_specification_counts_what_the_weights_say(name: str) -> None:
    model = tiny(name)
    family, spec, modules = family_of(model.config), spec_of(model.config, model, "m"), dict(model.named_modules())
    ids = torch.tensor([[1, 2, 3]])
    seen: dict[str, torch.Size] = {}
    taps = {kind: family.path(Site(kind, 0)) for kind in ("q", "k", "v", *(["mlp_pre"] if not spec.experts else []))}
    handles = [
        modules[path].register_forward_hook(lambda _m, _a, out, kind=kind: seen.update({kind: out.shape}))
        for kind, path in taps.items()
    ]
    model(ids)
    for handle in handles:
        handle.remove()
    for kind, heads in (("q", spec.n_heads), ("k", spec.n_kv_heads), ("v", spec.n_kv_heads)):
        fused = spec.n_heads + 2 * spec.n_kv_heads if family.taps[kind].part != "all" else heads
        assert seen[kind][-1] == fused * spec.d_head
    if spec.experts:
        experts = modules[family.layer_path(0, "mlp.experts")]
        assert sorted(experts.gate_up_proj.shape) == sorted((spec.experts, spec.d_model, 2 * spec.d_mlp))
    else:
        assert seen["mlp_pre"][-1] == spec.d_mlp * (2 if family.taps["mlp_pre"].part == "gate" else 1)
    assert spec.tied == (model.get_input_embeddings().weight is model.get_output_embeddings().weight)
    assert len(spec.windows) == spec.n_layers


def test_windows_follow_each_familys_own_rule() -> None:
    def windows(name: str, **overrides: object) -> tuple[int | None, ...]:
        model = tiny(name, **overrides)
        return spec_of(model.config, model, "m").windows

    assert windows("gpt_neo") == (None, WINDOW, None, WINDOW)
    assert windows("mistral") == windows("phi3") == windows("qwen3_moe") == (WINDOW,) * 4
    assert windows("qwen3_moe", use_sliding_window=False) == windows("phi3", sliding_window=None) == (None,) * 4
    assert windows("mistral", sliding_window=None) == (None,) * 4
    assert (
        windows("qwen3")
        == windows("gemma2")
        == windows("gemma3_text")
        == windows("gpt_oss")
        == (WINDOW, None, WINDOW, None)
    )
    assert windows("llama") == (None,) * 4


def test_take_and_put_are_inverse_and_touch_only_their_part() -> None:
    for name in NAMES:
        model = tiny(name)
        family, spec = family_of(model.config), spec_of(model.config, model, "m")
        for kind in ("q", "k", "v", "mlp_pre", "mlp_pre_linear"):
            tap = family.taps.get(kind)
            if tap is None or kind.startswith("mlp"):
                shape, width = (spec.d_mlp,), 2 * spec.d_mlp
            else:
                shape = (spec.n_heads if kind == "q" else spec.n_kv_heads, spec.d_head)
                width = (spec.n_heads + 2 * spec.n_kv_heads) * spec.d_head
            if tap is None:
                continue
            raw = torch.randn(2, 3, width if tap.part != "all" else math.prod(shape))
            site = tap.take(raw, spec)
            assert site.shape == (2, 3, *shape)
            assert torch.equal(tap.put(raw, site, spec), raw)
            changed = tap.put(raw, site + 1, spec)
            assert int((changed != raw).sum()) == site.numel()
            assert torch.equal(tap.take(changed, spec), site + 1)


@pytest.mark.parametrize("kind", ["bert", "gemma3", "mamba"])
def test_an_unknown_architecture_is_refused_with_the_list_of_what_works(kind: str) -> None:
    class Config:
        model_type = kind

    with pytest.raises(UnsupportedArchitecture, match="gpt_neox"):
        family_of(Config())  # type: ignore[arg-type]


def test_variants_that_are_not_causal_language_models_are_refused() -> None:
    with pytest.raises(UnsupportedArchitecture, match="cross-attention"):
        family_of(tiny_config("gpt2", add_cross_attention=True))
    with pytest.raises(UnsupportedArchitecture, match="bidirectional"):
        family_of(tiny_config("gemma3_text", use_bidirectional_attention=True))
    with pytest.raises(UnsupportedArchitecture, match="eager attention and leaves out under sdpa"):
        family_of(tiny_config("gemma3_text", attn_logit_softcapping=2.0))
    with pytest.raises(UnsupportedArchitecture, match="use_sliding_window"):
        family_of(tiny_config("qwen3", use_sliding_window=False))


def test_positions_that_depend_on_the_other_rows_are_refused() -> None:
    """Long rotary tables switch at a length: packed behind a long document, a short one would not be what it is alone."""
    long = {"rope_type": "longrope", "rope_theta": 1e4, "factor": 4.0, "original_max_position_embeddings": 10}
    long |= {"short_factor": [1.0] * 4, "long_factor": [3.0] * 4}
    with pytest.raises(UnsupportedArchitecture, match="longrope"):
        family_of(tiny_config("llama", rope_parameters=long))
    each = {"full_attention": {**long, "short_factor": [1.0] * 8, "long_factor": [3.0] * 8}}
    each["sliding_attention"] = {"rope_type": "default", "rope_theta": 1e4}
    with pytest.raises(UnsupportedArchitecture, match="longrope"):
        family_of(tiny_config("gemma3_text", rope_parameters=each))
    for kind in ("linear", "dynamic"):
        assert family_of(tiny_config("llama", rope_parameters={"rope_type": kind, "factor": 2.0, "rope_theta": 1e4}))


@pytest.mark.parametrize("name", EXPERTS)
def test_a_layer_of_experts_has_its_sum_and_no_neurons(name: str) -> None:
    plain = PlainModel(tiny(name))
    kinds = {info.site.kind for info in sites_of(plain.spec)}
    assert plain.spec.experts == 6 and {"mlp_out", "resid_mid"} <= kinds
    assert not kinds & {"mlp_pre", "mlp_pre_linear", "mlp_post"}
    for site in ("blocks.1.mlp.hook_post", "blocks.1.mlp.hook_pre", "blocks.1.mlp.hook_pre_linear"):
        with pytest.raises(UnknownSite, match=r"lie in 6 experts.*hook_mlp_out"):
            plain.run(tokens(), capture=site)
    with pytest.raises(UnsupportedArchitecture, match="has no experts"):
        family_of(tiny_config(name, **{"num_experts" if name == "qwen3_moe" else "num_local_experts": 0}))


@pytest.mark.parametrize("name", EXPERTS)
def test_experts_as_transformers_computes_them_by_default(name: str) -> None:
    """Grouped: the rounding of a token depends on how many others chose its experts, so agreement is to rounding."""
    model = tiny(name, experts="grouped_mm")
    plain = PlainModel(model)
    base = plain.record(tokens(3, 14), capture=["blocks.*.hook_mlp_out"])
    assert torch.equal(base.run.logits, oracle.logits(model, tokens(3, 14)))
    noise = torch.randn(32, generator=torch.Generator().manual_seed(1))
    cells = [[add(Site("mlp_out", layer), noise, at=At.index(5))] for layer in (0, 2, 3)]
    cells += [[scale("blocks.1.hook_mlp_out", 0.0)], [scale("blocks.0.attn.hook_z", 0.0, heads=[1])]]
    got = plain.resume(base, cells, positions=range(14))
    assert plain.resume_level == "grouped"
    for cell, logits in zip(cells, got, strict=True):
        want = plain.run(base.batch, edits=cell).logits
        torch.testing.assert_close(logits, want, rtol=0, atol=1e-5)
        assert float((want - base.run.logits).abs().max()) > 1e-2


def test_a_sink_takes_its_share_of_the_pattern() -> None:
    """Rows of GPT-OSS sum to one minus the sink's share; the odds of the sink double when its logit grows by log 2."""
    model = tiny("gpt_oss")
    first = "blocks.0.attn.hook_pattern"
    assert PlainModel(model).spec.sinks and not PlainModel(tiny("llama")).spec.sinks

    def pattern(change: float) -> torch.Tensor:
        sinks = model.model.layers[0].self_attn.sinks
        with torch.no_grad():
            sinks.add_(change)
            seen = PlainModel(model).run(tokens(), capture=first)[first].double()
            sinks.sub_(change)
        return seen

    plain, more, none = pattern(0.0), pattern(math.log(2)), pattern(-1e4)
    share, doubled = 1 - plain.sum(-1), 1 - more.sum(-1)
    assert 0 < float(share.min()) < 0.1 and 0.9 < float(share.max()) < 1
    torch.testing.assert_close(doubled, 2 * share / (1 + share), rtol=0, atol=1e-6)
    torch.testing.assert_close(plain / plain.sum(-1, keepdim=True), none, rtol=0, atol=1e-6)
    torch.testing.assert_close(none.sum(-1), torch.ones_like(share), rtol=0, atol=1e-6)
