"""What is asked of a circuit C in a model M, with F the accuracy over prompts.

    completeness    gap(K) = |F(C \\ K) - F(M \\ K)|       for random halves K of the circuit's heads and for whole groups
    minimality      worth(v) = F(C \\ K) / F(C \\ (K + v)) - 1,      K the heads of v's group that hide v most

K for minimality: for every other head k of the group the loss F(C \\ k) - F(C \\ {k, v}) that v makes once k is gone; those with a positive
loss, largest first, at most `share` of the group and at least one (in a group of two the other head may be all that hides it). Where
C \\ K answers nothing there is nothing left to lose, so K gives up its weakest heads until something is left; where only C \\ (K + v)
answers nothing, the worth is infinite.

Source. Wang et al. 2022, section 4; Prakash et al. 2024, section 3 and its program, whose pairs leave out heads that share a layer *or* a
number with v and whose random circuits may hold a head twice. Here a pair is left out only if it is the same head.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from interp.core.seed import numpy_generator

from .bench import MEASURES, Bench, Removal
from .circuit import Circuit, Group, Head, Node

Accuracy = Callable[[Sequence[frozenset[Node]]], np.ndarray]
"""Accuracy of the circuit without each of some sets of nodes."""


@dataclass(frozen=True)
class Draw:
    """A set of nodes that is taken out of circuit and model."""

    name: str
    kind: str
    """half or group."""
    nodes: frozenset[Node]


@dataclass(frozen=True)
class Minimality:
    """One entry a node of the circuit, in the order of `Circuit.nodes`."""

    worth: list[float]
    keep: list[bool]
    hidden: list[frozenset[Node]]
    """K: what was taken away first."""
    before: list[float]
    """F(C \\ K)."""
    after: list[float]
    """F(C \\ (K + v))."""


def correct(scores: np.ndarray, how: str) -> np.ndarray:
    """How right each prompt is, from scores [..., measure]: share of the top, or whether answer beats foil (a tie is a half)."""
    if how == "top":
        return np.asarray(scores[..., MEASURES.index("top")])
    difference = scores[..., MEASURES.index("logit_diff")]
    return (difference > 0) + 0.5 * (difference == 0)


def removal(circuit: Circuit, nodes: Iterable[Node]) -> Removal:
    """What leaves the circuit with these nodes: (role, head), but for heads that another group of the same position still has."""
    rest = circuit.without(nodes)
    return frozenset((role, head) for role in circuit.roles for head in circuit.at(role) - rest.at(role))


def twins(circuit: Circuit, nodes: Iterable[Node]) -> frozenset[Node]:
    """The nodes, and the same heads in other groups of the same position: whether a head is needed is not a question of its group."""
    gone = {(circuit[name].at, layer, head) for name, layer, head in nodes}
    return frozenset(node for node in circuit.nodes if (circuit[node[0]].at, *node[1:]) in gone)


def random_circuits(circuit: Circuit, every: Iterable[Head], n: int, *, seed: int) -> list[Circuit]:
    """Circuits with as many different heads at each position as this one, drawn without replacement from all heads."""
    pool = sorted(every)
    out = []
    for number in range(n):
        rng = numpy_generator(seed, "random circuit", number)
        groups = []
        for role in circuit.roles:
            chosen = rng.choice(len(pool), len(circuit.at(role)), replace=False)
            groups.append(Group(f"random {role}", role, tuple(pool[int(i)] for i in chosen)))
        out.append(Circuit(tuple(groups)))
    return out


def halves(circuit: Circuit, n: int, *, seed: int) -> list[Draw]:
    """`n` random halves of the circuit's nodes, and every whole group; none for a circuit without heads."""
    nodes = circuit.nodes
    if not nodes:
        return []
    out = []
    for number in range(n):
        chosen = numpy_generator(seed, "half", number).choice(len(nodes), max(1, len(nodes) // 2), replace=False)
        out.append(Draw(f"half {number}", "half", frozenset(nodes[int(i)] for i in chosen)))
    groups = [Draw(g.name, "group", frozenset((g.name, *head) for head in g.heads)) for g in circuit.groups if g.heads]
    return out + groups


def completeness(bench: Bench, circuit: Circuit, draws: Sequence[Draw]) -> tuple[np.ndarray, np.ndarray]:
    """Scores of the circuit and of the model without each draw, [draw, prompt, measure] each."""
    gone = [removal(circuit, draw.nodes) for draw in draws]
    return bench.scores("circuit", gone), bench.scores("model", gone)


def minimality(bench: Bench, circuit: Circuit, *, how: str, share: float, threshold: float) -> Minimality:
    """Which heads the circuit cannot do without. Needs the recorded run `circuit`."""

    def accuracy(sets: Sequence[frozenset[Node]]) -> np.ndarray:
        scores = bench.scores("circuit", [removal(circuit, twins(circuit, nodes)) for nodes in sets])
        return correct(scores, how).mean(axis=1)

    return worth_of(accuracy, circuit, share=share, threshold=threshold)


def worth_of(accuracy: Accuracy, circuit: Circuit, *, share: float, threshold: float) -> Minimality:
    """Minimality by any accuracy of subsets."""
    out = Minimality([], [], [], [], [])
    for group in circuit.groups:
        nodes = [(group.name, *head) for head in group.heads]
        hiding = _hiding(accuracy, nodes, most=max(1, int(share * len(nodes))))
        sets = [frozenset(found[:size]) for found in hiding for size in range(len(found) + 1)]
        owner = [place for place, found in enumerate(hiding) for _ in range(len(found) + 1)]
        if not sets:
            continue
        before = accuracy(sets)
        after = accuracy([one | {nodes[place]} for one, place in zip(sets, owner, strict=True)])
        for place in range(len(nodes)):
            mine = [index for index, who in enumerate(owner) if who == place]  # from the empty K to the whole one
            usable = [index for index in mine if before[index] > 0]
            best = usable[-1] if usable else mine[0]
            worth = _worth(float(before[best]), float(after[best]))
            out.worth.append(worth)
            out.keep.append(bool(np.isnan(worth) or worth >= threshold))
            out.hidden.append(sets[best])
            out.before.append(float(before[best]))
            out.after.append(float(after[best]))
    return out


def pairs_of(nodes: Sequence[Node]) -> list[tuple[Node, Node]]:
    """Every two different heads; such as share a layer or a number are different all the same."""
    return list(combinations(nodes, 2))


def _hiding(accuracy: Accuracy, nodes: Sequence[Node], *, most: int) -> list[list[Node]]:
    """For each node, the others of its group after whose removal it is missed most, at most `most`."""
    pairs = pairs_of(nodes)
    if not most or not pairs:
        return [[] for _ in nodes]
    found = accuracy([*(frozenset([node]) for node in nodes), *(frozenset(pair) for pair in pairs)])
    alone = dict(zip(nodes, found, strict=False))
    both = dict(zip(map(frozenset, pairs), found[len(nodes) :], strict=True))
    out = []
    for node in nodes:
        loss = {other: alone[other] - both[frozenset((node, other))] for other in nodes if other != node}
        ranked = sorted((other for other in loss if loss[other] > 0), key=lambda other: -loss[other])
        out.append(ranked[:most])
    return out


def _worth(before: float, after: float) -> float:
    """F(C \\ K) / F(C \\ (K + v)) - 1; infinite where the second is 0, NaN where both are."""
    if after == 0:
        return float("nan") if before == 0 else float("inf")
    return before / after - 1
