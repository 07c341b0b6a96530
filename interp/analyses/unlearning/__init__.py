"""Unlearning: methods that make a model forget, and what they leave behind."""

from .methods import METHODS, method
from .revision import Revision, Unlearner

__all__ = ["METHODS", "Revision", "Unlearner", "method"]
