"""The laundry list: how many things a model keeps apart, untouched and steered."""

from .laundry import LaundryList
from .result import LaundryResult

__all__ = ["LaundryList", "LaundryResult"]
