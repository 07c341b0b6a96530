"""Attribution: what every node and every edge is worth to the answer, from gradients, with true patching beside it.

The question. Patching every node of a network takes a run each. To first order, one gradient tells all of them at once. For a metric M
(a logit difference), a node n, and its values in the clean and in the corrupted run,

    noising     M(clean) - M(clean | do n := corrupted)          ~  (n_clean - n_corrupted) . dM/dn   at the clean run
    denoising   M(corrupted | do n := clean) - M(corrupted)      ~  (n_clean - n_corrupted) . dM/dn   at the corrupted run

Both are what the node is worth to the answer; the papers' AtP is the change under noising, minus the first. Sums over a node's entries;
cells are kept a layer, head and position, and a pair.

Beyond one gradient
- `method="ig"`: the mean gradient along a straight path of embeddings, or of one layer's nodes. The attributions of the path's own
  start then sum to what moves, as the number of steps grows; how far they are from it is part of every result.
- `qk_fix`: queries and keys through the attention that they would really give (see `qkfix`), not through a saturated softmax.
- `graddrop`: gradients with one layer's outputs cut at a time, the mean of |.| over layers / (L - 1). It finds nodes whose direct and
  indirect effects cancel at this point; it ranks, is never an effect, and also flags nodes whose effects really cancel.
- `freeze_norms`: the gradient with every norm's scale held: a linear share, where the default is the true slope.
- `EdgeAttribution`: one number for every edge between heads, MLPs, input and logits (see `edges`).

Agreement is part of the result. Cells are patched truly, through partial recomputation: all of them where that is cheap, else the best and
as many random ones. `agreement()` gives rank correlation, correlation and overlap of the top lists; `bound()` a limit on what
was not patched.

Source. Nanda 2023, "Attribution patching"; Kramar et al. 2024, "AtP*" (arXiv 2403.00745), sections 2-4; Sundararajan et al. 2017 (arXiv
1703.01365) for the path; Syed et al. 2023 (arXiv 2310.10348) and Hanna et al. 2024 (arXiv 2403.17806) for edges. Deviations: the sign
above; midpoint rule instead of end points (error 1/m^2 instead of 1/m).

When it misleads
- Exact only where M is affine in the node between the two runs. Worst for streams (large differences, all norms in between), best for
  single heads. At saturated probabilities the gradient is 0 whatever the effect: use the logit difference.
- The sum over nodes is not the total effect: paths are counted once for each node on them.
- For grids of layers x heads x positions at prompt length, patching is exact and costs about fifteen times as much: then patch.
- Noising and denoising differ where components back each other up (OR) or need each other (AND): look at both.
- A rank correlation over thousands of nodes without effect is a statement about nothing; the overlap of the top list is what counts.

    import interp
    lm = interp.load("atlas")
    pairs = interp.reference.task("atlas", "ioi", n=4)
    found = interp.Attribution(nodes="z")(lm, pairs)
    found.agreement()                          # rho, r, top-k overlap with true patching, intervals over pairs
    found.top(5)                               # the heads and positions that count, with their true effects
"""

from .attribute import Attribution
from .edge_result import EdgeResult
from .edges import EdgeAttribution
from .graph import Graph
from .nodes import NODES
from .result import AttributionResult

__all__ = ["NODES", "Attribution", "AttributionResult", "EdgeAttribution", "EdgeResult", "Graph"]
