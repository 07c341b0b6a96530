"""The live line of a training: bar, time left, and the last numbers behind it. Nothing is computed where nobody can see it."""

import time
from collections.abc import Callable, Mapping
from types import TracebackType

from ..core.progress import Progress

EVERY = 0.5
"""Seconds between two looks at the numbers: on a GPU each of them waits for the step to finish."""


class Live:
    """A bar over rows with `loss .. FVU .. L0 .. dead ..` behind it."""

    def __init__(self, label: str, total: int, done: int = 0) -> None:
        self._bar, self._done, self._looked = Progress(label, total), done, 0.0

    def __enter__(self) -> "Live":
        self._bar.__enter__()
        self._bar.update(self._done)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.__exit__(kind, error, trace)

    def update(self, rows: int, numbers: Callable[[], Mapping[str, float]]) -> None:
        """`rows` more are done; `numbers` is called twice a second at most, and only if the bar can be seen."""
        self._bar.update(rows)
        if self._bar.visible and time.monotonic() - self._looked > EVERY:
            self._looked = time.monotonic()
            self._bar.note(line(numbers()))


def line(numbers: Mapping[str, float]) -> str:
    """`loss 0.31 · FVU 0.12 · L0 32.0 · dead 14`."""
    return " · ".join(
        f"{name} {value:,.0f}" if float(value).is_integer() else f"{name} {value:.3g}"
        for name, value in numbers.items()
    )
