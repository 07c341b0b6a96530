"""What is traced: prompts as tokens, what to put in the subject's place, and which prompts may share one batch.

A job is one prompt. With `answers="whole"` its rows are the prompt and all answer tokens but the last, so that every token of the answer
is predicted by some position; those positions are read, never corrupted and never restored. Jobs whose prompts and answers have the
same numbers of tokens stand in one batch, unpadded, each prompt once for every draw of the corruption.
"""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from interp.core.errors import BadInput, SpanError
from interp.core.lm import LM
from interp.data.prompts import Prompt, PromptPair
from interp.data.roles import roles
from interp.data.tokens import TokenPrompt, tokenize

from ..pairs import token_pairs

if TYPE_CHECKING:
    from .trace import CausalTrace


@dataclass(frozen=True, eq=False)
class Job:
    """One prompt to trace."""

    tokens: TokenPrompt
    other: tuple[int, ...]
    """The counterfactual's tokens; empty where the corruption is an edit."""
    start: int
    """First corrupted position."""
    answer_ids: tuple[int, ...]
    """The tokens that are scored: one, or the whole answer; empty for the model's own."""
    foil_ids: tuple[int, ...]

    @property
    def n_answer(self) -> int:
        """Answer tokens that are scored."""
        return max(1, len(self.answer_ids))

    @property
    def ids(self) -> tuple[int, ...]:
        """The row that is run: the prompt, and the answer without its last token."""
        return self.tokens.ids + self.answer_ids[:-1]

    @property
    def corrupted_ids(self) -> tuple[int, ...]:
        """The same row with the counterfactual's prompt."""
        return (self.other or self.tokens.ids) + self.answer_ids[:-1]

    @property
    def subject(self) -> str:
        """The subject's words; the prompt's id where none is marked."""
        return self.tokens.prompt.span("subject") if "subject" in self.tokens.prompt.spans else self.tokens.id

    @property
    def subject_ids(self) -> tuple[int, ...]:
        """The subject's tokens."""
        return self.tokens.ids[slice(*self.tokens.spans["subject"])]

    @property
    def roles(self) -> tuple[str, ...]:
        """The role of each position of the prompt."""
        return roles(self.tokens)


def jobs_of(config: "CausalTrace", lm: LM, data: Any) -> list[Job]:
    """A job for every prompt or pair, in order. Raises `BadInput`, `SpanError` or `RaggedPair` for what cannot be traced."""
    if config.takes == "pairs":
        return _pair_jobs(config, lm, data)
    items: Sequence[Any] = [data] if isinstance(data, Prompt | PromptPair) else list(data or ())
    if not items:
        raise BadInput("there are no prompts to trace. Give at least one.")
    jobs = []
    for item in items:
        prompt = item.clean if isinstance(item, PromptPair) else item
        if not isinstance(prompt, Prompt):
            raise BadInput(
                f"tracing needs prompts with a marked subject; not {item!r:.100}. Build them with Prompt.of(text, subject=...)."
            )
        tokens = tokenize(prompt, lm.tokenizer, bos=config.bos, answers=config.answers, n_ctx=lm.spec.n_ctx)
        subject_of(tokens)
        start = tokens.spans["subject"][0]
        if tokens.bos and start == 0:
            raise SpanError(
                f"the subject of {prompt.text!r} begins at the BOS, which is never corrupted. Mark the words only."
            )
        jobs.append(Job(tokens, (), start, *_scored(config, tokens, tokens.foil_ids)))
    return jobs


def batches(jobs: Sequence[Job], draws: int, budget: int) -> list[list[int]]:
    """Places of jobs that share a batch: equal lengths of prompt and answer, at most `budget` tokens with all draws, at least one job."""
    groups: dict[tuple[int, int], list[int]] = {}
    for place, job in enumerate(jobs):
        groups.setdefault((len(job.tokens), job.n_answer), []).append(place)
    parts = []
    for (length, answer), places in sorted(groups.items()):
        step = max(1, budget // (draws * (length + answer - 1)))
        parts += [places[first : first + step] for first in range(0, len(places), step)]
    return parts


def subject_of(tokens: TokenPrompt) -> str:
    """The subject's words; refuses a prompt that marks none."""
    if "subject" not in tokens.prompt.spans:
        raise SpanError(
            f"the prompt {tokens.prompt.text!r} marks no subject to corrupt. Build it with Prompt.of(text, subject=...), "
            "or trace a PromptPair with corruption='counterfactual'."
        )
    return tokens.prompt.span("subject")


def _pair_jobs(config: "CausalTrace", lm: LM, data: Any) -> list[Job]:
    jobs = []
    for pair in token_pairs(lm, data, bos=config.bos, answers=config.answers):
        clean, changed = pair.clean, pair.changed
        rival = clean.foil_ids or pair.corrupted.answer_ids
        if "subject" not in clean.spans:  # roles are then told by what the counterfactual changed
            clean = dataclasses.replace(clean, spans={**clean.spans, "subject": (changed[0], changed[-1] + 1)})
        jobs.append(Job(clean, pair.corrupted.ids, changed[0], *_scored(config, clean, rival)))
    return jobs


def _scored(
    config: "CausalTrace", tokens: TokenPrompt, foil: tuple[int, ...]
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    if config.answers == "whole":
        return tokens.answer_ids, foil
    return tokens.answer_ids[:1], foil[:1]


def unique_ids(ids: Sequence[str]) -> list[str]:
    """Names of prompts as they label results: what occurs twice is numbered."""
    seen: dict[str, int] = {}
    out = []
    for name in ids:
        seen[name] = seen.get(name, 0) + 1
        out.append(name if seen[name] == 1 else f"{name}#{seen[name]}")
    return out
