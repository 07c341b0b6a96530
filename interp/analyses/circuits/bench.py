"""Running circuits: every head that is not in one is replaced by its mean, at the positions that matter and everywhere else.

Every evaluation is a *removal* from a recorded run, so that only what lies above the removed heads is computed again:

    model      nothing ablated                                         removals: F(M \\ K)
    open       every head at the vital positions, means elsewhere      removals: the empty circuit, circuits drawn at random
    circuit    the circuit's heads there, means for all others         removals: F(C \\ K)

MLPs are recomputed from what they are given; with `mlps=True` they too are replaced by their means outside the vital positions.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from interp.core.batch import At
from interp.core.edit import Edit, replace
from interp.core.lm import LM, Recording
from interp.core.shapes import Mask
from interp.core.site import Site

from ..pairs import PairGroup
from ..paths.places import where
from ..readout import METRICS, read_metrics
from .circuit import Circuit, Head
from .means import Means, disjoint

MEASURES = (*METRICS, "top")
"""The four metrics, and whether the answer is the top token: 1/n where n tokens share the top, so that flat logits answer nothing."""
Removal = frozenset[tuple[str, Head]]
"""Heads that are ablated on top of a recorded run, each at a role."""


@dataclass(eq=False)
class _Room:
    """One group of pairs with the edits that it needs, each built once."""

    group: PairGroup
    masks: dict[str, Mask]
    means: dict[Site, Tensor]
    edits: dict[tuple[str, int, tuple[int, ...]], Edit] = field(default_factory=dict)
    recorded: dict[str, Recording] = field(default_factory=dict)

    def remove(self, removal: Iterable[tuple[str, Head]]) -> list[Edit]:
        """The means of some heads at their roles."""
        by: dict[tuple[str, int], list[int]] = {}
        for role, (layer, head) in sorted(removal):
            by.setdefault((role, layer), []).append(head)
        out = []
        for (role, layer), heads in by.items():
            key = (role, layer, tuple(heads))
            if key not in self.edits:
                site = Site("z", layer)
                self.edits[key] = replace(site, self.means[site], at=At.mask(self.masks[role]), heads=heads)
            out.append(self.edits[key])
        return out

    def elsewhere(self) -> list[Edit]:
        """The means of everything outside the vital positions."""
        rest = self.group.clean.mask & ~torch.stack(list(self.masks.values())).any(dim=0)
        return (
            [replace(site, value, at=At.mask(rest), heads=None) for site, value in self.means.items()]
            if bool(rest.any())
            else []
        )


class Bench:
    """Evaluates circuits on pairs' clean prompts. `elsewhere` is what stands outside the vital positions: mean or clean."""

    def __init__(
        self,
        lm: LM,
        groups: Sequence[PairGroup],
        roles: Sequence[str],
        *,
        means: Means,
        elsewhere: str = "mean",
        mlps: bool = False,
    ) -> None:
        self.lm, self.roles, self.elsewhere = lm, tuple(roles), elsewhere
        sites = sites_of(lm, mlps=mlps)
        self.rooms = []
        for group in groups:
            masks = {role: where(group.clean, role) for role in self.roles}
            disjoint(masks, group.clean)
            self.rooms.append(_Room(group, masks, {site: means.table(site, group.clean) for site in sites}))
        self.n = sum(len(group) for group in groups)

    @property
    def every(self) -> frozenset[Head]:
        """All heads of the model."""
        return frozenset(
            (layer, head) for layer in range(self.lm.spec.n_layers) for head in range(self.lm.spec.n_heads)
        )

    def outside(self, circuit: Circuit) -> Removal:
        """What the circuit leaves out at the vital positions."""
        return frozenset((role, head) for role in self.roles for head in self.every - circuit.at(role))

    def prepare(self, name: str, circuit: Circuit | None = None) -> None:
        """Record a run that removals start from: `model`, `open`, or a circuit under any other name."""
        for room in self.rooms:
            edits: list[Edit] = []
            if name != "model" and self.elsewhere == "mean":
                edits += room.elsewhere()
            if circuit is not None:
                edits += room.remove(self.outside(circuit))
            room.recorded[name] = self.lm.record(room.group.clean, edits=edits)

    def scores(self, name: str, removals: Sequence[Removal]) -> np.ndarray:
        """Measures of each removal from a recorded run, [removal, prompt, measure], prompts in the order of the data."""
        out = np.full(
            (len(removals), 1 + max(i for room in self.rooms for i in room.group.index), len(MEASURES)), np.nan
        )
        for room in self.rooms:
            out[:, list(room.group.index)] = self._room(room, name, removals)
        keep = sorted(i for room in self.rooms for i in room.group.index)
        return out[:, keep]

    def _room(self, room: _Room, name: str, removals: Sequence[Removal]) -> np.ndarray:
        if not removals:
            return np.empty((0, len(room.group), len(MEASURES)))
        answer, foil = room.group.answer, room.group.foil

        def readout(logits: Tensor, rows: Tensor) -> Tensor:
            at = rows.cpu()
            return measure(logits, answer[at, None], foil[at, None])

        cells = [room.remove(removal) for removal in removals]
        return self.lm.resume(room.recorded[name], cells, readout=readout)[:, :, 0].double().cpu().numpy()


def measure(logits: Tensor, answer: Tensor, foil: Tensor) -> Tensor:
    """`MEASURES` of logits [..., vocab]; answer and foil broadcast against the leading axes."""
    best = logits.amax(dim=-1, keepdim=True)
    right = logits.gather(-1, answer.to(logits.device).expand(logits.shape[:-1])[..., None])
    top = (right == best).double() / (logits == best).sum(dim=-1, keepdim=True)
    return torch.cat([read_metrics(logits, answer, foil), top.cpu()], dim=-1)


def sites_of(lm: LM, *, mlps: bool) -> list[Site]:
    """What is ablated: z of every layer, and the MLPs' outputs if asked for."""
    layers = range(lm.spec.n_layers)
    return [Site("z", layer) for layer in layers] + ([Site("mlp_out", layer) for layer in layers] if mlps else [])
