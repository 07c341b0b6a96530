"""Foreign weights, taken one by one under checks, and put together as a `Dictionary`.

A file of another library is a set of named tensors. Each is asked for by name and shape (`Tensors.take`), which refuses what is missing, of
another shape or not finite, and at the end whatever was never asked for is refused too (`Tensors.done`): a tensor that is not understood
would change what the dictionary computes. All messages name the file, the tensor and the shapes.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from ...core.dictionary import Dictionary, DictionaryConfig, Scaling
from ...core.errors import BadInput

Size = int | None


class Tensors:
    """Named tensors of one file, each to be taken once."""

    def __init__(self, found: Mapping[str, Tensor], where: str) -> None:
        """`where` is what messages call the file."""
        self.found, self.where = dict(found), where
        self.taken: set[str] = set()

    def __contains__(self, name: str) -> bool:
        return name in self.found

    def take(self, name: str, shape: Sequence[Size], *, infinite: bool = False) -> Tensor:
        """The tensor `name` in float32 (float64 stays); None in `shape` fits any size.

        Raises `BadInput` where it is missing, of another shape, or has NaN (or, without `infinite`, infinite) entries.
        """
        if name not in self.found:
            raise BadInput(
                f"{self.where} has no tensor {name!r}; it has {sorted(self.found)}. Is it a file of another kind, or incomplete?"
            )
        self.taken.add(name)
        tensor = self.found[name]
        fits = len(tensor.shape) == len(shape) and all(
            want is None or want == have for want, have in zip(shape, tensor.shape, strict=True)
        )
        if not fits:
            wanted = [size if size is not None else "any" for size in shape]
            raise BadInput(f"{name!r} of {self.where} must have the shape {wanted}; not {list(tensor.shape)}.")
        wide = tensor if tensor.dtype == torch.float64 else tensor.float()
        bad = int((wide.isnan() if infinite else ~wide.isfinite()).sum())
        if bad:
            raise BadInput(
                f"{bad} of the {wide.numel()} entries of {name!r} in {self.where} are not finite. The file is damaged."
            )
        return wide

    def number(self, name: str) -> float:
        """A tensor of one entry as a number."""
        if name in self.found and self.found[name].numel() == 1:
            self.taken.add(name)
            return float(self.found[name])
        return float(self.take(name, ()))

    def ignore(self, *names: str) -> None:
        """Count these as taken, where they are there."""
        self.taken |= set(names)

    def done(self) -> None:
        """Raise `BadInput` for tensors that nobody took."""
        if left := sorted(set(self.found) - self.taken):
            raise BadInput(
                f"{self.where} also holds {left}, which this reader does not know; without them the dictionary could be another one."
            )


def dictionary_of(
    config: DictionaryConfig,
    *,
    encoders: Sequence[Tensor],
    decoders: Sequence[Tensor],
    b_enc: Tensor,
    biases: Sequence[Tensor],
    thresholds: Tensor | None = None,
    threshold: "float | Sequence[float] | None" = None,
    skip: Tensor | None = None,
    scalings: Mapping[str, Scaling] | None = None,
    metadata: Mapping[str, Any] | None = None,
) -> Dictionary:
    """A dictionary of the weights given: rows of latents [latent of the view, d], in the order of the views of `config`.

    `thresholds` [latent] belong to jumprelu; those below zero become zero, which changes no code (a code is positive anyway).
    `threshold` (of batchtopk, on the scaled code) stays unset, so that encoding is refused, where it is None. Raises `BadInput` for
    shapes that do not fit.
    """
    new = Dictionary(config, scalings=scalings, metadata=metadata)
    given: list[tuple[str, Tensor, Tensor]] = [("b_enc", new.b_enc, b_enc)]
    for name, fresh, rows in (
        ("encoder", new.encoders, encoders),
        ("decoder", new.decoders, decoders),
        ("bias", new.biases, biases),
    ):
        given += [(f"{name} {place}", mine, row) for place, (mine, row) in enumerate(zip(fresh, rows, strict=True))]
    if config.activation == "jumprelu":
        if thresholds is None:
            raise BadInput("a jumprelu dictionary needs a threshold a latent.")
        given.append(("thresholds", new.thresholds, thresholds.clamp(min=0)))
    if skip is not None:
        given.append(("skip", new.skip_weight, skip))
    for name, mine, value in given:
        if mine.shape != value.shape:
            raise BadInput(f"{name} must have the shape {list(mine.shape)}; not {list(value.shape)}.")
        mine.data.copy_(value)
    if threshold is not None:
        new.threshold.copy_(torch.as_tensor(threshold, dtype=torch.float64).reshape(-1))
    return new


def rows_of(matrix: Tensor) -> Tensor:
    """A [d, latent] matrix as rows of latents."""
    return matrix.mT.contiguous()


def unit_rows(
    encoder: Tensor, b_enc: Tensor, decoder: Tensor, thresholds: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor, "Tensor | None"]:
    """Move decoder norms into the encoder: codes are multiplied by the norm of their decoder row, and rows have length 1.

    A row of zeros stays one (norms below 1e-8 count as 1e-8, as in SAELens).
    """
    norms = decoder.norm(dim=1).clamp(min=1e-8)
    raised = None if thresholds is None else thresholds * norms
    return encoder * norms[:, None], b_enc * norms, decoder / norms[:, None], raised


def dtype_name(tensors: Iterable[Tensor]) -> str:
    """`float64` where any is, else `float32`: narrower weights are widened, which changes none."""
    return "float64" if any(tensor.dtype == torch.float64 for tensor in tensors) else "float32"


def load_json(path: Path) -> dict[str, Any]:
    """A JSON object. Raises `BadInput` for anything else."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BadInput(f"{path.name} is no JSON that can be read: {error}.") from None
    if not isinstance(found, dict):
        raise BadInput(f"{path.name} must hold one JSON object; it holds a {type(found).__name__}.")
    return found


def load_tensors(path: Path) -> Tensors:
    """A safetensors file. Raises `BadInput` where it is damaged."""
    try:
        return Tensors(load_file(path), f"{path.parent.name}/{path.name}")
    except (OSError, SafetensorError) as error:
        raise BadInput(f"{path.name} is no safetensors file that can be read: {error}.") from None


def load_pickle(path: Path) -> Tensors:
    """A state dict written by `torch.save`, read without executing anything (`weights_only`); prefixes of torch.compile are dropped.

    Raises `BadInput` for a file that holds anything but tensors and plain values.
    """
    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises pickle, runtime, key and zip errors here
        first = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise BadInput(
            f"{path.name} cannot be read as tensors alone: {first} It would have to be executed, which is never done. Save its state dict."
        ) from None
    if not isinstance(found, Mapping):
        raise BadInput(f"{path.name} must hold a state dict; it holds a {type(found).__name__}.")
    tensors = {str(key).replace("_orig_mod.", ""): value for key, value in found.items() if isinstance(value, Tensor)}
    return Tensors(tensors, f"{path.parent.name}/{path.name}")


def whole(value: object, what: str, where: str) -> int:
    """A positive whole number of a configuration."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or value != int(value) or value < 1:
        raise BadInput(f"{what!r} of {where} must be a whole number above 0; not {value!r}.")
    return int(value)
