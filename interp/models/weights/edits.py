"""Reversible weight edits: parameters changed inside a `with`, and back to the last bit after it.

    with edit_weights(module, {"transformer.h.3.mlp.c_proj.weight": new}): ...       # transformers' own name
    with edit_weights(module, {"W_out.3": new, "W_O.2.1": zeros}): ...              # a view: name, layer, head
    with edit_weights(module, {("W_out", 3, 17): vector}): ...                      # name, layer, neuron

A view's name is followed by the layer and, if only a part is meant, by the head (W_Q, W_K, W_V, W_O and their biases; key/value heads
for K and V), the neuron (W_in, W_gate, W_out, b_in) or the token (W_E, W_U, which have no layer): `W_E.50` is one row.

The values are copied when the `with` begins and the old parameters are saved as bytes of their own, so nothing can be aliased: not by
a value that is itself a view of the model, not by an embedding that is tied to the unembedding. A tied matrix can only be edited by
its parameter name, which says that both change. Published code for concept vectors restored its models from references to the edited
tensors, and every later measurement was of an accumulated edit; here the restored bytes are compared with the saved ones.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from interp.core.errors import BadInput, InterpError, hint

from ..families import family_of, spec_of
from .views import GLOBAL, HEADED, LAYERED, Weights

Key = str | tuple[str | int, ...]

_PART_AXIS = {"W_in": 1, "W_gate": 1, "W_U": 1}
"""Axis that the last number of a key indexes; 0 elsewhere."""
_PARTS = {
    **dict.fromkeys(HEADED, "head"),
    **dict.fromkeys(("W_in", "W_gate", "W_out", "b_in", "b_gate"), "neuron"),
    **dict.fromkeys(("W_E", "W_U", "b_U"), "token"),
    "W_pos": "position",
}


@contextmanager
def edit_weights(module: nn.Module, changes: Mapping[Any, Tensor]) -> Iterator[None]:
    """Parameters of `module` replaced inside the block; restored bit for bit after it, also after an exception.

    Keys are parameter names or views (see the module); values have the shape of what they replace and are cast to its dtype. Raises
    `BadInput` before anything is changed for an unknown name, a wrong shape, a tied view, or two changes of the same numbers.
    """
    targets = _Targets(module)
    planned = [(key, *targets.find(key), value.detach().clone()) for key, value in changes.items()]
    for key, _, target, _, value in planned:
        if value.shape != target.shape:
            raise BadInput(f"the value for {_words(key)} is {tuple(value.shape)}; it must be {tuple(target.shape)}.")
    saved = {name: targets.parameters[name].detach().clone() for name in {entry[1] for entry in planned}}
    try:
        with torch.no_grad():
            for _, _, target, scale, value in planned:
                value = value.to(device=target.device, dtype=target.dtype)
                target.copy_(value if scale is None else value / scale)
            for key, _, target, scale, value in planned:  # a later change may have written over an earlier one
                if scale is None and not _same(target, value.to(device=target.device, dtype=target.dtype)):
                    raise BadInput(f"another change overlaps {_words(key)}. Change each number once.")
        yield
    finally:
        with torch.no_grad():
            for name, old in saved.items():
                targets.parameters[name].detach().copy_(old)
        _check_restored(module, saved)


class _Targets:
    """Finds the tensors that keys mean, as views sharing memory with the parameters."""

    def __init__(self, module: nn.Module) -> None:
        self.module = module
        self.parameters: dict[str, nn.Parameter] = dict(module.named_parameters())
        self.all_names = {name: parameter for name, parameter in module.named_parameters(remove_duplicate=False)}
        self._weights: Weights | None = None

    @property
    def weights(self) -> Weights:
        if self._weights is None:
            config: Any = self.module.config
            self._weights = Weights(self.module, family_of(self.module), spec_of(config, self.module, "the model"))
        return self._weights

    def find(self, key: Key) -> tuple[str, Tensor, Tensor | None]:
        """The parameter's name, the part of it that is meant, and what to divide a value by."""
        if isinstance(key, str) and key in self.parameters:
            return key, self.parameters[key].detach(), None
        if isinstance(key, str) and key in self.all_names:
            raise BadInput(
                f"{key!r} is tied: edit it as {self._name_of(self.all_names[key])!r}, and know that both change."
            )
        words = key if isinstance(key, tuple) else tuple(key.split("."))
        if words[0] not in (*LAYERED, *GLOBAL):
            raise BadInput(
                f"{_words(key)} is neither a parameter nor a view.{hint(key, [*self.parameters, *LAYERED, *GLOBAL])} "
                f"Views are {', '.join((*GLOBAL, *LAYERED))}, written like 'W_out.3' or 'W_O.3.1'."
            )
        return self._view(key, str(words[0]), words[1:])

    def _view(self, key: Key, name: str, rest: tuple[str | int, ...]) -> tuple[str, Tensor, Tensor | None]:
        numbers = [int(word) if str(word).isdigit() else None for word in rest]
        layered = name in LAYERED
        if None in numbers or not int(layered) <= len(numbers) <= 1 + int(layered and name in _PARTS):
            part = _PARTS.get(name)
            form = [f"'{name}.LAYER'"] if layered else [f"'{name}'"]
            form += [f"'{name}.LAYER.{part.upper()}'" if layered else f"'{name}.{part.upper()}'"] if part else []
            raise BadInput(f"{_words(key)} cannot be read; write {' or '.join(form)}.")
        places = [number for number in numbers if number is not None]
        layer = self.weights.layer(places.pop(0)) if layered else None
        scale = self.weights.embed_scale if name == "W_E" else None
        view = self.weights.raw(name, layer)
        if name == "W_E":
            view = self.module.get_submodule(self.weights.family.embed).weight.detach()  # type: ignore[union-attr, operator]
        if view is None:
            raise BadInput(f"{_words(key)}: this model has no {name}.")
        owner = self._name_of(view)
        if name in ("W_E", "W_U") and self.weights.spec.tied:
            raise BadInput(f"{name} is tied: W_E and W_U are one parameter. Edit {owner!r}, and know that both change.")
        if places:
            axis = _PART_AXIS.get(name, 0)
            if places[0] >= view.shape[axis]:
                raise BadInput(
                    f"{_words(key)}: there are only {view.shape[axis]} ({_PARTS[name]}s 0 to {view.shape[axis] - 1})."
                )
            view = view.select(axis, places[0])
        return owner, view, scale

    def _name_of(self, view: Tensor) -> str:
        storage = view.untyped_storage().data_ptr()
        inside = [name for name, p in self.parameters.items() if p.untyped_storage().data_ptr() == storage]
        spans = {name: self.parameters[name] for name in inside}
        for name, parameter in spans.items():  # several parameters may share one storage (a flattened checkpoint)
            start = parameter.storage_offset()
            if start <= view.storage_offset() < start + max(parameter.numel(), 1):
                return name
        raise InterpError("a view shares no memory with any parameter; this family's table is wrong. Report it.")


def _check_restored(module: nn.Module, saved: dict[str, Tensor]) -> None:
    now = dict(module.named_parameters())
    for name, old in saved.items():
        if name not in now or not _same(now[name].detach(), old):
            raise InterpError(
                f"{name} is not what it was before the edit: something else replaced or changed it meanwhile. Load the model again."
            )


def _same(a: Tensor, b: Tensor) -> bool:
    """Equal bit for bit, NaN and the sign of zero included."""
    a, b = a.contiguous().flatten(), b.contiguous().flatten()
    return a.shape == b.shape and bool(torch.equal(a.view(torch.uint8), b.view(torch.uint8)))


def _words(key: Key) -> str:
    return repr(key) if isinstance(key, str) else "the key " + repr(key)
