"""Latents as features of a classifier: do the codes of a dictionary tell texts apart, and better than what is there without it?

The question. Texts have a yes or a no each. The codes of a text's tokens are pooled into one row a text, perhaps binarised, and a
simple probe is fitted on them:

    x[text, j] = pool over its tokens t of f_j(t)         sum, mean, max, last; topn:N counts the tokens at which j is among the N largest
    x[text, j] > threshold                                after pooling: the rules `>0`, `>1`

Beside it, by the same folds, probes and shuffles: the hidden states that the dictionary reads, under the same poolings; the words of the
text (log counts, TF-IDF); and the larger class. Scores are held out by k-fold cross-validation that tears no group apart; penalties are
chosen by folds within the training rows, and everything that scales features sees training rows only.

Source. Gallifant et al. 2025 (arXiv 2502.11367). Deviations: hidden states are pooled like latents, not only read at the last token;
scalers are fitted within folds; fits run until they converge (what did not is counted and said); nothing is tuned on what is scored.

How. Logistic regression is ridge-penalised, with balanced classes, and so are trees; a prediction is the sign of its score. p-values come
from the same pipeline, penalties chosen anew, on shuffled labels, the same ones for all feature sets: `p` is of one set by itself, `p_best`
corrects for having looked at all sets (the shuffle's best set is what it must beat). Intervals draw groups anew, given the folds.

When it misleads
- If words do as well, the latents found the words. If hidden states do, the dictionary added nothing but names.
- The first token of a text is left out (`skip_first`): in many models its activations are huge and the same in every text. Words keep it.
- `>1` depends on the scale of the codes, which normalisation sets. Under `sum`, long texts have large features: length may be the class.
- Weights of correlated latents are shared among them: a latent with weight 0 may carry the class as well as the one that has it.
- The best of many sets is chosen by its own score. `difference` compares two sets that were named beforehand.
- Nothing here says that the model uses what the probe reads (`LatentEffect` does).

    import interp
    lm, texts = interp.load("atlas"), interp.reference.labelled("atlas", "colour", 20)
    found = interp.LatentClassification(dictionary="runs/sae", pools=("sum", "max"), probes=("logistic",), shuffles=5)(lm, texts)
    found.table()                                   # a row a feature set and probe
    found.deciders("sum", "logistic")               # latents, their weights, where they fire
    found.difference("latents sum", "hidden sum")   # macro F1, with an interval
"""

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from interp.core.analysis import Analysis, Cost
from interp.core.digest import publishable
from interp.core.errors import BadInput, one_of
from interp.data import Labelled, TokenPrompt

from ...directions.crossval import Plan
from ...directions.gather import tokens_of
from ...directions.probes import check_labelled
from ..latents.assemble import named
from ..latents.reading import check_reading
from ..source import opened
from .assemble import assemble
from .features import FeatureSet, words
from .pooling import check_pool, check_rule, feature_names, pooled, pooled_rows, ruled
from .reading import Read, check_lengths, read_texts
from .result import LatentClassificationResult
from .study import study

if TYPE_CHECKING:
    from interp.core.lm import LM

PROBES = ("logistic", "tree")
WORDS = ("counts", "tfidf")


@dataclass(frozen=True)
class LatentClassification(Analysis[LatentClassificationResult]):
    """Classify labelled texts by pooled latents, beside hidden states, words, the larger class and shuffled labels."""

    takes: ClassVar[str] = "labelled"

    dictionary: str = ""
    """Folder of a saved dictionary (in Python also the dictionary itself)."""
    pools: tuple[str, ...] = ("sum", "mean", "max", "last", "topn:5")
    """How the codes of a text become one row: sum, mean, max, last, topn:N."""
    rules: tuple[str, ...] = ("none", ">0", ">1")
    """What becomes of pooled codes: `none`, or 1 where they are above a threshold, such as `>1`."""
    probes: tuple[str, ...] = PROBES
    """Of logistic, tree."""
    hidden: tuple[str, ...] = ("sum", "mean", "max", "last")
    """Poolings of the hidden states that the dictionary reads: the baseline."""
    words: tuple[str, ...] = WORDS
    """Bags of words: counts (log), tfidf. They need no model."""
    folds: int = 5
    """Parts that are held out in turn."""
    inner: int = 3
    """Folds within the training rows, in which the penalty is chosen."""
    strengths: tuple[float, ...] = (0.01, 0.1, 1.0, 10.0)
    """Penalties to choose from, in units of one row's: logistic has C = 1 / (strength * rows)."""
    depth: int = 4
    """Depth of the trees."""
    shuffles: int = 19
    """Shuffled label sets. The smallest p-value is 1 / (shuffles + 1)."""
    top: int = 10
    """Deciding latents that are kept of each set and probe."""
    skip_first: int = 1
    """Tokens at the start of each text (a BOS counts) that no pooling sees: attention sinks. 0 takes all."""
    bos: bool | None = None
    """Put a BOS before each text; None follows the model's tokenizer."""
    seed: int = 0
    """Seed of folds, shuffles and trees."""

    def __post_init__(self) -> None:
        for name in ("pools", "rules", "probes", "hidden", "words", "strengths"):
            value = getattr(self, name)
            value = (value,) if isinstance(value, str | int | float) else tuple(value)
            object.__setattr__(self, name, value)
            if len(set(value)) < len(value):
                raise BadInput(f"`{name}` names something twice: {list(value)}. Name each once.")
        for name in ("pools", "rules", "probes", "strengths"):
            if not getattr(self, name):
                raise BadInput(f"`{name}` is empty. Name at least one.")
        for pool in self.pools:
            check_pool(pool)
        for rule in self.rules:
            check_rule(rule)
        for pool in self.hidden:
            check_pool(pool, counts=False)
        for name, legal in (("probes", PROBES), ("words", WORDS)):
            for value in getattr(self, name):
                one_of(name, value, legal)
        least = {"folds": 2, "inner": 2, "depth": 1, "shuffles": 1, "top": 1, "skip_first": 0}
        for name, low in least.items():
            if getattr(self, name) < low:
                raise BadInput(f"`{name}` must be at least {low}; not {getattr(self, name)}.")
        if not all(strength > 0 for strength in self.strengths):
            raise BadInput(
                f"`strengths` must be positive; not {list(self.strengths)}. Unpenalised probes fit any labels."
            )

    def __call__(self, lm: "LM", data: Any = None, *, store: Any = None) -> LatentClassificationResult:
        """Run on a model and labelled texts."""
        self.check(lm, data)
        inputs = {"data": data, "dictionary": opened(self.dictionary)}
        return self._recorded(lm, inputs, lambda: self.run(lm, data, store))

    def to_dict(self) -> dict[str, Any]:
        """The options as plain JSON values; a dictionary that was given as an object by its content hash."""
        return {
            entry.name: named(self.dictionary) if entry.name == "dictionary" else publishable(getattr(self, entry.name))
            for entry in fields(self)
        }

    def check(self, lm: "LM", data: Any) -> None:
        """Refuse another model's dictionary, texts that are too short or too long, and classes too small for the folds."""
        check_labelled(data)
        check_reading(opened(self.dictionary), [lm])
        check_lengths(tokens_of(lm, data, bos=self.bos), self.skip_first)
        self._plan(data)

    def cost(self, lm: "LM", data: Any = None) -> Cost:
        """One forward pass over the texts; the fits take the rest of the time."""
        tokens = tokens_of(lm, data, bos=self.bos)
        total, dictionary = sum(map(len, tokens)), opened(self.dictionary)
        width = sum(view.width for view in dictionary.config.reads)
        on = dictionary.config.k if dictionary.config.activation in ("topk", "batchtopk") else dictionary.latents / 20
        sets = len(feature_names(self.pools, self.rules)) + len(self.hidden) + len(self.words)
        fits = (
            sets
            * self.folds
            * (self.shuffles + 1)
            * (self.inner * len(self.strengths) + 1)
            * ("logistic" in self.probes)
        )
        held = int(total * (4 * width + 12 * on)) + 3 * 8 * len(tokens) ** 2
        return Cost(float(len(tokens)), total, held, f"{fits:,} logistic fits" if fits else "")

    def run(self, lm: "LM", data: Labelled, store: Any = None) -> LatentClassificationResult:
        """Read the texts once; then set by set."""
        dictionary, tokens = opened(self.dictionary), tokens_of(lm, data, bos=self.bos)
        plan = self._plan(data)
        read = read_texts(dictionary, lm, tokens, self.skip_first, store)
        sets = self._sets(read, tokens)
        found = study(
            sets, plan, probes=self.probes, strengths=self.strengths, depth=self.depth, shuffles=self.shuffles, seed=self.seed
        )  # fmt: skip
        return assemble(self, dictionary, lm, data, tokens, plan, read, sets, found)

    def _plan(self, data: Labelled) -> Plan:
        return Plan.of(np.array(data.labels, dtype=bool), data.groups, self.folds, self.inner, self.seed)

    def _sets(self, read: Read, tokens: list[TokenPrompt]) -> list[FeatureSet]:
        pools = {pool: pooled(read.codes, read.starts, pool) for pool in self.pools}
        sets = [
            FeatureSet(f"latents {name}", "latents", ruled(pools[pool], rule))
            for name, (pool, rule) in feature_names(self.pools, self.rules).items()
        ]
        sets += [
            FeatureSet(f"hidden {pool}", "hidden", pooled_rows(read.rows, read.starts, pool)) for pool in self.hidden
        ]
        counts = words(tokens) if self.words else None
        scaling = {"counts": "length", "tfidf": "tfidf"}
        return sets + [FeatureSet(f"words {name}", "words", counts, scaling[name]) for name in self.words]
