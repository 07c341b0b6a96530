"""A model that looks where one head points, and whose pointer has nothing to do with the task.

Head 0.1 looks at the first listed thing and writes, along its components 2 and 5, the angle that this word has; head 1.4 looks at the
listed place whose key lies that way, and copies it. So the untouched model answers the place that the first word happens to name, right
one time in N; the channel can be set to every place, and only who knows the answer can use that.
"""

import math
from functools import cache

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from interp.core.seed import generator
from interp.data import Lexicon
from interp.models.base import BaseLM
from interp.models.load import wrap
from interp.models.reference.planted.wiring import Wiring, one_hot

ITEMS = ("cup", "pen", "jar", "hat", "fan", "box", "map", "key", "bag", "pan", "bed", "cap")
WORDS = ("<bos>", "<unk>", *ITEMS, "the", "and", ",", ".", "kept")
PLACES, WIDTH, HEADS, CONTEXT = 7, 16, 8, 64
GAIN, LOGIT = 40.0, 12.0
PLANE = (2, 5)
LEXICON = Lexicon(objects=ITEMS, templates={"laundry_list": ("{first}. {second} kept the",)})
BLOCKS = {"item": len(ITEMS), "one": 1, "first": 1, "slot": 2, "read": WIDTH, "plane": 2, "rest": WIDTH - 2}


def named(item: int) -> int:
    """The place whose angle the word `item` has."""
    return 3 * item % PLACES


@cache
def model(*, null: bool = False) -> BaseLM:
    """With `null` the reader asks for nothing, whatever it is told."""
    keys = torch.tensor(
        [[math.cos(2 * math.pi * j / PLACES + 0.1), math.sin(2 * math.pi * j / PLACES + 0.1)] for j in range(PLACES)]
    )
    s = 0.8 ** torch.arange(WIDTH)
    wire = Wiring(BLOCKS, len(WORDS), 2, HEADS, WIDTH, CONTEXT)
    own = torch.randn(len(WORDS), WIDTH, generator=generator(0, "laundry words")) / 2
    own[:, list(PLANE)] = 0.0
    for item in range(len(ITEMS)):
        own[2 + item, list(PLANE)] = keys[named(item)] / s[list(PLANE)]
    wire.embed(own, "read")
    wire.embed(one_hot([-1, -1, *range(len(ITEMS)), *[-1] * 5], len(ITEMS)), "item")
    columns = 1 + 3 * torch.arange(PLACES)  # "the cup , the pen and the hat"
    first, slot = torch.zeros(CONTEXT, 1), torch.zeros(CONTEXT, 2)
    first[1], slot[columns] = 1.0, keys
    wire.position(torch.ones(CONTEXT, 1), "one")
    wire.position(first, "first")
    wire.position(slot, "slot")
    out = torch.zeros(WIDTH, wire.d_model)
    others = [index for index in range(WIDTH) if index not in PLANE]
    out[list(PLANE)], out[others] = wire.write("plane"), wire.write("rest")
    wire.head(
        0, 1, q=wire.read("one"), k=GAIN * wire.read("first"), v=wire.read("read") * s.sqrt(), o=s.sqrt()[:, None] * out
    )
    beside = (
        torch.randn(WIDTH - 2, wire.d_model, generator=generator(0, "beside")) @ wire.read("rest") @ wire.write("rest")
    )
    wire.head(0, 3, q=wire.read("one"), k=wire.read("slot")[:, :1], v=wire.read("rest") + 0.0, o=0.1 * beside)
    strength = 0.9 ** torch.arange(len(ITEMS))
    wire.head(
        1,
        4,
        q=(0.0 if null else GAIN) * wire.read("plane"),
        k=wire.read("slot"),
        v=wire.read("item"),
        o=strength[:, None] * wire.write("item"),
    )
    unembedding = torch.zeros(wire.d_model, len(WORDS))
    unembedding[:, 2 : 2 + len(ITEMS)] = LOGIT * wire.read("item") / strength
    wire.unembed(unembedding)
    core = Tokenizer(models.WordLevel({word: place for place, word in enumerate(WORDS)}, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core,
        bos_token="<bos>",
        eos_token="<bos>",
        pad_token="<bos>",
        unk_token="<unk>",
        model_max_length=CONTEXT,
    )
    return wrap(wire.module, tokenizer, "planted-laundry")
