"""Which inputs of the readers are scored: queries, keys and values, in rotary models queries and keys at stated distances only.

from interp.analyses.channels.scoring.inputs import plans
[one.label for one in plans(lm, None, ())]          # Q, K, V; in a rotary model V only, or Q@4 and K@4 with offsets=(4,)
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from interp.core.errors import BadInput, one_of

from ..component import known_heads
from ..factors import KINDS

if TYPE_CHECKING:
    from interp.core.lm import LM


@dataclass(frozen=True)
class Plan:
    """One input of the readers: its name in results, its kind, and in rotary models the distance."""

    label: str
    kind: str
    offset: int | None = None


def check_inputs(kinds: Sequence[str] | None, offsets: Sequence[int]) -> None:
    """Refuse kinds and distances that no model has."""
    for name, given, example in (("kinds", kinds or (), "('Q', 'V')"), ("offsets", offsets, "(1, 4)")):
        if isinstance(given, str) or not isinstance(given, Sequence):
            raise BadInput(f"`{name}` must be several, as in {name}={example}; not {given!r}.")
    for kind in kinds or ():
        one_of("kinds", kind, KINDS)
    if kinds is not None and (not kinds or len(set(kinds)) < len(kinds)):
        raise BadInput(f"`kinds` must name one or more of Q, K and V, each once; not {kinds!r}.")
    if any(type(offset) is not int or offset < 0 for offset in offsets) or len(set(offsets)) < len(offsets):
        raise BadInput(f"`offsets` must be different distances, 0 or more tokens; not {offsets!r}.")


def plans(lm: "LM", kinds: Sequence[str] | None, offsets: Sequence[int]) -> list[Plan]:
    """The inputs of a model's readers, kind by kind. `kinds=None` is all that are defined: in a rotary model without `offsets`, V.

    Raises `BadInput` for a model of one layer, and where kinds, offsets and the model do not go together.
    """
    known_heads(lm)
    check_inputs(kinds, offsets)
    spec, asked = lm.spec, kinds
    turned = spec.positions == "rotary"
    if spec.n_layers < 2:
        raise BadInput(f"{spec.name} has one layer, and channels are from heads to heads of later layers.")
    if spec.d_head > spec.d_model:
        raise BadInput(
            f"heads of {spec.name} are wider ({spec.d_head}) than its stream ({spec.d_model}): they have fewer components than "
            "dimensions, and such heads are not scored."
        )
    if offsets and not turned:
        raise BadInput(
            f"offsets={offsets!r} are for models with rotary positions; {spec.name} has one QK for all distances. Leave them out."
        )
    if offsets and not {"Q", "K"} & set(asked or KINDS):
        raise BadInput(f"values are read alike at every distance; leave out offsets={offsets!r}, or add Q or K.")
    if too_far := [offset for offset in offsets if offset >= spec.n_ctx]:
        raise BadInput(f"offsets {too_far} are beyond the context of {spec.name}, which is {spec.n_ctx} tokens.")
    if turned and not offsets:
        if {"Q", "K"} & set(asked or ()):
            raise BadInput(
                f"kinds={asked!r}: {spec.name} rotates queries and keys by their positions, so QK is another matrix at every distance. "
                "Give distances (`offsets=(1, 4)`), or take kinds=('V',)."
            )
        asked = ("V",)
    found = []
    for kind in asked or KINDS:
        distances: Sequence[int | None] = offsets if turned and kind != "V" else (None,)
        found += [Plan(kind if offset is None else f"{kind}@{offset}", kind, offset) for offset in distances]
    return found
