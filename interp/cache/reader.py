"""Reading: what a capture gives back. Rows are real tokens, document after document; nothing is loaded before it is asked for.

    acts = store.capture(lm, corpus, ["blocks.2.hook_resid_post", "blocks.2.hook_mlp_out"])
    site = acts["blocks.2.hook_resid_post"]
    site.example(3)                       # [token, d_model] of one document
    site.rows(1000, 2000)                 # any range of rows
    site.stats.mean, site.stats.rms_norm  # running statistics, float64
    acts.tokens[1000:2000]                # the ids of those rows
    for batch in acts.batches(4096, seed=0): ...      # shuffled minibatches, {site: [row, ...]}

While another process writes, the rows of its complete shards are there and `complete` is False; `refresh()` looks again.
"""

from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from ..core.errors import BadInput, StoreError, UnknownSite, hint
from ..core.site import Site
from .disk import Lock, human
from .key import DTYPES
from .layout import Entry, Group, Record
from .moments import Moments
from .shard import Shards, Verify, check_size, moments_of, raw

if TYPE_CHECKING:
    from .sampler import Batches


class Rows:
    """What the rows of a capture are of: tokens, documents, the model. Shared by its sites; while it lives, `gc` leaves them alone."""

    def __init__(self, group: Group, names: Sequence[str], verify: Verify, locks: Sequence[Lock]) -> None:
        self.group, self.verify, self._locks = group, verify, list(locks)
        self.ids = tuple(names) or tuple(str(i) for i in range(len(group.offsets) - 1))

    def __len__(self) -> int:
        return int(self.group.info["rows"])

    @property
    def model(self) -> str:
        """Name of the model when this was captured."""
        return str(self.group.info["model"])

    @property
    def rows_digest(self) -> str:
        """Content hash of the tokens that the rows are of; captures with the same one line up."""
        return str(self.group.info["rows_digest"])

    @property
    def tokens(self) -> Tensor:
        """The token id of each row, int64 [row]."""
        return torch.from_numpy(self.group.table["tokens"].astype(np.int64))

    @property
    def offsets(self) -> Tensor:
        """Row at which each document starts, and the end, int64 [document + 1]."""
        return torch.from_numpy(self.group.offsets.copy())

    @property
    def n_documents(self) -> int:
        """Documents (rows of a batch)."""
        return len(self.ids)

    def range_of(self, index: int) -> tuple[int, int]:
        """Rows [start, stop) of a document; negative numbers count from the end."""
        count = self.n_documents
        if not -count <= index < count:
            raise BadInput(f"there is no example {index}: the capture has {count}, numbered from 0.")
        index %= count
        return int(self.group.offsets[index]), int(self.group.offsets[index + 1])

    def position(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Document and position within it of each of `rows` (row numbers, int64)."""
        document = np.searchsorted(self.group.offsets, rows.numpy(), side="right") - 1
        return torch.from_numpy(document), rows - torch.from_numpy(self.group.offsets[document])

    def close(self) -> None:
        """Let `gc` have it. Happens by itself when the object goes."""
        for lock in self._locks:
            lock.release()


class SiteActivations:
    """The rows of one site, [row, ...] in their stored dtype."""

    def __init__(self, owner: Rows, entry: Entry, hit: bool) -> None:
        self.owner, self.entry, self.hit = owner, entry, hit
        self.refresh()

    def refresh(self) -> "SiteActivations":
        """Look again for shards that others have completed since."""
        self._records: list[Record] = self.entry.records()
        self._starts = np.array([record.start for record in self._records], dtype=np.int64)
        self._ends = np.array([record.start + record.rows for record in self._records] or [0], dtype=np.int64)
        for record in self._records:
            check_size(self.entry, record)
        self.__dict__.pop("stats", None)
        return self

    @property
    def site(self) -> Site:
        """Which site."""
        return self.entry.site

    @property
    def key(self) -> str:
        """Content key, 32 hex digits; every repr shows the first eight."""
        return self.entry.key

    @property
    def label(self) -> str:
        """Model and site, for people."""
        return f"{self.owner.model} {self.site}"

    @property
    def rows_digest(self) -> str:
        """Content hash of the tokens that the rows are of."""
        return self.owner.rows_digest

    @property
    def row_shape(self) -> tuple[int, ...]:
        """Of one row."""
        return tuple(self.entry.shape)

    @property
    def row_bytes(self) -> int:
        """Bytes of one row."""
        return self.entry.row_bytes

    def __len__(self) -> int:
        """Rows of the whole capture, complete or not."""
        return len(self.owner)

    @property
    def shape(self) -> tuple[int, ...]:
        """(rows, ...)."""
        return (len(self), *self.entry.shape)

    @property
    def dtype(self) -> torch.dtype:
        """As stored."""
        return DTYPES[self.entry.dtype][1]

    @property
    def nbytes(self) -> int:
        """Bytes of all rows."""
        return len(self) * self.entry.row_bytes

    @property
    def rows_there(self) -> int:
        """Rows of the shards that are complete."""
        return sum(record.rows for record in self._records)

    @property
    def complete(self) -> bool:
        """Whether every row is there."""
        return self.rows_there == len(self)

    @cached_property
    def stats(self) -> Moments:
        """Count, mean, variance per component over all complete shards, in float64."""
        parts = [moments_of(self.entry, record) for record in self._records]
        return Moments.merge([Moments.empty(self.entry.shape), *parts])

    def rows(self, start: int, stop: int, *, copy: bool = True) -> Tensor:
        """Rows [start, stop) as a tensor of your own; `copy=False` gives a view, not to be written to, where one shard holds them."""
        if not 0 <= start <= stop <= len(self):
            raise BadInput(
                f"rows {start} to {stop} of {self.site}: there are {len(self):,}. Ask for 0 <= start <= stop."
            )
        pieces = [self._shards.rows[at + shift : end + shift] for at, end, shift in self._stretches(start, stop)]
        if len(pieces) == 1 and not copy:
            return pieces[0]
        out, at = self._room(stop - start), 0
        for piece in pieces:
            raw(out[at : at + len(piece)])[:] = raw(piece)  # numpy's copy is a plain memmove, torch's is a fifth slower
            at += len(piece)
        return out

    def example(self, index: int) -> Tensor:
        """Rows of one document, [token, ...]."""
        return self.rows(*self.owner.range_of(index))

    def tensor(self) -> Tensor:
        """All rows in memory."""
        return self.rows(0, len(self))

    def take(self, index: Tensor) -> Tensor:
        """Rows by number, in any order and repeated if asked, [len(index), ...]."""
        number = index.cpu().numpy().astype(np.int64, copy=False)
        if len(number) and not 0 <= number.min() <= number.max() < len(self):
            raise BadInput(
                f"row numbers of {self.site} run from 0 to {len(self) - 1:,}; not {number.min()} to {number.max()}."
            )
        which = np.searchsorted(self._starts, number, side="right") - 1
        absent = (which < 0) | (number >= self._ends[which])
        if absent.any():
            raise self._not_there(int(number[absent][0]))
        shift = np.zeros(len(self._ends), dtype=np.int64)
        for place in np.flatnonzero(np.bincount(which)).tolist():
            shift[place] = self._shift(place)
        places = torch.from_numpy(number + shift[which])
        return torch.index_select(self._shards.rows, 0, places, out=self._room(len(number)))

    def batches(self, size: int, **options: Any) -> "Batches":
        """Minibatches [row, ...] of this site; options as `interp.cache.Batches`."""
        from .sampler import Batches

        return Batches(self, size, **options)

    @cached_property
    def _shards(self) -> Shards:
        return Shards(self.entry, self.owner.verify)

    def _room(self, count: int) -> Tensor:
        """Memory for rows, by way of numpy, which asks for large pages: filling it is a quarter faster."""
        if count == 0:
            return torch.empty((0, *self.entry.shape), dtype=self.dtype)
        memory = torch.from_numpy(np.empty(count * self.entry.row_bytes, dtype=np.uint8))
        return memory.view(self.dtype).view(count, *self.entry.shape)

    def _shift(self, place: int) -> int:
        """What to add to the number of a row of the `place`-th complete shard to find it among the mapped rows."""
        record = self._records[place]
        return self._shards.place(record) - record.start

    def _not_there(self, row: int) -> StoreError:
        return StoreError(
            f"row {row:,} of {self.site} is not there yet: {self.rows_there:,} of {len(self):,} rows are. "
            "Wait and call `refresh()`, or run the same capture to fill in the rest."
        )

    def _stretches(self, start: int, stop: int) -> Iterator[tuple[int, int, int]]:
        while start < stop:
            place = int(np.searchsorted(self._starts, start, side="right")) - 1
            if place < 0 or start >= self._ends[place]:
                raise self._not_there(start)
            end = min(stop, int(self._ends[place]))
            yield start, end, self._shift(place)
            start = end

    def __repr__(self) -> str:
        size = " × ".join(map(str, self.entry.shape))
        state = "hit" if self.hit else "captured"
        state = state if self.complete else f"incomplete, {self.rows_there:,} rows so far"
        return (
            f"Activations({self.owner.model} · {self.site} · {len(self):,} rows × {size} {self.entry.dtype} · "
            f"{human(self.nbytes)} · sha {self.key[:8]} · {state})"
        )


class Activations(Rows):
    """One capture: its sites, and the tokens that its rows are of. With a single site, that site's methods are here too."""

    def __init__(
        self,
        group: Group,
        entries: Sequence[Entry],
        hits: Sequence[bool],
        *,
        names: Sequence[str] = (),
        verify: Verify = "first",
        locks: Sequence[Lock] = (),
    ) -> None:
        super().__init__(group, names, verify, locks)
        rows = Rows(
            group, self.ids, verify, self._locks
        )  # not self: a cycle would keep the locks until the next collection
        self._sites = {entry.site: SiteActivations(rows, entry, hit) for entry, hit in zip(entries, hits, strict=True)}

    def __getitem__(self, site: "Site | str") -> SiteActivations:
        parsed = Site.parse(site)
        if parsed not in self._sites:
            have = [kept.name for kept in self._sites]
            raise UnknownSite(f"{parsed.name!r} is not in this capture.{hint(parsed.name, have)} Add it to `sites`.")
        return self._sites[parsed]

    def __contains__(self, site: object) -> bool:
        return any(site in (kept, kept.name) for kept in self._sites)

    def __iter__(self) -> Iterator[Site]:
        return iter(self._sites)

    @property
    def sites(self) -> tuple[Site, ...]:
        """In forward order."""
        return tuple(self._sites)

    @property
    def hit(self) -> bool:
        """Whether every site was in the store already."""
        return all(view.hit for view in self._sites.values())

    @property
    def complete(self) -> bool:
        """Whether every row of every site is there."""
        return all(view.complete for view in self._sites.values())

    @property
    def nbytes(self) -> int:
        """Bytes of all sites."""
        return sum(view.nbytes for view in self._sites.values())

    def refresh(self) -> "Activations":
        """Look again for shards that others have completed since."""
        for view in self._sites.values():
            view.refresh()
        return self

    def batches(self, size: int, *, sites: "Sequence[Site | str] | None" = None, **options: Any) -> "Batches":
        """Minibatches {site: [row, ...]} of some sites (all by default), aligned row by row; options as `interp.cache.Batches`."""
        from .sampler import Batches

        views = [self[site] for site in (self.sites if sites is None else sites)]
        return Batches({view.site: view for view in views}, size, **options)

    @property
    def only(self) -> SiteActivations:
        """The site of a capture that has a single one."""
        if len(self._sites) > 1:
            names = ", ".join(site.name for site in self._sites)
            raise BadInput(f"this capture has several sites. Pick one: activations[site] with site among {names}.")
        return next(iter(self._sites.values()))

    def rows(self, start: int, stop: int, *, copy: bool = True) -> Tensor:
        """Of the only site, see `SiteActivations.rows`."""
        return self.only.rows(start, stop, copy=copy)

    def example(self, index: int) -> Tensor:
        """Of the only site, see `SiteActivations.example`."""
        return self.only.example(index)

    def tensor(self) -> Tensor:
        """Of the only site, see `SiteActivations.tensor`."""
        return self.only.tensor()

    @property
    def stats(self) -> Moments:
        """Of the only site, see `SiteActivations.stats`."""
        return self.only.stats

    def describe(self) -> str:
        """One line: hit or miss, model, sites, size."""
        state = "hit" if self.hit else "captured"
        if not self.complete:
            have = min(view.rows_there for view in self._sites.values())
            state = f"incomplete, {have:,} rows of {len(self):,} so far"
        sites = f"{len(self._sites)} sites" if len(self._sites) > 1 else self.only.site.name
        return f"{state} · {self.model} · {sites} · {len(self):,} rows · {human(self.nbytes)} · sha {self.group.path.name[:8]}"

    def __repr__(self) -> str:
        if len(self._sites) == 1:
            return repr(self.only)
        lines = "\n  ".join(repr(view) for view in self._sites.values())
        return f"Activations({self.describe()})\n  {lines}"
