"""How attention, MLP and unembedding read the stream: through a norm and a matrix, whatever the family.

    y = s(x) (x W) + b        s(x) = 1 / sigma(x), one number a token; W has the norm's gain (and centring) folded in

and so a gradient at `y` comes back to the stream as

    dM/dx = s (u - xhat mean(xhat * u)),      u = W dM/dy,   xhat = s C x      (C centres, for LayerNorm)
    dM/dx = s u                                                                  with the norm's scale held

`s` is measured, not recomputed: it is the one number that takes x W to what the model has at `y` minus b. So no epsilon of no family is
written here again, and the fit is a check: where the remainder is not rounding, the model does not read its stream this way, and the
method refuses.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from einops import rearrange
from torch import Tensor

from interp.core.edit import Edit, call
from interp.core.errors import BadInput, InterpError
from interp.core.lm import LM
from interp.core.site import Site

MISFIT = {"float64": 1e-4, "float32": 1e-3, "bfloat16": 0.1, "float16": 0.03}
"""Largest remainder of the fit, relative to what is fitted (norms compute in float32 in some families, whatever the dtype)."""


@dataclass(frozen=True, eq=False)
class Reading:
    """One site that is a linear image of the normalised stream."""

    stream: Site
    """Where the stream is read."""
    site: Site
    """What is made of it: q, k, v, mlp_pre, mlp_pre_linear or final."""
    matrix: Tensor
    """[d_model, out], the norm's gain and centring folded in; heads flattened into `out`."""
    bias: Tensor | float
    """[out], or 0."""
    centred: bool
    """Whether the norm takes the mean away (LayerNorm)."""

    def scale(self, x: Tensor, y: Tensor, dtype: str) -> Tensor:
        """1 / sigma [pair, pos] of streams x [pair, pos, d_model] and what was made of them, y [pair, pos, ...]; float64.

        Raises `InterpError` where y is not a multiple of x W. 0 where x W is 0, since nothing is read there.
        """
        image = x.double() @ self.matrix.double()  # [pair, pos, out]
        wanted = y.double().reshape(image.shape) - self.bias
        size = (image * image).sum(dim=-1)
        scale = torch.where(size > 0, (image * wanted).sum(dim=-1) / size.clamp(min=1e-300), 0.0)
        off = float((wanted - scale[..., None] * image).norm()) / max(float(wanted.norm()), 1e-300)
        if size.any() and off > MISFIT[dtype]:
            raise InterpError(
                f"{self.site} is not what its norm and its weights make of {self.stream} (relative remainder {off:.2g}), so gradients "
                "cannot be carried back to the stream. Report this checkpoint."
            )
        return scale

    def pull(self, x: Tensor, scale: Tensor, grad: Tensor) -> Tensor:
        """Gradients at the site, grad [pair, pos, n, out], as gradients at its stream [pair, pos, n, d_model], float64.

        `n` counts what reads on its own (heads): of each only its own columns of `grad` may differ from 0.
        """
        u = grad.double() @ self.matrix.double().T
        xhat = self._normalised(x, scale)[:, :, None]  # [pair, pos, 1, d_model]
        return scale[:, :, None, None] * (u - xhat * (xhat * u).mean(dim=-1, keepdim=True))

    def pull_heads(self, x: Tensor, scale: Tensor, grad: Tensor) -> Tensor:
        """The same for heads that read through their own columns each: grad [pair, pos, head, d_head] -> [pair, pos, head, d_model]."""
        heads = rearrange(self.matrix.double(), "d (head e) -> head d e", e=grad.shape[-1])
        if grad.shape[2] != len(heads):  # query heads that share a key/value head
            heads = heads.repeat_interleave(grad.shape[2] // len(heads), dim=0)
        u = torch.einsum("bphe,hde->bphd", grad.double(), heads)
        xhat = self._normalised(x, scale)[:, :, None]
        return scale[:, :, None, None] * (u - xhat * (xhat * u).mean(dim=-1, keepdim=True))

    def _normalised(self, x: Tensor, scale: Tensor) -> Tensor:
        wide = x.double()
        if self.centred:
            wide = wide - wide.mean(dim=-1, keepdim=True)
        return wide * scale[..., None]


def refuse_unread(lm: LM, what: str) -> None:
    """Raise `BadInput` for families whose stream is not read through one norm and one matrix."""
    spec = lm.spec
    if spec.post_norm:
        raise BadInput(
            f"{what} needs a stream that is a plain sum of what heads and MLPs write; in {spec.name} ({spec.family}) a norm lies between "
            "them and the stream, which mixes them. Use activation patching, or `Attribution` with its defaults."
        )
    if spec.experts:
        raise BadInput(
            f"{what} needs one MLP a layer; a layer of {spec.name} ({spec.family}) has {spec.experts} experts, and which of them reads a "
            "token is not differentiable. Use activation patching, or `Attribution` with its defaults."
        )
    have = {info.site for info in lm.sites()}
    if missing := [kind for kind in ("q", "k", "v", "z", "mlp_pre", "mlp_out") if Site(kind, 0) not in have]:
        raise BadInput(
            f"{what} needs the heads and neurons of a model; {spec.name} ({spec.family}) is of a family that is not in the table, and has "
            f"no {missing[0]}. Use `Attribution(nodes='resid_post')`, or a family of the table (`interp.models.families`)."
        )


def readings(lm: LM, layer: int) -> list[Reading]:
    """What reads the stream in a layer: q, k, v and the MLP's one or two branches."""
    weights, spec = lm.weights, lm.spec
    centred = spec.norm == "layer"
    before = Site("resid_pre", layer)
    middle = before if spec.parallel else Site("resid_mid", layer)
    found = []
    for letter in "qkv":
        name = f"_{letter.upper()}"
        matrix = rearrange(getattr(weights, "W" + name)(layer, folded=True), "head d e -> d (head e)")
        bias = getattr(weights, "b" + name)(layer, folded=True)
        found.append(
            Reading(before, Site(letter, layer), matrix, 0.0 if bias is None else bias.double().flatten(), centred)
        )
    branches = [("mlp_pre", "gate"), ("mlp_pre_linear", "in")] if spec.gated else [("mlp_pre", "in")]
    for kind, name in branches:
        bias = getattr(weights, f"b_{name}")(layer, folded=True)
        matrix = getattr(weights, f"W_{name}")(layer, folded=True)
        found.append(Reading(middle, Site(kind, layer), matrix, 0.0 if bias is None else bias.double(), centred))
    return found


def final_reading(lm: LM) -> Reading:
    """The final norm."""
    gain, shift = lm.weights.norm("final")
    matrix = torch.diag(gain.double())
    if lm.spec.norm == "layer":
        matrix = matrix - gain.double() / len(gain)
    bias = 0.0 if shift is None else shift.double()
    return Reading(Site("resid_post", lm.spec.n_layers - 1), Site("final"), matrix, bias, lm.spec.norm == "layer")


def held_norms(lm: LM) -> list[Edit]:
    """Edits that change no value, and let gradients pass through every norm as if its scale were a constant.

    The stream is remembered where it is read; what is read is replaced by its own value, with the gradient of s (x W) + b for a fixed s.
    """
    refuse_unread(lm, "`freeze_norms=True`")
    every = [reading for layer in range(lm.spec.n_layers) for reading in readings(lm, layer)] + [final_reading(lm)]
    seen: dict[Site, Tensor] = {}
    return [
        *_remember({reading.stream for reading in every}, seen),
        *(_held(reading, seen, lm.spec.dtype) for reading in every),
    ]


def _remember(streams: set[Site], seen: dict[Site, Tensor]) -> Iterator[Edit]:
    for stream in streams:

        def keep(x: Tensor, stream: Site = stream) -> Tensor:
            seen[stream] = x
            return x

        yield call(stream, keep)


def _held(reading: Reading, seen: dict[Site, Tensor], dtype: str) -> Edit:
    def read(y: Tensor) -> Tensor:
        x = seen[reading.stream]
        scale = reading.scale(x.detach(), y.detach(), dtype)
        image = (scale[..., None] * (x.double() @ reading.matrix.double())).reshape(y.shape).to(y.dtype)
        return y.detach() + (image - image.detach())

    return call(reading.site, read)
