"""The numbers on top of the page: what a reader asks first, each with what it would be if nothing were there."""

from collections.abc import Iterable
from dataclasses import dataclass

from .rows import Row
from .sections import Section


@dataclass(frozen=True)
class Gauge:
    """One number, its name, and what to hold it against."""

    name: str
    value: str
    note: str


def gauges(sections: Iterable[Section]) -> list[Gauge]:
    """One or two a section, for the sections that are there."""
    rows = {row.metric: row for section in sections for row in section.rows if row.layer is None and row.site is None}
    depth = max((row.layer for section in sections for row in section.rows if row.layer is not None), default=0) + 1
    found: list[Gauge] = []
    if "nll" in rows:
        perplexity = rows["perplexity"].value
        note = f"{_interval(rows['nll'])}perplexity {perplexity:,.{0 if perplexity > 100 else 1}f}"
        found.append(Gauge("loss, nats a token", f"{rows['nll'].value:.2f}", note))
    if "lens half depth" in rows:
        half = int(rows["lens half depth"].value)
        found.append(
            Gauge(
                "half predicted at depth", f"{half} of {depth}", "logit lens agrees with the output on half the tokens"
            )
        )
    if "copy ratio" in rows:
        note = f"{_interval(rows['copy ratio'])}0 copies, 1 does not"
        found.append(Gauge("copy ratio", f"{rows['copy ratio'].value:.3f}", note))
    if "facts known" in rows:
        known = rows["facts known"]
        found.append(
            Gauge("facts known", f"{round(known.value * (known.n or 0))} of {known.n}", "its first guess is the answer")
        )
        clean, corrupted = rows["clean prob"].value, rows["corrupted prob"].value
        found.append(Gauge("P(answer)", f"{clean:.2g} → {corrupted:.2g}", "clean → subject corrupted"))
    return found


def _interval(row: Row) -> str:
    return f"{row.ci_lo:.3f} … {row.ci_hi:.3f} · " if row.ci_lo is not None and row.ci_lo == row.ci_lo else ""
