"""A result or a dictionary on disk: a directory, whole or not there, verified when opened, without pickle.

    meta.json             readable: what it is, its manifest, labels, and size and checksum of every file
    arrays.safetensors    the numbers

    path = trace.save("runs/trace")
    interp.open("runs/trace")                       # the same result, or an error that says what is damaged

Writing: a new artefact is written aside and renamed. An existing one is only replaced on request: new arrays are laid beside the old
under a name of their own, then `meta.json`, which names them, is replaced in one step. So a reader finds the old artefact or the new
one at every moment, on every file system, and a writer that is killed leaves the old one whole.
Reading: everything is checksummed, the JSON too. Checksums find damage, not malice; nothing that is read is ever executed.
"""

import importlib
import json
import math
import os
import shutil
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xxhash
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from .analysis import Result
from .errors import ArtifactError
from .labelled import pack, unpack
from .manifest import Manifest, refuse_other_model

__all__ = [
    "Artifact", "checked_artifact", "open_result", "read_artifact", "read_meta", "refuse_other_model", "save_result", "write_artifact",
]  # fmt: skip

SCHEMA = 1
META, ARRAYS = "meta.json", "arrays.safetensors"
RESERVED = ("format", "schema", "kind", "manifest", "files", "checksum")
STALE = 3600.0  # seconds after which what a killed writer left may be removed

Arrays = Mapping[str, Any] | Callable[[Path], None]
"""Tensors (or numpy arrays) by name, or a function that writes them as safetensors at a path."""


@dataclass(frozen=True, eq=False)
class Artifact:
    """What a directory held."""

    kind: str
    meta: dict[str, Any]
    """The writer's own fields."""
    tensors: dict[str, Tensor]
    manifest: Manifest | None


def save_result(result: Result, directory: str | Path, *, overwrite: bool = False) -> Path:
    """Write a result; returns its directory. Raises `ArtifactError` if something is there, unless `overwrite`."""
    arrays, labels = pack(result.data)
    kind = type(result)
    name = f"{kind.__module__}:{kind.__qualname__}"
    meta = {"class": name if _ours(kind.__module__) else None, "config": result.config, "labels": labels}
    return write_artifact(directory, arrays, meta, kind="result", manifest=result.manifest, overwrite=overwrite)


def open_result(directory: str | Path, kind: type[Result] | None = None) -> Result:
    """Read a result. `kind` is needed only for a result class of your own; without it that opens as a plain `Result`.

    Raises `ArtifactError` if anything is missing, damaged, of another kind or of a newer schema.
    """
    found = read_artifact(directory, kind="result")
    labels = found.meta.get("labels")
    if not isinstance(labels, dict):
        raise ArtifactError(f"{_name(directory)} has no labels, so it is no result. Save it anew.")
    data = unpack({name: tensor.numpy() for name, tensor in found.tensors.items()}, labels)
    result_class = kind or _result_class(found.meta.get("class"), directory)
    result = result_class.__new__(result_class)
    Result.__init__(result, data, config=found.meta.get("config"), manifest=found.manifest)
    return result


def write_artifact(
    directory: str | Path,
    tensors: Arrays,
    meta: Mapping[str, Any],
    *,
    kind: str = "arrays",
    manifest: Manifest | None = None,
    overwrite: bool = False,
) -> Path:
    """Write tensors and JSON values as one artefact; returns its directory.

    `tensors` may be a function that writes the safetensors file at the path it is given, for arrays that no memory holds.
    Raises `ArtifactError` if the directory exists (with `overwrite`, only if it is not an artefact of ours).
    """
    target = Path(directory)
    if clash := sorted(set(meta) & set(RESERVED)):
        raise ArtifactError(f"the fields {clash} are reserved. Rename them.")
    old = _existing(target, overwrite)
    described = manifest.to_dict() if manifest is not None else None
    head = {"format": "interp-artifact", "schema": SCHEMA, "kind": kind, "manifest": described, **_encode(dict(meta))}
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        if old is None:
            _create(target, tensors, head)
        else:
            _replace(target, tensors, head, old)
    except OSError as error:
        if isinstance(error, ArtifactError):
            raise
        raise ArtifactError(
            f"{target.name} could not be written: {error.strerror or error}. Free space, or choose another place."
        ) from error
    return target


def read_artifact(directory: str | Path, *, kind: str | None = None) -> Artifact:
    """Read and verify an artefact. Raises `ArtifactError` if anything is missing, damaged, of another kind or newer."""
    target = Path(directory)
    meta = _read_meta(target)
    while True:
        try:
            tensors = _read_arrays(target, meta)
            break
        except ArtifactError:
            again = _read_meta(target)
            if again["checksum"] == meta["checksum"]:  # else it was replaced by another process between the two reads
                raise
            meta = again
    _check_kind(target, meta, kind)
    manifest = Manifest.from_dict(meta["manifest"]) if meta["manifest"] else None
    own = {key: value for key, value in meta.items() if key not in RESERVED}
    return Artifact(meta["kind"], own, tensors, manifest)


def checked_artifact(directory: str | Path, *, kind: str, contents: bool = True) -> tuple[dict[str, Any], list[Path]]:
    """The writer's own fields and the safetensors files of an artefact, for readers that take parts of the arrays.

    The files are read whole and verified, but for `contents=False`: for a process beside one that does.
    """
    target = Path(directory)
    meta = _read_meta(target)
    _check_kind(target, meta, kind)
    paths = [
        _checked(target, name, said) if contents else target / Path(name).name for name, said in meta["files"].items()
    ]
    return {key: value for key, value in meta.items() if key not in RESERVED}, paths


def _check_kind(target: Path, meta: dict[str, Any], kind: str | None) -> None:
    if kind is not None and meta["kind"] != kind:
        raise ArtifactError(
            f"{target.name} is a {meta['kind']}, not a {kind}. Open it with the reader for a {meta['kind']}."
        )


def read_meta(directory: str | Path) -> dict[str, Any]:
    """The readable part, verified by its own checksum; arrays are not touched. Raises `ArtifactError`."""
    return _read_meta(Path(directory))


def _existing(target: Path, overwrite: bool) -> dict[str, Any] | None:
    """The files of the artefact that is to be replaced, None where there is nothing."""
    if not target.exists() or (target.is_dir() and not any(target.iterdir())):
        return None
    if not overwrite:
        raise ArtifactError(f"{target.name} exists already. Choose another name, or pass `overwrite=True`.")
    try:
        meta = json.loads((target / META).read_text(encoding="utf-8"))
        if meta["format"] != "interp-artifact":
            raise KeyError("format")
        return dict(meta["files"])
    except (OSError, ValueError, KeyError, TypeError):
        raise ArtifactError(
            f"{target.name} is not an artefact of interp, so it is not overwritten. Choose another name."
        ) from None


def _create(target: Path, tensors: Arrays, head: dict[str, Any]) -> None:
    aside = target.parent / f".{target.name}.{os.urandom(4).hex()}.writing"
    _sweep(target.parent.glob(f".{target.name}.*.writing"))
    aside.mkdir()
    try:
        files = _write_arrays(aside / ARRAYS, tensors)
        _write_meta(aside / META, head, files)
        _sync(aside)
        aside.rename(target)  # also onto an empty directory; fails if another writer came first
        _sync(target.parent)
    except BaseException:
        shutil.rmtree(aside, ignore_errors=True)
        raise


def _replace(target: Path, tensors: Arrays, head: dict[str, Any], old: Mapping[str, Any]) -> None:
    token = os.urandom(4).hex()
    arrays, meta = target / f"arrays-{token}.safetensors", target / f".{META}.{token}.writing"
    try:
        files = _write_arrays(arrays, tensors)
        _write_meta(meta, head, files)
        _sync(target)
        meta.replace(target / META)  # the one step in which the old becomes the new
        _sync(target)
    except BaseException:
        arrays.unlink(missing_ok=True)
        meta.unlink(missing_ok=True)
        raise
    for name in old:
        (target / Path(name).name).unlink(missing_ok=True)
    _sweep(path for path in target.glob("arrays*.safetensors") if path.name not in files)
    _sweep(target.glob(f".{META}.*.writing"))


def _write_arrays(path: Path, tensors: Arrays) -> dict[str, Any]:
    if isinstance(tensors, Mapping):
        _save(path, tensors)
    else:
        tensors(path)
    path.chmod(0o644)
    _sync(path)
    return {path.name: {"bytes": path.stat().st_size, "xxh3_128": _checksum(path)}}


def _save(path: Path, tensors: Mapping[str, Any]) -> None:
    plain = {name: _tensor(value) for name, value in tensors.items()}
    seen: set[int] = set()
    for name, tensor in plain.items():  # safetensors refuses tensors that share memory
        if tensor.untyped_storage().data_ptr() in seen:
            plain[name] = tensor.clone()
        seen.add(tensor.untyped_storage().data_ptr())
    try:
        save_file(plain, path)
    except SafetensorError as error:
        raise OSError(str(error)) from error


def _write_meta(path: Path, head: dict[str, Any], files: dict[str, Any]) -> None:
    meta = head | {"files": files}
    meta["checksum"] = _digest(meta)
    path.write_text(json.dumps(meta, indent=1, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")
    path.chmod(0o644)
    _sync(path)


def _read_meta(target: Path) -> dict[str, Any]:
    if not target.exists():
        raise ArtifactError(f"there is no {target.name!r} here. Check the path.")
    if not (target / META).is_file():
        raise ArtifactError(f"{target.name} has no {META}, so it is no artefact of interp, or it was cut short.")
    try:
        meta = json.loads((target / META).read_bytes().decode("utf-8"))
    except ValueError as error:
        raise ArtifactError(
            f"{target.name}/{META} is damaged ({error}). Restore it, or make the artefact anew."
        ) from None
    if not isinstance(meta, dict) or meta.get("format") != "interp-artifact":
        raise ArtifactError(f"{target.name}/{META} was not written by interp.")
    if isinstance(meta.get("schema"), int) and meta["schema"] > SCHEMA:
        raise ArtifactError(
            f"{target.name} has schema {meta['schema']}; this version reads up to {SCHEMA}. Upgrade interp."
        )
    said = meta.get("checksum")
    if said != _digest({key: value for key, value in meta.items() if key != "checksum"}):
        raise ArtifactError(
            f"{target.name}/{META} is damaged: its checksum does not hold. Restore it, or make the artefact anew."
        )
    decoded: dict[str, Any] = _decode(meta)
    return decoded


def _read_arrays(target: Path, meta: dict[str, Any]) -> dict[str, Tensor]:
    tensors: dict[str, Tensor] = {}
    for name, said in meta["files"].items():
        path = _checked(target, name, said)
        try:
            tensors |= load_file(path)
        except FileNotFoundError:
            raise ArtifactError(f"{target.name}/{name} is missing. Restore it, or make the artefact anew.") from None
        except (OSError, RuntimeError, SafetensorError) as error:
            raise ArtifactError(f"{target.name}/{name} cannot be read: {error}.") from error
    return tensors


def _checked(target: Path, name: str, said: Mapping[str, Any]) -> Path:
    """The path of a file of an artefact, once its size and checksum are found to hold."""
    path, shown = target / Path(name).name, f"{target.name}/{name}"
    try:
        if (size := path.stat().st_size) != said["bytes"]:
            raise ArtifactError(
                f"{shown} has {size} bytes of {said['bytes']}: it was cut short or altered. Restore it."
            )
        if _checksum(path) != said["xxh3_128"]:
            raise ArtifactError(f"{shown} is damaged: its checksum does not hold. Restore it, or make it anew.")
    except ArtifactError:
        raise
    except FileNotFoundError:
        raise ArtifactError(f"{shown} is missing. Restore it, or make the artefact anew.") from None
    except OSError as error:
        raise ArtifactError(f"{shown} cannot be read: {error}.") from error
    return path


def _result_class(name: Any, directory: str | Path) -> type[Result]:
    if name is None:
        return Result
    module, _, path = str(name).partition(":")
    if not _ours(module):
        raise ArtifactError(
            f"{_name(directory)} names the class {name!r}, which is not one of interp. It is not loaded."
        )
    try:
        found: Any = importlib.import_module(module)
        for part in path.split("."):
            found = getattr(found, part)
    except (ImportError, AttributeError):
        raise ArtifactError(
            f"{_name(directory)} is a {name!r}, which this version of interp lacks. Upgrade interp."
        ) from None
    if not (isinstance(found, type) and issubclass(found, Result)):
        raise ArtifactError(f"{_name(directory)} names {name!r}, which is not a result. It is not loaded.")
    return found


def _ours(module: str) -> bool:
    return module == "interp" or module.startswith("interp.")


def _name(directory: str | Path) -> str:
    return Path(directory).name


def _tensor(value: "Tensor | np.ndarray") -> Tensor:
    if isinstance(value, Tensor):
        return value.detach().cpu().contiguous()
    return torch.from_numpy(np.array(value, order="C"))


def _checksum(path: Path) -> str:
    content = xxhash.xxh3_128()
    with path.open("rb") as file:
        while block := file.read(1 << 22):
            content.update(block)
    return content.hexdigest()


def _digest(meta: dict[str, Any]) -> str:
    return xxhash.xxh3_128(
        json.dumps(meta, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
    ).hexdigest()


def _encode(value: Any) -> Any:
    """Numbers that JSON lacks as `{"float": "nan"}`."""
    if isinstance(value, Mapping):
        return {str(key): _encode(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_encode(item) for item in value]
    return {"float": repr(value)} if isinstance(value, float) and not math.isfinite(value) else value


def _decode(value: Any) -> Any:
    if isinstance(value, dict):
        if set(value) == {"float"} and value["float"] in ("nan", "inf", "-inf"):
            return float(value["float"])
        return {key: _decode(item) for key, item in value.items()}
    return [_decode(item) for item in value] if isinstance(value, list) else value


def _sweep(paths: Iterable[Path]) -> None:
    """Remove what killed writers left; never what a living one may be writing."""
    for path in paths:
        try:
            if time.time() - path.stat().st_mtime > STALE:
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        except OSError:
            continue


def _sync(path: Path) -> None:
    with suppress(OSError):  # some file systems cannot sync a directory
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
