"""What `ConceptDirections` gives: every text's held-out score, the nulls, the vectors; curves, p-values and cosines are methods."""

from typing import Any, ClassVar

import numpy as np
import torch
import xarray as xr

from interp.core.analysis import Result
from interp.core.errors import BadInput, one_of
from interp.core.site import Site
from interp.core.stats import holm

from .base import Direction
from .crossval import Plan, auc_interval, auc_parts


class ConceptDirectionsResult(Result):
    """Directions by site and method, and how well each tells held-out texts apart.

    data:
        score          [site, fit, example]   held-out signed score, in units of the spread within a class; positive means yes
        null_auc, null_accuracy [site, fit, shuffle]   held out, with shuffled labels (NaN beyond the refits of logistic)
        fitted_auc, fitted_null [site, fit]   AUC on the very rows of the fit, with the true and with shuffled labels
        vector         [site, fit, d]         fitted on all texts, in the site's units; NaN beyond the site's width
        bias, scale, strength [site, fit]     threshold, distance of the class means along the vector, penalty a row
        random_auc     [site, random]            held out, of random directions
        words_score    [example], words_null [word_shuffle]   of the bag of words
    coords: site (names), fit (the method), example; label, fold, group, text along example. attrs: data,
    design, pool, folds, heads, shapes, widths, rows (of the first training fold), alike (sites where nothing differs; vectors are 0).
    """

    figure: ClassVar[str] = "directions"
    main: ClassVar[str] = "score"
    effect: ClassVar[bool] = True

    @property
    def plan(self) -> Plan:
        """Labels, groups and folds of the texts."""
        data = self.data
        return Plan(data["label"].values.astype(bool), data["group"].values, data["fold"].values, ())

    def curves(self, level: float = 0.95) -> xr.Dataset:
        """All numbers of each site and method.

        auc with ci_lo, ci_hi; accuracy (mean of both classes' rates); null_lo, null_mean, null_hi of the AUC with shuffled labels;
        random_hi [site], the random directions' upper end; p and p_holm (corrected over sites); selectivity.
        """
        data, plan = self.data, self.plan
        score = data["score"].values.reshape(-1, len(plan.yes))
        shape, dims = data["score"].shape[:2], ("site", "fit")
        low, high = (ends.reshape(shape) for ends in auc_interval(score, plan, level=level))
        auc = held_auc(score, plan).reshape(shape)
        null = data["null_auc"].values
        tails = np.nanquantile(null, [(1 - level) / 2, (1 + level) / 2], axis=-1)
        p = _p_values(auc, null)
        accuracy = held_accuracy(score, plan.yes).reshape(shape)
        columns: dict[str, Any] = {
            "auc": auc, "ci_lo": low, "ci_hi": high, "accuracy": accuracy, "null_lo": tails[0], "null_mean": np.nanmean(null, axis=-1),
            "null_hi": tails[1], "p": p, "p_holm": np.stack([holm(column) for column in p.T], axis=1),
            "selectivity": accuracy - np.nanmean(data["null_accuracy"].values, axis=-1),
        }  # fmt: skip
        out: dict[str, Any] = {name: (dims, values) for name, values in columns.items()}
        out["random_hi"] = ("site", np.quantile(data["random_auc"].values, (1 + level) / 2, axis=-1))
        return xr.Dataset(out, {"site": data["site"].values, "fit": data["fit"].values})

    def words(self, level: float = 0.95) -> dict[str, float]:
        """The bag of words: auc, ci_lo, ci_hi, accuracy, p."""
        plan, score = self.plan, self.data["words_score"].values[None]
        low, high = auc_interval(score, plan, level=level)
        auc = held_auc(score, plan)
        p = _p_values(auc, self.data["words_null"].values[None])
        return {
            "auc": float(auc[0]), "ci_lo": float(low[0]), "ci_hi": float(high[0]), "accuracy": float(held_accuracy(score, plan.yes)[0]),
            "p": float(p[0]),
        }  # fmt: skip

    def direction(self, site: "Site | str", method: str) -> Direction:
        """The direction of all texts at a site."""
        name = Site.parse(site).name
        one_of("site", name, [str(one) for one in self.data["site"].values])
        one_of("method", method, [str(one) for one in self.data["fit"].values])
        cell = self.data[["vector", "bias", "scale", "strength"]].sel(site=name, fit=method)
        vector = torch.from_numpy(cell["vector"].values[: self.data.attrs["widths"][name]].copy())
        if not bool(vector.any()):
            raise BadInput(f"there is no {method} direction at {name}: the two classes have the same values there.")
        heads, strength = self.data.attrs["heads"], float(cell["strength"])
        return Direction(
            vector, float(cell["bias"]), float(cell["scale"]), method, Site.parse(site), tuple(self.data.attrs["shapes"][name]),
            tuple(heads) or None, None if np.isnan(strength) else strength,
        )  # fmt: skip

    def cosines(self, method: str) -> xr.DataArray:
        """Cosines between the directions of sites [site, other]; NaN between sites of different width, and where there is no direction."""
        names = [str(name) for name in self.data["site"].values]
        units = [self._unit(name, method) for name in names]
        table = [[float(a @ b) if len(a) == len(b) else np.nan for b in units] for a in units]
        return xr.DataArray(table, {"site": names, "other": names}, ("site", "other"), name="cosine")

    def agreement(self, site: "Site | str") -> xr.DataArray:
        """Cosines between the directions of methods at one site [fit, other]."""
        names = [str(name) for name in self.data["fit"].values]
        units = np.stack([self._unit(site, name) for name in names])
        return xr.DataArray(units @ units.T, {"fit": names, "other": names}, ("fit", "other"), name="cosine")

    def _unit(self, site: "Site | str", method: str) -> np.ndarray:
        """A direction at length 1; NaN where there is none."""
        name = Site.parse(site).name
        one_of("site", name, [str(one) for one in self.data["site"].values])
        one_of("method", method, [str(one) for one in self.data["fit"].values])
        vector = self.data["vector"].sel(site=name, fit=method).values[: self.data.attrs["widths"][name]]
        length = float(np.linalg.norm(vector))
        return np.asarray(vector / length) if length else np.full(len(vector), np.nan)

    def best(self) -> tuple[str, str]:
        """Site and method of the highest held-out AUC; the earliest of equals."""
        auc = held_auc(self.data["score"].values.reshape(-1, self.data.sizes["example"]), self.plan)
        place = int(np.argmax(np.round(auc, 9)))
        row, column = divmod(place, self.data.sizes["fit"])
        return str(self.data["site"].values[row]), str(self.data["fit"].values[column])

    def notes(self) -> tuple[str, ...]:
        """What a reader should know before believing the numbers."""
        wide = [name for name, width in self.data.attrs["widths"].items() if width > self.data.attrs["rows"]]
        told = []
        if alike := self.data.attrs.get("alike", []):
            told.append(
                f"No difference at {', '.join(alike)}: all texts, or the two of each pair, have the same values there (do they end in "
                "the same token?). AUC 0.5 by definition, and no direction."
            )
        told += self._floors()
        if wide:
            told.append(
                f"More features than rows ({max(self.data.attrs['widths'].values())} and {self.data.attrs['rows']}): a probe fits "
                f"shuffled labels with AUC {float(self.data['fitted_null'].max()):.2f} on its own rows. Only held-out numbers count."
            )
        site, method = self.best()
        auc = float(held_auc(self.data["score"].sel(site=site, fit=method).values[None], self.plan)[0])
        words = self.words()
        if auc <= float(np.nanquantile(self.data["null_auc"].sel(site=site, fit=method).values, 0.975)):
            told.append(f"Nothing is found: the best AUC, {auc:.2f}, is within what shuffled labels give.")
        elif max(words["ci_hi"], words["auc"] + 0.02) >= auc:
            told.append(
                f"A bag of words does about as well ({words['auc']:.2f} against {auc:.2f}): the words alone tell these texts apart."
            )
        return tuple(told)

    def _floors(self, level: float = 0.05) -> list[str]:
        """Methods whose corrected p-value cannot fall below the level, whatever is found."""
        draws = self.data["null_auc"].isel(site=0).notnull().sum("shuffle")
        sites = self.data.sizes["site"]
        return [
            f"{method}: with {n} shuffles and {sites} sites no p (Holm) can be below {min(1.0, sites / (n + 1)):.2g}. Take "
            f"{'refits' if method == 'logistic' else 'shuffles'}={int(np.ceil(sites / level))} or fewer sites to test it."
            for method, n in zip(map(str, draws["fit"].values), map(int, draws.values), strict=True)
            if sites / (n + 1) > level
        ]

    def headline(self) -> dict[str, float]:
        """The best held-out AUC, the bag of words', and what shuffled labels reach there."""
        site, method = self.best()
        at = self.data.sel(site=site, fit=method)
        return {
            f"AUC, {method} at {site}": float(held_auc(at["score"].values[None], self.plan)[0]),
            "bag of words": float(held_auc(self.data["words_score"].values[None], self.plan)[0]),
            "shuffled labels, upper end": float(np.nanquantile(at["null_auc"].values, 0.975)),
        }

    def report_lines(self) -> tuple[str, ...]:
        """A row a site and method, the bag of words, and the notes."""
        curves, words = self.curves(), self.words()
        lines = [f"{'site':32}{'method':10}{'AUC':>6}   95 %          shuffled      p (Holm)  accuracy"]
        for site in curves["site"].values:
            for method in curves["fit"].values:
                at = {
                    name: float(curves[name].sel(site=site, fit=method))
                    for name in curves.data_vars
                    if name != "random_hi"
                }
                lines.append(
                    f"{site:32}{method:10}{at['auc']:6.3f}   {at['ci_lo']:.3f}-{at['ci_hi']:.3f}   "
                    f"{at['null_lo']:.3f}-{at['null_hi']:.3f}   {at['p_holm']:8.3g}  {at['accuracy']:8.3f}"
                )
        lines.append(f"{'bag of words':32}{'ridge':10}{words['auc']:6.3f}   {words['ci_lo']:.3f}-{words['ci_hi']:.3f}")
        return (*lines, *self.notes())

    def thumbnail(self) -> xr.DataArray | None:
        """Held-out AUC less 1/2, site by method."""
        curves = held_auc(self.data["score"].values.reshape(-1, self.data.sizes["example"]), self.plan)
        values = curves.reshape(self.data["score"].shape[:2]).T - 0.5
        return xr.DataArray(values, dims=("fit", "site"), name="AUC - 1/2")


def held_auc(score: np.ndarray, plan: Plan) -> np.ndarray:
    """AUC [cell] of held-out scores [cell, row], rows compared within folds."""
    parts = [plan.folds == fold for fold in np.unique(plan.folds)]
    found = [auc_parts(score[:, rows], np.tile(plan.yes[rows], (len(score), 1))) for rows in parts]
    return np.asarray(sum(wins for wins, _ in found) / sum(pairs for _, pairs in found))


def held_accuracy(score: np.ndarray, yes: np.ndarray) -> np.ndarray:
    """Mean of both classes' rates [cell] of signed scores [cell, row]; a score of 0 counts a half."""
    right = (score > 0) + 0.5 * (score == 0)
    return np.asarray((right[:, yes].mean(axis=1) + 1 - right[:, ~yes].mean(axis=1)) / 2)


def _p_values(observed: np.ndarray, null: np.ndarray) -> np.ndarray:
    """Share of shuffles [..., shuffle] that reach what was observed [...], the observed one counted. NaN pads are no shuffles."""
    known = np.isfinite(null)
    if not known.any(axis=-1).all():
        raise BadInput("no shuffled label set left both classes in a fold. Give more texts.")
    return np.asarray((1 + (null >= observed[..., None] - 1e-12).sum(axis=-1)) / (1 + known.sum(axis=-1)))
