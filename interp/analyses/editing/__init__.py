"""Editing facts in the weights: editors, the five editing problems, and their scores."""

from .editors import Editor, Request, WeightChange, check_editable
from .moments import SecondMoments, second_moments

__all__ = ["Editor", "Request", "SecondMoments", "WeightChange", "check_editable", "second_moments"]
