"""All shards of a site as one tensor: their files are mapped side by side into one stretch of address space.

Gathering random rows then is a single `index_select`, as fast as over one large memory map, however many shards there are (going shard
by shard and putting the pieces in order costs a second pass over memory, measured at half the speed). No file stays open.

A shard's rows begin a whole number of pages into its file, so its file can be placed such that they begin a whole number of rows into
the stretch. The gaps between are never touched. Row `r` of shard `k` is at place `first[k] + r` of `rows`.

Maps are private and writable (for torch's sake): what is written to them changes this process only. Without `mmap` of one's choosing
(Windows) the stretch is ordinary memory and a shard is read into it when first used.
"""

import ctypes
import math
import mmap
import os
import sys
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

PAGE = 16384
"""Rows begin a multiple of this into a file: whole pages on every common machine."""
_FIXED = 0x10
_SUPPORTED = sys.platform in ("linux", "darwin") and PAGE % mmap.PAGESIZE == 0


class Arena:
    """Room for files of `sizes` bytes, whose rows begin `heads` bytes in and are `row_bytes` long."""

    def __init__(self, sizes: Sequence[int], heads: Sequence[int], row_bytes: int) -> None:
        step = math.lcm(row_bytes, PAGE)
        self.starts: list[int] = []  # of each file, in bytes
        first, end = [], 0
        for size, head in zip(sizes, heads, strict=True):
            rows_at = -(-(end + head) // step) * step
            self.starts.append(rows_at - head)
            first.append(rows_at // row_bytes)
            end = rows_at - head + size
        self.first = np.array(first, dtype=np.int64)
        self.sizes = list(sizes)
        self._room = _reserve(end)
        self._bytes = torch.frombuffer(self._room, dtype=torch.uint8)
        self.row_bytes = row_bytes

    def rows(self, dtype: torch.dtype, shape: tuple[int, ...]) -> Tensor:
        """Everything as rows [place, ...]; only places of files that were put in may be touched."""
        count = len(self._bytes) // self.row_bytes
        return self._bytes[: count * self.row_bytes].view(dtype).view(count, *shape)

    def put(self, index: int, path: Path) -> None:
        """Map a file to its place (again, if it is another file now)."""
        start, size = self.starts[index], self.sizes[index]
        with path.open("rb") as file:
            if _SUPPORTED:
                _map_at(self._bytes.data_ptr() + start, size, file.fileno())
            else:
                file.readinto(self.file(index).data)

    def file(self, index: int) -> np.ndarray:
        """The bytes of a file that was put in."""
        start = self.starts[index]
        return self._bytes[start : start + self.sizes[index]].numpy()


def _reserve(size: int) -> "ctypes.Array[ctypes.c_ubyte]":
    """Address space that costs nothing until files are mapped into it; given back when nothing refers to it any more."""
    if not _SUPPORTED:
        return (ctypes.c_ubyte * size)()
    address = _mmap(None, size, 0, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, -1)
    kind: Any = type("Room", (ctypes.c_ubyte * size,), {})  # a class of its own, so that its end can be noticed
    room: ctypes.Array[ctypes.c_ubyte] = kind.from_address(address)
    weakref.finalize(room, _libc().munmap, ctypes.c_void_p(address), ctypes.c_size_t(size)).atexit = False
    return room


def _map_at(address: int, size: int, fd: int) -> None:
    _mmap(address, size, mmap.PROT_READ | mmap.PROT_WRITE, mmap.MAP_PRIVATE | _FIXED, fd)


def _mmap(address: int | None, size: int, access: int, flags: int, fd: int) -> int:
    got = _libc().mmap(address, size, access, flags, fd, 0)
    if got in (None, ctypes.c_void_p(-1).value):
        code = ctypes.get_errno()
        raise OSError(code, f"mapping {size:,} bytes: {os.strerror(code)}")
    return int(got)


def _libc() -> ctypes.CDLL:
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mmap.restype = ctypes.c_void_p
    libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_longlong]
    return libc
