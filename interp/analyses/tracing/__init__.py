"""Causal tracing: which hidden states, put back, bring a corrupted fact back?

The question. A model completes "The Space Needle is in the city of" with Seattle. On which states, from the subject to the last token,
does the answer depend? Three runs: clean; corrupted, with the subject's token embeddings drowned in noise (or zeroed, or swapped for
another subject's); and corrupted *with one state restored* from the clean run. What the restoration gives back is that state's indirect
effect. Noising asks the reverse: the clean run with one state broken.

    TE = M(clean) - M(corrupted)                                              total effect of the corruption on a metric M of the answer
    IE(t, l) = M(corrupted, h[t, l] := clean h[t, l]) - M(corrupted)          direction="denoise": what suffices
    IE(t, l) = M(clean) - M(clean, h[t, l] := corrupted h[t, l])              direction="noise": what is needed

for the residual stream after layer l at token t, and for MLP or attention outputs over a window of layers around l. The metrics are the
answer's probability, log-probability, logit difference to a foil, and rank; all four are kept for every cell of every prompt. Of an AND
of two components denoising finds none and noising both, of an OR the reverse: `direction=("denoise", "noise")` gives both maps.

Source. Meng et al. 2022, "Locating and Editing Factual Associations in GPT" (ROME, arXiv 2202.05262), section 2 and appendix B; its
published code where the two differ (`window_rule`, `sigma`). Severing: the same paper, section 2.2. Counterfactual corruption and the
choice of metric: Zhang & Nanda 2024 (arXiv 2309.16042). Whole answers and shares restored: Hase et al. 2023 (arXiv 2301.04213). Both
directions: Heimersheim & Nanda 2024 (arXiv 2404.15255). Deviations: every position has *one* role (see `interp.data.roles`); averages by
role weigh prompts, not tokens; nothing is clipped at zero; prompts that the model does not know are kept and flagged, not dropped.

How. Prompts of one length share a batch, which is recorded once; every cell is a resumption of it (`LM.resume`) that recomputes later
layers and later positions only. Cells before the subject, last-layer cells at positions that nobody reads, and repeated clipped windows
cost nothing. Each call checks itself: restoring nothing is the corrupted score to the bit, one resumed cell is what a whole forward
pass gives, and the last state of the last token restores the clean score. `controls` puts other prompts' values into the same cells,
`significant` tests every cell over subjects, `split` goes by the labels of `interp.ScenarioLabels`, `resume_from` keeps what is done.

When it misleads
- Noise leaves the data the model was trained on; where it breaks mechanisms, mid-layer MLP peaks can be several times those of a
  counterfactual corruption. Run both before believing either.
- A window's effect is not a sum of its layers' effects: a window peak is no single-layer location. Windows are clipped at both ends, so
  the map is biased low there. `window_null` says what a window elsewhere gives.
- Probability hides what lifts an answer from one in a million to one in a thousand, and what acts against it: look at `logit_diff` too.
- Without a BOS, position 0 is an attention sink: effects of a subject that begins the prompt mix the subject with the sink.
- Denoising shows what suffices to bring the answer back, not what is necessary; of two paths in an OR each shows the whole effect.
- A significant cell need not be a large one. Facts about one subject are not independent; intervals and tests resample subjects.
- Where a model is localised says little about where it is best edited (Hase et al. 2023).

    import interp
    lm, facts = interp.load("atlas"), interp.reference.facts("atlas")
    trace = interp.CausalTrace(window=3)(lm, facts[:20])
    trace.total_effect()                       # clean, corrupted, effect with interval
    trace.by_role(metric="logit_diff")         # role x kind x layer, with intervals and counts
    trace.peak()                               # the best role and layer of each kind
    trace.significant()                        # which cells differ from zero, corrected over the whole map
"""

from .cells import KINDS, window_layers
from .result import TraceResult
from .trace import CausalTrace

__all__ = ["KINDS", "CausalTrace", "TraceResult", "window_layers"]
