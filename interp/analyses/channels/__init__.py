"""Channels: which component of which head's write is read by which later head."""

from .component import Component, Head
from .decompose import Components, One, decompose, single, subspace
from .factors import Factors, Reader, Setting, free, ov, qk, reader

__all__ = [
    "Component",
    "Components",
    "Factors",
    "Head",
    "One",
    "Reader",
    "Setting",
    "decompose",
    "free",
    "ov",
    "qk",
    "reader",
    "single",
    "subspace",
]
