"""Figures of sequential edits: what must be in them, in both themes."""

import numpy as np
import pytest
import xarray as xr

from interp.analyses.localization import EditSequenceResult
from interp.core.errors import BadInput
from interp.figures.sequence import plot
from interp.figures.shrink import size
from interp.figures.theme import PX_PER_INCH, VENUES

from .fakes import rng, stamped


def sequence(edits=(0, 1, 2, 5, 10, 20), editors=("ROME", "MEMIT", "Ridge"), layers=4, documents=6):
    draw, n, e, s = rng(6), max(edits), len(editors), len(edits)
    steps = np.array(edits, dtype=float)
    speed = np.array([0.06, 0.03, 0.005])[:e]
    norm = 10 * (1 + speed[:, None, None] * steps[:, None])
    away = norm - 10
    drift = np.abs(
        speed[:, None, None, None] * steps[:, None, None] * (1 + 0.2 * draw.normal(size=(e, s, documents, layers)))
    )
    lasting = draw.random((e, s, n)) < np.array([0.6, 0.9, 0.7])[:e, None, None]
    facts = {
        "target": lasting * 0.9, "top": lasting.astype(float), "paraphrase": lasting * 0.8,
        "kept": np.clip(1 - speed[:, None, None] * steps[:, None] * draw.random((e, s, n)), 0, 1), "essence": np.full((e, s, n), 4.0),
    }  # fmt: skip
    data = {
        "norm": (("editor", "edits", "matrix"), norm), "change": (("editor", "edits", "matrix"), away),
        **{name: (("editor", "edits", "document", "layer"), drift) for name in ("drift", "share")},
        "cosine": (("editor", "edits", "document", "layer"), 1 - drift), "nll": (("editor", "edits", "document"), 1.4 + drift[..., -1]),
        **{name: (("editor", "edits", "fact"), values) for name, values in facts.items()},
        **{name: (("editor", "fact", "matrix"), np.ones((e, n, 1))) for name in ("update", "update_cosine")},
        **{name: (("editor", "fact"), np.ones((e, n))) for name in ("latest", "latest_top")},
    }  # fmt: skip
    coords = {
        "editor": list(editors), "edits": list(edits), "matrix": ["W_out.0"], "layer": list(range(layers)),
        "document": [str(i) for i in range(documents)], "tokens": ("document", [50] * documents), "fact": [f"f{i}" for i in range(n)],
        "subject": ("fact", [f"s{i}" for i in range(n)]), "wanted": ("fact", [" rye"] * n),
    }  # fmt: skip
    attrs = {"centre": 0, "problem": "error_injection", "objective": "raise", "skipped": []}
    return stamped(EditSequenceResult(xr.Dataset(data, coords, attrs)))


@pytest.mark.parametrize("theme", ["screen", "paper"])
@pytest.mark.parametrize("edits", [(0, 1, 2, 5, 10, 20), (0, 1, 3)])
def test_a_figure_is_finished(edits, theme):
    result = sequence(edits)
    figure = result.plot(theme=theme)
    assert size(figure) < 100_000 and figure.layout.xaxis.type == ("log" if max(edits) > 10 else "linear")
    assert any(result.manifest.hash in str(note.text) for note in figure.layout.annotations)
    if theme == "paper":
        assert figure.layout.width == round(VENUES["neurips"] * PX_PER_INCH) and not figure.layout.title.text
    else:
        assert f"{max(edits)} facts, layer 0" in figure.layout.title.text


def test_lines_are_the_curves():
    result = sequence()
    figure = plot(result, measures=("growth", "retention"))
    drawn = [trace for trace in figure.data if trace.name == "MEMIT" and "markers" in trace.mode]
    for trace, measure in zip(drawn, ("growth", "retention"), strict=True):
        mean = result.curve(measure)["mean"].sel(editor="MEMIT").values[1:]
        assert np.allclose(trace.y, mean, atol=1e-6) and list(trace.x) == [1, 2, 5, 10, 20]
    assert figure.layout.yaxis2.range == (-0.03, 1.03)
    assert sum(trace.showlegend is not False for trace in figure.data) == 3


def test_refusals():
    with pytest.raises(BadInput, match="growht"):
        plot(sequence(), measures=("growht",))
    for bad in ((), ("growth", "growth")):
        with pytest.raises(BadInput, match="once"):
            plot(sequence(), measures=bad)
