"""Planted channels where queries are turned by their positions and keys and values are shared: a Llama, wired by hand.

As in `channels`, heads are given by singular values `s_i = 0.8^i` and random orthonormal directions of the stream, and one write direction
of a head in layer 0 lies where a head in layer 1 looks. What is new:

    V   the reader's values are shared, so the channel reaches every query head of its group, with composition score s_0 / |s| = 0.600
        each, at any distance
    Q   W_Q = Σ √s_i a_iᵀ e_i, W_K = Σ √s_i b_iᵀ e_i R(Δ₀), with e_i an orthonormal basis of the head and R(Δ) the rotation between a
        query and a key Δ tokens before it. So at distance Δ₀ = 4, and at no other,

            W_Q R(Δ) W_Kᵀ = Σ_ij √(s_i s_j) [e_i R(Δ - Δ₀) e_jᵀ] a_iᵀ b_j   =   Σ s_i a_iᵀ b_i

        and the component that writes `a_0` scores 0.600 there. `e_0` lies in the four fastest planes, so what it says to the key `b_0`
        falls as `e_0 R(Δ - Δ₀) e_0ᵀ`, the mean of four cosines: 0.83 one token off, 0.44 two, 0.08 three. Its score falls too, to about
        half: elsewhere it asks for other keys. Keys are shared, but the group's other query asks them something else and hears nothing.

The Q channel acts: heads of layer 0 attend uniformly, `cue` has the planted component's read direction as embedding and `goal` the key
`b_0`. With both in a prompt the score from END to `goal` falls, when the component is set to 0, by

    mean over columns of (x · u_c) · s_c · s_0 · (b_0 · x_goal) · e_0 R(Δ - Δ₀) e_0ᵀ / sqrt(d_head)

There is no LayerNorm to hide a mean from: one coordinate of every embedding holds `C` (see `wiring`), so that RMSNorm is the identity, and
the other 127 of 128 are free. Other components score like random directions, 1/sqrt(127) = 0.089.
"""

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from interp.core.seed import generator

from .channels import Channel
from .wiring import CONSTANT, Planted, word_tokenizer

if TYPE_CHECKING:
    from transformers import LlamaForCausalLM

N_CTX, D_HEAD, N_HEADS, N_KV, DECAY, THETA = 32, 16, 8, 4, 0.8, 100.0
OFFSET = 4
"""The distance at which the Q channel holds."""
FAST = 4
"""Planes of the head, the fastest ones, in which the reader's first direction lies."""
WIDTH = N_HEADS * D_HEAD
_PLAN = (Channel("Q", (0, 1), 5, (1, 2)), Channel("V", (0, 4), 9, (1, 6)))
_WORDS = ("cue", "goal", *"one two three four five six seven eight nine ten".split(), "red", "blue", "green", "stop")  # noqa: SIM905


def rotary_channels(*, null: bool = False, seed: int = 0) -> Planted:
    """A two-layer, attention-only Llama with two planted channels: 8 heads, 4 key/value heads, rotary positions.

    `answers`: `channels` = two `Channel`; `score` = their composition scores (Q at `offset`); `group` = heads that the V channel reaches;
    `falls` [N_CTX] = e_0 R(Δ - Δ₀) e_0ᵀ at every distance; `score_at` [N_CTX] = the Q channel's score at every distance; `null`;
    `singular_values` [d_head]; `prompt` on which the Q channel acts, with `cue`, `goal` = columns of the two tokens.
    """
    module = _blank(len(_WORDS) + 2)
    s = DECAY ** torch.arange(D_HEAD, dtype=torch.float64)
    turns = torch.stack([_turn(module, distance) for distance in range(N_CTX)])
    heads = [_draw(layer, seed) for layer in range(2)]
    if not null:
        _plant(heads[0]["v"][1], 5, heads[1]["a"][2, 0])
        _plant(heads[0]["v"][4], 9, heads[1]["u"][3, 0])
    frame = _frame(seed)
    for layer, d in enumerate(heads):
        _wire(module, layer, d, s, frame if layer else frame * 0.0, turns[OFFSET])
    _embed(module, heads[0]["u"][0, 5], heads[1]["b"][1, 0], seed)
    off = turns @ turns[OFFSET].T  # R(Δ - Δ₀)
    core = s.sqrt()[:, None] * (frame @ off @ frame.T) * s.sqrt()
    answers = {
        "channels": _PLAN, "score": float(1 / s.norm()), "group": ((1, 6), (1, 7)), "offset": OFFSET,
        "falls": (frame[0] @ off @ frame[0]), "score_at": core[:, 0].norm(dim=-1) / core.norm(dim=(-2, -1)),
        "null": (WIDTH - 1) ** -0.5, "singular_values": s, "prompt": "one cue goal two three four stop", "cue": 1, "goal": 2,
    }  # fmt: skip
    text = (
        f"rotary-channels: component 5 of head 0.1 writes what head 1.2 asks for {OFFSET} tokens back, component 9 of head 0.4 what "
        "heads 1.6 and 1.7 read as value"
    )
    if null:
        _scramble(module, seed)
    tokenizer = word_tokenizer(_WORDS, N_CTX)
    return Planted("planted-rotary-channels", module, tokenizer, {} if null else answers, text, null=null)


def _draw(layer: int, seed: int) -> dict[str, Tensor]:
    """Random orthonormal rows [head or key/value head, component, free dimension]; those of a query are orthogonal to its key's."""

    def rows(name: str, count: int, *, beside: Tensor | None = None) -> Tensor:
        draw = generator(seed, "rotary channels", layer, name)
        out = torch.randn(count, D_HEAD, WIDTH - 1, generator=draw, dtype=torch.float64)
        if beside is not None:
            out = out - out @ beside.mT @ beside
        return torch.linalg.qr(out.mT).Q.mT

    b = rows("b", N_KV)
    a = rows("a", N_HEADS, beside=b.repeat_interleave(N_HEADS // N_KV, dim=0))
    return {"a": a, "b": b, "u": rows("u", N_KV), "v": rows("v", N_HEADS)}


def _plant(rows: Tensor, index: int, direction: Tensor) -> None:
    """Put `direction` in place of one row, turning the others orthogonal to it. In place."""
    others = [row for row in range(len(rows)) if row != index]
    rest = rows[others] - (rows[others] @ direction)[:, None] * direction
    rows[others], rows[index] = torch.linalg.qr(rest.T).Q.T, direction


def _frame(seed: int) -> Tensor:
    """An orthonormal basis of the head; its first row lies evenly in the fastest planes (entries i and i + d_head / 2)."""
    basis = torch.randn(D_HEAD, D_HEAD, generator=generator(seed, "rotary frame"), dtype=torch.float64)
    basis[0] = 0.0
    basis[0, :FAST] = 1.0
    q, r = torch.linalg.qr(basis.T)
    return (q * r.diagonal().sign()).T


@torch.no_grad()
def _wire(module: Any, layer: int, d: dict[str, Tensor], s: Tensor, frame: Tensor, turn: Tensor) -> None:
    """Parameters of one layer's attention from the directions of its heads."""
    attn, root = module.model.layers[layer].self_attn, s.sqrt()
    query = torch.einsum("hcd,c,ce->hed", d["a"], root, frame)  # [head, d_head, free], as rows of the projections
    key = torch.einsum("hcd,c,ce->hed", d["b"], root, frame @ turn)
    value = root[:, None] * d["u"]
    out = root[:, None] * d["v"]
    for name, rows in (("q", query), ("k", key), ("v", value)):
        getattr(attn, f"{name}_proj").weight[:, : WIDTH - 1] = rows.flatten(0, 1).float()
    attn.o_proj.weight[: WIDTH - 1] = out.flatten(0, 1).T.float()


@torch.no_grad()
def _embed(module: Any, cue: Tensor, goal: Tensor, seed: int) -> None:
    """Token embeddings of length 4, `cue` and `goal` along the Q channel, the others without a part in either; and the constant."""
    table = module.model.embed_tokens.weight
    rows = torch.randn(len(table), WIDTH - 1, generator=generator(seed, "rotary tokens"), dtype=torch.float64)
    span = torch.linalg.qr(torch.stack([cue, goal]).T).Q.T
    rows -= rows @ span.T @ span
    rows[2], rows[3] = cue, goal
    rows = 4 * rows / rows.norm(dim=1, keepdim=True)
    table[:, : WIDTH - 1] = module.lm_head.weight[:, : WIDTH - 1] = rows.float()
    table[:, -1] = CONSTANT


@torch.no_grad()
def _scramble(module: "LlamaForCausalLM", seed: int) -> None:
    for name, parameter in module.named_parameters():
        drawn = 0.2 * torch.randn(parameter.shape, generator=generator(seed, "null", name))
        parameter.copy_(torch.ones_like(parameter) if "norm" in name else drawn)


def _turn(module: Any, distance: int) -> Tensor:
    from interp.models.families import family_of, spec_of
    from interp.models.weights.rotary import rotation

    return rotation(module, family_of(module), spec_of(module.config, module, "blank"), 1, distance)


@torch.no_grad()
def _blank(vocab: int) -> "LlamaForCausalLM":
    """A Llama in which every head attends uniformly and adds nothing, every MLP is silent, and every norm is the identity."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=vocab, hidden_size=WIDTH, intermediate_size=4, num_hidden_layers=2, num_attention_heads=N_HEADS,
        num_key_value_heads=N_KV, max_position_embeddings=N_CTX, bos_token_id=0, eos_token_id=0, pad_token_id=0,
        tie_word_embeddings=False, rope_parameters={"rope_type": "default", "rope_theta": THETA},
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):  # the constructor draws weights that are thrown away
        module = LlamaForCausalLM(config).eval().requires_grad_(False)
    for name, parameter in module.named_parameters():
        parameter.fill_(CONSTANT / WIDTH**0.5 if "norm" in name else 0.0)
    return module
