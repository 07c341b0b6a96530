"""What a model says and expects: answers by greedy generation, and the log-probability of every token of given texts."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from interp.core.lm import LM
from interp.core.site import Site
from interp.data.corpora import pack

from ...streams import token_scores


class Expected(NamedTuple):
    """How a model expected the tokens of one text."""

    logp: np.ndarray
    """Log-probability of each token but the first, float64 [token - 1]."""
    first: np.ndarray
    """Whether it was the most probable one, bool [token - 1]."""


def expect(lm: LM, documents: Sequence[Tensor], budget: int) -> list[Expected]:
    """Score every token of each document (ids [token], two or more) given those before it; `budget` tokens a forward pass."""
    last = Site("resid_post", lm.spec.n_layers - 1)
    found: list[Expected] = [None] * len(documents)  # type: ignore[list-item]
    for part in pack([len(document) for document in documents], budget) if documents else []:
        read = lm.read([documents[place] for place in part], [last])[last]
        for place, stream in zip(part, read.split([len(documents[place]) for place in part]), strict=True):
            pieces = [
                (logp.gather(-1, target[:, None])[:, 0], logp.argmax(dim=-1) == target)
                for _, logp, target in token_scores(lm, stream, documents[place])
            ]
            logp, first = (torch.cat(column).cpu() for column in zip(*pieces, strict=True))
            found[place] = Expected(logp.double().numpy(), first.numpy())
    return found


def next_token(lm: LM, prompts: Sequence[Tensor], budget: int) -> Tensor:
    """Log-probabilities of the token after each prompt, float32 [prompt, vocab]."""
    last = Site("resid_post", lm.spec.n_layers - 1)
    rows: list[Tensor] = [torch.empty(0)] * len(prompts)
    for part in pack([len(prompt) for prompt in prompts], budget):
        lengths = [len(prompts[place]) for place in part]
        read = lm.read([prompts[place] for place in part], [last])[last]
        ends = torch.tensor(lengths).cumsum(0) - 1
        logp = lm.unembed(read[ends.to(read.device)]).float().log_softmax(dim=-1).cpu()
        for place, row in zip(part, logp, strict=True):
            rows[place] = row
    return torch.stack(rows)


def answers(lm: LM, prompts: Sequence[Tensor], tokens: int) -> list[tuple[tuple[int, ...], str]]:
    """What greedy generation puts after each prompt (ids [token]): at most `tokens` ids, no prompt and no end-of-text, and text."""
    if not prompts:
        return []
    said = lm.generate([prompt.tolist() for prompt in prompts], tokens)
    ids = [new[: len(new) - ended] for new, ended in zip(said.ids, said.ended, strict=True)]
    return list(zip(ids, said.texts, strict=True))


def least_probable(logp: np.ndarray, share: float) -> float:
    """Mean log-probability of the `share` of tokens that were expected least (Min-K% Prob, Shi et al. 2023); at least one token."""
    count = max(1, int(len(logp) * share))
    return float(np.sort(logp)[:count].mean())


def auc(positive: np.ndarray, negative: np.ndarray) -> float:
    """Probability that a score of the first kind is above one of the second; ties count half. NaN where one kind is missing."""
    if not len(positive) or not len(negative):
        return float("nan")
    ordered = np.sort(negative)
    below, up_to = (np.searchsorted(ordered, positive, side=side) for side in ("left", "right"))
    return float((below + up_to).sum() / (2 * len(positive) * len(negative)))
