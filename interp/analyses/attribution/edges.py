"""Edges: what each connection between heads, MLPs, input and logits is worth, and whether the circuit they make does the task.

The question. A node may matter along one of its paths and not along another. Corrupting a single edge u -> v means: v reads the stream with
u's part of it taken from the corrupted run, everything else as it is. To first order its effect on a metric M is

    M(clean) - M(clean | edge u -> v corrupted)  ~  sum over positions (u_clean - u_corrupted) . dM/d(input of v)

- method="eap": the gradient at the clean run. 3 forward and a backward pass for all edges of GPT-2 small, 32,491.
- method="eap-ig": its mean over inputs between the corrupted and the clean embedding, k-th of m steps: midpoint (k + 1/2)/m by default,
  left k/m (with the corrupted end, as in the published program), right (k + 1)/m. m + 2 forward and m backward passes.
- method="clean-corrupted": the mean of both ends.

The check. Edges that leave the input carry all of the difference, so their scores must sum to M(clean) - M(corrupted) as m grows, with an
error of order 1/m (left, right) or 1/m^2 (midpoint). The gap is in every result and its headline; where it is above 5 percent, take
more steps. No such sum exists for other edges, so some edges are also corrupted truly, one by one (`verify`).

The circuit. The strongest edges, or those grown greedily from the logits, without loose ends, are run for what they are: an excluded edge
carries what its source writes in the corrupted run, an included one what it writes in this very run (not in the clean one).

    faithfulness  =  (M(circuit) - M(corrupted)) / (M(clean) - M(corrupted))        1: the circuit does all of it

with its floors: no edge (0), random circuits of the same size, all edges (1).

Source. Syed et al. 2023 (arXiv 2310.10348) for EAP; Hanna et al. 2024 (arXiv 2403.17806) for EAP-IG and evaluation. Deviations: the sign
(an effect is what the corruption loses, positive for edges that carry the answer; the papers score the change of M); the midpoint
rule; gradients at keys and values are taken apart query head by query head.

When it misleads
- A gradient of 0 is no absence of effect: saturated attention hides edges into q and k from EAP, less from EAP-IG.
- Inputs between two prompts are no prompts; a model may do anything there. The completeness gap shows only part of that.
- Scores of single edges do not add up to the score of a circuit: compare with random circuits of the same size, always.
- Refused: families with norms behind their sublayers (Gemma 2 and 3, OLMo 2), where what a head adds is no part of a sum, and mixtures of
  experts.

    import interp
    lm = interp.load("atlas")
    found = interp.EdgeAttribution(steps=5, sizes=(40,), draws=2)(lm, interp.reference.task("atlas", "ioi", n=3))
    found.headline()                           # completeness gap, agreement with true corruption, faithfulness
    found.top(5)                               # the strongest edges
    found.circuit(40)                          # a table of the edges of a circuit
"""

from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import numpy as np
import torch

from interp.core.analysis import Analysis, Cost
from interp.core.edit import replace
from interp.core.errors import BadInput, one_of
from interp.core.lm import LM
from interp.core.progress import track
from interp.core.seed import numpy_generator

from ..pairs import PairGroup, pair_groups, token_pairs
from .backward import ENTRY, RULES, between, fractions
from .circuit import extract, random_circuit
from .edge_result import EdgeResult, assemble, ranking
from .flow import Flow, edge_scores
from .forward import CircuitRuns, edge_effects
from .graph import Graph
from .metric import METRICS, Metric
from .reading import refuse_unread
from .truth import choose

CHEAP = 2000
"""Edges of a graph up to which circuits of three sizes are run without being asked for."""
SHARES = (0.05, 0.15, 0.4)
"""Sizes of these circuits, as shares of all edges."""


@dataclass(frozen=True)
class EdgeAttribution(Analysis[EdgeResult]):
    """Edge attribution patching, with integrated gradients, true edges beside it, and circuits run for what they are."""

    takes: ClassVar[str] = "pairs"

    method: Literal["eap-ig", "eap", "clean-corrupted"] = "eap-ig"
    """Where the gradient is taken: along the path of inputs, at the clean run, or at both ends."""
    steps: int = 10
    """Points on the path, for eap-ig; 5 to 30 are usual. Read the completeness gap."""
    rule: Literal["midpoint", "left", "right"] = "midpoint"
    """Where in each step the gradient is taken; left has the corrupted end (as the published program), right the clean one."""
    metric: Literal["logit_diff", "logprob", "prob"] = "logit_diff"
    """What edges are worth something to."""
    verify: int = 20
    """Edges to corrupt truly, one by one: so many of the strongest and as many random others; 0 for none."""
    sizes: tuple[int, ...] | None = None
    """Numbers of edges of circuits to run; () for none; by default 5, 15 and 40 percent of all edges, where those are at most 2000."""
    extraction: Literal["greedy", "top"] = "greedy"
    """How circuits are chosen: the best edge into what is there already, from the logits on, or the strongest edges."""
    by: Literal["magnitude", "signed"] = "magnitude"
    """What the best edge is: of the largest mean score by size, or only those that carry the answer first."""
    draws: int = 3
    """Random circuits of each size, the floor of faithfulness."""
    answers: Literal["single", "first"] = "single"
    """Refuse answers of several tokens, or score their first token."""
    bos: bool | None = None
    """Put a BOS before each prompt; None follows the model's tokenizer."""
    rows: int = 8
    """Pairs that are worked on at once; changes memory and speed, not the numbers."""
    seed: int = 0
    """Names the random edges and circuits."""

    def __post_init__(self) -> None:
        one_of("method", self.method, ("eap-ig", "eap", "clean-corrupted"))
        one_of("rule", self.rule, RULES)
        one_of("metric", self.metric, METRICS)
        one_of("extraction", self.extraction, ("greedy", "top"))
        one_of("by", self.by, ("magnitude", "signed"))
        one_of("answers", self.answers, ("single", "first"))
        for name, least in (("steps", 1), ("verify", 0), ("draws", 0), ("rows", 1)):
            if getattr(self, name) < least:
                raise BadInput(f"`{name}` must be at least {least}; not {getattr(self, name)}.")
        if self.sizes is not None:
            object.__setattr__(self, "sizes", tuple(sorted(int(size) for size in self.sizes)))
            if any(size < 1 for size in self.sizes) or len(set(self.sizes)) < len(self.sizes):
                raise BadInput(f"`sizes` must be different numbers of edges, at least 1 each; not {self.sizes!r}.")

    def check(self, lm: LM, data: Any) -> None:
        """Refuse families without a plain sum in the stream, sizes beyond the graph, and pairs that cannot be used."""
        refuse_unread(lm, "edge attribution")
        n = int(Graph.of(lm.spec).edges.sum())
        if beyond := [size for size in self.sizes or () if size > n]:
            raise BadInput(f"`sizes` has {beyond}, and {lm.spec.name} has {n:,} edges. Ask for fewer.")
        token_pairs(lm, data, bos=self.bos, answers=self.answers)

    def run(self, lm: LM, data: Any, store: Any = None) -> EdgeResult:
        """Score all groups; then, with the mean scores known, corrupt single edges and run circuits."""
        groups = pair_groups(lm, data, bos=self.bos, answers=self.answers, max_rows=self.rows)
        graph, flow = Graph.of(lm.spec), Flow(lm, Graph.of(lm.spec))
        parts = []
        for group in track(groups, "edges", total=len(groups)):
            metric = Metric.of(self.metric, group)
            runs = CircuitRuns.of(lm, group.clean, group.corrupted, metric)
            parts.append(EdgePart(group, runs, *self._scores(flow, runs, group)))
        mean = np.concatenate([part.score for part in parts]).mean(axis=0)  # [source, destination]
        self._verify(graph, mean, parts)
        circuits = self._circuits(graph, mean)
        for part in track(parts, "circuits", total=len(parts)):
            part.metrics = {
                name: np.stack([part.runs.score(one).cpu().numpy() for one in many], axis=1)
                for name, many in circuits.items()
            }
        return assemble(self, lm, graph, parts, circuits)

    def cost(self, lm: LM, data: Any = None) -> Cost:
        """Passes over all pairs; a backward pass counts as two, a layer of a circuit as its share of passes for each destination."""
        self.check(lm, data)
        lengths = [len(pair.clean) for pair in token_pairs(lm, data, bos=self.bos, answers=self.answers)]
        graph, spec = Graph.of(lm.spec), lm.spec
        points = {"eap": 1, "clean-corrupted": 2}.get(self.method, self.steps)
        one = spec.n_layers / 2 * (3 * spec.n_heads + 1 + spec.n_heads // spec.n_kv_heads)
        circuits = len(self._sizes(graph)) * (1 + self.draws) + 2 * bool(self._sizes(graph))
        forwards = 2 + 3.0 * points + 2 * self.verify * 2.0 + circuits * one
        held = (
            min(self.rows, len(lengths))
            * max(lengths)
            * spec.d_model
            * 8
            * (3 * len(graph.sources) + len(graph.destinations))
        )
        return Cost(
            forwards,
            int(forwards * sum(lengths)),
            held,
            note=f"{int(graph.edges.sum()):,} edges; {circuits} circuits run",
        )

    def _sizes(self, graph: Graph) -> tuple[int, ...]:
        n = int(graph.edges.sum())
        if self.sizes is not None:
            return self.sizes
        return tuple(dict.fromkeys(max(1, round(share * n)) for share in SHARES)) if n <= CHEAP else ()

    def _scores(self, flow: Flow, runs: CircuitRuns, group: PairGroup) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Scores [pair, source, destination], and M of the clean and of the corrupted run [pair]."""
        lm, metric = flow.lm, runs.metric
        ends = [lm.run(batch, capture=ENTRY) for batch in (group.corrupted, group.clean)]
        corrupted, clean = (metric(run.last_logits).double().cpu().numpy() for run in ends)
        at = (
            fractions(self.rule, self.steps)
            if self.method == "eap-ig"
            else [0.0, 1.0]
            if self.method == "clean-corrupted"
            else []
        )
        paths = [[replace(ENTRY, between(ends[0][ENTRY], ends[1][ENTRY], fraction))] for fraction in at] or [[]]
        total: list[torch.Tensor] = []
        for edits in paths:
            grads, _ = flow.gradients(group.clean, metric, edits)
            total = [one + grad for one, grad in zip(total, grads, strict=True)] if total else grads
        mean = [grad / len(paths) for grad in total]
        return edge_scores(flow.graph, runs.clean - runs.corrupted, mean).numpy(), clean, corrupted

    def _verify(self, graph: Graph, mean: np.ndarray, parts: "list[EdgePart]") -> None:
        """True effects of the strongest edges and of random others, the same for all pairs."""
        if not self.verify:
            return
        places = np.argwhere(graph.edges)
        flat = np.array([mean[tuple(place)] for place in places])
        if 2 * self.verify >= len(flat):  # all of them, which is a fair sample
            best, others = np.zeros((0, 1), dtype=np.int64), np.arange(len(flat))[:, None]
        else:
            best, others = choose(flat[None], self.verify, seed=self.seed, name="edges")
        for part in track(parts, "true edges", total=len(parts)):
            part.true = np.full(part.score.shape, np.nan)
            part.chosen = np.where(graph.edges, 0, -1)
            for kind, some in ((2, best), (1, others)):
                edges = places[some[:, 0]]
                if len(edges):
                    part.true[(slice(None), *edges.T)] = edge_effects(part.runs, edges)
                    part.chosen[tuple(edges.T)] = kind

    def _circuits(self, graph: Graph, mean: np.ndarray) -> dict[str, list[np.ndarray]]:
        """Masks of the circuits of each size, of random ones, of none and of all edges."""
        sizes, score = self._sizes(graph), ranking(mean, self.by)
        if not sizes:
            return {}
        found = {"circuit": [extract(graph, score, size, self.extraction) for size in sizes]}
        random = []
        for size, circuit in zip(sizes, found["circuit"], strict=True):
            for draw in range(self.draws):
                rng = numpy_generator(self.seed, "random circuit", size, draw)
                random.append(random_circuit(graph, int(circuit.sum()), rng))
        if random:
            found["random"] = random
        return {**found, "floors": [np.zeros_like(graph.edges), graph.edges]}


@dataclass(eq=False)
class EdgePart:
    """The numbers of one group of pairs."""

    group: PairGroup
    runs: CircuitRuns
    score: np.ndarray
    """[pair, source, destination], NaN where there is no edge."""
    clean: np.ndarray
    corrupted: np.ndarray
    true: np.ndarray | None = None
    chosen: np.ndarray | None = None
    """[source, destination]: -1 no edge, 0 not corrupted, 1 as a random one, 2 as one of the strongest."""
    metrics: dict[str, np.ndarray] = field(default_factory=dict)
    """M of circuits [pair, circuit]: circuit by size, random by size and draw, floors (no edge, all edges)."""
