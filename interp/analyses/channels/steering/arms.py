"""The channel and what it is compared with: the same number of directions, in the same unit, that are not the channel.

channel            the components that were named
same_head          for each of them another component of the same head
random_direction   for each of them a random direction of its head's write space; orthonormal where a head has several
random_head        for each of them the component of the same number, of another head of the same layer
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from interp.core.errors import BadInput
from interp.core.seed import numpy_generator

from ..component import Component, Head
from .along import Axis, Spaces

KINDS = ("same_head", "random_direction", "random_head")


@dataclass(frozen=True, eq=False)
class Arm:
    """Directions that are steered together, one a component of the channel."""

    name: str
    kind: str
    axes: tuple[Axis, ...]

    @property
    def writes(self) -> str:
        """Which directions they are."""
        return " ".join(axis.name for axis in self.axes)

    def signed(self, sign: np.ndarray) -> "Arm":
        """The arm with its axes turned round where `sign` is negative."""
        axes = (axis.flipped() if one < 0 else axis for axis, one in zip(self.axes, sign, strict=True))
        return Arm(self.name, self.kind, tuple(axes))


class Missing(Exception):
    """A control that the model does not have; the message says why."""


def arms_of(
    space: Spaces, names: Sequence[str], *, kinds: Sequence[str] | None, draws: int, seed: int, below: int
) -> tuple[list[Arm], dict[str, str]]:
    """The channel first, then `draws` of each kind of control; and which controls the model does not have, with the reason.

    Raises `BadInput` for components that are not determined or not below layer `below`, and for a control that was asked for by name and
    does not exist.
    """
    components = [Component.parse(name) for name in names]
    channel = Arm("channel", "channel", tuple(space.named(one) for one in components))
    arms, absent = [channel], {}
    for kind in KINDS if kinds is None else kinds:
        for draw in range(draws):
            name = f"{kind} {draw}" if draws > 1 else kind
            try:
                arms.append(Arm(name, kind, control(space, components, kind, draw=draw, seed=seed)))
            except Missing as missing:
                if kinds is not None:
                    raise BadInput(f"there is no control {name!r}: {missing}. Take others, or fewer draws.") from None
                absent[name] = str(missing)
    if bad := [str(one) for one in components if one.layer > below]:
        raise BadInput(
            f"component {bad[0]!r} is written after layer {below}, the last that can be heard by its reader. Name earlier ones."
        )
    return arms, absent


def control(space: Spaces, components: Sequence[Component], kind: str, *, draw: int, seed: int) -> tuple[Axis, ...]:
    """One draw of a control, an axis for each component. Raises `Missing`."""
    owners = list(dict.fromkeys(component.owner for component in components))
    found: dict[Component, Axis] = {}
    taken = set(owners)
    for owner in owners:
        mine = [component for component in components if component.owner == owner]
        if kind == "same_head":
            axes = _same_head(space, owner, mine, draw, seed)
        elif kind == "random_direction":
            if len(mine) > len(space.writes(owner)) - 1:
                raise Missing(
                    f"head {owner} writes into {len(space.writes(owner))} dimensions, all of them the channel's"
                )
            axes = space.random(owner, len(mine), seed, "control", draw)
        else:
            other, axes = _other_head(space, owner, mine, taken, draw, seed)
            taken.add(other)
        found |= dict(zip(mine, axes, strict=True))
    return tuple(found[component] for component in components)


def _same_head(space: Spaces, owner: Head, mine: Sequence[Component], draw: int, seed: int) -> list[Axis]:
    """Other components of the head, as many as the channel has there; no two draws are the same ones."""
    rows, k = space.writes(owner), len(mine)
    free = [index for index in range(len(rows)) if index not in {component.index for component in mine}]
    if draw >= math.comb(len(free), k):
        beside = f"{len(free)} components beside the channel's {k}"
        raise Missing(f"head {owner} has {beside}" + (f", which makes {draw} draws" if draw else ""))
    rng = numpy_generator(seed, "channel control", "same head", owner)
    if k == 1:
        chosen = [int(rng.permutation(free)[draw])]
    else:
        drawn: dict[tuple[int, ...], None] = {}
        while len(drawn) <= draw:
            drawn[tuple(sorted(int(index) for index in rng.choice(free, k, replace=False)))] = None
        chosen = list(list(drawn)[draw])
    return [space.axis(f"{owner}.{index}", owner, rows[index]) for index in chosen]


def _other_head(
    space: Spaces, owner: Head, mine: Sequence[Component], taken: set[Head], draw: int, seed: int
) -> tuple[Head, list[Axis]]:
    need = max(component.index for component in mine)
    every = [Head(owner.layer, head) for head in range(space.lm.spec.n_heads)]
    others = [head for head in every if head not in taken and len(space.writes(head)) > need]
    if draw >= len(others):
        raise Missing(f"layer {owner.layer} has {len(others)} other heads with a component {need}")
    order = numpy_generator(seed, "channel control", "other head", owner).permutation(len(others))
    head = others[int(order[draw])]
    rows = space.writes(head)
    return head, [space.axis(f"{head}.{one.index}", head, rows[one.index]) for one in mine]
