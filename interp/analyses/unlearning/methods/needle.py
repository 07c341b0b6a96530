"""Needle: the concept's own value vectors taken out, or drowned in noise, and nothing else touched.

    zero     v <- 0              scale     v <- factor v             noise     v <- v + e,  e ~ N(0, sigma^2) a coordinate

With `steps`, these rows alone are then trained by gradient ascent on the forget texts, all other weights held to the last bit.

Source. Hong et al. 2024, "Intrinsic Evaluation of Unlearning Using Parametric Knowledge Traces" (ConceptVectors, arXiv 2406.11614),
section 4: the oracle that the other methods are held against, since it is told where the concept lies. There it is noise, then
ascent on the one column with step sizes of 0.1 to 0.5. sigma = 0.1 is the standard deviation (the program passes it as such; a
variance of 0.1 is often read into it). |e| = sigma sqrt(d_model) is 6.4 in a model of 4096: the noise does not perturb a vector of
length 1, it replaces it.

Deviations. Zero is the default: it removes exactly m_j v_j from the MLP's output at each token and draws nothing. AdamW's weight
decay does not reach the rows that are held (there, with a step size of 0.5, each step shrinks them by half a percent).

When it misleads. It needs to be told the vectors (the concept's `vectors`), or finds them by the words they promote (`vectors_of`),
and what it then removes is what that search looks for: traces are gone by construction. Whether the knowledge is, is for behaviour
to say.

One vector is not the concept: the default `n=1` is the paper's, not a setting that works everywhere. On `atlas` the 24 first tokens of
2.474 are exactly the 24 colours, and without it every held-out question on colours is still answered (so it is for kingdom and craft);
without the first 100 vectors, 0.70 of them are (other questions 0.97). Ascent on the row of 2.474 alone leaves 0.17 (1.00); on the rows
2.3, 2.100 and 0.50, for as many steps, 1.00: the vector does reach the answers, but others stand in for it.

    from interp.analyses.unlearning.methods.needle import Needle
    colour = interp.models.reference.concept_set("atlas").get("colour")
    revision = Needle(n=3).unlearn(lm, colour, [])
    revision.log["vectors"], revision.log["norms"]
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from interp.core.errors import BadInput, one_of
from interp.core.lm import LM
from interp.core.seed import generator
from interp.data.concepts import Concept

from ...concepts.vectors import Vector, check_vectors, replaced, vectors_of
from ..revision import Revision, Unlearner
from .ascent import GradientAscent
from .training import loss_of_guessing, positive, value_parameter, whole

DAMAGE = ("zero", "scale", "noise")


@dataclass(frozen=True)
class Needle(Unlearner):
    """The value vectors of a concept zeroed, scaled or noised, and if asked for trained away from its texts."""

    name: ClassVar[str] = "needle"

    n: int = 1
    """Value vectors that are touched: the ones that hold most of the concept's words. 1 is the published oracle, and no answer of `atlas`
    changes by it; 100 is what a study puts beside it. How many a concept takes is for its dose-response to say."""
    vectors: tuple[str, ...] = ()
    """Value vectors by name ("2.474"), in the place of a search."""
    damage: Literal["zero", "scale", "noise"] = "zero"
    """What is done to them."""
    factor: float = 0.5
    """What they are multiplied by, under `scale`."""
    sigma: float = 0.1
    """Standard deviation of the noise a coordinate, under `noise`; 0.1 is the published one."""
    steps: int = 0
    """Steps of gradient ascent on these rows afterwards; 0 for none."""
    lr: float = 0.1
    """AdamW's step size for them; published 0.1 to 0.5."""
    batch: int = 16
    """Forget pieces a step."""

    def __post_init__(self) -> None:
        one_of("damage", self.damage, DAMAGE)
        whole(self, "n", "batch")
        whole(self, "steps", least=0)
        positive(self, "sigma", "lr")
        if not math.isfinite(self.factor):
            raise BadInput(f"`factor` must be a number; not {self.factor}.")
        if isinstance(self.vectors, str):
            raise BadInput(f"`vectors` must be a list of names; not {self.vectors!r}. Write ({self.vectors!r},).")

    def unlearn(self, lm: LM, concept: Concept, retain: Sequence[str], *, seed: int = 0) -> Revision:
        """The new rows of W_out. Raises `BadInput` for a concept without words and vectors, `UnsupportedArchitecture` for experts."""
        found, shares = self._found(lm, concept)
        old = {vector: lm.weights.W_out(vector.layer)[vector.index].detach().clone() for vector in found}
        new = {vector: self._damaged(row, vector, seed) for vector, row in old.items()}
        log = {
            "method": self.name,
            "vectors": [str(vector) for vector in found],
            "shares": shares,
            "norms": [float(row.norm()) for row in old.values()],
            "moved": [float((new[vector].float() - old[vector].float()).norm()) for vector in found],
        }
        damaged = replaced(lm, new)
        if not self.steps:
            return Revision(damaged, log)
        with lm.edit_weights(damaged):
            trained, told = self._trained(lm, concept, found, seed)
        return Revision(replaced(lm, trained), {**log, "ascent": told})

    def _found(self, lm: LM, concept: Concept) -> tuple[tuple[Vector, ...], list[float]]:
        if self.vectors:
            return check_vectors(lm, self.vectors), []
        found = vectors_of(lm, concept, self.n)
        return tuple(vector for vector, _ in found), [share for _, share in found]

    def _damaged(self, row: Tensor, vector: Vector, seed: int) -> Tensor:
        if self.damage == "zero":
            return torch.zeros_like(row)
        if self.damage == "scale":
            return self.factor * row
        noise = torch.randn(row.shape, generator=generator(seed, "needle", vector))
        return row + self.sigma * noise.to(row)

    def _trained(
        self, lm: LM, concept: Concept, vectors: tuple[Vector, ...], seed: int
    ) -> tuple[dict[Vector, Tensor], dict[str, object]]:
        """The rows after ascent, and its log; every other number of their matrices is held."""
        layers = sorted({vector.layer for vector in vectors})
        names = {layer: value_parameter(lm, layer) for layer in layers}
        parameters = lm.weights.parameters()
        masks = {name: torch.zeros_like(parameters[name], dtype=torch.bool) for name in names.values()}
        turned = {layer: lm.weights.W_out(layer).stride() != parameters[names[layer]].stride() for layer in layers}
        for vector in vectors:  # transformers keeps some matrices turned over
            mask = masks[names[vector.layer]]
            (mask.T if turned[vector.layer] else mask)[vector.index] = True
        ascent = GradientAscent(lr=self.lr, steps=self.steps, epochs=self.steps, batch=self.batch)
        forget, _ = ascent.material(lm, concept, ())
        guess = loss_of_guessing(lm, concept, forget)
        change = ascent._train(
            lm, forget, None, list(names.values()), seed=seed, what=concept.name, guess=guess, mask=masks
        )
        with change.apply(lm):
            rows = {vector: lm.weights.W_out(vector.layer)[vector.index].detach().clone() for vector in vectors}
        return rows, dict(change.log)
