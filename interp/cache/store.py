"""The store itself: a directory, what it may hold, and `capture`."""

import logging
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from ..core.edit import Edit
from ..core.errors import BadInput, StoreError, one_of
from ..core.lm import LM
from ..core.site import Site
from . import ledger
from .disk import free_bytes, human
from .layout import SHARD_BYTES, Entry, Group, used_bytes
from .reader import Activations
from .request import Preview, Request, Settings, shared
from .shard import Verify

_log = logging.getLogger("interp.cache")


class Store:
    """The activation store under one directory. Cheap to make; holds no state but its settings."""

    def __init__(
        self,
        root: "str | Path | None" = None,
        max_disk: int | None = None,
        *,
        verify: Verify = "first",
        say: Callable[[str], None] | None = None,
        forward_tokens: int | None = None,
        shard_bytes: int = SHARD_BYTES,
    ) -> None:
        """A store under `root` (INTERP_CACHE, or the platform's cache directory) of at most `max_disk` bytes.

        `verify`: compare a shard's checksum when it is "first" read by this process, "always" or "never". `say` gets one line before
        each capture (default: the log `interp.cache`). `forward_tokens`: tokens of one forward pass. `shard_bytes`: size to aim for.
        """
        one_of("verify", verify, ["first", "always", "never"])
        if max_disk is not None and max_disk < 0:
            raise BadInput(f"`max_disk` is in bytes and cannot be negative; not {max_disk}.")
        self.root = Path(root or os.environ.get("INTERP_CACHE") or _platform_root()).expanduser()
        self.max_disk, self.say = max_disk, say or _log.info
        self._settings = Settings(self.root, verify, forward_tokens, shard_bytes)

    def preview(
        self,
        lm: LM,
        what: Any,
        sites: "str | Site | Sequence[str | Site]",
        *,
        dtype: "torch.dtype | str | None" = None,
        edits: Sequence[Edit] = (),
        shard: tuple[int, int] | None = None,
    ) -> Preview:
        """What `capture` with the same arguments would compute and write. Touches nothing."""
        return Request(self._settings, lm, what, sites, dtype, edits, shard).preview()

    def capture(
        self,
        lm: LM,
        what: Any,
        sites: "str | Site | Sequence[str | Site]",
        *,
        dtype: "torch.dtype | str | None" = None,
        edits: Sequence[Edit] = (),
        shard: tuple[int, int] | None = None,
        quiet: bool = False,
    ) -> Activations:
        """Activations of a batch, a corpus or a list of documents at some sites: read if they are there, computed if not.

        `shard=(i, n)` computes only the i-th of n shares, for n processes; the result is complete once all are done. `dtype` is the
        stored one, the model's by default. `quiet` leaves out the line before and the progress bar.
        Raises `StoreError` (disk full, over `max_disk`, read-only), `CorruptShard`, `UnknownSite`, `BadInput`, `EditDidNotFire`.
        """
        request = Request(self._settings, lm, what, sites, dtype, edits, shard)
        locks = request.hold()
        preview = request.preview()
        if not quiet:
            self.say(preview.describe())
        if not preview.hit:
            self._afford(preview)
            locks += request.fill(preview, quiet)
        return request.open(preview, locks)

    def open(
        self,
        lm: LM,
        what: Any,
        sites: "str | Site | Sequence[str | Site]",
        *,
        dtype: "torch.dtype | str | None" = None,
        edits: Sequence[Edit] = (),
    ) -> Activations:
        """What is there of a capture, complete or not, without computing anything. Raises `StoreError` where there is nothing."""
        request = Request(self._settings, lm, what, sites, dtype, edits)
        locks = request.hold()
        absent = [entry.site.name for entry in request.entries if not entry.path.is_dir()]
        if absent:
            names = ", ".join(absent)
            raise StoreError(f"the store has nothing of {names} for this model and these tokens. Run `capture`.")
        return request.open(request.preview(), locks)

    def find(self, key: str) -> Activations:
        """A capture by the first digits of its key, as `ls` and every repr show it: one site, or all sites of a run."""
        found = ledger.find(self.root, key)
        if len({entry.group.path for entry in found}) != 1 or len({entry.site for entry in found}) < len(found):
            state = "more than one capture" if found else "no capture"
            raise StoreError(
                f"{state} has a key that begins with {key!r} in {self.root}. `interp cache ls` lists keys."
            )
        group = Group(found[0].group.path)
        entries = [Entry(group, old.site, old.dtype) for old in sorted(found, key=lambda entry: entry.site.order)]
        locks, verify = shared([group, *entries]), self._settings.verify
        return Activations(group, entries, [True] * len(entries), verify=verify, locks=locks)

    def ls(self) -> list[ledger.Stored]:
        """Every site in the store, most recently used first."""
        return sorted(ledger.stored(self.root), key=lambda item: -item.last_used)

    def size(self) -> int:
        """Bytes that the store takes on disk."""
        return used_bytes([self.root])

    def verify(self, *, repair: bool = False) -> list[ledger.Problem]:
        """Compare every checksum; with `repair`, drop what is damaged. An empty list is good news."""
        return ledger.verify(self.root, repair=repair)

    def gc(
        self,
        *,
        max_bytes: int | None = None,
        older_than: float | None = None,
        incomplete: bool = False,
        dry_run: bool = False,
    ) -> list[ledger.Stored]:
        """Remove what nobody uses: not used for `older_than` seconds, `incomplete`, or least recently used until `max_bytes` are left.

        Returns what was removed, or with `dry_run` what would be. Unfinished files older than an hour are always swept.
        """
        if not self.root.is_dir():
            return []
        return ledger.gc(self.root, max_bytes=max_bytes, older_than=older_than, incomplete=incomplete, dry_run=dry_run)

    def _afford(self, preview: Preview) -> None:
        free = free_bytes(self.root)
        advice = "Make room with `interp cache gc`, capture fewer sites or a smaller dtype, or"
        if preview.bytes > free:
            raise StoreError(
                f"this capture needs {human(preview.bytes)} and the disk of {self.root} has {human(free)} free. "
                f"Nothing was computed. {advice} set INTERP_CACHE to another disk."
            )
        if self.max_disk is None:
            return
        used = self.size()
        if used + preview.bytes > self.max_disk:
            left = human(max(0, self.max_disk - used))
            raise StoreError(
                f"this capture needs {human(preview.bytes)}; the store may hold {human(self.max_disk)} (--max-disk) and "
                f"has {human(used)}, which leaves {left}. Nothing was computed. {advice} raise the limit."
            )

    def __repr__(self) -> str:
        limit = f" of {human(self.max_disk)}" if self.max_disk is not None else ""
        return f"Store({self.root} · {human(self.size())}{limit})"


def _platform_root() -> Path:
    from platformdirs import user_cache_path

    return user_cache_path("interp")
