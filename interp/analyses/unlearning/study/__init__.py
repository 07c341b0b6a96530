"""The table of unlearning methods: what is left inside, what is left of the answers, and what comes back."""

from .controls import MatchedAblation, Untouched
from .result import UnlearningStudyResult
from .study import UnlearningStudy

__all__ = ["MatchedAblation", "UnlearningStudy", "UnlearningStudyResult", "Untouched"]
