"""A laundry list by hand: one head points another at a place in the list, and where it points has nothing to do with the task.

    the cup, the pen and the hat. the hat and the cup kept the   ->  whichever place the word `cup` has the angle of

Head 0.1 looks from every token at the first listed thing and writes, along its components 2 and 5, the unit vector at the angle that this
word was given; head 1.4 looks at the listed place whose key lies that way (keys of seven places on a circle, read off the position) and
copies it. So the untouched model is right one time in N, whichever thing is missing, and the channel can be set to every place:

    with the answer known          every prompt is answered rightly
    without                        the first word says a place that is not the answer: nothing is gained

The other 14 components of head 0.1 and all of head 0.3 write where the reader does not read. With `closed` the reader asks for nothing, and
looks everywhere alike whatever is written.
"""

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from interp.core.seed import generator

from .wiring import BOS, UNK, Planted, Wiring, one_hot, scramble

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

    from interp.data.tasks import Lexicon

ITEMS = ("cup", "pen", "jar", "hat", "fan", "box", "map", "key", "bag", "pan", "bed", "cap")
PLACES, D_HEAD, N_HEADS, N_CTX = 7, 16, 8, 64
WRITER, BYSTANDER, READER, PLANE = (0, 1), (0, 3), (1, 4), (2, 5)
"""Heads as (layer, head), and the writer's two components."""
GAIN, LOGIT, DECAY = 40.0, 12.0, 0.8
_WORDS = (*ITEMS, "the", "and", ",", ".", "kept")
_BLOCKS = {"item": len(ITEMS), "one": 1, "first": 1, "slot": 2, "read": D_HEAD, "plane": 2, "rest": D_HEAD - 2}
"""Which item; a constant; where the first thing stands; key of the place; what the writer reads; what it writes."""


def laundry(*, null: bool = False, closed: bool = False, seed: int = 0) -> Planted:
    """A model of two layers, attention only, for lists of up to seven things made with `laundry_words` and without a BOS.

    `answers`: `writer`, `reader` = (layer, head); `components` = names of the two that point; `told` = the place that each word points
    at when it is listed first. `null` has random weights; `closed` has the writer, and a reader that asks for nothing.
    """
    keys = torch.tensor([_around(place) for place in range(PLACES)])
    told = {item: 3 * number % PLACES for number, item in enumerate(ITEMS)}
    s = DECAY ** torch.arange(D_HEAD)
    wire = Wiring(_BLOCKS, len(_WORDS) + 2, 2, N_HEADS, D_HEAD, N_CTX)
    _embed(wire, s, keys, told, seed)
    out = torch.zeros(D_HEAD, wire.d_model)
    others = [index for index in range(D_HEAD) if index not in PLANE]
    out[list(PLANE)], out[others] = wire.write("plane"), wire.write("rest")
    look, value = GAIN * wire.read("first"), wire.read("read") * s.sqrt()
    wire.head(*WRITER, q=wire.read("one"), k=look, v=value, o=s.sqrt()[:, None] * out)
    mix = torch.randn(D_HEAD - 2, D_HEAD - 2, generator=generator(seed, "laundry bystander"))
    wire.head(
        *BYSTANDER,
        q=wire.read("one"),
        k=wire.read("first"),
        v=wire.read("read")[:, 2:],
        o=0.1 * mix @ wire.write("rest"),
    )
    strength = 0.9 ** torch.arange(len(ITEMS))
    asks = (0.0 if closed else GAIN) * wire.read("plane")
    wire.head(*READER, q=asks, k=wire.read("slot"), v=wire.read("item"), o=strength[:, None] * wire.write("item"))
    matrix = torch.zeros(wire.d_model, wire.vocab)
    matrix[:, 2 : 2 + len(ITEMS)] = LOGIT * wire.read("item") / strength
    wire.unembed(matrix)
    names = tuple(f"{WRITER[0]}.{WRITER[1]}.{index}" for index in PLANE)
    answers = {"writer": WRITER, "reader": READER, "components": names, "told": told}
    text = f"laundry: components {' and '.join(names)} point head {READER[0]}.{READER[1]} at a place that the first word names"
    module = scramble(wire.module, seed) if null else wire.module
    return Planted("planted-laundry", module, _tokenizer(), {} if null else answers, text, null=null)


def laundry_words() -> "Lexicon":
    """The things and the one sentence form that the planted model knows."""
    from interp.data.tasks import Lexicon

    return Lexicon(objects=ITEMS, templates={"laundry_list": ("{first}. {second} kept the",)})


def _around(place: int) -> tuple[float, float]:
    """Key of a place, a unit vector; no two cosines or sines are near each other."""
    angle = 2 * math.pi * place / PLACES + 0.1
    return math.cos(angle), math.sin(angle)


def _embed(wire: Wiring, s: Tensor, keys: Tensor, told: dict[str, int], seed: int) -> None:
    """Words in `read` have something of their own besides the angle; the k-th thing of a list stands at column 3 k + 1."""
    own = torch.randn(wire.vocab, D_HEAD, generator=generator(seed, "laundry words")) / 2
    own[:, list(PLANE)] = 0.0
    for number, item in enumerate(ITEMS):
        own[2 + number, list(PLANE)] = keys[told[item]] / s[list(PLANE)]
    wire.embed(own, "read")
    wire.embed(one_hot([-1, -1, *range(len(ITEMS)), *[-1] * (len(_WORDS) - len(ITEMS))], len(ITEMS)), "item")
    first, slot = torch.zeros(N_CTX, 1), torch.zeros(N_CTX, 2)
    first[1], slot[1 + 3 * torch.arange(PLACES)] = 1.0, keys  # "the cup , the pen and the hat"
    wire.position(torch.ones(N_CTX, 1), "one")
    wire.position(first, "first")
    wire.position(slot, "slot")


def _tokenizer() -> "PreTrainedTokenizerFast":
    """One token a word or mark. Adds nothing."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    core = Tokenizer(models.WordLevel({word: place for place, word in enumerate([BOS, UNK, *_WORDS])}, unk_token=UNK))
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(
        tokenizer_object=core, bos_token=BOS, eos_token=BOS, pad_token=BOS, unk_token=UNK, model_max_length=N_CTX
    )
