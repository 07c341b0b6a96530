"""Raw forward hooks, borrowed: put in by a `with`, gone after it, whatever happened inside.

A handler is any function `(site, tensor) -> tensor`; a `Tape` is one. It is called when the model computes a site and gives back
the same object (nothing changes) or another tensor (which takes its place). Several sites may lie in one module (GPT-2's fused
query-key-value projection): they share one hook and are visited in forward order.

Nobody else's hooks are touched: the handles of our own are removed, nothing is cleared.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from interp.core.site import Site
from interp.core.spec import ModelSpec

from .families import Family, Tap

Handler = Callable[[Site, Tensor], Tensor]


class Stop(Exception):
    """Ends a forward pass after the last site that is needed. Never leaves this package."""


def first(output: Any) -> Tensor:
    """The tensor of a module's output, which may be a tuple."""
    return output[0] if isinstance(output, tuple) else output


@contextmanager
def hooked(
    modules: Mapping[str, nn.Module],
    family: Family,
    spec: ModelSpec,
    sites: Sequence[Site],
    handler: Handler,
    *,
    stop: Site | None = None,
) -> Iterator[None]:
    """Call `handler` at each of `sites` (in forward order) while the block runs; raise `Stop` once `stop` was visited."""
    groups: dict[tuple[str, str], list[tuple[Site, Tap]]] = {}
    for site in sites:
        tap = family.taps[site.kind]
        groups.setdefault((family.path(site), tap.side), []).append((site, tap))
    handles = []
    try:
        for (path, side), group in groups.items():
            act = _action(group, spec, handler, stop)
            if side == "in":
                handles.append(modules[path].register_forward_pre_hook(_pre_hook(act), with_kwargs=True))
            else:
                handles.append(modules[path].register_forward_hook(_post_hook(act)))
        yield
    finally:
        for handle in handles:
            handle.remove()


def _action(
    group: list[tuple[Site, Tap]], spec: ModelSpec, handler: Handler, stop: Site | None
) -> Callable[[Tensor], Tensor]:
    stops = any(site == stop for site, _ in group)

    def act(raw: Tensor) -> Tensor:
        for site, tap in group:
            x = tap.take(raw, spec)
            new = handler(site, x)
            if new is not x:
                raw = tap.put(raw, new, spec)
        if stops:
            raise Stop
        return raw

    return act


def _pre_hook(act: Callable[[Tensor], Tensor]) -> Callable[..., Any]:
    def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if args:
            new = act(args[0])
            return None if new is args[0] else ((new, *args[1:]), kwargs)
        new = act(kwargs["hidden_states"])
        return None if new is kwargs["hidden_states"] else ((), {**kwargs, "hidden_states": new})

    return hook


def _post_hook(act: Callable[[Tensor], Tensor]) -> Callable[..., Any]:
    def hook(module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        raw = first(output)
        new = act(raw)
        if new is raw:
            return None  # a hook that returns a value replaces the output
        return (new, *output[1:]) if isinstance(output, tuple) else new

    return hook
