"""How far a long computation is, and when it will be done: on a terminal or in a notebook, after two seconds; silent otherwise.

    for batch in track(batches, "tracing"):
        ...
    with Progress("capturing", total=tokens) as progress:
        progress.update(len(batch))
        progress.note("loss 0.31")                 # behind the bar, until the next note

Bars of nested loops share one display. They are written to stderr, so what a command prints can be piped.
"""

import importlib.util
import sys
import time
from collections.abc import Iterable, Iterator, Sized
from types import TracebackType
from typing import Any, TypeVar

T = TypeVar("T")

DELAY = 2.0
"""Seconds before a bar appears."""


class Progress:
    """A bar with an estimate of the time left. `total=None` counts without one."""

    _display: Any = None  # the rich display that all bars share
    _open: int = 0  # bars on it

    def __init__(self, label: str, total: float | None = None):
        self.label, self.total, self.done = label, total, 0.0
        self._began, self._task, self._shown, self._note = time.monotonic(), None, wanted(), ""

    def update(self, n: float = 1.0) -> None:
        """`n` more are done."""
        self.done += n
        if not self._shown or time.monotonic() - self._began < DELAY:
            return
        if self._task is None:
            self._show()
        Progress._display.update(self._task, completed=self.done, note=self._note)

    @property
    def visible(self) -> bool:
        """Whether the bar is on a display: a note that is dear to compute need not be computed for nobody."""
        return self._task is not None

    def note(self, text: str) -> None:
        """What stands behind the bar from the next update on."""
        self._note = text

    def __enter__(self) -> "Progress":
        self._began = time.monotonic()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._task is None:
            return
        Progress._display.refresh()
        Progress._open -= 1
        if Progress._open:
            Progress._display.remove_task(self._task)
        else:
            Progress._display.stop()
            Progress._display = None
        self._task = None

    def _show(self) -> None:
        if Progress._display is None:
            Progress._display = _display()
            Progress._display.start()
        self._task = Progress._display.add_task(self.label, total=self.total, note=self._note)
        Progress._open += 1


def track(iterable: Iterable[T], label: str, total: float | None = None) -> Iterator[T]:
    """The items of `iterable`, with a bar. `total` is its length, where it does not know it itself."""
    if total is None and isinstance(iterable, Sized):
        total = len(iterable)
    with Progress(label, total) as progress:
        for item in iterable:
            yield item
            progress.update()


def wanted() -> bool:
    """Whether somebody can see a bar: stderr is a terminal, or this is a notebook that can show one."""
    if "ipykernel" in sys.modules and "IPython" in sys.modules:
        return importlib.util.find_spec("ipywidgets") is not None
    return sys.stderr is not None and sys.stderr.isatty()


def _display() -> Any:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
    from rich.progress import Progress as Display

    columns = (
        TextColumn("{task.description}"), BarColumn(bar_width=30), MofNCompleteColumn(), TimeElapsedColumn(),
        TextColumn("left"), TimeRemainingColumn(), TextColumn("{task.fields[note]}"),
    )  # fmt: skip
    return Display(*columns, console=Console(file=sys.stderr), transient=True, redirect_stdout=False)
