"""The attention function and the mask of a model, replaced for the length of a `with`.

transformers calls attention through a registry. One function of ours is registered there under the name `interp`; what it does is
decided by whoever holds the `with`: hand the probabilities to a tape (`showing_patterns`), keep documents of one packed row apart
(`interp.models.packed`), or make the masks explicit (`interp.models.recording`).

GPT-Neo does not use the registry. Its pattern is read at its dropout module, and it is packed by a block-diagonal mask instead.
"""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from einops import rearrange
from torch import Tensor, nn

from interp.core.site import Site

from .hooks import Handler

NAME = "interp"
Function = Callable[..., tuple[Tensor, Tensor | None]]
_ACTIVE: ContextVar[tuple[Function, Callable[..., Any]]] = ContextVar("interp_attention")


def eager_of(module: nn.Module) -> Function:
    """The eager attention of a module's own architecture, soft caps and all."""
    return sys.modules[type(module).__module__].eager_attention_forward


def function_of(module: nn.Module, implementation: str) -> Function:
    """The attention function that transformers would call for this module."""
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    return ALL_ATTENTION_FUNCTIONS.get_interface(implementation, eager_of(module))


def mask_function_of(implementation: str) -> Callable[..., Tensor | None]:
    """The function that builds masks as this implementation wants them."""
    from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS

    return ALL_MASK_ATTENTION_FUNCTIONS[implementation]


@contextmanager
def attending(root: nn.Module, function: Function, mask: Callable[..., Any]) -> Iterator[None]:
    """Inside the block the model attends by `function` and builds its masks by `mask`."""
    _register()
    configs: dict[int, Any] = {
        id(module.config): module.config for module in root.modules() if hasattr(module, "config")
    }
    before = {key: config._attn_implementation for key, config in configs.items()}
    token = _ACTIVE.set((function, mask))
    try:
        for config in configs.values():
            config._attn_implementation = NAME
        yield
    finally:
        for key, config in configs.items():
            config._attn_implementation = before[key]
        _ACTIVE.reset(token)


@contextmanager
def showing_patterns(root: nn.Module, handler: Handler) -> Iterator[None]:
    """Eager attention that hands its probabilities [batch, head, query, key] to `handler` and uses what it gets back."""

    def function(
        module: nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, **kwargs: Any
    ) -> tuple[Tensor, Tensor | None]:
        out, pattern = eager_of(module)(module, query, key, value, mask, **kwargs)
        assert pattern is not None
        new = handler(Site("pattern", module.layer_idx), pattern)  # type: ignore[arg-type]
        if new is pattern:
            return out, pattern
        grouped = rearrange(new, "b (kv g) q k -> b kv g q k", kv=value.shape[1])
        out = torch.einsum("bhgqk,bhkd->bqhgd", grouped, value)  # [batch, query, kv_head, group, d_head]
        return rearrange(out, "b q h g d -> b q (h g) d"), new

    with attending(root, function, mask_function_of("eager")):
        yield


def _attention(module: nn.Module, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor | None]:
    return _ACTIVE.get()[0](module, *args, **kwargs)


def _mask(*args: Any, **kwargs: Any) -> Any:
    return _ACTIVE.get()[1](*args, **kwargs)


def _register() -> None:
    from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    if NAME not in ALL_ATTENTION_FUNCTIONS:
        ALL_ATTENTION_FUNCTIONS.register(NAME, _attention)
        ALL_MASK_ATTENTION_FUNCTIONS.register(NAME, _mask)
