"""Dictionaries made by hand, whose behaviour is known before anything is run."""

import torch

from interp.core.dictionary import Dictionary, DictionaryConfig, View
from interp.core.seed import generator


def signed(views: tuple[View, ...], rows: torch.Tensor, *, mean: torch.Tensor | None = None) -> Dictionary:
    """Two latents a row of `rows` [r, d], one a sign: reconstructs the projection on orthonormal rows, about `mean`."""
    config = DictionaryConfig(2 * len(rows), views, views, activation="relu", code_scale="none")
    made = Dictionary(config)
    for weight in (*made.encoders, *made.decoders):
        weight.copy_(torch.cat([rows, -rows]))
    for bias in made.biases:
        bias.copy_(torch.zeros(rows.shape[1]) if mean is None else mean)
    return made


def identity(view: View) -> Dictionary:
    """Gives back what it reads, to the bit."""
    return signed((view,), torch.eye(view.width))


def drawn(reads: tuple[View, ...], writes: tuple[View, ...], latents: int = 64, seed: int = 0, **options) -> Dictionary:
    """Random weights of a size that reconstructs something, every tensor different from the others."""
    options = {"activation": "relu", "code_scale": "none", "centred": False, "family": "crosscoder"} | options
    made = Dictionary(DictionaryConfig(latents, reads, writes, **options))
    draw = generator(seed, "drawn dictionary")
    for weight in (*made.encoders, *made.decoders, *made.biases, made.b_enc):
        weight.copy_(torch.randn(weight.shape, generator=draw) * 0.3)
    return made
