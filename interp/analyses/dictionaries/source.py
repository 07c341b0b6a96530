"""The dictionary that a method is about: a folder's name, or the object."""

from pathlib import Path
from typing import Any

from interp.core.artifact import read_artifact
from interp.core.dictionary import Dictionary
from interp.core.errors import ArtifactError, BadInput


def opened(dictionary: "str | Path | Dictionary") -> Dictionary:
    """The dictionary itself. Raises `BadInput` for nothing, `ArtifactError` for what is no dictionary of ours."""
    if isinstance(dictionary, Dictionary):
        return dictionary
    if not dictionary:
        raise BadInput("`dictionary` is missing. Give the folder of a saved one (`interp train sae …` writes it).")
    inside = (
        sorted(Path(dictionary).glob("dictionary*/meta.json")) if not (Path(dictionary) / "meta.json").is_file() else []
    )
    if len(inside) > 1:
        named = ", ".join(f"{Path(dictionary).name}/{path.parent.name}" for path in inside)
        raise BadInput(
            f"{Path(dictionary).name} is a training of {len(inside)} dictionaries. Name one of them: {named}."
        )
    if inside:  # the folder of a training
        return Dictionary.load(inside[0].parent)
    try:
        return Dictionary.load(dictionary)
    except ArtifactError as error:
        if _foreign(Path(dictionary)):
            raise ArtifactError(
                f"{Path(dictionary).name} is not a dictionary that interp wrote. Convert it first: `interp dictionary import "
                f"{Path(dictionary).name} NEW`, or interp.train.formats.read(...)."
            ) from None
        raise error


def _foreign(path: Path) -> bool:
    if not path.exists():
        return False
    try:
        read_artifact(path)
    except ArtifactError:
        return not (path / "meta.json").is_file()
    return False


def described(dictionary: Any) -> dict[str, Any]:
    """What a result keeps of its dictionary: digest, family, sites."""
    found = opened(dictionary)
    return {
        "digest": found.digest,
        "family": found.config.family,
        "latents": found.latents,
        "sites": [f"{view.name}: {view.model} {view.site}" for view in found.config.views],
    }
