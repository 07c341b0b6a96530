"""What a trace gives: every prompt's whole map, and the averages over them."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

import numpy as np
import xarray as xr

from interp.core.analysis import Result
from interp.core.errors import BadInput, listing, one_of
from interp.core.stats import bootstrap_ci
from interp.data.roles import ROLES

from .averages import Correction, average, tested, windows

DIRECTIONS = ("denoise", "noise")
Measure = Literal["fraction", "hase", "effect"]
NOBODY = {"n": 0, "n_tokens": 0, "prompts": 0}
"""Counts where a label has no prompt; what would be averaged is NaN there."""


class TraceResult(Result):
    """Scores of every cell of every prompt.

    data (dims prompt, kind, pos, layer, metric; ragged prompts are padded with NaN and "" along pos):
        score       [prompt, kind, pos, layer, metric]   score with this cell put in, mean over the draws; for mlp and attn, layer is the
                                                         window's centre. With two directions, a first axis direction
        control     as score, with random matched values put in (NaN where none was tried); only with controls
        low, high   [prompt, metric]                     corrupted (mean over the draws) and clean score
        role, token [prompt, pos]                        strings; roles are those of `interp.data.roles.ROLES`
        n_pos       [prompt]                             tokens of the prompt
        score_noise [prompt, kind, pos, layer, metric, noise], low_noise [prompt, metric, noise]     only with keep_noise_rows
    coords: direction (denoise, noise), prompt (ids), kind, pos (0...), layer (0...), metric (prob, logprob, logit_diff, rank); and along
        prompt known (bool: the clean run's top token is the answer), answer, foil, predicted (token labels), foil_given (bool; else the
        best wrong token), answer_tokens (scored), subject.
    attrs: sigma (NaN without noise), noise, window, window_rule, corruption, noise_samples, answers, and the two self-checks
        resume_difference (in a logit, between one resumed cell and a whole forward pass) and restored_difference (in nats, between
        full restoration and the clean run).

    Averages are over *known* prompts unless told otherwise (`known=False`), and every method that averages says how many. Intervals and
    tests resample whole subjects (`clusters=None`: prompts). `direction` is the first of the result's own where it is not given.
    Effects of `rank` have the other sign. `logit_diff` is NaN for answers of several tokens, and what would average it is refused.
    """

    figure: ClassVar[str] = "tracing"
    main: ClassVar[str] = "score"
    effect: ClassVar[bool] = True

    @property
    def n_known(self) -> int:
        """Prompts whose answer the model gives in the clean run."""
        return int(self.data["known"].values.sum())

    @property
    def directions(self) -> tuple[str, ...]:
        """Which of denoising and noising this result holds."""
        found = self.data.coords.get("direction")
        return ("denoise",) if found is None else tuple(str(name) for name in np.atleast_1d(found.values))

    def effects(self, direction: str | None = None) -> xr.DataArray:
        """Indirect effect of each cell, all prompts [prompt, kind, pos, layer, metric]. Never clipped.

        Denoising: score - low, what the cell brings back. Noising: high - score, what breaking the cell takes away.
        """
        return self._effects(self.data, "score", direction)

    def control_effects(self, direction: str | None = None) -> xr.DataArray:
        """The same with another prompt's value in each cell [prompt, kind, pos, layer, metric]; NaN at roles without control."""
        if "control" not in self.data:
            raise BadInput("this trace has no random matched controls. Run CausalTrace(controls=5).")
        return self._effects(self.data, "control", direction)

    def normalised(
        self,
        metric: str = "logit_diff",
        *,
        known: bool = True,
        tolerance: float = 1e-3,
        drop: bool = False,
        direction: str | None = None,
    ) -> xr.DataArray:
        """Effects as a share of the total effect, [prompt, kind, pos, layer]: 1 is all of it; below 0 and above 1 are legal.

        Raises `BadInput` where a prompt's total effect is not larger than `tolerance`, since the share is then noise; `drop=True`
        leaves such prompts out instead.
        """
        part = self._select(known, metric).sel(metric=metric)
        total = part["high"] - part["low"]
        keep = _strong(total.values, metric, tolerance, drop)
        part, total = part.isel(prompt=keep), total.isel(prompt=keep)
        share = self._effects(part, "score", direction) / total
        return share.rename("share").transpose("prompt", "kind", "pos", "layer")

    def fraction_restored(
        self,
        metric: str = "prob",
        *,
        denominator: Literal["total", "hase"] = "total",
        tolerance: float = 1e-3,
        drop: bool = False,
    ) -> xr.DataArray:
        """Share of what the corruption took away that each cell gives back, all prompts [prompt, kind, pos, layer]. Denoising only.

        `total` divides by the total effect, unclipped (`normalised`). `hase` is what the code of Hase et al. 2023 computes:
        `max(0, (score - low) / |low - max(high, largest score of the kind)|)`, so no share can leave 0 to 1. Prompts whose
        denominator is at most `tolerance` are refused with `BadInput`; `drop=True` leaves them out.
        """
        one_of("denominator", denominator, ("total", "hase"))
        if denominator == "total":
            return self.normalised(metric, known=False, tolerance=tolerance, drop=drop, direction="denoise")
        part = self._select(False, metric).sel(metric=metric)
        effect = self._effects(part, "score", "denoise")
        best = effect.max(("pos", "layer"))  # [prompt, kind]
        size = np.abs(xr.where(best > part["high"] - part["low"], best, part["high"] - part["low"]))
        keep = _strong(size.transpose("prompt", "kind").values.min(axis=1), metric, tolerance, drop)
        share = (effect / size).isel(prompt=keep).clip(min=0.0)
        return share.rename("share").transpose("prompt", "kind", "pos", "layer")

    def layer_effects(
        self,
        kind: str = "mlp",
        how: Literal["max", "last subject"] = "max",
        *,
        metric: str = "prob",
        measure: Measure = "fraction",
        tolerance: float = 1e-3,
        drop: bool = False,
    ) -> xr.DataArray:
        """One number a prompt and layer, all prompts [prompt, layer]: what Hase et al. 2023 regress edit scores on.

        `how` takes the largest value over the positions from the subject on, or that of the last subject token. `measure` is
        `fraction_restored` with the honest or with their denominator, or the plain effect. For windowed kinds, layer is the centre.
        """
        one_of("kind", kind, [str(name) for name in self.data["kind"].values])
        one_of("how", how, ("max", "last subject"))
        one_of("measure", measure, ("fraction", "hase", "effect"))
        if measure == "effect":
            values = self._effects(self._select(False, metric).sel(metric=metric), "score", "denoise")
        else:
            denominator: Literal["total", "hase"] = "hase" if measure == "hase" else "total"
            values = self.fraction_restored(metric, denominator=denominator, tolerance=tolerance, drop=drop)
        role = self.data["role"].sel(prompt=values["prompt"].values)
        chosen = role == "last subject" if how == "last subject" else ~role.isin(["", "bos", "before"])
        found = values.sel(kind=kind).where(chosen).max("pos").rename("effect").transpose("prompt", "layer")
        return found.assign_attrs(kind=kind, how=how, measure=measure)

    def total_effect(
        self, metric: str = "prob", *, known: bool = True, level: float = 0.95, clusters: str | None = "subject"
    ) -> dict[str, float]:
        """Mean clean and corrupted score, their difference with its bootstrap interval, and the number of prompts."""
        part = self._select(known, metric).sel(metric=metric)
        effect = (part["high"] - part["low"]).values
        mean, low, high = bootstrap_ci(effect, level=level, name="trace", clusters=_clusters(part, clusters))
        return {
            "clean": float(part["high"].mean()),
            "corrupted": float(part["low"].mean()),
            "effect": mean,
            "ci_lo": low,
            "ci_hi": high,
            "n": float(len(effect)),
        }

    def by_role(
        self,
        metric: str = "prob",
        level: float = 0.95,
        *,
        known: bool = True,
        normalise: bool = False,
        direction: str | None = None,
        control: bool = False,
        clusters: str | None = "subject",
        split: str | None = None,
    ) -> xr.Dataset:
        """Average effect by token role: mean, ci_lo, ci_hi [role, kind, layer], n (prompts) and n_tokens [role].

        A prompt's positions of one role are averaged first, then the prompts (ROME weights by token). Roles that occur in no prompt are
        left out. `control=True` averages the random matched controls instead; `split` names a label of the prompts (`with_labels`)
        whose values become a first axis of the table: NaN, and counts of 0, for a label without a known prompt.
        """
        if split is not None:
            every = self.split(split)
            parts = {
                label: part.by_role(
                    metric, level, known=known, normalise=normalise, direction=direction, control=control, clusters=clusters
                )
                for label, part in every.items()
                if part.n_known or not known
            }  # fmt: skip
            if not parts:
                self._select(known, metric)  # says that no prompt is known
            return _side_by_side(parts, split).reindex({split: list(every)}, fill_value=NOBODY)
        attrs = {"metric": metric, "known_only": known, "direction": self._direction(direction)}
        if normalise:
            if control:
                raise BadInput(
                    "controls are not normalised. Compare them with the effects themselves (normalise=False)."
                )
            values = self.normalised(metric, known=known, drop=True, direction=direction)
            part = self.data.sel(prompt=values["prompt"].values)
        else:
            if control:
                self.control_effects(direction)  # says where there is none
            part = self._select(known, metric).sel(metric=metric)
            values = self._effects(part, "control" if control else "score", direction)
        return average(values, part["role"].values, level=level, clusters=_clusters(part, clusters), attrs=attrs)

    def significant(
        self,
        metric: str = "prob",
        *,
        alpha: float = 0.05,
        correction: Correction = "holm",
        against: Literal["zero", "control"] = "zero",
        known: bool = True,
        direction: str | None = None,
        clusters: str | None = "subject",
    ) -> xr.Dataset:
        """Which cells of the map by role differ from zero, or from their control: effect, p, p_adjusted, significant [role, kind, layer].

        Sign-flip test of the mean over prompts, two-sided, subjects flipped as wholes; corrected over all cells by Holm (no false
        cell), Benjamini-Hochberg (few) or not at all. Cells that are zero by construction, up to the rounding that the trace's own check
        found, are not tested. attrs say the number of tests and `attainable`: whether so few subjects could reach `alpha` at all.
        """
        one_of("against", against, ("zero", "control"))
        part = self._select(known, metric).sel(metric=metric)
        values = self._effects(part, "score", direction)
        if against == "control":
            self.control_effects(direction)
            values = values - self._effects(part, "control", direction)
        attrs = {"metric": metric, "against": against, "known_only": known, "direction": self._direction(direction)}
        off = float(
            self.data.attrs.get("resume_difference", 0.0)
        )  # of a logit; a probability moves by a quarter of it at most
        floor = max(1e-6, off / 4 if metric == "prob" else off)
        return tested(
            values, part["role"].values, alpha=alpha, correction=correction, clusters=_clusters(part, clusters), floor=floor, attrs=attrs
        )  # fmt: skip

    def window_null(self, metric: str = "prob", *, known: bool = True, direction: str | None = None) -> xr.Dataset:
        """What a window of the same width at a random depth gives: mean, lowest, highest [role, kind], over all unclipped windows.

        A peak that is no higher than `highest` elsewhere says nothing about its depth.
        """
        table = self.by_role(metric, known=known, direction=direction)
        return windows(
            table, width=int(self.data.attrs["window"]), rule=str(self.data.attrs.get("window_rule", "code"))
        )

    def peak(self, metric: str = "prob", *, known: bool = True, direction: str | None = None) -> xr.Dataset:
        """Where the average effect is largest, per kind: role, layer, effect, ci_lo, ci_hi; and mean_best, the mean over prompts of
        each one's own best cell.

        Hidden states of the last token are left out here: what the answer is read from carries it towards the end, and wholly in the
        last layer, by construction. Where nothing else was restored, role is "" and layer -1.
        """
        part = self._select(known, metric).sel(metric=metric)
        effect = self._effects(part, "score", direction)
        states = xr.DataArray([str(kind).startswith("hidden") for kind in part["kind"].values], dims="kind")
        effect = effect.where(~(states & (part["pos"] == part["n_pos"] - 1)))
        table = average(effect, part["role"].values, level=0.95, clusters=_clusters(part, "subject"), attrs={})
        sign = -1.0 if metric == "rank" else 1.0
        rows: dict[str, list[Any]] = {name: [] for name in ("role", "layer", "effect", "ci_lo", "ci_hi", "mean_best")}
        for kind in table["kind"].values:
            means = sign * table["mean"].sel(kind=kind).values  # [role, layer]
            nothing = not np.isfinite(means).any()
            place = (0, 0) if nothing else np.unravel_index(np.nanargmax(means), means.shape)
            rows["role"].append("" if nothing else str(table["role"].values[place[0]]))
            rows["layer"].append(-1 if nothing else int(table["layer"].values[place[1]]))
            for name, source in (("effect", "mean"), ("ci_lo", "ci_lo"), ("ci_hi", "ci_hi")):
                rows[name].append(float(table[source].sel(kind=kind).values[place]))
            rows["mean_best"].append(sign * float((sign * effect.sel(kind=kind)).max(("pos", "layer")).mean()))
        return xr.Dataset(
            {name: ("kind", values) for name, values in rows.items()}, coords={"kind": table["kind"].values}
        )

    def with_labels(self, labels: "Mapping[str, Any] | xr.DataArray | Result", name: str = "scenario") -> "TraceResult":
        """The same result with a label a prompt, as a coordinate `name` that `split` and `by_role(split=name)` go by.

        `labels` is a mapping from prompt ids, a DataArray over them, or a result with such a `label` (`ScenarioLabels`). Raises
        `BadInput` for a prompt without label.
        """
        table = labels.data["label"] if isinstance(labels, Result) else labels
        if isinstance(table, xr.DataArray):
            table = dict(zip(table["prompt"].values.tolist(), table.values.tolist(), strict=True))
        ids = [str(prompt) for prompt in self.data["prompt"].values]
        if missing := [prompt for prompt in ids if prompt not in table]:
            raise BadInput(
                f"{len(missing)} of {len(ids)} prompts have no label: {listing(missing[:5])}. Label the same prompts that were traced."
            )
        data = self.data.assign_coords({name: ("prompt", [str(table[prompt]) for prompt in ids])})
        return TraceResult(data, config=self.config, manifest=self.manifest)

    def split(self, by: "str | Mapping[str, Any] | xr.DataArray | Result" = "scenario") -> "dict[str, TraceResult]":
        """One result for each label of the prompts: a coordinate along prompt by its name, or labels as `with_labels` takes them."""
        if not isinstance(by, str):
            return self.with_labels(by).split("scenario")
        along = [str(name) for name, coord in self.data.coords.items() if coord.dims == ("prompt",)]
        one_of("split", by, along)
        labels = self.data[by].values
        return {
            str(label): TraceResult(
                self.data.isel(prompt=np.flatnonzero(labels == label)), config=self.config, manifest=self.manifest
            )
            for label in dict.fromkeys(sorted(labels.tolist()))
        }

    def headline(self) -> dict[str, float]:
        """Clean and corrupted probability and the largest average effect of a state before the last token (of the first kind, where no
        states were restored), with where it is and over how many prompts."""
        known = self.n_known > 0
        total, peak = self.total_effect(known=known), self.peak(known=known)
        kinds = [str(kind) for kind in peak["kind"].values]
        best = kinds.index("hidden") if "hidden" in kinds else 0
        role, layer, kind = (str(peak[name].values[best]) for name in ("role", "layer", "kind"))
        who = f"{int(total['n'])} known" if known else f"all {int(total['n'])}, none known"
        return {
            f"P(answer), clean ({who})": total["clean"],
            "P(answer), corrupted": total["corrupted"],
            f"best effect: {kind}, {role}, layer {layer}": float(peak["effect"].values[best]),
        }

    def thumbnail(self) -> xr.DataArray | None:
        """The first kind's map, roles by layers."""
        table = self.by_role(known=self.n_known > 0)
        return table["mean"].isel(kind=0, drop=True)

    def _direction(self, direction: str | None) -> str:
        if direction is None:
            return self.directions[0]
        if direction in DIRECTIONS and direction not in self.directions:
            raise BadInput(
                f"this trace holds {self.directions[0]!r} only. Run CausalTrace(direction=('denoise', 'noise')) for {direction!r}."
            )
        one_of("direction", direction, self.directions)
        return direction

    def _effects(self, part: xr.Dataset, variable: str, direction: str | None) -> xr.DataArray:
        """Effects of one direction of (some prompts or one metric of) the data."""
        direction = self._direction(direction)
        score = part[variable]
        score = score.sel(direction=direction) if "direction" in score.dims else score
        effect = score - part["low"] if direction == "denoise" else part["high"] - score
        return effect.rename("effect").transpose(*score.dims)

    def _select(self, known: bool, metric: str) -> xr.Dataset:
        one_of("metric", metric, [str(name) for name in self.data["metric"].values])
        if known and not self.n_known:
            raise BadInput(
                f"the model gives the answer to none of the {self.data.sizes['prompt']} prompts. "
                "Average over all of them with known=False, or bring facts that it knows."
            )
        part = self.data.isel(prompt=np.flatnonzero(self.data["known"].values)) if known else self.data
        undefined = np.isnan(part["high"].sel(metric=metric).values)
        if undefined.any():
            raise BadInput(
                f"{metric} is not defined for {int(undefined.sum())} of {len(undefined)} prompts: their answer or foil has several "
                "tokens (answers='whole'). Use metric='logprob' or 'prob'."
            )
        return part


def _strong(total: np.ndarray, metric: str, tolerance: float, drop: bool) -> np.ndarray:
    """Which prompts [prompt] have a total effect that can be divided by; raises for the others, unless `drop`."""
    weak = ~(np.abs(total) > tolerance)
    if weak.any() and (not drop or weak.all()):
        worst = ", ".join(f"{value:.2g}" for value in total[weak][:5])
        raise BadInput(
            f"the corruption moves {metric} by at most {tolerance:g} in {int(weak.sum())} of {len(weak)} prompts (by {worst}): "
            "a share of nothing means nothing. Use more noise, another metric, or drop=True to leave them out."
        )
    return np.flatnonzero(~weak)


def _clusters(part: xr.Dataset, name: str | None) -> Sequence[Any] | None:
    """What belongs together when prompts are resampled; None where the result does not say."""
    if name is None or (name == "subject" and name not in part.coords):
        return None
    along = [str(key) for key, coord in part.coords.items() if coord.dims == ("prompt",)]
    one_of("clusters", name, along)
    return list(part[name].values.tolist())


def _side_by_side(parts: dict[str, xr.Dataset], name: str) -> xr.Dataset:
    """Tables by role, one a label, over the roles of all of them: NaN, and counts of 0, where a label lacks one."""
    found = [role for role in ROLES if any(role in table["role"].values for table in parts.values())]
    tables = [
        table.reindex(role=found, fill_value=NOBODY).assign(prompts=table.attrs["prompts"]) for table in parts.values()
    ]  # fmt: skip
    both = xr.concat(tables, dim=xr.DataArray(list(parts), dims=name, name=name), combine_attrs="override")
    both.attrs.pop("prompts", None)
    return both
