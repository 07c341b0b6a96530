"""The two passes, for one batch of pairs: what each sender alone makes of the receivers, and what that makes of the answer.

    pass A    the base run with the sender's output taken from the other prompt and everything else held:    receivers' inputs
    pass B    the base run with only the receivers' inputs replaced by those, everything recomputed:         metrics of the answer

Into the logits there is no second pass: what pass A answers is the score. Senders that do not come before a receiver are not run: their
score is the base run's, to the last bit. Both passes are resumptions of one recorded run, so a sender costs the layers above it and
the positions from its own on.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from interp.core.batch import At, Batch
from interp.core.edit import Edit, replace
from interp.core.lm import LM
from interp.core.shapes import Mask
from interp.core.site import Site

from ..readout import METRICS, read_metrics
from .nodes import Receiver
from .places import where


@dataclass(frozen=True)
class Sender:
    """One head, or one MLP (`head` -1)."""

    kind: str
    layer: int
    head: int = -1

    @property
    def site(self) -> Site:
        """What it writes: z of a head, the output of an MLP."""
        return Site("z" if self.kind == "heads" else "mlp_out", self.layer)


@dataclass(eq=False)
class Sweep:
    """Path effects on one batch, whose rows all have the same length."""

    lm: LM
    base: Batch
    """The run that is patched."""
    source: Batch
    """Where the sender's value comes from."""
    answer: Tensor
    foil: Tensor
    """Token ids [row]."""
    targets: Sequence[tuple[Receiver, ...]]
    """Receivers that are patched together, a tuple each."""
    hold_heads: bool = True
    hold_mlps: bool = False
    memory: int = 256_000_000
    """Bytes of receivers' values held at once."""
    _held: dict[Site, Edit] = field(default_factory=dict)
    _masks: dict[str, Mask] = field(default_factory=dict)
    _said: dict[tuple[Sender, str], Mask] = field(default_factory=dict)

    def __post_init__(self) -> None:
        spec, layers = self.lm.spec, range(self.lm.spec.n_layers)
        outputs = [Site(kind, layer) for kind in ("z", "mlp_out") for layer in layers]
        inputs = [site for group in self.targets for one in group for site in one.sites(spec)]
        self.other = self.lm.record(
            self.source, capture=outputs
        ).run  # as the base is run, so that what is equal is equal bit for bit
        self.record = self.lm.record(self.base, capture=list(dict.fromkeys([*outputs, *inputs])))

    def scores(self, senders: Sequence[Sender], roles: Sequence[str]) -> np.ndarray:
        """Metrics of the answer, [row, target, role, sender, metric]; `roles` say where a sender is patched ("own": where its
        receivers read)."""
        shape = (len(self.targets), len(roles), len(senders))
        found = np.empty((len(self.base), *shape, len(METRICS)))
        found[:] = self.read_base()[:, None, None, None]
        wanted: dict[str, list[tuple[int, int]]] = {}
        for target, group in enumerate(self.targets):
            for place, role in enumerate(roles):
                wanted.setdefault(group[0].at if role == "own" else role, []).append((target, place))
        for role, places in wanted.items():
            for name, chosen in (("logits", True), ("inputs", False)):
                mine = [item for item in places if (self.targets[item[0]][0].kind == "logits") == chosen]
                if mine:
                    getattr(self, f"_{name}")(found, role, mine, senders)
        return found

    def read_base(self) -> np.ndarray:
        """Metrics of the base run, [row, metric]."""
        return read_metrics(self.record.run.last_logits, self.answer, self.foil).numpy()

    def read_source(self) -> np.ndarray:
        """Metrics of the other prompt's run, for the same answer and foil, [row, metric]."""
        return read_metrics(self.other.last_logits, self.answer, self.foil).numpy()

    def mask(self, role: str) -> Mask:
        """Where a role lies in the base prompts, worked out once."""
        if role not in self._masks:
            self._masks[role] = where(self.base, role)
        return self._masks[role]

    def _logits(
        self, found: np.ndarray, role: str, places: Sequence[tuple[int, int]], senders: Sequence[Sender]
    ) -> None:
        speaking = [index for index, sender in enumerate(senders) if bool(self._speaks(sender, role).any())]
        values = self._outcome([self._first(senders[index], role, self.lm.spec.n_layers) for index in speaking])
        for target, place in places:
            found[:, target, place, speaking] = values.swapaxes(0, 1)

    def _inputs(
        self, found: np.ndarray, role: str, places: Sequence[tuple[int, int]], senders: Sequence[Sender]
    ) -> None:
        spec = self.lm.spec
        groups = {target: self.targets[target] for target, _ in places}
        every = [one for group in groups.values() for one in group]
        sites = list(dict.fromkeys(site for one in every for site in one.sites(spec)))
        top = max(one.layer for one in every)
        below = [
            index for index, sender in enumerate(senders)
            if any(one.above(sender.kind, sender.layer, spec) for one in every) and bool(self._speaks(sender, role).any())
        ]  # fmt: skip
        columns = torch.stack([self.mask(one.at) for one in every]).any(dim=0).any(dim=0).nonzero().flatten().tolist()
        for part in self._chunks(below, sites, len(columns), len(groups)):
            first = [self._first(senders[index], role, top) for index in part]
            made = self.lm.resume_sites(self.record, first, sites, at=columns)
            second, owner = [], []
            for cell, index in enumerate(part):
                sender = senders[index]
                for target, place in places:
                    heard = [one for one in groups[target] if one.above(sender.kind, sender.layer, spec)]
                    if heard:
                        rows = self._speaks(sender, role).any(dim=1)
                        second.append(self._second(heard, {site: made[site][cell] for site in sites}, columns, rows))
                        owner.append((target, place, index))
            for (target, place, index), values in zip(owner, self._outcome(second), strict=True):
                found[:, target, place, index] = values

    def _first(self, sender: Sender, role: str, top: int) -> list[Edit]:
        """Pass A: the sender's value from the other prompt; what comes after it, up to layer `top`, held at the base run's."""
        heads = [sender.head] if sender.head >= 0 else None
        edits = [replace(sender.site, self.other, at=At.mask(self._speaks(sender, role)), heads=heads)]
        last = min(top, self.lm.spec.n_layers - 1)
        if self.hold_heads:
            edits += [self._hold(Site("z", layer)) for layer in range(sender.layer + 1, last + 1)]
        if self.hold_mlps:
            start = sender.layer + (sender.kind == "mlps")
            edits += [self._hold(Site("mlp_out", layer)) for layer in range(start, last + 1)]
        return edits

    def _speaks(self, sender: Sender, role: str) -> Mask:
        """Where the sender's output differs between the prompts, bool [row, pos]. Elsewhere it says nothing, exactly."""
        key = (sender, role)
        if key not in self._said:
            here, there = self.record.run[sender.site], self.other[sender.site]
            if sender.head >= 0:
                here, there = here[:, :, sender.head], there[:, :, sender.head]
            self._said[key] = self.mask(role) & (here != there).any(dim=-1).cpu()
        return self._said[key]

    def _hold(self, site: Site) -> Edit:
        """The same object for the same site, so that an engine can see which cells go on alike."""
        if site not in self._held:
            self._held[site] = replace(site, self.record.run)
        return self._held[site]

    def _second(
        self, heard: Sequence[Receiver], made: dict[Site, Tensor], columns: Sequence[int], rows: Tensor
    ) -> list[Edit]:
        """Pass B: the inputs of the receivers that hear the sender, in rows where it speaks, at their positions, and nothing else."""
        edits = []
        wide: dict[Site, Tensor] = {}
        for one in heard:
            for site in one.sites(self.lm.spec):
                if site not in wide:
                    wide[site] = self.record.run[site].clone()  # [row, pos, ...]
                    wide[site][:, columns] = made[site].to(wide[site])
                heads = None if one.kind == "mlp" else [one.head]
                edits.append(replace(site, wide[site], at=At.mask(self.mask(one.at) & rows[:, None]), heads=heads))
        return edits

    def _outcome(self, cells: Sequence[Sequence[Edit]]) -> np.ndarray:
        """Metrics of the answer for each cell, [cell, row, metric]."""
        if not cells:
            return np.empty((0, len(self.base), len(METRICS)))

        def readout(logits: Tensor, rows: Tensor) -> Tensor:
            at = rows.cpu()
            return read_metrics(logits, self.answer[at, None], self.foil[at, None])  # [n, 1, metric]

        return self.lm.resume(self.record, cells, readout=readout)[:, :, 0].double().cpu().numpy()

    def _chunks(self, items: list[int], sites: Sequence[Site], columns: int, targets: int) -> Iterator[list[int]]:
        """Senders in parts whose receivers' values fit into memory together."""
        each = 0
        for site in sites:
            x = self.record.run[site]
            each += x[:, :1].numel() * x.element_size() * (columns + targets * x.shape[1])
        step = max(1, self.memory // max(1, each))
        return (items[start : start + step] for start in range(0, len(items), step))
