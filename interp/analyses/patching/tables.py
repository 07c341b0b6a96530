"""Averages, tests and comparisons of effects [pair, direction, layer, ...], which a result offers as its methods."""

from collections.abc import Hashable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from interp.core.errors import BadInput
from interp.core.stats import benjamini_hochberg, bootstrap_ci, holm, sign_flip_test

if TYPE_CHECKING:
    from .result import PatchingResult

FLIPS, MOST_FLIPS = 9_999, 100_000
"""Sign flips of a test, at least and at most; a large grid needs more, since a p-value is no smaller than one over their number."""


def grouped(values: xr.DataArray, role: np.ndarray) -> xr.DataArray:
    """Values [pair, ..., pos] averaged within the roles [pair, pos] of each pair, [pair, ..., role]; NaN where a pair lacks a role."""
    moved = values.transpose("pair", ..., "pos")
    found = [str(name) for name in dict.fromkeys(role.ravel().tolist()) if name]
    place = {
        name: np.mean([np.argmax(row == name) / (row != "").sum() for row in role if (row == name).any()])
        for name in found
    }
    found.sort(key=lambda name: place[name])  # in reading order
    out = np.full((*moved.shape[:-1], len(found)), np.nan)
    for index, name in enumerate(found):
        for row, here in enumerate(role == name):
            if here.any():
                out[row, ..., index] = moved.values[row][..., here].mean(axis=-1)
    coords = {key: coord for key, coord in moved.coords.items() if "pos" not in coord.dims}
    return xr.DataArray(out, dims=(*moved.dims[:-1], "role"), coords={**coords, "role": found}, name=values.name)


def summary(values: xr.DataArray, *, level: float, clusters: Sequence[Hashable] | None) -> xr.Dataset:
    """Mean over pairs with its bootstrap interval, and how many pairs have the cell."""
    mean, low, high = bootstrap_ci(values, axis="pair", level=level, name="patching", clusters=clusters)
    count = values.notnull().sum("pair")
    return xr.Dataset({"mean": mean, "ci_lo": low, "ci_hi": high, "n": count}, attrs={"level": level})


def tested(
    values: xr.DataArray,
    *,
    correction: str,
    alpha: float,
    clusters: Sequence[Hashable] | None,
    seed: int,
    floor: float,
) -> xr.Dataset:
    """Sign-flip p-values over pairs (or over the means of clusters), corrected within each direction.

    Effects up to `floor` are rounding, which may well have the same sign in every pair: they count as 0.
    """
    if not 0 < alpha < 1:
        raise BadInput(f"`alpha` must lie between 0 and 1; not {alpha}.")
    values = xr.where(np.abs(values) <= floor, 0.0, values).transpose(*values.dims)
    if clusters is not None:
        members = {
            label: [row for row, one in enumerate(clusters) if one == label] for label in dict.fromkeys(clusters)
        }
        rows = [values.isel(pair=rows).mean("pair") for rows in members.values()]
        values = xr.concat(rows, dim="pair").assign_coords(pair=[str(label) for label in members])
    idle = ~(values.fillna(0) != 0).any("pair")  # before the change, or where nobody reads it: no question
    cells = int((~idle).isel(direction=0).sum())
    flips = int(min(MOST_FLIPS, max(FLIPS, 4 * cells / alpha)))
    p = sign_flip_test(values, axis="pair", n=flips, seed=seed, name="patching").where(~idle)
    correct = holm if correction == "holm" else benjamini_hochberg
    adjusted = xr.concat([correct(p.sel(direction=one)) for one in p["direction"].values], dim="direction")
    adjusted = adjusted.assign_coords(direction=p["direction"].values).transpose(*p.dims)
    pairs = values.sizes["pair"]
    smallest = 2.0 / 2**pairs if pairs < 60 and 2**pairs <= flips else 1 / (flips + 1)
    attrs = {
        "correction": correction,
        "alpha": alpha,
        "pairs": pairs,
        "smallest_p": smallest,
        "cells": cells,
        "floor": floor,
    }
    return xr.Dataset({"p": p, "p_adjusted": adjusted, "significant": adjusted <= alpha}, attrs=attrs)


def control_row(result: "PatchingResult", part: xr.Dataset, metric: str, index: int) -> dict[str, Any]:
    """One of the strongest cells beside its controls."""
    names = ("kind", "direction", "layer", "head", "place")
    cell: dict[str, Any] = {name: part[f"strong_{name}"].values[index] for name in names}
    cell = {name: value.item() if hasattr(value, "item") else value for name, value in cell.items()}
    sign = 1.0 if cell["direction"] == "denoise" else -1.0
    end = part["low" if cell["direction"] == "denoise" else "high"].sel(metric=metric)
    draws = sign * (part["control"].isel(strong=index).sel(metric=metric) - end).mean("pair").values  # [draw]
    effects = result.effects(cell["kind"]).sel(
        metric=metric, pair=part["pair"].values, direction=cell["direction"], layer=cell["layer"]
    )
    if cell["place"]:
        effects = effects.sel(pos=int(cell["place"])) if "pos" in effects.dims else effects.sel(place=cell["place"])
    others = np.array([np.nan])
    mean = effects.mean("pair")
    if cell["head"] >= 0:
        dim = str(mean.dims[0])
        others, mean = mean.where(mean[dim] != cell["head"], drop=True).values, mean.sel({dim: cell["head"]})
    effect = float(mean)
    return cell | {
        "effect": effect, "control_mean": float(draws.mean()), "control_sd": float(draws.std()), "draws": len(draws),
        "percentile": _percentile(effect, draws), "among_heads": _percentile(effect, others),
    }  # fmt: skip


def _percentile(effect: float, others: np.ndarray) -> float:
    known = others[np.isfinite(others)]
    return float(100 * (np.abs(known) < abs(effect)).mean()) if len(known) else float("nan")
