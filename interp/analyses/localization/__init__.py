"""Does localization inform editing? Edit every fact in every layer, and ask whether tracing says which layer was the right one.

The question. Causal tracing finds layers whose states bring a fact back. Are these the layers where the fact is best edited? For every
fact, layer, problem and editor there is a score, and for every fact and layer a tracing effect; three regressions are compared:

    score ~ layer          score ~ tracing effect          score ~ layer x tracing effect

What tracing adds to the layer's number is Diff = R2(both) - R2(layer). It is never 0: K extra slopes gain (1 - R2(layer)) K / (n - K)
by chance alone (n rows, K layers). That null gain is printed first, and measured too, by shuffling effects; rows of one fact depend on each
other, so intervals draw whole facts and the p-value permutes whole facts. Much of R2(layer) comes from the last layer, in which hardly
any edit can work; so everything is also given without it, and with a rank statistic: is the best layer to edit among those traced best?

Source. Hase et al. 2023, "Does Localization Inform Editing?" (arXiv 2301.04213), sections 4 and 5. Their effects are of MLP windows, as
here, the largest over tokens, of the probability of the whole answer. Deviations: see `interp.analyses.editing`; the share restored is of
the clean total effect unless `effect="hase"` asks for their max(clean, restored); facts the model hardly knows are kept and left out by
`min_prob` when regressing, at any threshold one likes.

When it misleads
- R2 near 0 between score and effect says that *differences between facts* in tracing do not predict where to edit; tracing and
  editing may still agree about the model as a whole.
- A null ratio far from 1 means that the F-test's assumptions fail; believe the permutation p.
- An editor that works everywhere leaves nothing to explain; look at the spread of the scores.

    import interp
    lm, facts = interp.load("atlas"), interp.reference.facts("atlas", 4)
    sweep = interp.EditSweep(problems=("error_injection",), editors=("FT-1",), essence=None, trace_samples=2)
    found = sweep(lm, facts)
    found.by_layer("rewrite")                       # problem, editor, layer: mean, ci_lo, ci_hi
    found.table(permutations=50, resamples=50)      # the paper's table, null gain first
"""

from .regression import Regression, null_gain, regress
from .result import EditSweepResult
from .sequence import EditSequence
from .sequence_result import EditSequenceResult
from .sweep import EditSweep

__all__ = [
    "EditSequence",
    "EditSequenceResult",
    "EditSweep",
    "EditSweepResult",
    "Regression",
    "null_gain",
    "regress",
]
