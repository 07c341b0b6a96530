"""One shard: a safetensors file with the rows of some documents, written front to back.

    rows     [row, ...]    in the stored dtype, contiguous, beginning on a page
    pad      [byte]        0 to 7 bytes, so that what follows is aligned
    sum, squares [...]     running sums of these rows, float64

Any safetensors reader opens it. We know where everything is and map the file (`arena`): reading rows is then as fast as reading
memory, which the library's own slices are not, and bfloat16 needs no detour. Sizes are compared at every access; the checksum of a shard
when this process first reads it (`verify="first"`), at every access ("always") or never.
"""

import json
import os
import struct
from functools import lru_cache
from pathlib import Path
from typing import Literal

import numpy as np
import torch
import xxhash
from torch import Tensor

from .arena import PAGE, Arena
from .disk import damaged
from .key import DTYPES
from .layout import Entry, Record
from .moments import Moments

Verify = Literal["first", "always", "never"]
_verified: set[tuple[str, int, int, int]] = set()


@lru_cache(maxsize=256)
def header(rows: int, shape: tuple[int, ...], dtype: str) -> bytes:
    """The head of a shard, padded so that rows begin on a page."""
    size, pad, sums = _parts(rows, shape, dtype)
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
    text += b" " * (-(8 + len(text)) % PAGE)
    return struct.pack("<Q", len(text)) + text


def file_bytes(rows: int, shape: tuple[int, ...], dtype: str) -> int:
    """Size of a shard on disk."""
    size, pad, sums = _parts(rows, shape, dtype)
    return len(header(rows, shape, dtype)) + size + pad + 2 * sums


def _parts(rows: int, shape: tuple[int, ...], dtype: str) -> tuple[int, int, int]:
    """Bytes of the rows, of the padding, of one sum."""
    width = int(np.prod(shape, dtype=np.int64))
    size = rows * width * DTYPES[dtype][1].itemsize
    return size, -size % 8, width * 8


def raw(rows: Tensor) -> np.ndarray:
    """A CPU tensor as numpy, bfloat16 as its bits in uint16."""
    rows = rows.contiguous()
    return rows.view(torch.int16).numpy().view(np.uint16) if rows.dtype == torch.bfloat16 else rows.numpy()


class Shards:
    """The shards of a site, mapped as one tensor. A shard is checked when it is first used."""

    def __init__(self, entry: Entry, verify: Verify) -> None:
        self.entry, self.verify = entry, verify
        rows = [entry.group.plan.rows(index) for index in range(len(entry.group.plan))]
        heads = [len(header(count, entry.shape, entry.dtype)) for count in rows]
        sizes = [file_bytes(count, entry.shape, entry.dtype) for count in rows]
        self.arena = Arena(sizes, heads, entry.row_bytes)
        self.rows = self.arena.rows(DTYPES[entry.dtype][1], entry.shape)
        self._mapped: dict[int, tuple[str, int, int, int]] = {}

    def place(self, record: Record) -> int:
        """Where in `rows` a shard begins, now that it is there to be read. Raises `CorruptShard`."""
        index, path = record.index, self.entry.shard(record.index)
        status = check_size(self.entry, record)
        if record.bytes != self.arena.sizes[index]:
            raise damaged(path, f"{record.bytes:,} bytes are not what its rows take")
        identity = (str(path), status.st_ino, status.st_mtime_ns, status.st_size)
        if self._mapped.get(index) != identity:
            self.arena.put(index, path)
            self._mapped[index] = identity
        if self.verify == "always" or (self.verify == "first" and identity not in _verified):
            if xxhash.xxh3_128_hexdigest(self.arena.file(index).data) != record.xxh3:
                raise damaged(path, "its checksum does not match")
            _verified.add(identity)
        return int(self.arena.first[index])


def moments_of(entry: Entry, record: Record) -> Moments:
    """The running sums of a shard, checked by their own checksum (the rows are not read)."""
    check_size(entry, record)
    path, length = entry.shard(record.index), 2 * _parts(record.rows, entry.shape, entry.dtype)[2]
    with path.open("rb") as file:
        file.seek(record.bytes - length)
        tail = file.read(length)
    if xxhash.xxh3_128_hexdigest(tail) != record.sums:
        raise damaged(path, "the checksum of its sums does not match")
    total, squares = np.frombuffer(tail).reshape(2, *entry.shape)
    return Moments(record.rows, total, squares)


def check_size(entry: Entry, record: Record) -> os.stat_result:
    """Compare a shard's size with its record. Raises `CorruptShard`."""
    path = entry.shard(record.index)
    try:
        status = path.stat()
    except FileNotFoundError as error:
        raise damaged(path, "it is missing") from error
    if status.st_size != record.bytes:
        raise damaged(path, f"it has {status.st_size:,} bytes instead of {record.bytes:,}")
    return status


def check(entry: Entry, record: Record) -> None:
    """Read a shard and compare its size and checksum with its record. Raises `CorruptShard`."""
    check_size(entry, record)
    path: Path = entry.shard(record.index)
    content = xxhash.xxh3_128()
    with path.open("rb") as file:
        while block := file.read(1 << 22):
            content.update(block)
    if content.hexdigest() != record.xxh3:
        raise damaged(path, "its checksum does not match")
