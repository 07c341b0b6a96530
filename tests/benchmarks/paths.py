"""Path patching: all senders to one receiver, against two hooked forward passes a sender.

GPT-2-small shape, random weights, a pair of 24 tokens that differ in tokens 3-5, one row. A sender is a head's z, corrupted at all
positions; the receiver is the query input of one head. The baseline is the usual program: one pass with the sender corrupted and every
other head's z frozen at its clean value, in which the receiver's query is read, and one clean pass with that query put in. It is timed
on randomly drawn senders and multiplied by their number; ours computes every sender, both recordings included. Compared: the logit
difference at the drawn senders.
"""

import statistics
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor

from interp.core.edit import freeze, replace
from interp.core.site import Site
from interp.models.plain import PlainModel
from tests.benchmarks import Row, cpu
from tests.benchmarks.patching import CHANGED, WIDTH, _difference

DRAWN, WIDE = 6, 64
RECEIVERS = ((4, 1), (8, 3), (11, 5))


def rows(quick: bool = False) -> list[Row]:
    """Receivers early, in the middle and late; `quick` takes the middle one only."""
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    model = GPT2LMHeadModel(GPT2Config()).eval()
    plain = PlainModel(model)
    clean = torch.randint(50257, (1, WIDTH))
    corrupted = clean.clone()
    corrupted[:, CHANGED] = torch.randint(50257, (1, 3))
    plain.resume(plain.record(clean), [[]])  # the self-check, once per session
    return [_compare(model, plain, clean, corrupted, one) for one in (RECEIVERS[1:2] if quick else RECEIVERS)]


def _compare(model: Any, plain: PlainModel, clean: Tensor, corrupted: Tensor, receiver: tuple[int, int]) -> Row:
    senders = [(layer, head) for layer in range(receiver[0]) for head in range(plain.spec.n_heads)]
    drawn = [senders[index] for index in torch.randperm(len(senders)).tolist()[:DRAWN]]
    z = {side: _z(model, ids) for side, ids in (("clean", clean), ("corrupted", corrupted))}
    slow, fast, want, got = [], [], [], []
    _two_passes(model, clean, z, drawn[0], receiver)
    for half in (drawn[: DRAWN // 2], drawn[DRAWN // 2 :]):
        for sender in half:
            slow.append(cpu(lambda sender=sender: want.append(_two_passes(model, clean, z, sender, receiver))))
        fast.append(cpu(lambda: got.append(_ours(plain, senders, clean, corrupted, receiver))))
    one, quick = statistics.median(slow), statistics.median(fast)
    mine = got[0][[senders.index(sender) for sender in drawn]]
    return Row(
        f"{len(senders)} heads to L{receiver[0]}H{receiver[1]}.q",
        "two hooked forwards a sender",
        one * len(senders) / quick,
        (max(slow) - min(slow)) / 2 / one + (max(fast) - min(fast)) / 2 / quick,
        float((torch.stack(want) - mine).abs().max()),
        f"in {quick:.1f} s; effect range {float(got[0].max() - got[0].min()):.1e}; baseline from {DRAWN} senders, {one:.2f} s each",
    )


def _ours(
    plain: PlainModel, senders: list[tuple[int, int]], clean: Tensor, corrupted: Tensor, receiver: tuple[int, int]
) -> Tensor:
    """The logit difference for every sender."""
    layer, head = receiver
    z = [Site("z", k) for k in range(plain.spec.n_layers)]
    other, base = plain.run(corrupted, capture=z), plain.record(clean, capture=[*z, Site("q", layer)])
    held = freeze(z[:layer], base.run)
    first = [[*held, replace(z[k], other, heads=[h])] for k, h in senders]
    query = plain.resume_sites(base, first, [Site("q", layer)])[Site("q", layer)]  # [sender, row, pos, head, d_head]
    second = [[replace(Site("q", layer), value, heads=[head])] for value in query]
    return plain.resume(base, second, readout=lambda logits, _: _difference(logits)[..., None])[:, 0, 0, 0]


@torch.no_grad()
def _z(model: Any, ids: Tensor) -> list[Tensor]:
    """What the heads of each layer write before the output projection, [row, pos, head * d_head]."""
    seen: list[Tensor] = []
    handles = [
        block.attn.c_proj.register_forward_pre_hook(lambda _m, args: seen.append(args[0]))
        for block in model.transformer.h
    ]
    model(ids, use_cache=False)
    for handle in handles:
        handle.remove()
    return seen


@torch.no_grad()
def _two_passes(
    model: Any, clean: Tensor, z: dict[str, list[Tensor]], sender: tuple[int, int], receiver: tuple[int, int]
) -> Tensor:
    """The usual program, with plain hooks."""
    query: list[Tensor] = []
    place = slice(receiver[1] * WIDE, (receiver[1] + 1) * WIDE)

    def hold(layer: int) -> Any:
        value = z["clean"][layer].clone()
        if layer == sender[0]:
            head = slice(sender[1] * WIDE, (sender[1] + 1) * WIDE)
            value[..., head] = z["corrupted"][layer][..., head]
        return lambda _m, args: (value, *args[1:])

    def put(_m: Any, _a: Any, out: Tensor) -> Tensor:
        out = out.clone()
        out[..., place] = query[0][..., place]
        return out

    blocks = model.transformer.h
    with ExitStack() as stack:
        for layer, block in enumerate(blocks):
            stack.callback(block.attn.c_proj.register_forward_pre_hook(hold(layer)).remove)
        c_attn = blocks[receiver[0]].attn.c_attn
        stack.callback(c_attn.register_forward_hook(lambda _m, _a, out: query.append(out)).remove)
        model(clean, use_cache=False)
    handle = blocks[receiver[0]].attn.c_attn.register_forward_hook(put)
    try:
        return _difference(model(clean, use_cache=False).logits[0, -1])
    finally:
        handle.remove()
