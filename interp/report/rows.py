"""The card's numbers: one row a number, the same columns for every measure, so that two checkpoints can be joined and compared.

Rows come from the results' own means and intervals; nothing is computed here. `chance` is what the measure gives where the mechanism is
absent. Cards of different `probe` (the hash of the data that was measured on) must not be compared. Join on (metric, site, layer, head).
"""

from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, fields, replace
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr

    from interp.core.analysis import Result


@dataclass(frozen=True)
class Row:
    """One number of the card."""

    metric: str
    value: float
    unit: str = ""
    site: str | None = None
    layer: int | None = None
    head: int | None = None
    ci_lo: float | None = None
    """Ends of the 95 % interval."""
    ci_hi: float | None = None
    n: int | None = None
    """Examples that were averaged."""
    chance: float | None = None
    tier: int = 1
    """0 the weights alone, 1 one pass over text, 2 interventions."""
    analysis: str = ""
    result: str = ""
    """Hash of the result that the number was read off."""
    probe: str = ""
    """Hash of the data that it was measured on."""
    seconds: float | None = None
    """Time of the whole analysis."""


def cells(table: "xr.Dataset", *dims: str) -> Iterator[tuple[tuple[Any, ...], dict[str, float]]]:
    """(labels, mean and interval) of every cell of a table with mean, ci_lo and ci_hi over `dims`."""
    parts = {name: table[name].transpose(*dims).values for name in ("mean", "ci_lo", "ci_hi")}
    labels = [table[dim].values.tolist() for dim in dims]
    for place in np.ndindex(parts["mean"].shape):
        where = tuple(names[index] for names, index in zip(labels, place, strict=True))
        yield where, {name: float(values[place]) for name, values in parts.items()}


def cell(metric: str, at: Any, unit: str = "", **more: Any) -> Row:
    """A row from one cell of a table with mean, ci_lo and ci_hi."""
    return Row(metric, float(at["mean"]), unit, ci_lo=float(at["ci_lo"]), ci_hi=float(at["ci_hi"]), **more)


def stamp(rows: Iterable[Row], result: "Result") -> list[Row]:
    """The rows, each with the analysis, the result's hash and the data's hash."""
    manifest = result.manifest
    probe = ",".join(sorted(str(value)[:16] for value in manifest.inputs.values()))
    marks: dict[str, Any] = {
        "analysis": manifest.analysis,
        "result": manifest.hash,
        "probe": probe,
        "seconds": manifest.seconds,
    }
    return [replace(row, **marks) for row in rows]


def table(rows: Iterable[Row], common: dict[str, Any]) -> "pd.DataFrame":
    """The card as a table: the rows' columns, then what is the same for all (model, weights, dtype, seed, code)."""
    import pandas as pd

    names = [field.name for field in fields(Row)]
    frame = pd.DataFrame([asdict(row) for row in rows], columns=names)
    kinds = dict.fromkeys(("layer", "head", "n", "tier"), "Int64") | dict.fromkeys(
        ("ci_lo", "ci_hi", "chance"), "Float64"
    )
    return frame.astype(kinds).assign(**common)
