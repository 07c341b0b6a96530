"""What `ChannelCircuit` gives: channels as edges, the tests that they passed, and how far path patching agrees.

`IOI_HEADS` holds what is known of GPT-2 small on indirect objects, as data, and `recovered` compares heads with such a table:

    from interp.analyses.channels.discovery.result import IOI_HEADS, recovered
    heads = [(7, 9), (8, 6), (8, 10), (8, 3)]                        # or a ChannelCircuitResult
    recovered(heads, IOI_HEADS, among=[(layer, head) for layer in range(9) for head in range(12)])
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import xarray as xr

from interp.core.analysis import Result
from interp.core.errors import BadInput

from .paths import agreement_table, at_least

if TYPE_CHECKING:
    import pandas as pd

IOI_HEADS: dict[str, tuple[tuple[int, int], ...]] = {
    "duplicate token": ((0, 1), (0, 10), (3, 0)),
    "previous token": ((2, 2), (4, 11)),
    "induction": ((5, 5), (5, 8), (5, 9), (6, 9)),
    "inhibition": ((7, 3), (7, 9), (8, 6), (8, 10)),
    "mover": ((9, 6), (9, 9), (10, 0)),
    "backup mover": ((9, 0), (9, 7), (10, 1), (10, 2), (10, 6), (10, 10), (11, 2), (11, 9)),
    "negative mover": ((10, 7), (11, 10)),
    "into 9.9 (channels)": ((6, 1), (6, 2), (6, 7), (8, 3)),
}
"""Heads of GPT-2 small on indirect objects: Wang et al. 2022 (arXiv 2211.00593), figure 2 and appendices; the last row, writers into
the query of 9.9, from Merullo et al. 2024 (arXiv 2406.09519), who name the components 7.9.6, 8.6.2, 8.10.1, 3.0.1, 3.0.2 and 8.3.0."""


class ChannelCircuitResult(Result):
    """Channels that were found, and what every step tested.

    data:
        score         [edge]    composition score; of a block or a whole head the root mean square over its components
        z             [edge]    among the source head's other components (a whole head: among the other heads of its layer), or NaN
        z_readers     [edge]    of the reader among the other heads of its layer: what all of them read is a broadcast, and no channel
        log10_p, log10_adjusted, log10_null [edge]   analytic null, the same corrected, and the null that confirmed, uncorrected
        value, gap    [edge]    singular value of the source, and the next one's ratio to it, inverted (s_i / s_{i+1}); NaN for heads
        cosine        [edge]    for values: how well the reader's component `through` reads it
        step          [edge]    0 the start, -1, -2 upstream, 1, 2 downstream
        tests, passed_p, passed_z, unjudged, passed_both, passed_null, kept, cut [family]    numbers of tests and what they passed
        tested        [layer, head]   bool: heads that could have been found
        with agree=True also
        best, total, loud [receiver, layer, head]     score of each head's strongest component, of the whole head, and total |OV|
        linked        [receiver, layer, head]         bool: a channel from this head passed all tests (in the family "agreement")
        path_effect   [receiver, pair, layer, head]   path patching's effect on the logit difference; NaN above the receiver
    coords: edge (`8.10.1>Q:9.9`) with source, kind, destination, through and their numbers (component -1: the whole head);
        family; receiver; pair with known.
    attrs: start, free, null, correction, alpha, z, notes, freeze and at (of path patching).
    """

    figure: ClassVar[str] = "channel_flow"
    main: ClassVar[str] = "score"

    @property
    def start(self) -> str:
        """The node from which the walk began: as given, or the source of the strongest channel; empty where there is none."""
        return str(self.data.attrs["start"])

    def edges(self) -> "pd.DataFrame":
        """A row for each channel, nearest steps first, then by significance: source, kind, destination, through, score, over (its ratio to
        chance), and the other variables of an edge."""
        import pandas as pd

        names = (
            "source", "kind", "destination", "through", "score", "z", "z_readers", "log10_p", "log10_adjusted", "log10_null", "value",
            "gap", "cosine", "step",
        )  # fmt: skip
        frame = pd.DataFrame({name: self.data[name].values for name in names if name in self.data})
        frame.insert(5, "over", frame["score"] * self.data.attrs["free"] ** 0.5)
        order = np.lexsort((frame["log10_p"], np.sign(frame["step"]), frame["step"].abs()))
        return frame.iloc[order].reset_index(drop=True)

    def heads(self) -> "pd.DataFrame":
        """A row for each head that was found, without the start: layer, head, step, channels, score and z of its strongest."""
        import pandas as pd

        frame = self.edges()
        rows: dict[str, set[int]] = {}
        own = ".".join(self.start.split(".")[:2])
        for side in ("source", "destination"):
            for place, node in enumerate(frame[side].tolist()):
                name = ".".join(str(node).split(".")[:2])
                if name != own:
                    rows.setdefault(name, set()).add(place)
        table = []
        for name, places in rows.items():
            mine = frame.iloc[sorted(places)]  # nearest first
            best = mine.iloc[int(mine["log10_p"].to_numpy().argmin())]
            layer, head = map(int, name.split("."))
            table.append((layer, head, int(mine["step"].iloc[0]), len(mine), best["score"], best["z"]))
        columns = ["layer", "head", "step", "channels", "score", "z"]
        return pd.DataFrame(table, columns=columns).sort_values(["layer", "head"]).reset_index(drop=True)

    def families(self) -> "pd.DataFrame":
        """A row for each family of tests that was corrected together: how many tests passed what."""
        return self.data[[str(name) for name in self.data if self.data[name].dims == ("family",)]].to_dataframe()

    def agreement(
        self, top: int = 5, *, measure: str = "best", known: bool = True, n: int = 9999, seed: int = 0
    ) -> "pd.DataFrame":
        """Does what is able to talk matter to the answer? A row for each receiver, over all heads of earlier layers, and one for all:

        rho        rank correlation of the composition score with the magnitude of the mean path effect
        p, p_layer permutation p-values, exchanging the heads of a receiver, or only those of one layer
        overlap    how many of the `top` heads by score are among the `top` by path effect; `chance`, what is expected; p_overlap
        linked     heads with a channel that passed all tests; effect_linked and effect_rest, mean magnitudes of theirs and the others'
                   path effects; p_linked, that theirs are not larger, by permutation

        `measure` is best (a head's strongest component), total (the whole head) or loud (total times |OV|: a head that writes more is
        heard more). Averages are over known pairs unless told otherwise.
        """
        if "path_effect" not in self.data:
            raise BadInput("no path was patched. Run ChannelCircuit(agree=True) with pairs.")
        return agreement_table(self.data, top, measure=measure, known=known, n=n, seed=seed)

    def recovered(self, roles: Mapping[str, Sequence[tuple[int, int]]]) -> dict[str, Any]:
        """Precision and recall of the heads found against known ones; see `recovered`."""
        found = self.heads()
        among = np.argwhere(self.data["tested"].values).tolist()
        return recovered(zip(found["layer"], found["head"], strict=True), roles, among=[(a, b) for a, b in among])

    def headline(self) -> dict[str, float]:
        """Channels, heads, and the strongest channel (or the agreement with path patching, where it was asked for)."""
        tests = int(self.data["tests"].sum())
        named = {f"channels from {self.start or 'nowhere'} (of {tests:,} tests)": float(self.data.sizes["edge"])}
        named["heads on them"] = float(len(self.heads()))
        if "path_effect" in self.data:
            table = self.agreement(known=bool(self.data["known"].any()), n=999)
            row = table.iloc[-1]  # all receivers together
            named[f"rank correlation with path patching, {row['receiver']} (p = {row['p']:.2g})"] = float(row["rho"])
        elif self.data.sizes["edge"]:
            best = self.edges().sort_values("log10_p", kind="stable").iloc[0]
            name = f"{best['source']}>{best['kind']}:{best['destination']}"
            named[f"strongest, over chance: {name} (z = {best['z']:.2g})"] = float(best["over"])
        return named

    def report_lines(self) -> tuple[str, ...]:
        """What each family tested, the channels, the agreement, and what was left out."""
        lines = [
            f"{name}: {row['tests']} tests, {row['passed_p']} significant, {row['passed_z']} stand out "
            f"({row['unjudged']} cannot be judged), {row['passed_both']} both, "
            f"{row['passed_null']} confirmed ({self.data.attrs['null']}), {row['kept']} kept"
            for name, row in self.families().iterrows()
        ]
        if self.data.sizes["edge"]:
            short = self.edges()[
                ["step", "source", "kind", "destination", "score", "over", "z", "z_readers", "log10_p", "log10_null"]
            ]
            lines += short.head(30).to_string(index=False, float_format=lambda x: f"{x:.3g}").splitlines()
            if len(short) > 30:
                lines.append(f"... and {len(short) - 30} more: edges()")
        if "path_effect" in self.data:
            table = self.agreement(known=bool(self.data["known"].any()))
            lines += table.to_string(index=False, float_format=lambda x: f"{x:.3g}").splitlines()
        return (*lines, *map(str, self.data.attrs["notes"]))

    def thumbnail(self) -> xr.DataArray | None:
        """Path effects where there are any, else nothing: a list of channels is no map."""
        if "path_effect" not in self.data:
            return None
        return self.data["path_effect"].isel(receiver=0, drop=True).mean("pair")


def recovered(
    found: Iterable[tuple[int, int]],
    roles: Mapping[str, Sequence[tuple[int, int]]],
    *,
    among: Sequence[tuple[int, int]],
) -> dict[str, Any]:
    """How many of the heads found are known (precision), and of the known ones found (recall), `among` those that could be.

    Also `p`, the chance of so many known heads in a random choice of as many heads, and `roles`, the share of each role found (NaN
    for roles out of reach).
    """
    universe = {(int(a), int(b)) for a, b in among}
    mine = {(int(a), int(b)) for a, b in found}
    if stray := sorted(mine - universe):
        raise BadInput(f"heads {stray} were found, but are not `among` those that could be.")
    known = {head for heads in roles.values() for head in heads} & universe
    hits = mine & known
    share = {
        role: len(mine & set(heads)) / len(set(heads) & universe) if set(heads) & universe else float("nan")
        for role, heads in roles.items()
    }
    return {
        "precision": len(hits) / len(mine) if mine else float("nan"), "recall": len(hits) / len(known) if known else float("nan"),
        "found": len(mine), "known": len(known), "among": len(universe), "p": at_least(len(hits), len(mine), len(known), len(universe)),
        "roles": share,
    }  # fmt: skip
