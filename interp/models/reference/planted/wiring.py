"""Hand-wiring a GPT-2: features in named blocks of the residual stream, and a LayerNorm that is the identity.

A feature is one number `x`. It lives in two mirrored coordinates, as `+x` and `-x`, so that the stream always has mean zero. Two more
coordinates hold `+C` and `-C`, put there by the position embedding, with `C = 32768` far above every feature. The variance that a
LayerNorm sees is then `2 C² / d` up to a part of `|x|² / C²`, its gain is set to the root of that, and it gives back what it got:

    LN(x) = x · (1 - |x|² / 2C² + …)                 the fact model's largest feature, 400, is off by 8e-5

`write(block)` is the matrix that puts features into the stream (rows of `+1, -1`), `read(block)` the one that gets them out
(columns of `+½, -½`): `write(block) @ read(block)` is the identity and other blocks read zero, exactly, in floating point too.
Everything else (heads, neurons, unembedding) is written in these terms, as real parameters of transformers' own GPT-2.

The mirrored layout has a price: only half of the coordinates are free, so directions that are "random in d dimensions" are random
in `n = d/2 - 1` here, and nulls such as `1/sqrt(d)` become `1/sqrt(n)`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from interp.core.seed import generator

if TYPE_CHECKING:
    from transformers import GPT2LMHeadModel, PreTrainedModel, PreTrainedTokenizerFast

CONSTANT = 2.0**15
"""Amplitude of the balanced direction; representable in float16."""
BOS, UNK = "<bos>", "<unk>"


@dataclass(frozen=True, eq=False)
class Planted:
    """A hand-wired model, its tokenizer, and what every method must find in it."""

    name: str
    module: "PreTrainedModel"
    tokenizer: "PreTrainedTokenizerFast"
    answers: dict[str, Any]
    """What is planted, by name; `describe` says what each entry means."""
    describe: str
    prompts: tuple[dict[str, str], ...] = ()
    """Prompts that exercise the mechanism, as rows of a facts file, where there are any."""
    null: bool = False
    """Whether this is the null variant: the same shapes with random weights, in which nothing must be found."""

    def __repr__(self) -> str:
        return f"Planted({self.name!r}{', null' if self.null else ''}): {self.describe.splitlines()[0]}"


@dataclass
class Wiring:
    """Blocks of the residual stream and the GPT-2 they are being wired into."""

    blocks: Mapping[str, int]
    """Features in each named block."""
    vocab: int
    n_layers: int
    n_heads: int
    d_head: int
    """At least as wide as any block that a head reads; n_heads * d_head is the width of the model."""
    n_ctx: int
    d_mlp: int = 4
    _start: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        start = 0
        for name, size in self.blocks.items():
            self._start[name] = start
            start += size
        self.half = self.d_model // 2
        assert self.d_model % 2 == 0 and start <= self.half - 1, (
            f"{start} features do not fit into width {self.d_model}"
        )
        self.module: Any = _blank(self)

    @property
    def d_model(self) -> int:
        """Width of the residual stream."""
        return self.n_heads * self.d_head

    def write(self, block: str) -> Tensor:
        """Matrix [features, d_model] that puts features into the stream."""
        rows = torch.zeros(self.blocks[block], self.d_model)
        index = torch.arange(self.blocks[block])
        rows[index, self._start[block] + index] = 1.0
        rows[index, self.half + self._start[block] + index] = -1.0
        return rows

    def read(self, block: str) -> Tensor:
        """Matrix [d_model, features] that gets features out of the stream."""
        return self.write(block).T / 2

    def free(self) -> Tensor:
        """Orthonormal rows [n, d_model] spanning everything that may hold a signal: mean zero, away from the constant."""
        n = self.half - 1
        rows = torch.zeros(n, self.d_model)
        index = torch.arange(n)
        rows[index, index] = 0.5**0.5
        rows[index, self.half + index] = -(0.5**0.5)
        return rows

    @torch.no_grad()
    def embed(self, features: Tensor, block: str) -> None:
        """Add features [vocab, size] to the token embedding."""
        self.module.transformer.wte.weight += features @ self.write(block)

    @torch.no_grad()
    def position(self, features: Tensor, block: str) -> None:
        """Add features [n_ctx, size] to the position embedding."""
        self.module.transformer.wpe.weight += features @ self.write(block)

    @torch.no_grad()
    def head(self, layer: int, head: int, *, q: Tensor, k: Tensor, v: Tensor, o: Tensor) -> None:
        """One attention head: scores `(x q)(x k)ᵀ` (no further scaling), output `pattern @ (x v) @ o`; q, k, v [d_model, ≤ d_head]."""
        attn, width = self.module.transformer.h[layer].attn, self.d_head
        for third, matrix in enumerate((q * width**0.5, k, v)):
            start = third * self.d_model + head * width
            attn.c_attn.weight[:, start : start + matrix.shape[1]] = matrix
        attn.c_proj.weight[head * width : head * width + o.shape[0]] = o

    @torch.no_grad()
    def neurons(self, layer: int, first: int, w_in: Tensor, b_in: Tensor, w_out: Tensor) -> None:
        """MLP neurons from number `first` on: w_in [d_model, k], b_in [k], w_out [k, d_model]."""
        mlp, where = self.module.transformer.h[layer].mlp, slice(first, first + len(b_in))
        mlp.c_fc.weight[:, where], mlp.c_fc.bias[where], mlp.c_proj.weight[where] = w_in, b_in, w_out

    @torch.no_grad()
    def unembed(self, matrix: Tensor) -> None:
        """Set W_U [d_model, vocab]."""
        self.module.lm_head.weight.copy_(matrix.T)


def one_hot(index: Sequence[int], size: int) -> Tensor:
    """Rows of an identity matrix; an index of -1 is a row of zeros."""
    rows = torch.zeros(len(index), size)
    for row, column in enumerate(index):
        if column >= 0:
            rows[row, column] = 1.0
    return rows


def word_tokenizer(words: Sequence[str], n_ctx: int) -> "PreTrainedTokenizerFast":
    """One token a word, split at spaces. Ids: 0 `<bos>` (also end and padding), 1 `<unk>`, then `words` in order. Adds nothing."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    vocabulary = {word: index for index, word in enumerate([BOS, UNK, *words])}
    assert len(vocabulary) == len(words) + 2, "a word occurs twice"
    core = Tokenizer(models.WordLevel(vocabulary, unk_token=UNK))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=core, bos_token=BOS, eos_token=BOS, pad_token=BOS, unk_token=UNK, model_max_length=n_ctx
    )


@torch.no_grad()
def scramble(module: "GPT2LMHeadModel", seed: int, scale: float = 0.2) -> "GPT2LMHeadModel":
    """Random weights in place of the wired ones: the null variant. Norms become ordinary ones."""
    for name, parameter in module.named_parameters():
        if "ln_" in name:
            parameter.fill_(1.0 if name.endswith("weight") else 0.0)
        else:
            parameter.copy_(scale * torch.randn(parameter.shape, generator=generator(seed, "null", name)))
    return module


@torch.no_grad()
def _blank(wiring: Wiring) -> "GPT2LMHeadModel":
    """A GPT-2 in which every head attends uniformly and adds nothing, every MLP is silent, and every norm is the identity."""
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(
        vocab_size=wiring.vocab, n_positions=wiring.n_ctx, n_embd=wiring.d_model, n_layer=wiring.n_layers,
        n_head=wiring.n_heads, n_inner=wiring.d_mlp, bos_token_id=0, eos_token_id=0, pad_token_id=0,
        tie_word_embeddings=False, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):  # the constructor draws weights that are thrown away
        module = GPT2LMHeadModel(config).eval().requires_grad_(False)
    gain = CONSTANT * (2 / wiring.d_model) ** 0.5
    for name, parameter in module.named_parameters():
        parameter.fill_(gain if "ln_" in name and name.endswith("weight") else 0.0)
    module.transformer.wpe.weight[:, wiring.half - 1] = CONSTANT
    module.transformer.wpe.weight[:, wiring.d_model - 1] = -CONSTANT
    return module
