"""The figures of concept directions and erasure draw what the results hold, in both themes, and refuse what is not there."""

import numpy as np
import pytest
import xarray as xr

from interp.analyses.directions import ConceptDirectionsResult, ConceptErasureResult
from interp.core.errors import BadInput

from .fakes import rng, stamped

N = 60


def texts() -> dict:
    return {
        "label": ("example", np.arange(N) % 2 == 0), "fold": ("example", np.arange(N) // 2 % 5), "group": ("example", np.arange(N) // 2),
        "text": ("example", [f"text {i}" for i in range(N)]),
    }  # fmt: skip


def directions(sites: list[str]) -> ConceptDirectionsResult:
    fits, draw = ["mean", "ridge"], rng()
    shape = (len(sites), 2)
    score = (
        draw.standard_normal((*shape, N)) + 2.0 * (np.arange(N) % 2 == 0) * np.linspace(0, 1, len(sites))[:, None, None]
    )
    data = xr.Dataset(
        {
            "score": (("site", "fit", "example"), score - 1),
            "null_auc": (("site", "fit", "shuffle"), 0.5 + 0.05 * draw.standard_normal((*shape, 40))),
            "null_accuracy": (("site", "fit", "shuffle"), np.full((*shape, 40), 0.5)),
            "fitted_auc": (("site", "fit"), np.ones(shape)), "fitted_null": (("site", "fit"), np.full(shape, 0.9)),
            "vector": (("site", "fit", "d"), draw.standard_normal((*shape, 8))),
            "bias": (("site", "fit"), np.zeros(shape)), "scale": (("site", "fit"), np.ones(shape)),
            "strength": (("site", "fit"), np.full(shape, np.nan)), "random_auc": (("site", "random"), np.full((len(sites), 5), 0.5)),
            "words_score": ("example", draw.standard_normal(N)), "words_null": ("word_shuffle", np.full(40, 0.5)),
        },
        {"site": sites, "fit": fits, "example": np.arange(N), **texts()},
        {
            "data": "polite", "design": "30 pairs", "pool": "last", "folds": 5, "heads": [], "rows": 48,
            "shapes": {site: [8] for site in sites}, "widths": dict.fromkeys(sites, 8),
        },
    )  # fmt: skip
    return stamped(ConceptDirectionsResult(data))


def erasure() -> ConceptErasureResult:
    names, sites, probes, draw = (
        ["none", "mean", "leace", "random 1, 1"],
        [f"blocks.{i}.hook_resid_post" for i in (1, 2, 3)],
        ["linear", "nonlinear", "transfer"],
        rng(),
    )
    strong = np.array([3.0, 1.0, 0.0, 3.0])[:, None, None, None] * ((np.arange(N) % 2 == 0) - 0.5)
    data = xr.Dataset(
        {
            "score": (("eraser", "site", "probe", "example"), draw.standard_normal((4, 3, 3, N)) + strong),
            "null_auc": (("eraser", "site", "probe", "shuffle"), 0.5 + 0.05 * draw.standard_normal((4, 3, 3, 40))),
            "gap": (("eraser", "half"), np.ones((4, 2))),
            "kl_texts": (("eraser", "example"), draw.random((4, N))),
            "loss_texts": (("eraser", "example"), draw.random((4, N))),
            "kl_neutral": (("eraser", "document"), draw.random((4, 6))),
            "loss_neutral": (("eraser", "document"), draw.random((4, 6))),
            "left": (("eraser", "stage", "d", "k"), np.zeros((4, 1, 8, 1))),
            "right": (("eraser", "stage", "d", "k"), np.zeros((4, 1, 8, 1))),
            "centre": (("eraser", "stage", "d"), np.zeros((4, 1, 8))),
        },
        {
            "eraser": names, "site": sites, "stage": sites[:1], "probe": probes, "half": ["fit", "held"],
            "rank": ("eraser", [0, 1, 1, 1]), **texts(),
        },
        {"data": "polite", "design": "60 pairs", "pool": "last", "fitted_on": N, "onwards": False, "widths": {sites[0]: 8}},
    )  # fmt: skip
    return stamped(ConceptErasureResult(data))


@pytest.mark.parametrize("theme", ["screen", "paper"])
def test_curves_words_band_and_classes_are_drawn(theme):
    result = directions(["hook_embed", *(f"blocks.{i}.hook_resid_post" for i in range(6))])
    figure = result.plot(theme=theme)
    line = next(trace for trace in figure.data if trace.name == "ridge" and trace.fill is None)
    assert np.allclose(line.y, result.curves()["auc"].sel(fit="ridge"), atol=1e-6)
    assert list(figure.layout.xaxis.ticktext) == ["embed", *map(str, range(6))]
    words = next(trace for trace in figure.data if trace.name == "bag of words")
    assert words.y[0] == pytest.approx(result.words()["auc"])
    bars = [trace for trace in figure.data if trace.type == "bar"]
    assert [sum(bar.y) for bar in bars] == [N // 2, N // 2]
    chosen = result.plot(methods=["mean"], site="hook_embed", method="mean", theme=theme)
    assert not any(trace.name == "ridge" for trace in chosen.data)


def test_sites_of_several_kinds_and_single_ones_have_their_names():
    mixed = directions(["blocks.0.attn.hook_z", "blocks.0.hook_mlp_out", "blocks.1.hook_resid_post"]).plot()
    assert list(mixed.layout.xaxis.ticktext) == ["0 z", "0 mlp_out", "1 resid_post"]
    assert directions(["blocks.3.hook_resid_post"]).plot().data
    with pytest.raises(BadInput, match="one of"):
        directions(["hook_embed"]).plot(site="blocks.1.hook_resid_post")


@pytest.mark.parametrize("theme", ["screen", "paper"])
def test_before_and_after_are_drawn_a_panel_a_probe(theme):
    result = erasure()
    figure = result.plot(theme=theme, probes=("linear", "transfer"))
    before = [trace for trace in figure.data if trace.name == "before" and trace.fill is None]
    assert len(before) == 2 and [trace.showlegend for trace in before] == [True, False]
    assert np.allclose(before[0].y, result.table()["auc"].sel(eraser="none", probe="linear"), atol=1e-6)
    assert any(str(trace.name).startswith("leace (KL") for trace in figure.data)
    assert not any(str(trace.name).startswith("random") for trace in figure.data)
    assert any(str(trace.name).startswith("random") for trace in result.plot(erasers=["random 1, 1"]).data)
    with pytest.raises(BadInput, match="one of"):
        result.plot(probes=("curved",))
