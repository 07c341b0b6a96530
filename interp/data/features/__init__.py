"""Synthetic worlds whose features are known: what a dictionary should have found can be said, and counted.

`FeatureWorld` is one space; `spread` and `lean` make the directions.
"""

from .directions import lean, overlap, spread
from .world import FeatureWorld

__all__ = ["FeatureWorld", "lean", "overlap", "spread"]
