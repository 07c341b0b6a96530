"""What steering gives: where the reader looks and what the model says at every point of the grid, and what is read off that."""

from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import xarray as xr

from interp.core.analysis import Result
from interp.core.errors import BadInput, one_of
from interp.core.stats import bootstrap_ci, sign_flip_test

if TYPE_CHECKING:
    import pandas as pd

MARGIN = 0.01
"""How much more mean attention the winning span of a region must get than the next; below that the point is undecided."""


class SteeringResult(Result):
    """Attention and answers under every amount of steering.

    data:
        attention       [arm, point, reader, span, prompt]  probability of looking from the last token at each span (float32)
        outcome         [arm, point, metric, prompt]        prob, logprob, logit_diff, rank (float32)
        choice          [arm, point, prompt]                the best of the prompt's candidates, -1 without any (int16)
        base_attention  [reader, span, prompt], base_outcome [metric, prompt], base_choice [prompt]: the untouched run
        coordinate      [arm, direction, prompt]            the head's own coordinate where it was measured, raw units
        scale           [arm, direction]                    what alpha = 1 is, in raw units
        sign            [arm, direction]                    -1 where the decomposition's sign was turned round by the rule
        sign_mean, sign_se [arm, direction]                 the mean coordinate that fixed the sign, after it, and its standard error
    coords: arm (`channel`, then controls), arm_kind and writes (which directions) along arm; point, axis, and alpha [point, axis] in the
        result's unit; direction (the channel's components; they share one axis where they are moved together); reader, span, metric;
        prompt (ids), with split, answer, known (bool) and correct (place of the answer among the candidates, -1 without) along it.
    attrs: mode, position, layer (-1 but for `add`), unit, sign_rule, split_by, to, minus, measured_at, chosen (which of components and
        readers were chosen on these data), absent (controls that the model does not have, and why).

    The `score` of a reader is its attention to `to` less that to `minus`. Alphas are comparable between runs only under one sign rule.
    """

    figure: ClassVar[str] = "channel_steering"
    main: ClassVar[str] = "attention"

    @property
    def axes(self) -> list[str]:
        """Names of the grid's dimensions, `axis_0` and so on."""
        return [f"axis_{number}" for number in range(self.data.sizes["axis"])]

    @property
    def arms(self) -> list[str]:
        """`channel` and the controls."""
        return [str(name) for name in self.data["arm"].values]

    @property
    def outcomes(self) -> list[str]:
        """What `values` knows."""
        spans, metrics = ([str(name) for name in self.data[dim].values] for dim in ("span", "metric"))
        score = ["score"] if self.data.attrs["minus"] else []
        return [*score, *spans, *metrics, "accuracy", "top1"]

    def values(self, outcome: str = "score", *, reader: str | None = None) -> xr.DataArray:
        """One outcome of every run [arm, point, prompt]: `score`, attention to a span, a metric, `accuracy` (the best of the candidates is
        the answer; NaN without candidates) or `top1` (the best of all tokens is)."""
        return self._outcome(outcome, reader, "")

    def base(self, outcome: str = "score", *, reader: str | None = None) -> xr.DataArray:
        """The same of the untouched run [prompt]."""
        return self._outcome(outcome, reader, "base_")

    def grid(self, values: xr.DataArray) -> xr.DataArray:
        """`values` with `point` laid out over the axes (`axis_0`, ...), whose coordinates are the alphas in the order given."""
        alpha = self.data["alpha"].values  # [point, axis]
        ticks = [list(dict.fromkeys(column.tolist())) for column in alpha.T]
        sizes = [len(one) for one in ticks]
        place = values.dims.index("point")
        shape = (*values.shape[:place], *sizes, *values.shape[place + 1 :])
        dims = [*values.dims[:place], *self.axes, *values.dims[place + 1 :]]
        kept = {name: one for name, one in values.coords.items() if "point" not in one.dims}
        return xr.DataArray(
            values.values.reshape(shape), {**kept, **dict(zip(self.axes, ticks, strict=True))}, dims, values.name
        )

    def regions(
        self, arm: str = "channel", *, reader: str | None = None, split: str | None = None, margin: float = MARGIN
    ) -> xr.DataArray:
        """Which span gets most mean attention at each point of the grid, [axis_0, ...]: its place in `data["span"]`.

        -1 where no span leads the next by more than `margin`: there the decision region has no owner. `split` keeps to one kind of prompt.
        """
        one_of("arm", arm, self.arms)
        mean = self.data["attention"].sel(arm=arm, reader=self._reader(reader), drop=True)
        mean = self._kept(mean, split).astype(float).mean("prompt")
        return self.grid(_winner(mean, margin)).rename("region")

    def reachable(
        self, arm: str = "channel", *, reader: str | None = None, split: str | None = None, margin: float = MARGIN
    ) -> set[str]:
        """The spans that own some region: where the reader can be made to look."""
        names = [str(name) for name in self.data["span"].values]
        found = self.regions(arm, reader=reader, split=split, margin=margin).values
        return {names[place] for place in np.unique(found) if place >= 0}

    def curve(
        self,
        outcome: str = "score",
        arm: str = "channel",
        *,
        axis: int = 0,
        hold: float = 0.0,
        reader: str | None = None,
        level: float = 0.95,
    ) -> xr.Dataset:
        """An outcome along one axis, by kind of prompt: mean, ci_lo, ci_hi, n and base (the untouched run) [split, alpha].

        The other axes stay at their alpha nearest to `hold`, the lower of two. Intervals are bootstrapped over prompts.
        """
        along, alphas = self._along(outcome, arm, axis, hold, reader)  # [point, prompt], [point]
        names, members = self._splits()
        parts = [bootstrap_ci(along[:, keep], 1, level=level, name="steering") for keep in members]
        base = self.base(outcome, reader=reader).values
        columns: dict[str, Any] = {
            name: (("split", "alpha"), np.stack([getattr(part, field) for part in parts]))
            for name, field in (("mean", "estimate"), ("ci_lo", "low"), ("ci_hi", "high"))
        }
        columns["n"] = ("split", [int(keep.sum()) for keep in members])
        columns["base"] = ("split", [float(np.mean(base[keep])) for keep in members])
        return xr.Dataset(columns, {"split": names, "alpha": alphas})

    def slopes(
        self,
        outcome: str = "score",
        *,
        axis: int = 0,
        hold: float = 0.0,
        reader: str | None = None,
        level: float = 0.95,
        seed: int = 0,
    ) -> xr.Dataset:
        """The straight line's slope of an outcome against alpha, prompt by prompt: mean, ci_lo, ci_hi, p (sign flips) [arm, split].

        A slope of 0 does not say that nothing happens (a curve may rise and fall): look at `curve` too.
        """
        names, members = self._splits()
        out = np.full((4, len(self.arms), len(names)), np.nan)
        for row, arm in enumerate(self.arms):
            along, alphas = self._along(outcome, arm, axis, hold, reader)
            weight = alphas - alphas.mean()
            if not weight.any():
                raise BadInput(
                    f"axis {axis} has one alpha, {alphas[0]:g}: no line goes through one point. Steer by several."
                )
            slope = weight @ along / (weight @ weight)  # [prompt]
            for column, keep in enumerate(members):
                out[:3, row, column] = bootstrap_ci(slope[keep], level=level, seed=seed, name="steering slopes")
                out[3, row, column] = sign_flip_test(slope[keep], seed=seed, name="steering slopes")
        fields = ("mean", "ci_lo", "ci_hi", "p")
        columns: dict[str, Any] = {name: (("arm", "split"), part) for name, part in zip(fields, out, strict=True)}
        return xr.Dataset(columns, {"arm": self.arms, "split": names})

    def opposed(
        self, outcome: str = "score", arm: str = "channel", *, axis: int = 0, least: float = 1e-3, **how: Any
    ) -> bool:
        """Whether the kinds of prompts move in opposite directions: some slopes surely above 0 and some surely below (95% intervals).

        For `score` and prompts of both name orders that is the sign of a pointer to a place, without content. Changes no larger than
        `least` over the whole axis are rounding, however sure. `how` is that of `slopes`.
        """
        found = self.slopes(outcome, axis=axis, **how).sel(arm=arm)
        floor = least / float(np.ptp(self.data["alpha"].values[:, axis]))
        return bool((found["ci_lo"] > floor).any() and (found["ci_hi"] < -floor).any())

    def table(self, *, reader: str | None = None, margin: float = MARGIN) -> "pd.DataFrame":
        """A row an arm: arm, writes, reached (spans that own a region), how many, and least and most mean score and logit difference."""
        import pandas as pd

        rows = []
        for arm in self.arms:
            reached = self.reachable(arm, reader=reader, margin=margin)
            row: dict[str, Any] = {
                "arm": arm, "writes": str(self.data["writes"].sel(arm=arm).values),
                "reached": " ".join(str(name) for name in self.data["span"].values if name in reached), "n_reached": len(reached),
            }  # fmt: skip
            for outcome in [name for name in ("score", "logit_diff") if name in self.outcomes]:
                mean = self.values(outcome, reader=reader).sel(arm=arm).astype(float).mean("prompt").values
                row |= {f"{outcome}_min": mean.min(), f"{outcome}_max": mean.max()}
            rows.append(row)
        return pd.DataFrame(rows)

    def headline(self) -> dict[str, float]:
        """How many spans the channel reaches, how many the best control, and how far the channel moves the score (the logit difference
        where one span only is read)."""
        reached = {arm: len(self.reachable(arm)) for arm in self.arms}
        outcome = self.outcomes[0] if self.data.attrs["minus"] else "logit_diff"
        mean = self.values(outcome).sel(arm="channel").astype(float).mean("prompt").values
        found: dict[str, float] = {f"spans reached, of {self.data.sizes['span']}": float(reached["channel"])}
        if len(reached) > 1:
            found["by the best control"] = float(max(count for arm, count in reached.items() if arm != "channel"))
        return {**found, f"range of mean {outcome.replace('_', ' ')}": float(mean.max() - mean.min())}

    def report_lines(self) -> tuple[str, ...]:
        """The table of arms."""
        return tuple(self.table().round(3).to_string(index=False).splitlines())

    def thumbnail(self) -> xr.DataArray | None:
        """The channel's mean attention, spans by points; the map of regions where there are two axes."""
        if self.data.sizes["axis"] == 2:
            return self.regions().astype(float)
        mean = self.data["attention"].sel(arm="channel", drop=True).isel(reader=0, drop=True).mean("prompt")
        return mean.transpose("span", "point")

    def _outcome(self, outcome: str, reader: str | None, prefix: str) -> xr.DataArray:
        one_of("outcome", outcome, self.outcomes)
        data, attrs = self.data, self.data.attrs
        if outcome in ("accuracy", "top1"):
            if outcome == "top1":
                return (data[f"{prefix}outcome"].sel(metric="rank", drop=True) == 0).astype(float).rename(outcome)
            right = data["correct"]
            hit = (data[f"{prefix}choice"] == right).astype(float)
            return xr.where(right >= 0, hit, np.nan).transpose(*hit.dims).rename(outcome)
        if outcome in data["metric"].values:
            return data[f"{prefix}outcome"].sel(metric=outcome, drop=True).rename(outcome)
        look = data[f"{prefix}attention"].sel(reader=self._reader(reader), drop=True)
        if outcome in data["span"].values:
            return look.sel(span=outcome, drop=True).rename(outcome)
        return (look.sel(span=attrs["to"], drop=True) - look.sel(span=attrs["minus"], drop=True)).rename("score")

    def _along(
        self, outcome: str, arm: str, axis: int, hold: float, reader: str | None
    ) -> tuple[np.ndarray, np.ndarray]:
        """The outcome [point, prompt] on a line of the grid, by rising alpha, and the alphas [point]."""
        one_of("arm", arm, self.arms)
        one_of("axis", axis, range(len(self.axes)))
        laid = self.grid(self.values(outcome, reader=reader).sel(arm=arm, drop=True))
        for name in self.axes:
            if name != f"axis_{axis}":
                ticks = laid[name].values
                laid = laid.isel({name: int(np.lexsort([ticks, np.abs(ticks - hold)])[0])}, drop=True)
        laid = laid.sortby(f"axis_{axis}").transpose(f"axis_{axis}", "prompt")
        return laid.values.astype(float), laid[f"axis_{axis}"].values.astype(float)

    def _splits(self) -> tuple[list[str], list[np.ndarray]]:
        """Names of the kinds of prompts, and which prompts they are."""
        kinds = self.data["split"].values
        names = sorted({str(name) for name in kinds})
        return names, [kinds == name for name in names]

    def _kept(self, values: xr.DataArray, split: str | None) -> xr.DataArray:
        if split is None:
            return values
        names, members = self._splits()
        one_of("split", split, names)
        return values.isel(prompt=np.flatnonzero(members[names.index(split)]))

    def _reader(self, reader: str | None) -> str:
        readers = [str(name) for name in self.data["reader"].values]
        if reader is not None:
            one_of("reader", reader, readers)
        return reader or readers[0]


def _winner(mean: xr.DataArray, margin: float) -> xr.DataArray:
    """The span with the largest mean [point, span], -1 where it does not lead by more than `margin`."""
    values = mean.transpose("point", "span").values
    best = values.argmax(axis=1)
    if values.shape[1] > 1:
        top = np.sort(values, axis=1)
        best = np.where(top[:, -1] - top[:, -2] > margin, best, -1)
    return xr.DataArray(best.astype(np.int16), dims=("point",))
