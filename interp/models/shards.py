"""safetensors files, looked at from outside: are all the bytes there that the header promises?

A safetensors file is eight bytes (the header's length), the header (JSON: name, dtype, shape, byte range of every tensor), and the
bytes. A copy that was interrupted leaves a valid header and too few bytes; this reads headers only, so checking a model of any
size costs milliseconds.
"""

import json
from pathlib import Path
from typing import Any

from interp.core.errors import CheckpointError, listing

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
_SIZES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1}
_NAMES = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}
_AGAIN = "Copy or fetch the file again."


def header(file: Path, name: str) -> dict[str, Any]:
    """The header of a safetensors file. Raises `CheckpointError` where there is none."""
    size = file.stat().st_size
    with file.open("rb") as stream:
        start = stream.read(8)
        if start.startswith(b"version "):
            raise CheckpointError(
                f"{name}: {file.name} is a Git LFS pointer, not the weights. Run `git lfs pull` in the folder."
            )
        length = int.from_bytes(start, "little")
        if len(start) < 8 or length > size - 8:
            raise CheckpointError(
                f"{name}: {file.name} ends inside its header ({size:,} bytes), or is no safetensors. {_AGAIN}"
            )
        try:
            content = json.loads(stream.read(length))
        except (UnicodeDecodeError, json.JSONDecodeError):
            raise CheckpointError(f"{name}: the header of {file.name} is damaged. {_AGAIN}") from None
    if not isinstance(content, dict):
        raise CheckpointError(f"{name}: the header of {file.name} is damaged. {_AGAIN}")
    content.pop("__metadata__", None)
    return content


def check(file: Path, name: str) -> None:
    """Check that a file holds exactly the bytes that its header promises."""
    entries = header(file, name)
    if not entries:
        raise CheckpointError(f"{name}: {file.name} holds no tensors. {_AGAIN}")
    end = 0
    for key, entry in entries.items():
        try:
            (low, high), shape, dtype = entry["data_offsets"], entry["shape"], entry["dtype"]
            count = 1
            for axis in shape:
                count *= int(axis)
            wrong = dtype in _SIZES and high - low != count * _SIZES[dtype]
        except (KeyError, TypeError, ValueError):
            raise CheckpointError(f"{name}: the header of {file.name} is damaged at {key!r}. {_AGAIN}") from None
        if wrong or low < 0:
            raise CheckpointError(
                f"{name}: {file.name} gives {key!r} {high - low} bytes for {shape} of {dtype}. {_AGAIN}"
            )
        end = max(end, high)
    with file.open("rb") as stream:
        start = 8 + int.from_bytes(stream.read(8), "little")
    have = file.stat().st_size - start
    if have != end:
        what = "is cut short" if have < end else "has bytes that its header does not know"
        raise CheckpointError(f"{name}: {file.name} {what}: {have:,} of {end:,} bytes of weights. {_AGAIN}")


def coded(file: Path, name: str) -> dict[str, str]:
    """Names of a file's tensors that are no ordinary floating-point numbers, with their dtype: integers and 8 bits.

    Truth values and 64-bit integers count as weights by that name only: no format codes numbers so, and buffers (masks, positions) are.
    """
    stored = {key: str(entry.get("dtype")) for key, entry in header(file, name).items()}
    plain = {key for key, dtype in stored.items() if dtype in ("BOOL", "I64") and not key.endswith("weight")}
    return {key: dtype for key, dtype in stored.items() if dtype not in _NAMES and key not in plain}


def dtype_of(file: Path, name: str) -> str:
    """torch's name of the first floating-point dtype in a file."""
    kinds = [entry.get("dtype") for entry in header(file, name).values()]
    known = [_NAMES[kind] for kind in kinds if kind in _NAMES]
    if not known:
        what = listing(sorted({str(kind) for kind in kinds}))
        raise CheckpointError(f"{name}: {file.name} holds {what} weights, which are not supported. Save it in float32.")
    return known[0]


def _map(index: Path, name: str) -> dict[str, str]:
    try:
        table = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        return {str(key): str(value) for key, value in table.items()}
    except (UnicodeDecodeError, json.JSONDecodeError, KeyError, TypeError, AttributeError):
        raise CheckpointError(f"{name}: {index.name} is damaged. {_AGAIN}") from None


def indexed(index: Path, name: str) -> list[Path]:
    """The shards that an index names, all of them there."""
    files = [index.parent / file for file in sorted(set(_map(index, name).values()))]
    absent = [file.name for file in files if not file.is_file()]
    if absent or not files:
        missing = listing(absent[:5]) if absent else "all"
        raise CheckpointError(f"{name}: {len(absent)} of {len(files)} shards missing: {missing}. Copy or fetch them.")
    return files


def check_index(index: Path, name: str) -> None:
    """Check that every tensor lies in the shard that the index says."""
    table = _map(index, name)
    have = {file: set(header(index.parent / file, name)) for file in sorted(set(table.values()))}
    lost = [key for key, file in table.items() if key not in have[file]]
    if lost:
        raise CheckpointError(
            f"{name}: {len(lost)} tensors that {index.name} promises are missing, first {lost[0]!r} in {table[lost[0]]}. {_AGAIN}"
        )
