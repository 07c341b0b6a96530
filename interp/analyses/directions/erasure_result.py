"""What `ConceptErasure` gives: scores of fresh probes on erased texts, their nulls, the erasers, and what erasing cost."""

from typing import Any, ClassVar

import numpy as np
import xarray as xr

from interp.core.analysis import Result
from interp.core.errors import one_of
from interp.core.site import Site
from interp.core.stats import bootstrap_ci

from .crossval import Plan, auc_interval
from .erasers import Eraser
from .result import held_accuracy, held_auc


class ConceptErasureResult(Result):
    """What fresh probes still find, and what it cost. All texts are of the half that no eraser has seen.

    data:
        score     [eraser, site, probe, example]   held-out signed score of a probe on erased texts; positive means yes
        null_auc  [eraser, site, probe, shuffle]   AUC with shuffled labels
        gap       [eraser, half]                   distance of the class means at the first site after erasing, as a share of that before
        kl_texts, loss_texts [eraser, example], kl_neutral, loss_neutral [eraser, document]   nats a token
        left, right [eraser, stage, d, k], centre [eraser, stage, d]   x' = x - (x - centre) left right^T; NaN beyond width and rank
    coords: eraser (none, the methods, random subspaces), rank along eraser, site (where probed; the first is where it was erased), stage
    (where erased), probe (linear, nonlinear, transfer); label, fold, group, text along example. attrs: data, design, pool, widths,
    neutral (what those texts are), fitted_on (texts), bos, onwards, forward_difference (largest, between edited pass and map by hand, as
    a share of the largest state).
    """

    figure: ClassVar[str] = "erasure"
    main: ClassVar[str] = "score"
    effect: ClassVar[bool] = True

    @property
    def plan(self) -> Plan:
        """Labels, groups and folds of the texts."""
        data = self.data
        return Plan(data["label"].values.astype(bool), data["group"].values, data["fold"].values, ())

    @property
    def methods(self) -> tuple[str, ...]:
        """The erasers that are neither none nor random."""
        return tuple(
            str(name) for name in self.data["eraser"].values if name != "none" and not str(name).startswith("random")
        )

    def table(self, level: float = 0.95) -> xr.Dataset:
        """auc, ci_lo, ci_hi, accuracy, null_lo, null_hi and found (whether the AUC is above the shuffled labels') [eraser, site, probe].

        The band's upper end is that of a one-sided test at the level: with shuffled labels, 1 - level of the AUCs are above it.
        """
        data, plan = self.data, self.plan
        shape, dims = data["score"].shape[:3], ("eraser", "site", "probe")
        score = data["score"].values.reshape(-1, len(plan.yes))
        auc, accuracy = held_auc(score, plan).reshape(shape), held_accuracy(score, plan.yes).reshape(shape)
        low, high = (ends.reshape(shape) for ends in auc_interval(score, plan, level=level, n=1000))
        null_lo, null_hi = np.nanquantile(data["null_auc"].values, [1 - level, level], axis=-1)
        columns = {
            "auc": auc, "ci_lo": low, "ci_hi": high, "accuracy": accuracy, "null_lo": null_lo, "null_hi": null_hi, "found": auc > null_hi,
        }  # fmt: skip
        return xr.Dataset(
            {name: (dims, values) for name, values in columns.items()}, {dim: data[dim].values for dim in dims}
        )

    def costs(self, level: float = 0.95) -> xr.Dataset:
        """What erasing costs: kl_texts, kl_neutral (nats a token, each with _lo and _hi) and ppl_texts, ppl_neutral [eraser].

        The KL that random subspaces of the same rank give is in random_texts and random_neutral, their mean over draws.
        """
        data = self.data
        columns: dict[str, Any] = {}
        ranks = data["rank"].values
        drawn = np.array([str(name).startswith("random") for name in data["eraser"].values])
        for kind, dim in (("texts", "example"), ("neutral", "document")):
            clusters = self.plan.groups.tolist() if kind == "texts" else None
            mean, low, high = bootstrap_ci(data[f"kl_{kind}"], dim, level=level, clusters=clusters, name="erasure")
            loss = np.nanmean(data[f"loss_{kind}"].values, axis=-1)
            matched = [mean.values[drawn & (ranks == rank)] for rank in ranks]
            columns |= {
                f"kl_{kind}": mean.values,
                f"kl_{kind}_lo": low.values,
                f"kl_{kind}_hi": high.values,
                f"ppl_{kind}": np.exp(loss),
            }
            columns[f"random_{kind}"] = np.array([part.mean() if len(part) else np.nan for part in matched])
        return xr.Dataset(
            {name: ("eraser", values) for name, values in columns.items()}, {"eraser": data["eraser"].values}
        )

    def eraser(self, name: str, stage: "Site | str | None" = None) -> Eraser:
        """An eraser as it was applied, by name, at the first site or another `stage`."""
        one_of("eraser", name, [str(one) for one in self.data["eraser"].values if one != "none"])
        where = str(self.data["stage"].values[0]) if stage is None else Site.parse(stage).name
        one_of("stage", where, [str(one) for one in self.data["stage"].values])
        cell = self.data[["left", "right", "centre", "rank"]].sel(eraser=name, stage=where)
        width, rank = self.data.attrs["widths"][where], int(cell["rank"])
        left, right = (cell[side].values[:width, :rank] for side in ("left", "right"))
        return Eraser(left, left if np.array_equal(left, right) else right, cell["centre"].values[:width])

    def headline(self) -> dict[str, float]:
        """A linear probe's AUC at the site before, the lowest after, and what that cost."""
        first = self.data["score"].isel(site=0).sel(probe="linear")
        auc = dict(zip(map(str, first["eraser"].values), held_auc(first.values, self.plan), strict=True))
        best = min(self.methods, key=lambda name: abs(auc[name] - 0.5))
        return {
            "AUC before": float(auc["none"]),
            f"AUC after {best}": float(auc[best]),
            "KL, nats a token": float(self.data["kl_texts"].sel(eraser=best).mean()),
        }

    def report_lines(self) -> tuple[str, ...]:
        """A row an eraser: what is found at the site and at the last one, and the costs."""
        table, costs = self.table(), self.costs()
        places = list(dict.fromkeys([0, self.data.sizes["site"] - 1]))
        lines = [
            f"erased at {self.data['site'].values[0]}; * is above 95 % of shuffled labels, on texts that no eraser has seen"
        ]
        if not (table["found"].isel(site=0).sel(eraser="none", probe="linear")):
            lines.append(
                "Before erasing, a linear probe finds no more here than in shuffled labels: there is nothing to judge by."
            )
        lines.append(
            f"{'eraser':14}{'rank':>5}"
            + "".join(f"  {_short(str(table['site'].values[place])):>28}" for place in places)
            + "   KL texts (random)  KL neutral (random)"
        )
        lines.append(f"{'':19}" + "".join(f"  {'linear nonlin. transfer':>28}" for _ in places))
        for row, name in enumerate(table["eraser"].values):
            part = f"{name!s:14}{int(self.data['rank'].values[row]):5d}"
            for place in places:
                at = table.isel(eraser=row, site=place)
                marks = [
                    f"{auc:.2f}{'*' if found else ' '}"
                    for auc, found in zip(at["auc"].values, at["found"].values, strict=True)
                ]
                part += f"  {'  '.join(marks):>28}"
            cost = costs.isel(eraser=row)
            part += "".join(
                f"   {float(cost['kl_' + kind]):8.4f} ({float(cost['random_' + kind]):.4f})"
                for kind in ("texts", "neutral")
            )
            lines.append(part)
        plain = float(costs["ppl_neutral"].sel(eraser="none"))
        lines.append(f"neutral: {self.data.attrs.get('neutral', 'plain English')} (perplexity {plain:.3g} before)")
        return tuple(lines)

    def thumbnail(self) -> xr.DataArray | None:
        """A linear probe's AUC less 1/2, eraser by site."""
        part = self.data["score"].sel(probe="linear")
        values = held_auc(part.values.reshape(-1, part.sizes["example"]), self.plan).reshape(part.shape[:2]) - 0.5
        return xr.DataArray(values, dims=("eraser", "site"), name="AUC - 1/2")


def _short(site: str) -> str:
    return site.replace("blocks.", "").replace("hook_", "")
