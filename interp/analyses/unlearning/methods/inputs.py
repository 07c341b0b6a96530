"""What goes into each linear map of a block: the length of every input feature over the tokens of a text.

    |x_i|_2 = sqrt(sum over tokens of x_i^2)          one vector a text and a map

Maps and their inputs, in the layout `x @ W` of `lm.weights` whatever the family stores (GPT-2's Conv1D keeps matrices turned over,
and packs query, key and value into one):

    W_Q, W_K, W_V       the stream through the norm before attention           W_O       hook_z
    W_in, W_gate        the stream through the norm before the MLP             W_out     mlp.hook_post

The norm's scale is not computed but measured, from what it made of the stream (`attribution.reading`), so no epsilon of no family is
written here, and a family that reads its stream in another way is found out.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from interp.core.errors import UnsupportedArchitecture
from interp.core.lm import LM
from interp.core.site import Site

from ...attribution.reading import readings
from .pieces import Pieces

CHUNK = 2048
"""Tokens that are read at once."""


@dataclass(frozen=True)
class Linear:
    """One linear map: its name in `lm.weights`, and where its input is."""

    key: str
    """`W_Q.3`: what `lm.edit_weights` calls it."""
    source: str
    """Which input it reads: `attn`, `z`, `mlp` or `post`; maps of one layer and source share it."""
    layer: int


def linears(lm: LM, *, mlp_only: bool = False) -> list[Linear]:
    """Every linear map of every block. Raises `UnsupportedArchitecture` for experts and for unproven families."""
    spec = lm.spec
    if spec.experts or not spec.proven:
        reason = (
            f"{spec.experts} experts a layer, each of which sees only some tokens"
            if spec.experts
            else "no proven layout"
        )
        raise UnsupportedArchitecture(
            f"{spec.name} ({spec.family}) has {reason}, so the inputs of its linear maps are not all known. Use a family such as gpt2, "
            "gpt_neox, llama or qwen3."
        )
    attention = [("W_Q", "attn"), ("W_K", "attn"), ("W_V", "attn"), ("W_O", "z")]
    mlp = [("W_in", "mlp"), *([("W_gate", "mlp")] if spec.gated else []), ("W_out", "post")]
    maps = mlp if mlp_only else attention + mlp
    return [Linear(f"{name}.{layer}", source, layer) for layer in range(spec.n_layers) for name, source in maps]


@torch.no_grad()
def feature_norms(lm: LM, rows: Pieces) -> dict[tuple[int, str], Tensor]:
    """Length of each input feature in each text, float64 [text, feature], by layer and source (`attn`, `z`, `mlp`, `post`)."""
    found: dict[tuple[int, str], list[Tensor]] = {}
    for group in _groups(rows):
        documents = [torch.tensor(row) for row in group]
        for layer in range(lm.spec.n_layers):
            for source, values in _inputs(lm, documents, layer).items():
                parts = (values.double() ** 2).split([len(row) for row in group])
                found.setdefault((layer, source), []).extend(part.sum(dim=0).sqrt().cpu() for part in parts)
    return {key: torch.stack(parts) for key, parts in found.items()}


def _groups(rows: Pieces) -> list[list[tuple[int, ...]]]:
    groups: list[list[tuple[int, ...]]] = [[]]
    for row in rows.rows:
        if groups[-1] and sum(map(len, groups[-1])) + len(row) > CHUNK:
            groups.append([])
        groups[-1].append(row)
    return groups


def _inputs(lm: LM, documents: Sequence[Tensor], layer: int) -> dict[str, Tensor]:
    """The four inputs of a layer's maps, [token, feature]."""
    by_site = {reading.site.kind: reading for reading in readings(lm, layer)} if lm.weights.pre_norm else {}
    before = Site("resid_pre", layer)
    middle = before if lm.spec.parallel else Site("resid_mid", layer)
    sites = [before, middle, *(Site(kind, layer) for kind in ("q", "mlp_pre", "z", "mlp_post"))]
    acts = lm.read(documents, list(dict.fromkeys(sites)))
    read = {"attn": acts[before], "mlp": acts[middle]}
    for source, kind in {"attn": "q", "mlp": "mlp_pre"}.items():
        if not by_site:  # OLMo 2 reads the stream as it is
            continue
        reading, stream = by_site[kind], read[source][None]
        scale = reading.scale(stream, acts[Site(kind, layer)][None], lm.spec.dtype)[0]  # [token]
        gain, shift = lm.weights.norm(source, layer)
        wide = stream[0].double()
        wide = wide - wide.mean(dim=-1, keepdim=True) if reading.centred else wide
        read[source] = scale[:, None] * wide * gain.double() + (0.0 if shift is None else shift.double())
    return {**read, "z": acts[Site("z", layer)].flatten(1), "post": acts[Site("mlp_post", layer)].flatten(1)}
