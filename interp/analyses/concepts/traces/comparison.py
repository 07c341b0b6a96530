"""Two snapshots side by side: what is left of a concept's traces, and what is left of the answers."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from interp.core.errors import BadInput
from interp.core.seed import numpy_generator

from ...overlap import overlaps
from .rankings import jaccard, rank_biased_overlap, retention
from .reading import auc
from .snapshot import GROUPS, Snapshot

TOLERANCE = 1e-3
"""A difference between the clean and the first model that is no larger is too small to say which share of it was restored."""
INTRINSIC = (
    "jaccard", "rbo", "jaccard_own", "rbo_own", "cosine", "l2", "retention", "gate_cosine", "in_cosine", "activation_ratio",
    "contribution_ratio",
)  # fmt: skip
PREFIX = {"related": "qa", "completion": "completion", "unrelated": "unrelated"}
NONE = float("nan")


@dataclass(frozen=True, eq=False)
class Traces:
    """A concept before and after a change."""

    before: Snapshot
    after: Snapshot
    clean: Snapshot | None
    """A model that never knew the concept, or was never corrupted, where there is one."""
    vectors: dict[str, np.ndarray]
    """Every one of `INTRINSIC` of every vector, then of every null, [vector]."""
    bleu: np.ndarray
    """Of each prompt's answer: before the change is the reference, after it the hypothesis, [prompt]."""
    bleu_published: np.ndarray
    """The other way round, as the published program has it: the answer after the change is the reference."""
    rouge: np.ndarray
    kl: np.ndarray
    """KL(before || after) of the next token at each unrelated prompt, nats, [prompt]."""
    reasons: dict[str, str] = field(default_factory=dict)
    """Why a measure is NaN."""

    def of_group(self, values: np.ndarray, group: str) -> np.ndarray:
        """The entries of a value a prompt that belong to related, completion or unrelated."""
        return np.asarray(values)[[asked.group == group for asked in self.before.asked]]

    def measures(self) -> dict[str, float]:
        """Every measure by its name, means over vectors, prompts or texts; NaN where it cannot be said (`reasons`).

        `_null` is the mean of the null vectors, `_before` the value before the change (`_clean`: of the clean model).
        """
        out = {}
        named = len(self.before.vectors)
        for name, values in self.vectors.items():
            out[name], out[f"{name}_null"] = _mean(values[:named]), _mean(values[named:])
        for group in GROUPS:
            out[f"{PREFIX[group]}_bleu"] = _mean(self.of_group(self.bleu, group))
            out[f"{PREFIX[group]}_bleu_published"] = _mean(self.of_group(self.bleu_published, group))
            out[f"{PREFIX[group]}_rouge"] = _mean(self.of_group(self.rouge, group))
        states = {"": self.after, "_before": self.before} | ({"_clean": self.clean} if self.clean else {})
        for suffix, state in states.items():
            out |= {name + suffix: value for name, value in levels(state).items()}
        ratio, low, high = perplexity_ratio(self.before, self.after)
        out |= {"perplexity_ratio": ratio, "perplexity_low": low, "perplexity_high": high, "kl": _mean(self.kl)}
        out["privleak"] = out["auc_before"] - out["auc"]
        if self.clean is not None:
            unknown = 1 - out["auc_clean"]  # MUSE scores by loss, so that its AUC is of not being a member
            out["privleak"] = (out["auc_clean"] - out["auc"]) / unknown if unknown else NONE
        return out | self.restoration()

    def restoration(self) -> dict[str, float]:
        """(after - before) / (clean - before) of accuracy and probability, related and unrelated: 0 nothing restored, 1 all of it.

        NaN without a clean model, and where it differs from the model before by no more than `TOLERANCE`.
        """
        found = dict.fromkeys(
            ("restoration", "unrelated_restoration", "prob_restoration", "unrelated_prob_restoration"), NONE
        )
        if self.clean is None:
            return found
        start, now, goal = levels(self.before), levels(self.after), levels(self.clean)
        for name, of in zip(found, ("accuracy", "unrelated_accuracy", "answer_prob", "unrelated_prob"), strict=True):
            span = goal[of] - start[of]
            if np.isnan(span):
                self.reasons[name] = f"there is no {of} to be restored"
            elif abs(span) > TOLERANCE:
                found[name] = (now[of] - start[of]) / span
            else:
                self.reasons[name] = (
                    f"the clean model's {of} {goal[of]:.4g} is that of the model before, {start[of]:.4g}"
                )
        return found


def levels(state: Snapshot) -> dict[str, float]:
    """What one model does by itself: means over prompts and texts."""

    def mean(name: str, group: str) -> float:
        return _mean([getattr(asked, name) for asked in state.asked if asked.group == group])

    tokens = state.neutral_tokens.sum()
    return {
        "answer_prob": mean("prob", "related"), "unrelated_prob": mean("prob", "unrelated"),
        "accuracy": mean("correct", "related"), "unrelated_accuracy": mean("correct", "unrelated"),
        "knowmem": mean("knowmem", "related"), "unrelated_knowmem": mean("knowmem", "unrelated"), "verbmem": _mean(state.verbmem),
        "auc": auc(state.forget_score, state.heldout_score),
        "perplexity": float(np.exp(state.neutral_nll.sum() / tokens)) if tokens else NONE,
    }  # fmt: skip


def compare(before: Snapshot, after: Snapshot, clean: Snapshot | None = None) -> Traces:
    """What changed between two snapshots; take the second by `before.again(lm)`. `clean` is the snapshot of a model to be restored to.

    Raises `BadInput` for snapshots of different concepts, vectors, settings, texts or unembeddings.
    """
    for other in [after] if clean is None else [after, clean]:
        _check(before, other)
    reasons: dict[str, str] = {}
    vectors = _intrinsic(before, after, reasons)
    pairs = [[asked.answer for asked in state.asked] for state in (before, after)]
    none = np.empty(0)
    scores, swapped = (overlaps(*pairs), overlaps(*pairs[::-1])) if pairs[0] else (None, None)
    bleu, published, rouge = (scores.bleu, swapped.bleu, scores.rouge_l) if scores and swapped else (none, none, none)
    first, second = before.next_logp.double(), after.next_logp.double()
    kl = (first.exp() * (first - second)).sum(dim=-1).numpy()
    traces = Traces(before, after, clean, vectors, bleu, published, rouge, kl, reasons)
    _explain(traces)
    return traces


def perplexity_ratio(
    before: Snapshot, after: Snapshot, *, level: float = 0.95, n: int = 2000
) -> tuple[float, float, float]:
    """exp(mean loss after - mean loss before) on the neutral texts, with its interval over whole texts; 1 is no change."""
    more, tokens = after.neutral_nll - before.neutral_nll, before.neutral_tokens
    if not len(tokens):
        return NONE, NONE, NONE
    ratio = float(np.exp(more.sum() / tokens.sum()))
    if len(tokens) < 2:
        return ratio, NONE, NONE
    counts = numpy_generator(0, "bootstrap", "perplexity").multinomial(
        len(tokens), np.full(len(tokens), 1 / len(tokens)), n
    )
    drawn = np.exp((counts @ more) / (counts @ tokens))
    low, high = np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2])
    return ratio, float(low), float(high)


def cosine(a: Tensor, b: Tensor) -> np.ndarray:
    """Cosine of rows [vector, d], float64: exactly 1 for equal ones, 0 where `b` is zero (nothing is left), NaN where `a` is."""
    a, b = a.double(), b.double()
    one, two, both = (a * a).sum(dim=-1), (b * b).sum(dim=-1), (a * b).sum(dim=-1)
    found = both / torch.where(two > 0, (one * two).sqrt(), 1.0)
    return torch.where(one > 0, found, torch.nan).numpy()


def _intrinsic(before: Snapshot, after: Snapshot, reasons: dict[str, str]) -> dict[str, np.ndarray]:
    p = before.settings.rbo_p
    lists = {"": (before.top.tolist(), after.top.tolist()), "_own": (before.top_own.tolist(), after.top_own.tolist())}
    found: dict[str, Any] = {}
    for suffix, (old, new) in lists.items():
        found["jaccard" + suffix] = [jaccard(*both) for both in zip(old, new, strict=True)]
        found["rbo" + suffix] = [rank_biased_overlap(*both, p) for both in zip(old, new, strict=True)]
    found["cosine"] = cosine(before.rows, after.rows)
    found["l2"] = (after.rows - before.rows).norm(dim=-1).numpy()
    found["retention"] = [retention(*both) for both in zip(before.related, after.top.tolist(), strict=True)]
    for name, view in (("gate_cosine", "W_gate"), ("in_cosine", "W_in")):
        both = [state.readers.get(view) for state in (before, after)]
        found[name] = np.full(before.count, NONE) if both[0] is None else cosine(both[0], both[1])  # type: ignore[arg-type]
    active = [state.activation.mean(axis=0) if len(state.activation) else None for state in (before, after)]
    found["activation_ratio"] = _ratio(active[0], active[1], before.count)
    written = [
        None if mean is None else mean * state.rows.norm(dim=-1).numpy()
        for mean, state in zip(active, (before, after), strict=True)
    ]
    found["contribution_ratio"] = _ratio(written[0], written[1], before.count)
    for name, why in (
        ("cosine", "a vector is zero before the change"),
        ("gate_cosine", "the MLP has no gate"),
        ("retention", "no top token of the vector is one of the concept's words or in its texts"),
        (
            "activation_ratio",
            "it has no texts to be read" if active[0] is None else "the neuron is never active on its texts",
        ),
    ):
        if np.isnan(np.asarray(found[name])[: len(before.vectors)]).any():
            reasons[name] = why
    return {name: np.asarray(found[name], dtype=np.float64) for name in INTRINSIC}


def _ratio(before: np.ndarray | None, after: np.ndarray | None, count: int) -> np.ndarray:
    """after / before of each vector, NaN where nothing was there before."""
    if before is None or after is None:
        return np.full(count, NONE)
    return np.divide(after, before, out=np.full(count, NONE), where=before > 0)


def _explain(traces: Traces) -> None:
    """Why behavioural measures are missing."""
    state, reasons = traces.before, traces.reasons
    for group in GROUPS:
        if not any(asked.group == group for asked in state.asked):
            reasons[f"{PREFIX[group]}_bleu"] = f"the concept has no {group} prompts"
    if np.isnan([asked.prob for asked in state.asked if asked.group == "related"]).all():
        reasons["answer_prob"] = "no related prompt has a gold answer"
    if not len(state.forget_score) or not len(state.heldout_score):
        reasons["privleak"] = "there are no " + (
            "texts of the concept" if not len(state.forget_score) else "held-out texts"
        )
    elif traces.clean is not None and levels(traces.clean)["auc"] == 1:
        reasons["privleak"] = "the clean model's AUC is 1: it expects all of the texts better than any held-out one"
    if not len(state.neutral_tokens):
        reasons["perplexity"] = "no neutral text was given"
    if traces.clean is None:
        reasons["restoration"] = "no clean model was given"
    traces.restoration()  # says itself what it lacks


def _check(first: Snapshot, second: Snapshot) -> None:
    for name in ("concept", "settings", "material", "vectors", "nulls"):
        if getattr(first, name) != getattr(second, name):
            raise BadInput(
                f"the snapshots of {first.name} and {second.name} differ in {name}. Take the second by `first.again(lm)`."
            )
    one, two = first.unembedding, second.unembedding
    if one is not two and not torch.equal(one, two):
        raise BadInput(
            f"the top tokens of {first.name} and {second.name} were read with different unembeddings. Take the second by "
            "`first.again(lm)`, which keeps the first's."
        )


def _mean(values: Any) -> float:
    values = np.asarray(values, dtype=np.float64)
    known = values[np.isfinite(values)]
    return float(known.mean()) if len(known) else NONE
