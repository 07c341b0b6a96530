"""Able against does: a point a channel, the ends named, silence below the line; and what one reader hears."""

import numpy as np
import pytest
import xarray as xr

from interp.analyses.channels.use.result import ChannelUseResult
from interp.core.errors import BadInput
from interp.figures import channel_use
from interp.figures.shrink import size
from interp.figures.theme import PX_PER_INCH, VENUES

from .fakes import rng, stamped

LINKS = ("Q 2.1", "V 2.0")


def use(prompts=6, components=12, zero=False):
    """One channel that could and does, one that could and does not, and the other components of their heads."""
    draw = rng(31)
    names = [(f"0.3.{i}", "0.3", "Q 2.1", i) for i in range(components)] + [
        (f"1.2.{i}", "1.2", "V 2.0", i) for i in range(components)
    ]
    count = len(names)
    able, part = draw.uniform(0.5, 1.5, count) / 8, draw.uniform(0.001, 0.006, count)
    able[2], part[2], able[components + 4], part[components + 4] = 0.5, 0.4, 0.45, 0.0005
    if zero:
        part[5] = 0.0
    link = np.array([name[2] for name in names])
    total = np.where(link == LINKS[0], 2.0, 5.0)
    jitter = draw.uniform(0.9, 1.1, (prompts, count))
    sources = ["embed", "0.3", "1.2", "mlp 0"]
    shares = draw.normal([0.2, 0.5, -0.1, 0.4], 0.02, (prompts, 2, 4))
    spans = np.zeros((prompts, count, 2))
    data = {
        "able": ("channel", able), "able_z": ("channel", able * 20), "value": ("channel", np.ones(count)),
        "write": (("prompt", "channel", "span"), spans), "loud": (("prompt", "channel"), jitter),
        "head_share": (("prompt", "channel"), jitter),
        "read": (("prompt", "channel", "span"), spans), "share": (("prompt", "channel"), part * jitter),
        "size": (("prompt", "channel"), part * total * jitter), "total": (("prompt", "link"), np.tile([2.0, 5.0], (prompts, 1))),
        "source_read": (("prompt", "link", "source", "span"), np.zeros((prompts, 2, 4, 2))),
        "source_share": (("prompt", "link", "source"), shares), "remainder": (("prompt", "link"), np.zeros((prompts, 2))),
    }  # fmt: skip
    chosen = np.zeros(count, dtype=bool)
    chosen[[2, components + 4]] = True
    coords = {
        "prompt": [f"p{i}" for i in range(prompts)], "channel": [f"{name[0]} {name[2]}" for name in names],
        "writer": ("channel", [name[0] for name in names]),
        "channel_head": ("channel", [name[1] for name in names]), "index": ("channel", [name[3] for name in names]),
        "channel_kind": ("channel", [name[2][0] for name in names]), "channel_link": ("channel", link), "chosen": ("channel", chosen),
        "link": list(LINKS), "kind": ("link", ["Q", "V"]), "reader": ("link", ["2.1", "2.0"]), "source": sources,
        "source_kind": ("source", ["embed", "head", "head", "mlp"]), "span": ["IO", "S1"],
    }  # fmt: skip
    return stamped(
        ChannelUseResult(xr.Dataset(data, coords, {"null": 1 / 8, "query": "last", "offset": -1, "folded": True}))
    )


def named(figure):
    return {note.text: note for note in figure.layout.annotations if note.name == "named"}


@pytest.mark.parametrize("theme", ["screen", "paper"])
@pytest.mark.parametrize("options", [{}, {"by": "sources"}])
def test_a_figure_is_finished(options, theme):
    result = use()
    figure = channel_use.plot(result, theme=theme, **options)
    assert figure.data and size(figure) < 60_000
    assert any(result.manifest.hash in str(note.text) for note in figure.layout.annotations)
    if theme == "paper":
        assert figure.layout.width == round(VENUES["neurips"] * PX_PER_INCH) and not figure.layout.title.text
    else:
        assert figure.layout.title.text


def test_one_point_a_channel_and_the_ends_named():
    figure = channel_use.plot(use())
    points = {trace.name: trace for trace in figure.data}
    assert len(points["other components of these heads"].x) == 22
    talks, silent = points["read as query"], points["read as value"]
    assert (talks.x[0], talks.y[0]) == (pytest.approx(4.0, rel=1e-5), pytest.approx(0.4, rel=0.1))
    assert silent.x[0] == pytest.approx(3.6, rel=1e-5) and silent.y[0] < channel_use.SILENT
    assert {"0.3.2 Q 2.1", "1.2.4 V 2.0"} <= set(named(figure))
    assert any(shape.y0 == channel_use.SILENT for shape in figure.layout.shapes)


def test_channels_that_say_nothing_stay_in_the_picture():
    figure = channel_use.plot(use(zero=True))
    points = next(trace for trace in figure.data if trace.name.startswith("other"))
    lowest = int(np.argmin(points.y))
    assert points.customdata[lowest, 0] == 0 and points.y[lowest] > 0 and len(points.x) == 22
    assert any("zeros at the bottom" in str(note.text) for note in figure.layout.annotations)
    assert figure.layout.yaxis.range[0] < np.log10(points.y[lowest])


def test_a_reader_and_what_it_hears():
    figure = channel_use.plot(use(), by="sources", link="V 2.0", n=3)
    assert sum(len(trace.x) for trace in figure.data) == 3 and "3 of 4 sources" in figure.layout.title.text
    assert (
        "length" in figure.layout.xaxis.title.text and figure.layout.yaxis.ticktext[-1] == "0.3"
    )  # the largest on top
    for options, said in (({"by": "sources", "link": "Q 9.9"}, "Q 2.1"), ({"by": "can"}, "able")):
        with pytest.raises(BadInput, match=said):
            channel_use.plot(use(), **options)
