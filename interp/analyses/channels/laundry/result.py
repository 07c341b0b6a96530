"""What the laundry list gives: answers and attention of every prompt, untouched, steered, edited, reordered; and what is read off that."""

from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
import xarray as xr

from interp.core.analysis import Result
from interp.core.errors import BadInput, one_of
from interp.core.stats import bootstrap_ci

from ..steering.steer_result import MARGIN
from .rules import RULES

if TYPE_CHECKING:
    import pandas as pd

Scoring = Literal["vocabulary", "listed"]
SCORINGS = ("vocabulary", "listed")


class LaundryResult(Result):
    """Answers by length of the list.

    data:
        missing, template [length, prompt]              place of the right answer in the first list; which sentence form
        second            [length, prompt, item]        place of each listed thing in the second list, -1 if left out
        train             [length, prompt]              whether regions and points were learned on this prompt
        attention         [length, prompt, item]        the reader's, from the last token to each listed thing; NaN beyond the length
        logprob           [length, prompt, item]        of each listed thing among all tokens (its first token)
        answered          [length, prompt]              which listed thing the best token of all is; -1 none of them
        pointing          [length, layer, head]         attention to the missing thing less the mean of the others, on training prompts
    with steering (point 0 is the untouched run):
        steered_attention, steered_logprob [arm, length, prompt, point, item], steered_answered [arm, length, prompt, point]
        chosen            [arm, length, prompt, rule]   the point that each rule picks;  region [arm, length, item] of each place, -1 none
        edited_logprob    [gamma, length, prompt, item], edited_answered [gamma, length, prompt]: components scaled in the weights
    with orders:
        order_logprob, order_missing [length, set, order]   log-probability of the right answer, its place; NaN and -1 beyond the orders
    coords: id [length, prompt]; arm (`channel`, then controls) with `writes` along it; axis (components), size [axis] (one alpha in raw
        units), alpha [point, axis]; rule with `knows` along it, see `laundry_rules`.
    attrs: reader, found (what was not given, but found on training prompts), mode, absent (controls the model does not have), offset.
    """

    figure: ClassVar[str] = "laundry"
    main: ClassVar[str] = "logprob"

    @property
    def lengths(self) -> list[int]:
        """How many things are listed."""
        return [int(items) for items in self.data["length"].values]

    @property
    def chance(self) -> xr.DataArray:
        """Accuracy of a guess among the things listed [length]."""
        return 1.0 / self.data["length"].astype(float)

    @property
    def arms(self) -> list[str]:
        """`channel` and the controls; none without steering."""
        return [str(name) for name in self.data["arm"].values] if self.steers else []

    @property
    def steers(self) -> bool:
        """Whether anything was steered."""
        return "chosen" in self.data

    def right(self, scoring: Scoring = "vocabulary") -> xr.DataArray:
        """Whether each untouched prompt is answered rightly, 0 or 1 [length, prompt]: the best token of all, or the best thing listed."""
        return self._right(self.data["answered"], self.data["logprob"], scoring)

    def accuracy(self, scoring: Scoring = "vocabulary", *, level: float = 0.95) -> xr.Dataset:
        """Accuracy of untouched prompts by length: mean, ci_lo, ci_hi (bootstrap over prompts), chance, n."""
        table = _interval(self.right(scoring), level)
        return table.assign(chance=self.chance, n=("length", [self.data.sizes["prompt"]] * len(self.lengths)))

    def by_place(self, scoring: Scoring = "vocabulary", *, level: float = 0.95) -> xr.Dataset:
        """Accuracy by length and place of the missing thing: mean, ci_lo, ci_hi, n [length, item]; NaN beyond the length."""
        right, missing = self.right(scoring), self.data["missing"]
        parts = [_interval(right.where(missing == item), level) for item in self.data["item"].values]
        table = xr.concat(parts, self.data["item"]).transpose("length", "item")
        count = xr.concat([(missing == item).sum("prompt") for item in self.data["item"].values], self.data["item"])
        return table.assign(n=count.transpose("length", "item"))

    def bias(self) -> "pd.DataFrame":
        """Which of the listed things is best where that is wrong: length, wrong (how many), last and first (share that is last or first of
        the first list), recent (the last of the second list), each with what is expected if all wrong things were said alike
        (last_chance, ...). A length without mistakes has NaN."""
        import pandas as pd

        rows = []
        for place, items in enumerate(self.lengths):
            said = self.data["logprob"].values[place, :, :items].argmax(axis=1)
            missing, second = self.data["missing"].values[place], self.data["second"].values[place, :, :items]
            wrong = said != missing
            row: dict[str, Any] = {"length": items, "wrong": int(wrong.sum())}
            named = {
                "last": np.full_like(missing, items - 1),
                "first": np.zeros_like(missing),
                "recent": second.argmax(axis=1),
            }
            for name, which in named.items():
                row[name] = float((said == which)[wrong].mean()) if wrong.any() else np.nan
                possible = (which != missing) / (items - 1)
                row[f"{name}_chance"] = float(possible[wrong].mean()) if wrong.any() else np.nan
            rows.append(row)
        return pd.DataFrame(rows)

    def looking(self, *, level: float = 0.95) -> xr.Dataset:
        """The reader's attention to the missing thing less the mean of the other things, on prompts that it was not found on: mean, ci_lo,
        ci_hi, and share (of prompts in which it looks at the missing thing most) [length]."""
        looks, missing = self.data["attention"], self.data["missing"]
        at = looks["item"] == missing
        gap = looks.where(at).sum("item") - looks.where(~at).mean("item")
        table = _interval(gap.where(~self.data["train"]), level)
        most = looks.fillna(-1.0).argmax("item") == missing
        return table.assign(share=most.where(~self.data["train"]).mean("prompt"), chance=self.chance)

    def steered_right(self, scoring: Scoring = "vocabulary") -> xr.DataArray:
        """Whether each prompt is answered rightly at the point that each rule picks, 0 or 1 [arm, length, prompt, rule]."""
        self._needs_steering()
        point = self.data["chosen"]
        answered = self.data["steered_answered"].isel(point=point)
        return self._right(answered, self.data["steered_logprob"].isel(point=point), scoring)

    def steering(self, scoring: Scoring = "vocabulary", *, level: float = 0.95) -> xr.Dataset:
        """Accuracy of every rule on the prompts that nothing was learned on, [arm, rule, length]: mean, ci_lo, ci_hi; gain over the
        untouched run with gain_lo, gain_hi; over (of the channel: the gain less the mean of the same rule's gains on the controls) with
        over_lo, over_hi; chance, n. Intervals are bootstrapped over prompts, paired."""
        right = self.steered_right(scoring).where(~self.data["train"]).transpose("arm", "rule", "length", "prompt")
        gain = right - right.sel(rule="unsteered", drop=True)
        parts = [("", right), ("gain", gain)]
        if right.sizes["arm"] > 1:
            over = gain.isel(arm=[0]) - gain.isel(arm=slice(1, None)).mean("arm")
            parts.append(("over", over.reindex(arm=right["arm"])))
        tables = [_interval(values, level, name) for name, values in parts]
        return xr.merge(tables, join="exact").assign(chance=self.chance, n=(~self.data["train"]).sum("prompt"))

    def owners(self, length: int, arm: str = "channel") -> xr.DataArray:
        """The listed thing that the reader looks at most at each point of the grid, on average over training prompts, [axis_0, ...] with
        the strengths as coordinates; -1 where none leads the next by more than 0.01."""
        self._needs_steering()
        one_of("length", length, self.lengths)
        one_of("arm", arm, self.arms)
        here = self.data.sel(length=length, arm=arm)
        looks = (
            here["steered_attention"].astype(float).where(here["train"]).mean("prompt").values[1:, :length]
        )  # [point, item]
        order = np.sort(looks, axis=1)
        owner = np.where(order[:, -1] - order[:, -2] > MARGIN, looks.argmax(axis=1), -1)
        alphas = self.data["alpha"].values[1:]
        ticks = {f"axis_{axis}": np.unique(column) for axis, column in enumerate(alphas.T)}
        return xr.DataArray(owner.reshape([len(one) for one in ticks.values()]), ticks, list(ticks), "owner")

    def reachable(self, arm: str = "channel") -> xr.DataArray:
        """How many places of the list the reader can be made to look at most [length]."""
        self._needs_steering()
        one_of("arm", arm, self.arms)
        return (self.data["region"].sel(arm=arm, drop=True) >= 0).sum("item")

    def editing(self, scoring: Scoring = "vocabulary", *, level: float = 0.95) -> xr.Dataset:
        """Accuracy of all prompts with the components scaled in the weights, [gamma, length]: mean, ci_lo, ci_hi, gain, gain_lo,
        gain_hi."""
        if "edited_answered" not in self.data:
            raise BadInput("no weights were edited. Run with `gammas` and with components.")
        right = self._right(self.data["edited_answered"], self.data["edited_logprob"], scoring)
        gain = right - self.right(scoring)
        return xr.merge([_interval(right, level), _interval(gain, level, "gain")]).assign(chance=self.chance)

    def order(self, metric: Literal["prob", "logprob"] = "prob", *, level: float = 0.95) -> "pd.DataFrame":
        """How much of the answer's variance over orders of the first list, within sets of things, is due to the place of the missing thing:
        length, sd (within sets), share (sum of squares between places), expected (of a metric that ignores place), adjusted
        (0 where share is as expected, at most 1), ci_lo, ci_hi (of adjusted, bootstrap over sets), sets, orders."""
        import pandas as pd

        one_of("metric", metric, ["prob", "logprob"])
        if "order_logprob" not in self.data:
            raise BadInput("no orders were tried. Run with `orders` of 2 or more and `lengths` of 3 or more.")
        rows = []
        for place, items in enumerate(self.lengths):
            values = self.data["order_logprob"].values[place].astype(float)  # [set, order]
            known = np.isfinite(values[0])
            if not known.any():
                continue
            values = np.exp(values[:, known]) if metric == "prob" else values[:, known]
            between, total = _squares(values, self.data["order_missing"].values[place][:, known])
            k, n = len(np.unique(self.data["order_missing"].values[place][:, known])), int(known.sum())
            expected = (k - 1) / (n - 1)

            def adjusted(parts: np.ndarray, expected: float = expected) -> float:
                between, total = parts.sum(axis=0)
                return float((between / total - expected) / (1 - expected)) if total > 0 else np.nan

            parts = np.stack([between, total], axis=-1)  # [set, 2]
            low, high = _ratio_interval(parts, adjusted, level)
            rows.append(
                {
                    "length": items, "sd": float(np.sqrt(total.sum() / values.size)), "share": adjusted(parts, 0.0),
                    "expected": expected, "adjusted": adjusted(parts), "ci_lo": low, "ci_hi": high, "sets": len(values), "orders": n,
                }
            )  # fmt: skip
        return pd.DataFrame(rows)

    def headline(self) -> dict[str, float]:
        """Accuracy over all lengths; without steering, of the longest list, else the gain of a rule that knows the answer and of one that
        does not."""
        numbers = {"accuracy, mean of lengths": float(self.right().mean())}
        if not self.steers:
            longest = self.accuracy().isel(length=-1)
            named = {f"accuracy of {self.lengths[-1]}": float(longest["mean"]), "chance": float(longest["chance"])}
            return numbers | named
        gain = self._gain()
        return numbers | {
            "gain, answer known (oracle region)": float(gain.sel(rule="oracle region")),
            "gain, answer unknown (single point)": float(gain.sel(rule="single point")),
        }

    def report_lines(self) -> tuple[str, ...]:
        """Accuracy by length, untouched and steered, of the prompts that nothing was learned on; by the best token of all."""
        among = self.right("listed").mean("prompt").values
        if not self.steers:
            return self._plain_lines(among)
        lines = [
            "accuracy on prompts that nothing was learned on, best token of all; `listed`: best of the things listed, all prompts"
        ]
        table = self._tested()
        shown = [rule for rule in RULES if rule != "second list"]
        lines.append(f"{'items':>5} {'chance':>7} {'listed':>7} " + " ".join(f"{rule:>16}" for rule in shown))
        for place, items in enumerate(self.lengths):
            cells = " ".join(f"{float(table.sel(rule=rule)[0, place]):>16.2f}" for rule in shown)
            lines.append(f"{items:>5} {1 / items:>7.2f} {among[place]:>7.2f} {cells}")
        for number in range(1, table.sizes["arm"]):
            mean = table.isel(arm=number).mean("length")
            cells = " ".join(f"{float(mean.sel(rule=rule)):>16.2f}" for rule in shown)
            lines.append(f"{table['arm'].values[number]!s:<21} {cells}")
        known = ", ".join(f"{rule}: {self.data['knows'].sel(rule=rule).item()}" for rule in shown)
        lines.append(f"what the rules know: {known}")
        lines.append(
            "controls: means of lengths; `second list`, read off the tokens, is the oracle region by construction"
        )
        return tuple(lines)

    def _plain_lines(self, among: np.ndarray) -> tuple[str, ...]:
        found = self.accuracy()
        lines = [f"{'items':>5} {'chance':>7} {'accuracy':>20} {'listed':>7}"]
        for place, items in enumerate(self.lengths):
            mean, low, high = (float(found[name][place]) for name in ("mean", "ci_lo", "ci_hi"))
            span = f"{mean:.2f} [{low:.2f}, {high:.2f}]"
            lines.append(f"{items:>5} {1 / items:>7.2f} {span:>20} {among[place]:>7.2f}")
        return tuple(lines)

    def _tested(self) -> xr.DataArray:
        """Accuracy at the points of every rule on test prompts [arm, length, rule]."""
        return self.steered_right().where(~self.data["train"]).mean("prompt")

    def thumbnail(self) -> xr.DataArray | None:
        """Accuracy by length and place."""
        right, missing = self.right(), self.data["missing"]
        parts = [right.where(missing == item).mean("prompt") for item in self.data["item"].values]
        return xr.concat(parts, self.data["item"]).transpose("length", "item")

    def _right(self, answered: xr.DataArray, logprob: xr.DataArray, scoring: str) -> xr.DataArray:
        one_of("scoring", scoring, SCORINGS)
        said = answered if scoring == "vocabulary" else logprob.fillna(-np.inf).argmax("item")
        return (said == self.data["missing"]).astype(float)

    def _gain(self) -> xr.DataArray:
        table = self._tested().isel(arm=0)
        return (table - table.sel(rule="unsteered", drop=True)).mean("length")

    def _needs_steering(self) -> None:
        if not self.steers:
            raise BadInput("nothing was steered. Run with `axes` of 1 or more, or name `components`.")


def _interval(values: xr.DataArray, level: float, name: str = "") -> xr.Dataset:
    """mean, ci_lo, ci_hi over prompts; with a name: name, name_lo, name_hi."""
    names = (name, f"{name}_lo", f"{name}_hi") if name else ("mean", "ci_lo", "ci_hi")
    parts = bootstrap_ci(values, "prompt", level=level, name="laundry")
    keep = [str(dim) for dim in values.dims if dim != "prompt"]
    columns = {key: part.reset_coords(drop=True).transpose(*keep) for key, part in zip(names, parts, strict=True)}
    return xr.Dataset(columns)


def _squares(values: np.ndarray, places: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Sums of squares within each set: between places, and in all [set]."""
    mean = values.mean(axis=1, keepdims=True)
    between = np.zeros(len(values))
    for place in np.unique(places):
        here = places == place
        count = here.sum(axis=1)
        own = np.where(here, values, 0.0).sum(axis=1) / np.maximum(count, 1)
        between += count * (own - mean[:, 0]) ** 2
    total = ((values - mean) ** 2).sum(axis=1)
    flat = total <= 1e-12 * (values**2).sum(axis=1)  # rounding
    return np.where(flat, 0.0, between), np.where(flat, 0.0, total)


def _ratio_interval(parts: np.ndarray, statistic: Any, level: float) -> tuple[float, float]:
    """Bootstrap over sets of a ratio of sums [set, 2]; `bootstrap_ci` resamples the rows of both columns alike."""
    packed = np.arange(len(parts), dtype=float)[:, None]  # row numbers stand for rows

    def of_rows(rows: np.ndarray, axis: int = 0) -> np.ndarray:
        return np.array([statistic(parts[rows[:, 0].astype(int)])])

    _, low, high = bootstrap_ci(packed, statistic=of_rows, level=level, name="laundry orders")
    return float(np.ravel(low)[0]), float(np.ravel(high)[0])
