"""Codes: which latents are on in each row and how strongly, without the zeros.

codes = dictionary.codes(rows)            # Codes(1,000 rows · 32.0 of 16,384 latents a row)
codes.ids, codes.values, codes.offsets    # the latents of row i are ids[offsets[i]:offsets[i + 1]], rising
codes.dense()                             # [row, latent]
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import BadInput


@dataclass(frozen=True, eq=False)
class Codes:
    """Sparse codes of rows, in compressed rows."""

    ids: Tensor
    """Latents that are on, int64 [on], rising within a row."""
    values: Tensor
    """Their codes [on]; never zero."""
    offsets: Tensor
    """Where each row begins, and the end, int64 [row + 1]."""
    latents: int
    """How many latents there are."""

    @classmethod
    def of(cls, dense: Tensor) -> "Codes":
        """Of dense codes [row, latent]."""
        if dense.ndim != 2:
            raise BadInput(f"dense codes must be [row, latent]; not {list(dense.shape)}.")
        rows, ids = dense.nonzero(as_tuple=True)
        return cls(ids, dense[rows, ids], _offsets(torch.bincount(rows, minlength=len(dense))), dense.shape[1])

    @classmethod
    def chosen(cls, ids: Tensor, values: Tensor, latents: int) -> "Codes":
        """Of the same number of latents in each row [row, k]; those whose value is zero are left out."""
        order = ids.argsort(dim=1)
        ids, values = ids.gather(1, order), values.gather(1, order)
        on = values != 0
        return cls(ids[on], values[on], _offsets(on.sum(dim=1)), latents)

    @classmethod
    def cat(cls, parts: "Sequence[Codes]") -> "Codes":
        """Of all rows after one another."""
        if not parts:
            raise BadInput("there are no codes to join. Give at least one.")
        if len(widths := {part.latents for part in parts}) > 1:
            raise BadInput(f"codes of {sorted(widths)} latents cannot be joined. Are they of one dictionary?")
        counts = torch.cat([part.counts() for part in parts])
        return cls(
            torch.cat([p.ids for p in parts]), torch.cat([p.values for p in parts]), _offsets(counts), parts[0].latents
        )

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def counts(self) -> Tensor:
        """Latents that are on in each row, int64 [row]."""
        return self.offsets.diff()

    def row_of(self) -> Tensor:
        """The row of each entry, int64 [on]."""
        return torch.repeat_interleave(torch.arange(len(self), device=self.ids.device), self.counts())

    def rows(self, start: int, stop: int) -> "Codes":
        """Rows [start, stop)."""
        first, last = int(self.offsets[start]), int(self.offsets[stop])
        return Codes(
            self.ids[first:last], self.values[first:last], self.offsets[start : stop + 1] - first, self.latents
        )

    def dense(self) -> Tensor:
        """[row, latent]."""
        out = self.values.new_zeros(len(self), self.latents)
        return out.index_put_((self.row_of(), self.ids), self.values)

    def column(self, latent: int) -> Tensor:
        """The codes of one latent, [row]."""
        out, on = self.values.new_zeros(len(self)), self.ids == latent
        out[self.row_of()[on]] = self.values[on]
        return out

    def to(self, device: "torch.device | str") -> "Codes":
        """On another device."""
        return Codes(self.ids.to(device), self.values.to(device), self.offsets.to(device), self.latents)

    def __repr__(self) -> str:
        mean = len(self.ids) / max(1, len(self))
        return f"Codes({len(self):,} rows · {mean:.1f} of {self.latents:,} latents a row)"


def _offsets(counts: Tensor) -> Tensor:
    return torch.cat([counts.new_zeros(1), counts.cumsum(0)])
