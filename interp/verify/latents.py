"""Cases on latents as evidence: planted ones fire on their triggers, write their words and nothing else; edits leave the rest alone."""

from functools import cache
from typing import Any

import numpy as np
import torch

from interp.core.seed import numpy_generator

from . import mechanisms
from .concept_firing import FILLERS


@cache
def _world() -> tuple[Any, Any, Any, Any]:
    """Model, a dictionary whose latents 0 and 1 are the planted vectors of layer 1, their concepts, and texts with triggers."""
    from interp.cache.gather import view_of
    from interp.core.dictionary import Dictionary, DictionaryConfig
    from interp.data import corpus

    made, lm = mechanisms.planted("concepts")
    concepts = [concept for concept in made.answers["concepts"] if concept.layer == 1]
    view = view_of(lm, "blocks.1.hook_mlp_out")
    dictionary = Dictionary.initialise(
        DictionaryConfig(6, (view,), (view,), activation="relu", code_scale="none"), norm=1e-3
    )
    for place, concept in enumerate(concepts):
        vector = lm.weights.W_out(1)[concept.neuron].detach()
        dictionary.decoders[0].data[place], dictionary.encoders[0].data[place] = vector, vector / vector.norm() ** 2
        dictionary.b_enc.data[place] = -5.0
    draw, texts = numpy_generator(0, "latents case"), []
    for number in range(48):
        words = draw.choice(FILLERS, 9).tolist()
        words[int(draw.integers(9))] = concepts[number % 2].triggers[number // 2 % 2]
        texts.append(" ".join(words))
    return lm, dictionary, concepts, corpus(texts, lm.tokenizer)


def planted_latents() -> tuple[bool, str]:
    """Tokens on which planted latents fire, words that they promote, what a search finds."""
    from interp.analyses.dictionaries.latents import Latents

    lm, dictionary, concepts, data = _world()
    found = Latents(dictionary=dictionary, latent=(0, 1), search=tuple(one.triggers[0] for one in concepts), draws=199)(
        lm, data
    )
    fires = words = 0
    for latent, concept in enumerate(concepts):
        card = found.card(latent)
        fires += {one["token"] for one in card["fires_on"]} == set(concept.triggers)
        promoted = [one["token"] for one in card["words"]["in"]["promoted"]]
        words += set(promoted[: len(concept.words)]) == set(concept.words)
    p = np.array(
        [
            [found.searched(one.triggers[0]).set_index("latent").loc[latent, "p_holm"] for latent in (0, 1)]
            for one in concepts
        ]
    )
    right = bool((np.diag(p) < 0.05).all() and (p[[0, 1], [1, 0]] > 0.5).all())
    shown = f"{fires} of 2 fire on their triggers alone, {words} of 2 write their words"
    said = f"{shown}; p {np.diag(p).max():.2g}, of the other's {p[0, 1]:.2g}"
    return fires == words == 2 and right, said


def edited_latents() -> tuple[bool, str]:
    """What ablating and steering planted latents does to their words and to texts without a trigger."""
    from interp.analyses.dictionaries.effects import ablate, steer

    lm, dictionary, concepts, _ = _world()
    quiet, loud = "we saw the old big", f"we saw the {concepts[0].triggers[0]}"
    silent = torch.equal(lm.run(quiet, edits=[ablate(dictionary, [0])]).logits, lm.run(quiet).logits)
    words = list(concepts[0].tokens)
    clean, cut = (lm.run(loud, edits=edits).logits[0, -1, words].double() for edits in ([], [ablate(dictionary, [0])]))
    drop = float((clean - cut).mean())
    before, after = (
        lm.run(quiet, edits=edits).logits[0, -1].double() for edits in ([], [steer(dictionary, {0: 15.0})])
    )
    rise = after - before
    first = set(rise.topk(len(words)).indices.tolist()) == set(words)
    same = abs(float(rise[words].mean()) / drop - 1) < 0.02
    rest = "the same, bit for bit" if silent else "changed"
    said = f"without a trigger {rest}; {drop:.1f} logits taken, {float(rise[words].mean()):.1f} given"
    return silent and first and same and drop > 10, said
