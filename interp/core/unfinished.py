"""Finished parts of a long computation, kept in a folder, so that an interrupted one goes on where it stopped.

    parts = Unfinished("runs/unfinished", key="of these options, this model and these data")
    for number, batch in enumerate(batches):
        found = parts.get(f"batch-{number}")               # None, or the arrays and JSON values that were put
        if found is None:
            parts.put(f"batch-{number}", {"score": np.asarray(batch)}, {"rows": len(batch)})

Each part is an artefact: written aside and renamed, checksummed when read. Every part carries the key of the computation that it belongs
to; a folder that holds parts of another one (other options, model or data) is refused, never mixed in. Without a folder nothing is kept.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from .artifact import META, read_artifact, write_artifact
from .errors import ArtifactError, BadInput


class Unfinished:
    """The parts in one folder that belong to one computation."""

    def __init__(self, folder: "str | Path | None", key: str, *, what: str = "computation") -> None:
        self.folder, self.key, self.what = Path(folder) if folder else None, key, what
        if self.folder is not None and self.folder.exists() and not self.folder.is_dir():
            raise BadInput(f"{self.folder.name!r} is a file; finished parts need a folder. Give another path.")

    def get(self, part: str) -> tuple[dict[str, np.ndarray], dict[str, Any]] | None:
        """Arrays and values of a finished part; None where it is not finished.

        Raises `ArtifactError` for a damaged part and for one of another computation.
        """
        if self.folder is None or not (self.folder / part / META).is_file():
            return None
        found = read_artifact(self.folder / part, kind="part")
        if found.meta.get("key") != self.key:
            raise ArtifactError(
                f"{self.folder.name!r} holds parts of another {self.what}: other options, model or data. Give another folder, or "
                "remove this one."
            )
        return {name: tensor.numpy() for name, tensor in found.tensors.items()}, dict(found.meta["values"])

    def put(self, part: str, arrays: Mapping[str, np.ndarray], values: Mapping[str, Any]) -> None:
        """Keep a finished part: arrays, and values that JSON can hold."""
        if self.folder is not None:
            write_artifact(
                self.folder / part, arrays, {"key": self.key, "values": dict(values)}, kind="part", overwrite=True
            )
