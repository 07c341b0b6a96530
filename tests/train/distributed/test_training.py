"""Trainings by two processes: curve, threshold and dictionary are those of one; any number of processes goes on from a checkpoint."""

import os
import signal

import pytest
import torch

from interp.cache import MemoryView
from interp.core.dictionary import Dictionary, DictionaryConfig, View
from interp.core.errors import BadInput, RankLost
from interp.core.seed import generator
from interp.train.data import TrainingData
from interp.train.distributed import Parallel
from interp.train.training import Training

from .world import together

WIDTH, LATENTS = 16, 64
VIEW = View("in", width=WIDTH)
CONFIGS = [
    DictionaryConfig(LATENTS, (VIEW,), (VIEW,), activation="batchtopk", k=3.5),
    DictionaryConfig(LATENTS, (VIEW,), (VIEW,), activation="topk", k=4),
]
OPTIONS = Training(tokens=30 * 85, batch=85, lr=3e-3, dead_after=300, watch=85, save_every=1000, auxiliary=0.25)


def data() -> TrainingData:
    draw = generator(0, "rows")
    features = torch.randn(40, WIDTH, generator=draw)
    on = torch.rand(700, 40, generator=draw) < 0.1
    return TrainingData({"in": MemoryView((on * torch.rand(700, 40, generator=draw)) @ features, "rows")}, heldout=0.1)


def train(parallel, folder, options=OPTIONS, configs=CONFIGS):
    """What came out, as plain things."""
    said: list[str] = []
    trained = options(data(), configs, folder=folder, parallel=parallel, say=said.append)
    return {
        "loss": torch.from_numpy(trained.result.data["loss"].values.copy()),
        "dead": torch.from_numpy(trained.result.data["dead"].values.copy()),
        "fvu": torch.from_numpy(trained.result.data["final_fvu"].values.copy()),
        "threshold": [one.threshold.clone() for one in trained.dictionaries],
        "said": said,
    }


def stopped(parallel, folder, after, rank=1):
    """The same, but process `rank` is sent SIGTERM after so many tokens."""
    from interp.train.loop import Loop

    step, mine = Loop._step, parallel.rank == rank

    def then_stop(self, raw):
        step(self, raw)
        if mine and self.seen == after:
            os.kill(os.getpid(), signal.SIGTERM)

    Loop._step = then_stop
    try:
        train(parallel, folder)
    except (KeyboardInterrupt, SystemExit) as error:
        return type(error).__name__
    finally:
        Loop._step = step
    return "went on"


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    folder = tmp_path_factory.mktemp("alone") / "run"
    return train(Parallel.none(), folder), folder


def saved(folder):
    return [Dictionary.load(folder / f"dictionary-{place}") for place in (1, 2)]


def same(found, alone, folders, tolerance=1e-5):
    expected, where = alone
    assert (expected["dead"] > 0).any() and expected["loss"].shape[0] == 30
    assert torch.equal(found["dead"], expected["dead"])
    for name in ("loss", "fvu"):
        assert torch.allclose(found[name], expected[name], rtol=tolerance, atol=tolerance), name
    for mine, theirs in zip(saved(folders), saved(where), strict=True):
        assert mine.config == theirs.config
        for key, value in theirs.state_dict().items():
            assert torch.allclose(mine.state_dict()[key], value, rtol=0, atol=2e-4), key


@pytest.mark.parametrize("latents", [1, 2], ids=["rows", "latents"])
def test_a_training_of_two_processes_is_that_of_one(alone, tmp_path, latents):
    found = together(train, tmp_path / "run", latents=latents)
    same(found[0], alone, tmp_path / "run")
    assert found[0]["said"] and not found[1]["said"]  # one message, not two
    assert torch.equal(found[0]["loss"], found[1]["loss"])


def test_any_number_of_processes_goes_on_from_a_checkpoint(alone, tmp_path):
    folder = tmp_path / "run"
    ways = [
        (2, 2, 680),
        (1, 1, 1360),
        (4, 2, 1870),
    ]  # processes, of which share the latents, tokens after which they are stopped
    for size, latents, after in ways:
        found = together(stopped, folder, after, size - 1, size=size, latents=latents)
        assert found == ["KeyboardInterrupt"] * (size - 1) + ["SystemExit"]  # all stop together
        assert f"{after:015d}" in sorted((folder / "checkpoints").iterdir())[-1].name
    found = together(train, folder, size=2, latents=1)
    assert "going on at 1,870" in " ".join(found[0]["said"])
    same(found[0], alone, folder)


def other(parallel, folder):
    from dataclasses import replace

    return train(parallel, folder, options=replace(OPTIONS, seed=parallel.rank))


def test_processes_of_different_commands_are_told(tmp_path):
    found = together(other, tmp_path / "run")
    assert all(isinstance(error, RankLost) and "options, dictionaries or data" in str(error) for error in found)


def killed(parallel, folder):
    from interp.train.loop import Loop

    step = Loop._step

    def then_die(self, raw):
        if parallel.rank == 1 and self.seen == 850:
            os.kill(os.getpid(), signal.SIGKILL)
        step(self, raw)

    Loop._step = then_die
    return train(parallel, folder)


def test_a_process_that_dies_ends_the_others_and_leaves_the_checkpoint(tmp_path):
    found = together(killed, tmp_path / "run", timeout=20)
    assert found[1] is None
    assert isinstance(found[0], RankLost) and "ended or did not answer" in str(found[0])
    assert not list((tmp_path / "run").glob("dictionary*"))


def test_latents_that_cannot_be_dealt_are_refused(tmp_path):
    small = DictionaryConfig(LATENTS, (VIEW,), (VIEW,), activation="topk", k=40)
    found = together(train, None, OPTIONS, [small], latents=2)
    assert all(isinstance(error, BadInput) and "Use fewer processes" in str(error) for error in found)
