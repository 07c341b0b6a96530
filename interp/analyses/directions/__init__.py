"""Concept directions: where a property of texts lies in the activations, how well it is read there, and what is left when it is erased."""

from .base import Direction, Gathered, fit_direction, fit_directions, gather
from .erasers import Eraser, fit_eraser, leace
from .erasure import ConceptErasure
from .erasure_result import ConceptErasureResult
from .probes import ConceptDirections
from .result import ConceptDirectionsResult

__all__ = [
    "ConceptDirections", "ConceptDirectionsResult", "ConceptErasure", "ConceptErasureResult", "Direction", "Eraser", "Gathered",
    "fit_direction", "fit_directions", "fit_eraser", "gather", "leace",
]  # fmt: skip
