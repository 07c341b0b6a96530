"""The cells of a patching experiment: what is replaced, in which layers, in which head, at which place.

A kind of site has a grid of its own: layers, crossed with heads and with places where `over` says so. A *place* is a position of the
prompt, or a named set of positions (`S2`, `subject.last`, `changed`, `last`) that is replaced as a whole. Windows that are clipped to the
same layers are one cell that answers for several centres.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from interp.core.errors import BadInput, SpanError, listing
from interp.core.site import KINDS as SITES
from interp.core.spec import ModelSpec
from interp.data.roles import roles
from interp.data.tokens import TokenPair, TokenPrompt

from ..tracing.cells import window_layers

STREAMS = ("resid_pre", "resid_mid", "resid_post")
KINDS = (*STREAMS, "attn_out", "mlp_out", "z", "q", "k", "v", "mlp_post")
OVER = ("layer", "layer pos", "layer head", "layer head pos")
PARTS = ("first", "middle", "last")


@dataclass(frozen=True)
class Grid:
    """The cells of one kind of site, but for their places."""

    kind: str
    layers: tuple[int, ...]
    """Centres of the windows, in the order of the result."""
    heads: tuple[int, ...]
    """Heads that are cells of their own; () where all are replaced together."""
    by_place: bool
    """Whether each place is a cell, or all places together are one."""
    windows: tuple[tuple[int, ...], ...]
    """Layers that each centre's window replaces."""

    @property
    def head_dim(self) -> str:
        """`head`, or `kv_head` for keys and values, which several query heads may share; "" without a head axis."""
        return head_dim(self.kind) if self.heads else ""

    def dims(self, place: str) -> tuple[str, ...]:
        """Axes of the cells; `place` names the axis of places."""
        return ("layer", *([self.head_dim] if self.heads else []), *([place] if self.by_place else []))


@dataclass(frozen=True)
class Cell:
    """One intervention: `kind` replaced in `layers`, in one head or in all, at one place or at all of them."""

    kind: str
    layers: tuple[int, ...]
    head: int | None
    place: int | None
    spots: tuple[tuple[int, ...], ...]
    """Indices in the kind's grid (layer, head, place; those axes that it has) that this cell answers for."""


def head_dim(kind: str) -> str:
    """The head axis of a kind of site: `head`, `kv_head`, or "" where it has none."""
    return next((dim for dim in SITES[kind].dims if dim in ("head", "kv_head")), "")


def grid_of(
    kind: str,
    over: str,
    spec: ModelSpec,
    *,
    layers: Sequence[int] = (),
    heads: Sequence[int] = (),
    window: int = 1,
    rule: str = "code",
) -> Grid:
    """The grid of one kind in a model. Raises `BadInput` for layers or heads that the model does not have."""
    centres = tuple(layers) or tuple(range(spec.n_layers))
    if bad := [layer for layer in centres if not 0 <= layer < spec.n_layers]:
        raise BadInput(f"`layers` {bad} are not in {spec.name}, which has layers 0 to {spec.n_layers - 1}.")
    windows = tuple(window_layers(centre, window, spec.n_layers, rule) for centre in centres)
    by_head = "head" in over.split()
    count = spec.n_kv_heads if head_dim(kind) == "kv_head" else spec.n_heads
    chosen = (tuple(heads) or tuple(range(count))) if by_head else ()
    if bad := [head for head in chosen if not 0 <= head < count]:
        shared = (
            f" ({spec.n_heads} query heads share {count} key/value heads; {kind} is counted by the latter)"
            if count < spec.n_heads and head_dim(kind) == "kv_head"
            else ""
        )
        raise BadInput(f"`heads` {bad} are not at {kind} of {spec.name}, which has heads 0 to {count - 1}{shared}.")
    return Grid(kind, centres, chosen, "pos" in over.split(), windows)


def cells_of(grid: Grid, places: int) -> Iterator[Cell]:
    """The cells of a grid, place by place; equal windows are merged."""
    merged: dict[tuple[int, ...], list[int]] = {}
    for index, window in enumerate(grid.windows):
        merged.setdefault(window, []).append(index)
    for place in range(places) if grid.by_place else [None]:
        for layers, centres in merged.items():
            for at, head in enumerate(grid.heads) if grid.heads else [(None, None)]:
                tail = tuple(index for index in (at, place) if index is not None)
                yield Cell(grid.kind, layers, head, place, tuple((centre, *tail) for centre in centres))


# -- places ------------------------------------------------------------------------------------------------------------


def columns(name: str, pair: TokenPair) -> tuple[int, ...]:
    """Positions that a named place covers in a pair; () for the middle of a span of one or two tokens. Raises `SpanError`."""
    if name == "changed" and name not in pair.clean.spans:
        return pair.changed
    base, _, part = name.partition(".")
    spans = pair.clean.spans
    if base not in spans or (part and part not in PARTS):
        have = [one for one in spans if one != "last"]
        parts = f", each also as {listing([f'{have[0]}.{one}' for one in PARTS])}" if have else ""
        raise SpanError(
            f"`positions` names {name!r}, which the pair {pair.id!r} ({pair.clean.prompt.text!r}) does not mark; it has "
            f"{listing(['last', 'changed', *have])}{parts}. Mark the span in both prompts, or leave `positions` out for every token."
        )
    start, end = spans[base]
    full = tuple(range(start, end))
    return {"": full, "first": full[:1], "middle": full[1:-1], "last": full[-1:]}[part]


def masks(names: Sequence[str], pairs: Sequence[TokenPair]) -> Tensor:
    """Where each place lies in pairs of one length, bool [place, row, pos]; without names each position is a place."""
    width = len(pairs[0].clean)
    if not names:
        return torch.eye(width, dtype=torch.bool)[:, None].expand(width, len(pairs), width)
    out = torch.zeros(len(names), len(pairs), width, dtype=torch.bool)
    for index, name in enumerate(names):
        for row, pair in enumerate(pairs):
            out[index, row, list(columns(name, pair))] = True
    return out


def check_apart(names: Sequence[str], pair: TokenPair) -> None:
    """Refuse places that overlap: together they would be one cell whose mean is of two kinds."""
    seen: dict[int, str] = {}
    for name in names:
        for column in columns(name, pair):
            if column in seen:
                raise BadInput(
                    f"`positions` {seen[column]!r} and {name!r} overlap in the pair {pair.id!r}: with source='mean' and no `pos` in "
                    "`over` they have no mean of their own there. Name one of them, or use over='layer pos'."
                )
            seen[column] = name


def part_names(tokens: TokenPrompt) -> tuple[str, ...]:
    """What each position of a prompt is: the span that it lies in, `bos`, `last`, or where it lies between spans (`after S1`).

    Where the only span is the subject, these are the roles of causal tracing.
    """
    spans = {name: span for name, span in tokens.spans.items() if name not in ("last", "relation")}
    if set(spans) == {"subject"}:
        return roles(tokens)
    return tuple(_part(tokens, place, spans) for place in range(len(tokens)))


def _part(tokens: TokenPrompt, place: int, spans: "dict[str, tuple[int, int]]") -> str:
    inside = [name for name, (start, end) in spans.items() if start <= place < end]
    if inside:
        return min(inside, key=lambda name: spans[name][1] - spans[name][0])
    if place == 0 and tokens.bos:
        return "bos"
    if place == len(tokens) - 1:
        return "last"
    before = [name for name, (_, end) in spans.items() if end <= place]
    return f"after {max(before, key=lambda name: spans[name][1])}" if before else "start"
