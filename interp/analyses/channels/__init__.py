"""Channels: which component of which head's write is read by which later head."""

from .attention import Observed, Observer, PromptGroup, Readout, head_attention, metrics_of, prompt_groups, rank_readers
from .component import Component, Head
from .decompose import Components, One, decompose, single, subspace
from .factors import Factors, Reader, Setting, free, ov, qk, reader

__all__ = [
    "Component",
    "Components",
    "Factors",
    "Head",
    "Observed",
    "Observer",
    "One",
    "PromptGroup",
    "Reader",
    "Readout",
    "Setting",
    "decompose",
    "free",
    "head_attention",
    "metrics_of",
    "ov",
    "prompt_groups",
    "qk",
    "rank_readers",
    "reader",
    "single",
    "subspace",
]
