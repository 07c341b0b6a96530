"""Strands, and what one call of a layer needs for them: their part of a recorded cache, their edits, what is captured.

A strand is a set of rows that share their edits so far, held at the positions where they may differ from the recording. A layer is
called for many strands at once. Where attention is computed they lie over the same positions, and the cache that the layer gets puts
the recorded keys and values of the earlier positions before theirs. Where attention is *held* (it adds what it added in the recorded
run) positions do not meet, so tokens of any strands at any positions make one flat list, and attention itself is skipped.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from interp.core.errors import InterpError
from interp.core.run import carried
from interp.core.site import Site

from .cells import Act
from .reach import Passage


class Bypassed(InterpError, RuntimeError):
    """A layer did not use the cache that it was given, so partial recomputation would be wrong."""


class _KeysDone(Exception):
    """The keys and values of a call are stored; the rest of it is not needed."""


@dataclass(frozen=True, eq=False)
class Strand:
    """Rows that share their edits so far."""

    cells: tuple[int, ...]
    rows: tuple[int, ...]
    start: int
    state: Tensor
    """Residual stream [row, pos from `start`, d_model] at a layer boundary; no positions where nothing is touched."""
    touched: np.ndarray
    """Where it may differ from the recording: bool [row, pos], over all positions."""
    passage: Passage = field(default_factory=lambda: Passage({}, ()))
    """What the coming layer does to it; set when strands are forked for it."""

    @property
    def stop(self) -> int:
        """One past the last position held."""
        return self.start + self.state.shape[1]

    def spanning(self, start: int, stop: int, recorded: Tensor) -> Tensor:
        """The state at [start, stop), from `recorded` [row, pos, d_model] of the whole batch where the strand holds nothing."""
        if (start, stop) == (self.start, self.stop):
            return self.state
        low, high = max(start, self.start), min(stop, self.stop)
        if (low, high) == (start, stop):
            return self.state[:, low - self.start : high - self.start]
        out = recorded[list(self.rows), start:stop]  # a copy
        if low < high:
            out[:, low - start : high - start] = self.state[:, low - self.start : high - self.start]
        return out


class _Joined:
    """Stands in for a key/value cache: recorded positions before the strand, then the strand's own."""

    def __init__(self, keys: Tensor, values: Tensor, rows: Tensor, start: int, *, only_keys: bool = False) -> None:
        self.before = (keys[:, :, :start][rows], values[:, :, :start][rows]) if start else None
        self.only_keys, self.calls = only_keys, 0

    def update(self, keys: Tensor, values: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        self.calls += 1
        if self.before is not None:
            keys, values = (torch.cat(pair, dim=2) for pair in zip(self.before, (keys, values), strict=True))
        if self.only_keys:
            self.before = (keys, values)
            raise _KeysDone
        return keys, values


@dataclass(frozen=True, eq=False)
class Part:
    """The rows of a call that are one strand's."""

    strand: Strand
    lines: slice
    """Along the first axis of the call's tensors."""
    places: slice | Tensor
    """Positions along the strand's second axis."""
    flat: bool = False
    """The call holds [row * pos, 1, ...]."""

    def of(self, x: Tensor) -> Tensor:
        """This strand's part [row, pos, ...] of a site's tensor; a view."""
        x = x[self.lines]
        return x.reshape(len(self.strand.rows), -1, *x.shape[2:]) if self.flat else x


def parts_of(strands: Sequence[Strand], places: slice | Tensor) -> list[Part]:
    """Strands over the same positions, one below the other."""
    ends = np.cumsum([0, *(len(strand.rows) for strand in strands)]).tolist()
    return [Part(one, slice(a, b), places) for one, a, b in zip(strands, ends[:-1], ends[1:], strict=True)]


def flat_parts_of(strands: Sequence[Strand], spans: Sequence[tuple[int, int]]) -> list[Part]:
    """Strands over any positions, as one list of tokens."""
    sizes = [len(one.rows) * (stop - start) for one, (start, stop) in zip(strands, spans, strict=True)]
    ends = np.cumsum([0, *sizes]).tolist()
    return [
        Part(one, slice(a, b), slice(*span), flat=True)
        for one, a, b, span in zip(strands, ends[:-1], ends[1:], spans, strict=True)
    ]


class Handler:
    """Carries the edits of the parts of one layer call, and takes what is captured, as a `Tape` does for a run."""

    def __init__(
        self,
        always: Sequence[Act],
        parts: Sequence[Part],
        *,
        take: Sequence[Site] = (),
        held: Mapping[Site, Tensor] | None = None,
    ) -> None:
        self.take, self.held, self.taken = list(take), held or {}, dict[Site, Tensor]()
        self.middle = torch.empty(0)
        self.acts: dict[Site, list[tuple[Part, Act]]] = {}
        for part in parts:
            for act in (*always, *part.strand.passage.acting):
                self.acts.setdefault(act.edit.site, []).append((part, act))

    @property
    def sites(self) -> list[Site]:
        """Sites that must be hooked, in forward order; the stream between attention and MLP is changed through what attention adds."""
        need = {*self.acts, *self.held}
        for site in [site for site in need if site.kind == "resid_mid"]:
            need = (need - {site}) | {Site("resid_pre", site.layer), Site("attn_out", site.layer)}
        return sorted(need | set(self.take), key=lambda site: site.order)

    def __call__(self, site: Site, x: Tensor) -> Tensor:
        """Give `x` back, edited where edits act here; the very same object where none does."""
        if site in self.held:
            x = self.held[site]
        elif site.kind != "resid_mid":
            x = self.apply(site, x)
        middle = Site("resid_mid", site.layer)
        if middle in self.acts and site.kind == "resid_pre":
            self.middle = x
        elif middle in self.acts and site.kind == "attn_out":
            x = carried(self.middle, x, lambda stream: self.apply(middle, stream))
        if site in self.take:
            self.taken[site] = x
        return x

    def apply(self, site: Site, x: Tensor) -> Tensor:
        """The site's tensor after the edits at it."""
        out = x
        for part, act in self.acts.get(site, ()):
            edit, where = act.local(part.strand.rows, part.places)
            if bool(where.any()):
                out = x.clone(memory_format=torch.contiguous_format) if out is x else out
                mine = part.of(out)
                mine.copy_(edit.apply(mine, where.to(x.device)))
        return out


def chunked(strands: Sequence[Strand], sizes: Sequence[int], budget: int) -> Iterator[list[int]]:
    """Indices of strands in chunks whose sizes add up to at most `budget`, one strand at least."""
    chunk: list[int] = []
    total = 0
    for index, size in enumerate(sizes):
        if chunk and total + size > budget:
            yield chunk
            chunk, total = [], 0
        chunk.append(index)
        total += size
    if chunk:
        yield chunk
