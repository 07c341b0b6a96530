"""What path patching gives: every pair's score for every path, and the averages over pairs."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import xarray as xr

from interp.core.analysis import Result
from interp.core.errors import BadInput, one_of
from interp.core.stats import benjamini_hochberg, bootstrap_ci, holm, sign_flip_test

from ..readout import METRICS

if TYPE_CHECKING:
    import pandas as pd

    from interp.core.lm import LM

    from ..pairs import PairGroup
    from .nodes import Receiver
    from .patch import PathPatching
    from .sweep import Sender

MEASURES = (*METRICS, "relative")


class PathResult(Result):
    """Scores of every path of every pair.

    data:
        score            [pair, receiver, role, layer, head, metric]   the answer's metric with this path patched; only with senders
                                                                       "heads"; NaN for heads that were not asked for
        score_mlp        [pair, receiver, role, layer, metric]         the same for MLPs as senders
        clean, corrupted [pair, metric]                                the two runs themselves, both for the clean answer and foil
    coords: pair (ids), receiver (as written, joined by + where they were patched together), role (where senders were patched), layer,
        head, metric; and along pair known (bool: the clean run's top token is the answer), answer, foil, predicted (token labels),
        foil_given.
    attrs: freeze (the rule, in words), direction, receivers.

    Effects of noising are clean - patched, of denoising patched - corrupted: positive where the path carries what makes the answer.
    `relative` has the sign of Prakash et al.: (p_patched - p_clean) / p_clean, -1 where the path carries everything. Averages are over
    known pairs unless told otherwise. Effects of `rank` have the other sign. Nothing is clipped.
    """

    figure: ClassVar[str] = "paths"
    main: ClassVar[str] = "score"
    effect: ClassVar[bool] = True

    @property
    def senders(self) -> tuple[str, ...]:
        """Which of heads and MLPs spoke."""
        return tuple(kind for kind, name in (("heads", "score"), ("mlps", "score_mlp")) if name in self.data)

    @property
    def n_known(self) -> int:
        """Pairs whose answer the model gives in the clean run."""
        return int(self.data["known"].values.sum())

    def effects(self, metric: str = "logit_diff", *, senders: str = "heads") -> xr.DataArray:
        """What each path does to the answer, all pairs, [pair, receiver, role, layer, head] (no head for MLPs)."""
        if metric == "relative":
            return self.relative(senders=senders)
        one_of("metric", metric, MEASURES)
        score = self._score(senders).sel(metric=metric)
        if self.data.attrs["direction"] == "noising":
            return (self.data["clean"].sel(metric=metric) - score).transpose(*score.dims).rename("effect")
        return (score - self.data["corrupted"].sel(metric=metric)).rename("effect")

    def relative(self, *, senders: str = "heads") -> xr.DataArray:
        """(p_patched - p_clean) / p_clean of the answer's probability: bounded below by -1, unbounded above."""
        if self.data.attrs["direction"] != "noising":
            raise BadInput(
                "`relative` divides by the clean probability of a clean run that is patched. Use direction='noising'."
            )
        clean = self.data["clean"].sel(metric="prob")
        if bool((clean <= 0).any()):
            ids = [str(name) for name in clean["pair"].values[clean.values <= 0]]
            raise BadInput(
                f"the clean probability is 0 in {', '.join(ids[:5])}, which nothing can be divided by. Use logit_diff."
            )
        return ((self._score(senders).sel(metric="prob") - clean) / clean).rename("relative")

    def total_effect(self, metric: str = "logit_diff", *, known: bool = True, level: float = 0.95) -> dict[str, float]:
        """Mean clean and corrupted metric, their difference with its interval, and the number of pairs."""
        one_of("metric", metric, METRICS)
        keep = self._keep(known)
        clean, corrupted = (self.data[name].sel(metric=metric).values[keep] for name in ("clean", "corrupted"))
        mean, low, high = bootstrap_ci(clean - corrupted, level=level, name="paths")
        return {
            "clean": float(clean.mean()), "corrupted": float(corrupted.mean()), "effect": mean, "ci_lo": low, "ci_hi": high,
            "n": float(len(keep)),
        }  # fmt: skip

    def normalised(
        self, metric: str = "logit_diff", *, known: bool = True, tolerance: float = 1e-3, senders: str = "heads"
    ) -> xr.DataArray:
        """Effects as a share of clean - corrupted, per pair. Refuses pairs in which that is no more than `tolerance`."""
        keep = self._keep(known)
        total = (self.data["clean"] - self.data["corrupted"]).sel(metric=metric).isel(pair=keep)
        weak = np.abs(total.values) <= tolerance
        if weak.any():
            ids = [str(name) for name in total["pair"].values[weak]]
            raise BadInput(
                f"clean and corrupted {metric} differ by at most {tolerance:g} in {int(weak.sum())} of {len(keep)} pairs "
                f"({', '.join(ids[:5])}): a share of nothing means nothing. Use another metric, or leave those pairs out."
            )
        return (self.effects(metric, senders=senders).isel(pair=keep) / total).rename("share")

    def mean(
        self, metric: str = "logit_diff", *, known: bool = True, level: float = 0.95, senders: str = "heads"
    ) -> xr.Dataset:
        """Mean effect over pairs, with bootstrap intervals: mean, ci_lo, ci_hi [receiver, role, layer, head]."""
        part = self.effects(metric, senders=senders).isel(pair=self._keep(known))
        found = bootstrap_ci(part, axis="pair", level=level, name="paths")
        return xr.Dataset(
            dict(zip(("mean", "ci_lo", "ci_hi"), found, strict=True)), attrs={"metric": metric, "level": level}
        )

    def p_values(
        self, metric: str = "logit_diff", *, correction: str = "holm", known: bool = True, senders: str = "heads"
    ) -> xr.DataArray:
        """Two-sided p-values that a path does nothing on average, by sign flips over pairs, [receiver, role, layer, head].

        `correction` over all paths of this result, of heads and MLPs together: holm, bh or none. Paths that cannot exist (senders above
        their receivers) have effects of exactly zero and p = 1; they are not counted as tests.
        """
        one_of("correction", correction, ["holm", "bh", "none"])
        self._score(senders)  # says where these were no senders
        keep = self._keep(known)
        parts = {kind: self.effects(metric, senders=kind).isel(pair=keep) for kind in self.senders}
        cells = sum(part.size for part in parts.values()) // max(1, len(keep))
        tested: dict[str, xr.DataArray] = {}
        for kind, part in parts.items():
            p = sign_flip_test(part, axis="pair", n=max(9999, 40 * cells), name="paths")
            tested[kind] = p.where(~(part == 0).all("pair"))
        adjust = {"holm": holm, "bh": benjamini_hochberg, "none": lambda x: x}[correction]
        flat = adjust(np.concatenate([p.values.ravel() for p in tested.values()]))
        start = sum(tested[kind].size for kind in self.senders[: self.senders.index(senders)])
        mine, part = tested[senders], parts[senders]
        adjusted = mine.copy(data=flat[start : start + mine.size].reshape(mine.shape))
        return adjusted.where(~(part == 0).all("pair"), 1.0).where(part.notnull().any("pair")).rename("p")

    def significant(
        self, alpha: float = 0.05, *, metric: str = "logit_diff", known: bool = True, senders: str = "heads"
    ) -> xr.DataArray:
        """Which paths do something: Holm-corrected p at most `alpha`, bool [receiver, role, layer, head]."""
        return self.p_values(metric, known=known, senders=senders) <= alpha

    def reachable(self, alpha: float = 0.05, *, known: bool = True) -> bool:
        """Whether any path could be significant at `alpha` with so few pairs: 2 / 2^pairs times the number of tests is the least p."""
        return bool(2.0 * 0.5 ** len(self._keep(known)) * self._tests(known) <= alpha)

    def _tests(self, known: bool) -> int:
        """Paths, of heads and MLPs together, that are not exactly idle."""
        every = (self.effects(senders=kind).isel(pair=self._keep(known)) for kind in self.senders)
        return sum(int(((effects != 0) & effects.notnull()).any("pair").sum()) for effects in every)

    def top(self, n: int = 10, *, metric: str = "logit_diff", known: bool = True) -> "pd.DataFrame":
        """The `n` heads with the largest mean effects by magnitude: receiver, role, layer, head, effect, ci_lo, ci_hi, p."""
        table = self.mean(metric, known=known)
        table["p"] = self.p_values(metric, known=known)
        frame = table.to_dataframe().reset_index().rename(columns={"mean": "effect"}).dropna(subset=["effect"])
        order = frame["effect"].abs().sort_values(ascending=False, kind="stable").index
        return frame.loc[order[:n]].reset_index(drop=True)

    def headline(self) -> dict[str, float]:
        """Total effect, the strongest path, and how many paths are significant, over the known pairs (or all, if none is known)."""
        known = self.n_known > 0
        total = self.total_effect(known=known)
        who = f"{int(total['n'])} known" if known else f"all {int(total['n'])}, none known"
        senders = self.senders[0]
        means = self.mean(known=known, senders=senders)["mean"]
        flat = int(np.nanargmax(np.abs(means.values)))
        place = np.unravel_index(flat, means.shape)
        at = {str(dim): means[dim].values[index] for dim, index in zip(means.dims, place, strict=True)}
        name = f"{at['layer']}.{at['head']}" if senders == "heads" else f"MLP {at['layer']}"
        found = sum(int((self.p_values(known=known, senders=kind) <= 0.05).sum()) for kind in self.senders)
        tests = self._tests(known)
        beyond = "" if self.reachable(known=known) else "; out of reach with so few pairs"
        return {
            f"logit difference, clean - corrupted ({who})": total["effect"],
            f"strongest: {name} at {at['role']} to {at['receiver']} ({self.data.attrs['freeze']})": float(
                means.values[place]
            ),
            f"paths with p <= 0.05 (Holm, of {tests}{beyond})": float(found),
        }

    def thumbnail(self) -> xr.DataArray | None:
        """The first receiver's and role's map."""
        if "score" not in self.data:
            return None
        return self.mean(known=self.n_known > 0)["mean"].isel(receiver=0, role=0, drop=True)

    def _keep(self, known: bool) -> np.ndarray:
        if not known:
            return np.arange(self.data.sizes["pair"])
        if not self.n_known:
            raise BadInput(
                f"the model gives the answer to none of the {self.data.sizes['pair']} pairs. "
                "Average over all of them with known=False, or bring pairs that it knows."
            )
        return np.flatnonzero(self.data["known"].values)

    def _score(self, senders: str) -> xr.DataArray:
        one_of("senders", senders, ["heads", "mlps"])
        name = "score" if senders == "heads" else "score_mlp"
        if name not in self.data:
            raise BadInput(f"{senders} were not patched as senders. Run PathPatching(senders=({senders!r},)).")
        return self.data[name]


def assemble(
    config: "PathPatching",
    lm: "LM",
    groups: "Sequence[PairGroup]",
    targets: "Sequence[tuple[Receiver, ...]]",
    senders: "Sequence[Sender]",
    parts: Sequence[tuple[np.ndarray, np.ndarray, np.ndarray]],
) -> PathResult:
    """The groups' numbers in the order in which the pairs were given; `parts` are (scores, clean, corrupted) a group."""
    n, spec = sum(len(group) for group in groups), lm.spec
    shape = (n, len(targets), len(config.positions), len(senders), len(METRICS))
    score, clean, corrupted = (np.full(size, np.nan) for size in (shape, (n, len(METRICS)), (n, len(METRICS))))
    for group, (found, high, low) in zip(groups, parts, strict=True):
        at = list(group.index)
        score[at], clean[at], corrupted[at] = found, high, low
    data: dict[str, Any] = {"clean": (("pair", "metric"), clean), "corrupted": (("pair", "metric"), corrupted)}
    lead = ("pair", "receiver", "role", "layer")
    if "mlps" in config.senders:
        mine = [index for index, sender in enumerate(senders) if sender.kind == "mlps"]
        data = {"score_mlp": ((*lead, "metric"), score[:, :, :, mine]), **data}
    if "heads" in config.senders:
        wide = np.full((*shape[:3], spec.n_layers, spec.n_heads, len(METRICS)), np.nan)
        for index, sender in enumerate(senders):
            if sender.kind == "heads":
                wide[:, :, :, sender.layer, sender.head] = score[:, :, :, index]
        data = {"score": ((*lead, "head", "metric"), wide), **data}
    names = ["+".join(one.label for one in group) for group in targets]
    coords = {
        "receiver": names, "role": list(config.positions), "layer": np.arange(spec.n_layers), "head": np.arange(spec.n_heads),
        "metric": list(METRICS), **labels(lm, groups),
    }  # fmt: skip
    attrs = {"freeze": config.rule, "direction": config.direction, "receivers": names}
    return PathResult(xr.Dataset(data, coords, attrs))


def labels(lm: "LM", groups: "Sequence[PairGroup]") -> dict[str, Any]:
    """Coordinates along `pair`: ids (made different where they repeat), known, answer, foil, predicted, foil_given."""
    n = sum(len(group) for group in groups)
    rows: list[dict[str, Any]] = [{} for _ in range(n)]
    token = lm.tokenizer.label
    for group in groups:
        for row, place in enumerate(group.index):
            rows[place] = {
                "pair": group.tokens[row].id, "known": group.known[row], "foil_given": group.foil_given[row],
                "answer": token(int(group.answer[row])), "foil": token(int(group.foil[row])),
                "predicted": token(int(group.predicted[row])),
            }  # fmt: skip
    seen: dict[str, int] = {}
    for entry in rows:
        name = entry["pair"]
        seen[name] = seen.get(name, 0) + 1
        entry["pair"] = name if seen[name] == 1 else f"{name}#{seen[name]}"
    columns = {name: [entry[name] for entry in rows] for name in rows[0]}
    return {name: values if name == "pair" else ("pair", values) for name, values in columns.items()}
