"""Averages of a trace over prompts: by token role with intervals, tests of every cell, and what random windows give.

A prompt's positions of one role are averaged first, then the prompts (ROME weighs by token). Facts about one subject share most of what
is traced, so intervals and tests resample whole subjects.
"""

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import xarray as xr

from interp.core.errors import BadInput, one_of
from interp.core.stats import benjamini_hochberg, bootstrap_ci, holm, sign_flip_test
from interp.data.roles import ROLES

Correction = Literal["holm", "bh", "none"]
FLIPS = 9999
MOST_FLIPS = 99_999


def role_means(values: xr.DataArray, role: np.ndarray) -> xr.DataArray:
    """Means [prompt, role, kind, layer] of values [prompt, kind, pos, layer] over each prompt's positions [prompt, pos] of a role."""
    values = values.transpose("prompt", "pos", "kind", "layer")
    found = [name for name in ROLES if (role == name).any()]
    table = np.full((len(role), len(found), values.sizes["kind"], values.sizes["layer"]), np.nan)
    for index, name in enumerate(found):
        for row, here in enumerate(role == name):
            if here.any():
                table[row, index] = values.values[row, here].mean(axis=0)
    coords = {"prompt": values["prompt"], "role": found, "kind": values["kind"], "layer": values["layer"]}
    return xr.DataArray(table, coords, ("prompt", "role", "kind", "layer"))


def average(
    values: xr.DataArray, role: np.ndarray, *, level: float, clusters: Sequence[Any] | None, attrs: dict[str, Any]
) -> xr.Dataset:
    """mean, ci_lo, ci_hi [role, kind, layer]; n (prompts) and n_tokens [role]."""
    table = role_means(values, role)
    mean, low, high = bootstrap_ci(table.values, axis=0, level=level, name="trace", clusters=clusters)
    names = table["role"].values
    dims = ("role", "kind", "layer")
    return xr.Dataset(
        {
            "mean": (dims, mean),
            "ci_lo": (dims, low),
            "ci_hi": (dims, high),
            "n": ("role", [int((role == name).any(axis=1).sum()) for name in names]),
            "n_tokens": ("role", [int((role == name).sum()) for name in names]),
        },
        coords={"role": names, "kind": values["kind"].values, "layer": values["layer"].values},
        attrs={"level": level, "prompts": values.sizes["prompt"], **attrs},
    )


def tested(
    values: xr.DataArray,
    role: np.ndarray,
    *,
    alpha: float,
    correction: Correction,
    clusters: Sequence[Any] | None,
    floor: float,
    attrs: dict[str, Any],
) -> xr.Dataset:
    """Is the mean effect of a cell zero? effect, p, p_adjusted, significant [role, kind, layer].

    Cells that are no larger than `floor` in every prompt (zero by construction, up to rounding) are not tested and do not count.
    """
    one_of("correction", correction, ("holm", "bh", "none"))
    if not 0 < alpha < 1:
        raise BadInput(f"`alpha` must lie between 0 and 1; not {alpha}.")
    table = role_means(values, role)
    nothing = ~(np.abs(table.values) > floor)
    tests = int((~nothing.all(axis=0)).sum())
    flips = int(min(max(FLIPS, 1.25 * tests / alpha), MOST_FLIPS))  # enough for Holm to find a cell at all
    p = sign_flip_test(
        np.where(nothing.all(axis=0), np.nan, table.values), axis=0, n=flips, name="trace", clusters=clusters
    )
    adjusted = holm(p) if correction == "holm" else benjamini_hochberg(p) if correction == "bh" else p
    groups = len(table) if clusters is None else len(set(clusters))
    exact = groups < 60 and 2**groups <= flips
    least = 2.0 / 2**groups if exact else 1 / (flips + 1)
    first = tests if correction == "holm" else 1  # what the smallest p is multiplied by, at best
    dims = ("role", "kind", "layer")
    known = np.isfinite(table.values)
    mean = np.where(known, table.values, 0.0).sum(axis=0) / np.where(known.any(axis=0), known.sum(axis=0), np.nan)
    return xr.Dataset(
        {"effect": (dims, mean), "p": (dims, p), "p_adjusted": (dims, adjusted), "significant": (dims, adjusted < alpha)},
        coords={name: table[name].values for name in dims},
        attrs={
            "alpha": alpha, "correction": correction, "tests": tests, "groups": groups, "least_p": least,
            "attainable": bool(least * first < alpha), "prompts": len(table), **attrs,
        },
    )  # fmt: skip


def windows(table: xr.Dataset, *, width: int, rule: str) -> xr.Dataset:
    """What a window of the same width anywhere else gives: mean, lowest, highest [role, kind] over all unclipped windows; n of them."""
    from .cells import WINDOWED, window_layers

    n_layers = table.sizes["layer"]
    whole = [centre for centre in range(n_layers) if len(window_layers(centre, width, n_layers, rule)) == width]
    kinds = [str(kind) for kind in table["kind"].values if kind in WINDOWED]
    if not kinds or not whole:
        raise BadInput(
            f"there is no unclipped window of {width} layers of mlp or attn among {n_layers} layers. Trace with a smaller `window`."
        )
    part = table["mean"].sel(kind=kinds).isel(layer=whole)
    found = xr.Dataset({"mean": part.mean("layer"), "lowest": part.min("layer"), "highest": part.max("layer")})
    return found.assign_attrs(table.attrs, n=len(whole), width=width)
