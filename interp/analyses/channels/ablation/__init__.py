"""Closing channels: components of a head scaled or removed, in the weights or in a run, and what the reader does then."""

from .ablate import ComponentAblation
from .editing import Removal, component_edit, edit_components, removals, removing
from .result import ComponentAblationResult

__all__ = [
    "ComponentAblation",
    "ComponentAblationResult",
    "Removal",
    "component_edit",
    "edit_components",
    "removals",
    "removing",
]
