"""What `LatentClassification` gives: held-out scores of every text, nulls, deciding latents; tables and comparisons are methods."""

from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import xarray as xr

from interp.core.analysis import Result
from interp.core.errors import one_of
from interp.core.stats import percentile_limits

from ...directions.crossval import Plan
from .measures import MEASURES, intervals, measured, resample

if TYPE_CHECKING:
    import pandas as pd


class LatentClassificationResult(Result):
    """How well feature sets tell held-out texts apart.

    data:
        score    [feature, probe, example]             held out; positive means yes
        null     [measure, feature, probe, shuffle]    f1, accuracy and auc with shuffled labels
        strength [feature, probe]                      median over folds of the penalty a row (NaN: trees have none)
        latent, weight, on_yes, on_no, fires [decided, probe, rank]   deciding latents of the probe on all texts: number (-1: none), weight
                 (logistic: change in log-odds by one standard deviation; trees: importance), share of yes and no texts in which the
                 feature is not 0, and the tokens that have most of the latent's codes
    coords: feature, family (latents, hidden, words, none) and width (features that occur) along it; probe; measure; decided (the
    sets of latents); label, fold, group, length (pooled tokens), text along example. attrs: data, design, folds,
    loose (fits that did not converge), skip_first, latents, dictionary, on (latents a token).
    """

    figure: ClassVar[str] = "classification"
    main: ClassVar[str] = "score"
    effect: ClassVar[bool] = True

    @property
    def plan(self) -> Plan:
        """Labels, groups and folds of the texts."""
        data = self.data
        return Plan(data["label"].values.astype(bool), data["group"].values, data["fold"].values, ())

    def measures(self, level: float = 0.95) -> xr.Dataset:
        """Macro F1, accuracy and AUC [measure, feature, probe].

        value with low, high; null_low, null_mean, null_high of shuffled labels; p of a set by itself, and p_best, where the best set
        and probe of each shuffle is what must be reached.
        """
        data, plan = self.data, self.plan
        shape = data["score"].shape[:2]
        score = data["score"].values.reshape(-1, len(plan.yes))
        value = measured(score, np.tile(plan.yes, (len(score), 1)), plan.folds).reshape(3, *shape)
        limits = intervals(score, plan, level=level).reshape(3, 2, *shape)
        null = data["null"].values
        tails = np.quantile(null, [(1 - level) / 2, (1 + level) / 2], axis=-1)
        real = data["family"].values != "none"
        best = null[:, real].max(axis=(1, 2))[:, None, None]  # [measure, 1, 1, shuffle]
        n = null.shape[-1] + 1
        columns = {
            "value": value, "low": limits[:, 0], "high": limits[:, 1], "null_low": tails[0], "null_mean": null.mean(axis=-1),
            "null_high": tails[1], "p": (1 + (null >= value[..., None] - 1e-12).sum(axis=-1)) / n,
            "p_best": (1 + (best >= value[..., None] - 1e-12).sum(axis=-1)) / n,
        }  # fmt: skip
        dims = ("measure", "feature", "probe")
        coords = {name: data[name] for name in (*dims, "family", "width")}
        return xr.Dataset({name: (dims, values) for name, values in columns.items()}, coords)

    def table(self, measure: str = "f1", level: float = 0.95) -> "pd.DataFrame":
        """A row a feature set and probe, the best first within its family; the other measures are columns."""
        import pandas as pd

        one_of("measure", measure, MEASURES)
        found = self.measures(level)
        rows = []
        for feature in map(str, found["feature"].values):
            for probe in map(str, found["probe"].values):
                at = found.sel(feature=feature, probe=probe)
                row: dict[str, Any] = {"feature": feature, "family": str(at["family"].item()), "probe": probe}
                row |= {name: float(at["value"].sel(measure=name)) for name in MEASURES}
                row |= {
                    name: float(at[name].sel(measure=measure)) for name in ("low", "high", "null_high", "p", "p_best")
                }
                rows.append(row | {"width": int(at["width"])})
        order = {"latents": 0, "hidden": 1, "words": 2, "none": 3}
        frame = pd.DataFrame(rows)
        return frame.sort_values(
            by=["family", measure], key=lambda column: column.map(order) if column.name == "family" else -column, kind="stable"
        ).reset_index(drop=True)  # fmt: skip

    def deciders(self, feature: str, probe: str = "logistic") -> "pd.DataFrame":
        """Latents with the largest weights of a set: latent, weight, on_yes, on_no, fires. `feature` with or without `latents `."""
        import pandas as pd

        name = feature if feature.startswith("latents ") else f"latents {feature}"
        one_of("feature", name, [str(one) for one in self.data["decided"].values])
        one_of("probe", probe, [str(one) for one in self.data["probe"].values])
        at = self.data.sel(decided=name, probe=probe)
        kept = at["latent"].values >= 0
        columns = ("latent", "weight", "on_yes", "on_no", "fires")
        return pd.DataFrame({column: at[column].values[kept] for column in columns})

    def difference(
        self, first: str, second: str, *, probe: str = "logistic", other: str | None = None, level: float = 0.95
    ) -> dict[str, float]:
        """Macro F1 of `first` less that of `second` (with `other` as its probe): f1, low, high, on the same groups drawn anew."""
        for name in (first, second):
            one_of("feature", name, [str(one) for one in self.data["feature"].values])
        for name in (probe, other or probe):
            one_of("probe", name, [str(one) for one in self.data["probe"].values])
        plan, score = self.plan, self.data["score"]
        a, b = (score.sel(feature=f, probe=p).values for f, p in ((first, probe), (second, other or probe)))
        gap = float(np.subtract(*measured(np.stack([a, b]), np.stack([plan.yes] * 2), plan.folds)[0]))
        drawn = (resample(a, plan)[0] - resample(b, plan)[0])[:, None]
        low, high = percentile_limits(drawn, int(plan.groups.max()) + 1, level=level)
        return {"f1": gap, "low": float(low[0]), "high": float(high[0])}

    def best(self, family: str = "latents", measure: str = "f1") -> tuple[str, str]:
        """Feature set and probe of a family with the highest value; the first of equals."""
        one_of("family", family, sorted(set(map(str, self.data["family"].values))))
        one_of("measure", measure, MEASURES)
        data, plan = self.data, self.plan
        part = data["score"].isel(feature=np.flatnonzero(data["family"].values == family))
        score = part.values.reshape(-1, len(plan.yes))
        value = measured(score, np.tile(plan.yes, (len(score), 1)), plan.folds)[MEASURES.index(measure)]
        row, column = divmod(int(np.argmax(np.round(value, 9))), part.sizes["probe"])
        return str(part["feature"].values[row]), str(part["probe"].values[column])

    def notes(self) -> tuple[str, ...]:
        """What a reader should know before believing the numbers."""
        told, found = [], self.measures().sel(measure="f1")
        name, probe = self.best()
        at = found.sel(feature=name, probe=probe)
        if float(at["p_best"]) > 0.05:
            told.append(
                f"The latents say nothing beyond chance: the best, {name} ({probe}), has macro F1 {float(at['value']):.2f}, "
                f"p = {float(at['p_best']):.2g} over all sets."
            )
        for family, what in (("hidden", "hidden states"), ("words", "a bag of words")):
            if family not in self.data["family"].values:
                continue
            other, way = self.best(family)
            gap = self.difference(name, other, probe=probe, other=way)
            verdict = "win over" if gap["low"] > 0 else "lose to" if gap["high"] < 0 else "are not told apart from"
            told.append(
                f"Latents {verdict} {what}: {name} ({probe}) less {other} ({way}) is {gap['f1']:+.3f} macro F1 "
                f"[{gap['low']:+.3f}, {gap['high']:+.3f}], each the best of its family."
            )
        floor = 1 / (self.data.sizes["shuffle"] + 1)
        if floor > 0.05:
            told.append(
                f"With {self.data.sizes['shuffle']} shuffles no p can be below {floor:.2g}. Take shuffles=19 or more."
            )
        if self.data.attrs["loose"]:
            told.append(f"{self.data.attrs['loose']:,} logistic fits did not converge. Take larger `strengths`.")
        if empty := [
            str(one) for one in self.data["feature"].values[(self.data["width"].values == 0)] if one != "larger class"
        ]:
            told.append(f"No feature is ever on in {', '.join(empty)}: the threshold is above all pooled codes.")
        return tuple(told)

    def headline(self) -> dict[str, float]:
        """Macro F1 of the best latents, the best hidden states and the best words."""
        found = self.measures().sel(measure="f1")["value"]
        out: dict[str, float] = {}
        for family in ("latents", "hidden", "words", "none"):
            if family in self.data["family"].values and len(out) < 3:
                name, probe = self.best(family)
                label = name if family == "none" else f"{name}, {probe}"
                out[f"macro F1, {label}"] = float(found.sel(feature=name, probe=probe))
        return out

    def report_lines(self) -> tuple[str, ...]:
        """A row a feature set and probe, the deciding latents of the best set, and the notes."""
        lines = [
            f"{'features':24}{'probe':10}{'F1':>6}  95 %           shuffled <   p      p best  accuracy    AUC  occur"
        ]
        for row in self.table().itertuples():
            lines.append(
                f"{row.feature:24}{row.probe:10}{row.f1:6.3f}  {row.low:.3f}-{row.high:.3f}   {row.null_high:8.3f}  {row.p:6.3f}"
                f"  {row.p_best:6.3f}    {row.accuracy:6.3f}  {row.auc:5.3f}  {row.width:5,}"
            )
        name, probe = self.best()
        lines.append(f"deciding latents of {name} ({probe}), weight, share of yes and of no texts that have it, tokens")
        for row in self.deciders(name, probe).itertuples():
            lines.append(f"  {row.latent:6}  {row.weight:+7.3f}  {row.on_yes:4.0%} {row.on_no:4.0%}  {row.fires}")
        return (*lines, *self.notes())

    def thumbnail(self) -> xr.DataArray | None:
        """Macro F1 less 1/2, probe by feature."""
        plan, score = self.plan, self.data["score"].values
        flat = score.reshape(-1, len(plan.yes))
        value = measured(flat, np.tile(plan.yes, (len(flat), 1)), plan.folds)[0].reshape(score.shape[:2])
        return xr.DataArray(value.T - 0.5, dims=("probe", "feature"), name="F1 - 1/2")
