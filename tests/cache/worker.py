"""A process of its own that captures, and may be killed in the middle of it."""

import json
import multiprocessing
import os
import signal
from multiprocessing.process import BaseProcess
from pathlib import Path

from interp.cache import Store, writer

from .fake import MIXED, NEURONS, FakeLM, documents

SETTINGS = {"shard_bytes": 4 * 16 * 100, "forward_tokens": 64}
COUNT = 80


class Worker:
    """`Store.capture` in another process."""

    def __init__(self, root: Path, report: Path, **options) -> None:
        self.report = report
        context = multiprocessing.get_context("fork")  # importing torch anew would take most of the time
        self.process: BaseProcess = context.Process(target=_work, args=(root, report), kwargs=options)
        self.process.start()

    def running(self) -> bool:
        return self.process.is_alive()

    def kill(self) -> None:
        self.process.kill()
        self.process.join()

    def killed(self) -> bool:
        self.process.join(120)
        return self.process.exitcode == -signal.SIGKILL

    def result(self) -> tuple[int, bool]:
        """Tokens that it ran, and whether the capture was complete when it was done."""
        self.process.join(120)
        assert self.process.exitcode == 0
        return tuple(json.loads(self.report.read_text()))


def _work(root, report, *, shard=None, delay=0.0, die_after=None) -> None:
    if die_after is not None:
        _die_while_writing(die_after)
    lm = FakeLM(delay=delay)
    acts = Store(root, **SETTINGS).capture(lm, documents(COUNT), [MIXED, NEURONS], shard=shard)
    report.write_text(json.dumps([lm.tokens_run, acts.complete]))


def _die_while_writing(pieces: int) -> None:
    """Kill this process when half of a piece is on disk."""
    real, count = writer.write_all, 0

    def write(fd, data):
        nonlocal count
        count += 1
        if count > pieces:
            real(fd, memoryview(data).cast("B")[: len(data) // 2])
            os.kill(os.getpid(), signal.SIGKILL)
        real(fd, data)

    writer.write_all = write
