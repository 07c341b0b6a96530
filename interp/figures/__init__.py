"""What you look at. The only room that imports plotly.

A figure is a function of a result that returns a `plotly.graph_objects.Figure` and never shows it; it computes nothing. One figure
family a file, found by name: a result whose `figure` is "tracing" is drawn by `interp.figures.tracing.plot(result, **options)`.
Every family takes `theme="screen"` or `theme="paper"`, the same data in both.

    trace.plot()                                                            # the family that belongs to a result
    interp.figures.depth.plot({"lens": lens, "tracing": trace})             # several results over one depth axis
    interp.figures.save(trace.plot(theme="paper", venue="icml-page"), "trace.pdf")
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from . import depth as depth
    from . import export as export
    from .export import save as save

_MODULES = (
    "channel_ablation",
    "channel_flow",
    "channel_map",
    "channel_patching",
    "channel_steering",
    "channel_use",
    "channel_words",
    "channels",
    "circuits",
    "depth",
    "export",
    "heads",
    "laundry",
    "lens",
    "localization",
    "loss",
    "patching",
    "paths",
    "scenarios",
    "sequence",
    "shares",
    "theme",
    "tracing",
    "unlearning_evaluation",
    "weight_stats",
)

__all__ = [*_MODULES, "save"]


def __getattr__(name: str) -> Any:
    if name == "save":
        return importlib.import_module("interp.figures.export").save
    if name in _MODULES:
        return importlib.import_module(f"interp.figures.{name}")
    from interp.core.errors import hint

    raise AttributeError(f"module 'interp.figures' has no attribute {name!r}.{hint(name, __all__)}")
