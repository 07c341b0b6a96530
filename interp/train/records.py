"""What is written down now and then while dictionaries are trained: plain numbers, a row of the table for each time."""

import math
from collections.abc import Iterator, Sequence
from typing import Any

from .heldout import Heldout
from .learner import Learner

APART = 50
"""Rows that are trained on for each one that is only looked at; less in trainings so short that it does not matter."""
LOOKS = 20
"""How often they are looked at, at least."""


class Records:
    """The table so far. Its rows are plain lists, so that a checkpoint can hold them."""

    def __init__(self, learners: Sequence[Learner], heldout: Heldout | None) -> None:
        self.learners, self.heldout = learners, heldout
        self.rows: list[dict[str, Any]] = []
        self.views = list(dict.fromkeys(view.name for one in learners for view in one.config.writes))
        self.several = any(len(one.config.writes) > 1 for one in learners)
        self._collapsed: list[Learner] = []
        self._due = False

    @property
    def terms(self) -> list[str]:
        """Parts of the loss, of any dictionary."""
        return list(dict.fromkeys(term for row in self.rows for one in row["terms"] for term in one))

    def take(self, step: int, tokens: int, seconds: float) -> None:
        """Write down the means since the last time, and how things stand."""
        last: dict[str, Any] = self.rows[-1] if self.rows else {"tokens": 0, "seconds": 0.0}
        took = seconds - last["seconds"]
        self._due = self._is_due(tokens)
        row: dict[str, Any] = {"step": step, "tokens": tokens, "seconds": seconds}
        row["tokens_per_second"] = (tokens - last["tokens"]) / took if took > 0 else math.nan
        for learner in self.learners:
            for name, value in self._of(learner, tokens - last["tokens"]).items():
                row.setdefault(name, []).append(value)
        self.rows.append(row)

    def _is_due(self, tokens: int) -> bool:
        """Whether enough was trained on since rows that were kept aside were last looked at for that to cost next to nothing."""
        if self.heldout is None:
            return False
        looked = [row["tokens"] for row in self.rows if not math.isnan(row["l0_heldout"][0])]
        far = min(APART * self.heldout.rows, self.learners[0].options.tokens // LOOKS)
        return tokens - (looked[-1] if looked else 0) >= far

    def _of(self, learner: Learner, since: int) -> dict[str, Any]:
        means, latents = learner.sums.means(), learner.config.latents
        dead = learner.firing.dead(learner.dead_after)
        gone = 0 if dead is None else learner.total(dead)
        silent = learner.total(learner.firing.silent >= since)
        batch = learner.config.activation == "batchtopk"
        held, l0 = (
            self.heldout.measure(learner.dictionary) if self._due and self.heldout is not None else ({}, math.nan)
        )
        found = {
            "loss": means["loss"], "l0": means["l0"], "gradient_norm": means["gradient_norm"], "lr": learner.rate,
            "k": learner.k if "topk" in learner.config.activation else math.nan, "dead": gone, "alive": 1 - gone / latents,
            "silent": silent, "fallback": learner.fallback, "fvu": self._fvu(learner, means), "fvu_heldout": held, "l0_heldout": l0,
            "terms": {name.removeprefix("term "): value for name, value in means.items() if name.startswith("term ")},
            "threshold": self._thresholds(learner) if batch else {},
        }  # fmt: skip
        if self.several:
            found["exclusive"] = learner.exclusive() if len(learner.config.writes) > 1 else {}
        learner.sums.clear()
        learner.fallback = 0
        self._collapsed += [learner] if silent == latents else []
        return found

    def now(self) -> dict[str, float]:
        """The numbers of the live line: of the first dictionary, since the last record."""
        first = self.learners[0]
        means = first.sums.means()
        if not first.sums.steps:
            return {}
        fvu = self._fvu(first, means)
        dead = first.firing.dead(first.dead_after)
        gone = 0 if dead is None else int(dead.sum())  # where processes share the latents, of those that are here
        return {"loss": means["loss"], "FVU": sum(fvu.values()) / len(fvu), "L0": means["l0"], "dead": gone}

    def alarms(self) -> Iterator[str]:
        """What somebody should know at once."""
        for learner in self._collapsed:
            options = learner.options
            yield (
                f"{learner.label}: none of its {learner.config.latents:,} latents has been on since the last record: all are dead. Lower "
                f"`coefficient` (now {options.coefficient:g}) or `lr` (now {learner.lr:.3g}), or raise `warmup` (now {options.warmup:g})."
            )
        self._collapsed = []

    def _fvu(self, learner: Learner, means: dict[str, float]) -> dict[str, float]:
        """Mean squared error since the last record over the variance of the rows to learn from."""
        return {view.name: means[f"view {view.name}"] / learner.variances[view.name] for view in learner.config.writes}

    def _thresholds(self, learner: Learner) -> dict[str, float]:
        values = learner.running.value.tolist()
        names = [view.name for view in learner.config.writes]
        return dict(zip(names, values if len(values) == len(names) else values * len(names), strict=True))
