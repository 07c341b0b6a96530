import numpy as np
import pytest
import xarray as xr

from interp.core.errors import BadInput
from interp.figures.shrink import size
from interp.figures.theme import PX_PER_INCH, VENUES
from interp.figures.training import PARTS, plot
from interp.train.result import TrainingResult

from .fakes import rng, stamped


def training(names=("sae k 16", "sae k 32"), views=("in",), steps=60):
    draw, shape = rng(3), (steps, len(names))
    tokens = np.arange(1, steps + 1) * 2048
    falling = np.exp(-np.arange(steps) / steps * 3)[:, None] * (1 + np.arange(len(names)))
    fvu = np.stack([falling * (1 + 0.2 * v) / 4 for v in range(len(views))], axis=-1)
    held = np.full_like(fvu, np.nan)
    held[::5] = fvu[::5] * 1.1
    looked = np.full(shape, np.nan)
    looked[::5] = 17.0
    two = ("step", "dictionary")
    data = {
        "loss": (two, 100 * falling), "terms": ((*two, "term"), (100 * falling)[..., None]), "fvu": ((*two, "view"), fvu),
        "fvu_heldout": ((*two, "view"), held), "l0": (two, np.full(shape, 16.0)), "l0_heldout": (two, looked),
        "dead": (two, np.cumsum(draw.random(shape) < 0.3, axis=0).astype(float)), "lr": (two, np.full(shape, 1e-3)),
        "threshold": ((*two, "view"), fvu), "gradient_norm": (two, falling), "tokens_per_second": ("step", np.full(steps, 1e5)),
        "final_fvu": (("dictionary", "view"), fvu[-1] * 1.05), "final_l0": ("dictionary", np.full(len(names), 16.0)),
        "final_l0_running": ("dictionary", np.full(len(names), 17.0)), "calibrated": (("dictionary", "view"), fvu[-1]),
        "latents": ("dictionary", np.full(len(names), 512)),
    }  # fmt: skip
    if len(views) > 1:
        data["exclusive"] = ((*two, "view"), np.cumsum(draw.random((*shape, len(views))) < 0.2, axis=0).astype(float))
    coords = {
        "step": np.arange(1, steps + 1),
        "tokens": ("step", tokens),
        "dictionary": list(names),
        "view": list(views),
        "term": ["squared"],
    }
    return stamped(TrainingResult(xr.Dataset(data, coords, {"warnings": ["sae k 16: careful"]})))


@pytest.mark.parametrize("theme", ["screen", "paper"])
@pytest.mark.parametrize(
    "options", [{}, {"names": ("crosscoder",), "views": ("base", "tuned")}, {"views": ("base", "tuned", "third")}]
)
def test_a_figure_is_finished(options, theme):
    result = training(**options)
    figure = result.plot(theme=theme)
    assert size(figure) < 200_000
    assert any(result.manifest.hash in str(note.text) for note in figure.layout.annotations)
    assert sum(note.name == "panel title" for note in figure.layout.annotations) == 4
    if theme == "paper":
        assert figure.layout.width == round(VENUES["neurips"] * PX_PER_INCH) and not figure.layout.title.text
    else:
        assert "122,880 tokens" in figure.layout.title.text


def lines(figure, axis, mode):
    return [
        trace for trace in figure.data if (trace.yaxis or "y") == axis and trace.mode == mode and trace.x[0] is not None
    ]


def test_lines_and_marks_are_what_was_measured():
    result = training()
    figure = plot(result)
    for place, part in enumerate(("loss", "fvu", "l0", "dead")):
        drawn = lines(figure, f"y{place + 1}" if place else "y", "lines")
        values = result.data[part].values.reshape(60, 2)
        assert len(drawn) == 2 and all(np.allclose(trace.y, values[:, d]) for d, trace in enumerate(drawn))
        assert all(list(trace.x) == result.data["tokens"].values.tolist() for trace in drawn)
    marks = lines(figure, "y2", "markers")
    assert [len(trace.x) for trace in marks] == [12, 1, 12, 1]  # held out, then the end, of each
    assert float(marks[1].y[0]) == pytest.approx(float(result.data["final_fvu"][0, 0]))
    assert figure.layout.yaxis2.type == "log" and figure.layout.yaxis4.type != "log"


def test_dictionaries_have_colours_and_views_dashes():
    drawn = lines(plot(training(views=("base", "tuned")), parts=("fvu",)), "y", "lines")
    looks = [(trace.line.color, trace.line.dash) for trace in drawn]
    assert (
        len(set(looks)) == 4 and looks[0][0] == looks[1][0] != looks[2][0] and looks[0][1] == looks[2][1] != looks[1][1]
    )
    alone = lines(plot(training(("crosscoder",), ("base", "tuned")), parts=("fvu",)), "y", "lines")
    assert alone[0].line.color != alone[1].line.color and [trace.name for trace in alone] == ["base", "tuned"]


def test_a_view_that_a_dictionary_lacks_is_not_drawn():
    result = training(views=("base", "tuned"))
    for name in ("fvu", "fvu_heldout", "final_fvu"):
        result.data[name].loc[{"dictionary": "sae k 16", "view": "tuned"}] = np.nan
    assert [trace.name for trace in lines(plot(result, parts=("fvu",)), "y", "lines")] == [
        "sae k 16, base",
        "sae k 32, base",
        "sae k 32, tuned",
    ]


@pytest.mark.parametrize("part", PARTS)
def test_every_part_can_be_drawn_alone(part):
    figure = plot(training(views=("base", "tuned")), parts=(part,))
    assert len(lines(figure, "y", "lines")) >= 1 and figure.layout.annotations[0].text == PARTS[part]


def test_parts_that_are_not_there_are_refused():
    with pytest.raises(BadInput, match="one view only"):
        plot(training(), parts=("exclusive",))
    with pytest.raises(BadInput, match="parts"):
        plot(training(), parts=("smell",))
    with pytest.raises(BadInput, match="once"):
        plot(training(), parts=("l0", "l0"))


def test_long_trainings_stay_small():
    assert size(plot(training(steps=20_000))) < 400_000


def test_the_report_has_a_row_a_view_and_the_warnings():
    lines = training(views=("base", "tuned")).report_lines()
    assert sum("of 512" in line for line in lines) == 4 and lines[-1] == "! sae k 16: careful"
    assert sum("set on held-out rows (L0 16.00)" in line and "(L0 17.00)" in line for line in lines) == 2
