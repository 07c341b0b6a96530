"""The verbs of tracing and of scenario labels, with the options that decide what they run on."""

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


def test_counterfactuals_take_pairs(capsys):
    outcome = run(
        capsys, "trace", "atlas", "--corruption", "counterfactual", "--task", "facts", "--kinds", "mlp", "--window", 1, "--limit", 2,
        "--direction", "denoise,noise", "-o", "run",
    )  # fmt: skip
    assert outcome.code == 0, outcome.err
    found = interp.open("run")
    assert found.directions == ("denoise", "noise") and found.data.attrs["corruption"] == "counterfactual"
    assert found.data["foil_given"].values.all() and found.data.sizes["prompt"] == 2
    refused = run(capsys, "trace", "atlas", "--task", "facts")  # noise takes facts
    assert refused.code and "needs prompts with a subject" in refused.err


def test_an_interrupted_trace_goes_on_from_its_folder(capsys, here):
    words = ("trace", "atlas", "--kinds", "hidden", "--noise-samples", 1, "--limit", 2, "--resume-from", "parts")
    first = run(capsys, *words, "-o", "one")
    assert first.code == 0 and list((here / "parts").iterdir())
    assert run(capsys, *words, "-o", "two").code == 0
    assert interp.open("one").data.identical(interp.open("two").data)
    other = run(capsys, *words, "--seed", 1)
    assert other.code and "another trace" in other.err


def test_scenarios(capsys):
    outcome = run(capsys, "scenarios", "atlas", "--limit", 3, "-o", "labels", "--figure", "labels.html")
    assert outcome.code == 0, outcome.err
    assert interp.open("labels").data.sizes["prompt"] == 3 and "exact recall (of 3)" in outcome.out
