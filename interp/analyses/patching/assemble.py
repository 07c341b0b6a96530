"""The numbers of all groups as labelled data."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from ..readout import METRICS
from .cells import part_names
from .result import PatchingResult

if TYPE_CHECKING:
    from interp.core.lm import LM

    from ..pairs import PairGroup
    from .controls import Strong
    from .job import Job
    from .patch import ActivationPatching


def assemble(
    config: "ActivationPatching", lm: "LM", job: "Job", groups: "Sequence[PairGroup]", strong: "Sequence[Strong]"
) -> PatchingResult:
    """The numbers of all groups as labelled data."""
    pairs, label = job.pairs, lm.tokenizer.label
    width = max(len(pair.clean) for pair in pairs)
    place = "place" if config.positions else "pos"
    data: dict[str, Any] = {}
    coords: dict[str, Any] = {"pair": unique([pair.id for pair in pairs]), "direction": list(config.directions)}
    coords |= {"pos": np.arange(width), "metric": list(METRICS)}
    for grid in job.grids:
        data[grid.kind] = (("pair", "direction", *grid.dims(place), "metric"), job.score[grid.kind])
        coords["layer"] = list(grid.layers)
        if grid.heads:
            coords[grid.head_dim] = list(grid.heads)
    if any(place in dims for dims, _ in data.values()) and config.positions:
        coords["place"] = list(config.positions)
    data |= {"low": (("pair", "metric"), job.low), "high": (("pair", "metric"), job.high)}
    partner = job.partner or range(len(pairs))
    shown = {
        "token": [pair.clean.labels for pair in pairs], "token_corrupted": [pairs[other].corrupted.labels for other in partner],
        "role": [part_names(pair.clean) for pair in pairs],
    }  # fmt: skip
    for name, rows in shown.items():
        data[name] = (("pair", "pos"), np.array([[*row, *[""] * (width - len(row))] for row in rows]))
    data["n_pos"] = ("pair", [len(pair.clean) for pair in pairs])
    data["first_changed"] = ("pair", [pair.changed[0] for pair in pairs])
    found: dict[str, list[Any]] = {
        name: [None] * len(pairs) for name in ("known", "answer", "foil", "predicted", "foil_given")
    }
    for group in groups:
        for row, index in enumerate(group.index):
            found["known"][index], found["foil_given"][index] = group.known[row], group.foil_given[row]
            for name in ("answer", "foil", "predicted"):
                found[name][index] = label(int(getattr(group, name)[row]))
    coords |= {name: ("pair", values) for name, values in found.items()}
    if strong:
        data["control"] = (("pair", "strong", "draw", "metric"), job.control_score)
        names = [*config.positions] or [str(pos) for pos in range(width)]
        coords |= {
            "strong_kind": ("strong", [one.kind for one in strong]),
            "strong_direction": ("strong", [one.direction for one in strong]),
            "strong_layer": ("strong", [one.layer for one in strong]),
            "strong_head": ("strong", [-1 if one.head is None else one.head for one in strong]),
            "strong_place": ("strong", ["" if one.place is None else names[one.place] for one in strong]),
        }  # fmt: skip
    attrs = {
        "kinds": list(config.kinds), "over": [over for _, over in config.axes], "source": config.source, "window": config.window,
        "window_rule": config.window_rule, **job.checks,
    }  # fmt: skip
    return PatchingResult(xr.Dataset(data, coords=coords, attrs=attrs))


def unique(ids: Sequence[str]) -> list[str]:
    """Ids made different by a number."""
    seen: dict[str, int] = {}
    out = []
    for name in ids:
        seen[name] = seen.get(name, 0) + 1
        out.append(name if seen[name] == 1 else f"{name}#{seen[name]}")
    return out
