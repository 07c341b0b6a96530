"""Maps of paths and pictures of circuits: what must be in them, in both themes."""

import numpy as np
import pytest
import xarray as xr

from interp.analyses.circuits import Circuit, CircuitResult, DiscoveryResult
from interp.analyses.circuits.bench import MEASURES
from interp.analyses.paths import PathResult
from interp.analyses.readout import METRICS
from interp.core.errors import BadInput
from interp.figures.shrink import size
from interp.figures.theme import PX_PER_INCH, VENUES

from .fakes import rng, stamped

TEXT = "movers@last>logits=2.0+2.1, inhibition@last>q:movers=1.1, duplicates@S2>v:inhibition"
RULE = "other heads held, MLPs recomputed"


def pairs_of(n, known=True, name="pair"):
    return {
        name: [f"p{i}" for i in range(n)], "known": (name, [known] * n), "answer": (name, ["␣Mary"] * n), "foil": (name, ["␣John"] * n),
        "predicted": (name, ["␣Mary"] * n),
    }  # fmt: skip


def paths(pairs=12, receivers=("logits",), mlps=False, known=True):
    draw = rng(2)
    clean = np.tile(np.array([0.8, -0.2, 5.0, 0.0]), (pairs, 1))
    score = clean[:, None, None, None, None] - draw.normal(0, 0.01, (pairs, len(receivers), 1, 3, 4, 4))
    score[:, :, :, 2, 1, 2] -= 2.0
    score[:, :, :, 1, 3, 2] += 0.7
    data = {
        "score": (("pair", "receiver", "role", "layer", "head", "metric"), score), "clean": (("pair", "metric"), clean),
        "corrupted": (("pair", "metric"), clean - [0.7, 2.0, 9.0, -5.0]),
    }  # fmt: skip
    if mlps:
        data["score_mlp"] = (("pair", "receiver", "role", "layer", "metric"), score[:, :, :, :, 0])
    coords = {
        "receiver": list(receivers), "role": ["own"], "layer": np.arange(3), "head": np.arange(4), "metric": list(METRICS),
        **pairs_of(pairs, known),
    }  # fmt: skip
    return stamped(
        PathResult(xr.Dataset(data, coords, {"freeze": RULE, "direction": "noising", "receivers": list(receivers)}))
    )


def edge_parts(dim, n):
    effect = np.array([[3.0], [1.0], [2.0], [-1.0]]) + rng(3).normal(0, 0.1, (4, n))
    coords = {
        "source": ("edge", ["movers 2.0", "movers 2.1", "inhibition 1.1", "inhibition 1.1"]),
        "target": ("edge", ["logits", "logits", "movers q:2.0", "movers q:2.1"]),
        "listeners": ("edge", ["", "", "movers:2.0", "movers:2.1"]),
    }
    return {"edge_effect": (("edge", dim), effect)}, coords


def discovery(pairs=12):
    circuit = Circuit.parse(TEXT)
    parts, coords = edge_parts("pair", pairs)
    effect = rng(4).normal(0, 0.1, (pairs, 3, 3, 4, 4))
    data = {
        "effect": (("pair", "step", "layer", "head", "metric"), effect), "clean": (("pair", "metric"), np.ones((pairs, 4))),
        "corrupted": (("pair", "metric"), np.zeros((pairs, 4))), **parts,
    }  # fmt: skip
    coords |= {
        "step": [group.name for group in circuit.groups],
        "layer": np.arange(3),
        "head": np.arange(4),
        "metric": list(METRICS),
    }
    attrs = {"circuit": circuit.to_json(), "metric": "logit_diff", "freeze": RULE, "given": pairs, "notes": []}
    return stamped(DiscoveryResult(xr.Dataset(data, coords | pairs_of(pairs), attrs)))


def evaluation(prompts=10, edges=True, model=1.0):
    circuit = Circuit.parse(TEXT)
    names = ["model", "open", "circuit", "empty", "random 0", "random 1", "minimal"]
    level = model * np.array([1.0, 0.95, 0.9, 0.1, 0.2, 0.3, 0.85])
    score = np.zeros((len(names), prompts, len(MEASURES)))
    score[:, :, 2] = 5 * level[:, None]
    score[:, :, 4] = np.arange(prompts) < np.round(level * prompts)[:, None]
    without = np.zeros((3, prompts, len(MEASURES)))
    without[:, :, 4] = np.arange(prompts) < np.array([5, 7, 2])[:, None]
    parts, coords = edge_parts("found", prompts) if edges else ({}, {})
    data = {
        "score": (("variant", "prompt", "measure"), score), "heads": ("variant", [-1, -1, 3, 0, 3, 3, 2]),
        "circuit_without": (("draw", "prompt", "measure"), without), "model_without": (("draw", "prompt", "measure"), without[::-1]),
        **parts,
        "keep": ("node", [True, True, False]),
    }  # fmt: skip
    coords |= {
        "variant": names, "measure": list(MEASURES), "draw": ["half 0", "half 1", "movers"],
        "draw_kind": ("draw", ["half", "half", "group"]),
        "draw_size": ("draw", [1, 1, 2]), **pairs_of(prompts, name="prompt"),
    }  # fmt: skip
    attrs = {"circuit": circuit.to_json(), "accuracy": "top", "chance": 0.5, "overlap": 0.1, "discovered": edges}
    attrs |= {"freeze": RULE} if edges else {}
    return stamped(CircuitResult(xr.Dataset(data, coords, attrs)))


def texts(figure):
    return [str(note.text) for note in figure.layout.annotations]


@pytest.mark.parametrize("theme", ["screen", "paper"])
@pytest.mark.parametrize(
    "make", [paths, lambda: paths(mlps=True), discovery, evaluation, lambda: evaluation(edges=False)]
)
def test_a_figure_is_finished(make, theme):
    result = make()
    figure = result.plot(theme=theme)
    assert figure.data and size(figure) < 100_000
    said = texts(figure)
    assert any(result.manifest.hash in text for text in said)
    assert (
        any(RULE in text for text in said) or "freeze" not in result.data.attrs
    )  # the rule stays with the picture, on paper too
    if theme == "paper":
        assert figure.layout.width == round(VENUES["neurips"] * PX_PER_INCH) and not figure.layout.title.text
    else:
        assert figure.layout.title.text


def test_a_map_shows_effects_and_outlines_what_is_significant():
    figure = paths().plot()
    grid = next(trace for trace in figure.data if trace.type == "heatmap")
    assert grid.z[2, 1] == pytest.approx(2.0, abs=0.02) and grid.z[1, 3] == pytest.approx(-0.7, abs=0.02)
    lines = next(trace for trace in figure.data if trace.name == "significant")
    assert {x for x in lines.x if x is not None} >= {0.5, 1.5, 2.5, 3.5}
    assert any("outlined: p ≤ 0.05" in text for text in texts(figure))


def test_too_few_pairs_are_said_not_outlined():
    figure = paths(pairs=4).plot()
    assert not [x for x in next(trace for trace in figure.data if trace.name == "significant").x if x is not None]
    assert any("too few pairs" in text for text in texts(figure))


def test_mlps_stand_in_the_last_column_and_unknown_pairs_are_said():
    figure = paths(mlps=True, known=False).plot(metric="relative")
    grid = next(trace for trace in figure.data if trace.type == "heatmap")
    assert grid.z.shape == (3, 5) and figure.layout.xaxis.ticktext[-1] == "MLP"
    assert "none known" in figure.layout.title.text


def test_many_maps_must_be_chosen_from():
    result = paths(receivers=("q:2.0@last", "q:2.1@last", "k:2.0@S1", "k:2.1@S1", "v:2.0@S2"))
    with pytest.raises(BadInput, match="5 maps"):
        result.plot()
    assert len([t for t in result.plot(receiver="k:2.1@S1").data if t.type == "heatmap"]) == 1
    with pytest.raises(BadInput, match="receiver"):
        result.plot(receiver="q:9.9")
    with pytest.raises(BadInput, match="metric"):
        result.plot(metric="kl")


def test_a_circuit_shows_its_heads_paths_and_empty_groups():
    figure = discovery().plot()
    nodes = next(trace for trace in figure.data if trace.name == "heads")
    assert sorted(nodes.text) == ["1.1", "2.0", "2.1", "logits"]
    lines = [trace for trace in figure.data if trace.mode == "lines"]
    assert len(lines) == 4 and len({trace.line.color for trace in lines}) == 2  # for and against
    widest = max(lines, key=lambda trace: trace.line.width)
    assert widest.name == "movers 2.0 to logits"
    assert any(note.text == "none" for note in figure.layout.annotations)  # duplicates were looked for


def test_an_evaluation_shows_floors_and_ceiling():
    result = evaluation()
    figure = result.plot()
    bars = [trace for trace in figure.data if trace.type == "bar"]
    assert len(bars) == 2 and figure.layout.yaxis2.ticktext == (
        "all heads there",
        "circuit",
        "minimal",
        "random",
        "empty",
    )
    assert bars[0].x.tolist() == pytest.approx([1.0, 0.9, 0.8, 0.25, 0.1], abs=0.11)
    assert any("guessing is right in 0.5" in text for text in texts(figure))
    points = [trace for trace in figure.data if trace.name in ("half", "group")]
    assert sum(len(trace.x) for trace in points) == 3


def test_a_model_that_fails_still_has_a_picture():
    figure = evaluation(model=0.0).plot()
    assert not [trace for trace in figure.data if trace.type == "bar"]
