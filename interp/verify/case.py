"""One known answer: a question, what must come out, and what does."""

from collections.abc import Callable
from dataclasses import dataclass
from time import perf_counter


@dataclass(frozen=True)
class Outcome:
    """What one case gave on this machine."""

    name: str
    question: str
    expected: str
    found: str
    ok: bool
    seconds: float

    def __str__(self) -> str:
        return f"{'ok  ' if self.ok else 'FAIL'} {self.name}: expected {self.expected}; found {self.found} ({self.seconds:.1f} s)"


@dataclass(frozen=True)
class Case:
    """A check that a user can run. `check` gives whether it holds and what was found, in words."""

    name: str
    question: str
    expected: str
    check: Callable[[], tuple[bool, str]]

    def run(self) -> Outcome:
        """Run it. Whatever it raises is what was found, and a failure."""
        start = perf_counter()
        try:
            ok, found = self.check()
        except Exception as error:  # a broken installation must still give a table
            ok, found = False, f"{type(error).__name__}: {error}"
        return Outcome(self.name, self.question, self.expected, found, bool(ok), perf_counter() - start)
