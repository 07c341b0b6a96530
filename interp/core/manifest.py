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
import platform
import subprocess
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from .digest import digest_of, publishable
from .errors import ArtifactError, WrongModel

if TYPE_CHECKING:
    from .lm import LM

__all__ = ["Manifest", "digest_of", "publishable", "refuse_other_model"]

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
