"""The graph of a transformer: who writes to the stream, who reads from it, and which writer a reader can see.

    sources        input (the embedding), every head, every MLP                          1 + L (H + 1)
    destinations   q, k and v input of every head, every MLP input, the logits           L (3 H + 1) + 1

A reader sees everything that was written before it: heads of layer l see the input and layers before l; the MLP of layer l also the
heads of its own layer, except where attention and MLP run in parallel; the logits see all. GPT-2 small has 157 sources, 445 destinations
and 32,491 edges. Heads are query heads: under grouped-query attention the k and v inputs of each query head are counted on their own.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from interp.core.spec import ModelSpec

READS = ("q", "k", "v")


@dataclass(frozen=True)
class Graph:
    """Nodes and edges of a model with `n_layers` layers of `n_heads` query heads and an MLP each."""

    n_layers: int
    n_heads: int
    parallel: bool = False
    """Attention and MLP of a layer read the same stream."""

    @classmethod
    def of(cls, spec: ModelSpec) -> "Graph":
        """The graph of a model."""
        return cls(spec.n_layers, spec.n_heads, spec.parallel)

    @cached_property
    def sources(self) -> tuple[str, ...]:
        """`input`, then a layer's heads `0.3` and its MLP `mlp 0`, layer by layer."""
        names = ["input"]
        for layer in range(self.n_layers):
            names += [*(f"{layer}.{head}" for head in range(self.n_heads)), f"mlp {layer}"]
        return tuple(names)

    @cached_property
    def destinations(self) -> tuple[str, ...]:
        """A layer's `0.3.q`, ..., `0.3.k`, ..., `0.3.v`, ... and `mlp 0`, layer by layer; then `logits`."""
        names: list[str] = []
        for layer in range(self.n_layers):
            names += [f"{layer}.{head}.{read}" for read in READS for head in range(self.n_heads)]
            names.append(f"mlp {layer}")
        return (*names, "logits")

    @cached_property
    def owners(self) -> tuple[str, ...]:
        """The node that each destination is an input of: a head, an MLP, or `logits`."""
        return tuple(name.rpartition(".")[0] if name.count(".") == 2 else name for name in self.destinations)

    def visible(self, layer: int, what: str) -> int:
        """How many sources, in order, a reader of a layer sees; `what` is 'heads' or 'mlp'."""
        own = self.n_heads if what == "mlp" and not self.parallel else 0
        return 1 + layer * (self.n_heads + 1) + own

    def places(self, layer: int) -> slice:
        """Where a layer's destinations lie."""
        width = 3 * self.n_heads + 1
        return slice(layer * width, (layer + 1) * width)

    @cached_property
    def edges(self) -> np.ndarray:
        """Which source a destination sees, bool [source, destination]."""
        mask = np.zeros((len(self.sources), len(self.destinations)), dtype=bool)
        for layer in range(self.n_layers):
            at = self.places(layer)
            mask[: self.visible(layer, "heads"), at.start : at.stop - 1] = True
            mask[: self.visible(layer, "mlp"), at.stop - 1] = True
        mask[:, -1] = True
        return mask

    def where(self, destination: int) -> tuple[int, str, int]:
        """(layer, what, head) of a destination: what is q, k, v, mlp or logits; layer and head are -1 where there is none."""
        if destination == len(self.destinations) - 1:
            return -1, "logits", -1
        layer, place = divmod(destination, 3 * self.n_heads + 1)
        if place == 3 * self.n_heads:
            return layer, "mlp", -1
        return layer, READS[place // self.n_heads], place % self.n_heads
