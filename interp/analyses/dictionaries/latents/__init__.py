"""Latents as evidence: where they fire, what they write, what is near them, and which of them fire on a word."""

from .latents import Latents
from .neuronpedia import export_neuronpedia
from .result import LatentsResult

__all__ = ["Latents", "LatentsResult", "export_neuronpedia"]
