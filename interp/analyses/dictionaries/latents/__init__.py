"""Latents as evidence: where they fire, what they write, what is near them, and which of them fire on a word."""

from .latents import Latents
from .result import LatentsResult

__all__ = ["Latents", "LatentsResult"]
