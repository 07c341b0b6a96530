"""Running strands through the model's own layers.

A strand is a set of rows that share their edits so far, held from their first changed position on. Layers are the outer loop, so each
weight matrix is visited once for all cells; within a layer, strands that start at the same position run in one call, in chunks of a
token budget. The layer is called as the model calls it, except that its cache gives it the recorded keys and values of the positions
before the strand. When a strand's cells part ways (one has an edit in this layer, another has not), the strand forks: cells with the
same edits so far are computed once.

The last layer is run for the positions that are read out; for the others only their keys and values are needed, and the cache ends
the call as soon as it has them.
"""

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from interp.core.errors import InterpError
from interp.core.run import carried
from interp.core.site import Site

from .cells import Change, Entrant
from .hooks import first, hooked

if TYPE_CHECKING:
    from .plain import PlainModel
    from .recording import PlainRecording


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
    """Residual stream [row, pos from `start`, d_model] at a layer boundary."""
    changes: tuple[Change, ...] = ()
    """What the coming layer has to change; set when strands are forked for it."""

    @property
    def stop(self) -> int:
        """One past the last position held."""
        return self.start + self.state.shape[1]


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


class _Handler:
    """Carries the edits of a chunk of strands through one layer call, as a `Tape` carries those of a run."""

    def __init__(self, always: Sequence[Change], strands: Sequence[Strand], places: slice | Tensor) -> None:
        self.places, self.middle = places, torch.empty(0)
        self.parts: dict[Site, list[tuple[slice, list[int], Change]]] = {}
        offset = 0
        for strand in strands:
            part = slice(offset, offset + len(strand.rows))
            offset = part.stop
            for change in (*always, *strand.changes):
                self.parts.setdefault(change.edit.site, []).append((part, list(strand.rows), change))

    @property
    def sites(self) -> list[Site]:
        need = set(self.parts)
        for site in [site for site in need if site.kind == "resid_mid"]:
            need = (need - {site}) | {Site("resid_pre", site.layer), Site("attn_out", site.layer)}
        return sorted(need, key=lambda site: site.order)

    def __call__(self, site: Site, x: Tensor) -> Tensor:
        x = self.apply(site, x)
        middle = Site("resid_mid", site.layer)
        if middle in self.parts:
            if site.kind == "resid_pre":
                self.middle = x
            elif site.kind == "attn_out":
                x = carried(self.middle, x, lambda stream: self.apply(middle, stream))
        return x

    def apply(self, site: Site, x: Tensor) -> Tensor:
        out = x
        for part, rows, change in self.parts.get(site, ()):
            edit, where = change.local(rows, self.places)
            if bool(where.any()):
                out = x.clone() if out is x else out
                out[part] = edit.apply(out[part], where.to(x.device))
        return out


class Runner:
    """Takes the entrants of many cells through the layers of a model."""

    def __init__(
        self,
        plain: "PlainModel",
        base: "PlainRecording",
        changes: dict[int, list[Change]],
        always: list[Change],
        *,
        cached: bool,
    ) -> None:
        self.plain, self.base, self.cached = plain, base, cached
        self.n_layers = plain.spec.n_layers
        self.always: dict[int, list[Change]] = {}
        for change in always:
            self.always.setdefault(change.layer, []).append(change)
        self.changes: dict[tuple[int, int], tuple[Change, ...]] = {}
        for cell, items in changes.items():
            for change in items:
                self.changes[cell, change.layer] = (*self.changes.get((cell, change.layer), ()), change)

    def run(self, entrants: list[Entrant], tail: int, embedded: dict[int, Tensor]) -> list[Strand]:
        """Strands leaving the last layer, held from position `tail` on (or from their start, where that is later)."""
        waiting: dict[tuple[int, str], list[Entrant]] = {}
        for entrant in entrants:
            waiting.setdefault((entrant.layer, entrant.mode), []).append(entrant)
        strands = [
            strand for item in waiting.get((-1, "whole"), []) for strand in self._enter([item], embedded[item.cell])
        ]
        for layer in range(self.n_layers):
            strands += self._enter(waiting.get((layer, "whole"), []), self.base.states[layer])
            ready = self.fork(strands, layer)
            keep_from = tail if layer == self.n_layers - 1 and self.cached else 0
            strands = [done for group in self._groups(ready) for done in self._call(layer, group, keep_from)]
            strands += self._local(waiting.get((layer, "local"), []), layer)
            strands += self._after(waiting.get((layer, "after"), []), layer)
        strands += self._enter(waiting.get((self.n_layers, "whole"), []), self.base.states[-1])
        return strands

    def _enter(self, entrants: list[Entrant], states: Tensor) -> list[Strand]:
        """Strands that take their state from the recorded stream; one for all cells with the same rows and start."""
        cells: dict[tuple[tuple[int, ...], int], list[int]] = {}
        for entrant in entrants:
            for rows in self._split(entrant.rows, states.shape[1] - entrant.start):
                cells.setdefault((rows, entrant.start), []).append(entrant.cell)
        return [
            Strand(tuple(members), rows, start, states[list(rows), start:]) for (rows, start), members in cells.items()
        ]

    def _split(self, rows: tuple[int, ...], width: int) -> Iterator[tuple[int, ...]]:
        size = max(1, self.plain.token_budget // width) if self.cached else len(rows)
        for index in range(0, len(rows), size):
            yield rows[index : index + size]

    def fork(self, strands: list[Strand], layer: int) -> list[Strand]:
        """One strand for each different set of edits that the cells of a strand have in this layer."""
        out = []
        for strand in strands:
            ways: dict[tuple[Any, ...], tuple[list[int], tuple[Change, ...]]] = {}
            for cell in strand.cells:
                changes = self.changes.get((cell, layer), ())
                ways.setdefault(tuple(change.key for change in changes), ([], changes))[0].append(cell)
            out += [
                Strand(tuple(cells), strand.rows, strand.start, strand.state, changes)
                for cells, changes in ways.values()
            ]
        return out

    def _groups(self, strands: list[Strand]) -> Iterator[list[Strand]]:
        """Strands over the same positions, in chunks of the token budget."""
        spans: dict[tuple[int, int], list[Strand]] = {}
        for strand in strands:
            spans.setdefault((strand.start, strand.stop), []).append(strand)
        for group in spans.values():
            chunk: list[Strand] = []
            size = 0
            for strand in group:
                tokens = len(strand.rows) * strand.state.shape[1]
                if chunk and size + tokens > self.plain.token_budget:
                    yield chunk
                    chunk, size = [], 0
                chunk.append(strand)
                size += tokens
            yield chunk

    def _call(self, layer: int, group: list[Strand], keep_from: int) -> list[Strand]:
        """One call of a layer for strands over the same positions; only outputs from `keep_from` on are wanted."""
        start, stop = group[0].start, group[0].stop
        x = group[0].state if len(group) == 1 else torch.cat([strand.state for strand in group])  # [row, pos, d_model]
        cache = None
        if self.cached:
            rows = torch.tensor([row for strand in group for row in strand.rows], device=x.device)
            cache = _Joined(self.base.keys[layer], self.base.values[layer], rows, start)
            if start < keep_from:
                cache.only_keys = True
                self._layer(layer, x[:, : keep_from - start], group, start, keep_from, cache)
                cache.only_keys = False
                x, start = x[:, keep_from - start :], keep_from
        out = self._layer(layer, x, group, start, stop, cache)
        parts = out.split([len(strand.rows) for strand in group])
        return [Strand(strand.cells, strand.rows, start, part) for strand, part in zip(group, parts, strict=True)]

    def _layer(
        self, layer: int, x: Tensor, group: list[Strand], start: int, stop: int, cache: _Joined | None
    ) -> Tensor:
        args, kwargs = self.base.arguments[layer].cut(start, stop, cache)
        handler = _Handler(self.always.get(layer, ()), group, slice(start, stop))
        plain, calls = self.plain, cache.calls if cache else 0
        with hooked(plain.modules, plain.family, plain.spec, handler.sites, handler), suppress(_KeysDone):
            x = first(plain.layer(layer)(x, *args, **kwargs))
        if cache is not None and cache.calls != calls + 1:
            raise Bypassed(f"layer {layer} asked its cache {cache.calls - calls} times in one call, not once.")
        return x

    def _local(self, entrants: list[Entrant], layer: int) -> list[Strand]:
        """Entrants whose first layer changes only a few positions: the layer is run on those, the rest is recorded."""
        shared: dict[tuple[Any, ...], list[int]] = {}
        for item in entrants:
            changes = self.changes[item.cell, layer]
            for rows in self._split(item.rows, self.base.batch.tokens.shape[1] - item.start):
                key = (item.span, item.start, rows, tuple(change.key for change in changes))
                shared.setdefault(key, []).append(item.cell)
        starts: dict[int, int] = {}
        partial, out = [], []
        for (span, start, rows, _), cells in shared.items():
            state = self.base.states[layer][list(rows), span[0] : span[1]]
            partial.append(Strand(tuple(cells), rows, span[0], state, self.changes[cells[0], layer]))
            starts[id(partial[-1])] = start
        for group in self._groups(partial):
            for strand, done in zip(group, self._call(layer, group, 0), strict=True):
                start = starts[id(strand)]
                state = self.base.states[layer + 1][list(done.rows), start:].clone()
                state[:, done.start - start : done.stop - start] = done.state
                out.append(Strand(done.cells, done.rows, start, state))
        return out

    def _after(self, entrants: list[Entrant], layer: int) -> list[Strand]:
        """Entrants whose first change is the layer's own output: nothing is run."""
        out = []
        strands = self.fork(self._enter(entrants, self.base.states[layer + 1]), layer)
        for strand in strands:
            handler = _Handler((), [strand], slice(strand.start, strand.stop))
            state = handler(Site("resid_post", layer), strand.state)
            out.append(Strand(strand.cells, strand.rows, strand.start, state))
        return out

    def final_handler(self, strands: list[Strand], places: Tensor) -> _Handler:
        """The edits at the final norm for a chunk of strands at the positions that are read out."""
        return _Handler(self.always.get(self.n_layers, ()), self.fork(strands, self.n_layers), places)
