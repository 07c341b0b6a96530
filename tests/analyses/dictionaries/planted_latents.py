"""A dictionary whose latents are the planted value vectors of a hand-wired model, and texts with their triggers."""

from functools import cache

import numpy as np
import torch

from interp.cache.gather import view_of
from interp.core.dictionary import Dictionary, DictionaryConfig, Scaling
from interp.data import corpus
from interp.models import reference

OTHER = "the a of and in we saw she went to near his old big then with for at on it".split()  # noqa: SIM905
BIAS = 5.0


def planted_dictionary(lm, made, *, latents=6, factor=1.0):
    """Latents 0 and 1 are the planted vectors of layer 1, the others tiny random ones; raw codes on a trigger are about 15."""
    view = view_of(lm, "blocks.1.hook_mlp_out")
    config = DictionaryConfig(latents, (view,), (view,), activation="relu", code_scale="none")
    scaling = {"in": Scaling(torch.zeros(view.width), factor)}
    dictionary = Dictionary.initialise(config, seed=1, norm=1e-3, scalings=scaling)
    concepts = [concept for concept in made.answers["concepts"] if concept.layer == 1]
    for place, concept in enumerate(concepts):
        vector = lm.weights.W_out(1)[concept.neuron].detach()
        dictionary.decoders[0].data[place] = vector * factor
        dictionary.encoders[0].data[place] = vector / vector.norm() ** 2 / factor
        dictionary.b_enc.data[place] = -BIAS
    return dictionary, concepts


def trigger_texts(made, n=60, seed=0):
    """`n` texts of ten words, each with one trigger; the four concepts take turns, and so do their triggers."""
    draw, texts = np.random.default_rng(seed), []
    for number in range(n):
        words = draw.choice(OTHER, 10).tolist()
        words[draw.integers(10)] = made.answers["concepts"][number % 4].triggers[(number // 4) % 2]
        texts.append(" ".join(words))
    return texts


@cache
def concepts_model():
    """What was planted, and the model, made once. It is borrowed: nobody changes its weights."""
    made = reference.concepts()
    return made, reference.as_lm(made)


def planted_world(n=60, **options):
    """Model, dictionary, its planted concepts, corpus."""
    made, lm = concepts_model()
    dictionary, concepts = planted_dictionary(lm, made, **options)
    return lm, dictionary, concepts, corpus(trigger_texts(made, n), lm.tokenizer)


def random_dictionary(lm, site, *, latents=48, seed=3, k=6, read=None, **options):
    """Random directions, top-k; reads `read` (a site) where it is not the one that is written."""
    written = view_of(lm, site, "out" if read else "in")
    reads = (view_of(lm, read, "in"),) if read else (written,)
    config = DictionaryConfig(latents, reads, (written,), activation="topk", k=k, centred=read is None, **options)
    return Dictionary.initialise(config, seed=seed, norm=1.0)
