"""Directions held against directions: what one component writes against what another reads, and components against themselves in other
coordinates.

With both sides decomposed, the composition score of two components is a plain cosine, `|v_i · u'_j|`: v_i is what component i of the
writer's OV writes, u'_j what component j of the reader's matrix (QK for its query, QKᵀ for its key, OV for its value) reads. It says which
of the reader's channels a message enters, where the score says how much of it enters at all: `Σ_j s'_j² cos_ij² / |M|_F²` is its square.

The number of a component is not a property of the function (see `decompose`). `correspondence` finds, for a component in one setting, the
component of the same head that writes most nearly the same direction in another.

    from interp.analyses.channels import cosines, correspondence, Setting
    cosines(lm, "0.1", "2.3", kind="Q")                       # [component of 0.1, component of 2.3]
    correspondence(lm, ["0.1.0", "0.1.1"], Setting(folded=True), other=Setting(folded=False))
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from torch import Tensor

from interp.core.errors import BadInput, one_of

from .component import Component, Head
from .decompose import Components, components, exists
from .factors import DEFAULT, KINDS, Factors, Setting, ov, qk

if TYPE_CHECKING:
    from interp.core.lm import LM


class Match(NamedTuple):
    """The component that another setting has for one, and the |cosine| of what the two write."""

    component: Component
    cosine: float


def reading_components(
    lm: "LM", layer: int, kind: str, setting: Setting = DEFAULT, *, offset: int | None = None, heads: Sequence[int] | None = None
) -> Components:  # fmt: skip
    """The components of what a layer's heads read through one input: `read` [head, component, d_model] are the u' of the essay.

    With biases, `read` is the part of u' in the stream, shorter than 1 where a component reads the constant too.
    """
    one_of("kind", kind, KINDS)
    if kind == "V" and offset is not None:
        raise BadInput(f"values are read alike at every distance; leave out offset={offset!r} for kind 'V'.")
    factors = ov(lm, layer, setting) if kind == "V" else qk(lm, layer, setting, offset=offset)
    factors = factors.T if kind == "K" else factors
    if heads is not None:
        factors = Factors(factors.left[list(heads)], factors.right[list(heads)])
    parts = components(factors)
    return Components(parts.read[..., : lm.spec.d_model], parts.values, parts.write)


def cosines(
    lm: "LM",
    writer: "str | Head",
    reader: "str | Head",
    *,
    kind: str,
    setting: Setting = DEFAULT,
    offset: int | None = None,
) -> Tensor:
    """|cosines| [writer component, reader component], float64, of what one head writes and another reads; NaN beyond their ranks.

    Raises `BadInput` where the reader is not in a later layer.
    """
    early, late = Head.parse(writer).check(lm), Head.parse(reader).check(lm)
    if late.layer <= early.layer:
        raise BadInput(f"{str(late)!r} cannot read what {str(early)!r} writes: it is not in a later layer.")
    said = components(_one(ov(lm, early.layer, setting), early.head)).write[0]
    heard = reading_components(lm, late.layer, kind, setting, offset=offset, heads=[late.head]).read[0]
    return (said @ heard.mT).abs()


def correspondence(
    lm: "LM", names: "Sequence[str | Component]", setting: Setting = DEFAULT, *, other: Setting
) -> list[Match]:
    """For each component under `setting`, its head's component under `other` that writes most nearly the same direction.

    A cosine near 1 says that the two settings name the same thing; a small one, that it is spread over several components there.
    """
    wanted = [Component.parse(name).check(lm) for name in names]
    found: dict[Head, tuple[Components, Components]] = {}
    matches = []
    for name in wanted:
        if name.owner not in found:
            found[name.owner] = tuple(components(_one(ov(lm, name.layer, one), name.head)) for one in (setting, other))  # type: ignore[assignment]
        here, there = found[name.owner]
        exists(here, name, 0)
        near = (there.write[0] @ here.write[0, name.index]).abs().nan_to_num(nan=-1.0)
        index = int(near.argmax())
        matches.append(Match(Component(name.layer, name.head, index), float(near[index])))
    return matches


def _one(factors: Factors, head: int) -> Factors:
    return Factors(factors.left[head : head + 1], factors.right[head : head + 1])
