"""Folds that tear no group apart, and labels shuffled as they would fall if they meant nothing.

A pair, or equal texts, are one group. All rows of a group lie in one fold, so that nothing that is scored has been seen in training.

Shuffling keeps the design: within a group that holds both labels (a pair) its labels change places; groups of one label
exchange labels with other such groups of the same fold and size. So every shuffle has the same folds and the same class sizes in them,
and only the tie between label and text is cut.
"""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from interp.core.errors import BadInput
from interp.core.seed import numpy_generator


def grouped_folds(yes: np.ndarray, groups: Sequence[Any], folds: int, *, seed: int, name: str) -> np.ndarray:
    """The fold of each row, int64 [row]: groups whole, classes in about equal shares, drawn by seed.

    Raises `BadInput` where a class has fewer groups than there are folds, or a fold would lack a class.
    """
    numbers = group_numbers(groups)
    have = {label: len(np.unique(numbers[yes == label])) for label in (True, False)}
    if min(have.values()) < folds:
        few = min(have, key=lambda label: have[label])
        raise BadInput(
            f"the {'positive' if few else 'negative'} texts fall into {have[few]} groups (a pair, or equal texts, are one), fewer than the "
            f"{folds} folds. Give more texts, or `folds={max(2, have[few])}`."
        )
    counts = np.zeros((int(numbers.max()) + 1, 2))  # [group, class]
    np.add.at(counts, (numbers, yes.astype(int)), 1.0)
    rng = numpy_generator(seed, name)
    order = rng.permutation(len(counts))
    order = order[np.argsort(-counts[order].sum(axis=1), kind="stable")]  # the largest first
    load, place = np.zeros((folds, 2)), np.zeros(len(counts), dtype=np.int64)
    ties = rng.permutation(folds)
    for group in order:  # to where its classes are rarest, then to where the fewest rows are
        place[group] = np.lexsort((ties, load.sum(axis=1), load @ counts[group]))[0]
        load[place[group]] += counts[group]
    out = place[numbers]
    for fold in range(folds):
        rows = yes[out == fold]
        if not 0 < rows.sum() < len(rows):
            raise BadInput(
                f"fold {fold} of {folds} has {int(rows.sum())} positive and {int((~rows).sum())} negative texts: groups stay whole. "
                "Take fewer folds, or give more texts."
            )
    return out


def group_numbers(groups: Sequence[Any]) -> np.ndarray:
    """Groups as whole numbers in order of appearance, int64 [row]."""
    number = {group: place for place, group in enumerate(dict.fromkeys(groups))}
    return np.array([number[group] for group in groups], dtype=np.int64)


def shuffled_labels(
    yes: np.ndarray, groups: Sequence[Any], folds: np.ndarray, n: int, *, seed: int, name: str
) -> np.ndarray:
    """`n` sets of labels without a tie to the texts, bool [shuffle, row]. Raises `BadInput` where the design leaves none to exchange."""
    rng = numpy_generator(seed, name)
    numbers = group_numbers(groups)
    mixed: list[np.ndarray] = []
    pure: dict[tuple[int, int], list[np.ndarray]] = {}
    for group in range(int(numbers.max()) + 1):
        rows = np.flatnonzero(numbers == group)
        if yes[rows].any() and not yes[rows].all():
            mixed.append(rows)
        else:
            pure.setdefault((int(folds[rows[0]]), len(rows)), []).append(rows)
    if not mixed and not any(0 < yes[np.stack(same)[:, 0]].sum() < len(same) for same in pure.values()):
        raise BadInput(
            "no labels can be exchanged, so nothing says what chance gives: groups are whole, and those of positive and negative texts "
            f"differ in size ({_group_sizes(yes, numbers, True)} and {_group_sizes(yes, numbers, False)} texts). Give groups of like sizes."
        )
    out = np.tile(yes, (n, 1))
    for rows in mixed:
        out[:, rows] = rng.permuted(out[:, rows], axis=1)
    for same in pure.values():
        block = np.stack(same)  # [group, row]
        labels = rng.permuted(np.tile(yes[block[:, 0]], (n, 1)), axis=1)  # [shuffle, group]
        out[:, block] = labels[:, :, None]
    return out


def _group_sizes(yes: np.ndarray, numbers: np.ndarray, label: bool) -> str:
    return ", ".join(map(str, sorted(set(np.bincount(numbers)[numbers[yes == label]].tolist()))))


def describe_groups(yes: np.ndarray, groups: Sequence[Any]) -> str:
    """`20 pairs`, or how many texts in how many groups."""
    sizes = Counter(groups)
    sides = Counter(zip(groups, yes.tolist(), strict=True))
    if all(sides[group, True] == sides[group, False] == 1 for group in sizes):
        return f"{len(sizes)} pairs"
    return f"{len(yes)} texts in {len(sizes)} groups" if len(sizes) < len(yes) else f"{len(yes)} texts"
