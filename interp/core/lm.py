"""What every method sees of a model, whoever answers.

Methods take an `LM`; they never import a backend. Two backends implement it (`interp.models`), and a third would only have to pass the
same parity tests.
"""

import os
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor

from .batch import Batch
from .edit import Edit
from .generation import Generation
from .run import Run
from .site import Site, SiteInfo
from .spec import ModelSpec, TensorInfo


@dataclass(frozen=True)
class Encoding:
    """A text as tokens, with the characters each token stands for."""

    ids: tuple[int, ...]
    offsets: tuple[tuple[int, int], ...]
    """Character range [start, end) of each token in the text; (0, 0) for a BOS."""
    bos: bool
    """Whether the first id is a BOS that the text does not contain."""


class Tokenizer(Protocol):
    """Text to ids and back, with an explicit BOS."""

    name: str
    vocab: int
    bos_id: int | None
    default_bos: bool
    """Whether this model is meant to see a BOS first; recorded with every result."""

    @property
    def digest(self) -> str:
        """Content hash of the vocabulary, merges and special tokens."""

    def encode(self, text: str, *, bos: bool | None = None) -> Encoding:
        """Ids and offsets. `bos=None` follows `default_bos`. Never adds anything else, never truncates."""

    def decode(self, ids: Sequence[int]) -> str:
        """Text of ids, special tokens included."""

    def label(self, token_id: int) -> str:
        """One token as a reader wants to see it on an axis: `␣Paris`, `⏎`, `<bos>`."""


class Recording(Protocol):
    """A stored run that `LM.resume` can start from: hidden states, keys and values, the layers' arguments."""

    @property
    def batch(self) -> Batch:
        """What was run."""

    @property
    def edits(self) -> tuple[Edit, ...]:
        """Edits that the recorded run was under."""

    @property
    def run(self) -> Run:
        """Logits and whatever was captured."""

    @property
    def nbytes(self) -> int:
        """Memory that the recording holds."""


class Weights(Protocol):
    """Parameter views in one convention, `x @ W`: W_Q [head, d_model, d_head], W_O [head, d_head, d_model], W_in [d_model, d_mlp]."""

    def __getattr__(self, name: str) -> Any: ...


class Tuning(Protocol):
    """A model whose parameters may be trained until the end of a `with`."""

    parameters: dict[str, Tensor]
    """The model's own parameters by transformers' names: leaves that require gradients. Write to them in place only."""

    def logits(self, tokens: "Batch | Tensor | Sequence[Any] | str") -> Tensor:
        """Logits [row, pos, vocab], float32, with a graph to `parameters`; leave padded positions out of a loss."""

    def run(
        self,
        tokens: "Batch | Tensor | Sequence[Any] | str",
        *,
        capture: "str | Site | Sequence[str | Site]" = (),
        edits: Sequence[Edit] = (),
    ) -> Run:
        """As `LM.run`, with logits and captures in a graph to `parameters`."""

    def values(self) -> dict[str, Tensor]:
        """Copies of the parameters as they are now, without a graph; `LM.edit_weights` takes them."""


class LM(Protocol):
    """A causal language model, borrowed: after any call it is bit for bit what it was before."""

    spec: ModelSpec
    tokenizer: Tokenizer

    def sites(self, like: str | None = None) -> list[SiteInfo]:
        """Every site this model has, optionally only those whose name contains `like`."""

    def encode(self, text: str | Sequence[str], *, bos: bool | None = None) -> Batch:
        """Texts as a batch (right-padded where they differ in length)."""

    def run(
        self,
        tokens: "Batch | Tensor | Sequence[Any] | str",
        *,
        capture: "str | Site | Sequence[str | Site]" = (),
        edits: Sequence[Edit] = (),
        grad: bool = False,
        stop_after: "Site | str | None" = None,
    ) -> Run:
        """One forward pass. Captures hold what the site was after its edits; they are detached unless `grad`.

        Raises `UnknownSite`, `EditDidNotFire`, `CaptureEmpty`.
        """

    def record(
        self, tokens: "Batch | Tensor | Sequence[Any]", *, capture: Any = (), edits: Sequence[Edit] = ()
    ) -> Recording:
        """A run that keeps what partial recomputation needs. Rows must be unpadded."""

    def resume(
        self,
        base: Recording,
        cells: Sequence[Sequence[Edit]],
        *,
        positions: Sequence[int] = (-1,),
        readout: Callable[[Tensor, Tensor], Tensor] | None = None,
    ) -> Tensor:
        """Outcomes of the recorded run with each cell's further edits, recomputing only what they can change.

        Returns logits [cell, row, position, vocab] at `positions`, equal to `run(tokens, edits=base.edits + cell)`.
        `readout(logits [n, position, vocab], rows [n])` reduces the last axis at once, so that no vocabulary is held for every cell. It is
        given some rows and some of the positions at a time, so it must treat each of them by itself.
        """

    def resume_sites(
        self,
        base: Recording,
        cells: Sequence[Sequence[Edit]],
        sites: Sequence[Site],
        *,
        at: Sequence[int] | None = None,
    ) -> dict[Site, Tensor]:
        """What each cell makes of `sites`: [cell, row, pos, ...] at the positions `at` (all where None), equal to a run's captures."""

    def read(self, documents: Sequence[Tensor], sites: Sequence[Site]) -> dict[Site, Tensor]:
        """Activations of whole documents [token, ...], concatenated in order, each attending to itself only.

        No padding, no unembedding; stops after the last site that is needed.
        """

    def unembed(self, stream: Tensor) -> Tensor:
        """Logits [..., vocab] of a residual stream [..., d_model] as if it left the last block: final norm, unembedding, soft cap."""

    @property
    def weights(self) -> Weights:
        """Views of the parameters, in one convention for every family."""

    def edit_weights(self, changes: "dict[str, Tensor]") -> "AbstractContextManager[None]":
        """Parameters replaced by name inside a `with`; restored bit for bit, also after an exception."""

    def generate(
        self,
        prompts: "Batch | Tensor | Sequence[Any] | str",
        tokens: int = 100,
        *,
        edits: Sequence[Edit] = (),
        stop: Any = None,
    ) -> Generation:
        """Greedy continuations of texts, ids of any lengths or a batch, at most `tokens` long, up to the model's end-of-text token.

        `edits` act at every token, those of the prompt included, and must be defined at every one; `stop` are further tokens (ids, or
        texts of one token) that end a row. Equal to a loop of `run` and argmax, but for ties.
        """

    def tuning(self, parameters: "str | Sequence[str] | None" = None) -> "AbstractContextManager[Tuning]":
        """Parameters that may be trained inside a `with`, and are bit for bit what they were after it, also after an exception.

        `parameters` are transformers' names or patterns of them; None means all weights of the layers, embeddings excluded.
        """

    def save(self, folder: "str | os.PathLike[str]", overwrite: bool = False) -> Path:
        """Write the model as it is now, weight edits included, as a Hugging Face folder that `interp.load` reads."""

    def fidelity(self) -> Any:
        """Whether this model answers as plain transformers does; `.line` says it in a line, `.ok` in a word."""

    def fingerprint(self) -> str:
        """Content hash of every parameter (32 hex digits); any changed weight changes it."""

    def tensors(self) -> list[TensorInfo]:
        """Every parameter: name, shape, dtype and content hash."""
