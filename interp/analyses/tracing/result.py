"""What a trace gives: every prompt's whole map, and the averages over them."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
import xarray as xr

from interp.core.analysis import Result
from interp.core.errors import BadInput, one_of
from interp.core.stats import bootstrap_ci
from interp.data.roles import ROLES, roles

from ..readout import METRICS

if TYPE_CHECKING:
    from interp.core.lm import LM

    from .trace import CausalTrace, Trace


class TraceResult(Result):
    """Scores of every restored cell of every prompt.

    data (dims prompt, kind, pos, layer, metric; ragged prompts are padded with NaN and "" along pos):
        score       [prompt, kind, pos, layer, metric]   restored score, mean over the noise draws; for mlp and attn, layer is the
                                                         window's centre
        low, high   [prompt, metric]                     corrupted (mean over the noise draws) and clean score
        role, token [prompt, pos]                        strings; roles are those of `interp.data.roles.ROLES`
        n_pos       [prompt]                             tokens of the prompt
        score_noise [prompt, kind, pos, layer, metric, noise], low_noise [prompt, metric, noise]     only with keep_noise_rows
    coords: prompt (ids), kind, pos (0...), layer (0...), metric (prob, logprob, logit_diff, rank); and along prompt known (bool: the
        clean run's top token is the answer), answer, foil, predicted (token labels), foil_given (bool; else the best wrong token).
    attrs: sigma (NaN for counterfactuals), noise, window, window_rule, corruption, noise_samples, and the two self-checks
        resume_difference (in a logit, between one resumed cell and a whole forward pass) and restored_difference (in nats, between
        full restoration and the clean run).

    Averages are over *known* prompts unless told otherwise (`known=False`), and every method that averages says how many.
    Effects of `rank` have the other sign: a restored answer's rank falls.
    """

    figure: ClassVar[str] = "tracing"
    main: ClassVar[str] = "score"
    effect: ClassVar[bool] = True

    @property
    def n_known(self) -> int:
        """Prompts whose answer the model gives in the clean run."""
        return int(self.data["known"].values.sum())

    def effects(self) -> xr.DataArray:
        """Indirect effect of each cell, score - low, all prompts [prompt, kind, pos, layer, metric]. Never clipped."""
        return (self.data["score"] - self.data["low"]).rename("effect").transpose(*self.data["score"].dims)

    def normalised(
        self, metric: str = "logit_diff", *, known: bool = True, tolerance: float = 1e-3, drop: bool = False
    ) -> xr.DataArray:
        """Effects as a share of the total effect, [prompt, kind, pos, layer]: 1 is full restoration; below 0 and above 1 are legal.

        Raises `BadInput` where a prompt's total effect is not larger than `tolerance`, since the share is then noise; `drop=True`
        leaves such prompts out instead.
        """
        part = self._select(known, metric)
        total = (part["high"] - part["low"]).sel(metric=metric)
        keep = self._strong(total.values, metric, tolerance, drop)
        part, total = part.isel(prompt=keep), total.isel(prompt=keep)
        share = (part["score"] - part["low"]).sel(metric=metric) / total
        return share.rename("share").transpose("prompt", "kind", "pos", "layer")

    def fraction_restored(
        self,
        metric: str = "prob",
        *,
        denominator: Literal["total", "hase"] = "total",
        tolerance: float = 1e-3,
        drop: bool = False,
    ) -> xr.DataArray:
        """Share of what the corruption took away that each cell gives back, all prompts [prompt, kind, pos, layer].

        `total` divides by the total effect, unclipped (`normalised`). `hase` is what the code of Hase et al. 2023 computes:
        `max(0, (score - low) / |low - max(high, largest score of the kind)|)`, so no share can leave 0 to 1. Prompts whose
        denominator is at most `tolerance` are refused with `BadInput`; `drop=True` leaves them out.
        """
        one_of("denominator", denominator, ("total", "hase"))
        if denominator == "total":
            return self.normalised(metric, known=False, tolerance=tolerance, drop=drop)
        part = self._select(False, metric).sel(metric=metric)
        best = np.fmax(part["high"], part["score"].max(("pos", "layer")))  # [prompt, kind]
        size = np.abs(part["low"] - best)
        keep = self._strong(size.values.min(axis=size.get_axis_num("kind")), metric, tolerance, drop)
        share = ((part["score"] - part["low"]) / size).isel(prompt=keep)
        return share.clip(min=0.0).rename("share").transpose("prompt", "kind", "pos", "layer")

    def layer_effects(
        self,
        kind: str = "mlp",
        how: Literal["max", "last subject"] = "max",
        *,
        metric: str = "prob",
        measure: Literal["fraction", "hase", "effect"] = "fraction",
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
        one_of("metric", metric, [str(name) for name in self.data["metric"].values])
        if measure == "effect":
            values = self.effects().sel(metric=metric, kind=kind)
        else:
            denominator: Literal["total", "hase"] = "hase" if measure == "hase" else "total"
            values = self.fraction_restored(metric, denominator=denominator, tolerance=tolerance, drop=drop).sel(
                kind=kind
            )
        role = self.data["role"].sel(prompt=values["prompt"])
        chosen = (
            role == "last subject" if how == "last subject" else (role != "") & (role != "bos") & (role != "before")
        )
        found = values.where(chosen).max("pos").rename("effect").transpose("prompt", "layer")
        return found.assign_attrs(kind=kind, how=how, measure=measure)

    def total_effect(self, metric: str = "prob", *, known: bool = True, level: float = 0.95) -> dict[str, float]:
        """Mean clean and corrupted score, their difference with its bootstrap interval, and the number of prompts."""
        part = self._select(known, metric).sel(metric=metric)
        effect = (part["high"] - part["low"]).values
        mean, low, high = bootstrap_ci(effect, level=level, name="trace")
        return {
            "clean": float(part["high"].mean()),
            "corrupted": float(part["low"].mean()),
            "effect": mean,
            "ci_lo": low,
            "ci_hi": high,
            "n": float(len(effect)),
        }

    def by_role(
        self, metric: str = "prob", level: float = 0.95, *, known: bool = True, normalise: bool = False
    ) -> xr.Dataset:
        """Average effect by token role: mean, ci_lo, ci_hi [role, kind, layer], n (prompts) and n_tokens [role].

        A prompt's positions of one role are averaged first, then the prompts (ROME weights by token); intervals are bootstrapped over
        prompts. Roles that occur in no prompt are left out.
        """
        part = self._select(known, metric)
        values = (
            self.normalised(metric, known=known, drop=True)
            if normalise
            else (part["score"] - part["low"]).sel(metric=metric)
        )
        return self._averages(values, metric, level, known)

    def peak(self, metric: str = "prob", *, known: bool = True) -> xr.Dataset:
        """Where the average effect is largest, per kind: role, layer, effect, ci_lo, ci_hi; and mean_best, the mean over prompts of
        each one's own best cell.

        Hidden states of the last token are left out here: what the answer is read from carries it towards the end, and wholly in the
        last layer, by construction. Where nothing else was restored, role is "" and layer -1.
        """
        part = self._select(known, metric)
        effect = (part["score"] - part["low"]).sel(metric=metric)
        states = xr.DataArray([str(kind).startswith("hidden") for kind in part["kind"].values], dims="kind")
        effect = effect.where(~(states & (part["pos"] == part["n_pos"] - 1)))
        table = self._averages(effect, metric, 0.95, known)
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

    def _averages(self, values: xr.DataArray, metric: str, level: float, known: bool) -> xr.Dataset:
        """Means by role, with intervals and counts, of values [prompt, kind, pos, layer] of some of the prompts; NaN is left out."""
        values = values.transpose("prompt", "pos", "kind", "layer")
        role = self.data["role"].sel(prompt=values["prompt"]).values  # [prompt, pos]
        found = [name for name in ROLES if (role == name).any()]
        table = np.full((len(role), len(found), values.sizes["kind"], values.sizes["layer"]), np.nan)
        for index, name in enumerate(found):
            for row, here in enumerate(role == name):
                if here.any():
                    table[row, index] = values.values[row, here].mean(axis=0)
        mean, low, high = bootstrap_ci(table, axis=0, level=level, name="trace")
        counts = [int((role == name).any(axis=1).sum()) for name in found]
        tokens = [int((role == name).sum()) for name in found]
        dims = ("role", "kind", "layer")
        return xr.Dataset(
            {
                "mean": (dims, mean),
                "ci_lo": (dims, low),
                "ci_hi": (dims, high),
                "n": ("role", counts),
                "n_tokens": ("role", tokens),
            },
            coords={"role": found, "kind": values["kind"].values, "layer": values["layer"].values},
            attrs={"metric": metric, "level": level, "prompts": values.sizes["prompt"], "known_only": known},
        )

    def _strong(self, total: np.ndarray, metric: str, tolerance: float, drop: bool) -> np.ndarray:
        """Which prompts [prompt] have a total effect that can be divided by; raises for the others, unless `drop`."""
        weak = ~(np.abs(total) > tolerance)
        if weak.any() and (not drop or weak.all()):
            worst = ", ".join(f"{value:.2g}" for value in total[weak][:5])
            raise BadInput(
                f"the corruption moves {metric} by at most {tolerance:g} in {int(weak.sum())} of {len(weak)} prompts (by {worst}): "
                "a share of nothing means nothing. Use more noise, another metric, or drop=True to leave them out."
            )
        return np.flatnonzero(~weak)

    def _select(self, known: bool, metric: str) -> xr.Dataset:
        one_of("metric", metric, [str(name) for name in self.data["metric"].values])
        if not known:
            return self.data
        if not self.n_known:
            raise BadInput(
                f"the model gives the answer to none of the {self.data.sizes['prompt']} prompts. "
                "Average over all of them with known=False, or bring facts that it knows."
            )
        return self.data.isel(prompt=np.flatnonzero(self.data["known"].values))


def assemble(config: "CausalTrace", lm: "LM", traces: "Sequence[Trace]", sigma: float) -> TraceResult:
    """The traces of all prompts side by side, padded along `pos`."""
    width = max(len(trace.tokens) for trace in traces)
    shape = (len(traces), len(config.kinds), width, lm.spec.n_layers, traces[0].low.shape[0], len(METRICS))
    score = np.full(shape, np.nan)
    role, token = (np.full((len(traces), width), "", dtype=object) for _ in range(2))
    for index, trace in enumerate(traces):
        length = len(trace.tokens)
        score[index, :, :length] = trace.score
        role[index, :length] = roles(trace.tokens)
        token[index, :length] = trace.tokens.labels
    low = np.stack([trace.low for trace in traces])  # [prompt, noise, metric]
    dims = ("prompt", "kind", "pos", "layer", "metric")
    data: dict[str, Any] = {
        "score": (dims, _mean(score, axis=4)),
        "low": (("prompt", "metric"), _mean(low, axis=1)),
        "high": (("prompt", "metric"), np.stack([trace.high for trace in traces])),
        "role": (("prompt", "pos"), role.astype(str)),
        "token": (("prompt", "pos"), token.astype(str)),
        "n_pos": ("prompt", [len(trace.tokens) for trace in traces]),
    }
    if config.keep_noise_rows:
        data["score_noise"] = ((*dims, "noise"), np.moveaxis(score, 4, -1))
        data["low_noise"] = (("prompt", "metric", "noise"), np.moveaxis(low, 1, -1))
    return TraceResult(xr.Dataset(data, coords=_coords(config, lm, traces, width), attrs=_attrs(config, traces, sigma)))


def _coords(config: "CausalTrace", lm: "LM", traces: "Sequence[Trace]", width: int) -> dict[str, Any]:
    label = lm.tokenizer.label
    return {
        "prompt": _unique([trace.tokens.id for trace in traces]),
        "kind": list(config.kinds),
        "pos": np.arange(width),
        "layer": np.arange(lm.spec.n_layers),
        "metric": list(METRICS),
        "known": ("prompt", [trace.predicted == trace.answer for trace in traces]),
        "answer": ("prompt", [label(trace.answer) for trace in traces]),
        "foil": ("prompt", [label(trace.foil) for trace in traces]),
        "foil_given": ("prompt", [trace.foil_given for trace in traces]),
        "predicted": ("prompt", [label(trace.predicted) for trace in traces]),
    }


def _attrs(config: "CausalTrace", traces: "Sequence[Trace]", sigma: float) -> dict[str, Any]:
    return {
        "sigma": sigma,
        "noise": config.noise,
        "corruption": config.corruption,
        "noise_samples": int(traces[0].low.shape[0]),
        "window": config.window,
        "window_rule": config.window_rule,
        "resume_difference": max((t.resumed for t in traces if np.isfinite(t.resumed)), default=float("nan")),
        "restored_difference": max((t.restored for t in traces if np.isfinite(t.restored)), default=float("nan")),
    }


def _mean(values: np.ndarray, axis: int) -> np.ndarray:
    """The mean over noise draws; a cell that equals another draw by draw has the same mean to the last bit."""
    return np.add.reduce(np.moveaxis(values, axis, 0), axis=0) / values.shape[axis]


def _unique(ids: list[str]) -> list[str]:
    seen: dict[str, int] = {}
    out = []
    for name in ids:
        seen[name] = seen.get(name, 0) + 1
        out.append(name if seen[name] == 1 else f"{name}#{seen[name]}")
    return out
