"""Every family, both themes: what must be true of any figure, and what each must show."""

from itertools import pairwise

import numpy as np
import plotly.graph_objects as go
import pytest

from interp.core.errors import BadInput
from interp.figures import depth
from interp.figures.shrink import BUDGET, size
from interp.figures.theme import PX_PER_INCH, VENUES

from . import fakes

MAKE = {
    "tracing": fakes.trace, "lens": fakes.lens, "heads": fakes.heads, "loss": fakes.loss, "weights": fakes.weights, "shares": fakes.shares,
}  # fmt: skip
FAMILIES = [(name, {}) for name in MAKE] + [("tracing", {"by": by}) for by in ("line", "token")]


def texts(figure: go.Figure) -> list[str]:
    return [str(note.text) for note in figure.layout.annotations]


def heatmaps(figure: go.Figure) -> list[go.Heatmap]:
    return [trace for trace in figure.data if trace.type == "heatmap"]


@pytest.mark.parametrize("theme", ["screen", "paper"])
@pytest.mark.parametrize(("name", "options"), FAMILIES)
def test_a_figure_is_finished(name, options, theme):
    result = MAKE[name]()
    figure = result.plot(theme=theme, **options)
    assert isinstance(figure, go.Figure) and figure.data
    assert size(figure) < 100_000
    assert any(result.manifest.hash in text for text in texts(figure))  # where it comes from
    if theme == "paper":
        assert figure.layout.width == round(VENUES["neurips"] * PX_PER_INCH) and not figure.layout.title.text
    else:
        assert figure.layout.title.text and figure.layout.width is None  # as wide as its page
    for trace in heatmaps(figure):  # gaps, smoothing and uneven axes would be a blurred picture in a PDF
        assert not trace.xgap and not trace.ygap and not trace.zsmooth
        assert (
            np.ptp(np.diff(np.asarray(trace.x, dtype=float))) == np.ptp(np.diff(np.asarray(trace.y, dtype=float))) == 0
        )
        assert trace.z.dtype == np.float32


def test_both_themes_show_the_same_data():
    screen, paper = (fakes.trace().plot(theme=theme) for theme in ("screen", "paper"))
    for one, other in zip(screen.data, paper.data, strict=True):
        assert np.array_equal(one.z, other.z)


def test_a_venue_is_known_or_refused():
    assert fakes.lens().plot(theme="paper", venue="icml-column").layout.width == 312
    with pytest.raises(BadInput, match="neurips"):
        fakes.lens().plot(theme="paper", venue="neurisp")
    with pytest.raises(BadInput, match="screen"):
        fakes.lens().plot(theme="dark")


def test_repeated_and_tag_like_tokens_keep_a_row_each():
    result = fakes.trace()
    figure = result.plot(by="token", prompt=1)
    assert heatmaps(figure)[0].z.shape == (10, 8)  # "␣The" is there twice
    names = list(figure.layout.yaxis.ticktext)
    assert names.count("␣The") == 2 and names[0] == "&lt;bos&gt;"  # not a tag that vanishes
    assert names[2:5] == ["<b>␣An</b>", "<b>dor</b>", "<b>mere</b>"]  # the subject, bracketed:
    assert sum(shape.type == "line" for shape in figure.layout.shapes) == 3
    assert figure.layout.yaxis.range[0] > figure.layout.yaxis.range[1]  # read downwards


def test_a_trace_is_white_at_zero_and_clips_nothing():
    result = fakes.trace()
    trace = heatmaps(result.plot(by="token"))[0]
    assert trace.zmin == -trace.zmax and trace.zmid == 0
    effects = result.effects().sel(metric="prob", kind="hidden").isel(prompt=0).transpose("pos", "layer").values
    assert effects.min() < 0 and np.allclose(trace.z, effects)


def test_a_prompt_is_chosen_by_number_or_id():
    result = fakes.trace()
    by_id, by_number = (heatmaps(result.plot(by="token", prompt=prompt))[1].z for prompt in ("kingdom-2", 2))
    assert np.array_equal(by_id, by_number)
    for prompt in ("kingdom-9", 9):
        with pytest.raises(BadInput, match=r"kingdom-0|0 to 3"):
            result.plot(by="token", prompt=prompt)
    with pytest.raises(BadInput, match="role"):
        result.plot(by="tokens")
    with pytest.raises(BadInput, match="logit_diff"):
        result.plot(metric="logits")


def test_a_trace_of_unknown_facts_says_so():
    figure = fakes.trace(known=0).plot()
    assert "none known" in figure.layout.title.text


def test_heads_say_what_chance_gives():
    figure = fakes.heads().plot(metrics=("induction", "entropy"))
    assert any("chance 0.02" in text for text in texts(figure))
    assert max(float(trace.z.max()) for trace in heatmaps(figure)) <= 1.0  # entropy as a share of its maximum
    assert "chance 0.02" in heatmaps(fakes.heads().plot())[-1].colorbar.title.text
    with pytest.raises(BadInput, match="Did you mean"):
        fakes.heads().plot(metrics=("inducton",))


@pytest.mark.parametrize(
    "figure",
    [
        pytest.param(lambda: fakes.trace(prompts=2, layers=100, width=3000).plot(by="token"), id="long prompt"),
        pytest.param(lambda: fakes.heads(sequences=2, layers=126, count=128).plot(), id="many heads"),
        pytest.param(lambda: fakes.loss(documents=3, width=30_000).plot(), id="long documents"),
        pytest.param(lambda: fakes.lens(documents=500, layers=126).plot(), id="deep"),
        pytest.param(lambda: depth.plot(fakes.everything(layers=126)), id="deep strip"),
    ],
)
def test_no_figure_exceeds_its_budget(figure):
    assert size(figure()) < BUDGET


def test_a_reduced_map_keeps_the_strongest_effect_and_says_so():
    result = fakes.trace(prompts=2, layers=100, width=3000)
    trace = heatmaps(result.plot(by="token"))[-1]
    effects = result.effects().sel(metric="prob", kind="attn").isel(prompt=0).values
    assert trace.z.size <= 50_000 and "strongest of" in trace.colorbar.title.text
    assert float(trace.z.max()) == pytest.approx(float(effects.max()))


def test_the_strip_aligns_every_measure_on_one_depth_axis():
    rows = depth.strips(fakes.everything())
    labels = [row.label for row in rows]
    assert labels == [
        "Lens agreement", "Lens KL to final", "Fact, subject end", "Fact, last token", "Best head", "Write share", "Output rank",
        "Output norm",
    ]  # fmt: skip
    figure = depth.plot(fakes.everything())
    assert {trace.xaxis for trace in figure.data} == {None} and len({trace.yaxis for trace in figure.data}) == len(rows)
    domains = [figure.layout[f"yaxis{n if n > 1 else ''}"].domain for n in range(1, len(rows) + 1)]
    assert all(upper[0] > lower[1] for upper, lower in pairwise(domains))  # none overlaps
    for label in labels:
        assert any(label in text for text in texts(figure))
    assert any("induction</" not in text and "induction 0.81 at 5" in text for text in texts(figure))


def test_the_strip_reads_the_lens_after_the_layer():
    """Depth l of the lens is what stands after layer l - 1."""
    result = fakes.lens(layers=8)
    agree = depth.strips({"lens": result})[0].curves[0]
    assert agree.layers.tolist() == list(range(8)) and agree.values[-1] == 1.0
    assert agree.note == f"half at {result.half_depth() - 1}"


def test_the_strip_leaves_out_what_is_missing():
    assert [row.label for row in depth.strips({"weights": fakes.weights()})] == ["Output rank", "Output norm"]
    with pytest.raises(BadInput, match="lens, tracing"):
        depth.plot({"loss": fakes.loss()})


@pytest.mark.parametrize("layers", [1, 2])
def test_shallow_models_can_be_drawn(layers):
    for result in (fakes.trace(layers=layers), fakes.lens(layers=layers), fakes.heads(layers=layers, count=1)):
        assert result.plot(theme="paper").data
    assert depth.plot(fakes.everything(layers=layers)).data


def test_measures_without_intervals_are_drawn_as_lines():
    alone = fakes.lens(documents=1)  # one document has no interval
    assert all(trace.fill is None for trace in alone.plot().data)


def test_noise_around_nothing_stays_pale():
    result = fakes.trace(known=0)
    result.data["score"] = result.data["low"] + 1e-4 * (result.data["score"] - result.data["low"])
    assert heatmaps(result.plot())[0].zmax == 0.05
    row = next(row for row in depth.strips({"tracing": result}) if row.label.startswith("Fact"))
    assert depth._scale(row)[1] > 0.05 and "none known" in row.unit
