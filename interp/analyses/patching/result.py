"""What patching gives: the score of every cell of every pair, and what is read off them."""

from collections.abc import Hashable, Sequence
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np
import xarray as xr

from interp.core.analysis import Result
from interp.core.errors import BadInput, one_of

from .cells import STREAMS
from .tables import control_row, grouped, summary, tested

if TYPE_CHECKING:
    import pandas as pd

Correction = Literal["holm", "bh"]


class PatchingResult(Result):
    """Scores of every patched cell of every pair.

    data: one variable a kind, named by it, with dims (pair, direction, layer [, head | kv_head] [, pos | place], metric); k and v count
        key/value heads (`kv_head`), which several query heads may share. `pos` is every position (ragged pairs are padded with NaN),
        `place` the places that were named. Beside them:
        low, high      [pair, metric]     score of the corrupted and of the clean run
        token, token_corrupted, role [pair, pos]   strings, "" beyond a prompt's end
        n_pos, first_changed [pair]       tokens; the first position in which the two prompts differ
        control        [pair, strong, draw, metric]    only with controls: scores of the matched random draws
    coords: pair (ids), direction (denoise, noise), layer, head, kv_head, pos or place, metric (prob, logprob, logit_diff, rank);
        along pair known (bool: the clean run's top token is the answer), answer, foil, predicted, foil_given; along strong strong_kind,
        strong_direction, strong_layer, strong_head (-1: all), strong_place ("" : all).
    attrs: kinds, over, source, window, window_rule, and the self-checks nothing_difference (0), restored_difference and
        resume_difference (the largest differences of a logit, see the essay).

    Effects are score - low where the corrupted run is denoised and high - score where the clean one is noised: in both cases positive
    where the component carries the answer. Averages are over *known* pairs unless told otherwise (`known=False`). Effects of `rank`
    have the other sign.
    """

    figure: ClassVar[str] = "patching"
    effect: ClassVar[bool] = True

    @property
    def kinds(self) -> list[str]:
        """Kinds of site that were patched."""
        return [str(kind) for kind in self.data.attrs["kinds"]]

    @property
    def n_known(self) -> int:
        """Pairs whose answer the model gives in the clean run."""
        return int(self.data["known"].values.sum())

    def effects(self, kind: str | None = None) -> xr.DataArray:
        """Effect of each cell of one kind (the first), [pair, direction, layer, ..., metric]. Never clipped."""
        kind = self._kind(kind)
        score = self.data[kind]
        low, high = self.data["low"], self.data["high"]
        denoise = xr.DataArray(score["direction"].values == "denoise", dims="direction")
        return xr.where(denoise, score - low, high - score).transpose(*score.dims).rename("effect")

    def normalised(
        self, metric: str = "logit_diff", kind: str | None = None, *, known: bool = False, tolerance: float = 1e-3,
        drop: bool = False,
    ) -> xr.DataArray:  # fmt: skip
        """Effects as a share of the total effect high - low, [pair, direction, layer, ...]; below 0 and above 1 are legal and kept.

        Raises `BadInput`, with the numbers, where a pair's total effect is not larger than `tolerance`: the share would be noise.
        `drop=True` leaves such pairs out instead.
        """
        part = self._select(known, metric)
        total = (part["high"] - part["low"]).sel(metric=metric)
        weak = ~(np.abs(total.values) > tolerance)
        if weak.any() and (not drop or weak.all()):
            said = [f"{part['pair'].values[row]} {total.values[row]:+.2g}" for row in np.flatnonzero(weak)[:5]]
            raise BadInput(
                f"the two prompts differ by at most {tolerance:g} in {metric} in {int(weak.sum())} of {len(weak)} pairs "
                f"({', '.join(said)}): a share of nothing means nothing. Use other pairs, another metric, or drop=True to leave them out."
            )
        effect = self.effects(kind).sel(metric=metric, pair=part["pair"].values, drop=True)
        return (effect / total.drop_vars("metric")).isel(pair=~weak).rename("share").transpose(*effect.dims)

    def total_effect(self, metric: str = "logit_diff", *, known: bool = True, level: float = 0.95) -> dict[str, float]:
        """Mean clean and corrupted score, their difference with its bootstrap interval, and the number of pairs."""
        from interp.core.stats import bootstrap_ci

        part = self._select(known, metric).sel(metric=metric)
        mean, low, high = bootstrap_ci((part["high"] - part["low"]).values, level=level, name="patching")
        clean, corrupted = float(part["high"].mean()), float(part["low"].mean())
        return {
            "clean": clean, "corrupted": corrupted, "effect": mean, "ci_lo": low, "ci_hi": high, "n": float(part.sizes["pair"])
        }  # fmt: skip

    def mean(
        self,
        metric: str = "logit_diff",
        kind: str | None = None,
        *,
        known: bool = True,
        normalise: bool = False,
        level: float = 0.95,
        clusters: Sequence[Hashable] | None = None,
    ) -> xr.Dataset:
        """Average effect of each cell of one kind: mean, ci_lo, ci_hi and n (pairs), [direction, layer, ...].

        Intervals are bootstrapped over pairs; `clusters`, a label for each pair of the data (such as its template), draws whole clusters.
        Raises `BadInput` where positions of prompts of different length would be averaged: use `by_role`, or name `positions`.
        """
        values = self._values(metric, kind, known, normalise)
        self._check_aligned(values)
        return summary(values, level=level, clusters=self._clusters(values, clusters))

    def by_role(
        self,
        metric: str = "logit_diff",
        kind: str | None = None,
        *,
        known: bool = True,
        normalise: bool = False,
        level: float = 0.95,
        clusters: Sequence[Hashable] | None = None,
    ) -> xr.Dataset:
        """The same with positions gathered by what they are (`role`: the spans of the pairs and what lies between them); a pair's
        positions of one role are averaged first. For kinds that were patched position by position."""
        values = self._by_role(self._values(metric, kind, known, normalise))
        return summary(values, level=level, clusters=self._clusters(values, clusters))

    def significant(
        self,
        correction: Correction = "holm",
        *,
        metric: str = "logit_diff",
        kind: str | None = None,
        alpha: float = 0.05,
        known: bool = True,
        by: Literal["cell", "role"] = "cell",
        clusters: Sequence[Hashable] | None = None,
        seed: int = 0,
    ) -> xr.Dataset:
        """Which cells have an effect: p (sign flips over pairs, two-sided), p_adjusted (over the grid of one kind and direction) and
        significant (p_adjusted <= alpha), [direction, layer, ...].

        `holm` bounds the chance of any false cell, `bh` the share of false ones. Effects no larger than what rounding makes of a logit
        (attrs floor, from the self-checks) count as 0; cells that are 0 in every pair are not tested (p NaN). With few pairs nothing can
        be significant: attrs smallest_p is the least p-value that these pairs allow. `clusters` flips whole clusters.
        """
        one_of("correction", correction, ["holm", "bh"])
        one_of("by", by, ["cell", "role"])
        values = self._values(metric, kind, known, normalise=False)
        if by == "role":
            values = self._by_role(values)
        else:
            self._check_aligned(values)
        return tested(
            values,
            correction=correction,
            alpha=alpha,
            clusters=self._clusters(values, clusters),
            seed=seed,
            floor=self._floor(metric),
        )

    def top(
        self, n: int = 10, metric: str = "logit_diff", *, kind: str | None = None, known: bool = True
    ) -> "pd.DataFrame":
        """The `n` cells with the largest average effect, over all kinds (or one): kind, direction, layer, head, place, effect, ci_lo,
        ci_hi, p_adjusted (Holm, within its grid). Positions are gathered by role."""
        import pandas as pd

        frames = []
        for one in self.kinds if kind is None else [self._kind(kind)]:
            by_role = "pos" in self.data[one].dims
            table = (self.by_role if by_role else self.mean)(metric, one, known=known)
            test = self.significant(metric=metric, kind=one, known=known, by="role" if by_role else "cell")
            frame = table.assign(p_adjusted=test["p_adjusted"]).to_dataframe().reset_index()
            names = {"mean": "effect", "role": "place", "kv_head": "head"}
            frames.append(frame.rename(columns=names).assign(kind=one))
        whole = pd.concat(frames, ignore_index=True)
        for missing in ("head", "place"):
            if missing not in whole:
                whole[missing] = -1 if missing == "head" else ""
        whole = whole.fillna({"head": -1, "place": ""}).astype({"head": int})
        whole = whole[whole["effect"].notna()]
        columns = ["kind", "direction", "layer", "head", "place", "effect", "ci_lo", "ci_hi", "p_adjusted"]
        order = whole["effect"].abs().sort_values(ascending=False, kind="stable").index[:n]
        return whole.loc[order, columns].reset_index(drop=True)

    def controls(self, metric: str = "logit_diff", *, known: bool = False) -> "pd.DataFrame":
        """The strongest cells beside their matched random draws, a row each: effect, control_mean, control_sd, draws, percentile (share
        of draws with a smaller absolute effect, 0 to 100) and among_heads (the same among the other heads of the layer, NaN without)."""
        import pandas as pd

        if "control" not in self.data:
            raise BadInput("this result has no controls. Run ActivationPatching(controls=20) or the like.")
        part = self._select(known, metric)
        return pd.DataFrame([control_row(self, part, metric, index) for index in range(self.data.sizes["strong"])])

    def headline(self) -> dict[str, float]:
        """Clean and corrupted logit difference, and the largest average effect of a cell that is not fixed by construction (the stream
        at the last token, or everywhere at once, carries the answer whatever the model does)."""
        known = self.n_known > 0
        total, table = self.total_effect(known=known), self.top(10**9, known=known)
        fixed = table["kind"].isin(STREAMS) & table["place"].isin(["last", ""])
        table = table[~fixed] if not fixed.all() else table
        who = f"{int(total['n'])} known" if known else f"all {int(total['n'])}, none known"
        best, where = table.iloc[0], ""
        where = ".".join(str(best[name]) for name in ("layer", "head") if best[name] != -1)
        place = f", {best['place']}" if best["place"] else ""
        return {
            f"logit difference, clean ({who})": total["clean"], "logit difference, corrupted": total["corrupted"],
            f"strongest: {best['kind']} {where}{place} ({best['direction']})": float(best["effect"]),
        }  # fmt: skip

    def thumbnail(self) -> xr.DataArray | None:
        """The first kind's map in the first direction."""
        kind, known = self.kinds[0], self.n_known > 0
        table = (
            self.by_role(kind=kind, known=known) if "pos" in self.data[kind].dims else self.mean(kind=kind, known=known)
        )
        values = table["mean"].isel(direction=0, drop=True)
        return values.mean([str(dim) for dim in values.dims[: max(0, values.ndim - 2)]])

    def _kind(self, kind: str | None) -> str:
        if kind is not None:
            one_of("kind", kind, self.kinds)
        return kind or self.kinds[0]

    def _values(self, metric: str, kind: str | None, known: bool, normalise: bool) -> xr.DataArray:
        part = self._select(known, metric)
        if normalise:
            return self.normalised(metric, kind, known=known, drop=True)
        return self.effects(kind).sel(metric=metric, pair=part["pair"].values, drop=True)

    def _by_role(self, values: xr.DataArray) -> xr.DataArray:
        if "pos" not in values.dims:
            raise BadInput(
                f"this kind was patched over {[str(dim) for dim in values.dims[2:]]}, not position by position: `mean` has it already."
            )
        return grouped(values, self.data["role"].sel(pair=values["pair"].values).values)

    def _check_aligned(self, values: xr.DataArray) -> None:
        lengths = sorted(set(self.data["n_pos"].sel(pair=values["pair"].values).values.tolist()))
        if "pos" in values.dims and len(lengths) > 1:
            raise BadInput(
                f"these pairs have {', '.join(map(str, lengths))} tokens: position 5 of one is not position 5 of another. Average with "
                "`by_role`, or patch named `positions`."
            )

    def _floor(self, metric: str) -> float:
        """What rounding may make of an effect: twice the largest difference that the self-checks saw (times P for probabilities)."""
        if metric == "rank":
            return 0.0
        seen = max(float(self.data.attrs.get(f"{name}_difference", 0.0)) for name in ("restored", "resume"))
        largest = max(float(self.data[end].sel(metric="prob").max()) for end in ("low", "high"))
        return 2 * seen * (largest if metric == "prob" else 1.0)

    def _clusters(self, values: xr.DataArray, clusters: Sequence[Hashable] | None) -> list[Hashable] | None:
        if clusters is None:
            return None
        every = self.data["pair"].values.tolist()
        if len(clusters) != len(every):
            raise BadInput(f"`clusters` has {len(clusters)} labels for {len(every)} pairs. Give one each.")
        label = dict(zip(every, clusters, strict=True))
        return [label[name] for name in values["pair"].values.tolist()]

    def _select(self, known: bool, metric: str) -> xr.Dataset:
        one_of("metric", metric, [str(name) for name in self.data["metric"].values])
        if not known:
            return self.data
        if not self.n_known:
            raise BadInput(
                f"the model gives the answer to none of the {self.data.sizes['pair']} pairs. Average over all of them with known=False, "
                "or bring pairs that it gets right."
            )
        return self.data.isel(pair=np.flatnonzero(self.data["known"].values))
