"""Latents: on which tokens each one fires, what it writes, what is near it; and which latents fire on a word or a text.

The question. A dictionary says that an activation is a sum of a few latents. What is latent j about? Three kinds of evidence, none of
which is enough alone:

    where it fires   the tokens with its largest codes, one a text, and tokens drawn from every quantile of its codes (the top alone
                     flatters: a latent whose ten best tokens agree may be about something else on the other 99 % of its tokens)
    what it writes   (decoder row of j) @ W_U with the final norm folded in: which tokens it promotes and demotes, per unit of code, and in
                     standard deviations of that row's logits over the vocabulary
    what is near it  latents whose decoder rows point the same way, and latents whose codes correlate with its own

A card shows all of it for one latent. `search` asks the other way round: which latents fire on `gold`? For each latent, the mean code on
the word's tokens less that on all others, and the AUC. The latents that stand out on one half of the texts are tested on the other half,
against the same tokens rotated by a random step within each document (a latent that is on all through a text about mining is no latent of
`gold`), with Holm's correction over all that were tested. `passage` asks which latents are on in a text of your own.

Source. The cards follow the feature browser of Bricken et al. 2023, "Towards Monosemanticity", and SAEDashboard. Deviations: intervals are
quantiles of the codes, not equal steps up to the largest; examples are of different texts; searches have a null, which is a rotation.

How. One pass over the corpus for the sums of all latents, and, unless latents are named and nothing is searched for, a second one for the
tokens of those that are shown. Codes stay sparse: memory is a tile of rows, some numbers a latent, and the firings of what is shown.

When it misleads
- A name read off the top examples is a guess; `LatentEffect` says what the latent does.
- Logit effects are direct: what later layers make of the latent is not in them, and early latents may write nothing readable.
- The text decides what is seen. A latent that never fires here is not dead; one that fires on `gold` may fire on all metals.
- With few texts the halves of a search are small; with one text, its pieces are taken for texts.
- Rotation keeps what neighbours have in common, not where in a text they stand. A latent of first tokens is on `User` where every text
  begins with it, and is found; the examples of its card show that.
- A BOS has huge activations in many models, and latents of its own: it is left out (`bos`).

    import interp
    lm = interp.load("atlas")
    found = interp.Latents(dictionary="runs/sae", n=4)(lm, corpus)          # a folder, or the dictionary itself; text as a corpus
    found.report_lines(), found.card(found.latents[0]), found.examples(found.latents[0])
    found.plot(latent=found.latents[1])
    who = interp.Latents(dictionary="runs/sae", search=(" king",), candidates=5)(lm, corpus)
    who.searched(), who.plot(by="search")
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

import numpy as np

from interp.core.analysis import Analysis, Cost
from interp.core.dictionary import Dictionary
from interp.core.digest import publishable
from interp.core.errors import BadInput, one_of
from interp.core.seed import numpy_generator
from interp.data import pack
from interp.data.concepts import concept_tokens

from ...streams import check_corpus
from ..source import opened
from .assemble import Shown, assemble, named
from .reading import check_reading, chunks
from .result import LatentsResult
from .tally import Firings, Tally
from .wanted import Searched, halves, searched, spread

if TYPE_CHECKING:
    from interp.core.lm import LM

ORDERS = ("spread", "dense", "rare", "strong", "random")
MOST_FIRINGS = 40_000_000
"""Tokens with a code that are kept of the latents that are shown; 16 bytes each."""


@dataclass(frozen=True)
class Latents(Analysis[LatentsResult]):
    """Cards of latents: where they fire, what they write, what is near them; and a search by word or text."""

    takes = "text"

    dictionary: str = ""
    """Folder of a saved dictionary (in Python also the dictionary itself)."""
    latent: tuple[int, ...] = ()
    """Numbers of the latents to show; `n` are picked where none is named."""
    n: int = 10
    """How many latents are picked."""
    order: str = "spread"
    """How they are picked among those that fire: evenly over densities (`spread`), the most often on (`dense`), the most rarely (`rare`),
    those with the largest codes (`strong`), or at `random`. A search or a text picks those that it finds."""
    search: tuple[str, ...] = ()
    """Words: which latents fire on them? Each must be one token of the tokenizer."""
    passage: str = ""
    """A text: which latents are on in it, beside how often they are on elsewhere?"""
    top: int = 12
    """Strongest examples of a latent, each of another text."""
    intervals: int = 5
    """Quantile intervals of its codes from which further examples are drawn."""
    each: int = 3
    """Examples of an interval."""
    window: int = 12
    """Tokens shown on either side of an example."""
    words: int = 10
    """Tokens that are shown of either end of the logit effects."""
    near: int = 5
    """Latents that are nearest, by decoder and by firing."""
    candidates: int = 20
    """Latents that a search picks on one half of the texts and tests on the other, a word."""
    draws: int = 1999
    """Rotations of a search's null, at least: where more than 50 latents and words are tested, 40 for each, for p is no less than one over
    the number of rotations, and Holm's correction multiplies it by that of tests."""
    bos: bool = False
    """Whether the BOS of a document counts, too."""
    batch_tokens: int = 2048
    """Tokens in one part of the corpus."""
    seed: int = 0
    """Of halves, drawn examples, rotations and random picks."""

    def __post_init__(self) -> None:
        one_of("order", self.order, ORDERS)
        for name in ("latent", "search"):
            given = getattr(self, name)
            object.__setattr__(self, name, (given,) if isinstance(given, str | int) else tuple(given))
        least = {
            "n": 1,
            "top": 1,
            "intervals": 0,
            "each": 1,
            "window": 0,
            "words": 1,
            "near": 0,
            "candidates": 1,
            "draws": 19,
            "batch_tokens": 1,
        }
        for name, low in least.items():
            if getattr(self, name) < low:
                raise BadInput(f"`{name}` must be at least {low}; not {getattr(self, name)}.")
        if len(set(self.latent)) < len(self.latent):
            raise BadInput(f"`latent` names a latent twice: {list(self.latent)}. Name each once.")
        if len(set(self.search)) < len(self.search) or not all(word.strip() for word in self.search):
            raise BadInput(f"`search` must be different words; not {list(self.search)}.")
        if self.search and self.passage:
            raise BadInput("give `search` or `passage`, not both: each of them picks the latents that are shown.")

    def __call__(self, lm: "LM", data: Any = None, *, store: Any = None, others: "Sequence[LM]" = ()) -> LatentsResult:
        """Run on a model and a corpus. `others` are further models that the dictionary reads (crosscoders of two)."""
        self.check(lm, data)
        dictionary = opened(self.dictionary)
        inputs = {"data": data, "dictionary": dictionary} | {f"other {one.spec.name}": one for one in others}
        return self._recorded(lm, inputs, lambda: self._found(dictionary, [lm, *others], lm, data, store))

    def check(self, lm: "LM", data: Any) -> None:
        """A corpus that fits the model, latents that the dictionary has, and words that are tokens."""
        check_corpus(lm, data)
        dictionary = opened(self.dictionary)
        if bad := [one for one in self.latent if not 0 <= one < dictionary.latents]:
            raise BadInput(f"latents {bad} are not there: the dictionary has {dictionary.latents:,}, numbered from 0.")
        for word in self.search:
            _tokens_of(lm, word)

    def to_dict(self) -> dict[str, Any]:
        """The options as plain JSON values; a dictionary that was given as an object by its content hash."""
        return {
            entry.name: named(self.dictionary) if entry.name == "dictionary" else publishable(getattr(self, entry.name))
            for entry in fields(self)
        }

    def cost(self, lm: "LM", data: Any = None) -> Cost:
        """One or two forward passes over the corpus, as far as the sites that are read (none where the store has them)."""
        passes = 1 if self.latent and not self.search and not self.passage else 2
        latents = opened(self.dictionary).latents
        room = (
            latents * 8 * (8 + 2 * len(self.search) + 2 * max(self.n, len(self.latent)))
            + self.batch_tokens * latents * 12
        )
        note = "" if passes == 1 else "two passes over the text"
        return Cost(float(passes * len(pack(data.lengths, self.batch_tokens))), passes * data.n_tokens, room, note)

    def run(self, lm: "LM", data: Any, store: Any) -> LatentsResult:
        """The result, for a dictionary of this one model."""
        return self._found(opened(self.dictionary), [lm], lm, data, store)

    def _found(self, dictionary: Dictionary, models: "Sequence[LM]", lm: "LM", data: Any, store: Any) -> LatentsResult:
        check_reading(dictionary, models)
        queries = {word: _tokens_of(lm, word) for word in self.search}
        half = halves(data.texts, numpy_generator(self.seed, "latent halves"))
        tally = Tally(dictionary.latents, half, queries)
        direct = Firings(self.latent, dictionary.latents) if self.latent and not queries and not self.passage else None
        for chunk in self._chunks(dictionary, models, data, store, "codes"):
            tally.add(chunk)
            if direct is not None:
                direct.add(chunk)
        found: Searched | None = searched(tally, queries, self.latent, self.candidates)
        score = self._text(dictionary, models, lm, tally) if self.passage else None
        kept = (
            list(self.latent) or found.every if found is not None else list(self.latent) or self._picked(tally, score)
        )
        firings = direct or self._fired(dictionary, models, data, store, tally, kept)
        if found is not None:
            found.test(firings, tally, data, half, bos=self.bos, draws=self.draws, seed=self.seed)
            kept = list(self.latent) or found.best(self.n)
        shown = Shown(kept, firings, tally, found, None if score is None else score)
        return assemble(self, dictionary, models, lm, data, shown)

    def _chunks(self, dictionary: Dictionary, models: "Sequence[LM]", data: Any, store: Any, name: str) -> Any:
        return chunks(dictionary, models, data, store, budget=self.batch_tokens, bos=self.bos, name=name)

    def _picked(self, tally: Tally, score: "tuple[np.ndarray, Any] | None") -> list[int]:
        if score is not None:
            best = np.argsort(-score[0], kind="stable")[: self.n]
            return [int(one) for one in best if score[0][one] > 0]
        return spread(tally, self.n, self.order, self.seed)

    def _fired(
        self, dictionary: Dictionary, models: "Sequence[LM]", data: Any, store: Any, tally: Tally, kept: Sequence[int]
    ) -> Firings:
        wanted = int(tally.count[:, list(kept)].sum())
        if wanted > MOST_FIRINGS:
            raise BadInput(
                f"the {len(kept)} latents are on {wanted:,} times in this text, more than the {MOST_FIRINGS:,} that are kept. Show "
                "fewer, or bring less text."
            )
        firings = Firings(kept, dictionary.latents)
        for chunk in self._chunks(dictionary, models, data, store, "where they fire"):
            firings.add(chunk)
        return firings

    def _text(self, dictionary: Dictionary, models: "Sequence[LM]", lm: "LM", tally: Tally) -> "tuple[np.ndarray, Any]":
        """Scores of all latents for the text [latent]: largest code in it, over that in the corpus, times -ln density; and its codes."""
        from interp.data import corpus

        mine = corpus([self.passage], lm.tokenizer, n_ctx=lm.spec.n_ctx, long="refuse")
        (chunk,) = chunks(dictionary, models, mine, None, budget=max(mine.lengths), bos=self.bos)
        largest = np.zeros(dictionary.latents)
        np.maximum.at(largest, chunk.codes.ids.numpy(), chunk.codes.values.numpy().astype(np.float64))
        rows = int(tally.rows.sum())
        surprise = -np.log((tally.count.sum(axis=0) + 0.5) / (rows + 1))
        score = largest / np.maximum(tally.most, largest).clip(1e-30) * surprise
        if not (score > 0).any():
            raise BadInput(f"no latent is on in {self.passage[:60]!r}. Give a longer text.")
        return score, chunk


def _tokens_of(lm: "LM", word: str) -> tuple[int, ...]:
    found = concept_tokens(lm.tokenizer, [word], at_least=0)
    if not found.ids:
        pieces = [lm.tokenizer.label(token) for token in lm.tokenizer.encode(" " + word.strip(), bos=False).ids]
        raise BadInput(
            f"{word!r} is no single token of {lm.tokenizer.name}: it is {pieces}. Search for one of these, or another word."
        )
    return found.ids
