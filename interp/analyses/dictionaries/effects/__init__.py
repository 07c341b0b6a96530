"""Latents put to use: edits that ablate, clamp and steer them, and what they do to predictions beside their controls."""

from .editing import ablate, clamp, steer
from .effect import LatentEffect
from .result import LatentEffectResult

__all__ = ["LatentEffect", "LatentEffectResult", "ablate", "clamp", "steer"]
