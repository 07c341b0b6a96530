"""What a study of unlearning gives: the table, the curves of recovery, the ways of asking, and the alarm."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import xarray as xr

from interp.core.analysis import Result
from interp.core.errors import BadInput, one_of
from interp.core.seed import numpy_generator
from interp.core.stats import bootstrap_ci

from ..recovery import TOLERANCE

if TYPE_CHECKING:
    import pandas as pd

UNTOUCHED = "untouched"
INTRINSIC = ("jaccard", "rbo", "cosine", "l2", "activation_ratio", "contribution_ratio")
BEHAVIOUR = ("qa_bleu", "unrelated_bleu", "answer_prob", "kl")
GROUPS = ("untold", "told", "all")
DRAWS = 2000


class UnlearningStudyResult(Result):
    """Unlearning methods, each on each concept and with each seed; the first rows are controls.

    data:
        score [concept, unlearner, seed, measure]                every measure of an `UnlearningEvaluation`, a mean
        prob, top [concept, unlearner, seed, jailbreak, prompt]  P(answer) and whether greedy decoding gives it, in every way of asking
        decoy_prob, decoy_top                                 the same of a wrong answer, that of another question of the group
        unrelated_prob, unrelated_top, unrelated_decoy_prob, unrelated_decoy_top [concept, unlearner, seed, jailbreak, unrelated]
        relearn_prob, relearn_top [concept, unlearner, seed, step, prompt]    after so many steps of relearning, in the plain way
        relearn_decoy_top                                     in a relearning from the same texts with exchanged answers: those answers
        told [concept, unlearner, seed, prompt]                  1 where a relearning text states the prompt's fact
        former_prob, former_top, former_lead, former_chance   of the former answer: its probability, whether it is given, whether it is
            [concept, unlearner, seed, prompt]                   the most probable candidate but the present answer, and chance for that
    coords: concept, unlearner, control (along unlearner), seed, measure, jailbreak, step, prompt and unrelated with their texts.
    attrs: collapse (the threshold), vectors (watched), neutral (what perplexity is of), skipped (jailbreaks), left_out (methods),
    silent (questions without an answer), relearned (texts of the first seed). Variables of what was not asked for are missing.
    """

    figure: ClassVar[str] = "unlearning"
    main: ClassVar[str] = "top"

    @property
    def methods(self) -> list[str]:
        """All rows, controls first."""
        return [str(name) for name in self.data["unlearner"].values]

    def measure(self, name: str, level: float = 0.95) -> xr.Dataset:
        """Mean, ci_lo, ci_hi [unlearner] of one measure; intervals over concepts and seeds (NaN where there is one of each)."""
        one_of("measure", name, [str(one) for one in self.data["measure"].values])
        return self._scores([name], level).sel(measure=name, drop=True)

    def _scores(self, names: Sequence[str], level: float) -> xr.Dataset:
        """Mean, ci_lo, ci_hi [unlearner, measure]."""
        values = self.data["score"].sel(measure=list(names))
        if values.sizes["concept"] * values.sizes["seed"] == 1:
            mean = values.isel(concept=0, seed=0, drop=True)
            return xr.Dataset({"mean": mean, "ci_lo": mean * np.nan, "ci_hi": mean * np.nan})
        clusters = [str(concept) for concept in self.data["concept"].values for _ in self.data["seed"].values]
        flat = values.stack(example=("concept", "seed"))
        return _interval(flat, level, clusters if self.data.sizes["concept"] > 1 else None)

    def answers(self, name: str = "top", way: str = "plain", level: float = 0.95) -> xr.Dataset:
        """Mean, ci_lo, ci_hi [unlearner] of `top`, `prob`, `unrelated_top`, ... in one way of asking; intervals over questions."""
        one_of("way", way, [str(one) for one in self.data["jailbreak"].values])
        return self._over_prompts(self.data[name].sel(jailbreak=way, drop=True), level)

    def ways(self, name: str = "top", level: float = 0.95) -> xr.Dataset:
        """Mean, ci_lo, ci_hi [unlearner, jailbreak] of every way of asking, and `best` of them for each question."""
        best = self.data[name].max("jailbreak").expand_dims(jailbreak=["best"])
        return self._over_prompts(xr.concat([self.data[name], best], "jailbreak"), level)

    def relearning(self, group: str = "untold", level: float = 0.95, *, name: str = "relearn_top") -> xr.Dataset:
        """Mean, ci_lo, ci_hi [unlearner, step] on the way, over the questions whose fact the texts tell, do not tell, or all."""
        return self._over_prompts(self._group(self._relearned(name), group), level)

    def recovered(self, group: str = "untold", level: float = 0.95, *, name: str = "relearn_top") -> xr.Dataset:
        """(relearned - unlearned) / (untouched - unlearned) of means over questions: mean, ci_lo, ci_hi [unlearner, step].

        The untouched model is the one before any relearning. NaN where the fall, or the lower end of its interval, is below `TOLERANCE`:
        where little was lost nothing can be said of a return. Intervals draw questions, the same for all three terms.
        """
        values = self._group(self._relearned(name), group)
        flat = values.stack(example=self._examples(values)).transpose("example", "unlearner", "step")
        question = np.array(
            [
                f"{concept}/{prompt}"
                for concept, prompt in zip(flat["concept"].values, flat["prompt"].values, strict=True)
            ]
        )
        shown = flat.values
        known = np.isfinite(shown).any(axis=(1, 2))
        if not known.any():
            raise BadInput(f"no question is {group} by the relearning texts. Take another group, or more texts.")
        flat, before = shown[known], shown[known, self.methods.index(UNTOUCHED), 0]
        names, member = np.unique(question[known], return_inverse=True)
        counts = numpy_generator(0, "recovered share").multinomial(
            len(names), np.full(len(names), 1 / len(names)), size=DRAWS
        )
        drawn = (
            np.stack([_parts(flat, before, weight[member]) for weight in counts.astype(float)])
            if len(names) > 1
            else None
        )
        mean = _share(flat, before, np.ones(len(flat)))
        low = high = np.full(mean.shape, np.nan)
        if drawn is not None:
            enough = np.quantile(drawn[:, 0], (1 - level) / 2, axis=0)[:, 0] >= TOLERANCE
            mean = np.where(enough[:, None], mean, np.nan)
            ends = np.nanquantile(
                np.where(np.isfinite(mean), drawn[:, 1], 0.0), [(1 - level) / 2, (1 + level) / 2], axis=0
            )
            low, high = (np.where(np.isfinite(mean), end, np.nan) for end in ends)
        coords = {"unlearner": self.data["unlearner"], "step": self.data["step"]}
        columns = {"mean": mean, "ci_lo": low, "ci_hi": high}
        return xr.Dataset({key: (("unlearner", "step"), column) for key, column in columns.items()}, coords)

    def restored(self, level: float = 0.95) -> xr.Dataset:
        """Of the former answers: given, lead (first but for the present answer) and chance: mean, ci_lo, ci_hi [unlearner, kind]."""
        if "former_top" not in self.data:
            raise BadInput("the questions have no former answers (`foil`), so there is no former state to restore.")
        kinds = {"given": "former_top", "lead": "former_lead", "chance": "former_chance"}
        values = xr.concat([self.data[name] for name in kinds.values()], "kind").assign_coords(kind=list(kinds))
        return self._over_prompts(values, level)

    def collapsed(self) -> dict[str, bool]:
        """Of each row, whether its perplexity is beyond the threshold, or no number, on any concept with any seed."""
        ratio = self.data["score"].sel(measure="perplexity_ratio")
        there = self.data["top"].sel(jailbreak="plain").notnull().any("prompt")
        beyond = (there & ~(ratio <= self.data.attrs["collapse"])).any(("concept", "seed"))
        return {name: bool(beyond.sel(unlearner=name)) for name in self.methods}

    def table(self, level: float = 0.95) -> "pd.DataFrame":
        """A row a method, a column a measure, with `_lo` and `_hi` where an interval is known.

        `relearned` is the accuracy on untold questions after the last step, `recovered` its share; `jailbroken` the share of questions
        that the best way of asking gets answered, `decoyed` the same for a wrong answer.
        """
        import pandas as pd

        scores = self._scores([*INTRINSIC, *BEHAVIOUR, "perplexity_ratio"], level)
        columns: dict[str, xr.Dataset] = {name: scores.sel(measure=name) for name in INTRINSIC}
        columns |= {
            "accuracy": self.answers("top", level=level),
            "unrelated": self.answers("unrelated_top", level=level),
        }
        columns |= {name: scores.sel(measure=name) for name in BEHAVIOUR}
        if "relearn_top" in self.data:
            group = self.group()
            columns["relearned"] = self.relearning(group, level).isel(step=-1)
            columns["recovered"] = self.recovered(group, level).isel(step=-1)
        if self.data.sizes["jailbreak"] > 1:
            columns["jailbroken"] = self.ways("top", level).sel(jailbreak="best")
            columns["decoyed"] = self.ways("decoy_top", level).sel(jailbreak="best")
        if "former_top" in self.data:
            for kind in ("given", "lead", "chance"):
                columns[f"former_{kind}"] = self.restored(level).sel(kind=kind)
        columns["perplexity_ratio"] = scores.sel(measure="perplexity_ratio")
        frame: dict[str, object] = {"method": self.methods}
        for name, found in columns.items():
            frame[name] = found["mean"].values
            if np.isfinite(found["ci_lo"].values).any():
                frame |= {f"{name}_lo": found["ci_lo"].values, f"{name}_hi": found["ci_hi"].values}
        frame["collapsed"] = list(self.collapsed().values())
        return pd.DataFrame(frame)

    def headline(self) -> dict[str, float]:
        """How many methods halve the accuracy, and of the one among them with most Jaccard left: that, and its accuracy once relearned."""
        shown = self.table()
        control = self.data["control"].values
        kept = shown["accuracy"].values[self.methods.index(UNTOUCHED)]
        gone = shown[(~control) & (shown["accuracy"].values < 0.5 * kept)]
        found = {"methods that halve the accuracy": float(len(gone))}
        if len(gone):
            most = gone.loc[gone["jaccard"].fillna(-1).idxmax()]
            found[f"Jaccard left, {most['method']}"] = float(most["jaccard"])
            if "relearned" in gone:
                found[f"relearned, {most['method']}"] = float(most["relearned"])
        return found

    def report_lines(self) -> tuple[str, ...]:
        """The table, with what was left out and why."""
        shown = self.table()
        keep = [
            name
            for name in map(str, shown)
            if not name.endswith(("_lo", "_hi")) and name not in ("rbo", "l2", "answer_prob", "kl")
        ]
        lines = shown[keep].to_string(index=False, float_format=lambda value: f"{value:.3g}", na_rep="-").splitlines()
        spans = [f"{row['method']}: {self._spans(row)}" for _, row in shown.iterrows()]
        attrs = self.data.attrs
        alarm = [name for name, there in self.collapsed().items() if there]
        notes = [
            f"collapsed (perplexity of {attrs['neutral']} above {attrs['collapse']:g} times what it was): "
            + (", ".join(alarm) or "none")
        ]
        notes += [f"watched {entry}" for entry in attrs["vectors"]]
        notes += [f"jailbreak left out: {entry}" for entry in attrs["skipped"]]
        notes += [f"left out: {entry}" for entry in attrs["left_out"]]
        notes += [f"left out, no answer is given and the model's own is none: {entry}" for entry in attrs["silent"]]
        notes += self._fading()
        return (*lines, "95 % intervals over questions", *spans, *notes)

    def thumbnail(self) -> xr.DataArray | None:
        """Accuracy by method and way of asking."""
        return self.data["top"].mean(("concept", "seed", "prompt"))

    def _spans(self, row: "pd.Series") -> str:
        names = [
            name
            for name in ("accuracy", "unrelated", "relearned", "recovered", "jailbroken", "decoyed")
            if f"{name}_lo" in row
        ]
        known = [name for name in names if np.isfinite(row[f"{name}_lo"])]
        return ", ".join(f"{name} {row[name]:.2f} [{row[name + '_lo']:.2f}, {row[name + '_hi']:.2f}]" for name in known)

    def _fading(self) -> list[str]:
        """What is to be said where relearning takes answers away from the model that forgot nothing."""
        if "relearn_top" not in self.data:
            return []
        group = self.group()
        curve = self.relearning(group)["mean"].sel(unlearner=UNTOUCHED).values
        if curve[0] - curve[-1] < TOLERANCE:
            return []
        return [
            f"relearning takes answers away from the untouched model ({group} questions: {curve[0]:.2f}, then {curve[-1]:.2f}), so what "
            "comes back of the others is too little. Use a smaller relearn_lr, or fewer relearn_steps"
        ]

    def group(self) -> str:
        """The questions that recovery is of: `untold` where there are any, else `all`."""
        told = self.data["told"].values
        return "untold" if (told == 0).any() else "all"

    def _relearned(self, name: str) -> xr.DataArray:
        if name not in self.data:
            raise BadInput("nothing was relearned in this study. Run it with relearn_steps above 0.")
        return self.data[name]

    def _group(self, values: xr.DataArray, group: str) -> xr.DataArray:
        one_of("group", group, GROUPS)
        if group == "all":
            return values
        return values.where(self.data["told"] == (1.0 if group == "told" else 0.0))

    @staticmethod
    def _examples(values: xr.DataArray) -> list[str]:
        return [str(dim) for dim in values.dims if dim in ("concept", "seed", "prompt", "unrelated")]

    def _over_prompts(self, values: xr.DataArray, level: float) -> xr.Dataset:
        """Means over questions, concepts and seeds; questions are drawn, with all their seeds."""
        dims = self._examples(values)
        flat = values.stack(example=dims)
        index = flat.indexes["example"]
        question = [tuple(part for dim, part in zip(dims, entry, strict=True) if dim != "seed") for entry in index]
        return _interval(flat, level, question)


def _interval(values: xr.DataArray, level: float, clusters: Sequence[Any] | None) -> xr.Dataset:
    """Mean and bootstrapped ends over `example`."""
    plain = values.drop_vars([name for name in values.coords if "example" in values[name].dims])
    mean, low, high = bootstrap_ci(plain, "example", level=level, clusters=clusters)
    return xr.Dataset({"mean": mean, "ci_lo": low, "ci_hi": high})


def _parts(flat: np.ndarray, before: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """The fall of each method and the share of it that is recovered at each step, questions [example] weighted, [2, method, step]."""
    known = np.isfinite(flat)
    total = np.einsum("e,ems->ms", weight, np.where(known, flat, 0.0))
    count = np.einsum("e,ems->ms", weight, known.astype(float))
    with np.errstate(divide="ignore", invalid="ignore"):
        now = total / count
        first = known[:, :, :1]  # a row that lacks a concept falls from what the others know of those it has
        start = np.einsum("e,ems->ms", weight, np.where(first, before[:, None, None], 0.0)) / count[:, :1]
        fall = np.broadcast_to(start - now[:, :1], now.shape)
        return np.stack([fall, (now - now[:, :1]) / np.where(fall == 0, np.nan, fall)])


def _share(flat: np.ndarray, before: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """The share alone; NaN where the fall is below `TOLERANCE`."""
    fall, share = _parts(flat, before, weight)
    return np.where(fall >= TOLERANCE, share, np.nan)
