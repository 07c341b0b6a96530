"""What one concept is judged on: its value vectors in their order, and every related and unrelated prompt as tokens with a target."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from interp.core.batch import Batch
from interp.core.errors import BadInput, UnsupportedArchitecture
from interp.core.lm import LM
from interp.data.concepts import Concept, Concepts
from interp.data.prompts import Prompt
from interp.data.tokens import Answers, TokenPrompt, tokenize

from ..vectors import Vector, vectors_of

KINDS = ("related", "unrelated")
SIZES = (1, 4, 16)
"""How many vectors are damaged together by default, where words can find so many."""
LACKING = {
    "related": ("what the damage should do", "`QA` (Concept.related)", "whose answers need it"),
    "unrelated": ("what the damage should leave alone", "`unrelated_QA` (Concept.unrelated)", "about other things"),
}


@dataclass(frozen=True, eq=False)
class Asked:
    """One concept with all that is measured on it."""

    concept: Concept
    vectors: tuple[Vector, ...]
    """The first ones hold most; a set of n are the first n."""
    shares: tuple[float, ...]
    """Share of the concept's words among the first tokens of each vector; NaN where there are no words."""
    sizes: tuple[int, ...]
    tokens: tuple[TokenPrompt, ...]
    """Related prompts, then unrelated ones."""
    kinds: np.ndarray
    """`related` or `unrelated`, [prompt]."""

    @property
    def layers(self) -> list[int]:
        """Layers that any of the vectors lies in."""
        return sorted({vector.layer for vector in self.vectors})


@dataclass(frozen=True, eq=False)
class Group:
    """Rows of one length with as many target tokens each: `prompt + target[:-1]`."""

    places: tuple[int, ...]
    """Which prompt each row is."""
    batch: Batch
    targets: Tensor
    """Tokens that are looked for at the last positions, int64 [row, token]."""

    @property
    def length(self) -> int:
        """Tokens of the prompts."""
        return self.batch.tokens.shape[1] - self.targets.shape[1] + 1

    @property
    def positions(self) -> range:
        """Where the target's tokens are predicted."""
        return range(self.length - 1, self.batch.tokens.shape[1])


def asked_of(
    lm: LM,
    data: Any,
    *,
    names: Sequence[str] = (),
    sizes: Sequence[int] = (),
    prompts: int | None = None,
    answers: Answers = "whole",
    bos: bool | None = None,
    folded: bool = False,
    tokens: int = 0,
) -> list[Asked]:
    """The concepts of these `names` (all where none is given) as tokens, with their vectors.

    Raises `BadInput` for what cannot be judged, `UnsupportedArchitecture` for experts.
    """
    if isinstance(data, Concept):
        data = Concepts([data])
    if not isinstance(data, list) or not data or not all(isinstance(one, Concept) for one in data):
        raise BadInput(
            "this needs concepts: `interp.data.concepts('file.json')`, `interp.models.reference.concept_set('atlas')`, or a `Concept`; "
            f"not {type(data).__name__}{'' if data else ', and an empty one'}."
        )
    if lm.spec.experts:
        raise UnsupportedArchitecture(
            f"{lm.spec.name} ({lm.spec.family}) has {lm.spec.experts} experts a layer, each with value vectors of its own that only the "
            "tokens routed to it meet. Damage of single experts' vectors is not proven here: use a model with one MLP a layer."
        )
    chosen = Concepts(data).named(names)
    return [_asked(lm, one, sizes, prompts, answers, bos, folded, tokens) for one in chosen]


def _asked(
    lm: LM, concept: Concept, sizes: Sequence[int], prompts: int | None, answers: Answers, bos: bool | None, folded: bool, tokens: int
) -> Asked:  # fmt: skip
    chosen = tuple(sizes) or _sizes(concept)
    if max(chosen) > lm.spec.n_layers * lm.spec.d_mlp:
        raise BadInput(
            f"{lm.spec.name} has {lm.spec.n_layers * lm.spec.d_mlp} value vectors, and sets of {max(chosen)} are asked for. Ask for "
            "smaller `sizes`."
        )
    found = vectors_of(lm, concept, max(chosen), folded=folded)
    kept = {kind: getattr(concept, kind)[:prompts] for kind in KINDS}
    for kind, given in kept.items():
        if not given:
            lacks, field, what = LACKING[kind]
            raise BadInput(
                f"the concept {concept.name!r} has no {kind} prompts, so nothing says {lacks}. Give it {field}: questions {what}."
            )
    both = {prompt.text for prompt in kept["related"]} & {prompt.text for prompt in kept["unrelated"]}
    if both:
        raise BadInput(
            f"the concept {concept.name!r} has {sorted(both)[0]!r} among its related and its unrelated prompts. Keep it in one of them."
        )
    rows = [_tokens(lm, concept, prompt, answers, bos, tokens) for kind in KINDS for prompt in kept[kind]]
    kinds = np.repeat(KINDS, [len(kept[kind]) for kind in KINDS])
    return Asked(
        concept, tuple(v for v, _ in found), tuple(share for _, share in found), chosen, tuple(rows), kinds
    )  # fmt: skip


def _sizes(concept: Concept) -> tuple[int, ...]:
    """All vectors that a concept names, one by one up to four and then doubled; without any, 1, 4 and 16 that its words find."""
    n = len(concept.vectors)
    if not n:
        return SIZES
    steps = {1, n} | {size for size in (2, 4, 8, 16, 32, 64, 128, 256) if size < n}
    return tuple(sorted(steps))


def _tokens(lm: LM, concept: Concept, prompt: Prompt, answers: Answers, bos: bool | None, tokens: int) -> TokenPrompt:
    try:
        found = tokenize(prompt, lm.tokenizer, bos=bos, answers=answers, n_ctx=lm.spec.n_ctx)
    except BadInput as error:
        raise type(error)(f"concept {concept.name!r}: {error}") from None
    if tokens and len(found) + tokens > lm.spec.n_ctx:
        raise BadInput(
            f"concept {concept.name!r}: the prompt {prompt.text[:80]!r} has {len(found)} tokens, and {tokens} more are to be generated; "
            f"the context of {lm.spec.name} is {lm.spec.n_ctx}. Ask for fewer `tokens`, or shorten it."
        )
    return found


def groups_of(tokens: Sequence[Sequence[int]], targets: Sequence[Sequence[int]], batch_tokens: int) -> list[Group]:
    """Rows in groups of one length and one number of target tokens, of at most so many tokens; rows without a target are left out."""
    alike: dict[tuple[int, int], list[int]] = defaultdict(list)
    for place, (prompt, target) in enumerate(zip(tokens, targets, strict=True)):
        if len(target):
            alike[len(prompt), len(target)].append(place)
    groups = []
    for (length, count), places in sorted(alike.items()):
        step = max(1, batch_tokens // (length + count - 1))
        for first in range(0, len(places), step):
            part = tuple(places[first : first + step])
            rows = [[*tokens[place], *targets[place][:-1]] for place in part]
            groups.append(Group(part, Batch.of(rows), torch.tensor([list(targets[place]) for place in part])))
    return groups
