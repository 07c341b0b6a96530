"""Training with several processes: cut by rows (data parallel), by latents, or by both. See `parallel`."""

from .parallel import Cut, Parallel, RowCut
from .ranks import Ranks

__all__ = ["Cut", "Parallel", "Ranks", "RowCut"]
