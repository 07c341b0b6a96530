"""Cases on the planted entity tracker: its four heads are found by their paths, judged faithful, and not found where they are not."""

from typing import TYPE_CHECKING

import numpy as np

from interp.models import reference

from .mechanisms import planted

if TYPE_CHECKING:
    from interp.analyses.circuits import Circuit
    from interp.models.base import BaseLM

PLAN = ("D@last>logits", "C@last>q:D", "B@query_label>v:C", "A@first_label>v:B")
PAIRS = 9


def tracker_paths() -> tuple[bool, str]:
    """The relative score of every head's path into each reader: -1 for the planted one, 0 for all others."""
    from interp.analyses.paths import PathPatching

    made, lm = planted("tracker")
    heads, worst, other = made.answers["heads"], 0.0, 0.0
    for name, receiver, at in (
        ("D", "logits", "last"),
        ("C", "q:3.0", "last"),
        ("B", "v:2.2", "query_label"),
        ("A", "v:1.1", "first_label"),
    ):
        score = PathPatching(receivers=(receiver,), at=at)(lm, made.answers["pairs"][:3]).relative()
        values = score.isel(receiver=0, role=0).values.copy()  # [pair, layer, head]
        layer, head = heads[name]
        worst = max(worst, float(np.abs(values[:, layer, head] + 1).max()))
        values[:, layer, head] = 0
        other = max(other, float(np.abs(values).max()))
    return worst < 1e-4 and other < 1e-4, f"the planted ones {worst:.0e} off -1, all others at most {other:.0e}"


def tracker_circuit() -> tuple[bool, str]:
    """Discovery, faithfulness, completeness and minimality of the tracker."""
    from interp.analyses.circuits import CircuitEvaluation

    made, lm = planted("tracker")
    found = _found(lm, made.answers["pairs"][:PAIRS])
    judged = CircuitEvaluation(circuit=str(found), draws=2, random=2)(lm, made.answers["pairs"][:PAIRS])
    exact = {group.name: group.heads for group in found.groups} == {
        name: (head,) for name, head in made.answers["heads"].items()
    }
    f, gap = judged.faithfulness(), float(judged.completeness()["gap"].max())
    ok = exact and abs(f["value"] - 1) < 1e-6 and f["empty"] < 0.5 and gap == 0 and judged.minimal == judged.circuit
    return (
        ok,
        f"{len(found)} heads, faithfulness {f['value']:.2f} (empty {f['empty']:.2f}), gap {gap:.2f}, {len(judged.minimal)} needed",
    )


def no_circuit() -> tuple[bool, str]:
    """Discovery in random weights."""
    pairs = planted("tracker")[0].answers["pairs"][:PAIRS]
    found = _found(planted("tracker", null=True)[1], pairs)
    return len(found) == 0, f"{len(found)} heads"


def missing_copy() -> tuple[bool, str]:
    """A copy of the last head that is left out of the circuit makes it incomplete, though faithful."""
    from interp.analyses.circuits import CircuitEvaluation

    made = reference.tracker(redundant=True)
    text = ",".join(
        f"{name}@{made.answers['roles'][name]}={layer}.{head}" for name, (layer, head) in made.answers["heads"].items()
    )
    judged = CircuitEvaluation(circuit=text, draws=1, random=1, minimal=False)(
        reference.as_lm(made), made.answers["pairs"][:PAIRS]
    )
    gap = float(judged.completeness().set_index("draw")["gap"]["D"])
    return judged.faithfulness()[
        "value"
    ] == 1.0 and gap > 0.5, f"faithfulness {judged.faithfulness()['value']:.2f}, gap {gap:.2f} without D"


def _found(lm: "BaseLM", pairs: object) -> "Circuit":
    from interp.analyses.circuits import CircuitDiscovery

    return CircuitDiscovery(plan=PLAN)(lm, pairs).circuit
