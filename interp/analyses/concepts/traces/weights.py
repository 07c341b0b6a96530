"""Where in the weights two checkpoints differ: how much of each matrix, of which rank, and how much of it in the concepts' own neurons."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from interp.core.lm import LM
from interp.core.progress import track
from interp.core.seed import generator

from ...weight_stats import LAYERED, MLP, TABLES, as_matrix
from ..vectors import Vector

EXACT = 1024
"""Smaller side of a matrix up to which its largest singular value comes from all of them; beyond, from power iteration."""
NEURON_AXIS = {"W_in": 1, "W_gate": 1, "W_out": 0}


def weight_change(before: LM, after: LM, vectors: Sequence[Vector]) -> xr.Dataset:
    """How far each matrix of each layer moved, D = W after - W before.

    change [matrix, layer]        |D| / |W|, Frobenius
    stable_rank [matrix, layer]   |D|^2 / largest singular value^2 of D; NaN where nothing changed
    share [matrix, layer]         share of |D|^2 in the neurons of `vectors` (MLP matrices; NaN elsewhere and where nothing changed)
    even [layer]                  the share that those neurons are of the layer: what `share` is where all neurons changed alike
    table_change [table]          |D| / |W| of the embedding W_E and the unembedding W_U (one and the same where they are tied)
    small_changed                 how many biases and norm gains changed
    attrs floor: the relative change that rounding of the stored numbers alone makes (2^-9 in bfloat16, 2^-12 in float16), else 0.
    """
    spec = before.spec
    kinds = [kind for kind in LAYERED if kind != "W_gate" or spec.gated]
    columns = {name: np.full((len(kinds), spec.n_layers), np.nan) for name in ("change", "stable_rank", "share")}
    for layer in track(range(spec.n_layers), "weight change"):
        neurons = sorted({vector.index for vector in vectors if vector.layer == layer})
        for row, kind in enumerate(kinds):
            old, new = (as_matrix(kind, getattr(lm.weights, kind)(layer)).detach() for lm in (before, after))
            moved = new.double().cpu() - old.double().cpu()
            total, size = float(moved.square().sum()), float(old.double().norm())
            columns["change"][row, layer] = total**0.5 / size if size else np.nan
            if not total:
                continue
            columns["stable_rank"][row, layer] = total / spectral_norm(moved) ** 2
            if kind in MLP:
                own = moved.index_select(NEURON_AXIS[kind], torch.tensor(neurons, dtype=torch.int64))
                columns["share"][row, layer] = float(own.square().sum()) / total
    even = [len({v.index for v in vectors if v.layer == layer}) / spec.d_mlp for layer in range(spec.n_layers)]
    floor = max({"bfloat16": 2.0**-9, "float16": 2.0**-12}.get(lm.spec.dtype, 0.0) for lm in (before, after))
    data = {name: (("matrix", "layer"), values) for name, values in columns.items()}
    pairs = [(getattr(before.weights, name).double(), getattr(after.weights, name).double()) for name in TABLES]
    tables = [float((new.cpu() - old.cpu()).norm() / old.norm().cpu()) for old, new in pairs]
    more: dict[str, Any] = {"even": ("layer", even), "table_change": ("table", tables)}
    return xr.Dataset(
        {**data, **more, "small_changed": ((), _small(before, after))},
        {"matrix": kinds, "layer": list(range(spec.n_layers)), "table": list(TABLES)},
        {"floor": floor},
    )


def spectral_norm(matrix: Tensor, *, rounds: int = 200, tolerance: float = 1e-6) -> float:
    """Largest singular value of a matrix; exact where its smaller side is at most `EXACT`, else by power iteration from a fixed start."""
    if min(matrix.shape) <= EXACT:
        return float(torch.linalg.svdvals(matrix)[0])
    vector = torch.randn(matrix.shape[1], generator=generator(0, "power iteration"), dtype=torch.float64).to(matrix)
    found = 0.0
    for _ in range(rounds):
        image = matrix @ (vector / vector.norm())
        vector = matrix.T @ image
        last, found = found, float(image.norm())
        if abs(found - last) <= tolerance * found:
            break
    return found


def _small(before: LM, after: LM) -> int:
    """How many biases and norm gains changed."""
    old, new = before.weights.parameters(), after.weights.parameters()
    return sum(not torch.equal(old[name].cpu(), new[name].cpu()) for name in old if name in new and old[name].ndim < 2)
