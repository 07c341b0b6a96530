"""Shapes in annotations are checked in every test; everything else in an annotation is not.

Checking all types would refuse a wrong word or a wrong class before the workbench's own, named refusal does, and those are what users
meet. So annotations without a shape are taken as `Any` here.
"""

from collections.abc import Callable
from typing import Any, TypeVar, get_args

from beartype import beartype
from jaxtyping import AbstractArray

F = TypeVar("F", bound=Callable[..., Any])


def shapes(function: F) -> F:
    """`function`, whose arguments and results are checked where their annotation names a shape."""
    function.__annotations__ = {
        name: hint if _has_shape(hint) else Any for name, hint in function.__annotations__.items()
    }
    return beartype(function)


def _has_shape(hint: Any) -> bool:
    if isinstance(hint, type) and issubclass(hint, AbstractArray):
        return True
    return any(_has_shape(part) for part in get_args(hint))
