"""Layer skip through the whole model, for decoders of which only the residual stream is known.

Calling a layer by itself takes the arguments that the model would have given it (tables of positions, masks, biases), and in an unknown
architecture these may depend on anything. So the model itself is called, and the layers before the first that a cell changes
give back what they gave in the recorded run. What is called thereby is all that follows, with the model's own arguments.

    from interp.core.run import Tape

    base, cell = plain.record(batch), [scale("blocks.2.hook_resid_pre", 0.5)]
    with begun_late(plain, base, cell, "layer skip") as edits:
        logits = plain.forward(Tape(base.batch, (), edits))       # equal to a full pass under base.edits + cell
"""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

from interp.core.edit import Edit

from .recording import PlainRecording, bypassed

if TYPE_CHECKING:
    from .plain import PlainModel


@contextmanager
def begun_late(plain: "PlainModel", base: PlainRecording, cell: Sequence[Edit], level: str) -> Iterator[list[Edit]]:
    """Inside the block a pass over `base.batch` begins at the first layer that `cell` changes; gives the edits it has to carry.

    At level `full`, and for proven families, which have better ways, it is an ordinary pass under all edits.
    """
    first = 0 if level == "full" or plain.family.proven else min((_entry(plain, edit) for edit in cell), default=0)
    own = [edit for edit in base.edits if first <= 0 or _layer(plain, edit) >= first]
    with ExitStack() as stack:
        for layer in range(first):
            given: Any = base.states[layer + 1]
            stack.enter_context(bypassed([plain.layer(layer)], _giving((given, None) if base.tuples else given)))
        yield [*own, *cell]


def _giving(value: Any) -> Any:
    return lambda *_args, **_kwargs: value


def _layer(plain: "PlainModel", edit: Edit) -> int:
    """The layer of an edit; -1 before the layers, their number behind them."""
    site = edit.site
    if site.layer is not None:
        return site.layer
    return plain.spec.n_layers if site.kind == "final" else -1


def _entry(plain: "PlainModel", edit: Edit) -> int:
    """The first layer that must be run for an edit: the next one, where the edit is of a layer's own output."""
    return _layer(plain, edit) + (edit.site.kind == "resid_post")
