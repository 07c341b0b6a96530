"""Circuits: which heads together do a task, how much of it they do, and what they lack.

The question. A circuit C is a set of heads, each at a position. It explains a behaviour of the model M as far as running C alone (every
other head replaced by what it says on average) does what M does, taking parts out of both hurts both alike, and nothing in it is idle:

    faithfulness    F(C) / F(M)                        and by logit difference, (LD(C) - LD(empty)) / (LD(M) - LD(empty))
    completeness    |F(C \\ K) - F(M \\ K)|              for random halves and whole groups K of C; small is good
    minimality      F(C \\ K) / F(C \\ (K + v)) - 1      for every head v, K chosen so that v is missed most

with F the accuracy. A number without a floor is no finding, so each comes with what the empty circuit gives, what ten random circuits of
the same size give (the mean and the best), what guessing gives, and with `open`, the ceiling: every head at the circuit's positions.

Discovery goes backwards from the logits by path patching (`interp.PathPatching`): first the heads that the logits read, then those that
these heads' queries, keys or values read, and so on, each step at a position that the plan names. It keeps heads whose effect is
significant (sign flips over pairs, Holm over heads) and at least `least` of the total. A circuit that is discovered is evaluated on
other pairs than it was found on.

Source. Wang et al. 2022 (arXiv 2211.00593), sections 3 and 4; Prakash et al. 2024 (arXiv 2402.14811), section 3, for the order of
the steps and the algorithm of minimality. Deviations: random circuits are drawn without replacement; pairs of heads that share a layer or a
number are not left out of minimality, whose division by zero is guarded; a tie for the top counts as its share; means are by role
unless asked for by position; the empty circuit's logit difference is subtracted before dividing.

When it misleads
- Mean ablation leaves the data: a circuit can fail because its other half was handed an average of two meanings, and a bad circuit can
  shine because the mean itself answers. The empty circuit shows the second; compare `elsewhere="clean"` for the first.
- MLPs are never ablated here, so they are part of every circuit, the empty one included.
- Few heads make random circuits overlap with the circuit: `overlap` in the result says by how much.
- Top-k selection always finds a circuit. Significance does too, if prompts share a template: pairs are not independent then.
- The pairs define the question: heads that say the same in both prompts are invisible, however much they are needed.

    import interp
    from interp.data import tasks
    lm = interp.load("atlas")
    pairs = tasks.named("ioi", lm.tokenizer, n=24)
    found = interp.CircuitDiscovery(plan=("movers@last>logits",))(lm, pairs)
    judged = interp.CircuitEvaluation(circuit=str(found.circuit), draws=4, random=3, accuracy="choice")(lm, pairs)
    judged.table(), judged.faithfulness("logit_diff"), judged.completeness(), judged.minimality()
"""

from .circuit import Circuit, Group
from .discover import PLANS, CircuitDiscovery
from .evaluate import CircuitEvaluation
from .result import CircuitResult, DiscoveryResult

__all__ = ["PLANS", "Circuit", "CircuitDiscovery", "CircuitEvaluation", "CircuitResult", "DiscoveryResult", "Group"]
