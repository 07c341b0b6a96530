"""From a corpus to its activations, document by document, out of the store where there is one; and what a bootstrap must keep together."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr
from torch import Tensor

from interp.core.errors import BadInput
from interp.core.site import Site
from interp.data import Corpus, pack

if TYPE_CHECKING:
    from interp.core.lm import LM


def check_corpus(lm: "LM", data: object) -> None:
    """Raise `BadInput` unless `data` is a corpus whose documents fit the model's context and vocabulary."""
    if not isinstance(data, Corpus):
        raise BadInput(
            f"this method needs a corpus; not a {type(data).__name__}. Make one with `interp.data.corpus(source, lm.tokenizer)`."
        )
    if max(data.lengths) > lm.spec.n_ctx:
        raise BadInput(
            f"the longest document has {max(data.lengths)} tokens, the context of {lm.spec.name} is {lm.spec.n_ctx}. "
            "Make the corpus with `n_ctx=lm.spec.n_ctx`."
        )
    top = max(int(document.max()) for document in data.documents)
    if top >= lm.spec.vocab:
        raise BadInput(
            f"token {top} of the corpus is outside the vocabulary of {lm.spec.name} ({lm.spec.vocab}). Use this model's tokenizer."
        )


def check_predictable(lm: "LM", data: Any) -> None:
    """`check_corpus`, and that some document has a token to predict."""
    check_corpus(lm, data)
    if max(data.lengths) < 2:
        raise BadInput(
            "every document of the corpus is one token long: there is nothing to predict. Bring longer text."
        )


POSITIONS = 256
"""Positions of a document whose logits are held at once."""


def token_scores(lm: "LM", stream: Tensor, tokens: Tensor) -> Iterator[tuple[slice, Tensor, Tensor]]:
    """Parts of a document: which predictions (slice), their log-probabilities [pos, vocab], and the tokens that came [pos].

    `stream` is the residual stream [token, d_model] leaving the last block (or read as if it did); prediction j is of token j + 1.
    """
    for start in range(0, len(tokens) - 1, POSITIONS):
        here = slice(start, min(start + POSITIONS, len(tokens) - 1))
        logp = lm.unembed(stream[here]).float().log_softmax(dim=-1)
        yield here, logp, tokens[here.start + 1 : here.stop + 1].to(logp.device)


def streams(
    lm: "LM", data: Corpus, sites: Sequence[Site], store: Any = None, *, budget: int = 1024
) -> Iterator[tuple[int, dict[Site, Tensor]]]:
    """(place in the corpus, its activations [token, ...] at `sites`), document by document.

    With a store, the whole corpus is captured there first, or found there; without one, packed rows of `budget` tokens are read.
    """
    if store is not None:
        stored = store.capture(lm, data, sites, quiet=True)
        for place in range(len(data)):
            yield place, {site: stored[site].example(place) for site in sites}
        return
    for part in pack(data.lengths, budget):
        read = lm.read([data.documents[place] for place in part], sites)
        lengths = [data.lengths[place] for place in part]
        pieces = {site: values.split(lengths) for site, values in read.items()}
        for row, place in enumerate(part):
            yield place, {site: pieces[site][row] for site in sites}


def clusters_of(data: xr.Dataset) -> list[int] | None:
    """What a bootstrap over `document` must draw together: the pieces of one text, which are not independent of each other.

    None (each document by itself) where there is one text only: its intervals are then too narrow, and nothing better is known.
    """
    if "text" not in data.coords or len(np.unique(data["text"].values)) < 2:
        return None
    return [int(text) for text in data["text"].values]
