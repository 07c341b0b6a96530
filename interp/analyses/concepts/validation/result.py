"""What a validation gives: every prompt's values under every damage, and the tables and curves that are read off them."""

from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
import xarray as xr

from interp.core.analysis import Result
from interp.core.errors import BadInput, listing, one_of
from interp.core.seed import numpy_generator
from interp.core.stats import bootstrap_ci, holm, percentile_limits

if TYPE_CHECKING:
    import pandas as pd

CRITERION = 0.2
"""The published rule: a concept is accepted where BLEU falls by so much more on related than on unrelated questions."""
RESAMPLES = 2000
DISTANCES = ("kl", "kl_answer")
"""Measures that grow with damage; of the others, an effect is how far they fall."""


class ConceptValidationResult(Result):
    """Values of every damaged model on every prompt of its concept.

    data:
        score            [prompt, size, dose, metric]              damaged model (noise: mean over its draws)
        base             [prompt, metric]                          original model (kl 0, bleu and rouge_l 1 by definition)
        null             [concept, draw, size, dose, kind, metric] mean damaged value with a matched set in the place of the concept's
        answer_before    [prompt], answer_after [prompt, size, dose]   what was generated
        coefficient      [prompt, vector]                          mean |m_j| over the prompt's tokens
        null_coefficient [concept, kind, vector]                   the same of the matched vectors, mean over draws and prompts
        name, share, norm, null_norm [concept, vector]             the vectors, share of the concept's words among their first tokens,
                                                                   norms, and mean norm of the matched ones
        noise            [concept, vector, dose]                   length of the noise that was added (0 for factors)
        draws, weight_difference [concept]                         matched sets; difference in nats between the changed weights and the
                                                                   resumed run (NaN for noise, which is only done in the weights)
    coords: metric (prob, logprob, accuracy, kl, kl_answer, bleu, rouge_l), kind (related, unrelated); along prompt: of (its concept), asks
        (related or unrelated), text, answer, gold (bool: scored on a gold answer, else on the original model's first token).
    attrs: how, main (the dose that tables are about), tokens, match, reference (whose answer is BLEU's reference), answers.

    An *effect* is positive where damage shows: prob, logprob, accuracy, bleu and rouge_l by how far they fall, KL as it is. The *gap* is
    the mean effect on related prompts less that on unrelated ones. Without a `size`, each concept's largest set is meant.
    """

    figure: ClassVar[str] = "concept_validation"
    main: ClassVar[str] = "score"
    effect: ClassVar[bool] = True

    @property
    def concepts(self) -> list[str]:
        """Names of the concepts."""
        return [str(name) for name in self.data["concept"].values]

    @property
    def metrics(self) -> list[str]:
        """Measures that were taken (without generated answers, there is no overlap)."""
        known = self.data["score"].notnull().any(["prompt", "size", "dose"])
        return [str(name) for name, there in zip(self.data["metric"].values, known.values, strict=True) if there]

    def sizes(self, concept: str) -> list[int]:
        """How many vectors of a concept were damaged together."""
        one_of("concept", concept, self.concepts)
        rows = self.data["score"].isel(prompt=self._rows(concept))
        known = rows.notnull().any(["prompt", "dose", "metric"]).values
        return [int(size) for size, there in zip(self.data["size"].values, known, strict=True) if there]

    def effects(self, metric: str = "prob") -> xr.DataArray:
        """Effect of every damage on every prompt [prompt, size, dose]; positive where damage shows. Never clipped."""
        one_of("metric", metric, self.metrics)
        change = self.data["score"].sel(metric=metric, drop=True) - self.data["base"].sel(metric=metric, drop=True)
        return (change if metric in DISTANCES else -change).rename("effect").transpose("prompt", "size", "dose")

    def null_effects(self, metric: str = "prob") -> xr.DataArray:
        """Mean effect of every matched set [concept, draw, size, dose, kind]; NaN where none was tried."""
        one_of("metric", metric, self.metrics)
        base = self.data["base"].sel(metric=metric, drop=True)
        kinds = [str(kind) for kind in self.data["kind"].values]
        means = [[float(base[self._rows(name, kind)].mean()) for kind in kinds] for name in self.concepts]
        original = xr.DataArray(means, dims=("concept", "kind"))
        change = self.data["null"].sel(metric=metric, drop=True) - original
        return (change if metric in DISTANCES else -change).rename("effect")

    def table(
        self,
        metric: str = "prob",
        *,
        size: int | None = None,
        dose: float | None = None,
        level: float = 0.95,
        seed: int = 0,
    ) -> "pd.DataFrame":
        """A row a concept: concept, vectors, related and unrelated (mean effects), gap, ci_lo, ci_hi, null_gap (mean of the matched sets),
        p, p_holm, n_null, bleu_gap, meets, n_related, n_unrelated.

        The interval resamples prompts within each kind (equal texts together). p is the share of matched sets with at least this gap, the
        concept's own counted; Holm's over concepts. `bleu_gap` above 0.2 `meets` the published rule (NaN and False without answers).
        """
        import pandas as pd

        rows = [self._row(name, metric, size, dose, level, seed) for name in self.concepts]
        for row, adjusted in zip(rows, holm(np.array([row["p"] for row in rows])), strict=True):
            row["p_holm"] = float(adjusted)
        return pd.DataFrame(rows)

    def response(
        self,
        concept: str,
        metric: str = "prob",
        *,
        along: Literal["dose", "size"] = "dose",
        size: int | None = None,
        dose: float | None = None,
        level: float = 0.95,
    ) -> xr.Dataset:
        """Mean effect along doses (of one set) or along sizes (at one dose): mean, ci_lo, ci_hi, null_lo, null_hi [kind, dose or size], n
        [kind], n_null [dose or size]. The null band reaches from the least to the most damaging matched set.
        """
        one_of("along", along, ("dose", "size"))
        one_of("concept", concept, self.concepts)
        ticks = self.data["dose"].values if along == "dose" else np.array(self.sizes(concept))
        at: dict[str, Any] = {"size": self._size(concept, size)} if along == "dose" else {"dose": self._dose(dose)}
        effects = self.effects(metric).sel(at, drop=True).sel({along: ticks})
        null = self.null_effects(metric).sel({**at, "concept": concept}, drop=True).sel({along: ticks})
        kinds = ["related", "unrelated"]
        columns = {name: np.full((2, len(ticks)), np.nan) for name in ("mean", "ci_lo", "ci_hi", "null_lo", "null_hi")}
        for row, kind in enumerate(kinds):
            part = effects.isel(prompt=self._rows(concept, kind)).transpose("prompt", along)
            texts = [str(text) for text in part["text"].values]
            found = bootstrap_ci(part.values, level=level, name="concept response", clusters=texts)
            columns["mean"][row], columns["ci_lo"][row], columns["ci_hi"][row] = found
            drawn = null.sel(kind=kind, drop=True).transpose("draw", along)
            columns["null_lo"][row], columns["null_hi"][row] = drawn.min("draw"), drawn.max("draw")
        laid: dict[str, Any] = {name: (("kind", along), values) for name, values in columns.items()}
        laid["n"] = ("kind", [len(self._rows(concept, kind)) for kind in kinds])
        laid["n_null"] = (along, null.sel(kind="related", drop=True).notnull().sum("draw").values)
        attrs = {"concept": concept, "metric": metric} | {key: float(value) for key, value in at.items()}
        return xr.Dataset(laid, {"kind": kinds, along: ticks}, attrs)

    def levels(
        self, metric: str = "bleu", *, size: int | None = None, dose: float | None = None, level: float = 0.95
    ) -> xr.Dataset:
        """Mean value of the damaged model [concept, kind] with ci_lo, ci_hi and n, and that of the original (`before`)."""
        one_of("metric", metric, self.metrics)
        kinds = [str(kind) for kind in self.data["kind"].values]
        found = {name: np.full((len(self.concepts), 2), np.nan) for name in ("mean", "ci_lo", "ci_hi", "before", "n")}
        for row, name in enumerate(self.concepts):
            at = {"size": self._size(name, size), "dose": self._dose(dose), "metric": metric}
            for column, kind in enumerate(kinds):
                part = self.data.isel(prompt=self._rows(name, kind))
                texts = [str(text) for text in part["text"].values]
                limits = bootstrap_ci(part["score"].sel(at).values, level=level, name="concept level", clusters=texts)
                before = float(part["base"].sel(metric=metric).mean())
                for key, value in zip(found, (*limits, before, len(texts)), strict=True):
                    found[key][row, column] = value
        columns: dict[str, Any] = {key: (("concept", "kind"), values) for key, values in found.items()}
        return xr.Dataset(columns, {"concept": self.concepts, "kind": kinds})

    def vectors(self) -> "pd.DataFrame":
        """A row a vector: concept, vector, share, norm, null_norm, related and unrelated (mean |m_j|), null_related, null_unrelated.

        For noise also its length at the main dose (`noise`) and the cosine that it leaves (`cosine`, |v| / sqrt(|v|^2 + |noise|^2)).
        """
        import pandas as pd

        data, rows = self.data, []
        for name in self.concepts:
            one = data.sel(concept=name)
            fires = {
                kind: data["coefficient"].isel(prompt=self._rows(name, kind)).mean("prompt").values
                for kind in ("related", "unrelated")
            }
            for place in np.flatnonzero(one["name"].values != ""):
                norm = float(one["norm"][place])
                row = {
                    "concept": name, "vector": str(one["name"].values[place]), "share": float(one["share"][place]), "norm": norm,
                    "null_norm": float(one["null_norm"][place]),
                    **{kind: float(fires[kind][place]) for kind in fires},
                    **{f"null_{kind}": float(one["null_coefficient"].sel(kind=kind)[place]) for kind in fires},
                }  # fmt: skip
                if "noise" in data.attrs["how"]:
                    noise = float(one["noise"].sel(dose=data.attrs["main"])[place])
                    row |= {"noise": noise, "cosine": norm / float(np.hypot(norm, noise)) if norm else float("nan")}
                rows.append(row)
        return pd.DataFrame(rows)

    def answers(self, concept: str, *, size: int | None = None, dose: float | None = None) -> "pd.DataFrame":
        """What was said: asks, text, before, after, bleu, rouge_l; a row a prompt. Raises `BadInput` where nothing was generated."""
        import pandas as pd

        if not self.data.attrs["tokens"]:
            raise BadInput("no answers were generated. Run ConceptValidation(tokens=20).")
        part = self.data.isel(prompt=self._rows(concept)).sel(size=self._size(concept, size), dose=self._dose(dose))
        columns = {"asks": "asks", "text": "text", "before": "answer_before", "after": "answer_after"}
        found = {name: part[source].values.astype(str) for name, source in columns.items()}
        scores = {name: part["score"].sel(metric=name).values for name in ("bleu", "rouge_l")}
        return pd.DataFrame({**found, **scores})

    def headline(self) -> dict[str, float]:
        """Concepts whose gap is larger than that of matched vectors (Holm, 5 %), and the mean fall of the answer's probability on related
        and on unrelated prompts, over concepts."""
        table = self.table()
        found: dict[str, float] = {}
        if (table["n_null"] > 0).any():
            found[f"concepts beyond matched vectors, of {len(table)}"] = float((table["p_holm"] < 0.05).sum())
        return found | {
            "fall of P(answer), related": float(table["related"].mean()),
            "fall of P(answer), unrelated": float(table["unrelated"].mean()),
        }

    def report_lines(self) -> tuple[str, ...]:
        """The table of concepts; what the first vector alone does; how much noise was added; whether weights and runs agree."""
        table, attrs = self.table(), self.data.attrs
        wide = max(7, *map(len, self.concepts))
        said = "  BLEU gap (> 0.2)" if "bleu" in self.metrics else ""
        lines = [
            f"{_dose(attrs)}; fall of P(answer), mean over prompts",
            f"{'concept':<{wide}} vectors  related  unrelated     gap (95 %)                matched    p (Holm){said}",
        ]
        for row in table.to_dict("records"):
            p = f"{row['p']:.3f} ({row['p_holm']:.3f})" if row["n_null"] else "no null"
            overlap = f"  {row['bleu_gap']:+.3f} {'yes' if row['meets'] else 'no'}" if said else ""
            lines.append(
                f"{row['concept']:<{wide}} {row['vectors']:7d}  {row['related']:+7.3f}  {row['unrelated']:+9.3f}  {row['gap']:+.3f} "
                f"({row['ci_lo']:+.3f} to {row['ci_hi']:+.3f})  {row['null_gap']:+9.3f}  {p:>14}{overlap}"
            )
        least = len(table) / (1 + table["n_null"].min())
        if table["n_null"].min() and least >= 0.05:
            lines.append(
                f"too few matched sets to tell: {table['n_null'].min()} of them and {len(table)} concept{'s' * (len(table) > 1)} give no p "
                f"(Holm) below {min(1.0, least):.2g}; ask for draws={20 * len(table)} or more"
            )
        if bool((self.data["size"] == 1).any()) and int(self.data["size"].max()) > 1:
            alone = [
                f"{row['concept']} {self.data['name'].sel(concept=row['concept']).values[0]} {row['related']:+.4f}"
                for row in self.table(size=1).to_dict("records")
            ]
            lines.append(f"the first vector alone, on related prompts: {listing(alone).replace(' or ', ' and ')}")
        if "noise" in attrs["how"]:
            vectors = self.vectors()
            lines.append(
                f"the noise is {vectors['noise'].mean():.3g} long and the vectors {vectors['norm'].mean():.3g}: a cosine of about "
                f"{vectors['cosine'].mean():.2f} with what they were is left"
            )
        else:
            lines.append(
                f"weights and resumed runs differ by up to {float(self.data['weight_difference'].max()):.1e} nats"
            )
        return tuple(lines)

    def thumbnail(self) -> xr.DataArray | None:
        """Mean effect on related prompts, concept by size, at the main dose."""
        effects = self.effects().sel(dose=self._dose(None), drop=True)
        rows = [effects.isel(prompt=self._rows(name, "related")).mean("prompt") for name in self.concepts]
        return xr.concat(rows, "concept").assign_coords(concept=self.concepts)

    def _row(
        self, name: str, metric: str, size: int | None, dose: float | None, level: float, seed: int
    ) -> dict[str, Any]:
        at = {"size": self._size(name, size), "dose": self._dose(dose)}
        effects = self.effects(metric).sel(at, drop=True)
        parts = [effects.isel(prompt=self._rows(name, kind)) for kind in ("related", "unrelated")]
        means = [float(part.mean()) for part in parts]
        gap = means[0] - means[1]
        limits = _limits(parts, name, level, seed)
        null = np.array([])
        if self.data.sizes["draw"]:
            drawn = self.null_effects(metric).sel(at, drop=True).sel(concept=name, drop=True)
            null = (drawn.sel(kind="related") - drawn.sel(kind="unrelated")).values
            null = null[~np.isnan(null)]
        beyond = int((null >= gap - 1e-12).sum())
        row = {
            "concept": name, "vectors": at["size"], "related": means[0], "unrelated": means[1], "gap": gap, "ci_lo": limits[0],
            "ci_hi": limits[1], "null_gap": float(null.mean()) if len(null) else float("nan"),
            "p": (1 + beyond) / (1 + len(null)) if len(null) else float("nan"), "p_holm": float("nan"), "n_null": len(null),
        }  # fmt: skip
        overlap = float("nan")
        if "bleu" in self.metrics:
            falls = self.effects("bleu").sel(at, drop=True)
            fall = [float(falls.isel(prompt=self._rows(name, kind)).mean()) for kind in ("related", "unrelated")]
            overlap = fall[0] - fall[1]
        counts = {f"n_{kind}": len(part) for kind, part in zip(("related", "unrelated"), parts, strict=True)}
        return row | {"bleu_gap": overlap, "meets": overlap > CRITERION, **counts}

    def _rows(self, concept: str, kind: str | None = None) -> np.ndarray:
        one_of("concept", concept, self.concepts)
        keep = self.data["of"].values == concept
        return np.flatnonzero(keep if kind is None else keep & (self.data["asks"].values == kind))

    def _size(self, concept: str, size: int | None) -> int:
        known = self.sizes(concept)
        if size is not None:
            one_of("size", size, known)
        return known[-1] if size is None else size

    def _dose(self, dose: float | None) -> float:
        known = [float(one) for one in self.data["dose"].values]
        if dose is not None:
            one_of("dose", dose, known)
        return float(self.data.attrs["main"]) if dose is None else float(dose)


def _limits(parts: list[xr.DataArray], name: str, level: float, seed: int) -> tuple[float, float]:
    """Bootstrap limits of the difference of two groups' means; prompts are drawn within their group, equal texts together."""
    means, fewest = [], len(parts[0])
    for part in parts:
        texts, member = np.unique(part["text"].values.astype(str), return_inverse=True)
        total, number = np.bincount(member, part.values), np.bincount(member)
        rng = numpy_generator(seed, "concept gap", name, str(part["asks"].values[0]))
        counts = rng.multinomial(len(texts), np.full(len(texts), 1 / len(texts)), size=RESAMPLES)
        means.append((counts @ total) / (counts @ number))
        fewest = min(fewest, len(texts))
    low, high = percentile_limits((means[0] - means[1])[:, None], fewest, level=level)
    return float(low[0]), float(high[0])


def _dose(attrs: dict[Any, Any]) -> str:
    """The main damage in words."""
    how, dose = attrs["how"], float(attrs["main"])
    if how == "noise":
        return f"noise of {dose:g} a coordinate"
    if how == "relative-noise":
        return f"noise {dose:g} times as long as the vector"
    return "vectors removed" if dose == 0 else f"vectors times {dose:g}"
