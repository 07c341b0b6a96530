"""The sets of latents that are patched: what was found, what was thrown out, and their controls."""

import numpy as np
import torch
from torch import Tensor

from interp.core.seed import numpy_generator

from .labels import same_number
from .patching import Sets


def sets_of(
    bins: np.ndarray, labels: np.ndarray, delta: np.ndarray, ratios: np.ndarray, *, random: int, seed: int
) -> Sets:
    """Sets of latents to patch, from their bins, labels and deltas [latent] and the two ratios [target, latent] of the tuned side.

    Left out are those that would be empty, and those equal to an earlier one. Random ones are as many shared latents as are tuned only.
    """
    tuned, base, alive = bins == "tuned only", bins == "base only", bins != "dead"
    found = {
        "tuned only": tuned, "base only": base, "both": tuned | base,
        "tuned only, specific": tuned & (labels == "specific"),
        "tuned only, artifacts": tuned & np.isin(labels, ("complete shrinkage", "latent decoupling")),
        "all but these": alive & ~tuned & ~base, "all latents": alive,
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
    kept: dict[str, Tensor] = {}
    for name, mask in found.items():
        new = torch.from_numpy(mask)
        same = any(torch.equal(new, old) for other, old in kept.items() if not other.startswith("random"))
        if mask.any() and (name.startswith("random") or not same):
            kept[name] = new
    return Sets(kept)


def _mask(places: np.ndarray, latents: int) -> np.ndarray:
    mask = np.zeros(latents, dtype=bool)
    mask[places] = True
    return mask
