"""What `ConceptSteering` gives: outcomes of every neutral text, arm and strength; doses, ranks and side effects are methods."""

from typing import ClassVar

import numpy as np
import xarray as xr

from interp.core.analysis import Result
from interp.core.errors import BadInput, one_of
from interp.core.stats import bootstrap_ci

RELATIVE = ("logprob", "logit", "judge", "nll")
"""Measures that are told as differences to the clean run; divergences are that already."""


class ConceptSteeringResult(Result):
    """Steering along a direction, and along others.

    data:
        outcome      [arm, strength, measure, prompt]         held-out neutral texts, at the chosen layer; means over a text's positions
        clean        [measure, prompt]                         without an edit
        fit_outcome  [layer, strength, measure, fit_prompt]   the direction at every layer, on the texts for choosing
        fit_clean    [measure, fit_prompt]
        vector       [layer, d_model]                          the direction of each layer, at length 1
        length       [layer]       of strength 1, in the site's units; gap: distance of the class means; norm: mean length of activations
        arm_length   [arm]         length of an arm's shift at strength 1
        auc          [layer]       of the direction, on the held-out labelled texts
        written      [version, example]   what is written after `text`: clean, steered as chosen, and along a random direction
    coords: arm (`kind`: direction, random, span, shuffled), strength (in units of `length`), measure, target (`word`, `z`).
    attrs: layer, strength (chosen), within (whether its side effects are within the budget), unit, method, site, pool, neutral.
    """

    figure: ClassVar[str] = "steering"
    main: ClassVar[str] = "outcome"
    effect: ClassVar[bool] = True

    @property
    def layer(self) -> int:
        """The layer that was chosen."""
        return int(self.data.attrs["layer"])

    @property
    def strength(self) -> float:
        """The strength that was chosen."""
        return float(self.data.attrs["strength"])

    @property
    def kinds(self) -> list[str]:
        """Kinds of control."""
        return [str(kind) for kind in dict.fromkeys(self.data["kind"].values) if kind != "direction"]

    def change(self, measure: str = "logprob") -> xr.DataArray:
        """Outcome less that of the clean run [arm, strength, prompt]; divergences as they are."""
        one_of("measure", measure, [str(name) for name in self.data["measure"].values])
        values = self.data["outcome"].sel(measure=measure, drop=True)
        return values - self.data["clean"].sel(measure=measure, drop=True) if measure in RELATIVE else values

    def dose(self, measure: str = "logprob", level: float = 0.95) -> xr.Dataset:
        """Mean change at each strength, 0 included: mean, ci_lo, ci_hi over texts [strength].

        null_lo, null_mean, null_hi [kind, strength]: where the middle `level` of each control's draws lies.
        """
        change = self.change(measure)
        mine = change.isel(arm=0)
        zero = xr.zeros_like(mine.isel(strength=[0])).assign_coords(strength=[0.0])
        if mine.isnull().all():
            zero = zero * np.nan
        mine = xr.concat([mine, zero], "strength").sortby("strength")
        mean, low, high = bootstrap_ci(mine, axis="prompt", level=level, name="steering")
        nulls = change.mean("prompt")
        nulls = xr.concat([nulls, xr.zeros_like(nulls.isel(strength=[0])).assign_coords(strength=[0.0])], "strength")
        nulls = nulls.sortby("strength")
        parts = {kind: nulls.isel(arm=np.flatnonzero(self.data["kind"].values == kind)) for kind in self.kinds}
        ends = (1 - level) / 2, (1 + level) / 2
        columns = {
            "null_lo": [part.quantile(ends[0], "arm", skipna=False).values for part in parts.values()],
            "null_mean": [part.mean("arm").values for part in parts.values()],
            "null_hi": [part.quantile(ends[1], "arm", skipna=False).values for part in parts.values()],
        }
        found = xr.Dataset({"mean": mean, "ci_lo": low, "ci_hi": high}).reset_coords(drop=True)
        stacked = {name: (("kind", "strength"), np.stack(values)) for name, values in columns.items()}
        return found.assign(stacked).assign_coords(kind=list(parts))

    def p(self, measure: str = "logprob", strength: float | None = None) -> dict[str, float]:
        """Rank of the direction's mean change among each control's, upwards: (1 + how many are as large) / (1 + draws)."""
        values = self.change(measure).mean("prompt").sel(strength=self._strength(strength)).values
        kind = self.data["kind"].values
        return {
            one: float((1 + (values[kind == one] >= values[0] - 1e-12).sum()) / (1 + (kind == one).sum()))
            for one in self.kinds
        }

    def at_equal_effect(self, effect: float | None = None, measure: str = "logprob") -> xr.Dataset:
        """Side effects of each arm where it first reaches the same mean effect, between strengths by straight lines [arm].

        Towards larger positive strengths; `effect` is by default half of what the direction has at the chosen strength. strength,
        kl, kl_clean, kl_rest, nll (the latter as a difference); NaN where the effect is not reached. Raises `BadInput` where the
        direction itself has no positive effect to share.
        """
        means = {name: self.change(name).mean("prompt") for name in {measure, "kl", "kl_clean", "kl_rest", "nll"}}
        own = float(means[measure].isel(arm=0).sel(strength=self.strength))
        want = own / 2 if effect is None else float(effect)
        if not want > 0:
            raise BadInput(
                f"an effect of {want:.4g} is no gain to compare at (the direction has {own:.4g} at strength {self.strength:g}). "
                "Name a positive `effect`."
            )
        doses = self.data["strength"].values
        positive = np.flatnonzero(doses > 0)
        x = np.r_[0.0, doses[positive]]
        names = [name for name in means if name != measure]
        out = {name: np.full(self.data.sizes["arm"], np.nan) for name in ("strength", *names)}
        for arm in range(self.data.sizes["arm"]):
            y = np.r_[0.0, means[measure].values[arm, positive]]
            reached = np.flatnonzero(y >= want)
            if len(reached):
                k = int(reached[0])
                share = (want - y[k - 1]) / (y[k] - y[k - 1])
                out["strength"][arm] = x[k - 1] + share * (x[k] - x[k - 1])
                for name in names:
                    z = np.r_[0.0, means[name].values[arm, positive]]
                    out[name][arm] = z[k - 1] + share * (z[k] - z[k - 1])
        coords = {"arm": self.data["arm"].values, "kind": ("arm", self.data["kind"].values)}
        return xr.Dataset(
            {name: ("arm", values) for name, values in out.items()}, coords, {"effect": want, "measure": measure}
        )

    def by_layer(self, measure: str = "logprob") -> xr.DataArray:
        """Mean change at every layer and strength [layer, strength], on the texts that were chosen on."""
        one_of("measure", measure, [str(name) for name in self.data["measure"].values])
        values = self.data["fit_outcome"].sel(measure=measure, drop=True)
        clean = self.data["fit_clean"].sel(measure=measure, drop=True)
        return (values - clean if measure in RELATIVE else values).mean("fit_prompt").rename(measure)

    def perplexity(self) -> xr.DataArray:
        """Perplexity of the neutral texts over that of the clean run [strength], the direction's."""
        loss = self.change("nll").isel(arm=0).mean("prompt")
        return loss.copy(data=np.exp(loss.values)).rename("perplexity ratio")

    def headline(self) -> dict[str, float]:
        """At the chosen layer and strength: the gain in log-probability, its largest p among the controls, and the side effect."""
        found = self.dose()
        return {
            f"gain in log P(targets) at layer {self.layer}, strength {self.strength:g}": float(
                found["mean"].sel(strength=self.strength)
            ),
            "p, worst of the controls": max(self.p().values()),
            "KL among other tokens, nats": float(self.change("kl_rest").isel(arm=0).sel(strength=self.strength).mean()),
        }

    def report_lines(self) -> tuple[str, ...]:
        """Targets, the dose, the controls, side effects at an equal effect, and one example."""
        attrs, found = self.data.attrs, self.dose()
        at, words = found.sel(strength=self.strength), [str(word) for word in self.data["word"].values[:12]]
        here = self.data.sel(layer=self.layer)
        how = (
            "named"
            if attrs["named"]
            else "said after positive texts"
            if attrs["found"] == "next"
            else "words of positive texts"
        )
        alike = attrs.get("alike", [])
        over = "" if attrs["within"] else f" (no strength stays within the budget of {attrs['budget']:g} nats)"
        lines = [
            f"targets ({how}): {' '.join(words)}",
            f"chosen: {attrs['site']} of layer {self.layer}, strength {self.strength:g}, "
            f"length {self.strength * float(here['length']):.3g}"
            f" (mean activation {float(here['norm']):.3g}){over}; the direction's held-out AUC {float(here['auc']):.3f}",
            f"log P(targets) {float(at['mean']):+.3f} ({float(at['ci_lo']):+.3f} to {float(at['ci_hi']):+.3f}) on "
            f"{attrs['neutral']}; controls "
            + "; ".join(
                f"{kind} {float(at['null_lo'].sel(kind=kind)):+.3f} to {float(at['null_hi'].sel(kind=kind)):+.3f} (p {p:.2g})"
                for kind, p in self.p().items()
            ),
            f"p cannot be below {1 / (1 + int((self.data['kind'].values == self.kinds[0]).sum())):.2g} (draws); "
            f"perplexity of neutral text x {float(self.perplexity().sel(strength=self.strength)):.3g}",
        ]
        if alike:
            lines.append(f"left out: layers {', '.join(map(str, alike))}, where the two classes have the same values")
        lines += self._equal()
        for example in range(min(1, self.data.sizes["example"])):
            clean, steered = (
                str(self.data["written"].sel(version=name).values[example]) for name in ("clean", "steered")
            )
            lines.append(
                f"{str(self.data['text'].values[example])[-60:]!r}: clean {clean[:70]!r}; steered {steered[:70]!r}"
            )
        return tuple(lines)

    def _equal(self) -> list[str]:
        try:
            equal = self.at_equal_effect()
        except BadInput:
            return ["no gain at the chosen strength, so no side effects at an equal effect"]
        kind = equal["kind"].values
        parts = []
        for one in ("direction", *self.kinds):
            values = equal["kl_rest"].values[kind == one]
            known = values[np.isfinite(values)]
            median = f"{np.median(known):.3g}" if len(known) else "-"
            parts.append(
                f"{one} {median}" + ("" if one == "direction" else f" ({len(known)} of {len(values)} reach it)")
            )
        return [f"KL among other tokens at an effect of {equal.attrs['effect']:.3g}: {'; '.join(parts)}"]

    def thumbnail(self) -> xr.DataArray | None:
        """The dose-response."""
        return self.dose()["mean"].rename("logprob")

    def _strength(self, strength: float | None) -> float:
        if strength is None:
            return self.strength
        one_of("strength", float(strength), self.data["strength"].values.tolist())
        return float(strength)
