"""What is said when a number of a training is not finite any more: when it was first seen, where, and what to do."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from torch import Tensor

from ..core.errors import Diverged
from .checkpoint import Checkpoints, tokens_of

if TYPE_CHECKING:
    from .data import TrainingData
    from .learner import Learner


def diverged(
    learner: "Learner", step: int, *, batch: Mapping[str, Tensor], data: "TrainingData", kept: Checkpoints | None
) -> Diverged | None:
    """The error for a dictionary whose numbers are not all finite after `step`; None where they are.

    `batch` are the rows of that step: a view whose rows are not finite is named rather than all that they spoiled.
    """
    broken = learner.sums.broken()
    first = min(broken.values(), default=step)
    found = _where(
        learner, [name for name, number in broken.items() if number == first], batch if first == step else {}
    )
    if not found:
        return None
    older = kept.all() if kept is not None else []
    left = f"The checkpoint at {tokens_of(older[-1]):,} tokens is kept. " if older else ""
    options = learner.options
    return Diverged(
        f"{learner.label}: not finite at step {first:,} ({first * options.batch:,} tokens): {found}. {left}Lower `lr` (now "
        f"{learner.lr:.3g}), raise `warmup` (now {options.warmup:g}), or look for rows of huge norm (TrainingData.massive: {data.massive})."
    )


def _where(learner: "Learner", names: list[str], batch: Mapping[str, Tensor]) -> str:
    mine = [view.name for view in learner.config.views]
    if rows := [name for name, x in batch.items() if name in mine and not bool(x.isfinite().all())]:
        return f"the rows of view {_listed(rows)}"
    if views := [name.removeprefix("view ") for name in names if name.startswith("view ")]:
        return f"the reconstruction of view {_listed(views)}"
    if names:
        return "the " + ", ".join(name.removeprefix("term ").replace("_", " ") for name in names)
    dictionary = learner.dictionary
    sides = ((dictionary.encoders, learner.config.reads), (dictionary.decoders, learner.config.writes))
    spoiled = [
        view.name
        for side, views in sides
        for weight, view in zip(side, views, strict=True)
        if not bool(weight.isfinite().all())
    ]
    if spoiled:
        return f"the weights of view {_listed(list(dict.fromkeys(spoiled)))}"
    return "the encoder's biases" if not bool(dictionary.b_enc.isfinite().all()) else ""


def _listed(names: list[str]) -> str:
    return ", ".join(map(repr, names))
