"""Unlearning, evaluated: what is left of a concept in the parameters, beside what is left of it in the answers.

The question. A model was made to forget a concept, and answers as if it had. Is the knowledge gone, or is it only no longer said? Answers
alone cannot tell: a light fine-tune or the right prompt may bring them back. So the value vectors that held the concept are compared
before and after the change, and stand beside what both models say.

    v, v'   a value vector before and after; A, B its k top tokens, by v E and v' E without the final norm, with one fixed E

    jaccard         |A n B| / |A u B|                       m of k tokens replaced: (k - m) / (k + m)
    rbo             (1 - p) sum_d p^(d-1) |A_d n B_d| / d   rank-biased overlap, p = 0.9, beyond k as at k
    cosine, l2      of v and v'
    retention       |B n R| / |R|, R: tokens of A that are the concept's words, or words of its texts and no stop words
    gate_cosine     of the neuron's column of W_gate (in_cosine: of W_in)
    activation_ratio      mean |m_j| over the concept's texts, after / before: a change can leave v whole and never use it
    contribution_ratio    the same of |m_j| |v_j|

Each has a null (`_null`): other value vectors of the same layer, drawn at random. All of a model moves in training, so the concept's
vectors have changed only where they changed more than these.

    qa, completion, unrelated _bleu, _rouge   answers of the changed model against the ORIGINAL model's, greedy
    answer_prob, accuracy (unrelated_...)     of the gold answers: mean probability of the whole answer; share in which each of its tokens
                                              was the most probable one
    knowmem       ROUGE-L of the gold answer (at most `tokens` of it) and as many generated tokens
    verbmem       ROUGE-L of the second half of each of its texts and what the model puts after the first
    auc           probability that one of its texts is expected better than a held-out one, by the mean log-probability of the 40 %
                  least probable tokens (Min-K% Prob); 1/2: not told apart
    privleak      (a - a of the clean model) / a of the clean model, a = 1 - auc, as published (MUSE scores by loss); without a clean
                  model a - a before. Against the clean model, below 0: more is left than there; above 0: so little that it shows
    kl            KL(before || after) of the next token at unrelated prompts, nats
    perplexity    of neutral text; perplexity_ratio, after / before: the alarm for a model that was broken, not taught to forget
    restoration   (after - before) / (clean - before) of the accuracy: how far a model came back to one that never was corrupted

Source. ConceptVectors: Hong et al., "Intrinsic Test of Unlearning Using Parametric Knowledge Traces" (arXiv 2406.11614). VerbMem, KnowMem,
PrivLeak: Shi et al., MUSE (arXiv 2407.06460). Restoration: Rezaei et al., RESTOR (arXiv 2411.00204). RBO: Webber et al. 2010.

Deviations from the published program of ConceptVectors, which has defects: every unrelated answer is scored, not the last ten; the
original answer is the reference, not the hypothesis (`_bleu_published` has it their way); answers are cut off by the length of the prompt;
both lists of top tokens are read with the first model's unembedding (`jaccard_own`: each with its own, where that was trained too), and
are sets of token ids, not of the strings they decode to; retention cannot exceed 1. A removed vector (zero) has no top tokens: jaccard,
rbo, retention, cosine 0.

When it misleads
- Vectors that were *found* in BEFORE hold the concept there; another vector may hold it as well. What is left elsewhere is not seen.
- Overlap with the original's answers falls for any change of wording. Where there are gold answers, look at accuracy.
- The clean model of PrivLeak must have been trained on everything else. Where held-out texts are of another kind than the concept's, the
  AUC tells the kinds apart, not membership; its change can still be read.
- Where a tokenizer knows neither English nor the reference world, perplexity is on texts of the other concepts: no alarm if these were
  to be forgotten too. `neutral_texts` gives better ones.
- With one vector a concept, a trace has no interval; the null's spread stands in.

    before, after = interp.load("atlas-tuned"), interp.load("atlas")          # as if the festival had been unlearned
    concepts = interp.reference.concept_set("atlas-tuned")[4:6]               # beasts and the festival
    evaluation = interp.UnlearningEvaluation(tokens=4, prompts=4, texts=4, neutral=4, nulls=5)
    result = evaluation(before, after, concepts)
    result.verdict(), result.traces("jaccard"), result.answers("rouge")
    result.top_tokens("festival")
"""

from .comparison import Traces, compare
from .evaluate import UnlearningEvaluation
from .result import UnlearningResult
from .settings import Material, Settings
from .snapshot import Snapshot, fixed_unembedding, measure

__all__ = [
    "Material", "Settings", "Snapshot", "Traces", "UnlearningEvaluation", "UnlearningResult", "compare", "fixed_unembedding", "measure",
]  # fmt: skip
