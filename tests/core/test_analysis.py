import sys
import types
from dataclasses import FrozenInstanceError
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import xarray as xr

from interp.core.analysis import LARGEST_REPR, Analysis, Cost, Result, readable
from interp.core.errors import BadInput

from .toy import Length, LengthResult, ToyLM

TEXTS = ["ab", "abcd", "c"]


def test_a_call_gives_labelled_data_with_its_provenance() -> None:
    result = Length(factor=2.0)(ToyLM(), TEXTS)
    assert isinstance(result, LengthResult) and result.data["length"].dims == ("prompt", "layer", "position")
    assert (
        result.config
        == {"factor": 2.0, "layers": [0, 1], "noise_seed": 3, "undocumented": None}
        == result.manifest.config
    )
    assert result.manifest.analysis == "Length" and result.manifest.seeds == {"noise_seed": 3}
    assert (
        result.manifest.model["name"] == "toy"
        and result.manifest.seconds >= 0
        and list(result.manifest.inputs) == ["data"]
    )


def test_the_hash_follows_options_data_and_model() -> None:
    base = Length()(ToyLM(), TEXTS).manifest.hash
    assert base == Length()(ToyLM(), list(TEXTS)).manifest.hash
    others = [
        Length(factor=2.0)(ToyLM(), TEXTS),
        Length()(ToyLM(), TEXTS[::-1]),
        Length()(ToyLM(weights_hash="0"), TEXTS),
    ]
    assert base not in {other.manifest.hash for other in others}


def test_configs_are_frozen_and_checks_come_first() -> None:
    with pytest.raises(FrozenInstanceError):
        Length().factor = 3.0  # type: ignore[misc]
    with pytest.raises(ValueError, match="no prompts"):
        Length()(ToyLM(), [])
    with pytest.raises(NotImplementedError, match="does not implement `run`"):
        Analysis()(ToyLM())


def test_data_without_content_is_refused_before_it_is_paid_for() -> None:
    with pytest.raises(BadInput, match="Pass a list"):
        Length()(ToyLM(), iter(TEXTS))


def test_the_table_is_long_and_leaves_out_padding() -> None:
    frame = Length()(ToyLM(), TEXTS).to_frame()
    assert list(frame.columns) == ["prompt", "layer", "position", "length", "clean"]
    assert len(frame) == 2 * (2 + 4 + 1) and not frame.isna().any().any()
    assert (frame.length == frame.prompt.str.len()).all() and (frame.clean == frame.length).all()
    assert Length()(ToyLM(), TEXTS).to_frame("clean").to_dict("list") == {"prompt": TEXTS, "clean": [2.0, 4.0, 1.0]}
    with pytest.raises(BadInput, match=r"'loss' is not in this LengthResult; it has \['length', 'clean'\]"):
        Length()(ToyLM(), TEXTS).to_frame("loss")


def test_the_table_keeps_labels_and_does_not_multiply_unrelated_axes() -> None:
    data = xr.Dataset(
        {
            "a": (("prompt", "position"), np.array([[1.0, np.nan], [2.0, 3.0]])),
            "b": (("head", "k"), np.zeros((3, 4))),
            "n": 7,
        },
        coords={"token": (("prompt", "position"), [["x", "y"], ["z", "w"]]), "head": [5, 6, 7]},
    )
    frame = Result(data).to_frame()
    assert frame[["prompt", "position", "token", "a"]].values.tolist() == [
        [0, 0, "x", 1.0],
        [1, 0, "z", 2.0],
        [1, 1, "w", 3.0],
    ]
    assert "b" not in frame and (frame.n == 7).all() and len(Result(data).to_frame("b")) == 12
    assert Result(data).to_frame("n").to_dict("list") == {"n": [7]}
    pd.testing.assert_frame_equal(
        Result(data[["b"]].astype(int)).to_frame(), data[["b"]].astype(int).to_dataframe().reset_index()
    )


def test_repr_is_one_line() -> None:
    result = Length()(ToyLM(), TEXTS)
    assert repr(result) == f"LengthResult(toy · 3 prompts · 2 layers × 4 positions · sha {result.manifest.hash})"
    single = Result(xr.Dataset({"x": (("query", "class"), np.zeros((2, 1)))}))
    assert repr(single) == f"Result(2 queries × 1 class · sha {single.manifest.hash})"
    assert repr(Result(xr.Dataset())).startswith("Result(sha ")


def test_html_has_a_picture_three_numbers_and_provenance_within_its_limit() -> None:
    result = Length()(ToyLM(), TEXTS)
    html = result._repr_html_()
    assert "<svg" in html and "&lt;max&gt;" in html and "fourth" not in html and result.manifest.hash in html
    assert len(html.encode()) < LARGEST_REPR
    large = LengthResult(
        xr.Dataset({"length": (("layer", "position"), np.random.default_rng(0).normal(size=(900, 900)))})
    )
    assert len(large._repr_html_().encode()) < LARGEST_REPR
    assert "<svg" not in Result(xr.Dataset({"x": ("prompt", ["a"])}))._repr_html_()  # nothing to draw
    assert Result(xr.Dataset())._repr_html_()


def test_the_thumbnail_averages_examples_away() -> None:
    thumbnail = Length()(ToyLM(), TEXTS).thumbnail()
    assert thumbnail is not None and thumbnail.dims == ("layer", "position") and float(thumbnail[0, 3]) == 4
    deep = Result(xr.Dataset({"x": (("prompt", "kind", "layer", "position"), np.ones((2, 3, 4, 5)))})).thumbnail()
    assert deep is not None and deep.dims == ("layer", "position")
    only = Result(xr.Dataset({"x": ("prompt", np.arange(3.0))})).thumbnail()
    assert only is not None and only.dims == ("prompt",)


def test_plot_finds_its_figure_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    figure = types.ModuleType("interp.figures.toy")
    figure.plot = lambda result, **options: (result, options)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "interp.figures.toy", figure)
    monkeypatch.setattr(LengthResult, "figure", "toy")
    result = Length()(ToyLM(), TEXTS)
    assert result.plot(theme="paper") == (result, {"theme": "paper"})
    with pytest.raises(BadInput, match="has no figure"):
        Result(xr.Dataset()).plot()


def test_save_and_open(tmp_path: Path) -> None:
    import interp

    result = Length()(ToyLM(), TEXTS)
    again = interp.open(result.save(tmp_path / "deep" / "run"))
    assert again.data.identical(result.data) and again.manifest == result.manifest and again.config == result.config


def test_costs_add_up_and_read_well() -> None:
    cost = Length().cost(ToyLM(), TEXTS)
    assert str(cost) == "2.5 forward passes · 1,000 tokens · 1.5 MB · a guess" and cost.seconds(500) == 2.0
    total = cost + Cost(1, 10, 5, "more")
    assert (total.forwards, total.tokens, total.bytes, total.note) == (3.5, 1010, 1_500_000, "a guess; more")
    assert [readable(size) for size in (0, 999, 1000, 2.5e9, 3e12)] == [
        "0 bytes",
        "999 bytes",
        "1 kB",
        "2.5 GB",
        "3 TB",
    ]
    with pytest.raises(BadInput, match="positive"):
        cost.seconds(0)
