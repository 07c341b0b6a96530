"""Tiny models of the real classes whose families are in no table: decoders that can be understood, and some that cannot."""

from functools import cache
from typing import Any

import torch

VOCAB = 420
"""As many as the tiny tokenizer has, at least."""
_SMALL = {
    "vocab_size": VOCAB, "hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "max_position_embeddings": 64,
    "pad_token_id": 0, "bos_token_id": 0, "eos_token_id": 0,
}  # fmt: skip
_LLAMA = {**_SMALL, "intermediate_size": 48, "num_key_value_heads": 2}
_STREAM = ("embed", "resid_pre", "resid_post", "final")
_PARTS = ("embed", "resid_pre", "attn_out", "mlp_out", "resid_post", "final")

DECODERS: dict[str, tuple[dict[str, Any], tuple[str, ...]]] = {
    "opt": ({**_SMALL, "ffn_dim": 48, "word_embed_proj_dim": 32}, _STREAM),  # its MLP is two linear layers of the decoder layer
    "bloom": ({**_SMALL, "n_layer": 3, "n_head": 4}, _STREAM),  # a norm behind the embedding, biases by distance
    "falcon": (_SMALL, _STREAM),  # it adds attention to its MLP's output in place
    "phi": ({**_SMALL, "intermediate_size": 48}, _PARTS),  # parallel
    "stablelm": (_LLAMA, _PARTS),
    "starcoder2": (_LLAMA, _PARTS),
    "granite": ({**_LLAMA, "residual_multiplier": 0.5, "embedding_multiplier": 3.0, "logits_scaling": 2.0}, _STREAM),  # scaled
    "mamba": ({**_SMALL, "state_size": 4}, _STREAM),  # no attention
}  # fmt: skip
"""Configuration and the kinds of sites that are to be found, by transformers' `model_type`."""


@cache
def other(model_type: str, **options: Any) -> Any:
    """A random model of the real class in eval mode, frozen."""
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.for_model(model_type, **{**DECODERS[model_type][0], **options})
    model = AutoModelForCausalLM.from_config(config).eval()
    draw = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape, generator=draw)
            if parameter.ndim > 1:
                parameter.copy_(noise / parameter.shape[-1] ** 0.5)
            else:
                parameter.add_(0.1 * noise)
    return model.requires_grad_(False)
