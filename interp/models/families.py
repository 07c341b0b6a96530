"""Families: where each site of a transformer lies in transformers' own module tree.

One table, no code per architecture. A `Tap` says which submodule's input or output *is* a site and how the tensor is sliced
(fused query-key-value projections) and shaped (heads). Everything that reads or edits a model through hooks, whatever the
backend, goes by this table, so a name cannot mean two things.

    family = family_of(model.config)
    family.path(Site.parse("blocks.3.attn.hook_k"))            # 'transformer.h.3.attn.c_attn'
    family.taps["k"].take(output, spec)                        # [batch, pos, kv_head, d_head]

What is easy to get wrong, and is right here: `attn_out` and `mlp_out` are taken after the post-norm of Gemma 2/3 and OLMo 2;
`q` and `k` are outputs of the projections, before rotary embedding and before any norm; the embedding of Gemma is taken after
its scaling by the root of the width; GPT-NeoX interleaves query, key and value head by head, GPT-2 and Phi-3 put them one after
another (as wide as their heads are many), and Phi-3 the gate before the linear branch; OLMo 2 has no norm before its MLP, so the
stream between attention and MLP is the MLP's own input. A mixture of experts has neurons only inside its experts, and which tokens
an expert sees is decided anew in every pass: its layers have `mlp_out` and no `mlp_pre` or `mlp_post`. GPT-OSS lets each head attend
to a learned sink besides the tokens; its pattern is over the tokens only, so a row sums to one minus the sink's share. The experts of
one pass are computed together: a token's last digit depends on how many others chose the same expert, so statements that hold to
the last bit elsewhere (nothing before an edited token moves) hold to rounding there.

Sliding windows count the token itself: a window of 5 sees four tokens back, in every family, GPT-Neo's local layers included.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal
from weakref import WeakKeyDictionary

import torch

from interp.core.errors import UnsupportedArchitecture, listing
from interp.core.site import Site
from interp.core.spec import ModelSpec

from .taps import Tap

if TYPE_CHECKING:
    from transformers import PretrainedConfig


@dataclass(frozen=True)
class Family:
    """One architecture of transformers: the paths of its modules and the taps of its sites."""

    model_type: str
    layers: str
    """Path of the list of decoder layers."""
    attention: str
    """The attention module, relative to the layer: the one that calls the attention function."""
    embed: str
    final: str
    taps: Mapping[str, Tap]
    """A tap for each site kind. `pattern` has one only where a module holds the probabilities; see `interface`."""
    pos_embed: str | None = None
    head: str = "lm_head"
    norm: Literal["layer", "rms"] = "rms"
    gated: bool = True
    post_norm: bool = False
    interface: bool = True
    """Attention goes through transformers' AttentionInterface, so a registered function sees it."""
    norms: Mapping[str, str] = field(default_factory=dict)
    """Norms in a layer by what they precede or follow: attn, mlp, attn_post, mlp_post, q, k."""
    experts: Mapping[str, int] = field(default_factory=dict)
    """Parameters that read the input of a mixture of experts, with their axis of the model's width; each layer has some of them."""
    proven: bool = True
    """It stands in this table and in the parity tests; otherwise it was observed (`interp.models.generic`)."""
    level: str = "grouped"
    """The level that partial recomputation begins at, see `interp.models.resume`."""
    takes: frozenset[str] | None = None
    """Arguments that the model's forward knows; None for all."""
    width: int = 0
    """Of the residual stream that was observed; 0 for a proven family, whose configuration says it."""

    def arguments(self, **given: Any) -> dict[str, Any]:
        """Those of a forward pass's arguments that this architecture knows."""
        return {name: value for name, value in given.items() if self.takes is None or name in self.takes}

    def path(self, site: Site) -> str:
        """Module path of a site's tap from the model's root. KeyError for the pattern of an `interface` family."""
        tap = self.taps[site.kind]
        if site.layer is None:
            return tap.path
        return f"{self.layers}.{site.layer}" + (f".{tap.path}" if tap.path else "")

    def layer_path(self, layer: int, module: str = "") -> str:
        """Path of a decoder layer, or of a module inside it, from the model's root."""
        return f"{self.layers}.{layer}" + (f".{module}" if module else "")


def _separate(attention: str, o_proj: str) -> dict[str, Tap]:
    """Taps of an attention with separate q, k and v projections."""
    return {
        "q": Tap(f"{attention}.q_proj", heads="head"),
        "k": Tap(f"{attention}.k_proj", heads="kv_head"),
        "v": Tap(f"{attention}.v_proj", heads="kv_head"),
        "z": Tap(f"{attention}.{o_proj}", "in", heads="head"),
    }


def _common(embed: str, final: str) -> dict[str, Tap]:
    return {
        "embed": Tap(embed), "resid_pre": Tap("", "in"), "resid_post": Tap("", "out"), "final": Tap(final),
    }  # fmt: skip


def _plain_mlp(fc: str, proj: str) -> dict[str, Tap]:
    return {"mlp_pre": Tap(f"mlp.{fc}"), "mlp_post": Tap(f"mlp.{proj}", "in"), "mlp_out": Tap("mlp")}


_GATED = {
    "mlp_pre": Tap("mlp.gate_proj"), "mlp_pre_linear": Tap("mlp.up_proj"),
    "mlp_post": Tap("mlp.down_proj", "in"), "mlp_out": Tap("mlp"),
}  # fmt: skip

_GPT2 = Family(
    "gpt2", "transformer.h", "attn", "transformer.wte", "transformer.ln_f",
    {
        **_common("transformer.wte", "transformer.ln_f"), "pos_embed": Tap("transformer.wpe"),
        "q": Tap("attn.c_attn", "out", "q", "head"), "k": Tap("attn.c_attn", "out", "k", "kv_head"),
        "v": Tap("attn.c_attn", "out", "v", "kv_head"), "z": Tap("attn.c_proj", "in", heads="head"),
        "attn_out": Tap("attn"), "resid_mid": Tap("ln_2", "in"), **_plain_mlp("c_fc", "c_proj"),
    },
    pos_embed="transformer.wpe", norm="layer", gated=False, norms={"attn": "ln_1", "mlp": "ln_2"},
)  # fmt: skip

_GPT_NEO = Family(
    "gpt_neo", "transformer.h", "attn.attention", "transformer.wte", "transformer.ln_f",
    {
        **_common("transformer.wte", "transformer.ln_f"), "pos_embed": Tap("transformer.wpe"),
        **_separate("attn.attention", "out_proj"), "pattern": Tap("attn.attention.attn_dropout"),
        "attn_out": Tap("attn"), "resid_mid": Tap("ln_2", "in"), **_plain_mlp("c_fc", "c_proj"),
    },
    pos_embed="transformer.wpe", norm="layer", gated=False, interface=False, norms={"attn": "ln_1", "mlp": "ln_2"},
)  # fmt: skip

_GPT_NEOX = Family(
    "gpt_neox", "gpt_neox.layers", "attention", "gpt_neox.embed_in", "gpt_neox.final_layer_norm",
    {
        **_common("gpt_neox.embed_in", "gpt_neox.final_layer_norm"),
        "q": Tap("attention.query_key_value", "out", "by head 0", "head"),
        "k": Tap("attention.query_key_value", "out", "by head 1", "kv_head"),
        "v": Tap("attention.query_key_value", "out", "by head 2", "kv_head"),
        "z": Tap("attention.dense", "in", heads="head"), "attn_out": Tap("attention"),
        "resid_mid": Tap("post_attention_layernorm", "in"),  # only where the residual is sequential
        **_plain_mlp("dense_h_to_4h", "dense_4h_to_h"),
    },
    norm="layer", gated=False, norms={"attn": "input_layernorm", "mlp": "post_attention_layernorm"},
)  # fmt: skip

_LLAMA = Family(
    "llama", "model.layers", "self_attn", "model.embed_tokens", "model.norm",
    {
        **_common("model.embed_tokens", "model.norm"), **_separate("self_attn", "o_proj"), "attn_out": Tap("self_attn"),
        "resid_mid": Tap("post_attention_layernorm", "in"), **_GATED,
    },
    norms={"attn": "input_layernorm", "mlp": "post_attention_layernorm"},
)  # fmt: skip

_QK = {"q": "self_attn.q_norm", "k": "self_attn.k_norm"}
_GEMMA2 = replace(
    _LLAMA, model_type="gemma2", post_norm=True,
    taps={
        **_LLAMA.taps, "attn_out": Tap("post_attention_layernorm"), "resid_mid": Tap("pre_feedforward_layernorm", "in"),
        "mlp_out": Tap("post_feedforward_layernorm"),
    },
    norms={
        "attn": "input_layernorm", "attn_post": "post_attention_layernorm", "mlp": "pre_feedforward_layernorm",
        "mlp_post": "post_feedforward_layernorm",
    },
)  # fmt: skip

_OLMO2 = replace(
    _LLAMA, model_type="olmo2", post_norm=True,
    taps={
        **_LLAMA.taps, "attn_out": Tap("post_attention_layernorm"), "resid_mid": Tap("mlp", "in"),
        "mlp_out": Tap("post_feedforward_layernorm"),
    },
    norms={"attn_post": "post_attention_layernorm", "mlp_post": "post_feedforward_layernorm", **_QK},
)  # fmt: skip

_PHI3 = replace(
    _LLAMA, model_type="phi3",
    taps={
        **_LLAMA.taps, "q": Tap("self_attn.qkv_proj", "out", "q", "head"),
        "k": Tap("self_attn.qkv_proj", "out", "k", "kv_head"), "v": Tap("self_attn.qkv_proj", "out", "v", "kv_head"),
        "mlp_pre": Tap("mlp.gate_up_proj", "out", "gate"), "mlp_pre_linear": Tap("mlp.gate_up_proj", "out", "up"),
    },
)  # fmt: skip

_MOE_TAPS = {kind: tap for kind, tap in _LLAMA.taps.items() if kind not in ("mlp_pre", "mlp_pre_linear", "mlp_post")}

_QWEN3 = replace(_LLAMA, model_type="qwen3", norms={**_LLAMA.norms, **_QK})

FAMILIES: dict[str, Family] = {
    family.model_type: family
    for family in (
        _GPT2,
        _GPT_NEO,
        _GPT_NEOX,
        _LLAMA,
        replace(_LLAMA, model_type="mistral"),
        _QWEN3,
        replace(
            _QWEN3,
            model_type="qwen3_moe",
            taps=_MOE_TAPS,
            experts={
                "mlp.gate.weight": 1,
                "mlp.experts.gate_up_proj": 2,
                "mlp.gate_proj.weight": 1,
                "mlp.up_proj.weight": 1,
            },
        ),
        _GEMMA2,
        replace(_GEMMA2, model_type="gemma3_text", norms={**_GEMMA2.norms, **_QK}),
        _OLMO2,
        _PHI3,
        replace(
            _LLAMA,
            model_type="gpt_oss",
            taps=_MOE_TAPS,
            experts={"mlp.router.weight": 1, "mlp.experts.gate_up_proj": 1},
        ),
    )
}


_OBSERVED: "WeakKeyDictionary[torch.nn.Module, Family]" = WeakKeyDictionary()


def family_of(model: "PretrainedConfig | torch.nn.Module") -> Family:
    """The family of a model. Raises `UnsupportedArchitecture`, naming what works, for any odd variant.

    A loaded model whose type is in no table is observed (`interp.models.generic`), once; a configuration of such a type alone is refused.
    """
    config: Any = model.config if isinstance(model, torch.nn.Module) else model
    kind = getattr(config, "model_type", None)
    if kind in FAMILIES:
        _refuse_odd(config)
        return FAMILIES[kind]
    if isinstance(model, torch.nn.Module):
        if model not in _OBSERVED:
            from .generic import observe

            _OBSERVED[model] = observe(model)
        return _OBSERVED[model]
    raise UnsupportedArchitecture(
        f"models of type {kind!r} are not supported; those that are proven: {listing(FAMILIES)}. "
        "A new family is one entry in interp/models/families.py plus the parity tests."
    )


def refuse_config(config: "PretrainedConfig") -> None:
    """Raise `UnsupportedArchitecture` where a configuration alone says that its model cannot be run here."""
    if getattr(config, "model_type", None) in FAMILIES:
        _refuse_odd(config)
    else:
        from .generic import refuse_config

        refuse_config(config)


def _refuse_odd(config: Any) -> None:
    """Variants of the proven families that are something else."""
    kind = config.model_type
    odd = {"add_cross_attention": "cross-attention", "use_bidirectional_attention": "bidirectional attention"}
    for option, what in odd.items():
        if getattr(config, option, False):
            raise UnsupportedArchitecture(
                f"this {kind} has {what} (`{option}`), which no causal language model here has."
            )
    if FAMILIES[kind].experts and getattr(config, "num_experts", getattr(config, "num_local_experts", 1)) == 0:
        raise UnsupportedArchitecture(
            f"this {kind} has no experts (`num_experts` is 0). Load it as the family without them."
        )
    if kind == "gemma3_text" and getattr(config, "attn_logit_softcapping", None):
        raise UnsupportedArchitecture(
            f"this {kind} caps its attention scores (`attn_logit_softcapping`), which transformers does under eager attention and "
            "leaves out under sdpa: two models in one. Set it to null, as every released Gemma 3 has it."
        )
    if "longrope" in ropes_of(config):
        raise UnsupportedArchitecture(
            f"this {kind} has longrope positions (`rope_type`): there a token's numbers depend on how long the longest row of its "
            "batch is, so no row would be what it is alone. Load a checkpoint with default, linear, dynamic, yarn or llama3 ones."
        )
    sliding = "sliding_attention" in (getattr(config, "layer_types", None) or ())
    if sliding and not getattr(config, "sliding_window", None):
        raise UnsupportedArchitecture(
            f"this {kind} has sliding layers (`layer_types`) but no `sliding_window` (or `use_sliding_window` is off), and "
            "transformers cannot run it. Correct its config.json: layer_types, sliding_window, use_sliding_window."
        )


def ropes_of(config: "PretrainedConfig") -> set[str]:
    """Kinds of rotary embedding in use: one, or one a kind of layer (Gemma 3)."""
    found: Any = getattr(config, "rope_parameters", None) or {}
    each = [found, *(value for value in found.values() if isinstance(value, dict))]
    return {str(one["rope_type"]) for one in each if "rope_type" in one}


def windows_of(config: "PretrainedConfig") -> tuple[int | None, ...]:
    """Attention window of each layer in tokens, the token itself counted; None where attention is full."""
    n = config.num_hidden_layers
    if config.model_type == "gpt_neo":
        return tuple(config.window_size if kind == "local" else None for kind in config.attention_layers)
    window = getattr(config, "sliding_window", None)
    if config.model_type in ("mistral", "phi3", "qwen3_moe"):
        return (window,) * n
    kinds = getattr(config, "layer_types", None) or ["full_attention"] * n
    return tuple(window if kind == "sliding_attention" else None for kind in kinds)


def spec_of(
    config: "PretrainedConfig",
    module: torch.nn.Module,
    name: str,
    *,
    backend: str = "plain",
    processing: str = "raw",
    revision: str | None = None,
) -> ModelSpec:
    """The facts of a loaded model, read off its configuration and its parameters."""
    family = family_of(module)
    if not family.proven:
        from .generic import spec_of

        facts = {"name": name, "backend": backend, "processing": processing, "revision": revision}
        return spec_of(config, module, family, tied=_tied(module, config), **facts)
    heads, width = config.num_attention_heads, config.hidden_size
    inner = getattr(config, "intermediate_size", None) or getattr(config, "n_inner", None) or 4 * width
    if family.experts:
        inner = getattr(config, "moe_intermediate_size", None) or inner
    parameter = next(module.parameters())
    return ModelSpec(
        name=name,
        family=family.model_type,
        n_layers=config.num_hidden_layers,
        n_heads=heads,
        n_kv_heads=getattr(config, "num_key_value_heads", None) or heads,
        d_model=width,
        d_head=getattr(config, "head_dim", None) or width // heads,
        d_mlp=inner,
        vocab=config.vocab_size,
        n_ctx=config.max_position_embeddings,
        norm=family.norm,
        positions="learned" if family.pos_embed else "rotary",
        gated=family.gated,
        parallel=family.model_type == "gpt_neox" and bool(config.use_parallel_residual),
        tied=_tied(module, config),
        post_norm=family.post_norm,
        windows=windows_of(config),
        logit_softcap=getattr(config, "final_logit_softcapping", None),
        dtype=str(parameter.dtype).removeprefix("torch."),
        device=str(parameter.device),
        attention=str(getattr(config, "_attn_implementation", None) or "eager"),
        backend=backend,
        processing=processing,
        revision=revision,
        experts=config.num_local_experts if family.experts else 0,
        sinks=family.model_type == "gpt_oss",
    )


def _tied(module: torch.nn.Module, config: Any) -> bool:
    """Whether embedding and unembedding are one tensor in this very module; the configuration where it cannot tell."""
    try:
        embed, head = module.get_input_embeddings(), module.get_output_embeddings()  # type: ignore[operator]
        return embed.weight is head.weight
    except AttributeError:
        return bool(getattr(config, "tie_word_embeddings", False))
