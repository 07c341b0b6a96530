"""The figure of the evaluation of unlearning: traces over their null, answers beside them, and top tokens."""

import numpy as np
import pytest
import xarray as xr

from interp.analyses.concepts.traces import UnlearningResult
from interp.analyses.concepts.traces.comparison import INTRINSIC
from interp.core.errors import BadInput

from .fakes import rng, stamped

WORDS = ["␣red", "␣blue", "␣teal", "␣the", "␣of", "␣king"]


def made(
    concepts: int = 3, nulls: int = 8, prompts: int = 6, *, gold: bool = True, clean: bool = False
) -> UnlearningResult:
    states = ["before", "after"] + (["clean"] if clean else [])
    names = [f"concept {i}" for i in range(concepts)]
    rows = [(name, null) for name in names for null in [False] + [True] * nulls]
    trace = np.clip(rng().normal(0.6, 0.1, (len(rows), len(INTRINSIC))), 0, 1)
    trace[[not null for _, null in rows]] = 0.2
    asked = [(name, group) for name in names for group in ("related", "unrelated") for _ in range(prompts)]
    level = rng(2).integers(0, 2, (len(states), len(asked))).astype(float)
    token = np.stack([[WORDS, WORDS[::-1]][place % 2] for place in range(len(states))])[:, None].repeat(concepts, 1)
    data = {
        "value": (("concept", "measure"), rng().random((concepts, 2))),
        "trace": (("vector", "trace_measure"), trace), "rouge": ("prompt", rng(1).random(len(asked))),
        "bleu": ("prompt", rng(3).random(len(asked))),
        "correct": (("state", "prompt"), level if gold else np.full_like(level, np.nan)),
        "token": (("state", "named", "rank"), token),
        "token_related": (("state", "named", "rank"), np.char.find(token, "␣t") < 0),
    }  # fmt: skip
    coords = {
        "state": states, "concept": names, "measure": ["jaccard", "kl"], "trace_measure": list(INTRINSIC),
        "vector": [f"v{i}" for i in range(len(rows))], "vector_concept": ("vector", [row[0] for row in rows]),
        "null": ("vector", [row[1] for row in rows]), "prompt": [str(i) for i in range(len(asked))],
        "prompt_concept": ("prompt", [one[0] for one in asked]), "group": ("prompt", [one[1] for one in asked]),
        "named": [f"{name}/2.{i}" for i, name in enumerate(names)],
    }  # fmt: skip
    return stamped(UnlearningResult(xr.Dataset(data, coords, {"before": "atlas", "after": "atlas-less"})))


@pytest.mark.parametrize("theme", ["screen", "paper"])
@pytest.mark.parametrize("clean", [False, True])
def test_traces_stand_over_their_null_beside_the_answers(theme, clean):
    result = made(clean=clean)
    figure = result.plot(theme=theme)
    found = result.traces("jaccard")
    own = [trace for trace in figure.data if trace.name == "the concept's" and trace.xaxis == "x"]
    assert len(own) == 1 and np.allclose(np.asarray(own[0].x, float), found["mean"].values)
    bands = [trace for trace in figure.data if trace.name == "null vectors, 95 %" and trace.xaxis == "x"]
    assert [min(band.x) for band in bands] == pytest.approx(found["null_lo"].values.tolist())
    others = next(trace for trace in figure.data if trace.name == "about others")
    table = result.answers("rouge").sel(group="unrelated")
    assert np.allclose(np.asarray(others.x, float), table["mean"].values)
    assert np.allclose(np.asarray(others.error_x.array, float), (table["ci_hi"] - table["mean"]).values)
    assert ("clean model" in [trace.name for trace in figure.data]) is clean
    assert len([note for note in figure.layout.annotations if note.name == "panel title"]) == 4


def test_without_gold_answers_their_panel_is_left_out():
    figure = made(gold=False).plot(measures=("jaccard", "cosine", "l2"), score="bleu")
    titles = [note.text for note in figure.layout.annotations if note.name == "panel title"]
    assert titles == ["top tokens kept", "direction kept", "distance moved", "answers kept"]


@pytest.mark.parametrize("theme", ["screen", "paper"])
def test_top_tokens_of_both_models_are_listed_and_joined(theme):
    figure = made().plot(by="tokens", concept="concept 1", n=4, theme=theme)
    columns = [trace for trace in figure.data if trace.mode == "text"]
    assert [trace.name for trace in columns] == ["before", "after"]
    assert list(columns[0].text) == ["<b>␣red</b>", "<b>␣blue</b>", "␣teal", "␣the"]
    lines = next(trace for trace in figure.data if trace.mode == "lines")
    assert list(zip(lines.y[::3], lines.y[1::3], strict=True)) == [(3, 4), (4, 3)]  # teal and the, the other way round


def test_many_concepts_are_cut_and_said():
    figure = made(concepts=50, nulls=2, prompts=2).plot()
    assert "40 of 50 concepts" in figure.layout.title.text
    assert len(made(concepts=50, nulls=2, prompts=2).plot(concepts=["concept 44"]).layout.yaxis.ticktext) == 1


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"by": "map"}, "traces"), ({"measures": ("kl",)}, "jaccard"), ({"measures": ()}, "one to three"), ({"score": "meteor"}, "rouge"),
        ({"concepts": ["x"]}, "concept 0"), ({"by": "tokens", "concept": "x"}, "concept 0"), ({"by": "tokens", "n": 7}, "1 to 6"),
    ],
)  # fmt: skip
def test_bad_options_are_refused(options, match):
    with pytest.raises(BadInput, match=match):
        made().plot(**options)
