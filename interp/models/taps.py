"""Taps: which tensor of a module tree is a site, and which part of it where several are fused in one."""

from dataclasses import dataclass
from typing import Literal

import torch
from einops import rearrange
from torch import Tensor

from interp.core.spec import ModelSpec

Part = Literal["all", "q", "k", "v", "by head 0", "by head 1", "by head 2", "gate", "up"]


@dataclass(frozen=True)
class Tap:
    """Which tensor of the module tree is a site."""

    path: str
    """Submodule, relative to the decoder layer (or to the model, for sites without a layer); '' is the layer itself."""
    side: Literal["in", "out"] = "out"
    """Whether the site is the module's first input or its (first) output."""
    part: Part = "all"
    """Which part of a fused output: q, k or v where they follow each other, thirds within each head, the halves of a gated MLP."""
    heads: Literal["", "head", "kv_head"] = ""
    """Split the last axis into query heads or key/value heads."""

    def take(self, raw: Tensor, spec: ModelSpec) -> Tensor:
        """The site's tensor out of the module's; a view wherever that is possible."""
        if self.part.startswith("by head"):  # [..., head * 3 * d_head] -> [..., head, d_head]
            return rearrange(raw, "... (h s d) -> ... h s d", s=3, d=spec.d_head)[..., int(self.part[-1]), :]
        if self.part != "all":
            raw = raw[..., self.span(spec)]
        return rearrange(raw, "... (h d) -> ... h d", d=spec.d_head) if self.heads else raw

    def put(self, raw: Tensor, new: Tensor, spec: ModelSpec) -> Tensor:
        """The module's tensor with the site's part replaced by `new`; `raw` itself is left alone."""
        if self.part.startswith("by head"):
            parts = list(rearrange(raw, "... (h s d) -> s ... h d", s=3, d=spec.d_head))
            parts[int(self.part[-1])] = new
            return rearrange(torch.stack(parts), "s ... h d -> ... (h s d)")
        if self.heads:
            new = rearrange(new, "... h d -> ... (h d)")
        if self.part == "all":
            return new
        span = self.span(spec)
        return torch.cat([raw[..., : span.start], new, raw[..., span.stop :]], dim=-1)

    def span(self, spec: ModelSpec) -> slice:
        """Where a part lies on the last axis of a fused output whose parts follow each other."""
        if self.part in ("gate", "up"):
            start = spec.d_mlp * (self.part == "up")
            return slice(start, start + spec.d_mlp)
        widths = [heads * spec.d_head for heads in (spec.n_heads, spec.n_kv_heads, spec.n_kv_heads)]
        index = "qkv".index(self.part)
        return slice(sum(widths[:index]), sum(widths[: index + 1]))
