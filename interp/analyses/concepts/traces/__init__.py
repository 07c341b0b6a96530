"""What is left of a concept after a change: its traces in the parameters, and what the model answers."""

from .comparison import Traces, compare
from .evaluate import UnlearningEvaluation
from .result import UnlearningResult
from .settings import Material, Settings
from .snapshot import Snapshot, fixed_unembedding, measure

__all__ = [
    "Material",
    "Settings",
    "Snapshot",
    "Traces",
    "UnlearningEvaluation",
    "UnlearningResult",
    "compare",
    "fixed_unembedding",
    "measure",
]
