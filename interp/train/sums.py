"""Numbers of each step, added up on the device: nothing waits for the step until somebody looks."""

from collections.abc import Mapping

import torch
from torch import Tensor


class Sums:
    """Sums over steps of named numbers, in float64, and the step at which each was first not finite."""

    def __init__(self, device: "torch.device | str" = "cpu") -> None:
        self.names: list[str] = []
        self.steps = 0
        """Steps since `clear`."""
        self.total = torch.zeros(0, dtype=torch.float64, device=device)
        self.first = torch.zeros(0, dtype=torch.int64, device=device)
        """Number of the step at which each name was first NaN or infinite, 0 for never."""

    def add(self, step: int, values: Mapping[str, Tensor]) -> None:
        """Take in the numbers of step `step` (counted from 1). A name that is missing counts as zero; a new one was zero before."""
        for name in values:
            if name not in self.names:
                self.names.append(name)
                self.total, self.first = (torch.cat([old, old.new_zeros(1)]) for old in (self.total, self.first))
        zero = next(iter(values.values())).new_zeros(())
        now = torch.stack([values.get(name, zero).detach().double() for name in self.names])
        self.total = self.total + now
        bad = ~torch.isfinite(now) & (self.first == 0)
        self.first = torch.where(bad, step, self.first)
        self.steps += 1

    def broken(self) -> dict[str, int]:
        """The names that were ever not finite, and at which step first, the earliest first."""
        found = dict(zip(self.names, self.first.tolist(), strict=True))
        return dict(sorted(((name, step) for name, step in found.items() if step), key=lambda item: item[1]))

    def means(self) -> dict[str, float]:
        """The mean of each name over the steps since `clear`."""
        return dict(zip(self.names, (self.total / max(1, self.steps)).tolist(), strict=True))

    def clear(self) -> None:
        """Begin anew; the names stay."""
        self.total, self.steps = torch.zeros_like(self.total), 0
