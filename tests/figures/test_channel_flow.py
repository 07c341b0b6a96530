"""Graphs of channels: who writes stands below who reads, what is strong is wide, and what is asked for is drawn or refused."""

import numpy as np
import pytest
import xarray as xr

from interp.analyses.channels.discovery.result import ChannelCircuitResult
from interp.core.errors import BadInput
from interp.figures import channel_flow
from interp.figures.shrink import size
from interp.figures.theme import PX_PER_INCH, VENUES

from . import channel_fakes as fakes
from .fakes import stamped

ROWS = (
    ("0.3.0-1", "V", "2.1", 4.0),
    ("0.3", "K", "1.2", 2.0),
    ("2.1.5", "Q", "3.0", 6.0),
    ("1.2.3", "Q@4", "3.0", 3.0),
)


def circuit(rows=ROWS, start="3.0"):
    """A circuit with a block of two components, a whole head and single components."""
    n = len(rows)
    numbers = {
        name: ("edge", np.linspace(-5, -1, n))
        for name in ("log10_p", "log10_adjusted", "log10_null", "value", "gap", "cosine", "z")
    }
    data = {"score": ("edge", np.array([row[3] for row in rows]) / 8), "step": ("edge", np.full(n, -1)), **numbers}
    data |= {"kept": ("family", [n]), "tests": ("family", [100])}
    coords = {
        "edge": [f"{a}>{kind}:{b}" for a, kind, b, _ in rows], "source": ("edge", [row[0] for row in rows]),
        "kind": ("edge", [row[1] for row in rows]), "destination": ("edge", [row[2] for row in rows]),
        "through": ("edge", [""] * n), "family": ["upstream 1"],
    }  # fmt: skip
    return stamped(ChannelCircuitResult(xr.Dataset(data, coords, {"start": start, "free": 64, "notes": []})))


def lines(figure):
    return [trace for trace in figure.data if trace.name == "channel"]


def named(figure, name):
    return [note.text for note in figure.layout.annotations if note.name == name]


@pytest.mark.parametrize("theme", ["screen", "paper"])
@pytest.mark.parametrize("make", [circuit, fakes.channels, lambda: circuit(())])
def test_a_figure_is_finished(make, theme):
    result = make()
    figure = channel_flow.plot(result, theme=theme)
    assert figure.data and size(figure) < 100_000
    assert any(result.manifest.hash in str(note.text) for note in figure.layout.annotations)
    if theme == "paper":
        assert figure.layout.width == round(VENUES["neurips"] * PX_PER_INCH) and not figure.layout.title.text
    else:
        assert figure.layout.title.text


def test_a_circuit_shows_its_heads_channels_and_start():
    figure = channel_flow.plot(circuit())
    nodes = next(trace for trace in figure.data if trace.mode == "markers+text")
    assert sorted(nodes.text) == ["0.3", "1.2", "2.1", "3.0"]
    assert all(line.y[0] < line.y[-1] for line in lines(figure)) and len(lines(figure)) == 4  # writers below
    widest = max(lines(figure), key=lambda line: line.line.width)
    assert "2.1.5 → Q of 3.0" in widest.hovertemplate
    assert sorted(named(figure, "component")) == ["0-1", "3", "5"]  # the whole head has no number
    width = dict(zip(nodes.text, nodes.marker.line.width, strict=True))
    assert width["3.0"] == 3 and width["0.3"] == 1
    assert {trace.name for trace in figure.data if trace.x[0] is None} == {
        "read as key",
        "read as query",
        "read as value",
    }
    assert figure.layout.title.text == "4 channels between 4 heads, from 3.0"


def test_the_strongest_of_a_table_are_drawn():
    figure = channel_flow.plot(fakes.channels(), n=4)
    told = " ".join(line.hovertemplate for line in lines(figure))
    assert all(
        name in told for name in ("1.2.1 → Q of 3.1", "0.3.4 → Q of 2.0", "0.1.2 → K of 1.3", "1.0.0 → V of 2.2")
    )
    assert figure.layout.title.text == "4 of 40 channels between 8 heads"


def test_roles_have_their_colours():
    figure = channel_flow.plot(circuit(), roles={"mover": ["3.0"], "pointer": [(2, 1)], "absent": ["9.9"]})
    groups = {trace.name: trace for trace in figure.data if trace.mode == "markers+text"}
    assert list(groups["mover"].text) == ["3.0"] and groups["pointer"].showlegend and "absent" not in groups
    assert groups["mover"].marker.color != groups["pointer"].marker.color != "#ffffff"


def test_nothing_found_is_said():
    assert named(channel_flow.plot(circuit((), start="")), "nothing") == ["no channel was found"]


def test_what_cannot_be_drawn_is_refused():
    for options, said in (
        ({"n": 500}, "1 to 80"),
        ({"n": 0}, "1 to 80"),
        ({"roles": {"mover": ["nine"]}}, r"'nine'.*8\.10"),
    ):
        with pytest.raises(BadInput, match=said):
            channel_flow.plot(circuit(), **options)
    with pytest.raises(BadInput, match="no list of channels"):
        channel_flow.plot(fakes.steering())


def test_the_largest_graph_keeps_its_budget():
    assert size(channel_flow.plot(fakes.channels(12, 12, 6, top=80), n=80)) < 150_000


def test_all_that_a_table_lists_are_counted():
    figure = channel_flow.plot(fakes.channels(6, 6, top=120), n=20)
    assert "20 of 120 channels" in figure.layout.title.text
