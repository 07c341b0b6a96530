"""From a node to those that write into it, or read it: the tests of one step, their corrections, and which channels are kept.

    bench = Bench(lm)
    step = examine(bench, [(node, target) ...], Rule())     # node None: all heads of earlier layers write into the target

A node is a component, several that cannot be told apart (a block), or a whole head. A block is scored by the root mean square over its
components, which is the same for every basis of their subspace; so is a whole head, all of whose components count alike. Used by
`discover`, whose essay says what the tests are.

    from interp.analyses.channels.component import Head
    bench = Bench(lm)
    target = bench.targets(Node(Head(3, 1)))[0]
    examine(bench, [(None, target)], Rule()).tests
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from interp.core.errors import BadInput, one_of
from interp.core.stats import benjamini_hochberg, holm

from ..component import Head
from ..decompose import Components, decompose
from ..factors import DEFAULT, Reader, Setting, free, ov, reader
from ..nulls import log10_shared, log10_tail, outstanding, second_moment, shuffle_null, weights_of
from ..scoring.inputs import plans

if TYPE_CHECKING:
    from interp.core.lm import LM

NULLS = ("shared", "analytic", "shuffle")
CORRECTIONS = ("holm", "bh")


@dataclass(frozen=True, order=True)
class Node:
    """A head, or those of its components that are told apart from the others."""

    head: Head
    first: int = -1
    """First component; -1 for the whole head."""
    width: int = 1
    """How many components, from the first on, share a subspace and are taken together."""

    @property
    def name(self) -> str:
        """`9.9`, `8.10.1`, or `0.0.0-31` for a block."""
        if self.first < 0:
            return str(self.head)
        return f"{self.head}.{self.first}" + (f"-{self.first + self.width - 1}" if self.width > 1 else "")

    @property
    def rows(self) -> slice:
        """Its components."""
        return slice(None) if self.first < 0 else slice(self.first, self.first + self.width)


@dataclass(frozen=True, eq=False)
class Target:
    """One input of a node: what it makes of a vector v of the stream is as long as `v side`."""

    node: Node
    kind: str
    """Q, K, V; Q@4 for queries four tokens after the key, in rotary models."""
    side: Tensor
    """[d_model, h], float64"""

    @property
    def name(self) -> str:
        """As in `Q:9.9`."""
        return f"{self.kind}:{self.node.name}"

    @property
    def layer(self) -> int:
        """Only heads of earlier layers can write into it."""
        return self.node.head.layer


@dataclass(frozen=True)
class Rule:
    """When a channel is kept."""

    alpha: float = 0.01
    correction: str = "holm"
    z: float = 4.0
    null: str = "shared"
    draws: int = 25
    most: int = 8
    whole: bool = True
    """Test whole heads too, beside their components."""
    seed: int = 0

    def __post_init__(self) -> None:
        one_of("null", self.null, NULLS)
        one_of("correction", self.correction, CORRECTIONS)

    def adjust(self, log10_p: np.ndarray) -> np.ndarray:
        """Corrected for all entries that are known."""
        return np.asarray((holm if self.correction == "holm" else benjamini_hochberg)(log10_p, log10=True))


@dataclass(frozen=True, eq=False)
class Edge:
    """One channel that was kept, or that only the limit on their number left out."""

    source: Node
    target: Target
    score: float
    z: float
    log10_p: float
    log10_adjusted: float
    log10_null: float
    """Under the null that confirms, uncorrected: NaN for null="analytic"."""
    through: Node | None
    """The component of the reader that reads it through its value; None for queries and keys."""
    cosine: float
    """How well: length of the projection of one write direction on what `through` reads, NaN for queries and keys."""

    @property
    def name(self) -> str:
        """As in `8.10.1>Q:9.9`."""
        return f"{self.source.name}>{self.target.name}"


@dataclass(eq=False)
class Step:
    """What one family of tests gave."""

    tests: int = 0
    passed_p: int = 0
    """Corrected p under the analytic null no more than alpha."""
    passed_z: int = 0
    unjudged: int = 0
    """Tests without a z: too few other components, or all alike."""
    passed_both: int = 0
    """p, and z where there is one."""
    passed_null: int = 0
    """Of these, confirmed under the chosen null."""
    kept: list[Edge] = field(default_factory=list)
    cut: list[Edge] = field(default_factory=list)
    """Confirmed, but beyond the limit of a node's channels."""


class Bench:
    """Components and readers of one model in one setting, computed once."""

    def __init__(
        self, lm: "LM", setting: Setting = DEFAULT, *, kinds: Sequence[str] | None = None, offsets: Sequence[int] = ()
    ) -> None:
        """`kinds` and `offsets` as `plans` takes them. Raises `BadInput` as it does."""
        self.lm, self.setting, self.n = lm, setting, free(lm, setting)
        self.kinds = {one.label: (one.kind, one.offset) for one in plans(lm, kinds, offsets)}
        self._parts: dict[int, Components] = {}
        self._same: dict[int, Tensor] = {}
        self._readers: dict[tuple[int, str], Reader] = {}
        self._moment: Tensor | None = None

    def parts(self, layer: int) -> Components:
        """Components of the heads of a layer."""
        if layer not in self._parts:
            self._parts[layer] = decompose(self.lm, layer, self.setting)
        return self._parts[layer]

    def node(self, head: Head, index: int) -> Node:
        """The component, with those that it cannot be told from."""
        block = self.parts(head.layer).block(head.head, index)
        return Node(head, block[0], len(block))

    def same(self, layer: int) -> Tensor:
        """Which components of a head share a block, bool [head, component, component]."""
        if layer not in self._same:
            parts = self.parts(layer)
            first = [
                [parts.block(head, index)[0] for index in range(parts.values.shape[1])]
                for head in range(len(parts.values))
            ]
            number = torch.tensor(first, device=parts.values.device)
            self._same[layer] = number[..., None] == number[..., None, :]
        return self._same[layer]

    @property
    def moment(self) -> Tensor:
        """Second moment of all write directions of the model."""
        if self._moment is None:
            self._moment = second_moment([self.parts(layer) for layer in range(self.lm.spec.n_layers)])
        return self._moment

    def targets(self, node: Node) -> list[Target]:
        """The inputs of a node: queries and keys of its head, and its value, which a component reads along its own direction.

        Without those that read nothing.
        """
        found, head = [], node.head
        for label, (kind, offset) in self.kinds.items():
            if kind == "V" and node.first >= 0:
                rows = self.parts(head.layer).read[head.head, node.rows, : self.lm.spec.d_model]
                found.append(Target(node, label, rows.mT))
                continue
            if (head.layer, label) not in self._readers:
                self._readers[head.layer, label] = reader(self.lm, head.layer, kind, self.setting, offset=offset)
            found.append(Target(Node(head), label, self._readers[head.layer, label].side[head.head]))
        return [target for target in found if bool(target.side.isfinite().all()) and bool(target.side.any())]

    def scores(self, layer: int, side: Tensor) -> tuple[Tensor, Tensor]:
        """Scores of all components of a layer into `side`, a block's its root mean square, and their z: [head, component]."""
        score, same = (self.parts(layer).write @ side).norm(dim=-1), self.same(layer)
        square = same.to(score) @ score.square().nan_to_num(0.0)[..., None]
        pooled = (square[..., 0] / same.sum(-1)).sqrt()
        score = torch.where(score.isfinite(), pooled, torch.nan)
        return score, outstanding(score, same)

    def through(self, source: Node, head: Head) -> tuple[Node, float]:
        """The component of `head` that reads the source best through its value, and the length of the projection."""
        write = self.parts(source.head.layer).write[source.head.head, source.rows]  # [row, d_model]
        write = write[write.isfinite().all(dim=1)]
        read = self.parts(head.layer).read[head.head, :, : self.lm.spec.d_model].nan_to_num(0.0)
        heard = (write @ read.mT).square().mean(dim=0)  # [component]
        heard = (self.same(head.layer)[head.head].to(heard) @ heard[:, None])[:, 0]
        best = int(heard.argmax())
        return self.node(head, best), float(heard[best].sqrt())

    def shuffled(self, layer: int, target: Target, rule: Rule) -> tuple[np.ndarray, np.ndarray]:
        """Scores into the target with shuffled weights, rising: of all components of a layer, and of its whole heads."""
        centred = self.setting.folded and self.lm.spec.norm == "layer"
        found = shuffle_null(
            ov(self.lm, layer, self.setting),
            target.side,
            draws=rule.draws,
            centred=centred,
            seed=rule.seed,
            name=f"{layer}",
        )
        whole = found.square().nanmean(dim=-1).sqrt()
        return tuple(np.sort(one[one.isfinite()].cpu().numpy()) for one in (found, whole))  # type: ignore[return-value]


@dataclass
class _Tests:
    """Columns of a family of tests."""

    target: np.ndarray
    layer: np.ndarray
    head: np.ndarray
    first: np.ndarray
    width: np.ndarray
    score: np.ndarray
    z: np.ndarray
    log10_p: np.ndarray

    def source(self, row: int) -> Node:
        head, first = Head(int(self.layer[row]), int(self.head[row])), int(self.first[row])
        return Node(head) if first < 0 else Node(head, first, int(self.width[row]))


def examine(bench: Bench, pairs: Sequence[tuple[Node | None, Target]], rule: Rule, *, single: bool = False) -> Step:
    """One family of tests: each pair is a writer (None: every component of every earlier layer) and the input that may read it.

    A target's own writers are limited to `rule.most`, or those of a writer, where it is given; a whole head is kept only where none of
    its components is. `single` keeps the most significant channel that is confirmed, and tests no further.
    """
    tests = _gather(bench, pairs, whole=rule.whole)
    step = Step(tests=len(tests.score))
    if not step.tests:
        return step
    adjusted, limit = rule.adjust(tests.log10_p), np.log10(rule.alpha)
    significant, apart = adjusted <= limit, tests.z >= rule.z
    judged = ~np.isnan(tests.z)
    both = significant & (apart | ~judged)
    step.passed_p, step.passed_z, step.unjudged = int(significant.sum()), int(apart.sum()), int((~judged).sum())
    step.passed_both = int(both.sum())
    candidates = np.flatnonzero(both)
    candidates = candidates[np.lexsort((-tests.score[candidates], tests.log10_p[candidates]))]
    targets = [target for _, target in pairs]
    confirmed = _confirmed(bench, targets, tests, candidates, rule, single=single)
    step.passed_null = len(confirmed)
    counted: dict[str, int] = {}
    parts = {(int(tests.target[row]), tests.source(row).head) for row, _ in confirmed if tests.first[row] >= 0}
    for row, log10_null in confirmed:
        if tests.first[row] < 0 and (int(tests.target[row]), tests.source(row).head) in parts:
            continue
        given, target = pairs[int(tests.target[row])]
        source = tests.source(row)
        through, cosine = None, float("nan")
        if bench.kinds[target.kind][0] == "V":
            through, cosine = bench.through(source, target.node.head)
            if target.node.first >= 0:
                through, cosine = target.node, float(tests.score[row])
        edge = Edge(
            source, target, float(tests.score[row]), float(tests.z[row]), float(tests.log10_p[row]), float(adjusted[row]), log10_null,
            through, cosine,
        )  # fmt: skip
        owner = target.node.name if given is None else given.name
        counted[owner] = counted.get(owner, 0) + 1
        (step.kept if counted[owner] <= rule.most else step.cut).append(edge)
    return step


def _confirmed(
    bench: Bench, targets: Sequence[Target], tests: _Tests, candidates: np.ndarray, rule: Rule, *, single: bool
) -> list[tuple[int, float]]:
    """Candidates, best first, that hold under the chosen null, with their log10 p under it."""
    limit = np.log10(rule.alpha)
    if rule.null == "analytic":
        return [(int(row), float("nan")) for row in (candidates[:1] if single else candidates)]
    found: list[tuple[int, float]] = []
    shuffles: dict[tuple[int, int], tuple[np.ndarray, np.ndarray]] = {}
    for row in candidates.tolist():
        number, score = int(tests.target[row]), float(tests.score[row])
        if rule.null == "shared":
            log10 = float(log10_shared(score, targets[number].side, bench.moment, width=int(tests.width[row])))
            enough = log10 + np.log10(len(tests.score)) <= limit
        else:
            key = (int(tests.layer[row]), number)
            if key not in shuffles:
                shuffles[key] = bench.shuffled(key[0], targets[number], rule)
            null = shuffles[key][int(tests.first[row] < 0)]
            log10 = float(np.log10((1 + len(null) - np.searchsorted(null, score)) / (1 + len(null))))
            enough = log10 <= limit
        found.append((row, log10))
        if single and enough:
            return [(row, log10)]
    if rule.null == "shuffle":  # draws cannot reach beyond a correction: they confirm, one by one
        return [] if single else [(row, log10) for row, log10 in found if log10 <= limit]
    every = np.zeros(len(tests.score))  # what was no candidate counts as p = 1, which is cautious
    every[[row for row, _ in found]] = [log10 for _, log10 in found]
    adjusted = rule.adjust(every)
    return [] if single else [(row, log10) for row, log10 in found if adjusted[row] <= limit]


def _gather(bench: Bench, pairs: Sequence[tuple[Node | None, Target]], *, whole: bool) -> _Tests:
    """All tests of the pairs; a block is one test, and so is a whole head."""
    columns: list[dict[str, np.ndarray]] = []
    for number, (source, target) in enumerate(pairs):
        layers = range(target.layer) if source is None else [source.head.layer]
        if source is not None and source.head.layer >= target.layer:
            raise BadInput(f"{source.name} comes no earlier than {target.name}: it cannot be read there.")
        mine = [_rows(bench, layer, source, target, whole=whole) for layer in layers]
        rows = {name: np.concatenate([one[name] for one in mine]) for name in mine[0]} if mine else {}
        if not mine or not len(rows["score"]):
            continue
        weights = weights_of(target.side).cpu().numpy()
        weights = weights[weights > weights.max() * 1e-12]
        rows["log10_p"] = np.empty(len(rows["score"]))
        for width in np.unique(rows["width"]).tolist():
            at = rows["width"] == width
            rows["log10_p"][at] = log10_tail(rows["score"][at], weights, bench.n, width=width)
        rows["target"] = np.full(len(rows["score"]), number)
        columns.append(rows)
    names = list(_Tests.__dataclass_fields__)
    return _Tests(**{name: np.concatenate([rows[name] for rows in columns] or [np.empty(0)]) for name in names})


def _rows(bench: Bench, layer: int, source: Node | None, target: Target, *, whole: bool) -> dict[str, np.ndarray]:
    score, z = bench.scores(layer, target.side)
    same = bench.same(layer)
    heads, width = score.shape
    index = torch.arange(width, device=same.device).expand(heads, width)
    first = same.to(torch.int64).argmax(-1) == index  # the first of its block
    keep = score.isfinite() & first
    if source is not None:
        chosen = torch.zeros_like(keep)
        chosen[source.head.head, source.rows] = True
        keep &= chosen
    number = torch.arange(heads, device=same.device)[:, None].expand(heads, width)
    columns = {"head": number, "first": index, "width": same.sum(-1), "score": score, "z": z}
    rows = {name: values[keep] for name, values in columns.items()}
    if whole and (source is None or source.first < 0):
        total = score.square().nanmean(dim=-1).sqrt()  # [head]
        several = (score.isfinite() & first).sum(-1) > 1  # else its one block is tested already
        mine = several & (torch.ones_like(several) if source is None else number[:, 0] == source.head.head)
        more = {
            "head": number[:, 0], "first": torch.full_like(number[:, 0], -1), "width": bench.parts(layer).rank, "score": total,
            "z": outstanding(total),
        }  # fmt: skip
        rows = {name: torch.cat([values, more[name][mine]]) for name, values in rows.items()}
    found = {name: values.cpu().numpy() for name, values in rows.items()}
    return {"layer": np.full(len(found["head"]), layer), **found}
