"""Communication channels by hand: one singular component of a writer head lies exactly where a reader head looks.

Every head is given by singular values and random orthonormal directions in the free part of the stream (row vectors, `x @ W`):

    OV = W_V W_O  = Σ s_i u_i v_iᵀ           QK = W_Q W_Kᵀ = Σ s_i a_i b_iᵀ           s_i = 0.8^i, scores = x QK xᵀ / sqrt(d_head)

A channel replaces one write direction `v_c` of a head in layer 0 by the strongest read direction of a head in layer 1: `a_0` (kind Q:
the reader's query), `b_0` (kind K: its key) or `u_0` of its own OV (kind V: its value). Then the composition score of that
component, `|v_cᵀ M| / |M|` with M = QK, QKᵀ or OV, is `s_0 / |s|` = 0.600, at every strength `s_c` of the component; the composition
score of the two whole heads barely shows it, because the planted component is not a strong one. Any other component scores like a
random direction: `E[score²] = 1 / n`, with n = 63 free dimensions (not d = 128; see `wiring`), 0.126.

The Q channel also acts: heads of layer 0 attend uniformly, the token `cue` has the planted component's read direction as embedding,
and `goal` the reader's key. With both in a prompt the reader's score from END to `goal` falls, when the component is set to 0, by

    mean over columns of (x · u_c) · s_c · s_0 · (b_0 · x_goal) / sqrt(d_head)
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from interp.core.seed import generator

from .wiring import Planted, Wiring, scramble, word_tokenizer

N_CTX, D_HEAD, N_HEADS, DECAY = 32, 16, 8, 0.8


@dataclass(frozen=True)
class Channel:
    """One planted channel: (layer, head) of the writer, number of its component from 0, reader, and which input it reaches."""

    kind: Literal["Q", "K", "V"]
    writer: tuple[int, int]
    component: int
    reader: tuple[int, int]


_PLAN = (
    Channel("Q", (0, 1), 5, (1, 2)),
    Channel("K", (0, 3), 2, (1, 6)),
    Channel("V", (0, 4), 9, (1, 0)),
)
_WORDS = ("cue", "goal", *"one two three four five six seven eight nine ten".split(), "red", "blue", "green", "stop")  # noqa: SIM905


def channels(*, null: bool = False, seed: int = 0) -> Planted:
    """A two-layer, attention-only model with three planted channels among 192 pairs of heads and kinds.

    `answers`: `channels` = tuple of `Channel`; `score` = composition score of each planted component; `null` = root mean square of all
    others; `singular_values` [d_head]; `prompt` on which the Q channel acts, with `cue`, `goal` = columns of the two tokens.
    """
    wire = Wiring({}, len(_WORDS) + 2, 2, N_HEADS, D_HEAD, N_CTX)
    s = DECAY ** torch.arange(D_HEAD, dtype=torch.float64)
    heads = [(layer, head) for layer in range(2) for head in range(N_HEADS)]
    directions = {pair: _directions(pair, wire.half - 1, seed) for pair in heads}
    if not null:
        for channel in _PLAN:
            read = directions[channel.reader][{"Q": "a", "K": "b", "V": "u"}[channel.kind]][0]
            _plant(directions[channel.writer]["v"], channel.component, read)
    basis = wire.free().double()
    for layer, head in heads:
        d = {name: (rows @ basis).T for name, rows in directions[layer, head].items()}  # [d_model, component]
        query = (d["a"] * s.sqrt()).float() / D_HEAD**0.5  # `Wiring.head` takes the factor of the scores into W_Q
        silent = torch.zeros_like(query)
        wire.head(
            layer, head, q=query if layer else silent, k=(d["b"] * s.sqrt()).float() if layer else silent,
            v=(d["u"] * s.sqrt()).float(), o=(d["v"] * s.sqrt()).float().T,
        )  # fmt: skip
    _embed(wire, directions, basis, seed)
    answers = {
        "channels": _PLAN, "score": float(1 / s.norm()), "null": (wire.half - 1) ** -0.5, "singular_values": s,
        "prompt": "one cue two goal three stop", "cue": 1, "goal": 3,
    }  # fmt: skip
    text = "channels: " + "; ".join(
        f"component {c.component} of head {c.writer[0]}.{c.writer[1]} writes what head {c.reader[0]}.{c.reader[1]} reads as {c.kind}"
        for c in _PLAN
    )
    module = scramble(wire.module, seed) if null else wire.module
    return Planted("planted-channels", module, word_tokenizer(_WORDS, N_CTX), {} if null else answers, text, null=null)


def _directions(pair: tuple[int, int], n: int, seed: int) -> dict[str, Tensor]:
    """Random orthonormal rows [component, n] for the four sides of a head; query and key sides orthogonal to one another."""
    draw = generator(seed, "channel directions", *pair)
    qk = _orthonormal(torch.randn(2 * D_HEAD, n, generator=draw, dtype=torch.float64))
    u, v = (_orthonormal(torch.randn(D_HEAD, n, generator=draw, dtype=torch.float64)) for _ in range(2))
    return {"a": qk[:D_HEAD], "b": qk[D_HEAD:], "u": u, "v": v}


def _plant(rows: Tensor, index: int, direction: Tensor) -> None:
    """Put `direction` in place of one row, turning the others orthogonal to it."""
    others = [row for row in range(len(rows)) if row != index]
    rest = rows[others] - (rows[others] @ direction)[:, None] * direction
    rows[others], rows[index] = _orthonormal(rest), direction


def _orthonormal(rows: Tensor) -> Tensor:
    return torch.linalg.qr(rows.T).Q.T


def _embed(wire: Wiring, directions: dict[tuple[int, int], dict[str, Tensor]], basis: Tensor, seed: int) -> None:
    """Token embeddings of length 4: `cue` and `goal` along the Q channel, the others random but without a part in either."""
    channel = _PLAN[0]
    cue = directions[channel.writer]["u"][channel.component]
    goal = directions[channel.reader]["b"][0]
    rows = torch.randn(wire.vocab, len(cue), generator=generator(seed, "channel tokens"), dtype=torch.float64)
    span = _orthonormal(torch.stack([cue, goal]))
    rows -= rows @ span.T @ span
    rows[2], rows[3] = cue, goal
    rows = 4 * rows / rows.norm(dim=1, keepdim=True)
    with torch.no_grad():
        wire.module.transformer.wte.weight += (rows @ basis).float()
        wire.unembed(wire.module.transformer.wte.weight.T.clone())
