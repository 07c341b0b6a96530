"""What a comparison of two models found, with its tables in words."""

from typing import TYPE_CHECKING, ClassVar

import numpy as np
import xarray as xr

from interp.core.analysis import Result

from .delta import BINS
from .labels import LABELS
from .patching import BIASES, NOTHING, SWAP, SWAPPED, recovered

if TYPE_CHECKING:
    import pandas as pd

MOST_LINES = 12
"""Latents a side in the report."""


class DiffResult(Result):
    """Latents of a crosscoder of two models: which model they belong to, artifacts, and what patching them recovers.

    data:
        delta, bin, label [latent]       relative norm difference; its bin; label of those of one model alone
        on, strength, power [latent]     tokens on which it is on; mean code there; mean square over all tokens
        baseline [latent]                whether it is one of the random shared latents beside
        norm [model, latent]             decoder norms, normalised space
        beta [side, target, model, latent]; nu, free, chance [side, target, latent]    latent scaling: factors, ratios of the published
                                         version, ratios without a direction, and what chance gives these; see `scaling`
        token, token_share, promoted, promoted_z [shown, rank]; context, code [shown, example]    words for the latents `shown`
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

        Whole texts are drawn for the interval. Raises `KeyError` where nothing was patched.
        """
        kl = self.data["kl"].sel(part=part)
        patched = int(self.data["patched"].sel(part=part).sum())
        nothing = kl.sel(set=NOTHING).values
        share, low, high = recovered(kl.values, nothing, clusters=self.data["text"].values.tolist(), level=level)
        per = kl.sum("document").values / max(patched, 1)
        columns = {"recovered": share, "ci_lo": low, "ci_hi": high, "kl": per}
        return xr.Dataset(
            {name: ("set", values) for name, values in columns.items()}, {"set": kl["set"], "size": kl["size"]}
        )

    def random(self, part: str = "all") -> np.ndarray:
        """Shares that the sets of random shared latents recover."""
        found = self.recovered(part)
        return found["recovered"].values[[str(name).startswith("random") for name in found["set"].values]]

    def headline(self) -> dict[str, float]:
        """Latents of the tuned model alone, those of them that are specific, and the share of KL that both models' own latents recover."""
        found = {
            "tuned only": float(self.counts()["tuned only"]),
            "of these specific": float(self.labels()["specific"]),
        }
        if "kl" in self.data:
            table = self.recovered()
            name = next((one for one in ("both", "tuned only", "base only") if one in table["set"].values), "")
            if name:
                found[f"KL recovered, {name}"] = float(table["recovered"].sel(set=name))
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
            "by decoder norms (delta): " + ", ".join(f"{counts[name]:,} {name}" for name in BINS),
        ]
        how = "along decoders" if attrs["ratio"] == "paper" else "without a direction"
        for side in ("tuned", "base"):
            if counts[f"{side} only"]:
                said = ", ".join(f"{number} {name}" for name, number in self.labels(side).items() if number)
                lines.append(f"{side} only, after latent scaling {how}: {said}")
        lines += self._baseline() + self._shown() + self._sets()
        return tuple([*lines, *([f"! {attrs['warning']}"] if attrs["warning"] else [])])

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
        if not self.data.sizes["shown"]:
            return ["no latent is near to being of one model alone"]
        data, lines = self.data, list[str]()
        for side in ("tuned", "base"):
            mine = [
                (place, int(latent)) for place, latent in enumerate(data["shown"].values)
                if (data["delta"].values[latent] >= 0.5) == (side == "tuned")
            ][:MOST_LINES]  # fmt: skip
            if not mine:
                continue
            ratios = self.ratios(side).values
            lines.append(
                f"latent  delta  ratio rec, err  on per 1000  {f'{side} model: label':<32}  tokens it is on; what it promotes"
            )
            for place, latent in mine:
                said = str(data["label"].values[latent]) or f"({data['bin'].values[latent]})"
                own = " ".join(f"{word} {share:.0%}" for word, share in self._pairs("token", "token_share", place, 4))
                out = " ".join(word for word, _ in self._pairs("promoted", "promoted_z", place, 4))
                density = 1000 * data["on"].values[latent] / data.attrs["tokens"]
                lines.append(
                    f"{latent:>6}  {data['delta'].values[latent]:5.2f}  {ratios[0, latent]:9.2f} {ratios[1, latent]:4.2f}  "
                    f"{density:11.2f}  {said:<32}  {own}; {out}"
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
        order = [name for name in table["set"].values if not str(name).startswith("random")]
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
        return lines
