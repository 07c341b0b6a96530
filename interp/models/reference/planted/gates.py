"""Two heads and a gate: why denoising and noising answer different questions.

    sun rain so   ->  yes                                    moon fog so   ->  no

Head 0.0 copies to the last token whether the first word is a bright one, head 0.1 whether the second is a wet one: a, b in {0, 1}. The
MLP of layer 1 turns them into g, and `yes` has logit 10 g, `no` has 5.

    and     g = relu(a + b - 1)                       or     g = relu(a + b) - relu(a + b - 1)

Clean prompts have both, corrupted ones neither, so the logit difference goes from 5 to -5. Normalised effects, of each head alone:

              denoising (clean into corrupted)     noising (corrupted into clean)
    and       0                                    1
    or        1                                    0

Both heads together, the whole attention of layer 0, the MLP of layer 1 and the last token's stream from layer 0's end on are 1 in both
directions; all other heads and layer 0's MLP are 0 in both. The embedding of one word behaves as the head that reads it. (Heimersheim
and Nanda 2024, "How to use and interpret activation patching".) Everything is exact but for rounding: neurons are driven so far that
GELU is a ReLU. `flags` asks the same of whole MLPs, which causal tracing restores.
"""

from typing import TYPE_CHECKING, Any, Literal

import torch

from interp.core.errors import BadInput, one_of
from interp.core.seed import numpy_generator

from .wiring import Planted, Wiring, one_hot, scramble, word_tokenizer

if TYPE_CHECKING:
    from interp.data import Task

BRIGHT, DARK = ("sun", "star", "fire", "lamp"), ("moon", "cloud", "night", "shade")
WET, DRY = ("rain", "lake", "river", "snow"), ("fog", "sand", "dust", "wind")
_WORDS = (*BRIGHT, *DARK, *WET, *DRY, "so", "yes", "no")
_STEEP = 40.0
N_CTX = 4


def gates(*, kind: Literal["and", "or"] = "and", null: bool = False, seed: int = 0) -> Planted:
    """A two-layer model whose answer is the AND or the OR of two heads. See the module for what denoising and noising must find.

    `answers`: `heads` = the two (layer, head); `gate` = layer of the MLP; `denoising`, `noising` = normalised effect of each head alone;
    `both` = 1, of the two together; `inert` = all other heads; `pairs` = a `Task` of 16.
    """
    one_of("kind", kind, ("and", "or"))
    wire = Wiring({"word": 2, "read": 2, "gate": 1, "one": 1, "position": N_CTX}, len(_WORDS) + 2, 2, 4, 12, N_CTX, 4)
    ids = {word: index + 2 for index, word in enumerate(_WORDS)}
    words = torch.zeros(wire.vocab, 2)
    words[[ids[word] for word in BRIGHT], 0] = 1
    words[[ids[word] for word in WET], 1] = 1
    wire.embed(words, "word")
    wire.position(one_hot([*range(N_CTX)], N_CTX), "position")
    wire.position(torch.ones(N_CTX, 1), "one")
    position = wire.read("position")
    for head in range(2):
        looks = 300 * one_hot([head if place >= head else 0 for place in range(N_CTX)], N_CTX)
        wire.head(0, head, q=position @ looks, k=position, v=wire.read("word")[:, [head]], o=wire.write("read")[[head]])
    both = wire.read("read").sum(dim=1, keepdim=True)  # [d_model, 1] reads a + b
    w_in, b_in = _STEEP * torch.cat([both, both], dim=1), torch.tensor([0.0, -_STEEP])
    signs = torch.tensor([[0.0], [1.0]] if kind == "and" else [[1.0], [-1.0]])
    wire.neurons(1, 0, w_in, b_in, signs / _STEEP @ wire.write("gate"))
    yes, no = (one_hot([ids[word]], wire.vocab) for word in ("yes", "no"))
    wire.unembed(10 * wire.read("gate") @ yes + 5 * wire.read("one") @ no)
    pairs = gate_pairs()
    single = {"denoising": 0.0, "noising": 1.0} if kind == "and" else {"denoising": 1.0, "noising": 0.0}
    answers: dict[str, Any] = {
        "heads": ((0, 0), (0, 1)), "gate": 1, **single, "both": 1.0, "pairs": pairs,
        "inert": [(layer, head) for layer in range(2) for head in range(4) if (layer, head) not in ((0, 0), (0, 1))],
    }  # fmt: skip
    prompts = tuple(
        {"prompt": one.text, "subject": one.span("first"), "attribute": str(one.answer)} for one in pairs.clean
    )
    text = f"gates: the MLP of layer 1 is the {kind.upper()} of heads 0.0 and 0.1"
    module = scramble(wire.module, seed) if null else wire.module
    return Planted(
        f"planted-{kind}", module, word_tokenizer(_WORDS, N_CTX), {} if null else answers, text, prompts, null
    )


def gate_pairs(n: int = 16, *, seed: int = 0) -> "Task":
    """`n` pairs, at most 16: a bright and a wet word against a dark and a dry one. Spans `first`, `second`. Chance is 1/2."""
    from interp.data import Prompt, PromptPair, Task

    if not 1 <= n <= 16:
        raise BadInput(f"`n` must be 1 to 16; not {n}.")
    rng = numpy_generator(seed, "gate pairs")

    def prompt(one: str, two: str, answer: str, foil: str) -> Prompt:
        meta = {"candidates": (" yes", " no")}
        return Prompt.of(f"{one} {two} so", answer=answer, foil=foil, meta=meta, first=one, second=two)

    pairs = []
    for number in rng.permutation(16)[:n]:
        row, column = divmod(int(number), 4)
        clean = prompt(BRIGHT[row], WET[column], "yes", "no")
        pairs.append(PromptPair(clean, prompt(DARK[int(rng.integers(4))], DRY[int(rng.integers(4))], "no", "yes")))
    return Task(
        pairs, name="planted-gates", chance=0.5, vital=("first", "second", "last"),
        describe="whether there is light and water; corrupted: neither",
    )  # fmt: skip
