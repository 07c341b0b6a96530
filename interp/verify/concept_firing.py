"""Cases on where value vectors fire: planted neurons on their triggers alone, and nothing beyond chance with random weights."""

import numpy as np

from interp.core.seed import numpy_generator
from interp.models import reference

from . import mechanisms

FILLERS = ("the", "a", "of", "we", "saw", "she", "went", "near", "his", "old", "big", "then")


def planted_neurons() -> tuple[bool, str]:
    """Coefficients on triggers and elsewhere, the AUC of the planted vectors, and how many stand out with random weights."""
    from interp.analyses.concepts.firing import ConceptFiring
    from interp.data import concepts

    planted, draw = reference.concepts().answers["concepts"], numpy_generator(0, "firing case")
    rows = []
    for concept in planted:
        texts = []
        for number in range(12):
            words = draw.choice(FILLERS, 8).tolist()
            words[int(draw.integers(8))] = concept.triggers[number % 2]
            texts.append(" ".join(words))
        rows.append({"Concept": concept.name, "texts": texts, "vectors": [f"{concept.layer}.{concept.neuron}"]})
    data = concepts(rows)
    found = ConceptFiring()(mechanisms.planted("concepts")[1], data)
    labels = found.data["label"].values[found.data["token_id"].values]
    off, silent = 0.0, True
    for concept in planted:
        values = found.data["coefficient"].sel(vector=f"{concept.layer}.{concept.neuron}").values
        on = np.isin(labels, concept.triggers)
        off = max(off, float(np.abs(values[on] - 20).max()))
        silent &= bool((values[~on] == 0).all())
    auc = float(found.summary()["auc"].min())
    null = ConceptFiring()(mechanisms.planted("concepts", null=True)[1], data).summary("mean")
    chance = int(((null["p_holm"] < 0.05) & (null["null_share"] < 0.05)).sum())
    elsewhere = "exactly 0" if silent else "not 0"
    said = f"20 within {off:.0e}, {elsewhere} elsewhere; AUC {auc:.2f}; {chance} of {len(null)} with random weights"
    return off < 1e-3 and silent and auc == 1.0 and chance == 0, said
