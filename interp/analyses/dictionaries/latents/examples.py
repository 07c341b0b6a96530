"""Which tokens are shown of a latent: the strongest of different texts, and some of every quantile of its codes; their surroundings."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from interp.core.seed import numpy_generator

TOP = "top"


@dataclass(frozen=True)
class Example:
    """One token on which a latent is on."""

    row: int
    value: float
    kind: str
    """`top`, or the quantiles of its codes between which it was drawn: `0.75-1`."""
    low: float
    """Smallest and largest code of the interval; of a `top` example, of all tokens on which the latent is on."""
    high: float


def examples(
    rows: np.ndarray, values: np.ndarray, document: np.ndarray, text: Sequence[int], *, top: int, intervals: int, each: int, seed: int,
    name: str,
) -> list[Example]:  # fmt: skip
    """The `top` largest codes, one a text (then further ones of the same texts are not taken), and `each` of every interval.

    `rows` [firing] are rising, `values` their codes, `document` [firing] which document; `text` [document] which text that is a piece of.
    Intervals hold equal shares of the tokens on which the latent is on; what is shown of them is drawn at random, one a text as far as
    there are enough.
    """
    owner = np.asarray(text)[document] if len(document) else np.zeros(0, dtype=np.int64)
    found, seen = list[Example](), set[int]()
    for place in np.lexsort((rows, -values)).tolist():
        if len(found) == top:
            break
        if int(owner[place]) not in seen:
            seen.add(int(owner[place]))
            found.append(Example(int(rows[place]), float(values[place]), TOP, float(values.min()), float(values.max())))
    if not intervals or not len(values):
        return found
    order = np.lexsort((rows, values))
    rng = numpy_generator(seed, "latent examples", name)
    for number, part in reversed(list(enumerate(np.array_split(order, intervals)))):
        kind = f"{number / intervals:.3g}-{(number + 1) / intervals:.3g}"
        drawn = rng.permutation(part)
        _, first = np.unique(owner[drawn], return_index=True)
        again = np.setdiff1d(np.arange(len(drawn)), first)
        for place in drawn[np.concatenate([np.sort(first), again])][:each].tolist():
            span = float(values[part].min()), float(values[part].max())
            found.append(Example(int(rows[place]), float(values[place]), kind, *span))
    return found


@dataclass(frozen=True, eq=False)
class Windows:
    """Surroundings of examples, padded: -1 and NaN beyond a document's ends."""

    ids: np.ndarray
    """Token ids [example, place]."""
    codes: np.ndarray
    """The latent's codes there [example, place], float32."""
    at: np.ndarray
    """Where in the window the example stands [example]."""


def windows(
    found: Sequence[Example], rows: np.ndarray, values: np.ndarray, *, tokens: np.ndarray, starts: np.ndarray, skip: int, window: int
) -> Windows:  # fmt: skip
    """`window` tokens on either side of each example, within its document (whose first `skip` tokens have no code).

    `tokens` [row] are all ids of the corpus, `starts` [document + 1] where documents begin.
    """
    shape = (len(found), 2 * window + 1)
    ids, codes, at = np.full(shape, -1), np.full(shape, np.nan, dtype=np.float32), np.zeros(len(found), dtype=np.int64)
    for number, example in enumerate(found):
        document = int(np.searchsorted(starts, example.row, side="right")) - 1
        low, high = (
            max(int(starts[document]), example.row - window),
            min(int(starts[document + 1]), example.row + window + 1),
        )
        size = high - low
        ids[number, :size], codes[number, :size], at[number] = tokens[low:high], 0.0, example.row - low
        first, last = np.searchsorted(rows, [low, high])
        codes[number, rows[first:last] - low] = values[first:last]
        if skip and low == starts[document]:
            codes[number, : min(skip, size)] = np.nan
    return Windows(ids, codes, at)
