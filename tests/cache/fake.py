"""A stand-in for a model, in plain torch: an embedding and layers of causal mixing, deterministic, and it counts what it ran."""

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from interp.core.batch import Batch
from interp.core.run import Run, Tape
from interp.core.site import Site, expand, sites_of
from interp.core.spec import ModelSpec

SPEC = ModelSpec(
    name="fake", family="gpt2", n_layers=3, n_heads=2, n_kv_heads=2, d_model=16, d_head=8, d_mlp=24, vocab=97, n_ctx=64,
    norm="layer", positions="learned", gated=False, parallel=False, tied=True, post_norm=False, windows=(None,) * 3,
    logit_softcap=None, dtype="float32", device="cpu", attention="eager", backend="transformer_lens",
)  # fmt: skip
MIXED = "blocks.1.hook_resid_post"
NEURONS = "blocks.1.mlp.hook_post"
HEADS = "blocks.0.attn.hook_z"


class FakeTokenizer:
    name, vocab, bos_id, default_bos, digest = "fake", 97, 0, True, "tok-1"


class FakeLM:
    def __init__(self, seed: int = 0, *, delay: float = 0.0, **changes: Any) -> None:
        self.spec = replace(SPEC, **changes)
        self.tokenizer = FakeTokenizer()
        generator = torch.Generator().manual_seed(seed)
        dtype = getattr(torch, self.spec.dtype)
        d, m = self.spec.d_model, self.spec.d_mlp
        self.params = {"embed": torch.randn(self.spec.vocab, d, generator=generator)}
        for layer in range(self.spec.n_layers):
            self.params[f"in{layer}"] = torch.randn(d, m, generator=generator) / d**0.5
            self.params[f"out{layer}"] = torch.randn(m, d, generator=generator) / m**0.5
        self.params = {name: value.to(dtype) for name, value in self.params.items()}
        self.delay = delay
        self.forwards = self.tokens_run = 0

    def fingerprint(self) -> str:
        content = hashlib.sha256()
        for name, value in self.params.items():
            content.update(name.encode() + value.contiguous().view(torch.uint8).numpy().tobytes())
        return content.hexdigest()[:32]

    def sites(self, like: str | None = None) -> list[Any]:
        return sites_of(self.spec)

    def read(self, documents: Sequence[Tensor], sites: Sequence[Site]) -> dict[Site, Tensor]:
        self._count(sum(map(len, documents)))
        runs = [self._forward(Tape(Batch.of(document), sites)) for document in documents]
        return {site: torch.cat([run.captured[site][0] for run in runs]) for site in sites}

    def run(
        self, tokens: Any, *, capture: Any = (), edits: Any = (), grad: bool = False, stop_after: Any = None
    ) -> Run:
        batch = Batch.of(tokens)
        self._count(batch.tokens.numel())
        return self._forward(Tape(batch, expand(capture, self.spec), edits))

    def _count(self, tokens: int) -> None:
        if self.delay:
            import time

            time.sleep(self.delay)
        self.forwards += 1
        self.tokens_run += tokens

    def _forward(self, tape: Tape) -> Run:
        batch = tape.batch
        place = batch.position_ids[..., None]
        x = self.params["embed"][batch.tokens]  # [batch, pos, d_model]
        x = tape(Site("embed"), x)
        for layer in range(self.spec.n_layers):
            x = tape(Site("resid_pre", layer), x)
            real = x * batch.mask[..., None]
            mean = real.cumsum(dim=1) / (place + 1)  # [batch, pos, d_model]
            tape(Site("z", layer), mean.reshape(*mean.shape[:2], self.spec.n_heads, self.spec.d_head))
            neurons = tape(Site("mlp_post", layer), torch.tanh(mean @ self.params[f"in{layer}"]))
            x = tape(Site("resid_post", layer), x + neurons @ self.params[f"out{layer}"])
        return tape.finish(None)


def documents(count: int = 40, seed: int = 0, longest: int = 30) -> list[Tensor]:
    """Documents of 1 to `longest` tokens."""
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(1, longest + 1, (count,), generator=generator).tolist()
    return [torch.randint(0, 97, (length,), generator=generator) for length in lengths]


def direct(lm: FakeLM, docs: Sequence[Tensor], site: str) -> Tensor:
    """What should come back, by another way: one document at a time."""
    return torch.cat([lm.run(document, capture=[site])[site][0] for document in docs])
