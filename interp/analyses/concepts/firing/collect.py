"""Coefficients of neurons over a corpus, document by document: only the columns that are asked for are kept."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from interp.core.errors import BadInput
from interp.core.lm import LM
from interp.core.progress import track
from interp.core.site import Site
from interp.data import Corpus

from ...streams import check_corpus, streams
from ..vectors import Vector


@dataclass(eq=False)
class Firing:
    """What the neurons of some layers did at every token of a corpus, the BOS left out."""

    text: np.ndarray
    """Which text a token is of, int64 [token]."""
    document: np.ndarray
    """Which piece of a text, int64 [token]: windows must not cross its ends."""
    ids: np.ndarray
    """Token ids, int64 [token]."""
    values: Mapping[int, np.ndarray]
    """Layer -> coefficients of its columns, float32 [token, column]."""
    ahead: Mapping[int, np.ndarray]
    """Layer -> how many neurons of the layer write more at the token, int32 [token, vector of the layer]."""
    share: Mapping[int, np.ndarray]
    """Layer -> length of the vector's write over that of the stream leaving the layer, float32 [token, vector of the layer]."""


@dataclass(eq=False)
class _Layer:
    columns: torch.Tensor
    """The neurons that are kept; the first `own` are the vectors themselves."""
    own: int
    norms: torch.Tensor
    """Lengths of all value vectors of the layer [neuron]."""
    values: list[Any] = field(default_factory=list)
    ahead: list[Any] = field(default_factory=list)
    share: list[Any] = field(default_factory=list)


def collect(
    lm: LM, data: Corpus, vectors: Sequence[Vector], beside: Mapping[int, Sequence[int]], store: Any, *, budget: int
) -> Firing:
    """Read the corpus once for all vectors, and for the neurons `beside` them (layer -> indices).

    The columns of a layer are its vectors in the order given, then those beside them.
    """
    check_corpus(lm, data)
    layers: dict[int, _Layer] = {}
    for layer in sorted({vector.layer for vector in vectors}):
        mine = [vector.index for vector in vectors if vector.layer == layer]
        norms = lm.weights.W_out(layer).detach().float().norm(dim=1).cpu()
        layers[layer] = _Layer(torch.tensor([*mine, *beside.get(layer, ())]), len(mine), norms)
    sites = [Site(kind, layer) for layer in layers for kind in ("mlp_post", "resid_post")]
    skip = int(data.bos)
    text, document, ids = [], [], []
    for place, found in track(streams(lm, data, sites, store, budget=budget), "where it fires", total=len(data)):
        tokens = data.documents[place][skip:].numpy()
        ids.append(tokens)
        text.append(np.full(len(tokens), data.texts[place]))
        document.append(np.full(len(tokens), place))
        for layer, kept in layers.items():
            _keep(kept, found[Site("mlp_post", layer)][skip:], found[Site("resid_post", layer)][skip:])
    joined = {name: {layer: np.concatenate(getattr(kept, name)) for layer, kept in layers.items()} for name in NAMES}
    return Firing(np.concatenate(text), np.concatenate(document), np.concatenate(ids), **joined)


NAMES = ("values", "ahead", "share")


def _keep(layer: _Layer, neurons: torch.Tensor, stream: torch.Tensor) -> None:
    """Take the columns of one document's activations [token, neuron], and what the vectors write beside all neurons and the stream."""
    neurons, stream = neurons.float().cpu(), stream.float().cpu()
    if not bool(neurons.isfinite().all()):
        raise BadInput(
            "a text makes neurons infinite or NaN: there are no ranks of such numbers. Does the checkpoint overflow in this dtype? Load it "
            "with dtype='float32'."
        )
    writes = neurons.abs() * layer.norms  # [token, neuron]
    mine = writes[:, layer.columns[: layer.own]]
    layer.values.append(neurons[:, layer.columns].numpy())
    ahead = [(writes > one[:, None]).sum(dim=-1) for one in mine.unbind(dim=-1)]
    layer.ahead.append(torch.stack(ahead, dim=-1).to(torch.int32).numpy())
    layer.share.append((mine / stream.norm(dim=-1, keepdim=True).clamp_min(1e-30)).numpy())
