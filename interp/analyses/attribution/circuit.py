"""Which edges make the circuit: the strongest, or those found on the way back from the logits; without loose ends.

`top` takes the edges of largest score. `greedy` starts at the logits and again and again takes the best edge into a node that is in
already, so that what it has hangs together at one end. Either way an edge whose source hears nothing, or whose destination nobody
hears, can carry nothing; it is pruned, and so on until none is left.
"""

import heapq

import numpy as np

from .graph import Graph


def strongest(graph: Graph, score: np.ndarray, n: int) -> np.ndarray:
    """The `n` edges with the largest scores, bool [source, destination]; scores that are NaN are no edges."""
    order = np.argsort(-np.where(graph.edges, score, -np.inf), axis=None, kind="stable")[
        : min(n, int(graph.edges.sum()))
    ]
    chosen = np.zeros(graph.edges.shape, dtype=bool)
    chosen.flat[order] = True
    return chosen & graph.edges


def greedy(graph: Graph, score: np.ndarray, n: int) -> np.ndarray:
    """`n` edges, each the best into a node that is already there, from the logits on; bool [source, destination]."""
    inputs: dict[str, list[int]] = {}
    for place, owner in enumerate(graph.owners):
        inputs.setdefault(owner, []).append(place)
    chosen, there = np.zeros(graph.edges.shape, dtype=bool), set[str]()
    heap: list[tuple[float, int, int]] = []

    def enter(owner: str) -> None:
        there.add(owner)
        for destination in inputs.get(owner, []):
            for source in np.flatnonzero(graph.edges[:, destination]).tolist():
                heapq.heappush(heap, (-float(score[source, destination]), source, destination))

    enter("logits")
    for _ in range(n):
        if not heap:
            break
        _, source, destination = heapq.heappop(heap)
        chosen[source, destination] = True
        if graph.sources[source] not in there:
            enter(graph.sources[source])
    return chosen


def pruned(graph: Graph, chosen: np.ndarray) -> np.ndarray:
    """The edges that lie on some way from the input to the logits."""
    owner = {name: place for place, name in enumerate(graph.sources)}
    of = np.array(
        [owner.get(name, -1) for name in graph.owners]
    )  # source number of each destination's node; -1 for the logits
    chosen = np.asarray(chosen & graph.edges)
    while True:
        hears = np.zeros(len(graph.sources), dtype=bool)
        hears[0] = True  # the input needs no parents
        hears[of[chosen.any(axis=0) & (of >= 0)]] = True
        heard = np.asarray(chosen.any(axis=1))
        kept = chosen & hears[:, None] & np.where(of >= 0, heard[of], True)[None]
        if (kept == chosen).all():
            return kept
        chosen = kept


def extract(graph: Graph, score: np.ndarray, n: int, how: str = "greedy") -> np.ndarray:
    """A circuit of at most `n` edges by 'top' or 'greedy', pruned."""
    return pruned(graph, (strongest if how == "top" else greedy)(graph, score, n))


def random_circuit(graph: Graph, size: int, rng: np.random.Generator) -> np.ndarray:
    """A circuit that hangs together and has at least `size` edges (as few more as possible), grown in random order."""
    score = rng.random(graph.edges.shape)
    low, high = size, int(graph.edges.sum())
    while low < high:
        middle = (low + high) // 2
        if int(extract(graph, score, middle).sum()) >= size:
            high = middle
        else:
            low = middle + 1
    return extract(graph, score, low)
