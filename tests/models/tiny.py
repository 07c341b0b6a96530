"""Tiny models of the real classes, with random weights, for every family and every awkward feature of it.

Windows are short (5 tokens), key/value heads are fewer than query heads where the family has that, the head width differs from
d_model / heads where it may, soft caps are on and bite, norms and biases are not at their defaults, and the weights are large
enough that logits are far from flat: a wrong mask, a forgotten norm or a swapped head shows.
"""

from pathlib import Path
from typing import Any

import torch

VOCAB = 160
WINDOW = 5
FAMILIES = (
    "gpt2", "gpt_neo", "gpt_neox", "llama", "mistral", "qwen3", "gemma2", "gemma3_text", "olmo2", "phi3", "qwen3_moe", "gpt_oss",
)  # fmt: skip
EXPERTS = ("qwen3_moe", "gpt_oss")
"""Families whose layers have experts."""
SDPA = tuple(name for name in FAMILIES if name not in ("gpt_neo", "gemma2", "gpt_oss"))
"""Families that transformers offers both eager and sdpa attention for."""

_TEXT = [
    "The quick brown fox jumps over the lazy dog, and the dog sleeps.",
    "The Eiffel Tower is in the city of Paris; the Space Needle is in Seattle.",
    "When Mary and John went to the store, John gave a drink to Mary.",
    "one two three four five six seven eight nine ten",
]

_GPT = {"vocab_size": VOCAB, "max_position_embeddings": 64}
_LLAMA = {
    **_GPT, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 4, "num_attention_heads": 4,
    "num_key_value_heads": 2, "pad_token_id": 0, "bos_token_id": 0, "eos_token_id": 0,
}  # fmt: skip
_WINDOWS = {"sliding_window": WINDOW, "layer_types": ["sliding_attention", "full_attention"] * 2}

CONFIGS: dict[str, dict[str, Any]] = {
    "gpt2": {"vocab_size": VOCAB, "n_positions": 64, "n_embd": 32, "n_layer": 4, "n_head": 4, "bos_token_id": 0, "eos_token_id": 0},
    "gpt_neo": {
        **_GPT, "hidden_size": 32, "num_layers": 4, "num_heads": 4, "window_size": WINDOW, "intermediate_size": 64,
        "attention_types": [[["global", "local"], 2]], "bos_token_id": 0, "eos_token_id": 0,
    },
    "gpt_neox": {
        **_GPT, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 4, "num_attention_heads": 4,
        "rotary_pct": 0.5, "tie_word_embeddings": False, "bos_token_id": 0, "eos_token_id": 0,
    },
    "llama": {**_LLAMA, "tie_word_embeddings": False},
    "mistral": {**_LLAMA, "tie_word_embeddings": False, "sliding_window": WINDOW},
    "qwen3": {**_LLAMA, **_WINDOWS, "head_dim": 16, "use_sliding_window": True, "tie_word_embeddings": True},
    "gemma2": {
        **_LLAMA, **_WINDOWS, "head_dim": 16, "query_pre_attn_scalar": 12, "attn_logit_softcapping": 2.0,
        "final_logit_softcapping": 3.0, "tie_word_embeddings": True,
    },
    "gemma3_text": {**_LLAMA, **_WINDOWS, "head_dim": 16, "query_pre_attn_scalar": 12, "tie_word_embeddings": True},
    "olmo2": {**_LLAMA, "tie_word_embeddings": False},
    "phi3": {
        **_LLAMA, "head_dim": 12, "sliding_window": WINDOW, "original_max_position_embeddings": 64, "tie_word_embeddings": False,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.5},
    },
    "qwen3_moe": {
        **_LLAMA, "head_dim": 16, "moe_intermediate_size": 24, "num_experts": 6, "num_experts_per_tok": 2, "norm_topk_prob": True,
        "use_sliding_window": True, "sliding_window": WINDOW, "mlp_only_layers": [2], "tie_word_embeddings": False,
    },
    "gpt_oss": {
        **_LLAMA, **_WINDOWS, "head_dim": 16, "num_local_experts": 6, "num_experts_per_tok": 2, "swiglu_limit": 1.0,
        "attention_bias": True, "tie_word_embeddings": False,
        "rope_parameters": {
            "rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16, "rope_theta": 1e4, "truncate": False,
        },
    },
}  # fmt: skip


def tiny_config(model_type: str, **overrides: Any) -> Any:
    """A configuration of the real class, with the awkward features on."""
    from transformers import AutoConfig

    return AutoConfig.for_model(model_type, **{**CONFIGS[model_type], **overrides})


def tiny(
    model_type: str,
    seed: int = 0,
    *,
    attention: str | None = None,
    experts: str = "batched_mm",
    dtype: Any = None,
    **overrides: Any,
) -> Any:
    """A random model of the real class in eval mode. `attention` is 'eager', 'sdpa' or None for the family's default.

    Experts compute one token at a time (`batched_mm`), so that what holds to the last bit can be tested to the last bit: in
    transformers' default (`grouped_mm`) a token's rounding depends on how many others chose the same expert.
    """
    from transformers import AutoModelForCausalLM

    config = tiny_config(model_type, **overrides)
    extra = {} if attention is None else {"attn_implementation": attention}
    extra |= {"experts_implementation": experts} if model_type in EXPERTS else {}
    model = AutoModelForCausalLM.from_config(config, **extra).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if "sinks" in name or "router.bias" in name:  # these have no default
                parameter.copy_(0.5 * noise)
            elif parameter.ndim == 1 or name.endswith("_bias"):  # norm weights around their default, biases around 0
                parameter.add_(0.2 * noise)
            else:
                small = any(part in name for part in ("wte", "wpe", "embed"))
                parameter.copy_(noise * (0.5 if small else 1.3 / parameter.shape[-1] ** 0.5))
    return model.to(dtype) if dtype is not None else model


def tokens(batch: int = 2, length: int = 14, seed: int = 0) -> torch.Tensor:
    """Random ids [batch, pos], without the pad id 0."""
    generator = torch.Generator().manual_seed(1000 + seed)
    return torch.randint(1, VOCAB, (batch, length), generator=generator)


def tiny_tokenizer(folder: Path, texts: list[str] | None = None) -> Path:
    """Train a small byte-level BPE (at most `VOCAB` + 256 ids) and save it as Hugging Face reads it."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=256 + VOCAB,
        special_tokens=["<|endoftext|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    core.train_from_iterator((texts or _TEXT) * 4, trainer)
    end = "<|endoftext|>"
    PreTrainedTokenizerFast(
        tokenizer_object=core, bos_token=end, eos_token=end, pad_token=end, unk_token=end, model_max_length=64
    ).save_pretrained(folder)
    return folder


def tiny_checkpoint(folder: Path, model_type: str, seed: int = 0, **overrides: Any) -> Path:
    """A whole checkpoint on disk: config, safetensors, tokenizer. Gives the folder back."""
    from transformers import AutoTokenizer

    folder = Path(folder) / f"tiny-{model_type}"
    folder.mkdir(parents=True, exist_ok=True)
    tiny_tokenizer(folder)
    size = len(AutoTokenizer.from_pretrained(folder))
    tiny(model_type, seed, **{"vocab_size": size, **overrides}).save_pretrained(folder)
    return folder
