"""Shuffled minibatches over one or many sites and models: stored in order, shuffled when read, the same from the same seed.

Each epoch is a permutation of all rows: every row comes exactly once. Two ways to draw it:

    mixing="rows"     a uniform permutation. Reads are random, fine while the data fits in the page cache.
    mixing="blocks"   blocks of neighbouring rows (256 kB) in random order fill a window (256 MB, so a thousand blocks from all over
                      the data), and rows are permuted within the window. Reads are sequential; for data larger than memory.
    mixing="auto"     "rows" up to 4 GiB, "blocks" above: decided by the data alone, so the order is the same on every machine.
    mixing="none"     in order.

Batches are gathered straight from the mapped shards ("rows", "none"), or from the window ("blocks").
`state_dict()` is a handful of numbers; a resumed sampler continues with exactly the batch that would have come next.

    for x in acts["blocks.2.hook_resid_post"].batches(4096, seed=0): ...             # Tensor [4096, d_model]
    pair = {"base": base[site], "tuned": tuned[site]}                                # the same tokens through two models
    for x in Batches(pair, 4096, seed=0, stack=True): ...                            # Tensor [4096, 2, d_model]

It misleads when the first token of each document is an attention sink with a norm a hundred times that of any other: leave such rows
out with `where=` (for example `acts.position(torch.arange(len(acts)))[1] > 0`).
"""

import math
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Literal

import numpy as np
import torch
import xxhash
from torch import Tensor

from ..core.errors import BadInput, StoreError, WrongModel, one_of
from ..core.seed import numpy_generator
from .views import RowView

Mixing = Literal["auto", "rows", "blocks", "none"]
SMALL = 4 << 30
"""Bytes of all views together up to which "auto" permutes rows."""
BLOCK_BYTES = 256 << 10
WINDOW_BYTES = 256 << 20


class Batches:
    """Minibatches of `size` rows. It has a position: iterating again goes on from there, `state_dict` saves it.

    One view gives tensors [row, ...], a mapping gives dicts with its keys, or with `stack` one tensor [row, view, ...]. All views must be
    of the same tokens. Raises `StoreError` where a capture is incomplete.
    """

    def __init__(
        self,
        views: "RowView | Mapping[Any, Any]",
        size: int,
        *,
        seed: int = 0,
        epochs: int | None = 1,
        mixing: Mixing = "auto",
        drop_last: bool = False,
        where: Tensor | None = None,
        dtype: torch.dtype | None = None,
        device: "torch.device | str | None" = None,
        stack: bool = False,
        prefetch: bool = False,
        share: tuple[int, int] = (0, 1),
    ) -> None:
        """See the class; `epochs=None` never ends, `where` is a bool mask [row] of the rows to draw from.

        `dtype` and `device` are those of the batches (as stored, on the CPU). `prefetch` reads the next batch (or window) in the
        background, at the price of a second one in memory. `share=(i, n)` gives the i-th of n parts of every batch, for n processes:
        order, `size` and state are those of the whole batches, and only these rows are read; parts differ by a row at most.
        """
        one_of("mixing", mixing, ["auto", "rows", "blocks", "none"])
        if not 0 <= share[0] < share[1]:
            raise BadInput(f"`share` must be (index, count) with 0 <= index < count; not {share!r}.")
        self.single = not isinstance(views, Mapping)
        self.views: dict[Any, Any] = dict(views) if isinstance(views, Mapping) else {"": views}
        _check_views(self.views, stack)
        self.size, self.seed, self.epochs, self.drop_last = size, seed, epochs, drop_last
        self.dtype, self.device, self.stack, self.prefetch, self.share = dtype, device, stack, prefetch, share
        self._chosen = _chosen(where, len(next(iter(self.views.values()))))
        self.rows = len(next(iter(self.views.values()))) if self._chosen is None else len(self._chosen)
        if size < 1 or size > self.rows:
            raise BadInput(
                f"a batch of {size} rows: there are {self.rows:,} rows to draw from. Ask for 1 to {self.rows:,}."
            )
        row_bytes = sum(view.row_bytes for view in self.views.values())
        self.mixing: str = mixing
        if mixing == "auto":
            self.mixing = "rows" if self.rows * row_bytes <= SMALL else "blocks"
        self._block = max(1, BLOCK_BYTES // row_bytes)
        self._slab = size * (max(1, WINDOW_BYTES // (size * row_bytes)) if self.mixing == "blocks" else 1)
        self.epoch, self.row = 0, 0
        self._order: tuple[int, Any] = (-1, None)

    def __len__(self) -> int:
        """Batches in one epoch."""
        return self.rows // self.size if self.drop_last else math.ceil(self.rows / self.size)

    def state_dict(self) -> dict[str, Any]:
        """Where it stands, as plain values; it belongs to this data, seed and batch size."""
        return {**self._identity(), "epoch": self.epoch, "row": self.row}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from there. Raises `WrongModel` where the state is of other data or options."""
        own = self._identity()
        if differs := [name for name in own if state.get(name) != own[name]]:
            was, now = {n: state.get(n) for n in differs}, {n: own[n] for n in differs}
            raise WrongModel(
                f"this sampler state has {was}, the sampler {now}. Build the sampler as it was when it was saved."
            )
        self.epoch, self.row = int(state["epoch"]), int(state["row"])

    def __iter__(self) -> Iterator[Any]:
        loaded: tuple[tuple[int, int], Any] | None = None
        ahead: tuple[tuple[int, int], Future[Any]] | None = None
        pool = ThreadPoolExecutor(1, "interp-store-reader") if self.prefetch else None
        try:
            while self.epochs is None or self.epoch < self.epochs:
                at = (self.epoch, self.row // self._slab)
                if loaded is None or loaded[0] != at:
                    ready = ahead[1].result() if ahead is not None and ahead[0] == at else self._load(*at)
                    loaded = (at, ready)
                    following = self._after(*at)
                    if pool is not None and (self.epochs is None or following[0] < self.epochs):
                        ahead = (following, pool.submit(self._load, *following))
                batch, place = loaded[1]
                if place is not None:
                    before = (self.row - at[1] * self._slab) // self.size * len(self._part(self.size))
                    chosen = place[before : before + len(self._part(min(self.size, self.rows - self.row)))]
                    batch = {name: rows.index_select(0, chosen) for name, rows in batch.items()}
                self._advance()
                yield self._give(batch)
        finally:
            if pool is not None:
                pool.shutdown(wait=False, cancel_futures=True)

    def _advance(self) -> None:
        self.row += self.size
        if self.row >= len(self) * self.size:
            self.epoch, self.row = self.epoch + 1, 0

    def _after(self, epoch: int, slab: int) -> tuple[int, int]:
        return (epoch, slab + 1) if (slab + 1) * self._slab < len(self) * self.size else (epoch + 1, 0)

    def _load(self, epoch: int, slab: int) -> tuple[dict[Any, Tensor], Tensor | None]:
        """A batch; or the rows of a window in ascending order, and where among them each row of the permuted order is."""
        order = self._rows(epoch, slab * self._slab, min((slab + 1) * self._slab, self.rows))
        if self.share[1] > 1:
            order = np.concatenate(
                [order[start:][self._part(len(order) - start)] for start in range(0, len(order), self.size)]
            )
        place = None
        if self.mixing == "blocks":
            by = np.argsort(order)
            place = torch.empty(len(order), dtype=torch.int64)
            place[torch.from_numpy(by)] = torch.arange(len(order))
            order = order[by]
        numbers = torch.from_numpy(order if self._chosen is None else self._chosen[order])
        return {name: view.take(numbers) for name, view in self.views.items()}, place

    def _part(self, count: int) -> range:
        """Which rows of a batch are this process's, where there are `count` (or more than a batch) left."""
        index, of = self.share
        count = min(count, self.size)
        return range(count * index // of, count * (index + 1) // of)

    def _rows(self, epoch: int, start: int, stop: int) -> np.ndarray:
        """Which rows come at places [start, stop) of an epoch."""
        if self.mixing == "none":
            return np.arange(start, stop)
        if self._order[0] != epoch:
            rng = numpy_generator(self.seed, "batches", self.mixing, epoch)
            self._order = (epoch, rng.permutation(self.rows) if self.mixing == "rows" else self._blocks(rng))
        order: Any = self._order[1]
        if self.mixing == "rows":
            return order[start:stop]
        firsts, ends = order  # of each block, in permuted order: its first row, and the place where it ends
        low, high = np.searchsorted(ends, start, side="right"), np.searchsorted(ends, stop, side="left")
        lengths = np.diff(ends[low : high + 1], prepend=ends[low - 1] if low else 0)
        begins = ends[low : high + 1] - lengths
        picked = [np.arange(f, f + n) for f, n in zip(firsts[low : high + 1], lengths, strict=True)]
        rows = np.concatenate(picked)[start - begins[0] : stop - begins[0]]
        return numpy_generator(self.seed, "window", epoch, start // self._slab).permutation(rows)

    def _blocks(self, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        firsts = rng.permutation(math.ceil(self.rows / self._block)) * self._block
        return firsts, np.cumsum(np.minimum(self._block, self.rows - firsts))

    def _give(self, found: dict[Any, Tensor]) -> Any:
        for name, rows in found.items():
            if self.device is not None and torch.device(self.device).type == "cuda":
                rows = rows.pin_memory()
            found[name] = rows.to(device=self.device, dtype=self.dtype or rows.dtype, non_blocking=True)
        if self.stack:
            return torch.stack(list(found.values()), dim=1)  # [row, view, ...]
        return next(iter(found.values())) if self.single else found

    def _identity(self) -> dict[str, Any]:
        keys = [view.key for view in self.views.values()]
        if self._chosen is not None:
            keys.append(xxhash.xxh3_64_hexdigest(self._chosen.tobytes()))
        return {
            "data": keys,
            "rows": self.rows,
            "size": self.size,
            "seed": self.seed,
            "mixing": self.mixing,
            "drop_last": self.drop_last,
        }

    def __repr__(self) -> str:
        names = ", ".join(str(name) or view.label for name, view in self.views.items())
        return f"Batches({names} · {self.size} of {self.rows:,} rows · mixing {self.mixing} · epoch {self.epoch}, row {self.row:,})"


def _check_views(views: dict[Any, Any], stack: bool) -> None:
    if not views:
        raise BadInput("there is no site to draw from. Give at least one.")
    for view in views.values():
        if not view.complete:
            raise StoreError(
                f"{view.label} is incomplete: {getattr(view, 'rows_there', 0):,} of {len(view):,} rows are there. "
                "Wait and call `refresh()`, or run the same capture to fill in the rest."
            )
    if len({view.rows_digest for view in views.values()}) > 1:
        raise BadInput(
            f"the rows of {', '.join(map(str, views))} do not line up: they are of different tokens or documents. "
            "Capture the same corpus with every model (which needs a common tokenizer)."
        )
    shapes = {view.row_shape for view in views.values()}
    if stack and len(shapes) > 1:
        raise BadInput(f"`stack` needs views of one shape; these have {sorted(shapes)}. Leave `stack` out.")


def _chosen(where: Tensor | None, rows: int) -> np.ndarray | None:
    if where is None:
        return None
    if where.dtype != torch.bool or tuple(where.shape) != (rows,):
        raise BadInput(
            f"`where` must be a bool mask [{rows}], one value a row; not {where.dtype} {tuple(where.shape)}."
        )
    return np.flatnonzero(where.cpu().numpy())
