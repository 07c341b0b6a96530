"""A case on latents as features: only the poolings that see where the planted latents fire tell the texts apart."""

import numpy as np

from interp.core.seed import numpy_generator


def planted_classes() -> tuple[bool, str]:
    """200 texts of 64 latents: in one class two of them fire strongly at two tokens that are never the last; weakly they fire in both."""
    import scipy.sparse as sp

    from interp.analyses.dictionaries.classification.features import FeatureSet
    from interp.analyses.dictionaries.classification.measures import measured
    from interp.analyses.dictionaries.classification.pooling import feature_names, pooled, ruled
    from interp.analyses.dictionaries.classification.study import study
    from interp.analyses.directions.crossval import Plan

    draw, texts, tokens = numpy_generator(0, "verify", "classes"), 200, 12
    yes = np.arange(texts) % 2 == 0
    dense = draw.uniform(0.2, 1.2, (texts, tokens, 64)) * (draw.random((texts, tokens, 64)) < 0.03)
    dense[..., :2] = 0.0
    for text in range(texts):
        for latent in range(2):
            places = draw.choice(tokens - 1, 3, replace=False)
            dense[text, places[0], latent] = draw.uniform(0.1, 0.6)
            if yes[text]:
                dense[text, places[1:], latent] = draw.uniform(1.0, 2.0, 2)
    codes, starts = sp.csr_matrix(dense.reshape(-1, 64)), np.arange(texts + 1) * tokens
    chosen = feature_names(("sum", "last"), ("none",)) | feature_names(("max",), (">0", ">1"))
    sets = [FeatureSet(name, "latents", ruled(pooled(codes, starts, p), rule)) for name, (p, rule) in chosen.items()]
    plan = Plan.of(yes, range(texts), 5, 2, 0)
    found = study(sets, plan, probes=("logistic",), strengths=(0.1,), depth=4, shuffles=1, seed=0)
    f1 = {
        one.name: float(measured(score, yes[None], plan.folds)[0, 0])
        for one, score in zip(sets, found.score, strict=False)
    }
    chance = float(found.null[0, 0, 0, 0])
    ok = f1["sum"] >= 0.95 and all(0.3 <= one <= 0.7 for one in (f1["last"], chance))
    ok = ok and f1["max >1"] - f1["any >0"] >= 0.1 and found.loose == 0
    told = ", ".join(f"{name} {value:.2f}" for name, value in f1.items())
    return ok, f"macro F1: {told}; random labels {chance:.2f}"
