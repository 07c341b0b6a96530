"""Greater-than: a span of years begins, and its end must be later than its start.

    The war lasted from the year 1732 to the year 17   ->  33, 34, ... 99

The task of Hanna, Liu and Variengien 2023 ("How does GPT-2 compute greater-than?"). It works only where a year is two tokens of two
digits each; other tokenizers are refused. Many answers are right. A prompt carries one of them, drawn at random, and one wrong
one as its foil; `meta["legal"]` and `meta["illegal"]` list all, for metrics that sum over them. The corrupted prompt starts in the
year 01, so that the clean prompt's foil is right there; its own foil is 01.

Spans: `start_century`, `start_year` (the two digits that decide).

It misleads where the answer's particular digits matter: use the sums. `chance` is the mean share of right ones among all two-digit
endings, near 1/2.
"""

import numpy as np

from interp.core.errors import BadInput
from interp.core.lm import Tokenizer

from ..prompts import Chars, Prompt, PromptPair
from .draw import draw_pairs, pick, prompt
from .lexicon import Lexicon, fill, one_token
from .task import Task

CENTURIES = tuple(str(century) for century in range(11, 20))
ENDINGS = tuple(f"{year:02d}" for year in range(100))
LEAST = 50
"""How many of the 100 endings must be tokens of their own after a century, for the century to be used."""


def greater_than(tokenizer: Tokenizer, *, n: int = 100, seed: int = 0, lexicon: Lexicon | None = None) -> Task:
    """Year spans. Raises `BadInput` where the tokenizer does not split years in 2 + 2 digits."""
    lexicon = lexicon or Lexicon()
    events = lexicon.usable("events", tokenizer, need=1)
    years = _endings(tokenizer)
    forms = lexicon.forms("greater_than")

    def make(rng: np.random.Generator, number: int) -> PromptPair:
        form, century = int(rng.integers(len(forms))), pick(rng, tuple(years))
        endings = years[century]
        start = pick(rng, endings[2:-1])  # 01 and one other below it, one above it
        words = {"event": pick(rng, events), "century": century}
        answer = pick(rng, [year for year in endings if year > start])
        foil = pick(rng, [year for year in endings if "01" < year <= start])
        sides = [
            _span(forms[form], words, begin, said, endings, form)
            for begin, said in ((start, (answer, foil)), ("01", (foil, "01")))
        ]
        return PromptPair(*sides)

    pairs = draw_pairs(make, task="greater_than", n=n, seed=seed, tokenizer=tokenizer)
    shares = [len(p.clean.meta["legal"]) / len(p.clean.meta["candidates"]) for p in pairs]
    return Task(
        pairs, name="greater_than", chance=float(np.mean(shares)), vital=("start_year", "last"),
        describe="a later year of the same century than the start; corrupted: the start is the year 01",
    )  # fmt: skip


def _span(
    form: str, words: dict[str, str], begin: str, said: tuple[str, str], endings: tuple[str, ...], template: int
) -> Prompt:
    century = words["century"]
    text, found = fill(form, {**words, "start": century + begin}, ("start",))
    first = found["start"][0]
    spans: dict[str, Chars] = {"start_century": (first, first + 2), "start_year": (first + 2, first + 4)}
    return prompt(
        text, spans, answer=said[0], foil=said[1], candidates=endings, century=century, start=begin, template=template,
        legal=tuple(year for year in endings if year > begin), illegal=tuple(year for year in endings if year <= begin),
    )  # fmt: skip


def _endings(tokenizer: Tokenizer) -> dict[str, tuple[str, ...]]:
    """Century -> endings that are one token after it; centuries that are one token and have 01 and enough others."""
    found = {}
    for century in CENTURIES:
        before = tokenizer.encode(f"the {century}", bos=False).ids
        if not one_token(century, tokenizer):
            continue
        endings = tuple(
            ending for ending in ENDINGS if tokenizer.encode(f"the {century}{ending}", bos=False).ids[:-1] == before
        )
        if "01" in endings and len(endings) >= LEAST:
            found[century] = endings
    if not found:
        labels = " + ".join(repr(tokenizer.label(i)) for i in tokenizer.encode("the 1732", bos=False).ids[1:])
        raise BadInput(
            f"greater_than needs years of two tokens with two digits each; {tokenizer.name} writes ' 1732' as {labels}. "
            "Choose another task, or a model with another tokenizer."
        )
    return found
