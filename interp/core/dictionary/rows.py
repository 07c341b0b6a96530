"""The rows that a dictionary is given: one tensor, or one a view; everything that does not fit is refused by name."""

from collections.abc import Mapping, Sequence

from torch import Tensor

from ..errors import BadInput
from .config import View

Activations = Tensor | Mapping[str, Tensor]
"""[..., d] of the one view; {view: [..., d]}, or [..., view, d] where widths agree, of several."""


def by_view(x: Activations, views: Sequence[View]) -> dict[str, Tensor]:
    """{view: [..., d]} of these views. Raises `BadInput` for views that are missing, other widths, and different numbers of rows."""
    names = [view.name for view in views]
    if isinstance(x, Tensor):
        if len(views) == 1:
            x = {names[0]: x}
        elif x.ndim >= 2 and x.shape[-2] == len(views):
            x = dict(zip(names, x.unbind(-2), strict=True))
        else:
            raise BadInput(
                f"this dictionary reads {names}: give a mapping of these, or [..., {len(views)}, d]; not {list(x.shape)}."
            )
    if absent := [name for name in names if name not in x]:
        raise BadInput(f"the views {absent} are missing; given are {list(x)}.")
    for view in views:
        if x[view.name].shape[-1] != view.width:
            raise BadInput(
                f"view {view.name!r} ({view.site or 'no site'}) has width {view.width}; the rows given have "
                f"{x[view.name].shape[-1]}. Is this the right model and site?"
            )
    if len({x[name].shape[:-1] for name in names}) > 1:
        shapes = {name: list(x[name].shape) for name in names}
        raise BadInput(f"the views have rows of different numbers, {shapes}. Give the same tokens for each.")
    return {name: x[name] for name in names}


def finite(rows: dict[str, Tensor]) -> dict[str, Tensor]:
    """The same rows. Raises `BadInput` where they are not finite: NaN exceeds no threshold, so most rules would give it codes of zero."""
    for name, part in rows.items():
        if not bool(part.isfinite().all()):
            raise BadInput(
                f"the rows of view {name!r} hold NaN or infinite values, which have no codes. Look for a broken checkpoint, or a dtype "
                "that overflows (float16)."
            )
    return rows
