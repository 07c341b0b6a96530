"""The fix for saturated attention: queries and keys are attributed through the attention they would really give.

Where softmax is saturated the gradient of a query or key is next to nothing, although another query may turn the attention round. So
the attention row is computed with the patched query (or one patched key), and only what follows it is taken to first order:

    effect(q_t) = sum_keys (A - A')[t, key] dM/dA[t, key]  =  (z_t - z'_t) . dM/dz_t        since z = A v and v stays

The second form needs neither the attention probabilities nor how a family makes them (rotary positions, query and key norms,
windows, soft caps, sinks): z' is what the model itself computes from the patched query, caught before it is put back to what it was.

Cost. A query moves its own row only, so one forward pass gives all queries of all heads, positions and layers: in each layer
queries are replaced, z' is caught, and z goes on unchanged, so that later layers see nothing. A key moves one column of every later
row; keys are patched one position at a time, all heads and layers together: one forward pass a position that differs.
Exact where M is affine in z (Kramar et al. 2024, arXiv 2403.00745, section 3.1, prove less than this form gives: they need M affine in A).
"""

from collections.abc import Sequence

import torch
from einops import rearrange
from torch import Tensor

from interp.core.batch import At, Batch
from interp.core.edit import Edit, call, replace
from interp.core.lm import LM
from interp.core.site import Site


def fixed(
    lm: LM,
    batch: Batch,
    kind: str,
    donor: dict[Site, Tensor],
    base: dict[Site, Tensor],
    grads: Sequence[dict[Site, Tensor]],
) -> Tensor:
    """(z' - z) . dM/dz of every query or key patched from `donor`, float64 [gradient, pair, layer, head, pos].

    `donor` and `base` hold q or k [pair, pos, head, d_head] of both runs, `base` also z, and each of `grads` dM/dz. For k, heads are
    key/value heads.
    """
    spec, layers, width = lm.spec, range(lm.spec.n_layers), batch.tokens.shape[1]

    def effects(edits: Sequence[Edit]) -> Tensor:
        """(z' - z) . dM/dz [gradient, layer, pair, pos, head]."""
        patched, z = _patched(lm, batch, edits, base), [Site("z", layer) for layer in layers]
        moved = [patched[layer].double() - base[z[layer]].double() for layer in layers]
        return torch.stack(
            [torch.stack([(moved[n] * one[z[n]].double()).sum(dim=-1) for n in layers]) for one in grads]
        )

    if kind == "q":
        moved = effects([replace(Site("q", layer), donor[Site("q", layer)]) for layer in layers])
        return rearrange(moved, "gradient layer pair pos head -> gradient pair layer head pos")
    out = torch.zeros(len(grads), len(batch), spec.n_layers, spec.n_kv_heads, width, dtype=torch.float64)
    for pos in _differing(kind, donor, base, width):
        at = At.index(pos)
        moved = effects([replace(Site("k", layer), donor[Site("k", layer)], at=at) for layer in layers]).sum(dim=3)
        groups = rearrange(moved, "gradient layer pair (kv group) -> gradient pair layer kv group", kv=spec.n_kv_heads)
        out[..., pos] = groups.sum(dim=-1).cpu()
    return out


def passes(kind: str, width: int) -> int:
    """Forward passes that the fix takes at most, for one form."""
    return 1 if kind == "q" else width


def _patched(lm: LM, batch: Batch, edits: Sequence[Edit], base: dict[Site, Tensor]) -> dict[int, Tensor]:
    """z of each layer under the edits of that layer alone: caught, then put back, so that no layer sees another's edit."""
    caught: dict[int, Tensor] = {}

    def hold(layer: int) -> Edit:
        def swap(z: Tensor) -> Tensor:
            caught[layer] = z
            return base[Site("z", layer)].to(z)

        return call(Site("z", layer), swap)

    lm.run(
        batch,
        edits=[*edits, *(hold(layer) for layer in range(lm.spec.n_layers))],
        stop_after=Site("z", lm.spec.n_layers - 1),
    )
    return caught


def _differing(kind: str, donor: dict[Site, Tensor], base: dict[Site, Tensor], width: int) -> list[int]:
    """Positions at which the two runs differ in any layer; elsewhere the effect is 0."""
    differ = torch.zeros(width, dtype=torch.bool)
    for site, value in donor.items():
        if site.kind == kind:
            differ |= (value != base[site]).flatten(2).any(dim=2).any(dim=0).cpu()
    return differ.nonzero().flatten().tolist()
