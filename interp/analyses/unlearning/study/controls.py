"""What stands beside the methods: doing nothing, and doing the same to value vectors that have nothing to do with the concept."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from interp.core.errors import BadInput
from interp.core.lm import LM
from interp.core.seed import numpy_generator
from interp.data.concepts import Concept

from ...concepts.vectors import Vector, check_vectors, scaled, value_vectors, vectors_of
from ..revision import Revision, Unlearner

NEAREST = 24
"""How many vectors of the nearest norm a control is drawn from."""


@dataclass(frozen=True)
class Untouched(Unlearner):
    """No change: what every number is before unlearning, and how the model behaves under the same attacks."""

    name: ClassVar[str] = "untouched"

    def unlearn(self, lm: LM, concept: Concept, retain: Sequence[str], *, seed: int = 0) -> Revision:
        """Nothing."""
        return Revision.none()


@dataclass(frozen=True)
class MatchedAblation(Unlearner):
    """Other value vectors of the same layers, of the nearest norms, set to zero: what removing any such vector does."""

    name: ClassVar[str] = "matched ablation"

    vectors: int = 1
    """How many of the concept's vectors are matched, one other each."""
    named: tuple[str, ...] = ()
    """The vectors to match by name, in the place of the concept's."""

    def __post_init__(self) -> None:
        if self.vectors < 1:
            raise BadInput(f"`vectors` must be at least 1; not {self.vectors}.")

    def unlearn(self, lm: LM, concept: Concept, retain: Sequence[str], *, seed: int = 0) -> Revision:
        """Zeros in the place of the matched vectors, drawn by `seed` from the `NEAREST` of nearest norm."""
        own = self._matched(lm, concept)
        drawn: list[Vector] = []
        for vector in own:
            norms = value_vectors(lm, vector.layer).norm(dim=1)
            order = (norms - norms[vector.index]).abs().argsort().tolist()
            free = [
                one for one in (Vector(vector.layer, index) for index in order) if one not in own and one not in drawn
            ]
            near = free[:NEAREST]
            if not near:
                raise BadInput(
                    f"layer {vector.layer} has {lm.spec.d_mlp} value vectors, too few to set {len(own)} against as many others. "
                    "Take fewer."
                )
            drawn.append(near[int(numpy_generator(seed, "matched ablation", vector).integers(len(near)))])
        return Revision(scaled(lm, drawn, 0.0), {"method": self.name, "vectors": [str(vector) for vector in drawn]})

    def _matched(self, lm: LM, concept: Concept) -> list[Vector]:
        if self.named:
            return list(check_vectors(lm, self.named))
        return [vector for vector, _ in vectors_of(lm, concept, self.vectors)]
