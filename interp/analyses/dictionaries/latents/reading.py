"""A corpus as sparse codes, part by part: what latents do at every token, never dense beyond a tile of rows."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from interp.cache.gather import model_of, view_of
from interp.core.dictionary import Codes, Dictionary, View
from interp.core.errors import BadInput, WrongModel
from interp.core.lm import LM
from interp.core.progress import track
from interp.core.site import Site
from interp.data import Corpus, pack


@dataclass(frozen=True, eq=False)
class Chunk:
    """Some tokens of a corpus with their codes; the BOS of a document is left out where it does not count."""

    rows: np.ndarray
    """Number of each token in the corpus, int64 [row], rising."""
    document: np.ndarray
    """Which document it is of, int64 [row]."""
    ids: np.ndarray
    """Token ids, int64 [row]."""
    codes: Codes
    """On the CPU, [row] by latent."""


def chunks(
    dictionary: Dictionary,
    models: Sequence[LM],
    data: Corpus,
    store: Any,
    *,
    budget: int,
    bos: bool,
    only: Sequence[int] | None = None,
    name: str = "codes",
) -> Iterator[Chunk]:
    """The corpus (or the documents `only`) as chunks of about `budget` tokens, in order."""
    places = list(range(len(data))) if only is None else [int(place) for place in only]
    starts = np.cumsum([0, *data.lengths])
    skip = int(data.bos and not bos)
    stored = _stored(dictionary, models, data, store)
    parts = pack([data.lengths[place] for place in places], budget)
    for part in track(parts, name):
        mine = [places[number] for number in part]
        read = read_views(dictionary, models, data, mine, stored)
        rows = np.concatenate([np.arange(starts[place], starts[place + 1]) for place in mine])
        document = np.repeat(mine, [data.lengths[place] for place in mine])
        keep = rows - starts[document] >= skip
        kept = torch.from_numpy(keep)
        codes = dictionary.codes({view: values[kept.to(values.device)] for view, values in read.items()})
        if not bool(codes.values.isfinite().all()):
            raise BadInput(
                "some codes are infinite or NaN. Are the activations whole? Load the model with dtype='float32'."
            )
        sparse = Codes(codes.ids.cpu(), codes.values.float().cpu(), codes.offsets.cpu(), codes.latents)
        ids = torch.cat([data.documents[place] for place in mine]).numpy()
        yield Chunk(rows[keep], document[keep], ids[keep], sparse)


def check_reading(dictionary: Dictionary, models: Sequence[LM]) -> None:
    """Refuse views that none of the models has: without a site, of another width, or of other weights. Raises `BadInput`, `WrongModel`."""
    for view in dictionary.config.views:
        if not view.site:
            raise BadInput(
                f"view {view.name!r} names no site, so it cannot be read from a model. Give the dictionary's views their sites."
            )
        for lm in owners(view, models):
            mine = view_of(lm, view.site)
            if mine.width != view.width:
                raise WrongModel(
                    f"view {view.name!r} has width {view.width}, and {view.site} of {lm.spec.name} has {mine.width}. Is this the model "
                    "it was trained on?"
                )


def owners(view: View, models: Sequence[LM]) -> list[LM]:
    """The model that a view is of, and the one that is subtracted, where there is one."""
    second = replace(view, model=view.minus, fingerprint=view.minus_fingerprint)
    return [model_of(view, models)] + ([model_of(second, models)] if view.minus else [])


def columns(codes: Codes, latents: Sequence[int]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The entries of some latents: place in `latents`, row, value, each [entry], in order of rows."""
    wanted = np.asarray(latents, dtype=np.int64)
    order = np.argsort(wanted)
    ids = codes.ids.numpy()
    place = np.searchsorted(wanted[order], ids)
    place[place == len(wanted)] = 0
    hit = wanted[order][place] == ids if len(wanted) else np.zeros(len(ids), dtype=bool)
    return order[place[hit]], codes.row_of().numpy()[hit], codes.values.numpy()[hit].astype(np.float64)


Captured = dict[tuple[int, str], Any]
"""(id of a model, site) -> activations."""


def _stored(dictionary: Dictionary, models: Sequence[LM], data: Corpus, store: Any) -> Captured | None:
    """Captures of everything that is read, or None without a store."""
    if store is None:
        return None
    found: Captured = {}
    for lm, sites in _needs(dictionary, models):
        captured = store.capture(lm, data, sites, quiet=True)
        found |= {(id(lm), site.name): captured[site] for site in sites}
    return found


def _needs(dictionary: Dictionary, models: Sequence[LM]) -> list[tuple[LM, list[Site]]]:
    """Each model with the sites that are read of it."""
    wanted: dict[int, tuple[LM, dict[Site, None]]] = {}
    for view in dictionary.config.reads:
        for lm in owners(view, models):
            wanted.setdefault(id(lm), (lm, {}))[1][Site.parse(view.site)] = None
    return [(lm, list(sites)) for lm, sites in wanted.values()]


def read_views(
    dictionary: Dictionary, models: Sequence[LM], data: Corpus, places: Sequence[int], stored: Captured | None = None
) -> dict[str, Tensor]:
    """What the dictionary reads of whole documents, {view: [token, d]}: out of the store, or by running the models."""
    found: dict[tuple[int, str], Tensor] = {}
    for lm, sites in _needs(dictionary, models):
        if stored is None:
            read = lm.read([data.documents[place] for place in places], sites)
        else:
            read = {site: torch.cat([stored[id(lm), site.name].example(place) for place in places]) for site in sites}
        found |= {(id(lm), site.name): values.flatten(1).to(dictionary.device) for site, values in read.items()}
    lengths = [data.lengths[place] for place in places]
    out = {}
    for view in dictionary.config.reads:
        first, *second = (found[id(lm), Site.parse(view.site).name] for lm in owners(view, models))
        rows = first.float() - second[0].float() if second else first
        out[view.name] = (
            torch.cat([shifted(part, view.offset) for part in rows.split(lengths)]) if view.offset else rows
        )
    return out


def shifted(rows: Tensor, offset: int) -> Tensor:
    """For every token of a document [token, d] the row `offset` tokens on (-1: the one before); zeros where there is none."""
    out, size = torch.zeros_like(rows), len(rows) - abs(offset)
    if size > 0:
        out[max(0, -offset) : max(0, -offset) + size] = rows[max(0, offset) : max(0, offset) + size]
    return out
