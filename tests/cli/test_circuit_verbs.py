"""`interp paths` and `interp circuit` on the reference checkpoint."""

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


def test_paths_says_what_was_held_and_what_was_found(capsys, here):
    outcome = run(
        capsys, "paths", "atlas", "--task", "ioi", "--limit", 6, "--receivers", "logits", "--senders", "heads", "-o", "p",
        "--figure", "p.html",
    )  # fmt: skip
    assert outcome.code == 0, outcome.err
    assert (
        "other heads held, MLPs recomputed" in outcome.out and "out of reach" not in outcome.out.split("strongest")[0]
    )
    assert (here / "p.html").stat().st_size > 1000
    assert interp.open(here / "p").data.sizes["pair"] == 6


def test_a_circuit_is_printed_beside_its_floors(capsys):
    outcome = run(
        capsys,
        "circuit",
        "atlas",
        "--task",
        "ioi",
        "--limit",
        4,
        "--circuit",
        "movers@last=0.0+0.1",
        "--random",
        1,
        "--draws",
        1,
    )
    assert outcome.code == 0, outcome.err
    for word in ("faithfulness, accuracy", "empty", "random", "open", "task chance 0.5", "movers@last=0.0+0.1"):
        assert word in outcome.out


def test_what_cannot_be_done_is_said(capsys):
    for words, said in (
        (("paths", "atlas", "--task", "ioi", "--limit", 2, "--receivers", "q:9.9"), "layers 0 to 3"),
        (("paths", "atlas", "--receivers", "nobody"), "is not one"),
        (("circuit", "atlas", "--task", "ioi", "--limit", 4, "--circuit", "movers=1.1"), "no group of a circuit"),
    ):
        outcome = run(capsys, *words)
        assert outcome.code == 2 and said in outcome.err
