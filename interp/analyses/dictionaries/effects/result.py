"""What `LatentEffect` gives: outcomes of every document, for the latents and for their controls."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import xarray as xr

from interp.core.analysis import Result
from interp.core.errors import one_of
from interp.core.stats import bootstrap_ci, sign_flip_test

from ...streams import clusters_of

if TYPE_CHECKING:
    import pandas as pd

CONTROLS = ("other latents", "random directions")
"""Latents that are on about as often; directions with shifts as long."""


class LatentEffectResult(Result):
    """Effects of changing latents.

    data:
        outcome  [set, strength, arm, measure, document]   arm 0 are the latents themselves, then the draws of each control (`kind`)
        clean    [measure, document]                         without an edit (kl: 0)
        gain, gain_token [set, strength, end, word]          tokens whose mean probability gains and loses most, over all positions
        changed  [set, strength]    share of the edited tokens that are changed; shift: mean length of the shift where it is
        density, largest [latent]   at the edited tokens; control, control_density [set, draw, member]: the other latents, how often on
    measures: kl (nats, mean over positions), nll (mean loss of the next tokens, nats), logprob and logit_diff (of the answer).
    attrs: how, unit, positions, view, site, tokens, dictionary (its content hash).
    """

    figure: ClassVar[str] = "latent_effects"
    main: ClassVar[str] = "outcome"
    effect: ClassVar[bool] = True

    @property
    def measures(self) -> list[str]:
        """What was measured."""
        return [str(one) for one in self.data["measure"].values]

    def change(self, measure: str = "kl") -> xr.DataArray:
        """Outcome less that of the clean run [set, strength, arm, document]."""
        one_of("measure", measure, self.measures)
        return self.data["outcome"].sel(measure=measure, drop=True) - self.data["clean"].sel(measure=measure, drop=True)

    def effect_of(self, measure: str = "kl", level: float = 0.95) -> xr.Dataset:
        """Mean change [set, strength] over documents, beside the controls.

        mean, ci_lo, ci_hi: bootstrapped over texts; p: by flipping the signs of texts (of no use for kl, which is never negative).
        control [kind, set, strength]: mean over draws; control_p: by flipping the signs of the difference to that mean, text by text
        (whether other texts would show a difference to these draws); share: how many of the draws have a mean at least as far from zero,
        the latents themselves counted (whether they stand out among such changes).
        """
        change, groups = self.change(measure), clusters_of(self.data)
        mine = change.isel(arm=0, drop=True)
        each = mine.transpose("document", ...).values
        mean, low, high = bootstrap_ci(each, level=level, name=f"latent effect {measure}", clusters=groups)
        p = sign_flip_test(each, name=f"latent effect {measure}", clusters=groups)
        grid = ("set", "strength")
        out = xr.Dataset(
            {"mean": (grid, mean), "ci_lo": (grid, low), "ci_hi": (grid, high), "p": (grid, p)},
            mine.drop_vars(["document", "text"]).coords,
        )
        columns: dict[str, list[np.ndarray]] = {"control": [], "control_p": [], "share": []}
        for kind in CONTROLS:
            drawn = change.isel(arm=np.flatnonzero(self.data["kind"].values == kind))
            average = drawn.mean("arm").transpose("document", ...).values
            columns["control"].append(_nanmean(average))
            columns["control_p"].append(
                np.asarray(sign_flip_test(each - average, name=f"latent effect {measure} {kind}", clusters=groups))
            )
            far = np.abs(np.stack([_nanmean(one) for one in drawn.transpose("arm", "document", ...).values]))
            columns["share"].append((1 + (far >= np.abs(mean) * (1 - 1e-9)).sum(axis=0)) / (1 + len(far)))
        return out.assign(
            {name: (("kind", *grid), np.stack(values)) for name, values in columns.items()}
        ).assign_coords(kind=list(CONTROLS))

    def summary(self, measure: str = "kl") -> "pd.DataFrame":
        """A row for each set and strength: mean, ci_lo, ci_hi, p, changed, and for each control its mean, p and share."""
        import pandas as pd

        found, rows = self.effect_of(measure), []
        for members in found["set"].values:
            for strength in found["strength"].values:
                here = found.sel(set=members, strength=strength)
                row = {"set": str(members), "strength": float(strength)} | {
                    name: float(here[name]) for name in ("mean", "ci_lo", "ci_hi", "p")
                }
                row["changed"] = float(self.data["changed"].sel(set=members, strength=strength))
                for kind in CONTROLS:
                    row |= {
                        f"{kind}": float(here["control"].sel(kind=kind)),
                        f"{kind}, p": float(here["control_p"].sel(kind=kind)),
                    }
                    row[f"{kind}, share"] = float(here["share"].sel(kind=kind))
                rows.append(row)
        return pd.DataFrame(rows)

    def words(self, members: str | None = None, strength: float | None = None) -> "dict[str, list[tuple[str, float]]]":
        """The tokens that gain and lose most probability, with their mean changes; of the first set and strength by default."""
        data = self.data
        here = data.sel(set=data["set"].values[0] if members is None else members)
        here = here.sel(strength=data["strength"].values[-1] if strength is None else strength)
        return {
            str(end): [
                (str(token), float(value))
                for token, value in zip(
                    here["gain_token"].sel(end=end).values, here["gain"].sel(end=end).values, strict=True
                )
            ]
            for end in here["end"].values
        }

    def headline(self) -> dict[str, float]:
        """KL (of prompts: the change of the answer's log-probability) of the first set at the last strength, beside its controls."""
        measure = "logprob" if "logprob" in self.measures else "kl"
        row = self.summary(measure).iloc[-1 if self.data.sizes["set"] == 1 else self.data.sizes["strength"] - 1]
        unit = "change of the answer's logprob" if measure == "logprob" else "KL, nats a token"
        return {unit: float(row["mean"]), **{f"the same, {kind}": float(row[kind]) for kind in CONTROLS}}

    def report_lines(self) -> tuple[str, ...]:
        """A line a set, strength and measure; then the tokens that gain and lose."""
        how, unit = str(self.data.attrs["how"]), str(self.data.attrs["unit"])
        names = {"kl": "KL", "nll": "loss", "logprob": "answer's logprob", "logit_diff": "logit difference"}
        lines = []
        for measure in self.measures:
            for row in self.summary(measure).to_dict("records"):
                if not np.isfinite(row["mean"]):
                    continue
                amount = f"{row['strength']:g}" + (" x its largest code" if unit == "max" and how != "ablate" else "")
                controls = "; ".join(self._beside(row, kind) for kind in CONTROLS)
                flips = "" if measure == "kl" else f", p {row['p']:.2g}"
                lines.append(
                    f"{how} {row['set']} ({amount}): {names[measure]} {row['mean']:+.3g} "
                    f"({row['ci_lo']:+.3g} to {row['ci_hi']:+.3g}{flips}), "
                    f"changed at {row['changed']:.1%} of tokens; {controls}"
                )
        density, others = self.data["density"].values, self.data["control_density"].values
        lines.append(
            f"the latents are on at {_span(density)} of tokens, the other latents at {_span(others)}; p is over texts, 'as much' over draws"
        )
        for members in self.data["set"].values:
            said = self.words(str(members))
            parts = [
                f"{end}: " + ", ".join(f"{token} {value:+.4f}" for token, value in pairs[:6])
                for end, pairs in said.items()
            ]
            lines.append(f"{how} {members}, mean probability  " + "   ".join(parts))
        return tuple(lines)

    def _beside(self, row: "Mapping[Any, Any]", kind: str) -> str:
        """A control in words: its mean, p of the difference, and how many of its draws do as much."""
        draws = int((self.data["kind"].values == kind).sum())
        reach = round(row[f"{kind}, share"] * (1 + draws)) - 1
        return f"{kind} {row[kind]:+.3g} (p {row[f'{kind}, p']:.2g}; {reach} of {draws} as much)"

    def thumbnail(self) -> xr.DataArray | None:
        """Mean change by set and strength."""
        return self.change(self.measures[-1 if self.measures[-1] != "logit_diff" else 1]).isel(arm=0).mean("document")


def _nanmean(values: np.ndarray) -> np.ndarray:
    """Mean over documents [document, ...], NaN (silently) where nothing is known."""
    known = np.isfinite(values)
    with np.errstate(invalid="ignore"):
        return np.asarray(np.where(known, values, 0.0).sum(axis=0) / known.sum(axis=0))


def _span(shares: np.ndarray) -> str:
    low, high = f"{shares.min():.1%}", f"{shares.max():.1%}"
    return low if low == high else f"{low} to {high}"
