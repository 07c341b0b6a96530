"""The shapes that cross public borders, by name.

They are checked under pytest only (`tests/typecheck.py`); in ordinary use they cost nothing.
"""

from typing import TypeAlias

from jaxtyping import Bool, Float, Int
from torch import Tensor

Tokens: TypeAlias = Int[Tensor, "batch pos"]
Mask: TypeAlias = Bool[Tensor, "batch pos"]
Resid: TypeAlias = Float[Tensor, "batch pos d_model"]
Heads: TypeAlias = Float[Tensor, "batch pos head d_head"]
Pattern: TypeAlias = Float[Tensor, "batch head query key"]
Logits: TypeAlias = Float[Tensor, "batch pos vocab"]

__all__ = ["Bool", "Float", "Heads", "Int", "Logits", "Mask", "Pattern", "Resid", "Tensor", "Tokens"]
