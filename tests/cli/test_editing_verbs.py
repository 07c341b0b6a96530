"""The verbs of editing: sweeps over layers and sequences of edits, with the tables that they print."""

import pytest

import interp
from interp.core.errors import CheckpointError
from interp.models import reference

from .running import run


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    try:
        reference.path("atlas")
    except CheckpointError as error:
        pytest.skip(str(error))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_sweep_says_what_it_found_and_what_it_cannot_say(capsys):
    outcome = run(
        capsys, "edit-sweep", "atlas", "--limit", 1, "--problems", "error_injection", "--editors", "FT-1", "--layers", "0,2",
        "--trace-samples", 1, "-o", "run", "--figure", "sweep.html",
    )  # fmt: skip
    assert outcome.code == 0, outcome.err
    found = interp.open("run")
    assert found.data.sizes["fact"] == 1 and found.data["layer"].values.tolist() == [0, 2]
    assert "error_injection, FT-1, with the last layer: a regression needs at least 4 facts" in outcome.out
    refused = run(capsys, "edit-sweep", "atlas", "--problems", "erasure")
    assert refused.code and "fact_erasure" in refused.err
    assert run(capsys, "edit-sweep", "atlas", "--limit", 2, "--dry-run").code == 0


def test_a_sequence_prints_where_each_editor_ends(capsys):
    outcome = run(
        capsys,
        "edit-sequence",
        "atlas",
        "--limit",
        2,
        "--editors",
        "FT-1",
        "--probe-tokens",
        100,
        "-o",
        "run",
        "--figure",
        "run.html",
    )
    assert outcome.code == 0, outcome.err
    assert interp.open("run").data["edits"].values.tolist() == [0, 1, 2]
    assert "retention" in outcome.out and "locality" in outcome.out and "|W|/|W0|, FT-1" in outcome.out
    refused = run(capsys, "edit-sequence", "atlas", "--limit", 2, "--checkpoints", "1,5")
    assert refused.code and "beyond the 2 facts" in refused.err
