"""Work in parts that fit in memory, and what is done when they do not.

Two numbers bound what a resumption holds besides its result: the states of strands (`plain.state_bytes`) and the activations of one
layer call (`plain.token_budget` tokens). When the machine runs out of memory all the same, both are halved, which is said once a
model, and the part is done again; when halving can give nothing more, the error says how much was being held.
"""

import warnings
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch

from interp.core.errors import InterpError

from .cells import Entrant

if TYPE_CHECKING:
    from .plain import PlainModel
    from .recording import PlainRecording

MIN_TOKENS = 32
"""The smallest token budget that is tried."""


class OutOfMemory(InterpError, RuntimeError):
    """The smallest amount of work does not fit in memory."""


def within_memory(
    plain: "PlainModel",
    base: "PlainRecording",
    entrants: Sequence[Entrant],
    work: Callable[[Sequence[Entrant]], Any],
) -> None:
    """Call `work` with all entrants, part by part; a part must be one that may be done twice."""
    rest = list(entrants)
    while rest:
        part, after = _part(base, rest, plain.state_bytes)
        done = False
        try:
            work(part)
            done = True
        except (RuntimeError, MemoryError) as problem:
            if not _is_memory(problem):
                raise
            _halve(plain, base, part, problem)
        if done:
            rest = after
        elif plain.device.type == "cuda":
            torch.cuda.empty_cache()


def _part(base: "PlainRecording", entrants: list[Entrant], limit: int) -> tuple[list[Entrant], list[Entrant]]:
    """Entrants whose states fit, and the rest; those that start at the same position stay together."""
    width, d_model = base.states[0].shape[1:]
    size = base.states[0].element_size() * d_model
    ordered = sorted(entrants, key=lambda item: item.start)
    total = 0
    for index, item in enumerate(ordered):
        total += len(item.rows) * (width - item.start) * size
        if index and total > limit:
            return ordered[:index], ordered[index:]
    return ordered, []


def _is_memory(problem: BaseException) -> bool:
    text = str(problem).lower()
    return isinstance(problem, torch.OutOfMemoryError | MemoryError) or "can't allocate memory" in text


def _halve(plain: "PlainModel", base: "PlainRecording", part: Sequence[Entrant], problem: BaseException) -> None:
    tokens, states = plain.token_budget, plain.state_bytes
    if tokens <= MIN_TOKENS and len(part) == 1:
        raise OutOfMemory(
            f"partial recomputation of {plain.spec.name} ran out of memory with a single cell of {len(part[0].rows)} rows and a budget "
            f"of {tokens} tokens a layer call; the recording itself holds {base.nbytes / 1e6:.0f} MB. Record fewer or shorter rows, "
            "capture fewer sites, or free memory."
        ) from problem
    plain.token_budget, plain.state_bytes = max(MIN_TOKENS, tokens // 2), states // 2
    if not plain.shrunk:
        plain.shrunk = True
        warnings.warn(
            f"out of memory while resuming {plain.spec.name}: {tokens} tokens a layer call and {states / 1e6:.0f} MB of states do not "
            f"fit. Trying again with {plain.token_budget} tokens and {plain.state_bytes / 1e6:.0f} MB, and with less where that is not "
            "enough: slower, the same numbers.",
            stacklevel=2,
        )
