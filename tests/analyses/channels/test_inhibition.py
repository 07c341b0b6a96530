"""A channel that training made: in a real checkpoint one component says to one head's query which of two places not to look at.

Found by weights alone, and held against what is done to it: the whole of Merullo et al. 2024, sections 3 and 4, on a model of another kind
than theirs (GPT-Neo). Prompts are not those on which it was first seen.
"""

import pytest

import interp
from interp.data import tasks

WRITER, READER = "5.4.0", "6.11"


@pytest.fixture(scope="module")
def chat(real_models):
    return interp.load(str(real_models / "tinytalk-chat"), check=False)


@pytest.fixture(scope="module")
def people(chat):
    return tasks.named("ioi", chat.tokenizer, n=24, seed=11)


def test_weights_name_the_writer(chat):
    scores = interp.Channels(kinds=("Q",))(chat)
    into = scores.into(READER, kind="Q")
    assert ".".join(map(str, into.to_series().dropna().idxmax())) == WRITER
    assert float(into.max()) > 3 * scores.null()
    walk = interp.ChannelCircuit(start=READER, direction="upstream", kinds=("Q",), depth=1)(chat)
    assert walk.edges()["source"].iloc[0] == "5.4"  # the whole head, of which this component is the loudest


def test_it_points_to_a_place_whoever_stands_there(chat, people):
    found = interp.ChannelSteering(components=(WRITER,), readers=(READER,), steps=(5,))(chat, people)
    slope = found.slopes()["mean"].sel(arm="channel")
    assert found.opposed() and float(slope.sel(split="BAB")) > 0.1 and float(slope.sel(split="ABB")) < -0.1
    beside = found.slopes()["mean"].sel(arm=["same_head", "random_head"])
    assert float(abs(beside).max()) < 0.3 * float(abs(slope).min())


def test_exchanging_it_exchanges_many_answers(chat, people):
    found = interp.ChannelPatching(components=(WRITER,), readers=(READER,), draws=19, direction="noise")(chat, people)
    table = found.table().set_index("what")
    assert table.loc["channel", "fldd"] > 0.8 > 0.4 > table.loc["random", "fldd"]
    assert table.loc["channel", "interchange_two"] > 0.4 > 0.2 > table.loc["random", "interchange_two"]
    assert table.loc["channel", "readout"] < 4 * table.loc["random", "readout"] < 0
