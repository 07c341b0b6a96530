"""A run that keeps what partial recomputation needs.

Three things suffice, whatever the architecture: the residual stream at every layer boundary, the keys and values of every layer, and
the arguments that the model hands its layers (rotary tables, positions, masks). The last come from a pass over the same number of
tokens in which every layer is bypassed, so it costs nothing; there the masks are made explicit, because `sdpa` aligns its implicit
causal mask to the upper left, which is wrong as soon as there are fewer queries than keys.

The rows must be unpadded, so that these arguments are the same for every row and rows of any cells may be mixed.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from interp.core.batch import Batch
from interp.core.edit import Edit
from interp.core.errors import BadInput, WrongModel
from interp.core.run import Run, Tape
from interp.core.site import Site, expand

from .attention import attending, mask_function_of
from .hooks import first

if TYPE_CHECKING:
    from .plain import PlainModel


SAMPLE = 64
"""Values of each parameter that tell whether it changed."""


@dataclass(frozen=True)
class Arguments:
    """What the model passes one of its layers besides the hidden state, for one row of `width` tokens."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    width: int

    def cut(self, start: int, stop: int, cache: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The arguments of a call with queries at [start, stop) and keys at [0, stop). Caches are found by type, not by name."""
        return (
            tuple(self._cut(item, start, stop, cache) for item in self.args),
            {name: self._cut(item, start, stop, cache) for name, item in self.kwargs.items()},
        )

    def _cut(self, item: Any, start: int, stop: int, cache: Any) -> Any:
        from transformers.cache_utils import Cache

        if isinstance(item, Cache):
            return cache
        if isinstance(item, tuple | list):
            return type(item)(self._cut(part, start, stop, cache) for part in item)
        if not isinstance(item, Tensor):
            return item
        if item.ndim == 4 and item.shape[-2:] == (self.width, self.width):  # mask [1, 1, query, key]
            return item[..., start:stop, :stop]
        if item.ndim >= 2 and item.shape[:2] == (1, self.width):  # positions [1, pos], rotary tables [1, pos, d]
            return item[:, start:stop]
        return item


@dataclass(frozen=True, eq=False)
class PlainRecording:
    """A stored run that `PlainModel.resume` can start from."""

    batch: Batch
    edits: tuple[Edit, ...]
    run: Run
    states: list[Tensor]
    """Residual stream [row, pos, d_model] entering each layer before the edits at its `resid_pre`; the last one leaves the last layer."""
    keys: list[Tensor]
    """Keys of each layer as attention sees them, [row, kv_head, pos, d_head]."""
    values: list[Tensor]
    arguments: list[Arguments]
    tuples: bool
    """The layers of this architecture give a tuple, not a tensor."""
    stamp: int = field(repr=False, default=0)
    """What the parameters were: changes with any in-place change."""
    later: dict[Site, Tensor] = field(repr=False, default_factory=dict)
    """Sites that were not captured but were needed afterwards; see `recorded`."""

    @property
    def nbytes(self) -> int:
        """Memory that the recording holds."""
        logits = [] if self.run.logits is None else [self.run.logits]
        captured = [*self.run.captured.values(), *self.later.values()]
        parts = [*self.states, *self.keys, *self.values, *logits, *captured]
        storages = {part.untyped_storage().data_ptr(): part.untyped_storage().nbytes() for part in parts}
        return sum(storages.values())


@torch.no_grad()
def record(
    plain: "PlainModel",
    tokens: "Batch | Tensor | Sequence[Any]",
    *,
    capture: "str | Site | Sequence[str | Site]" = (),
    edits: Sequence[Edit] = (),
) -> PlainRecording:
    """Run once and keep everything. Raises `BadInput` for padded rows; see `LM.record`."""
    from transformers.cache_utils import DynamicCache

    batch = Batch.of(tokens).to(plain.device)
    if not batch.unpadded:
        raise BadInput(
            "a recording needs rows without padding. Group prompts of one length, or record them one by one."
        )
    expand([edit.site for edit in edits], plain.spec)
    tape = Tape(batch, expand(capture, plain.spec), edits)
    proven = plain.family.proven  # else nobody knows what its cache holds and what its layers are called with
    # without a configuration a cache keeps every key, also in layers with a sliding window
    cache: Any = DynamicCache() if proven else None
    states: list[Tensor] = []
    ends: list[Any] = []
    layers = [plain.layer(index) for index in range(plain.spec.n_layers)]
    handles = [layer.register_forward_pre_hook(_keeper(states), with_kwargs=True) for layer in layers]
    try:
        with plain.visiting(tape.sites, tape):
            handles.append(layers[-1].register_forward_hook(lambda _module, _args, out: ends.append(out)))
            inputs = plain.family.arguments(
                input_ids=batch.tokens, position_ids=batch.position_ids, past_key_values=cache, use_cache=proven
            )
            out = plain.module(**inputs)
    finally:
        for handle in handles:
            handle.remove()
    return PlainRecording(
        batch,
        tuple(edits),
        tape.finish(out.logits),
        [*states, first(ends[0])],
        [layer.keys for layer in cache.layers] if proven else [],
        [layer.values for layer in cache.layers] if proven else [],
        arguments_of(plain, batch.tokens.shape[1]) if proven else [],
        isinstance(ends[0], tuple),
        stamp_of(plain),
    )


def known(base: PlainRecording, site: Site) -> Tensor | None:
    """What the recorded run has at a site, after the edits there; None where that was not kept."""
    if site.kind == "resid_post" and site.layer is not None:
        return base.states[site.layer + 1]
    if site.kind == "resid_pre" and site.layer is not None and not any(edit.site == site for edit in base.edits):
        return base.states[site.layer]
    return base.run.captured.get(site)


def recorded(plain: "PlainModel", base: PlainRecording, sites: Sequence[Site]) -> dict[Site, Tensor]:
    """What the recorded run has at `sites`. Those that were not kept cost one more pass, all layers of their kinds at once."""
    have = {site: value for site in sites if (value := known(base, site)) is not None}
    if missing := [site for site in sites if site not in have and site not in base.later]:
        kinds = {site.kind for site in missing if site.layer is not None}
        wanted = {*missing, *(Site(kind, layer) for kind in kinds for layer in range(plain.spec.n_layers))}
        base.later.update(plain.run(base.batch, capture=list(wanted), edits=base.edits).captured)
    return {site: have[site] if site in have else base.later[site] for site in sites}


def arguments_of(plain: "PlainModel", width: int) -> list[Arguments]:
    """The arguments of every layer for one row of `width` tokens, with explicit masks."""
    from transformers.cache_utils import DynamicCache

    seen: list[Arguments] = []

    def instead(hidden: Tensor, *args: Any, **kwargs: Any) -> Any:
        seen.append(Arguments(args, kwargs, width))
        return (hidden, None) if plain.family.model_type == "gpt_neo" else hidden

    build = mask_function_of(plain.implementation)

    def mask(**kwargs: Any) -> Any:
        return build(**{**kwargs, "allow_is_causal_skip": False})

    layers = [plain.layer(index) for index in range(plain.spec.n_layers)]
    ids = torch.full((1, width), filler(plain), device=plain.device)
    positions = torch.arange(width, device=plain.device)[None]
    with attending(plain.module, _never, mask), bypassed(layers, instead):
        plain.module(input_ids=ids, position_ids=positions, past_key_values=DynamicCache(), use_cache=True)
    return seen


@contextmanager
def bypassed(layers: Sequence[nn.Module], instead: Callable[..., Any]) -> Iterator[None]:
    """Inside the block the layers compute `instead` of themselves."""
    before = [layer.__dict__.get("forward") for layer in layers]
    try:
        for layer in layers:
            layer.forward = instead  # type: ignore[method-assign]
        yield
    finally:
        for layer, own in zip(layers, before, strict=True):
            if own is None:
                layer.__dict__.pop("forward", None)
            else:
                layer.forward = own  # type: ignore[method-assign]


def filler(plain: "PlainModel") -> int:
    """A token id that transformers will not take for padding."""
    return 1 if getattr(plain.config, "pad_token_id", None) == 0 else 0


def stamp_of(plain: "PlainModel") -> int:
    """A number that changes when any parameter is changed in place or replaced.

    Changes through `.data` escape PyTorch's counters; those of a matrix, a head or a direction show in 64 values of each parameter.
    """
    parameters = [parameter.detach() for parameter in plain.module.parameters()]
    counters = tuple((parameter.data_ptr(), parameter._version) for parameter in plain.module.parameters())
    some = [
        one.flatten()[:: max(1, one.numel() // SAMPLE) | 1].float() for one in parameters
    ]  # an odd step: no column is favoured
    return hash((counters, torch.cat(some).cpu().numpy().tobytes()))


def check_stamp(plain: "PlainModel", base: PlainRecording) -> None:
    """Raise `WrongModel` where the weights are no longer those of the recording."""
    if base.stamp != stamp_of(plain):
        raise WrongModel("the weights changed since this recording was made. Record the run again, then resume.")


def _never(*args: Any, **kwargs: Any) -> Any:
    raise AssertionError("attention was called although every layer is bypassed")


def _keeper(states: list[Tensor]) -> Callable[..., None]:
    def keep(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        states.append(args[0] if args else kwargs["hidden_states"])

    return keep
