"""Which texts a dictionary was trained on, in a few kilobytes, so that an evaluation can say that it is of the same ones.

    from interp.core.dictionary.seen import share_seen, sketch
    about = sketch(corpus.documents)               # kept with the dictionary
    share_seen(about, corpus.documents[:2])        # 1.0: both of these documents were there; None: nothing is known

A hash a document, and of these the `KEPT` smallest. A document of the other corpus whose hash is not above the largest kept one would be
kept if it had been there: the share is counted over these. Exact up to `KEPT` documents, an estimate above. Only a document with the very
same tokens counts; one that is cut elsewhere does not.
"""

from collections.abc import Iterable, Sequence

from torch import Tensor

from ..digest import digest_of

KEPT = 128
"""Hashes that are kept."""
LAST = "g"
"""Above every hexadecimal hash."""


def sketch(documents: Iterable[Tensor]) -> list[str]:
    """The smallest hashes of documents, rising; ends with `LAST` where none was left out."""
    hashes = sorted({_hash(document) for document in documents})
    return hashes[:KEPT] if len(hashes) > KEPT else [*hashes, LAST]


def share_seen(kept: Sequence[str], documents: Iterable[Tensor]) -> float | None:
    """Share of documents that are among those of the sketch; None where none of them can be told."""
    told = [one for one in map(_hash, documents) if kept and one <= kept[-1]]
    return len([one for one in told if one in set(kept)]) / len(told) if told else None


def _hash(document: Tensor) -> str:
    return digest_of(document.long().tolist())[:12]
