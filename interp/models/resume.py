"""Exact partial recomputation: the outcomes of many small interventions on one recorded run.

Activation patching asks for thousands of forward passes that differ from one base run in a few positions of one layer. Nothing before
the first changed layer and nothing before the first changed position can differ, so only the rest is computed, by the model's own
decoder layers; no architecture is re-implemented here. With S rows, T tokens and a change at (l, t) a cell costs (L - l)(T - t) / (L T)
of a pass, and the unembedding of the positions that are asked for.

    base = plain.record(corrupted, capture=["blocks.*.hook_mlp_out"])
    cells = [[replace(site, clean, at=At.index(t))] for site in sites for t in range(width)]
    logits = plain.resume(base, cells)                              # [cell, row, position, vocab]

Edits that hold something at its recorded value cost nothing where nothing has changed yet, and save work where something has: with
all heads frozen no position reaches another, so that path patching runs the MLPs of the changed positions only. `reach` states the rule.

Three levels, each exact: `grouped` (recorded keys and values stand before each strand, see `strands`), `layer skip` (whole sequences
from the first changed layer on), `full` (an ordinary hooked forward pass). Edits that are functions, which may mix positions, run at
`layer skip`; edits of the attention pattern run at `full`. The engine checks itself against the full forward on first use, and falls
down a level, with a warning, where that does not agree (`selfcheck`, `plain.resume_level`). Memory is bounded (`memory`). Families that
are not proven begin at `layer skip`, by way of the whole model (`skipping`).

When it misleads: in bfloat16 partial and full recomputation differ by as much as a full pass differs from itself with another batch
size. Effects below that floor are noise for both. Gradients do not pass through a recording.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from interp.core.edit import Edit
from interp.core.errors import BadInput
from interp.core.run import Tape, check_fired
from interp.core.site import Site, expand

from .cells import Act, Book, Entrant, entrants_of
from .hooks import hooked
from .memory import within_memory
from .reach import Live, everything, held_by, live_of
from .readout import head
from .recording import PlainRecording, check_stamp, recorded
from .runner import Captures, Runner
from .selfcheck import LEVELS, settle_level
from .skipping import begun_late
from .strands import Strand, chunked, parts_of

if TYPE_CHECKING:
    from .plain import PlainModel

Readout = Callable[[Tensor, Tensor], Tensor]
READ_ROWS = 256
"""Rows of logits computed at once."""


@torch.no_grad()
def resume(
    plain: "PlainModel",
    base: PlainRecording,
    cells: Sequence[Sequence[Edit]],
    *,
    positions: Sequence[int] = (-1,),
    readout: Readout | None = None,
) -> Tensor:
    """Logits [cell, row, position, vocab] of the recorded run with each cell's further edits.

    `readout(logits [n, position, vocab], rows [n])` may reduce them at once, where the vocabulary is large: then the last axis and the
    dtype are those of what it gives. It must treat each row by itself. Raises `EditDidNotFire` for an edit that selects nothing,
    `WrongModel` if the weights changed since the recording, `OutOfMemory` if not even one row fits.
    """
    check_stamp(plain, base)
    expand([edit.site for cell in cells for edit in cell], plain.spec)
    check_level(plain, base)
    return compute(plain, base, cells, positions, readout, plain.resume_level)


@torch.no_grad()
def resume_sites(
    plain: "PlainModel",
    base: PlainRecording,
    cells: Sequence[Sequence[Edit]],
    sites: Sequence[Site],
    *,
    at: Sequence[int] | None = None,
) -> dict[Site, Tensor]:
    """What each cell makes of `sites`: [cell, row, pos, ...] at the positions `at`, all where None (queries, for the pattern).

    Nothing behind the last site is computed; what a cell does not touch are the recorded values, to the bit. Sites that the recording
    did not capture cost one more pass over its rows. Sites outside the layers (embeddings, the final norm) and the attention pattern
    are taken from one full pass a cell.
    """
    check_stamp(plain, base)
    expand([edit.site for cell in cells for edit in cell], plain.spec)
    check_level(plain, base)
    return compute_sites(plain, base, cells, expand(sites, plain.spec), columns_of(base, at), plain.resume_level)


def check_level(plain: "PlainModel", base: PlainRecording) -> None:
    """Lower `plain.resume_level` until it agrees with the full forward; done once for a dtype and attention implementation."""
    settle_level(plain, base, compute)


def compute(
    plain: "PlainModel",
    base: PlainRecording,
    cells: Sequence[Sequence[Edit]],
    positions: Sequence[int],
    readout: Readout | None,
    level: str,
) -> Tensor:
    """`resume` at a given level (or below it, for edits that need more)."""
    read = columns_of(base, positions)
    readout = readout or (lambda logits, rows: logits)
    assert base.run.logits is not None
    every = torch.arange(len(base.batch), device=plain.device)
    untouched = _reduced(readout, base.run.logits[:, read], every)  # [row, position, out]
    out = untouched.expand(len(cells), *untouched.shape).clone()
    levels = [level_of(base, cell, level) if plain.family.proven else "full" for cell in cells]
    final = np.zeros(tuple(base.batch.tokens.shape), dtype=bool)
    final[:, read] = True
    for one in LEVELS[:2]:
        chosen = [index for index, found in enumerate(levels) if found == one]
        if chosen:
            work = _Work(plain, base, cells, chosen, final, None, cached=one == "grouped")
            within_memory(plain, base, work.entrants, partial(_worked_and_read, work, read, readout, out))
    for index, found in enumerate(levels):
        if found == "full":
            with begun_late(plain, base, cells[index], level) as edits:
                tape = Tape(base.batch, (), edits)
                logits = plain.forward(tape, keep=torch.tensor(read, device=plain.device))
            check_fired(tape.fired)
            assert logits is not None
            out[index] = readout(logits, every)
    return out


def compute_sites(
    plain: "PlainModel",
    base: PlainRecording,
    cells: Sequence[Sequence[Edit]],
    sites: Sequence[Site],
    at: Sequence[int],
    level: str,
) -> dict[Site, Tensor]:
    """`resume_sites` at a given level (or below it, for sites and edits that need more)."""
    keep = torch.tensor(at, device=plain.device)
    layered = [site for site in sites if site.layer is not None and site.kind != "pattern"]
    outer = [site for site in sites if site not in layered]
    captures = Captures(recorded(plain, base, layered), layered, at, len(cells))
    levels = [level_of(base, cell, level) if plain.family.proven else "full" for cell in cells]
    for one in LEVELS[:2]:
        chosen = [index for index, found in enumerate(levels) if found == one]
        if chosen and layered:
            nothing = np.zeros(tuple(base.batch.tokens.shape), dtype=bool)
            work = _Work(plain, base, cells, chosen, nothing, captures, cached=one == "grouped")
            within_memory(plain, base, work.entrants, work.run)
    found: dict[Site, list[Tensor]] = {site: [] for site in outer}
    book = Book(base, plain.spec)
    for index, cell in enumerate(cells):
        book.acts(cell)
        wanted = [*outer, *(layered if levels[index] == "full" else ())]
        if not wanted:
            continue
        tape = Tape(base.batch, wanted, [*base.edits, *cell])
        plain.forward(tape, logits=False)
        for site in wanted:
            value = tape.captured[site].index_select(pos_axis(site), keep)
            if site in found:
                found[site].append(value)
            else:
                captures.values[site][index] = value
    for site in outer if not cells else ():
        found[site] = [recorded(plain, base, [site])[site].index_select(pos_axis(site), keep)]
    stacked = {site: torch.stack(parts)[: len(cells)] for site, parts in found.items()}
    return {site: captures.values[site] if site in captures.values else stacked[site] for site in sites}


def columns_of(base: PlainRecording, positions: Sequence[int] | None) -> list[int]:
    """Positions as columns from 0 on, every one where None. Raises `BadInput` for one that the rows do not have, and for none at all."""
    width = base.batch.tokens.shape[1]
    asked = range(width) if positions is None else positions
    columns = [int(position) % width for position in asked if -width <= position < width]
    if len(columns) != len(asked) or not columns:
        raise BadInput(
            f"positions {list(asked)}: the rows have {width} tokens. Give at least one between {-width} and {width - 1}."
        )
    return columns


def pos_axis(site: Site) -> int:
    """The axis of a site's tensor that positions index: queries, for the pattern."""
    return site.dims.index("query" if "query" in site.dims else "pos")


def level_of(base: PlainRecording, cell: Sequence[Edit], level: str) -> str:
    """The level that a cell is computed at: `level`, or what its edits need."""
    edits = [*base.edits, *cell]
    if any(edit.site.kind == "pattern" or (edit.site.kind == "final" and edit.op == "call") for edit in edits):
        return "full"
    mixing = any(edit.op == "call" and edit.site.layer is not None for edit in edits)
    return max(level, "layer skip" if mixing else "grouped", key=LEVELS.index)


class _Work:
    """Cells of one level, ready to be run in parts."""

    def __init__(
        self,
        plain: "PlainModel",
        base: PlainRecording,
        cells: Sequence[Sequence[Edit]],
        chosen: Sequence[int],
        final: np.ndarray,
        captures: Captures | None,
        *,
        cached: bool,
    ) -> None:
        self.plain, self.base = plain, base
        book = Book(base, plain.spec)
        always = book.always()
        acts = {index: book.acts(cells[index]) for index in chosen}
        lives = _Lives(base, plain, final, captures, always)
        live = {index: lives.of(acts[index]) if cached else lives.all for index in chosen}
        self.runner = Runner(plain, base, acts, always, live, cached=cached, captures=captures)
        self.entrants: list[Entrant] = []
        for index in chosen:
            mixing = any(edit.op == "call" for edit in (*base.edits, *cells[index])) and not cached
            self.entrants += entrants_of(index, acts[index], live[index], cached=cached, mixing=mixing)

    def run(self, part: Sequence[Entrant]) -> list[Strand]:
        """Take some entrants through the layers."""
        return self.runner.run(part, self._embedded)

    def _embedded(self, edits: Sequence[Edit]) -> Tensor:
        """The stream entering the first layer under edits of the embedding, by the model's own embedding."""
        own = [edit for edit in self.base.edits if edit.site.layer is None and edit.site.kind != "final"]
        entry = Site("resid_pre", 0)
        tape = Tape(self.base.batch, [entry], [*own, *edits])
        self.plain.forward(tape, logits=False)
        return tape.captured[entry]


class _Lives:
    """What matters, for cells that hold attention in different layers; worked out once for all that hold it alike."""

    def __init__(
        self,
        base: PlainRecording,
        plain: "PlainModel",
        final: np.ndarray,
        captures: Captures | None,
        always: Sequence[Act],
    ) -> None:
        self.final, self.always, self.n_layers = final, always, plain.spec.n_layers
        self.at = np.zeros_like(final)
        self.asked: dict[int, frozenset[str]] = {}
        if captures is not None:
            self.at[:, captures.at] = True
            self.asked = captures.asked()
        self.all = everything(len(final), final.shape[1], self.n_layers)
        self._known: dict[tuple[tuple[int, bytes], ...], Live] = {}

    def of(self, acts: Sequence[Act]) -> Live:
        """What matters in a cell."""
        holding = [act for act in acts if act.edit.op == "replace" and act.edit.site.kind in ("z", "attn_out")]
        held = held_by([*self.always, *holding])
        key = tuple((layer, mask.tobytes()) for layer, mask in sorted(held.items()))
        if key not in self._known:
            self._known[key] = live_of(self.final, held, self.asked, self.at, self.n_layers)
        return self._known[key]


def _worked_and_read(work: _Work, read: Sequence[int], readout: Readout, out: Tensor, part: Sequence[Entrant]) -> None:
    _read(work, work.run(part), read, readout, out)


def _read(work: _Work, strands: Sequence[Strand], read: Sequence[int], readout: Readout, out: Tensor) -> None:
    """Norm and unembedding by the model itself, its layers bypassed; results go to the cells' places in `out`."""
    plain, base, runner = work.plain, work.base, work.runner
    groups: dict[tuple[int, ...], list[Strand]] = {}
    for strand in runner.fork(strands, plain.spec.n_layers):
        places = tuple(index for index, position in enumerate(read) if strand.passage.after[:, position].any())
        if places:
            groups.setdefault(places, []).append(strand)
    rows_at_once = min(READ_ROWS, max(1, plain.token_budget // 8))
    for places, group in groups.items():
        at = torch.tensor([read[index] for index in places], device=plain.device)
        for chosen in chunked(group, [len(one.rows) for one in group], max(1, rows_at_once // len(places))):
            parts = parts_of([group[index] for index in chosen], at)
            low, high = int(at.min()), int(at.max()) + 1
            states = [part.strand.spanning(low, high, base.states[-1])[:, at - low] for part in parts]
            handler = runner.final_handler(parts)
            with hooked(plain.modules, plain.family, plain.spec, handler.sites, handler):
                logits = head(plain, torch.cat(states), tuples=base.tuples)  # [row of a strand, place, vocab]
            rows = [row for part in parts for row in part.strand.rows]
            values = _reduced(readout, logits, torch.tensor(rows, device=logits.device))
            for part in parts:
                touched = part.strand.passage.after[:, at.tolist()]  # [row, place]
                row, place = (torch.from_numpy(index).to(out.device) for index in touched.nonzero())
                lines = torch.tensor(part.strand.rows, device=out.device)[row]
                columns = torch.tensor(places, device=out.device)[place]
                cells = torch.tensor(part.strand.cells, device=out.device)[:, None]
                out[cells, lines, columns] = values[part.lines][row, place]


def _reduced(readout: Readout, logits: Tensor, rows: Tensor) -> Tensor:
    values = readout(logits, rows)
    if not isinstance(values, Tensor) or values.ndim != 3 or values.shape[:2] != logits.shape[:2]:
        shape = tuple(values.shape) if isinstance(values, Tensor) else type(values).__name__
        raise BadInput(
            f"the readout made {shape} of logits {tuple(logits.shape)}. It may only replace the last axis: [n, position, out]."
        )
    return values
