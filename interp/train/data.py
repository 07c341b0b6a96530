"""What a dictionary learns from: rows of one or several views, the same tokens in each, some of them kept aside.

    acts = store.capture(lm, corpus, ["blocks.2.hook_resid_post"])
    data = TrainingData({"in": acts["blocks.2.hook_resid_post"]})
    data                                             # TrainingData(in · 11,800 rows to learn from, 610 held out)
    rows = next(iter(data.batches(4096, seed=0)))    # {view: [row, d]}, shuffled; it goes on without end
    for rows in data.heldout(4096): ...              # the others, once, in order

Documents are kept aside whole, because neighbouring tokens are nearly the same row. The first tokens of documents (`skip_first`) can be
left out: in many models the first is an attention sink with a norm a hundred times that of any other, and so can all rows of such a norm
(`massive="skip"`). They are counted in any case, and NaN or infinite rows are refused: both make dictionaries that look fine and are not.
Rows at which a shifted view has no neighbour (the first token of a document, for the token before) are left out as well.
"""

from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import Any, Literal

import torch
from torch import Tensor

from ..cache import Batches, FlatView, Moments
from ..cache.views import OffsetView, chunks, moments, owner_of
from ..core.dictionary import Scaling
from ..core.digest import digest_of
from ..core.errors import BadInput, one_of
from ..core.seed import generator

MASSIVE = 20.0
"""A row whose norm is so many times the median is called massive."""
LOOKED_AT = 1 << 16
"""Rows whose norms are looked at where nothing is to be left out; the store has refused what is not finite."""
COUNTED = 1 << 18
"""Rows that mean and variance are taken of."""


class TrainingData:
    """Rows of named views, split into those to learn from and those kept aside."""

    def __init__(
        self,
        views: Mapping[str, Any],
        *,
        heldout: float = 0.05,
        skip_first: int = 0,
        massive: Literal["keep", "skip"] = "keep",
        seed: int = 0,
        metadata: "Mapping[str, Any] | None" = None,
    ) -> None:
        """`heldout` is the share of documents that is kept aside, `skip_first` tokens of each document are left out.

        `metadata` is JSON that dictionaries trained on this keep (name of the corpus, context length).

        Raises `BadInput` for views of different tokens, rows that are not finite, and where nothing is left to learn from.
        """
        one_of("massive", massive, ("keep", "skip"))
        if not 0 <= heldout < 1:
            raise BadInput(f"`heldout` is a share from 0 to below 1; not {heldout}.")
        if not views:
            raise BadInput("there is no view to learn from. Give at least one.")
        self.views = {name: view if len(view.row_shape) == 1 else FlatView(view) for name, view in views.items()}
        self.metadata = dict(metadata or {})
        self.seed, self.heldout_share, self.skip_first, self.skip_massive = seed, heldout, skip_first, massive == "skip"
        Batches(self.views, 1)  # refuses views that are incomplete or of different tokens
        self.total = len(next(iter(self.views.values())))
        self.owner: Any = next((owner for view in self.views.values() if (owner := owner_of(view)) is not None), None)
        if skip_first and self.owner is None:
            raise BadInput("`skip_first` needs documents, and these rows have none. Leave the rows out yourself.")
        keep = self._whole()
        self.ratios, self._numbers = self._look(keep)
        keep = keep & self._moderate()
        aside = self._aside(keep)
        self.train, self.aside = keep & ~aside, keep & aside
        self.rows, self.heldout_rows = int(self.train.sum()), int(self.aside.sum())
        if not self.rows or (heldout and not self.heldout_rows):
            raise BadInput(
                f"of {self.total:,} rows {self.rows:,} are left to learn from and {self.heldout_rows:,} to test on. Give more "
                f"documents, or another `heldout` than {heldout}."
            )

    def batches(self, size: int, *, seed: int = 0, **options: Any) -> Batches:
        """{view: [row, d]} in a seeded order, epoch after epoch without end; it has `state_dict`. Rows are raw, as stored."""
        return Batches(self.views, size, seed=seed, epochs=None, where=self.train, drop_last=True, **options)

    def heldout(self, size: int = 1 << 13, *, limit: int | None = None) -> Iterator[dict[str, Tensor]]:
        """The rows that were kept aside (or the first `limit`), once, in order; those to learn from where none were."""
        numbers = (self.aside if self.heldout_rows else self.train).nonzero()[:, 0][:limit]
        for start in range(0, len(numbers), size):
            part = numbers[start : start + size]
            yield {name: view.take(part) for name, view in self.views.items()}

    def scalings(self, mode: str = "norm") -> dict[str, Scaling]:
        """How each view is normalised, from the rows to learn from."""
        return {name: Scaling.of(self.moments(name), mode) for name in self.views}

    def moments(self, name: str) -> Moments:
        """Mean and variance of a view, over a seeded sample of the rows to learn from (all, where there are few)."""
        if name not in self._moments:
            self._moments[name] = moments(chunks(self.views[name], self.sample(COUNTED)), self.views[name].row_shape)
        return self._moments[name]

    def sample(self, count: int, *, name: str = "sample") -> Tensor:
        """Numbers of at most so many rows to learn from, drawn by name, rising."""
        numbers = self.train.nonzero()[:, 0]
        if len(numbers) <= count:
            return numbers
        return numbers[torch.randperm(len(numbers), generator=generator(self.seed, name))[:count]].sort().values

    def take(self, numbers: Tensor) -> dict[str, Tensor]:
        """Rows by number, {view: [row, d]}."""
        return {name: view.take(numbers) for name, view in self.views.items()}

    @property
    def massive(self) -> dict[str, int]:
        """Rows (of those that were looked at; none that `skip_first` leaves out) whose norm is above 20 times the median, by view."""
        return {name: int((ratio > MASSIVE).sum()) for name, ratio in self.ratios.items()}

    @property
    def looked(self) -> dict[str, int]:
        """How many rows were looked at for that, by view."""
        return {name: len(ratio) for name, ratio in self.ratios.items()}

    @cached_property
    def digest(self) -> str:
        """Content hash of the rows, their order and the split."""
        return digest_of([{name: view.key for name, view in self.views.items()}, self.train, self.aside])

    @cached_property
    def _moments(self) -> dict[str, Moments]:
        return {}

    def _look(self, keep: Tensor) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Norms over their median, and of which rows: of a sample, but of all where massive ones are to go or no store has checked them;
        also finds what is not finite."""
        every = keep.nonzero()[:, 0]
        some = every
        if not self.skip_massive and len(every) > LOOKED_AT:
            some = every[torch.randperm(len(every), generator=generator(self.seed, "look"))[:LOOKED_AT].sort().values]
        found, looked = {}, {}
        for name, view in self.views.items():
            numbers = looked[name] = every if owner_of(view) is None else some
            norms = torch.cat([part.double().norm(dim=1) for part in chunks(view, numbers)])
            if not bool(norms.isfinite().all()):
                bad = numbers[~norms.isfinite()]
                raise BadInput(
                    f"view {name!r} ({view.label}) has {len(bad):,} rows with NaN or infinite values, the first is row {int(bad[0]):,}. "
                    "Look for a broken checkpoint or a dtype that overflows (float16), and capture it anew."
                )
            median = norms.median()
            if not median > 0:
                raise BadInput(f"view {name!r} ({view.label}) is zero in most rows. Is this the right site?")
            found[name] = norms / median
        return found, looked

    def _whole(self) -> Tensor:
        """Bool [row]: not among the first of a document, and with a neighbour in every shifted view."""
        numbers = torch.arange(self.total)
        keep = torch.ones(self.total, dtype=torch.bool)
        if self.skip_first:
            keep &= self.owner.position(numbers)[1] >= self.skip_first
        for view in self.views.values():
            if isinstance(view, OffsetView):
                keep &= view.known(numbers)
        if not bool(keep.any()):
            raise BadInput(
                f"no document has a row after its first {self.skip_first} and within its shifted views. Bring longer documents."
            )
        return keep

    def _moderate(self) -> Tensor:
        """Bool [row]: not massive, where such rows are left out."""
        keep = torch.ones(self.total, dtype=torch.bool)
        for name, ratio in self.ratios.items() if self.skip_massive else ():
            keep[self._numbers[name][ratio > MASSIVE]] = False
        return keep

    def _aside(self, keep: Tensor) -> Tensor:
        """Bool [row]: whole documents in a seeded order until the share is reached; rows without documents go by blocks of 64."""
        if not self.heldout_share:
            return torch.zeros(self.total, dtype=torch.bool)
        numbers = torch.arange(self.total)
        document = (
            self.owner.position(numbers)[0] if self.owner is not None else numbers // min(64, max(1, self.total // 64))
        )
        count = int(document.max()) + 1
        sizes = torch.bincount(document[keep], minlength=count)
        order = torch.randperm(count, generator=generator(self.seed, "held out"))
        before = sizes[order].cumsum(0) - sizes[order]
        chosen = torch.zeros(count, dtype=torch.bool)
        chosen[order[before < self.heldout_share * int(keep.sum())]] = True
        return chosen[document]

    def __repr__(self) -> str:
        names = ", ".join(self.views)
        return f"TrainingData({names} · {self.rows:,} rows to learn from, {self.heldout_rows:,} held out)"
