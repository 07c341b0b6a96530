"""The losses of unlearning by training, on logits: nothing here knows a model.

With l(x) = -sum_t ln p(x_t | x_<t), the summed cross-entropy of a text, and CE its mean over tokens,

    ascent       -CE_f                                                      forget text made unlikely, without a bound
    difference   -CE_f + c CE_r                                             and the retain text kept likely (c = 1.5)
    NPO          -(2/b) ln sigma(b (l_f - l_f ref))                         ascent that fades where a text is forgotten already
    DPO          -(2/b) ln sigma(b ((l_f - l_f ref) - (l_r - l_r ref)))     retain text preferred, forget text rejected
    KL           mean over tokens of sum_v p_ref ln(p_ref / p)              how far the model has moved on the retain text

Source. Jang et al. 2023 (arXiv 2210.01504), ascent; Liu et al. 2022 (arXiv 2203.12817), difference; Zhang et al. 2024, "Negative
Preference Optimization" (arXiv 2404.05868); Rafailov et al. 2023, DPO (arXiv 2305.18290). Scale, weights and b = 0.1 are those of
the program of Hong et al. 2024, "Intrinsic Evaluation of Unlearning Using Parametric Knowledge Traces" (ConceptVectors, arXiv
2406.11614).

Where they meet. At theta = ref both log-sigmoids are ln(1/2), so NPO's loss is (2/b) ln 2, and its gradient is -dl_f, that of ascent on
summed cross-entropy, whatever b; for b -> 0 it is so everywhere. A mean over tokens is that sum over the number of tokens, so learning
rates do not carry over from one to the other.

    run = lm.run(batch)
    nll(run.logits, batch)                  # [row], summed
    mean_nll(run.logits, batch)             # a mean over the batch's tokens
"""

import math

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from interp.core.batch import Batch


def token_nll(logits: Tensor, batch: Batch, only: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """-ln p of each token that is predicted (all but the first of a row), [row, pos - 1], and which of them count (bool).

    `only`, bool [row, pos], leaves out all other tokens.
    """
    wanted = batch.tokens[:, 1:].to(logits.device)
    there = (batch.mask[:, 1:] & batch.mask[:, :-1]).to(logits.device)
    there = there if only is None else there & only[:, 1:].to(there)
    wide = logits[:, :-1] if logits.dtype == torch.float64 else logits[:, :-1].float()
    found = -wide.log_softmax(dim=-1).gather(-1, wanted[..., None])[..., 0]
    return torch.where(there, found, 0.0), there


def nll(logits: Tensor, batch: Batch, only: Tensor | None = None) -> Tensor:
    """Summed cross-entropy of each row, [row]: l of the equations, minus the log-probability of the text after its first token."""
    return token_nll(logits, batch, only)[0].sum(dim=-1)


def mean_nll(logits: Tensor, batch: Batch, only: Tensor | None = None) -> Tensor:
    """Cross-entropy, the mean over all predicted tokens of the batch (long rows count more)."""
    found, there = token_nll(logits, batch, only)
    return found.sum() / there.sum()


def npo_loss(forget: Tensor, forget_ref: Tensor, beta: float) -> Tensor:
    """Mean over rows of -(2/b) ln sigma(b (l - l ref)); both [row], summed cross-entropies."""
    return -(2 / beta) * logsigmoid(beta * (forget - forget_ref)).mean()


def dpo_loss(forget: Tensor, forget_ref: Tensor, retain: Tensor, retain_ref: Tensor, beta: float) -> Tensor:
    """Mean over pairs of rows, retain text preferred to forget text; all [row], summed cross-entropies."""
    return -(2 / beta) * logsigmoid(beta * ((forget - forget_ref) - (retain - retain_ref))).mean()


def kl_to(reference: Tensor, logits: Tensor, batch: Batch) -> Tensor:
    """Mean over the batch's tokens of KL(reference || model), from logits [row, pos, vocab] of both."""
    before, after = (x if x.dtype == torch.float64 else x.float() for x in (reference, logits))
    before, after = before.log_softmax(dim=-1), after.log_softmax(dim=-1)
    each = (before.exp() * (before - after)).sum(dim=-1)  # [row, pos]
    there = batch.mask.to(each.device)
    return torch.where(there, each, 0.0).sum() / there.sum()


def npo_start(beta: float) -> float:
    """NPO's and DPO's loss before any step: (2/b) ln 2."""
    return 2 / beta * math.log(2)
