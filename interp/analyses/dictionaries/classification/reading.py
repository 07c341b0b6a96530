"""Labelled texts as sparse codes and activations, a row a token, without the first tokens."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.sparse as sp
import torch

from interp.cache.gather import gather
from interp.core.dictionary import Dictionary
from interp.core.errors import BadInput
from interp.core.progress import track
from interp.data import Corpus, TokenPrompt, pack

from ..latents.reading import read_views

if TYPE_CHECKING:
    from interp.core.lm import LM

BUDGET = 2048
"""Tokens of one forward pass, and of one encoding."""


@dataclass(frozen=True, eq=False)
class Read:
    """All texts, token by token."""

    codes: sp.csr_matrix
    """[token, latent]"""
    rows: np.ndarray
    """What the dictionary reads, float32 [token, d]; several views after one another."""
    starts: np.ndarray
    """Where each text begins, and the end, int64 [text + 1]."""
    ids: np.ndarray
    """Token ids, int64 [token]."""


def check_lengths(tokens: Sequence[TokenPrompt], skip: int) -> None:
    """Refuse texts of which nothing is left."""
    short = [text.prompt.text for text in tokens if len(text) <= skip]
    if short:
        raise BadInput(
            f"{len(short)} of {len(tokens)} texts have no token beyond the first {skip} that are left out (`skip_first`), such as "
            f"{short[0][:80]!r}. Take them out, or a smaller `skip_first`."
        )


def read_texts(dictionary: Dictionary, lm: "LM", tokens: Sequence[TokenPrompt], skip: int, store: Any) -> Read:
    """Codes and activations of every text but its first `skip` tokens; out of the store, where there is one."""
    names = [str(place) for place in range(len(tokens))]
    corpus = Corpus.from_ids([text.ids for text in tokens], ids=names, source="texts", bos=tokens[0].bos)
    begin = np.cumsum([0, *corpus.lengths])
    stored = None if store is None else gather(dictionary.config.reads, [lm], corpus, store, quiet=True)
    codes: dict[int, sp.csr_matrix] = {}
    rows: dict[int, np.ndarray] = {}
    for part in track(pack(corpus.lengths, BUDGET), "codes"):
        if stored is None:
            read = read_views(dictionary, [lm], corpus, part)
        else:
            numbers = torch.from_numpy(np.concatenate([np.arange(begin[place], begin[place + 1]) for place in part]))
            read = {name: view.take(numbers).float().to(dictionary.device) for name, view in stored.items()}
        sparse, dense = _encoded(dictionary, read)
        ends = np.cumsum([0, *(corpus.lengths[place] for place in part)])
        for place, first, last in zip(part, ends, ends[1:], strict=False):
            codes[place], rows[place] = sparse[first + skip : last], dense[first + skip : last]
    order = range(len(tokens))
    starts = np.cumsum([0, *(len(rows[place]) for place in order)])
    ids = np.concatenate([np.asarray(text.ids[skip:], dtype=np.int64) for text in tokens])
    return Read(sp.vstack([codes[p] for p in order], format="csr"), np.concatenate([rows[p] for p in order]), starts, ids)  # fmt: skip


def _encoded(dictionary: Dictionary, read: dict[str, torch.Tensor]) -> tuple[sp.csr_matrix, np.ndarray]:
    found = dictionary.codes(read)
    dense = torch.cat([read[view.name].flatten(1).cpu().float() for view in dictionary.config.reads], dim=1).numpy()
    if not bool(found.values.isfinite().all()) or not np.isfinite(dense).all():
        raise BadInput("some activations are infinite or NaN. Load the model with dtype='float32'.")
    values, ids, offsets = (part.detach().cpu().numpy() for part in (found.values.double(), found.ids, found.offsets))
    return sp.csr_matrix((values, ids, offsets), shape=(len(dense), found.latents)), dense
