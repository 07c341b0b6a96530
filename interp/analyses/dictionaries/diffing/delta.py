"""Relative difference of decoder norms: to which of two models does a latent belong?

    delta_j = 1/2 ( (|d_j tuned| - |d_j base|) / max(|d_j tuned|, |d_j base|) + 1 )

1 for a latent that only writes to the tuned model, 0 for one that only writes to the base, 1/2 for equal norms. Published tables hold
1 - delta in a column of nearly the same name: the sign is part of the definition here, and tested.

Source. Lindsey et al. 2024 (crosscoders); Minder et al. 2025 (arXiv 2504.02922), section 2.

Two decoders may be equally long and write different things. `change` is the relative length of their difference, which counts both: a
latent of one model alone has 1, and so have two equal lengths at 60 degrees.

Norms must be those of *normalised* activations, where both models' rows have the same energy: a model whose activations are ten times
larger would otherwise own every latent.
"""

import numpy as np
import torch
from torch import Tensor

from interp.core.errors import BadInput

BINS = ("tuned only", "base only", "shared", "other", "dead")


def relative_difference(base: np.ndarray, tuned: np.ndarray) -> np.ndarray:
    """Delta of decoder norms [latent], in [0, 1]; NaN where both are zero. Raises `BadInput` for norms that are none."""
    base, tuned = np.asarray(base, dtype=np.float64), np.asarray(tuned, dtype=np.float64)
    if base.shape != tuned.shape or not (np.isfinite(base) & np.isfinite(tuned) & (base >= 0) & (tuned >= 0)).all():
        raise BadInput(
            f"decoder norms of two models are as many finite numbers, none negative; not {base.shape} and {tuned.shape}."
        )
    longest = np.maximum(base, tuned)
    share = np.divide(tuned - base, longest, out=np.full(longest.shape, np.nan), where=longest > 0)
    return 0.5 * (share + 1)


def change(base: Tensor, tuned: Tensor) -> np.ndarray:
    """|d_tuned - d_base| / max(|d_tuned|, |d_base|) of decoder rows [latent, d]; NaN where both are zero, all NaN for two widths.

    0: both models' latent writes the same; 1: one of them writes nothing, or they point 60 degrees apart; 2: opposite.
    """
    if base.shape != tuned.shape:
        return np.full(len(tuned), np.nan)
    base, tuned = base.detach().double().cpu(), tuned.detach().double().cpu()
    longest = torch.maximum(base.norm(dim=1), tuned.norm(dim=1))
    return torch.where(longest > 0, (tuned - base).norm(dim=1) / longest, torch.nan).numpy()


def bins(
    delta: np.ndarray,
    alive: np.ndarray,
    *,
    tuned_only: float = 0.9,
    base_only: float = 0.1,
    shared: tuple[float, float] = (0.4, 0.6),
) -> np.ndarray:
    """Which of `BINS` each latent is in [latent]: by its delta, or dead where it never fired or has no decoder.

    The edges of "tuned only" and "base only" belong to them, those of "shared" do not.
    """
    if not 0 <= base_only <= shared[0] <= shared[1] <= tuned_only <= 1:
        raise BadInput(
            f"the bins must follow one another, 0 <= base_only <= shared <= tuned_only <= 1; not {base_only}, {shared}, {tuned_only}."
        )
    delta, alive = np.asarray(delta), np.asarray(alive, dtype=bool) & np.isfinite(delta)
    named = np.select(
        [~alive, delta >= tuned_only, delta <= base_only, (delta > shared[0]) & (delta < shared[1])],
        ["dead", "tuned only", "base only", "shared"],
        "other",
    )
    return np.asarray(named)


def extremes(delta: np.ndarray, alive: np.ndarray, n: int, *, top: bool = True) -> np.ndarray:
    """Numbers of the `n` living latents with the highest (or lowest) delta, the most extreme first; ties by number.

    What stands in for "tuned only" where dictionaries of different kinds are compared at the same count. Fewer where fewer are alive.
    """
    known = np.flatnonzero(np.asarray(alive, dtype=bool) & np.isfinite(delta))
    order = np.argsort(-delta[known] if top else delta[known], kind="stable")
    return known[order[:n]]
