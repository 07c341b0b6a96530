"""Two MLPs that both, or either, must speak: the AND and the OR of causal tracing, whose cells are whole layers at a token.

    They say Ana  ->  yes                             They say Bob  ->  no

At `Ana` the MLPs of layers 0 and 1 raise a flag each; the MLP of layer 2 answers if both flags (`and`) or any of them (`or`) are up.
Logits are 8 for yes and -4 for no where it does, 0 and 4 where it does not. Share of the total effect of each cell at the last token, with
windows of one layer:

                         denoising                noising
    and    MLP           0   0   1                1   1   1
    or     MLP           1   1   1                0   0   1
    both   state         1   1   1                1   1   1

So of an AND denoising finds no writer and noising finds both; of an OR the reverse (Heimersheim & Nanda 2024). Attention does nothing.
`gates` asks the same of heads, which patching restores; whole attention layers would hold both of its heads at once.
"""

from typing import TYPE_CHECKING, Literal

import torch

from interp.core.errors import one_of

from .wiring import Planted, Wiring, one_hot, scramble, word_tokenizer

if TYPE_CHECKING:
    from interp.data.prompts import PromptPair

WORDS, N_CTX = ("They", "say", "Ana", "Bob", "yes", "no"), 8


def flags(kind: Literal["and", "or"] = "and", *, null: bool = False, seed: int = 0) -> Planted:
    """A model of three layers. `answers`: `denoise` and `noise`, the share of the total effect of each layer's MLP alone."""
    one_of("kind", kind, ("and", "or"))
    ids = {word: place + 2 for place, word in enumerate(WORDS)}
    vocab = len(ids) + 2
    wire = Wiring({"key": 1, "left": 1, "right": 1, "answer": 1, "one": 1}, vocab, 3, 2, 16, N_CTX, 8)
    wire.embed(one_hot([ids["Ana"]], vocab).T, "key")
    wire.position(torch.ones(N_CTX, 1), "one")
    for layer, flag in enumerate(("left", "right")):
        _step(wire, layer, wire.read("key"), 0.5, wire.write(flag))
    _step(wire, 2, wire.read("left") + wire.read("right"), 1.5 if kind == "and" else 0.5, 8 * wire.write("answer"))
    yes, no = (one_hot([ids[word]], vocab) for word in ("yes", "no"))
    wire.unembed(wire.read("answer") @ (yes - no) + 4 * wire.read("one") @ no)
    shares = {"denoise": (0.0, 0.0, 1.0), "noise": (1.0, 1.0, 1.0)}
    if kind == "or":
        shares = {"denoise": (1.0, 1.0, 1.0), "noise": (0.0, 0.0, 1.0)}
    text = f"flags: the MLP of layer 2 is the {kind.upper()} of the MLPs of layers 0 and 1"
    module = scramble(wire.module, seed) if null else wire.module
    prompts = ({"prompt": "They say Ana", "subject": "Ana", "attribute": "yes"},)
    return Planted(
        f"planted-flags-{kind}", module, word_tokenizer(WORDS, N_CTX), {} if null else shares, text, prompts, null
    )


def flag_pair() -> "PromptPair":
    """The prompt and its counterfactual, which differ in the last token."""
    from interp.data.prompts import Prompt, PromptPair

    clean = Prompt.of("They say Ana", answer="yes", foil="no", subject="Ana")
    return PromptPair(clean, clean.swap(subject="Bob", answer="no", foil="yes"))


def _step(wire: Wiring, layer: int, read: torch.Tensor, edge: float, write: torch.Tensor) -> None:
    """0 below `edge`, 1 above it, rising within 0.1: two neurons."""
    bias = -200 * torch.tensor([edge - 0.05, edge + 0.05])
    wire.neurons(layer, 0, 200 * read.repeat(1, 2), bias, torch.cat([write, -write]) / 20)
