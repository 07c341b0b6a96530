"""What the weights say about who can talk to whom: a table of head pairs, and the strongest channels by name."""

from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import xarray as xr

from interp.core.analysis import Result
from interp.core.errors import BadInput, one_of

from .component import Component, Head

if TYPE_CHECKING:
    import pandas as pd

REPORTED = 20
"""Channels that are shown, and whose component is looked up in the other coordinates."""
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
        top_other, top_other_cosine   [channel]                           number of the component that writes most nearly the same with
                                                                          `folded` the other way round; -1 and NaN beyond the first 20
        histogram        [kind, bin]                                      of score * sqrt(free); coords bin_low, bin_high
    attrs: free (dimensions n that a write direction may lie in), folded, biases, offsets, precision, rank_by, rotary, family, n_layers,
        n_heads, n_kv_heads, d_model, d_head, scored (how many scores there are), alike (components without a z), scores (kept or not).
    """

    figure: ClassVar[str] = "channels"
    main: ClassVar[str] = "best"

    def null(self) -> float:
        """Root mean square score of a random direction: 1 / sqrt(n), n the free dimensions of the stream."""
        return float(self.data.attrs["free"]) ** -0.5

    def channels(self, n: int = REPORTED) -> "pd.DataFrame":
        """The `n` strongest: writer (a component), reader (a head), kind, score, over_null, z, value (s_i), gap (s_i / s_{i+1}),
        other and other_cosine (the same under raw or folded weights)."""
        import pandas as pd

        part = self.data.isel(channel=slice(n))
        rows = [part[f"top_{name}"].values for name in ("layer", "head", "component", "reader_layer", "reader_head")]
        writer = [Component(*map(int, place)) for place in zip(*rows[:3], strict=True)]
        reader = [Head(*map(int, place)) for place in zip(*rows[3:], strict=True)]
        score = part["top_score"].values
        return pd.DataFrame(
            {
                "writer": list(map(str, writer)), "reader": list(map(str, reader)), "kind": part["top_kind"].values, "score": score,
                "over_null": score / self.null(), "z": part["top_z"].values,
                "value": [float(self.data["value"].values[w.layer, w.head, w.index]) for w in writer],
                "gap": [float(self.data["gap"].values[w.layer, w.head, w.index]) for w in writer],
                "other": part["top_other"].values, "other_cosine": part["top_other_cosine"].values,
            }
        )  # fmt: skip

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

        Raises `BadInput` where the scores were not kept, for components that do not exist, and of the last layer, which no head reads.
        """
        one = Component.parse(writer)
        head = self._head(one.owner)
        rank = int(self.data["rank"].values[head.layer, head.head])
        if one.index >= rank:
            raise BadInput(f"there is no component {str(one)!r}: head {head} has rank {rank}.")
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
        lines = [f"{'writer':>10} {'reader':>7} {'kind':>5} {'score':>7} {'/ null':>7} {'z':>7} {'gap':>6}  {there}"]
        for row in self.channels(10).to_dict("records"):
            other = f"{row['other']} (cosine {row['other_cosine']:.2f})" if row["other"] >= 0 else ""
            numbers = f"{row['score']:7.3f} {row['over_null']:7.1f} {row['z']:7.1f} {row['gap']:6.2f}"
            lines.append(f"{row['writer']:>10} {row['reader']:>7} {row['kind']:>5} {numbers}  {other}")
        if attrs["rotary"] and not attrs["offsets"]:
            lines.append(
                "positions are rotary: QK is another matrix at every distance, so only V was scored. Give `offsets` for Q and K."
            )
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

    def _kind(self, kind: str) -> str:
        one_of("kind", kind, [str(name) for name in self.data["kind"].values])
        return kind

    def _head(self, name: "str | Head") -> Head:
        head, sizes = Head.parse(name), self.data.sizes
        if head.layer >= sizes["layer"] or head.head >= sizes["head"]:
            raise BadInput(
                f"{str(head)!r} is not in this result, which has layers 0 to {sizes['layer'] - 1} and heads 0 to {sizes['head'] - 1}."
            )
        return head

    def _scores(self, instead: str) -> Any:
        if "score" not in self.data:
            raise BadInput(
                f"single scores were {self.data.attrs['scores']}. Compute these alone with `{instead}`, or run Channels(most=...)."
            )
        return self.data["score"]
