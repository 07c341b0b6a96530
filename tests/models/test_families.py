"""The table of families against the real classes, and refusals."""

import pytest
import torch

from interp.core.errors import UnsupportedArchitecture
from interp.core.site import Site, sites_of
from interp.models.families import FAMILIES, family_of, spec_of
from tests.models.tiny import FAMILIES as NAMES
from tests.models.tiny import SDPA, WINDOW, tiny, tiny_config


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
    taps = {kind: family.path(Site(kind, 0)) for kind in ("q", "k", "v", "mlp_pre")}
    handles = [
        modules[path].register_forward_hook(lambda _m, _a, out, kind=kind: seen.update({kind: out.shape}))
        for kind, path in taps.items()
    ]
    model(ids)
    for handle in handles:
        handle.remove()
    for kind, heads in (("q", spec.n_heads), ("k", spec.n_kv_heads), ("v", spec.n_kv_heads)):
        fused = 3 if family.taps[kind].part != "all" else 1
        assert seen[kind][-1] == fused * heads * spec.d_head
    assert seen["mlp_pre"][-1] == spec.d_mlp
    assert spec.tied == (model.get_input_embeddings().weight is model.get_output_embeddings().weight)
    assert len(spec.windows) == spec.n_layers


def test_windows_follow_each_familys_own_rule() -> None:
    def windows(name: str, **overrides: object) -> tuple[int | None, ...]:
        model = tiny(name, **overrides)
        return spec_of(model.config, model, "m").windows

    assert windows("gpt_neo") == (None, WINDOW, None, WINDOW)
    assert windows("mistral") == (WINDOW,) * 4
    assert windows("mistral", sliding_window=None) == (None,) * 4
    assert windows("qwen3") == windows("gemma2") == windows("gemma3_text") == (WINDOW, None, WINDOW, None)
    assert windows("llama") == (None,) * 4


def test_take_and_put_are_inverse_and_touch_only_their_part() -> None:
    for name in NAMES:
        model = tiny(name)
        family, spec = family_of(model.config), spec_of(model.config, model, "m")
        for kind in "qkv":
            tap = family.taps[kind]
            heads = spec.n_heads if kind == "q" else spec.n_kv_heads
            raw = torch.randn(2, 3, (3 if tap.part != "all" else 1) * heads * spec.d_head)
            site = tap.take(raw, spec)
            assert site.shape == (2, 3, heads, spec.d_head)
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
