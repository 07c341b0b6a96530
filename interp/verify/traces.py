"""Cases on traces of concepts: what a change of a planted value vector leaves, in closed form."""

from . import mechanisms

EXACT = (
    "jaccard",
    "rbo",
    "cosine",
    "retention",
    "in_cosine",
    "activation_ratio",
    "qa_bleu",
    "unrelated_rouge",
    "perplexity_ratio",
)
NOTHING = ("l2", "kl", "privleak")


def replaced_tokens() -> tuple[bool, str]:
    """Jaccard of a planted vector as its tokens are replaced one by one, and every measure of the model left alone."""
    from interp.analyses.concepts.traces import Material, Settings, compare, measure
    from interp.analyses.concepts.vectors import Vector, replaced
    from interp.data.concepts import Concept
    from interp.data.prompts import Prompt

    made, lm = mechanisms.planted("concepts")
    plan, other = made.answers["concepts"][2], made.answers["concepts"][0]
    texts = tuple(
        tuple(f"we saw the {trigger} with the {one.words[0]}" for trigger in one.triggers) for one in (plan, other)
    )
    concept = Concept(
        plan.name, words=plan.words, texts=texts[0], related=tuple(Prompt.of(f"we saw the {trigger}") for trigger in plan.triggers),
        unrelated=tuple(Prompt.of(f"we saw the {trigger}") for trigger in other.triggers),
    )  # fmt: skip
    k, vector = len(plan.tokens), Vector(plan.layer, plan.neuron)
    start = measure(
        lm,
        concept,
        [vector],
        Settings(top_k=k, nulls=3, tokens=3),
        material=Material(texts[1], "others", texts[1], "others"),
    )
    same = compare(start, start.again(lm)).measures()
    exact = all(same[name] == 1.0 for name in EXACT) and all(same[name] == 0.0 for name in NOTHING)
    bare = measure(lm, Concept(plan.name, words=plan.words), [vector], Settings(top_k=k, nulls=3))
    spare = [token for token in range(2, lm.spec.vocab) if token not in plan.tokens]
    found, nulls = [], []
    for m in range(k + 1):
        row = made.answers["mean_logit"] * lm.weights.W_U[:, [*plan.tokens[m:], *spare[:m]]].sum(dim=1)
        with lm.edit_weights(replaced(lm, {vector: row})):
            values = compare(bare, bare.again(lm)).measures()
        found.append(values["jaccard"])
        nulls.append(values["jaccard_null"])
    right = found == [(k - m) / (k + m) for m in range(k + 1)] and nulls == [1.0] * (k + 1)
    return (
        exact and right,
        f"{', '.join(f'{x:.3f}' for x in found)}; others {min(nulls):.0f}; untouched {'exact' if exact else 'NOT exact'}",
    )
