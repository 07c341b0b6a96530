"""What edge attribution gives: every pair's score of every edge, its checks, and circuits with their floors."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import xarray as xr

from interp.core.analysis import Result
from interp.core.errors import BadInput, one_of
from interp.core.seed import numpy_generator
from interp.core.stats import bootstrap_ci

from .agreement import agreements, summary
from .circuit import extract
from .graph import Graph

if TYPE_CHECKING:
    import pandas as pd

    from interp.core.lm import LM

    from .edges import EdgeAttribution, EdgePart

TOLERANCE = 1e-3
"""Total effect below which a share of it means nothing."""


class EdgeResult(Result):
    """Scores of all edges, true effects of some, and circuits.

    data:
        score     [pair, source, destination]   attributed effect of corrupting the edge, M(clean) - M(corrupted edge); NaN: no edge.
                                                Positive: the edge carries the answer. Summed over positions
        true, chosen [pair, source, destination] with verify: true effects (NaN where not corrupted); chosen: -1 no edge, 0 not corrupted,
                                                1 corrupted as a random one, 2 as one of the strongest
        clean, corrupted [pair]                 metric of the two runs
        circuit   [pair, size]                  metric of the circuit of each size, run with all other edges corrupted
        random    [pair, size, draw]            metric of random circuits that hang together, of as many edges
        empty, full [pair]                      metric with no edge and with all edges, run the same way
        edges [size], random_edges [size, draw] edges that were left after pruning
        member    [size, source, destination]   bool: the edges of the circuit
    coords: pair, source and destination (names, see `Graph`), size (edges asked for), draw; along pair known, answer, foil, predicted.
    attrs: metric, method, rule, steps, n_layers, n_heads, parallel, extraction, by.
    """

    figure: ClassVar[str] = "edges"
    main: ClassVar[str] = "score"
    effect: ClassVar[bool] = True

    @property
    def graph(self) -> Graph:
        """The graph whose edges these are."""
        attrs = self.data.attrs
        return Graph(int(attrs["n_layers"]), int(attrs["n_heads"]), bool(attrs["parallel"]))

    def mean(self, level: float = 0.95) -> xr.Dataset:
        """Mean score over pairs, its interval and the mean magnitude: mean, ci_lo, ci_hi, magnitude [source, destination]."""
        score = self.data["score"]
        mean, low, high = bootstrap_ci(score, axis="pair", level=level, name="edges")
        return xr.Dataset({"mean": mean, "ci_lo": low, "ci_hi": high, "magnitude": abs(score).mean("pair")})

    def top(self, n: int = 10, *, by: str = "magnitude") -> "pd.DataFrame":
        """The `n` edges of largest mean score (by 'magnitude', or 'signed'): source, destination, score, ci_lo, ci_hi, true."""
        table = self.mean()
        score = np.where(self.graph.edges, ranking(table["mean"].values, by), -np.inf)
        places = np.unravel_index(
            np.argsort(-score, axis=None, kind="stable")[: min(n, self.graph.edges.sum())], score.shape
        )
        return self._table(places, table)

    def circuit(self, n: int, *, how: str | None = None, by: str | None = None) -> "pd.DataFrame":
        """The edges of a circuit of at most `n` edges after pruning, strongest first. Not run: see `sizes`.

        `how` ('greedy' or 'top') and `by` ('magnitude' or 'signed') are by default those of the circuits that were run.
        """
        how, by = how or str(self.data.attrs["extraction"]), by or str(self.data.attrs["by"])
        one_of("how", how, ("greedy", "top"))
        if not 1 <= n <= self.graph.edges.sum():
            raise BadInput(f"a circuit of this graph has 1 to {int(self.graph.edges.sum()):,} edges; not {n}.")
        score = ranking(self.data["score"].mean("pair").values, by)
        places = np.argwhere(extract(self.graph, score, n, how))
        order = np.argsort(-score[tuple(places.T)], kind="stable")
        return self._table(tuple(places[order].T), self.mean())

    def completeness(self) -> xr.Dataset:
        """What edges from the input sum to, what they must sum to, and the gap as a share of it: attributed, moved, gap [pair]."""
        attributed = self.data["score"].sel(source="input").sum("destination")
        moved = self.data["clean"] - self.data["corrupted"]
        gap = (attributed - moved) / moved.where(abs(moved) > 0)
        return xr.Dataset({"attributed": attributed, "moved": moved, "gap": gap}).drop_vars("source")

    def agreement(self, *, k: int = 10, level: float = 0.95) -> dict[str, float]:
        """Agreement with true corruption of single edges: over random edges rho, r and slope, over all that were corrupted `top`.

        As in `AttributionResult.agreement`. Raises `BadInput` where nothing was corrupted.
        """
        if "true" not in self.data:
            raise BadInput(
                "no edge was corrupted (`verify=0`), so there is nothing to agree with. Attribute again with verify=20."
            )
        parts = (self.data[name].values for name in ("score", "true", "chosen"))
        return summary(agreements(*parts, k=k), level=level)

    def faithfulness(self, level: float = 0.95) -> xr.Dataset:
        """(M(circuit) - M(corrupted)) / (M(clean) - M(corrupted)), means over pairs first.

        Gives circuit, ci_lo, ci_hi, edges [size], random [size, draw], empty, full.

        Never clipped. Refused where the mean total effect is within 0.001 of 0.
        """
        if "circuit" not in self.data:
            raise BadInput("no circuit was run. Attribute again with sizes=(50, 200), numbers of edges.")
        total = self.data["clean"] - self.data["corrupted"]
        if abs(float(total.mean())) <= TOLERANCE:
            raise BadInput(
                f"the corruption moves {self.data.attrs['metric']} by {float(total.mean()):.2g} on average: a share of nothing means "
                "nothing. Use other pairs or another metric."
            )
        low, high = self._interval(total.values, level)
        parts = {
            name: self._share(self.data[name], total)
            for name in ("circuit", "random", "empty", "full")
            if name in self.data
        }
        return xr.Dataset({**parts, "ci_lo": ("size", low), "ci_hi": ("size", high), "edges": self.data["edges"]})

    def headline(self) -> dict[str, float]:
        """The completeness gap, agreement of random edges with the truth, and faithfulness of the largest circuit, with its floor."""
        gap = self.completeness()
        off = float(abs(gap["attributed"] - gap["moved"]).mean() / abs(gap["moved"]).mean())
        found = {"completeness gap (share of the total effect)": off}
        if "true" in self.data:
            found["correlation of random edges with their true effects"] = self.agreement()["r"]
        if "circuit" in self.data and abs(float(gap["moved"].mean())) > TOLERANCE:
            share = self.faithfulness()
            n, every = int(share["edges"][-1]), int(self.graph.edges.sum())
            floor = f"random {float(share['random'][-1].mean()):.2f}" if "random" in share else "no floor"
            found[f"faithfulness of {n} of {every:,} edges ({floor})"] = float(share["circuit"][-1])
        return found

    def thumbnail(self) -> xr.DataArray | None:
        """Mean scores."""
        return self.data["score"].mean("pair")

    def _share(self, metric: xr.DataArray, total: xr.DataArray) -> xr.DataArray:
        return (metric - self.data["corrupted"]).mean("pair") / float(total.mean())

    def _interval(self, total: np.ndarray, level: float, n: int = 2000) -> tuple[np.ndarray, np.ndarray]:
        """Percentiles of the ratio of means over resampled pairs; NaN below two pairs."""
        gained = (self.data["circuit"] - self.data["corrupted"]).values  # [pair, size]
        if len(total) < 2:
            return (np.full(gained.shape[1], np.nan),) * 2
        counts = numpy_generator(0, "faithfulness").multinomial(len(total), np.full(len(total), 1 / len(total)), size=n)
        ratio = (counts @ gained) / (counts @ total)[:, None]
        low, high = np.quantile(ratio, [(1 - level) / 2, (1 + level) / 2], axis=0)
        return low, high

    def _table(self, places: tuple[np.ndarray, ...], table: xr.Dataset) -> "pd.DataFrame":
        import pandas as pd

        graph = self.graph
        columns: dict[str, Any] = {
            "source": [graph.sources[place] for place in places[0]], "destination": [graph.destinations[place] for place in places[1]],
            "score": table["mean"].values[places], "ci_lo": table["ci_lo"].values[places], "ci_hi": table["ci_hi"].values[places],
        }  # fmt: skip
        if "true" in self.data:
            columns["true"] = self.data["true"].mean("pair", skipna=False).values[places]
        return pd.DataFrame(columns)


def ranking(mean: np.ndarray, by: str) -> np.ndarray:
    """What edges are ranked by: the size of their mean score, or the mean itself."""
    one_of("by", by, ("magnitude", "signed"))
    return np.abs(mean) if by == "magnitude" else mean


def assemble(
    config: "EdgeAttribution",
    lm: "LM",
    graph: Graph,
    parts: "Sequence[EdgePart]",
    circuits: dict[str, list[np.ndarray]],
) -> EdgeResult:
    """The groups' numbers at the places of their pairs."""
    order = np.argsort([place for part in parts for place in part.group.index])

    def placed(values: Sequence[Any]) -> np.ndarray:
        return np.concatenate(list(values))[order]

    data: dict[str, Any] = {"score": (("pair", "source", "destination"), placed([part.score for part in parts]))}
    for name in ("clean", "corrupted"):
        data[name] = ("pair", placed([getattr(part, name) for part in parts]))
    if parts[0].true is not None:
        data["true"] = (("pair", "source", "destination"), placed([part.true for part in parts]))
        chosen = [np.broadcast_to(part.chosen, part.score.shape) for part in parts if part.chosen is not None]
        data["chosen"] = (("pair", "source", "destination"), placed(chosen))
    if circuits:
        data |= _circuit_data(
            config, circuits, {name: placed([part.metrics[name] for part in parts]) for name in circuits}
        )
    label = lm.tokenizer.label
    rows: list[tuple[Any, ...]] = []
    for group in (part.group for part in parts):
        for row, tokens in enumerate(group.tokens):
            words = [label(int(ids[row])) for ids in (group.answer, group.foil, group.predicted)]
            rows.append((tokens.id, group.known[row], *words))
    rows = [rows[place] for place in order]
    names = [row[0] for row in rows]
    coords: dict[str, Any] = {
        "pair": [f"{name}#{place}" if names.count(name) > 1 else name for place, name in enumerate(names)],
        "source": list(graph.sources), "destination": list(graph.destinations),
    }  # fmt: skip
    coords |= {
        name: ("pair", [row[place] for row in rows])
        for place, name in enumerate(("known", "answer", "foil", "predicted"), start=1)
    }
    if circuits:
        coords["size"] = list(config._sizes(graph))
    attrs = {
        "metric": config.metric, "method": config.method, "rule": config.rule, "steps": config.steps, "n_layers": graph.n_layers,
        "n_heads": graph.n_heads, "parallel": graph.parallel, "extraction": config.extraction, "by": config.by,
    }  # fmt: skip
    return EdgeResult(xr.Dataset(data, coords, attrs))


def _circuit_data(
    config: "EdgeAttribution", circuits: dict[str, list[np.ndarray]], metrics: dict[str, np.ndarray]
) -> dict[str, Any]:
    n = len(circuits["circuit"])
    data: dict[str, Any] = {
        "circuit": (("pair", "size"), metrics["circuit"]),
        "edges": ("size", [int(one.sum()) for one in circuits["circuit"]]),
        "member": (("size", "source", "destination"), np.stack(circuits["circuit"])),
        "empty": ("pair", metrics["floors"][:, 0]), "full": ("pair", metrics["floors"][:, 1]),
    }  # fmt: skip
    if "random" in circuits:
        data["random"] = (("pair", "size", "draw"), metrics["random"].reshape(-1, n, config.draws))
        counts = np.array([int(one.sum()) for one in circuits["random"]]).reshape(n, config.draws)
        data["random_edges"] = (("size", "draw"), counts)
    return data
