"""Writing a foreign folder so that it is whole or not there."""

import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ...core.errors import ArtifactError


@contextmanager
def aside(folder: Path, *, overwrite: bool, replaces: Sequence[str]) -> Iterator[Path]:
    """A place to write to that becomes `folder` at the end, and is removed where something fails.

    Raises `ArtifactError` if something is there, unless `overwrite` and it holds no files but `replaces`.
    """
    there = sorted(entry.name for entry in folder.iterdir()) if folder.is_dir() else []
    if folder.exists() and not folder.is_dir():
        raise ArtifactError(f"{folder.name} is a file. Choose another name.")
    if there and not overwrite:
        raise ArtifactError(f"{folder.name} exists already. Choose another name, or pass `overwrite=True`.")
    if strange := [name for name in there if name not in replaces]:
        raise ArtifactError(f"{folder.name} also holds {strange}, which would be lost. Choose another name.")
    folder.parent.mkdir(parents=True, exist_ok=True)
    place = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        yield place
        mask = _umask()
        for written in place.iterdir():  # safetensors makes files that only their owner can read
            written.chmod(0o666 & ~mask)
        place.chmod(0o777 & ~mask)
        if folder.exists():
            shutil.rmtree(folder)
        place.replace(folder)
    except OSError as error:
        if isinstance(error, ArtifactError):
            raise
        raise ArtifactError(
            f"{folder.name} could not be written: {error.strerror or error}. Free space, or choose another place."
        ) from error
    finally:
        shutil.rmtree(place, ignore_errors=True)


def write_json(path: Path, values: dict[str, Any]) -> None:
    """Readable JSON."""
    path.write_text(json.dumps(values, indent=2, allow_nan=False) + "\n", encoding="utf-8")


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
