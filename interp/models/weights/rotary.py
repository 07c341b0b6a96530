"""Rotary positions as a matrix: what stands between a query and a key that are so many tokens apart.

A rotary model turns queries and keys by their positions, in fixed planes of the head, before it multiplies them. Row vectors:

    score(i, j) = scale · (q_i A_i) (k_j A_j)ᵀ = scale · q_i R(i - j) k_jᵀ,        R(Δ) = A_Δ A_0ᵀ

`R` depends on the distance alone (rotations of one plane commute), so a pair of heads has one query-key matrix `W_Q R(Δ) W_Kᵀ` for
each distance Δ and none for all of them. A query at position i reads keys at or before it: Δ >= 0, and R(0) is the identity but for
the factor on scores that some kinds (yarn) put on the planes. Where a family norms its queries and keys, `q` and `k` here are normed.

    from interp.models import reference
    lm = reference.as_lm(reference.rotary_channels())
    lm.weights.rotation(1, 4)              # of layer 1, for a key four tokens before its query: [d_head, d_head], float64

Nothing about frequencies, halves, parts of a head that stay unturned or scalings is written here: cosines and sines come from the
model's own rotary module, and an identity matrix goes through the `apply_rotary_pos_emb` of its own source file. Both compute angles in
float32, as they do in the forward pass, so entries are good to about `1e-7 · Δ`; 16-bit models round cosines and sines once more.
"""

import inspect
import sys
from typing import Any

import torch
from torch import Tensor, nn

from interp.core.errors import BadInput
from interp.core.spec import ModelSpec

from ..families import Family


def rotation(module: nn.Module, family: Family, spec: ModelSpec, layer: int, offset: int) -> Tensor:
    """R(offset) [d_head, d_head] of a layer, float64; `offset` = position of the query - position of the key. See `Weights.rotation`."""
    if spec.positions != "rotary":
        raise BadInput(
            f"{spec.name} has {spec.positions} positions, not rotary ones ({spec.family}): nothing stands between its queries and keys, "
            f"and W_Q W_Kᵀ holds at every distance. Leave out the offset ({offset!r})."
        )
    checked = offset_of(offset, spec)
    turned = _turned(module, family, spec, layer, [checked, 0])
    return turned[0] @ turned[1].T


def offset_of(offset: object, spec: ModelSpec) -> int:
    """A distance between query and key as an int, from 0 to the context less one. Raises `BadInput` for anything else."""
    legal = f"whole numbers from 0 (the token itself) to {spec.n_ctx - 1} (the context of {spec.name} less one)"
    if isinstance(offset, bool) or not hasattr(offset, "__index__"):
        raise BadInput(f"the offset {offset!r} is no whole number of tokens. Offsets are {legal}.")
    whole = int(offset.__index__())
    if whole < 0:
        raise BadInput(
            f"the offset {whole} lies behind the query: it is the query's position less the key's, and keys that come later are not read. "
            f"Offsets are {legal}."
        )
    if whole >= spec.n_ctx:
        raise BadInput(f"no key of {spec.name} is {whole} tokens before its query. Offsets are {legal}.")
    return whole


@torch.no_grad()
def _turned(module: nn.Module, family: Family, spec: ModelSpec, layer: int, positions: list[int]) -> Tensor:
    """An identity matrix turned as a query at each of `positions`, [position, d_head, d_head]: row i is what becomes of entry i."""
    attention = module.get_submodule(family.layer_path(layer, family.attention))
    rotary: Any = module.get_submodule(f"{family.layers.rpartition('.')[0]}.rotary_emb")
    device = next(module.parameters()).device
    one = torch.eye(spec.d_head, dtype=torch.float64, device=device)
    extra = {}
    if "layer_type" in inspect.signature(rotary.forward).parameters:  # local and global layers turn differently
        extra["layer_type"] = module.config.layer_types[layer]  # type: ignore[union-attr, index]
    cos, sin = rotary(one, torch.tensor([positions], device=device), **extra)
    apply = sys.modules[type(attention).__module__].apply_rotary_pos_emb
    rows = one[None, :, None].expand(
        -1, -1, len(positions), -1
    )  # [1, entry, pos, d_head]: entries in the place of heads
    turned, as_key = apply(rows, rows, cos, sin)
    assert torch.equal(turned, as_key), "queries and keys are turned differently"
    return turned[0].transpose(0, 1).contiguous()
