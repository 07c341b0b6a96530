"""Writing, in the background: shards are streamed to disk by one thread while the next forward pass runs.

At most `depth` chunks wait in memory; a shard is never held as a whole. What goes wrong in the thread is raised in the caller at its
next call, nothing partial is published, and every claim is let go.
"""

import os
import queue
import threading
from collections.abc import Sequence
from dataclasses import asdict
from types import TracebackType
from typing import Any

import numpy as np
import torch
import xxhash
from torch import Tensor

from ..core.errors import BadInput
from .disk import Lock, aside, create, explain, settle, write_all, write_json
from .key import DTYPES
from .layout import Entry, Record
from .moments import Moments
from .shard import header, raw


class ShardWriter:
    """One shard in the making: streamed, hashed and summed row by row."""

    def __init__(self, entry: Entry, index: int, claim: Lock) -> None:
        self.entry, self.index, self.claim = entry, index, claim
        self.expected = entry.group.plan.rows(index)
        self.moments = Moments.empty(entry.shape)
        self._hash = xxhash.xxh3_128()
        self._fd: int | None = None
        self._tmp = aside(entry.path)
        self._bytes = 0

    def append(self, rows: np.ndarray) -> None:
        """The next rows, in order."""
        if self._fd is None:
            self._fd = create(self._tmp)
            self._write(header(self.expected, self.entry.shape, self.entry.dtype))
        self.moments.add(rows)
        if not self.moments.finite:
            raise BadInput(self._not_finite())
        self._write(np.ascontiguousarray(rows).data.cast("B"))

    def finish(self) -> None:
        """Publish the shard, then its record."""
        if self._fd is None or self.moments.count != self.expected:
            raise AssertionError(f"shard {self.index} has {self.moments.count} rows instead of {self.expected}")
        self._write(b"\0" * (-self.expected * self.entry.row_bytes % 8))
        sums = self.moments.total.tobytes() + self.moments.squares.tobytes()
        self._write(sums)
        fd, self._fd = self._fd, None
        settle(self._tmp, fd, self.entry.shard(self.index))
        plan = self.entry.group.plan
        first, last = plan.documents(self.index)
        record = Record(
            self.index, int(plan.offsets[first]), self.expected, (first, last), self._bytes, self._hash.hexdigest(),
            xxhash.xxh3_128_hexdigest(sums),
        )  # fmt: skip
        write_json(self.entry.record_path(self.index), asdict(record))
        self.claim.release(remove=True)

    def abort(self) -> None:
        """Leave nothing behind."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None
        self._tmp.unlink(missing_ok=True)
        self.claim.release(remove=True)

    def _write(self, data: "bytes | memoryview") -> None:
        assert self._fd is not None
        write_all(self._fd, data)
        self._hash.update(data)
        self._bytes += len(data)

    def _not_finite(self) -> str:
        first, last = self.entry.group.plan.documents(self.index)
        cure = "Check the weights for NaN"
        if self.entry.dtype == "float16":
            cure = "float16 ends at 65504: store bfloat16 or float32, or check the weights for NaN"
        return f"{self.entry.site} is not finite somewhere in documents {first} to {last - 1}; nothing of it was stored. {cure}."


class Writer:
    """The thread. Use it as a context manager: leaving it waits until everything is on disk."""

    def __init__(self, depth: int = 2) -> None:
        self._queue: queue.Queue[Any] = queue.Queue(maxsize=depth)
        self._error: BaseException | None = None
        self._given_up = False
        self._open: list[ShardWriter] = []
        self._thread = threading.Thread(target=self._work, name="interp-store-writer", daemon=True)

    def __enter__(self) -> "Writer":
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._given_up |= error is not None
        self._queue.put(None)
        self._thread.join()
        for shard in self._open:
            shard.abort()
        if error is None:
            self._raise()

    def begin(self, entry: Entry, index: int, claim: Lock) -> ShardWriter:
        """Start a shard, which now owns its claim."""
        shard = ShardWriter(entry, index, claim)
        self._open.append(shard)
        return shard

    def put(self, pieces: Sequence[tuple[ShardWriter, Tensor]]) -> None:
        """Queue the next rows of some shards; waits while the queue is full."""
        self._raise()
        ready = [(shard, *_to_host(rows, shard.entry.dtype)) for shard, rows in pieces]
        self._queue.put(ready)

    def finish(self, shards: Sequence[ShardWriter]) -> None:
        """Queue the publishing of shards that have all their rows."""
        self._raise()
        self._queue.put(list(shards))

    def _raise(self) -> None:
        if self._error is not None:
            raise self._error

    def _work(self) -> None:
        while (item := self._queue.get()) is not None:
            if self._error is not None or self._given_up:
                continue  # keep draining, so that the caller never waits for a dead thread
            shard = None
            try:
                for part in item:
                    if isinstance(part, ShardWriter):
                        shard = part
                        shard.finish()
                        self._open.remove(shard)
                    else:
                        shard, rows, arrived = part
                        if arrived is not None:
                            arrived.synchronize()
                        shard.append(raw(rows))
            except OSError as error:
                assert shard is not None
                self._error = explain(error, shard.entry.path, "writing a shard in")
            except BaseException as error:
                self._error = error


def _to_host(rows: Tensor, dtype: str) -> tuple[Tensor, Any]:
    """Rows on the CPU in the stored dtype, and the event after which they have arrived (copies from a GPU overlap with the next pass)."""
    rows = rows.detach().to(DTYPES[dtype][1])
    if not rows.is_cuda:
        return rows.cpu(), None
    host = torch.empty(rows.shape, dtype=rows.dtype, pin_memory=True)
    host.copy_(rows, non_blocking=True)
    arrived = torch.cuda.Event()
    arrived.record()
    return host, arrived
