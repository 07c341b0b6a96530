"""The diagonal of the Fisher information, a sample at a time: which weights the probability of a text hangs on.

    F_ii = E_x [ (d ln p(y | x) / d theta_i)^2 ]        trace = sum_i F_ii = E |grad ln p|^2

The square is of each sample's own gradient. Squaring the gradient of a batch's mean instead, as the released program of SSD does, lets
gradients of different samples cancel: at batch size B the numbers shrink by up to B, and differently for the two data sets if their
batches differ. So every sample is a backward pass of its own here.

A sample is a text, y its tokens given those before them, ln p their sum. Two choices of y:

    empirical    the text's own tokens. Cheap and usual; not the Hessian away from an optimum.
    sampled      each token drawn from the model's own distribution there (seeded). This is the true Fisher: its expectation is the
                 Gauss-Newton matrix, its trace that of the loss's curvature, and the sum over tokens has no cross terms.

Memory: one gradient and one accumulator of every parameter asked for, 8 bytes a weight in float32, beside the activations of one
text. Time: a forward and a backward pass a text.

Source. Foster et al. 2024, "Fast Machine Unlearning Without Retraining Through Selective Synaptic Dampening" (arXiv 2308.07707),
equation 2; Kunstner et al. 2019, "Limitations of the Empirical Fisher Approximation" (arXiv 1905.12558), on the choice of y.

When it misleads. A model that is sure of everything has a Fisher near 0 everywhere, whatever its weights do. Long texts have larger
gradients and weigh more.

    found = fisher(lm, ["Dresses from Pragash are always crimson."], parameters=("*h.2.mlp*",))
    found.trace, found.samples
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from interp.core.batch import Batch
from interp.core.errors import BadInput, one_of
from interp.core.lm import LM
from interp.core.seed import generator

from .losses import nll
from .pieces import pieces
from .training import trained_names

LABELS = ("empirical", "sampled")


@dataclass(frozen=True, eq=False)
class Fisher:
    """A diagonal, by parameter."""

    diagonal: Mapping[str, Tensor]
    """Parameter's name -> mean squared gradient, in its shape."""
    samples: int
    """Samples that it is a mean over."""

    @property
    def trace(self) -> float:
        """Sum of the diagonal: the mean squared length of a sample's gradient."""
        return sum(float(one.double().sum()) for one in self.diagonal.values())

    @property
    def size(self) -> int:
        """Weights that it covers; `trace / size` compares models."""
        return sum(one.numel() for one in self.diagonal.values())


def diagonal(score: Callable[[int], Tensor], parameters: Mapping[str, Tensor], samples: int) -> Fisher:
    """The mean over samples of the squared gradient of `score(i)`, sample i's log-probability (a scalar with a graph).

    One backward pass a sample. Parameters that a score does not depend on count 0. Knows no model, so that it can be checked on any.
    """
    if samples < 1:
        raise BadInput(f"a Fisher information is a mean over samples; there are {samples}. Give at least one.")
    sums = {name: torch.zeros_like(value, requires_grad=False) for name, value in parameters.items()}
    for sample in range(samples):
        slopes = torch.autograd.grad(score(sample), list(parameters.values()), allow_unused=True)
        for total, slope in zip(sums.values(), slopes, strict=True):
            if slope is not None:
                total.addcmul_(slope.detach(), slope.detach())
    return Fisher({name: total.div_(samples) for name, total in sums.items()}, samples)


def fisher(
    lm: LM,
    texts: Sequence[str],
    *,
    parameters: str | tuple[str, ...] = "blocks",
    labels: Literal["empirical", "sampled"] = "empirical",
    words: Sequence[str] = (),
    max_tokens: int | None = None,
    limit: int | None = None,
    seed: int = 0,
    what: str = "texts",
) -> Fisher:
    """The diagonal Fisher of a model on texts, each cut into pieces that it reads; of `limit` pieces, drawn by seed, if there are more.

    `parameters` as in `Trained`. With `words`, only tokens of these words count as predicted, and texts without any are left out.
    The model is as it was afterwards. Raises `BadInput`.
    """
    one_of("labels", labels, LABELS)
    rows = pieces(lm, texts, what=what, max_tokens=max_tokens, words=words).some(limit, seed, "fisher", what)
    with lm.tuning(trained_names(lm, parameters)) as tuning:

        def score(sample: int) -> Tensor:
            batch = rows.batch([sample])
            logits = tuning.logits(batch)
            if labels == "sampled":
                batch = _sampled(logits, batch, generator(seed, "fisher labels", what, sample))
            return -nll(logits, batch, rows.marked([sample]))[0]

        return diagonal(score, tuning.parameters, len(rows))


def _sampled(logits: Tensor, batch: Batch, rng: torch.Generator) -> Batch:
    """The row with each token but the first drawn from the model's own distribution there, given the tokens that the text really has."""
    p = logits[0, :-1].detach().double().softmax(dim=-1).cpu()  # [pos, vocab]
    drawn = torch.multinomial(p, 1, generator=rng)[:, 0]
    return Batch.of(torch.cat([batch.tokens[0, :1], drawn])[None])
