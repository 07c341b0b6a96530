"""What an evaluation gives: sums a document, numbers a view, a latent and a replacement, and what is read off them."""

from typing import ClassVar, Literal

import numpy as np
import xarray as xr

from interp.analyses.streams import clusters_of
from interp.core.analysis import Result
from interp.core.errors import BadInput, one_of

from .ratios import ratio_ci

Metric = Literal["ce", "kl"]
Baseline = Literal["zero", "mean"]
METRICS, BASELINES = ("ce", "kl"), ("zero", "mean")
DENSE = 0.1
"""Share of tokens above which a latent is called dense."""
SMALLEST = 1e-6
"""Nats a prediction that an ablation has to change, so that something can be recovered of it."""


class DictionaryEvaluationResult(Result):
    """How well a dictionary reconstructs, and what the model loses by it.

    data (dims document, view, latent, replacement, condition, part):
        error, total   [document, view]                    squared error, and squared distance from the mean, summed over evaluated tokens
        on, tokens     [document]                          latents that were on, and evaluated tokens
        ce             [document, replacement, condition]     mean loss, nats a prediction; conditions clean, dictionary, zero, mean
        kl             [document, replacement, condition]     mean KL(clean || condition), nats a prediction
        predictions    [document]                          how many predictions
        mse, fvu_legacy, fvu_all, cosine, norm_ratio, slope    [view]    see the essay
        part_tokens    [part], part_error, part_energy [part, view]        tokens, squared error and squared norm of each kind of token
        fires, mean_code, largest_code [latent]            tokens on which it was on; its mean code there; its largest code
        decoder_norm   [latent, view]                      in normalised space; NaN for a latent that does not write the view
    coords: document, text along document, view, site and view_model along view, replacement, model along replacement, condition, part.
    attrs: tokens, k, activation, together ("live", "clean" or ""), skip, massive, family, dictionary (its hash), trained_on
        (share of the documents that are among those it was trained or tested on, -1 where that is not known).
    """

    figure: ClassVar[str] = "dictionary_evaluation"
    main: ClassVar[str] = "ce"

    def fvu(self, level: float = 0.95) -> xr.Dataset:
        """Fraction of variance unexplained [view]: squared error over squared distance from the mean, of all evaluated tokens together."""
        found = ratio_ci(
            self.data["error"].values, self.data["total"].values, clusters=self._clusters(), level=level, name="fvu"
        )
        return _table(found, "view", self.data["view"].values)

    def l0(self, level: float = 0.95) -> dict[str, float]:
        """Latents that are on at a token (at the threshold of inference), with its interval."""
        found = ratio_ci(
            self.data["on"].values[:, None], self.data["tokens"].values[:, None].astype(float),
            clusters=self._clusters(), level=level, name="l0",
        )  # fmt: skip
        return {"l0": float(found.estimate[0]), "ci_lo": float(found.low[0]), "ci_hi": float(found.high[0])}

    def recovered(self, metric: Metric = "ce", baseline: Baseline = "zero", level: float = 0.95) -> xr.Dataset:
        """Share of what an ablation costs that the reconstruction brings back [replacement]; 1: nothing is lost, 0: no better than it.

        (M(ablated) - M(dictionary)) / (M(ablated) - M(clean)), means over all predictions; of KL, M(clean) is 0. NaN where the ablation
        changes the metric by less than a millionth of a nat: nothing can be recovered then.
        """
        one_of("metric", metric, METRICS)
        one_of("baseline", baseline, BASELINES)
        weight = self.data["predictions"].values[:, None]
        clean, dictionary, ablated = (
            self.data[metric].sel(condition=name).values * weight for name in ("clean", "dictionary", baseline)
        )
        found = ratio_ci(
            ablated - dictionary, ablated - clean, clusters=self._clusters(), level=level, name=f"{metric} {baseline}"
        )
        table = _table(found, "replacement", self.data["replacement"].values)
        return table.where(np.abs(self.cost(metric, baseline)) >= SMALLEST)

    def cost(self, metric: Metric = "ce", condition: str = "zero") -> xr.DataArray:
        """What a condition costs over the clean model, nats a prediction [replacement]."""
        apart = self.data[metric].sel(condition=condition) - self.data[metric].sel(condition="clean")
        weight = self.data["predictions"].where(apart.notnull().all("replacement"), 0)
        cost: xr.DataArray = (apart.fillna(0.0) * weight).sum("document") / weight.sum("document").clip(min=1)
        return cost.drop_vars("condition", errors="ignore")

    def losses(self) -> xr.DataArray:
        """Mean loss under every condition, nats a prediction [replacement, condition]."""
        weight = self.data["predictions"]
        mean: xr.DataArray = (self.data["ce"].fillna(0.0) * weight).sum("document") / weight.sum("document").clip(min=1)
        return mean

    def density(self) -> xr.DataArray:
        """Share of evaluated tokens on which each latent is on, [latent]."""
        return self.data["fires"] / float(self.data["tokens"].sum())

    def dead(self) -> int:
        """Latents that were never on; on few tokens, most of them may only be rare."""
        return int((self.data["fires"] == 0).sum())

    def dense(self, above: float = DENSE) -> float:
        """Share of all latents that are on at more than so many of the tokens."""
        if not 0 <= above < 1:
            raise BadInput(f"`above` is a share of the tokens, at least 0 and below 1; not {above}.")
        return float((self.density() > above).mean())

    def headline(self) -> dict[str, float]:
        """Variance unexplained, latents on at a token, and loss recovered against zero-ablation; of several views the worst."""
        fvu = self.fvu()["mean"]
        view = fvu.isel(view=int(np.nanargmax(fvu.values))) if np.isfinite(fvu.values).any() else fvu.isel(view=0)
        share = self.recovered()["mean"]
        place = int(np.nanargmin(share.values)) if np.isfinite(share.values).any() else 0
        several, replaced = self.data.sizes["view"] > 1, self.data.sizes["replacement"] > 1
        return {
            "FVU" + (f", {view['view'].item()}" if several else ""): float(view),
            "L0": self.l0()["l0"],
            "loss recovered" + (f", {share['replacement'].values[place]}" if replaced else ""): float(
                share.values[place]
            ),
        }

    def report_lines(self) -> tuple[str, ...]:
        """Views, replacements, latents and tokens, a line each."""
        from .lines import lines

        return lines(self)

    def thumbnail(self) -> xr.DataArray | None:
        """Mean loss under every condition."""
        return self.losses()

    def _clusters(self) -> list[int] | None:
        return clusters_of(self.data)


def _table(found: tuple[np.ndarray, np.ndarray, np.ndarray], dim: str, names: np.ndarray) -> xr.Dataset:
    columns = dict(zip(("mean", "ci_lo", "ci_hi"), found, strict=True))
    return xr.Dataset({name: (dim, np.asarray(values)) for name, values in columns.items()}, coords={dim: names})
