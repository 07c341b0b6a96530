"""Concept maps and token clouds: every vector is there as a dot or in a density, words as they are, what does not fit refused."""

import numpy as np
import pytest
import xarray as xr

from interp.analyses.concepts.scan.result import ConceptScanResult
from interp.core.errors import BadInput
from interp.figures import concept_scan
from interp.figures.shrink import size
from interp.figures.theme import PX_PER_INCH, VENUES

from .fakes import rng, stamped


def scan(vectors=300, *, layers=4, concepts=True, strong=20, k=6):
    """A scan whose first vectors are the strongest; the very first holds the concept."""
    draw = rng(3)
    layer = np.arange(vectors) % layers
    names = [f"{number}.{place}" for place, number in enumerate(layer)]
    score = np.sort(draw.normal(1.0, 0.2, vectors))[::-1]
    p = np.where(np.arange(vectors) < 10, 0.0005, 0.5)
    words = np.array([[f"␣word{place}{rank}" for rank in range(k)] for place in range(strong)])
    words[0, 0], words[0, 1] = "<s>", "0xFF"
    data = {
        "concreteness": ("vector", score), "z": ("vector", score * 2), "coherence": ("vector", score / 5), "p_coherence": ("vector", p),
        "p_z": ("vector", p), "kept": ("vector", np.ones(vectors, dtype=bool)), "null_z": ("draw", draw.normal(2, 0.1, 50)),
        "whole": ("vector", np.full(vectors, 0.8)), "partial": ("vector", np.full(vectors, 0.2)),
        "null_coherence": ("draw", draw.normal(0.1, 0.02, 50)), "token": (("strong", "rank"), words),
        "logit": (("strong", "rank"), np.linspace(1, 0.5, k) * np.ones((strong, 1))),
    }  # fmt: skip
    coords = {"vector": names, "strong": names[:strong], "rank": np.arange(k), "layer": ("vector", layer)}
    if concepts:
        data |= {"held": (("concept", "place"), np.array([[0, 1], [5, -1]]))}
        data |= {name: (("concept", "place"), np.full((2, 2), 0.01)) for name in ("p", "p_words", "p_shuffled")}
        others = ("precision", "margin", "auc", "article", "article_p", "article_words")
        data |= {name: (("concept", "place"), np.full((2, 2), 0.9)) for name in others}
        coords["concept"] = ["colour", "kingdom"]
    attrs = {"rank_by": "concreteness", "k": k, "most": strong, "left_out": 0, "folded": False, "post_norm": False}
    return stamped(ConceptScanResult(xr.Dataset(data, coords, attrs)))


@pytest.mark.parametrize("theme", ["screen", "paper"])
@pytest.mark.parametrize("by", ["map", "tokens"])
def test_a_figure_is_finished(theme, by):
    result = scan()
    figure = concept_scan.plot(result, by=by, theme=theme)
    assert size(figure) < 200_000
    assert any(result.manifest.hash in str(note.text) for note in figure.layout.annotations)
    if theme == "paper":
        assert figure.layout.width == round(VENUES["neurips"] * PX_PER_INCH) and not figure.layout.title.text


def test_every_vector_is_a_dot_in_its_layer():
    result = scan()
    figure = concept_scan.plot(result)
    dots = [trace for trace in figure.data if trace.mode == "markers"]
    assert [trace.name for trace in dots] == ["as random directions", "coherent tokens", "colour", "kingdom"]
    assert [len(trace.x) for trace in dots] == [290, 10, 2, 1]
    for trace in dots:
        assert [int(name.split(".")[0]) for name in trace.customdata] == np.rint(trace.x).astype(int).tolist()
    named = [note.text for note in figure.layout.annotations if note.name == "vector"]
    assert named[0].startswith("0.0 &lt;s&gt;")


def test_of_many_vectors_the_weak_ones_are_a_density():
    figure = concept_scan.plot(scan(20_000, layers=30), score="z")
    drawn = sum(
        len(trace.x)
        for trace in figure.data
        if trace.mode == "markers" and trace.name in ("as random directions", "coherent tokens")
    )
    assert drawn == concept_scan.MOST_DOTS and sum(trace.fill == "toself" for trace in figure.data) == 30
    assert size(figure) < 1_000_000
    assert any(shape.name == "null" for shape in figure.layout.shapes)


def test_a_mean_logit_has_no_band_of_random_directions():
    assert not concept_scan.plot(scan()).layout.shapes
    assert concept_scan.plot(scan(), score="coherence").layout.shapes


def test_clouds_are_of_the_vectors_that_hold_concepts_or_of_those_named():
    figure = concept_scan.plot(scan(), by="tokens", n=4)
    assert [trace.name for trace in figure.data] == ["0.0", "1.5", "1.1", "2.2"]
    assert figure.data[0].x.tolist() == pytest.approx([1, 0.9, 0.8, 0.7])
    assert figure.layout.yaxis.ticktext[:2] == ("&lt;s&gt;", "0xFF")
    only = concept_scan.plot(scan(concepts=False), by="tokens", vectors="3.7")
    assert [trace.name for trace in only.data] == ["3.7"]


def test_what_cannot_be_drawn_is_refused():
    for options, said in (
        ({"by": "cloud"}, "'map'"), ({"score": "size"}, "'coherence'"), ({"theme": "dark"}, "'screen'"),
        ({"by": "tokens", "n": 0}, "1 to 40"), ({"by": "tokens", "vectors": "3.299"}, "not held"),
        ({"by": "tokens", "vectors": ("0.0", "1.1", "2.2", "3.3", "0.4")}, "4 have room"),
    ):  # fmt: skip
        with pytest.raises(BadInput, match=said):
            concept_scan.plot(scan(), **options)
