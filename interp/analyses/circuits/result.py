"""What discovery and evaluation give."""

from typing import TYPE_CHECKING, ClassVar

import numpy as np
import xarray as xr

from interp.core.analysis import Result
from interp.core.errors import BadInput, one_of
from interp.core.seed import numpy_generator
from interp.core.stats import bootstrap_ci

from ..readout import METRICS
from .circuit import Circuit
from .measures import correct

if TYPE_CHECKING:
    import pandas as pd

FLOOR = 1e-6
"""Logit differences that do not differ by more have no share."""


class DiscoveryResult(Result):
    """Path effects of every step, and what was chosen.

    data:
        effect     [pair, step, layer, head, metric]   clean - patched; NaN for steps whose readers were not found
        p          [step, layer, head]                 one-sided, Holm-corrected over the heads of the step
        chosen     [step, layer, head]                 bool
        edge_effect [edge, pair]                       effect of one chosen head through one reader alone, in attrs["metric"]
        clean, corrupted [pair, metric]
    coords: pair with known, answer, foil, predicted; step (group names) with role, reads, into; edge with source, target, listeners.
    attrs: circuit (JSON), metric, freeze, given (pairs that were brought; those used are `pair`), notes (why a step found nothing).
    """

    figure: ClassVar[str] = "circuits"
    main: ClassVar[str] = "effect"
    effect: ClassVar[bool] = True

    @property
    def circuit(self) -> Circuit:
        """What was found."""
        return Circuit.from_json(self.data.attrs["circuit"])

    def mean(self, metric: str | None = None, level: float = 0.95) -> xr.Dataset:
        """Mean effect of every head in every step with its interval: mean, ci_lo, ci_hi [step, layer, head]."""
        metric = metric or self.data.attrs["metric"]
        one_of("metric", metric, METRICS)
        found = bootstrap_ci(self.data["effect"].sel(metric=metric), axis="pair", level=level, name="circuit")
        return xr.Dataset(dict(zip(("mean", "ci_lo", "ci_hi"), found, strict=True)))

    def edges(self, level: float = 0.95) -> "pd.DataFrame":
        """Single paths between chosen heads: source, target, effect, ci_lo, ci_hi."""
        return edge_table(self.data, "pair", level)

    def headline(self) -> dict[str, float]:
        """How many heads were found and which; the behaviour that was looked for; the strongest single path."""
        metric = self.data.attrs["metric"]
        total = float((self.data["clean"] - self.data["corrupted"]).sel(metric=metric).mean())
        out = {f"heads: {self.circuit}": float(len(self.circuit)), f"{metric}, clean - corrupted": total}
        edges = self.edges()
        if len(edges):
            best = edges.iloc[int(edges["effect"].abs().to_numpy().argmax())]
            out[f"strongest path: {best.source} to {best.target} ({self.data.attrs['freeze']})"] = float(best.effect)
        return out

    def thumbnail(self) -> xr.DataArray | None:
        """The first step's map."""
        return self.data["effect"].sel(metric=self.data.attrs["metric"]).isel(step=0, drop=True).mean("pair")


class CircuitResult(Result):
    """A circuit, evaluated prompt by prompt.

    data:
        score [variant, prompt, measure]     measures prob, logprob, logit_diff, rank and top (1 where the answer is the top token, 1/n
                                             where n tokens share the top). Variants: model (nothing ablated), open (every head at the
                                             circuit's positions, means elsewhere), circuit, empty, random 0 ..., and minimal
        heads [variant]                      heads kept, -1 for all
        circuit_without, model_without [draw, prompt, measure]     F(C \\ K) and F(M \\ K)
        worth, keep, before, after, hidden [node]                  minimality, see `measures`; only where it was worked out
        edge_effect [edge, found]            single paths of the discovery, where the circuit was discovered
    coords: prompt with known, answer, foil, predicted; draw with draw_kind, draw_size; node with group; edge with source, target,
        listeners.
    attrs: circuit (JSON), accuracy (top or choice), chance (of the task; NaN where unknown), elsewhere, means, overlap (mean share of a
        random circuit's heads that are the circuit's own), discovered.
    """

    figure: ClassVar[str] = "circuits"
    main: ClassVar[str] = "score"

    @property
    def circuit(self) -> Circuit:
        """What was evaluated."""
        return Circuit.from_json(self.data.attrs["circuit"])

    @property
    def minimal(self) -> Circuit:
        """The circuit without the heads that it does not need."""
        if "keep" not in self.data:
            raise BadInput("minimality was not worked out. Run CircuitEvaluation(minimal=True).")
        return self.circuit.keep(
            node for node, yes in zip(self.circuit.nodes, self.data["keep"].values, strict=True) if yes
        )

    def accuracy(self, variant: str = "circuit") -> float:
        """Share of prompts that are right in one variant."""
        return float(self._right(variant).mean())

    def faithfulness(self, measure: str = "accuracy", *, level: float = 0.95) -> dict[str, float]:
        """How much of the model's behaviour the circuit has, with its floors and its ceiling, as shares of the model's.

        measure accuracy: F(C) / F(M). measure logit_diff: (LD(C) - LD(empty)) / (LD(M) - LD(empty)).
        Keys: value, ci_lo, ci_hi (bootstrap over prompts), empty, random (mean), random_max, open, minimal, model (the accuracy or logit
        difference itself), chance. Raises `BadInput` where the model has nothing to be faithful to.
        """
        one_of("measure", measure, ["accuracy", "logit_diff"])
        names = [str(name) for name in self.data["variant"].values]
        values = {
            name: self._right(name) if measure == "accuracy" else self._column(name, "logit_diff") for name in names
        }
        zero = np.zeros_like(values["model"]) if measure == "accuracy" else values["empty"]
        whole = float((values["model"] - zero).mean())
        if abs(whole) <= (0 if measure == "accuracy" else FLOOR):
            raise BadInput(
                f"the model's {measure} is {float(values['model'].mean()):.3g}, and {float(zero.mean()):.3g} without the circuit: there is "
                "nothing to be faithful to. Bring prompts that it answers."
            )
        share = {name: float((value - zero).mean()) / whole for name, value in values.items()}
        low, high = _ratio(values["circuit"] - zero, values["model"] - zero, level)
        drawn = [share[name] for name in names if name.startswith("random")]
        out = {
            "value": share["circuit"], "ci_lo": low, "ci_hi": high, "empty": share["empty"], "random": float(np.mean(drawn)),
            "random_max": float(max(drawn)), "open": share["open"], "model": float(values["model"].mean()),
            "chance": self.data.attrs["chance"],
        }  # fmt: skip
        return out | ({"minimal": share["minimal"]} if "minimal" in share else {})

    def completeness(self) -> "pd.DataFrame":
        """A row a draw K: draw, kind, removed, circuit = F(C \\ K), model = F(M \\ K), gap, and floor = |F(empty) - F(M \\ K)|.

        The floor is the gap of a circuit that does nothing: where the two are alike, a small gap says nothing.
        """
        import pandas as pd

        how, empty = self.data.attrs["accuracy"], self.accuracy("empty")
        inside, whole = (
            correct(self.data[name].values, how).mean(axis=1) for name in ("circuit_without", "model_without")
        )
        columns = {
            "draw": self.data["draw"].values, "kind": self.data["draw_kind"].values, "removed": self.data["draw_size"].values,
            "circuit": inside, "model": whole, "gap": np.abs(inside - whole), "floor": np.abs(empty - whole),
        }  # fmt: skip
        return pd.DataFrame(columns)

    def minimality(self) -> "pd.DataFrame":
        """A row a head: node, group, worth, keep, before = F(C \\ K), after = F(C \\ (K + v)), hidden (K)."""
        import pandas as pd

        self.minimal  # noqa: B018  (says what is missing)
        names = ("node", "group", "worth", "keep", "before", "after", "hidden")
        return pd.DataFrame({name: self.data[name].values for name in names})

    def table(self) -> "pd.DataFrame":
        """A row a variant: heads kept, accuracy (top and choice), mean probability and logit difference."""
        import pandas as pd

        rows = []
        for name in (str(name) for name in self.data["variant"].values):
            part = self.data["score"].sel(variant=name).values
            rows.append(
                {
                    "variant": name, "heads": int(self.data["heads"].sel(variant=name)), "top": float(correct(part, "top").mean()),
                    "choice": float(correct(part, "choice").mean()), "prob": float(self._column(name, "prob").mean()),
                    "logit_diff": float(self._column(name, "logit_diff").mean()),
                }
            )  # fmt: skip
        return pd.DataFrame(rows)

    def edges(self, level: float = 0.95) -> "pd.DataFrame":
        """Single paths of the discovery: source, target, effect, ci_lo, ci_hi; empty for a circuit that was given."""
        return edge_table(self.data, "found", level)

    def headline(self) -> dict[str, float]:
        """Faithfulness twice and the largest completeness gap, each with its floors; and the circuit."""
        out: dict[str, float] = {}
        for measure in ("accuracy", "logit_diff"):
            try:
                f = self.faithfulness(measure)
            except BadInput:
                out[f"faithfulness, {measure} (the model itself has none)"] = float("nan")
                continue
            chance = f"; task chance {f['chance']:.2g}" if measure == "accuracy" and np.isfinite(f["chance"]) else ""
            floors = (
                f"empty {f['empty']:.2g}, random {f['random']:.2g}, at most {f['random_max']:.2g}; open {f['open']:.2g}"
            )
            out[f"faithfulness, {measure} (model {f['model']:.3g}; {floors}{chance})"] = f["value"]
        gaps = self.completeness()
        if len(gaps):
            worst = gaps.iloc[int(gaps["gap"].to_numpy().argmax())]
            out[f"largest completeness gap, without {worst.draw} (empty circuit {worst.floor:.2g})"] = float(worst.gap)
        out[f"heads: {self.circuit}"] = float(len(self.circuit))
        if "keep" in self.data and len(self.minimal) < len(self.circuit):
            out[f"heads that are needed: {self.minimal}"] = float(len(self.minimal))
        return out

    def thumbnail(self) -> xr.DataArray | None:
        """Nothing: a handful of variants is no picture."""
        return None

    def _column(self, variant: str, measure: str) -> np.ndarray:
        return np.asarray(self.data["score"].sel(variant=variant, measure=measure).values)

    def _right(self, variant: str) -> np.ndarray:
        one_of("variant", variant, [str(name) for name in self.data["variant"].values])
        return correct(self.data["score"].sel(variant=variant).values, self.data.attrs["accuracy"])


def edge_table(data: xr.Dataset, dim: str, level: float) -> "pd.DataFrame":
    """Single paths, with intervals over the pairs along `dim`."""
    import pandas as pd

    names = ["source", "target", "effect", "ci_lo", "ci_hi"]
    if "edge_effect" not in data or not data.sizes["edge"]:
        return pd.DataFrame({name: [] for name in names})
    mean, low, high = bootstrap_ci(data["edge_effect"].transpose(dim, "edge").values, level=level, name="circuit")
    return pd.DataFrame(dict(zip(names, (data["source"].values, data["target"].values, mean, low, high), strict=True)))


def _ratio(part: np.ndarray, whole: np.ndarray, level: float, n: int = 2000) -> tuple[float, float]:
    """Percentile interval of mean(part) / mean(whole), both resampled together over prompts; NaN where the whole may vanish."""
    size = len(part)
    if size < 2:
        return float("nan"), float("nan")
    counts = numpy_generator(0, "faithfulness").multinomial(size, np.full(size, 1 / size), size=n)
    below = counts @ whole
    if (np.sign(below) != np.sign(whole.mean())).any():
        return float("nan"), float("nan")
    low, high = np.quantile((counts @ part) / below, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)
