"""What patching a channel between two prompts gives, and how it is read."""

from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
import xarray as xr

from interp.core.analysis import Result
from interp.core.errors import BadInput, one_of
from interp.core.stats import bootstrap_ci, holm, sign_flip_test

if TYPE_CHECKING:
    import pandas as pd

AMONG = ("two", "candidates", "all")
TOLERANCE = 0.1
"""Logit differences up to this, in logits, are no total that a fraction could be taken of."""
MEASURES = ("fldd", "interchange", "readout")
Among = Literal["two", "candidates", "all"]


class ChannelPatchingResult(Result):
    """Every pair with the channel of one prompt taken from the other, beside what else might have been taken.

    data:
        score     [variant, direction, pair, metric]          of the clean prompt's answer against the other's: prob, logprob, logit_diff,
                                                              rank
        hit       [variant, direction, pair, among]           1 where the answer is that of the prompt from which the channel was taken: the
                                                              better one of the two, the best of the candidates (NaN without), of all tokens
        attention [variant, direction, reader, span, pair]    probability of looking at each span
        control_score, control_hit, control_attention         the same with (control, draw) for variant; NaN beyond the draws there are
        coordinate       [component, side, pair]              along the named components, raw units
        rival_coordinate [writer, index, side, pair]          along all components of their heads; NaN beyond the rank
    coords: variant (`none`: nothing patched; `channel`; `head`: all that the writers write; `stream`: the whole stream before the reader;
        in a stream patch also `row`, `span`, `null`, see the essay), direction (`noise`: from the corrupted prompt into the clean one;
        `denoise`: the other way), control (same_head, random), draw, metric, among, reader, span, side (clean, corrupted), component,
        writer, index; pair (ids), with known (bool), answer, other and split along it.
    attrs: site, position, layer, to, minus, rank (dimensions patched), draws (how many each control has), absent (what the model does not
        have, and why), chosen.
    """

    figure: ClassVar[str] = "channel_patching"
    main: ClassVar[str] = "score"

    @property
    def n_known(self) -> int:
        """Pairs whose clean prompt the model answers rightly."""
        return int(self.data["known"].values.sum())

    def fldd(
        self,
        *,
        direction: str | None = None,
        known: bool = True,
        tolerance: float = TOLERANCE,
        drop: bool = False,
        level: float = 0.95,
    ) -> xr.Dataset:
        """Fraction of the logit difference destroyed, (LD - LD patched) / LD: 1 removes it, more turns it round. [variant].

        mean, ci_lo, ci_hi over pairs of the ratio; `ratio`, that of the means, which weak pairs do not blow up (NaN where the mean LD is
        not above `tolerance`, as where the model is right in some pairs and wrong in others); n. LD is that of the prompt
        patched into. Raises `BadInput` where |LD| is not above `tolerance` (logits) in some pair; `drop=True` leaves such pairs out.
        """
        keep, place = self._pairs(known, tolerance, drop, direction), self._direction(direction)
        base, patched = self._ld("score", place, keep)
        share = (base - patched) / base  # [variant, pair]
        mean, low, high = bootstrap_ci(share, 1, level=level, name="fldd")
        ratio = 1 - patched.mean(axis=1) / _total(base, tolerance)
        fields = {"mean": mean, "ci_lo": low, "ci_hi": high, "ratio": ratio, "n": np.full(len(mean), len(keep))}
        return self._by_variant(fields)

    def interchange(
        self, among: Among = "all", *, direction: str | None = None, known: bool = True, level: float = 0.95
    ) -> xr.Dataset:
        """Share of pairs whose answer becomes the other prompt's: mean, ci_lo, ci_hi, n [variant]. `none` is the floor, without a patch.

        `two` asks which of the two answers is the better, `candidates` for the best of those on offer, `all` for the best of all tokens.
        """
        one_of("among", among, AMONG)
        keep, place = self._pairs(known, 0.0, True, direction), self._direction(direction)
        hit = self.data["hit"].values[:, place][:, keep][..., AMONG.index(among)]
        mean, low, high = bootstrap_ci(hit, 1, level=level, name="interchange")
        return self._by_variant({"mean": mean, "ci_lo": low, "ci_hi": high, "n": np.isfinite(hit).sum(axis=1)})

    def readout(
        self, *, direction: str | None = None, known: bool = True, reader: str | None = None, level: float = 0.95
    ) -> xr.Dataset:
        """Change of the reader's score (attention to `to` less that to `minus`) by the patch: mean, ci_lo, ci_hi, n [variant]; and `base`,
        the score before."""
        keep, place = self._pairs(known, 0.0, True, direction), self._direction(direction)
        score = self._score("attention", reader)[:, place][:, keep]  # [variant, pair]
        before = score[self._variant("none")]
        mean, low, high = bootstrap_ci(score - before, 1, level=level, name="readout")
        fields = {"mean": mean, "ci_lo": low, "ci_hi": high, "n": np.full(len(mean), len(keep))}
        return self._by_variant({**fields, "base": np.full(len(mean), before.mean())})

    def controls(
        self,
        measure: Literal["fldd", "interchange", "readout"] = "fldd",
        *,
        among: Among = "all",
        known: bool = True,
        tolerance: float = TOLERANCE,
        drop: bool = False,
        reader: str | None = None,
        alpha: float = 0.05,
        seed: int = 0,
    ) -> "pd.DataFrame":
        """The channel against each control, a row for each control and direction: value, control_mean, control_best, draws; p_rank, the
        share of draws (the channel among them) that do as much (one-sided; `smallest_p` is the least that so many draws allow); p_pairs,
        sign flips of the pairs' margins over their mean draw (one-sided); both Holm-adjusted over the table; significant: both <= alpha.

        For `readout` the size of the mean change counts, in the channel's own direction for p_pairs.
        """
        import pandas as pd

        one_of("measure", measure, MEASURES)
        rows = []
        for direction in self.data["direction"].values:
            keep = self._pairs(known, tolerance if measure == "fldd" else 0.0, drop or measure != "fldd", direction)
            mine, draws = self._each(measure, self._direction(direction), keep, among, reader)
            for number, name in enumerate(self.data["control"].values):
                real = draws[number][np.isfinite(draws[number]).all(axis=1)]  # [draw, pair]
                if not len(real):
                    continue
                turn = np.sign(mine.mean()) or 1.0 if measure == "readout" else 1.0
                value, means = mine.mean(), real.mean(axis=1)
                sizes = (abs(value), np.abs(means)) if measure == "readout" else (value, means)
                margin = turn * (mine - real.mean(axis=0))
                best = means[np.argmax(sizes[1])]
                rows.append(
                    {
                        "control": str(name), "direction": str(direction), "value": value, "control_mean": means.mean(),
                        "control_best": best, "draws": len(real), "smallest_p": 1 / (1 + len(real)),
                        "p_rank": (1 + int((sizes[1] >= sizes[0] - 1e-12).sum())) / (1 + len(real)),
                        "p_pairs": sign_flip_test(margin, alternative="greater", seed=seed, name="channel patch"),
                    }
                )  # fmt: skip
        if not rows:
            raise BadInput("this result has no controls. Run ChannelPatching(draws=20) or more.")
        frame = pd.DataFrame(rows)
        for name in ("p_rank", "p_pairs"):
            frame[f"{name}_adjusted"] = holm(frame[name].to_numpy())
        frame["significant"] = (frame["p_rank_adjusted"] <= alpha) & (frame["p_pairs_adjusted"] <= alpha)
        return frame

    def separability(self) -> "pd.DataFrame":
        """Share of pairs whose two prompts fall on opposite sides of a component, a row a component: zero (of 0), middle (of the mean
        coordinate of all prompts), gap (mean distance of the two in standard deviations of the coordinate), and the percentile of `middle`
        among the other components of the head. A coordinate that is unrelated to the pairs scores about 1/2 in `middle`."""
        import pandas as pd

        rows = []
        for number, name in enumerate(self.data["component"].values):
            head, _, index = str(name).rpartition(".")
            place = self.data["writer"].values.tolist().index(head)
            rivals = self.data["rival_coordinate"].values[place]  # [index, side, pair]
            others = [
                _sides(rivals[other])["middle"]
                for other in range(len(rivals))
                if other != int(index) and np.isfinite(rivals[other]).all()
            ]
            mine = _sides(self.data["coordinate"].values[number])
            share = 100 * float(np.mean(np.array(others) < mine["middle"])) if others else np.nan
            rows.append({"component": str(name), **mine, "percentile": share, "others": len(others)})
        return pd.DataFrame(rows)

    def illusion(self, margin: float = 0.3, *, direction: str | None = None) -> bool:
        """Whether a patch of the stream works and no part of it does: its FLDD is above those of row, span and null by more than `margin`.

        Raises `BadInput` for a patch at the heads, which writes what the heads write and nothing else.
        """
        if self.data.attrs["site"] != "stream":
            raise BadInput("a head's own write has no part that it did not write. Run ChannelPatching(site='stream').")
        mean = self.fldd(direction=direction, known=self.n_known > 0, drop=True)["mean"]
        parts = mean.sel(variant=["row", "span", "null"]).fillna(0.0)
        return bool(float(mean.sel(variant="channel")) - float(parts.max()) > margin)

    def table(self, *, direction: str | None = None) -> "pd.DataFrame":
        """Variants and controls (means over their draws), a row each: fldd (that of the means; NaN where that of LD is not above 0.1),
        interchange (two, all), readout."""
        import pandas as pd

        known, place = self.n_known > 0, self._direction(direction)
        keep = self._pairs(known, 0.0, True, direction)
        frame = pd.DataFrame({"what": [str(name) for name in self.data["variant"].values]})
        base, patched = self._ld("score", place, keep)
        frame["fldd"] = 1 - patched.mean(axis=1) / _total(base)
        for among in ("two", "all"):
            frame[f"interchange_{among}"] = self.interchange(among, direction=direction, known=known)["mean"].values
        frame["readout"] = self.readout(direction=direction, known=known)["mean"].values
        extra = []
        for number, name in enumerate(self.data["control"].values):
            row: dict[str, Any] = {"what": str(name)}
            for measure, column in (("fldd", "fldd"), ("interchange", "interchange_all"), ("readout", "readout")):
                _, draws = self._each(measure, place, keep, "all", None, ratio=True)
                row[column] = float(np.nanmean(draws[number])) if np.isfinite(draws[number]).any() else np.nan
            hits = self.data["control_hit"].values[number][:, place][:, keep][..., 0]
            row["interchange_two"] = float(np.nanmean(hits)) if np.isfinite(hits).any() else np.nan
            extra.append(row)
        return pd.concat([frame, pd.DataFrame(extra)], ignore_index=True) if extra else frame

    def headline(self) -> dict[str, float]:
        """How much of the logit difference the channel destroys, that of a random control, and how often the answer changes places."""
        table = self.table().set_index("what")
        found = {"FLDD (ratio of means)": float(table["fldd"]["channel"])}
        for name in ("random", "same_head"):
            if name in table.index and np.isfinite(table["fldd"][name]):
                found[f"{name.replace('_', ' ')} control"] = float(table["fldd"][name])
                break
        return {**found, "interchange accuracy (all tokens)": float(table["interchange_all"]["channel"])}

    def report_lines(self) -> tuple[str, ...]:
        """The table of variants and controls."""
        return tuple(self.table().round(3).to_string(index=False).splitlines())

    def thumbnail(self) -> xr.DataArray | None:
        """Logit differences, variants by pairs."""
        return self.data["score"].isel(direction=0, drop=True).sel(metric="logit_diff", drop=True)

    def _each(
        self, measure: str, place: int, keep: np.ndarray, among: str, reader: str | None, *, ratio: bool = False
    ) -> tuple[np.ndarray, np.ndarray]:
        """A measure of the channel [pair] and of every draw [control, draw, pair]; with `ratio`, means of FLDD are ratios of means."""
        channel = self._variant("channel")
        if measure == "fldd":
            base, patched = self._ld("score", place, keep)
            _, drawn = self._ld("control_score", place, keep)
            under = np.full_like(base, _total(base)) if ratio else base
            return (base - patched[channel]) / under, (base - drawn) / under
        if measure == "interchange":
            column = AMONG.index(among)
            hits, drawn = (self.data[name].values[..., column] for name in ("hit", "control_hit"))
            keep = keep[np.isfinite(hits[channel, place][keep])]  # candidates are not on offer in every pair
            if not len(keep):
                raise BadInput(
                    f"no pair says which answers were on offer with the other prompt's among them, so there is no interchange "
                    f"among={among!r}. Take 'two' or 'all', or prompts with `candidates` in their meta."
                )
            return hits[channel, place][keep], drawn[:, :, place][..., keep]
        score, drawn = self._score("attention", reader), self._score("control_attention", reader)
        before = score[self._variant("none"), place][keep]
        return score[channel, place][keep] - before, drawn[:, :, place][..., keep] - before

    def _ld(self, name: str, place: int, keep: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Logit differences of the untouched prompt [pair] and of every variant or draw [..., pair], seen from the prompt's own answer."""
        column = self.data["metric"].values.tolist().index("logit_diff")
        base = self.data["score"].values[self._variant("none"), place][keep][:, column]
        all_of_them = np.moveaxis(self.data[name].values[..., column], -2, 0)[place][..., keep]
        return base, all_of_them

    def _score(self, name: str, reader: str | None) -> np.ndarray:
        """The readers' score [variant or control and draw, direction, pair]."""
        if reader is not None:
            one_of("reader", reader, [str(one) for one in self.data["reader"].values])
        look = self.data[name].sel(reader=reader or str(self.data["reader"].values[0]), drop=True)
        minus = self.data.attrs["minus"]
        score = look.sel(span=self.data.attrs["to"], drop=True)
        return np.asarray((score - look.sel(span=minus, drop=True) if minus else score).values)

    def _pairs(self, known: bool, tolerance: float, drop: bool, direction: str | None) -> np.ndarray:
        """Rows of the pairs that are averaged over."""
        rows = np.arange(self.data.sizes["pair"])
        if known:
            if not self.n_known:
                raise BadInput(
                    f"the model gives the answer to none of the {len(rows)} pairs. Average over all of them with known=False, or bring "
                    "pairs that it gets right."
                )
            rows = rows[self.data["known"].values]
        base, _ = self._ld("score", self._direction(direction), rows)
        weak = ~(np.abs(base) > tolerance) if tolerance > 0 else np.zeros(len(rows), dtype=bool)
        if weak.any() and (not drop or weak.all()):
            said = ", ".join(
                f"{self.data['pair'].values[rows[one]]} {base[one]:+.2g}" for one in np.flatnonzero(weak)[:5]
            )
            raise BadInput(
                f"the logit difference of {int(weak.sum())} of {len(rows)} pairs is no larger than {tolerance:g} ({said}): a fraction of "
                "nothing means nothing. Use other pairs, read `ratio` of the others with drop=True, or lower the tolerance."
            )
        return rows[~weak]

    def _variant(self, name: str) -> int:
        return int(self.data["variant"].values.tolist().index(name))

    def _direction(self, direction: str | None) -> int:
        have = [str(one) for one in self.data["direction"].values]
        if direction is not None:
            one_of("direction", direction, have)
        return have.index(direction) if direction else 0

    def _by_variant(self, fields: dict[str, np.ndarray]) -> xr.Dataset:
        names = [str(name) for name in self.data["variant"].values]
        return xr.Dataset({name: (("variant",), values) for name, values in fields.items()}, {"variant": names})


def _total(base: np.ndarray, tolerance: float = TOLERANCE) -> float:
    """The mean logit difference, NaN where it is not above the tolerance."""
    mean = float(base.mean())
    return mean if abs(mean) > tolerance else float("nan")


def _sides(coordinate: np.ndarray) -> dict[str, float]:
    """How well a coordinate [side, pair] tells the prompts of a pair apart."""
    middle, spread = coordinate.mean(), coordinate.std()
    clean, corrupted = coordinate
    gap = float(np.abs(clean - corrupted).mean() / spread) if spread > 0 else np.nan
    return {
        "zero": float(np.mean(clean * corrupted < 0)),
        "middle": float(np.mean((clean - middle) * (corrupted - middle) < 0)),
        "gap": gap,
    }
