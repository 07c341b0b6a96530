"""What the store needs of a file system: publishing whole files, kernel locks, and errors that say what to do.

A file is *published*: written aside under a `.tmp-` name, flushed to the disk, renamed, and the directory flushed. Whoever looks sees
either nothing or all of it, also after a power cut.

A lock is a `flock`. The kernel drops it with its process, however that ends, so there is no stale lock to guess about and no heartbeat
to keep. Where a file system has no locks, or a platform no `flock`, everything still works: publishing is atomic and what two writers
would write is the same, so the worst is work done twice (and that `gc` cannot tell what is in use there).
"""

import contextlib
import errno
import json
import os
import secrets
import shutil
import socket
import time
from pathlib import Path
from typing import Any

import xxhash

from ..core.errors import CorruptShard, StoreError

try:
    import fcntl
except ImportError:  # a platform without flock
    fcntl = None  # type: ignore[assignment]

TMP = ".tmp-"
FULL = (errno.ENOSPC, errno.EDQUOT)
CLOSED = (errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOTDIR)


def human(size: float) -> str:
    """Bytes as people read them: `6.3 MB`."""
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.2f} TB"


def aside(directory: Path) -> Path:
    """A name for a file that is not there yet, as far as any reader is concerned."""
    return directory / f"{TMP}{os.getpid()}-{secrets.token_hex(4)}"


def create(path: Path) -> int:
    """A new file, open for writing; readable by others as far as the umask allows (safetensors' own writer makes it 0600)."""
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_CLOEXEC", 0), 0o644)


def write_all(fd: int, data: "bytes | memoryview") -> None:
    """Every byte, however many calls it takes."""
    view = memoryview(data).cast("B")
    while len(view):
        view = view[os.write(fd, view[: 1 << 30]) :]


def settle(tmp: Path, fd: int, path: Path, *, first: bool = False) -> bool:
    """Flush and close `fd`, and give the file its name. With `first`, a file that is already there stays; returns whether ours won."""
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
    won = True
    if first:
        try:
            os.link(tmp, path)
        except FileExistsError:
            won = False
        except OSError:  # a file system without hard links
            won = not path.exists()
            if won:
                tmp.replace(path)
        tmp.unlink(missing_ok=True)
    else:
        tmp.replace(path)
    flush(path.parent)
    return won


def publish(path: Path, data: bytes, *, first: bool = False) -> None:
    """Write a small file atomically."""
    tmp = aside(path.parent)
    fd = create(tmp)
    try:
        try:
            write_all(fd, data)
        except BaseException:
            os.close(fd)
            raise
        settle(tmp, fd, path, first=first)
    except BaseException:
        tmp.unlink(missing_ok=True)
        raise


def flush(directory: Path) -> None:
    """Make renames in a directory last. Where directories cannot be opened, the rename is all there is."""
    try:
        fd = os.open(directory, os.O_RDONLY)
    except OSError:
        return
    try:
        os.fsync(fd)
    except OSError:
        pass
    finally:
        os.close(fd)


def canonical(content: Any) -> bytes:
    """One spelling of a JSON value, for hashing."""
    return json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=True).encode()


def write_json(path: Path, content: dict[str, Any], *, first: bool = False) -> None:
    """Publish a JSON object together with a checksum of itself."""
    check = xxhash.xxh3_128_hexdigest(canonical(content))
    text = json.dumps(content | {"check": check}, indent=1, ensure_ascii=False)
    publish(path, text.encode() + b"\n", first=first)


def read_json(path: Path) -> dict[str, Any]:
    """Read what `write_json` wrote. Raises `FileNotFoundError`, or `CorruptShard` where a byte differs."""
    raw = path.read_bytes()
    try:
        content = json.loads(raw)
        check = content.pop("check")
    except (ValueError, KeyError, AttributeError) as error:
        raise damaged(path, f"it is not readable ({error})") from error
    if check != xxhash.xxh3_128_hexdigest(canonical(content)):
        raise damaged(path, "its checksum does not match")
    return content


def damaged(path: Path, why: str) -> CorruptShard:
    """The one phrasing for bytes that are not those that were written."""
    return CorruptShard(
        f"{path} is damaged: {why}. Nothing was read from it. "
        "Run `interp cache verify --repair` (or `Store.verify(repair=True)`) to drop what is damaged; "
        "the next capture computes only that part again."
    )


def explain(error: OSError, path: Path, doing: str) -> StoreError:
    """An operating system's refusal as a message that says what to do."""
    if isinstance(error, StoreError):
        return error
    elsewhere = "set INTERP_CACHE (or `Store(root=...)`) to a directory on another disk"
    if error.errno in FULL:
        return StoreError(
            f"the disk is full while {doing} {path} ({human(free_bytes(path))} free). Complete shards are kept. "
            f"Make room with `interp cache gc`, {elsewhere}, or capture fewer sites or a smaller dtype; then run it again."
        )
    if error.errno in CLOSED:
        return StoreError(
            f"cannot write to {path} while {doing} it: {error.strerror}. "
            f"Make the directory writable, or {elsewhere.replace('on another disk', 'that you may write to')}."
        )
    return StoreError(f"{doing} {path} failed: {error}. Check the disk, or {elsewhere}.")


def free_bytes(path: Path) -> int:
    """Free space where `path` is or will be."""
    for folder in (path, *path.parents):
        if folder.is_dir():
            return shutil.disk_usage(folder).free
    return 0


class Lock:
    """A lock on a file, held until `release` or until the process ends. Take one with `Lock.take`."""

    def __init__(self, path: Path, fd: int | None) -> None:
        self.path, self.fd = path, fd

    @classmethod
    def take(cls, path: Path, *, shared: bool = False, sign: bool = False, wait: float = 0.0) -> "Lock | None":
        """The lock, or None where somebody else holds it after `wait` seconds. Raises `FileNotFoundError` without its directory.

        With `sign`, the file says which process holds it.
        """
        until = time.monotonic() + wait
        while True:
            fd = _open_lock(path)
            if fd is None or fcntl is None:
                return cls(path, fd)
            try:
                fcntl.flock(fd, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(fd)
                if time.monotonic() >= until:
                    return None
                time.sleep(0.02)
                continue
            except OSError:  # a file system without locks
                return cls(path, fd)
            if _is_still(path, fd):
                if sign:
                    _sign(fd)
                return cls(path, fd)
            os.close(fd)  # it was removed while we waited for it

    def touch(self) -> None:
        """Note that it was used now."""
        if self.fd is not None:
            with contextlib.suppress(OSError):  # a read-only store
                os.utime(self.fd)

    def release(self, *, remove: bool = False) -> None:
        """Let go; with `remove`, the file goes too."""
        if self.fd is None:
            return
        if remove:
            self.path.unlink(missing_ok=True)
        os.close(self.fd)
        self.fd = None

    def __del__(self) -> None:
        self.release()


def _open_lock(path: Path) -> int | None:
    try:
        return os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    except FileNotFoundError:
        raise
    except OSError as error:
        if error.errno not in CLOSED:
            raise
    try:  # a read-only store: a shared lock needs no more than reading
        return os.open(path, os.O_RDONLY)
    except OSError:
        return None


def _is_still(path: Path, fd: int) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(fd))
    except FileNotFoundError:
        return False


def _sign(fd: int) -> None:
    """Who holds the lock, for a person who looks."""
    with contextlib.suppress(OSError):
        os.ftruncate(fd, 0)
        os.pwrite(fd, json.dumps({"pid": os.getpid(), "host": socket.gethostname()}).encode(), 0)
