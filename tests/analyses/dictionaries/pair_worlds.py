"""Crosscoders of two synthetic models whose differences are known, trained and judged: shared by tests and benchmark."""

from dataclasses import dataclass

import numpy as np
import torch

from interp.analyses.dictionaries.diffing.delta import bins, relative_difference
from interp.analyses.dictionaries.diffing.labels import label
from interp.analyses.dictionaries.diffing.scaling import MODELS, Scaled
from interp.analyses.dictionaries.diffing.survey import Survey
from interp.cache import MemoryView
from interp.core.dictionary import Dictionary, View
from interp.data.features import PairWorld
from interp.train.data import TrainingData
from interp.train.families import Crosscoder
from interp.train.training import Trained, Training

LEAST_ON = 26
"""Rows of 65,536 in which a latent must be on to be counted."""


def trained(rows: dict[str, torch.Tensor], *, latents: int, k: float, steps: int, batch: int = 512, activation: str = "batchtopk",
            dedicated: float = 0.0, **options) -> Trained:  # fmt: skip
    """A crosscoder of rows of both models, by the recipe of the experiments: squared loss, small tied beginning, rows as they are."""
    data = TrainingData({name: MemoryView(x, name, rows="pair") for name, x in rows.items()})
    views = {name: View(name, width=x.shape[1]) for name, x in rows.items()}
    config = Crosscoder(latents=latents, k=k, activation=activation, dedicated=dedicated).config(views)
    usual = {
        "lr": 1e-3, "normalise": "none", "init_norm": 0.3, "coefficient": 0.5 if activation == "relu" else 0.0,
        "dead_after": min(100_000, steps * batch // 10), "watch": steps * batch // 10,
    }  # fmt: skip
    return Training(tokens=steps * batch, batch=batch, **(usual | options))(data, config)


@dataclass(frozen=True, eq=False)
class Found:
    """What a crosscoder found of a world."""

    delta: np.ndarray
    alive: np.ndarray
    named: np.ndarray
    """Bin of each latent."""
    kind: np.ndarray
    """Kind of the concept that each latent is, or "none"."""
    concept: np.ndarray
    cosine: np.ndarray
    scaled: Scaled
    fvu: dict[str, float]

    def exclusive(self, side: str = "tuned") -> np.ndarray:
        """Latents of one model alone, by their norms."""
        return self.named == f"{side} only"

    def specific(self, side: str = "tuned", *, free: bool = True) -> np.ndarray:
        """Those of them that latent scaling keeps."""
        ratios = self.scaled.free(side) if free else self.scaled.nu(side)
        said = label(ratios[0], ratios[1], self.scaled.active, chance=self.scaled.chance(side) if free else None)
        return self.exclusive(side) & (said == "specific")

    def precision(self, chosen: np.ndarray, kind: str = "tuned") -> float:
        """Share of the chosen latents that are concepts of a kind."""
        return float((self.kind[chosen] == kind).mean()) if chosen.any() else float("nan")

    def concepts(self, chosen: np.ndarray, kind: str = "tuned") -> int:
        """How many concepts of a kind are among the chosen latents."""
        return len(set(self.concept[chosen & (self.kind == kind)]))

    def recall(self, world: PairWorld, kind: str, *, least: float = 0.9) -> float:
        """Share of the concepts of a kind that some living latent has, by a cosine above `least`."""
        mine = np.flatnonzero(world.kinds == kind)
        return float(np.mean([(self.alive & (self.concept == one) & (self.cosine > least)).any() for one in mine]))


def found(world: PairWorld, dictionary: Dictionary, *, rows: int = 65_536, seed: int = 1000) -> Found:
    """Judge a crosscoder on new rows of its world."""
    survey = Survey(dictionary, 1, examples=1)
    for start in range(0, rows, 8192):
        part = world.rows(min(8192, rows - start), seed + start)
        count = len(part["base"])
        survey.add(part, torch.arange(start, start + count), torch.zeros(count, dtype=torch.int64))
    decoders = {model: dictionary.decoder(model) for model in MODELS}
    scaled = survey.sums.finish(decoders)
    norms = {model: norm.numpy() for model, norm in dictionary.norms().items()}
    delta, alive = relative_difference(norms["base"], norms["tuned"]), scaled.active >= LEAST_ON * rows / 65_536
    concept, cosine = world.identify(decoders)
    kind = np.where(concept >= 0, world.kinds[concept], "none")
    return Found(delta, alive, bins(delta, alive), kind, concept, cosine, scaled, survey.fvu())
