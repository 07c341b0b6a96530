"""Evaluation: how much of the behaviour a circuit carries, what it lacks, and what it could do without; each beside its floor."""

from dataclasses import dataclass
from typing import Any, Literal

from interp.core.analysis import Cost
from interp.core.errors import BadInput, one_of
from interp.core.lm import LM
from interp.core.seed import numpy_generator
from interp.core.spec import BYTES

from ..pairs import pair_groups, token_pairs
from .assemble import Evaluated, assemble_evaluation
from .bench import Bench, sites_of
from .circuit import Circuit
from .discover import CircuitDiscovery, Discovering
from .means import Means
from .measures import Draw, completeness, halves, minimality, random_circuits, removal
from .result import CircuitResult, DiscoveryResult


@dataclass(frozen=True)
class CircuitEvaluation(Discovering[CircuitResult]):
    """Faithfulness, completeness and minimality of a circuit by mean ablation; finds one first where none is given."""

    circuit: str = ""
    """The circuit, as text (movers@last=3.1+3.2,inhibition@last=2.0) or JSON. Empty: discovered on a random half
    of the pairs, evaluated on the other."""
    elsewhere: Literal["mean", "clean"] = "mean"
    """What heads say outside the circuit's positions: their means, or what they say anyway."""
    means: Literal["role", "position"] = "role"
    """Means by the part that a position plays, or by absolute position (needs many prompts of each length)."""
    mlps: bool = False
    """Replace MLP outputs outside the circuit's positions by their means too; by default MLPs are never ablated."""
    accuracy: Literal["top", "choice"] = "top"
    """Right is: the answer is the top token; or it beats the foil (whose chance is 1/2)."""
    random: int = 10
    """Random circuits with the same number of heads at each position, drawn without replacement."""
    draws: int = 20
    """Random halves of the circuit that completeness takes away."""
    minimal: bool = True
    """Work out minimality; costs about n squared small runs for a group of n heads."""
    share: float = 0.3
    """Largest part of a group that is taken away before a head's own worth is measured."""
    threshold: float = 0.01
    """Smallest relative loss of accuracy for which a head is kept."""
    seed: int = 0
    """Names the random circuits, the halves, and the split of the pairs."""

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "circuit", str(self.circuit))
        if self.circuit:
            object.__setattr__(self, "circuit", str(Circuit.parse(self.circuit)))
            if self.plan:
                raise BadInput("give a circuit to evaluate or a plan to discover one by, not both.")
        one_of("elsewhere", self.elsewhere, ["mean", "clean"])
        one_of("means", self.means, ["role", "position"])
        one_of("accuracy", self.accuracy, ["top", "choice"])
        for name in ("random", "draws"):
            if getattr(self, name) < 1:
                raise BadInput(
                    f"`{name}` must be at least 1: without it a number has no floor; not {getattr(self, name)}."
                )
        if not 0 <= self.share < 1 or self.threshold < 0:
            raise BadInput(
                f"`share` lies from 0 to below 1 and `threshold` is not negative; not {self.share} and {self.threshold}."
            )

    def check(self, lm: LM, data: Any) -> None:
        """Refuse heads that this model does not have, a plan that cannot be carried out, and too few pairs to split."""
        token_pairs(lm, data, bos=self.bos)
        if self.circuit:
            _heads_exist(Circuit.parse(self.circuit), lm)
            return
        if len(list(data)) < 4:
            raise BadInput(
                f"{len(list(data))} pairs cannot be split into those to discover with and those to evaluate on. Bring at least 4."
            )
        self._discovery(data).check(lm, data)

    def run(self, lm: LM, data: Any, store: Any = None) -> CircuitResult:
        """Discover (on a random half of the pairs) if need be, then evaluate (on the others)."""
        found: DiscoveryResult | None = None
        judged = data
        if self.circuit:
            circuit = Circuit.parse(self.circuit)
        else:
            mine, judged = self._split(list(data))
            found = self._discovery(data).run(lm, mine)
            circuit = found.circuit
        every = pair_groups(lm, data, bos=self.bos, max_rows=self.rows)
        groups = pair_groups(lm, judged, bos=self.bos, max_rows=self.rows)
        means = Means.over(lm, every, sites_of(lm, mlps=self.mlps), roles=circuit.roles, by=self.means)
        bench = Bench(lm, groups, circuit.roles, means=means, elsewhere=self.elsewhere, mlps=self.mlps)
        for name, one in (("model", None), ("open", None), ("circuit", circuit)):
            bench.prepare(name, one)
        evaluated = self._evaluate(bench, circuit)
        return assemble_evaluation(
            self, lm, circuit, groups, evaluated, chance=float(getattr(data, "chance", float("nan"))), discovery=found
        )

    def cost(self, lm: LM, data: Any = None) -> Cost:
        """Whole passes for the means and the recorded runs; removals recompute from their first head on, half a pass each."""
        pairs = token_pairs(lm, data, bos=self.bos)
        length = sum(len(pair.clean) for pair in pairs) / len(pairs)
        cells, note = float(self.random + 1 + 2 * self.draws), "minimality not counted: the circuit is not known yet"
        forwards = 0.0
        if self.circuit:
            sizes = [len(group.heads) for group in Circuit.parse(self.circuit).groups]
            cells += sum(n * n / 2 + 2 * n for n in sizes) if self.minimal else 0.0
            note = f"a circuit of {sum(sizes)} heads"
        else:
            forwards = self._discovery(data).cost(lm, data).forwards / 2
        forwards += len(pairs) * (6 + cells / 2)
        size = 5 * lm.spec.n_layers * lm.spec.d_model * length * min(self.rows, len(pairs)) * BYTES[lm.spec.dtype]
        return Cost(forwards, int(forwards * length), int(size), note)

    def _split(self, items: list[Any]) -> tuple[list[Any], list[Any]]:
        """A random half to discover with, and the rest to evaluate on, both in the order of the data."""
        first = set(numpy_generator(self.seed, "split").permutation(len(items))[: len(items) // 2].tolist())
        return [item for i, item in enumerate(items) if i in first], [
            item for i, item in enumerate(items) if i not in first
        ]

    def _discovery(self, data: Any) -> CircuitDiscovery:
        return CircuitDiscovery(
            plan=tuple(map(str, self.plan_for(data).groups)), select=self.select, top=self.top, metric=self.metric, alpha=self.alpha,
            least=self.least, freeze_mlps=self.freeze_mlps, known_only=self.known_only, bos=self.bos, rows=self.rows,
        )  # fmt: skip

    def _evaluate(self, bench: Bench, circuit: Circuit) -> Evaluated:
        drawn = random_circuits(circuit, bench.every, self.random, seed=self.seed)
        names = ["model", "open", "circuit"]
        scores = [bench.scores(name, [frozenset()]) for name in names]
        nothing = circuit.keep(())
        scores.append(bench.scores("open", [bench.outside(one) for one in (nothing, *drawn)]))
        small = (
            minimality(bench, circuit, how=self.accuracy, share=self.share, threshold=self.threshold)
            if self.minimal
            else None
        )
        names += ["empty", *(f"random {number}" for number in range(len(drawn)))]
        sizes = [-1, -1, circuit.size, 0, *(one.size for one in drawn)]
        if small is not None:
            pruned = circuit.keep(node for node, kept in zip(circuit.nodes, small.keep, strict=True) if kept)
            scores.append(bench.scores("circuit", [removal(circuit, set(circuit.nodes) - set(pruned.nodes))]))
            names.append("minimal")
            sizes.append(pruned.size)
        draws: list[Draw] = halves(circuit, self.draws, seed=self.seed)
        return Evaluated(names, sizes, scores, draws, *completeness(bench, circuit, draws), small, drawn)


def _heads_exist(circuit: Circuit, lm: LM) -> None:
    spec = lm.spec
    for name, layer, head in circuit.nodes:
        if layer >= spec.n_layers or head >= spec.n_heads:
            raise BadInput(
                f"the circuit's {name} has head {layer}.{head}; {spec.name} has layers 0 to {spec.n_layers - 1} and heads 0 to "
                f"{spec.n_heads - 1}."
            )
