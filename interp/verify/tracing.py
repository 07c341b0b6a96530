"""Cases of causal tracing beyond the map of one fact: both directions, and corruptions other than noise."""

import numpy as np

from interp.models import reference

SHARE = 1e-5


def and_or() -> tuple[bool, str]:
    """Share of the total effect of each MLP, denoising and noising, of an AND and of an OR."""
    from interp.analyses.tracing import CausalTrace
    from interp.models.reference.planted.flags import flag_pair, flags

    config = CausalTrace(corruption="counterfactual", window=1, kinds=("mlp",), direction=("denoise", "noise"))
    worst, found = 0.0, []
    for kind in ("and", "or"):
        made = flags(kind)
        trace = config(reference.as_lm(made), [flag_pair()])
        for direction in trace.directions:
            share = trace.normalised("logit_diff", direction=direction).isel(prompt=0, kind=0, pos=-1).values
            worst = max(worst, float(np.abs(share - made.answers[direction]).max()))
            found.append(f"{kind} {direction} {' '.join(f'{abs(value):.0f}' for value in share)}")
    return worst < SHARE, f"{'; '.join(found)} (off by at most {worst:.0e})"


def other_corruptions() -> tuple[bool, str]:
    """The planted map of a fact with zero, mean, resampled and counterfactual subjects in place of noise."""
    from interp import data
    from interp.analyses.tracing import CausalTrace

    made = reference.fact(n_layers=5, writer=1, mover=3)
    lm = reference.as_lm(made)
    rows = [made.prompts[3], made.prompts[9]]  # subjects of two tokens
    facts = data.facts(rows)
    pairs = [data.PromptPair(*data.facts([row, reference.counterfactual(row)])) for row in rows]
    tokens = data.tokenize(facts[0], lm.tokenizer)
    last, length, kinds = tokens.spans["subject"][1] - 1, len(tokens), ("hidden", "mlp", "attn")
    maps = np.stack([reference.fact_map(made, last, length, kind, width=2) for kind in kinds])
    off = {}
    for corruption in ("zero", "mean", "resample", "counterfactual"):
        config = CausalTrace(corruption=corruption, kinds=kinds, window=2, noise_samples=1)
        share = config(lm, pairs if config.takes == "pairs" else facts).normalised("prob")
        off[corruption] = float(np.abs(share.values[0, :, :length] - maps).max())
    return max(off.values()) < SHARE, ", ".join(f"{name} {value:.0e}" for name, value in off.items())
