"""Attribution and edges: finished in both themes, maps on one scale, agreement said in words, GradDrop never in the colours of effects."""

import numpy as np
import plotly.graph_objects as go
import pytest
import xarray as xr

from interp.analyses.attribution import AttributionResult, EdgeResult, Graph
from interp.core.errors import BadInput
from interp.figures.shrink import size
from interp.figures.theme import EFFECT, PX_PER_INCH, VENUES

from .fakes import rng, stamped


def attribution(nodes="z", *, dropped=False, some=False, checked=True, flat=False):
    """3 pairs of 9, 10 and 10 tokens in 4 layers of 5 heads."""
    shape = {"z": (4, 5, 10), "resid_post": (4, 10), "neuron": (4, 300)}[nodes]
    dims = {"z": ("layer", "head", "pos"), "resid_post": ("layer", "pos"), "neuron": ("layer", "neuron")}[nodes]
    draw = rng(1)
    score = draw.normal(size=(3, 2, *shape))
    if nodes != "neuron":
        score[0, ..., 9] = np.nan
    true = score * 1.2 + 0.1 * draw.normal(size=score.shape)
    if flat:
        score, true = score * 0, true * 0
    chosen = np.ones(score.shape, dtype=int)
    if some:
        chosen[:] = 0
        chosen[..., :2], chosen[..., 2:4] = 2, 1
        true = np.where(chosen > 0, true, np.nan)
    data = {
        "score": (("pair", "form", *dims), score),
        "clean": ("pair", np.ones(3)),
        "corrupted": ("pair", -np.ones(3)),
    }
    if checked:
        data |= {"true": (("pair", "form", *dims), true), "chosen": (("pair", "form", *dims), chosen)}
    if dropped:
        data["dropped"] = (("pair", "form", *dims), np.abs(score))
    tokens = np.array([[f"␣w{place}" for place in range(10)]] * 3)
    tokens[0, 9] = ""
    if "pos" in dims:
        data |= {"token": (("pair", "pos"), tokens), "token_corrupted": (("pair", "pos"), tokens)}
    coords = {
        "pair": ["a", "b", "c"],
        "form": ["noising", "denoising"],
        **{dim: np.arange(n) for dim, n in zip(dims, shape, strict=True)},
    }
    return stamped(
        AttributionResult(xr.Dataset(data, coords, {"metric": "logit_diff", "nodes": nodes, "method": "atp"}))
    )


def edges(*, circuits=True, layers=3, heads=2):
    graph = Graph(layers, heads)
    score = np.where(graph.edges, rng(2).normal(size=(4, *graph.edges.shape)), np.nan)
    data = {
        "score": (("pair", "source", "destination"), score),
        "clean": ("pair", np.full(4, 2.0)),
        "corrupted": ("pair", np.full(4, -2.0)),
    }
    coords = {"pair": list("abcd"), "source": list(graph.sources), "destination": list(graph.destinations)}
    if circuits:
        made = np.linspace(-1, 2, 8).reshape(4, 2)
        data |= {
            "circuit": (("pair", "size"), made), "random": (("pair", "size", "draw"), np.stack([made * 0 - 2] * 3, axis=-1)),
            "empty": ("pair", np.full(4, -2.0)), "full": ("pair", np.full(4, 2.0)), "edges": ("size", [9, 28]),
            "random_edges": (("size", "draw"), np.full((2, 3), 10)),
        }  # fmt: skip
        coords["size"] = [10, 30]
    attrs = {
        "metric": "logit_diff",
        "n_layers": layers,
        "n_heads": heads,
        "parallel": False,
        "extraction": "greedy",
        "by": "magnitude",
    }
    return stamped(EdgeResult(xr.Dataset(data, coords, attrs)))


def texts(figure):
    return " ".join(str(note.text) for note in figure.layout.annotations)


def heatmaps(figure):
    return [trace for trace in figure.data if trace.type == "heatmap"]


CASES = {
    "heads": (attribution, {}),
    "tokens": (lambda: attribution("resid_post"), {"pair": "a"}),
    "stream": (lambda: attribution("resid_post"), {}),
    "neurons": (lambda: attribution("neuron", some=True), {}), "ranks": (lambda: attribution(dropped=True), {"form": "denoising"}),
    "unchecked": (lambda: attribution(checked=False), {}), "graph": (edges, {}), "matrix": (edges, {"by": "matrix"}),
    "faithfulness": (edges, {"by": "faithfulness"}),
}  # fmt: skip


@pytest.mark.parametrize("theme", ["screen", "paper"])
@pytest.mark.parametrize("name", CASES)
def test_a_figure_is_finished(name, theme):
    make, options = CASES[name]
    result = make()
    figure = result.plot(theme=theme, **options)
    assert isinstance(figure, go.Figure) and figure.data and size(figure) < 200_000
    assert result.manifest.hash in texts(figure)
    if theme == "paper":
        assert figure.layout.width == round(VENUES["neurips"] * PX_PER_INCH) and not figure.layout.title.text
    else:
        assert figure.layout.title.text and figure.layout.width is None
    for trace in heatmaps(figure):
        assert not trace.xgap and not trace.ygap and not trace.zsmooth and trace.z.dtype == np.float32


def test_both_maps_share_one_scale_with_white_at_zero():
    one, two = heatmaps(attribution().plot())
    assert one.zmax == two.zmax == -one.zmin and one.zmid == 0
    result = attribution()
    want = result.data["score"].sel(form="noising").sum("pos").mean("pair").values
    assert np.allclose(one.z, want, atol=1e-5) and "summed over positions" in two.colorbar.title.text


def test_agreement_is_said_with_what_it_is_over():
    assert "ρ = 0.9" in texts(attribution().plot()) and "all cells" in texts(attribution().plot())
    assert "random cells" in texts(attribution("neuron", some=True).plot())
    assert len(heatmaps(attribution("neuron", some=True).plot())) == 1  # no true map where not all was patched
    nothing = texts(attribution(flat=True).plot())
    assert "no effect" in nothing and "ρ" not in nothing


def test_graddrop_is_told_apart_from_effects():
    figure = attribution(dropped=True).plot()
    assert "rank only" in texts(figure)
    scales = [tuple(step[1] for step in trace.colorscale) for trace in heatmaps(figure)]
    effect = tuple(step[1] for step in EFFECT)
    assert scales[0] != effect and scales[1] == scales[2] == effect


def test_pairs_are_aligned_at_their_ends():
    figure = attribution("resid_post").plot()
    result = attribution("resid_post")
    last = np.stack([result.data["score"].values[row, 0, :, n - 1] for row, n in enumerate((9, 10, 10))]).mean(axis=0)
    assert np.allclose(heatmaps(figure)[0].z[-1], last, atol=1e-6)
    alone = attribution("resid_post").plot(pair=0)
    assert heatmaps(alone)[0].z.shape == (9, 4) and alone.layout.yaxis2.ticktext[0] == "␣w0"


def test_a_graph_shows_the_edges_of_its_circuit_and_refuses_a_thicket():
    result = edges()
    figure = result.plot(n=12)
    curves = [trace for trace in figure.data if trace.mode == "lines" and len(trace.x) > 1]
    assert len(curves) == len(result.circuit(12))
    widths = [trace.line.width for trace in curves]
    assert widths == sorted(widths)  # the strongest last, on top
    assert {trace.line.color for trace in curves} <= {"#b2182b", "#2166ac"}
    with pytest.raises(BadInput, match="matrix"):
        edges(layers=6, heads=4).plot(n=1000)
    with pytest.raises(BadInput, match="no circuit was run"):
        edges(circuits=False).plot(by="faithfulness")
    assert edges(circuits=False).plot().data


def test_unknown_choices_are_refused():
    with pytest.raises(BadInput, match="denoising"):
        attribution().plot(form="denoise")
    with pytest.raises(BadInput, match="0 to 2"):
        attribution().plot(pair=7)
    with pytest.raises(BadInput, match="faithfulness"):
        edges().plot(by="faith")
