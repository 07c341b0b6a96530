"""The figure of component masks: the map is the frequency of selection, the bars the accuracies."""

import numpy as np
import pytest
import xarray as xr

from interp.analyses.masking import VARIANTS, MaskResult

from .fakes import rng, stamped


def made(mlps: bool) -> MaskResult:
    names = [f"{layer}.{head}" for layer in range(3) for head in range(4)] + (
        [f"mlp {layer}" for layer in range(3)] if mlps else []
    )
    layer = [int(name.split()[-1].split(".")[0]) for name in names]
    head = [-1 if name.startswith("mlp") else int(name.split(".")[1]) for name in names]
    weight = rng().random((3, len(names)))
    hit = np.broadcast_to(np.array([0.95, 0.0, 1.0, 0.2])[:, None], (3, 4, 20)) + 0 * rng().random((3, 4, 20))
    return stamped(MaskResult(xr.Dataset(
        {"weight": (("seed", "component"), weight), "kept": (("seed", "component"), weight > 0.5),
         "hit": (("seed", "variant", "desideratum"), hit)},
        {"seed": [0, 1, 2], "component": names, "layer": ("component", layer), "head": ("component", head), "variant": list(VARIANTS),
         "desideratum": [str(i) for i in range(20)]},
        {"position": "last", "floor": 0.0, "penalty": 0.01},
    )))  # fmt: skip


@pytest.mark.parametrize("theme", ["screen", "paper"])
@pytest.mark.parametrize("mlps", [True, False])
def test_frequencies_and_accuracies_are_drawn(theme, mlps):
    result = made(mlps)
    figure = result.plot(theme=theme)
    values = np.asarray(next(trace for trace in figure.data if trace.type == "heatmap").z, dtype=float)
    assert values.shape == (3, 4 + mlps)
    assert np.allclose(values[1, 2], result.frequency().sel(component="1.2"))
    bars = next(trace for trace in figure.data if trace.type == "bar")
    assert bars.y[0] == pytest.approx(0.95) and bars.y[1] == 0.0
