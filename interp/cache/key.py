"""The key of a capture: the content of everything that its numbers depend on, and nothing else.

    weights fingerprint x processing x dtype x attention implementation x tokenizer x ids, boundaries and padding x edits

hashed once, and per site the site's name and the stored dtype. Change one weight, one token, the BOS flag, the padding side, the dtype,
the attention implementation or an edit, and it is another key: a stale number cannot be read. What does not enter: the name or folder
of the model, the backend (both give the same numbers, which is tested), the device, the sizes of shards and forward passes.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from ..core.errors import one_of
from ..core.lm import LM
from ..core.site import Site
from .disk import canonical
from .source import Source

SCHEMA = 1
DTYPES: dict[str, tuple[str, torch.dtype]] = {
    "float32": ("F32", torch.float32),
    "bfloat16": ("BF16", torch.bfloat16),
    "float16": ("F16", torch.float16),
    "float64": ("F64", torch.float64),
}
"""Stored dtypes: name, safetensors' code, torch's."""


@dataclass(frozen=True)
class RunKey:
    """What all sites of one capture share."""

    parts: dict[str, Any]

    @classmethod
    def of(cls, lm: LM, source: Source, edits: Sequence[str] = ()) -> "RunKey":
        """The key of running `lm` over `source` with edits (see `check_edits`)."""
        return cls(
            {
                "schema": SCHEMA,
                "weights": lm.fingerprint(),
                "processing": lm.spec.processing,
                "dtype": lm.spec.dtype,
                "attention": lm.spec.attention,
                "tokenizer": lm.tokenizer.digest,
                "tokens": source.digest,
                "edits": list(edits),
            }
        )

    @property
    def digest(self) -> str:
        """32 hex digits; the name of the directory."""
        return hashlib.sha256(canonical(self.parts)).hexdigest()[:32]


def site_key(run: str, site: Site, dtype: str) -> str:
    """The key of one site of a capture, 32 hex digits. Its first eight are shown everywhere."""
    return hashlib.sha256(canonical([run, site.name, dtype])).hexdigest()[:32]


def dtype_name(dtype: "torch.dtype | str | None", lm: LM) -> str:
    """`float32` and the like; the model's own where none is given."""
    name = lm.spec.dtype if dtype is None else str(dtype).removeprefix("torch.")
    one_of("dtype", name, DTYPES)
    return name
