"""Rows of a few known directions, and the dictionaries that learn them: small enough for a second of training."""

import torch

from interp.cache import MemoryView
from interp.core.dictionary import DictionaryConfig, View
from interp.core.seed import generator
from interp.train.data import TrainingData

WIDTH, CONCEPTS = 16, 12


def rows(count: int = 4000, *, seed: int = 0, without: tuple[int, ...] = ()) -> torch.Tensor:
    """[row, 16]: each of 12 orthogonal directions is there in one row of six, but for those `without`."""
    directions = torch.linalg.qr(torch.randn(WIDTH, CONCEPTS, generator=generator(0, "directions"))).Q.T
    there = torch.rand(count, CONCEPTS, generator=generator(seed, "there")) < 1 / 6
    strength = 0.5 + torch.rand(count, CONCEPTS, generator=generator(seed, "strength"))
    there[:, list(without)] = False
    return (there * strength) @ directions


def data(count: int = 4000, **options) -> TrainingData:
    return TrainingData({"in": MemoryView(rows(count), "toy")}, **options)


def pair(count: int = 4000, **options) -> TrainingData:
    """Two models: the first lacks concepts 0 and 1, the second concept 2."""
    views = {"base": rows(count, without=(0, 1)), "tuned": rows(count, without=(2,))}
    return TrainingData({name: MemoryView(tensor, name) for name, tensor in views.items()}, **options)


def sae(**changes) -> DictionaryConfig:
    view = View("in", width=WIDTH)
    return DictionaryConfig(
        **({"latents": 32, "reads": (view,), "writes": (view,), "activation": "batchtopk", "k": 2.0} | changes)
    )


def crosscoder(**changes) -> DictionaryConfig:
    views = tuple(View(name, width=WIDTH) for name in ("base", "tuned"))
    given = {"latents": 48, "reads": views, "writes": views, "activation": "batchtopk", "k": 2.0}
    return DictionaryConfig(**(given | {"centred": False, "family": "crosscoder"} | changes))
