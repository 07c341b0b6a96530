"""One row of processes that work together: sums, gathers and counts among them, and an error where one of them is gone.

A collective that fails because another process ended, or because nobody answered within the timeout, becomes `RankLost`: on gloo (CPU) as
soon as the connection breaks. NCCL has no such courtesy: its watchdog ends the process after the timeout, with torch's message.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ...core.errors import RankLost


@dataclass(frozen=True)
class Ranks:
    """Some processes that hold parts of one thing. A single one costs nothing: no collective is called."""

    rank: int = 0
    """Number of this process among them, from 0."""
    size: int = 1
    group: Any = None
    """The `ProcessGroup`; None for a single process."""

    def sum_(self, tensor: Tensor) -> Tensor:
        """The sum over the processes, in place; the same bits on each. Returns the tensor."""
        if self.size > 1:
            import torch.distributed as dist

            with lost():
                dist.all_reduce(tensor, group=self.group)
        return tensor

    def most_(self, tensor: Tensor) -> Tensor:
        """The largest over the processes, in place."""
        if self.size > 1:
            import torch.distributed as dist

            with lost():
                dist.all_reduce(tensor, op=dist.ReduceOp.MAX, group=self.group)
        return tensor

    def gather(self, tensor: Tensor) -> list[Tensor]:
        """The tensor of each process, in order of rank; all have one shape."""
        if self.size == 1:
            return [tensor]
        import torch.distributed as dist

        tensor = tensor.contiguous()
        found = [torch.empty_like(tensor) for _ in range(self.size)]
        with lost():
            dist.all_gather(found, tensor, group=self.group)
        return found

    def part(self, count: int) -> tuple[int, int]:
        """First and one past the last of this process's part of `count` things; parts differ by one at most and may be empty."""
        return count * self.rank // self.size, count * (self.rank + 1) // self.size


@contextmanager
def lost() -> Iterator[None]:
    """Turn a collective that failed into `RankLost`."""
    try:
        yield
    except RuntimeError as error:
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise RankLost(
            f"another process of this run ended or did not answer in time ({first}). Look at what it said last; then start the run "
            "again: it goes on from its last checkpoint."
        ) from error
