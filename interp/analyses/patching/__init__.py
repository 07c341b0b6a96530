"""Activation patching: which component carries what differs between two prompts?

The question. Two prompts of equal length differ in what decides the answer ("... John gave the bag to" against "... Mary gave the bag
to"). Take one component's value from the run of one prompt, put it into the run of the other, and let the rest of the model react:

    denoise    M(corrupted | do(n := clean n)) - M(corrupted)       does the clean value suffice to bring the answer back?
    noise      M(clean) - M(clean | do(n := corrupted n))           is the clean value needed to keep it?
    share      either of them / (M(clean) - M(corrupted))           1 = all of it; below 0 and above 1 are legal and kept

for the residual stream, for what attention and MLPs add to it, for heads' outputs, queries, keys and values, and for MLP neurons; at
single positions, at named spans, or everywhere; in single layers or windows of them. M is the answer's probability, log-probability,
logit difference to the foil, or rank; all four are kept for every cell of every pair.

Source. Vig et al. 2020 (arXiv 2004.12265); Meng et al. 2022 (arXiv 2202.05262) for windows; Wang et al. 2022 (arXiv 2211.00593), which
patches heads; Zhang & Nanda 2024 (arXiv 2309.16042), sections 2 and 3, on corruptions and metrics; Heimersheim & Nanda 2024 (arXiv
2404.15255) on the two directions. Zero and mean are put into the clean run only; `resample` takes another pair's corrupted prompt.

How. Both prompts are recorded in runs of the same shape, all pairs of one length as rows of one recording; each cell is a resumption of it
(`LM.resume`) that recomputes later layers and later positions only. A position before the first changed token costs nothing and has
effect exactly 0. Each call checks itself, in every direction: nothing replaced, or the last layer where nobody reads it, is the base run
to the bit; the whole stream of a layer replaced gives the other run's logits; one resumed cell is what a whole forward pass gives.

When it misleads
- The two directions answer different questions. Of two components that are both needed (AND), denoising finds neither and noising both;
  of two that replace each other (OR), denoising finds both and noising neither. The shares neither mirror each other nor sum to 1.
- What is found is about what *differs* between the prompts. What both have in common is invisible, however much it matters.
- A component that reacts to the patch (self-repair) hides an effect; negative components show only in a signed metric: prefer the
  logit difference over the probability, which saturates.
- Zero and mean leave the data that the model was trained on; a window's effect is not a sum of single layers.
- A patched stream at the last token is the answer by construction towards the end. Look at positions before it, and at components.
- Keys and values are patched for each key/value head; in a grouped-query model several query heads share one.
- The strongest of many cells is strong by selection too: see `significant` (over the grid) and `controls` (matched random draws).

    import interp
    lm = interp.load("atlas")
    pairs = interp.data.tasks.named("ioi", lm.tokenizer, n=12)
    heads = interp.ActivationPatching(kinds="z", over="layer head")(lm, pairs)
    heads.top(5, known=False)                             # kind, direction, layer, head, effect, interval, p_adjusted
    heads.significant("bh", known=False)["significant"]   # [direction, layer, head]
    places = interp.ActivationPatching(kinds="resid_pre", positions=("S2", "last"), controls=4)(lm, pairs[:4])
    places.normalised().mean("pair"), places.controls()
"""

from .cells import KINDS, OVER
from .patch import ActivationPatching
from .result import PatchingResult

__all__ = ["KINDS", "OVER", "ActivationPatching", "PatchingResult"]
