"""Synthetic worlds whose features are known: what a dictionary should have found can be said, and counted.

`FeatureWorld` is one space, `PairWorld` two models with known differences; `spread` and `lean` make the directions.
"""

from .directions import lean, overlap, spread
from .pair import PairWorld
from .world import FeatureWorld

__all__ = ["FeatureWorld", "PairWorld", "lean", "overlap", "spread"]
