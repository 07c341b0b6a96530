"""Running strands through the model's own layers.

Layers are the outer loop, so each weight matrix is visited once for all cells. Within a layer, strands fork (one cell has an edit here,
another has not; cells with the same edits so far are computed once), are cut or widened to the positions where they are touched, and
run together, in chunks of a token budget. Strands at neighbouring positions share a call where the tokens that this adds cost less than
a call of their own. The last layer is run for the positions that are read out; for the others only their keys and values are needed,
and the cache ends the call as soon as it has them.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from interp.core.site import Site

from .cells import Act, Entrant
from .hooks import Stop, first, hooked
from .reach import ASKED_EARLY, Live, Passage, along, through, touched_by
from .recording import bypassed, recorded
from .strands import Bypassed, Handler, Part, Strand, _Joined, _KeysDone, chunked, flat_parts_of, parts_of

if TYPE_CHECKING:
    from .plain import PlainModel
    from .recording import PlainRecording

CALL_FLOPS = {"cpu": 1.5e8, "cuda": 3e10}
"""What a layer call costs before its first token, in arithmetic that could be done instead."""
HIDDEN_BY_HELD = {"q", "k", "v", "z"}
"""Kinds that are not computed where attention is skipped."""


class Captures:
    """Values of sites that are asked for, cell by cell; untouched ones are the recorded values."""

    def __init__(self, base: Mapping[Site, Tensor], sites: Sequence[Site], at: Sequence[int], n_cells: int) -> None:
        self.at = np.array(at, dtype=int)
        self.layers: dict[int, list[Site]] = {}
        self.values: dict[Site, Tensor] = {}
        for site in sites:
            assert site.layer is not None
            self.layers.setdefault(site.layer, []).append(site)
            part = base[site].index_select(1, torch.from_numpy(self.at).to(base[site].device))  # [row, pos, ...]
            self.values[site] = part.expand(n_cells, *part.shape).clone()
        self.last = max(self.layers, default=-1)

    def asked(self) -> dict[int, frozenset[str]]:
        """Kinds that are asked for in each layer."""
        return {layer: frozenset(site.kind for site in sites) for layer, sites in self.layers.items()}

    def put(self, site: Site, strand: Strand, start: int, value: Tensor) -> None:
        """Keep what the cells of a strand make of a site: `value` [row, pos from `start`, ...], where it is touched."""
        mark = strand.passage.marks[site.kind][:, self.at]  # [row of the strand, asked position]
        row, column = (torch.from_numpy(index).to(value.device) for index in mark.nonzero())
        if not len(row):
            return
        places = torch.from_numpy(self.at).to(value.device)[column] - start
        cells = torch.tensor(strand.cells, device=value.device)[:, None]
        rows = torch.tensor(strand.rows, device=value.device)
        self.values[site][cells, rows[row], column] = value[row, places]


class Runner:
    """Takes the entrants of many cells through the layers of a model."""

    def __init__(
        self,
        plain: "PlainModel",
        base: "PlainRecording",
        acts: Mapping[int, Sequence[Act]],
        always: Sequence[Act],
        lives: Mapping[int, Live],
        *,
        cached: bool,
        captures: Captures | None = None,
    ) -> None:
        self.plain, self.base, self.cached, self.captures = plain, base, cached, captures
        self.spec, self.lives = plain.spec, lives
        self.n_layers = plain.spec.n_layers
        self.always: dict[int, tuple[Act, ...]] = {}
        for act in always:
            self.always[act.layer] = (*self.always.get(act.layer, ()), act)
        self.acts: dict[tuple[int, int], tuple[Act, ...]] = {}
        for cell, items in acts.items():
            for act in items:
                self.acts[cell, act.layer] = (*self.acts.get((cell, act.layer), ()), act)

    def run(self, entrants: Sequence[Entrant], embed: Any) -> list[Strand]:
        """Strands leaving the last layer. `embed(edits)` gives the stream entering the first layer under edits of the embedding."""
        waiting: dict[int, list[Entrant]] = {}
        for entrant in entrants:
            waiting.setdefault(entrant.layer, []).append(entrant)
        strands = self._embedded(waiting.get(-1, []), embed)
        for layer in range(self.n_layers):
            strands += self._roots(waiting.get(layer, []))
            strands = self._through(self.fork(strands, layer), layer)
            if self.captures is not None and layer == self.captures.last:
                return []
        return strands + self._roots(waiting.get(self.n_layers, []))

    def _roots(self, entrants: Sequence[Entrant]) -> list[Strand]:
        """Strands that are nowhere touched yet; one for all cells with the same rows."""
        cells: dict[tuple[int, ...], list[int]] = {}
        for entrant in entrants:
            for rows in self._split(entrant.rows, self._width - entrant.start):
                cells.setdefault(rows, []).append(entrant.cell)
        nothing = self.base.states[0][:, :0]
        return [
            Strand(tuple(members), rows, 0, nothing[: len(rows)], np.zeros((len(rows), self._width), dtype=bool))
            for rows, members in cells.items()
        ]

    @property
    def _width(self) -> int:
        return self.base.batch.tokens.shape[1]

    def _split(self, rows: tuple[int, ...], width: int) -> Iterator[tuple[int, ...]]:
        size = max(1, self.plain.token_budget // width) if self.cached else len(rows)
        for index in range(0, len(rows), size):
            yield rows[index : index + size]

    def _embedded(self, entrants: Sequence[Entrant], embed: Any) -> list[Strand]:
        out = []
        for strand in self.fork(self._roots(entrants), -1):
            state = embed([act.edit for act in strand.passage.acting])[list(strand.rows)]
            out.append(Strand(strand.cells, strand.rows, 0, state, strand.passage.after))
        return out

    def fork(self, strands: Sequence[Strand], layer: int) -> list[Strand]:
        """One strand for each different set of edits that act in this layer in the cells of a strand."""
        out = []
        for strand in strands:
            live = self._live(strand.cells)
            ways: dict[tuple[int, ...], tuple[Passage, list[int]]] = {}
            known: dict[tuple[Act, ...], Passage] = {}
            for cell in strand.cells:
                acts = self.acts.get((cell, layer), ())
                if acts not in known:
                    known[acts] = self._passage(strand, acts, layer, live)
                passage = known[acts]
                ways.setdefault(tuple(act.key for act in passage.acting), (passage, []))[1].append(cell)
            out += [
                Strand(tuple(cells), strand.rows, strand.start, strand.state, strand.touched, passage)
                for passage, cells in ways.values()
            ]
        return out

    def _live(self, cells: Sequence[int]) -> Live:
        lives = list({id(self.lives[cell]): self.lives[cell] for cell in cells}.values())
        if len(lives) == 1:
            return lives[0]
        return Live(
            *(
                np.logical_or.reduce([getattr(one, name) for one in lives])
                for name in ("enter", "query", "leave", "final")
            )
        )

    def _passage(self, strand: Strand, acts: tuple[Act, ...], layer: int, live: Live) -> Passage:
        both = (*self.always.get(layer, ()), *acts)
        if layer == self.n_layers:
            return touched_by(strand.touched, both, strand.rows, ("final",), layer, live)
        if layer < 0:
            return touched_by(strand.touched, both, strand.rows, ("embed", "pos_embed"), layer, live)
        return through(strand.touched, both, strand.rows, layer, live, self.spec)

    def _through(self, strands: Sequence[Strand], layer: int) -> list[Strand]:
        """Strands leaving a layer."""
        out, ready, held = [], [], []
        for strand in strands:
            if not strand.passage.run.any():
                out.append(self._output_only(strand, layer))
            elif self._skips_attention(strand, layer):
                held.append(strand)
            else:
                ready.append(strand)
        out += [done for group in self._groups(ready) for done in self._call(layer, *group)]
        spans = [_hull(strand.passage.run) for strand in held]
        sizes = [len(one.rows) * (stop - start) for one, (start, stop) in zip(held, spans, strict=True)]
        for chunk in chunked(held, sizes, self.plain.token_budget):
            out += self._flat(layer, [held[index] for index in chunk], [spans[index] for index in chunk])
        return out

    def _skips_attention(self, strand: Strand, layer: int) -> bool:
        taken = {site.kind for site in self._taken(layer)}
        if not self.cached or not strand.passage.held or taken & HIDDEN_BY_HELD:
            return False
        if any(act.edit.site.kind == "resid_mid" for act in self.always.get(layer, ())):
            return (
                False  # the recorded run's own edit there acts on what attention adds, which is recorded after it only
            )
        # what attention adds has to be known; one more pass over the recorded rows pays where a stream is carried along
        return bool(strand.passage.marks["resid_pre"].any()) or Site("attn_out", layer) in self.base.run.captured

    def _taken(self, layer: int) -> list[Site]:
        return [] if self.captures is None else self.captures.layers.get(layer, [])

    def _output_only(self, strand: Strand, layer: int) -> Strand:
        """A strand that is touched nowhere before the layer's own output: nothing is run."""
        after = strand.passage.after
        start, stop = _hull(along(after, 0)) if after.any() else (0, 0)
        if stop and not self.cached:
            start, stop = 0, self._width  # a function may look at any position
        state = self.base.states[layer + 1][list(strand.rows), start:stop]
        site = Site("resid_post", layer)
        if stop > start:
            state = Handler((), parts_of([strand], slice(start, stop))).apply(site, state)
            if site in self._taken(layer):
                assert self.captures is not None
                self.captures.put(site, strand, start, state)
        return Strand(strand.cells, strand.rows, start, state, after)

    def _groups(self, strands: Sequence[Strand]) -> Iterator[tuple[list[Strand], int, int, int]]:
        """Strands in chunks of the token budget, with the span they are run over and from where on their output is needed."""
        spans: dict[tuple[int, int, int], list[Strand]] = {}
        for strand in strands:
            span = (0, self._width, 0)
            if self.cached:
                start, stop = _hull(strand.passage.run)
                wanted = strand.passage.keep
                span = (start, stop, _hull(wanted)[0] if wanted.any() else start)
            spans.setdefault(span, []).append(strand)
        for (start, stop, keep), group in self._buckets(spans):
            sizes = [len(strand.rows) * (stop - start) for strand in group]
            for chunk in chunked(group, sizes, self.plain.token_budget):
                yield [group[index] for index in chunk], start, stop, keep

    def _buckets(
        self, spans: dict[tuple[int, int, int], list[Strand]]
    ) -> Iterator[tuple[tuple[int, int, int], list[Strand]]]:
        """Neighbouring spans as one, where that adds fewer tokens than a call costs."""
        allowed = CALL_FLOPS.get(self.plain.device.type, CALL_FLOPS["cuda"]) / self._flops
        bucket: tuple[tuple[int, int, int], list[Strand]] | None = None
        for span, group in sorted(spans.items(), key=lambda item: item[0]):
            if bucket is None:
                bucket = span, group
                continue
            have, members = bucket
            joint = (min(have[0], span[0]), max(have[1], span[1]), min(have[2], span[2]))
            added = _lines(members) * (_size(joint) - _size(have)) + _lines(group) * (_size(joint) - _size(span))
            if added <= allowed:
                bucket = joint, members + group
            else:
                yield bucket
                bucket = span, group
        if bucket is not None:
            yield bucket

    @property
    def _flops(self) -> float:
        """Arithmetic of a layer for one token."""
        return 2.0 * sum(parameter.numel() for parameter in self.plain.layer(0).parameters())

    def _call(self, layer: int, group: list[Strand], start: int, stop: int, keep: int) -> list[Strand]:
        """One call of a layer for strands over [start, stop); outputs are wanted from `keep` on only."""
        states = [strand.spanning(start, stop, self.base.states[layer]) for strand in group]
        x = states[0] if len(group) == 1 else torch.cat(states)  # [row, pos, d_model]
        cache = None
        if self.cached:
            rows = torch.tensor([row for strand in group for row in strand.rows], device=x.device)
            cache = _Joined(self.base.keys[layer], self.base.values[layer], rows, start)
            if start < keep and not self._taken(layer):
                cache.only_keys = True
                self._layer(layer, x[:, : keep - start], parts_of(group, slice(start, keep)), start, keep, cache)
                cache.only_keys = False
                x, start = x[:, keep - start :], keep
        parts = parts_of(group, slice(start, stop))
        return self._after(self._layer(layer, x, parts, start, stop, cache), parts, start)

    def _flat(self, layer: int, group: list[Strand], spans: list[tuple[int, int]]) -> list[Strand]:
        """One call of a layer, attention skipped, for the tokens of strands over any spans."""
        states = [one.spanning(*span, self.base.states[layer]) for one, span in zip(group, spans, strict=True)]
        x = torch.cat([state.flatten(0, 1) for state in states])[:, None]  # [token, 1, d_model]
        site = Site("attn_out", layer)
        values = recorded(self.plain, self.base, [site])[site]
        added = [values[list(one.rows), a:b].flatten(0, 1) for one, (a, b) in zip(group, spans, strict=True)]
        parts = flat_parts_of(group, spans)
        held = {site: torch.cat(added)[:, None].to(x.dtype)}
        return self._after(self._layer(layer, x, parts, 0, 1, None, held), parts, None)

    def _after(self, x: Tensor | None, parts: Sequence[Part], start: int | None) -> list[Strand]:
        if x is None:  # the last site that is asked for came before the layer's end
            return []
        return [
            Strand(
                part.strand.cells,
                part.strand.rows,
                part.places.start if start is None else start,  # type: ignore[union-attr]
                part.of(x),
                part.strand.passage.after,
            )
            for part in parts
        ]

    def _layer(
        self,
        layer: int,
        x: Tensor,
        parts: list[Part],
        start: int,
        stop: int,
        cache: _Joined | None,
        held: Mapping[Site, Tensor] | None = None,
    ) -> Tensor | None:
        """Call the model's layer; None where it was stopped behind the last captured site."""
        args, kwargs = self.base.arguments[layer].cut(start, stop, cache)
        only_keys = cache is not None and cache.only_keys
        taken = [] if only_keys else self._taken(layer)
        handler = Handler(self.always.get(layer, ()), parts, take=taken, held=held)
        plain, calls, out = self.plain, cache.calls if cache else 0, None
        end = taken[-1] if taken and self.captures is not None and layer == self.captures.last else None
        end = None if end is not None and end.kind == "resid_post" else end
        with ExitStack() as stack:
            stack.enter_context(hooked(plain.modules, plain.family, plain.spec, handler.sites, handler, stop=end))
            if held:
                attention = plain.modules[plain.family.layer_path(layer, plain.family.attention)]
                stack.enter_context(bypassed([attention], _no_attention))
            with suppress(_KeysDone, Stop):
                out = first(plain.layer(layer)(x, *args, **kwargs))
        reached = end is None or end.kind not in ASKED_EARLY
        if cache is not None and reached and cache.calls != calls + 1:
            raise Bypassed(f"layer {layer} asked its cache {cache.calls - calls} times in one call, not once.")
        for site, value in handler.taken.items():
            assert self.captures is not None
            for part in parts:
                self.captures.put(site, part.strand, part.places.start, part.of(value))  # type: ignore[union-attr]
        return out

    def final_handler(self, parts: Sequence[Part]) -> Handler:
        """The edits at the final norm for strands forked for it, at the positions that are read out."""
        return Handler(self.always.get(self.n_layers, ()), parts)


def _no_attention(hidden_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, None]:
    return torch.zeros_like(hidden_states), None


def _hull(positions: np.ndarray) -> tuple[int, int]:
    """The span [start, stop) around the positions [pos] that are True; there must be one."""
    found = positions.nonzero()[0]
    return int(found[0]), int(found[-1]) + 1


def _lines(strands: Sequence[Strand]) -> int:
    return sum(len(strand.rows) for strand in strands)


def _size(span: tuple[int, int, int]) -> int:
    return span[1] - span[0]
