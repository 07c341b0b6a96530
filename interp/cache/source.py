"""What is captured: a batch or a corpus, as documents of real tokens and the forward passes that read them.

Rows of the store are the *real* tokens, document after document; padding is never stored. Three things can be given:

    a `Batch`                 rows run together as they are, padding included, so positions of edits mean what they mean in `run`
    a corpus                  anything with `.documents`, a sequence of int64 tensors [token]
    a list of documents       int64 tensors [token]

Corpora go through `LM.read`, which packs documents without padding and stops early. With edits they become a right-padded batch.
"""

import dataclasses
import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

from ..core.batch import At, Batch
from ..core.edit import Edit
from ..core.errors import BadInput, EditDidNotFire
from ..core.lm import LM
from ..core.site import Site

Forward: TypeAlias = Callable[[int, int], dict[Site, Tensor]]


@dataclass(frozen=True, eq=False)
class Source:
    """Documents of real tokens, and what they came from."""

    digest: str
    """Content hash of what was given: ids and boundaries; for a batch also its padding."""
    rows: str
    """Content hash of the real tokens and boundaries alone: two captures with the same one have rows that line up."""
    tokens: np.ndarray
    """Ids of all documents end to end, int32 [row]."""
    offsets: np.ndarray
    """Where documents start and end, int64 [document + 1]."""
    names: tuple[str, ...]
    """A name a document."""
    documents: Sequence[Tensor] = ()
    batch: Batch | None = None

    @classmethod
    def of(cls, what: Any) -> "Source":
        """Read a batch, a corpus or a list of documents. Raises `BadInput` where it is empty or not tokens."""
        if isinstance(what, Source):
            return what
        batch = what if isinstance(what, Batch) else None
        documents = _documents(what)
        arrays = [document.cpu().numpy().astype(np.int32) for document in documents]
        offsets = np.cumsum([0, *map(len, arrays)], dtype=np.int64)
        tokens = np.concatenate(arrays)
        rows = hashlib.sha256(b"documents-1|" + offsets.tobytes() + b"|" + tokens.tobytes()).hexdigest()[:32]
        names = tuple(getattr(what, "ids", ())) or tuple(str(i) for i in range(len(arrays)))
        digest = rows if batch is None else f"batch-{batch.digest()}"
        return cls(digest, rows, tokens, offsets, names, documents, batch)

    def check(self, lm: LM) -> None:
        """Refuse what this model cannot read, before any forward pass."""
        longest = int(np.diff(self.offsets).max())
        if longest > lm.spec.n_ctx:
            name = self.names[int(np.diff(self.offsets).argmax())]
            raise BadInput(
                f"document {name!r} has {longest} tokens; the context of {lm.spec.name} is {lm.spec.n_ctx}. Cut it (n_ctx={lm.spec.n_ctx})."
            )
        low, high = int(self.tokens.min()), int(self.tokens.max())
        if low < 0 or high >= lm.spec.vocab:
            raise BadInput(
                f"token ids run from {low} to {high}; {lm.spec.name} has ids 0 to {lm.spec.vocab - 1}. Use the model's own tokenizer."
            )

    def padded(self) -> Batch:
        """The batch that was given, or all documents padded on the right."""
        if self.batch is not None:
            return self.batch
        return Batch.padded([document.tolist() for document in self.documents], ids=self.names)

    def forward(self, lm: LM, sites: Sequence[Site], edits: Sequence[Edit]) -> Forward:
        """A function from a range of documents to activations [row, ...] of those documents."""
        if self.batch is None and not edits:
            return lambda first, last: lm.read(self.documents[first:last], sites)
        batch = self.padded()
        last_site = max(sites, key=lambda site: site.order)

        def run(first: int, last: int) -> dict[Site, Tensor]:
            rows = batch.rows(slice(first, last))
            here = [slice_edit(edit, batch, first, last) for edit in edits]
            done = lm.run(rows, capture=sites, edits=here, stop_after=last_site)
            return {site: done[site][rows.mask.to(done[site].device)] for site in sites}

        return run

    def chunks(self, first: int, last: int, budget: int, edits: Sequence[Edit] = ()) -> Iterator[tuple[int, int]]:
        """Ranges of documents for one forward pass each, of about `budget` tokens, padding counted."""
        lengths = np.diff(self.offsets)
        padded = self.batch is not None or bool(edits)
        width = (self.batch.tokens.shape[1] if self.batch is not None else int(lengths.max())) if padded else 0
        start, total = first, 0
        for document in range(first, last):
            cost = width or int(lengths[document])
            if document > start and total + cost > budget:
                yield start, document
                start, total = document, 0
            total += cost
        if start < last:
            yield start, last


def check_edits(edits: Sequence[Edit], source: Source, sites: Sequence[Site]) -> list[str]:
    """What each edit does to this source, as text for the key. Refuses edits that cannot act on any of the sites.

    A named span has no content of its own, so the positions that it resolves to are part of the text.
    """
    if not edits:
        return []
    batch, end = source.padded(), max(sites, key=lambda site: site.order)
    out = []
    for edit in edits:
        where = edit.where(batch)
        late = edit.site.order > end.order
        if (late or not bool(where.any())) and not edit.may_not_fire:
            why = f"it comes after the last captured site, {end}" if late else "no such position"
            raise EditDidNotFire(
                f"the edit «{edit.describe()}» would change nothing: {why}. Check its site and positions."
            )
        out.append(f"{edit.digest()}@{At.mask(where).describe()}")
    return out


def slice_edit(edit: Edit, batch: Batch, first: int, last: int) -> Edit:
    """The same edit for some rows of the batch it was written for."""
    where = edit.where(batch)[first:last]
    rank = len(edit.site.dims)

    def cut(value: Any) -> Any:
        full = isinstance(value, Tensor) and value.ndim == rank and value.shape[0] == len(batch)
        return value[first:last] if full else value

    quiet = edit.may_not_fire or not bool(where.any())
    changes = {"at": At.mask(where), "value": cut(edit.value), "strength": cut(edit.strength), "may_not_fire": quiet}
    return dataclasses.replace(edit, **changes)


def _documents(what: Any) -> Sequence[Tensor]:
    if isinstance(what, Batch):
        tokens, mask = what.tokens.cpu(), what.mask.cpu()
        return [row[keep] for row, keep in zip(tokens, mask, strict=True)]
    documents = getattr(what, "documents", what)
    if isinstance(documents, str | bytes) or not isinstance(documents, Sequence):
        raise BadInput(
            f"cannot capture a {type(what).__name__}. Give a Batch, a Corpus or a list of int64 tensors [token]."
        )
    if not len(documents):
        raise BadInput("there are no documents to capture. Give at least one.")
    for index, document in enumerate(documents):
        if not isinstance(document, Tensor) or document.ndim != 1 or document.dtype not in (torch.int64, torch.int32):
            kind = (document.dtype, tuple(document.shape)) if isinstance(document, Tensor) else type(document).__name__
            raise BadInput(f"document {index} must be token ids, an int64 tensor [token]; not {kind}.")
        if not len(document):
            raise BadInput(f"document {index} has no tokens. Drop it.")
    return documents
