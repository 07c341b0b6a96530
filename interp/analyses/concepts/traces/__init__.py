"""What is left of a concept after a change: its traces in the parameters, and what the model answers."""

from .comparison import Traces, compare
from .settings import Material, Settings
from .snapshot import Snapshot, fixed_unembedding, measure

__all__ = ["Material", "Settings", "Snapshot", "Traces", "compare", "fixed_unembedding", "measure"]
