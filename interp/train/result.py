"""What a training measured on its way: a table over rows seen, for each dictionary and view, and what it ended with."""

from typing import Any, ClassVar

import numpy as np
import xarray as xr

from ..core.analysis import Result

LATE = 0.2
"""The last share of the training in which no new exclusive latents should appear."""
NEW = 0.05
"""By how much their number may still grow in it."""


class TrainingResult(Result):
    """Metrics [step, dictionary, view] while dictionaries were trained, and after.

    Variables, each a mean since the record before unless it says otherwise: `loss`, `terms` (parts of the loss), `fvu` of each view
    (squared error over the variance of all rows), `l0`, `gradient_norm` (before clipping), `fallback` (selections that had to be done
    over in full, a count), `tokens_per_second` (training alone). At the record: `lr`, `k`, `threshold` (running), `dead` (latents not on
    for `dead_after` tokens), `alive` (share of latents that are not dead), `silent` (latents not on since the record before), `exclusive`
    (live latents whose other decoder norms are at most a fifth of this view's: relative norm difference beyond 0.9 or 0.1), and, about
    twenty times in a training, `fvu_heldout` and `l0_heldout` on rows that were not trained on, by the rule of inference (NaN between).
    After training: `final_fvu`, `final_l0`, `calibrated` (threshold),
    `final_l0_running` (with the running threshold instead). `step` counts optimizer steps, `tokens` rows.
    """

    figure: ClassVar[str] = "training"
    main: ClassVar[str] = "fvu_heldout"

    @property
    def names(self) -> list[str]:
        """The dictionaries."""
        return [str(name) for name in self.data["dictionary"].values]

    @property
    def warnings(self) -> list[str]:
        """What went wrong or looks wrong, in words."""
        return list(self.data.attrs["warnings"])

    def final(self) -> xr.Dataset:
        """What each dictionary ended with [dictionary] or [dictionary, view]: fvu, l0, l0_running, calibrated, dead, latents."""
        data = self.data
        found = {name: data[f"final_{name}"] for name in ("fvu", "l0", "l0_running")}
        found |= {"calibrated": data["calibrated"], "latents": data["latents"], "dead": data["dead"].isel(step=-1)}
        return xr.Dataset(found).drop_vars(["step", "tokens"], errors="ignore")

    def exclusive(self) -> xr.DataArray | None:
        """Live latents of one view only [step, dictionary, view]; None where no dictionary writes several views."""
        return self.data.get("exclusive")

    def still_finding(self) -> dict[str, tuple[int, int]]:
        """Dictionaries whose exclusive latents still grew in number in the last fifth: how many there were before it, and at the end.

        They are learned last, being worth less reconstruction than shared ones: a crosscoder that is stopped here under-reports what its
        models do not share, however converged its FVU looks.
        """
        counts = self.exclusive()
        if counts is None or counts.sizes["step"] < 2:
            return {}
        tokens = self.data["tokens"].values
        before = int(np.searchsorted(tokens, (1 - LATE) * tokens[-1], side="right")) - 1
        if before < 0:
            return {}
        total = counts.sum("view", skipna=True)
        found = {}
        for name in self.names:
            one = total.sel(dictionary=name).values
            early, late = int(one[before]), int(one[-1])
            if late > early and late - early >= NEW * late:
                found[name] = (early, late)
        return found

    def headline(self) -> dict[str, float]:
        """FVU on held-out rows (mean over views), L0 by the rule of inference, and dead latents, of the dictionary with the lowest FVU."""
        end = self.final()
        fvu = end["fvu"].mean("view").values
        best = int(np.nanargmin(fvu)) if np.isfinite(fvu).any() else 0
        of = f" ({self.names[best]})" if len(self.names) > 1 else ""
        one = end.isel(dictionary=best)
        return {f"FVU{of}": float(fvu[best]), f"L0{of}": float(one["l0"]), f"dead latents{of}": float(one["dead"])}

    def report_lines(self) -> tuple[str, ...]:
        """A row for each dictionary and view, the thresholds, and the warnings."""
        end, data = self.final(), self.data
        wide = max(10, *(len(name) for name in self.names))
        views = [str(view) for view in data["view"].values]
        side = max(5, *(len(view) for view in views))
        lines = [
            f"{'dictionary':<{wide}} {'view':<{side}} {'FVU':>7} {'trained on':>10} {'L0':>8} {'dead':>8} of latents"
        ]
        last = data.isel(step=-1)
        for name in self.names:
            one, was = end.sel(dictionary=name), last.sel(dictionary=name)
            for view in views:
                fvu = float(one["fvu"].sel(view=view))
                if not np.isfinite(fvu):
                    continue
                lines.append(
                    f"{name:<{wide}} {view:<{side}} {fvu:7.4f} {float(was['fvu'].sel(view=view)):10.4f} {float(one['l0']):8.2f} "
                    f"{float(one['dead']):8,.0f} of {int(one['latents']):,}"
                )
            lines += self._threshold(name)
        return (*lines, *(f"! {text}" for text in self.warnings))

    def _threshold(self, name: str) -> list[str]:
        one = self.final().sel(dictionary=name)
        fixed = np.unique(one["calibrated"].values[np.isfinite(one["calibrated"].values)])
        if not len(fixed):
            return []
        running = self.data["threshold"].isel(step=-1).sel(dictionary=name).values
        mean = np.unique(running[np.isfinite(running)])
        l0, before = float(one["l0"]), float(one["l0_running"])
        return [
            f"  threshold {_several(fixed)} set on held-out rows (L0 {l0:.2f}); running mean in training {_several(mean)} (L0 {before:.2f})"
        ]


def _several(values: np.ndarray) -> str:
    return ", ".join(f"{value:.4g}" for value in values)


def assemble(
    records: list[dict[str, Any]], end: dict[str, Any], labels: dict[str, list[str]], attrs: dict[str, Any]
) -> xr.Dataset:
    """The data of a result: one record a row of the table (each value already [dictionary, ...]), the end, coordinates and attributes."""
    dims = {
        "fvu": ("view",), "fvu_heldout": ("view",), "threshold": ("view",), "exclusive": ("view",), "terms": ("term",),
        "final_fvu": ("view",), "calibrated": ("view",),
    }  # fmt: skip
    data: dict[str, Any] = {}
    for name in records[0]:
        if name in ("step", "tokens"):
            continue
        values = np.stack([np.asarray(record[name], dtype=np.float64) for record in records])
        lead = ("step",) if name == "tokens_per_second" else ("step", "dictionary")
        data[name] = ((*lead, *dims.get(name, ())), values)
    for name, value in end.items():
        data[name] = (("dictionary", *dims.get(name, ())), np.asarray(value))
    tokens = np.array([record["tokens"] for record in records], dtype=np.int64)
    coords = {
        "step": np.array([record["step"] for record in records], dtype=np.int64),
        "tokens": ("step", tokens),
        **labels,
    }
    return xr.Dataset(data, coords, attrs)
