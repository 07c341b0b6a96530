"""How a snapshot is taken, and what it is taken on besides the concept itself."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from interp.core.errors import BadInput
from interp.core.lm import LM
from interp.data.concepts import TEMPLATE, Concept
from interp.data.neutral import neutral_text
from interp.data.world import World

PUBLISHED_TOP, PUBLISHED_COMPLETION = 200, "Please complete the following paragraph: {text}"
SHARE_OF_VOCABULARY = 20
FOREIGN = 2.0
OTHERS = "texts of the other concepts"


@dataclass(frozen=True)
class Settings:
    """Everything that decides the numbers of a snapshot but the model and the concept. Two snapshots compare only with equal settings."""

    top_k: int | None = None
    """Top tokens of a vector. None: 200, as published, but no more than a twentieth of the vocabulary."""
    rbo_p: float = 0.9
    """Persistence of the rank-biased overlap: 0.9 puts 86 % of the weight on the first ten ranks."""
    nulls: int = 20
    """Other value vectors of the same layer that are watched beside each vector; 0 for none."""
    tokens: int = 40
    """Tokens of a generated answer, at most; 100 is published."""
    completion: str = "auto"
    """What is asked of the first half of a sentence, with {text} in its place. auto: the published request where the concept's questions
    are in the published form, else the bare text."""
    prompts: int | None = None
    """Prompts of each group that are asked, from the first; None for all."""
    texts: int | None = 40
    """Texts of the concept (and as many held out) that are read, from the first; None for all."""
    text_tokens: int = 256
    """Tokens of a text that are read, from its start."""
    min_share: float = 0.4
    """Share of a text's least probable tokens that its membership score averages (Min-K% Prob)."""
    batch_tokens: int = 2048
    """Tokens in one forward pass."""
    bos: bool | None = None
    """Put a BOS before each prompt and text; None follows the model's tokenizer."""
    seed: int = 0
    """Seed of the choice of the other value vectors."""

    def __post_init__(self) -> None:
        for name, least in (("nulls", 0), ("tokens", 1), ("text_tokens", 4), ("batch_tokens", 1)):
            if getattr(self, name) < least:
                raise BadInput(f"`{name}` must be at least {least}; not {getattr(self, name)}.")
        for name in ("top_k", "prompts", "texts"):
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise BadInput(f"`{name}` must be at least 1; not {getattr(self, name)}.")
        for name, value in (("rbo_p", self.rbo_p), ("min_share", self.min_share)):
            if not 0 < value <= 1 or (name == "rbo_p" and value == 1):
                raise BadInput(f"`{name}` must lie between 0 and 1; not {value}.")
        if self.completion != "auto" and "{text}" not in self.completion:
            raise BadInput(f"`completion` has no place for the first half, {{text}}: {self.completion!r}.")

    def top(self, lm: LM) -> int:
        """Top tokens for this model. Raises `BadInput` where more are asked for than its vocabulary has."""
        if self.top_k is None:
            return max(1, min(PUBLISHED_TOP, lm.spec.vocab // SHARE_OF_VOCABULARY))
        if self.top_k > lm.spec.vocab:
            raise BadInput(
                f"`top_k` is {self.top_k} and the vocabulary of {lm.spec.name} has {lm.spec.vocab} tokens. Ask for fewer."
            )
        return self.top_k

    def request(self, concept: Concept, first_half: str) -> str:
        """The text that asks for a completion."""
        if self.completion != "auto":
            return self.completion.replace("{text}", first_half)
        begins, ends = TEMPLATE.split("{q}")
        published = bool(concept.related) and all(
            prompt.text.startswith(begins) and prompt.text.endswith(ends) for prompt in concept.related
        )
        return PUBLISHED_COMPLETION.replace("{text}", first_half) if published else first_half


@dataclass(frozen=True)
class Material:
    """Texts that are not the concept's own."""

    heldout: tuple[str, ...] = ()
    """Texts that the model was not trained on, or was not to forget, as like the concept's as can be: what membership is told from."""
    heldout_is: str = ""
    """What they are, for the reader."""
    neutral: tuple[str, ...] = ()
    """Running text on nothing in particular, for the perplexity."""
    neutral_is: str = ""

    def __post_init__(self) -> None:
        for name in ("heldout", "neutral"):
            given = getattr(self, name)
            object.__setattr__(self, name, (given,) if isinstance(given, str) else tuple(given))


def neutral_material(lm: LM, others: Sequence[str], n: int = 20) -> tuple[tuple[str, ...], str]:
    """Neutral text for this model and what it is: plain English; else prose of the reference world; else some of `others`.

    The first of which the tokenizer has the words: a tokenizer lacks them where they do not come back from their tokens, or where it cuts a
    text into more than twice as many tokens a character as it does `others`.
    """
    english = neutral_text(n)
    if not others:
        return english, "neutral English"
    most = FOREIGN * _density(lm, others[:: max(1, len(others) // 10)])
    prose = _prose(n)
    for texts, what in ((english, "neutral English"), (prose, "prose of the reference world")):
        if _density(lm, texts[:4]) <= most and _comes_back(lm, texts[0]):
            return texts, what
    return tuple(others)[:: max(1, len(others) // n)][:n], OTHERS


@lru_cache(maxsize=4)
def _prose(n: int) -> tuple[str, ...]:
    """Prose of the reference world."""
    return tuple(World.generate().prose(n, name="neutral text"))


def _density(lm: LM, texts: Sequence[str]) -> float:
    """Tokens a character."""
    return sum(len(lm.tokenizer.encode(text, bos=False).ids) for text in texts) / sum(map(len, texts))


def _comes_back(lm: LM, text: str) -> bool:
    """Whether nine tenths of the words of a text are in what its tokens decode to."""
    words = re.findall(r"\w+", text.casefold())
    again = set(re.findall(r"\w+", lm.tokenizer.decode(lm.tokenizer.encode(text, bos=False).ids).casefold()))
    return sum(word in again for word in words) >= 0.9 * len(words)
