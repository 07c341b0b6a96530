"""What a model is: the numbers and facts that every method may ask for."""

import math
from dataclasses import dataclass
from typing import Any, Literal

BYTES = {"float32": 4, "float16": 2, "bfloat16": 2, "float64": 8}


@dataclass(frozen=True)
class ModelSpec:
    """The shape and the conventions of one loaded model. Plain values only, so that it goes into a manifest as it is."""

    name: str
    """What the caller asked for, without any machine path: `gpt2`, `atlas`, the folder's own name."""
    family: str
    """transformers' `model_type`: gpt2, gpt_neo, gpt_neox, llama, mistral, qwen3, qwen3_moe, gemma2, gemma3_text, olmo2, phi3, gpt_oss."""
    n_layers: int
    n_heads: int
    """Query heads."""
    n_kv_heads: int
    """Key/value heads; fewer than `n_heads` under grouped-query attention."""
    d_model: int
    d_head: int
    d_mlp: int
    """Neurons of a layer's MLP; of one expert, where `experts` is not 0."""
    vocab: int
    """Rows of the embedding matrix (may exceed the tokenizer's size)."""
    n_ctx: int
    """Longest context in tokens."""
    norm: Literal["layer", "rms"]
    positions: Literal["learned", "rotary", "other"]
    gated: bool
    """The MLP has a gate branch (SwiGLU, GeGLU)."""
    parallel: bool
    """Attention and MLP read the same residual stream (Pythia)."""
    tied: bool
    """Embedding and unembedding share one matrix."""
    post_norm: bool
    """A norm lies between a sublayer's output and the residual stream (Gemma 2/3, OLMo 2)."""
    windows: tuple[int | None, ...]
    """Attention window of each layer in tokens; None = full causal attention."""
    logit_softcap: float | None
    dtype: str
    """`float32`, `bfloat16` or `float16`."""
    device: str
    attention: str
    """Attention implementation of the plain model: `eager` or `sdpa`."""
    backend: str
    """`transformer_lens` or `nnsight`."""
    processing: str = "raw"
    """`raw`, or `folded` where norms are folded into the weights."""
    revision: str | None = None
    experts: int = 0
    """Experts of a layer, of which each token takes a few; 0 where there is one MLP for all tokens."""
    sinks: bool = False
    """Each head may also attend to a learned sink, so that a row of its pattern sums to less than 1 (GPT-OSS)."""
    kinds: tuple[str, ...] = ()
    """Of a model whose family is not proven: the kinds of sites it was found to have. Empty for a proven one."""

    @property
    def proven(self) -> bool:
        """Whether the family is one whose every site and weight is tested; of the others, only the residual stream is named."""
        return not self.kinds

    @property
    def bytes_per_value(self) -> int:
        """Bytes of one activation value."""
        return BYTES[self.dtype]

    @property
    def short(self) -> str:
        """One line for a repr: sizes that a reader asks for first."""
        if not self.proven:
            what = f"{self.n_layers} layers × {self.d_model} · unproven, residual stream only"
            return f"{self.name} · {self.family} · {what} · vocabulary {self.vocab:,} · {self.dtype} on {self.device}"
        kv = f" over {self.n_kv_heads} K/V" if self.n_kv_heads != self.n_heads else ""
        return (
            f"{self.name} · {self.family} · {self.n_layers} layers × {self.d_model} · {self.n_heads} heads{kv} · "
            f"vocabulary {self.vocab:,} · {self.dtype} on {self.device}"
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        from dataclasses import asdict

        return asdict(self) | {"windows": list(self.windows), "kinds": list(self.kinds)}


@dataclass(frozen=True)
class TensorInfo:
    """One parameter of a checkpoint, as it is loaded. Tied matrices are one parameter."""

    name: str
    """Its name in the plain transformers model."""
    shape: tuple[int, ...]
    dtype: str
    digest: str
    """Content hash, 32 hex digits: which tensors changed between two checkpoints."""

    @property
    def size(self) -> int:
        """How many numbers it holds."""
        return math.prod(self.shape)
