"""Vectors that might have done as much: others of the same layer, matched to a concept's own one by one, that do not hold it.

The candidates for a vector are the other value vectors of its layer whose norm is nearest to its own (`match="norm"`), or whose mean
contribution on the related prompts, |m_j| |v_j|, is (`match="write"`): a vector that is silent there has no effect whatever it holds,
and that alone would make a concept's vector look special. A candidate that holds the concept itself is left out: one among whose first
w tokens a quarter or more are the concept's w tokens (of a concept without words, those that its first vector promotes most).

Each draw replaces every vector of a set by a candidate of its own, never the same twice; noise is the same as on the concept's vectors.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor

from interp.core.errors import BadInput
from interp.core.lm import LM
from interp.core.seed import generator
from interp.core.shapes import Float
from interp.data.concepts import concept_tokens

from ..vectors import Vector, value_vectors
from .material import Asked

Match = Literal["norm", "write"]
MATCHES = ("norm", "write")
HOLDS = 0.25
"""Share of the concept's tokens among its first ones from which on a vector counts as holding it."""
TOP = 200
"""Tokens of the first vector that stand for a concept without words, at most; a twentieth of a small vocabulary."""


def matched(
    lm: LM, asked: Asked, draws: int, *, match: Match, writes: Mapping[int, Float[Tensor, " neuron"]], seed: int = 0
) -> list[tuple[Vector, ...]]:
    """Up to `draws` sets as large as the concept's, each vector in its place; the first n of a set match the concept's first n.

    `writes` is the mean |m_j| of a layer's neurons on the related prompts. As many draws as the layer with the fewest candidates has
    of them. Raises `BadInput` where there is none.
    """
    if not draws:
        return []
    ids = _tokens_of(lm, asked)
    unembedding = lm.weights.W_U.detach().float()
    beside = Counter(vector.layer for vector in asked.vectors)
    pools: list[list[Vector]] = []
    for vector in asked.vectors:
        rows = value_vectors(lm, vector.layer)
        size = rows.norm(dim=1).cpu()
        size = size * writes[vector.layer] if match == "write" else size
        pool: list[Vector] = []
        for index in (size - size[vector.index]).abs().argsort(stable=True).tolist():
            one = Vector(vector.layer, index)
            if one not in asked.vectors and not _holds(rows[index], unembedding, ids):
                pool.append(one)
            if len(pool) == draws + beside[vector.layer] - 1:
                break
        pools.append(pool)
    few = min(draws, *(len(pool) - beside[one.layer] + 1 for pool, one in zip(pools, asked.vectors, strict=True)))
    if few < 1:
        raise BadInput(
            f"no value vectors are left to compare those of {asked.concept.name!r} with: its layers have too few others that do not hold "
            "it. Ask for smaller `sizes`, or for no null with draws=0."
        )
    orders = []
    for vector, pool in zip(asked.vectors, pools, strict=True):
        near = pool[: few + beside[vector.layer] - 1]
        order = torch.randperm(len(near), generator=generator(seed, "matched vectors", asked.concept.name, str(vector)))
        orders.append([near[place] for place in order.tolist()])
    return [_set(orders, draw) for draw in range(few)]


def _set(orders: Sequence[Sequence[Vector]], draw: int) -> tuple[Vector, ...]:
    """The draw's member of every order, or the next one where another vector of the set has it."""
    taken: list[Vector] = []
    for order in orders:
        turned = (order[(draw + step) % len(order)] for step in range(len(order)))
        taken.append(next(one for one in turned if one not in taken))
    return tuple(taken)


def _tokens_of(lm: LM, asked: Asked) -> Tensor:
    """Token ids that stand for the concept."""
    if asked.concept.words:
        return torch.tensor(concept_tokens(lm.tokenizer, asked.concept.words).ids)
    first = asked.vectors[0]
    row = lm.weights.W_out(first.layer)[first.index].detach().float()
    count = min(TOP, max(2, lm.spec.vocab // 20))
    return (row @ lm.weights.W_U.detach().float()).topk(count).indices.cpu()


def _holds(row: Float[Tensor, " d_model"], unembedding: Float[Tensor, "d_model vocab"], ids: Tensor) -> bool:
    top = (row @ unembedding).topk(len(ids)).indices.cpu()
    return float(torch.isin(top, ids).float().mean()) >= HOLDS
