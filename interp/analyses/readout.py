"""What is read off the logits at the answer position: four numbers a row, the same for every method that intervenes.

    prob        P(answer)                      saturates near 0 and 1 and hides what acts against the answer
    logprob     ln P(answer)                   nats; also moves when unrelated tokens move
    logit_diff  logit(answer) - logit(foil)    linear in the final residual stream up to the final norm; the one to prefer
    rank        how many tokens are more probable than the answer; 0 = it is the top one. Lower is better: effects have the other sign

(Zhang & Nanda 2024, arXiv 2309.16042, section 3, on why the choice matters.)

For an answer of several tokens that is scored whole, `logprob` is the sum over its tokens, each predicted from the prompt and the tokens
before it; `prob` its exponential; `rank` the largest of the tokens' ranks, 0 where greedy decoding gives the whole answer; and
`logit_diff` is not defined: NaN, and never averaged silently.
"""

import torch
from torch import Tensor

METRICS = ("prob", "logprob", "logit_diff", "rank")


def read_metrics(logits: Tensor, answer: int | Tensor, foil: int | Tensor) -> Tensor:
    """The four metrics of logits [..., vocab], float64 [..., metric] in the order of `METRICS`.

    `answer` and `foil` are token ids, one for all or tensors that broadcast against the leading axes.
    """
    wide = logits if logits.dtype == torch.float64 else logits.float()
    lead = wide.shape[:-1]
    answer = torch.as_tensor(answer, device=wide.device).expand(lead)[..., None]
    foil = torch.as_tensor(foil, device=wide.device).expand(lead)[..., None]
    right = wide.gather(-1, answer)  # [..., 1]
    logprob = right - wide.logsumexp(dim=-1, keepdim=True)
    rank = (wide > right).sum(dim=-1, keepdim=True)
    columns = [logprob.double().exp(), logprob.double(), (right - wide.gather(-1, foil)).double(), rank.double()]
    return torch.cat(columns, dim=-1).cpu()


def whole_answer(values: Tensor, *, contrast: Tensor | None = None) -> Tensor:
    """The metrics of an answer [..., metric] from those of its tokens [..., token, metric], both float64 in the order of `METRICS`.

    One token is itself. `contrast` is bool and broadcasts against the leading axes: where it is False, `logit_diff` is NaN (a foil of
    several tokens has no logit of its own).
    """
    if values.shape[-2] == 1:
        whole = values[..., 0, :].clone()
    else:
        logprob = values[..., METRICS.index("logprob")].sum(dim=-1)
        rank = values[..., METRICS.index("rank")].amax(dim=-1)
        whole = torch.stack([logprob.exp(), logprob, torch.full_like(logprob, torch.nan), rank], dim=-1)
    if contrast is not None:
        gap = METRICS.index("logit_diff")
        whole[..., gap] = torch.where(contrast, whole[..., gap], torch.nan)
    return whole


def best_wrong(logits: Tensor, answer: int) -> int:
    """The most probable token that is not the answer, from logits [vocab]: the foil where a prompt names none."""
    rival = logits.clone()
    rival[answer] = -torch.inf
    return int(rival.argmax())
