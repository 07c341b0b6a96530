"""Cases on recovery after unlearning and on the order of interventions: planted answers on the reference checkpoint."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch

from interp.models import reference

if TYPE_CHECKING:
    from interp.core.lm import LM
    from interp.data.concepts import Concept


def held_back() -> tuple[bool, str]:
    """A bias forbids a concept's words: relearning on other facts brings them back; facts that were never known stay away."""
    from interp.analyses.unlearning.recovery import Relearning

    lm = reference.load("atlas")
    before = lm.fingerprint()
    colour = reference.concept_set("atlas", n=12, texts=120).get("colour")
    beast = reference.concept_set("atlas-tuned", n=12, texts=120).get("beast")
    config = Relearning(texts=8, steps=8, lr=5e-4, points=2, others_only=True)
    with lm.edit_weights(_forbidding(lm, colour, 15.0)):
        found = config.run(lm, colour, colour.related)
    never = config.run(lm, beast, beast.related)
    ends = [float(one.top[place].mean()) for one, place in ((found, 0), (found, -1), (never, -1))]
    same = lm.fingerprint() == before
    said = f"held back {ends[0]:.2f}, relearned {ends[1]:.2f}, never known {ends[2]:.2f}"
    ok = ends[0] <= 0.1 and ends[1] >= 0.75 and ends[2] <= 0.25 and not found.told.any() and same
    return ok, f"{said}; {'the same' if same else 'another'} fingerprint"


def both_orders() -> tuple[bool, str]:
    """Two ablations of different vectors commute exactly; of two values for one bias the later counts."""
    from interp.analyses.unlearning import Revision, Unlearner
    from interp.analyses.unlearning.methods import method
    from interp.analyses.unlearning.order import InterventionOrder

    @dataclass(frozen=True)
    class Bias(Unlearner):
        name: ClassVar[str] = "bias"
        strength: float = 0.0

        def unlearn(self, lm: "LM", concept: "Concept", retain: Sequence[str], *, seed: int = 0) -> Revision:
            return Revision(
                {key: value + kept for key, value in _forbidding(lm, concept, self.strength, only=True).items()}
            )

    lm = reference.load("atlas")
    bias = lm.weights.b_out(lm.spec.n_layers - 1)
    assert bias is not None
    kept = bias.clone()
    known = reference.concept_set("atlas", n=4, texts=8)
    pairs = (
        (method("needle", vectors=("2.474",)), method("needle", vectors=("1.362",))),
        (Bias(100.0), Bias(0.0)),
    )
    found = []
    for first, second in pairs:
        study = InterventionOrder(first=first, second=second, first_concept="colour", second_concept="craft")  # type: ignore[arg-type]
        found.append(float(study(lm, known).order()["sensitivity"].sel(measure="first")))
    return found == [0.0, 1.0], f"sensitivity {found[0]:.3g} and {found[1]:.3g}"


def _forbidding(lm: "LM", concept: "Concept", strength: float, *, only: bool = False) -> dict[str, torch.Tensor]:
    """The last MLP's bias moved against the mean of the concept's words; `only` the move itself."""
    ids = [lm.tokenizer.encode(" " + word, bos=False).ids[0] for word in concept.words]
    away = lm.weights.W_U[:, ids].mean(dim=1) - lm.weights.W_U.mean(dim=1)
    last = lm.spec.n_layers - 1
    move = -strength * away / away.norm()
    return {f"b_out.{last}": move if only else lm.weights.b_out(last) + move}
