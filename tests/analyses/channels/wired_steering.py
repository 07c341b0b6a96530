"""Steering and patching by plain hooks, from the module's own weights; and a model with a subspace illusion in its stream."""

import contextlib

import torch

import tests.oracle as oracle
from interp.data import Prompt, PromptPair
from interp.models import reference
from interp.models.reference.planted.wiring import Planted, Wiring, word_tokenizer


def factors(module, layer, head):
    """W_V [d_model, d_head] and W_O [d_head, d_model] of a query head, float64, straight from the parameters."""
    attention, width = oracle.attention_of(module, layer), oracle.head_dim(module)
    rows = slice(head * width, (head + 1) * width)
    if module.config.model_type == "gpt2":
        d = module.config.hidden_size
        return (
            attention.c_attn.weight[:, 2 * d :][:, rows].double(),
            attention.c_proj.weight[rows].double(),
        )
    config = module.config
    n_heads = getattr(config, "num_heads", None) or config.num_attention_heads
    shared = head // (n_heads // getattr(config, "num_key_value_heads", n_heads))
    value = attention.v_proj.weight[shared * width : (shared + 1) * width].T
    out = attention.out_proj if config.model_type == "gpt_neo" else attention.o_proj
    return value.double(), out.weight[:, rows].T.double()


def component(module, layer, head, index):
    """The write direction of a component of the raw weights, by the full singular value decomposition of the whole matrix."""
    value, out = factors(module, layer, head)
    v = torch.linalg.svd(value @ out)[2][index]
    return v * v[v.abs().argmax()].sign()


def coordinate(module, layer, head, v, ids):
    """What the head writes along v [row, pos]."""
    z = oracle.capture(module, "z", layer, ids)[:, :, head].double()
    return z @ factors(module, layer, head)[1] @ v


def steered(module, ids, writers, where, reader, *, whole=False):
    """Last logits and the reader's attention [row, key] from the last token, with writes changed at `where` [row, pos].

    `writers` are (layer, head, [(v, target [row] or number), ...]): the write's coordinates along the v become the targets; with `whole`
    the write becomes their sum.
    """
    with contextlib.ExitStack() as stack:
        for layer, head, moves in writers:
            seen = []
            stack.enter_context(
                oracle.at(module, "z", layer, lambda z, seen=seen, head=head: seen.append(z[:, :, head]))
            )

            def change(x, seen=seen, moves=moves, out=factors(module, layer, head)[1]):
                write = seen[-1].double() @ out
                rest = torch.zeros_like(write) if whole else write
                for v, target in moves:
                    target = torch.as_tensor(target).double().expand(len(x))[:, None]
                    rest = rest + (target - (0 if whole else write @ v))[..., None] * v
                return torch.where(where[..., None], x + (rest - write).to(x.dtype), x)

            stack.enter_context(oracle.at(module, "attn_out", layer, change))
        with oracle.eager(module), torch.no_grad():
            out = module(ids, output_attentions=True, use_cache=False)
    return out.logits[:, -1], out.attentions[reader[0]][:, reader[1], -1]


def last(ids):
    where = torch.zeros_like(ids, dtype=torch.bool)
    where[:, -1] = True
    return where


def illusory():
    """Two layers. Head 0.0 says nothing, but could write (a + y) / sqrt 2; the reader 1.0 looks at `pen` for a > 0, at `cup` for a < 0, and
    a is never written. Nobody reads y, which is the sign of the last word; the answer comes from another copy of that sign."""
    words = ("pen", "cup", "plus", "minus")
    wire = Wiring({"item": 2, "place": 1, "x": 1, "y": 1, "a": 1, "silent": 1}, len(words) + 2, 2, 2, 16, 8)
    item, place, sign = torch.zeros(6, 2), torch.zeros(6, 1), torch.zeros(6, 1)
    item[2, 0] = item[3, 1] = place[2, 0] = sign[4, 0] = 1.0
    place[3, 0] = sign[5, 0] = -1.0
    for values, block in ((item, "item"), (place, "place"), (sign, "x"), (sign, "y")):
        wire.embed(values, block)
    wire.head(
        0, 0, q=wire.read("x") * 0, k=wire.read("x") * 0, v=wire.read("silent"), o=wire.write("a") + wire.write("y")
    )
    wire.head(1, 0, q=20 * wire.read("a"), k=wire.read("place"), v=wire.read("item"), o=wire.write("item"))
    matrix = torch.zeros(wire.d_model, 6)
    for token, part in ((2, 1.0), (3, -1.0)):
        matrix[:, token] = 10 * wire.read("item")[:, token - 2] + part * 2 * wire.read("x")[:, 0]
    wire.unembed(matrix)
    planted = Planted("illusion", wire.module, word_tokenizer(words, 8), {}, "an illusion")
    pairs = []
    for first, second in (("plus", "minus"), ("minus", "plus")):
        right, wrong = ("pen", "cup") if first == "plus" else ("cup", "pen")
        pairs.append(
            PromptPair(
                Prompt.of(f"pen cup {first}", answer=right, foil=wrong, pen="pen", cup="cup"),
                Prompt.of(f"pen cup {second}", answer=wrong, foil=right, pen="pen", cup="cup"),
            )
        )
    return reference.as_lm(planted), pairs
