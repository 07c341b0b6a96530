"""Known answers that a user can run on their own machine: `interp verify`.

    from interp import verify
    outcomes = verify.run()                # about 20 seconds, offline, nothing is written outside a temporary folder
    verify.report.show(outcomes)
    verify.run("stale cache")              # some cases by name

Two kinds: models wired by hand, in which each method must find exactly what was planted and nothing where nothing was; and the
promises of the workbench (nothing stale, nothing silent, nothing left behind, parts equal the whole), attacked.

A pass says that this installation computes what it claims to. It says nothing about any checkpoint or about any conclusion.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from . import report
from .case import Case, Outcome


def cases() -> tuple[Case, ...]:
    """All cases, in order."""
    from .catalogue import CASES

    return CASES


def run(*names: str) -> list[Outcome]:
    """Run all cases, or those named. Never raises for a failing case: its outcome says what happened."""
    from interp.core.errors import one_of
    from interp.core.progress import track

    every = cases()
    for name in names:
        one_of("case", name, [case.name for case in every])
    chosen = [case for case in every if not names or case.name in names]
    with _one_thread():
        return [case.run() for case in track(chosen, "verifying", total=len(chosen))]


@contextmanager
def _one_thread() -> Iterator[None]:
    """These models are so small that threads only wait for each other, a hundred times as long on a busy machine."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


__all__ = ["Case", "Outcome", "cases", "report", "run"]
