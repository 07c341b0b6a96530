"""Exact partial recomputation: the outcomes of many small interventions on one recorded run.

Activation patching asks for thousands of forward passes that differ from one base run in a few positions of one layer. Nothing before
the first changed layer and nothing before the first changed position can differ, so only the rest is computed, by the model's own
decoder layers; no architecture is re-implemented here. With S rows, T tokens and a change at (l, t) a cell costs (L - l)(T - t) / (L T)
of a pass, and the unembedding of the positions that are asked for.

    base = plain.record(corrupted, capture=["blocks.*.hook_mlp_out"])
    cells = [[replace(site, clean, at=At.index(t))] for site in sites for t in range(width)]
    logits = plain.resume(base, cells)                              # [cell, row, position, vocab]

Three levels, each exact: `grouped` (recorded keys and values stand before each strand, see `strands`), `layer skip` (whole sequences
from the first changed layer on), `full` (an ordinary hooked forward pass). Edits that are functions, which may mix positions, run at
`layer skip`; edits of the attention pattern run at `full`. An architecture that silently ignores the cache would make `grouped` wrong,
so the engine checks itself on first use, for each dtype and attention implementation: three random cells against the full forward.
On a mismatch it warns and falls one level down (`plain.resume_level`).

When it misleads: in bfloat16 partial and full recomputation differ by as much as a full pass differs from itself with another batch
size. Effects below that floor are noise for both. Gradients do not pass through a recording.
"""

import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from interp.core.batch import At
from interp.core.edit import Edit, add, scale
from interp.core.errors import BadInput
from interp.core.run import Tape, check_fired
from interp.core.seed import generator
from interp.core.site import Site, expand

from .cells import Change, Entrant, changes_of, entrants_of, layer_of
from .hooks import hooked
from .readout import head
from .recording import PlainRecording, check_stamp, record
from .strands import Runner, Strand

if TYPE_CHECKING:
    from .plain import PlainModel

LEVELS = ("grouped", "layer skip", "full")
Readout = Callable[[Tensor, Tensor], Tensor]
STATE_BYTES = 1 << 30
"""Memory for the states of strands; more cells than fit are worked off in several passes over the layers."""
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

    `readout(logits [n, position, vocab], rows [n])` may reduce them at once, where the vocabulary is large; then the last axis is
    what it gives. Raises `EditDidNotFire` for an edit that selects nothing, `WrongModel` if the weights changed since the recording.
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
    """What each cell makes of `sites`: [cell, row, pos, ...] at the positions `at`, all where None (queries, for the pattern)."""
    check_stamp(plain, base)
    expand([edit.site for cell in cells for edit in cell], plain.spec)
    sites = expand(sites, plain.spec)
    keep = torch.tensor(columns_of(base, at), device=plain.device)
    recorded = base.run.captured
    if missing := [site for site in sites if site not in recorded]:
        recorded = {**recorded, **plain.run(base.batch, capture=missing, edits=base.edits).captured}
    found: dict[Site, list[Tensor]] = {site: [] for site in sites}
    for cell in cells:
        tape = Tape(base.batch, sites, [*base.edits, *cell])
        plain.forward(tape, logits=False)
        check_fired(tape.fired)
        for site in sites:
            found[site].append(tape.captured[site].index_select(pos_axis(site), keep))
    return {
        site: torch.stack(parts) if parts else recorded[site].index_select(pos_axis(site), keep)[None][:0]
        for site, parts in found.items()
    }


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
    untouched = readout(base.run.logits[:, read], every)  # [row, position, out]
    out = untouched.expand(len(cells), *untouched.shape).clone()
    levels = [_level(base, cell, level) for cell in cells]
    for one in LEVELS[:2]:
        chosen = [index for index, found in enumerate(levels) if found == one]
        if chosen:
            _partial(plain, base, cells, chosen, read, readout, out, cached=one == "grouped")
    for index, found in enumerate(levels):
        if found == "full":
            tape = Tape(base.batch, (), [*base.edits, *cells[index]])
            logits = plain.forward(tape, keep=torch.tensor(read, device=plain.device))
            check_fired(tape.fired)
            assert logits is not None
            out[index] = readout(logits, every)
    return out


def _level(base: PlainRecording, cell: Sequence[Edit], level: str) -> str:
    edits = [*base.edits, *cell]
    if any(edit.site.kind == "pattern" or (edit.site.kind == "final" and edit.op == "call") for edit in edits):
        return "full"
    mixing = any(edit.op == "call" and edit.site.layer is not None for edit in edits)
    return max(level, "layer skip" if mixing else "grouped", key=LEVELS.index)


def _partial(
    plain: "PlainModel",
    base: PlainRecording,
    cells: Sequence[Sequence[Edit]],
    chosen: list[int],
    read: list[int],
    readout: Readout,
    out: Tensor,
    *,
    cached: bool,
) -> None:
    n_layers = plain.spec.n_layers
    changes = {index: changes_of(base, cells[index], n_layers, read) for index in chosen}
    always = [Change(edit, edit.where(base.batch).cpu(), layer_of(edit.site, n_layers), ()) for edit in base.edits]
    runner = Runner(plain, base, changes, always, cached=cached)
    entrants = [entrant for index in chosen for entrant in entrants_of(index, changes[index], cached=cached)]
    for part in _passes(base, entrants):
        early = {item.cell for item in part if item.layer == -1}
        embedded = {index: _embedded(plain, base, cells[index]) for index in early}
        _read(plain, base, runner, runner.run(part, min(read), embedded), read, readout, out)


def _passes(base: PlainRecording, entrants: list[Entrant]) -> list[list[Entrant]]:
    """Entrants in parts whose states fit in memory; those that start at the same position stay together."""
    width, d_model = base.states[0].shape[1:]
    size = base.states[0].element_size() * d_model
    parts: list[list[Entrant]] = [[]] if entrants else []
    total = 0
    for item in sorted(entrants, key=lambda item: item.start):
        need = len(item.rows) * (width - item.start) * size
        if parts[-1] and total + need > STATE_BYTES:
            parts.append([])
            total = 0
        parts[-1].append(item)
        total += need
    return parts


def _embedded(plain: "PlainModel", base: PlainRecording, cell: Sequence[Edit]) -> Tensor:
    """The stream entering the first layer when a cell edits the embedding, by the model's own embedding."""
    edits = [edit for edit in (*base.edits, *cell) if edit.site.layer is None and edit.site.kind != "final"]
    entry = Site("resid_pre", 0)
    tape = Tape(base.batch, [entry], edits)
    plain.forward(tape, logits=False)
    return tape.captured[entry]


def _read(
    plain: "PlainModel",
    base: PlainRecording,
    runner: Runner,
    strands: list[Strand],
    read: list[int],
    readout: Readout,
    out: Tensor,
) -> None:
    """Norm and unembedding by the model itself, its layers bypassed; results go to the cells' places in `out`."""
    groups: dict[tuple[int, ...], list[Strand]] = {}
    for strand in runner.fork(strands, plain.spec.n_layers):
        places = tuple(index for index, position in enumerate(read) if position >= strand.start)
        if places:
            groups.setdefault(places, []).append(strand)
    for places, group in groups.items():
        at = torch.tensor([read[index] for index in places])
        for chunk in _chunks(group, max(1, READ_ROWS // len(places))):
            hidden = torch.cat([one.state[:, (at - one.start).to(one.state.device)] for one in chunk])  # [n, place, d]
            logits = _head(plain, base, hidden, runner.final_handler(chunk, at))
            rows = torch.tensor([row for one in chunk for row in one.rows], device=logits.device)
            values = readout(logits, rows).split([len(one.rows) for one in chunk])
            for one, value in zip(chunk, values, strict=True):
                for cell in one.cells:
                    out[cell][torch.tensor(one.rows)[:, None], torch.tensor(places)] = value  # [row, place, out]


def _chunks(strands: list[Strand], rows: int) -> Iterator[list[Strand]]:
    chunk: list[Strand] = []
    for strand in strands:
        chunk.append(strand)
        if sum(len(one.rows) for one in chunk) >= rows:
            yield chunk
            chunk = []
    if chunk:
        yield chunk


def _head(plain: "PlainModel", base: PlainRecording, hidden: Tensor, handler: Any) -> Tensor:
    with hooked(plain.modules, plain.family, plain.spec, handler.sites, handler):
        return head(plain, hidden, tuples=base.tuples)


def check_level(plain: "PlainModel", base: PlainRecording) -> None:
    """On first use for a dtype and attention implementation, lower `plain.resume_level` until random cells agree."""
    use = (str(base.states[0].dtype), plain.implementation)
    if use in plain.checked:
        return
    plain.checked.add(use)
    row = base.batch.rows([0])
    while plain.resume_level != "full":
        wrong = _mismatch(plain, record(plain, row))
        if not wrong:
            return
        lower = LEVELS[LEVELS.index(plain.resume_level) + 1]
        warnings.warn(
            f"partial recomputation of {plain.spec.name} at level {plain.resume_level!r} does not agree with the full forward "
            f"({use[0]}, {use[1]}): {wrong}. Falling back to {lower!r}: slower, still exact.",
            stacklevel=4,
        )
        plain.resume_level = lower


def probes(plain: "PlainModel", base: PlainRecording) -> list[list[Edit]]:
    """Three random cells with large effects: a stream, a window of components, keys and values."""
    draw = generator(0, "resume self-check")
    n, width = plain.spec.n_layers, base.batch.tokens.shape[1]

    def place() -> tuple[int, At]:
        return int(torch.randint(n, (), generator=draw)), At.index(int(torch.randint(width, (), generator=draw)))

    layer, at = place()
    noise = torch.randn(plain.spec.d_model, generator=draw) * base.states[layer].float().std().cpu()
    stream = [add(Site("resid_pre", layer), noise, at=at)]
    layer, at = place()
    window = [scale(Site(kind, k), 3.0, at=at) for k in range(layer, n) for kind in ("attn_out", "mlp_out")]
    layer, _ = place()
    keys = [scale(Site(kind, layer), -2.0, at=At.index(0)) for kind in ("k", "v")]
    return [stream, window, keys]


def _mismatch(plain: "PlainModel", base: PlainRecording) -> str:
    """What is wrong at the present level; empty where all probes agree with the full forward."""
    cells = probes(plain, base)
    want = compute(plain, base, cells, (-1,), None, "full").float()
    try:
        got = compute(plain, base, cells, (-1,), None, plain.resume_level).float()
    except Exception as problem:  # an architecture may refuse a partial call in any way it likes
        return f"{type(problem).__name__}: {problem}"
    assert base.run.logits is not None
    effect = float((want - base.run.logits[:, -1:].float()).abs().max())
    share, floor = (1e-3, 1e-5) if base.states[0].dtype in (torch.float32, torch.float64) else (0.1, 0.02)
    error = float((want - got).abs().max())
    if error <= share * effect + floor * float(want.abs().max()):
        return ""
    return f"logits differ by {error:.2g} where the effect is {effect:.2g}"
