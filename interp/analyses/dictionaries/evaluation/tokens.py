"""Which tokens are evaluated, and the mean of each written view over them: one reading of the corpus before anything is replaced."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from interp.analyses.streams import streams
from interp.core.errors import BadInput
from interp.core.progress import track
from interp.data import Corpus

from .places import Place, Places, Read

if TYPE_CHECKING:
    from interp.core.lm import LM

PARTS = ("evaluated", "first", "massive")
"""What a token is: evaluated; one of the first of its document (or outside of a shifted view); or of a massive activation."""


@dataclass(frozen=True)
class Tokens:
    """The part of each token, and what was found on the way."""

    part: tuple[np.ndarray, ...]
    """Index into `PARTS` of each token of each document, int8 [token]."""
    means: dict[str, Tensor]
    """Mean of each written view over the evaluated tokens, float64 [d]."""
    medians: dict[str, float]
    """Median norm of each view over the tokens that are not first."""

    @property
    def counts(self) -> dict[str, int]:
        """Tokens of each part."""
        total = np.bincount(np.concatenate(self.part), minlength=len(PARTS))
        return dict(zip(PARTS, total.tolist(), strict=True))


def survey(
    places: Places, lms: "list[LM]", corpus: Corpus, store: Any, *, skip: int, massive: float, budget: int
) -> Tokens:
    """Read every view once; a second time only the documents that hold massive activations.

    Raises `BadInput` for rows that are not finite, and where no token is left.
    """
    part = [_first(places, length, skip) for length in corpus.lengths]
    norms: dict[str, list[np.ndarray]] = {place.name: [] for place in places.every}
    sums = {place.name: torch.zeros(place.view.width, dtype=torch.float64) for place in places.writes}
    for number, read in track(_reading(places, lms, corpus, store, budget), "activations", total=len(corpus)):
        for place in places.every:
            rows = place.rows(read).double()
            size = rows.norm(dim=-1).cpu().numpy()
            _check_finite(place, size[part[number] == 0], corpus.ids[number])
            norms[place.name].append(size)
            if place.name in sums:
                keep = torch.from_numpy(part[number] == 0).to(rows.device)
                sums[place.name] += rows[keep].sum(dim=0).cpu()
    later = np.concatenate(part) == 0
    if not later.any():
        raise BadInput(
            f"no document has a token after its first {skip}, so nothing is left to evaluate. Bring longer text, or skip=0."
        )
    medians = {name: float(np.median(np.concatenate(sizes)[later])) for name, sizes in norms.items()}
    found = _mark_massive(part, norms, medians, massive)
    if found:
        documents = corpus.select(found)
        for row, read in _reading(places, lms, documents, None, budget):
            drop = part[found[row]] == PARTS.index("massive")
            for place in places.writes:
                rows = place.rows(read).double()
                sums[place.name] -= rows[torch.from_numpy(drop).to(rows.device)].sum(dim=0).cpu()
    count = int(sum((one == 0).sum() for one in part))
    if not count:
        raise BadInput(
            f"every token after the first {skip} of its document is massive at massive={massive}. Raise it, or give 0."
        )
    return Tokens(tuple(part), {name: total / count for name, total in sums.items()}, medians)


def _reading(
    places: Places, lms: "list[LM]", corpus: Corpus, store: Any, budget: int
) -> Iterator[tuple[int, list[Read]]]:
    """(place in the corpus, activations of every model there)."""
    every = [streams(lm, corpus, places.sites(number), store, budget=budget) for number, lm in enumerate(lms)]
    for pieces in zip(*every, strict=True):
        yield pieces[0][0], [read for _, read in pieces]


def _first(places: Places, length: int, skip: int) -> np.ndarray:
    """0 for tokens that may be evaluated, 1 for the first ones and those at which a shifted view has no row."""
    part = np.full(length, PARTS.index("first"), dtype=np.int8)
    known = [place.known(length) for place in places.every]
    part[max([skip, *(one.start for one in known)]) : min(one.stop for one in known)] = 0
    return part


def _mark_massive(
    part: list[np.ndarray], norms: dict[str, list[np.ndarray]], medians: dict[str, float], massive: float
) -> list[int]:
    """Mark the tokens with a massive activation in any view; the documents that hold one."""
    found = []
    for number, one in enumerate(part if massive else []):
        over = np.zeros(len(one), dtype=bool)
        for name, sizes in norms.items():
            over |= sizes[number] > massive * medians[name]
        over &= one == 0
        if over.any():
            one[over] = PARTS.index("massive")
            found.append(number)
    return found


def _check_finite(place: Place, sizes: np.ndarray, document: str) -> None:
    if not np.isfinite(sizes).all():
        bad = int((~np.isfinite(sizes)).sum())
        raise BadInput(
            f"{bad} rows of {place.site} in document {document!r} are NaN or infinite. "
            "Load the model in float32, or leave the document out."
        )
