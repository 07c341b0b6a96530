"""Benchmarks: ratios against a named baseline, measured in the same run.

    python -m tests.benchmarks tracing capture [--quick] [--json]

A module here has `rows() -> list[Row]`. Candidates are interleaved (a busy machine slows all of them alike), times are process CPU
time on one thread, and a row gives the median ratio, its spread and the largest difference between the two results. They are not
tests: nothing fails when a machine is slow.
"""

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Row:
    """One comparison."""

    name: str
    baseline: str
    ratio: float
    """Time of the baseline over time of ours; above 1 is faster."""
    spread: float
    """Half the range of the repeats' ratios, relative to the median."""
    max_difference: float
    """Between the two results; what is compared is in the note."""
    note: str = ""


def cpu(function: Callable[[], object]) -> float:
    """CPU seconds of one call."""
    start = time.process_time()
    function()
    return time.process_time() - start


def interleaved(functions: Sequence[Callable[[], object]], repeats: int = 5) -> list[list[float]]:
    """CPU seconds [function][repeat], called in turn, after one call each that is not counted."""
    for function in functions:
        function()
    times: list[list[float]] = [[] for _ in functions]
    for _ in range(repeats):
        for index, function in enumerate(functions):
            times[index].append(cpu(function))
    return times


def ratio(baseline: Sequence[float], ours: Sequence[float]) -> tuple[float, float]:
    """Median of the paired ratios and half their range relative to it."""
    ratios = [slow / fast for slow, fast in zip(baseline, ours, strict=True)]
    middle = statistics.median(ratios)
    return middle, (max(ratios) - min(ratios)) / 2 / middle
