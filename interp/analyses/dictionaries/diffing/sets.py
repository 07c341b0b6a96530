"""The sets of latents that are patched: what was found, what was thrown out, and their controls."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from interp.core.seed import numpy_generator

from .labels import same_number
from .patching import Sets

CHANGED, ANY = "changed most", "any latents"


def sets_of(
    bins: np.ndarray,
    labels: np.ndarray,
    delta: np.ndarray,
    ratios: np.ndarray,
    *,
    random: int,
    seed: int,
    changed: np.ndarray | None = None,
    shares: Sequence[float] = (),
) -> Sets:
    """Sets of latents to patch, from their bins, labels and deltas [latent] and the two ratios [target, latent] of the tuned side.

    Left out are those that would be empty, and those equal to an earlier one. Random ones are as many shared latents as are tuned only.
    `changed` [latent] ranks living latents by how much was changed; the first `shares` of them are sets, and as many of any living ones
    ("any latents"). The ranking comes from weights alone, so that no text chooses the latents that it then tests.
    """
    tuned, base, alive = bins == "tuned only", bins == "base only", bins != "dead"
    found = {
        "tuned only": tuned, "base only": base, "both": tuned | base,
        "tuned only, specific": tuned & (labels == "specific"),
        "tuned only, artifacts": tuned & np.isin(labels, ("complete shrinkage", "latent decoupling")),
        "all but these": (alive & ~tuned & ~base) if (tuned | base).any() else np.zeros_like(alive), "all latents": alive,
    }  # fmt: skip
    places = np.flatnonzero(tuned)
    if len(places) >= 4:
        ranks = np.abs(ratios[:, places]).argsort(axis=1, kind="stable").argsort(axis=1, kind="stable").sum(axis=0)
        for name, order in (
            ("ratios", ranks.argsort(kind="stable")),
            ("delta", (-delta[places]).argsort(kind="stable")),
        ):
            half = len(places) // 2
            found[f"best half by {name}"] = _mask(places[order[:half]], len(bins))
            found[f"worst half by {name}"] = _mask(places[order[len(places) - half :]], len(bins))
    pool = np.flatnonzero(bins == "shared")
    for number in range(random if len(pool) and len(places) else 0):
        draw = numpy_generator(seed, "random shared latents", number)
        found[f"random shared {number + 1}"] = _mask(same_number(pool, len(places), draw), len(bins))
    found |= _changed(alive, changed, shares, random=random, seed=seed)
    kept: dict[str, Tensor] = {}
    for name, mask in found.items():
        new = torch.from_numpy(mask)
        always = name.startswith(("random", CHANGED, ANY))
        same = any(torch.equal(new, old) for other, old in kept.items() if not other.startswith(("random", ANY)))
        if mask.any() and (always or not same):
            kept[name] = new
    return Sets(kept)


def _changed(
    alive: np.ndarray, changed: np.ndarray | None, shares: Sequence[float], *, random: int, seed: int
) -> dict[str, np.ndarray]:
    """The latents changed most, in growing numbers, and as many of any: each random order gives all its numbers."""
    if changed is None:
        return {}
    known = np.flatnonzero(alive & np.isfinite(changed))
    order = known[np.argsort(-changed[known], kind="stable")]
    sizes = (
        {f"{share:.3g}": min(len(known), max(1, round(share * len(known)))) for share in shares} if len(known) else {}
    )
    found = {f"{CHANGED}, {share}": _mask(order[:size], len(alive)) for share, size in sizes.items()}
    for number in range(random):
        drawn = numpy_generator(seed, "any latents", number).permutation(known)
        found |= {f"{ANY} {number + 1}, {share}": _mask(drawn[:size], len(alive)) for share, size in sizes.items()}
    return found


def _mask(places: np.ndarray, latents: int) -> np.ndarray:
    mask = np.zeros(latents, dtype=bool)
    mask[places] = True
    return mask
