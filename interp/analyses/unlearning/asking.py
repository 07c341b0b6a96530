"""What a model answers, while it is being changed: probabilities of given answers, and whether greedy decoding gives them.

The question is always the same, who is asked changes: a model as it is, under changed weights, or in the middle of being trained. So
prompts are tokenised once, and `read` takes whoever answers:

    lm = interp.load("atlas")
    asked = Questions(lm, interp.reference.facts("atlas", 4))
    asked.read(running(lm)).prob                            # [prompt, alternative]
    with lm.tuning() as tuning:
        asked.read(training(tuning)).top

An alternative of several tokens is scored whole: its probability is the product over its tokens, each after the ones before, and it is on
top where each of them is. Alternatives of one token share a pass.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from interp.core.batch import Batch
from interp.core.errors import BadInput
from interp.core.lm import LM
from interp.core.site import Site
from interp.data.prompts import Prompt, continuation
from interp.data.tokens import tokenize

Forward = Callable[[Batch, Tensor], Tensor]
"""Logits [cell, vocab] of a batch at cells (row, column), [cell, 2]."""
ROWS = 128
"""Rows of a pass."""


@dataclass(frozen=True, eq=False)
class Scores:
    """What was read: arrays [prompt, alternative], NaN where a prompt lacks the alternative."""

    prob: np.ndarray
    """Probability of the whole alternative."""
    top: np.ndarray
    """1 where greedy decoding gives it, else 0."""


class Questions:
    """Prompts and the answers to look for, as one model's tokens."""

    def __init__(self, lm: LM, prompts: Sequence[Prompt], alternatives: Sequence[Sequence[str | None]] | None = None):
        """`alternatives` are the answers to score, as many a prompt; its own `answer` by default. Raises `BadInput` where it lacks one."""
        if not prompts:
            raise BadInput("there is no prompt to ask. Give at least one.")
        if alternatives is None:
            if without := next((prompt for prompt in prompts if prompt.answer is None), None):
                raise BadInput(
                    f"the prompt {without.text!r} has no answer. Give one, or take the model's own by `own_answers`."
                )
            alternatives = [(prompt.answer,) for prompt in prompts]
        widths = {len(row) for row in alternatives}
        if len(alternatives) != len(prompts) or len(widths) != 1:
            raise BadInput(f"{len(prompts)} prompts need as many rows of alternatives, all of one length.")
        self.shape = (len(prompts), widths.pop())
        rows: dict[tuple[int, ...], int] = {}
        self._picks: list[tuple[int, int, int, int, tuple[int, ...]]] = []
        """prompt, alternative, row, first column, ids"""
        for number, (prompt, answers) in enumerate(zip(prompts, alternatives, strict=True)):
            for place, answer in enumerate(answers):
                if answer is None:
                    continue
                asked = replace(prompt, answer=continuation(prompt.text, answer), foil=None)
                tokens = tokenize(asked, lm.tokenizer, answers="whole", n_ctx=lm.spec.n_ctx)
                row = (*tokens.ids, *tokens.answer_ids[:-1])
                self._picks.append(
                    (number, place, rows.setdefault(row, len(rows)), len(tokens.ids) - 1, tokens.answer_ids)
                )
        self._rows = list(rows)

    def read(self, forward: Forward) -> Scores:
        """Ask the model behind `forward`."""
        logprob, top = np.full(self.shape, np.nan), np.full(self.shape, np.nan)
        order = sorted(range(len(self._rows)), key=lambda row: len(self._rows[row]))
        for start in range(0, len(order), ROWS):
            part = {row: place for place, row in enumerate(order[start : start + ROWS])}
            picks = [pick for pick in self._picks if pick[2] in part]
            where = [(part[row], column + k) for _, _, row, column, ids in picks for k in range(len(ids))]
            unique = {cell: place for place, cell in enumerate(dict.fromkeys(where))}
            with torch.no_grad():
                cells = (
                    forward(Batch.padded([self._rows[row] for row in part]), torch.tensor(list(unique)))
                    .detach()
                    .float()
                )
            wanted = torch.tensor([token for *_, ids in picks for token in ids], device=cells.device)
            index = torch.tensor([unique[cell] for cell in where], device=cells.device)
            normal = cells.double().logsumexp(dim=-1)
            said = (cells[index, wanted].double() - normal[index]).cpu().numpy()
            best = (cells.argmax(dim=-1)[index] == wanted).double().cpu().numpy()
            ends = np.cumsum([len(ids) for *_, ids in picks])
            for (number, place, *_), end, ids in zip(picks, ends, (pick[4] for pick in picks), strict=True):
                logprob[number, place] = said[end - len(ids) : end].sum()
                top[number, place] = best[end - len(ids) : end].min()
        return Scores(np.exp(logprob), top)


def running(lm: LM) -> Forward:
    """The model as it is now. Only the cells that are asked for are unembedded."""
    last = Site("resid_post", lm.spec.n_layers - 1)

    def forward(batch: Batch, cells: Tensor) -> Tensor:
        lengths = batch.mask.sum(dim=1)
        read = lm.read([tokens[mask] for tokens, mask in zip(batch.tokens, batch.mask, strict=True)], [last])[last]
        starts = lengths.cumsum(dim=0) - lengths
        return lm.unembed(read[(starts[cells[:, 0]] + cells[:, 1]).to(read.device)])

    return forward


def training(tuning: Any) -> Forward:
    """The model inside `with lm.tuning() as tuning`, as it is at that moment."""
    return lambda batch, cells: tuning.logits(batch)[cells[:, 0], cells[:, 1]]


def own_answers(lm: LM, prompts: Sequence[Prompt], *, tokens: int = 4) -> tuple[list[Prompt], list[str]]:
    """The prompts with answers: their own, or, where they have none, the first words that the model as it is now writes.

    Also gives the ids of prompts that are left out: the model wrote nothing but blanks, or what it wrote is read as other tokens behind the
    prompt (a piece of a word, say), which are not what it says there.
    """
    bare = [prompt for prompt in prompts if prompt.answer is None]
    written = dict(zip([prompt.text for prompt in bare], lm.generate([p.text for p in bare], tokens).texts, strict=True)) if bare else {}  # type: ignore[attr-defined]  # fmt: skip
    kept, silent = list[Prompt](), list[str]()
    own = [replace(prompt, answer=said) for prompt in bare if (said := written[prompt.text].rstrip()).strip()]
    given = Questions(lm, own).read(running(lm)).top[:, 0] if own else np.zeros(0)
    said_so = {prompt.text: prompt.answer for prompt, top in zip(own, given, strict=True) if top == 1}
    for prompt in prompts:
        if (answer := prompt.answer if prompt.answer is not None else said_so.get(prompt.text)) is None:
            silent.append(prompt.id)
        else:
            kept.append(replace(prompt, answer=answer))
    return kept, silent
