"""How the latents of one dictionary are dealt to several processes, and back.

Each stretch of latents that are alike (the same views, the same group, the same nested widths) is cut into equal parts, one a process, so
every process has its share of every view and of every prefix of a Matryoshka dictionary: nobody waits for the one with the large group.
What a process holds is a `Dictionary` like any other, with fewer latents; they keep their order.

    from interp.core.dictionary import DictionaryConfig, View
    from interp.train.distributed import Slices
    view = View("in", width=8)
    slices = Slices(DictionaryConfig(latents=96, reads=(view,), writes=(view,), k=4, nested=(32, 96)), 4)
    slices.config(1).nested              # (8, 24): what process 1 holds
    slices.piece(1).ranges               # ((8, 16), (48, 64)): which latents these are

Plain slices of plain tensors: torch's DTensor cuts an axis into one run a process, its operators do not know the selection of latents nor
`embedding_bag`, and its checkpoints are described by pickles, which nothing here reads. It misleads where k or a group is small: a process
with fewer latents than k could not hold the winners of a row, and is refused.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ...core.dictionary.config import DictionaryConfig, View
from ...core.errors import BadInput


@dataclass(frozen=True)
class Piece:
    """The rows of an array that one process holds: some ranges of the first axis, in order."""

    total: int
    """Rows of the whole array."""
    ranges: tuple[tuple[int, int], ...]
    """[first, last + 1) of each run; never empty runs."""

    def of(self, whole: Tensor) -> Tensor:
        """Its rows of a whole array."""
        return torch.cat([whole[first:last] for first, last in self.ranges])

    def __len__(self) -> int:
        return sum(last - first for first, last in self.ranges)


class Slices:
    """The latents of `config` dealt to `size` processes."""

    def __init__(self, config: DictionaryConfig, size: int) -> None:
        """Raises `BadInput` where a stretch of latents is too small to be dealt."""
        self.whole, self.size = config, size
        edges = {0, config.latents, *config.nested}
        for view in (*config.reads, *config.writes):
            edges.update(config.range_of(view))
        total = 0
        for _, count in config.groups:
            total += count
            edges.add(total)
        self.edges = sorted(edges)
        small = [(low, high) for low, high in zip(self.edges, self.edges[1:], strict=False) if high - low < size]
        if small:
            low, high = small[0]
            raise BadInput(
                f"latents {low} to {high} have views, a group or a nested width of their own and are fewer than the {size} processes that "
                "share the latents. Use fewer processes, or larger groups."
            )
        if "topk" in config.activation and config.k > len(self.piece(0)):
            raise BadInput(
                f"k is {config.k:g} and each of {size} processes has about {config.latents // size} latents. Use fewer processes."
            )

    def piece(self, rank: int, span: tuple[int, int] | None = None) -> Piece:
        """The rows that process `rank` has of an array with one row for each latent of `span` (of all)."""
        low, high = span or (0, self.whole.latents)
        found: list[tuple[int, int]] = []
        for start, stop in zip(self.edges, self.edges[1:], strict=False):
            if start >= low and stop <= high:
                size = stop - start
                first, last = start + size * rank // self.size - low, start + size * (rank + 1) // self.size - low
                if found and found[-1][1] == first:
                    found[-1] = (found[-1][0], last)
                else:
                    found.append((first, last))
        return Piece(high - low, tuple(found))

    def ids(self, rank: int) -> Tensor:
        """The latents of process `rank`, rising, int64."""
        return torch.cat([torch.arange(first, last) for first, last in self.piece(rank).ranges])

    def config(self, rank: int) -> DictionaryConfig:
        """The configuration of what process `rank` holds; k stays that of the whole."""
        whole = self.whole
        groups, at = [], 0
        for name, count in whole.groups:
            groups.append((name, len(self.piece(rank, (at, at + count)))))
            at += count
        return replace(
            whole,
            latents=len(self.piece(rank)),
            reads=tuple(self._view(rank, view) for view in whole.reads),
            writes=tuple(self._view(rank, view) for view in whole.writes),
            groups=tuple(groups),
            nested=tuple(self._below(rank, width) for width in whole.nested),
        )

    def pieces(self, rank: int) -> dict[str, Piece]:
        """Which rows process `rank` has of each array of the dictionary that is cut; the others are whole in every process."""
        whole = self.whole
        found = {f"encoders.{at}": self.piece(rank, whole.range_of(view)) for at, view in enumerate(whole.reads)}
        found |= {f"decoders.{at}": self.piece(rank, whole.range_of(view)) for at, view in enumerate(whole.writes)}
        return found | {"b_enc": self.piece(rank), "thresholds": self.piece(rank)}

    def take(self, rank: int, arrays: Mapping[str, Any]) -> dict[str, Any]:
        """What process `rank` has of the whole arrays of a dictionary."""
        pieces = self.pieces(rank)
        return {name: pieces[name].of(array) if name in pieces else array for name, array in arrays.items()}

    def join(self, parts: "list[Tensor]", span: tuple[int, int] | None = None) -> Tensor:
        """The whole array of what the processes have of it, in order of rank: for counters and other small things."""
        pieces = [self.piece(rank, span) for rank in range(self.size)]
        whole = parts[0].new_empty(pieces[0].total, *parts[0].shape[1:])
        for piece, part in zip(pieces, parts, strict=True):
            at = 0
            for first, last in piece.ranges:
                whole[first:last] = part[at : at + last - first]
                at += last - first
        return whole

    def _below(self, rank: int, edge: int) -> int:
        """How many of the latents below `edge` process `rank` has."""
        return len(self.piece(rank, (0, edge))) if edge else 0

    def _view(self, rank: int, view: View) -> View:
        if view.latents is None:
            return view
        low, high = view.latents
        return replace(view, latents=(self._below(rank, low), self._below(rank, high)))
