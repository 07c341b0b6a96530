"""Unlearning methods: each turns a concept and texts to keep into new weights (a `Revision`), and leaves the model as it was.

    gradient-ascent        forget texts made unlikely                                     trains
    gradient-difference    the same, with retain texts kept likely                        trains
    npo                    forget texts as rejected answers, with a KL on retain texts    trains
    dpo                    the same, retain texts as preferred answers                    trains
    rank-one               the concept's words lowered where its texts say them           closed form, `interp.analyses.editing`
    needle                 the concept's value vectors taken out: the oracle              no gradients
    dampening              weights that matter most for the forget texts made smaller     gradients, no training
    isolation              weights that only the forget texts lean on pruned              forward passes only

Each has its source and what misleads about it in its own module.
None is told the prompts by which it will be judged (but see the defaults).

What to know about the defaults. The methods do not see the questions, but the defaults did: step sizes, dampening, isolation and the
rank-one edits were chosen on the colours of `atlas`, with its losses on training sentences and its accuracy on the evaluation questions
both in view; those on `kingdom` were looked at, too. Accuracy on these is therefore no held-out score of a method. That on `craft`,
which was measured once the defaults were fixed, is nearer to one, though of the same model. The published values for 7B models stand
beside each option. No ranking of methods follows from such settings: to rank, choose them for each method alike, on questions that are
not reported.

    from interp.analyses.unlearning.methods import method
    concepts = interp.models.reference.concept_set("atlas")
    revision = method("needle", n=2).unlearn(lm, concepts.get("colour"), concepts.others("colour"))
    with revision.apply(lm):
        ...
"""

from dataclasses import fields
from typing import Any

from interp.core.errors import BadInput, hint, listing, one_of

from ..revision import Unlearner
from .ascent import GradientAscent, GradientDifference
from .dampening import SelectiveDampening
from .fisher import Fisher, diagonal, fisher
from .isolation import ParameterIsolation
from .needle import Needle
from .preference import DPO, NPO
from .rank_one import RankOneErasure

METHODS: dict[str, type[Unlearner]] = {
    one.name: one
    for one in (
        GradientAscent,
        GradientDifference,
        NPO,
        DPO,
        RankOneErasure,
        Needle,
        SelectiveDampening,
        ParameterIsolation,
    )
}
"""Every unlearning method by the name that tables and the command line call it by."""


def method(name: str, **options: Any) -> Unlearner:
    """The method of that name with these options. Raises `BadInput` for a name or an option that there is not, and for bad values."""
    one_of("method", name, METHODS)
    kind = METHODS[name]
    legal = [field.name for field in fields(kind)]
    if unknown := [option for option in options if option not in legal]:
        raise BadInput(f"{name} has no option {unknown[0]!r}; it has {listing(legal)}.{hint(unknown[0], legal)}")
    return kind(**options)


__all__ = [
    "DPO",
    "METHODS",
    "NPO",
    "Fisher",
    "GradientAscent",
    "GradientDifference",
    "Needle",
    "ParameterIsolation",
    "RankOneErasure",
    "SelectiveDampening",
    "Unlearner",
    "diagonal",
    "fisher",
    "method",
]
