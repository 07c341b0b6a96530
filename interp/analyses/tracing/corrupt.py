"""Corruption: the noise that takes the subject away, and how large it is.

    e[t] <- e[t] + v z        z ~ N(0, 1),  v = 3 sigma,  at the subject's tokens only

`sigma` is the standard deviation over all entries of the token embeddings of every subject, tokenised alone (ROME), as they enter the
residual stream: where a model scales its embeddings (Gemma), the noise scales along. E|v z|^2 = 9 d sigma^2 a token for v = 3 sigma.
The same draw serves every cell of a prompt, so that effects are paired and an empty restoration reproduces the corrupted score.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from interp.core.errors import BadInput, SpanError
from interp.core.lm import LM
from interp.core.seed import generator
from interp.core.site import Site
from interp.data.tokens import TokenPrompt

EMBED = Site("embed")


def sigma_of(lm: LM, source: str, prompts: Sequence[TokenPrompt]) -> float:
    """One standard deviation: of the subjects' token embeddings, of the whole vocabulary's, or 1."""
    if source == "unit":
        return 1.0
    if source == "vocabulary":
        documents = list(torch.arange(lm.spec.vocab).split(min(lm.spec.n_ctx, 512)))
    else:
        words = [subject_of(tokens) for tokens in prompts]
        documents = [torch.tensor(lm.tokenizer.encode(word, bos=False).ids) for word in words]
    count, total, square = 0, 0.0, 0.0
    for first in range(0, len(documents), 64):
        x = lm.read(documents[first : first + 64], [EMBED])[EMBED].double()
        count, total, square = count + x.numel(), total + float(x.sum()), square + float((x * x).sum())
    if count < 2:
        raise BadInput("sigma needs at least two embedding entries. Give prompts with subjects, or sigma='vocabulary'.")
    return float(np.sqrt((square - total**2 / count) / (count - 1)))


def subject_of(tokens: TokenPrompt) -> str:
    """The subject's words; refuses a prompt that marks none."""
    if "subject" not in tokens.prompt.spans:
        raise SpanError(
            f"the prompt {tokens.prompt.text!r} marks no subject to corrupt. Build it with Prompt.of(text, subject=...), "
            "or trace a PromptPair with corruption='counterfactual'."
        )
    return tokens.prompt.span("subject")


def noise_value(tokens: TokenPrompt, *, samples: int, d_model: int, scale: float, seed: int, rng: str) -> Tensor:
    """What is added to `hook_embed`, [samples, pos, d_model]: `scale` times normal draws at the subject, zero elsewhere."""
    start, end = tokens.spans["subject"]
    if tokens.bos and start == 0:
        raise SpanError(
            f"the subject of {tokens.prompt.text!r} begins at the BOS, which is never corrupted. Mark the words only."
        )
    shape = (samples, end - start, d_model)
    if rng == "numpy":  # ROME's own stream: the same draw for every prompt, in double precision
        draw = torch.from_numpy(np.random.RandomState(1).randn(*shape))
    else:
        draw = torch.randn(shape, generator=generator(seed, "noise", tokens.id))
    value = torch.zeros(samples, len(tokens), d_model, dtype=draw.dtype)
    value[:, start:end] = scale * draw
    return value
