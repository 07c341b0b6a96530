"""What is kept of scores that are too many to keep: for each pair of heads, of all together, and the strongest ones.

Scores come a tile at a time, [writer head, component, reader head] for one layer, one later layer and one kind. Of each pair of heads:

    total      (Σ_i s_i² c_i² / Σ_i s_i²)^½         the score of the whole writer, s its singular values, c its components' scores
    best       max_i c_i, which i, and its z        z_i = (c_i - mean_{j≠i} c_j) / sd_{j≠i} c_j
    mean, sd   over the writer's components

z leaves the component itself out, so that a strong one does not widen the spread it is measured by; sd divides by n - 1, so a head needs
three components to have a z, and no z is given where the others score alike to rounding (`alike` counts them).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from einops import rearrange
from torch import Tensor

from .engine import Readers, Writers

PAIR = ("total", "best", "best_z", "mean", "sd")
BIN = 0.05
"""Width of the histogram's bins, in units of the null 1 / sqrt(n)."""
ALIKE = 1e-12
"""Squares about the mean, as a share of a head's squared scores, below which components score alike but for rounding."""
MANY = 1 << 14
AT_ONCE = 1 << 20
"""Scores whose statistics are computed at once."""


@dataclass(frozen=True)
class Tile:
    """Scores of components into the heads of one layer, through one input."""

    scores: Tensor
    """[writer head, component, reader head]; NaN where there is nothing to score."""
    z: Tensor
    """Each component's z among its head's others, same axes, float64."""
    pair: dict[str, Tensor]
    """`PAIR` and best_component, [writer head, reader head]."""
    alike: int
    """Components that have no z because all others of their head score alike."""


def tile_of(scores: Tensor, values: Tensor) -> Tile:
    """The statistics of one tile; `values` are singular values [writer head, component]. Components without a score count for nothing."""
    known = scores.isfinite()
    c = scores.double().masked_fill(~known, 0.0)
    energy = values.square()[:, :, None] * known  # s² [head, component, reader]
    total = ((energy * c.square()).sum(1) / energy.sum(1)).sqrt()
    n = known.sum(1)  # [head, reader]
    mean = c.sum(1) / n
    apart = (c - mean[:, None]).masked_fill(~known, 0.0)
    spread = apart.square().sum(1)
    sd = (spread / (n - 1)).sqrt().masked_fill(n < 2, torch.nan)
    more = (n / (n - 1))[:, None]
    rest = spread[:, None] - apart.square() * more  # squares that are left without the component
    usable = known & (n > 2)[:, None] & (rest > ALIKE * c.square().sum(1, keepdim=True))
    z = (apart * more / (rest / (n - 2)[:, None]).clamp(min=0).sqrt()).masked_fill(~usable, torch.nan)
    best, which = scores.masked_fill(~known, -1.0).max(1)
    none = n == 0
    pair = {
        "total": total, "best": best.masked_fill(none, torch.nan), "mean": mean, "sd": sd,
        "best_z": z.gather(1, which[:, None])[:, 0], "best_component": which.masked_fill(none, -1),
    }  # fmt: skip
    return Tile(scores, z, pair, int((known & (n > 2)[:, None] & ~usable).sum()))


class Tally:
    """Everything that is kept of one model's scores."""

    def __init__(
        self, *, kinds: int, layers: int, heads: int, components: int, free: int, top: int, rank_by: str, held: bool,
        dtype: torch.dtype,
    ) -> None:  # fmt: skip
        pairs, self.dtype = (kinds, layers, heads, layers, heads), _numpy(dtype)
        self.pair: dict[str, np.ndarray] = {name: np.full(pairs, np.nan, self.dtype) for name in PAIR}
        self.best_component = np.full(pairs, -1, np.int16)
        self.shape = (kinds, layers, heads, components, layers, heads)
        self.scores: np.ndarray | None = np.full(self.shape, np.nan, self.dtype) if held else None
        self.unit = free**0.5
        self.histogram = np.zeros((kinds, int(np.ceil(self.unit / BIN))), np.int64)
        self.top = Top(top, self.shape)
        self.rank_by, self.alike, self.scored = rank_by, 0, 0

    def take(self, kind: int, directions: Tensor, values: Tensor, first: int, reader: int, readers: Readers) -> None:
        """Score the writers of neighbouring layers, from layer `first` on, with the readers of layer `reader`, and count the scores.

        `directions` [layer, head, component, d_model] and `values` [layer, head, component] are those of `Writers`.
        """
        step = max(1, AT_ONCE // (self.shape[2] * self.shape[3] * self.shape[5]))
        for start in range(0, len(directions), step):
            part = slice(start, min(start + step, len(directions)))
            said = Writers(directions[part].flatten(0, 1), values[part].flatten(0, 1))
            self.add(kind, slice(first + part.start, first + part.stop), reader, said.score(readers), said.values)

    def add(self, kind: int, layers: slice, reader: int, scores: Tensor, values: Tensor) -> None:
        """Take in scores [writer head, component, reader head] of some neighbouring layers into layer `reader`.

        `values` are the singular values [writer head, component].
        """
        tile, heads = tile_of(scores, values), self.shape[2]
        for name, array in (*self.pair.items(), ("best_component", self.best_component)):
            array[kind, layers, :, reader] = rearrange(
                tile.pair[name], "(layer head) reader -> layer head reader", head=heads
            )
        if self.scores is not None:
            self.scores[kind, layers, :, :, reader] = rearrange(
                scores, "(layer head) i reader -> layer head i reader", head=heads
            )
        known = scores[scores.isfinite()].double()
        bins = self.histogram.shape[1]
        place = (known * (self.unit / BIN)).long().clamp(max=bins - 1)  # a score of 1 belongs to the last
        self.histogram[kind] += torch.bincount(place, minlength=bins).numpy()
        self.scored += len(known)
        self.alike += tile.alike
        keys = tile.scores.double() if self.rank_by == "score" else tile.z
        self.top.offer(keys, (kind, layers.start, reader), tile.scores, tile.z)


class Top:
    """The strongest so far, [channel], strongest first; of equals, the earlier kind, layer, head, component and reader."""

    def __init__(self, size: int, shape: Sequence[int]) -> None:
        self.size, self.shape = size, tuple(shape)
        self.keys, self.ids = np.zeros(0), np.zeros(0, np.int64)
        self.values: tuple[np.ndarray, ...] | None = None

    def offer(self, keys: Tensor, where: tuple[int, int, int], *values: Tensor, first: int = 0) -> None:
        """Take what belongs in the list from a tile [writer head, component, reader head, ...].

        `keys` rank, and NaN is never ranked; `values` are kept beside them. `where` is the tile's kind, the layer of its first writer, and
        its readers' layer; `first` is the number of that writer in its layer, and writers go on into the layers that follow.
        """
        flat = keys.flatten()
        floor = self.keys[-1] if len(self.keys) == self.size else -np.inf
        chosen = (flat >= floor).nonzero()[:, 0]
        if len(chosen) > max(MANY, self.size):
            chosen = chosen[flat[chosen] >= flat[chosen].topk(self.size).values[-1]]
        if not len(chosen):
            return
        head, component, *reader = np.unravel_index(chosen.cpu().numpy(), tuple(keys.shape))
        kind, reader_layer = np.full_like(head, where[0]), np.full_like(head, where[2])
        layer, head = np.divmod(where[1] * self.shape[2] + first + head, self.shape[2])
        ids = np.ravel_multi_index((kind, layer, head, component, reader_layer, *reader), self.shape)
        merged = np.r_[self.keys, flat[chosen].cpu().numpy()]
        everything = np.r_[self.ids, ids]
        order = np.lexsort((everything, -merged))[: self.size]
        self.keys, self.ids = merged[order], everything[order]
        new = (value.flatten()[chosen].double().cpu().numpy() for value in values)
        olds = self.values or [np.zeros(0)] * len(values)
        self.values = tuple(np.r_[old, more][order] for old, more in zip(olds, new, strict=True))

    def places(self) -> tuple[np.ndarray, ...]:
        """Kind, layer, head, component, reader_layer, reader_head (and what follows) of each, as numbers."""
        return tuple(np.unravel_index(self.ids, self.shape))


def _numpy(dtype: torch.dtype) -> type:
    return {torch.float32: np.float32, torch.float64: np.float64}[dtype]
