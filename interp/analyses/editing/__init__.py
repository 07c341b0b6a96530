"""Editing facts in the weights: editors, the five editing problems, and their scores."""

from .editors import Editor, Request, WeightChange, check_editable
from .finetune import HASE_FT, FineTuning
from .memit import MEMIT, Ridge
from .moments import SecondMoments, second_moments
from .problems import PROBLEMS, Problem, Requests, requests_for
from .rome import ROME
from .scores import EditScores, Measured, Probe, edit_scores, measure, overall, probe

__all__ = [
    "HASE_FT",
    "MEMIT",
    "PROBLEMS",
    "ROME",
    "EditScores",
    "Editor",
    "FineTuning",
    "Measured",
    "Probe",
    "Problem",
    "Request",
    "Requests",
    "Ridge",
    "SecondMoments",
    "WeightChange",
    "check_editable",
    "edit_scores",
    "measure",
    "overall",
    "probe",
    "requests_for",
    "second_moments",
]
