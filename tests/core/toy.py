"""A toy forward pass for the tape, and a toy model for analyses: two 'layers' that add to a residual stream."""

from dataclasses import dataclass, field
from typing import Any

import torch
import xarray as xr
from torch import Tensor

from interp.core.analysis import Analysis, Cost, Result
from interp.core.batch import Batch
from interp.core.edit import Edit
from interp.core.run import Run, Tape
from interp.core.site import Site
from interp.core.spec import ModelSpec

D = 4


def spec(**changes: Any) -> ModelSpec:
    values: dict[str, Any] = {
        "name": "toy", "family": "gpt2", "n_layers": 2, "n_heads": 2, "n_kv_heads": 2, "d_model": D, "d_head": 2, "d_mlp": 8, "vocab": 10,
        "n_ctx": 16, "norm": "layer", "positions": "learned", "gated": False, "parallel": False, "tied": True, "post_norm": False,
        "windows": (None, None), "logit_softcap": None, "dtype": "float32", "device": "cpu", "attention": "eager",
        "backend": "transformer_lens",
    }  # fmt: skip
    return ModelSpec(**(values | changes))


def forward(
    batch: Batch, capture: list[str] = (), edits: list[Edit] = (), *, layers: int = 2, grad: bool = False
) -> Run:  # type: ignore[assignment]
    """Embedding = token id in every dimension; attention adds 1, the MLP adds twice the stream; the head is the sum."""
    tape = Tape(batch, [Site.parse(name) for name in capture], edits, grad=grad)
    hooked = set(tape.sites)

    def at(name: str, x: Tensor) -> Tensor:
        site = Site.parse(name)
        return tape(site, x) if site in hooked else x

    x = at("hook_embed", batch.tokens[..., None].float().expand(-1, -1, D))
    for layer in range(layers):
        x = at(f"blocks.{layer}.hook_resid_pre", x)
        x = x + at(f"blocks.{layer}.hook_attn_out", torch.ones_like(x))
        x = at(f"blocks.{layer}.hook_resid_mid", x)
        x = x + at(f"blocks.{layer}.hook_mlp_out", 2 * x)
        x = at(f"blocks.{layer}.hook_resid_post", x)
    return tape.finish(x.sum(dim=-1, keepdim=True).expand(-1, -1, 10))


@dataclass
class ToyTokenizer:
    digest: str = "t0"
    default_bos: bool = False


@dataclass
class ToyLM:
    """What a manifest asks of a model."""

    spec: ModelSpec = field(default_factory=spec)
    weights_hash: str = "abcdef0123456789"
    tokenizer: ToyTokenizer = field(default_factory=ToyTokenizer)

    def fingerprint(self) -> str:
        return self.weights_hash


class LengthResult(Result):
    """Length of each prompt, per layer and position."""

    effect = True

    def headline(self) -> dict[str, float]:
        return {
            "mean": float(self.data["length"].mean()),
            "<max>": float(self.data["length"].max()),
            "n": 2,
            "fourth": 4.0,
        }


@dataclass(frozen=True)
class Length(Analysis[LengthResult]):
    """Counts characters."""

    factor: float = 1.0
    """Multiplies each
    length."""
    layers: tuple[int, ...] = (0, 1)
    """Layers to pretend."""
    noise_seed: int = 3
    undocumented: str | None = None

    def check(self, lm: Any, data: Any) -> None:
        if not data:
            raise ValueError("no prompts")

    def run(self, lm: Any, data: Any, store: Any) -> LengthResult:
        width = max(len(text) for text in data)
        values = torch.full((len(data), len(self.layers), width), torch.nan)
        for row, text in enumerate(data):
            values[row, :, : len(text)] = len(text) * self.factor
        return LengthResult(
            xr.Dataset(
                {
                    "length": (("prompt", "layer", "position"), values.numpy()),
                    "clean": ("prompt", [float(len(t)) for t in data]),
                },
                coords={"prompt": list(data), "layer": list(self.layers)},
            )
        )

    def cost(self, lm: Any, data: Any = None) -> Cost:
        return Cost(2.5, 1000, 1_500_000, "a guess")
