"""A dictionary on disk: an artefact whose arrays are its weights, thresholds and scalings."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ..artifact import read_artifact, write_artifact
from ..errors import ArtifactError, BadInput
from .config import DictionaryConfig
from .scaling import Scaling

if TYPE_CHECKING:
    from .coder import Dictionary

KIND = "dictionary"


def save(dictionary: "Dictionary", folder: "str | Path", *, overwrite: bool = False) -> Path:
    """Write it; returns the folder. Raises `ArtifactError` where something is there, unless `overwrite`."""
    tensors, meta = parts(dictionary)
    return write_artifact(folder, tensors, meta, kind=KIND, overwrite=overwrite)


def parts(dictionary: "Dictionary") -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Arrays by name and JSON values, as they are written; checkpoints hold the same."""
    tensors = {name: tensor.detach().cpu() for name, tensor in dictionary.state_dict().items()}
    for name, scaling in dictionary.scalings.items():
        tensors[f"scaling.{name}.mean"] = scaling.mean.cpu()
        tensors[f"scaling.{name}.factor"] = torch.tensor(scaling.factor, dtype=torch.float64)
    return tensors, {"config": dictionary.config.to_dict(), "metadata": dictionary.metadata}


def load(folder: "str | Path") -> "Dictionary":
    """Read it back."""
    found = read_artifact(folder, kind=KIND)
    return build(found.tensors, found.meta, Path(folder).name)


def build(tensors: dict[str, torch.Tensor], meta: dict[str, Any], name: str) -> "Dictionary":
    """A dictionary of what `parts` gave. Raises `ArtifactError` where these do not fit together."""
    from .coder import Dictionary

    try:
        config = DictionaryConfig.from_dict(meta["config"])
        scalings = {
            view.name: Scaling(tensors[f"scaling.{view.name}.mean"], float(tensors[f"scaling.{view.name}.factor"]))
            for view in config.views
        }
        new = Dictionary(config, scalings=scalings, metadata=meta.get("metadata"))
        new.load_state_dict({key: value for key, value in tensors.items() if not key.startswith("scaling.")})
    except (KeyError, TypeError, RuntimeError, BadInput) as error:
        raise ArtifactError(f"{name} is no dictionary that can be read: {error}. Save it anew.") from None
    return new
