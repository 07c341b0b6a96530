"""The forward pass of a circuit, exactly: every edge that is not in it carries what its source writes in the corrupted run.

    input of v = sum over u in the circuit of u's value in this very run  +  sum over all others of u's value in the corrupted run

Values inside the circuit are the *current* ones, made from such inputs all the way up, and not those of the clean run. With all edges this
is the clean run, with none the corrupted one. Every reader has a stream of its own, so a layer is run once for each of its 3 H + 1
destinations (as rows of one batch): exact and slow, meant for small models and a few circuits.
"""

from dataclasses import dataclass

import numpy as np
import torch
from einops import rearrange, repeat
from torch import Tensor

from interp.core.batch import Batch
from interp.core.edit import Edit, replace
from interp.core.lm import LM
from interp.core.site import Site

from .flow import heads_write, source_sites, written
from .graph import READS, Graph
from .metric import Metric

AT_ONCE = 64
"""Edges into one layer that are corrupted together, as rows of one batch."""


@dataclass(eq=False)
class CircuitRuns:
    """Circuits of one group of pairs."""

    lm: LM
    graph: Graph
    batch: Batch
    """The clean prompts."""
    metric: Metric
    clean: Tensor
    """What sources write in the clean run, float64 [pair, pos, source, d_model]."""
    corrupted: Tensor
    streams: dict[Site, Tensor]
    """The clean run's streams, wherever something reads."""

    @classmethod
    def of(cls, lm: LM, clean: Batch, corrupted: Batch, metric: Metric) -> "CircuitRuns":
        """Two runs."""
        graph, sites = Graph.of(lm.spec), source_sites(lm.spec.n_layers)
        streams = [stream for layer in range(lm.spec.n_layers) for stream in _streams(graph, layer).values()]
        streams.append(Site("resid_post", lm.spec.n_layers - 1))
        run = lm.run(clean, capture=list(dict.fromkeys([*sites, *streams])))
        other = lm.run(corrupted, capture=sites)
        return cls(
            lm, graph, clean, metric, written(lm, run), written(lm, other), {site: run[site] for site in streams}
        )

    def score(self, circuit: np.ndarray) -> Tensor:
        """M [pair] of a circuit, bool [source, destination]; where there is no edge its entries do not matter. float64."""
        lm, graph = self.lm, self.graph
        inside = torch.from_numpy(circuit & graph.edges).to(self.clean.device)
        current = self.clean.clone()
        for layer in range(graph.n_layers):
            at, seen = graph.places(layer), graph.visible(layer, "heads")
            streams = self._inputs(current, inside[:seen, at.start : at.stop - 1], _streams(graph, layer)["heads"])
            z = self._attention(layer, streams)
            first = 1 + layer * (graph.n_heads + 1)
            current[:, :, first : first + graph.n_heads] = heads_write(lm, layer, z)
            seen, site = graph.visible(layer, "mlp"), _streams(graph, layer)["mlp"]
            stream = self._inputs(current, inside[:seen, at.stop - 1 : at.stop], site)
            current[:, :, first + graph.n_heads] = self.mlp(layer, stream)[:, :, 0].double()
        last = Site("resid_post", graph.n_layers - 1)
        stream = self._inputs(current, inside[:, -1:], last)[:, :, 0]
        return self.metric(lm.run(self.batch, edits=[replace(last, stream)]).last_logits).double()

    def mlp(self, layer: int, streams: Tensor) -> Tensor:
        """What the MLP of a layer writes [pair, pos, n, d_model] if it reads each of n streams [pair, pos, n, d_model]."""
        n, site = streams.shape[2], Site("mlp_out", layer)
        edit = replace(_streams(self.graph, layer)["mlp"], rearrange(streams, "b p n d -> (b n) p d"))
        run = self.lm.run(self.batch.repeat(n), edits=[edit], capture=[site], stop_after=site)
        return rearrange(run[site], "(b n) p d -> b p n d", n=n)

    def read(self, layer: int, streams: Tensor) -> dict[str, Tensor]:
        """q, k and v [pair, pos, n, head, d_head] that a layer makes of streams [pair, pos, n, d_model]."""
        n, sites = streams.shape[2], {kind: Site(kind, layer) for kind in "qkv"}
        edit = replace(Site("resid_pre", layer), rearrange(streams, "b p n d -> (b n) p d"))
        run = self.lm.run(self.batch.repeat(n), edits=[edit], capture=list(sites.values()), stop_after=sites["v"])
        return {kind: rearrange(run[site], "(b n) p h e -> b p n h e", n=n) for kind, site in sites.items()}

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """z [pair, pos, n, head, d_head] of queries, and of keys and values of every *query* head, all [pair, pos, n, head, d_head]."""
        n, site, group = q.shape[2], Site("z", layer), self.lm.spec.n_heads // self.lm.spec.n_kv_heads
        q, k, v = (rearrange(x, "b p n h e -> (b n) p h e") for x in (q, k, v))
        out = torch.empty_like(q)
        for member in range(group):
            mine = slice(member, None, group)  # one query head of each group
            edits = [
                replace(Site(kind, layer), x) for kind, x in (("q", q), ("k", k[:, :, mine]), ("v", v[:, :, mine]))
            ]
            run = self.lm.run(self.batch.repeat(n), edits=edits, capture=[site], stop_after=site)
            out[:, :, mine] = run[site][:, :, mine]
        return rearrange(out, "(b n) p h e -> b p n h e", n=n)

    def _attention(self, layer: int, streams: Tensor) -> Tensor:
        """z of a layer whose heads read streams [pair, pos, 3 heads, d_model] for q, k and v."""
        heads, group = self.graph.n_heads, self.lm.spec.n_heads // self.lm.spec.n_kv_heads
        made = self.read(layer, streams)
        head = torch.arange(heads)
        q = made["q"][:, :, head, head]
        k = made["k"][:, :, heads + head, head // group]
        v = made["v"][:, :, 2 * heads + head, head // group]
        return self.attend(layer, *(x[:, :, None] for x in (q, k, v)))[:, :, 0]

    def _inputs(self, current: Tensor, inside: Tensor, stream: Site) -> Tensor:
        """Streams [pair, pos, destination, d_model] of destinations that see the first sources, `inside` [source, destination]."""
        seen = len(inside)
        kept = current[:, :, :seen] - self.clean[:, :, :seen]
        gone = self.corrupted[:, :, :seen] - self.clean[:, :, :seen]
        weights = inside.double()
        moved = torch.einsum("bpsd,sn->bpnd", kept, weights) + torch.einsum("bpsd,sn->bpnd", gone, 1 - weights)
        base = self.streams[stream]
        return (repeat(base.double(), "b p d -> b p n d", n=inside.shape[1]) + moved).to(base.dtype)


def _streams(graph: Graph, layer: int) -> dict[str, Site]:
    before = Site("resid_pre", layer)
    return {"heads": before, "mlp": before if graph.parallel else Site("resid_mid", layer)}


@torch.no_grad()
def edge_effects(runs: CircuitRuns, edges: np.ndarray) -> np.ndarray:
    """M(clean) - M(that one edge corrupted) of each edge [edge, 2] (source, destination), float64 [pair, edge].

    The reader's output is made from its one changed input, and put into the clean run, which is resumed from there.
    """
    lm, metric = runs.lm, runs.metric
    capture = [site for site in source_sites(lm.spec.n_layers) if site.kind in ("z", "mlp_out")]
    base = lm.record(runs.batch, capture=capture)
    before = metric(base.run.last_logits).double()
    out = np.zeros((len(runs.batch), len(edges)))
    groups: dict[tuple[int, bool], list[int]] = {}
    for place, (_, destination) in enumerate(edges.tolist()):
        layer, what, _ = runs.graph.where(destination)
        groups.setdefault((layer, what in "qkv"), []).append(place)
    for (layer, attends), every in groups.items():
        for first in range(0, len(every), AT_ONCE):
            places = every[first : first + AT_ONCE]
            cells = _cells(runs, layer, attends, edges[places])
            got = lm.resume(base, cells, readout=metric.readout)[:, :, 0, 0].double()
            out[:, places] = (before - got).T.cpu().numpy()
    return out


def _cells(runs: CircuitRuns, layer: int, attends: bool, edges: np.ndarray) -> list[list[Edit]]:
    """What each edge [edge, 2] into one layer (-1: the logits) puts into the clean run."""
    graph, spec = runs.graph, runs.lm.spec
    site = (
        Site("resid_post", graph.n_layers - 1) if layer < 0 else _streams(graph, layer)["heads" if attends else "mlp"]
    )
    gone = (runs.corrupted - runs.clean)[:, :, edges[:, 0]]
    clean = runs.streams[site]
    streams = (clean.double()[:, :, None] + gone).to(clean.dtype)  # [pair, pos, edge, d_model]
    if layer < 0:
        return [[replace(site, stream)] for stream in streams.unbind(dim=2)]
    if not attends:
        return [[replace(Site("mlp_out", layer), out)] for out in runs.mlp(layer, streams).unbind(dim=2)]
    made = runs.read(layer, torch.cat([clean[:, :, None], streams], dim=2))
    kinds = [graph.where(int(destination))[1:] for destination in edges[:, 1]]
    parts = []
    for read in READS:
        pick = torch.tensor([place + 1 if what == read else 0 for place, (what, _) in enumerate(kinds)])
        part = made[read][:, :, pick]  # [pair, pos, edge, head, d_head]
        parts.append(part if read == "q" else part.repeat_interleave(spec.n_heads // spec.n_kv_heads, dim=3))
    z = runs.attend(layer, *parts)
    return [[replace(Site("z", layer), z[:, :, place], heads=[head])] for place, (_, head) in enumerate(kinds)]
