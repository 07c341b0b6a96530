"""Path patching: what does one head tell another, and does the answer depend on it?

The question. Activation patching says that a head matters, not whom it matters to. Here a *sender* speaks through one set of *receivers*
only: the logits, or the queries, keys or values of heads, or the inputs of MLPs.

    pass A    run the clean prompt with the sender's output taken from the corrupted prompt and all other heads held at their clean
              outputs; note the receivers' inputs
    pass B    run the clean prompt with only the receivers' inputs replaced by those; everything else follows

    effect(s -> R) = M(clean) - M(pass B)              relative = (p_passB - p_clean) / p_clean

Into the logits pass A is already the answer. Which parts are held is the method's meaning, and stands in the result and in its figure:
`freeze="heads"` leaves the MLPs free, so that "direct" includes every route through MLPs of the same token; `freeze_mlps=True` leaves the
edge alone; `freeze="nothing"` is the sender's whole effect on the receivers.

Source. Wang et al. 2022 (arXiv 2211.00593), section 3.1 and appendix B, and Goldowsky-Dill et al. 2023 (arXiv 2304.05969) for the
definition; Prakash et al. 2024 (arXiv 2402.14811) for groups of receivers and for `relative`. Deviations: the sender's value comes from
the corresponding position, never from a random one, so a run is reproducible; raw differences of four metrics are kept for every pair.

How. One recorded run, two kinds of cell on top of it (`LM.resume_sites`, then `LM.resume`); see `sweep`. With heads held nothing moves
between positions, so a sender is patched where its receivers read, unless `positions` says otherwise.

When it misleads
- It is exact for its freezing rule and says nothing about another one. Compare `freeze_mlps=True` before drawing an arrow.
- Receivers patched together may hide each other: the sum over single receivers is the joint effect in a linear network only.
- Noising shows what is needed; a backup head that steps in hides a path, and `direction="denoising"` asks the other question.
- What both prompts have in common is never seen: the pairs define the question.
- p-values treat pairs as independent; pairs from one template are less so than they look.

    import interp
    from interp.data import tasks
    lm = interp.load("atlas")
    pairs = tasks.named("ioi", lm.tokenizer, n=6)
    paths = interp.PathPatching(receivers="logits")(lm, pairs)
    paths.mean(known=False), paths.significant(known=False)
    queries = interp.PathPatching(receivers=("q:3.0", "3.1"), freeze_mlps=True)(lm, pairs)
    queries.top(3, known=False)                       # who tells heads 3.0 and 3.1 what to look for
"""

from .patch import PathPatching
from .result import PathResult

__all__ = ["PathPatching", "PathResult"]
