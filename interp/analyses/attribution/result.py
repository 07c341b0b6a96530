"""What an attribution gives: every pair's map, the true effects beside it, and how well they agree."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import xarray as xr

from interp.core.analysis import Result
from interp.core.errors import BadInput, one_of
from interp.core.stats import bootstrap_ci

from .agreement import agreements, summary
from .nodes import axes, sizes

if TYPE_CHECKING:
    import pandas as pd

    from interp.core.lm import LM

    from .attribute import Attribution
    from .attributor import Part

RANDOM, BEST = 1, 2
"""Values of `chosen`: patched as one of the random (or of all) cells, patched as one of the best; 0 = not patched."""


class AttributionResult(Result):
    """Attributed effects of every node, and true ones of those that were patched.

    data (axes of a map: layer, head, pos for z, q, k, v; layer, pos for streams and outputs; layer, neuron for neurons):
        score     [pair, form, *map]   attributed effect: (clean - corrupted) . gradient. Positive: the node carries the answer
        true      [pair, form, *map]   true effect, NaN where it was not patched
        chosen    [pair, form, *map]   0 not patched, 1 patched as one of all or of the random cells, 2 patched as one of the best
        unfixed   [pair, form, *map]   with qk_fix: the plain attribution
        dropped   [pair, form, *map]   with graddrop: a score to rank by, at least 0. Not an effect
        clean, corrupted [pair]        metric of the two runs
        token, token_corrupted [pair, pos]     labels, "" beyond the prompt
        attributed, moved [pair, form, stage]  with ig: what attributions sum to, and what they must sum to
        subsets   [pair, form, subset] with bound: effect of each random half of the cells that were not patched
    coords: pair (ids), form, layer, head (key/value heads for k and v), pos, neuron, stage; along pair known, answer, foil, predicted.
    attrs: metric, nodes, method.

    noising effect = M(clean) - M(clean | do corrupted), denoising effect = M(corrupted | do clean) - M(corrupted): in both, what the node
    is worth to the answer. (The papers' AtP is the *change* under noising: minus this.)
    """

    figure: ClassVar[str] = "attribution"
    main: ClassVar[str] = "score"
    effect: ClassVar[bool] = True

    @property
    def cells(self) -> tuple[str, ...]:
        """Axes of the map."""
        return axes(str(self.data.attrs["nodes"]))

    def mean(self, form: str | None = None, variable: str = "score", level: float = 0.95) -> xr.Dataset:
        """Mean over pairs of each cell, of its magnitude, and the interval of the mean: mean, magnitude, ci_lo, ci_hi [*map].

        Cells of opposite signs in different pairs cancel in `mean` and not in `magnitude`, by which nodes are best ranked.
        """
        values = self._of(form, variable)
        mean, low, high = bootstrap_ci(values, axis="pair", level=level, name="attribution")
        return xr.Dataset({"mean": mean, "magnitude": abs(values).mean("pair"), "ci_lo": low, "ci_hi": high})

    def top(self, n: int = 10, form: str | None = None, by: str = "magnitude") -> "pd.DataFrame":
        """The `n` cells with the largest `by` ('magnitude' or 'mean', its absolute value): their places, mean, magnitude, true effect.

        `true` is the mean over pairs, NaN where the cell was not patched in every pair.
        """
        import pandas as pd

        one_of("by", by, ("magnitude", "mean"))
        table = self.mean(form)
        size = np.nan_to_num(np.abs(table[by].values), nan=-1.0)
        places = np.unravel_index(np.argsort(-size, axis=None, kind="stable")[:n], size.shape)
        columns: dict[str, Any] = {
            axis: table[axis].values[place] for axis, place in zip(self.cells, places, strict=True)
        }
        for name in ("mean", "magnitude", "ci_lo", "ci_hi"):
            columns[name] = table[name].values[places]
        if "true" in self.data:
            columns["true"] = self._of(form, "true").mean("pair", skipna=False).values[places]
        return pd.DataFrame(columns)

    def agreement(
        self, form: str | None = None, *, variable: str = "score", k: int = 10, level: float = 0.95
    ) -> dict[str, float]:
        """How well the map agrees with true patching, over the cells that were patched (all, or the random ones) pair by pair.

        Gives rho (Spearman), r (Pearson), each the mean over pairs with its bootstrap interval; top (share of the `k` truly largest
        cells that are among the `k` largest attributed, over all patched cells) with `top_chance`; slope (least squares through 0 of
        true on attributed); pairs; cells (mean number a pair). Cells without effect in either (exactly 0, or a millionth of the
        pair's largest) are left out. NaN where fewer than three cells remain or nothing has an effect.
        """
        if "true" not in self.data:
            raise BadInput(
                "nothing was patched (`verify=0`), so there is nothing to agree with. Attribute again with verify=64."
            )
        score, true = self._of(form, variable), self._of(form, "true")
        chosen = self._of(form, "chosen").values
        return summary(agreements(score.values, true.values, chosen, k=k), level=level)

    def bound(self, form: str | None = None, level: float = 0.95) -> xr.DataArray:
        """For each pair, a size that no effect of a cell that was not patched exceeds, if effects add up: [pair].

        Twice the standard deviation over random halves, times what makes it an upper confidence limit at `level`.
        """
        from scipy.stats import chi2

        if "subsets" not in self.data:
            raise BadInput("no random halves were patched (`bound=0`). Attribute again with bound=20.")
        values = self._of(form, "subsets")
        free = values.sizes["subset"] - 1
        spread = 2 * values.std("subset", ddof=1) * np.sqrt(free / chi2.ppf(1 - level, free))
        return spread.rename("bound")

    def completeness(self, form: str | None = None) -> xr.Dataset:
        """Integrated gradients only: gap = attributed - moved, and its share of what moved, [pair, stage]."""
        if "moved" not in self.data:
            raise BadInput("only method='ig' has a sum that must come out. Attribute again with method='ig'.")
        attributed, moved = self._of(form, "attributed"), self._of(form, "moved")
        return xr.Dataset({"gap": attributed - moved, "share": (attributed - moved) / moved.where(moved != 0)})

    def headline(self) -> dict[str, float]:
        """Rank correlation with true patching (and over what), the completeness gap or the total effect, and the strongest node."""
        form = self._form(None)
        found: dict[str, float] = {}
        if "true" in self.data:
            agree = self.agreement()
            which = "all cells" if not (self._of(form, "chosen") == BEST).any() else "random cells"
            found[f"rank correlation with patching ({form}, {which})"] = agree["rho"]
        else:
            found["total effect (nothing was patched)"] = float((self.data["clean"] - self.data["corrupted"]).mean())
        if "moved" in self.data:
            off = self.completeness()
            found["largest completeness gap (share)"] = float(np.abs(off["share"]).max())
        best = self.top(1).iloc[0]
        where = ".".join(str(int(best[axis])) for axis in self.cells)
        found[f"strongest {self.data.attrs['nodes']}: {'.'.join(self.cells)} {where}"] = float(best["mean"])
        return found

    def thumbnail(self) -> xr.DataArray | None:
        """Mean scores of the first form, summed over positions where there are heads."""
        mean = self._of(None, "score").mean("pair")
        return mean.sum("pos") if len(self.cells) == 3 else mean

    def _form(self, form: str | None) -> str:
        have = [str(name) for name in self.data["form"].values]
        if form is not None:
            one_of("form", form, have)
        return form or have[0]

    def _of(self, form: str | None, variable: str) -> xr.DataArray:
        return self._variable(variable).sel(form=self._form(form), drop=True)


def assemble(config: "Attribution", lm: "LM", parts: "Sequence[Part]") -> AttributionResult:
    """The groups' numbers at the places of their pairs, padded along `pos`."""
    count, width = sum(len(part.group) for part in parts), max(part.group.width for part in parts)
    cells = axes(config.nodes)
    full = (count, len(config.forms), *sizes(config.nodes, lm.spec, width))
    data: dict[str, Any] = {}
    for name in parts[0].maps:
        table = np.zeros(full, dtype=np.int64) if name == "chosen" else np.full(full, np.nan)
        for part in parts:
            found = part.maps[name][None] if name == "chosen" else part.maps[name]  # [pair, form, *map]
            place = (
                (list(part.group.index), ..., slice(found.shape[-1])) if "pos" in cells else (list(part.group.index),)
            )
            table[place] = found
        data[name] = (("pair", "form", *cells), table)
    last = {"attributed": "stage", "moved": "stage", "subsets": "subset"}
    for name in parts[0].totals:
        data[name] = (("pair", "form", last[name]), _placed(parts, [part.totals[name] for part in parts]))
    for name in ("clean", "corrupted"):
        data[name] = ("pair", _placed(parts, [getattr(part, name) for part in parts]))
    if "pos" in cells:
        data |= _tokens(parts, count, width)
    return AttributionResult(xr.Dataset(data, _coords(config, lm, parts, width), _attrs(config)))


def _placed(parts: "Sequence[Part]", values: Sequence[np.ndarray]) -> np.ndarray:
    out = np.zeros((sum(len(part.group) for part in parts), *values[0].shape[1:]), dtype=values[0].dtype)
    for part, value in zip(parts, values, strict=True):
        out[list(part.group.index)] = value
    return out


def _tokens(parts: "Sequence[Part]", count: int, width: int) -> dict[str, Any]:
    labels = {name: np.full((count, width), "", dtype=object) for name in ("token", "token_corrupted")}
    for part in parts:
        for place, pair in zip(part.group.index, part.group.tokens, strict=True):
            labels["token"][place, : len(pair.clean)] = pair.clean.labels
            labels["token_corrupted"][place, : len(pair.clean)] = pair.corrupted.labels
    return {name: (("pair", "pos"), values.astype(str)) for name, values in labels.items()}


def _coords(config: "Attribution", lm: "LM", parts: "Sequence[Part]", width: int) -> dict[str, Any]:
    label = lm.tokenizer.label
    cells = axes(config.nodes)
    rows: dict[int, dict[str, Any]] = {}
    for part in parts:
        group = part.group
        for row, place in enumerate(group.index):
            rows[place] = {
                "pair": group.tokens[row].id, "known": group.known[row], "answer": label(int(group.answer[row])),
                "foil": label(int(group.foil[row])), "predicted": label(int(group.predicted[row])),
            }  # fmt: skip
    ordered = [rows[place] for place in sorted(rows)]
    names = [row["pair"] for row in ordered]
    again = {name: names.count(name) > 1 for name in names}
    coords: dict[str, Any] = {
        "pair": [f"{name}#{place}" if again[name] else name for place, name in enumerate(names)],
        "form": list(config.forms),
        **{axis: np.arange(size) for axis, size in zip(cells, sizes(config.nodes, lm.spec, width), strict=True)},
    }
    coords |= {key: ("pair", [row[key] for row in ordered]) for key in ("known", "answer", "foil", "predicted")}
    if "moved" in parts[0].totals:
        n = parts[0].totals["moved"].shape[-1]
        coords["stage"] = ["embedding"] if config.path == "embedding" else [f"layer {layer}" for layer in range(n)]
    return coords


def _attrs(config: "Attribution") -> dict[str, Any]:
    return {
        "metric": config.metric,
        "nodes": config.nodes,
        "method": config.method,
        "qk_fix": config.qk_fix,
        "path": config.path,
    }
