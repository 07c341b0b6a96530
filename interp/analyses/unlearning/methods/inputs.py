"""What goes into each linear map of a block: the length of every input feature over the tokens of a text.

    |x_i|_2 = sqrt(sum over tokens of x_i^2)          one vector a text and a map

Maps and their inputs, in the layout `x @ W` of `lm.weights` whatever the family stores (GPT-2's Conv1D keeps matrices turned over,
and packs query, key and value into one):

    W_Q, W_K, W_V       the stream through the norm before attention           W_O       hook_z
    W_in, W_gate        the stream through the norm before the MLP             W_out     mlp.hook_post

The norm's scale is not computed but measured, from what it made of the stream (`attribution.reading`), so no epsilon of no family is
written here, and a family that reads its stream in another way is found out.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from interp.core.errors import UnsupportedArchitecture
from interp.core.lm import LM
from interp.core.site import Site

from ...attribution.reading import readings
from .pieces import Pieces

BUDGET = 2**28
"""Bytes of activations that are held at once (one text at least)."""


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
    layers = range(lm.spec.n_layers)
    sites = list(dict.fromkeys(site for layer in layers for site in _sites(lm, layer).values()))
    found: dict[tuple[int, str], list[Tensor]] = {}
    for group in _groups(lm, rows):
        acts = lm.read([torch.tensor(row) for row in group], sites)
        for layer in layers:
            for source, values in _inputs(lm, acts, layer).items():
                parts = (values.double() ** 2).split([len(row) for row in group])
                found.setdefault((layer, source), []).extend(part.sum(dim=0).sqrt().cpu() for part in parts)
    return {key: torch.stack(parts) for key, parts in found.items()}


def _groups(lm: LM, rows: Pieces) -> list[list[tuple[int, ...]]]:
    """Texts that are read together."""
    spec = lm.spec
    token = spec.n_layers * (2 * spec.d_model + 2 * spec.n_heads * spec.d_head + 2 * spec.d_mlp) * spec.bytes_per_value
    groups: list[list[tuple[int, ...]]] = [[]]
    for row in rows.rows:
        if groups[-1] and (sum(map(len, groups[-1])) + len(row)) * token > BUDGET:
            groups.append([])
        groups[-1].append(row)
    return groups


def _sites(lm: LM, layer: int) -> dict[str, Site]:
    """Where the stream is read, and what is made of it, in a layer."""
    before = Site("resid_pre", layer)
    named = {kind: Site(kind, layer) for kind in ("q", "mlp_pre", "z", "mlp_post")}
    return {"attn": before, "mlp": before if lm.spec.parallel else Site("resid_mid", layer), **named}


def _inputs(lm: LM, acts: Mapping[Site, Tensor], layer: int) -> dict[str, Tensor]:
    """The four inputs of a layer's maps, [token, feature]."""
    sites = _sites(lm, layer)
    read = {source: acts[sites[source]] for source in ("attn", "mlp")}
    if lm.weights.pre_norm:  # OLMo 2 reads the stream as it is
        by_kind = {reading.site.kind: reading for reading in readings(lm, layer)}
        for source, kind in {"attn": "q", "mlp": "mlp_pre"}.items():
            reading, stream = by_kind[kind], read[source][None]
            scale = reading.scale(stream, acts[sites[kind]][None], lm.spec.dtype)[0]  # [token]
            gain, shift = lm.weights.norm(source, layer)
            wide = stream[0].double()
            wide = wide - wide.mean(dim=-1, keepdim=True) if reading.centred else wide
            read[source] = scale[:, None] * wide * gain.double() + (0.0 if shift is None else shift.double())
    return {**read, "z": acts[sites["z"]].flatten(1), "post": acts[sites["mlp_post"]].flatten(1)}
