"""Attribution on wired models: saturated attention, a linear network in which every edge is known, and one that reads nothing."""

from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from interp.core.seed import generator

if TYPE_CHECKING:
    from interp.models.base import BaseLM

WORDS = ["yes", "no", "left", "right", "up", "down"]


def _lm(wire: Any, name: str) -> "BaseLM":
    from interp.models.load import wrap
    from interp.models.reference.planted.wiring import word_tokenizer

    return wrap(wire.module.double(), word_tokenizer(WORDS, wire.n_ctx), name)


def _pair(clean: str, corrupted: str) -> Any:
    from interp.data import Prompt, PromptPair

    return PromptPair(Prompt.of(clean, answer="yes", foil="no"), Prompt.of(corrupted, answer="no", foil="yes"))


@cache
def _saturated() -> "BaseLM":
    """One head: `up` attends to `left` with a score of 20 against 0, `down` to `right`; the value of `left` is 3."""
    from interp.models.reference.planted.wiring import Wiring, one_hot

    vocab = len(WORDS) + 2
    ids = {word: place + 2 for place, word in enumerate(WORDS)}
    wire = Wiring({"key": 2, "query": 2, "value": 1}, vocab, 2, 1, 32, 8)
    wire.embed(one_hot([ids["left"], ids["right"]], vocab).T, "key")
    wire.embed(20.0 * one_hot([ids["up"], ids["down"]], vocab).T, "query")
    wire.embed(3.0 * one_hot([ids["left"]], vocab).T, "value")
    wire.head(0, 0, q=wire.read("query"), k=wire.read("key"), v=wire.read("value"), o=wire.write("value"))
    wire.unembed(wire.read("value") @ one_hot([ids["yes"]], vocab))
    return _lm(wire, "saturated")


def _linear(*, reads: bool = True) -> "BaseLM":
    """Two layers of one head that attends uniformly, and an MLP without bend; random weights, norms that are the identity."""
    from interp.models.reference.planted.wiring import Wiring

    draw = generator(0, "linear network")
    vocab = len(WORDS) + 2
    wire = Wiring({"x": 6}, vocab, 2, 1, 32, 8, 8)
    read, write = wire.read("x"), wire.write("x")
    wire.embed(0.5 * torch.randn(vocab, 6, generator=draw), "x")
    nothing = torch.zeros(wire.d_model, 6)
    for layer, block in enumerate(wire.module.transformer.h):
        mix, w_in, w_out = (0.4 * torch.randn(6, n, generator=draw) for n in (6, 8, 8))
        wire.head(layer, 0, q=nothing, k=nothing, v=read, o=mix @ write)
        wire.neurons(layer, 0, read @ w_in, torch.zeros(8), w_out.T @ write)
        block.mlp.act = nn.Identity()
    if reads:
        wire.unembed(read @ torch.randn(6, vocab, generator=draw))
    return _lm(wire, "linear")


def saturated_attention() -> tuple[bool, str]:
    """The true effect of a query, its gradient's guess, and the fix."""
    from interp.analyses.attribution import Attribution

    found = Attribution(nodes="q", qk_fix=True, forms=("noising",))(
        _saturated(), _pair("left right up", "left right down")
    )
    true, fixed, plain = (float(found.data[name].values[0, 0, 0, 0, 2]) for name in ("true", "score", "unfixed"))
    return abs(fixed - true) < 1e-5 and abs(true - 3) < 1e-5 and abs(
        plain
    ) < 1e-5, f"{true:.4f}, fixed {fixed:.4f}, plain {plain:.0e}"


def every_edge() -> tuple[bool, str]:
    """Scores of all edges against corrupting each, and the completeness gap."""
    from interp.analyses.attribution import EdgeAttribution

    found = EdgeAttribution(method="eap", verify=1000, sizes=())(
        _linear(), _pair("left right up down", "left down up down")
    )
    off = float(np.nanmax(np.abs(found.data["score"].values - found.data["true"].values)))
    size = float(np.nanmax(np.abs(found.data["true"].values)))
    gap = float(np.abs(found.completeness()["gap"].values).max())
    edges = int(found.graph.edges.sum())
    return (
        off < 1e-5 * size and gap < 1e-5,
        f"{edges} edges within {off / size:.0e} of the largest effect, gap {gap:.0e}",
    )


def nothing_to_agree_on() -> tuple[bool, str]:
    """A model whose logits read nothing: no effects, and no correlation that could be taken for agreement."""
    from interp.analyses.attribution import Attribution

    found = Attribution(nodes="z")(_linear(reads=False), _pair("left right up", "left down up"))
    most, rho = float(np.abs(found.data["score"]).max()), found.agreement()["rho"]
    return most == 0 and bool(np.isnan(rho)), f"largest score {most:g}, correlation {rho}"
