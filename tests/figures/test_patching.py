"""Pictures of patching: both directions side by side, significant cells outlined, nothing clipped, every layout in both themes."""

import numpy as np
import plotly.graph_objects as go
import pytest
import xarray as xr

from interp.analyses.patching import PatchingResult
from interp.analyses.readout import METRICS
from interp.core.errors import BadInput
from interp.figures.outline import outline
from interp.figures.shrink import BUDGET, size
from interp.figures.theme import PX_PER_INCH, VENUES

from .fakes import rng, stamped

TOKENS = ["<bos>", "␣Ann", "␣and", "␣Bob", "␣met", "␣Ann", "␣gave", "␣to"]
ROLES = ["bos", "IO", "after IO", "S1", "after S1", "S2", "after S2", "last"]


def fake(over="layer head", kinds=("z",), pairs=14, layers=6, heads=4, known=None, window=1):
    """Head 3.1 (or the last token from layer 3 on) carries the answer; everything else is noise around nothing."""
    sizes = {"layer": layers, "head": heads, "pos": 8, "place": 3}
    dims = ["place" if "place" in over and name == "pos" else name for name in over.replace("place", "pos").split()]
    shape = [sizes[name] for name in dims]
    data = {}
    for number, kind in enumerate(kinds):
        effect = rng(number).normal(0, 0.02, (pairs, 2, *shape, 4))
        at = tuple({"layer": slice(3, None), "head": 1, "pos": -1, "place": -1}[name] for name in dims)
        effect[(slice(None), slice(None), *at)] += 4.0
        axes = tuple("kv_head" if name == "head" and kind in "kv" else name for name in dims)
        low, high = np.full((pairs, 4), -3.0), np.full((pairs, 4), 3.0)
        ends = (low.reshape(pairs, 1, *[1] * len(shape), 4), high.reshape(pairs, 1, *[1] * len(shape), 4))
        score = np.concatenate([ends[0] + effect[:, :1], ends[1] - effect[:, 1:]], axis=1)
        data[kind] = (("pair", "direction", *axes, "metric"), score)
    corrupted = [*TOKENS[:5], "␣Bob", *TOKENS[6:]]
    data |= {
        "low": (("pair", "metric"), low), "high": (("pair", "metric"), high), "token": (("pair", "pos"), np.array([TOKENS] * pairs)),
        "token_corrupted": (("pair", "pos"), np.array([corrupted] * pairs)), "role": (("pair", "pos"), np.array([ROLES] * pairs)),
        "n_pos": ("pair", [8] * pairs), "first_changed": ("pair", [5] * pairs),
    }  # fmt: skip
    flags = np.arange(pairs) < (pairs if known is None else known)
    coords = {
        "pair": [f"pair-{i}" for i in range(pairs)], "direction": ["denoise", "noise"], "layer": np.arange(layers), "pos": np.arange(8),
        "metric": list(METRICS), "known": ("pair", flags), "answer": ("pair", ["␣Ann"] * pairs), "foil": ("pair", ["␣Bob"] * pairs),
    }  # fmt: skip
    coords |= {"place": ["S1", "S2", "last"]} if "place" in dims else {}
    attrs = {"kinds": list(kinds), "over": [over] * len(kinds), "window": window}
    return stamped(PatchingResult(xr.Dataset(data, coords=coords, attrs=attrs)))


def heatmaps(figure):
    return [trace for trace in figure.data if trace.type == "heatmap"]


def notes(figure, name):
    return [str(note.text) for note in figure.layout.annotations if note.name == name]


LAYOUTS = [
    ("layer head", ("z",), {}), ("layer head", ("k", "v"), {}), ("layer pos", ("resid_pre", "attn_out", "mlp_out"), {}),
    ("layer pos", ("resid_pre",), {"by": "token"}), ("layer place", ("attn_out", "mlp_out"), {}), ("layer head place", ("z",), {}),
    ("layer head pos", ("z",), {}), ("layer", ("attn_out", "mlp_out"), {}), ("layer pos", ("mlp_out",), {"by": "line"}),
    ("layer place", ("mlp_out",), {"normalise": True}),
]  # fmt: skip


@pytest.mark.parametrize("theme", ["screen", "paper"])
@pytest.mark.parametrize(("over", "kinds", "options"), LAYOUTS)
def test_every_layout_is_finished(over, kinds, options, theme):
    result = fake(over, kinds)
    figure = result.plot(theme=theme, **options)
    assert isinstance(figure, go.Figure) and size(figure) < BUDGET
    titles = notes(figure, "panel title")
    assert len(titles) == 2 * len(kinds) and "denoise" in titles[0] and "noise" in titles[1]
    assert any(result.manifest.hash in text for text in notes(figure, "footer"))
    if theme == "paper":
        assert figure.layout.width == round(VENUES["neurips"] * PX_PER_INCH) and not figure.layout.title.text
    for trace in heatmaps(figure):
        assert trace.zmin == -trace.zmax and trace.zmid == 0 and trace.z.dtype == np.float32


def test_planted_cells_are_outlined_and_nothing_else_is():
    result = fake()
    figure = result.plot()
    marks = [trace for trace in figure.data if trace.name == "significant"]
    test = result.significant()["significant"].sel(direction="noise").values
    assert test.sum() == 3 and test[3:, 1].all()
    assert len(marks) == 2 and marks[1].x == outline(test).x
    assert "p ≤ 0.05, Holm" in notes(figure, "note")[0]
    assert np.allclose(heatmaps(figure)[1].z, result.mean()["mean"].sel(direction="noise").values)
    assert not [trace for trace in result.plot(test="none").data if trace.name == "significant"]
    few = fake(pairs=3).plot()
    assert "too few pairs" in notes(few, "note")[0] and len(few.data) == 2


def test_one_pair_shows_what_each_token_was_changed_to():
    result = fake("layer pos", ("resid_pre",))
    figure = result.plot(by="token", pair="pair-2")
    names = list(figure.layout.yaxis.ticktext)
    assert names[5] == "␣Ann → ␣Bob" and names[1] == "␣Ann" and names[0] == "&lt;bos&gt;"
    want = result.effects().sel(pair="pair-2", metric="logit_diff", direction="denoise").transpose("pos", "layer")
    assert np.allclose(heatmaps(figure)[0].z, want) and "total 6" in heatmaps(figure)[1].colorbar.title.text
    with pytest.raises(BadInput, match="0 to 13"):
        result.plot(by="token", pair=14)
    with pytest.raises(BadInput, match="position by position"):
        fake().plot(by="token")


def test_what_cannot_be_drawn_is_refused():
    with pytest.raises(BadInput, match="no order"):
        fake().plot(by="line")
    with pytest.raises(BadInput, match="'z'"):
        fake().plot(kind="q")
    for options, match in (({"metric": "logit"}, "logit_diff"), ({"by": "maps"}, "map"), ({"test": "fdr"}, "holm")):
        with pytest.raises(BadInput, match=match):
            fake().plot(**options)
    assert "none known" in fake(known=0).plot().layout.title.text
