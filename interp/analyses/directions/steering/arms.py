"""What a direction is compared with: shifts of the same length in other directions, and those of the same method on exchanged labels."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from interp.core.errors import BadInput
from interp.core.seed import generator, numpy_generator
from interp.core.stats import random_directions

from ..base import Method, fit_direction

NULLS = ("random", "span", "shuffled")
"""Any direction; one in which activations vary, as much as they do; the same method on exchanged labels, its length included."""


def null_shifts(
    kind: str, values: Tensor, labels: Sequence[bool], groups: Sequence[str], activations: Tensor, *, method: Method,
    penalty: float, draws: int, length: float, own: bool, seed: int,
) -> Tensor:  # fmt: skip
    """Shifts [draw, d] of a control at strength 1.

    `values` [text, d] are those of the fit, `activations` [token, d] neutral ones at the site, `length` that of the direction's own
    shift. With `own`, exchanged labels have the distance of their own class means: the whole procedure is repeated, its length included.
    """
    if kind == "random":
        return length * random_directions(draws, values.shape[1], seed, "steering null").double()
    if kind == "span":
        centred = activations - activations.mean(dim=0)
        weights = torch.randn(draws, len(centred), generator=generator(seed, "steering span"), dtype=torch.float64)
        found = weights @ centred
        lengths = found.norm(dim=1, keepdim=True)
        if not bool((lengths > 0).all()):
            raise BadInput(
                "the neutral texts' activations do not vary at this site, so no direction lies in their span."
            )
        return length * found / lengths
    rng = numpy_generator(seed, "steering labels")
    shifts = []
    for _ in range(draws):
        mixed = exchanged(np.asarray(labels), groups, rng)
        fitted = fit_direction(values, mixed.tolist(), method, groups=groups, strength=penalty)
        shifts.append((class_gap(values, mixed) if own else length) * fitted.unit)
    return torch.stack(shifts)


def class_gap(values: Tensor, labels: "Sequence[bool] | np.ndarray") -> float:
    """Distance between the class means of values [row, d]."""
    yes = torch.as_tensor(np.asarray(labels, dtype=bool))
    return float((values[yes].double().mean(dim=0) - values[~yes].double().mean(dim=0)).norm())


def exchanged(labels: np.ndarray, groups: Sequence[str], rng: np.random.Generator) -> np.ndarray:
    """Labels exchanged within groups where every group has both kinds (the two of a pair), else between groups of one size.

    Texts of one group that share a label keep sharing one.
    """
    members: dict[str, list[int]] = {}
    for place, group in enumerate(groups):
        members.setdefault(group, []).append(place)
    out = labels.copy()
    if all(len({bool(labels[place]) for place in places}) == 2 for places in members.values()):
        for places in members.values():
            out[places] = labels[places][rng.permutation(len(places))]
        return out
    by_size: dict[int, list[list[int]]] = {}
    for places in members.values():
        by_size.setdefault(len(places), []).append(places)
    if not any(0 < sum(bool(labels[places[0]]) for places in rows) < len(rows) for rows in by_size.values()):
        raise BadInput(
            "no labels can be exchanged for the control: groups are whole, and none of the positive texts is of the size of one of the "
            "negative. Give groups of like sizes."
        )
    for rows in by_size.values():
        order = rng.permutation(len(rows))
        for mine, other in zip(rows, order, strict=True):
            out[mine] = labels[rows[other]]
    return out
