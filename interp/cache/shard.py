"""One shard: a safetensors file with the rows of some documents, written front to back and read through a memory map.

    rows     [row, ...]    in the stored dtype, contiguous
    pad      [byte]        0 to 7 bytes, so that what follows is aligned
    sum, squares [...]     running sums of these rows, float64

Any safetensors reader opens it. We parse the header ourselves and map the file: reading rows is then as fast as reading memory, which
the library's own slices are not, and bfloat16 needs no detour. Sizes are compared at every access, the checksum of a shard when
this process first reads it (`verify="first"`), every time ("always") or never.
"""

import json
import mmap
import os
import struct
from functools import lru_cache
from pathlib import Path
from typing import Literal

import numpy as np
import torch
import xxhash
from torch import Tensor

from .disk import damaged
from .key import DTYPES
from .layout import Entry, Record
from .moments import Moments

Verify = Literal["first", "always", "never"]
OPEN_SHARDS = 128
"""Maps kept open in this process; each holds a file descriptor."""
_verified: set[tuple[str, int, int, int]] = set()


@lru_cache(maxsize=256)
def header(rows: int, shape: tuple[int, ...], dtype: str) -> bytes:
    """The head of a shard, padded so that rows begin on a 64-byte boundary."""
    size = rows * int(np.prod(shape, dtype=np.int64)) * DTYPES[dtype][1].itemsize
    pad = -size % 8
    sums = int(np.prod(shape, dtype=np.int64)) * 8
    fields: dict[str, dict[str, object]] = {}
    start = 0
    for name, code, dims, length in (
        ("rows", DTYPES[dtype][0], [rows, *shape], size),
        ("pad", "U8", [pad], pad),
        ("sum", "F64", list(shape), sums),
        ("squares", "F64", list(shape), sums),
    ):
        if length:
            fields[name] = {"dtype": code, "shape": dims, "data_offsets": [start, start + length]}
        start += length
    text = json.dumps(fields, separators=(",", ":")).encode()
    text += b" " * (-(8 + len(text)) % 64)
    return struct.pack("<Q", len(text)) + text


def raw(rows: Tensor) -> np.ndarray:
    """A CPU tensor as numpy, bfloat16 as its bits in uint16."""
    rows = rows.contiguous()
    return rows.view(torch.int16).numpy().view(np.uint16) if rows.dtype == torch.bfloat16 else rows.numpy()


def rows_of(entry: Entry, record: Record, verify: Verify = "first") -> Tensor:
    """The rows of a shard [row, ...], mapped, not read. Do not write to them. Raises `CorruptShard`."""
    path, _, data = _open(entry, record, verify)
    dtype = DTYPES[entry.dtype][1]
    count = record.rows * entry.row_bytes // dtype.itemsize
    start = len(header(record.rows, entry.shape, entry.dtype))
    if data[:start] != header(record.rows, entry.shape, entry.dtype):
        raise damaged(path, "its header is not that of the rows that were asked for")
    return torch.frombuffer(data, dtype=dtype, count=count, offset=start).view(record.rows, *entry.shape)


def moments_of(entry: Entry, record: Record) -> Moments:
    """The running sums of a shard, checked by their own checksum (the rows are not read)."""
    path, size, data = _open(entry, record, "never")
    length = int(np.prod(entry.shape, dtype=np.int64)) * 8
    tail = data[size - 2 * length : size]
    if xxhash.xxh3_128_hexdigest(tail) != record.sums:
        raise damaged(path, "the checksum of its sums does not match")
    total, squares = np.frombuffer(tail).reshape(2, *entry.shape)
    return Moments(record.rows, total, squares)


def check_size(entry: Entry, record: Record) -> None:
    """Compare a shard's size with its record. Raises `CorruptShard`."""
    _status(entry.shard(record.index), record)


def check(entry: Entry, record: Record) -> None:
    """Compare a shard's size and checksum with its record. Raises `CorruptShard`."""
    _open(entry, record, "always")


def _open(entry: Entry, record: Record, verify: Verify) -> tuple[Path, int, mmap.mmap]:
    path = entry.shard(record.index)
    status = _status(path, record)
    identity = (str(path), status.st_ino, status.st_mtime_ns, status.st_size)
    data = _map(*identity)
    if verify == "always" or (verify == "first" and identity not in _verified):
        if xxhash.xxh3_128_hexdigest(data) != record.xxh3:
            raise damaged(path, "its checksum does not match")
        _verified.add(identity)
    return path, record.bytes, data


def _status(path: Path, record: Record) -> os.stat_result:
    try:
        status = path.stat()
    except FileNotFoundError as error:
        raise damaged(path, "it is missing") from error
    if status.st_size != record.bytes:
        raise damaged(path, f"it has {status.st_size:,} bytes instead of {record.bytes:,}")
    return status


@lru_cache(maxsize=OPEN_SHARDS)
def _map(path: str, inode: int, changed: int, size: int) -> mmap.mmap:
    """A private map: writable for torch's sake, but never written back. Identity is in the arguments, so a replaced file is mapped anew."""
    with Path(path).open("rb") as file:
        return mmap.mmap(file.fileno(), size, access=mmap.ACCESS_COPY)
