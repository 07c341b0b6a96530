"""What the weights say about who can talk to whom: a table of head pairs, and the strongest channels by name."""

from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
import xarray as xr

from interp.core.analysis import Result
from interp.core.errors import BadInput, one_of

from ..component import Component, Head
from ..decompose import DEGENERATE
from ..nulls import log10_tail

if TYPE_CHECKING:
    import pandas as pd

REPORTED = 10
"""Channels that are printed, and whose component is looked up in the other coordinates."""
FAR = 5.0
"""Standard deviations of a head's other components, above which one stands out (Merullo et al. 2024 quote that number)."""


class ChannelResult(Result):
    """Composition scores of components and heads.

    data (kind is Q, K or V, in rotary models Q@4 at distance 4; layer, head and component are the writer's; NaN where the reader is not
    in a later layer, where a head is zero, and beyond its rank):
        total            [kind, layer, head, reader_layer, reader_head]   composition score of the two whole heads
        best, best_component, best_z   same axes                          strongest component's score, its number (-1: none) and its z
                                                                          among the head's other components
        mean, sd         same axes                                        over the head's components
        score            [kind, layer, head, component, reader_layer, reader_head]   every score, where they were few enough to be kept
        value, gap       [layer, head, component]                         singular values s_i of OV, and s_i / s_{i+1}
        rank             [layer, head]
        spectrum         [kind, reader_layer, reader_head, component]     singular values of what the reader multiplies by
        top_score, top_z, top_kind, top_layer, top_head, top_component, top_reader_layer, top_reader_head   [channel], strongest first
        top_p                         [channel]                           that a random direction scores as high (uncorrected)
        top_other, top_other_cosine   [channel]                           number of the component that writes most nearly the same with
                                                                          `folded` the other way round; -1 and NaN beyond the first 10
        histogram        [kind, bin]                                      of score * sqrt(free); coords bin_low, bin_high
    attrs: free (dimensions n that a write direction may lie in), folded, biases, offsets, precision, rank_by, rotary, family, n_layers,
        n_heads, n_kv_heads, d_model, d_head, scored (how many scores there are), alike (components without a z), scores (kept or not).
    """

    figure: ClassVar[str] = "channels"
    main: ClassVar[str] = "best"

    def null(self) -> float:
        """Root mean square score of a random direction: 1 / sqrt(n), n the free dimensions of the stream."""
        return float(self.data.attrs["free"]) ** -0.5

    def channels(self, n: int = 20) -> "pd.DataFrame":
        """The `n` strongest: writer (`2.1.5`), reader (`3.1`), kind, score, over_null, z, p, value (s_i), gap, alone, other, other_cosine.

        `gap` is the smaller of s_{i-1} / s_i and s_i / s_{i+1}; where it is 1, `alone` is False: the component cannot be told from its
        neighbours, and only their common subspace means anything. `other` is its number under raw weights where these are folded, and
        the other way round, with the |cosine| of the two.
        """
        import pandas as pd

        if n < 0:
            raise BadInput(f"`n` must be 0 channels or more; not {n}.")
        part = self.data.isel(channel=slice(n))
        rows = [part[f"top_{name}"].values for name in ("layer", "head", "component", "reader_layer", "reader_head")]
        score, gap = part["top_score"].values, self._gaps()[tuple(rows[:3])]
        return pd.DataFrame(
            {
                "writer": [str(Component(*map(int, place))) for place in zip(*rows[:3], strict=True)],
                "reader": [str(Head(*map(int, place))) for place in zip(*rows[3:], strict=True)],
                "kind": part["top_kind"].values, "score": score, "over_null": score / self.null(), "z": part["top_z"].values,
                "p": part["top_p"].values, "value": self.data["value"].values[tuple(rows[:3])], "gap": gap,
                "alone": 1 - 1 / gap > DEGENERATE, "other": part["top_other"].values, "other_cosine": part["top_other_cosine"].values,
            }
        )  # fmt: skip

    def p_value(self, score: Any, reader: "str | Head", *, kind: str) -> np.ndarray:
        """P that a random direction scores at least `score` (any shape) into one input of one head: exact, but 0 below 1e-308.

        The null of `nulls.log10_tail`: uniform among the free dimensions. NaN stays NaN. Raises `BadInput` for a head that reads nothing.
        """
        head = self._head(reader)
        spectrum = self.data["spectrum"].sel(kind=self._kind(kind)).values[head.layer, head.head]
        weights = spectrum[: int(self.data.attrs["free"])] ** 2
        if not np.isfinite(weights).all() or weights.sum() == 0:
            raise BadInput(f"head {str(head)!r} reads nothing as {kind}, so nothing has a score there.")
        return np.asarray(10 ** log10_tail(score, weights / weights.sum(), int(self.data.attrs["free"])))

    def significant(self, alpha: float = 0.01, correction: Literal["holm", "bh", "none"] = "holm") -> "pd.DataFrame":
        """Those of the listed channels that a random direction would not give: `channels`, and p_adjusted, by falling significance.

        All scores count as tests, listed or not (`attrs["scored"]`): by Holm no false one is expected among them, with "bh" a share of
        `alpha`. Of unlisted scores the p-values are not known, so adjusted ones are upper bounds. In trained models many scores are
        significant against random directions (see `nulls`): that is no channel yet.
        """
        one_of("correction", correction, ("holm", "bh", "none"))
        if not 0 < alpha < 1:
            raise BadInput(f"`alpha` must lie between 0 and 1; not {alpha}.")
        table = self.channels(self.data.sizes["channel"]).sort_values("p", kind="stable", ignore_index=True)
        p, tests = table["p"].to_numpy(), int(self.data.attrs["scored"])
        place = np.arange(len(p))
        if correction == "holm":
            p = np.maximum.accumulate(p * (tests - place))
        elif correction == "bh":
            p = np.minimum.accumulate((p * tests / (place + 1))[::-1])[::-1]
        table["p_adjusted"] = np.minimum(p, 1.0)
        return table[table["p_adjusted"] <= alpha].reset_index(drop=True)

    def into(self, reader: "str | Head", *, kind: str) -> xr.DataArray:
        """Scores of every earlier component into one input of one head, [layer, head, component].

        Raises `BadInput` where the scores were not kept, and for a head of the first layer, into which nothing is written.
        """
        head = self._head(reader)
        if head.layer == 0:
            raise BadInput(
                f"no head writes into {str(head)!r}: it is in the first layer. Name a head of a later layer."
            )
        every = self._scores("scores_into(lm, reader, kind=...)").sel(kind=self._kind(kind))
        return every.isel(reader_layer=head.layer, reader_head=head.head, layer=slice(head.layer))

    def of(self, writer: "str | Component", *, kind: str) -> xr.DataArray:
        """Scores of one component into every later head, [reader_layer, reader_head].

        Raises `BadInput` where the scores were not kept, for components that do not exist or cannot be told from their neighbours, and of
        the last layer, which no head reads.
        """
        one = Component.parse(writer)
        head = self._head(one.owner, str(one))
        rank = int(self.data["rank"].values[head.layer, head.head])
        if one.index >= rank:
            raise BadInput(f"there is no component {str(one)!r}: head {head} has rank {rank}.")
        if not 1 - 1 / self._gaps()[head.layer, head.head, one.index] > DEGENERATE:
            raise BadInput(
                f"component {str(one)!r} cannot be told from its neighbours: their singular values agree to {DEGENERATE:g}, so it has no "
                "score of its own. Look at all of the head's: `into(reader, kind=...)`."
            )
        if head.layer == self.data.sizes["layer"] - 1:
            raise BadInput(
                f"no head reads what {str(one)!r} writes: it is in the last layer. Name one of an earlier layer."
            )
        every = self._scores("scores_of(lm, writer, kind=...)").sel(kind=self._kind(kind))
        part = every.isel(layer=head.layer, head=head.head, component=one.index)
        return part.isel(reader_layer=slice(head.layer + 1, None))

    def headline(self) -> dict[str, float]:
        """The strongest channel, its score over the null, and how many pairs of heads have a component that stands out."""
        if not self.data.sizes["channel"]:
            return {"channels": 0.0, "null": self.null()}
        first = self.channels(1).iloc[0]
        z = self.data["best_z"].values
        known = np.isfinite(z)
        name = f"{first['writer']} to {first['kind']} of {first['reader']}"
        found: dict[str, float] = {name: float(first["score"]), "over the null": float(first["over_null"])}
        if known.any():
            found[f"pairs with a component at z > {FAR:.0f}"] = float((z[known] > FAR).mean())
        return found

    def report_lines(self) -> tuple[str, ...]:
        """A table of the strongest channels, and what was left out."""
        attrs = self.data.attrs
        there = "raw" if attrs["folded"] else "folded"
        table = self.channels(REPORTED)
        lines = [f"{'writer':>10} {'reader':>7} {'kind':>5} {'score':>7} {'/ null':>7} {'z':>7} {'gap':>6}  {there}"]
        for row in table.to_dict("records"):
            other = f"{row['other']} (cosine {row['other_cosine']:.2f})" if row["other"] >= 0 else ""
            numbers = f"{row['score']:7.3f} {row['over_null']:7.1f} {row['z']:7.1f} {row['gap']:6.2f}"
            lines.append(f"{row['writer']:>10} {row['reader']:>7} {row['kind']:>5} {numbers}  {other}")
        if attrs["rotary"] and not attrs["offsets"]:
            lines.append(
                "positions are rotary: QK is another matrix at every distance, so only V was scored. Give `offsets` for Q and K."
            )
        if not table["alone"].all():
            lines.append(
                "where the gap is 1, a component cannot be told from its neighbours: only their common subspace means anything."
            )
        blind = self.data["spectrum"].isnull().all(("reader_head", "component")).sum("reader_layer").to_series()
        lines += [
            f"{kind}: {many} of {attrs['n_layers']} layers do not read so far back; their windows end before."
            for kind, many in blind[blind > 0].items()
        ]
        full = self.data.sizes["component"]
        rank = self.data["rank"].values
        if (rank < full).any():
            zero, low = int((rank == 0).sum()), int(((rank > 0) & (rank < full)).sum())
            lines.append(
                f"{zero} heads write nothing, {low} have fewer than {full} components: {int((full - rank).sum())} have no score."
            )
        if attrs["alike"]:
            lines.append(f"{attrs['alike']:,} scores have no z: all other components of their head score alike.")
        if "score" not in self.data:
            lines.append(f"single scores are {attrs['scores']}.")
        return tuple(lines)

    def to_frame(self, variable: str | None = None) -> "pd.DataFrame":
        """A row for each cell of `variable` (`best`), without the pairs in the wrong order and what else has no number."""
        frame = super().to_frame(variable)
        name = str(self._variable(variable).name)
        return frame[frame[name].notna()].reset_index(drop=True)

    def thumbnail(self) -> xr.DataArray | None:
        """Best score of each pair of heads over all kinds, writers by readers."""
        best = self.data["best"].fillna(-1.0).max("kind")
        flat = best.stack(writer=("layer", "head"), reader=("reader_layer", "reader_head")).values
        return xr.DataArray(np.where(flat < 0, np.nan, flat), dims=("writer", "reader"), name="best")

    def _gaps(self) -> np.ndarray:
        """The smaller ratio of each singular value to its neighbours [layer, head, component]; infinite where it has none."""
        values = self.data["value"].values
        with np.errstate(divide="ignore", invalid="ignore"):
            ratio = np.where(values[..., 1:] > 0, values[..., :-1] / values[..., 1:], np.inf)
        edge = np.full_like(values[..., :1], np.inf)
        return np.minimum(np.concatenate([edge, ratio], -1), np.concatenate([ratio, edge], -1))

    def _kind(self, kind: str) -> str:
        one_of("kind", kind, [str(name) for name in self.data["kind"].values])
        return kind

    def _head(self, name: "str | Head", said: str = "") -> Head:
        head, sizes, name = Head.parse(name), self.data.sizes, said or str(name)
        if head.layer >= sizes["layer"] or head.head >= sizes["head"]:
            raise BadInput(
                f"{name!r} is not in this result, which has layers 0 to {sizes['layer'] - 1} and heads 0 to {sizes['head'] - 1}."
            )
        return head

    def _scores(self, instead: str) -> Any:
        if "score" not in self.data:
            raise BadInput(
                f"single scores were {self.data.attrs['scores']}. Compute these alone with `{instead}`, or run Channels(most=...)."
            )
        return self.data["score"]
