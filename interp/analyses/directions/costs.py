"""What an edit does to a model's predictions on texts: KL divergence from the untouched model, and loss, a token."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from interp.core.batch import Batch
from interp.core.errors import BadInput
from interp.data import pack

if TYPE_CHECKING:
    from interp.core.lm import LM

BUDGET = 512
"""Tokens whose distributions over the vocabulary are held at once."""


@dataclass(frozen=True, eq=False)
class TokenCosts:
    """Means over the tokens of each text."""

    kl: np.ndarray
    """KL(untouched || edited), nats a token [text]."""
    loss: np.ndarray
    """Nats a token of the edited model [text]; NaN for texts of one token."""


def token_costs(
    lm: "LM", texts: Sequence[Sequence[int]], bos: bool, edits: Callable[[Batch], Sequence[Any]] | None = None
) -> TokenCosts:
    """Costs of running texts (token ids, `bos` whether with a BOS) under `edits(batch)`; None runs the model untouched, whose KL is 0."""
    if not texts:
        raise BadInput("there are no texts to measure the cost on. Give at least one.")
    kl, loss = np.zeros(len(texts)), np.full(len(texts), np.nan)
    for part in pack([len(text) for text in texts], BUDGET):
        batch = Batch.padded([texts[place] for place in part])
        before = lm.run(batch).logits
        after = before if edits is None else lm.run(batch, edits=edits(batch)).logits
        assert before is not None and after is not None
        for row, place in enumerate(part):
            start, end = int(bos), len(texts[place])
            p = before[row, start:end].float().log_softmax(dim=-1)
            q = after[row, start:end].float().log_softmax(dim=-1)
            kl[place] = float((p.exp() * (p - q)).sum(dim=-1).double().mean())
            if end - start > 1:
                target = batch.tokens[row, start + 1 : end].to(q.device)
                loss[place] = -float(q[:-1].gather(-1, target[:, None]).double().mean())
    return TokenCosts(kl, loss)
