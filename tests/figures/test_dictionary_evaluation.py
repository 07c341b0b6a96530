"""The figure of a dictionary's evaluation shows every view, every replacement and every latent that was on."""

import numpy as np
import pytest
import xarray as xr

from interp.analyses.dictionaries.evaluation import DictionaryEvaluationResult
from interp.figures.shrink import size

from .fakes import rng, stamped


def evaluation(views: int = 1, latents: int = 500, documents: int = 12) -> DictionaryEvaluationResult:
    """Numbers that look like something: documents that differ, some dead and some dense latents."""
    draw = rng(views)
    names = [f"layer {view}" for view in range(views)]
    replacements = [*names, "all together"] if views > 1 else names
    clean = draw.uniform(2.0, 2.4, (documents, 1, 1))
    cost = np.array([0.0, 0.3, 4.0, 3.0]) * draw.uniform(0.8, 1.2, (documents, len(replacements), 4))
    fires = np.floor(1200 * 10.0 ** draw.uniform(-4, 0, latents)).astype(int)
    total = draw.uniform(50, 60, (documents, views))
    return stamped(
        DictionaryEvaluationResult(
            xr.Dataset(
                {
                    "error": (("document", "view"), total * draw.uniform(0.1, 0.3, (documents, views))),
                    "total": (("document", "view"), total),
                    "on": ("document", draw.uniform(2900, 3300, documents)), "tokens": ("document", np.full(documents, 100)),
                    "ce": (("document", "replacement", "condition"), clean + cost),
                    "kl": (("document", "replacement", "condition"), cost), "predictions": ("document", np.full(documents, 99)),
                    **{name: ("view", np.full(views, 0.5)) for name in ("mse", "fvu_legacy", "fvu_all", "cosine", "norm_ratio", "slope")},
                    "part_tokens": ("part", np.array([1200, 12, 0])), "fires": ("latent", fires),
                    **{f"part_{name}": (("part", "view"), np.ones((3, views))) for name in ("error", "energy")},
                },
                {
                    "document": [str(i) for i in range(documents)], "text": ("document", np.arange(documents)), "view": names,
                    "site": ("view", [f"blocks.{view}.hook_mlp_out" for view in range(views)]), "replacement": replacements,
                    "condition": ["clean", "dictionary", "zero", "mean"], "part": ["evaluated", "first", "massive"],
                },
                {"activation": "relu", "k": 32.0, "family": "sae", "together": "", "skip": 1, "massive": 20.0, "dictionary": "0" * 8},
            )
        )
    )  # fmt: skip


@pytest.mark.parametrize("theme", ["screen", "paper"])
@pytest.mark.parametrize("views", [1, 12])
def test_every_view_and_latent_is_shown(views, theme):
    result = evaluation(views)
    figure = result.plot(theme=theme)
    assert size(figure) < 100_000
    histogram, unexplained, *shares = figure.data
    alive = int((result.data["fires"] > 0).sum())
    assert sum(histogram.y) == alive == 500 - result.dead()
    assert np.allclose(unexplained.x, result.fvu()["mean"])
    assert [trace.name for trace in shares] == [
        "loss, against zeros", "loss, against means", "KL, against zeros", "KL, against means",
    ]  # fmt: skip
    for trace, key in zip(shares, (("ce", "zero"), ("ce", "mean"), ("kl", "zero"), ("kl", "mean")), strict=True):
        table = result.recovered(*key)
        assert np.allclose(trace.x, table["mean"]) and np.allclose(
            trace.x + trace.error_x.array, table["ci_hi"], atol=1e-6
        )
    assert list(figure.layout.yaxis3.ticktext) == [str(name) for name in result.data["replacement"].values]
    low, high = figure.layout.xaxis3.range
    assert low < min(min(trace.x - trace.error_x.arrayminus) for trace in shares) and high > 1.0  # nothing is cut off
    assert any("dead" in str(note.text) for note in figure.layout.annotations)
    assert bool(figure.layout.title.text) == (theme == "screen")


def test_one_document_has_no_whiskers():
    figure = evaluation(documents=1).plot()
    assert figure.data[1].error_x.array is None and np.isfinite(figure.data[1].x).all()
