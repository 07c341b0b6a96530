"""The figure of cross-model patching: maps of recovered shares, whole layers beside the heads."""

import numpy as np
import pytest
import xarray as xr

from interp.analyses.crossmodel import CrossModelResult
from interp.core.errors import BadInput

from .fakes import rng, stamped


def made(layers: int = 3, heads: int = 4, prompts: int = 12) -> CrossModelResult:
    names = [("z", layer, head) for layer in range(layers) for head in range(heads)] + [
        (kind, layer, -1) for kind in ("attn_out", "mlp_out") for layer in range(layers)
    ]
    share = rng().random(len(names))
    alone = np.zeros((2, prompts, 4))
    alone[1] = 1 + rng(1).random((prompts, 4))
    score = np.stack([share[:, None, None] * alone[1], (1 - share)[:, None, None] * alone[1]])
    data = xr.Dataset(
        {"score": (("direction", "component", "prompt", "metric"), score), "alone": (("model", "prompt", "metric"), alone)},
        {
            "direction": ["into first", "into second"], "model": ["first", "second"],
            "component": [f"{kind} {layer}" + (f".{head}" if head >= 0 else "") for kind, layer, head in names],
            "kind": ("component", [name[0] for name in names]), "of_layer": ("component", [name[1] for name in names]),
            "head": ("component", [name[2] for name in names]), "prompt": [str(i) for i in range(prompts)],
            "metric": ["prob", "logprob", "logit_diff", "rank"],
        },
        {"first": "base", "second": "tuned", "position": "last", "barrier": 0.0},
    )  # fmt: skip
    return stamped(CrossModelResult(data))


@pytest.mark.parametrize("theme", ["screen", "paper"])
@pytest.mark.parametrize("direction", ["into first", "into second"])
def test_maps_show_the_recovered_shares(theme, direction):
    result = made()
    figure = result.plot(theme=theme, direction=direction)
    maps = [trace for trace in figure.data if trace.type == "heatmap"]
    table = result.recovered("logprob").sel(direction=direction)["mean"]
    assert len(maps) == 2
    assert np.asarray(maps[0].z, dtype=float)[2, 1] == pytest.approx(float(table.sel(component="z 2.1")), abs=1e-6)
    assert np.asarray(maps[1].z, dtype=float)[1, 1] == pytest.approx(float(table.sel(component="mlp_out 1")), abs=1e-6)


def test_where_the_models_hardly_differ_the_change_itself_is_drawn():
    result = made()
    result.data["alone"][1] = result.data["alone"][0] + 1e-3 * rng(3).normal(size=(12, 4))
    figure = result.plot()
    table = result.moved("logprob").sel(direction="into first")["mean"]
    drawn = next(trace for trace in figure.data if trace.type == "heatmap")
    assert np.asarray(drawn.z, dtype=float)[2, 1] == pytest.approx(float(table.sel(component="z 2.1")), abs=1e-6)
    with pytest.raises(BadInput, match="standard error"):
        result.plot(unit="share")


def test_a_direction_that_is_none_is_refused():
    with pytest.raises(BadInput, match="into first"):
        made().plot(direction="there")
