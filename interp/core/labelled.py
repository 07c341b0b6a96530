"""Labelled arrays, taken apart into plain tensors and JSON for the disk, put together again, and laid out as a table.

Numbers become tensors of the very same dtype; strings, and objects made of JSON scalars, become lists. Everything else is refused by
name, so that nothing can come back as something else.
"""

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from .errors import ArtifactError, BadInput

if TYPE_CHECKING:
    import pandas as pd

NUMERIC = {
    "bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "float16", "float32", "float64",
}  # fmt: skip


def pack(data: xr.Dataset) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Arrays by name, and the JSON structure that `unpack` needs. Raises `BadInput` for a variable that cannot be kept exactly."""
    arrays: dict[str, np.ndarray] = {}
    structure: dict[str, Any] = {"attrs": _attrs(data.attrs, "the data"), "variables": {}}
    for name, variable in data.variables.items():
        if not isinstance(name, str):
            raise BadInput(f"the variable {name!r} must be named by a string to be saved. Rename it.")
        values = np.asarray(variable.values)
        entry = {
            "dims": [str(dim) for dim in variable.dims], "shape": list(values.shape), "coord": name in data.coords,
            "dtype": str(values.dtype), "attrs": _attrs(variable.attrs, name),
        }  # fmt: skip
        if name in data.indexes and data.indexes[name].nlevels > 1:
            raise BadInput(f"{name!r} is a multi-index, which cannot be saved. Use `reset_index({name!r})` first.")
        if values.dtype.name in NUMERIC:
            arrays[name] = np.asarray(values, dtype=values.dtype.newbyteorder("="), order="C")
            entry["dtype"] = arrays[name].dtype.name
        elif values.dtype.kind in "UOT":
            entry["dtype"] = str(values.dtype) if values.dtype.kind == "U" else "object"
            entry["values"] = [_scalar(item, name) for item in values.ravel().tolist()]
        else:
            raise BadInput(
                f"{name!r} has dtype {values.dtype}, which cannot be saved exactly. Convert it to numbers or strings."
            )
        structure["variables"][name] = entry
    return arrays, structure


def unpack(arrays: Mapping[str, np.ndarray], structure: Mapping[str, Any]) -> xr.Dataset:
    """The dataset again. Raises `ArtifactError` where arrays and structure disagree."""
    parts: dict[bool, dict[str, xr.Variable]] = {True: {}, False: {}}
    variables = structure["variables"]
    if extra := sorted(set(arrays) - set(variables)):
        raise ArtifactError(f"the arrays {extra} are not described by the artefact. It was altered; make it anew.")
    for name, entry in variables.items():
        if "values" in entry:
            values = np.empty(math.prod(entry["shape"]), dtype=entry["dtype"])
            values[:] = entry["values"]
            values = values.reshape(entry["shape"])
        elif name not in arrays:
            raise ArtifactError(f"the array {name!r} is missing from the artefact. Make it anew.")
        else:
            values = arrays[name]
        if list(values.shape) != entry["shape"] or str(values.dtype) != entry["dtype"]:
            raise ArtifactError(
                f"the array {name!r} is {values.dtype} {list(values.shape)}, but the artefact says {entry['dtype']} {entry['shape']}."
            )
        parts[entry["coord"]][name] = xr.Variable(entry["dims"], values, entry["attrs"])
    return xr.Dataset(parts[False], coords=parts[True], attrs=structure["attrs"])


def to_frame(data: xr.Dataset, main: str) -> "pd.DataFrame":
    """A row for each cell of `main`, with the variables and labels whose axes are among its own. All-NaN cells are left out."""
    import pandas as pd

    dims = data[main].dims
    keep = [name for name, values in data.data_vars.items() if set(values.dims) <= set(dims)]
    if not dims:
        return pd.DataFrame([{str(name): data[name].item() for name in keep}])
    labels = {name: coord for name, coord in data.coords.items() if set(coord.dims) <= set(dims)}
    part = xr.Dataset({name: data[name] for name in keep}).assign_coords(labels)
    frame = part.to_dataframe(dim_order=list(dims)).reset_index()
    cells = [str(name) for name in keep if set(data[name].dims) == set(dims) and data[name].dtype.kind == "f"]
    if cells and all(data[name].dtype.kind == "f" for name in keep if set(data[name].dims) == set(dims)):
        frame = frame[~frame[cells].isna().all(axis=1)].reset_index(drop=True)
    return frame


def _attrs(attrs: Mapping[Any, Any], name: str) -> dict[str, Any]:
    return {str(key): _json(value, f"the attribute {key!r} of {name}") for key, value in attrs.items()}


def _json(value: Any, name: str) -> Any:
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, Mapping):
        return {str(key): _json(item, name) for key, item in value.items()}
    if isinstance(value, list | tuple | np.ndarray):
        return [_json(item, name) for item in value]
    return _scalar(value, name)


def _scalar(value: Any, name: str) -> Any:
    if value is None or isinstance(value, str | bool | int | float):
        return value
    raise BadInput(f"{name} holds a {type(value).__name__}, which cannot be saved exactly. Use strings or numbers.")
