"""Artefacts of arrays that are cut over several processes: one file, as one process would write it; each process writes and reads its rows.

    write(parallel, folder, tensors, meta, pieces, kind="training")      # what this process has, and which rows of the whole these are
    found = read(parallel, folder, pieces, kind="training")              # an Artifact with the rows of this process

So nothing is ever collected in one memory, neither weights nor the optimizer's state; a checkpoint knows nothing of how many processes
there were; and a dictionary that was trained by eight opens with `interp.open`. In exchange all processes must see the same folder, which
the activation store asks for anyway. They write in turns: file systems over a network keep two writers of one file apart only so far.

An array whose name is not in `pieces` is whole in every process, and rank 0's is written.
"""

import json
import os
import struct
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...core.artifact import Artifact, checked_artifact, write_artifact
from ...core.errors import ArtifactError
from .parallel import Parallel
from .slices import Piece

CODES = {
    torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16", torch.int64: "I64",
    torch.int32: "I32", torch.int16: "I16", torch.int8: "I8", torch.uint8: "U8", torch.bool: "BOOL",
}  # fmt: skip
PATH_BYTES = 4096
CHUNK = 64 << 20
"""Bytes that are copied to the host at once."""

Pieces = Mapping[str, Piece]


def write(
    parallel: Parallel,
    folder: "str | Path",
    tensors: Mapping[str, Tensor],
    meta: Mapping[str, Any],
    pieces: "Pieces | None" = None,
    *,
    kind: str,
    overwrite: bool = False,
) -> Path:
    """Write one artefact together; returns its folder once all of it is there. Every process calls it, with the same names.

    Raises `ArtifactError` on all of them where it cannot be written; the process that met the reason says it.
    """
    pieces = {name: piece for name, piece in (pieces or {}).items() if name in tensors}
    joint = _Joint(parallel, tensors, pieces) if parallel.latents.size > 1 else None
    error: Exception | None = joint.misfit() if joint is not None else None
    if joint is not None and not parallel.agree(error is None, every=True):
        raise error or ArtifactError(f"{Path(folder).name} was not written: another process of this run says why.")
    try:
        if parallel.main:
            write_artifact(folder, joint or dict(tensors), meta, kind=kind, overwrite=overwrite)
        elif joint is not None:
            joint.follow()
    except Exception as caught:
        error = caught
    if joint is not None and parallel.main and not joint.told:
        joint.tell("")
    if not parallel.agree(error is None, every=True):
        raise error or ArtifactError(f"{Path(folder).name} was not written: another process of this run says why.")
    return Path(folder)


def read(
    parallel: Parallel,
    folder: "str | Path",
    pieces: "Pieces | Callable[[dict[str, Any]], Pieces] | None" = None,
    *,
    kind: str,
) -> Artifact:
    """The fields of an artefact and this process's rows of its arrays. Every process calls it; rank 0 compares the checksums.

    `pieces` may be a function of the fields. Raises `ArtifactError` for what is missing, damaged, of another kind or another shape.
    """
    meta, paths = _checked(parallel, folder, kind)
    chosen = pieces(meta) if callable(pieces) else pieces or {}
    return Artifact(
        kind, meta, {k: v for path in paths for k, v in _rows(path, chosen, Path(folder).name).items()}, None
    )


def _checked(parallel: Parallel, folder: "str | Path", kind: str) -> tuple[dict[str, Any], list[Path]]:
    """Fields and files; their checksums are compared once, the others only read what is small."""
    error: Exception | None = None
    found: tuple[dict[str, Any], list[Path]] = ({}, [])
    for first in (True, False):
        if parallel.main is first:
            try:
                found = checked_artifact(folder, kind=kind, contents=first)
            except Exception as caught:
                error = caught
        if not parallel.agree(error is None, every=True):
            raise error or ArtifactError(f"{Path(folder).name} was not read: another process of this run says why.")
    return found


def _rows(path: Path, pieces: Pieces, shown: str) -> dict[str, Tensor]:
    from safetensors import safe_open

    found = {}
    with safe_open(path, "pt") as file:
        for name in file.keys():  # noqa: SIM118  (not a mapping)
            if name not in pieces:
                found[name] = file.get_tensor(name)
                continue
            rows, piece = file.get_slice(name), pieces[name]
            if rows.get_shape()[0] != piece.total:
                raise ArtifactError(
                    f"{shown} has {rows.get_shape()[0]} rows of {name!r}, not {piece.total}. It is of another dictionary."
                )
            found[name] = torch.cat([rows[first:last] for first, last in piece.ranges])
    return found


class _Joint:
    """The file that several processes write: rank 0 makes it and says where, then each writes its rows when it is its turn."""

    def __init__(self, parallel: Parallel, tensors: Mapping[str, Tensor], pieces: Pieces) -> None:
        self.parallel, self.tensors, self.pieces, self.told = parallel, dict(sorted(tensors.items())), pieces, False
        self.starts, self.head = self._header()

    def misfit(self) -> ArtifactError | None:
        """What is wrong where this process has other rows than its piece says."""
        for name, piece in self.pieces.items():
            if len(self.tensors[name]) != len(piece):
                return ArtifactError(
                    f"{name!r} has {len(self.tensors[name])} rows where this process should have {len(piece)}."
                )
        return None

    def __call__(self, path: Path) -> None:
        """Rank 0: make the file at `path`, and have it filled."""
        with path.open("wb") as file:
            file.write(self.head)
            file.truncate(len(self.head) + self.starts[""])
        self.tell(str(path.absolute()))
        self._turns(path)

    def follow(self) -> None:
        """The others: hear where the file is, and fill it."""
        if where := self.tell(""):
            self._turns(Path(where))

    def tell(self, path: str) -> str:
        """Rank 0's path, on every process; empty where there is none."""
        self.told = True
        line = torch.zeros(PATH_BYTES, dtype=torch.uint8)
        raw = path.encode()
        if len(raw) > PATH_BYTES:
            raise ArtifactError(
                f"the path of {Path(path).name} is longer than {PATH_BYTES} bytes. Choose a shorter one."
            )
        line[: len(raw)] = torch.frombuffer(bytearray(raw), dtype=torch.uint8) if raw else line[:0]
        return bytes(self.parallel.world.sum_(line).tolist()).rstrip(b"\0").decode()

    def _turns(self, path: Path) -> None:
        for turn in range(self.parallel.latents.size):
            error: Exception | None = None
            if turn == self.parallel.latents.rank and self.parallel.rows.rank == 0:
                try:
                    self._write(path)
                except OSError as caught:
                    error = ArtifactError(
                        f"process {self.parallel.rank} could not write its rows of {path.name}: {caught.strerror or caught}. All processes "
                        "must see the same folder, with room in it."
                    )
            if not self.parallel.agree(error is None, every=True):
                raise error or ArtifactError(
                    f"{path.parent.name} was not written: another process of this run says why."
                )

    def _write(self, path: Path) -> None:
        with path.open("r+b") as file:
            for name, tensor in self.tensors.items():
                if name not in self.pieces and not self.parallel.main:
                    continue
                rows = tensor.detach()
                ranges = self.pieces[name].ranges if name in self.pieces else ((0, len(rows) if rows.ndim else 1),)
                rows = rows if rows.ndim else rows.reshape(1)
                width = rows[:1].numel() * rows.element_size()
                at = 0
                for first, last in ranges:
                    file.seek(len(self.head) + self.starts[name] + first * width)
                    _pour(file, rows[at : at + last - first])
                    at += last - first
            file.flush()
            os.fsync(file.fileno())

    def _header(self) -> tuple[dict[str, int], bytes]:
        """Where each array begins (and at "" where all end), and the head of a safetensors file."""
        fields, starts, at = {}, {}, 0
        order = sorted(self.tensors, key=lambda name: (-self.tensors[name].element_size(), name))
        for name in order:
            tensor = self.tensors[name]
            shape = list(tensor.shape)
            if name in self.pieces:
                shape[0] = self.pieces[name].total
            size = int(torch.Size(shape).numel()) * tensor.element_size()
            fields[name] = {"dtype": CODES[tensor.dtype], "shape": shape, "data_offsets": [at, at + size]}
            starts[name] = at
            at += size
        text = json.dumps(fields, separators=(",", ":")).encode()
        text += b" " * (-len(text) % 8)
        return starts | {"": at}, struct.pack("<Q", len(text)) + text


def _pour(file: Any, rows: Tensor) -> None:
    """The bytes of rows, a part at a time through the host's memory."""
    step = max(1, CHUNK // max(1, rows[:1].numel() * rows.element_size()))
    for start in range(0, len(rows), step):
        part = rows[start : start + step].cpu().contiguous()
        file.write(part.flatten().view(torch.uint8).numpy().data)
