"""What an evaluation of unlearning gives: every vector's traces, every prompt's answers, and their averages."""

from typing import ClassVar

import numpy as np
import xarray as xr

from interp.core.analysis import Result
from interp.core.errors import BadInput, one_of
from interp.core.stats import bootstrap_ci

GROUPS = ("related", "completion", "unrelated")
COLUMNS = (
    ("jaccard", "Jaccard"), ("jaccard_null", "(null)"), ("p", "p"), ("cosine", "cosine"), ("activation_ratio", "active"),
    ("qa_rouge", "answers"), ("unrelated_rouge", "others'"), ("accuracy_before", "right was"), ("accuracy", "right is"),
    ("verbmem", "VerbMem"), ("perplexity_ratio", "perplexity x"),
)  # fmt: skip
OVERLAPS = ("bleu", "bleu_published", "rouge")
LEVELS = ("prob", "correct", "knowmem")


class UnlearningResult(Result):
    """Traces and answers before and after a change.

    data:
        value   [concept, measure]              every measure by its name, see `interp.analyses.concepts.traces`; means over vectors,
                                                prompts or texts; NaN where it cannot be said (attrs `reasons`)
        trace   [vector, trace_measure]         jaccard, rbo, jaccard_own, rbo_own, cosine, l2, retention, gate_cosine, in_cosine,
                                                activation_ratio, contribution_ratio of each vector and null vector
        norm, activation [state, vector]        length of the value vector; mean |m_j| on the concept's texts
        token, token_related [state, named, rank]   the first top tokens of each vector as words; whether they belong to the concept
        bleu, rouge, kl  [prompt]               answers after against answers before; KL(before || after), nats, unrelated prompts only;
                                                bleu_published: answers before against answers after, as the published program has it
        prob, correct, knowmem, answer [state, prompt]   of the gold answer, NaN where there is none; what was generated
        verbmem, forget_score [state, text]; heldout_score [state, heldout]; nll [state, document], tokens [document]
        weight_change, weight_stable_rank, weight_share [matrix, layer], weight_even [layer], weight_table_change [table]
    coords: state (before, after, perhaps clean); along vector: vector_concept, vector_name, null; along prompt: prompt_concept, group,
        question, gold; text_concept, heldout_concept.
    attrs: before, after, clean (names), top_k, rbo_p, min_share, unembedding_trained, heldout, neutral (what those texts are), privleak,
        weight_floor, reasons.
    """

    figure: ClassVar[str] = "unlearning_evaluation"
    main: ClassVar[str] = "value"

    @property
    def concepts(self) -> list[str]:
        """Names of the concepts."""
        return [str(name) for name in self.data["concept"].values]

    def of(self, measure: str) -> xr.DataArray:
        """One measure of every concept, [concept]."""
        one_of("measure", measure, [str(name) for name in self.data["measure"].values])
        return self.data["value"].sel(measure=measure)

    def traces(self, measure: str = "jaccard", *, level: float = 0.95) -> xr.Dataset:
        """A trace measure by concept: mean over its vectors, the null's mean and its 2.5 and 97.5 percentiles, and p.

        mean, null, null_lo, null_hi, p, vectors, nulls [concept]. p is the share of null vectors that are kept no better than the
        concept's own are on average (the other way round for l2), counting the concept itself: small where more has happened to the
        concept's vectors than to vectors that have nothing to do with it.
        """
        one_of("measure", measure, [str(name) for name in self.data["trace_measure"].values])
        values = self.data["trace"].sel(trace_measure=measure).values
        owner, null = self.data["vector_concept"].values, self.data["null"].values
        sign = -1.0 if measure == "l2" else 1.0
        rows = []
        for name in self.concepts:
            own, others = (_known(values[(owner == name) & (null == kind)]) for kind in (False, True))
            row = {"vectors": len(own), "nulls": len(others), "mean": _mean(own), "null": _mean(others)}
            ends = np.quantile(others, [(1 - level) / 2, (1 + level) / 2]) if len(others) else (np.nan, np.nan)
            below = (sign * others <= sign * _mean(own)).sum() if len(own) else 0
            p = (below + 1) / (len(others) + 1) if len(own) and len(others) else np.nan
            rows.append(row | {"null_lo": ends[0], "null_hi": ends[1], "p": p})
        return xr.Dataset({key: ("concept", [row[key] for row in rows]) for key in rows[0]}, {"concept": self.concepts})

    def answers(self, score: str = "rouge", *, level: float = 0.95) -> xr.Dataset:
        """How far answers after the change are those before it (rouge, bleu), by concept and group: mean, ci_lo, ci_hi, n [concept, group].

        `prob`, `correct` and `knowmem` of the gold answers have an axis state in front.
        """
        one_of("score", score, [*OVERLAPS, *LEVELS])
        values = self.data[score]
        values = values.expand_dims("state") if score in OVERLAPS else values
        shape = (values.sizes["state"], len(self.concepts), len(GROUPS))
        table = {name: np.full(shape, np.nan) for name in ("mean", "ci_lo", "ci_hi")} | {"n": np.zeros(shape, int)}
        owner, group = self.data["prompt_concept"].values, self.data["group"].values
        for row, concept in enumerate(self.concepts):
            for column, name in enumerate(GROUPS):
                part = values.transpose("prompt", "state").values[(owner == concept) & (group == name)]
                if not np.isfinite(part).any():
                    continue
                mean, low, high = bootstrap_ci(part, level=level, name="answers")
                for key, found in zip(("mean", "ci_lo", "ci_hi"), (mean, low, high), strict=True):
                    table[key][:, row, column] = found
                table["n"][:, row, column] = np.isfinite(part).sum(axis=0)
        states = [str(name) for name in self.data["state"].values]
        out = xr.Dataset(
            {key: (("state", "concept", "group"), part) for key, part in table.items()},
            {"concept": self.concepts, "group": list(GROUPS)},
        )
        return out.isel(state=0) if score in OVERLAPS else out.assign_coords(state=states)

    def texts(self, *, level: float = 0.95) -> xr.Dataset:
        """VerbMem by state and concept: mean, ci_lo, ci_hi [state, concept]."""
        owner, values = self.data["text_concept"].values, self.data["verbmem"].values
        table = np.full((3, len(values), len(self.concepts)), np.nan)
        for column, concept in enumerate(self.concepts):
            part = values[:, owner == concept].T
            if len(part):
                table[:, :, column] = bootstrap_ci(part, level=level, name="verbmem")
        states = [str(name) for name in self.data["state"].values]
        return xr.Dataset(
            {key: (("state", "concept"), part) for key, part in zip(("mean", "ci_lo", "ci_hi"), table, strict=True)},
            {"state": states, "concept": self.concepts},
        )

    def verdict(self) -> xr.Dataset:
        """The change in plain numbers, [concept]; 1 is "all of it is left", whatever was measured.

        trace, trace_null     Jaccard of the vectors' top tokens, and of vectors that have nothing to do with the concept
        active                activation on the concept's texts, after / before (above 1: more)
        answers, others       ROUGE-L of answers after against before: questions about the concept, and about others
        accuracy              share of the gold answers still given, after / before; NaN without gold answers
        gap                   others - answers: above 0, the change hit the concept more than the rest
        perplexity            neutral text, after / before: far above 1, the model collapsed and nothing above means unlearning
        """
        value = self.data["value"]

        def get(name: str) -> xr.DataArray:
            return value.sel(measure=name, drop=True)

        before = get("accuracy_before")
        return xr.Dataset(
            {
                "trace": get("jaccard"), "trace_null": get("jaccard_null"), "active": get("activation_ratio"),
                "answers": get("qa_rouge"), "others": get("unrelated_rouge"), "accuracy": get("accuracy") / before.where(before > 0),
                "gap": get("unrelated_rouge") - get("qa_rouge"), "perplexity": get("perplexity_ratio"),
            }
        )  # fmt: skip

    def top_tokens(self, concept: str, n: int = 15) -> "xr.DataArray":
        """The first top tokens of a concept's vectors in each state, as words, [state, named, rank]."""
        one_of("concept", concept, self.concepts)
        own = [str(name) for name in self.data["named"].values if str(name).rsplit("/", 1)[0] == concept]
        if not 1 <= n <= self.data.sizes["rank"]:
            raise BadInput(f"`n` must be 1 to {self.data.sizes['rank']}, the top tokens that were kept; not {n}.")
        return self.data["token"].sel(named=own).isel(rank=slice(0, n))

    def headline(self) -> dict[str, float]:
        """Jaccard of the vectors' top tokens, and ROUGE-L of related and unrelated answers, means over the concepts."""
        verdict = self.verdict()
        return {
            "top tokens kept (Jaccard)": _mean(verdict["trace"].values),
            "answers kept (ROUGE-L)": _mean(verdict["answers"].values),
            "unrelated answers kept": _mean(verdict["others"].values),
        }

    def report_lines(self) -> tuple[str, ...]:
        """A row a concept, and what a reader must know about the texts."""
        width = max(len("concept"), *map(len, self.concepts))
        lines = ["  ".join([f"{'concept':{width}}", *(f"{title:>8}" for _, title in COLUMNS)])]
        p = self.traces("jaccard")["p"]
        for name in self.concepts:
            row = self.data["value"].sel(concept=name)
            cells = [
                float(p.sel(concept=name) if measure == "p" else row.sel(measure=measure)) for measure, _ in COLUMNS
            ]
            lines.append(
                "  ".join(
                    [f"{name:{width}}"]
                    + [
                        f"{cell:>{max(8, len(title))}.3g}" if np.isfinite(cell) else f"{'-':>{max(8, len(title))}}"
                        for cell, (_, title) in zip(cells, COLUMNS, strict=True)
                    ]
                )
            )
        attrs = self.data.attrs
        lines.append(
            "Jaccard, cosine, active: the concept's value vectors; (null): other vectors of the layer; p: how many of them kept no more. "
            f"answers, others': ROUGE-L against those of {attrs['before']}; right: gold answers given."
        )
        if attrs["unembedding_trained"]:
            lines.append(
                f"The unembedding was trained too. Top tokens are read with that of {attrs['before']}; `jaccard_own` takes each's own."
            )
        if attrs["neutral"]:
            lines.append(f"Perplexity is on {attrs['neutral']}.")
        return tuple(lines)

    def thumbnail(self) -> xr.DataArray | None:
        """The verdict's first columns, concepts by measures."""
        names = ["trace", "trace_null", "answers", "others"]
        return self.verdict()[names].to_array("measure").transpose("concept", "measure")


def _known(values: np.ndarray) -> np.ndarray:
    return values[np.isfinite(values)]


def _mean(values: np.ndarray) -> float:
    known = _known(np.asarray(values, dtype=float))
    return float(known.mean()) if len(known) else float("nan")
