"""Scores of an edit, from probabilities of whole target sequences before and after it.

    rewrite, paraphrase    max(2e-8, (p' - p) / (1 - p))          the share of what could be gained that was gained
    erase                  max(0, (p - p') / p)                   for requests that lower: of the prompt and of its paraphrase
    neighbourhood          1 - |p' - p| / (|p - 1/2| + 1/2)       how little the target's probability moved about other subjects
    essence                1 - min(max(ppl' - ppl, 0), 5) / 5     perplexity of texts about the subject that the model wrote before
    overall                mean of the first three, harmonic (the paper's tables) or arithmetic (its plots)

Source. Hase et al. 2023 (arXiv 2301.04213), section 4.2, and their program. Theirs are scores of the first paraphrase and the first
neighbour; with several here, scores are averaged. Perplexity is of the continuation alone, not of the prompt it follows.

When it misleads. The rewrite score cannot fall below 2e-8 and the erase score not below 0, so an edit that goes the wrong way looks like
one that does nothing (`Measured` keeps the probabilities). A neighbourhood score is high wherever an edit did not work. A neighbour's
own answer may change while the target's probability there does not: `kept` says how much of it is left.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from interp.core.errors import BadInput, one_of
from interp.core.lm import LM
from interp.core.seed import generator
from interp.data.prompts import Prompt
from interp.data.tokens import TokenPrompt, tokenize

from .contexts import Item, Rows, about, sample
from .editors import Objective, Request

FLOOR = 2e-8
PARTS = ("rewrite", "paraphrase", "neighbourhood")


def rewrite_score(before: float, after: float) -> float:
    """(p' - p) / (1 - p), at least 2e-8; nan where p is 1 and nothing can be gained, or a probability is nan."""
    return float("nan") if before >= 1 else float(np.maximum(FLOOR, 1 - (1 - after) / (1 - before)))


def erase_score(before: float, after: float) -> float:
    """(p - p') / p, at least 0; nan where p is 0 and nothing can be lost, or a probability is nan."""
    return float("nan") if before <= 0 else float(np.maximum(0.0, (before - after) / before))


def neighbourhood_score(before: float, after: float) -> float:
    """1 - |p' - p| over the largest change that was possible."""
    return 1 - abs(after - before) / (abs(before - 0.5) + 0.5)


def essence_score(before: float, after: float) -> float:
    """1 - the growth of perplexity, cut to 0...5, over 5."""
    return 1 - float(np.clip(after - before, 0.0, 5.0)) / 5


def overall(parts: Sequence[float], how: Literal["harmonic", "arithmetic"] = "harmonic") -> float:
    """Mean of scores; nan where one is missing. The harmonic mean of a 0 is 0."""
    one_of("how", how, ["harmonic", "arithmetic"])
    values = np.asarray(parts, dtype=np.float64)
    if np.isnan(values).any():
        return float("nan")
    if how == "arithmetic":
        return float(values.mean())
    return 0.0 if (values <= 0).any() else float(len(values) / (1 / values).sum())


@dataclass(frozen=True, eq=False)
class Probe:
    """What will be measured of a request, before and after an edit: fixed once, in the model as it is before."""

    request: Request
    rows: Rows
    """Prompt (once a draw of the held-out noise), paraphrases and neighbours with the target; neighbours with their own answers."""
    parts: tuple[str, ...]
    """What each row is: rewrite, paraphrase, neighbour or kept."""
    essence: Rows | None
    """Texts about the subject that the model wrote before."""


@dataclass(frozen=True)
class Measured:
    """Probabilities of a probe in one state of the model."""

    rewrite: float
    """P(target | prompt), mean over the noise draws where there are any."""
    paraphrase: tuple[float, ...]
    """P(target | paraphrase) of each."""
    neighbour: tuple[float, ...]
    """P(target | neighbour) of each."""
    kept: tuple[float, ...]
    """P(the neighbour's own answer | neighbour), of those that have one."""
    top: bool
    """Whether every token of the target is the top one after the prompt, in every draw."""
    perplexity: float
    """Mean perplexity of the essence texts; nan without any."""


@dataclass(frozen=True)
class EditScores:
    """Scores of one edit for one request, by the definitions of the module."""

    rewrite: float
    """Of the prompt itself: the erase score where the request lowers."""
    paraphrase: float
    """Mean over paraphrases; nan without any."""
    neighbourhood: float
    """Mean over neighbours; nan without any."""
    essence: float
    """nan without essence texts."""
    harmonic: float
    """Overall score of the tables; nan where a part is missing."""
    arithmetic: float
    """Overall score of the plots; nan where a part is missing."""
    kept: float
    """Mean over neighbours of the smaller of 1 and p'/p of their own answer; nan without any. Not in the paper."""
    before: Measured
    after: Measured


def probe(
    lm: LM,
    request: Request,
    *,
    seed: int = 0,
    essence: str | None = "{} is a",
    texts: int = 5,
    tokens: int = 12,
    top_k: int = 5,
) -> Probe:
    """Fix what is measured of `request`. Call it before editing: the essence texts (`texts` of `tokens` tokens) are the model's own.

    `essence` is the beginning of these texts, or None for none; a world with wordings of its own wants its own ("In {},").
    """
    if texts < 1 or tokens < 1:
        raise BadInput(f"`texts` and `tokens` must be at least 1; not {texts} and {tokens}.")
    noise = request.held_noise if request.held_noise is not None else request.noise
    draws: list[Tensor | None] = [None] if noise is None else list(noise)
    items = [Item(request.tokens(lm), request.ids, noise=draw) for draw in draws]
    parts = ["rewrite"] * len(items)
    for part, prompts in (("paraphrase", request.paraphrases), ("neighbour", request.neighbours)):
        for place, prompt in enumerate(prompts):
            read = _read(lm, prompt, len(request.ids))
            if part == "paraphrase" and noise is not None and "subject" not in read.spans:
                raise BadInput(
                    f"the paraphrase {prompt.text!r} marks no subject, so there is nothing to put the noise on, and its score would be "
                    f"that of the model without noise. Name the subject {request.subject!r} in it: Prompt.of(text, subject=...)."
                )
            noised = draws[place % len(draws)] if part == "paraphrase" else None
            items.append(Item(read, request.ids, noise=noised))
            parts.append(part)
            if part == "neighbour" and read.answer_ids:
                items.append(Item(read, read.answer_ids))
                parts.append("kept")
    written = None
    if essence is not None:
        start = tokenize(about(essence, request.subject), lm.tokenizer, n_ctx=lm.spec.n_ctx - tokens)
        rng = generator(seed, "essence", request.subject, essence)
        rows = sample(lm, torch.tensor([start.ids] * texts), tokens, rng=rng, top_k=top_k)
        written = Rows.of([Item(start, tuple(row[len(start) :])) for row in rows.tolist()], lm.spec.d_model)
    return Probe(request, Rows.of(items, lm.spec.d_model), tuple(parts), written)


def _read(lm: LM, prompt: Prompt, extra: int) -> TokenPrompt:
    return tokenize(prompt, lm.tokenizer, answers="whole", n_ctx=lm.spec.n_ctx - extra)


def measure(lm: LM, one: Probe) -> Measured:
    """The probabilities of a probe in the model as it is now."""
    logprob, top = _scored(lm, one.rows)
    found = {
        part: logprob[[name == part for name in one.parts]].exp()
        for part in ("rewrite", "paraphrase", "neighbour", "kept")
    }
    perplexity = float("nan")
    if one.essence is not None:
        length = (one.essence.targets >= 0).sum(dim=1)
        perplexity = float((-_scored(lm, one.essence)[0] / length).exp().mean())
    rewritten = top[[name == "rewrite" for name in one.parts]]
    paraphrase, neighbour, kept = (tuple(found[part].tolist()) for part in ("paraphrase", "neighbour", "kept"))
    return Measured(float(found["rewrite"].mean()), paraphrase, neighbour, kept, bool(rewritten.all()), perplexity)


@torch.no_grad()
def _scored(lm: LM, rows: Rows) -> tuple[Tensor, Tensor]:
    """Log-probability of each row's target, float64, and whether all its tokens are the top ones; [row]."""
    run = lm.run(rows.batch, edits=rows.edits)
    logits = run.logits
    assert logits is not None
    found, top, row = rows.token_logprobs(logits)
    missed = torch.zeros(len(rows), dtype=torch.int64).index_add(0, row.cpu(), (~top.cpu()).long())
    total = torch.zeros(len(rows), dtype=torch.float64).index_add(0, row.cpu(), found.double().cpu())
    return total, missed == 0


def edit_scores(before: Measured, after: Measured, objective: Objective = "raise") -> EditScores:
    """Scores from the same probe measured before and after an edit."""
    moved = rewrite_score if objective == "raise" else erase_score
    paraphrase = _mean([moved(*pair) for pair in zip(before.paraphrase, after.paraphrase, strict=True)])
    near = _mean([neighbourhood_score(*pair) for pair in zip(before.neighbour, after.neighbour, strict=True)])
    kept = _mean(
        [float(np.minimum(1.0, new / old)) for old, new in zip(before.kept, after.kept, strict=True) if old > 0]
    )
    no_essence = np.isnan(before.perplexity) or np.isnan(after.perplexity)
    essence = float("nan") if no_essence else essence_score(before.perplexity, after.perplexity)
    parts = (moved(before.rewrite, after.rewrite), paraphrase, near)
    return EditScores(*parts, essence, overall(parts), overall(parts, "arithmetic"), kept, before, after)


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values)) if values else float("nan")
