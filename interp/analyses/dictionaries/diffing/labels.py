"""What a latent that only one decoder has stands for: a concept of that model alone, or an artifact of the sparsity penalty.

    latent decoupling     nu of the reconstruction is large: other latents write the same into the other model
    complete shrinkage    nu of the error is large: it is in the other model, and its decoder there was shrunk to nothing
    specific              both are small
    undecided             too rarely on, a ratio outside of the valid range, or chance alone would reach the threshold

Decoupling is asked first: a decoupled concept leaves some of itself in the error too. Ratios are compared by their size, without sign.

Source. Minder et al. 2025 (arXiv 2504.02922), sections 3.2 and 3.3. Published thresholds differ (0.5 and 0.2, 0.3 and 0.3, 0.3 and 0.6):
these are a choice, so they are options.
"""

from dataclasses import dataclass

import numpy as np

from interp.core.errors import BadInput

LABELS = ("specific", "complete shrinkage", "latent decoupling", "undecided")


@dataclass(frozen=True)
class Thresholds:
    """Where a ratio counts as large, and where it counts at all."""

    reconstruction: float = 0.5
    """Ratio of the reconstruction from which a latent is decoupled."""
    error: float = 0.2
    """Ratio of the error from which a latent is shrunk."""
    valid: tuple[float, float] = (-0.1, 2.0)
    """Ratios outside of this say nothing."""
    least_on: int = 20
    """Rows in which a latent must be on to be judged."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "valid", (float(self.valid[0]), float(self.valid[1])))
        low, high = self.valid
        if not (low < 0 < high and 0 < self.reconstruction < high and 0 < self.error < high and self.least_on >= 1):
            raise BadInput(
                f"thresholds lie above 0 and inside of the valid range around it, and at least one row is needed; not "
                f"{self.reconstruction}, {self.error}, {self.valid} and {self.least_on}."
            )


def label(
    reconstruction: np.ndarray,
    error: np.ndarray,
    active: np.ndarray,
    *,
    chance: np.ndarray | None = None,
    thresholds: Thresholds = Thresholds(),
) -> np.ndarray:
    """One of `LABELS` a latent, from its two ratios [latent] and the rows in which it was on.

    `chance` [target, latent] is what lengths of slopes reach when nothing is there. Squares of the two add up, so it is taken off; where it
    reaches the threshold by itself, a ratio below cannot be told from one above and the latent is undecided.
    """
    low, high = thresholds.valid
    invalid = ~((reconstruction >= low) & (reconstruction <= high) & (error >= low) & (error <= high))
    unknown = invalid | (np.asarray(active) < thresholds.least_on)
    ratios, limits = np.stack([reconstruction, error]), np.array([[thresholds.reconstruction], [thresholds.error]])
    noise = np.zeros_like(ratios) if chance is None else np.nan_to_num(chance)
    large = np.sqrt(np.maximum(ratios**2 - noise**2, 0.0)) >= limits
    blind = (noise >= limits).any(axis=0) & ~large.any(axis=0)
    return np.asarray(np.select([unknown | blind, large[0], large[1]], ["undecided", LABELS[2], LABELS[1]], "specific"))


def same_number(pool: np.ndarray, n: int, draw: np.random.Generator) -> np.ndarray:
    """`n` of the latents in `pool` at random, rising (all, where there are no more): the baseline of a set of so many latents."""
    return np.sort(draw.permutation(pool)[:n])
