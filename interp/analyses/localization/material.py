"""What sweeps and sequences of edits run on: facts that can be edited, running text that fits them, settings that fit the model."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from interp.core.errors import BadInput, one_of
from interp.core.lm import LM
from interp.data import Corpus, corpus, neutral_text
from interp.data.prompts import Prompt
from interp.data.world import World

from ..editing.prompts import in_world

Scale = Literal["auto", "paper", "small"]
SCALES = ("auto", "paper", "small")
WORLD_ESSENCE, ESSENCE = "In {},", "{} is a"
SMALL = 512
"""Width of the stream below which a model gets the settings for small ones."""


def editable_facts(data: Any) -> list[Prompt]:
    """The facts as a list. Raises `BadInput` for none, one without subject or answer, and two of one name."""
    items: Sequence[Any] = [data] if isinstance(data, Prompt) else list(data or ())
    if not items:
        raise BadInput("there are no facts to edit. Give at least one.")
    for fact in items:
        if not isinstance(fact, Prompt) or fact.answer is None or "subject" not in fact.spans:
            raise BadInput(
                f"editing needs facts with a subject and an answer; not {fact!r:.100}. Use `interp.data.facts`."
            )
    names = [fact.id for fact in items]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise BadInput(f"two facts are called {twice!r}. Give each fact an id of its own.")
    return list(items)


def scale_of(lm: LM, settings: Scale) -> Literal["paper", "small"]:
    """`settings`, with `auto` decided by the model's width."""
    one_of("settings", settings, SCALES)
    return ("small" if lm.spec.d_model < SMALL else "paper") if settings == "auto" else settings


def fitting_essence(facts: Sequence[Prompt]) -> str:
    """The beginning of essence texts that fits the facts: the generated world has wordings of its own."""
    return WORLD_ESSENCE if all(map(in_world, facts)) else ESSENCE


def essence_of(essence: str | None, facts: Sequence[Prompt]) -> str | None:
    """The beginning of essence texts, with `auto` decided by the facts."""
    return fitting_essence(facts) if essence == "auto" else essence


def check_text(text: str | None) -> None:
    """Refuse a file that is not there."""
    if text is not None and not Path(text).is_file():
        raise BadInput(f"`text={text!r}` is not a file. Give running text, or leave it out.")


def running_text(lm: LM, facts: Sequence[Prompt], text: str | None, *, tokens: int, name: str) -> Corpus:
    """Running text: the file, else the generated world's prose for its own facts (drawn by `name`), else built-in text."""
    given: Any = text
    if text is None:
        given = World.generate().prose(400, name=name) if all(map(in_world, facts)) else neutral_text()
    return corpus(given, lm.tokenizer, n_ctx=lm.spec.n_ctx, limit_tokens=tokens)
