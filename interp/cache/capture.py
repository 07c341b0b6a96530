"""Filling what is missing: claim a shard, run its documents, hand the rows to the writer; share the work with whoever else is at it.

A shard is computed by the process that holds its claim, a kernel lock that goes with the process. Several processes that ask for the
same key therefore share it shard by shard; one that finds only claimed shards waits for them, and takes over the claims of one
that died. `share=(i, n)` restricts a process to every n-th shard, which is how `torchrun` fills the store. Whoever finds the set complete
seals it.

Forward passes never straddle shards, so every shard has the same bits whoever computes it and in whatever order.
"""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..core.errors import CaptureEmpty
from ..core.lm import LM
from ..core.site import Site
from .layout import Entry, Plan
from .source import Forward, Source
from .writer import ShardWriter, Writer

WAIT = 0.05
"""Seconds between looks at shards that others are computing; grows to 1."""


@dataclass(frozen=True)
class Job:
    """What one call to `capture` has to fill."""

    lm: LM
    source: Source
    plan: Plan
    entries: Sequence[Entry]
    forward_tokens: int
    edits: tuple = ()
    share: tuple[int, int] | None = None

    def shards(self) -> range:
        """The shards that are this process's to compute."""
        index, count = self.share or (0, 1)
        return range(index, len(self.plan), count)

    def missing(self, index: int, entries: "Sequence[Entry] | None" = None) -> list[Entry]:
        """Which of its sites (or of some of them) lack this shard."""
        return [entry for entry in (self.entries if entries is None else entries) if not entry.has(index)]

    def chunks(self, index: int) -> list[tuple[int, int]]:
        """Forward passes of a shard, as ranges of documents."""
        return list(self.source.chunks(*self.plan.documents(index), self.forward_tokens, self.edits))


def fill(job: Job) -> Iterator[int]:
    """Compute what is missing; yields the number of tokens after each forward pass. Ends when all of this process's share is there."""
    pending, wait = list(job.shards()), WAIT
    forwards: dict[tuple[Site, ...], Forward] = {}
    with Writer() as writer:
        while pending:
            left, busy = [], False
            for index in pending:
                shards = _claim(job, index, writer)
                if not shards:
                    left += [index] if job.missing(index) else []
                    continue
                busy = True
                sites = tuple(shard.entry.site for shard in shards)
                forward = forwards.setdefault(sites, job.source.forward(job.lm, sites, job.edits))
                yield from _run(job, index, shards, forward, writer)
                if len(shards) < len(job.entries):
                    left.append(index)  # another process has the rest
            pending = left
            if pending and not busy:
                time.sleep(wait)
                wait = min(2 * wait, 1.0)
    for entry in job.entries:
        entry.seal()


def _claim(job: Job, index: int, writer: Writer) -> list[ShardWriter]:
    shards = []
    for entry in job.missing(index):
        claim = entry.claim(index)
        if claim is None:
            continue
        if entry.has(index):  # somebody published it in between
            claim.release(remove=True)
        else:
            shards.append(writer.begin(entry, index, claim))
    return shards


def _run(job: Job, index: int, shards: list[ShardWriter], forward: Forward, writer: Writer) -> Iterator[int]:
    offsets = job.plan.offsets
    for first, last in job.chunks(index):
        rows = int(offsets[last] - offsets[first])
        with torch.no_grad():
            captured = forward(first, last)
        writer.put([(shard, _checked(captured, shard.entry, rows)) for shard in shards])
        del captured
        yield rows
    writer.finish(shards)


def _checked(captured: dict[Site, Tensor], entry: Entry, rows: int) -> Tensor:
    values = captured.get(entry.site)
    if values is None or tuple(values.shape) != (rows, *entry.shape):
        got = "nothing" if values is None else tuple(values.shape)
        raise CaptureEmpty(
            f"{entry.site} gave {got} for {rows} tokens instead of {(rows, *entry.shape)}. Report this checkpoint."
        )
    return values
