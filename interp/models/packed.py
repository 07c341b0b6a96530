"""Documents end to end in one row, each attending only to itself: no padding, nothing wasted.

Everything but attention is position-wise and does not notice. Attention is split per document and calls the model's own function
(neighbours of one length go together), with the mask that the document would have had alone, sliding windows included; positions
restart at each document. Measured on documents of log-normal length this is 2.3 times as fast as padding sorted documents.

GPT-Neo bypasses the attention registry: there the restarting positions make transformers build a block-diagonal mask. That agrees
to rounding only, and a packed row may not be longer than the context.
"""

from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Any

import torch
from einops import rearrange
from torch import Tensor, nn

from .attention import Function, function_of, mask_function_of


def rows_of(lengths: Sequence[int], budget: int) -> Iterator[slice]:
    """Documents in order, cut into rows of at most `budget` tokens; a longer document has a row of its own."""
    start, total = 0, 0
    for index, length in enumerate(lengths):
        if index > start and total + length > budget:
            yield slice(start, index)
            start, total = index, 0
        total += length
    if start < len(lengths):
        yield slice(start, len(lengths))


def restarting_positions(lengths: Sequence[int]) -> Tensor:
    """Position of each token in its own document, [1, token]."""
    return torch.cat([torch.arange(length) for length in lengths])[None]


def packed_attention(lengths: Sequence[int], windows: Sequence[int | None], implementation: str) -> Function:
    """An attention function for one packed row whose documents have these lengths."""
    runs = [(length, len(list(group))) for length, group in groupby(lengths)]
    masks: dict[tuple[int, int | None], Tensor | None] = {}

    def function(
        module: nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, **kwargs: Any
    ) -> tuple[Tensor, Tensor | None]:
        own = function_of(module, implementation)
        layer: Any = module.layer_idx
        window = windows[layer]
        outs, start = [], 0
        for length, count in runs:
            if (length, window) not in masks:
                masks[length, window] = alone(length, window, implementation, query)
            stop = start + length * count
            parts = [
                rearrange(x[:, :, start:stop], "1 h (n t) d -> n h t d", n=count) for x in (query, key, value)
            ]  # each [document, head, pos, d_head]
            out, _ = own(module, *parts, masks[length, window], **kwargs)  # [document, pos, head, d_head]
            outs.append(rearrange(out, "n t h d -> 1 (n t) h d"))
            start = stop
        return (outs[0] if len(outs) == 1 else torch.cat(outs, dim=1)), None

    return function


def alone(length: int, window: int | None, implementation: str, like: Tensor) -> Tensor | None:
    """The mask of one document of this length, exactly as transformers builds it when the document is alone."""
    from transformers.masking_utils import causal_mask_function, sliding_window_causal_mask_function

    return mask_function_of(implementation)(
        batch_size=1,
        q_length=length,
        kv_length=length,
        mask_function=causal_mask_function if window is None else sliding_window_causal_mask_function(window),
        attention_mask=None,
        allow_is_causal_skip=True,
        local_size=window,
        dtype=like.dtype,
        device=like.device,
    )
