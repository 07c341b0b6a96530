"""Gradients of a metric at every node: plain, along a path, and with layers dropped.

One forward pass holds the graph of all sites at once; `torch.autograd.grad` of the metric's sum gives every pair its own gradient, since
no pair sees another. Dropping a layer is a hook on the gradient of what its attention and MLP add to the stream, so that all L backward
passes of GradDrop share one forward pass.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from interp.core.batch import Batch
from interp.core.edit import Edit, replace
from interp.core.lm import LM
from interp.core.run import Run
from interp.core.site import Site

from .metric import Metric

ENTRY = Site("resid_pre", 0)
"""The stream entering the first layer: token and position embedding, the input node of every path."""
RULES = ("midpoint", "left", "right")


@dataclass(frozen=True, eq=False)
class Point:
    """Values and gradients of sites in one run."""

    values: dict[Site, Tensor]
    grads: dict[Site, Tensor]
    """dM/dsite [pair, pos, ...]."""
    metric: Tensor
    """M [pair], float64."""


def fractions(rule: str, steps: int) -> list[float]:
    """Where a path from the corrupted (0) to the clean end (1) is looked at: `left` has the corrupted end, `right` the clean one."""
    shift = {"left": 0.0, "midpoint": 0.5, "right": 1.0}[rule]
    return [(step + shift) / steps for step in range(steps)]


def live(lm: LM, batch: Batch, sites: Sequence[Site], edits: Sequence[Edit] = ()) -> Run:
    """A forward pass whose captures hold the graph."""
    return lm.run(batch, capture=list(dict.fromkeys(sites)), edits=edits, grad=True)


def point(lm: LM, batch: Batch, sites: Sequence[Site], metric: Metric, *, edits: Sequence[Edit] = ()) -> Point:
    """Values and gradients of `sites` in one run: a forward and a backward pass."""
    run = live(lm, batch, sites, edits)
    scores = metric(run.last_logits)
    grads = torch.autograd.grad(scores.sum(), [run[site] for site in sites])
    values = {site: run[site].detach() for site in sites}
    return Point(values, dict(zip(sites, grads, strict=True)), scores.detach().double())


def values(
    lm: LM, batch: Batch, sites: Sequence[Site], metric: Metric, *, edits: Sequence[Edit] = ()
) -> tuple[dict[Site, Tensor], Tensor]:
    """Values of `sites` and the metric [pair], without gradients."""
    run = lm.run(batch, capture=list(sites), edits=edits)
    return {site: run[site] for site in sites}, metric(run.last_logits).double()


def between(corrupted: Tensor, clean: Tensor, fraction: float) -> Tensor:
    """The point of the straight path; its ends are the two tensors to the bit."""
    return torch.lerp(corrupted, clean, fraction)


def embedding_path(
    lm: LM, batch: Batch, sites: Sequence[Site], metric: Metric, *, ends: tuple[Tensor, Tensor], at: Sequence[float]
) -> dict[Site, Tensor]:
    """Mean gradients of `sites` over inputs between the corrupted and the clean embedding, float64.

    `ends` are both runs' values of `ENTRY` [pair, pos, d_model], corrupted first; `at` the fractions. A forward and a backward each.
    """
    total: dict[Site, Tensor] = {}
    for fraction in at:
        edit = replace(ENTRY, between(*ends, fraction))
        for site, grad in point(lm, batch, sites, metric, edits=[edit]).grads.items():
            total[site] = total[site] + grad.double() if site in total else grad.double()
    return {site: grad / len(at) for site, grad in total.items()}


def activation_path(
    lm: LM, batch: Batch, site: Site, metric: Metric, *, ends: tuple[Tensor, Tensor], at: Sequence[float]
) -> Tensor:
    """Mean gradient [pair, pos, ...] of one site over its own values between corrupted and clean, everything before it as in `batch`."""
    grads = [
        point(lm, batch, [site], metric, edits=[replace(site, between(*ends, fraction))]).grads[site].double()
        for fraction in at
    ]
    return torch.stack(grads).mean(dim=0)


def dropped(
    lm: LM, batch: Batch, sites: Sequence[Site], metric: Metric, *, edits: Sequence[Edit] = ()
) -> Iterator[dict[Site, Tensor]]:
    """For each layer, gradients of `sites` that do not pass through what this layer's attention and MLP add to the stream.

    A node of the dropped layer has gradient 0. One forward pass, a backward pass a layer.
    """
    outs = {layer: [Site("attn_out", layer), Site("mlp_out", layer)] for layer in range(lm.spec.n_layers)}
    run = live(lm, batch, [*sites, *(site for pair in outs.values() for site in pair)], edits)
    total = metric(run.last_logits).sum()
    for layer, both in outs.items():
        with _cut([run[site] for site in both]):
            grads = torch.autograd.grad(total, [run[site] for site in sites], retain_graph=True, allow_unused=True)
        found = {}
        for site, grad in zip(sites, grads, strict=True):
            own = grad is None or site.layer == layer
            found[site] = torch.zeros_like(run[site]) if own else grad
        yield found


@contextmanager
def _cut(tensors: Sequence[Tensor]) -> Iterator[None]:
    """Inside the block no gradient passes through these tensors."""
    handles = [tensor.register_hook(torch.zeros_like) for tensor in tensors]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
