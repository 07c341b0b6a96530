"""Ctrl-C and SIGTERM while something is trained: remembered, so that the step can be finished and its state kept.

    with Interrupt() as interrupt:
        for batch in batches:
            step(batch)
            if interrupt.came:
                save()
                interrupt.leave()         # KeyboardInterrupt, or exit code 143; a handler of the caller's is called instead

A second Ctrl-C does not wait. Handlers can only be set in the main thread; elsewhere, and with `active=False`, nothing is changed.
"""

import signal
import threading
from types import FrameType, TracebackType
from typing import Any

CATCH = (signal.SIGINT, signal.SIGTERM)


class Interrupt:
    """Takes the place of the handlers while it is open; puts them back when it closes."""

    def __init__(self, active: bool = True) -> None:
        self.active = active and threading.current_thread() is threading.main_thread()
        self.came: int | None = None
        """The signal that came, if one did."""
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "Interrupt":
        if self.active:
            self._before = {number: signal.signal(number, self._note) for number in CATCH}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._restore()

    def leave(self) -> None:
        """Put the handlers back and do what the signal asks for. Never returns, unless a handler of the caller's does."""
        self._restore()
        if self.came == signal.SIGINT:
            raise KeyboardInterrupt
        if self.came is not None:
            if callable(signal.getsignal(self.came)):
                signal.raise_signal(self.came)
            raise SystemExit(128 + self.came)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.came == number == signal.SIGINT:
            raise KeyboardInterrupt
        self.came = number

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}
