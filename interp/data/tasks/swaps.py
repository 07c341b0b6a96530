"""Facts as pairs: the same sentence about another subject, with another answer.

    The kingdom that rules Kammar is -> Norvik          The kingdom that rules Brendo is -> Marlow

Symmetric token replacement (Zhang and Nanda 2024): unlike noise, the corrupted prompt is one the model could meet, and it has an answer of
its own, which is the foil. The other subject comes from another fact with the *same text outside the subject*, with a subject
of as many tokens and with another first answer token. Facts that have no such partner are left out and counted in `describe`; a task
that cannot reach `n` pairs is refused.

    from interp.data import tasks
    pairs = tasks.facts_swapped(facts, lm.tokenizer)
    pairs[0].clean.span("subject"), pairs[0].corrupted.span("subject")
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace

from interp.core.errors import BadInput
from interp.core.lm import Tokenizer
from interp.core.seed import numpy_generator

from ..prompts import Prompt, PromptPair
from ..tokens import tokenize_pair
from .task import Task


def facts_swapped(
    facts: Sequence[Prompt], tokenizer: Tokenizer, *, n: int | None = None, seed: int = 0, name: str = "facts"
) -> Task:
    """Pairs out of facts (`interp.data.facts`), each used at most once as the clean prompt, in their order; at most `n` of them.

    Answers are compared and scored by their first token (`tokenize(..., answers="first")`). Chance is one over the number of different
    answers among prompts with the same text. Raises `BadInput` where there are fewer than `n` pairs, or none.
    """
    if n is not None and n < 1:
        raise BadInput(f"`n` must be at least 1; not {n}.")
    known = [_checked(prompt) for prompt in facts]
    groups: dict[tuple[str, str], list[Prompt]] = defaultdict(list)
    for prompt in known:
        groups[_frame(prompt)].append(prompt)
    rng = numpy_generator(seed, "task", name)
    pairs, chances, alone = list[PromptPair](), list[float](), 0
    for prompt in known:
        if len(pairs) == n:
            break
        group = groups[_frame(prompt)]
        others = [group[int(i)] for i in rng.permutation(len(group)) if group[int(i)].answer != prompt.answer]
        pair = next((made for other in others if (made := _pair(prompt, other, tokenizer))), None)
        if pair is None:
            alone += 1
            continue
        pairs.append(pair)
        chances.append(1 / len({other.answer for other in group}))
    if not pairs or (n is not None and len(pairs) < n):
        raise BadInput(
            f"{len(pairs)} of {len(known)} facts have a partner: the same text outside the subject, a subject of as many tokens in "
            f"{tokenizer.name} and another answer; {n or 'at least 1'} asked for. Give more facts of one template, or a smaller n."
        )
    left = f"; {alone} facts without a partner were left out" if alone else ""
    return Task(
        pairs, name=name, chance=sum(chances) / len(chances), vital=("subject", "last"),
        describe=f"facts; corrupted: the same sentence about another subject{left}",
    )  # fmt: skip


def _checked(prompt: Prompt) -> Prompt:
    if "subject" not in prompt.spans or prompt.answer is None:
        raise BadInput(
            f"the fact {prompt.text!r} needs a span `subject` and an answer. Read facts with `interp.data.facts`."
        )
    return prompt


def _frame(prompt: Prompt) -> tuple[str, str]:
    """The text before and after the subject."""
    start, end = prompt.spans["subject"]
    return prompt.text[:start], prompt.text[end:]


def _pair(clean: Prompt, corrupted: Prompt, tokenizer: Tokenizer) -> PromptPair | None:
    """The two as a pair with only the subject marked, or None where their tokens do not line up or their answers begin alike."""
    pair = PromptPair(
        replace(clean, foil=corrupted.answer, spans={"subject": clean.spans["subject"]}),
        replace(corrupted, foil=clean.answer, spans={"subject": corrupted.spans["subject"]}),
    )
    try:
        tokenize_pair(pair, tokenizer, answers="first")
    except BadInput:
        return None
    return pair
