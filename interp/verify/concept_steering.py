"""Cases on steering: a planted direction brings its words by as much as it must, and random weights give nothing."""

import tempfile
from pathlib import Path

from interp.core.seed import numpy_generator

from . import mechanisms
from .concept_firing import FILLERS


def planted_direction() -> tuple[bool, str]:
    """Rise of the planted words' logits at strength 1, its layer and rank; and the largest p with random weights."""
    from interp.analyses.directions.steering import ConceptSteering
    from interp.data import labelled

    made, lm = mechanisms.planted("concepts")
    concept, draw = made.answers["concepts"][1], numpy_generator(0, "steering case")
    texts = labelled(
        positive=[" ".join([*draw.choice(FILLERS, 4), concept.triggers[number % 2]]) for number in range(12)],
        negative=[" ".join(draw.choice(FILLERS, 5)) for _ in range(12)],
    )
    with tempfile.TemporaryDirectory() as folder:
        neutral = Path(folder) / "neutral.txt"
        neutral.write_text("\n".join(" ".join(draw.choice(FILLERS, 6)) for _ in range(8)))
        asked = ConceptSteering(
            targets=concept.words, neutral=str(neutral), n=4, draws=9, strengths=(0.5, 1.0), budget=5.0, examples=0
        )
        found = asked(lm, texts)
        null = asked(mechanisms.planted("concepts", null=True)[1], texts)
    rise = float(found.by_layer("logit").sel(layer=concept.layer, strength=1.0))
    due = made.answers["activation"] * made.answers["mean_logit"] * (1 - len(concept.words) / lm.spec.vocab)
    ranks, chance = found.p("logit", 1.0), max(null.p("logit").values())
    ok = abs(rise / due - 1) < 0.02 and found.layer == concept.layer and max(ranks.values()) <= 0.1 and chance > 0.1
    return (
        ok,
        f"{rise:.2f} of {due:.2f} logits at layer {found.layer}, p {max(ranks.values()):.2g}; random weights p {chance:.2g}",
    )
