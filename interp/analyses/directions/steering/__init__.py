"""Steering: add a concept's direction to the activations, and see what the model says and what else changes."""

from .result import ConceptSteeringResult
from .steer import ConceptSteering

__all__ = ["ConceptSteering", "ConceptSteeringResult"]
