"""Synthetic worlds whose features are known: what a dictionary should have found can be said, and counted.

`spread` and `lean` make the directions.
"""

from .directions import lean, overlap, spread

__all__ = ["lean", "overlap", "spread"]
