"""The cases, in the order in which they run."""

from . import attribution, editing, invariants, mechanisms, patching, tracing
from .case import Case

CASES: tuple[Case, ...] = (
    Case(
        "transformers",
        "Does a wrapped model compute what plain transformers computes?",
        "differences of rounding only, every site acts",
        invariants.agrees_with_transformers,
    ),
    Case(
        "backends",
        "Do TransformerLens and nnsight give the same numbers?",
        "relative difference below 1e-5",
        invariants.backends_agree,
    ),
    Case(
        "padding",
        "Is a row in a padded batch the row alone?",
        "relative difference below 1e-5, both sides",
        invariants.padding_changes_nothing,
    ),
    Case(
        "no-op edits",
        "Does an edit that changes nothing change nothing?",
        "bit for bit, and a restored last state restores the logits",
        invariants.nothing_changes_nothing,
    ),
    Case(
        "silent edits",
        "Is an edit or a capture that never happens an error?",
        "4 of 4 refused",
        invariants.silent_edits_raise,
    ),
    Case(
        "bad input",
        "Are prompts that do not line up, and unproven architectures, refused?",
        "4 of 4 refused",
        invariants.bad_input_is_refused,
    ),
    Case(
        "partial recomputation",
        "Does recomputing only what can change give the full result?",
        "relative difference below 1e-5",
        invariants.partial_equals_full,
    ),
    Case(
        "wrong engine",
        "Is partial recomputation that is wrong found out on first use?",
        "it falls back, says so, and is right",
        invariants.a_wrong_engine_is_not_believed,
    ),
    Case(
        "weight edits",
        "Does a model come back bit for bit from weight edits?",
        "the same fingerprint after, another one inside",
        invariants.weights_come_back,
    ),
    Case(
        "borrowed model",
        "Are hooks and numbers as before after edits, captures and failures?",
        "0 hooks left, logits bit for bit",
        invariants.nothing_stays_behind,
    ),
    Case(
        "stale cache",
        "Does any change of what a capture depends on miss the store?",
        "a hit when nothing changed; 9 of 9 changes miss",
        invariants.nothing_stale_is_read,
    ),
    Case(
        "damaged cache",
        "Is a stored activation that was changed or cut on disk refused?",
        "2 of 2 refused, the whole one is read",
        invariants.damage_is_noticed,
    ),
    Case(
        "induction",
        "Are the planted induction and previous-token heads scored exactly?",
        "0.9737 and 1.0000, all other heads uniform",
        mechanisms.induction_heads,
    ),
    Case(
        "induction, null",
        "Are such heads seen in random weights?",
        "no score above 0.5",
        mechanisms.no_induction,
    ),
    Case(
        "causal tracing",
        "Is a fact found where it is written and moved?",
        "every cell of the planted map within 1e-5",
        mechanisms.fact_map,
    ),
    Case(
        "causal tracing, null",
        "Is a fact located in random weights?",
        "no effect above 0.2",
        mechanisms.no_fact,
    ),
    Case(
        "denoising and noising",
        "Does denoising miss an AND and noising an OR, and each find the other?",
        "shares 0 0 1, 1 1 1; 1 1 1, 0 0 1 within 1e-5",
        tracing.and_or,
    ),
    Case(
        "other corruptions",
        "Do zero, mean, resampled and counterfactual subjects give the map of noise?",
        "every cell of the planted map within 1e-5, 4 of 4",
        tracing.other_corruptions,
    ),
    Case(
        "concept vectors",
        "Do the planted value vectors lead a scan, and fire on their triggers only?",
        "4 of 4 lead; exactly 0 elsewhere",
        mechanisms.concept_vectors,
    ),
    Case(
        "concept vectors, null",
        "Do value vectors of random weights stand out?",
        "largest / median below 3",
        mechanisms.no_concepts,
    ),
    Case(
        "channels",
        "Do the planted components of heads reach their readers?",
        "0.6002 three times, all others below 0.45",
        mechanisms.head_channels,
    ),
    Case(
        "channels, null",
        "Do components of random heads reach readers?",
        "no score above 0.45",
        mechanisms.no_channels,
    ),
    Case(
        "edits, closed forms",
        "Do the closed forms of weight edits solve what they say?",
        "the value to 1e-10, least disturbance, no gradient",
        editing.closed_forms,
    ),
    Case(
        "edited fact",
        "Is a fact edited where it lies, nothing where nobody reads, and the model whole afterwards?",
        "rewrite above 0.8 in layer 0, none in the last; neighbours keep 0.8; the same fingerprint",
        editing.an_edited_fact,
    ),
    Case(
        "edits, refused",
        "Are models refused whose edited weights do not reach the stream as they are?",
        "2 of 2 refused",
        editing.a_value_norm_behind_the_weights,
    ),
    Case(
        "patching, gates",
        "Does denoising find what suffices and noising what is needed?",
        "AND by noise, OR by denoising, within 1e-3",
        patching.gates_are_told_apart,
    ),
    Case(
        "patching, whole streams",
        "Is a run with the other prompt's whole stream put in the other run?",
        "a share of 1 at every depth; exactly 0 for nothing",
        patching.streams_are_the_other_run,
    ),
    Case(
        "patching, null",
        "Are heads of random weights found to carry an answer?",
        "none after Holm's correction, where both planted heads are found",
        patching.no_heads,
    ),
    Case(
        "attribution",
        "Is a saturated query's effect found by the fix, and missed by its gradient?",
        "3.0000, the same, below 1e-5",
        attribution.saturated_attention,
    ),
    Case(
        "attribution, null",
        "Does attribution agree with patching where nothing is read?",
        "no effect, no correlation",
        attribution.nothing_to_agree_on,
    ),
    Case(
        "edges",
        "Is every edge of a linear network worth what corrupting it does?",
        "within 1e-5, input edges sum to the whole",
        attribution.every_edge,
    ),
)
