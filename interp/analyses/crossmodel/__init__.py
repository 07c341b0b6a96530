"""Cross-model activation patching: in which components does a tuned model do better than its base?

    recovered(c) = (M(A <- B : c) - M(A)) / (M(B) - M(A))

Both models read the same prompts; in model A, component c is replaced by what model B has there. 1 means that this component alone makes
A do what B does, 0 that it contributes nothing; both directions are run, and means over prompts are compared, never ratios averaged.

    z, attn_out, mlp_out, resid_post    outputs, at the position
    q                                   a head's queries at the position
    k, v                                a key/value head's keys or values at all positions, everything else at other positions held
    pattern                             the position's row of the attention probabilities

Patching k and v at all positions would also change what the head writes elsewhere; so z of that layer is held at A's values at
every other position, and only the reading at the position changes. Under grouped queries k and v belong to several heads.

Source. Prakash et al. 2024, "Fine-Tuning Enhances Existing Mechanisms" (arXiv 2402.14811), which patches outputs
and inputs.

When it misleads
- It presumes that both models write in the same basis. Two runs from different seeds, or a rotated copy, compute the same in another
  basis: patching then fails although the mechanism is the same. So the streams are compared first (`interp.analyses.crossmodel.basis`), and
  models that do not share a basis are refused (or, with on_foreign="warn", warned about).
- Output patching of late heads is nearly a tautology: their outputs hold everything upstream. Input patching (q, k, v) says more.
- Where M(B) - M(A) is not twice its standard error, recovered shares are noise: refused, with the numbers.

    import interp
    base, tuned = interp.load("atlas"), interp.load("atlas-tuned")
    beasts = [fact for fact in interp.reference.facts("atlas-tuned", 300) if fact.meta["relation"] == "beast"]
    found = interp.CrossModelPatching(kinds=("mlp_out", "attn_out"))(base, tuned, beasts[:20])
    found.recovered("logprob")            # direction x component: estimate, low, high
"""

from .basis import BasisCheck, basis_check
from .cmap import CrossModelPatching, CrossModelResult

__all__ = ["BasisCheck", "CrossModelPatching", "CrossModelResult", "basis_check"]
