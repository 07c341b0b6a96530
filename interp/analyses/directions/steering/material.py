"""What steering is measured on: neutral texts as rows of tokens, and the tokens that the concept's texts have more of."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from interp.core.batch import Batch
from interp.core.errors import BadInput
from interp.core.lm import LM
from interp.data import Labelled
from interp.data.concepts import concept_tokens
from interp.data.sources import read_texts

from ...concepts.traces.settings import neutral_material

SHORTEST = 3
"""Tokens that a neutral text has at least, a BOS not counted."""


@dataclass(frozen=True, eq=False)
class Rows:
    """Texts as rows of tokens, in groups of one length."""

    ids: tuple[tuple[int, ...], ...]
    groups: tuple[tuple[int, ...], ...]
    """Places in `ids` of the rows of one length."""
    start: int
    """The first position that counts: after a BOS."""
    short: int = 0
    """Texts that were left out because they are shorter than three tokens."""

    @classmethod
    def of(cls, lm: LM, texts: Sequence[str], window: int, *, bos: bool | None) -> "Rows":
        """The first `window` tokens of each text; those of fewer than three are left out, and counted in `short`."""
        use = lm.tokenizer.default_bos if bos is None else bos
        cut = [tuple(lm.tokenizer.encode(text, bos=use).ids[: window + use]) for text in texts]
        kept = tuple(ids for ids in cut if len(ids) >= SHORTEST + use)
        by_length: dict[int, list[int]] = {}
        for place, ids in enumerate(kept):
            by_length.setdefault(len(ids), []).append(place)
        return cls(
            kept, tuple(tuple(places) for _, places in sorted(by_length.items())), int(use), len(cut) - len(kept)
        )

    def batch(self, group: Sequence[int]) -> Batch:
        """The rows of one group."""
        return Batch.of([self.ids[place] for place in group])

    def __len__(self) -> int:
        return len(self.ids)


def neutral_rows(
    lm: LM, path: str, fit: Labelled, held: Labelled, *, n: int, window: int, bos: bool | None
) -> tuple[Rows, Rows, str]:
    """Neutral rows to choose on, others to report on, and what they are: of a file, plain English, or the texts without the property."""
    if path:
        named, _ = read_texts(path, split="line", field="text", subset=None)
        texts, what = tuple(text for _, text in named), path
    else:
        negative = [text for text, label in zip(fit.texts, fit.labels, strict=True) if not label]
        texts, what = neutral_material(lm, negative, 2 * n)
        if what != "neutral English":
            other = [text for text, label in zip(held.texts, held.labels, strict=True) if not label]
            sides = tuple(Rows.of(lm, side[:n], window, bos=bos) for side in (negative, other))
            return (*_enough(sides, what), "texts without the property")
    sides = tuple(Rows.of(lm, texts[half::2][:n], window, bos=bos) for half in (0, 1))
    return (*_enough(sides, what), what)


def _enough(sides: Sequence[Rows], what: str) -> tuple[Rows, Rows]:
    for side in sides:
        if len(side) < 2:
            raise BadInput(
                f"there are {len(side)} neutral texts of {SHORTEST} or more tokens on one half ({what}). Strength is chosen on one "
                "half and reported on the other: give four or more, one a line (`neutral=FILE`)."
            )
    return sides[0], sides[1]


@dataclass(frozen=True)
class Targets:
    """The tokens that steering should make more likely."""

    ids: tuple[int, ...]
    z: tuple[float, ...]
    """How much more frequent each is in the positive texts of the fit, in standard errors; NaN where they were named."""
    words: tuple[str, ...]


def target_tokens(
    lm: LM, fit: Labelled, named: Sequence[str], n: int, *, source: str = "texts", streams: Tensor | None = None
) -> Targets:
    """The tokens of the words that were named, or the `n` that tell the positive texts of the fit best.

    `source` "texts": the log odds of a text having the token, with a prior of all texts' odds (Monroe et al. 2008); "next": how much
    likelier the model finds it after positive texts, from their last residual streams [text, d_model]. Both in standard errors.
    """
    if named:
        found = concept_tokens(lm.tokenizer, named, at_least=1)
        return Targets(found.ids, (float("nan"),) * len(found.ids), found.words)
    yes = np.asarray(fit.labels)
    if source == "texts":
        z = _more_frequent(lm, fit, yes)
    else:
        assert streams is not None
        z = _likelier_next(lm, streams, yes)
    best = np.argsort(-z, kind="stable")[:n]
    best = best[z[best] > Z_LEAST]
    if not len(best):
        where = "more frequent in" if source == "texts" else "more probable after"
        raise BadInput(
            f"no token is clearly {where} the positive texts than the negative ones (z above {Z_LEAST}). Name the words that "
            "steering should bring about: `targets`."
        )
    labels = tuple(lm.tokenizer.label(int(token)) for token in best)
    return Targets(tuple(map(int, best)), tuple(map(float, z[best])), labels)


def _more_frequent(lm: LM, fit: Labelled, yes: np.ndarray) -> np.ndarray:
    """How much more positive texts have a token, in standard errors [vocab]."""
    counts = np.zeros((2, lm.spec.vocab))
    for text, label in zip(fit.texts, yes, strict=True):
        counts[int(label), list(set(lm.tokenizer.encode(text, bos=False).ids))] += 1
    sizes = np.array([(~yes).sum(), yes.sum()], dtype=float)
    prior = (counts.sum(axis=0) + 0.5) / (len(yes) + 1)  # share of all texts that have the token
    with_it, without = counts + prior, sizes[:, None] - counts + (1 - prior)
    odds = np.log(with_it) - np.log(without)
    z = (odds[1] - odds[0]) / np.sqrt((1 / with_it + 1 / without).sum(axis=0))
    return np.where(counts[1] == 0, -np.inf, z)


def _likelier_next(lm: LM, streams: Tensor, yes: np.ndarray) -> np.ndarray:
    """How much likelier a token is next after positive texts, in standard errors [vocab], among tokens that gain 0.1 % or more."""
    moments = np.zeros((2, 2, lm.spec.vocab))  # [label, power, vocab]
    for stream, label in zip(streams, yes, strict=True):
        p = lm.unembed(stream[None])[0].double().softmax(dim=-1).cpu().numpy()
        moments[int(label)] += np.stack([p, p * p])
    sizes = np.array([(~yes).sum(), yes.sum()], dtype=float)[:, None]
    mean = moments[:, 0] / sizes
    error = np.sqrt((np.maximum(moments[:, 1] / sizes - mean**2, 0) / np.maximum(sizes - 1, 1)).sum(axis=0))
    gain = mean[1] - mean[0]
    return np.where(gain >= LEAST_GAIN, gain / np.maximum(error, 1e-12), -np.inf)


LEAST_GAIN = 1e-3
"""Probability that a token gains at least."""
Z_LEAST = 1.64
"""Standard errors above which a token counts as more frequent."""
