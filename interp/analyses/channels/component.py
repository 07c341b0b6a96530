"""Names of heads and of their components: `8.10` is head 10 of layer 8, `8.10.1` its component 1, from 0 by falling singular value.

from interp.analyses.channels import Component
one = Component.parse("8.10.1")
one.owner, str(one), one.layer
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from interp.core.errors import BadInput

if TYPE_CHECKING:
    from interp.core.lm import LM


FEWEST = 3
"""Components of a head that make a z: one, and two others with a spread."""


@dataclass(frozen=True, order=True)
class Head:
    """One attention head (a query head, where keys and values are shared)."""

    layer: int
    head: int

    @classmethod
    def parse(cls, name: "str | Head") -> "Head":
        """From `"8.10"`. Raises `BadInput` for anything else."""
        return name if isinstance(name, Head) else cls(*_numbers(name, 2, "a head", "layer.head, as in '8.10'"))

    def check(self, lm: "LM") -> "Head":
        """Itself, if the model has it. Raises `BadInput`."""
        _within(str(self), lm, self.layer, self.head)
        return self

    def __str__(self) -> str:
        return f"{self.layer}.{self.head}"


@dataclass(frozen=True, order=True)
class Component:
    """One singular component of a head's OV (or QK) matrix."""

    layer: int
    head: int
    index: int

    @classmethod
    def parse(cls, name: "str | Component") -> "Component":
        """From `"8.10.1"`. Raises `BadInput` for anything else."""
        if isinstance(name, Component):
            return name
        return cls(*_numbers(name, 3, "a component", "layer.head.component, as in '8.10.1'"))

    @property
    def owner(self) -> Head:
        """The head that it is a part of."""
        return Head(self.layer, self.head)

    def check(self, lm: "LM") -> "Component":
        """Itself, if the model has it. Raises `BadInput`."""
        _within(str(self), lm, self.layer, self.head)
        if self.index >= lm.spec.d_head:
            raise BadInput(f"{str(self)!r}: a head of {lm.spec.name} has components 0 to {lm.spec.d_head - 1}.")
        return self

    def __str__(self) -> str:
        return f"{self.layer}.{self.head}.{self.index}"


def _numbers(name: object, count: int, what: str, form: str) -> list[int]:
    words = name.strip().split(".") if isinstance(name, str) else []
    if len(words) != count or not all(word.isascii() and word.isdigit() for word in words):
        raise BadInput(f"{name!r} does not name {what}. Write {form}.")
    return [int(word) for word in words]


def known_heads(lm: "LM") -> None:
    """Refuse a model whose heads nobody has named: of an unproven family, or without attention at all. Raises `BadInput`."""
    if not lm.spec.proven:
        raise BadInput(
            f"channels are between attention heads, and {lm.spec.name} is of an unproven family ({lm.spec.family}): which parameters are "
            "W_Q, W_K, W_V and W_O of which head is not known, nor whether it has heads. Use a model of a proven family "
            "(`interp.models.families`)."
        )


def many_components(lm: "LM") -> None:
    """Refuse to compare a component with the others of its head, in standard deviations, where these are fewer than two."""
    if lm.spec.d_head < FEWEST:
        raise BadInput(
            f"heads of {lm.spec.name} have {lm.spec.d_head} component(s), and z compares one with two others of its head or more. "
            "Rank by score."
        )


def _within(name: str, lm: "LM", layer: int, head: int) -> None:
    known_heads(lm)
    spec = lm.spec
    if layer >= spec.n_layers or head >= spec.n_heads:
        raise BadInput(
            f"{name!r} is not in {spec.name}, which has layers 0 to {spec.n_layers - 1} and heads 0 to {spec.n_heads - 1}."
        )
