"""From a corpus to forward passes and back to texts: documents of like length together within a token budget; what to resample."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
import xarray as xr

from interp.core.batch import Batch
from interp.core.errors import BadInput
from interp.data import Corpus

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


def batches_of(data: Corpus, budget: int) -> Iterator[tuple[list[int], Batch]]:
    """(places in the corpus, their batch), shortest documents first, at most `budget` tokens with padding (or one document)."""
    order = sorted(range(len(data)), key=lambda place: (data.lengths[place], place))
    places: list[int] = []
    for place in order:
        if places and (len(places) + 1) * data.lengths[place] > budget:
            yield places, _batch(data, places)
            places = []
        places.append(place)
    if places:
        yield places, _batch(data, places)


def clusters_of(data: xr.Dataset) -> list[int] | None:
    """What a bootstrap over `document` must draw together: the pieces of one text, which are not independent of each other.

    None (each document by itself) where there is one text only: its intervals are then too narrow, and nothing better is known.
    """
    if "text" not in data.coords or len(np.unique(data["text"].values)) < 2:
        return None
    return [int(text) for text in data["text"].values]


def _batch(data: Corpus, places: list[int]) -> Batch:
    rows = [data.documents[place].tolist() for place in places]
    return Batch.padded(rows, ids=tuple(data.ids[place] for place in places))
