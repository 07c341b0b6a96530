"""Content hashes of whatever goes into a method, and its options as plain values that may be published.

A thing that knows its own content says so by `digest()` (batches, prompts, corpora) or `fingerprint()` (models). Everything else is
hashed by type and content, recursively. What has no content that could be named (functions, generators, bare objects) is refused:
a digest that could miss a change is worse than none.
"""

import hashlib
import math
import re
from collections.abc import Mapping, Set
from dataclasses import fields, is_dataclass
from datetime import datetime
from enum import Enum
from pathlib import Path, PurePath, PureWindowsPath
from typing import Any

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from .batch import Batch
from .errors import BadInput


def digest_of(thing: Any) -> str:
    """Content hash (32 hex digits) of whatever is given to a method: its own `.digest()`, else that of its contents."""
    if not isinstance(thing, Batch | type):
        own = getattr(thing, "digest", None) or getattr(thing, "fingerprint", None)
        if own is not None:
            return str(own() if callable(own) else own)
    content = hashlib.sha256()
    _feed(content, thing)
    return content.hexdigest()[:32]


def _feed(content: Any, thing: Any) -> None:
    match thing:
        case None | bool() | int() | float() | str() | bytes():
            content.update(f"{type(thing).__name__}:{thing!r};".encode())
        case Tensor() | np.ndarray() | np.generic():
            _feed_array(content, thing)
        case Batch():  # its own digest leaves out the spans, which methods read
            _feed(content, [thing.digest(), thing.ids, dict(thing.spans)])
        case Path():
            if not thing.is_file():
                raise BadInput(
                    f"{thing.name!r} is not a file, so what it contains cannot be recorded. Pass a file or the data."
                )
            content.update(thing.read_bytes())
        case Mapping():
            content.update(b"{")
            for key in sorted(thing, key=str):
                _feed(content, str(key))
                _child(content, thing[key])
            content.update(b"}")
        case list() | tuple():
            content.update(b"[")
            for item in thing:
                _child(content, item)
            content.update(b"]")
        case Set():
            _feed(content, sorted(digest_of(item) for item in thing))
        case _ if is_dataclass(thing) and not isinstance(thing, type):
            content.update(type(thing).__name__.encode())
            _feed(content, {entry.name: getattr(thing, entry.name) for entry in fields(thing)})
        case xr.Dataset() | xr.DataArray():
            named = thing.to_dataset(name="values") if isinstance(thing, xr.DataArray) else thing
            for name, variable in named.variables.items():
                _feed(content, [str(name), name in named.coords, list(map(str, variable.dims)), variable.values])
        case Enum() | range() | complex() | datetime():
            content.update(f"{type(thing).__name__}:{thing!r};".encode())
        case _ if type(thing).__module__.startswith("pandas"):
            _feed(content, thing.to_xarray())
        case _:
            if callable(thing) or hasattr(thing, "__next__") or not hasattr(thing, "__dict__"):
                raise BadInput(
                    f"a {type(thing).__name__} has no content that can be recorded. Pass a list, or give it a `digest()` method."
                )
            content.update(type(thing).__name__.encode())
            _feed(content, vars(thing))


def _child(content: Any, thing: Any) -> None:
    own = None if isinstance(thing, Batch) else getattr(thing, "digest", None)
    _feed(content, digest_of(thing)) if callable(own) or isinstance(own, str) else _feed(content, thing)


def _feed_array(content: Any, array: "Tensor | np.ndarray | np.generic") -> None:
    content.update(f"{array.dtype}{tuple(array.shape)}".encode())
    if isinstance(array, Tensor):
        content.update(array.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    elif array.dtype.kind in "OUT":
        _feed(content, np.asarray(array).astype(object).ravel().tolist())
    else:
        content.update(np.asarray(array).tobytes())


def publishable(value: Any) -> Any:
    """The value as plain JSON: paths only by their last part, tensors by their digest, anything else by its text."""
    match value:
        case None | bool() | int():
            return value
        case float():
            return float(value) if math.isfinite(value) else str(float(value))
        case np.generic():
            return publishable(value.item())
        case Path():
            return value.name
        case str():
            return _without_folder(value)
        case Mapping():
            return {str(key): publishable(item) for key, item in value.items()}
        case list() | tuple():
            return [publishable(item) for item in value]
        case Set():
            return sorted((publishable(item) for item in value), key=str)
        case Tensor() | np.ndarray():
            return f"{type(value).__name__}{list(value.shape)} {digest_of(value)[:8]}"
        case _ if is_dataclass(value) and not isinstance(value, type) and type(value).__str__ is object.__str__:
            return {entry.name: publishable(getattr(value, entry.name)) for entry in fields(value)}
        case _:
            text = str(value)
            return type(value).__name__ if " at 0x" in text else _without_folder(text)


def _without_folder(text: str) -> str:
    """A machine path cut to its last part; any other text as it is."""
    windows = re.match(r"[A-Za-z]:[\\/]", text) is not None
    if "\n" in text or not (windows or re.match(r"(file:/|~?/[^/]+/)", text)):
        return text
    path: PurePath = PureWindowsPath(text) if windows else Path(text)
    return path.name or text
