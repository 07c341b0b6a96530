"""interp: look inside transformer checkpoints.

The public names below are loaded when first used, so that `import interp` costs next to nothing.
"""

import importlib
from typing import Any

__version__ = "0.1.0"
__all__: list[str] = []


def __getattr__(name: str) -> Any:
    raise AttributeError(f"module 'interp' has no attribute {name!r}")
