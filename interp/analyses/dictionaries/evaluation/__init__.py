"""Evaluation of dictionaries: how much of the activations is explained, by how many latents, and what the model loses by running on it.

The question. A sparse autoencoder, transcoder or crosscoder is only as good as what is lost when its reconstruction takes the place of the
activations. Three numbers have to be read together, on text that it was not trained on:

    FVU        = sum |x - x̂|² / sum |x - mean x|²              over all evaluated tokens together; 1 - FVU is the explained variance
    L0         = mean number of codes that are not 0           at the rule of inference, not of training
    recovered  = (M(ablated) - M(dictionary)) / (M(ablated) - M(clean))

M is the loss (CE), or KL(clean || .), of the model with x̂ in place of x. Ablated: zeros, or the mean of x; zero-ablation flatters,
because zeros are far from anything that the model has seen, so both stand side by side. 1 = nothing is lost, 0 = no better than ablation.

How. Everything is summed in float64 over the corpus; no code is kept. Each written view is replaced alone, with the reconstruction of the
clean run, at every evaluated token at once. Where a dictionary writes several views of one model they are also replaced all together:
in order, with codes computed from what earlier reconstructions made of the stream, where each view reads only what comes before it
(transcoders of several layers, weakly causal crosscoders); with the codes of the clean run where it also reads what comes after it, or
where latents compete for k places (attribute `together`). A view that is a difference of two models is put on top of the second.
Intervals resample whole texts.

First and massive tokens. Many models keep an activation hundreds of times as long as the others at the first token or two. In FVU it would
be most of the variance. The first `skip` tokens of a document, and tokens longer than `massive` medians in some view, are neither
evaluated nor replaced; how many, their share of the squared norm, and the FVU of all tokens with them are reported.

    mse, cosine     squared error a component; mean cosine of x and x̂
    fvu_legacy      the mean over tokens of |x - x̂|² / |x - mean x|², which older libraries report; not the same number
    norm_ratio      mean |x̂| / |x|;  slope: of x on x̂, about their means. Above 1: reconstructions are too small (shrinkage of L1)
    density         share of tokens on which a latent is on; dead: on none of them; dense: on more than 10 %

Source. Bricken et al. 2023 (loss recovered); Gao et al. 2024, arXiv 2406.04093 (downstream loss); Rajamanoharan et al. 2024, arXiv
2404.16014 (shrinkage); Karvonen et al. 2025, arXiv 2503.09532 (SAEBench). Deviation: ratios of sums over the corpus, never means of ratios.

When it misleads
- Loss recovered saturates: 0.98 of the loss can be worth a model of half the size. Read the loss itself, too.
- A latent that is dead on ten thousand tokens may be rare. Dead means: on none of *these*.
- FVU says nothing about whether latents mean anything; a basis of principal components has a low one.
- Replacing several views of the residual stream together with codes of the clean run tests the last one only: it overwrites the others.
- Text that the dictionary was trained on, or text unlike it, makes it look better or worse than it is.

    import interp
    from interp.cache.gather import view_of
    from interp.core.dictionary import Dictionary, DictionaryConfig
    lm = interp.load("atlas")
    text = interp.data.corpus(interp.reference.text("atlas", 8), lm.tokenizer)
    view = view_of(lm, "blocks.2.hook_resid_post")
    untrained = Dictionary.initialise(DictionaryConfig(latents=256, reads=(view,), writes=(view,), k=16))
    found = interp.DictionaryEvaluation(dictionary=untrained)(lm, text)
    found.fvu(), found.l0(), found.recovered("kl", "mean"), found.density()
"""

from .evaluate import CrosscoderEvaluation, DictionaryEvaluation
from .result import DictionaryEvaluationResult

__all__ = ["CrosscoderEvaluation", "DictionaryEvaluation", "DictionaryEvaluationResult"]
