"""An LM that recomputes everything by whole forward passes: slow, plain, and the standard that `resume` must meet."""

from types import SimpleNamespace
from typing import Any

import torch

from interp.core.batch import Batch
from interp.core.site import expand, sites_of
from interp.models.plain import PlainModel
from interp.models.tokenizer import HFTokenizer


class FullLM:
    def __init__(self, module: Any, fast: Any, name: str) -> None:
        self.plain, self.tokenizer = PlainModel(module), HFTokenizer(fast, name)
        self.spec = self.plain.spec
        self.forwards = 0

    def sites(self, like=None):
        return [info for info in sites_of(self.spec) if like is None or like in info.site.name]

    def run(self, tokens, **options):
        self.forwards += len(Batch.of(tokens))
        return self.plain.run(tokens, **options)

    def record(self, tokens, *, capture=(), edits=()):
        run = self.run(tokens, capture=capture, edits=edits)
        return SimpleNamespace(batch=run.batch, edits=tuple(edits), run=run, nbytes=0)

    def resume(self, base, cells, *, positions=(-1,), readout=None):
        out = [self.run(base.batch, edits=[*base.edits, *cell]).logits[:, list(positions)] for cell in cells]
        rows = torch.arange(len(base.batch))
        return torch.stack([readout(logits, rows) if readout else logits for logits in out])

    def read(self, documents, sites):
        return self.plain.read(documents, expand(sites, self.spec))

    def fingerprint(self):
        return "0" * 32


def full(planted) -> FullLM:
    """A hand-wired model behind whole forward passes."""
    return FullLM(planted.module, planted.tokenizer, planted.name)
