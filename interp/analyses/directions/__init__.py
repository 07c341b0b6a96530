"""Concept directions: where a property of texts lies in the activations, how well it is read there, and what is left when it is erased."""

from .base import Direction, Gathered, fit_direction, fit_directions, gather

__all__ = ["Direction", "Gathered", "fit_direction", "fit_directions", "gather"]
