"""What produced a result: model, tokens, options, code, versions, seeds, device.

A manifest travels with every result, figure and saved artefact. Its `hash`, eight hex digits in every corner and every repr, covers
what decides the numbers and nothing else: run the same thing tomorrow and the digits are the same; change a weight, a token, an
option, a seed, a library or one line of the code that computes, and they are not.

    manifest = Manifest.of(lm, analysis="CausalTrace", config={"window": 10}, inputs={"data": digest_of(facts)})
    manifest.hash                                               # '9f3a12c8'
    Manifest.from_dict(manifest.to_dict()) == manifest          # True

It holds no path, no user and no host: it may be published as it is. When it misleads: the same digits on two machines promise the
same recipe, not the same last bit; BLAS, threads and drivers still round differently.
"""

import hashlib
import json
import math
import platform
import subprocess
from collections.abc import Mapping, Set
from dataclasses import asdict, dataclass, field, fields, is_dataclass
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path, PureWindowsPath
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from .errors import ArtifactError, BadInput, WrongModel

if TYPE_CHECKING:
    from .lm import LM

SCHEMA = 1
LIBRARIES = ("torch", "transformers", "transformer-lens", "nnsight", "sae-lens", "numpy", "scipy")
ROOMS = ("core", "data", "models", "cache", "analyses", "train")  # the rooms whose code decides numbers


@dataclass(frozen=True)
class Manifest:
    """Provenance of one result, as plain JSON values."""

    schema: int = SCHEMA
    interp: str = ""
    """Version of the workbench."""
    code: str = ""
    """Content hash of the source that computes (8 hex digits); an uncommitted change shows."""
    git: dict[str, Any] | None = None
    """`{commit, dirty}` where the code is a checkout."""
    python: str = ""
    versions: dict[str, str] = field(default_factory=dict)
    """Versions of the libraries that are installed."""
    backend: str = ""
    """`transformer_lens`, `nnsight`, or empty where no model took part."""
    model: dict[str, Any] = field(default_factory=dict)
    """name, family, fingerprint, dtype, attention, processing, revision."""
    tokenizer: dict[str, Any] = field(default_factory=dict)
    """digest, and whether a BOS comes first."""
    analysis: str = ""
    """Name of the method's class."""
    config: dict[str, Any] = field(default_factory=dict)
    inputs: dict[str, str] = field(default_factory=dict)
    """Content hash of everything that went in."""
    seeds: dict[str, int] = field(default_factory=dict)
    device: str = ""
    """`cpu`, or the accelerator's kind and make."""
    started: str = ""
    """UTC, to the second."""
    seconds: float = 0.0
    """Wall-clock time of the computation."""

    @classmethod
    def of(
        cls,
        lm: "LM | None" = None,
        *,
        analysis: str = "",
        config: Mapping[str, Any] | None = None,
        inputs: Mapping[str, Any] | None = None,
        seeds: Mapping[str, int] | None = None,
        seconds: float = 0.0,
    ) -> "Manifest":
        """The manifest of something computed here and now. `inputs` are digests (strings) or things to take the digest of."""
        from interp import __version__

        given = {name: item if isinstance(item, str) else digest_of(item) for name, item in (inputs or {}).items()}
        common: dict[str, Any] = {
            "interp": __version__, "code": _code(), "git": _git(), "python": platform.python_version(), "versions": _versions(),
            "analysis": analysis, "config": publishable(dict(config or {})), "inputs": given, "seeds": dict(seeds or {}),
            "started": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"), "seconds": round(seconds, 3),
        }  # fmt: skip
        if lm is None:
            return cls(**common)
        spec, tokenizer = lm.spec, getattr(lm, "tokenizer", None)
        model = {
            "name": spec.name, "family": spec.family, "fingerprint": lm.fingerprint(), "dtype": spec.dtype,
            "attention": spec.attention, "processing": spec.processing, "revision": spec.revision,
        }  # fmt: skip
        seen = {} if tokenizer is None else {"digest": tokenizer.digest, "bos": tokenizer.default_bos}
        return cls(
            **common, backend=spec.backend, model=publishable(model), tokenizer=seen, device=_device(spec.device)
        )

    @property
    def hash(self) -> str:
        """Eight hex digits over what decides the numbers: not time, names, the interpreter or the state of git."""
        decides = asdict(self)
        for key in ("git", "python", "started", "seconds"):
            del decides[key]
        decides["model"] = {key: value for key, value in self.model.items() if key not in ("name", "revision")}
        return hashlib.sha256(_canonical(decides)).hexdigest()[:8]

    @property
    def line(self) -> str:
        """`interp 0.1.0 · atlas@607a30d2 · 9f3a12c8`: code, weights, run."""
        name, print_ = self.model.get("name"), str(self.model.get("fingerprint", ""))[:8]
        return " · ".join(filter(None, [f"interp {self.interp}", f"{name}@{print_}" if name else "", self.hash]))

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Manifest":
        """Read back what `to_dict` gave. Raises `ArtifactError` for a newer schema."""
        schema = values.get("schema", 0)
        if not isinstance(schema, int) or schema > SCHEMA:
            raise ArtifactError(f"the manifest has schema {schema}; this version reads up to {SCHEMA}. Upgrade interp.")
        known = {entry.name for entry in fields(cls)}
        if unknown := sorted(set(values) - known):
            raise ArtifactError(f"the manifest has fields {unknown} that schema {SCHEMA} does not. It was altered.")
        return cls(**values)


def refuse_other_model(manifest: Manifest, lm: "LM") -> None:
    """Raise `WrongModel` unless `lm` has the very weights and processing that the manifest was made with."""
    made, name = manifest.model, lm.spec.name
    if not made.get("fingerprint"):
        raise WrongModel(
            f"the artefact does not say which model it belongs to, so it cannot be used with {name}. Make it anew."
        )
    has = {"fingerprint": lm.fingerprint(), "processing": lm.spec.processing}
    for key, mine in has.items():
        if made.get(key) != mine:
            raise WrongModel(
                f"the artefact was made from {made.get('name')} ({key} {str(made.get(key))[:8]}), "
                f"not from {name} ({key} {mine[:8]}). Load that checkpoint, or make the artefact anew from this one."
            )


def digest_of(thing: Any) -> str:
    """Content hash (32 hex digits) of whatever is given to a method: its own `.digest()`, else that of its contents."""
    own = getattr(thing, "digest", None) or getattr(thing, "fingerprint", None)
    if own is not None and not isinstance(thing, type):
        return str(own() if callable(own) else own)
    content = hashlib.sha256()
    _feed(content, thing)
    return content.hexdigest()[:32]


def _feed(content: Any, thing: Any) -> None:
    match thing:
        case None | bool() | int() | float() | str() | bytes():
            content.update(f"{type(thing).__name__}:{thing!r};".encode())
        case Tensor() | np.ndarray() | np.generic():
            _feed_array(content, thing)
        case Path():
            if not thing.is_file():
                raise BadInput(
                    f"{thing.name!r} is not a file, so what it contains cannot be recorded. Pass a file or the data."
                )
            content.update(thing.read_bytes())
        case Mapping():
            content.update(b"{")
            for key in sorted(thing, key=str):
                _feed(content, str(key))
                _child(content, thing[key])
            content.update(b"}")
        case list() | tuple():
            content.update(b"[")
            for item in thing:
                _child(content, item)
            content.update(b"]")
        case Set():
            _feed(content, sorted(digest_of(item) for item in thing))
        case _ if is_dataclass(thing) and not isinstance(thing, type):
            content.update(type(thing).__name__.encode())
            _feed(content, {entry.name: getattr(thing, entry.name) for entry in fields(thing)})
        case _:
            text = repr(thing)
            if " at 0x" in text or hasattr(thing, "__next__"):
                raise BadInput(
                    f"a {type(thing).__name__} has no content that can be recorded. Pass a list, or give it a `digest()` method."
                )
            content.update(f"{type(thing).__name__}:{text};".encode())


def _child(content: Any, thing: Any) -> None:
    own = getattr(thing, "digest", None)
    _feed(content, digest_of(thing)) if callable(own) or isinstance(own, str) else _feed(content, thing)


def _feed_array(content: Any, array: "Tensor | np.ndarray | np.generic") -> None:
    content.update(f"{array.dtype}{tuple(array.shape)}".encode())
    if isinstance(array, Tensor):
        content.update(array.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    elif array.dtype.kind in "OUT":
        _feed(content, np.asarray(array).astype(object).ravel().tolist())
    else:
        content.update(np.asarray(array).tobytes())


def publishable(value: Any) -> Any:
    """The value as plain JSON: paths only by their last part, tensors by their digest, anything else by its text."""
    match value:
        case None | bool() | int():
            return value
        case float():
            return value if math.isfinite(value) else str(value)
        case np.generic():
            return publishable(value.item())
        case Path():
            return value.name
        case str():
            return _without_folder(value)
        case Mapping():
            return {str(key): publishable(item) for key, item in value.items()}
        case list() | tuple():
            return [publishable(item) for item in value]
        case Set():
            return sorted((publishable(item) for item in value), key=str)
        case Tensor() | np.ndarray():
            return f"{type(value).__name__}{list(value.shape)} {digest_of(value)[:8]}"
        case _ if is_dataclass(value) and not isinstance(value, type) and type(value).__str__ is object.__str__:
            return {entry.name: publishable(getattr(value, entry.name)) for entry in fields(value)}
        case _:
            text = str(value)
            return type(value).__name__ if " at 0x" in text else _without_folder(text)


def _without_folder(text: str) -> str:
    """A machine path cut to its last part; any other text as it is."""
    if "\n" in text or not (text.startswith(("/", "~/", "file:/")) or PureWindowsPath(text).drive):
        return text
    path = PureWindowsPath(text) if PureWindowsPath(text).drive else Path(text)
    return path.name or text


def _canonical(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def _device(device: str) -> str:
    kind = device.partition(":")[0]
    return f"cuda {torch.cuda.get_device_name(device)}" if kind == "cuda" and torch.cuda.is_available() else kind


@cache
def _versions() -> dict[str, str]:
    found = {}
    for library in LIBRARIES:
        try:
            found[library] = version(library)
        except PackageNotFoundError:
            continue
    return found


@cache
def _code() -> str:
    root = Path(__file__).parents[1]
    content = hashlib.sha256()
    for room in ROOMS:
        for path in sorted((root / room).rglob("*.py")):
            content.update(path.relative_to(root).as_posix().encode() + path.read_bytes())
    return content.hexdigest()[:8]


@cache
def _git() -> dict[str, Any] | None:
    root = Path(__file__).parents[2]
    if not (root / ".git").exists():
        return None
    try:
        command = ["git", "--no-optional-locks", "-C", str(root)]
        commit = subprocess.run([*command, "rev-parse", "HEAD"], capture_output=True, text=True, timeout=5, check=True)
        changed = subprocess.run(
            [*command, "status", "--porcelain", "-uno", "--", "interp"],
            capture_output=True,
            text=True,
            timeout=5,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return {"commit": commit.stdout.strip(), "dirty": bool(changed.stdout.strip())}
