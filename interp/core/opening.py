"""Open whatever was saved: a result or a dictionary, by what its folder says it is."""

from pathlib import Path
from typing import Any

from .analysis import Result
from .artifact import open_result, read_meta
from .errors import ArtifactError


def open_saved(directory: str | Path, kind: type[Result] | None = None) -> Any:
    """A `Result` or a `Dictionary`. `kind` is needed only for a result class of your own.

    Raises `ArtifactError` if anything is missing, damaged, of a newer schema, or of a kind that cannot be opened by itself.
    """
    said = read_meta(directory)["kind"]
    if said == "dictionary":
        from .dictionary import Dictionary

        return Dictionary.load(directory)
    if said != "result":
        raise ArtifactError(
            f"{Path(directory).name} is a {said}, not a result or a dictionary. It belongs to something larger."
        )
    return open_result(directory, kind)
