"""Model diffing: what one of two models has learned that the other has not, by a crosscoder of both, without being fooled by sparsity.

A crosscoder reads the same tokens through both models and writes both models' activations from one code. A latent whose decoder is long in
one model and nothing in the other looks like a concept of that model alone. Many are not:

    delta_j = 1/2 ((|d_j tuned| - |d_j base|) / max + 1)     1: tuned only, 0: base only
    complete shrinkage     the concept is in the base too, weaker, and the penalty has shrunk its base decoder to nothing
    latent decoupling      the concept is in the base too, and other latents write it there

Latent scaling tells: it asks how much of what a latent stands for is in the other model's reconstruction (decoupling) or error (shrinkage),
see `scaling`. Those whose two ratios are both small are specific. What they are worth is then measured by doing it: the tuned model
finishes from the base's activations plus the latents' share, see `patching`, beside random shared latents, all latents and none.

Source. Lindsey et al. 2024 (crosscoders); Minder et al. 2025, "Overcoming Sparsity Artifacts in Crosscoders" (arXiv 2504.02922): relative
norm difference, the artifacts, latent scaling, patching. Without a direction, and the accumulated form: this project.

How. Train a crosscoder on both (`interp train crosscoder BASE TUNED`), BatchTopK for preference: an L1 penalty makes the artifacts. One
reading of the text gives all ratios; patching runs the tuned model once a set.

When it misleads
- Latents of one model alone are learned last. A crosscoder stopped early under-reports them while its FVU looks converged: the training's
  curve is read for it (`training=`).
- Latents that fire together share their slopes: without a direction, the ratio of the reconstruction counts whatever other latents write on
  the same tokens, and in language models nearly every latent looks decoupled. Along the decoder it counts what they write in its
  direction, but has no power where the bases are rotated. `ratio="auto"` looks at shared latents to tell which of the two it is.
- In a crosscoder with dedicated latents (groups), delta is 1 by construction: only the ratios and patching say anything.
- Texts without the difference do not show it: neither latents nor patching can find what no token of the corpus makes the models do.
- In fine-tunes of one base nearly all latents are in both models, and their two decoders may be as long and yet point apart: the base has
  some direction for a word that it never met, too. Delta does not see that; `change`, |d_tuned - d_base| / max(|d_tuned|, |d_base|), does.
  The latents changed most are patched in growing shares, beside as many of any, and their words are listed. The ranking uses weights
  alone, so that a text without the difference is a control: there they must recover nothing.
- "Specific" is to the dictionary at this site. What the tuned model changed before or after it is not seen here.

    import interp
    from interp.analyses.dictionaries.diffing import relative_difference
    relative_difference([1.0, 1.0, 0.0], [1.0, 0.5, 1.0])       # shared, base twice as long, tuned only
"""

from .delta import bins, relative_difference
from .diff import ModelDiff
from .labels import Thresholds, label
from .recall import Recall, recall_of
from .result import DiffResult
from .scaling import Scaled, ScalingSums

__all__ = [
    "DiffResult",
    "ModelDiff",
    "Recall",
    "Scaled",
    "ScalingSums",
    "Thresholds",
    "bins",
    "label",
    "recall_of",
    "relative_difference",
]
