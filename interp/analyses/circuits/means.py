"""What a head says on average: the value that stands in for it where it is ablated.

    mean[layer, head] = mean over prompts and positions of one class of z[layer, head]

Classes are positions that play the same part. By `role` (the default), each of the circuit's positions is a class, the first token is one
(it is an attention sink in many models), and every other token is told by the marked spans that came before it and its distance from the
last of them: "IO S1+2" is two after the first subject where the indirect object came before it. Classes that fewer than `FEWEST` prompts
have are pooled over the distance. Prompts of any length share them. By `position`, as Prakash et al. have it, each absolute position is
one, which asks for many prompts of each length. The prompts are the clean and the corrupted ones together, so that what the two differ in
is averaged out and what they share is not.

When it misleads: a wording that few prompts have is a class of its own even when pooled, and its mean mostly repeats those prompts. Bring
several prompts of each wording.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from interp.core.batch import Batch
from interp.core.errors import BadInput
from interp.core.lm import LM
from interp.core.shapes import Int, Mask
from interp.core.site import Site

from ..pairs import PairGroup
from ..paths.places import where

FEWEST = 8
"""Prompts that a mean is taken over, at least: of fewer it would mostly repeat the prompt that it stands in for."""


@dataclass(eq=False)
class Means:
    """Mean activations by class of position."""

    by: str
    roles: tuple[str, ...]
    total: dict[tuple[Site, str, str], Tensor] = field(default_factory=dict)
    count: dict[tuple[Site, str, str], int] = field(default_factory=dict)

    @classmethod
    def over(
        cls, lm: LM, groups: Sequence[PairGroup], sites: Sequence[Site], *, roles: Sequence[str], by: str
    ) -> "Means":
        """Means of `sites` over the clean and corrupted prompts of all groups. Raises `BadInput` for too few of them."""
        found = cls(by, tuple(roles))
        if by == "role" and (prompts := 2 * sum(len(group) for group in groups)) < FEWEST:
            raise BadInput(
                f"means need at least {FEWEST} prompts, counting both of a pair; there are {prompts}. Of fewer a mean mostly repeats the "
                f"prompt that it stands in for, and nothing would be ablated. Bring at least {FEWEST // 2} pairs."
            )
        if by == "position":
            each: dict[int, int] = {}
            for group in groups:
                each[group.width] = each.get(group.width, 0) + 2 * len(group)
            if few := {width: n for width, n in each.items() if n < FEWEST}:
                told = ", ".join(f"{n} of {width} tokens" for width, n in sorted(few.items()))
                raise BadInput(
                    f"means='position' needs at least {FEWEST} prompts of each length, counting both of a pair; there are {told}. "
                    "Bring more pairs or pairs of one length, or use means='role'."
                )
        for group in groups:
            classes = found.classes(group.clean)
            for batch in (group.clean, group.corrupted):
                run = lm.run(batch, capture=list(sites))
                for site in sites:
                    found._add(site, run[site], classes)
        return found

    def classes(self, batch: Batch) -> list[list[tuple[str, str]]]:
        """The class of each position of each row, (pooled, fine)."""
        rows, width = batch.tokens.shape
        if self.by == "position":
            return [[(f"{width}: {place}",) * 2 for place in range(width)] for _ in range(rows)]
        masks = {role: where(batch, role) for role in self.roles}
        disjoint(masks, batch)
        return [self._row(row, batch, masks) for row in range(rows)]

    def _row(self, row: int, batch: Batch, masks: dict[str, Mask]) -> list[tuple[str, str]]:
        starts: dict[int, str] = {}
        for name, span in sorted(batch.spans.items()):
            if name != "last" and int(span[row, 0]) >= 0:
                starts.setdefault(int(span[row, 0]), name)
        names: list[tuple[str, str]] = []
        before, since = "start", 0
        for place in range(batch.tokens.shape[1]):
            if place in starts:
                before, since = f"{before} {starts[place]}".removeprefix("start "), place
            here = [role for role, mask in masks.items() if bool(mask[row, place])]
            if here or place == 0:
                names.append((here[0] if here else "first",) * 2)
            else:
                names.append((f"after {before}", f"{before}+{place - since}"))
        return names

    def table(self, site: Site, batch: Batch) -> Tensor:
        """The mean that stands at each position, [row, pos, ...]."""
        names = self.classes(batch)
        known = {name: self._mean(site, *name) for name in {one for row in names for one in row}}
        return torch.stack([torch.stack([known[name] for name in row]) for row in names]).float()

    def _mean(self, site: Site, pooled: str, fine: str) -> Tensor:
        if self.count[site, pooled, fine] >= FEWEST:
            return self.total[site, pooled, fine] / self.count[site, pooled, fine]
        mine = [key for key in self.total if key[:2] == (site, pooled)]
        return torch.stack([self.total[key] for key in mine]).sum(dim=0) / sum(self.count[key] for key in mine)

    def _add(self, site: Site, x: Tensor, classes: list[list[tuple[str, str]]]) -> None:
        names = list(dict.fromkeys(name for row in classes for name in row))
        index: Int[Tensor, "row pos"] = torch.tensor([[names.index(name) for name in row] for row in classes])
        x = x.double().cpu()
        total = torch.zeros(len(names), *x.shape[2:], dtype=torch.float64).index_add_(
            0, index.flatten(), x.flatten(0, 1)
        )
        for place, name in enumerate(names):
            key = (site, *name)
            self.total[key] = self.total.get(key, torch.zeros((), dtype=torch.float64)) + total[place]
            self.count[key] = self.count.get(key, 0) + int((index == place).sum())


def disjoint(masks: dict[str, Mask], batch: Batch) -> None:
    """Refuse roles that fall on the same token: a head cannot be in the circuit and out of it at one place."""
    if not masks:
        return
    hits = torch.stack(list(masks.values())).sum(dim=0)
    if bool((hits > 1).any()):
        row, place = (int(x) for x in (hits > 1).nonzero()[0])
        here = [role for role, mask in masks.items() if bool(mask[row, place])]
        raise BadInput(
            f"the positions {' and '.join(here)} are the same token of the prompt {batch.ids[row]!r}. Use one name for both, or prompts "
            "in which they are apart."
        )
