"""What a sweep over facts, layers, problems and editors gives: every score, every effect, and the tables made of them."""

from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
import xarray as xr

from interp.core.analysis import Result
from interp.core.errors import BadInput, one_of
from interp.core.stats import bootstrap_ci, spearman

from .regression import Regression, regress

if TYPE_CHECKING:
    import pandas as pd

SCORES = ("rewrite", "paraphrase", "neighbourhood", "essence", "harmonic", "arithmetic", "kept")
EFFECTS = ("fraction", "hase", "effect")


class EditSweepResult(Result):
    """Scores and effects of every fact and layer.

    data:
        scores [problem, editor, fact, layer, score]   rewrite (or erase), paraphrase, neighbourhood, essence, harmonic, arithmetic, kept;
                                                       NaN where no request could be made of a fact
        before, after [problem, editor, fact, layer]   probability of the request's target
        effect [measure, how, fact, layer]             tracing effect of the MLP window around the layer: fraction, hase or effect; max over
                                                       tokens or last subject token; NaN where the total effect is nothing
        clean, total [fact]                            probability of the true answer, and what the noise takes of it
    coords: problem, editor, fact (ids), subject along fact, layer (centres), measure, how, score. attrs: n_layers, window (of tracing),
        min_prob, skipped (one line for each fact and problem that no request could be made of).

    The essence text is the model's own; scores are defined in `interp.analyses.editing.scores`.
    """

    figure: ClassVar[str] = "localization"
    main: ClassVar[str] = "scores"

    def by_layer(self, score: str = "rewrite", *, level: float = 0.95) -> xr.Dataset:
        """Mean score over facts with its interval, facts about one subject drawn together: mean, ci_lo, ci_hi [problem, editor, layer]."""
        values = self._score(score)
        clusters = [str(name) for name in self.data["subject"].values]
        mean, low, high = bootstrap_ci(values, "fact", level=level, clusters=clusters)
        return xr.Dataset({"mean": mean, "ci_lo": low, "ci_hi": high})

    def regression(
        self,
        problem: str,
        editor: str,
        *,
        score: str = "rewrite",
        effect: Literal["fraction", "hase", "effect"] = "fraction",
        how: Literal["max", "last subject"] = "max",
        last_layer: bool = True,
        min_prob: float | None = None,
        permutations: int = 1000,
        resamples: int = 1000,
    ) -> Regression:
        """The regression of one cell of the table; `last_layer=False` leaves the model's last layer out.

        Facts whose answer has a probability below `min_prob` (the sweep's own by default) are left out. Raises `BadInput` where too
        few are left.
        """
        one_of("problem", problem, [str(name) for name in self.data["problem"].values])
        one_of("editor", editor, [str(name) for name in self.data["editor"].values])
        one_of("effect", effect, EFFECTS)
        one_of("how", how, [str(name) for name in self.data["how"].values])
        known = self.data["clean"].values >= (self.data.attrs["min_prob"] if min_prob is None else min_prob)
        keep = np.ones(self.data.sizes["layer"], dtype=bool)
        if not last_layer:
            keep = self.data["layer"].values < self.data.attrs["n_layers"] - 1
        scores = (
            self._score(score).sel(problem=problem, editor=editor).transpose("fact", "layer").values[known][:, keep]
        )
        effects = self.data["effect"].sel(measure=effect, how=how).transpose("fact", "layer").values[known][:, keep]
        return regress(scores, effects, permutations=permutations, resamples=resamples)

    def table(
        self, *, score: str = "rewrite", permutations: int = 1000, resamples: int = 1000, **options: Any
    ) -> "pd.DataFrame":
        """The paper's table: a row for each problem and editor, with and without the last layer; the null gain stands first.

        `options` are those of `regression`. Cells that cannot be regressed say why in the column `note`.
        """
        import pandas as pd

        rows = []
        for problem in self.data["problem"].values.tolist():
            for editor in self.data["editor"].values.tolist():
                for last in (True, False):
                    row: dict[str, Any] = {"problem": problem, "editor": editor, "last layer": last}
                    try:
                        found = self.regression(
                            problem,
                            editor,
                            score=score,
                            last_layer=last,
                            permutations=permutations,
                            resamples=resamples,
                            **options,
                        )
                        row |= {
                            "null": found.null, "null ratio": found.null_ratio, "layer": found.layer, "tracing": found.tracing,
                            "both": found.both, "diff": found.diff, "gain": found.gain, "gain low": found.gain_low,
                            "gain high": found.gain_high,
                            "F": found.f, "p": found.p, "p by facts": found.p_facts, "facts": found.n_facts, "note": "",
                        }  # fmt: skip
                    except BadInput as error:
                        row["note"] = str(error)
                    rows.append(row)
        return pd.DataFrame(rows)

    def correlations(self, score: str = "rewrite", *, effect: str = "fraction", how: str = "max") -> xr.DataArray:
        """Spearman's rho between effect and score over facts, layer by layer, [problem, editor, layer]; NaN where either is constant."""
        one_of("effect", effect, EFFECTS)
        scores, effects = self._score(score), self.data["effect"].sel(measure=effect, how=how)
        out = xr.full_like(scores.isel(fact=0, drop=True), np.nan)
        for place in np.ndindex(*out.shape):
            at = dict(zip(out.dims, place, strict=True))
            y = scores.isel({dim: at[dim] for dim in at}).values
            x = effects.isel(layer=at["layer"]).values
            both = np.isfinite(x) & np.isfinite(y)
            if both.sum() >= 4 and np.ptp(x[both]) > 0 and np.ptp(y[both]) > 0:
                out[at] = spearman(x[both], y[both]).rho
        return out.rename("rho")

    def best_layer(
        self, score: str = "rewrite", *, top: int = 1, effect: str = "fraction", how: str = "max"
    ) -> xr.Dataset:
        """How often a fact's best layer to edit is among its `top` traced ones: share [problem, editor], chance, and facts counted.

        Facts with several best layers (within 1e-6), none worth naming, are left out of the count.
        """
        layers = self.data.sizes["layer"]
        if not 1 <= top <= layers:
            raise BadInput(f"`top` must lie between 1 and the {layers} layers that were edited; not {top}.")
        scores = self._score(score).transpose("problem", "editor", "fact", "layer").values
        effects = self.data["effect"].sel(measure=effect, how=how).transpose("fact", "layer").values
        order = np.argsort(-effects, axis=-1)[:, :top]  # [fact, top]
        best = scores.argmax(axis=-1)  # [problem, editor, fact]
        sure = (np.sort(scores, axis=-1)[..., -1] - np.sort(scores, axis=-1)[..., -2] > 1e-6) & np.isfinite(
            effects
        ).all(axis=-1)
        hit = (best[..., None] == order).any(axis=-1) & sure
        counted = sure.sum(axis=-1)
        share = np.divide(hit.sum(axis=-1), counted, out=np.full(counted.shape, np.nan), where=counted > 0)
        dims = ("problem", "editor")
        coords = {name: self.data[name] for name in dims}
        return xr.Dataset({"share": (dims, share), "facts": (dims, counted)}, coords, {"chance": top / layers})

    def headline(self) -> dict[str, float]:
        """Null gain, gain of tracing, and R2 of the layer, for the first problem and editor."""
        problem, editor = (str(self.data[name].values[0]) for name in ("problem", "editor"))
        try:
            found = self.regression(problem, editor, permutations=1, resamples=1)
        except BadInput:
            return {"facts": float(self.data.sizes["fact"]), "mean score": float(self._score("rewrite").mean())}
        return {"null gain": found.null, f"gain of tracing ({editor})": found.diff, "R2 of the layer": found.layer}

    def report_lines(self) -> tuple[str, ...]:
        """The paper's table, null gain first, and what could not be asked for or regressed."""
        table = self.table(permutations=500, resamples=500)
        notes = [
            f"{row.problem}, {row.editor}, {'with' if row['last layer'] else 'without'} the last layer: {row.note}"
            for _, row in table[table["note"] != ""].iterrows()
        ]
        lines: list[str] = []
        if "null" in table:
            shown = table[table["note"] == ""].drop(columns="note")
            shown["last layer"] = shown["last layer"].map({True: "in", False: "out"})
            shown["facts"] = shown["facts"].astype(int)
            lines = shown.to_string(index=False, float_format=lambda value: f"{value:.3g}").splitlines()
        return (*lines, *notes, *(f"left out: {line}" for line in self.data.attrs["skipped"]))

    def thumbnail(self) -> xr.DataArray | None:
        """Mean rewrite scores of the first problem, editors by layers."""
        return self._score("rewrite").isel(problem=0).mean("fact").transpose("editor", "layer")

    def _score(self, score: str) -> xr.DataArray:
        one_of("score", score, SCORES)
        return self.data["scores"].sel(score=score, drop=True)
