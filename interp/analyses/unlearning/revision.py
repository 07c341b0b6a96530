"""The contract of everything that makes a model forget: what it is given (`Unlearner.unlearn`), and what comes out (`Revision`).

An unlearner never changes a model. It gives the new values of parameters; `Revision.apply` puts them in for the time of a `with` block and
takes them out bit for bit. Two in a row are two blocks, one inside the other, the second made inside the first:

    lm = interp.load("atlas")
    known = interp.models.reference.concept_set("atlas")
    first = interp.analyses.unlearning.method("needle").unlearn(lm, known.get("colour"), known.others("colour"))
    with first.apply(lm):
        ...                                        # the model without it; `lm.save(folder)` here would keep it
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, ClassVar

from torch import Tensor

from interp.core.lm import LM
from interp.data.concepts import Concept


@dataclass(frozen=True, eq=False)
class Revision:
    """New values of parameters, and how they came about."""

    values: Mapping[str, Tensor]
    """Key of `lm.edit_weights` (a parameter's own name, or a view such as `W_out.3.17`) -> its new value, in its shape."""
    log: Mapping[str, Any] = field(default_factory=dict)
    """Plain values: what the unlearner says of itself, such as `loss` a step."""

    @classmethod
    def none(cls) -> "Revision":
        """No change at all."""
        return cls({})

    @contextmanager
    def apply(self, lm: LM) -> Iterator[None]:
        """The model with the new values, inside the `with`; bit for bit as before after it. May be nested; the inner one counts."""
        with lm.edit_weights(dict(self.values)):
            yield

    def __repr__(self) -> str:
        numbers = sum(value.numel() for value in self.values.values())
        return f"Revision({numbers:,} numbers in {len(self.values)} places)"


@dataclass(frozen=True)
class Unlearner(ABC):
    """Base of the unlearning methods: a configuration that turns a concept into a `Revision`."""

    name: ClassVar[str] = ""
    """What tables and the command line call it."""

    @abstractmethod
    def unlearn(self, lm: LM, concept: Concept, retain: Sequence[str], *, seed: int = 0) -> Revision:
        """The new values that make `lm` forget `concept`, whose `texts` are to be forgotten and whose prompts are only for evaluation.

        `retain`: texts that are to be kept. The model is as it was when this returns. Raises `BadInput`, `UnsupportedArchitecture`.
        """
