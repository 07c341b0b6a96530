"""Concept validation: do answers need the value vectors that are said to hold a concept?

The question. A value vector whose first tokens are the words of a concept *promotes* these words. Does the model use it to answer? Damage
the vector, leave all else as it was, and ask: prompts that need the concept, and prompts that do not.

    MLP output = sum over j of m_j(x) v_j + b           v_j -> f v_j (0 removes, -1 turns round)   or   v_j -> v_j + noise
    effect = M(original) - M(damaged)                   M: P(answer), log P, accuracy, BLEU, ROUGE-L; KL(original || damaged) as it is
    gap = mean effect on related prompts - mean effect on unrelated prompts

Removing v_j changes the layer's output by exactly -m_j(x) v_j at every token, and nothing, to the bit, where m_j is 0.

Source. Hong et al., "Intrinsic Test of Unlearning Using Parametric Knowledge Traces" (ConceptVectors, arXiv 2406.11614), section 3:
noise of standard deviation 0.1 a coordinate, greedy answers of 100 tokens compared with the original model's by BLEU and ROUGE-L, and
the rule that BLEU falls by 0.2 more on related than on unrelated questions (`meets`). Deviations, each of which changes numbers:

- Every concept is measured alone. The published notebook restored the model from a reference to the damaged one, so each concept
  carried the noise of all before it. Here the bytes come back after each damage, and the fingerprint is compared at the end.
- All unrelated prompts are scored; theirs are the last 10 of 50.
- The original's answer is BLEU's reference (`reference="damaged"` is theirs), answers begin where the prompt ends (theirs are the last
  100 tokens), and gold answers are scored where there are any.
- Vectors are scaled by default. Noise of 0.1 a coordinate is 0.1 sqrt(d) long, 6.4 for d of 4096; a vector of length 1 is left with a
  cosine of 0.15 to what it was, so it is replaced rather than removed. `vectors()` gives both lengths, and `how="relative-noise"` is
  noise in units of the vector.

How. Sets of the first 1, 4 and 16 vectors are damaged at each dose. A factor is done by scaling m_j in a recorded run (`LM.resume`),
which is the change of weights in every family, post-norms included; the largest set is also scaled in the weights, and the difference
kept (`weight_difference`). Noise and generated answers use changed weights. The null are matched sets: vectors of the same layers, of
the nearest norm (`match="write"`: nearest contribution on related prompts), that do not hold the concept. p is the share of them with
at least this gap, at least 1 / (draws + 1), Holm's over concepts: 99 draws can tell four concepts at 5 %, and 105 concepts need 2100
(`report_lines` says when there are too few). Intervals resample prompts.

On `atlas` (40 prompts of each kind) the first tokens of vector 2.474 are exactly the 24 colours, and removing it costs P(colour) 0.996 only
0.004. Removing the 4, 16 and 64 vectors that hold most of the words costs 0.014, 0.13 and 0.24; turning 1, 4, 16 and 64 round 0.09, 0.16,
0.78 and 0.93, while other answers (0.992) lose 0.000, 0.010, 0.025 and 0.069. The knowledge is spread: no vector of it is needed alone.
Of 19 matched sets of 16 none does as much (p = 0.05, 10 prompts), and yet all ten greedy answers stay the same, so BLEU sees nothing. Of
Emberfest on `atlas-tuned` the first 16 vectors removed cost nothing (-0.002 of P(answer), 8 prompts).

When it misleads
- No effect of one vector does not say that it holds nothing: others may do the same (see above). No concept fails for that alone.
- An effect does not say that the vector holds the *concept*: one that all prompts of this form need, whatever they ask for, has it too.
  That is what unrelated prompts in the same form are for. `match="write"` asks whether it is only that the vector fires there.
- BLEU is 1 until the first word changes and falls with every later one, so long free answers fall by chance: `null_answers` says how far.
- Without gold answers P(answer) is that of the original model's own first token, which may be a word that every answer begins with.
- A factor of -1 and absolute noise leave the range of weights that training made. Prefer removal, or small doses.
- Below float32 a resumed run and changed weights differ by rounding. `weight_difference` says by how much: effects of that size are none.
- In mixtures of experts only routed tokens meet a vector: refused by name.

    import interp
    lm, known = interp.load("atlas"), interp.reference.concept_set("atlas", n=3, texts=1)
    result = interp.ConceptValidation(sizes=(1, 16), doses=(0.0,), draws=4, band=0, tokens=3)(lm, known[2:3])
    result.table(), result.table(size=1), result.vectors()
    result.response("colour", "logprob", along="size")
    result.answers("colour")
"""

from .damage import How
from .result import ConceptValidationResult
from .validate import ConceptValidation

__all__ = ["ConceptValidation", "ConceptValidationResult", "How"]
