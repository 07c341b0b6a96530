"""Tiny models of every family as `LM`s, made once a session."""

from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from interp.models.base import BaseLM
from interp.models.load import wrap
from interp.models.tokenizer import HFTokenizer
from tests.models.tiny import tiny, tiny_tokenizer

BACKENDS = ("transformer_lens", "nnsight")


@cache
def tokenizer() -> HFTokenizer:
    from transformers import AutoTokenizer

    with TemporaryDirectory() as folder:
        return HFTokenizer(AutoTokenizer.from_pretrained(tiny_tokenizer(Path(folder))), "tiny")


@cache
def module(family: str, **overrides: Any) -> Any:
    return tiny(family, **overrides).requires_grad_(False)


@cache
def lm(family: str, backend: str, **overrides: Any) -> BaseLM:
    """A shared model: look at it, edit it inside a `with`, leave it as it was."""
    return wrap(module(family, **overrides), tokenizer(), f"tiny-{family}", backend=backend)  # type: ignore[arg-type]
