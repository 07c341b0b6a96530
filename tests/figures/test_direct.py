"""The figure of direct logit attribution: the numbers it draws are the result's."""

import numpy as np
import pytest

import interp
from interp.analyses.direct import DirectLogit


@pytest.mark.parametrize("theme", ["screen", "paper"])
@pytest.mark.parametrize("parts", ["heads", "layers"])
def test_bars_and_map_show_the_means(theme, parts):
    result = DirectLogit(parts=parts)(interp.load("atlas"), interp.reference.facts("atlas", 5))
    figure = result.plot(theme=theme)
    maps = [trace for trace in figure.data if trace.type == "heatmap"]
    bars = next(trace for trace in figure.data if trace.type == "bar")
    assert len(maps) == (parts == "heads")
    if maps:
        assert np.allclose(np.asarray(maps[0].z, dtype=float), result.heads(), atol=1e-6)
    want = result.data["contribution"].mean("prompt").isel(component=result.data["kind"].values != "head")
    assert np.allclose(np.asarray(bars.x, dtype=float), want, atol=1e-9)
