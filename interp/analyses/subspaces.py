"""What the readers of a site can see of it, and what they cannot.

A site's readers are linear maps; stacked, their rows span everything that these maps can tell about it. The rest is their common null
space: moving the site along it changes none of their values. (A norm before the readers also divides by the length of the whole stream;
that much is felt of any move but one along a LayerNorm's mean.) With P the projector on the readers' rows, swapping a subspace R moves
what the readers see by

    P R R^T (h_source - h_base)  =  (P R)(P R)^T (h_source - h_base)  +  (P R)((1 - P) R)^T (h_source - h_base)

The first term moves what the readers see by what they see; the second puts what nobody reads in front of the readers. A subspace that
works by the second term alone is an illusion. (Makelov et al. 2023, arXiv 2311.17030, section 4, where the reader is W_out and the
subspace a line; here any readers and dimensions.) The first term falls short of a whole swap by the squared cosines of R's angles to what
is read; so the span of P R is swapped whole as well: a variable that is read there moves with it, however obliquely R cuts it.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from interp.core.lm import LM
from interp.core.shapes import Float
from interp.core.site import Site

TOLERANCE = 1e-6
"""Singular values below this share of the largest are no direction of a reader."""


def readers_of(lm: LM, site: Site, head: int | None = None) -> Float[Tensor, "reader d"]:
    """Every direction of `site` that something downstream reads, as rows, float64.

    `z` (of one head) and `mlp_post` are read by W_O and W_out. A stream after layer l is read by the queries, keys, values and MLP inputs
    of all later layers and by the unembedding, norm gains folded in (a LayerNorm's mean is subtracted first). `resid_mid`, and `attn_out`
    where the block is not parallel, are also read by the MLP of their own layer, `resid_pre` by all of it.
    """
    weights, layer = lm.weights, site.layer or 0
    if site.kind == "z":
        return weights.W_O(layer)[head].double().cpu().T
    if site.kind == "mlp_post":
        return weights.W_out(layer).double().cpu().T
    folded = weights.pre_norm
    rows = [weights.unembedding(folded=True)[0]]  # [d_model, vocab]
    for later in range(layer, lm.spec.n_layers):
        if later > layer or site.kind == "resid_pre":
            rows += [
                torch.cat(list(getattr(weights, name)(later, folded=folded)), dim=1) for name in ("W_Q", "W_K", "W_V")
            ]
        if later > layer or _read_by_own_mlp(lm, site):
            rows.append(weights.W_in(later, folded=folded))
            gate = weights.W_gate(later, folded=folded)
            rows += [] if gate is None else [gate]
    return torch.cat([part.double().cpu() for part in rows], dim=1).T


def check_readers(lm: LM, sites: Sequence[Site]) -> None:
    """Refuse, before anything is trained, sites whose readers have no weights by name (`BadInput`: experts, unproven families)."""
    for site in sites:
        layer = site.layer or 0
        if site.kind in ("z", "mlp_post"):
            getattr(lm.weights, {"z": "W_O", "mlp_post": "W_out"}[site.kind])(layer)
            continue
        for later in range(layer + 1, lm.spec.n_layers):
            lm.weights.W_Q(later), lm.weights.W_in(later)
        if _read_by_own_mlp(lm, site):
            lm.weights.W_in(layer)
        lm.weights.unembedding()


def _read_by_own_mlp(lm: LM, site: Site) -> bool:
    return site.kind in ("resid_pre", "resid_mid") or (site.kind == "attn_out" and not lm.spec.parallel)


def split(
    basis: Float[Tensor, "d k"], readers: Float[Tensor, "reader d"]
) -> tuple[Float[Tensor, "d k"], Float[Tensor, "d k"], Float[Tensor, " k"]]:
    """`P R` and `(1 - P) R` of an orthonormal basis R, float64, and the cosines of its principal angles to what the readers see."""
    basis = basis.double()
    values, vectors = torch.linalg.eigh(readers.T @ readers)  # [d], [d, d]: the readers' right singular vectors
    seen = vectors[:, values > (TOLERANCE * values[-1].sqrt()) ** 2]  # [d, rank]
    inside = seen @ (seen.T @ basis)
    return inside, basis - inside, torch.linalg.svdvals(inside)


def spanned(part: Float[Tensor, "d k"]) -> Float[Tensor, "d r"]:
    """An orthonormal basis of a part's directions, those that are no rounding error."""
    vectors, values, _ = torch.linalg.svd(part, full_matrices=False)
    return vectors[:, values > TOLERANCE]


def dimensions(part: Float[Tensor, "d k"]) -> int:
    """How many directions of a part are no rounding error."""
    return int((torch.linalg.svdvals(part) > TOLERANCE).sum())
