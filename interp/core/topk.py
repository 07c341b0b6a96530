"""The largest entries of each row of `x @ table`, without the product ever being held: the vocabulary lens of many vectors.

    from interp.core.topk import Moments, topk
    values = lm.weights.W_out(0)                    # x [row, d]
    top = topk(values, lm.weights.W_U, 10)          # table [d, vocab]: top.values, top.ids [row, k]
    Moments(lm.weights.W_U).of(values)              # mean and standard deviation of each row over the whole vocabulary

Tiles of rows by tiles of the vocabulary, each followed by the best of its rows so far: memory is a tile and [row, k], whatever the
number of rows and tokens. Order is by value, then by id. A row whose k-th and next value are as near as float32 products of |x| and the
longest |u| may be off (`CLOSE`) is done again in float64 with that order (`fallback` counts these), so which tokens are among the k never
depends on how a tile was cut. Within the k, entries nearer than that may change places where products are in float32 (no screen).

Screening. With `screen=True` a tile is multiplied in bfloat16, and what comes out is not the logit but a bound that no logit exceeds: the
product has two more columns, so that with x̂ = bf16(x) and û = bf16(u)

    x · u  =  x̂ · û + (x - x̂) · û + x · (u - û)  <=  [x̂, |x|, |x - x̂|] · [û, |u - û| + rounding, |û|]

The candidates with the largest bounds are computed again in float64. A row is certified if its k-th value exceeds the bound of everything
that was not computed again; a row that is not is done exactly. So screening changes the time and the last digits, never a set.

What `screen=None` means is read off the hardware and not off a clock, so that the same command gives the same digits: on where bfloat16 has
instructions of its own (AMX, AVX-512 BF16, CUDA from Ampere on), else off, where it is slower than float32.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from .errors import BadInput

TILE = (512, 4096)
"""Rows by tokens of one product: 8 MB in float32, and a shape that fits the caches."""
BLOCK = 64
"""Neighbouring tokens of which only the largest is looked at first."""
PAIRS = 500_000
"""Numbers of candidate columns that are gathered at once."""
HALF = 2.0**-8
"""Relative rounding of bfloat16, at most."""
CLOSE = 2.0**-19
"""How far apart two float32 products must be, relative to |x| |u|, to be in a sure order. The largest error found was a quarter of this (64
to 4096 numbers, of one sign or both); the worst case is larger."""
TINY = 2e-19
"""Numbers below have squares that float32 does not hold, so a length in float32 may miss so much of each."""
LARGE = 1e30
"""Numbers of a table beyond which float32 products may overflow on the way."""

Tiles = Callable[[], Iterator[Tensor]]
"""A table as tiles [d, n], side by side; called again for each pass."""


@dataclass(frozen=True)
class Top:
    """The largest entries of each row, falling; equal ones by rising id."""

    values: Tensor
    """[row, k], float32 (float64 for float64 rows); with both ends, [2, row, k] of x and of -x."""
    ids: Tensor
    """[row, k], int64."""
    fallback: int
    """Rows that were done again in float64: values as good as equal at the end of the list, or not certified by the screen."""


def topk(
    x: Tensor,
    table: "Tensor | Tiles",
    k: int,
    *,
    screen: bool | None = None,
    signed: bool = False,
    tile: tuple[int, int] = TILE,
) -> Top:
    """The k largest entries of each row of x [row, d] @ table [d, vocab].

    `signed` gives both ends from one product: of x and of -x. `tile` is rows by tokens (tokens of a table that comes in tiles are as it
    gives them). Raises `BadInput` for numbers that are not finite, products that float32 cannot hold, k beyond the vocabulary, and shapes
    that do not fit.
    """
    if x.ndim != 2 or k < 1 or min(tile) < 1:
        raise BadInput(
            f"`x` must be [row, d], k and tiles at least 1; not {list(x.shape)}, {k} and {tile}. Flatten what has more axes."
        )
    if torch.get_float32_matmul_precision() != "highest":
        raise BadInput(
            f"float32 products are set to {torch.get_float32_matmul_precision()!r} precision, and the k largest would not be the k "
            "largest. Call torch.set_float32_matmul_precision('highest')."
        )
    if not bool(x.isfinite().all()):
        raise BadInput("`x` has NaN or infinite numbers, and no largest entry. Is the checkpoint whole?")
    rows, powers = _levelled(x.detach().to(torch.promote_types(x.dtype, torch.float32)))
    screen = fast_bfloat16(x.device) if screen is None else screen
    passes = [rows, -rows] if signed and screen else [rows]
    found = [_topk(part, table, k, tile, screen=screen, both=signed and not screen) for part in passes]
    values, ids = torch.cat([one[0] for one in found]), torch.cat([one[1] for one in found])
    for power in powers:
        values = values * power
    if not bool(values.isfinite().all()):
        raise BadInput(
            "products of `x` and the table are beyond what float32 holds. Is the checkpoint whole? Divide `x` by a power of two."
        )
    fallback = sum(one[2] for one in found)
    return Top(values, ids, fallback) if signed else Top(values[0], ids[0], fallback)


def fast_bfloat16(device: torch.device) -> bool:
    """Whether products in bfloat16 have instructions of their own on this device."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    known = (getattr(torch.cpu, name, None) for name in ("_is_amx_tile_supported", "_is_avx512_bf16_supported"))
    return device.type == "cpu" and any(bool(able()) for able in known if able is not None)


class Moments:
    """Mean and spread over the vocabulary of any vector's logits, from one pass over the table: [d] and [d, d] are kept."""

    def __init__(self, table: "Tensor | Tiles", *, tile: int = TILE[1]) -> None:
        count, total, gram = 0, torch.zeros(()), torch.zeros(())
        for _, part in _tiles(table, tile):
            total = total + part.sum(dim=1, dtype=_wide(part))
            count += part.shape[1]
        self.count, self.middle = count, total / count
        for _, part in _tiles(table, tile):
            centred = part - self.middle[:, None].to(part.dtype)
            gram = gram + (centred @ centred.T).to(self.middle.dtype)
        self.gram = gram / count

    def of(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation [row] over the vocabulary of x [row, d] @ table, in float64."""
        wide = x.detach().to(self.middle.dtype)
        variance = ((wide @ self.gram) * wide).sum(dim=-1)
        return wide @ self.middle, variance.clamp(min=0).sqrt()


def exact(x: Tensor, table: "Tensor | Tiles", k: int, *, tile: int = TILE[1]) -> tuple[Tensor, Tensor]:
    """Values and ids [row, k] by float64 products and a stable order: slow, and what everything else is held against."""
    best, ids = _empty(len(x), 0, x, _wide(x))
    size = x.to(_wide(x)).norm(dim=1)
    for start, part in _tiles(table, tile):
        found = x.to(_wide(x)) @ part.to(_wide(x))
        least = torch.cat([best, found], dim=1).topk(min(k, best.shape[1] + found.shape[1]), dim=1).values[:, -1]
        bar = least - CLOSE**2 * size * part.to(_wide(x)).norm(dim=0).amax()
        row, place = (found >= bar[:, None]).nonzero(as_tuple=True)
        found[row, place] = _products(
            x, part, row, place
        )  # a product depends, in its last digit, on where in a tile it stands
        value = torch.cat([best, found], dim=1)
        number = torch.arange(start, start + part.shape[1], device=x.device).expand(len(x), -1)
        order = value.argsort(dim=1, descending=True, stable=True)[:, :k]
        best, ids = value.gather(1, order), torch.cat([ids, number], dim=1).gather(1, order)
    return best, ids


def _topk(
    x: Tensor, table: "Tensor | Tiles", k: int, tile: tuple[int, int], *, screen: bool, both: bool
) -> tuple[Tensor, Tensor, int]:
    """Values and ids [end, row, k], and how many rows were done again."""
    cuts = [slice(start, start + tile[0]) for start in range(0, len(x), tile[0])]
    signs = (1.0, -1.0) if both else (1.0,)
    best = [[_Best(len(x[cut]), k, x) for cut in cuts] for _ in signs]
    left = [bounded(x[cut], side="row") if screen else x[cut] for cut in cuts]
    vocab, longest = 0, 0.0
    for start, part in _tiles(table, tile[1], x.dtype if not screen else None):
        vocab += part.shape[1]
        if part.shape[0] != x.shape[1]:
            raise BadInput(
                f"rows of {x.shape[1]} numbers cannot be read by a table [d={part.shape[0]}, vocab]. Transpose it?"
            )
        known = part if not screen else bounded(part.T, side="column").T
        longest = longest if screen else max(longest, float(part.norm(dim=0).amax()) + TINY * len(part) ** 0.5)
        for index, cut in enumerate(cuts):
            value = left[index] @ known
            for sign, side in zip(signs, best, strict=True):
                if screen:
                    side[index].screened(value, start, x[cut], part)
                else:
                    side[index].take(value if sign > 0 else -value, start)
    if k > vocab:
        raise BadInput(f"k={k} entries of a row, and the vocabulary has {vocab}. Ask for fewer.")
    close = (
        (CLOSE if x.dtype == torch.float32 else CLOSE**2) * longest * x.norm(dim=1)
    )  # screened values are float64 products: 0
    ends = [
        _finished(x if sign > 0 else -x, table, k, side, tile, close) for sign, side in zip(signs, best, strict=True)
    ]
    return torch.stack([end[0] for end in ends]), torch.stack([end[1] for end in ends]), sum(end[2] for end in ends)


def _finished(
    x: Tensor, table: "Tensor | Tiles", k: int, best: "list[_Best]", tile: tuple[int, int], close: Tensor
) -> tuple[Tensor, Tensor, int]:
    parts = [one.result(near) for one, near in zip(best, close.split(tile[0]), strict=False)] or [
        (*_empty(0, k, x, x.dtype), torch.zeros(0, dtype=torch.bool))
    ]
    values, ids, sure = (torch.cat([part[place] for part in parts]) for place in range(3))
    again = (~sure).nonzero().flatten()
    for rows in again.split(tile[0]) if len(again) else ():
        value, number = exact(x[rows], table, k, tile=min(tile[1], TILE[1] // 4))  # float64 takes twice the room
        values[rows], ids[rows] = value.to(values.dtype), number
    return values, ids, len(again)


class _Best:
    """The k + 1 largest entries of some rows so far: the last one says whether the k-th is the k-th by more than its id."""

    def __init__(self, rows: int, k: int, like: Tensor) -> None:
        self.k = k
        self.values, self.ids = _empty(rows, 0, like, like.dtype)
        self.bound = torch.full((rows,), -torch.inf, dtype=like.dtype, device=like.device)
        """What no entry exceeds that was left out without being computed."""

    def take(self, value: Tensor, start: int) -> None:
        """The entries of a tile [row, n]."""
        found, ids = self._above(value)
        self._merge(found, ids + start)

    def screened(self, bound: Tensor, start: int, x: Tensor, table: Tensor) -> None:
        """The entries of a tile, of which there are bounds [row, n] in bfloat16: those that could matter are computed."""
        wanted = min(self.k + 1 + max(16, self.k // 2), bound.shape[1])
        found, ids = self._above(bound, wanted + 1)
        upper = unrounded(found).to(self.values.dtype)
        if found.shape[1] > wanted:
            self.bound = torch.maximum(self.bound, upper[:, wanted:].amax(dim=1))
            upper, ids = upper[:, :wanted], ids[:, :wanted]
        hopeful = (
            upper > self._least()[:, None]
            if self.values.shape[1] > self.k
            else torch.ones_like(upper, dtype=torch.bool)
        )
        row, place = hopeful.nonzero(as_tuple=True)
        value = torch.full_like(upper, -torch.inf)
        value[row, place] = _products(x, table, row, ids[row, place]).to(value.dtype)
        self._merge(value, ids + start)

    def result(self, close: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Values and ids [row, k] in order, and which rows [row] are sure to be right, where values may be off by `close` [row]."""
        k = self.k
        by_id = self.ids.argsort(dim=1)
        values, ids = self.values.gather(1, by_id), self.ids.gather(1, by_id)
        order = values.argsort(dim=1, descending=True, stable=True)
        values, ids = values.gather(1, order), ids.gather(1, order)
        last = values[:, k - 1]
        sure = last > self.bound
        if values.shape[1] > k:
            sure &= last - values[:, k] > close
        return values[:, :k], ids[:, :k], sure

    def _least(self) -> Tensor:
        return self.values[:, -1]

    def _above(self, value: Tensor, most: int | None = None) -> tuple[Tensor, Tensor]:
        """The largest entries of a tile [row, n], all that are above the least of the best among them, and their places."""
        rows, n = value.shape
        most = min(most or self.k + 1, n)
        if self.values.shape[1] <= self.k or n % BLOCK:
            return _largest(value, most)
        blocks = value.view(rows, -1, BLOCK)
        tops = blocks.amax(dim=2)
        bar = self._least().to(torch.float32)
        tall = unrounded(tops) if value.dtype == torch.bfloat16 else tops
        deep = int((tall > bar[:, None]).sum(dim=1).max())
        if not deep:
            return value[:, :0], torch.zeros(rows, 0, dtype=torch.int64, device=value.device)
        if 2 * deep * BLOCK > n:
            return _largest(value, most)
        where = tops.topk(deep, dim=1, sorted=False).indices
        inside = blocks.gather(1, where[..., None].expand(-1, -1, BLOCK)).flatten(1)
        found, place = _largest(inside, min(most, inside.shape[1]))
        return found, where.gather(1, place // BLOCK) * BLOCK + place % BLOCK

    def _merge(self, value: Tensor, ids: Tensor) -> None:
        if not value.shape[1]:
            return
        values, every = torch.cat([self.values, value], dim=1), torch.cat([self.ids, ids], dim=1)
        if values.shape[1] > self.k + 1:
            values, order = _largest(values, self.k + 1)
            every = every.gather(1, order)
        self.values, self.ids = values, every


def _levelled(x: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    """Rows whose largest number is between a half and one, and the two powers of two [row, 1] that undo it: the digits are the same."""
    if not x.numel():
        return x, (x.new_ones(len(x), 1), x.new_ones(len(x), 1))
    power = torch.frexp(x.abs().amax(dim=1, keepdim=True).cpu()).exponent
    first = power.div(2, rounding_mode="floor")  # 2**power may be beyond float32
    parts = tuple(torch.exp2(one.to(x.dtype)).to(x.device) for one in (first, power - first))
    return x / parts[0] / parts[1], (parts[0], parts[1])


def _largest(value: Tensor, most: int) -> tuple[Tensor, Tensor]:
    found = value.topk(most, dim=1)
    return found.values, found.indices


def bounded(rows: Tensor, *, side: str) -> Tensor:
    """Rows [n, d] in bfloat16 with the two columns that turn products of a "row" and a "column" into upper bounds, and zeros up to a
    multiple of 32. What comes out of the product in bfloat16 is rounded once more: see `unrounded`."""
    wide = rows.to(torch.float32)
    near = wide.to(torch.bfloat16)
    missed = TINY * rows.shape[1] ** 0.5
    lost = (wide - near.to(torch.float32)).norm(dim=1) + missed
    if side == "row":
        extra = torch.stack([wide.norm(dim=1), lost], dim=1)
    else:
        size = near.to(torch.float32).norm(dim=1) + missed
        extra = torch.stack([lost + _accumulation(rows) * size, size], dim=1)
    up = (extra * (1 + 4 * HALF)).to(torch.bfloat16)  # rounded, still not below
    zeros = up.new_zeros(len(rows), -(rows.shape[1] + 2) % 32)
    return torch.cat([near, up, zeros], dim=1)


def _accumulation(rows: Tensor) -> float:
    """What adding d products in float32 can lose, relative to |x| |u|; more where CUDA may add parts of them in bfloat16."""
    loss = 1.1 * (rows.shape[1] + 40) * 2.0**-24
    reduced = rows.device.type == "cuda" and torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction
    return loss + 2 * HALF if reduced else loss


def unrounded(bound: Tensor) -> Tensor:
    """Bounds that came out in bfloat16, as float32 that are not below what they were rounded from."""
    wide = bound.to(torch.float32)
    return wide + 1.01 * HALF * wide.abs()


def _products(x: Tensor, table: Tensor, row: Tensor, column: Tensor) -> Tensor:
    """x[row] · table[:, column] for pairs [pair], in float64."""
    wide, step = _wide(x), max(1, PAIRS // x.shape[1])
    parts = [
        (x[r].to(wide) * table.T[c].to(wide)).sum(dim=1)
        for r, c in zip(row.split(step), column.split(step), strict=True)
    ]
    return torch.cat(parts) if parts else x.new_zeros(0, dtype=wide)


def _tiles(table: "Tensor | Tiles", width: int, dtype: torch.dtype | None = None) -> Iterator[tuple[int, Tensor]]:
    """Tiles [d, n] with the number of their first token. Raises `BadInput` for numbers that are not finite."""
    if isinstance(table, Tensor):
        parts: Iterator[Tensor] = (table[:, at : at + width] for at in range(0, table.shape[1], width))
    else:
        parts = table()
    start = 0
    for part in parts:
        if not bool((part.abs() <= LARGE).all()):
            raise BadInput(
                f"the table has NaN or infinite numbers, or some beyond {LARGE:g}: no words can be read off it. Is the checkpoint whole?"
            )
        least = torch.promote_types(part.dtype, torch.float32)
        yield start, part.detach().to(least if dtype is None else dtype)
        start += part.shape[1]


def _empty(rows: int, k: int, like: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    return (
        torch.zeros(rows, k, dtype=dtype, device=like.device),
        torch.zeros(rows, k, dtype=torch.int64, device=like.device),
    )


def _wide(like: Tensor) -> torch.dtype:
    return torch.float32 if like.device.type == "mps" else torch.float64
