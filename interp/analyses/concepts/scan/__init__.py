"""Concept scan: what every vector that writes to the stream promotes, and which of them hold a concept.

The question. An MLP adds Σ_j m_j(x) v_j to the stream: value vectors that are always the same, weighted by how far their neurons fire.
Read in the vocabulary, a vector promotes some tokens. Which vectors promote tokens that belong together, and which those of a concept?

    logits of a vector     v_j @ W_U                     [vocab], without the final norm as published, or through its gain (`folded`)
    concreteness           mean logit of its top k       the paper keeps 70 % of each layer by it; it grows with the vector's length
    z                      (concreteness - mean) / sd    over the vocabulary: does not
    coherence              mean pairwise cosine of the centred input embeddings of the top k, or their NPMI over texts
    a concept's words      how many of its w tokens are among the first w; their AUC; article tokens among the top k

Source. Hong et al. 2024, "Intrinsic Evaluation of Unlearning Using Parametric Knowledge Traces" (arXiv 2406.11614), section 3; Geva et
al. 2022 (arXiv 2203.14680) for value vectors; Dar et al. 2023 (arXiv 2209.02535) for reading weights in the vocabulary. The paper's code
of this step is not published. Deviation: its GPT-4 judge, which scores whether tokens are one topic, is replaced by coherence against
random directions; `result.judged(judge)` takes a judge of your own. A vector holds a concept if it lies nearer to its words than random
directions do (`held` has the closed form), times all vectors and concepts, and has more of them first than random tokens would be.

How. Tiles of vectors by tiles of the vocabulary with a running top k (`interp.core.topk`): no logits are ever held. The same scan reads
what components of attention heads write (`source="ov"`) and decoder rows of dictionaries (`source="rows"`); mixtures of experts are
scanned expert by expert. Scores are held of every vector, tokens of the strongest only.

When it misleads
- Only the direct way to the unembedding is seen. A vector of an early layer speaks to later layers, in directions W_U may not show.
- A vector says what is promoted, not when: whether its neuron fires on the concept is for `ConceptFiring` to say, and whether it matters
  for `ConceptValidation`.
- Top tokens of any direction are neighbours and so are coherent, most of all where embedding and unembedding are tied: compare with
  `null_coherence`. Grammar is coherent too: the strongest vectors may promote "have, has, had", or beginnings of sentences.
- Words of one kind lie together, so whatever promotes one promotes all: in a scrambled `atlas` the best vectors still have half of a
  concept's words first. The hypergeometric p of that is tiny and means nothing; p, against random directions, is not. But value vectors do
  not point everywhere alike as random directions do, and p knows nothing of that.
- Vocabularies of pieces: half words and bytes are counted (`partial`), and a token that begins a word may still be half of it.
- Behind a norm after the MLP (Gemma 2 and 3, OLMo 2) a row of W_out is not what is added; `folded` applies that norm's gain too. A soft
  cap on logits changes no order, and is left out of mean logits.

    import interp
    lm = interp.load("atlas")
    found = interp.ConceptScan()(lm, interp.models.reference.concept_set("atlas"))
    found.strongest(5), found.tokens("2.474", 8)
    found.strongest(3, concept="colour"), found.holding()
    interp.ConceptScan(source="ov", most=10)(lm).report_lines()
"""

from .method import ConceptScan
from .result import ConceptScanResult

__all__ = ["ConceptScan", "ConceptScanResult"]
