"""Everything that was found of every model, as one dataset."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import xarray as xr

from ..asking import Scores
from ..recovery import Relearned
from .material import Asked

ASKED = ("prob", "top", "decoy_prob", "decoy_top")


@dataclass(frozen=True, eq=False)
class Found:
    """What was found of one model."""

    measures: dict[str, float]
    related: dict[str, np.ndarray]
    """Of each way of asking, [way, prompt]."""
    unrelated: dict[str, np.ndarray]
    former: Scores | None
    """Of the former answer and the other candidates, [prompt, candidate]."""
    relearned: Relearned | None


def gather(
    found: Mapping[tuple[int, str, int], Found],
    concepts: Sequence[str],
    methods: Sequence[str],
    seeds: int,
    related: Sequence[Asked],
    unrelated: Sequence[Asked],
) -> xr.Dataset:
    """The dataset of an `UnlearningStudyResult`; cells that do not exist are NaN."""
    size = {"concept": len(concepts), "unlearner": len(methods), "seed": seeds}
    names = list(dict.fromkeys(name for one in found.values() for name in one.measures))
    ways = list(dict.fromkeys(way for one in related for way in one.ways))
    size |= {"measure": len(names), "jailbreak": len(ways)}
    size |= {
        "prompt": max(len(one.prompts) for one in related),
        "unrelated": max(len(one.prompts) for one in unrelated),
    }
    steps = next((one.relearned.steps for one in found.values() if one.relearned is not None), None)
    size["step"] = 0 if steps is None else len(steps)
    columns: dict[str, tuple[tuple[str, ...], np.ndarray]] = {}

    def blank(name: str, *dims: str) -> np.ndarray:
        lead = ("concept", "unlearner", "seed", *dims)
        return columns.setdefault(name, (lead, np.full([size[dim] for dim in lead], np.nan)))[1]

    for (concept, method, seed), one in found.items():
        cell = (concept, methods.index(method), seed)
        blank("score", "measure")[cell] = [one.measures.get(name, np.nan) for name in names]
        for group, read, asked, dim in (
            ("", one.related, related, "prompt"),
            ("unrelated_", one.unrelated, unrelated, "unrelated"),
        ):
            here = [ways.index(way) for way in asked[concept].ways if way in ways]
            kept = [way in ways for way in asked[concept].ways]
            for name in ASKED:
                table = blank(group + name, "jailbreak", dim)[cell]
                table[here, : len(asked[concept].prompts)] = read[name][kept]
        if one.former is not None:
            _former(one.former, blank, cell)
        if one.relearned is not None:
            _relearned(one.relearned, blank, cell)
    coords: dict[str, object] = {
        "concept": list(concepts),
        "unlearner": list(methods),
        "seed": np.arange(seeds),
        "measure": names,
    }
    coords |= {"jailbreak": ways, "prompt": np.arange(size["prompt"]), "unrelated": np.arange(size["unrelated"])}
    if steps is not None:
        coords["step"] = steps
    data = xr.Dataset({name: (dims, values) for name, (dims, values) in columns.items()}, coords)
    for name, groups in (("prompt", related), ("unrelated", unrelated)):
        texts = [[_line(one, place) for place in range(size[name])] for one in groups]
        data = data.assign_coords({f"{name}_text": (("concept", name), texts)})
    return data


def _line(asked: Asked, place: int) -> str:
    return f"{asked.prompts[place].text}{asked.prompts[place].answer}" if place < len(asked.prompts) else ""


def _former(scores: Scores, blank, cell: tuple[int, int, int]) -> None:  # type: ignore[no-untyped-def]
    there = np.isfinite(scores.prob[:, 0])
    prompts = slice(0, len(there))
    rivals = np.where(np.isfinite(scores.prob[:, 1:]), scores.prob[:, 1:], -np.inf)
    count = np.isfinite(scores.prob).sum(axis=1)
    values = {
        "former_prob": scores.prob[:, 0], "former_top": scores.top[:, 0], "former_lead": scores.prob[:, 0] > rivals.max(axis=1),
        "former_chance": 1 / np.maximum(count, 1),
    }  # fmt: skip
    for name, value in values.items():
        blank(name, "prompt")[(*cell, prompts)] = np.where(there, value, np.nan)


def _relearned(found: Relearned, blank, cell: tuple[int, int, int]) -> None:  # type: ignore[no-untyped-def]
    count = len(found.told)
    for name, values in (
        ("relearn_prob", found.prob),
        ("relearn_top", found.top),
        ("relearn_decoy_top", found.decoy_top),
    ):
        blank(name, "step", "prompt")[cell][:, :count] = values
    blank("told", "prompt")[cell][:count] = found.told
