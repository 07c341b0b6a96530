"""What `ChannelUse` gives: who is able to talk to whom, and who does, in one dataset."""

from typing import TYPE_CHECKING, ClassVar

import numpy as np
import xarray as xr

from interp.core.analysis import Result
from interp.core.errors import BadInput, one_of
from interp.core.seed import numpy_generator
from interp.core.stats import bootstrap_ci, spearman

if TYPE_CHECKING:
    import pandas as pd

SILENT = 0.01
"""A channel whose mark on its reader is below this share of all that the reader hears is called silent."""
RESAMPLES = 1000


class ChannelUseResult(Result):
    """Ability and use of channels on every prompt.

    data:
        able, able_z  [channel]                  composition score, and its z among the writing head's other components
        value         [channel]                  singular value of the component
        write         [prompt, channel, span]    how much is written along v at the span's tokens (mean), in the stream's units; signed
        loud          [prompt, channel]          root mean square of that, over the stream's norm, where the reader reads
        head_share    [prompt, channel]          share of what the component's head writes there (squared norm)
        read          [prompt, channel, span]    what it adds to the reader's scores of the span's keys, less the mean over all keys it
                                                 sees (Q, K: logits); or to its output from there, along that output (V: its units)
        share         [prompt, channel]          of the reader's variance over keys (Q, K) or of its output's length (V); signed
        size          [prompt, channel]          of that contribution, without sign: standard deviation over keys, or length
        total         [prompt, link]             what `size` is a part of: the reader's own standard deviation, or length
        source_read   [prompt, link, source, span], source_share [prompt, link, source]: the same for everything the reader hears, whole
                                                 heads, MLPs, embeddings, biases; sums to the reader's own score. NaN: not before the reader
        remainder     [prompt, link]             largest difference of that sum from the reader's own, over the largest part
    coords: prompt; channel (`0.1.5 Q 1.2`: writer, kind, reader), with writer, head, index, link, chosen (False: beside one that is);
        link (`Q 1.2`) with kind, reader; source with source_kind (embed, head, attn, mlp, bias); span.
    attrs: query, offset (-1 where there is none), folded, null (1 / root of the free dimensions), left_out (components beside that cannot
        be told apart or do not exist), factors (what the reader's products are multiplied by, by reader).
    """

    figure: ClassVar[str] = "channel_use"
    main: ClassVar[str] = "share"
    effect: ClassVar[bool] = True

    def table(self, level: float = 0.95, *, chosen: bool = True) -> "pd.DataFrame":
        """Able and does side by side, a row a channel, most used first: able, over_null, able_z, loud, head_share, size, part (size over
        the reader's), share with its interval, read at each span, and rank (1: no other component of its head has a larger size).

        `chosen=False` adds the components beside them.
        """
        import pandas as pd

        data, part = self.data, self.relative()
        rank = self._ranks(part.mean("prompt", skipna=True).values)
        rows = np.flatnonzero(data["chosen"].values) if chosen else np.arange(data.sizes["channel"])
        share = bootstrap_ci(data["share"].isel(channel=rows), "prompt", level=level)
        mean = data[["loud", "head_share", "size", "read", "write"]].isel(channel=rows).mean("prompt")
        frame = pd.DataFrame(
            {
                "channel": data["channel"].values[rows],
                "able": data["able"].values[rows],
                "over_null": data["able"].values[rows] / data.attrs["null"],
                "able_z": data["able_z"].values[rows],
                **{name: mean[name].values for name in ("loud", "head_share", "size")},
                "part": part.isel(channel=rows).mean("prompt").values,
                "share": share.estimate.values,
                "ci_lo": share.low.values,
                "ci_hi": share.high.values,
                "rank": rank[rows],
                **{f"read {span}": mean["read"].sel(span=span).values for span in data["span"].values},
                **{f"write {span}": mean["write"].sel(span=span).values for span in data["span"].values},
            }
        )
        order = np.argsort(-frame["part"].fillna(-1.0).to_numpy(), kind="stable")
        return frame.iloc[order].reset_index(drop=True)

    def relative(self) -> xr.DataArray:
        """`size` over what the reader hears in all, [prompt, channel]: 0 for a silent channel, whatever the units of its reader."""
        total = self.data["total"].sel(link=self.data["channel_link"].values).values
        with np.errstate(invalid="ignore", divide="ignore"):
            values = np.where(total > 0, self.data["size"].values / total, np.nan)
        return self.data["size"].copy(data=values)

    def correlation(self, level: float = 0.95, *, kind: str | None = None) -> dict[str, float]:
        """Rank correlation over channels (of one `kind`, or all) of ability with use: rho, ci_lo, ci_hi, n.

        Use is the mean of `relative()`. The interval resamples prompts: it says how far the prompts, not the channels, determine rho.
        """
        from scipy.stats import rankdata

        able, use = self._able_and_used(kind)
        found = spearman(able, use.mean(axis=0))
        if not np.isfinite(found.rho) or len(use) < 2:
            return {"rho": found.rho, "ci_lo": np.nan, "ci_hi": np.nan, "n": float(found.n)}
        counts = numpy_generator(0, "able against use").multinomial(
            len(use), np.full(len(use), 1 / len(use)), size=RESAMPLES
        )
        ranks = rankdata(counts @ use / len(use), axis=1)  # [resample, channel]
        mine = rankdata(able)
        apart, own = ranks - ranks.mean(axis=1, keepdims=True), mine - mine.mean()
        size = np.sqrt((apart**2).sum(axis=1) * (own**2).sum())
        again = (apart @ own)[size > 0] / size[size > 0]
        low, high = np.quantile(again, [(1 - level) / 2, (1 + level) / 2])
        return {"rho": found.rho, "ci_lo": float(low), "ci_hi": float(high), "n": float(found.n)}

    def between(self, to: str, minus: str) -> xr.DataArray:
        """What each channel adds to the score of `to` over that of `minus`, [prompt, channel]: IO over S1, say."""
        for span in (to, minus):
            one_of("span", span, self.data["span"].values.tolist())
        read = self.data["read"]
        return read.sel(span=to, drop=True) - read.sel(span=minus, drop=True)

    def sources(self, link: str, level: float = 0.95) -> "pd.DataFrame":
        """Everything that one reader hears, such as `Q 9.9`, largest share first: source, kind, share, ci_lo, ci_hi, read at each span."""
        import pandas as pd

        one_of("link", link, self.data["link"].values.tolist())
        here = self.data.sel(link=link)
        here = here.isel(source=here["source_share"].notnull().any("prompt").values)
        if not here.sizes["source"]:
            raise BadInput(
                f"{link} makes no difference between keys on any of these prompts, so nothing has a share of it. Take others."
            )
        share = bootstrap_ci(here["source_share"], "prompt", level=level)
        frame = pd.DataFrame(
            {
                "source": here["source"].values, "kind": here["source_kind"].values, "share": share.estimate.values,
                "ci_lo": share.low.values, "ci_hi": share.high.values,
                **{f"read {span}": here["source_read"].sel(span=span).mean("prompt").values for span in here["span"].values},
            }
        )  # fmt: skip
        order = np.argsort(-frame["share"].abs().to_numpy(), kind="stable")
        return frame.iloc[order].reset_index(drop=True)

    def silent(self) -> list[str]:
        """Chosen channels that are able to talk and do not: below 1 % of what their readers hear, on average over prompts."""
        use = self.relative().mean("prompt").values
        quiet = self.data["chosen"].values & (use < SILENT)
        return [str(name) for name in self.data["channel"].values[quiet]]

    def headline(self) -> dict[str, float]:
        """The channel that is used most (its size over the reader's), able against use, and how many chosen channels are silent."""
        use = self.relative().mean("prompt").where(self.data["chosen"]).values
        named = {}
        if np.isfinite(use).any():
            best = int(np.nanargmax(use))
            named[f"used most: {self.data['channel'].values[best]}"] = float(use[best])
        chosen = int(self.data["chosen"].sum())
        able, mean = self._able_and_used()
        rho = spearman(able, mean.mean(axis=0)).rho
        return {
            **named,
            "able and used, rank correlation": rho,
            f"silent of {chosen} channels": float(len(self.silent())),
        }

    def report_lines(self) -> tuple[str, ...]:
        """The ten channels used most."""
        frame = self.table().head(10)
        lines = [f"{'channel':<18} {'able/null':>9} {'z':>6} {'part':>7} {'share':>7}  95 % interval     rank in head"]
        for row in frame.to_dict("records"):
            lines.append(
                f"{row['channel']:<18} {row['over_null']:>9.2f} {row['able_z']:>6.1f} {row['part']:>7.3f} {row['share']:>7.3f}  "
                f"[{row['ci_lo']:>6.3f}, {row['ci_hi']:>6.3f}]  {row['rank']:>4.0f}"
            )
        return tuple(lines)

    def thumbnail(self) -> xr.DataArray | None:
        """Shares of the chosen channels, prompts by channels."""
        return self.data["share"].isel(channel=self.data["chosen"].values)

    def _able_and_used(self, kind: str | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Ability [channel] and use [prompt, channel], of the channels that have both on every prompt."""
        keep = np.ones(self.data.sizes["channel"], dtype=bool)
        if kind is not None:
            one_of("kind", kind, sorted(set(self.data["channel_kind"].values.tolist())))
            keep = self.data["channel_kind"].values == kind
        able, use = self.data["able"].values, self.relative().values
        keep &= np.isfinite(able) & np.isfinite(use).all(axis=0)
        return able[keep], use[:, keep]

    def _ranks(self, use: np.ndarray) -> np.ndarray:
        """Place of each channel among those of the same head and link, 1 = largest use; NaN where there is none."""
        groups = [
            f"{head} {link}"
            for head, link in zip(self.data["channel_head"].values, self.data["channel_link"].values, strict=True)
        ]
        rank = np.full(len(use), np.nan)
        for group in set(groups):
            mine = np.flatnonzero([one == group for one in groups])
            known = mine[np.isfinite(use[mine])]
            rank[known] = 1 + (use[known][:, None] < use[known]).sum(axis=1)
        return rank
