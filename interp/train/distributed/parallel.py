"""Several processes that train one dictionary: what the steps and the loop ask of each other, and nothing else.

    parallel = Parallel.none()                       # one process; every call below is free and changes nothing
    parallel = Parallel.from_environment()           # one of those that `torchrun` started: data parallel
    parallel = Parallel.from_environment(latents=4)  # four processes share the latents, the rest of them the rows

Two axes. `rows`: each process has other rows of the same batch. `latents`: each process has other latents of the same dictionary.

**Rows.** The batches are those of one process: each is cut into parts in order (`share`, `part`), so the cursor counts global rows. A step
divides by the rows of the whole batch (`total`), never by its own, so that what it computes is its share of the loss. The *sum* over the
processes (`sum_`, `sum_gradients`) is then the loss and the gradient of one process with the whole batch, also where parts are unequal.
Numbers that a step divides by, such as the variance of the batch, are summed before.

**Latents.** A process decodes with its own latents: `whole(partial)` sums the partial reconstructions, and its gradient goes to every
process unchanged. What all latents read goes through `spread`, which changes nothing on the way there and sums the gradients on the way
back. Both are identities for one process. Biases of the decoder and the skip weights are kept by every process and stay equal.

**Selection.** `cut` finds the count-th largest value over all processes exactly, by counting the digits of the numbers (one histogram of
2048 bins for every 11 bits is summed), not by collecting values; of several equal to it the first in order of rank are kept. `row_cut` does
it for each row among the processes that share the latents.
"""

import json
import os
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ...core.errors import BadInput, RankLost
from .ranks import Ranks, lost

DIGIT = 11
"""Bits that one pass of `cut` looks at."""
ALONE = Ranks()
"""A single process."""


class Cut(NamedTuple):
    """The smallest value that is kept: everything above it is, and of what equals it the first `ties` on this process."""

    value: float
    """0 where nothing is positive."""
    ties: int


class RowCut(NamedTuple):
    """For each row the smallest value that is kept [row], and how many of this process's that equal it [row, int64]."""

    values: Tensor
    ties: Tensor


@dataclass(frozen=True)
class Parallel:
    """This process among those that train together; see the module."""

    rank: int = 0
    """Number of this process, from 0. The processes that share latents are neighbours."""
    size: int = 1
    world: Ranks = ALONE
    rows: Ranks = ALONE
    """The processes that have the same latents and other rows."""
    latents: Ranks = ALONE
    """The processes that have the same rows and other latents."""
    device: str = "cpu"
    """Where this process computes: "cpu", or "cuda:n"."""

    @classmethod
    def none(cls) -> "Parallel":
        """One process."""
        return cls()

    @classmethod
    def from_environment(cls, *, latents: int = 1, timeout: float = 600.0, device: str = "auto") -> "Parallel":
        """This process as `torchrun` describes it (RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR, MASTER_PORT); one process without those.

        `latents` processes share the latents. `timeout`: seconds that a collective waits for the others. `device`: "auto" is the GPU
        LOCAL_RANK where there is one (nccl), else the CPU (gloo). Raises `BadInput` for a description that cannot be.
        """
        size = int(os.environ.get("WORLD_SIZE", "1"))
        if latents < 1 or size % latents:
            raise BadInput(
                f"`latents` is {latents}, and {size} processes do not fall into groups of so many. Give a divisor of {size}, or start "
                f"`torchrun --nproc-per-node` with a multiple of {latents}."
            )
        if size == 1:
            return cls()
        if missing := [name for name in ("RANK", "MASTER_ADDR", "MASTER_PORT") if name not in os.environ]:
            raise BadInput(
                f"WORLD_SIZE is {size}, but {', '.join(missing)} is not set. Start the processes with `torchrun`, or unset WORLD_SIZE."
            )
        return _start(int(os.environ["RANK"]), size, latents, timeout, device)

    @property
    def main(self) -> bool:
        """Whether this is the process that prints and writes."""
        return self.rank == 0

    @property
    def share(self) -> tuple[int, int]:
        """(index, count) of this process's part of every batch, as `Batches(share=...)` takes it."""
        return self.rows.rank, self.rows.size

    def part(self, count: int) -> tuple[int, int]:
        """First and one past the last of this process's rows among `count` rows of a batch."""
        return self.rows.part(count)

    def total(self, rows: int) -> int:
        """Rows of the whole batch, of which this process has `rows`."""
        if self.rows.size == 1:
            return rows
        return int(self.rows.sum_(torch.tensor(rows)))

    def sum_(self, tensor: Tensor) -> Tensor:
        """The sum over the processes that have other rows, in place. Returns the tensor."""
        return self.rows.sum_(tensor)

    def sum_gradients(self, parameters: Iterable[Tensor]) -> None:
        """Sum the gradients of each process's share of the loss, in place; a parameter without one counts as zero."""
        if self.rows.size == 1:
            return
        for parameter in parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            self.rows.sum_(parameter.grad)

    def mean_gradients(self, parameters: Iterable[Tensor]) -> None:
        """Average gradients of *equal* parts, in place: for losses that divide by their own rows. `sum_gradients` is exact for any."""
        if self.rows.size == 1:
            return
        parameters = list(parameters)
        self.sum_gradients(parameters)
        for parameter in parameters:
            if parameter.grad is not None:
                parameter.grad /= self.rows.size

    def whole(self, partial: Tensor) -> Tensor:
        """The sum of what each process's latents give; every process gets its gradient as it is."""
        return partial if self.latents.size == 1 else _Whole.apply(partial, self.latents)

    def spread(self, shared: Tensor) -> Tensor:
        """`shared` itself, for this process's latents to read; its gradient is the sum over the processes."""
        return shared if self.latents.size == 1 else _Spread.apply(shared, self.latents)

    def cut(self, values: Tensor, count: int) -> Cut:
        """The `count`-th largest of the positive `values` [any shape] of all processes; the smallest where there are fewer.

        A process may give only its candidates, if it is certain to give all of its values that are at least the cut.
        """
        return _cut(values.detach().flatten(), count, self.world)

    def row_cut(self, values: Tensor, k: int) -> RowCut:
        """For each row, the k-th largest positive of `values` [row, any] over the processes that share the latents; else 0."""
        return _row_cut(values.detach(), k, self.latents)

    def norm(self, sharded: Iterable[Tensor], replicated: Iterable[Tensor] = ()) -> Tensor:
        """The length of a gradient whose parts `sharded` lie with the latents and whose parts `replicated` every process has. Float64."""
        squares = self.latents.sum_(_squares(sharded, self.device))
        return (squares + _squares(replicated, self.device)).sqrt()

    def agree(self, flag: bool, *, every: bool = False) -> bool:
        """The same answer on all processes: whether any of them (with `every`, all of them) says yes."""
        if self.size == 1:
            return flag
        told = torch.tensor([flag, not flag], dtype=torch.int32)
        said = self.world.most_(told).tolist()
        return not said[1] if every else bool(said[0])

    def seed(self, seed: int) -> int:
        """The seed of the run: that of rank 0, whatever the others were given."""
        if self.size == 1:
            return seed
        return int(self.world.gather(torch.tensor(seed, dtype=torch.int64))[0])

    def same(self, value: Any, what: str) -> None:
        """Refuse to go on where the processes were given different JSON values. Raises `RankLost` on all of them."""
        if self.size == 1:
            return
        from ...core.seed import derive

        digest = torch.tensor(derive(0, json.dumps(value, sort_keys=True, default=str)), dtype=torch.int64)
        found = [int(one) for one in self.world.gather(digest)]
        if differs := [rank for rank, one in enumerate(found) if one != found[0]]:
            raise RankLost(
                f"the processes have different {what}: rank 0 differs from {', '.join(map(str, differs))}. Start all with the same command."
            )

    def barrier(self) -> None:
        """Wait until every process is here."""
        if self.size > 1:
            self.world.sum_(torch.zeros(1))

    def close(self) -> None:
        """Leave; for the end of a process."""
        if self.size > 1:
            import torch.distributed as dist

            if dist.is_initialized():
                dist.destroy_process_group()


def _start(rank: int, size: int, latents: int, timeout: float, device: str) -> Parallel:
    import torch.distributed as dist

    if device == "auto":
        device = "cuda" if torch.cuda.is_available() and dist.is_nccl_available() else "cpu"
    if device == "cuda":
        device = f"cuda:{os.environ.get('LOCAL_RANK', '0')}"
    if device.startswith("cuda"):
        torch.cuda.set_device(device)
    if not dist.is_initialized():
        backend = "cpu:gloo,cuda:nccl" if device.startswith("cuda") else "gloo"
        with lost():
            dist.init_process_group(backend, rank=rank, world_size=size, timeout=timedelta(seconds=timeout))
    world = Ranks(rank, size, dist.group.WORLD)
    columns = [list(range(first, size, latents)) for first in range(latents)]
    blocks = [list(range(first, first + latents)) for first in range(0, size, latents)]
    rows = _axis(rank, columns, size, timeout)
    shares = _axis(rank, blocks, size, timeout)
    return Parallel(rank, size, world, rows, shares, device)


def _axis(rank: int, groups: list[list[int]], size: int, timeout: float) -> Ranks:
    """The group with this process in it; every process takes part in making each of them."""
    import torch.distributed as dist

    if len(groups[0]) == 1:
        return Ranks()
    mine = Ranks()
    for members in groups:
        group = dist.group.WORLD if len(members) == size else dist.new_group(members, timedelta(seconds=timeout))
        if rank in members:
            mine = Ranks(members.index(rank), len(members), group)
    return mine


class _Whole(torch.autograd.Function):
    """Sum forward, identity backward."""

    @staticmethod
    def forward(context: Any, tensor: Tensor, ranks: Ranks) -> Tensor:
        return ranks.sum_(tensor.detach().clone(memory_format=torch.contiguous_format))

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        return gradient, None


class _Spread(torch.autograd.Function):
    """Identity forward, sum backward."""

    @staticmethod
    def forward(context: Any, tensor: Tensor, ranks: Ranks) -> Tensor:
        context.ranks = ranks
        return tensor.view_as(tensor)

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        return context.ranks.sum_(gradient.clone(memory_format=torch.contiguous_format)), None


def _squares(gradients: Iterable[Tensor], device: str) -> Tensor:
    total = torch.zeros((), dtype=torch.float64, device=device)
    for gradient in gradients:
        total += torch.linalg.vector_norm(gradient, dtype=torch.float64) ** 2
    return total


def _cut(values: Tensor, count: int, ranks: Ranks) -> Cut:
    """By digits, from the highest: in each pass the bin that holds the wanted value narrows the candidates."""
    if count < 1:
        raise BadInput(f"a cut keeps at least one value; not {count}. Give a larger k.")
    whole = {4: torch.int32, 8: torch.int64, 2: torch.int16}[values.element_size()]
    keys = values[values > 0].view(whole).to(torch.int64)  # positive floats and their bits have one order
    bits, above, wanted, prefix = 8 * values.element_size(), 0, count, 0
    for high in range(bits, 0, -DIGIT):
        low = max(0, high - DIGIT)
        counts = torch.bincount((keys >> low) & ((1 << (high - low)) - 1), minlength=1 << (high - low))
        falling = ranks.sum_(counts).flip(0).cumsum(0).cpu()
        if high == bits:
            wanted = min(count, int(falling[-1]))
            if not wanted:
                return Cut(0.0, 0)
        place = int(torch.searchsorted(falling, wanted - above))
        above += int(falling[place - 1]) if place else 0
        digit = len(falling) - 1 - place
        prefix = (prefix << (high - low)) | digit
        keys = keys[((keys >> low) & ((1 << (high - low)) - 1)) == digit]
    value = torch.tensor(prefix, dtype=torch.int64).to(whole).view(values.dtype)
    equal = [int(one) for one in ranks.gather(torch.tensor(len(keys)))]
    before = sum(equal[: ranks.rank])
    return Cut(float(value), min(equal[ranks.rank], max(0, wanted - above - before)))


def _row_cut(values: Tensor, k: int, ranks: Ranks) -> RowCut:
    own = values.topk(min(k, values.shape[1]), dim=1).values.clamp(min=0)
    if own.shape[1] < k:
        own = torch.cat([own, own.new_zeros(len(own), k - own.shape[1])], dim=1)
    parts = ranks.gather(own)
    cut = torch.cat(parts, dim=1).topk(k, dim=1).values[:, -1:]
    above = torch.stack([(part > cut).sum(dim=1) for part in parts]).sum(dim=0)
    equal = torch.stack([(part == cut).sum(dim=1) for part in parts])
    before = equal[: ranks.rank].sum(dim=0)
    ties = torch.minimum(equal[ranks.rank], (k - above - before).clamp(min=0))
    return RowCut(cut[:, 0], ties * (cut[:, 0] > 0))
