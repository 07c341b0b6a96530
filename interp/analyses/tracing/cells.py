"""Which cells a trace restores, and which of them cost nothing.

A cell is (kind, position, centre layer): "put the clean value of this kind of site back at this position, in this window of layers".
Three kinds of cell need no computation, because the causal mask and the depth of the network already give the answer:
cells before the first corrupted position, cells that touch only the last layer at a position that is not read, and cells whose clipped
window is the same as a neighbour's. They are found here; `trace.py` fills them in.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

SITES = {"hidden": "resid_post", "mlp": "mlp_out", "attn": "attn_out"}
SEVERED = {"hidden_without_mlp": "mlp_out", "hidden_without_attn": "attn_out"}
KINDS = (*SITES, *SEVERED)
WINDOWED = ("mlp", "attn")


@dataclass(frozen=True)
class Cell:
    """One restoration: `kind` at `pos` in `layers`; `centres` are the layers of the map that it answers for."""

    kind: str
    pos: int
    layers: tuple[int, ...]
    centres: tuple[int, ...]


def window_layers(centre: int, width: int, n_layers: int, rule: str = "code") -> tuple[int, ...]:
    """Layers that a window of `width` around `centre` restores, clipped to the model.

    `code` is what ROME's program does, `centre - width//2 ... centre + ceil(width/2) - 1`; `text` is what its appendix says,
    `centre - (width-1)//2 ... centre + width//2`. They differ by one layer for even widths (10: -5...+4 and -4...+5) and are the
    same, symmetric, for odd ones.
    """
    below = width // 2 if rule == "code" else (width - 1) // 2
    return tuple(range(max(0, centre - below), min(n_layers, centre - below + width)))


def plan(kinds: tuple[str, ...], *, length: int, start: int, n_layers: int, width: int, rule: str) -> Iterator[Cell]:
    """The cells that have to be computed for one prompt, by position and then by layer, equal windows merged.

    `start` is the first corrupted position. The answer is read at the last position, `length - 1`.
    """
    last = n_layers - 1
    for pos in range(start, length):
        for kind in kinds:
            windows: dict[tuple[int, ...], list[int]] = {}
            for centre in range(n_layers):
                layers = window_layers(centre, width, n_layers, rule) if kind in WINDOWED else (centre,)
                if layers == (last,) and pos < length - 1:
                    continue  # nothing later reads this position
                windows.setdefault(layers, []).append(centre)
            for layers, centres in windows.items():
                yield Cell(kind, pos, layers, tuple(centres))


@cache
def work(kinds: tuple[str, ...], n_layers: int, width: int, rule: str, *, read: bool) -> tuple[int, int]:
    """What the cells of one position cost, in layers run: (over all positions from there on, over a single position).

    Cells that begin alike are run together until they part; the last layer is run where the answer is read, and the first layer of a
    window only where the window lies. `read` says whether this is the position that is read.
    """
    last, position = n_layers - 1, 0
    length = 1 if read else 2
    paths = []
    for cell in plan(kinds, length=length, start=0, n_layers=n_layers, width=width, rule=rule):
        if cell.pos == position:
            steps = [(layer, SITES.get(cell.kind, "resid_post")) for layer in cell.layers]
            if cell.kind in SEVERED:
                steps += [(layer, SEVERED[cell.kind]) for layer in range(cell.layers[-1] + 1, n_layers)]
            # where nothing is read, nobody sees what the last layer does
            paths.append([step for step in steps if read or step[0] < last])
    wide = single = 0
    for layer in range(n_layers):
        begun = [path for path in paths if path[0][0] < layer]
        strands = len({tuple(step for step in path if step[0] <= layer) for path in begun})
        wide, single = (wide, single + strands) if layer == last else (wide + strands, single)
        single += len({path[0] for path in paths if path[0][0] == layer and path[0][1] != "resid_post"})
    return wide, single
