"""One pass over the corpus: encode and decode every document, sum what there is to know, replace the views and score the predictions."""

from collections import defaultdict
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from interp.core.batch import Batch
from interp.core.progress import track
from interp.core.site import Site
from interp.data import Corpus

from .places import Places
from .replace import CONDITIONS, Group, cells, is_causal, last_streams, live, scores, targets
from .sums import LatentSums, ViewSums
from .tokens import PARTS, Tokens

if TYPE_CHECKING:
    from interp.core.lm import LM


class Measured:
    """Everything that is kept of the pass; `assemble` makes a result of it."""

    def __init__(self, places: Places, tokens: Tokens, corpus: Corpus) -> None:
        self.views = {place.name: ViewSums(tokens.means[place.name], len(PARTS)) for place in places.writes}
        self.latents = LatentSums.empty(places.dictionary.latents)
        self.targets = targets(places)
        documents, views = len(corpus), len(places.writes)
        self.error, self.total = np.zeros((documents, views)), np.zeros((documents, views))
        self.on = np.zeros(documents)
        shape = (documents, len(self.targets), len(CONDITIONS))
        self.ce, self.kl = np.full(shape, np.nan), np.full(shape, np.nan)
        self.predictions = np.zeros(documents, dtype=np.int64)


def measure(places: Places, lms: "list[LM]", corpus: Corpus, tokens: Tokens, *, skip: int, budget: int) -> Measured:
    """Run it; documents of equal length go together, at most `budget` tokens at once."""
    out = Measured(places, tokens, corpus)
    groups = list(_groups(corpus.lengths, budget))
    for members in track(groups, "dictionary evaluation", total=len(groups)):
        batch = Batch.of(torch.stack([corpus.documents[number] for number in members]))
        part = torch.from_numpy(np.stack([tokens.part[number] for number in members])).long()  # [row, pos]
        bases = tuple(lm.record(batch, capture=_captured(places, lms, number)) for number, lm in enumerate(lms))
        read = tuple(dict(base.run.captured) for base in bases)
        hats = _reconstruct(places, read, part, out, members)
        keep = part == 0
        if bool(keep.any()):
            _replace(places, lms, Group(bases, read, hats, tokens.means, keep), out, members, skip)
    return out


def _reconstruct(
    places: Places, read: tuple[Any, ...], part: Tensor, out: Measured, members: list[int]
) -> dict[str, Tensor]:
    """Reconstructions {written view: [row, pos, d]}, their sums taken."""
    dictionary, shape = places.dictionary, part.shape
    named = {place.name: place.rows(read).flatten(0, 1).to(dictionary.device) for place in places.reads}
    codes = dictionary.codes(named)
    flat = part.flatten()
    counts = out.latents.add(codes, flat == 0)
    out.on[members] = torch.where(part == 0, counts.reshape(shape), 0).sum(dim=1).numpy()
    decoded = dictionary.decode(codes, named)
    hats = decoded if isinstance(decoded, dict) else {places.writes[0].name: decoded}
    for column, place in enumerate(places.writes):
        error, total = out.views[place.name].add(place.rows(read).flatten(0, 1), hats[place.name], flat)
        for table, values in ((out.error, error), (out.total, total)):
            table[members, column] = torch.where(flat == 0, values, 0.0).reshape(shape).sum(dim=1).numpy()
    return {name: hat.reshape(*shape, -1) for name, hat in hats.items()}


def _replace(places: Places, lms: "list[LM]", group: Group, out: Measured, members: list[int], skip: int) -> None:
    tokens = group.bases[0].batch.tokens
    count = tokens.shape[1] - 1 - skip
    if count < 1:
        return
    for column, (model, _, written) in enumerate(out.targets):
        lm, base = lms[model], group.bases[model]
        made = cells(group, written)
        flowing = len(written) > 1 and is_causal(places, written)
        if flowing:
            del made["dictionary"]
        streams = last_streams(lm, base, made)
        if flowing:
            site = Site("resid_post", lm.spec.n_layers - 1)
            ran = lm.run(base.batch, capture=[site], edits=live(places, group, written), stop_after=site)
            streams["dictionary"] = ran[site]
        found = scores(lm, streams, tokens.cpu(), skip)
        for place, name in enumerate(CONDITIONS):
            loss, kl = found[name]
            out.ce[members, column, place] = (loss / count).numpy()
            out.kl[members, column, place] = (kl / count).numpy()
    out.predictions[members] = count


def _captured(places: Places, lms: "list[LM]", number: int) -> list[Site]:
    """The views' sites and the last stream."""
    return [*dict.fromkeys([*places.sites(number), Site("resid_post", lms[number].spec.n_layers - 1)])]


def _groups(lengths: tuple[int, ...], budget: int) -> Iterator[list[int]]:
    """Numbers of documents of one length, at most `budget` tokens together, or one document."""
    by_length: dict[int, list[int]] = defaultdict(list)
    for number, length in enumerate(lengths):
        by_length[length].append(number)
    for length, members in sorted(by_length.items()):
        most = max(1, budget // length)
        for start in range(0, len(members), most):
            yield members[start : start + most]
