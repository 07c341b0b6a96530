"""Concepts in parameters: value vectors that hold them, where they fire, what they cause, and what is left of them after a change."""

from .vectors import Vector, check_vectors, replaced, scaled, value_vectors, vectors_of

__all__ = ["Vector", "check_vectors", "replaced", "scaled", "value_vectors", "vectors_of"]
