"""Where everything lies.

    <root>/<run key>/run.json                                    what was run: key, model, tokens, rows per shard
                     tokens.safetensors                          ids [row] and document offsets
                     lock                                        shared by everyone who uses it; `gc` needs it alone
                     blocks.2.hook_resid_post.float32/
                         00000.safetensors                       rows of some whole documents, and their sums
                         00000.json                              its rows, bytes and checksums; written after it
                         00000.claim                             somebody is computing it
                         manifest.json                           all of the above, once the last shard is there
                         lock

A shard without its JSON does not exist. A site without its manifest is incomplete, and readers see the complete shards.
How documents fall into shards depends on `run.json` alone, so any process can compute any shard and a resumed capture has the bits of
one that was never interrupted.
"""

import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from ..core.errors import StoreError
from ..core.site import Site
from .disk import Lock, damaged, read_json, write_json
from .key import DTYPES, SCHEMA, site_key

RUN, TOKENS, MANIFEST, LOCK = "run.json", "tokens.safetensors", "manifest.json", "lock"
SHARD_BYTES = 64 << 20
"""Aim for a shard of a residual stream site at the model's dtype; an MLP site of four times the width has shards of 256 MB."""


@dataclass(frozen=True)
class Record:
    """What is known of one complete shard."""

    index: int
    start: int
    """First row."""
    rows: int
    documents: tuple[int, int]
    """First and one past the last."""
    bytes: int
    """Size of the file."""
    xxh3: str
    """xxh3-128 of the file."""
    sums: str
    """xxh3-128 of the running sums at the file's end."""

    @classmethod
    def read(cls, path: Path, content: dict[str, Any]) -> "Record":
        """From JSON."""
        try:
            return cls(**{**content, "documents": tuple(content["documents"])})
        except (TypeError, KeyError) as error:
            raise damaged(path, f"it is not a shard record ({error})") from error


class Plan:
    """How documents fall into shards: whole documents in order, up to `shard_rows` rows (a longer document has its own shard)."""

    def __init__(self, offsets: np.ndarray, shard_rows: int) -> None:
        bounds = [0]
        while bounds[-1] < len(offsets) - 1:
            start = bounds[-1]
            end = int(np.searchsorted(offsets, offsets[start] + shard_rows, side="right")) - 1
            bounds.append(max(end, start + 1))
        self.offsets, self.bounds = offsets, bounds

    def __len__(self) -> int:
        return len(self.bounds) - 1

    def documents(self, index: int) -> tuple[int, int]:
        """First document of a shard, and one past its last."""
        return self.bounds[index], self.bounds[index + 1]

    def rows(self, index: int) -> int:
        """Rows of a shard."""
        first, last = self.documents(index)
        return int(self.offsets[last] - self.offsets[first])


class Group:
    """A run on disk: the part that all its sites share."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @cached_property
    def info(self) -> dict[str, Any]:
        """Content of run.json."""
        content = read_json(self.path / RUN)
        if content.get("schema") != SCHEMA:
            raise StoreError(
                f"{self.path} was written by another version (schema {content.get('schema')}). Update interp."
            )
        return content

    @cached_property
    def table(self) -> dict[str, np.ndarray]:
        """Token ids and offsets, checked."""
        import xxhash
        from safetensors.numpy import load

        path = self.path / TOKENS
        try:
            raw = path.read_bytes()
        except FileNotFoundError as error:
            raise damaged(path, "it is missing") from error
        if xxhash.xxh3_128_hexdigest(raw) != self.info["tokens_xxh3"]:
            raise damaged(path, "its checksum does not match")
        return load(raw)

    @property
    def offsets(self) -> np.ndarray:
        """Document offsets, int64 [document + 1]."""
        return self.table["offsets"]

    @cached_property
    def plan(self) -> Plan:
        """Its documents in shards."""
        return Plan(self.offsets, int(self.info["shard_rows"]))

    def entries(self) -> Iterator["Entry"]:
        """Its sites."""
        for path in sorted(self.path.iterdir()):
            name, _, dtype = path.name.rpartition(".")
            if path.is_dir() and dtype in DTYPES:
                yield Entry(self, Site.parse(name), dtype)


class Entry:
    """One site of a run on disk, in one dtype."""

    def __init__(self, group: Group, site: Site, dtype: str) -> None:
        self.group, self.site, self.dtype = group, site, dtype
        self.path = group.path / f"{site.name}.{dtype}"

    @property
    def key(self) -> str:
        """Its content key."""
        return site_key(self.group.path.name, self.site, self.dtype)

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one row."""
        return tuple(self.group.info["shapes"][self.site.kind])

    @property
    def row_bytes(self) -> int:
        """Bytes of one row."""
        return int(np.prod(self.shape, dtype=np.int64)) * DTYPES[self.dtype][1].itemsize

    def shard(self, index: int) -> Path:
        """Where a shard lies."""
        return self.path / f"{index:05d}.safetensors"

    def record_path(self, index: int) -> Path:
        """Where the JSON of a shard lies."""
        return self.path / f"{index:05d}.json"

    def claim(self, index: int) -> Lock | None:
        """The right to compute a shard; None while somebody else has it."""
        return Lock.take(self.path / f"{index:05d}.claim", sign=True)

    def has(self, index: int) -> bool:
        """Whether a shard is complete."""
        return self.record_path(index).exists()

    @property
    def sealed(self) -> bool:
        """Whether every shard was there at some time."""
        return (self.path / MANIFEST).exists()

    def manifest(self) -> dict[str, Any]:
        """Content of manifest.json. Raises `FileNotFoundError` before it is sealed."""
        return read_json(self.path / MANIFEST)

    def records(self) -> list[Record]:
        """Complete shards, in order."""
        path = self.path / MANIFEST
        try:
            return [Record.read(path, item) for item in self.manifest()["shards"]]
        except FileNotFoundError:
            pass
        found = []
        for path in sorted(self.path.glob("[0-9]*.json")):
            try:
                found.append(Record.read(path, read_json(path)))
            except FileNotFoundError:  # removed while we looked
                continue
        return sorted(found, key=lambda record: record.index)

    def seal(self) -> bool:
        """Write the manifest if every shard is there. Returns whether it is sealed now."""
        if self.sealed:
            return True
        if not all(self.has(index) for index in range(len(self.group.plan))):
            return False
        records = self.records()
        content = {
            "schema": SCHEMA, "key": self.key, "site": self.site.name, "dtype": self.dtype, "shape": list(self.shape),
            "rows": sum(record.rows for record in records), "created": time.time(), "shards": [asdict(r) for r in records],
        }  # fmt: skip
        write_json(self.path / MANIFEST, content, first=True)
        return True


def groups(root: Path) -> Iterator[Group]:
    """Every run under a root, oldest name first; anything else there is left alone."""
    if not root.is_dir():
        return
    for path in sorted(root.iterdir()):
        if len(path.name) == 32 and (path / RUN).exists():
            yield Group(path)


def used_bytes(paths: "Sequence[Path] | Iterator[Path]") -> int:
    """Bytes of all files below some directories, unfinished ones counted."""
    total = 0
    for top in paths:
        for path in top.rglob("*"):
            try:
                total += path.stat().st_size if path.is_file() else 0
            except FileNotFoundError:
                continue
    return total
