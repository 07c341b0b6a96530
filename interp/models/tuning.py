"""Gradients in the weights, borrowed: parameters that can be trained inside a `with` and are what they were after it.

    with lm.tuning("*.mlp.*") as tuning:
        optimiser = torch.optim.Adam(tuning.parameters.values(), lr=1e-4)
        for _ in range(3):
            optimiser.zero_grad()
            logprobs = tuning.logits(batch).log_softmax(dim=-1)
            logprobs[:, -1, 17].mean().backward()                       # away from the token 17
            optimiser.step()
        values = tuning.values()
    with lm.edit_weights(values):                                       # what was trained, for as long as it is wanted
        lm.run(batch)

The parameters are the model's own, so everything that is asked of the model inside the block (`run`, `record`, `generate`, `save`)
sees them as they are at that moment. After the block, also after an exception, each is compared bit for bit with a copy taken at its
beginning; gradients, `requires_grad` and the modules' modes are what they were. Inside `lm.edit_weights` the beginning is the edited
model, and that is what comes back.

Dropout is off, as everywhere here: a loss is the same each time it is asked for. Optimisers must write in place, as those of PyTorch
do. A checkpoint below float32 is refused: steps of training are lost in the rounding of its weights.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any

import torch
import xxhash
from torch import Tensor, nn

from interp.core.edit import Edit
from interp.core.errors import BadInput, InterpError, hint, listing
from interp.core.run import Run, Tape

from .weights.edits import _check_restored

if TYPE_CHECKING:
    from .base import BaseLM

_ACTIVE: set[int] = set()
"""Modules (by id) that are being tuned; two backends may share one."""


class Tuning:
    """A model whose parameters may be trained for a while. `lm.tuning` makes it."""

    def __init__(self, lm: "BaseLM", parameters: dict[str, nn.Parameter]) -> None:
        self._lm = lm
        self.parameters: dict[str, Tensor] = dict(parameters)
        """The model's own parameters by transformers' names: leaves that require gradients."""
        self._homes = {name: parameter.data for name, parameter in parameters.items()}
        self._open = True

    def logits(self, tokens: Any) -> Tensor:
        """Logits [row, pos, vocab] in float32 (float64 where the model is) with a graph to `parameters`.

        `tokens` are texts, ids or a batch. Padding is masked; what stands at padded positions means nothing, so leave it out of a loss.
        """
        logits = self.run(tokens).logits
        assert logits is not None
        return logits.to(torch.promote_types(logits.dtype, torch.float32))

    def run(self, tokens: Any, *, capture: Any = (), edits: Sequence[Edit] = ()) -> Run:
        """A forward pass as `LM.run`, with a graph to `parameters`; captures are in the graph too."""
        self._ready()
        lm = self._lm
        tape = Tape(lm._batch(tokens).to(lm.plain.device), lm._expand(capture), lm._edits(edits, plain=True), grad=True)
        return tape.finish(lm.plain.forward(tape))

    def values(self) -> dict[str, Tensor]:
        """The parameters as they are now, as copies without a graph; `lm.edit_weights` takes them."""
        self._ready()
        return {name: parameter.detach().clone() for name, parameter in self.parameters.items()}

    def _ready(self) -> None:
        if not self._open:
            raise BadInput("this `tuning` block has ended and the weights are what they were before. Open another one.")
        if any(part.training for part in self._lm.module.modules()):
            raise BadInput(
                "the model is in training mode, so dropout would make every pass another. Call `lm.module.eval()`; gradients need no mode."
            )
        for name, parameter in self.parameters.items():
            if parameter.data_ptr() != self._homes[name].data_ptr():
                raise BadInput(
                    f"{name} was given another tensor, which views of the model do not see. Write in place: `p.copy_(new)` under no_grad."
                )

    def __repr__(self) -> str:
        count = sum(parameter.numel() for parameter in self.parameters.values())
        return f"Tuning({self._lm.spec.name}: {len(self.parameters)} parameters, {count:,} numbers)"


@contextmanager
def tuning(lm: "BaseLM", parameters: "str | Sequence[str] | None" = None) -> Iterator[Tuning]:
    """A `Tuning` of the parameters that are meant, as `LM.tuning`.

    `parameters` are transformers' names or patterns (`*`, `?`) of them; None means all weights of the decoder layers, which leaves out
    embeddings, unembedding and final norm. Raises `BadInput` for a pattern that matches nothing, a model below float32, a second block.
    """
    module = lm.module
    chosen = _chosen(lm, parameters)
    _refuse_coarse(lm)
    if id(module) in _ACTIVE:
        raise BadInput(
            f"{lm.spec.name} is being tuned already. End that `tuning` block first, or name all parameters in it."
        )
    every: dict[str, nn.Parameter] = dict(module.named_parameters())
    before = {name: (parameter.requires_grad, parameter.grad) for name, parameter in every.items()}
    modes = {part: part.training for part in module.modules()}
    rest = {name: _digest(parameter) for name, parameter in every.items() if name not in chosen}
    saved = {name: parameter.detach().clone() for name, parameter in chosen.items()}
    made = Tuning(lm, chosen)
    _ACTIVE.add(id(module))
    try:
        for name, parameter in every.items():
            parameter.requires_grad_(name in chosen)
            parameter.grad = None
        yield made
    finally:
        _ACTIVE.discard(id(module))
        made._open = False
        with torch.no_grad():
            for name, parameter in chosen.items():
                if parameter.data_ptr() != made._homes[name].data_ptr():
                    parameter.data = made._homes[name]
                parameter.detach().copy_(saved[name])
        for name, parameter in every.items():
            wanted, grad = before[name]
            parameter.grad = None
            parameter.requires_grad_(wanted)
            parameter.grad = grad
        for part, mode in modes.items():
            part.training = mode
        lm._refresh(changed=True)
        _check_restored(module, saved)
        _check_rest(module, rest)


def _chosen(lm: "BaseLM", patterns: "str | Sequence[str] | None") -> dict[str, nn.Parameter]:
    """The parameters that are meant, in the model's order."""
    every: dict[str, nn.Parameter] = dict(lm.module.named_parameters())
    if patterns is None:
        return {name: parameter for name, parameter in every.items() if name.startswith(f"{lm.family.layers}.")}
    listed = [patterns] if isinstance(patterns, str) else list(patterns)
    if not listed:
        raise BadInput("no parameters are named, so there is nothing to tune. Name some, or leave `parameters` out.")
    wanted: set[str] = set()
    for pattern in listed:
        found = {name for name in every if fnmatchcase(name, pattern)}
        if not found:
            _refuse_unknown(lm.module, every, pattern)
        wanted |= found
    return {name: parameter for name, parameter in every.items() if name in wanted}


def _refuse_unknown(module: nn.Module, every: dict[str, nn.Parameter], pattern: str) -> None:
    for name, parameter in module.named_parameters(remove_duplicate=False):
        if fnmatchcase(name, pattern):
            owner = next(own for own, other in every.items() if other is parameter)
            raise BadInput(f"{name!r} is tied: tune it as {owner!r}, and know that both change.")
    near = hint(pattern, every) or f" There are {listing(list(every)[:4])} and {max(0, len(every) - 4)} more."
    raise BadInput(f"no parameter is called {pattern!r}.{near} Patterns are written with `*`, such as '*.mlp.*'.")


def _refuse_coarse(lm: "BaseLM") -> None:
    for name, parameter in lm.module.named_parameters():
        if not parameter.is_floating_point() or parameter.element_size() < 4:
            kind = str(parameter.dtype).removeprefix("torch.")
            raise BadInput(
                f"{lm.spec.name} is in {kind} ({name}), in which small steps are lost. Load it with dtype='float32' to tune it."
            )


def _check_rest(module: nn.Module, rest: dict[str, str]) -> None:
    now = dict(module.named_parameters())
    for name, digest in rest.items():
        if name not in now or _digest(now[name]) != digest:
            raise InterpError(
                f"{name} was changed inside `tuning`, though it was not among the parameters to tune, so it cannot be put back. "
                "Load the model again, and name this parameter."
            )


def _digest(parameter: Tensor) -> str:
    raw: Any = parameter.detach().cpu().contiguous().flatten().view(torch.uint8).numpy()
    return xxhash.xxh3_128_hexdigest(raw)
