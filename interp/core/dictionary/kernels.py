"""Products with sparse codes: decoding, and the two gradients of decoding, at the cost of the latents that are on.

    import torch
    from interp.core.dictionary.kernels import bag, bag_rows_grad, bag_values_grad, by_latent, row_of
    ids, values, offsets = torch.tensor([1, 4, 0]), torch.ones(3), torch.tensor([0, 2, 3])    # two rows: 1 and 4 are on; 0 is
    W_dec, g = torch.eye(5), torch.ones(2, 5)
    xhat = bag(ids, values, offsets, W_dec)                         # [row, d] = dense codes @ W_dec
    dv = bag_values_grad(g, W_dec, ids, offsets)                    # [on]     = (g @ W_dec.T) where codes are on
    order = by_latent(ids, 5)
    dW = bag_rows_grad(g, row_of(offsets), values, order)           # [latent, d] = dense codes.T @ g

A code with 32 of 16,384 latents on is a bag of 32 weighted rows, so decoding is torch's embedding bag; its gradient by the weights of the
bag is one dot product an entry; and its gradient by the rows is a bag again, of the rows of the gradient, one bag a latent, after a stable
sort by latent. Nothing is scattered, so the result is the same on every run, on CUDA too (index_add and autograd's embedding bag add in
whatever order threads arrive). Weights must be stored by rows [latent, d].

The selection of what is on is in `select`. Sizes: n rows, m latents, d components, `on` entries in compressed rows (ids [on], values [on],
offsets [n + 1]). bfloat16 rows are summed in float32 and rounded once.
"""

from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor
from torch.nn.functional import embedding_bag

from .select import Chosen, active_count, select_batch, select_topk

BLOCK = 1024
"""Latents whose gradient is made at once and copied to its place: a whole one would be new memory in every step."""
GATHERED = 2**22
"""Numbers that are gathered at once where a device has no dot products by index."""


@dataclass(frozen=True)
class Order:
    """Entries in order of their latents."""

    places: Tensor
    """[on]: the entry that comes first, second, ...; of one latent, as they were."""
    offsets: Tensor
    """Where each latent begins, and the end, int64 [m + 1]."""

    @property
    def latents(self) -> int:
        """How many latents there are."""
        return len(self.offsets) - 1


def bag(ids: Tensor, values: Tensor, offsets: Tensor, rows: Tensor) -> Tensor:
    """[n, d]: the sum of values * rows[ids] over each bag; zero for an empty one. No gradient is recorded."""
    with torch.no_grad():
        if not len(ids):
            return rows.new_zeros(len(offsets) - 1, rows.shape[1])
        weights = values.to(rows.dtype)
        return embedding_bag(
            ids, rows.detach(), offsets, mode="sum", per_sample_weights=weights, include_last_offset=True
        )


def bag_values_grad(gradient: Tensor, rows: Tensor, ids: Tensor, offsets: Tensor, of: Tensor | None = None) -> Tensor:
    """[on]: gradient[row of the entry] · rows[id of the entry]; `of` [on] are the rows of the entries, if known."""
    with torch.no_grad():
        of = row_of(offsets) if of is None else of
        if not len(ids):
            return rows.new_zeros(0)
        gradient, rows = gradient.detach().to(rows.dtype), rows.detach()
        if rows.device.type in ("cpu", "cuda"):
            backward = torch.ops.aten._embedding_bag_per_sample_weights_backward
            return backward(gradient.contiguous(), rows, ids, offsets[:-1], of, 0)
        return gathered_products(gradient, rows, ids, of)


def gathered_products(gradient: Tensor, rows: Tensor, ids: Tensor, of: Tensor) -> Tensor:
    """The same on any device, through a gather of some entries at a time."""
    step = max(1, GATHERED // rows.shape[1])
    parts = [
        (gradient[r].float() * rows[i].float()).sum(dim=1).to(rows.dtype)
        if rows.dtype != torch.float64
        else (gradient[r] * rows[i]).sum(dim=1)
        for r, i in zip(of.split(step), ids.split(step), strict=True)
    ]
    return torch.cat(parts)


def by_latent(ids: Tensor, latents: int) -> Order:
    """Entries sorted by latent, those of one latent as they came."""
    places = ids.sort(stable=True).indices
    counts = torch.bincount(ids, minlength=latents)
    return Order(places, torch.cat([counts.new_zeros(1), counts.cumsum(0)]))


def bag_rows_grad(
    gradient: Tensor,
    of: Tensor,
    values: Tensor,
    order: Order,
    *,
    latents: tuple[int, int] | None = None,
    out: Tensor | None = None,
) -> Tensor:
    """[m, d]: for each latent the sum of values * gradient[of] over its entries. `latents` is the range wanted; `out` is written over."""
    low, high = (0, order.latents) if latents is None else latents
    out = gradient.new_empty(high - low, gradient.shape[1]) if out is None else out
    bounds = order.offsets[torch.arange(low, high + BLOCK, BLOCK, device=out.device).clamp(max=high)].tolist()
    places = order.places[bounds[0] : bounds[-1]]
    of, values = of[places], values[places]
    for number, (first, last) in enumerate(pairwise(bounds)):
        start = low + number * BLOCK
        stop = min(start + BLOCK, high)
        entries = slice(first - bounds[0], last - bounds[0])
        offsets = order.offsets[start : stop + 1] - first
        out[start - low : stop - low] = bag(of[entries], values[entries], offsets, gradient)
    return out


def sums_by_latent(values: Tensor, order: Order) -> Tensor:
    """[m]: the sum of the values of each latent, in a fixed order."""
    with torch.no_grad():
        return torch.segment_reduce(values[order.places], "sum", offsets=order.offsets, initial=0)


def row_of(offsets: Tensor) -> Tensor:
    """The row of each entry, int64 [on]."""
    counts = offsets.diff()
    return torch.repeat_interleave(torch.arange(len(counts), device=offsets.device), counts)


__all__ = [
    "Chosen",
    "Order",
    "active_count",
    "bag",
    "bag_rows_grad",
    "bag_values_grad",
    "by_latent",
    "gathered_products",
    "row_of",
    "select_batch",
    "select_topk",
    "sums_by_latent",
]
