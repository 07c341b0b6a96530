"""What an edit can reach, and what can reach what is asked for: the rule by which partial recomputation leaves things out.

A place (row, position, head) of a site is *touched* if its value may differ from the recorded run. Going through a layer:

- An edit touches what it alters. A replacement decides alone what is there: it leaves touched what it alters, and untouched what
  it puts back to the recorded value. So an edit that only puts back is no edit at all until something before it has touched its place.
- Norms, projections, MLPs and sums act on each position by itself: what is touched stays touched, at its position.
- Attention mixes positions: a head's z is touched where its query is, and wherever a key or value of its key/value head is touched
  at that position or before.

A position is *live* at the border of a layer if its value can still reach what is asked for (logits at the positions that are read,
captured sites): it is asked for itself, it is live at the next border, or a later position is whose attention is free. Attention is
not free where all heads' z, or attn_out, are replaced: nobody sees then which keys and values there were.

What is not both touched and live is never computed. Both sets are taken too large where that is simpler (a sliding window reaches less
far, a sum may cancel); that costs time and changes no number, since an untouched value recomputed is the recorded one.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from interp.core.spec import ModelSpec

if TYPE_CHECKING:
    from .cells import Act

ENTERING = ("resid_pre", "k", "v")
"""Kinds whose value at a position can reach other positions in the same layer."""
ASKED_EARLY = (*ENTERING, "q")
"""Kinds that are computed before positions are mixed."""


@dataclass(frozen=True, eq=False)
class Live:
    """What still matters at each layer."""

    enter: np.ndarray
    """bool [layer, row, pos]: of the stream entering a layer, its keys and its values."""
    query: np.ndarray
    """bool [layer, row, pos]: of its queries."""
    leave: np.ndarray
    """bool [layer, row, pos]: of what follows attention."""
    final: np.ndarray
    """bool [row, pos]: of the stream behind the last layer."""

    def at(self, kind: str, layer: int) -> np.ndarray:
        """What matters of a site, bool [row, pos]."""
        if layer < 0:
            return self.enter[0]  # type: ignore[no-any-return]
        if layer == len(self.enter):
            return self.final
        part = self.enter if kind in ENTERING else self.query if kind == "q" else self.leave
        return part[layer]  # type: ignore[no-any-return]


def along(mark: np.ndarray, axis: int) -> np.ndarray:
    """Whether anything is True along an axis."""
    return np.asarray(mark.any(axis=axis))


def live_of(
    final: np.ndarray,
    held: Mapping[int, np.ndarray],
    asked: Mapping[int, frozenset[str]],
    at: np.ndarray,
    n_layers: int,
) -> Live:
    """What matters, from the last layer to the first.

    `final` [row, pos] is read behind the last layer; `held[layer]` [row, pos] says where attention is not free; `asked[layer]` are the
    kinds captured there, at the positions `at` [row, pos].
    """
    enter, query, leave = (np.zeros((n_layers, *final.shape), dtype=bool) for _ in range(3))
    out = final
    for layer in reversed(range(n_layers)):
        kinds = asked.get(layer, frozenset())
        early = at if kinds & set(ASKED_EARLY) else np.zeros_like(at)
        leave[layer] = out | at if kinds - set(ASKED_EARLY) else out
        free = leave[layer] & ~held[layer] if layer in held else leave[layer]
        free = free | at if "z" in kinds else free  # attn_out may be replaced, its heads are asked for all the same
        reached = np.logical_or.accumulate(free[:, ::-1], axis=1)[:, ::-1]
        query[layer] = leave[layer] | early
        out = enter[layer] = leave[layer] | reached | early
    return Live(enter, query, leave, final)


def everything(rows: int, width: int, n_layers: int) -> Live:
    """Nothing is left out: for functions, which may look at any position."""
    whole = np.ones((n_layers, rows, width), dtype=bool)
    return Live(whole, whole, whole, whole[0])


def held_by(acts: "Sequence[Act]") -> dict[int, np.ndarray]:
    """Where the attention of each layer is not free, whatever it would compute: bool [row, pos]."""
    z: dict[int, np.ndarray] = {}
    held: dict[int, np.ndarray] = {}
    for act in acts:
        kind, layer, chosen = act.edit.site.kind, act.layer, act.chosen
        if act.edit.op != "replace" or kind not in ("z", "attn_out"):
            continue
        if kind == "z":
            z[layer] = z[layer] | chosen if layer in z else chosen
            chosen = np.all(z[layer], axis=2, keepdims=True)
        held[layer] = held[layer] | chosen[..., 0] if layer in held else chosen[..., 0]
    return held


@dataclass(frozen=True, eq=False)
class Passage:
    """What is touched on the way of some rows through a layer."""

    marks: dict[str, np.ndarray]
    """Touched and live at each kind of site, after its edits: bool [row, pos]."""
    acting: "tuple[Act, ...]"
    """The edits that change something here."""

    @property
    def after(self) -> np.ndarray:
        """What is touched leaving the layer, [row, pos]."""
        return self.marks["resid_post"]

    @cached_property
    def run(self) -> np.ndarray:
        """Positions [pos] at which the layer has to be run; its own output put in place needs no run."""
        inner = self._any([mark for kind, mark in self.marks.items() if kind != "resid_post"])
        return along(inner | self.after, 0) if inner.any() else along(inner, 0)

    @cached_property
    def keep(self) -> np.ndarray:
        """Positions [pos] of which more is needed than keys and values."""
        return along(self._any([mark for kind, mark in self.marks.items() if kind not in ASKED_EARLY]), 0)

    def _any(self, marks: list[np.ndarray]) -> np.ndarray:
        different = list({id(mark): mark for mark in marks}.values())
        return different[0] if len(different) == 1 else np.asarray(np.logical_or.reduce(different))

    @cached_property
    def held(self) -> bool:
        """Whether attention adds what it added in the recorded run, at every position that matters."""
        return not self.marks["attn_out"].any()


def through(
    touched: np.ndarray, acts: "Sequence[Act]", rows: Sequence[int], layer: int, live: Live, spec: ModelSpec
) -> Passage:
    """What is touched in a layer that is entered by a stream touched at `touched` [row, pos], under `acts`, in forward order."""
    if not acts:
        return _untouched_layer(touched, list(rows), layer, live, spec)
    walk = _Walk(acts, list(rows), layer, live)
    stream = walk.at("resid_pre", touched[..., None])
    query, key, value = (walk.at(kind, np.repeat(stream, n, axis=2)) for kind, n in (
        ("q", spec.n_heads), ("k", spec.n_kv_heads), ("v", spec.n_kv_heads)
    ))  # fmt: skip
    mixed = np.logical_or.accumulate(key | value, axis=1)
    z = walk.at("z", query | np.repeat(mixed, spec.n_heads // spec.n_kv_heads, axis=2))
    added = walk.at("attn_out", along(z, 2)[..., None])
    middle = stream | added
    if spec.parallel:
        inner = stream
    else:
        inner = middle = walk.at("resid_mid", middle)
        if "resid_mid" in walk.acts:  # an edit there is carried out as a change of what attention adds
            walk.marks["attn_out"] = added | stream | middle
    neurons = walk.at("mlp_pre", inner)
    if spec.gated:
        neurons = neurons | walk.at("mlp_pre_linear", inner)
    out = walk.at("mlp_out", walk.at("mlp_post", neurons))
    walk.at("resid_post", middle | out)
    return Passage({kind: along(mark, 2) for kind, mark in walk.marks.items()}, tuple(walk.acting))


def _untouched_layer(touched: np.ndarray, rows: list[int], layer: int, live: Live, spec: ModelSpec) -> Passage:
    """The same without an edit, in a few steps: what is touched reaches all positions behind it."""
    stream = touched & live.enter[layer][rows]
    after = np.logical_or.accumulate(stream, axis=1) & live.leave[layer][rows]
    marks = dict.fromkeys(("z", "attn_out", "mlp_pre", "mlp_post", "mlp_out", "resid_post"), after)
    marks |= dict.fromkeys(ENTERING, stream) | {"q": stream & live.query[layer][rows]}
    marks |= {} if spec.parallel else {"resid_mid": after}
    marks |= {"mlp_pre_linear": after} if spec.gated else {}
    return Passage(marks, ())


def touched_by(
    touched: np.ndarray, acts: "Sequence[Act]", rows: Sequence[int], kinds: Sequence[str], layer: int, live: Live
) -> Passage:
    """The same where the stream only passes some sites by position: the embedding's, or the final norm's."""
    walk = _Walk(acts, list(rows), layer, live)
    marks = [walk.at(kind, touched[..., None]) for kind in kinds]
    return Passage({"resid_post": along(np.logical_or.reduce(marks), 2)}, tuple(walk.acting))


class _Walk:
    """Passes the sites of a layer in forward order."""

    def __init__(self, acts: "Sequence[Act]", rows: list[int], layer: int, live: Live) -> None:
        self.rows, self.layer, self.live = rows, layer, live
        self.marks: dict[str, np.ndarray] = {}
        self.acting: list[Act] = []
        self.acts: dict[str, list[Act]] = {}
        for act in acts:
            self.acts.setdefault(act.edit.site.kind, []).append(act)

    def at(self, kind: str, mark: np.ndarray) -> np.ndarray:
        """What is touched at a site after its edits, [row, pos, head or 1]."""
        live = self.live.at(kind, self.layer)[self.rows][..., None]
        mark = mark & live
        for act in self.acts.get(kind, ()):
            chosen, alters = act.chosen[self.rows], act.alters[self.rows]
            if not ((alters | (mark & chosen)) & live).any():
                continue
            if act.key >= 0:  # the recorded run's own edits act anyway
                self.acting.append(act)
            mark = (np.where(chosen, alters, mark) if act.edit.op == "replace" else mark | alters) & live
        self.marks[kind] = mark
        return mark
