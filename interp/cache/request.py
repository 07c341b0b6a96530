"""One question to the store, resolved: which run, which sites, which shards are there, what the rest would cost, and filling it."""

import contextlib
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import xxhash

from ..core.edit import Edit
from ..core.errors import BadInput, StoreError
from ..core.lm import LM
from ..core.progress import Progress
from ..core.site import KINDS, Site, expand, sites_of
from .capture import Job, fill
from .disk import Lock, explain, human, publish, write_json
from .key import RunKey, dtype_name
from .layout import LOCK, RUN, TOKENS, Entry, Group, Plan
from .reader import Activations
from .shard import Verify, file_bytes
from .source import Source, check_edits

WAIT_FOR_GC = 60.0
FORWARD_TOKENS = {"cpu": 4096}
"""Tokens of one forward pass by device; 16384 elsewhere."""


@dataclass(frozen=True)
class Preview:
    """What a capture would cost, before anything is paid."""

    model: str
    sites: dict[str, str]
    """`hit`, `partial` or `miss` for each site."""
    tokens: int
    """Rows of the capture: real tokens."""
    bytes: int
    """Bytes that would be written (nothing for hits)."""
    total_bytes: int
    """Bytes of the whole capture on disk."""
    forwards: int
    """Forward passes that would be run."""
    forward_tokens: int
    """Tokens that would be run."""
    key: str
    """Key of the run, 32 hex digits."""

    @property
    def hit(self) -> bool:
        """Whether there is nothing to do."""
        return all(state == "hit" for state in self.sites.values())

    def describe(self) -> str:
        """One line."""
        sites = f"{len(self.sites)} sites" if len(self.sites) > 1 else next(iter(self.sites))
        head = f"{self.model} · {sites} · {self.tokens:,} tokens · sha {self.key[:8]}"
        if self.hit:
            return f"hit · {head} · {human(self.total_bytes)}, nothing to compute"
        states = list(self.sites.values())
        counts = [f"{states.count(state)} {state}" for state in ("hit", "partial", "miss") if state in states]
        state = ", ".join(counts) if len(states) > 1 else states[0]
        cost = f"writes {human(self.bytes)}, {self.forwards} forward passes over {self.forward_tokens:,} tokens"
        return f"{state} · {head} · {cost}"


@dataclass(frozen=True)
class Settings:
    """How a store reads and writes; none of it changes what a capture is."""

    root: Path
    verify: Verify
    forward_tokens: int | None
    shard_bytes: int


class Request:
    """A model, documents and sites, and where the answer lies."""

    def __init__(
        self,
        settings: Settings,
        lm: LM,
        what: Any,
        sites: "str | Site | Sequence[str | Site]",
        dtype: "torch.dtype | str | None",
        edits: Sequence[Edit],
        share: tuple[int, int] | None = None,
    ) -> None:
        self.settings, self.lm, self.edits, self.share = settings, lm, tuple(edits), share
        self.sites = expand(sites, lm.spec)
        _check_sites(self.sites)
        if share is not None and not 0 <= share[0] < share[1]:
            raise BadInput(f"`shard` must be (index, count) with 0 <= index < count; not {share!r}.")
        self.dtype = dtype_name(dtype, lm)
        self.source = Source.of(what)
        self.source.check(lm)
        self.key = RunKey.of(lm, self.source, check_edits(self.edits, self.source, self.sites))
        self.group = Group(settings.root / self.key.digest)
        self.entries = [Entry(self.group, site, self.dtype) for site in self.sites]
        self.shapes = {info.site: info.shape for info in sites_of(lm.spec)}

    def preview(self) -> Preview:
        """What is there and what is not."""
        job = self._job()
        open_entries = [entry for entry in self.entries if not entry.sealed]
        lacking = {index: job.missing(index, open_entries) for index in range(len(job.plan))} if open_entries else {}
        mine = [index for index in job.shards() if lacking.get(index)]
        states = {}
        for entry in self.entries:
            absent = sum(entry in entries for entries in lacking.values())
            fresh = absent == len(job.plan)
            states[entry.site.name] = "hit" if entry not in open_entries else "miss" if fresh else "partial"
        return Preview(
            model=self.lm.spec.name,
            sites=states,
            tokens=len(self.source.tokens),
            bytes=sum(self._bytes(job.plan, index, lacking[index]) for index in mine),
            total_bytes=sum(self._bytes(job.plan, index, self.entries) for index in range(len(job.plan))),
            forwards=sum(len(job.chunks(index)) for index in mine),
            forward_tokens=sum(job.plan.rows(index) for index in mine),
            key=self.key.digest,
        )

    def _bytes(self, plan: Plan, index: int, entries: Sequence[Entry]) -> int:
        rows = plan.rows(index)
        return sum(file_bytes(rows, self.shapes[entry.site], self.dtype) for entry in entries)

    def hold(self) -> list[Lock]:
        """Keep `gc` from removing what is there, from here on."""
        return shared([self.group, *self.entries])

    def fill(self, preview: Preview, quiet: bool) -> list[Lock]:
        """Compute what is missing; returns the locks on what was made."""
        try:
            locks = self._prepare()
        except OSError as error:
            raise explain(error, self.settings.root, "preparing") from error
        with Progress(f"capture {preview.model}", preview.forward_tokens) as progress:
            for tokens in fill(self._job()):
                if not quiet:
                    progress.update(tokens)
        return locks

    def open(self, preview: Preview, locks: Sequence[Lock]) -> Activations:
        """The activations, as they are on disk."""
        hits = [preview.sites[site.name] == "hit" for site in self.sites]
        for lock in locks:
            lock.touch()
        names, verify = self.source.names, self.settings.verify
        return Activations(self.group, self.entries, hits, names=names, verify=verify, locks=locks)

    def _job(self) -> Job:
        there = (self.group.path / RUN).exists()
        rows = int(self.group.info["shard_rows"]) if there else self._shard_rows()
        tokens = self.settings.forward_tokens or FORWARD_TOKENS.get(self.lm.spec.device.partition(":")[0], 16384)
        plan = Plan(self.source.offsets, rows)
        return Job(self.lm, self.source, plan, self.entries, tokens, self.edits, self.share)

    def _shard_rows(self) -> int:
        return max(1, self.settings.shard_bytes // (self.lm.spec.d_model * self.lm.spec.bytes_per_value))

    def _prepare(self) -> list[Lock]:
        """Make the directories and what all sites share; hold them while writing."""
        path = self.group.path
        path.mkdir(parents=True, exist_ok=True)
        locks = shared([self.group])
        if not (path / RUN).exists():
            self._write_run()
        for entry in self.entries:
            entry.path.mkdir(exist_ok=True)
        return locks + shared(self.entries)

    def _write_run(self) -> None:
        from safetensors.numpy import save

        table = save({"tokens": self.source.tokens, "offsets": self.source.offsets})
        publish(self.group.path / TOKENS, table)
        spec = self.lm.spec
        about = {"model": spec.name, "family": spec.family, "backend": spec.backend, "device": spec.device}
        sizes = {
            "rows": len(self.source.tokens),
            "documents": len(self.source.names),
            "shard_rows": self._shard_rows(),
            "shapes": {site.kind: list(shape) for site, shape in self.shapes.items()},
        }
        digests = {"rows_digest": self.source.rows, "tokens_xxh3": xxhash.xxh3_128_hexdigest(table)}
        info = {**self.key.parts, **about, **sizes, **digests, "created": time.time()}
        write_json(self.group.path / RUN, info, first=True)


def shared(places: "Sequence[Group | Entry]") -> list[Lock]:
    """The right to use directories, where they are there, that `gc` might otherwise remove."""
    locks = []
    for place in places:
        with contextlib.suppress(FileNotFoundError):
            lock = Lock.take(place.path / LOCK, shared=True, wait=WAIT_FOR_GC)
            if lock is None:
                raise StoreError(f"{place.path} has been locked for a minute by a process that removes it. Try again.")
            locks.append(lock)
    return locks


def _check_sites(sites: Sequence[Site]) -> None:
    if not sites:
        raise BadInput("no site was given. Name at least one; `interp sites MODEL` lists them.")
    for site in sites:
        if "pos" not in KINDS[site.kind].dims:
            raise BadInput(
                f"{site} has a value for each pair of tokens, not each token, and is not stored. "
                "Capture q and k, or run `lm.run(batch, capture=...)` on the prompts at hand."
            )
