"""A fact written by one MLP and moved by one head, so that the map of causal tracing is known in advance.

    embedding             the last token of a subject carries the subject's key, 1, and like every token a large code that nobody reads
    layer `writer`, MLP   four neurons a subject fire only if the key is 1 ± 0.4 and then write the attribute, 400
    layer `mover`, head 0 attends from every position to the one three before it and copies the attribute
    unembedding           logits = 0.1 · attribute

Every relation has three tokens and ends the prompt, so "three before the last token" is the last token of the subject. Positions
are far larger than the noise, which therefore does not hide the way there from the mover. The unread code makes ROME's noise, three
standard deviations of the subject embeddings, about four times the key: a noisy key falls into the right subject's band about one
time in twelve, and the answer's probability falls to near chance. A corrupted position reaches the last token through the mover only,
whose attention is one-hot to the last bit there (all other weights underflow), so that most cells of the map are exact:

    hidden state    row "last subject token": 1 for layers before `mover`, then 0; row "last token": 0, then 1 from `mover` on; else 0
    MLP windows     row "last subject token": 1 where the window contains `writer`; else 0
    attention       row "last token": 1 where the window contains `mover`; else 0
    severed MLP     the hidden state, with that token's MLP outputs held corrupted: as above, but 0 also for layers before `writer`

(1 = the clean answer's probability, 0 = the corrupted one's.) Two things hold nearly only, because the corrupted embedding has noise of
size 4 in the block where the attribute of 400 is written: in logits the MLP row is 1 within a few percent, and severed cells before
`writer` come within 0.06 of the corrupted probability. Everything else that is 0 is 0 to the last bit.

`fact_map` gives the whole map for any prompt, kind, window and window rule.
"""

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch

from interp.core.errors import BadInput, one_of
from interp.core.seed import generator

from .wiring import Planted, Wiring, one_hot, scramble, word_tokenizer

HOPS, N_CTX, CODE, ATTRIBUTE = 3, 24, 23, 400.0
_FIRST, _MIDDLE = ("Ana", "Bela", "Carlo"), ("de", "van")
_LAST = ("Arden", "Brisk", "Cole", "Dorn", "Esker", "Fenn", "Galt", "Hurst")
_PLACES = ("Lisbon", "Oslo", "Cairo", "Lima", "Quito", "Tunis", "Hanoi", "Sofia")
_OPENERS = ("They say that", "We heard that", "Today")
_RELATIONS = ("lives in old", "comes from sunny", "was seen near")
_SUBJECTS = tuple(
    f"{_FIRST[i % 3]} {last}" if i % 2 else f"{_FIRST[i % 3]} {_MIDDLE[i // 2 % 2]} {last}"
    for i, last in enumerate(_LAST)
)


def fact(*, n_layers: int = 20, writer: int = 9, mover: int = 14, null: bool = False, seed: int = 0) -> Planted:
    """A fact model of any depth. `prompts` has 24 facts: 8 subjects of 2 or 3 tokens, 3 openers and relations, one attribute each.

    `answers`: `writer`, `mover` = (layer, head), `hops`; and for `hidden`, `severed_mlp` and (kind, rule) with kinds `mlp`, `attn` and
    rules `code`, `text` (window 10): {role: array [layer]}, roles `last_subject`, `last` and `other`, 1 = full restoration.
    """
    if not 0 <= writer < mover < n_layers:
        raise BadInput(f"`writer` must come before `mover`, both before {n_layers} layers; not {writer} and {mover}.")
    words = [*dict.fromkeys(" ".join([*_FIRST, *_MIDDLE, *_LAST, *_OPENERS, *_RELATIONS, *_PLACES]).split())]
    vocab = len(words) + 2
    keys = len(_LAST)
    wire = Wiring({"key": keys, "attribute": keys, "code": CODE, "position": N_CTX}, vocab, n_layers, 4, 32, N_CTX, 32)
    ids = {word: index + 2 for index, word in enumerate(words)}
    code = torch.randn(vocab, CODE, generator=generator(seed, "fact codes"))
    wire.embed(15 * code / code.norm(dim=1, keepdim=True), "code")
    wire.embed(one_hot([ids[last] for last in _LAST], vocab).T, "key")
    wire.position(64 * one_hot([*range(N_CTX)], N_CTX), "position")
    _write_facts(wire, writer)
    back = one_hot([max(position - HOPS, 0) for position in range(N_CTX)], N_CTX)
    wire.head(
        mover, 0, q=0.1 * wire.read("position") @ back, k=wire.read("position"), v=wire.read("attribute"),
        o=wire.write("attribute"),
    )  # fmt: skip
    wire.unembed(0.1 * wire.read("attribute") @ one_hot([ids[place] for place in _PLACES], vocab))
    prompts = tuple(
        {"prompt": f"{opener} {subject} {relation}", "subject": subject, "attribute": _PLACES[i]}
        for i, subject in enumerate(_SUBJECTS)
        for opener, relation in zip(_OPENERS, _RELATIONS, strict=True)
    )
    text = f"fact: the MLP of layer {writer} writes the attribute at the last subject token, head {mover}.0 moves it to the last token"
    answers = {} if null else _answers(n_layers, writer, mover)
    module = scramble(wire.module, seed) if null else wire.module
    return Planted("planted-fact", module, word_tokenizer(words, N_CTX), answers, text, prompts, null)


def counterfactual(row: dict[str, str]) -> dict[str, str]:
    """The same prompt about another subject, token by token aligned: only the last token of the subject differs."""
    last = row["subject"].split()[-1]
    at = (_LAST.index(last) + 1) % len(_LAST)
    subject = row["subject"].replace(last, _LAST[at])
    return {"prompt": row["prompt"].replace(row["subject"], subject), "subject": subject, "attribute": _PLACES[at]}


def window(centre: int, width: int, n_layers: int, rule: Literal["code", "text"] = "code") -> range:
    """Layers of a window: ROME's code takes c - w//2 … c + (w-1)//2, its paper c - (w-1)//2 … c + w//2; clipped at both ends."""
    one_of("rule", rule, ("code", "text"))
    before, after = (width // 2, (width - 1) // 2) if rule == "code" else ((width - 1) // 2, width // 2)
    return range(max(0, centre - before), min(n_layers, centre + after + 1))


def fact_map(
    planted: Planted,
    last_subject: int,
    length: int,
    kind: str,
    *,
    width: int = 10,
    rule: Literal["code", "text"] = "code",
) -> np.ndarray:
    """The whole map [position, layer] of a prompt: what share of the lost probability each restored cell brings back.

    `last_subject` is the position of the subject's last token, `kind` one of hidden, mlp, attn, severed_mlp.
    """
    one_of("kind", kind, ("hidden", "mlp", "attn", "severed_mlp"))
    n_layers = planted.module.config.n_layer
    rows = _rows(kind, n_layers, planted.answers["writer"], planted.answers["mover"][0], width, rule)
    out = np.zeros((length, n_layers))
    out[last_subject], out[length - 1] = rows["last_subject"], rows["last"]
    return out


def _write_facts(wire: Wiring, layer: int) -> None:
    """Four neurons a key make a band: 0 up to 0.6, rising to 8 at 0.8, flat to 1.2, back to 0 at 1.4."""
    edges, signs = torch.tensor([0.6, 0.8, 1.2, 1.4]), torch.tensor([1.0, -1.0, -1.0, 1.0])
    keys = wire.blocks["key"]
    w_in = 40 * wire.read("key").repeat_interleave(4, dim=1)  # [d_model, key * 4]
    w_out = wire.write("attribute").repeat_interleave(4, dim=0) * signs.repeat(keys)[:, None] * ATTRIBUTE / 8
    wire.neurons(layer, 0, w_in, -40 * edges.repeat(keys), w_out)


def _rows(
    kind: str, n_layers: int, writer: int, mover: int, width: int, rule: Literal["code", "text"]
) -> dict[str, np.ndarray]:
    layers = np.arange(n_layers)
    nothing = np.zeros(n_layers)

    def box(inside: int) -> np.ndarray:
        return np.array([float(inside in window(int(centre), width, n_layers, rule)) for centre in layers])

    subject = {
        "hidden": (layers < mover).astype(float),
        "mlp": box(writer),
        "attn": nothing,
        "severed_mlp": ((layers >= writer) & (layers < mover)).astype(float),
    }[kind]
    arrived = (layers >= mover).astype(float)
    last = {"hidden": arrived, "severed_mlp": arrived, "attn": box(mover)}.get(kind, nothing)
    return {"last_subject": subject, "last": last, "other": nothing}


def _answers(n_layers: int, writer: int, mover: int) -> dict[Any, Any]:
    rules: Sequence[Literal["code", "text"]] = ("code", "text")
    answers: dict[Any, Any] = {"writer": writer, "mover": (mover, 0), "hops": HOPS}
    for kind in ("hidden", "severed_mlp"):
        answers[kind] = _rows(kind, n_layers, writer, mover, 1, "code")
    for kind in ("mlp", "attn"):
        for rule in rules:
            answers[kind, rule] = _rows(kind, n_layers, writer, mover, 10, rule)
    return answers
