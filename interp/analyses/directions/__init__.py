"""Concept directions: where a property of texts lies in the activations, how well it is read there, and what is left when it is erased."""

from .base import Direction, Gathered, fit_direction, fit_directions, gather
from .probes import ConceptDirections
from .result import ConceptDirectionsResult

__all__ = [
    "ConceptDirections", "ConceptDirectionsResult", "Direction", "Gathered", "fit_direction", "fit_directions", "gather",
]  # fmt: skip
