"""Corruption: what takes the subject away, and how much of it.

    noise           e[t] <- e[t] + v z        z ~ N(0, 1),  v = 3 sigma,  at the subject's tokens only
    uniform         e[t] <- e[t] + v u        u ~ U(-1, 1)
    zero            e[t] <- 0
    mean            e[t] <- the mean token embedding of all subjects given, or of the vocabulary
    resample        the tokens of another prompt's subject of as many tokens
    counterfactual  the tokens of the other prompt of a pair

`sigma` is the standard deviation over all entries of the token embeddings of every subject, tokenised alone (ROME), as they enter the
residual stream: where a model scales its embeddings (Gemma), the noise scales along. E|v z|^2 = 9 d sigma^2 a token for v = 3 sigma.
The same draw serves every cell of a prompt, so that effects are paired and an empty restoration reproduces the corrupted score. A draw
is named by the seed and the prompt's id, so it does not depend on which other prompts are traced.

When it misleads: noise, zero and mean embeddings are no tokens that the model has seen. Resampled subjects are; but another subject may
share the answer, and then nothing is lost.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from interp.core.batch import At, Batch
from interp.core.edit import Edit, add, replace
from interp.core.errors import BadInput
from interp.core.lm import LM
from interp.core.seed import generator
from interp.core.site import Site
from interp.data.tokens import TokenPrompt

from .jobs import Job, subject_of

if TYPE_CHECKING:
    from .trace import CausalTrace

CORRUPTIONS = ("noise", "uniform", "zero", "mean", "resample", "counterfactual")
DRAWN = ("noise", "uniform", "resample")
"""Corruptions of which several draws are averaged."""
EMBED = Site("embed")


@dataclass(frozen=True, eq=False)
class Corruption:
    """A corruption, measured on the prompts at hand. Build one with `corruption_of`."""

    config: "CausalTrace"
    d_model: int
    sigma: float = float("nan")
    """One standard deviation of the noise; NaN where there is none."""
    mean: Tensor | None = None
    """The mean embedding [d_model] of corruption='mean'."""
    donors: dict[int, list[tuple[int, ...]]] = field(default_factory=dict)
    """Tokens of the subjects of each length, for corruption='resample'."""

    def rows(self, jobs: Sequence[Job]) -> tuple[Batch, list[Edit]]:
        """The corrupted rows of jobs of equal length, each `config.draws` times: tokens, and edits of the embedding."""
        draws, kind = self.config.draws, self.config.corruption
        ids = torch.tensor([job.corrupted_ids for job in jobs]).repeat_interleave(draws, dim=0)  # [row, pos]
        where = torch.zeros(ids.shape, dtype=torch.bool)
        for index, job in enumerate(jobs):
            where[index * draws : (index + 1) * draws, slice(*job.tokens.spans["subject"])] = True
        at = At.mask(where)
        if kind == "resample":
            for index, job in enumerate(jobs):
                for draw, donor in enumerate(self._donors(job)):
                    ids[index * draws + draw, slice(*job.tokens.spans["subject"])] = torch.tensor(donor)
        edits = []
        if kind in ("noise", "uniform"):
            edits = [add(EMBED, torch.cat([self._noise(job) for job in jobs]), at=at)]
        elif kind == "zero":
            edits = [replace(EMBED, 0.0, at=at)]
        elif kind == "mean":
            assert self.mean is not None
            edits = [replace(EMBED, self.mean, at=at)]
        return Batch.of(ids), edits

    def _noise(self, job: Job) -> Tensor:
        config = self.config
        value = noise_value(
            job.tokens, samples=config.draws, d_model=self.d_model, scale=self.sigma * config.noise, seed=config.seed,
            rng=config.rng, uniform=config.corruption == "uniform",
        )  # fmt: skip
        tail = value.new_zeros(len(value), len(job.ids) - value.shape[1], self.d_model)  # the answer's tokens
        return torch.cat([value, tail], dim=1)

    def _donors(self, job: Job) -> list[tuple[int, ...]]:
        """One subject for each draw: all others of this length in random order, over again where they are fewer."""
        others = [ids for ids in self.donors[len(job.subject_ids)] if ids != job.subject_ids]
        order = torch.randperm(len(others), generator=generator(self.config.seed, "resample", job.tokens.id)).tolist()
        return [others[order[draw % len(order)]] for draw in range(self.config.draws)]


def corruption_of(config: "CausalTrace", lm: LM, jobs: Sequence[Job]) -> Corruption:
    """The corruption of a config for these jobs: noise scaled, means taken, donors found. Raises `BadInput`."""
    width = lm.spec.d_model
    if config.corruption in ("noise", "uniform"):
        return Corruption(config, width, sigma=sigma_of(lm, config.sigma, [job.tokens for job in jobs]))
    if config.corruption == "mean":
        return Corruption(config, width, mean=mean_embedding(lm, config.mean_of, jobs))
    if config.corruption == "resample":
        return Corruption(config, width, donors=donors_of(jobs))
    return Corruption(config, width)


def donors_of(jobs: Sequence[Job]) -> dict[int, list[tuple[int, ...]]]:
    """Different subjects by their number of tokens. Raises `BadInput` where a subject has no other of its length."""
    donors: dict[int, list[tuple[int, ...]]] = {}
    for ids in sorted({job.subject_ids for job in jobs}):
        donors.setdefault(len(ids), []).append(ids)
    alone = [job for job in jobs if len(donors[len(job.subject_ids)]) < 2]
    if alone:
        told = ", ".join(f"{job.subject!r} ({len(job.subject_ids)} tokens)" for job in alone[:5])
        raise BadInput(
            f"corruption='resample' puts another prompt's subject of as many tokens in its place; {len(alone)} of {len(jobs)} prompts "
            f"have no such partner: {told}. Give more prompts, leave these out, or choose another corruption."
        )
    return donors


def sigma_of(lm: LM, source: str, prompts: Sequence[TokenPrompt]) -> float:
    """One standard deviation: of the subjects' token embeddings, of the whole vocabulary's, or 1."""
    if source == "unit":
        return 1.0
    words = [] if source == "vocabulary" else [subject_of(tokens) for tokens in prompts]
    documents = [torch.tensor(lm.tokenizer.encode(word, bos=False).ids) for word in words]
    total, square, count, width = _sums(lm, documents or _vocabulary(lm))
    count *= width
    if count < 2:
        raise BadInput("sigma needs at least two embedding entries. Give prompts with subjects, or sigma='vocabulary'.")
    return float(np.sqrt((square - float(total.sum()) ** 2 / count) / (count - 1)))


def mean_embedding(lm: LM, source: str, jobs: Sequence[Job]) -> Tensor:
    """Mean token embedding [d_model], float64: of every token of every prompt's subject, or of the vocabulary."""
    documents = _vocabulary(lm) if source == "vocabulary" else [torch.tensor(job.subject_ids) for job in jobs]
    total, _, count, _ = _sums(lm, documents)
    return total / count


def noise_value(
    tokens: TokenPrompt, *, samples: int, d_model: int, scale: float, seed: int, rng: str, uniform: bool = False
) -> Tensor:
    """What is added to `hook_embed`, [samples, pos, d_model]: `scale` times draws at the subject, zero elsewhere."""
    start, end = tokens.spans["subject"]
    shape = (samples, end - start, d_model)
    if rng == "numpy":  # ROME's own stream: the same draw for every prompt, in double precision
        stream = np.random.RandomState(1)
        draw = torch.from_numpy(stream.uniform(-1, 1, shape) if uniform else stream.randn(*shape))
    elif uniform:
        draw = 2 * torch.rand(shape, generator=generator(seed, "noise", tokens.id)) - 1
    else:
        draw = torch.randn(shape, generator=generator(seed, "noise", tokens.id))
    value = torch.zeros(samples, len(tokens), d_model, dtype=draw.dtype)
    value[:, start:end] = scale * draw
    return value


def _vocabulary(lm: LM) -> list[Tensor]:
    return list(torch.arange(lm.spec.vocab).split(min(lm.spec.n_ctx, 512)))


def _sums(lm: LM, documents: Sequence[Tensor]) -> tuple[Tensor, float, int, int]:
    """Sum [d_model] and sum of squares of the token embeddings of documents, float64; tokens and width."""
    total, square, count = torch.zeros(lm.spec.d_model, dtype=torch.float64), 0.0, 0
    for first in range(0, len(documents), 64):
        x = lm.read(documents[first : first + 64], [EMBED])[EMBED].double().cpu()  # [token, d_model]
        total, square, count = total + x.sum(dim=0), square + float((x * x).sum()), count + len(x)
    return total, square, count, lm.spec.d_model
