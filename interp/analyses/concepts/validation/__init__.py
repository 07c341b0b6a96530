"""Validation."""

from .result import ConceptValidationResult
from .validate import ConceptValidation

__all__ = ["ConceptValidation", "ConceptValidationResult"]
