"""What `ConceptFiring` gives: coefficients token by token, and what follows from them."""

from typing import TYPE_CHECKING, ClassVar

import numpy as np
import xarray as xr

from interp.core.analysis import Result
from interp.core.errors import BadInput, one_of
from interp.core.stats import holm

from .ranking import Ranks, auc_interval, exchange_p, wins

if TYPE_CHECKING:
    import pandas as pd

MEASURES = ("max", "mean", "token")
"""A text's largest coefficient, its mean, or every token by itself."""


class FiringResult(Result):
    """Where the neurons of some value vectors fire.

    data:
        auc, accuracy    [measure, vector, concept]   on the held-out half: AUC, and balanced accuracy at `threshold`
        sign, threshold  [measure, vector, concept]   chosen on the other half; a sign of -1: it fires downwards on the concept
        null_auc         [layer, measure, neuron, concept]   AUC of other neurons of the layer, through the same halves (NaN: padding)
        own, words       [vector, concept]            whether it is looked at for this concept, and the share of its words that it holds
        coefficient      [vector, token]              m_j, the BOS left out
        ahead            [vector, token]              how many neurons of the layer write more there, |m| |v|
        stream_share     [vector, token]              |m_j| |v_j| over the stream leaving the layer; NaN where a norm follows the MLP
        largest, smallest, mean [vector, text]        the coefficients of a text
        member           [text, concept]              whether a text is the concept's
    coords: vector (its layer `vector_layer`, length `norm`), text (`held_out`, `source`), token (`token_text`, `token_document`: pieces,
    `token_id`: its place in `label`). attrs: seed, neurons (how many others a layer), given (whether vectors were named by hand).
    """

    figure: ClassVar[str] = "concept_firing"
    main: ClassVar[str] = "auc"

    @property
    def vectors(self) -> list[str]:
        """Names of the vectors."""
        return [str(name) for name in self.data["vector"].values]

    @property
    def pairs(self) -> list[tuple[str, str]]:
        """(vector, concept) that are looked at for each other."""
        own = self.data["own"].values
        return [
            (self.vectors[row], str(self.data["concept"].values[column])) for row, column in np.argwhere(own).tolist()
        ]

    def selectivity(self, measure: str = "max", *, level: float = 0.95, n: int = 2000) -> xr.Dataset:
        """Held-out selectivity [vector, concept]; all but AUC and accuracy for own pairs only.

        `auc`, `ci_lo`, `ci_hi`; `p` by exchanging texts, `p_holm` over the own pairs; `null_share`: share of other neurons of the layer
        with an AUC at least as high, the vector counted; `null_hi`: the AUC that 5 % of them reach; `accuracy`: balanced, at the
        threshold of the other half.
        """
        one_of("measure", measure, MEASURES)
        shape = self.data["own"].shape
        columns = {name: np.full(shape, np.nan) for name in ("ci_lo", "ci_hi", "p", "null_share", "null_hi")}
        for row, column in np.argwhere(self.data["own"].values).tolist():
            scores, owner, inside = self.scored(measure, row, column)
            seed = int(self.data.attrs["seed"])
            name = f"firing {measure} {self.vectors[row]} {self.data['concept'].values[column]}"
            found = auc_interval(*wins(scores, owner, inside), level=level, n=n, seed=seed, name=name)
            columns["ci_lo"][row, column], columns["ci_hi"][row, column] = found.low, found.high
            ranks, kept = Ranks.of(scores[:, None], owner, len(inside)), np.unique(owner)
            ranks = Ranks(ranks.sums[kept], ranks.sizes[kept])
            columns["p"][row, column] = exchange_p(ranks, inside[kept], n=n, seed=seed, name=name)[0]
            null = self.null(self.vectors[row], str(self.data["concept"].values[column]), measure)
            if len(null):
                mine = float(self.data["auc"].sel(measure=measure)[row, column])
                columns["null_share"][row, column] = (1 + (null >= mine - 1e-12).sum()) / (1 + len(null))
                columns["null_hi"][row, column] = np.quantile(null, 0.95)
        own = self.data["own"].values
        adjusted = np.full(shape, np.nan)
        adjusted[own] = holm(columns["p"][own])
        picked = self.data[["auc", "accuracy", "sign", "threshold"]].sel(measure=measure, drop=True)
        dims = ("vector", "concept")
        return picked.assign({name: (dims, values) for name, values in (columns | {"p_holm": adjusted}).items()})

    def scored(self, measure: str, row: int, column: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The held-out scores [item] of a vector for a concept (by number), the text of each item, and which texts are inside [text]."""
        data = self.data
        sign = int(data["sign"].sel(measure=measure)[row, column])
        inside, held = data["member"].values[:, column], data["held_out"].values
        if measure == "token":
            owner = data["token_text"].values
            values = sign * data["coefficient"].values[row].astype(np.float64)
        else:
            owner = np.arange(len(held))
            name = "mean" if measure == "mean" else "largest" if sign > 0 else "smallest"
            values = sign * data[name].values[row]
        keep = held[owner]
        return values[keep], owner[keep], inside

    def null(self, vector: str, concept: str, measure: str = "max") -> np.ndarray:
        """Held-out AUCs of the other neurons of the vector's layer for a concept."""
        self._row(vector)
        layer = int(self.data["vector_layer"].sel(vector=vector))
        values = self.data["null_auc"].sel(layer=layer, measure=measure, concept=concept).values
        return np.asarray(values[np.isfinite(values)])

    def density(self, share: float = 0.1) -> xr.Dataset:
        """How often each vector's neuron fires [vector].

        above: share of tokens with |m| over `share` of its largest |m|; nonzero: share that is not exactly 0; mean, largest, smallest
        coefficient; write: mean of |m| |v| over the stream's length; leading: share of tokens on which fewer than 10 neurons of the layer
        write more.
        """
        if not 0 <= share < 1:
            raise BadInput(f"`share` is a share of the largest coefficient, from 0 to below 1; not {share}.")
        values = self.data["coefficient"]
        size = abs(values)
        found = {
            "above": (size > share * size.max("token")).mean("token"), "nonzero": (values != 0).mean("token"),
            "mean": values.mean("token", dtype=np.float64), "largest": values.max("token"), "smallest": values.min("token"),
            "write": self.data["stream_share"].mean("token", dtype=np.float64), "leading": (self.data["ahead"] < 10).mean("token"),
        }  # fmt: skip
        return xr.Dataset(found, attrs={"share": share})

    def contexts(
        self, vector: str, n: int = 10, *, end: str = "top", window: int = 8, per_text: int = 1
    ) -> "pd.DataFrame":
        """The `n` tokens with the largest (end='top') or smallest ('bottom') coefficients, each with `window` tokens on either side.

        A row: coefficient, token, context (the token in [brackets]), source, text, held_out, place (of the token, for `window_of`). At most
        `per_text` rows a text.
        """
        import pandas as pd

        one_of("end", end, ["top", "bottom"])
        row = self._row(vector)
        values, texts = self.data["coefficient"].values[row], self.data["token_text"].values
        seen: dict[int, int] = {}
        rows = []
        for place in np.argsort(-values if end == "top" else values, kind="stable").tolist():
            text = int(texts[place])
            if seen.get(text, 0) < per_text:
                seen[text] = seen.get(text, 0) + 1
                labels, _, at = self.window_of(vector, place, window)
                rows.append(
                    {
                        "coefficient": float(values[place]),
                        "token": labels[at],
                        "context": _shown(labels, at),
                        "source": str(self.data["source"].values[text]),
                        "text": text,
                        "held_out": bool(self.data["held_out"].values[text]),
                        "place": place,
                    }
                )
            if len(rows) == n:
                break
        return pd.DataFrame(rows)

    def window_of(self, vector: str, place: int, window: int = 8) -> tuple[list[str], np.ndarray, int]:
        """Labels and coefficients [token] around the token at `place`, within its piece of text, and where in them it stands."""
        row, document = self._row(vector), self.data["token_document"].values
        first, last = np.searchsorted(document, document[place]), np.searchsorted(document, document[place], "right")
        low, high = max(int(first), place - window), min(int(last), place + window + 1)
        labels = self.data["label"].values[self.data["token_id"].values[low:high]]
        return [str(one) for one in labels], self.data["coefficient"].values[row, low:high], place - low

    def summary(self, measure: str = "max") -> "pd.DataFrame":
        """A row for each vector and concept that are looked at for each other, the most selective first."""
        import pandas as pd

        found, dense = self.selectivity(measure), self.density()
        rows = []
        for vector, concept in self.pairs:
            at, here = found.sel(vector=vector, concept=concept), dense.sel(vector=vector)
            named = ("auc", "ci_lo", "ci_hi", "p", "p_holm", "null_share", "null_hi", "accuracy", "sign")
            rows.append(
                {
                    "vector": vector,
                    "concept": concept,
                    "words": float(self.data["words"].sel(vector=vector, concept=concept)),
                }
                | {name: float(at[name]) for name in named}
                | {name: float(here[name]) for name in ("above", "nonzero", "largest", "write", "leading")}
            )
        return pd.DataFrame(rows).sort_values("auc", ascending=False, ignore_index=True)

    def headline(self) -> dict[str, float]:
        """How many pairs are selective beyond exchanged texts and beyond 95 % of other neurons, and the medians of AUC and null share."""
        rows = self.summary()
        chosen = (rows["p_holm"] < 0.05) & ~(rows["null_share"] > 0.05)
        return {
            f"selective, of {len(rows)} vectors and concepts": float(chosen.sum()),
            "median held-out AUC": float(rows["auc"].median()),
            "share of other neurons as selective, median": float(rows["null_share"].median()),
        }

    def report_lines(self) -> tuple[str, ...]:
        """One line a pair: its selectivity, its density and its strongest context."""
        lines = []
        for row in self.summary().head(12).to_dict("records"):
            end = "top" if row["sign"] > 0 else "bottom"
            best = self.contexts(row["vector"], 1, end=end, window=5)
            lines.append(
                f"{row['vector']} for {row['concept']}: AUC {row['auc']:.3f} ({row['ci_lo']:.3f} to {row['ci_hi']:.3f}), "
                f"p {row['p_holm']:.2g}; "
                f"{row['null_share']:.1%} of neurons as selective; above 10 % of its largest on {row['above']:.1%} of tokens; "
                f"{best['coefficient'][0]:.2f} on: {best['context'][0]}"
            )
        return tuple(lines)

    def thumbnail(self) -> xr.DataArray | None:
        """AUC by a text's maximum, vectors by concepts."""
        return self.data["auc"].sel(measure="max", drop=True)

    def _row(self, vector: str) -> int:
        one_of("vector", str(vector), self.vectors)
        return self.vectors.index(str(vector))


def _shown(labels: list[str], at: int) -> str:
    """Tokens as running text, the one at `at` in brackets. A tokenizer of whole words has no spaces of its own."""
    spaced = any("␣" in label for label in labels)
    pieces = [label.replace("␣", " ") if spaced else f" {label}" for label in labels]
    room = len(pieces[at]) - len(pieces[at].lstrip(" "))
    pieces[at] = pieces[at][:room] + "[" + pieces[at][room:] + "]"
    return "".join(pieces).strip()
