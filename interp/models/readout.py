"""Reading a residual stream out: the model's own final norm, unembedding and soft cap, without a line of them written again.

The model is called with every layer giving back the stream at hand, so what follows the last layer (norm, logit scale, soft cap, whatever
a family has there) is what it does in an ordinary pass.

    unembed(plain, stream)            # [..., d_model] -> [..., vocab]
"""

from typing import TYPE_CHECKING, Any

import torch
from einops import rearrange
from torch import Tensor

from interp.core.errors import BadInput

from .recording import bypassed, filler

if TYPE_CHECKING:
    from .plain import PlainModel

ROWS = 1024
"""Positions that are read out at once."""


@torch.no_grad()
def unembed(plain: "PlainModel", stream: Tensor) -> Tensor:
    """Logits [..., vocab] of a residual stream [..., d_model] as it leaves the last layer, at the model's dtype and device."""
    if stream.shape[-1] != plain.spec.d_model:
        raise BadInput(
            f"the stream is {tuple(stream.shape)}; its last axis must be the {plain.spec.d_model} of {plain.spec.name}."
        )
    dtype = getattr(torch, plain.spec.dtype)
    flat = rearrange(stream.reshape(-1, stream.shape[-1]), "row d -> row 1 d").to(plain.device, dtype)
    tuples = gives_tuples(plain)
    parts = [head(plain, part, tuples=tuples) for part in flat.split(ROWS)]
    logits = torch.cat(parts)  # [row, 1, vocab]
    return logits.reshape(*stream.shape[:-1], logits.shape[-1])


def head(plain: "PlainModel", hidden: Tensor, *, tuples: bool) -> Tensor:
    """Logits [row, place, vocab] of streams [row, place, d_model]; `tuples` says what the layers of this architecture give."""
    layers = [plain.layer(index) for index in range(plain.spec.n_layers)]
    result = (hidden, None) if tuples else hidden
    rows, width = hidden.shape[:2]
    ids = torch.full((rows, width), filler(plain), device=hidden.device)
    positions = torch.arange(width, device=hidden.device).expand(rows, width)
    with bypassed(layers, lambda *_args, **_kwargs: result):
        inputs = plain.family.arguments(input_ids=ids, position_ids=positions, use_cache=False)
        logits: Tensor = plain.module(**inputs).logits
    return logits


def gives_tuples(plain: "PlainModel") -> bool:
    """Whether the layers of this architecture give a tuple, not a tensor. Found out once, by running one token."""
    if plain.tuples is None:
        seen: list[Any] = []
        handle = plain.layer(plain.spec.n_layers - 1).register_forward_hook(
            lambda _module, _args, out: seen.append(out)
        )
        try:
            plain.module(input_ids=torch.full((1, 1), filler(plain), device=plain.device), use_cache=False)
        finally:
            handle.remove()
        plain.tuples = isinstance(seen[0], tuple)
    return plain.tuples
