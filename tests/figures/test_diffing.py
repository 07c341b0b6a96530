"""The figure of model diffing: bins and ratios, and what patching recovers."""

import numpy as np
import pytest
import xarray as xr

from interp.analyses.dictionaries.diffing.result import DiffResult
from interp.core.errors import BadInput

from .fakes import rng, stamped

SETS = ["nothing", "tuned only", "base only", "both", "all latents", "random shared 1", "random shared 2", "biases"]


def made(latents: int = 400, documents: int = 20, patched: bool = True) -> DiffResult:
    delta = np.clip(0.5 + 0.05 * rng(1).normal(size=latents), 0, 1)
    delta[:30], delta[30:40] = rng(2).uniform(0.91, 1.0, 30), rng(3).uniform(0, 0.09, 10)
    named = np.where(delta >= 0.9, "tuned only", np.where(delta <= 0.1, "base only", "shared"))
    named[-20:] = "dead"
    ratio = rng(4).uniform(0.9, 1.1, (2, 2, latents))
    ratio[:, :, :40] = np.array([[0.03, 0.8, 0.1], [0.02, 0.3, 0.5]])[:, np.arange(40) % 3] * rng(5).uniform(
        0.6, 1.5, (2, 40)
    )
    label = np.full(latents, "", dtype="<U20")
    label[:40] = np.array(["specific", "latent decoupling", "complete shrinkage"])[np.arange(40) % 3]
    recovered = np.array([0, 0.5, 0.2, 0.72, 0.9, 0.02, -0.01, 0.05])
    nothing = rng(6).uniform(5, 20, documents)
    baseline = np.zeros(latents, dtype=bool)
    baseline[60:90] = True
    columns = {
        "delta": ("latent", delta), "bin": ("latent", named), "label": ("latent", label), "baseline": ("latent", baseline),
        "free": (("side", "target", "latent"), ratio), "nu": (("side", "target", "latent"), ratio),
    }  # fmt: skip
    coords = {"latent": np.arange(latents), "side": ["tuned", "base"], "target": ["reconstruction", "error"]}
    if patched:
        kl = ((1 - recovered)[:, None] * nothing * rng(7).uniform(0.9, 1.1, (len(SETS), documents)))[
            ..., None
        ] * np.ones(3)
        kl[0] = nothing[:, None]
        columns |= {
            "kl": (("set", "document", "part"), kl),
            "patched": (("document", "part"), np.full((documents, 3), 30)),
        }
        coords |= {
            "set": SETS, "size": ("set", [0, 30, 10, 40, 380, 30, 30, 0]), "part": ["all", "first", "rest"],
            "document": [str(i) for i in range(documents)], "text": ("document", np.arange(documents)),
        }  # fmt: skip
    attrs = {
        "base": "atlas", "tuned": "atlas-tuned", "site": "blocks.2.hook_resid_post", "ratio": "paper", "bounds": [0.1, 0.4, 0.6, 0.9],
        "decoupled": 0.5, "shrunk": 0.2, "tokens": 10_000,
    }  # fmt: skip
    return stamped(DiffResult(xr.Dataset(columns, coords, attrs)))


@pytest.mark.parametrize("theme", ["screen", "paper"])
def test_latents_are_drawn_by_delta_and_by_label(theme):
    result = made()
    figure = result.plot(theme=theme)
    bars = next(trace for trace in figure.data if trace.type == "bar")
    assert int(np.sum(bars.y)) == 380
    points = {trace.name.split(" (")[0]: trace for trace in figure.data if trace.type == "scatter"}
    assert set(points) == {"random shared latents", "specific", "latent decoupling", "complete shrinkage"}
    assert len(points["specific"].x) == 10
    first = int(points["specific"].text[0])
    assert points["specific"].x[0] == pytest.approx(
        float(result.data["nu"].sel(side="tuned", target="reconstruction")[first])
    )
    assert len(made().plot(side="base").data) > 2


@pytest.mark.parametrize("theme", ["screen", "paper"])
@pytest.mark.parametrize("part", ["all", "first"])
def test_bars_are_what_is_recovered_with_the_random_sets_as_one(theme, part):
    result = made()
    bars = result.plot(by="patching", theme=theme, part=part).data[0]
    shown = dict(zip(bars.y, bars.x, strict=True))
    table = result.recovered(part)
    assert len(shown) == len(SETS) - 2
    assert shown["both · 40"] == pytest.approx(float(table["recovered"].sel(set="both")))
    assert shown["random shared (2 sets) · 30"] == pytest.approx(float(result.random(part).mean()))


def test_what_is_not_there_is_refused():
    with pytest.raises(BadInput, match="nothing was patched"):
        made(patched=False).plot(by="patching")
    with pytest.raises(BadInput, match="patching"):
        made().plot(by="kl")


def test_where_no_latent_is_alone_the_patching_is_drawn():
    result = made()
    assert result.plot().data[0].type == result.plot(by="latents").data[0].type
    alone = np.isin(result.data["bin"].values, ("tuned only", "base only"))
    result.data["bin"] = ("latent", np.where(alone, "shared", result.data["bin"].values))
    drawn, patched = result.plot(), result.plot(by="patching")
    assert drawn.to_json() == patched.to_json() != result.plot(by="latents").to_json()
