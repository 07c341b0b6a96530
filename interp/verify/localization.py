"""Cases of editing against tracing: slopes that are there and that are not, and a penalty that keeps weights small."""

import numpy as np
import torch

from interp.core.seed import generator, numpy_generator


def planted_slope() -> tuple[bool, str]:
    """A score that is 0.3 higher where the fact lies gains what it must from knowing where; shuffled, nothing."""
    from interp.analyses.localization import regress

    rng = numpy_generator(0, "verify localization")
    facts, layers = 120, 6
    home = rng.integers(layers, size=facts)
    here = np.eye(layers)[home]
    score = np.linspace(0.3, 0.6, layers) + 0.3 * here + 0.1 * rng.normal(size=here.shape)
    noise = 0.02 * rng.normal(size=here.shape)
    found = regress(score, here + noise, permutations=60, resamples=200)
    null = regress(score, np.eye(layers)[rng.permutation(home)] + noise, permutations=60, resamples=200)
    expected = 0.09 * float(here.var() / score.var())
    ok = found.gain_low <= expected <= found.gain_high and null.gain_low <= 0 <= null.gain_high
    ok = ok and abs(found.null_ratio - 1) < 0.25 and found.p_facts < 0.02 < null.p_facts
    said = f"{found.gain:.3f} ({expected:.3f} planted), null {null.gain:+.3f} with p {null.p_facts:.2f}"
    return ok, f"{said}; shuffled over formula {found.null_ratio:.2f}"


def norm_growth() -> tuple[bool, str]:
    """200 random edits of an associative memory: the heavier the penalty, the less the norm grows and the last edit succeeds."""
    from interp.analyses.editing.algebra import spread

    growth, missed = [], []
    for held, small in ((0.1, 0.0), (10.0, 0.0), (10.0, 50.0), (10.0, 500.0)):
        rng = generator(0, "verify sequence")
        weights = torch.randn(48, 24, generator=rng, dtype=torch.float64) / 48**0.5
        first = float(weights.norm())
        key = value = weights[:1]
        for _ in range(200):
            key = torch.randn(1, 48, generator=rng, dtype=torch.float64)
            value = 5 * torch.randn(1, 24, generator=rng, dtype=torch.float64)
            one = torch.eye(48, dtype=torch.float64)
            weights = weights + spread(key, value - key @ weights, one, mom2_weight=held, norm_weight=small)
        growth.append(float(weights.norm()) / first)
        missed.append(float((key @ weights - value).norm() / value.norm()))
    falls, rises = bool((np.diff(growth) < 0).all()), bool((np.diff(missed) > 0).all())
    shown = ", ".join(f"{a:.2f} ({b:.2f})" for a, b in zip(growth, missed, strict=True))
    return falls and rises and missed[0] < 0.05 and growth[-1] < growth[0] / 2, f"growth (error): {shown}"
