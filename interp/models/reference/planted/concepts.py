"""Concepts by hand: a few MLP neurons whose value vector promotes a known set of words, and which fire on known words only.

    value vector of concept neuron j     v_j = 1.5 · sum of the unembedding columns of its words
    its input                            40 · [a trigger is here] - 20, so that gelu gives 20 on a trigger and exactly 0 elsewhere

The unembedding columns are orthonormal, so the average logit of `v_j` over its words is 1.5, and no other vector of the model comes
near: the remaining neurons read random directions and have random value vectors of length 1.5. They act on every token, weakly.
Zeroing a planted vector changes the stream by exactly `20 v_j` at its triggers and leaves prompts without a trigger the same, bit
for bit.
"""

from dataclasses import dataclass

import torch

from interp.core.seed import generator

from .wiring import Planted, Wiring, one_hot, scramble, word_tokenizer

STRENGTH, ACTIVATION, N_CTX, D_MLP = 1.5, 20.0, 32, 40


@dataclass(frozen=True)
class PlantedVector:
    """One planted value vector."""

    name: str
    layer: int
    neuron: int
    words: tuple[str, ...]
    """What the vector promotes."""
    triggers: tuple[str, ...]
    """The words on which the neuron fires."""
    tokens: tuple[int, ...] = ()
    """Ids of `words`."""
    trigger_tokens: tuple[int, ...] = ()


_PLAN = (
    PlantedVector("colours", 0, 7, ("red", "green", "blue", "white", "black", "yellow"), ("paint", "palette")),
    PlantedVector("metals", 1, 23, ("iron", "copper", "silver", "gold", "zinc"), ("forge", "mine")),
    PlantedVector("animals", 1, 31, ("fox", "wolf", "bear", "otter", "heron", "lynx"), ("zoo", "forest")),
    PlantedVector("fruits", 2, 4, ("apple", "pear", "plum", "cherry", "quince"), ("orchard", "market")),
)
_OTHER = "the a of and in we saw she went to near his old big then with for at on it".split()  # noqa: SIM905


def concepts(*, null: bool = False, seed: int = 0) -> Planted:
    """A three-layer model with four planted value vectors. `answers["concepts"]` is the tuple of `PlantedVector`s.

    `answers` also has `mean_logit` 1.5 (of a planted vector over its own words), `activation` 20 (on a trigger) and `runner_up`: the
    largest mean logit that any other value vector reaches over its own five top words.
    """
    words = [*dict.fromkeys(word for concept in _PLAN for word in (*concept.words, *concept.triggers)), *_OTHER]
    vocab = len(words) + 2
    wire = Wiring({"token": vocab, "out": vocab}, vocab, 3, 4, 54, N_CTX, D_MLP)
    ids = {word: index + 2 for index, word in enumerate(words)}
    identity = one_hot([*range(vocab)], vocab)
    wire.embed(identity, "token")
    unembedding = wire.write("out").T / 2**0.5  # [d_model, vocab], orthonormal columns
    wire.unembed(unembedding)
    found = tuple(
        PlantedVector(
            plan.name, plan.layer, plan.neuron, plan.words, plan.triggers,
            tuple(ids[word] for word in plan.words), tuple(ids[word] for word in plan.triggers),
        )
        for plan in _PLAN
    )  # fmt: skip
    taken = {(concept.layer, concept.neuron) for concept in found}
    runner_up = 0.0
    for layer in range(3):
        draw = generator(seed, "background neurons", layer)
        w_in = wire.read("token") @ (0.3 * torch.randn(vocab, D_MLP, generator=draw))
        values = torch.randn(D_MLP, vocab, generator=draw)
        values = STRENGTH * values / values.norm(dim=1, keepdim=True)  # length of a vector with one word
        bias = torch.zeros(D_MLP)
        for concept in (concept for concept in found if concept.layer == layer):
            fires = identity[list(concept.trigger_tokens)].sum(dim=0)
            w_in[:, concept.neuron] = wire.read("token") @ (2 * ACTIVATION * fires)
            bias[concept.neuron] = -ACTIVATION
            values[concept.neuron] = STRENGTH * identity[list(concept.tokens)].sum(dim=0)
        others = [neuron for neuron in range(D_MLP) if (layer, neuron) not in taken]
        runner_up = max(runner_up, float(values[others].topk(5, dim=1).values.mean(dim=1).max()))
        wire.neurons(layer, 0, w_in, bias, values @ unembedding.T)
    answers = {"concepts": found, "mean_logit": STRENGTH, "activation": ACTIVATION, "runner_up": runner_up}
    prompts = tuple(
        {"prompt": f"we saw the {trigger}", "subject": trigger, "attribute": concept.words[0]}
        for concept in found
        for trigger in concept.triggers
    )
    text = "concepts: " + "; ".join(
        f"neuron {c.layer}.{c.neuron} promotes {c.name} on {' and '.join(c.triggers)}" for c in found
    )
    module = scramble(wire.module, seed) if null else wire.module
    return Planted(
        "planted-concepts", module, word_tokenizer(words, N_CTX), {} if null else answers, text, prompts, null
    )
