"""Steps that can be learned: the JumpReLU and its count of latents that are on, with straight-through gradients.

    jumprelu(x, t) = x H(x - t)          d/dx = H(x - t)          d/dt = -(t / b) K((x - t) / b)
    step(x, t)     = H(x - t)            d/dx = 0                 d/dt = -(1 / b) K((x - t) / b)

H is the unit step, K the rectangle that is 1 on [-1/2, 1/2), b the `bandwidth`. The true derivative by the threshold is zero wherever it
exists. But the *mean* over rows falls smoothly as t rises, and these are kernel estimates of its derivative: of -t p(t) and -p(t), with p
the density of the pre-activation (Rajamanoharan et al. 2024, "Jumping Ahead", arXiv 2407.14435, section 3). Summed over rows, the gradient
of `step` equals the central difference of the number of rows that are on, from t - b/2 to t + b/2; that of `jumprelu` takes t for x there.

When it misleads. Only rows within b/2 of a threshold teach it anything: with too small a `bandwidth` thresholds hardly move (and noisily),
with too large a one the estimate is of another density. It is in units of the pre-activation, so rows are normalised first. What is not
positive is off whatever the threshold; a threshold below zero is one of zero (only `step` moves it, back up).

    import torch
    from interp.train.activations import jumprelu, step
    x, t = torch.linspace(0, 1, 100)[:, None], torch.full((1,), 0.5, requires_grad=True)
    step(x, t, 0.1).sum().backward()
    t.grad                                           # about -100: rows are that dense
"""

from typing import Any

import torch

from interp.core.errors import BadInput
from interp.core.shapes import Float, Tensor


def jumprelu(
    pre: Float[Tensor, "*row latent"], threshold: Float[Tensor, " latent"], bandwidth: float
) -> Float[Tensor, "*row latent"]:
    """`pre` where it exceeds `threshold` and zero, else 0. Raises `BadInput` for a bandwidth that is not positive."""
    _check(bandwidth)
    return _JumpReLU.apply(pre, threshold, bandwidth)


def step(
    pre: Float[Tensor, "*row latent"], threshold: Float[Tensor, " latent"], bandwidth: float
) -> Float[Tensor, "*row latent"]:
    """1 where `pre` exceeds `threshold` and zero, else 0; only `threshold` gets a gradient.

    Raises `BadInput` for a bandwidth that is not positive.
    """
    _check(bandwidth)
    return _Step.apply(pre, threshold, bandwidth)


class _JumpReLU(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, pre: Tensor, threshold: Tensor, bandwidth: float) -> Tensor:
        ctx.save_for_backward(pre, threshold)
        ctx.bandwidth = bandwidth
        return torch.where(_on(pre, threshold), pre, 0)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None]:
        pre, threshold = ctx.saved_tensors
        (grad,) = grads
        near = _near(pre, threshold, ctx.bandwidth)
        by_threshold = torch.where(near, grad, 0).flatten(0, -2).sum(0) * (threshold.clamp(min=0) / -ctx.bandwidth)
        return torch.where(_on(pre, threshold), grad, 0), by_threshold, None


class _Step(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, pre: Tensor, threshold: Tensor, bandwidth: float) -> Tensor:
        ctx.save_for_backward(pre, threshold)
        ctx.bandwidth = bandwidth
        return _on(pre, threshold).to(pre.dtype)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[None, Tensor, None]:
        pre, threshold = ctx.saved_tensors
        (grad,) = grads
        near = _near(pre, threshold, ctx.bandwidth)
        return None, torch.where(near, grad, 0).flatten(0, -2).sum(0) / -ctx.bandwidth, None


def _on(pre: Tensor, threshold: Tensor) -> Tensor:
    return (pre > threshold) & (pre > 0)


def _near(pre: Tensor, threshold: Tensor, bandwidth: float) -> Tensor:
    """Where the rectangle is 1."""
    distance = (pre - threshold.clamp(min=0)) / bandwidth
    return (distance >= -0.5) & (distance < 0.5) & (pre > 0)


def _check(bandwidth: float) -> None:
    if not 0 < bandwidth < float("inf"):
        raise BadInput(f"`bandwidth` must be positive, in units of the pre-activation; not {bandwidth}.")
