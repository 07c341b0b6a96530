"""Which cells a trace restores, and which of them cost nothing.

A cell is (kind, position, centre layer): "put the clean value of this kind of site back at this position, in this window of layers".
Three kinds of cell need no computation, because the causal mask and the depth of the network already give the answer:
cells before the first corrupted position, cells that touch only the last layer at a position that is not read, and cells whose clipped
window is the same as a neighbour's. They are found here; `trace.py` fills them in.
"""

from collections.abc import Iterator
from dataclasses import dataclass

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
