"""Nodes: what gets a number, which tensor it is a part of, and the edit that patches it.

    resid_post, attn_out, mlp_out       one a layer and position
    z                                   one a layer, head and position
    q, k, v                             the same; k and v of grouped-query models have one a key/value head
    mlp_post                            all neurons of a layer together, one a layer and position
    neuron                              one a layer and neuron, all positions together

The number of a node is a sum over the entries of its part of the site, so each kind is described by how a tensor
[pair, pos, ...] is summed to cells, and by the edit that puts another run's values into exactly these entries.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from einops import rearrange
from torch import Tensor

from interp.core.batch import At
from interp.core.edit import Edit, replace
from interp.core.errors import BadInput, listing
from interp.core.lm import LM
from interp.core.site import Site
from interp.core.spec import ModelSpec

HEADED = ("z", "q", "k", "v")
STREAMS = ("resid_post", "attn_out", "mlp_out", "mlp_post")
NODES = ("resid_post", "attn_out", "mlp_out", "z", "q", "k", "v", "mlp_post", "neuron")


def axes(kind: str) -> tuple[str, ...]:
    """Axes of the map of a kind of node: (layer, head, pos), (layer, pos) or (layer, neuron)."""
    if kind == "neuron":
        return "layer", "neuron"
    return ("layer", "head", "pos") if kind in HEADED else ("layer", "pos")


def sizes(kind: str, spec: ModelSpec, width: int) -> tuple[int, ...]:
    """Lengths of these axes for prompts of `width` tokens."""
    heads = spec.n_kv_heads if kind in ("k", "v") else spec.n_heads
    have = {"layer": spec.n_layers, "head": heads, "pos": width, "neuron": spec.d_mlp}
    return tuple(have[axis] for axis in axes(kind))


def sites(kind: str, spec: ModelSpec) -> list[Site]:
    """The site of each layer that holds these nodes."""
    return [Site("mlp_post" if kind == "neuron" else kind, layer) for layer in range(spec.n_layers)]


def check_nodes(lm: LM, kind: str) -> None:
    """Raise `BadInput` where a model has no such nodes."""
    have = {info.site for info in lm.sites()}
    missing = [site for site in sites(kind, lm.spec) if site not in have]
    if missing:
        why = "what is known of its family does not say where they lie"
        if lm.spec.experts:
            why = f"its MLP is {lm.spec.experts} experts, each seeing only some tokens; nodes='mlp_out' is their sum"
        legal = [one for one in NODES if set(sites(one, lm.spec)) <= have]
        raise BadInput(f"`nodes={kind!r}`: {lm.spec.name} has no {missing[0]}: {why}. It has {listing(legal)}.")


def summed(kind: str, product: Tensor) -> Tensor:
    """Entries [pair, pos, ...] of a layer's site summed to its cells, float64: [pair, head, pos], [pair, pos] or [pair, neuron]."""
    wide = product.double()
    if kind == "neuron":
        return wide.sum(dim=1)
    cells = wide.sum(dim=-1)
    return rearrange(cells, "pair pos head -> pair head pos") if kind in HEADED else cells


@dataclass(eq=False)
class Patches:
    """Edits that put a donor run's values into nodes. Equal edits are the same object, so that an engine shares their work."""

    kind: str
    donor: dict[Site, Tensor]
    """Values [pair, pos, ...] of every site that holds nodes."""
    _made: dict[tuple[int, ...], Edit] = field(default_factory=dict)

    def one(self, cell: Sequence[int]) -> Edit:
        """The edit of one cell, named by its place on the axes."""
        key = tuple(int(place) for place in cell)
        if key not in self._made:
            self._made[key] = self._edit(key)
        return self._made[key]

    def many(self, cells: Sequence[Sequence[int]]) -> list[Edit]:
        """Edits that patch several cells at once; those of one head or layer that differ in position only are one edit."""
        if self.kind == "neuron":
            return self._neurons(cells)
        groups: dict[tuple[int, ...], list[int]] = {}
        for *where, pos in cells:
            groups.setdefault(tuple(int(place) for place in where), []).append(int(pos))
        return [self._at(where, sorted(places)) for where, places in groups.items()]

    def _edit(self, cell: tuple[int, ...]) -> Edit:
        return self._neurons([cell])[0] if self.kind == "neuron" else self._at(cell[:-1], [cell[-1]])

    def _at(self, where: tuple[int, ...], places: list[int]) -> Edit:
        site = Site(self.kind, where[0])
        return replace(site, self.donor[site], at=At.index(*places), heads=where[1:] or None)

    def _neurons(self, cells: Sequence[Sequence[int]]) -> list[Edit]:
        """One edit a layer: the part of the activations that these neurons span."""
        layers: dict[int, list[int]] = {}
        for layer, neuron in cells:
            layers.setdefault(int(layer), []).append(int(neuron))
        edits = []
        for layer, neurons in layers.items():
            site = Site("mlp_post", layer)
            value = self.donor[site]
            basis = torch.zeros(value.shape[-1], len(neurons), dtype=value.dtype, device=value.device)
            basis[neurons, torch.arange(len(neurons))] = 1.0
            edits.append(Edit(site, "swap", value, basis=basis))
        return edits
