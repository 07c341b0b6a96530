"""What every source writes in two runs, and what every destination's input is worth: the two halves of an edge's score.

    score(u -> v) = sum over positions of  (u_clean - u_corrupted) . dM/d(input of v)

The input of v is the stream as v reads it, before its norm. Its gradient is the gradient at q, k, v or the MLP's pre-activations, carried
back through the projection and the norm's true Jacobian (see `reading`). For the logits it is the gradient at the last stream.
Under grouped-query attention the gradient at a shared key or value is a sum over query heads; it is taken apart by sending back the
gradients of z one query head of each group at a time.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from einops import rearrange
from torch import Tensor

from interp.core.batch import Batch
from interp.core.edit import Edit
from interp.core.lm import LM
from interp.core.run import Run
from interp.core.site import Site

from .backward import ENTRY, live
from .graph import Graph
from .metric import Metric
from .reading import Reading, readings


def source_sites(n_layers: int) -> list[Site]:
    """Sites that hold what sources write."""
    return [ENTRY, *(Site(kind, layer) for layer in range(n_layers) for kind in ("z", "mlp_out"))]


def written(lm: LM, values: "dict[Site, Tensor] | Run") -> Tensor:
    """What each source writes to the stream, float64 [pair, pos, source, d_model]; biases of W_O belong to no head."""
    parts = [values[ENTRY].double()[:, :, None]]
    for layer in range(lm.spec.n_layers):
        parts.append(heads_write(lm, layer, values[Site("z", layer)]))
        parts.append(values[Site("mlp_out", layer)].double()[:, :, None])
    return torch.cat(parts, dim=2)


def heads_write(lm: LM, layer: int, z: Tensor) -> Tensor:
    """z [pair, pos, head, d_head] as what each head adds to the stream, float64 [pair, pos, head, d_model]."""
    return torch.einsum("bphe,hed->bphd", z.double(), lm.weights.W_O(layer).double())


@dataclass(eq=False)
class Flow:
    """Gradients at the inputs of all destinations of one model."""

    lm: LM
    graph: Graph
    readers: list[dict[str, Reading]] = field(init=False)

    def __post_init__(self) -> None:
        self.readers = [
            {reading.site.kind: reading for reading in readings(self.lm, layer)}
            for layer in range(self.lm.spec.n_layers)
        ]

    @property
    def sites(self) -> list[Site]:
        """What has to be captured, in no order."""
        every = [
            site for layer in self.readers for reading in layer.values() for site in (reading.stream, reading.site)
        ]
        z = [Site("z", layer) for layer in range(self.lm.spec.n_layers)]
        return list(dict.fromkeys([*every, *z, Site("resid_post", self.lm.spec.n_layers - 1)]))

    def gradients(self, batch: Batch, metric: Metric, edits: Sequence[Edit] = ()) -> tuple[list[Tensor], Tensor]:
        """dM/d(input of v) of each layer's destinations, float64 [pair, pos, destination, d_model], the logits' last; and M [pair]."""
        run = live(self.lm, batch, self.sites, edits)
        scores = metric(run.last_logits)
        n_layers, last = self.lm.spec.n_layers, Site("resid_post", self.lm.spec.n_layers - 1)
        need = [reading.site for layer in self.readers for reading in layer.values()]
        need += [*(Site("z", layer) for layer in range(n_layers)), last]
        grads = torch.autograd.grad(scores.sum(), [run[site] for site in need], retain_graph=self._groups > 1)
        found = dict(zip(need, grads, strict=True))
        layers = [self._layer(layer, run, found) for layer in range(n_layers)]
        return [*layers, found[last].double()[:, :, None]], scores.detach().double()

    @property
    def _groups(self) -> int:
        return self.lm.spec.n_heads // self.lm.spec.n_kv_heads

    def _layer(self, layer: int, run: Run, grads: dict[Site, Tensor]) -> Tensor:
        shared = {kind: grads[Site(kind, layer)] for kind in "qkv"}
        if self._groups > 1:
            shared |= self._apart(layer, run, grads[Site("z", layer)])
        parts = []
        for kind, grad in shared.items():
            reading = self.readers[layer][kind]
            x = run[reading.stream].detach()
            scale = reading.scale(x, run[reading.site].detach(), self.lm.spec.dtype)
            parts.append(reading.pull_heads(x, scale, grad))
        total: Tensor | None = None
        for kind, reading in self.readers[layer].items():
            if kind.startswith("mlp"):
                x = run[reading.stream].detach()
                scale = reading.scale(x, run[reading.site].detach(), self.lm.spec.dtype)
                pulled = reading.pull(x, scale, grads[reading.site][:, :, None])
                total = pulled if total is None else total + pulled
        assert total is not None
        return torch.cat([*parts, total], dim=2)

    def _apart(self, layer: int, run: Run, grad: Tensor) -> dict[str, Tensor]:
        """Gradients at k and v as each query head causes them, [pair, pos, head, d_head]."""
        inputs = [run[Site(kind, layer)] for kind in "kv"]
        heads = torch.arange(self.lm.spec.n_heads, device=grad.device)
        parts = []
        for member in range(self._groups):
            mine = torch.where((heads % self._groups == member)[:, None], grad, 0.0)
            parts.append(torch.autograd.grad(run[Site("z", layer)], inputs, mine, retain_graph=True))
        return {
            kind: rearrange([part[place] for part in parts], "group b p kv e -> b p (kv group) e")
            for place, kind in enumerate("kv")
        }


def edge_scores(graph: Graph, difference: Tensor, grads: Sequence[Tensor]) -> Tensor:
    """Scores [pair, source, destination] of differences [pair, pos, source, d_model] and gradients by layer; NaN where there is no edge."""
    out = torch.full((len(difference), len(graph.sources), len(graph.destinations)), torch.nan, dtype=torch.float64)
    for layer, grad in enumerate(grads[:-1]):
        at, seen = graph.places(layer), graph.visible(layer, "mlp")
        out[:, :seen, at] = torch.einsum("bpsd,bpnd->bsn", difference[:, :, :seen], grad).cpu()
    out[:, :, -1:] = torch.einsum("bpsd,bpnd->bsn", difference, grads[-1]).cpu()
    out[:, ~torch.from_numpy(graph.edges)] = torch.nan
    return out
