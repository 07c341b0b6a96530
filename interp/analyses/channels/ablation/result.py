"""What is known after a writer was taken apart: what each edit did to the reader and to the answer, against its controls.

import interp
lm, task = interp.load("atlas"), interp.reference.task("atlas", "ioi", 8)
result = interp.ComponentAblation(strongest=1, controls=5)(lm, task)
result.drops("keep"), result.head("0.1") if "0.1" in result.writers else result.writers
"""

from typing import TYPE_CHECKING, ClassVar

import numpy as np
import xarray as xr

from interp.core.analysis import Result
from interp.core.errors import BadInput, one_of
from interp.core.seed import numpy_generator
from interp.core.stats import bootstrap_ci, holm, sign_flip_test, spearman

from ...readout import METRICS

if TYPE_CHECKING:
    import pandas as pd

WHAT = ("score", *METRICS)
"""What a drop can be of: the readout, or one of the metrics of the answer."""
KINDS = ("zero", "keep", "scale", "head", "random")
JOINT = {
    ("zero", -1): "all strongest removed", ("keep", -1): "only the strongest of each", ("keep", 0): "only component 0 of each",
    ("head", -1): "all these heads removed",
}  # fmt: skip


class ComponentAblationResult(Result):
    """The reader's attention and the answer's metrics under every edit, on every prompt.

    data:
        score      [edit, prompt]          the readout, A[to] - A[minus] of the reader, in [-1, 1]
        attention  [edit, prompt, span]    its two terms
        outcome    [edit, prompt, metric]  prob, logprob, logit_diff, rank of the answer
        score_before, attention_before, outcome_before   the same without any edit, without the axis edit
    coords: prompt (ids) with known, answer, foil; span, metric; along edit:
        edit_kind      zero (removed), keep (all others of the head removed), scale (set to `scale`), head (all removed), random (a random
                       direction of the write space removed)
        writer         the head, or `all`
        component      the (first) component that it is about; of `all`, 0 means component 0 and -1 each writer's strongest
        size           components or dimensions that are removed (kept, set)
        composition    score with the reader's input; value: singular value; draw: number of a control; NaN and -1 where there is none
    attrs: reader, to, minus, query, kind, at, biases, folded, offset (rotary models), reader_p (Holm, where the reader was looked for),
        weight_difference (largest difference of a readout to that of edited weights, on the first prompts).

    A drop is before - after: positive where the reader looks less at `to` (or the answer gets less) without what was removed.
    """

    figure: ClassVar[str] = "channel_ablation"
    main: ClassVar[str] = "score"
    effect: ClassVar[bool] = True

    @property
    def writers(self) -> list[str]:
        """The heads that were taken apart, strongest into the reader first."""
        return [one for one in dict.fromkeys(self.data["writer"].values.tolist()) if one != "all"]

    def head(self, writer: str) -> xr.Dataset:
        """The edits of one writer, or of `all` together."""
        one_of("writer", writer, dict.fromkeys(self.data["writer"].values.tolist()))
        return self.data.isel(edit=self.data["writer"].values == writer)

    def drop(self, of: str = "score", *, known: bool = False) -> xr.DataArray:
        """Before - after, prompt by prompt, [edit, prompt]; `known=True` leaves out prompts that the model answers wrongly."""
        one_of("of", of, WHAT)
        data = self.data
        if known:
            if not bool(data["known"].values.any()):
                raise BadInput(
                    f"the model answers none of the {data.sizes['prompt']} prompts. Average over all: known=False."
                )
            data = data.isel(prompt=data["known"].values)
        if of == "score":
            change = data["score_before"] - data["score"]
        else:
            change = (data["outcome_before"] - data["outcome"]).sel(metric=of, drop=True)
        return change.transpose("edit", "prompt").rename("drop")

    def drops(
        self,
        kind: str | None = None,
        of: str = "score",
        *,
        writer: str | None = None,
        known: bool = False,
        level: float = 0.95,
    ) -> "pd.DataFrame":
        """Mean drop of the edits of one kind (all but the random ones): edit_kind, writer, component, size, scale, composition, value,
        drop, ci_lo, ci_hi (bootstrap over prompts), share (of the mean before, NaN where that is 0), after, p and p_adjusted (sign flips,
        Holm over the rows)."""
        import pandas as pd

        kinds = self.data["edit_kind"].values
        keep = kinds != "random"
        if kind is not None:
            one_of("kind", kind, KINDS)
            keep = kinds == kind
        if writer is not None:
            one_of("writer", writer, dict.fromkeys(self.data["writer"].values.tolist()))
            keep &= self.data["writer"].values == writer
        part = self.drop(of, known=known).isel(edit=np.flatnonzero(keep))
        names = ["edit_kind", "writer", "component", "size", "scale", "composition", "value"]
        frame = pd.DataFrame({name: part[name].values for name in names})
        if not len(frame):
            return frame
        mean, low, high = bootstrap_ci(part.values, axis=1, level=level, name="ablation")
        before = self._before(of, known)
        p = sign_flip_test(part.values, axis=1, name="ablation")
        extra = {
            "drop": mean, "ci_lo": low, "ci_hi": high, "share": mean / before if before else np.full(len(mean), np.nan),
            "after": before - mean, "p": p, "p_adjusted": holm(p),
        }  # fmt: skip
        return frame.assign(**extra)

    def components(self, of: str = "score", *, known: bool = False, level: float = 0.95) -> "pd.DataFrame":
        """The components that were removed one by one, as `drops`; those with the highest composition score first, writer by writer."""
        frame = self.drops("zero", of, known=known, level=level)
        frame = frame[frame["writer"] != "all"].assign(
            name=lambda table: table["writer"] + "." + table["component"].astype(str)
        )
        place = frame["writer"].map({name: number for number, name in enumerate(self.writers)})
        order = np.lexsort([-frame["composition"], place])
        return frame.iloc[order].reset_index(drop=True)

    def controls(self, of: str = "score", *, known: bool = False) -> "pd.DataFrame":
        """The strongest component of each writer (by composition, so not by what it did) beside what could have done as much: name,
        composition, drop, head (drop without the whole head), others and others_p (mean absolute drop of the head's other components, share
        of them that do as much), random, random_p, n_others, n_random. A p is (1 + as many) / (1 + n), two-sided; NaN without controls."""
        import pandas as pd

        drop = self.drop(of, known=known).mean("prompt")
        rows = []
        for writer in self.writers:
            mine = drop.isel(edit=drop["writer"].values == writer)
            kinds = mine["edit_kind"].values
            zero, random = (mine.isel(edit=kinds == kind) for kind in ("zero", "random"))
            top = int(zero["composition"].values.argmax())
            size = abs(float(zero[top]))
            others = np.abs(np.delete(zero.values, top))
            drawn = np.abs(random.values)
            rows.append(
                {
                    "writer": writer, "name": f"{writer}.{int(zero['component'].values[top])}",
                    "composition": float(zero["composition"].values[top]), "drop": float(zero[top]),
                    "head": float(mine.values[kinds == "head"][0]),
                    "others": _mean(others), "others_p": _share(others, size), "n_others": len(others),
                    "random": _mean(drawn), "random_p": _share(drawn, size), "n_random": len(drawn),
                }
            )  # fmt: skip
        return pd.DataFrame(rows)

    def agreement(
        self, of: str = "score", *, known: bool = False, level: float = 0.95, n: int = 1000, seed: int = 0
    ) -> "pd.DataFrame":
        """Do channels that can talk, talk? Rank correlation over a writer's components of composition score and absolute mean drop: writer,
        rho, ci_lo, ci_hi, p, n. The interval resamples prompts and components both (`n` times); NaN below four components."""
        import pandas as pd

        change = self.drop(of, known=known)
        rows = []
        for writer in self.writers:
            chosen = (change["writer"].values == writer) & (change["edit_kind"].values == "zero")
            part = change.isel(edit=np.flatnonzero(chosen))
            score, values = part["composition"].values, part.values  # [component], [component, prompt]
            found = spearman(score, np.abs(values.mean(axis=1)))
            low = high = np.nan
            if len(score) >= 4:
                rng = numpy_generator(seed, "agreement", writer)
                prompts = rng.multinomial(values.shape[1], np.full(values.shape[1], 1 / values.shape[1]), size=n)
                size = np.abs(prompts @ values.T / values.shape[1])  # [resample, component]
                pick = rng.integers(0, len(score), size=(n, len(score)))
                rho = _rank_correlation(score[pick], np.take_along_axis(size, pick, axis=1))
                low, high = np.nanquantile(rho, [(1 - level) / 2, (1 + level) / 2])
            rows.append(
                {"writer": writer, "rho": found.rho, "ci_lo": low, "ci_hi": high, "p": found.p, "n": len(score)}
            )
        return pd.DataFrame(rows)

    def headline(self) -> dict[str, float]:
        """The readout before, what the strongest channel's removal takes from it, and the share of its head's others that take as much."""
        first = self.controls().iloc[0]
        attrs = self.data.attrs
        less = f" - {attrs['minus']}" if attrs["minus"] else ""
        return {
            f"{attrs['reader']} on {attrs['to']}{less}": self._before("score", False),
            f"drop without {first['name']}": float(first["drop"]),
            f"p among its head's {int(first['n_others'])} others": float(first["others_p"]),
        }  # fmt: skip

    def report_lines(self) -> tuple[str, ...]:
        """Each writer's strongest component beside its controls; then the edits of whole heads and of all writers."""
        lines = [
            "strongest     composition   drop  head's others (p)  random (p)   whole head   only it: readout   only 0"
        ]
        keep = self.drops("keep").set_index(["writer", "component"])["after"]
        for row in self.controls().to_dict("records"):
            only, first = (keep[row["writer"], component] for component in (int(row["name"].rpartition(".")[2]), 0))
            lines.append(
                f"{row['name']:<13} {row['composition']:11.3f} {row['drop']:+6.3f}  {row['others']:8.3f} ({row['others_p']:.2f})   "
                f"{row['random']:5.3f} ({row['random_p']:.2f})  {row['head']:+9.3f}  {only:+17.3f}  {first:+7.3f}"
            )
        for row in self.drops(writer="all").to_dict("records") if "all" in self.data["writer"].values else ():
            what = JOINT[row["edit_kind"], row["component"]]
            lines.append(
                f"{what:<28} drop {row['drop']:+.3f} ({row['ci_lo']:+.3f} to {row['ci_hi']:+.3f}), readout {row['after']:+.3f}"
            )
        for row in self.agreement().to_dict("records"):
            lines.append(
                f"{row['writer']}: composition and drop agree with rho {row['rho']:+.2f} ({row['ci_lo']:+.2f} to {row['ci_hi']:+.2f}) over "
                f"{row['n']} components"
            )
        return tuple(lines)

    def thumbnail(self) -> xr.DataArray | None:
        """Mean drop of each component, writer by component."""
        table = self.drop().mean("prompt")
        width = int(table["component"].max()) + 1
        values = np.full((len(self.writers), width), np.nan)
        chosen = (table["edit_kind"].values == "zero") & (table["writer"].values != "all")
        for one in np.flatnonzero(chosen):
            values[self.writers.index(str(table["writer"].values[one])), int(table["component"].values[one])] = (
                table.values[one]
            )
        return xr.DataArray(values, {"writer": self.writers, "component": np.arange(width)}, ("writer", "component"))

    def _before(self, of: str, known: bool) -> float:
        values = self.data["score_before"] if of == "score" else self.data["outcome_before"].sel(metric=of)
        return float(values.values[self.data["known"].values].mean() if known else values.mean())


def _mean(values: np.ndarray) -> float:
    return float(values.mean()) if len(values) else float("nan")


def _share(values: np.ndarray, size: float) -> float:
    """The share of controls that do at least as much, the one itself counted; NaN without any."""
    return (1 + int((values >= size * (1 - 1e-12)).sum())) / (1 + len(values)) if len(values) else float("nan")


def _rank_correlation(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Spearman's rho of each row of a and b [resample, component]; NaN where one is constant."""
    from scipy.stats import rankdata

    x, y = (rankdata(values, axis=1) for values in (a, b))
    x, y = (values - values.mean(axis=1, keepdims=True) for values in (x, y))
    size = np.sqrt((x * x).sum(axis=1) * (y * y).sum(axis=1))
    return np.where(size > 0, (x * y).sum(axis=1) / np.where(size > 0, size, 1.0), np.nan)
