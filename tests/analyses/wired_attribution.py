"""Small wired models and pairs that the tests of attribution share: linear, saturated, cancelling."""

import torch
from torch import nn

from interp.core.seed import generator
from interp.data import Prompt, PromptPair
from interp.data.world import World
from interp.models.load import wrap
from interp.models.reference.planted.wiring import Wiring, one_hot, word_tokenizer

N_CTX = 8


def built(wire, words, name):
    """The wired module in double precision, as an LM."""
    return wrap(wire.module.double(), word_tokenizer(words, N_CTX), name)


def pair(clean, corrupted, answer="yes", foil="no"):
    """Both prompts with the same answer and foil: what is scored is one number."""
    return PromptPair(Prompt.of(clean, answer=answer, foil=foil), Prompt.of(corrupted, answer=foil, foil=answer))


def world_pairs(n):
    """Indirect-object prompts of atlas's world; the corrupted one names the other person again."""
    out = []
    for row in World.generate().indirect_objects(n):
        subject, other, text = row["subject"], row["answer"].strip(), row["prompt"]
        place = text.rfind(subject)
        swapped = text[:place] + other + text[place + len(subject) :]
        out.append(
            PromptPair(Prompt.of(text, answer=other, foil=subject), Prompt.of(swapped, answer=subject, foil=other))
        )
    return out


def linear(n_layers=3, n_heads=2, seed=0):
    """Frozen (uniform) attention and linear MLPs with random weights, norms that are the identity: M is linear in everything."""
    words = ["yes", "no", *"abcdef"]
    wire = Wiring({"x": 6}, len(words) + 2, n_layers, n_heads, 32 // n_heads, N_CTX, 8)

    def draw(*shape):
        return 0.5 * torch.randn(*shape, generator=generator(seed, "linear", *map(str, shape)), dtype=torch.float32)

    read, write = wire.read("x"), wire.write("x")
    wire.embed(torch.cat([torch.zeros(4, 6), draw(6, 6)]), "x")
    for layer in range(n_layers):
        g = generator(seed, "layer", str(layer))
        for head in range(n_heads):
            mix = 0.5 * torch.randn(6, 6, generator=g)
            wire.head(
                layer, head, q=torch.zeros(wire.d_model, 6), k=torch.zeros(wire.d_model, 6), v=read, o=mix @ write
            )
        w_in, w_out = (0.4 * torch.randn(6, 8, generator=g) for _ in range(2))
        wire.neurons(layer, 0, read @ w_in, 0.1 * torch.randn(8, generator=g), w_out.T @ write)
        wire.module.transformer.h[layer].mlp.act = nn.Identity()
    wire.unembed(read @ draw(6, len(words) + 2))
    steeper(wire, 2.0**8)
    return built(wire, words, "linear")


def steeper(wire, factor):
    """A larger constant under every norm, which makes them the identity more nearly still; exact in double precision."""
    wire.module.transformer.wpe.weight.data *= factor  # it holds nothing else here
    for name, parameter in wire.module.named_parameters():
        if "ln_" in name and name.endswith("weight"):
            parameter.data *= factor


def linear_pairs():
    return [pair("a b c d", "a e c d"), pair("f b c a", "f e d a"), pair("a b", "c b")]


def saturated():
    """One head, scores of 20 against 0, a value gap of 3 (K5c for queries, K5d for keys)."""
    words = ["yes", "no", "left", "right", "up", "down", "fill", "weak"]
    wire = Wiring({"key": 2, "query": 2, "value": 1}, len(words) + 2, 2, 1, 32, N_CTX, 4)
    ids = {word: place + 2 for place, word in enumerate(words)}
    key, query, value = (torch.zeros(len(words) + 2, n) for n in (2, 2, 1))
    key[ids["left"], 0] = key[ids["right"], 1] = 1.0
    value[ids["left"]] = value[ids["weak"]] = 3.0  # `weak` has the value of `left`, and no key
    query[ids["up"], 0], query[ids["down"], 1] = 20.0, 20.0
    query[ids["fill"]] = torch.tensor([20.0, 10.0])
    for name, rows in (("key", key), ("query", query), ("value", value)):
        wire.embed(rows, name)
    wire.head(0, 0, q=wire.read("query"), k=wire.read("key"), v=wire.read("value"), o=wire.write("value"))
    wire.unembed(wire.read("value") @ one_hot([ids["yes"]], len(words) + 2))
    return built(wire, words, "saturated")


def cancelling():
    """Layer 0 writes x, layer 1 writes -tanh(x), layer 2 nothing: at x = 0 both slopes cancel (K5e)."""
    words = ["yes", "no", "zero", "three"]
    wire = Wiring({"source": 1, "x": 1}, len(words) + 2, 3, 1, 16, N_CTX, 4)
    wire.embed(torch.tensor([[0.0]] * 5 + [[3.0]]), "source")
    wire.head(0, 0, q=torch.zeros(16, 1), k=torch.zeros(16, 1), v=wire.read("source"), o=wire.write("x"))
    wire.neurons(1, 0, wire.read("x"), torch.zeros(1), -wire.write("x"))
    for block in wire.module.transformer.h:
        block.mlp.act = nn.Tanh()
    wire.unembed(wire.read("x") @ one_hot([2], len(words) + 2))
    return built(wire, words, "cancelling")
