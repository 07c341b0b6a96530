"""Dictionaries: sparse coders over one or several views of activations (SAEs, transcoders, crosscoders) as objects.

`config` says what one is, `coder` encodes and decodes, `codes` are its sparse codes, `scaling` how rows are normalised, `fold` makes it
take raw rows, `saved` keeps it on disk, `kernels` are the exact selections and sparse products. Learning one is `interp.train`.
"""

from .coder import Dictionary
from .codes import Codes
from .config import DictionaryConfig, View
from .scaling import Scaling

__all__ = ["Codes", "Dictionary", "DictionaryConfig", "Scaling", "View"]
