import errno
import multiprocessing
import os
import shutil
import signal
from contextlib import redirect_stderr
from pathlib import Path

import pytest
import torch

from interp.core import artifact
from interp.core.artifact import read_artifact
from interp.core.dictionary import Dictionary
from interp.core.errors import ArtifactError, BadInput
from interp.train.checkpoint import Checkpoints, differences, has_checkpoint, is_full, tokens_of
from interp.train.learner import Learner
from interp.train.training import Training

from .toys import crosscoder, data, pair, sae

SHORT = Training(tokens=3200, batch=64, watch=500, save_every=900, keep=3, dead_after=600)
CLOCK = ("seconds", "tokens_per_second")


def interrupt_at(monkeypatch, step, number=signal.SIGINT):
    """Send a signal once, in the middle of a step."""
    real, sent = Learner.step, []

    def stepping(self, batch, seen, rows, count, parallel):
        if count == step and not sent:
            sent.append(step)
            os.kill(os.getpid(), number)
        return real(self, batch, seen, rows, count, parallel)

    monkeypatch.setattr(Learner, "step", stepping)


def last_state(folder):
    found = read_artifact(Checkpoints(Path(folder)).all()[-1], kind="training")
    rows = [{name: value for name, value in row.items() if name not in CLOCK} for row in found.meta["records"]]
    return found.tensors, found.meta["cursor"], found.meta["learners"], repr(rows)


def same_bits(first, second):
    return first.keys() == second.keys() and all(
        a.dtype == b.dtype and torch.equal(a.view(torch.uint8), b.view(torch.uint8))
        for a, b in ((first[name].contiguous().reshape(-1), second[name].contiguous().reshape(-1)) for name in first)
    )


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    """A training that nothing happened to, and its folder."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("straight") / "run"
    return SHORT(data(), sae(), folder=folder), folder


@pytest.fixture
def finished(straight, tmp_path):
    """A copy of that folder."""
    shutil.copytree(straight[1], tmp_path / "run")
    return tmp_path / "run"


@pytest.mark.parametrize(
    "make, config, options",
    [
        (data, [sae(), sae(activation="topk", k=3), sae(activation="relu")], {"coefficient": 0.1, "k_start": 0}),
        (pair, [crosscoder()], {"k_start": 12.0, "auxiliary": 0.1, "normalise": "centred"}),
        (data, [sae(activation="jumprelu", nested=())], {"coefficient": 0.05}),
    ],
)
def test_what_goes_on_ends_like_what_was_never_interrupted(make, config, options, tmp_path, monkeypatch):
    training = Training(**{**SHORT.to_dict(), "tokens": 1900, "k_anneal": 0.27, "dead_after": 300} | options)
    rows = make(700, heldout=0.1)
    straight = training(rows, config, folder=tmp_path / "straight")
    for step in (
        8,
        9,
        15,
        20,
    ):  # at the end of k's fall and of an epoch, after it, at a regular checkpoint, and anywhere
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            interrupt_at(patch, step)
            training(rows, config, folder=tmp_path / "pieces")
        assert tokens_of(Checkpoints(tmp_path / "pieces").all()[-1]) == 64 * step
    resumed = training(rows, config, folder=tmp_path / "pieces")
    one, other = last_state(tmp_path / "straight"), last_state(tmp_path / "pieces")
    assert any(name.startswith("0.optimizer.0.exp_avg") for name in one[0]) and same_bits(one[0], other[0])
    assert one[1:] == other[1:]
    for first, second in zip(straight.dictionaries, resumed.dictionaries, strict=True):
        assert same_bits(dict(first.state_dict()), dict(second.state_dict()))
    mine = [name for name in straight.result.data.data_vars if name not in CLOCK]
    assert straight.result.data[mine].equals(resumed.result.data[mine])


def test_two_runs_with_one_seed_are_the_same_and_with_another_not(straight):
    first, second = straight[0].dictionary, SHORT(data(), sae()).dictionary
    other = Training(tokens=64, batch=64, seed=1)(data(), sae()).dictionary
    assert same_bits(dict(first.state_dict()), dict(second.state_dict()))
    assert not torch.equal(first.W_dec, other.W_dec)


def test_a_finished_training_is_not_done_again(straight, finished, monkeypatch):
    monkeypatch.setattr(Learner, "step", None)
    again = SHORT(data(), sae(), folder=finished)
    assert same_bits(dict(straight[0].dictionary.state_dict()), dict(again.dictionary.state_dict()))
    assert Dictionary.load(finished / "dictionary").digest == again.dictionary.digest


def test_another_option_dictionary_or_data_is_refused_and_shown(tmp_path):
    training = Training(tokens=128, batch=64)
    training(data(), sae(), folder=tmp_path / "run")
    with pytest.raises(BadInput, match=r"training\.clip: 1\.0 -> 2\.0"):
        Training(tokens=128, batch=64, clip=2.0)(data(), sae(), folder=tmp_path / "run")
    with pytest.raises(BadInput, match=r"dictionaries\[0\]\.latents: 32 -> 24"):
        training(data(), sae(latents=24), folder=tmp_path / "run")
    with pytest.raises(BadInput, match="data: "):
        training(data(heldout=0.2), sae(), folder=tmp_path / "run")
    with pytest.raises(BadInput, match="dictionaries"):
        training(data(), [sae(), sae(k=3.0)], folder=tmp_path / "run")
    Training(tokens=128, batch=64, keep=5, save_every=64)(data(), sae(), folder=tmp_path / "run")  # change no number


def test_the_last_few_are_kept(straight, tmp_path):
    assert [tokens_of(path) for path in Checkpoints(straight[1]).all()] == [1856, 2752, 3200]
    assert has_checkpoint(straight[1]) and not has_checkpoint(tmp_path)


def test_a_damaged_checkpoint_is_named_and_the_one_before_offered(finished):
    kept = Checkpoints(finished).all()
    arrays = next(kept[-1].glob("*.safetensors"))
    content = bytearray(arrays.read_bytes())
    content[-100] ^= 1
    arrays.write_bytes(content)
    with pytest.raises(
        ArtifactError, match=rf"{kept[-1].name}.*damaged.*2,752 tokens, is whole: remove {kept[-1].name}"
    ):
        SHORT(data(), sae(), folder=finished)
    (kept[-2] / "meta.json").write_text("{")
    with pytest.raises(ArtifactError, match=f"1,856 tokens, is whole: remove {kept[-1].name} and {kept[-2].name}"):
        SHORT(data(), sae(), folder=finished)
    (kept[-3] / "meta.json").unlink()
    with pytest.raises(ArtifactError, match="no older one that is whole"):
        SHORT(data(), sae(), folder=finished)


def test_a_folder_of_something_else_is_refused(tmp_path):
    (tmp_path / "thesis.tex").write_text("x")
    with pytest.raises(BadInput, match=r"'thesis\.tex'.*empty folder"):
        SHORT(data(), sae(), folder=tmp_path)
    with pytest.raises(BadInput, match="is a file"):
        SHORT(data(), sae(), folder=tmp_path / "thesis.tex")
    Dictionary.initialise(sae()).save(tmp_path / "sae")
    with pytest.raises(BadInput, match=r"meta\.json"):
        SHORT(data(), sae(), folder=tmp_path / "sae")


def test_a_full_disk_costs_a_checkpoint_and_no_training(straight, tmp_path, monkeypatch):
    said, real, fails = [], artifact._write_arrays, {"on": False}

    def full(path, tensors):
        if fails["on"]:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(path, tensors)

    def say(text):
        said.append(text)

    monkeypatch.setattr(artifact, "_write_arrays", full)
    real_step = Learner.step

    def step(self, batch, seen, rows, count, parallel):
        fails["on"] = 20 < count < 40  # the checkpoints at 1,856 tokens
        return real_step(self, batch, seen, rows, count, parallel)

    monkeypatch.setattr(Learner, "step", step)
    trained = SHORT(data(), sae(), folder=tmp_path / "run", say=say)
    lines = [line for line in said if "disk is full" in line]
    assert len(lines) == 1 and "at 1,856 tokens" in lines[0] and "960 tokens is kept" in lines[0]
    assert any("disk is full" in line for line in trained.result.warnings)
    assert [tokens_of(path) for path in Checkpoints(tmp_path / "run").all()] == [960, 2752, 3200]
    assert same_bits(dict(straight[0].dictionary.state_dict()), dict(trained.dictionary.state_dict()))
    assert not list((tmp_path / "run" / "checkpoints").glob(".*"))  # nothing half written


def test_a_disk_that_stays_full_still_gives_the_dictionary(tmp_path, monkeypatch):
    def full(path, tensors):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(artifact, "_write_arrays", full)
    said: list[str] = []
    trained = Training(tokens=640, batch=64)(data(), sae(), folder=tmp_path / "run", say=said.append)
    assert trained.folder is None and "there is none yet" in said[1] and "were not saved" in said[-1]
    assert trained.dictionary.encode(torch.randn(3, 16, generator=torch.Generator().manual_seed(0))).shape == (3, 32)


def test_what_a_killed_writer_left_goes_once_it_is_old(tmp_path):
    Training(tokens=128, batch=64)(data(), sae(), folder=tmp_path / "run")
    kept = Checkpoints(tmp_path / "run")
    old, new = (kept.folder / "checkpoints" / f".tokens-00{name}.writing" for name in ("1", "2"))
    for place in (old, new):
        place.mkdir()
    os.utime(old, (0, 0))
    kept.write(192, {}, {})
    assert new.exists() and not old.exists()


def test_another_version_or_number_of_threads_is_said(finished, monkeypatch):
    shutil.rmtree(Checkpoints(finished).all()[-1])
    monkeypatch.setattr(torch, "__version__", "1.2.3")
    monkeypatch.setattr(torch, "get_num_threads", lambda: 64)
    said: list[str] = []
    SHORT(data(), sae(), folder=finished, say=said.append)
    (line,) = [text for text in said if "begun with" in text]
    assert "not 1.2.3 and threads 1, not 64: numbers may differ" in line


def test_is_full_looks_at_the_cause():
    error = ArtifactError("x")
    assert not is_full(error)
    error.__cause__ = OSError(errno.ENOSPC, "no space")
    assert is_full(error) and not is_full(OSError(errno.EACCES, "no"))


def test_differences_are_shown_field_by_field():
    was = {"a": 1, "b": {"c": [1, 2], "d": 0.5}, "gone": 1}
    now = {"a": 1, "b": {"c": [1, 3], "d": 0.5}, "new": "x"}
    assert differences(was, now) == ["b.c[1]: 2 -> 3", "gone: 1 -> 'absent'", "new: 'absent' -> 'x'"]
    assert differences(was, was) == [] and differences([1], [1, 2], "list") == ["list: [1] -> [1, 2]"]


def test_handlers_are_put_back(tmp_path, monkeypatch):
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    Training(tokens=128, batch=64)(data(), sae(), folder=tmp_path / "run")
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before
    called = []
    mine = lambda number, frame: called.append(number)  # noqa: E731
    old = signal.signal(signal.SIGTERM, mine)
    try:
        interrupt_at(monkeypatch, 5, signal.SIGTERM)
        with pytest.raises(SystemExit) as left:
            SHORT(data(), sae(), folder=tmp_path / "other")
        assert called == [signal.SIGTERM] and left.value.code == 143 and signal.getsignal(signal.SIGTERM) is mine
    finally:
        signal.signal(signal.SIGTERM, old)
    assert tokens_of(Checkpoints(tmp_path / "other").all()[-1]) == 5 * 64


def _train_until_killed(folder, pipe):
    """In a process of its own: say when the third step begins, then train on."""
    real = Learner.step

    def step(self, *rest):
        if rest[3] == 3:
            pipe.send("training")
        return real(self, *rest)

    Learner.step = step
    with Path(os.devnull).open("w") as nowhere, redirect_stderr(nowhere):
        Training(tokens=64_000_000, batch=64, save_every=64_000_000)(data(), sae(), folder=folder)


def test_sigterm_from_outside_leaves_a_checkpoint_to_go_on_from(tmp_path):
    fork = multiprocessing.get_context("fork")  # importing torch anew would take most of the time
    here, there = fork.Pipe()
    child = fork.Process(target=_train_until_killed, args=(tmp_path / "run", there))
    child.start()
    assert here.poll(60) and here.recv() == "training"
    os.kill(child.pid, signal.SIGTERM)
    child.join(60)
    assert child.exitcode == 143
    (kept,) = Checkpoints(tmp_path / "run").all()
    state = read_artifact(kept, kind="training")
    assert state.meta["seen"] == tokens_of(kept) >= 3 * 64 and state.meta["number"] * 64 == state.meta["seen"]
    assert not list((tmp_path / "run" / "checkpoints").glob(".*"))
