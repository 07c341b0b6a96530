"""An entity tracker by hand: four heads in a row find what a box holds, so that every method that looks for circuits has its answer.

    The apple is in Box F , the saw is in Box Q , the horse is in Box X . Box Q contains the   ->  saw

Things come in three kinds (fruit, tools, animals), one of each in a context, in any order. The kind is the pointer that the heads pass
on; it varies at every position, so that means and other prompts carry something else. Attention is one-hot to the last bit.

    A  0.0   reader        at every label in the context: attends to the thing four tokens before, copies its kind
    B  1.1   detector      at the query label: attends to the same label in the context, copies what A put there
    C  2.2   transmitter   at the last token: attends to the query label, copies what B put there
    D  3.0   fetcher       at the last token: attends to the thing of the kind that C put there, copies the thing
    unembedding            logits = 20 · thing

All other heads attend uniformly and copy what they see into a block that nobody reads: their states differ between prompts, to no effect.
Elsewhere than said A to D attend to the first token and copy nothing. There are no MLPs at work. With the pairs of `tracker_pairs` (the
same labels and query, the things in other slots, so that another thing is asked for) these must come out:

    path patching     (p_patched - p_clean) / p_clean = -1 for A (first_label) -> v of B (query_label) -> v of C (last) -> q of D (last) ->
                      logits, 0 for every other head, position and receiver; patching one whole head: -1 for A to D, 0 for the others
    faithfulness      1 with {A, B, C, D}; without any: the mean's guess, one thing whatever is asked (its share of the answers, near 1/12)
    minimality        without A, B or C some one kind is fetched whatever is asked (accuracy about 1/3, score about 2), without D the
                      guess again
    completeness      gap 0 for every subset; with `redundant=True` a copy D' (3.3) of D is in no circuit of four: without D the circuit
                      fails and the model does not. Patching D alone then gives -0.5 (answer and foil are equally likely).
    DCM               desiderata of `tracker_desiderata`: `pointer` (the base's thing in the slot that the source asks for) selects C among
                      heads at `last`, B at `query_label`, A at `first_label`; `object` (the source's thing) selects D at `last`;
                      nothing else is ever needed

`sharpened` gives two trackers for cross-model patching. In the base the part of B's query that reads the label is 50 times weaker than
in the tuned one, and a bias to the last label wins: it answers with the last thing, accuracy 1/3; the tuned one answers all. One
other head is random in the tuned model, to no effect. Accuracy recovered by taking one thing from the tuned model is 1 for

    q, pattern, z of B (query_label);  z of C (last), v of C (query_label);  q, pattern, z of D (last)

and 0 for every other head and for k and v of A, B and D, q, k and pattern of C. From the base into the tuned model the same ones break it.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import Tensor

from interp.core.errors import BadInput, one_of
from interp.core.seed import generator, numpy_generator

from .wiring import Planted, Wiring, one_hot, scramble, word_tokenizer

if TYPE_CHECKING:
    from interp.data import Desiderata, Prompt, Task

KINDS = (
    ("apple", "pear", "plum", "fig"),
    ("saw", "hammer", "chisel", "drill"),
    ("horse", "goat", "hen", "duck"),
)
BOXES, SEGMENT, N_CTX, LENGTH, GAIN = 3, 7, 26, 25, 20.0
_THINGS = tuple(thing for kind in KINDS for thing in kind)
_LABELS = tuple("FGJKQRXZ")
_WORDS = ("The", "the", "is", "in", "Box", ",", ".", "contains", *_THINGS, *_LABELS)
_KIND = {thing: number for number, kind in enumerate(KINDS) for thing in kind}
_SHARP, _LOOSE, _JUNK, _LAYERS, _HEADS = 200.0, 50.0, 4, 4, 4
_TIES = (1.93, 0.77, 0.0)
"""What D scores the three kinds with no pointer: too little to matter against 200, enough to decide where a mean leaves them equal."""
VITAL = ("object", "first_label", "query_label", "last")
HEADS = {"A": (0, 0), "B": (1, 1), "C": (2, 2), "D": (3, 0)}
COPY, RANDOM = (3, 3), (2, 0)
ROLES = {"A": "first_label", "B": "query_label", "C": "last", "D": "last"}


def tracker(*, redundant: bool = False, null: bool = False, seed: int = 0) -> Planted:
    """A four-layer, attention-only tracker. See the module for what it does and what every method must find.

    `answers`: `heads` {"A": (layer, head), ...}, `roles` {"A": span, ...}, `circuit` = the four heads as a tuple, `copy` = the copy of D
    or None, `inert` = all other heads, `pairs` = a `Task` of 60, `desiderata` {"pointer", "object"} of 30 each.
    """
    wire = _wire()
    _wire_heads(wire, _SHARP, redundant)
    return _planted("planted-tracker", wire, redundant=redundant, null=null, seed=seed)


def sharpened(*, null: bool = False, seed: int = 0) -> tuple[Planted, Planted]:
    """(base, tuned) for cross-model patching: one head's query is 50 times sharper in the tuned model, another head is random there.

    `answers` of both as for `tracker`, and `head` = B, `random` = the head that differs to no effect, `recovered` = the set of
    (site kind, layer, head) for which the accuracy recovered is 1. With `null=True` the tuned model is not sharpened: both fail alike
    and nothing is recovered.
    """
    base, tuned = _wire(), _wire()
    _wire_heads(base, _SHARP / _LOOSE, False)
    _wire_heads(tuned, _SHARP / _LOOSE if null else _SHARP, False)
    layer, head = RANDOM
    draw = generator(seed, "tracker random head")
    width = tuned.d_head
    noise = [0.1 * torch.randn(tuned.d_model, width, generator=draw) @ torch.eye(width) for _ in range(3)]
    free = tuned.free().T @ tuned.free()  # heads may read the features, not the constant
    out = torch.randn(width, _JUNK, generator=draw) @ tuned.write("junk")
    tuned.head(layer, head, q=free @ noise[0] / width**0.5, k=free @ noise[1], v=free @ noise[2], o=out)
    b, c, d = HEADS["B"], HEADS["C"], HEADS["D"]
    found = (
        {(kind, *b) for kind in ("q", "pattern", "z")}
        | {("v", *c), ("z", *c)}
        | {(kind, *d) for kind in ("q", "pattern", "z")}
    )
    more = {"head": b, "random": RANDOM, "recovered": set() if null else found}
    both = []
    for name, wire in (("planted-tracker-base", base), ("planted-tracker-tuned", tuned)):
        made = _planted(name, wire, redundant=False, null=False, seed=seed)
        both.append(replace(made, answers=made.answers | more, null=null))
    return both[0], both[1]


def tracker_pairs(n: int = 60, *, seed: int = 0, corruption: Literal["things", "query"] = "things") -> "Task":
    """`n` pairs, the queried slot evenly over all three. `things`: the same things in other slots; `query`: another box is asked for.

    With `query` the context is the same, so A makes no difference. Spans by the clean prompt's parts: object, first_label, query_label.
    """
    from interp.data import PromptPair, Task

    one_of("corruption", corruption, ("things", "query"))
    _check(n)
    rng = numpy_generator(seed, "tracker pairs")
    pairs: dict[str, Any] = {}
    while len(pairs) < n:
        slot, (things, labels) = len(pairs) % BOXES, _context(rng)
        shift = 1 + int(rng.integers(BOXES - 1))
        moved = [*things[shift:], *things[:shift]] if corruption == "things" else things
        asked = slot if corruption == "things" else (slot + shift) % BOXES
        clean, corrupted = _prompt(things, labels, slot, slot), _prompt(moved, labels, asked, slot)
        pair = PromptPair(replace(clean, foil=corrupted.answer), replace(corrupted, foil=clean.answer))
        pairs.setdefault(clean.text, pair)
    said = "the same things in other slots" if corruption == "things" else "another box is asked for"
    return Task(
        pairs.values(), name="planted-tracker", chance=1 / BOXES, vital=VITAL, describe=f"what a box holds; corrupted: {said}"
    )  # fmt: skip


def tracker_desiderata(which: Literal["pointer", "object"], n: int = 30, *, seed: int = 0) -> "Desiderata":
    """`n` triples of other contexts with the same order of kinds, so that a slot means the same kind in both.

    `pointer`: target = the base's thing in the slot that the source asks for. `object`: target = the source's own answer. No thing is
    in both, and the source asks for another slot.
    """
    from interp.data import Desiderata, Desideratum

    one_of("which", which, ("pointer", "object"))
    _check(n)
    rng = numpy_generator(seed, "tracker desiderata", which)
    triples: dict[str, Any] = {}
    while len(triples) < n:
        slot = len(triples) % BOXES
        (things, labels), (_, others) = _context(rng), _context(rng)
        fresh = [str(rng.choice([one for one in KINDS[_KIND[thing]] if one != thing])) for thing in things]
        asked = (slot + 1 + int(rng.integers(BOXES - 1))) % BOXES
        base, source = _prompt(things, labels, slot, slot), _prompt(fresh, others, asked, asked)
        target = things[asked] if which == "pointer" else fresh[asked]
        triples.setdefault(base.text, Desideratum(base, source, f" {target}"))
    said = "the base's thing in the source's slot" if which == "pointer" else "the source's answer"
    return Desiderata(
        triples.values(), task="planted-tracker", which=which, describe=f"the answer becomes {said}", vital=VITAL
    )


def _wire() -> Wiring:
    kinds = {f"kind {name}": BOXES for name in ("token", "A", "B", "C")}
    blocks = {"thing": len(_THINGS), "label": len(_LABELS), "position": N_CTX, "out": len(_THINGS), "junk": _JUNK}
    wire = Wiring({**kinds, **blocks}, len(_WORDS) + 2, _LAYERS, _HEADS, 44, N_CTX)
    ids = {word: index + 2 for index, word in enumerate(_WORDS)}
    things = one_hot([ids[thing] for thing in _THINGS], wire.vocab)  # [thing, vocab]
    kind = one_hot([_KIND[thing] for thing in _THINGS], BOXES)  # [thing, kind]
    wire.embed(things.T, "thing")
    wire.embed(things.T @ kind, "kind token")
    wire.embed(one_hot([ids[label] for label in _LABELS], wire.vocab).T, "label")
    wire.position(one_hot([*range(N_CTX)], N_CTX), "position")
    wire.unembed(GAIN * wire.read("out") @ things)
    return wire


def _wire_heads(wire: Wiring, sharpness: float, redundant: bool) -> None:
    """A to D, and in the other heads copies of whatever is there into a block that nobody reads."""
    position, label = wire.read("position"), wire.read("label")
    used, silent = _used(redundant), torch.zeros(wire.d_model, 1)
    for layer in range(_LAYERS):
        for head in range(_HEADS):
            if (layer, head) in used:
                continue
            draw = generator(0, "tracker junk", layer, head)
            mix = torch.randn(len(_THINGS), _JUNK, generator=draw)
            wire.head(layer, head, q=silent, k=silent, v=wire.read("thing") @ mix, o=wire.write("junk"))
    labels = [SEGMENT * slot + 5 for slot in range(BOXES)]
    query, last = LENGTH - 3, LENGTH - 1
    wire.head(
        *HEADS["A"], q=position @ _goes({place: place - 4 for place in labels}), k=position, v=wire.read("kind token"),
        o=wire.write("kind A"),
    )  # fmt: skip
    where = _goes({}, but=query)
    where[query, labels], where[query, labels[-1]] = (
        100.0,
        120.0,
    )  # the last label wins unless a match is worth more than 20
    wire.head(
        *HEADS["B"], q=torch.cat([sharpness * label, position @ where], dim=1), k=torch.cat([label, position], dim=1),
        v=wire.read("kind A"), o=wire.write("kind B"),
    )  # fmt: skip
    wire.head(*HEADS["C"], q=position @ _goes({last: query}), k=position, v=wire.read("kind B"), o=wire.write("kind C"))
    breaks = torch.zeros(N_CTX, BOXES)
    breaks[last] = torch.tensor(_TIES)
    for fetcher in (HEADS["D"], *([COPY] if redundant else [])):
        wire.head(
            *fetcher, q=torch.cat([_SHARP * wire.read("kind C") + position @ breaks, position @ _goes({}, but=last)], dim=1),
            k=torch.cat([wire.read("kind token"), position], dim=1), v=wire.read("thing"), o=wire.write("out"),
        )  # fmt: skip


def _used(redundant: bool) -> set[tuple[int, int]]:
    return {*HEADS.values(), *([COPY] if redundant else [])}


def _goes(pairs: dict[int, int], *, but: int = -1) -> Tensor:
    """[query, key] scores: from each position to the one that `pairs` says, else to the first; no preference at `but`."""
    scores = 300 * one_hot([pairs.get(place, 0) for place in range(N_CTX)], N_CTX)
    if but >= 0:
        scores[but] = 0
    return scores


def _planted(name: str, wire: Wiring, *, redundant: bool, null: bool, seed: int) -> Planted:
    used = _used(redundant)
    pairs = tracker_pairs(60)
    answers = {
        "heads": dict(HEADS), "roles": dict(ROLES), "circuit": tuple(HEADS.values()), "copy": COPY if redundant else None,
        "inert": [(layer, head) for layer in range(_LAYERS) for head in range(_HEADS) if (layer, head) not in used],
        "pairs": pairs, "desiderata": {which: tracker_desiderata(which) for which in ("pointer", "object")},
    }  # fmt: skip
    prompts = tuple(
        {"prompt": one.text, "subject": f"{one.span('query_label')} contains", "attribute": str(one.answer)}
        for one in pairs.clean
    )
    text = "tracker: " + ", ".join(f"{name} = head {layer}.{head}" for name, (layer, head) in HEADS.items())
    text += f"; head {COPY[0]}.{COPY[1]} is a copy of D" if redundant else ""
    module = scramble(wire.module, seed) if null else wire.module
    return Planted(name, module, word_tokenizer(_WORDS, N_CTX), {} if null else answers, text, prompts, null)


def _context(rng: np.random.Generator) -> tuple[list[str], list[str]]:
    """A thing of each kind in random order, and as many labels."""
    things = [str(rng.choice(KINDS[int(kind)])) for kind in rng.permutation(BOXES)]
    return things, [str(label) for label in rng.choice(_LABELS, BOXES, replace=False)]


def _prompt(things: Sequence[str], labels: Sequence[str], asked: int, marked: int) -> "Prompt":
    """A context and its query; `object` and `first_label` mark slot `marked`."""
    from interp.data import Prompt

    text, spans = "", {}
    for slot, (thing, label) in enumerate(zip(things, labels, strict=True)):
        text += f"{'the' if slot else 'The'} {thing}"
        start = len(text) - len(thing)
        text += f" is in Box {label}"
        if slot == marked:
            spans = {"object": (start, start + len(thing)), "first_label": (len(text) - 1, len(text))}
        text += " , " if slot < BOXES - 1 else " . "
    text += f"Box {labels[asked]}"
    spans["query_label"] = (len(text) - 1, len(text))
    meta = {
        "slot": asked,
        "objects": tuple(things),
        "labels": tuple(labels),
        "candidates": tuple(f" {thing}" for thing in things),
    }
    foil = things[(asked + 1) % BOXES]
    return Prompt(f"{text} contains the", f" {things[asked]}", f" {foil}", spans, meta=meta)


def _check(n: int) -> None:
    if not 1 <= n <= 500:
        raise BadInput(f"`n` must be 1 to 500; not {n}.")
