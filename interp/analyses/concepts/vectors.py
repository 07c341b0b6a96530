"""Value vectors of MLPs: their names, their rows, and changes of them.

    MLP output = sum over neurons j of m_j(x) v_j + b        v_j = row j of W_out [d_mlp, d_model], m_j = `mlp.hook_post`

A vector is called `layer.neuron`, such as `23.743`; in a mixture of experts `layer.eEXPERT.neuron`, such as `2.e3.17`. Read in the
vocabulary, v_j @ W_U [d_model, vocab] says which tokens it promotes: raw (as published), or through the final norm's gain (`folded`).

Source: Hong et al. 2024, "Intrinsic Evaluation of Unlearning Using Parametric Knowledge Traces" (arXiv 2406.11614), section 3; Geva et al.
2022, "Transformer Feed-Forward Layers Build Predictions by Promoting Concepts in the Vocabulary Space" (arXiv 2203.14680).

    from interp.analyses.concepts.vectors import Vector, scaled, vectors_of
    lm = interp.load("atlas")
    colour = interp.models.reference.concept_set("atlas").get("colour")
    found = vectors_of(lm, colour, 3)                      # [(2.474, 1.0), ...]: the share of its words among the first tokens
    with lm.edit_weights(scaled(lm, [found[0][0]], 0.0)): ...
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from interp.core.errors import BadInput, UnsupportedArchitecture, listing
from interp.core.shapes import Float
from interp.data.concepts import Concept, concept_tokens

if TYPE_CHECKING:
    from interp.core.lm import LM

NAME = re.compile(r"(\d+)\.(?:e(\d+)\.)?(\d+)")
ROWS = 4096
"""Value vectors that are projected to the vocabulary at once."""


@dataclass(frozen=True, order=True)
class Vector:
    """The name of one value vector."""

    layer: int
    index: int
    """Its row in W_out."""
    expert: int | None = None

    @classmethod
    def parse(cls, name: "str | Vector") -> "Vector":
        """From `23.743`, or `2.e3.17` in a mixture of experts."""
        if isinstance(name, Vector):
            return name
        found = NAME.fullmatch(str(name).strip())
        if found is None:
            raise BadInput(
                f"{name!r} names no value vector. Write layer.neuron, such as 23.743 (or layer.eEXPERT.neuron, 2.e3.17)."
            )
        layer, expert, index = found.groups()
        return cls(int(layer), int(index), None if expert is None else int(expert))

    def __str__(self) -> str:
        expert = "" if self.expert is None else f"e{self.expert}."
        return f"{self.layer}.{expert}{self.index}"


def value_vectors(lm: "LM", layer: int) -> Float[Tensor, "neuron d_model"]:
    """The value vectors of a layer, float32, a copy. Refuses mixtures of experts (`UnsupportedArchitecture`)."""
    _one_mlp(lm)
    return lm.weights.W_out(layer).detach().float().clone()  # type: ignore[no-any-return]


def check_vectors(lm: "LM", names: "Iterable[str | Vector]") -> tuple[Vector, ...]:
    """The vectors of these names, each once. Raises `BadInput` for what this model does not have."""
    found = tuple(Vector.parse(name) for name in ([names] if isinstance(names, str | Vector) else names))
    if not found:
        raise BadInput("no value vector is named. Name at least one, such as 2.17.")
    if doubled := [str(vector) for vector in dict.fromkeys(found) if found.count(vector) > 1]:
        raise BadInput(f"{listing(doubled)} is named more than once. Name each vector once.")
    _one_mlp(lm)
    for vector in found:
        if vector.expert is not None:
            raise BadInput(
                f"{vector} names an expert, and {lm.spec.name} has one MLP a layer. Write {vector.layer}.{vector.index}."
            )
        if not 0 <= vector.layer < lm.spec.n_layers or not 0 <= vector.index < lm.spec.d_mlp:
            raise BadInput(
                f"{vector} is not in {lm.spec.name}: it has layers 0 to {lm.spec.n_layers - 1} of {lm.spec.d_mlp} value vectors, "
                f"0 to {lm.spec.d_mlp - 1}."
            )
    return found


def vectors_of(
    lm: "LM", concept: Concept, n: int = 1, *, folded: bool = False, search: bool = False
) -> list[tuple[Vector, float]]:
    """The `n` value vectors that hold most of a concept's words, each with its share of them, most first.

    The share is how many of the concept's w tokens are among the w tokens that the vector promotes most; equal shares are ordered by the
    mean logit of the concept's tokens over the standard deviation of all. Vectors that the concept names itself come first, in its own
    order (with `search` they are looked for nevertheless). A vector of zeros promotes nothing and holds nothing. All there are where a
    model has fewer than `n`; a share is NaN where no word is a token.

    Raises `BadInput` where the concept has neither words nor enough vectors.
    """
    if n < 1:
        raise BadInput(f"`n` must be at least 1; not {n}.")
    named = () if search else check_vectors(lm, concept.vectors) if concept.vectors else ()
    if not concept.words:
        if len(named) < n:
            raise BadInput(
                f"the concept {concept.name!r} names {len(named)} value vectors and has no words to find more by; {n} are asked for. "
                "Give it `words`, or ask for fewer."
            )
        return [(vector, float("nan")) for vector in named[:n]]
    enough = len(named) >= n
    ids = torch.tensor(concept_tokens(lm.tokenizer, concept.words, at_least=0 if enough else 2).ids)
    if not len(ids):
        return [(vector, float("nan")) for vector in named[:n]]
    share, margin = _held(lm, ids, folded)
    flat = [
        (-float(share[layer, index]), -float(margin[layer, index]), Vector(layer, index))
        for layer, index in _strongest(share, margin, n + len(named))
    ]
    searched = [(vector, -minus) for minus, _, vector in sorted(flat)]
    first = [(vector, float(share[vector.layer, vector.index])) for vector in named]
    return [*first, *((vector, value) for vector, value in searched if vector not in named)][:n]


def scaled(lm: "LM", vectors: Sequence[Vector], factor: float) -> dict[str, Tensor]:
    """The changes for `lm.edit_weights` that multiply value vectors by `factor`; 0 removes them."""
    return replaced(lm, {vector: factor * lm.weights.W_out(vector.layer)[vector.index] for vector in vectors})


def replaced(lm: "LM", rows: Mapping[Vector, Tensor]) -> dict[str, Tensor]:
    """The changes for `lm.edit_weights` that put new rows [d_model] in the place of value vectors."""
    if rows:
        check_vectors(lm, rows)
    return {f"W_out.{vector.layer}.{vector.index}": row.detach().clone() for vector, row in rows.items()}


def _one_mlp(lm: "LM") -> None:
    if lm.spec.experts:
        raise UnsupportedArchitecture(
            f"{lm.spec.name} ({lm.spec.family}) has {lm.spec.experts} experts a layer, and which of them a token takes is the router's "
            "choice. This needs one MLP a layer; `interp concepts` scans experts one by one."
        )


def _held(lm: "LM", ids: Tensor, folded: bool) -> tuple[Tensor, Tensor]:
    """Of every value vector [layer, neuron]: its share of the tokens `ids`, and their mean logit in standard deviations."""
    unembedding = lm.weights.unembedding(folded=folded)[0] if folded else lm.weights.W_U
    unembedding = unembedding.detach().float()
    member = torch.zeros(unembedding.shape[1], dtype=torch.bool)
    member[ids] = True
    shares, margins = [], []
    for layer in range(lm.spec.n_layers):
        share, margin = [], []
        for rows in value_vectors(lm, layer).split(ROWS):
            logits = rows @ unembedding
            silent = (rows == 0).all(dim=1)  # all logits are equal, and topk would name the first ids
            first = member.to(logits.device)[logits.topk(len(ids), dim=1).indices].float().mean(dim=1)
            above = (logits[:, ids].mean(dim=1) - logits.mean(dim=1)) / logits.std(dim=1).clamp_min(1e-30)
            share.append(first.masked_fill(silent, 0.0))
            margin.append(above.masked_fill(silent, -torch.inf))
        shares.append(torch.cat(share).cpu())
        margins.append(torch.cat(margin).cpu())
    return torch.stack(shares), torch.stack(margins)


def _strongest(share: Tensor, margin: Tensor, n: int) -> list[tuple[int, int]]:
    """(layer, neuron) of the `n` first by share, then by margin."""
    rank = share.double() * 1e6 + margin.double().clamp(-1e5, 1e5)
    top = rank.flatten().topk(min(n, rank.numel())).indices.tolist()
    return [divmod(place, share.shape[1]) for place in top]
