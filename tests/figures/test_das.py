"""The figure of DAS: bars for one layer, lines for several; what it draws is the result's."""

import numpy as np
import pytest
import xarray as xr

from interp.analyses.das import VARIANTS, DASResult

from .fakes import rng, stamped


def made(layers: int) -> DASResult:
    hit = (rng().random((layers, len(VARIANTS), 30)) < 0.5).astype(float)
    hit[:, VARIANTS.index("trained")] = 1.0
    hit[:, VARIANTS.index("row")] = hit[:, VARIANTS.index("null")] = 0.0
    data = xr.Dataset(
        {
            "hit": (("layer", "variant", "pair"), hit),
            "null_dims": ("layer", [1] * layers),
            "row_dims": ("layer", [1] * layers),
        },
        {"layer": list(range(layers)), "variant": list(VARIANTS), "pair": [str(i) for i in range(30)]},
        {"kind": "resid_post", "position": "last", "k": 1, "head": -1},
    )
    return stamped(DASResult(data))


@pytest.mark.parametrize("theme", ["screen", "paper"])
@pytest.mark.parametrize("layers", [1, 6])
def test_accuracies_are_drawn_and_illusions_marked(theme, layers):
    result = made(layers)
    figure = result.plot(theme=theme)
    if layers == 1:
        bars = next(trace for trace in figure.data if trace.type == "bar")
        assert max(bars.y) == 1.0 and len(bars.y) == len(VARIANTS)
    else:
        line = next(
            trace
            for trace in figure.data
            if trace.name == "trained" and trace.mode and "lines" in trace.mode and trace.fill is None
        )
        assert np.allclose(line.y, 1.0)
        assert len(next(trace for trace in figure.data if trace.name == "illusion").x) == layers
