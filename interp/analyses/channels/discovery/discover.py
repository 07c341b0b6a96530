"""Circuits from weights alone: start at a component, and walk to those that write into it and those that read it.

The question. Which heads belong together can be seen without running the model, if one looks at components instead of heads: one
component of an early head writes where one later head reads, and nowhere else. From a known component the walk goes

    upstream     into the component's value: |v_i · u| of every component of every earlier head (kind V), and into the queries and keys
                 of its head: |v_i QK|, |v_i QKᵀ| over the norm (kinds Q, K); from what is found, again
    downstream   the component's own write into the queries, keys and values of every later head; on from the whole reader after Q and K,
                 and from that component of the reader that reads it best (`through`) after V

A whole head as the start is read through its Q, K and V, and all its components write. Whole heads are also tested as one (the root mean
square over their components): a previous-token head may speak to an induction head with all it has, and no component stands out.

A channel is kept if it passes three tests, and the result counts how many pass each:
1. log10 p under the analytic null (a uniformly random direction), corrected for all tests of the step;
2. z: it stands out among the other components of its head (of a whole head: among the other heads of its layer);
3. the null that confirms, by default `shared`: a random direction out of those that this model's heads write. Corrected for all
   tests of the step as well. `shuffle` confirms against shuffled weights instead, one by one; `analytic` leaves this out.

With `agree=True` and pairs, every head before the start is also patched along its path into the start's query, key or value (and into
those of the heads `into`), and the result says how well composition and path effects agree (`agreement`).

The worked example is GPT-2 small, `interp.load("gpt2")`: of `ChannelCircuit(start="9.9", direction="upstream", kinds=("Q",))`, the result's
`recovered(IOI_HEADS)` (see `channel_circuit`) says which of the known heads of indirect objects are found.

Source. Merullo et al. 2024, "Talking Heads" (arXiv 2406.09519), sections 3 and 4. Deviations: tests with a stated null and a correction in
place of a look at the largest; blocks of equal singular values are one node; whole heads are tested too.

When it misleads
- Able to talk is not does talk: no input is looked at. `agree=True`, or ablation of the component, says whether the answer cares.
- The walk sees direct composition. What goes through an MLP or through a norm's changing scale is not in any product of weights.
- Trained heads share directions, so the first test alone passes many; and z is not corrected: in a random model of GPT-2's size 435 of
  1.8 million tests have a z above 4. Only together, and with the third test, do they leave what one would bet on; there, nothing.
- What every head of a layer reads (a mark of the first token, say) is a broadcast and no channel between two heads. It passes all
  tests: in two small GPT-Neo checkpoints the strongest "channel" is one component that nearly all keys of the next layer read. `z_readers`
  says whether the reader stands out among the heads of its layer; near 0, or below, it does not.
- The threshold on z is a choice. A channel of several components of one head, read equally, has small z in each of them.
- Agreement can only be seen where the pairs differ in what the channel carries: where nothing moves along any path, ranks are noise. With
  few heads before the start a rank correlation cannot be significant; bring more readers, `into`.
- Steps are corrected one by one: a walk of many steps makes as many families, and each may err once in 1/alpha walks.
- Component numbers depend on the setting (`folded`); the heads should not. Run both.
- In rotary models queries and keys exist at a distance only: `offsets`, or kind V alone, which is what is done by default.

    import interp
    lm = interp.load("atlas")
    circuit = interp.ChannelCircuit(start="1.1", direction="upstream")(lm)
    circuit.edges(), circuit.heads()                                # 0.2, the previous-token head, as a whole
    both = interp.ChannelCircuit(start="3.3", direction="upstream", depth=1, agree=True)(lm, pairs)
    both.agreement()
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
import xarray as xr

from interp.core.analysis import Analysis, Cost
from interp.core.errors import BadInput, one_of
from interp.core.lm import LM

from ...pairs import token_pairs
from ...paths import PathPatching
from ..component import Component, Head, known_heads, many_components
from ..decompose import single
from ..factors import Setting
from ..nulls import outstanding
from ..scoring.inputs import check_inputs
from .paths import along_paths
from .result import ChannelCircuitResult
from .walk import CORRECTIONS, NULLS, Bench, Edge, Node, Rule, Step, Target, examine

LARGEST = 30_000_000
"""Tests of one family, at most: their numbers stand in memory."""


@dataclass(frozen=True)
class ChannelCircuit(Analysis[ChannelCircuitResult]):
    """Circuit discovery from weights: the channels that lead to a component or head, and from it, by significance."""

    start: str = ""
    """A component (7.9.6) or a head (9.9); by default the source of the most significant channel of the model."""
    direction: Literal["both", "upstream", "downstream"] = "both"
    """Walk to what writes into the start, to what reads it, or both."""
    depth: int = 2
    """Steps in each direction."""
    kinds: tuple[Literal["Q", "K", "V"], ...] | None = None
    """Inputs of readers; by default all, but V alone in rotary models without `offsets`."""
    offsets: tuple[int, ...] = ()
    """Distances from key to query at which rotary models' Q and K are taken; other models take none."""
    alpha: float = 0.01
    """Level of significance, corrected over all tests of a step."""
    correction: Literal["holm", "bh"] = "holm"
    """Holm (no false channel at all) or Benjamini-Hochberg (few among those found)."""
    z: float = 4.0
    """Standard deviations by which a component stands out among its head's others, at least."""
    null: Literal["shared", "analytic", "shuffle"] = "shared"
    """What confirms: directions shared by all heads, nothing beyond the analytic null, or shuffled weights."""
    draws: int = 25
    """Shuffles of a layer's weights for null="shuffle"; each gives one score a head, and 1 / alpha of them are needed."""
    most: int = 8
    """Channels that are kept of one node, at most; what this leaves out is counted."""
    whole: bool = True
    """Test whole heads too, beside their components."""
    folded: bool = True
    """Norm gains in the weights that read through them; else raw parameters."""
    agree: bool = False
    """Patch paths from every earlier head into the start's queries, keys and values, and compare; needs pairs."""
    into: tuple[str, ...] = ()
    """Further readers for agree, such as 1.0,1.2, so that there are more pairs to compare; the start's own head is always one."""
    at: str = "last"
    """Position at which they read, for agree: last, a span, a token beside one (S1+1), all."""
    bos: bool | None = None
    """Put a BOS before each prompt; None follows the model's tokenizer."""
    rows: int = 64
    """Pairs in a batch, at most; changes memory and speed, not the numbers."""
    seed: int = 0
    """Names the shuffles."""

    def __post_init__(self) -> None:
        for name in ("kinds", "offsets", "into"):
            value = getattr(self, name)
            if value is not None:
                object.__setattr__(self, name, (value,) if isinstance(value, str | int) else tuple(value))
        one_of("direction", self.direction, ["both", "upstream", "downstream"])
        one_of("correction", self.correction, CORRECTIONS)
        one_of("null", self.null, NULLS)
        check_inputs(self.kinds, self.offsets)
        if not 0 < self.alpha < 1:
            raise BadInput(f"`alpha` must lie between 0 and 1; not {self.alpha}.")
        if not 0 <= self.z < math.inf:
            raise BadInput(f"`z` must be 0 or more standard deviations; not {self.z}.")
        for name in ("depth", "most", "draws", "rows"):
            if getattr(self, name) < 1:
                raise BadInput(f"`{name}` must be at least 1; not {getattr(self, name)}.")
        if self.start:
            named(self.start)
        PathPatching(at=self.at)  # says what is no position
        for name in self.into:
            Head.parse(name)
        if self.into and not self.agree:
            raise BadInput(f"into={self.into} are readers for path patching. Say agree=True, or leave them out.")

    @property
    def takes(self) -> str:  # type: ignore[override]
        """`pairs` where path patching is asked for, else nothing but the model."""
        return "pairs" if self.agree else "weights"

    def check(self, lm: LM, data: Any) -> None:
        """Refuse a start that the model does not have, or from which there is no way; pairs that do not line up."""
        known_heads(lm)
        many_components(lm)
        self._bench(lm)
        if self.null == "shuffle" and self.whole and (1 + self.draws * lm.spec.n_heads) * self.alpha < 1:
            enough = math.ceil((1 / self.alpha - 1) / lm.spec.n_heads)
            raise BadInput(
                f"{self.draws} shuffles of {lm.spec.n_heads} heads never give a whole head p <= {self.alpha:g}. Take draws={enough} or "
                "more, or whole=False."
            )
        if self.start:
            layer = named(self.start).check(lm).layer
            ends = {"upstream": layer == 0, "downstream": layer == lm.spec.n_layers - 1}
            if ends.get(self.direction, False) or (self.agree and layer == 0):
                where = "the first" if layer == 0 else "the last"
                raise BadInput(
                    f"start={self.start!r} lies in {where} layer, so there is nothing {'upstream' if layer == 0 else 'downstream'}. "
                    "Start elsewhere, or walk the other way."
                )
        for name in self.into:
            if Head.parse(name).check(lm).layer == 0:
                raise BadInput(f"into={name!r} lies in the first layer: nothing is written before it. Leave it out.")
        if self.agree:
            token_pairs(lm, data, bos=self.bos)
        elif data is not None:
            raise BadInput("data are read with agree=True only. Say agree=True, or leave them out.")

    def run(self, lm: LM, data: Any, store: Any = None) -> ChannelCircuitResult:
        """Every step; then path patching where it was asked for."""
        bench = self._bench(lm)
        rule = Rule(self.alpha, self.correction, self.z, self.null, self.draws, self.most, self.whole, self.seed)
        steps: dict[str, Step] = {}
        edges: list[tuple[int, Edge]] = []
        node = self._given(lm, bench) if self.start else None
        if node is None:
            steps["start"] = scan = examine(bench, self._everything(lm, bench), rule, single=True)
            edges += [(0, edge) for edge in scan.kept]
            node = scan.kept[0].source if scan.kept else None
        if node is not None:
            for way in ("upstream", "downstream"):
                if self.direction in (way, "both"):
                    for number, step in self._walk(bench, node, way, rule):
                        steps[f"{way} {abs(number)}"] = step
                        edges += [(number, edge) for edge in step.kept]
        seen: dict[str, tuple[int, Edge]] = {}
        for number, edge in edges:
            seen.setdefault(edge.name, (number, edge))
        paths = None
        if self.agree and node is not None:
            own = node.head if self.start else edges[0][1].target.node.head
            readers = list(dict.fromkeys([own, *map(Head.parse, self.into)]))
            paths, steps["agreement"] = along_paths(
                lm, bench, readers, rule, data, at=self.at, bos=self.bos, rows=self.rows
            )
        result = self._assemble(lm, bench, node, list(seen.values()), steps)
        if paths is not None:
            result.data = result.data.merge(paths, combine_attrs="no_conflicts")
        return result

    def cost(self, lm: LM, data: Any = None) -> Cost:
        """Products of weights; forward passes for agreement only."""
        spec = lm.spec
        heads = spec.n_layers * spec.n_heads
        families = (1 if not self.start else 0) + self.depth * (2 if self.direction == "both" else 1)
        note = f"singular components of {heads} heads, {families} families of tests; no forward pass"
        weights = heads * (2 * spec.d_head * spec.d_model + spec.d_head**2) * 8
        if not self.agree:
            return Cost(bytes=weights, note=note)
        layer = named(self.start).layer if self.start else spec.n_layers - 1
        paths = PathPatching(receivers=(f"q:{layer}.0",), at=self.at, bos=self.bos, rows=self.rows).cost(lm, data)
        n = len(self._bench(lm).kinds) * (1 + len(self.into))
        return Cost(paths.forwards * n, paths.tokens * n, paths.bytes + weights, f"{note}, but for path patching")

    def _bench(self, lm: LM) -> Bench:
        return Bench(lm, Setting(self.folded), kinds=self.kinds, offsets=self.offsets)

    def _given(self, lm: LM, bench: Bench) -> Node:
        """The start, as it was named. A component that cannot be told apart is refused by its name."""
        start = named(self.start)
        if isinstance(start, Component):
            return bench.node(start.owner, single(lm, start, bench.setting).component.index)
        return Node(start)

    def _everything(self, lm: LM, bench: Bench) -> list[tuple[Node | None, Target]]:
        spec = lm.spec
        tests = len(bench.kinds) * spec.n_heads**2 * spec.d_head * spec.n_layers * (spec.n_layers - 1) // 2
        if tests > LARGEST:
            raise BadInput(
                f"{spec.name} has {tests:,} pairs of a component and a reader, too many to compare at once. Name a `start`, such as the "
                "strongest channel that `interp.Channels` finds."
            )
        heads = [Head(layer, head) for layer in range(1, spec.n_layers) for head in range(spec.n_heads)]
        return [(None, target) for head in heads for target in bench.targets(Node(head))]

    def _walk(self, bench: Bench, start: Node, way: str, rule: Rule) -> Iterator[tuple[int, Step]]:
        """Step by step, until nothing new is found."""
        frontier, visited = [start], {start}
        for number in range(1, self.depth + 1):
            pairs: list[tuple[Node | None, Target]] = []
            for node in frontier:
                pairs += (
                    [(None, target) for target in bench.targets(node)] if way == "upstream" else _readers(bench, node)
                )
            pairs = [(source, target) for source, target in pairs if target.layer > 0]
            if not pairs:
                return
            step = examine(bench, pairs, rule)
            yield (-number if way == "upstream" else number), step
            following = [edge.source if way == "upstream" else edge.through or edge.target.node for edge in step.kept]
            frontier = [node for node in dict.fromkeys(following) if node not in visited]
            visited |= set(frontier)

    def _assemble(
        self, lm: LM, bench: Bench, node: Node | None, edges: Sequence[tuple[int, Edge]], steps: dict[str, Step]
    ) -> ChannelCircuitResult:
        spec = lm.spec
        columns: dict[str, Any] = {
            name: np.array([getattr(edge, name) for _, edge in edges], dtype=np.float64)
            for name in ("score", "z", "log10_p", "log10_adjusted", "log10_null", "cosine")
        }
        pieces = [_piece(bench, edge.source) for _, edge in edges]
        columns["value"], columns["gap"] = (np.array([piece[k] for piece in pieces], dtype=np.float64) for k in (0, 1))
        columns["z_readers"] = np.array([_among_readers(bench, edge) for _, edge in edges], dtype=np.float64)
        columns["step"] = np.array([number for number, _ in edges], dtype=np.int64)
        columns = {name: ("edge", values) for name, values in columns.items()}
        for name in ("tests", "passed_p", "passed_z", "unjudged", "passed_both", "passed_null"):
            columns[name] = ("family", np.array([getattr(step, name) for step in steps.values()], dtype=np.int64))
        for name in ("kept", "cut"):
            columns[name] = ("family", np.array([len(getattr(step, name)) for step in steps.values()], dtype=np.int64))
        columns["tested"] = (("layer", "head"), self._tested(lm, node))
        coords: dict[str, Any] = {
            "edge": _words(edge.name for _, edge in edges), "family": _words(steps), "layer": np.arange(spec.n_layers),
            "head": np.arange(spec.n_heads), "kind": ("edge", _words(edge.target.kind for _, edge in edges)),
            "source": ("edge", _words(edge.source.name for _, edge in edges)),
            "destination": ("edge", _words(edge.target.node.name for _, edge in edges)),
            "through": ("edge", _words(edge.through.name if edge.through else "" for _, edge in edges)),
        }  # fmt: skip
        for end, nodes in (
            ("source", [edge.source for _, edge in edges]),
            ("destination", [edge.target.node for _, edge in edges]),
        ):
            coords[f"{end}_layer"] = ("edge", np.array([one.head.layer for one in nodes], dtype=np.int64))
            coords[f"{end}_head"] = ("edge", np.array([one.head.head for one in nodes], dtype=np.int64))
            coords[f"{end}_component"] = ("edge", np.array([one.first for one in nodes], dtype=np.int64))
        notes = self._notes(lm, node, steps)
        attrs = {
            "start": node.name if node else "", "free": bench.n, "null": self.null, "correction": self.correction, "alpha": self.alpha,
            "z": self.z, "notes": notes,
        }  # fmt: skip
        return ChannelCircuitResult(xr.Dataset(columns, coords, attrs))

    def _tested(self, lm: LM, node: Node | None) -> np.ndarray:
        """Heads that the walk could have found, [layer, head]."""
        tested = np.zeros((lm.spec.n_layers, lm.spec.n_heads), dtype=bool)
        if node is None or not self.start:
            tested[:] = True
        else:
            layer = node.head.layer
            tested[:layer] = self.direction != "downstream"
            tested[layer + 1 :] = self.direction != "upstream"
        if node is not None:
            tested[node.head.layer, node.head.head] = False
        return tested

    def _notes(self, lm: LM, node: Node | None, steps: dict[str, Step]) -> list[str]:
        notes = []
        if node is None:
            notes.append("no channel of the model is significant and stands out: there is nowhere to start.")
        if lm.spec.positions == "rotary" and not self.offsets and self.kinds is None:
            notes.append("queries and keys are left out: this model rotates them. Give offsets=(1, 4), say.")
        for name, step in steps.items():
            if step.cut:
                first = ", ".join(edge.name for edge in step.cut[:5])
                notes.append(
                    f"{name}: {len(step.cut)} channels beyond the {self.most} of a node were left out, such as {first}."
                )
        return notes


def named(start: str) -> Component | Head:
    """`7.9.6` as a component, `9.9` as a head. Raises `BadInput` for anything else."""
    if isinstance(start, str) and start.count(".") == 1:
        return Head.parse(start)
    if isinstance(start, str) and start.count(".") == 2:
        return Component.parse(start)
    raise BadInput(f"start={start!r} names neither a component (7.9.6) nor a head (9.9).")


def _readers(bench: Bench, node: Node) -> list[tuple[Node | None, Target]]:
    """Every input of every later head, for what the node writes."""
    spec = bench.lm.spec
    heads = [Head(layer, head) for layer in range(node.head.layer + 1, spec.n_layers) for head in range(spec.n_heads)]
    return [(node, target) for head in heads for target in bench.targets(Node(head))]


def _among_readers(bench: Bench, edge: Edge) -> float:
    """z of the reader among the other heads of its layer that read the same component alike; NaN where it is a component's value."""
    head, kind = edge.target.node.head, edge.target.kind
    if edge.target.node.first >= 0:
        return math.nan
    score = torch.full((bench.lm.spec.n_heads,), torch.nan, dtype=torch.float64)
    write = bench.parts(edge.source.head.layer).write[edge.source.head.head, edge.source.rows]
    write = write[write.isfinite().all(dim=1)]
    for other in range(len(score)):
        for target in bench.targets(Node(Head(head.layer, other))):
            if target.kind == kind:
                score[other] = (write @ target.side).norm(dim=-1).square().mean().sqrt()
    return float(outstanding(score)[head.head])


def _piece(bench: Bench, node: Node) -> tuple[float, float]:
    """Singular value of a component (of a block, the first) and the gap to what follows; NaN for a whole head."""
    if node.first < 0:
        return math.nan, math.nan
    s = [*bench.parts(node.head.layer).values[node.head.head].tolist(), 0.0]
    value, after = s[node.first], s[node.first + node.width]
    return value, value / after if after else math.inf


def _words(items: Any) -> np.ndarray:
    """Strings, of which there may be none."""
    return np.array(list(items), dtype=str)
