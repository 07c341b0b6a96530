"""Known answers of the concept scan: planted vectors and nothing else, the known ones of `atlas`, nothing in scrambled weights."""

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from interp.core.seed import generator

from .mechanisms import planted

if TYPE_CHECKING:
    from interp.core.lm import LM


def scanned_concepts() -> tuple[bool, str]:
    """Planted vectors lead the scan and hold their words; mean logit 1.5; none in random weights."""
    from interp.analyses.concepts.scan import ConceptScan
    from interp.data import Concept, Concepts

    made, lm = planted("concepts")
    wanted = {f"{one.layer}.{one.neuron}": one for one in made.answers["concepts"]}
    concepts = Concepts([Concept(one.name, one.words) for one in wanted.values()])
    found = ConceptScan(k=5, draws=50)(lm, concepts)
    first = set(found.strongest(len(wanted))["vector"])
    logits = [float(found.data["concreteness"].sel(vector=name)) for name in wanted]
    held = found.holding()
    null = ConceptScan(k=5, draws=50)(planted("concepts", null=True)[1], concepts).holding()
    right = sum(held[one.name] == [name] for name, one in wanted.items())
    ok = (
        first == set(wanted)
        and max(abs(logit - 1.5) for logit in logits) < 1e-5
        and right == len(wanted)
        and not any(null.values())
    )
    stray = sum(map(len, null.values()))
    return ok, f"{right} of {len(wanted)} by their vector alone, mean logit {logits[0]:.4f}; {stray} in random weights"


def known_concepts() -> tuple[bool, str]:
    """The concepts of `atlas` in the vectors that hold them, and none when the entries of its value vectors are exchanged."""
    from interp.analyses.concepts.scan import ConceptScan
    from interp.models import reference

    lm = reference.load("atlas")
    concepts = reference.concept_set("atlas", n=1)
    held = ConceptScan(draws=50)(lm, concepts).holding()
    known = {"colour": "2.474", "kingdom": "2.145", "harvest": "1.362"}
    right = sum(held[name][:1] == [vector] for name, vector in known.items())
    with lm.edit_weights(scrambled(lm)):
        null = ConceptScan(draws=50)(lm, concepts).holding()
    stray = sum(map(len, null.values()))
    return right == len(known) and not stray, f"{right} of {len(known)}; {stray} when scrambled"


def scrambled(lm: "LM") -> dict[str, Tensor]:
    """For `lm.edit_weights`: every value vector with its entries in a random order, another one each."""
    changes = {}
    for layer in range(lm.spec.n_layers):
        rows = lm.weights.W_out(layer)
        order = torch.rand(rows.shape, generator=generator(0, "scrambled", layer)).argsort(dim=1).to(rows.device)
        changes[f"W_out.{layer}"] = rows.gather(1, order)
    return changes
