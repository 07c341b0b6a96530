"""Training with several processes: cut by rows (data parallel), by latents, or by both. See `parallel`, `slices` and `files`."""

from .combine import combine
from .files import read, write
from .parallel import Cut, Parallel, RowCut
from .ranks import Ranks
from .sliced import Sliced
from .slices import Piece, Slices

__all__ = ["Cut", "Parallel", "Piece", "Ranks", "RowCut", "Sliced", "Slices", "combine", "read", "write"]
