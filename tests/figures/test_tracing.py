"""Traces in both directions, outlines of significant cells, controls, and scenario labels."""

import numpy as np
import pytest
import xarray as xr

from interp.analyses.scenarios import SCENARIOS, ScenarioResult
from interp.analyses.tracing import TraceResult
from interp.core.errors import BadInput
from interp.figures.outline import outline

from . import fakes


def both(prompts=14):
    """A trace in both directions, noising half as strong, with controls at two roles."""
    one = fakes.trace(prompts=prompts)
    score, high = one.data["score"], one.data["high"]
    noised = high - 0.5 * one.effects()
    data = one.data.drop_vars("score").assign(
        score=xr.concat([score, noised], dim=xr.DataArray(["denoise", "noise"], dims="direction", name="direction"))
    )
    data["control"] = data["score"].where(data["role"].isin(["last", "last subject"])) * 0.5
    return fakes.stamped(TraceResult(data.assign_attrs(one.data.attrs, window_rule="code")), window=2)


def scenarios():
    rng = fakes.rng(3)
    data = {"label": ("prompt", np.array(SCENARIOS)[rng.integers(0, 3, 40)])}
    flags = ("fact", "confident", "overlap", "name_bias", "prompt_bias", "correct")
    data |= {name: ("prompt", rng.uniform(size=40) < 0.5) for name in flags}
    data["agreement"] = ("prompt", rng.uniform(size=40))
    return fakes.stamped(ScenarioResult(xr.Dataset(data, {"prompt": [f"p{i}" for i in range(40)]})))


def kinds_of(figure):
    return [trace.type for trace in figure.data]


@pytest.mark.parametrize("theme", ["screen", "paper"])
def test_a_panel_for_each_kind_and_direction(theme):
    result = both()
    figure = result.plot(theme=theme)
    maps = [trace for trace in figure.data if trace.type == "heatmap"]
    assert len(maps) == 6 and {trace.zmax for trace in maps} == {maps[0].zmax}
    titles = [note.text for note in figure.layout.annotations if note.name == "panel title"]
    assert sum("restored" in title for title in titles) == sum("broken" in title for title in titles) == 3
    noised = result.by_role(direction="noise")["mean"].sel(kind="mlp").values
    assert np.allclose(maps[4].z, noised, atol=1e-6)
    alone = result.plot(theme=theme, direction="noise", by="token")
    assert kinds_of(alone) == ["heatmap"] * 3
    with pytest.raises(BadInput, match="denoise"):
        result.plot(direction="back")


def test_significant_cells_are_outlined_and_nothing_else_is():
    result = both()
    figure = result.plot(direction="denoise")
    lines = [trace for trace in figure.data if trace.type == "scatter"]
    test = result.significant()
    assert test.attrs["attainable"] and len(lines) == 3
    for trace, kind in zip(lines, ("hidden", "mlp", "attn"), strict=True):
        wanted = outline(test["significant"].sel(kind=kind).transpose("role", "layer").values)
        assert trace.x == wanted.x and trace.y == wanted.y
    assert "outlined: p < 0.05" in next(trace for trace in figure.data if trace.showscale).colorbar.title.text
    assert kinds_of(result.plot(direction="denoise", alpha=None)) == ["heatmap"] * 3
    few = fakes.trace()  # three known prompts cannot show anything
    assert kinds_of(few.plot()) == ["heatmap"] * 3


def test_an_outline_goes_around_regions_only():
    mask = np.zeros((3, 4), dtype=bool)
    mask[1, 1:3] = True
    trace = outline(mask)
    edges = {tuple(sorted(zip(trace.x[i : i + 2], trace.y[i : i + 2], strict=True))) for i in range(0, len(trace.x), 3)}
    assert len(edges) == 6  # two cells side by side: no line between them
    assert ((0.5, 0.5), (0.5, 1.5)) in edges and ((1.5, 0.5), (1.5, 1.5)) not in edges
    assert {x for edge in edges for x, _ in edge} == {0.5, 1.5, 2.5} and {y for edge in edges for _, y in edge} == {
        0.5,
        1.5,
    }
    shifted = outline(mask, x=[4, 5, 6, 7])
    assert min(x for x in shifted.x if x is not None) == 4.5 and not outline(np.zeros((2, 2), bool)).x


def test_controls_are_dotted_lines():
    figure = both().plot(by="line", direction="denoise")
    controls = [trace for trace in figure.data if trace.name == "another prompt's value"]
    assert len(controls) == 6 and {trace.line.dash for trace in controls} == {"dot"}
    assert sum(bool(trace.showlegend) for trace in controls) == 1
    assert not [trace for trace in fakes.trace().plot(by="line").data if trace.name == "another prompt's value"]


@pytest.mark.parametrize("theme", ["screen", "paper"])
def test_scenarios(theme):
    result = scenarios()
    figure = result.plot(theme=theme)
    bars, shares = figure.data
    assert list(bars.x) == [result.counts()[name] for name in SCENARIOS] and sum(bars.x) == 40
    assert np.allclose(shares.z, result.shares().values, equal_nan=True) and shares.zmax == 1.0
    assert any(result.manifest.hash in str(note.text) for note in figure.layout.annotations)
