"""Checkpoints of a training: all that it needs to go on as if it had not been interrupted, kept in its folder.

    <folder>/checkpoints/tokens-000000204800/        an artefact: weights, optimizer, counters, metrics so far, data cursor, options

Each is written aside and renamed, checksummed and free of pickle (`interp.core.artifact`), so there is never half of one. The last few are
kept. There is no random state beside the seed: every draw is named (`interp.core.seed`), and the order of rows is the cursor.

A folder belongs to one training: with other options, dictionaries or data it is refused, and the difference is shown. Another version of
torch, or another number of threads, is only said: numbers may then differ in their last digits.
"""

import errno
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from ..core.artifact import META, STALE, Artifact, read_artifact
from ..core.errors import ArtifactError, BadInput
from .distributed import Parallel, Piece, read, write

KIND = "training"
FOLDER, PREFIX = "checkpoints", "tokens-"
ALONE = Parallel()
MOST_SHOWN = 12
"""Differences that a refusal lists."""


@dataclass(frozen=True)
class Checkpoints:
    """The checkpoints of one training folder."""

    folder: Path
    keep: int = 2
    parallel: Parallel = ALONE
    """The processes that train together; all of them call what reads or writes."""

    def __post_init__(self) -> None:
        if self.folder.exists() and not self.folder.is_dir():
            raise BadInput(f"{self.folder.name!r} is a file; a training needs a folder. Give another path.")
        if self.folder.is_dir() and not (self.folder / FOLDER).is_dir():
            held = sorted(path.name for path in self.folder.iterdir() if not path.name.startswith("."))
            if held:
                shown = ", ".join(map(repr, held[:4])) + (f" and {len(held) - 4} others" if len(held) > 4 else "")
                raise BadInput(
                    f"{self.folder.name!r} is no folder of a training: it holds {shown}, and no {FOLDER!r}. Give a new or an empty folder."
                )

    def all(self) -> list[Path]:
        """Those that are there, the last one last."""
        return sorted(path for path in (self.folder / FOLDER).glob(f"{PREFIX}*") if path.is_dir())

    def write(
        self,
        tokens: int,
        tensors: Mapping[str, Tensor],
        values: Mapping[str, Any],
        pieces: "Mapping[str, Piece] | None" = None,
    ) -> Path:
        """Keep a state after `tokens` rows, then remove the oldest beyond `keep`. Raises `ArtifactError` where it cannot be written.

        `pieces`: which rows of an array this process has, where processes share it.
        """
        target = self.folder / FOLDER / f"{PREFIX}{tokens:015d}"
        try:
            written = write(self.parallel, target, tensors, values, pieces, kind=KIND, overwrite=target.exists())
        except OSError as error:
            if isinstance(error, ArtifactError):
                raise
            raise ArtifactError(f"{target.name} could not be written: {error.strerror or error}.") from error
        for old in [*self.all()[: -self.keep], *self._unfinished()] if self.parallel.main else ():
            shutil.rmtree(old, ignore_errors=True)
        return written

    def _unfinished(self) -> list[Path]:
        """What writers that were killed left behind, once it is so old that nobody can be writing it."""
        return [
            path
            for path in (self.folder / FOLDER).glob(f".{PREFIX}*.writing")
            if time.time() - path.stat().st_mtime > STALE
        ]

    def last(self, identity: Mapping[str, Any], pieces: "Mapping[str, Piece] | None" = None) -> Artifact | None:
        """The last one (of it this process's `pieces`), None where there is none.

        Raises `BadInput` where it belongs to a training of another `identity` and `ArtifactError` where it is damaged; both say what to do.
        """
        found = self.all()
        self.parallel.same(
            [path.name for path in found], "checkpoints in the folder, which must be one that all of them see"
        )
        if not found:
            return None

        def chosen(meta: dict[str, Any]) -> Mapping[str, Piece]:
            self._refuse_other(meta["identity"], identity)
            return pieces or {}

        try:
            return read(self.parallel, found[-1], chosen, kind=KIND)
        except ArtifactError as error:
            raise ArtifactError(f"{error} {self._instead(found)}") from error

    def _refuse_other(self, was: Any, identity: Mapping[str, Any]) -> None:
        if differs := differences(was, identity):
            shown = [f"  {line}" for line in differs[:MOST_SHOWN]]
            shown += [f"  and {len(differs) - MOST_SHOWN} more"] if len(differs) > MOST_SHOWN else []
            raise BadInput(
                f"{self.folder.name!r} holds a training that is not this one. What differs (there -> here):\n"
                + "\n".join(shown)
                + "\nGive another folder, or go on with what it was begun with."
            )

    def _instead(self, found: list[Path]) -> str:
        """What can be done where the last checkpoint is damaged."""
        bad = found[-1].name
        for path in reversed(found[:-1]):
            try:
                read_artifact(path, kind=KIND)
            except ArtifactError:
                bad += f" and {path.name}"
                continue
            return f"The one before, at {tokens_of(path):,} tokens, is whole: remove {bad} from {FOLDER!r} to go on from there."
        return f"There is no older one that is whole: remove {self.folder.name!r} and train anew."


def tokens_of(path: Path) -> int:
    """After how many rows a checkpoint was written."""
    return int(path.name.removeprefix(PREFIX))


def is_full(error: BaseException) -> bool:
    """Whether a write failed because the disk is full."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and cause.errno in (errno.ENOSPC, errno.EDQUOT):
            return True
        cause = cause.__cause__
    return False


def has_checkpoint(folder: "str | Path") -> bool:
    """Whether a training was begun in a folder and left a checkpoint."""
    return any((path / META).is_file() for path in (Path(folder) / FOLDER).glob(f"{PREFIX}*"))


def differences(was: Any, now: Any, name: str = "") -> list[str]:
    """`field: was -> is` for everything that differs between two JSON values."""
    if isinstance(was, Mapping) and isinstance(now, Mapping):
        found = []
        for key in dict.fromkeys([*was, *now]):
            inner = f"{name}.{key}" if name else str(key)
            found += differences(was.get(key, "absent"), now.get(key, "absent"), inner)
        return found
    if isinstance(was, list | tuple) and isinstance(now, list | tuple) and len(was) == len(now):
        return [
            line
            for place, (a, b) in enumerate(zip(was, now, strict=True))
            for line in differences(a, b, f"{name}[{place}]")
        ]
    return [] if was == now else [f"{name}: {_short(was)} -> {_short(now)}"]


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
