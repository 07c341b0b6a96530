"""One command in two processes, as torchrun starts it: the work is shared, and one of them speaks."""

import multiprocessing
import os
import socket
from contextlib import redirect_stderr, redirect_stdout, suppress
from functools import partial
from pathlib import Path

import pytest

import interp.cli
from interp.cache import Store

SITE = "blocks.1.hook_resid_post"
pytestmark = pytest.mark.usefixtures(
    "atlas"
)  # so that what it takes to load a model is imported before processes are forked


def _process(rank: int, port: int, words: list[str], folder: Path) -> None:
    os.environ |= {
        "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port),
    }  # fmt: skip
    with (folder / f"out-{rank}").open("w") as out, (folder / f"err-{rank}").open("w") as err:
        with redirect_stdout(out), redirect_stderr(err):
            try:
                interp.cli.main(words)
            except SystemExit as left:
                code = left.code or 0
        (folder / f"code-{rank}").write_text(str(code))


def two(folder: Path, *words: object) -> tuple[list[int], list[str], list[str]]:
    """Exit codes, what was printed and what was complained, of two processes with the same command."""
    folder.mkdir()
    context = multiprocessing.get_context("fork")  # importing torch anew would take most of the time
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    made = [context.Process(target=_process, args=(rank, port, [str(w) for w in words], folder)) for rank in range(2)]
    for process in made:
        process.start()
    for process in made:
        process.join(90)
        with suppress(ValueError):
            process.kill()
    read = [[(folder / f"{name}-{rank}").read_text() for rank in range(2)] for name in ("code", "out", "err")]
    return [int(code) for code in read[0]], read[1], read[2]


def test_capture_is_shared_and_said_once(tmp_path, monkeypatch):
    monkeypatch.setattr("interp.cache.Store", partial(Store, shard_bytes=200_000))
    codes, out, err = two(tmp_path / "a", "capture", "atlas", "--sites", SITE, "--limit-tokens", 2000)
    assert codes == [0, 0]
    assert "by 2 processes" in out[0] and "captured)" in out[0] and "2,000 rows" in out[0]
    assert out[1] == err[1] == ""
    (stored,) = Store().ls()
    assert stored.complete and stored.rows == 2000 and Store().verify() == []


def test_what_is_wrong_with_the_command_is_said_once(tmp_path):
    codes, out, err = two(tmp_path / "a", "capture", "gpt2", "--sites", SITE)
    assert codes == [2, 2] and "needs tokens" in err[0] and err[1] == out[1] == ""


def test_verbs_that_would_write_over_each_other_are_refused(tmp_path):
    codes, _, err = two(tmp_path / "a", "heads", "atlas", "-o", tmp_path / "heads")
    assert codes == [2, 2] and "'capture' or 'train'" in err[0] and not err[1] and not (tmp_path / "heads").exists()


def test_training_is_shared_and_said_once(tmp_path):
    codes, out, err = two(
        tmp_path / "a", "train", "sae", "atlas", "--latents", 256, "--k", 8, "--tokens", 4000, "--batch", 500, "--limit-tokens", 2000,
        "--shards", 2, "-o", tmp_path / "run",
    )  # fmt: skip
    assert codes == [0, 0], err
    assert "128 of 256 latents here" in out[0] and out[1] == err[1] == ""
    assert interp.open(tmp_path / "run" / "dictionary").latents == 256
