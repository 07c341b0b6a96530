"""Unlearning: methods that make a model forget, and what they leave behind."""

from .revision import Revision, Unlearner

__all__ = ["Revision", "Unlearner"]
