"""Where value vectors fire: clouds of texts, sentences shaded token by token, and areas beside those of other neurons."""

import numpy as np
import pytest
import xarray as xr

from interp.analyses.concepts.firing.result import MEASURES, FiringResult
from interp.core.errors import BadInput
from interp.figures import concept_firing
from interp.figures.shrink import size
from interp.figures.theme import PX_PER_INCH, VENUES

from .fakes import rng, stamped

LABELS = ["␣the", "␣flag", "␣is", "␣<b>", "."]


def firing(vectors=2, texts=24, long=6):
    """The first vector fires on the third token of the first concept's texts; the others are noise."""
    draw, pieces = rng(5), np.repeat(np.arange(texts), long)
    member = np.stack([np.arange(texts) % 2 == 0, np.arange(texts) % 2 == 1], axis=1)
    values = draw.normal(0, 0.1, (vectors, texts * long))
    values[0, (np.arange(texts * long) % long == 2) & member[pieces, 0]] += 3.0
    by_text = values.reshape(vectors, texts, long)
    names, concepts, dims = [f"1.{i}" for i in range(vectors)], ["colour", "metal"], ("measure", "vector", "concept")
    own = np.zeros((vectors, 2), dtype=bool)
    own[np.arange(vectors), np.arange(vectors) % 2] = True
    shape = (len(MEASURES), vectors, 2)
    auc = np.full(shape, 0.5)
    auc[:, 0, 0] = 1.0
    null = draw.uniform(0.3, 0.7, (1, len(MEASURES), 30, 2))
    data = {
        "auc": (dims, auc), "accuracy": (dims, auc), "sign": (dims, np.ones(shape, dtype=np.int8)),
        "threshold": (dims, np.full(shape, 1.5)), "null_auc": (("layer", "measure", "neuron", "concept"), null),
        "own": (("vector", "concept"), own), "words": (("vector", "concept"), np.ones((vectors, 2))),
        "coefficient": (("vector", "token"), values.astype(np.float32)),
        "ahead": (("vector", "token"), np.zeros(values.shape, dtype=np.int32)),
        "stream_share": (("vector", "token"), np.abs(values).astype(np.float32)),
        "largest": (("vector", "text"), by_text.max(-1)), "smallest": (("vector", "text"), by_text.min(-1)),
        "mean": (("vector", "text"), by_text.mean(-1)), "member": (("text", "concept"), member),
    }  # fmt: skip
    coords = {
        "measure": list(MEASURES), "vector": names, "concept": concepts, "vector_layer": ("vector", [1] * vectors),
        "norm": ("vector", np.ones(vectors)), "layer": [1], "text": np.arange(texts),
        "held_out": ("text", np.arange(texts) % 4 < 2), "source": ("text", [concepts[i % 2] for i in range(texts)]),
        "token_text": ("token", pieces), "token_document": ("token", pieces),
        "token_id": ("token", np.arange(texts * long) % long % len(LABELS)), "label": ("id", LABELS),
    }  # fmt: skip
    attrs = {"seed": 0, "neurons": {"1": 30}, "d_mlp": 40, "given": False, "notes": [], "corpus": "", "write": ""}
    return stamped(FiringResult(xr.Dataset(data, coords, attrs)))


@pytest.mark.parametrize("theme", ["screen", "paper"])
@pytest.mark.parametrize("by", ["distributions", "contexts", "null"])
def test_a_figure_is_finished(by, theme):
    result = firing()
    figure = concept_firing.plot(result, by=by, theme=theme)
    assert figure.data and size(figure) < 120_000
    assert any(result.manifest.hash in str(note.text) for note in figure.layout.annotations)
    if theme == "paper":
        assert figure.layout.width == round(VENUES["neurips"] * PX_PER_INCH) and not figure.layout.title.text
    else:
        assert figure.layout.title.text


def test_texts_of_the_concept_lie_above_the_others():
    figure = concept_firing.plot(firing())
    points = {(trace.name, trace.xaxis): trace for trace in figure.data if trace.mode == "markers"}
    inside, outside = (points[(f"{name}, held out", "x")] for name in ("the concept's texts", "other texts"))
    assert len(inside.y) == len(outside.y) == 6 and min(inside.y) > 2 > max(outside.y)
    assert figure.layout.xaxis.title.text == "AUC 1.00" and figure.layout.shapes[0].y0 == 1.5


def test_sentences_are_shaded_by_coefficient_and_tags_are_text():
    figure = concept_firing.plot(firing(), by="contexts", n=3, end="top")
    tokens = [note for note in figure.layout.annotations if note.name == "token"]
    assert len(tokens) == len(figure.layout.shapes) == 3 * 6
    assert sum(note.text == "<b>\u2009is</b>" for note in tokens) == 3 and any(
        "&lt;b&gt;" in note.text for note in tokens
    )
    strongest = {shape.fillcolor for shape, note in zip(figure.layout.shapes, tokens, strict=True) if "is" in note.text}
    assert all(
        colour.startswith("rgb(") and int(colour[4:-1].split(",")[0]) > int(colour[4:-1].split(",")[2])
        for colour in strongest
    )
    both = concept_firing.plot(firing(), by="contexts", n=2)
    assert sum(note.name == "coefficient" for note in both.layout.annotations) == 4


def test_the_vector_stands_beside_its_neighbours():
    figure = concept_firing.plot(firing(), by="null")
    others, mine = figure.data
    assert len(others.x) == 60 and mine.x.tolist() == [0.5, 1.0]
    assert figure.layout.yaxis.ticktext == ("1.1, metal", "1.0, colour")
    alone = concept_firing.plot(firing(), by="null", vector="1.0")
    assert alone.data[1].x.tolist() == [1.0]


@pytest.mark.parametrize(
    "options", [{"by": "tokens"}, {"vector": "9.9"}, {"measure": "median"}, {"by": "contexts", "n": 0}, {"theme": "x"}]
)
def test_bad_input_is_refused(options):
    with pytest.raises(BadInput):
        concept_firing.plot(firing(), **options)
