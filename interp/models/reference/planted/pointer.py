"""A pointer by hand: one head writes a point of the plane, and a reader attends to the listed item whose key lies that way.

    cup pen jar hat fan box map take the third one  ->  jar

Head 0.1 looks from any later token at the ordinal (`third`) and writes, along two of its components, the unit vector at that item's angle;
head 1.4 has this plane in its query, and in its key a plane that position j of the list fills with the vector at angle θ_j:

    score(END, item j) = κ α · k_j,      κ = 40,  α = what components A = 0.1.2 and B = 0.1.5 write,  k_j = (cos θ_j, sin θ_j)

(`α` in the model's own units: along unit directions of the stream it is √2 times as long.)

It copies what it attends to. Keys say nothing of what an item is, and the seven angles are those of a regular heptagon, in an order such
that cos θ_j rises with j. What an intervention on the channel can reach is the upper envelope of its scores:

    one component, the other 0      α_A > 0: item 6, α_A < 0: item 0, whatever its size; B: items 2 and 3; any line through 0: two
    both components                 every item: the nearest one to the angle of (α_A, α_B)

The head's other 14 components write what the cue's own embedding says, differently for every cue, and the reader has a part in them (their
composition score is not 0): able to talk. But the keys that this part of its query asks for are silent in every prompt, so nothing
that is done to them changes anything. All other heads are random, read everything, and write where no answer is read.

With `pointer_pairs` (another ordinal, so another item of the same list) patching components A and B alone exchanges the two answers:
interchange accuracy 1, and FLDD, the share of the logit difference that is lost, is 2. Patching the 14 others together: 0 and 0.
"""

import math
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from interp.core.errors import BadInput
from interp.core.seed import generator, numpy_generator

from .wiring import Planted, Wiring, one_hot, scramble, word_tokenizer

if TYPE_CHECKING:
    from interp.data import Prompt, Task

ITEMS = ("cup", "pen", "jar", "hat", "fan", "box", "map", "key", "bag", "pan", "bed", "cap")
CUES = ("first", "second", "third", "fourth", "fifth", "sixth", "seventh")
SLOTS, N_CTX, D_HEAD, N_HEADS, DECAY = len(CUES), 16, 16, 8, 0.8
WRITER, READER, PLANE = (0, 1), (1, 4), (2, 5)
"""Heads as (layer, head), and the writer's two components."""
KAPPA, CAPS, LOGIT = 40.0, (1.25, 0.8), 12.0
"""Gain of the scores, singular values of the reader's plane before it, logit of the answer."""
_AROUND = (6, 4, 2, 0, 1, 3, 5)
"""Items in the order of their angles."""
_TURN = math.pi / 28  # no angle's cosine or sine is near another's
_WORDS = (*ITEMS, *CUES, "take", "the", "one")
_BLOCKS = {
    "item": len(ITEMS), "one": 1, "cue": 1, "slot": 2, "read": D_HEAD, "plane": 2, "rest": D_HEAD - 2, "mute": D_HEAD - 2,
}  # fmt: skip
"""Which item; a constant; whether this is an ordinal; key of the position; what the writer reads; what it writes; keys nobody has."""


def angles() -> tuple[float, ...]:
    """Angle of each item's key in radians, item 0 first."""
    return tuple(_TURN + 2 * math.pi * _AROUND.index(item) / SLOTS for item in range(SLOTS))


def pointer(*, null: bool = False, seed: int = 0) -> Planted:
    """A model of two layers, attention only.

    `answers`: `kind` = "Q"; `writer`, `reader` = (layer, head); `components` = numbers of A and B; `singular_values` [d_head] of the
    writer; `score` = composition scores of A and B with the reader's query; `write` [2, d_model] = their unit directions (with the signs
    of the essay), `alpha` [7, 2] = what each ordinal writes along them; `angles` [7]; `gain` = κ; `reachable` = items for "A", "B" and
    "both"; `fldd` = 2, `interchange` = 1.
    """
    wire = Wiring(_BLOCKS, len(_WORDS) + 2, 2, N_HEADS, D_HEAD, N_CTX)
    s = DECAY ** torch.arange(D_HEAD)
    keys = torch.tensor([[math.cos(angle), math.sin(angle)] for angle in angles()])
    reads = _rotation("reads", D_HEAD, seed)  # rows: what each of the writer's components reads
    _embed(wire, s, keys, reads, seed)
    _write_pointer(wire, s, reads, seed)
    caps = _read_pointer(wire, seed)
    for layer in range(2):
        for head in range(N_HEADS):
            if (layer, head) not in (WRITER, READER):
                _bystander(wire, layer, head, seed)
    wire.unembed(_unembedding(wire))
    answers = {
        "kind": "Q", "writer": WRITER, "reader": READER, "components": PLANE, "singular_values": s.double(), "angles": angles(),
        "score": tuple(float(cap / caps.norm()) for cap in caps[:2]), "write": wire.write("plane") / 2**0.5,
        "alpha": keys * 2**0.5, "gain": KAPPA, "reachable": {"A": (0, 6), "B": (2, 3), "both": tuple(range(SLOTS))},
        "fldd": 2.0, "interchange": 1.0,
    }  # fmt: skip
    text = (
        f"pointer: components {PLANE[0]} and {PLANE[1]} of head {WRITER[0]}.{WRITER[1]} point head {READER[0]}.{READER[1]} "
        "at one of seven items"
    )
    rows = tuple(
        {"prompt": one.text, "subject": str(one.span("cue")), "attribute": str(one.answer).strip()}
        for one in pointer_pairs(2 * SLOTS).clean
    )
    module = scramble(wire.module, seed) if null else wire.module
    return Planted("planted-pointer", module, word_tokenizer(_WORDS, N_CTX), {} if null else answers, text, rows, null)


def pointer_pairs(n: int = 42, *, seed: int = 0) -> "Task":
    """`n` pairs of the same list with another ordinal, the asked slot evenly over all seven; spans `item_0` to `item_6` and `cue`.

    The answer of the corrupted prompt is the clean one's foil. `meta` of a prompt: `slot`, and `candidates`, the seven listed items.
    """
    from interp.data import PromptPair, Task

    if not isinstance(n, int) or isinstance(n, bool) or n < 1:
        raise BadInput(f"`n` must be a whole number of pairs, 1 or more; not {n!r}.")
    rng = numpy_generator(seed, "pointer pairs")
    pairs = []
    for number in range(n):
        slot, items = number % SLOTS, [str(item) for item in rng.choice(ITEMS, SLOTS, replace=False)]
        other = (slot + 1 + number // SLOTS % (SLOTS - 1)) % SLOTS
        clean, corrupted = (_prompt(items, asked, f"{number}") for asked in (slot, other))
        pairs.append(PromptPair(replace(clean, foil=corrupted.answer), replace(corrupted, foil=clean.answer)))
    vital = (*(f"item_{slot}" for slot in range(SLOTS)), "cue", "last")
    said = "the listed item that an ordinal asks for; corrupted: another ordinal"
    return Task(pairs, name="planted-pointer", chance=1 / SLOTS, vital=vital, describe=said)


def _prompt(items: list[str], asked: int, name: str) -> "Prompt":
    from interp.data import Prompt

    text, spans = "", {}
    for slot, item in enumerate(items):
        spans[f"item_{slot}"] = (len(text), len(text) + len(item))
        text += f"{item} "
    text += "take the "
    spans["cue"] = (len(text), len(text) + len(CUES[asked]))
    meta = {"slot": asked, "candidates": tuple(f" {item}" for item in items)}
    return Prompt(f"{text}{CUES[asked]} one", f" {items[asked]}", None, spans, id=name, meta=meta)


def _embed(wire: Wiring, s: Tensor, keys: Tensor, reads: Tensor, seed: int) -> None:
    """Items and positions in their blocks; in `read` every token has something of its own, and only ordinals have a part along A and B."""
    first = 2 + len(ITEMS)
    cues = slice(first, first + SLOTS)
    own = torch.randn(wire.vocab, D_HEAD, generator=generator(seed, "pointer tokens")) / 2
    own[:, list(PLANE)] = 0.0
    own[cues, list(PLANE)] = keys / s[list(PLANE)]
    marked = torch.zeros(wire.vocab, 1)
    marked[cues] = 1.0
    wire.embed(own @ reads, "read")
    wire.embed(one_hot([-1, -1, *range(len(ITEMS)), *[-1] * (wire.vocab - first)], len(ITEMS)), "item")
    wire.embed(marked, "cue")
    wire.position(torch.ones(N_CTX, 1), "one")
    wire.position(torch.cat([keys / torch.tensor(CAPS), torch.zeros(N_CTX - SLOTS, 2)]), "slot")


def _write_pointer(wire: Wiring, s: Tensor, reads: Tensor, seed: int) -> None:
    """The writer: every token looks at the ordinal; OV has singular values `s`, two of them onto the plane, the others away from it."""
    out = torch.zeros(D_HEAD, wire.d_model)
    others = [index for index in range(D_HEAD) if index not in PLANE]
    out[list(PLANE)] = wire.write("plane")
    out[others] = _rotation("rest", len(others), seed) @ wire.write("rest")
    look = KAPPA * wire.read("cue")
    value = wire.read("read") @ reads.T * s.sqrt()
    wire.head(*WRITER, q=wire.read("one"), k=look, v=value, o=s.sqrt()[:, None] * out)


def _read_pointer(wire: Wiring, seed: int) -> Tensor:
    """The reader; gives the singular values of its QK, up to their common factor. Its OV copies items, each with its own strength."""
    weak = D_HEAD - 2
    caps = torch.cat([torch.tensor(CAPS), 0.5 * DECAY ** torch.arange(weak)])
    asks = torch.cat([wire.read("rest"), wire.read("read")], dim=1) @ _rotation("asks", 2 * D_HEAD - 2, seed)[:, :weak]
    query = torch.cat([wire.read("plane"), asks], dim=1) * caps * KAPPA
    key = torch.cat([wire.read("slot"), wire.read("mute") @ _rotation("mute", weak, seed)], dim=1)
    copies = DECAY ** torch.arange(len(ITEMS))
    wire.head(*READER, q=query, k=key, v=wire.read("item"), o=copies[:, None] * wire.write("item"))
    return caps


def _bystander(wire: Wiring, layer: int, head: int, seed: int) -> None:
    """A head with random singular vectors that reads everything and writes where no answer is read."""
    s = (DECAY ** torch.arange(D_HEAD)).sqrt()
    reads = torch.cat([wire.read(block) for block in _BLOCKS], dim=1)
    name = f"bystander {layer}.{head}"
    q, k, v = (reads @ _rotation(f"{name} {side}", reads.shape[1], seed)[:, :D_HEAD] * s for side in "qkv")
    rank = len(wire.write("rest"))
    wire.head(
        layer, head, q=q, k=k, v=v[:, :rank], o=s[:rank, None] * (_rotation(name, rank, seed) @ wire.write("rest"))
    )


def _unembedding(wire: Wiring) -> Tensor:
    """Logits of items, with the strengths at which the reader copies them taken back."""
    matrix = torch.zeros(wire.d_model, wire.vocab)
    matrix[:, 2 : 2 + len(ITEMS)] = LOGIT * wire.read("item") / DECAY ** torch.arange(len(ITEMS))
    return matrix


def _rotation(name: str, size: int, seed: int) -> Tensor:
    """A random orthogonal matrix."""
    draw = torch.randn(size, size, generator=generator(seed, "pointer", name), dtype=torch.float64)
    return torch.linalg.qr(draw).Q.float()
