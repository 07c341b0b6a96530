"""What one step gave on several processes, put together: each has computed the share of its rows."""

from collections.abc import Iterable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from .parallel import Parallel

if TYPE_CHECKING:
    from ..step import Outcome


def combine(parallel: Parallel, parameters: Iterable[Tensor], outcome: "Outcome") -> None:
    """Sum gradients and outcome over the processes that have other rows, in place; every process then has those of the whole batch."""
    if parallel.size == 1:
        return
    parallel.sum_gradients(parameters)
    parallel.sum_(outcome.fired)
    numbers = [outcome.loss, outcome.l0, *outcome.terms.values(), *outcome.residual.values()]
    total = parallel.sum_(torch.stack([number.detach().double() for number in numbers]))
    loss, l0, *rest = (whole.to(number.dtype) for whole, number in zip(total, numbers, strict=True))
    outcome.loss, outcome.l0 = loss, l0
    outcome.terms = dict(zip(outcome.terms, rest, strict=False))
    outcome.residual = dict(zip(outcome.residual, rest[len(outcome.terms) :], strict=True))
    outcome.cut = _least(parallel, outcome.cut)
    if "cuts" in outcome.extra:
        outcome.extra["cuts"] = torch.tensor(
            [_least(parallel, float(cut)) or 0.0 for cut in outcome.extra["cuts"]], dtype=torch.float64
        )


def _least(parallel: Parallel, cut: float | None) -> float | None:
    """The smallest score that was kept anywhere; a process that kept none says 0."""
    if cut is None:
        return None
    found = float(parallel.world.most_(torch.tensor(-cut if cut > 0 else -torch.inf, dtype=torch.float64)))
    return 0.0 if found == -torch.inf else -found
