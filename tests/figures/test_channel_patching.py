"""A patched channel beside its controls: what is drawn is what the result's own methods say."""

import numpy as np
import pytest
import xarray as xr

from interp.analyses.channels.steering.patch_result import AMONG, ChannelPatchingResult
from interp.analyses.readout import METRICS
from interp.core.errors import BadInput
from interp.figures.shrink import size
from interp.figures.theme import PX_PER_INCH, VENUES

from .fakes import rng, stamped


def patching(pairs=10, draws=4, variants=("none", "channel", "head", "stream"), ways=("noise",), known=True):
    """The channel takes 90 % of the logit difference with it, the whole stream 200 %, controls 5 %."""
    draw = rng(51)
    share = {"none": 0.0, "channel": 0.9, "head": 1.0, "stream": 2.0}
    fldd = np.array([share.get(name, 0.1) for name in variants])

    def table(taken):
        base = draw.uniform(3, 5, pairs)
        ld = base * (1 - taken[..., None] + np.where(taken[..., None], draw.normal(0, 0.02, (*taken.shape, pairs)), 0))
        return np.repeat(ld[..., None, :, None], len(METRICS), -1).repeat(len(ways), -3)

    score, control = table(fldd), table(np.full((2, draws), 0.05))
    look = np.stack([0.8 - 0.3 * fldd, 0.1 + 0 * fldd], -1)[:, None, None, :, None] + np.zeros(
        (1, len(ways), 1, 1, pairs)
    )
    data = {
        "score": (("variant", "direction", "pair", "metric"), score),
        "hit": (("variant", "direction", "pair", "among"), np.repeat((score[..., :1] < 1).astype(float), 3, -1)),
        "attention": (("variant", "direction", "reader", "span", "pair"), look),
        "control_score": (("control", "draw", "direction", "pair", "metric"), control),
        "control_hit": (("control", "draw", "direction", "pair", "among"), np.zeros((2, draws, len(ways), pairs, 3))),
        "control_attention": (
            ("control", "draw", "direction", "reader", "span", "pair"),
            np.broadcast_to(look[:1, None], (2, draws, *look.shape[1:])).copy(),
        ),
    }  # fmt: skip
    coords = {
        "variant": list(variants), "direction": list(ways), "control": ["same_head", "random"], "metric": list(METRICS),
        "among": list(AMONG),
        "reader": ["3.0"], "span": ["IO", "S1"], "component": ["2.0.1"], "pair": [f"p{i}" for i in range(pairs)],
        "known": ("pair", [known] * pairs),
    }  # fmt: skip
    attrs = {"site": "head", "position": "last", "layer": 3, "to": "IO", "minus": "S1", "rank": 1}
    return stamped(ChannelPatchingResult(xr.Dataset(data, coords, attrs)))


@pytest.mark.parametrize("theme", ["screen", "paper"])
@pytest.mark.parametrize(
    "make",
    [
        patching,
        lambda: patching(draws=0),
        lambda: patching(known=False, variants=("none", "channel", "head", "stream", "row", "span", "null")),
    ],
)
def test_a_figure_is_finished(make, theme):
    result = make()
    figure = result.plot(theme=theme)
    assert figure.data and size(figure) < 40_000
    assert any(result.manifest.hash in str(note.text) for note in figure.layout.annotations)
    if theme == "paper":
        assert figure.layout.width == round(VENUES["neurips"] * PX_PER_INCH) and not figure.layout.title.text
    else:
        assert ("none known" in figure.layout.title.text) == (result.n_known == 0)


def test_means_and_controls_are_those_of_the_result():
    result = patching()
    figure = result.plot()
    assert list(figure.layout.yaxis.ticktext) == [
        "channel",
        "whole heads",
        "whole stream",
        "same head's others",
        "random directions",
    ]
    destroyed = next(trace for trace in figure.data if trace.name == "variants" and trace.xaxis == "x")
    assert destroyed.x == pytest.approx([0.9, 1.0, 2.0], abs=0.05)
    assert destroyed.x == pytest.approx(result.fldd(drop=True)["mean"].values[1:], rel=1e-6)
    controls = [trace for trace in figure.data if trace.name == "controls" and trace.xaxis == "x"]
    table = result.controls("fldd", drop=True)
    assert [trace.x[0] for trace in controls] == pytest.approx(table["control_mean"].tolist())
    assert [trace.x[1] for trace in controls] == pytest.approx(table["control_best"].tolist())
    assert all(trace.y[0] < min(destroyed.y) for trace in controls)
    assert any(shape.x0 == 1.0 and shape.name == "reference" for shape in figure.layout.shapes)


def test_a_direction_is_chosen_or_refused():
    both = patching(ways=("noise", "denoise"))
    assert "clean into corrupted" in both.plot(direction="denoise").layout.title.text
    with pytest.raises(BadInput, match="noise"):
        patching().plot(direction="denoise")
