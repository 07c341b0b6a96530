"""What a comparison of two models found, with its tables in words."""

from typing import TYPE_CHECKING, ClassVar

import numpy as np
import xarray as xr

from interp.core.analysis import Result

from .delta import BINS
from .labels import LABELS
from .patching import BIASES, NOTHING, SWAP, SWAPPED, recovered
from .sets import ANY, CHANGED

if TYPE_CHECKING:
    import pandas as pd

NONE = 1e-5
"""Nats a token: a KL of float32 logits that is no larger is rounding, and has no shares."""
MOST_LINES = 12
"""Latents a side in the report."""


class DiffResult(Result):
    """Latents of a crosscoder of two models: which model they belong to, artifacts, and what patching them recovers.

    data:
        delta, bin, label [latent]       relative norm difference; its bin; label of those of one model alone
        change [latent]                  relative length of the difference of the two decoder rows
        on, strength, power [latent]     tokens on which it is on; mean code there; mean square over all tokens
        baseline [latent]                whether it is one of the random shared latents beside
        norm [model, latent]             decoder norms, normalised space
        beta [side, target, model, latent]; nu, free, chance [side, target, latent]    latent scaling: factors, ratios of the published
                                         version, ratios without a direction, and what chance gives these; see `scaling`
        token, token_share, promoted, promoted_z [shown, rank]; context, code [shown, example]    words for the latents `shown`, which
                                         are `shown_for` "tuned", "base" or "changed"
        kl [set, document, part]         KL from the tuned model, summed over patched tokens, nats; patched [document, part] counts these
        exclusive [model, record]        exclusive latents over training, at `trained` rows
    attrs: base, tuned, site, dictionary, tokens, l0, fvu_base, fvu_tuned, ratio, warning, thresholds.
    """

    figure: ClassVar[str] = "diffing"
    main: ClassVar[str] = "delta"

    def counts(self) -> dict[str, int]:
        """Latents in each bin."""
        named = self.data["bin"].values
        return {name: int((named == name).sum()) for name in BINS}

    def labels(self, side: str = "tuned") -> dict[str, int]:
        """Latents of one model alone by label."""
        mine = self.data["label"].values[self.data["bin"].values == f"{side} only"]
        return {name: int((mine == name).sum()) for name in LABELS}

    def ratios(self, side: str = "tuned") -> xr.DataArray:
        """The ratios that judged [target, latent]."""
        return self.data["free" if self.data.attrs["ratio"] == "free" else "nu"].sel(side=side)

    def latents(self) -> "pd.DataFrame":
        """A row a latent: delta, bin, label, density, ratios of both versions (of its own side), decoder norms, and words where kept."""
        import pandas as pd

        data = self.data
        tuned = (data["delta"] >= 0.5).values
        table = pd.DataFrame({name: data[name].values for name in ("latent", "delta", "bin", "label", "strength")})
        table["density"] = data["on"].values / data.attrs["tokens"]
        for name in ("nu", "free"):
            for target in ("reconstruction", "error"):
                one = data[name].sel(target=target)
                table[f"{name} {target}"] = np.where(tuned, one.sel(side="tuned").values, one.sel(side="base").values)
        for model in ("base", "tuned"):
            table[f"norm {model}"] = data["norm"].sel(model=model).values
        words = {int(latent): place for place, latent in enumerate(data["shown"].values)}
        for name in ("token", "promoted"):
            lists = [" ".join(filter(None, data[name].values[place])) for place in words.values()]
            table[name] = table["latent"].map(dict(zip(words, lists, strict=True))).fillna("")
        return table

    def recovered(self, part: str = "all", level: float = 0.95) -> xr.Dataset:
        """Share of the KL between the two models that each set recovers [set]: recovered, ci_lo, ci_hi, and kl a token.

        Whole texts are drawn for the interval. NaN where the models do not differ: a KL a token of no more than rounding (`NONE`).
        Raises `KeyError` where nothing was patched.
        """
        kl = self.data["kl"].sel(part=part)
        patched = int(self.data["patched"].sel(part=part).sum())
        nothing = kl.sel(set=NOTHING).values
        share, low, high = recovered(kl.values, nothing, clusters=self.data["text"].values.tolist(), level=level)
        per = kl.sum("document").values / max(patched, 1)
        if not float(nothing.sum()) > NONE * max(patched, 1):
            share, low, high = (np.full(len(per), np.nan) for _ in range(3))
        columns = {"recovered": share, "ci_lo": low, "ci_hi": high, "kl": per}
        return xr.Dataset(
            {name: ("set", values) for name, values in columns.items()}, {"set": kl["set"], "size": kl["size"]}
        )

    def random(self, part: str = "all") -> np.ndarray:
        """Shares that the sets of random shared latents recover."""
        found = self.recovered(part)
        return found["recovered"].values[[str(name).startswith("random") for name in found["set"].values]]

    def changed(self, part: str = "all", level: float = 0.95) -> "pd.DataFrame":
        """What the latents changed most recover, a row a share of the living latents, beside as many of any latents.

        Columns: share, latents, recovered, ci_lo, ci_hi, and any, any_lo, any_hi: mean, lowest and highest of the random
        sets, NaN where there are none.
        """
        import pandas as pd

        table, rows = self.recovered(part, level), []
        names = [str(name) for name in table["set"].values]
        for name in names:
            if name.startswith(f"{CHANGED}, "):
                share, one = name.removeprefix(f"{CHANGED}, "), table.sel(set=name)
                drawn = [other for other in names if other.startswith(ANY) and other.endswith(f", {share}")]
                any_ = table["recovered"].sel(set=drawn).values if drawn else np.array([np.nan])
                own = [float(one[key]) for key in ("recovered", "ci_lo", "ci_hi")]
                rows.append([float(share), int(one["size"]), *own, any_.mean(), any_.min(), any_.max()])
        columns = ["share", "latents", "recovered", "ci_lo", "ci_hi", "any", "any_lo", "any_hi"]
        return pd.DataFrame(rows, columns=columns)

    def headline(self) -> dict[str, float]:
        """Latents of the tuned model alone, those of them that are specific, and the share of KL that both models' own latents recover.

        Where there are none of one model alone, the last is that of the latents changed most.
        """
        found = {
            "tuned only": float(self.counts()["tuned only"]),
            "of these specific": float(self.labels()["specific"]),
        }
        if "kl" in self.data:
            table = self.recovered()
            name = next((one for one in ("both", "tuned only", "base only") if one in table["set"].values), "")
            moved = self.changed()
            if name:
                found[f"KL recovered, {name}"] = float(table["recovered"].sel(set=name))
            elif len(moved):
                last = moved.iloc[-1]
                found[f"KL recovered, {100 * last['share']:.3g} % changed most"] = float(last["recovered"])
        return found

    def thumbnail(self) -> xr.DataArray | None:
        """The histogram of delta of living latents."""
        living = self.data["delta"].values[self.data["bin"].values != "dead"]
        return xr.DataArray(np.histogram(living, 40, (0.0, 1.0))[0].astype(float)[None], dims=("row", "delta"))

    def report_lines(self) -> tuple[str, ...]:
        """Bins, labels, latents with their words, and the table of sets."""
        attrs, counts = self.data.attrs, self.counts()
        lines = [
            f"{attrs['base']} (base) and {attrs['tuned']} (tuned) at {attrs['site']}: {sum(counts.values()):,} latents, "
            f"L0 {attrs['l0']:.1f}, FVU {attrs['fvu_base']:.3f} base and {attrs['fvu_tuned']:.3f} tuned, on {attrs['tokens']:,} tokens",
            "by decoder norms (delta): " + ", ".join(f"{counts[name]:,} {name}" for name in BINS) + self._extreme(),
        ]
        how = "along decoders" if attrs["ratio"] == "paper" else "without a direction"
        for side in ("tuned", "base"):
            if counts[f"{side} only"]:
                said = ", ".join(f"{number} {name}" for name, number in self.labels(side).items() if number)
                lines.append(f"{side} only, after latent scaling {how}: {said}")
        lines += self._baseline() + self._shown() + self._sets()
        return tuple([*lines, *([f"! {attrs['warning']}"] if attrs["warning"] else [])])

    def _extreme(self) -> str:
        """That the latents "of one model alone" were chosen by number, and how far their deltas really reach."""
        data = self.data
        if not data.attrs["extreme"]:
            return ""
        mine = [data["delta"].values[data["bin"].values == f"{side} only"] for side in ("tuned", "base")]
        ends = [end(part) if len(part) else float("nan") for end, part in zip((np.min, np.max), mine, strict=True)]
        return (
            f"; the {data.attrs['extreme']} most extreme of each side stand in for those of one model alone, whatever their delta: "
            f"down to {ends[0]:.2f} for tuned, up to {ends[1]:.2f} for base"
        )

    def _baseline(self) -> list[str]:
        chosen = self.data["baseline"].values
        if not chosen.any():
            return []
        ratios = np.nanmedian(self.ratios().values[:, chosen], axis=1)
        return [
            f"baseline, {int(chosen.sum())} random shared latents: median ratio {ratios[0]:.2f} of the reconstruction, "
            f"{ratios[1]:.2f} of the error"
        ]

    def _shown(self) -> list[str]:
        data, lines = self.data, list[str]()
        why, latents = data["shown_for"].values, data["shown"].values
        if not np.isin(why, ("tuned", "base")).any():
            lines.append("no latent is near to being of one model alone")
        titles = {"tuned": "tuned model: label", "base": "base model: label", "changed": "both models, changed most"}
        for side, title in titles.items():
            mine = [(place, int(latent)) for place, latent in enumerate(latents) if why[place] == side][:MOST_LINES]
            if not mine:
                continue
            ratios = self.ratios("base" if side == "base" else "tuned").values
            lines.append(
                f"latent  delta change  ratio rec, err  on per 1000  {title:<28}  tokens it is on; what it promotes"
            )
            for place, latent in mine:
                said = str(data["label"].values[latent]) or f"({data['bin'].values[latent]})"
                own = " ".join(f"{word} {share:.0%}" for word, share in self._pairs("token", "token_share", place, 4))
                out = " ".join(word for word, _ in self._pairs("promoted", "promoted_z", place, 4))
                density = 1000 * data["on"].values[latent] / data.attrs["tokens"]
                lines.append(
                    f"{latent:>6}  {data['delta'].values[latent]:5.2f} {data['change'].values[latent]:6.2f}  {ratios[0, latent]:9.2f} "
                    f"{ratios[1, latent]:4.2f}  {density:11.2f}  {said:<28}  {own}; {out}"
                )
        return lines

    def _pairs(self, word: str, value: str, place: int, n: int) -> list[tuple[str, float]]:
        words, values = self.data[word].values[place][:n], self.data[value].values[place][:n]
        return [(str(one), float(number)) for one, number in zip(words, values, strict=True) if one]

    def _sets(self) -> list[str]:
        if "kl" not in self.data:
            return ["nothing was patched"]
        table = self.recovered()
        count = int(self.data["patched"].sel(part="all").sum())
        lines = [f"patched into {self.data.attrs['tuned']}, {count:,} tokens: KL a token, and share of it recovered"]
        if bool(np.isnan(table["recovered"].values).all()):
            per = float(table["kl"].sel(set=NOTHING))
            return [
                f"patched into {self.data.attrs['tuned']}, {count:,} tokens: the models do not differ there (KL {per:.1g} a token)"
            ]
        order = [name for name in table["set"].values if not str(name).startswith(("random", CHANGED, ANY))]
        named = {
            NOTHING: "nothing (the base's activations)",
            BIASES: "decoder biases alone",
            SWAP: SWAP,
            SWAPPED: SWAPPED,
        }
        for name in order:
            one = table.sel(set=name)
            many = f"{int(one['size']):,} latents" if int(one["size"]) else ""
            lines.append(
                f"  {named.get(str(name), str(name)):<36} {many:>14}  {float(one['kl']):8.4f}  {float(one['recovered']):7.1%} "
                f"({float(one['ci_lo']):.1%} to {float(one['ci_hi']):.1%})"
            )
        random = self.random()
        if len(random):
            size = int(table["size"].sel(set="random shared 1"))
            lines.append(
                f"  {f'random shared, {len(random)} sets':<36} {size:>6,} latents            {np.mean(random):7.1%} "
                f"({random.min():.1%} to {random.max():.1%} between sets)"
            )
        for row in self.changed().to_dict("records"):
            share, low, high, any_, least, most = (
                float(row[key]) for key in ("recovered", "ci_lo", "ci_hi", "any", "any_lo", "any_hi")
            )
            beside = "" if np.isnan(any_) else f"; as many of any: {any_:.1%} ({least:.1%} to {most:.1%})"
            name = f"changed most, {100 * float(row['share']):.3g} %"
            lines.append(
                f"  {name:<36} {int(row['latents']):>6,} latents            {share:7.1%} ({low:.1%} to {high:.1%}){beside}"
            )
        return lines
