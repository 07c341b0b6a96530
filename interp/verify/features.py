"""Cases on learning: features that generated the rows are found, nothing is found in noise, and thresholds have the gradient of a count."""

from typing import TYPE_CHECKING

import torch

from interp.core.seed import generator

if TYPE_CHECKING:
    from interp.core.dictionary import Dictionary


def planted_features() -> tuple[bool, str]:
    """An L1 SAE of a world of 16 features, and one of noise of the same width; both seen on rows that were not trained on."""
    from interp.analyses.dictionaries.recovery import recovery
    from interp.data.features import FeatureWorld

    world = FeatureWorld(features=16, width=12, probability=0.08)
    rows, truth = world.rows(4000, seed=2), world.codes(4000, seed=2)
    found = []
    noise_rows = torch.randn(10_000, 12, generator=generator(0, "verify", "noise"))
    for learned, steps in ((world.rows(20_000, seed=1), 350), (noise_rows, 100)):
        dictionary = _trained(learned, steps)
        found.append(recovery(dictionary.W_dec, world.directions, codes=dictionary.codes(rows), truth=truth))
    planted, noise = found
    ok = planted.mcc() >= 0.99 and planted.alive == 16 and noise.recovered() == 0 and noise.alive >= 12
    return ok, (
        f"MCC {planted.mcc():.3f}, {planted.alive} of 16 alive; of noise {noise.recovered():.0%} recovered, mean cosine {noise.mmcs():.2f} "
        f"({noise.chance():.2f} by chance)"
    )


def _trained(rows: torch.Tensor, steps: int) -> "Dictionary":
    from interp.cache.views import MemoryView
    from interp.core.dictionary import View
    from interp.train.data import TrainingData
    from interp.train.families import SAE
    from interp.train.training import Training

    config = SAE(latents=16, activation="relu").config({"in": View("in", width=12)})
    tokens = steps * 128
    training = Training(tokens=tokens, batch=128, lr=1e-2, coefficient=0.6, watch=tokens)
    return training(TrainingData({"in": MemoryView(rows)}), config).dictionary


def straight_through() -> tuple[bool, str]:
    """The gradient of a count of codes by their threshold, against its central difference over the bandwidth."""
    from interp.train.activations import step

    rows = torch.randn(50_000, 4, generator=generator(0, "verify", "step"), dtype=torch.float64)
    threshold = torch.tensor([0.1, 0.5, 1.0, 2.0], dtype=torch.float64, requires_grad=True)
    step(rows, threshold, 0.1).sum().backward()
    assert threshold.grad is not None
    with torch.no_grad():
        above, below = ((rows > threshold + shift).double().sum(0) for shift in (0.05, -0.05))
    worst = float(((threshold.grad - (above - below) / 0.1) / threshold.grad).abs().max())
    return worst < 1e-9, f"relative difference {worst:.0e}"
