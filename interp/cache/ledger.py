"""What lies in the store: list, measure, check, repair, make room.

    store.ls()                            # one `Stored` a site: key, model, tokens, bytes, created, last used, complete
    store.verify(repair=True)             # reads every byte; drops damaged shards, so that a capture computes just those again
    store.gc(max_bytes=20_000_000_000)    # least recently used first, until the store fits
    store.gc(older_than=30 * DAY), store.gc(incomplete=True)

Nothing that somebody uses is removed: whoever reads or writes a site holds a shared lock on it, which the kernel drops with its process.
"""

import contextlib
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from ..core.errors import CorruptShard, StoreError
from .disk import TMP, Lock, aside, explain, human, read_json
from .key import DTYPES
from .layout import LOCK, MANIFEST, RUN, Entry, Group, groups, used_bytes
from .shard import check

DAY = 86400.0
"""Seconds."""
TMP_AGE = 3600.0
"""Seconds after which an unfinished file is nobody's."""


@dataclass(frozen=True)
class Stored:
    """One site of one capture, as the ledger shows it."""

    key: str
    """Content key, 32 hex digits."""
    model: str
    site: str
    dtype: str
    rows: int
    """Rows that are there."""
    tokens: int
    """Rows of the whole capture."""
    documents: int
    bytes: int
    """On disk."""
    created: float
    """Seconds since 1970."""
    last_used: float
    """Seconds since 1970."""
    complete: bool
    in_use: bool
    """Somebody reads or writes it now."""
    damaged: str = ""
    """Why it cannot be listed properly, where that is so."""
    path: Path = field(default=Path(), repr=False)

    def row(self) -> tuple[str, str, str, str, str, str, str]:
        """As text, for a table: key, model, site, tokens, size, state, created."""
        share = f"{self.rows / max(1, self.tokens):.0%} there"
        state = "damaged" if self.damaged else "complete" if self.complete else share
        state += ", in use" if self.in_use else ""
        created = time.strftime("%Y-%m-%d %H:%M", time.localtime(self.created))
        site = f"{self.site} ({self.dtype})"
        return self.key[:8], self.model, site, f"{self.tokens:,}", human(self.bytes), state, created


@dataclass(frozen=True)
class Problem:
    """Something that `verify` found."""

    key: str
    site: str
    path: Path
    what: str
    repaired: bool

    def __str__(self) -> str:
        return f"{self.key[:8]} · {self.site} · {self.what}" + (" Dropped." if self.repaired else "")


def stored(root: Path) -> Iterator[Stored]:
    """Every site in the store."""
    for group in groups(root):
        for entry in group.entries():
            with contextlib.suppress(FileNotFoundError):  # removed while we looked
                yield _stored(entry)


def _stored(entry: Entry) -> Stored:
    facts = {"model": "?", "rows": 0, "tokens": 0, "documents": 0, "created": 0.0, "damaged": ""}
    try:
        info = entry.group.info
        facts |= {
            "model": info["model"],
            "tokens": info["rows"],
            "documents": info["documents"],
            "created": info["created"],
        }
        facts["rows"] = sum(record.rows for record in entry.records())
    except (StoreError, KeyError) as error:
        facts["damaged"] = str(error)
    lock = entry.path / LOCK
    used = lock.stat().st_mtime if lock.exists() else entry.path.stat().st_mtime
    return Stored(
        key=entry.key, site=entry.site.name, dtype=entry.dtype, bytes=used_bytes([entry.path]), last_used=used,
        complete=entry.sealed, in_use=in_use(entry.path), path=entry.path, **facts,  # type: ignore[arg-type]
    )  # fmt: skip


def in_use(directory: Path) -> bool:
    """Whether somebody holds the lock of a site or a run."""
    if not (directory / LOCK).exists():
        return False
    lock = Lock.take(directory / LOCK)
    if lock is None:
        return True
    lock.release()
    return False


def verify(root: Path, *, repair: bool = False) -> list[Problem]:
    """Read everything and compare checksums. With `repair`, drop what is damaged and unseal its site."""
    problems = []
    for group in groups(root):
        try:
            _ = group.info, group.table
        except StoreError as error:
            if repair:
                shutil.rmtree(group.path.rename(aside(root)))
            problems.append(Problem(group.path.name, "all sites", group.path, str(error), repair))
            continue
        for entry in group.entries():
            problems += _verify_entry(entry, repair)
    return problems


def _verify_entry(entry: Entry, repair: bool) -> list[Problem]:
    found = []

    def problem(path: Path, error: Exception, drop: list[Path]) -> None:
        if repair:
            for each in [*drop, entry.path / MANIFEST]:
                each.unlink(missing_ok=True)
        found.append(Problem(entry.key, entry.site.name, path, str(error), repair))

    try:
        records = {record.index: record for record in entry.records()}
    except CorruptShard as error:  # the manifest, or a shard's JSON
        records = {}
        bad = entry.path / MANIFEST if entry.sealed else entry.path
        problem(bad, error, _unreadable(entry))
        if repair:
            records = {record.index: record for record in entry.records()}
    for index, record in sorted(records.items()):
        try:
            check(entry, record)
        except CorruptShard as error:
            problem(entry.shard(index), error, [entry.record_path(index), entry.shard(index)])
    return found


def _unreadable(entry: Entry) -> list[Path]:
    bad = []
    for path in entry.path.glob("[0-9]*.json"):
        try:
            read_json(path)
        except CorruptShard:
            bad.append(path)
    return bad


def gc(
    root: Path,
    *,
    max_bytes: int | None = None,
    older_than: float | None = None,
    incomplete: bool = False,
    dry_run: bool = False,
) -> list[Stored]:
    """Remove sites that nobody uses; returns them. Unfinished files older than an hour are always swept.

    not used for `older_than` seconds; `incomplete` captures; then the least recently used until the store has at most `max_bytes`.
    """
    everything = [item for item in stored(root) if not item.in_use]
    now = time.time()
    doomed = [
        item
        for item in everything
        if (incomplete and not item.complete) or (older_than is not None and now - item.last_used > older_than)
    ]
    if max_bytes is not None:
        left = used_bytes([root]) - sum(item.bytes for item in doomed)
        for item in sorted(everything, key=lambda item: item.last_used):
            if left <= max_bytes:
                break
            if item not in doomed:
                doomed.append(item)
                left -= item.bytes
    if dry_run:
        return doomed
    try:
        removed = [item for item in doomed if _remove(item.path)]
        _sweep(root, now)
    except OSError as error:
        raise explain(error, root, "making room in") from error
    return removed


def _remove(directory: Path) -> bool:
    """Remove a site or a run that nobody uses: renamed first, so nobody sees half of it."""
    try:
        lock = Lock.take(directory / LOCK)
    except FileNotFoundError:
        return False
    if lock is None:
        return False
    gone = aside(directory.parent)
    directory.rename(gone)
    lock.release()
    shutil.rmtree(gone, ignore_errors=True)
    return True


def _sweep(root: Path, now: float) -> None:
    """Unfinished files and trash by age, and runs without any site."""
    for path in [*root.glob(f"{TMP}*"), *root.glob(f"*/{TMP}*"), *root.glob(f"*/*/{TMP}*")]:
        try:
            if now - path.stat().st_mtime > TMP_AGE:
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        except FileNotFoundError:
            continue
    for path in sorted(root.iterdir()):
        if len(path.name) != 32 or not path.is_dir():
            continue
        if not any(child.is_dir() and child.suffix[1:] in DTYPES for child in path.iterdir()):
            fresh = not (path / RUN).exists() and now - path.stat().st_mtime < TMP_AGE
            if not fresh:
                _remove(path)


def find(root: Path, prefix: str) -> list[Entry]:
    """Sites whose key, or whose run's key, begins with `prefix`."""
    return [
        entry
        for group in groups(root)
        for entry in Group(group.path).entries()
        if entry.key.startswith(prefix) or group.path.name.startswith(prefix)
    ]
