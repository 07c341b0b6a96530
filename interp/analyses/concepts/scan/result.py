"""What a scan gives: scalars of every vector, tokens of the strongest and of those that hold a concept."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np

from interp.core.analysis import Result
from interp.core.errors import BadInput, one_of
from interp.core.stats import benjamini_hochberg

if TYPE_CHECKING:
    import pandas as pd

ALPHA = 0.05
CLEAR = 0.85
"""Above which the paper's judge counts a set of tokens as clear."""
RANKS = ("concreteness", "z", "coherence")
Rank = Literal["concreteness", "z", "coherence"]
SHOWN = 12
"""Words that a line of the report has room for."""


class ConceptScanResult(Result):
    """Every vector's scores, and what the strongest say.

    data:
        concreteness  [vector]          mean logit of its top k tokens
        z             [vector]          the same less its mean logit over the vocabulary, in standard deviations; NaN for a row of zeros
        coherence     [vector]          of its top k tokens: mean pairwise cosine of embeddings, or mean NPMI
        p_z, p_coherence [vector]       how often a random direction has as much, not corrected
        whole, partial, other [vector]  shares of the top k: words; pieces of words and bytes; punctuation, digits, control tokens
        norm          [vector]
        kept          [vector]          among the `keep` of its layer with the largest concreteness
        null_z, null_coherence [draw]   of random directions; null_sets: coherence of random tokens with embeddings as long
        token, token_id, logit [strong, rank]     of the vectors in `strong`, most first
    and where concepts were given:
        held          [concept, place]  place of the vector along `vector`, -1 for none; the best first
        precision, p, p_words, p_shuffled, margin, auc, article, article_p, article_words [concept, place]     see the module `held`
        null_precision [concept, set]   the best precision of any vector for shuffled tokens; tokens, article_tokens [concept]: how many
    coords: vector (`2.474`, `2.e3.17`, `8.10.1+`, `17`), layer, index, expert, head, sign along it; strong, rank, concept, place, draw.
    attrs: source, k, folded, coherence_by, rank_by, most, vocabulary (tokens looked at), out_of_reach (rows that no text reaches),
    left_out, fallback, marked, post_norm, split (words, by concept).
    """

    figure: ClassVar[str] = "concept_scan"
    main: ClassVar[str] = "concreteness"

    def strongest(self, n: int = 10, *, concept: str | None = None, by: Rank | None = None) -> "pd.DataFrame":
        """The `n` strongest of the vectors that are kept, or those that hold most of a concept's words, each with its words.

        Raises `BadInput` for a concept that was not given, and for more vectors than the scan holds tokens of (`most`).
        """
        import pandas as pd

        if concept is not None:
            return pd.DataFrame(self._of(concept)[:n])
        by = by or self.data.attrs["rank_by"]
        one_of("by", by, RANKS)
        named = set(self.data["strong"].values.tolist())
        rows = self._listed(self._order(by)[:n])
        if without := [row["vector"] for row in rows if row["vector"] not in named]:
            raise BadInput(
                f"the scan holds no tokens of {without[0]} and {len(without) - 1} more of the {n} strongest by {by}. Scan with a larger "
                f"`most`, or with rank_by={by!r}."
            )
        return pd.DataFrame(rows)

    def table(self, by: Rank | None = None) -> "pd.DataFrame":
        """All vectors whose tokens are held: vector, layer, concreteness, z, coherence, p, q (see `q`), words."""
        import pandas as pd

        by = by or self.data.attrs["rank_by"]
        one_of("by", by, RANKS)
        places = {str(name): place for place, name in enumerate(self.data["vector"].values)}
        rows = self._listed([places[str(name)] for name in self.data["strong"].values])
        return pd.DataFrame(rows).sort_values(by, ascending=False, kind="stable", ignore_index=True)

    def tokens(self, vector: str, n: int | None = None) -> list[tuple[str, float]]:
        """The top tokens of a vector and their logits, most first. Raises `BadInput` where the scan does not hold them."""
        vector, strong = str(vector), self.data["strong"].values
        row = np.flatnonzero(strong == vector)
        if not len(row):
            names = self.data["vector"].values
            if vector in names:
                raise BadInput(
                    f"{vector!r}: its tokens are not held. Scan with vectors=({vector!r},) or a larger `most`."
                )
            raise BadInput(f"{vector!r}: it was not scanned; vectors are called like {names[0]!s}.")
        words, logits = (self.data[name].values[row[0], :n] for name in ("token", "logit"))
        return [(str(word), float(value)) for word, value in zip(words, logits, strict=True)]

    def q(self) -> np.ndarray:
        """p_coherence of the vectors that are kept, after Benjamini and Hochberg's correction over all of them, [vector]; NaN elsewhere."""
        p = np.where(self.data["kept"].values, self.data["p_coherence"].values, np.nan)
        return np.asarray(benjamini_hochberg(p))

    def coherent(self, alpha: float = ALPHA) -> list[str]:
        """Kept vectors whose top tokens are more coherent than those of random directions (false discovery rate `alpha`)."""
        return [str(name) for name in self.data["vector"].values[self.q() <= alpha]]

    def holding(self, alpha: float = ALPHA) -> dict[str, list[str]]:
        """By concept, the vectors that hold it, the best first.

        They are nearer to its words than random directions, with more of them first than random tokens, and than any vector has of
        shuffled ones. Of a concept without words: the same of the tokens of its article.
        """
        if "concept" not in self.data.coords:
            return {}

        def held(row: dict[str, Any]) -> bool:
            by_words = max(row["p"], row["p_words"], row["p_shuffled"])
            return bool(
                (max(row["article_p"], row["article_words"]) if np.isnan(row["precision"]) else by_words) <= alpha
            )

        return {
            str(name): [str(row["vector"]) for row in self._of(str(name)) if held(row)]
            for name in self.data["concept"].values
        }

    def judged(self, judge: Callable[[Sequence[str]], float], *, clear: float = CLEAR) -> "pd.DataFrame":
        """`table` with a judge's score of each vector's tokens in [0, 1], and whether it is above `clear` (the paper's 0.85)."""
        frame = self.table()
        scores = [float(judge([word for word, _ in self.tokens(name)])) for name in frame["vector"]]
        if bad := [score for score in scores if not 0 <= score <= 1]:
            raise BadInput(f"a judge must give scores from 0 to 1; not {bad[0]}.")
        return frame.assign(judged=scores, clear=[score > clear for score in scores])

    def headline(self) -> dict[str, float]:
        """The strongest vector, what random directions reach, and how many are coherent beyond them; or the best of each concept."""
        best = self._listed(self._order(self.data.attrs["rank_by"])[:1])[0]
        said = {f"z of {best['vector']} ({' '.join(best['words'].split()[:3])})": best["z"]}
        if "concept" in self.data.coords:
            rows = [(str(name), self._of(str(name))[0]) for name in self.data["concept"].values]
            rows.sort(key=lambda one: -np.nan_to_num(one[1]["precision"], nan=-1.0))
            return {f"{name}: words first in {row['vector']}": row["precision"] for name, row in rows[:3]}
        said["z of random directions, at most"] = float(self.data["null_z"].max())
        said[f"of {int(self.data['kept'].sum()):,} kept, coherent beyond chance"] = float(len(self.coherent()))
        return said

    def report_lines(self) -> tuple[str, ...]:
        """The vectors of each concept, then the strongest of all: name, score, coherence, words."""
        attrs, lines = self.data.attrs, list[str]()
        for name in self.data["concept"].values.tolist() if "concept" in self.data.coords else []:
            lines += [self._held_line(str(name), row) for row in self._of(str(name))[:2]]
        count = min(10, attrs["most"], len(self._order(attrs["rank_by"])))
        for row in self.strongest(count).to_dict("records"):
            short = " ".join(row["words"].split(" ")[:SHOWN])
            scores = (
                f"{row['concreteness']:>7.3g}  z {row['z']:>5.2f}  coherence {row['coherence']:.3f} (q {row['q']:.2g})"
            )
            lines.append(f"{row['vector']:<9} {scores}  {short}")
        vectors, kept = self.data.sizes["vector"], int(self.data["kept"].sum())
        lines.append(
            f"{vectors:,} vectors, {kept:,} kept; by random directions z {float(self.data['null_z'].mean()):.2f}, coherence "
            f"{float(self.data['null_coherence'].mean()):.3f}; {len(self.coherent())} more coherent (false discovery rate {ALPHA:g})"
        )
        lines += self._too_few(kept)
        partial = float((self.data["partial"] * self.data["kept"]).sum() / max(kept, 1))
        lines.append(f"of their top {attrs['k']} tokens {partial:.0%} are pieces of words or bytes".replace("%", " %"))
        if attrs["left_out"]:
            lines.append(f"{attrs['left_out']} components left out: not to be told from their neighbours, or zero")
        if attrs["post_norm"] and not attrs["folded"]:
            lines.append("a norm lies between these rows and the stream; its gain is applied with folded=True")
        return tuple(lines)

    def _too_few(self, kept: int) -> list[str]:
        """Whether so many vectors can be told from so few random directions."""
        draws, found = self.data.sizes["draw"], len(self.coherent())
        needed = kept / (1 + draws) / ALPHA
        if found or needed <= 1:
            return []
        beyond = int((self.data["p_coherence"].values[self.data["kept"].values] <= 1 / (1 + draws)).sum())
        return [
            f"{beyond} go beyond all {draws:,} random directions, of {kept:,} vectors; {needed:.0f} would have to: take more `draws`"
        ]

    def _held_line(self, name: str, row: dict[str, Any]) -> str:
        if np.isnan(row["precision"]):
            found = f"{row['article']:.0%} of its top tokens are the article's, p {row['article_p']:.1e}".replace(
                "%", " %"
            )
        else:
            found = f"{row['precision']:.0%} of the words come first, p {row['p']:.1e}, AUC {row['auc']:.3f}".replace(
                "%", " %"
            )
        return f"{name:<10} {row['vector']:<9} {found}  {' '.join(str(row['words']).split(' ')[:SHOWN])}"

    def _order(self, by: str) -> list[int]:
        """Places of the vectors that are kept, the strongest first."""
        value = np.where(self.data["kept"].values, self.data[by].values, -np.inf)
        order = np.argsort(-np.nan_to_num(value, nan=-np.inf), kind="stable")
        return [int(place) for place in order[: int(self.data["kept"].sum())]]

    def _listed(self, places: Sequence[int]) -> list[dict[str, Any]]:
        """A row for each of these vectors."""
        names = ("concreteness", "z", "coherence", "whole", "partial")
        columns = {name: self.data[name].values for name in names}
        vector, layer, p, kept = (self.data[name].values for name in ("vector", "layer", "p_coherence", "kept"))
        q = self.q()
        return [
            {"vector": str(vector[place]), "layer": int(layer[place])}
            | {name: float(column[place]) for name, column in columns.items()}
            | {"p": float(p[place]), "q": float(q[place]), "kept": bool(kept[place]), "words": self._words(place)}
            for place in places
        ]

    def _words(self, place: int) -> str:
        """The top tokens of a vector in a line; nothing where they are not held."""
        name = str(self.data["vector"].values[place])
        return " ".join(word for word, _ in self.tokens(name)) if name in self.data["strong"].values else ""

    def _of(self, concept: str) -> list[dict[str, Any]]:
        if "concept" not in self.data.coords:
            raise BadInput(f"this scan was given no concepts, so none is called {concept!r}. Scan with data=concepts.")
        one_of("concept", concept, self.data["concept"].values.tolist())
        number = self.data["concept"].values.tolist().index(concept)
        names = ("precision", "p", "p_words", "p_shuffled", "margin", "auc", "article", "article_p", "article_words")
        columns = {name: self.data[name].values[number] for name in names}
        return [
            {"concept": concept, "vector": str(self.data["vector"].values[at])}
            | {name: float(column[place]) for name, column in columns.items()}
            | {"words": self._words(at)}
            for place, at in enumerate(self.data["held"].values[number].tolist())
            if at >= 0
        ]
