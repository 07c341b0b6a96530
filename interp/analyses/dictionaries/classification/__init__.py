"""Latents as features of a classifier, beside fair baselines."""

from .classify import LatentClassification
from .result import LatentClassificationResult

__all__ = ["LatentClassification", "LatentClassificationResult"]
