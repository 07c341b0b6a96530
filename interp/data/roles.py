"""Token roles: the part that each position plays in a prompt about a subject.

Maps of many prompts are averaged by role, since their lengths differ. ROME's own averages count a one-token subject twice (as first and
as last token) and a last token right after the subject twice as well. Here each position is counted *once*, with the priority

    last subject > first subject > last > first after

so a one-token subject is `last subject` only, and a two-token subject has no middle. A BOS is `bos`, never `before`: it is an
attention sink, and mixing it in would hide what comes before the subject.

It misleads where the subject ends the prompt: there is then no `last` apart from `last subject`.

    roles(tokenize(prompt, lm.tokenizer))   # ('bos', 'before', 'first subject', 'last subject', 'first after', 'last')
"""

from interp.core.errors import SpanError

from .tokens import TokenPrompt

ROLES = ("bos", "before", "first subject", "middle subject", "last subject", "first after", "further", "last")
"""Every role, in reading order."""


def roles(tokens: TokenPrompt, subject: str = "subject") -> tuple[str, ...]:
    """The role of each position, by the span named `subject`. Raises `SpanError` where the prompt does not mark it."""
    if subject not in tokens.spans:
        raise SpanError(
            f"the prompt {tokens.prompt.text!r} has no span {subject!r}; give Prompt.of(text, {subject}=...)."
        )
    start, end = tokens.spans[subject]
    return tuple(_role(tokens, place, start, end) for place in range(len(tokens)))


def _role(tokens: TokenPrompt, place: int, start: int, end: int) -> str:
    if start <= place < end:
        return "last subject" if place == end - 1 else "first subject" if place == start else "middle subject"
    if place == 0 and tokens.bos:
        return "bos"
    if place == len(tokens) - 1:
        return "last"
    if place < start:
        return "before"
    return "first after" if place == end else "further"
