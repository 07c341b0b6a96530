"""Snapshots of a concept: known answers, oracles by hooks, and what is refused."""

import dataclasses
import math

import numpy as np
import pytest
import torch

import interp
from interp.analyses.concepts.traces import Material, Settings, compare, fixed_unembedding, measure
from interp.analyses.concepts.traces.rankings import (
    NOTHING,
    jaccard,
    rank_biased_overlap,
    related_tokens,
    retention,
    top_tokens,
)
from interp.analyses.concepts.traces.reading import auc, least_probable
from interp.analyses.concepts.vectors import Vector, replaced, scaled
from interp.analyses.overlap import bleu
from interp.core.errors import BadInput
from interp.data.concepts import Concept, concepts
from interp.data.prompts import Prompt
from interp.models import reference

QUICK = Settings(tokens=6, prompts=6, texts=6, nulls=4)
SAME = (
    "jaccard",
    "rbo",
    "jaccard_own",
    "rbo_own",
    "cosine",
    "retention",
    "in_cosine",
    "activation_ratio",
    "contribution_ratio",
)
OVERLAP = ("qa_bleu", "qa_rouge", "unrelated_bleu", "unrelated_rouge", "completion_bleu", "completion_rouge")


@pytest.fixture(scope="module")
def colour():
    return reference.concept_set("atlas").get("colour")


@pytest.fixture(scope="module")
def material():
    both = reference.concept_set("atlas")
    return Material(tuple(both.get("craft").texts), "crafts", tuple(reference.text("atlas", 6)), "prose")


@pytest.fixture(scope="module")
def before(atlas, colour, material):
    return measure(atlas, colour, ["2.474", "1.362"], QUICK, material=material)


# Rankings


@pytest.mark.parametrize(("k", "m", "want"), [(200, 50, 0.6), (200, 0, 1.0), (10, 10, 0.0), (24, 6, 0.6)])
def test_jaccard_of_k_tokens_with_m_replaced(k, m, want):
    assert jaccard(range(k), [*range(m, k), *range(1000, 1000 + m)]) == (k - m) / (k + m) == want


@pytest.mark.parametrize("p", [0.5, 0.9, 0.98])
def test_rank_biased_overlap_is_the_infinite_sum(p):
    rng = np.random.default_rng(3)
    for k, n in ((5, 6), (20, 25), (60, 200)):
        a, b = rng.permutation(n)[:k].tolist(), rng.permutation(n)[:k].tolist()
        shared = [len(set(a[:d]) & set(b[:d])) / d for d in range(1, k + 1)]
        agreement = [*shared, *[shared[-1]] * 20_000]
        brute = math.fsum((1 - p) * p**d * agreement[d] for d in range(len(agreement)))
        webber = shared[-1] * p**k + (1 - p) / p * math.fsum(shared[d - 1] * p**d for d in range(1, k + 1))
        assert rank_biased_overlap(a, b, p) == pytest.approx(brute, abs=1e-12)
        assert rank_biased_overlap(a, b, p) == pytest.approx(webber, abs=1e-12)
        assert rank_biased_overlap(a, a, p) == 1.0
    assert rank_biased_overlap([1, 2], [3, 4], p) == pytest.approx(0.0, abs=1e-12)


def test_rank_biased_overlap_weighs_the_first_ranks_most():
    base = list(range(50))
    early, late = [*range(100, 105), *base[5:]], [*base[:45], *range(100, 105)]
    assert jaccard(base, early) == jaccard(base, late)
    assert rank_biased_overlap(base, early) < 0.7 < 0.99 < rank_biased_overlap(base, late)


def test_lists_that_cannot_be_compared_are_refused():
    with pytest.raises(BadInput, match="3 and 2 tokens"):
        rank_biased_overlap([1, 2, 3], [1, 2])
    with pytest.raises(BadInput, match="without repeats"):
        rank_biased_overlap([1, 1], [1, 2])
    with pytest.raises(BadInput, match="`p`"):
        rank_biased_overlap([1], [1], 1.0)


def test_a_vector_of_zeros_has_no_top_tokens():
    unembedding = torch.randn(8, 30, generator=torch.Generator().manual_seed(0))
    top = top_tokens(torch.stack([torch.zeros(8), torch.ones(8)]), unembedding, 5)
    assert top[0].tolist() == [NOTHING] * 5 and set(top[1].tolist()) == set(
        (torch.ones(8) @ unembedding).topk(5).indices.tolist()
    )
    assert jaccard(top[0].tolist(), top[1].tolist()) == rank_biased_overlap(top[0].tolist(), top[1].tolist()) == 0.0
    assert math.isnan(jaccard(top[0].tolist(), top[0].tolist()))
    with pytest.raises(BadInput, match="1 to 30"):
        top_tokens(torch.ones(1, 8), unembedding, 31)


def test_equal_logits_rank_by_id():
    assert top_tokens(torch.ones(1, 2), torch.ones(2, 9), 4).tolist() == [[0, 1, 2, 3]]


def test_related_tokens_are_words_of_the_concept_or_its_texts(atlas):
    ids = {
        word: atlas.tokenizer.encode(word, bos=False).ids for word in (" scarlet", " teal", " the", " king", " captain")
    }
    assert all(len(one) == 1 for one in ids.values())
    every = [one[0] for one in ids.values()]

    def by(**what):
        return {atlas.tokenizer.decode([i]) for i in related_tokens(atlas.tokenizer, Concept("c", **what), every)}

    assert by(words=("scarlet",)) == {" scarlet"}
    assert by(texts=("The KING wears teal.",)) == {" teal", " king"}  # stop words and case aside
    assert by(words=(" teal",), texts=("kings captained",)) == {" teal"}  # whole words only
    assert by() == set()


def test_retention_is_a_share_and_says_when_it_is_none():
    assert retention([1, 2, 3, 4], [4, 3, 9, 9, 8]) == 0.5
    assert math.isnan(retention([], [1, 2]))


def test_membership_scores_by_hand():
    assert least_probable(np.array([-1.0, -5.0, -3.0, -0.1, -2.0]), 0.4) == -4.0
    assert least_probable(np.array([-1.0, -2.0]), 0.1) == -2.0  # at least one token
    a, b = np.array([1.0, 2.0, 3.0]), np.array([0.0, 2.0, 2.5])
    assert auc(a, b) == pytest.approx(np.mean([(x > y) + 0.5 * (x == y) for x in a for y in b]))
    rng = np.random.default_rng(0)
    assert auc(rng.normal(1, 1, 20_000), rng.normal(0, 1, 20_000)) == pytest.approx(0.760, abs=0.01)  # Phi(1 / sqrt 2)
    assert math.isnan(auc(a, np.empty(0)))


# One model, unchanged and changed


def test_an_untouched_model_keeps_everything_exactly(atlas, before):
    traces = compare(before, before.again(atlas))
    found = traces.measures()
    assert (
        all(found[name] == 1.0 == found[f"{name}_null"] for name in SAME if name != "retention")
        and found["retention"] == 1.0
    )
    assert found["l2"] == found["l2_null"] == found["kl"] == found["privleak"] == 0.0
    assert all(found[name] == 1.0 for name in OVERLAP if not name.startswith("completion"))
    assert found["perplexity_ratio"] == found["perplexity_low"] == found["perplexity_high"] == 1.0
    assert found["accuracy"] == found["accuracy_before"] and found["verbmem"] == found["verbmem_before"]
    assert math.isnan(found["gate_cosine"]) and traces.reasons["gate_cosine"] == "the MLP has no gate"
    assert math.isnan(found["restoration"]) and "no clean model" in traces.reasons["restoration"]


def test_top_tokens_and_activations_are_the_models_own(atlas, before, colour):
    module = atlas.module
    row = module.transformer.h[2].mlp.c_proj.weight[474].detach()
    k = before.top.shape[1]
    assert k == atlas.spec.vocab // 20 == 58
    assert set(before.top[0].tolist()) == set((module.lm_head.weight.detach() @ row).topk(k).indices.tolist())
    assert torch.equal(before.rows[0].float(), row)
    assert torch.equal(before.readers["W_in"][0].float(), module.transformer.h[2].mlp.c_fc.weight[:, 474].detach())
    seen = []
    hook = module.transformer.h[2].mlp.c_proj.register_forward_pre_hook(lambda _, args: seen.append(args[0].detach()))
    try:
        for text in colour.texts[:6]:
            module(torch.tensor([atlas.tokenizer.encode(text).ids]))
    finally:
        hook.remove()
    want = []
    for text, values in zip(colour.texts, seen, strict=False):
        skip = int(atlas.tokenizer.encode(text).ids[0] == atlas.tokenizer.bos_id)
        want.append(float(values[0, skip:, 474].abs().mean()))
    assert before.activation[:, 0] == pytest.approx(want, rel=1e-5)


def test_answers_and_scores_are_what_plain_transformers_gives(atlas, before, colour):
    module, tokenizer = atlas.module, atlas.tokenizer
    for asked, prompt in zip(before.asked[:3], colour.related[:3], strict=True):
        assert asked.group == "related" and asked.prompt == prompt
        ids = torch.tensor([tokenizer.encode(prompt.text).ids])
        logp = module(ids).logits[0, -1].log_softmax(-1)
        gold = tokenizer.encode(prompt.text + prompt.answer).ids[ids.shape[1] :]
        assert len(gold) == 1 and asked.prob == pytest.approx(float(logp[gold[0]].exp()), rel=1e-4)
        assert asked.correct == float(logp.argmax() == gold[0])
        grown = ids
        for _ in range(QUICK.tokens):
            grown = torch.cat([grown, module(grown).logits[:, -1:].argmax(-1)], dim=1)
            if int(grown[0, -1]) == tokenizer.eos_id:
                grown = grown[:, :-1]
                break
        assert asked.answer == tokenizer.decode(grown[0].tolist())[len(tokenizer.decode(ids[0].tolist())) :]
    text = torch.tensor([tokenizer.encode(colour.texts[0]).ids])
    logp = module(text).logits[0, :-1].log_softmax(-1).gather(-1, text[0, 1:, None])[:, 0].detach().double().numpy()
    assert before.forget_score[0] == pytest.approx(np.sort(logp)[: max(1, int(0.4 * len(logp)))].mean(), rel=1e-4)


def test_perplexity_is_exp_of_the_mean_loss(atlas, before, material):
    total = count = 0.0
    for text in material.neutral:
        ids = torch.tensor([atlas.tokenizer.encode(text).ids[: atlas.spec.n_ctx]])
        logp = oracle_logits(atlas, ids)[0, :-1].log_softmax(-1)
        total -= float(logp.gather(-1, ids[0, 1:, None]).sum())
        count += ids.shape[1] - 1
    assert compare(before, before).measures()["perplexity"] == pytest.approx(math.exp(total / count), rel=1e-5)


def oracle_logits(lm, ids):
    with torch.no_grad():
        return lm.module(ids).logits


def test_a_removed_vector_leaves_nothing_and_the_model_comes_back(atlas, before):
    bits = atlas.fingerprint()
    with atlas.edit_weights(scaled(atlas, [Vector(2, 474)], 0.0)):
        after = before.again(atlas)
    assert atlas.fingerprint() == bits
    traces = compare(before, after)
    for name in ("jaccard", "rbo", "cosine", "contribution_ratio"):
        assert traces.vectors[name][0] == 0.0 and traces.vectors[name][1] == 1.0, name
    assert traces.vectors["retention"][0] == 0.0 and math.isnan(traces.vectors["retention"][1])  # 1.362 is of harvests
    assert (traces.vectors["jaccard"][2:] == 1).all()  # the null vectors are the ones they were
    assert traces.vectors["l2"][0] == pytest.approx(float(before.rows[0].norm()))
    assert traces.vectors["activation_ratio"][0] == 1.0  # layer 2 reads what it read
    again = compare(before, before.again(atlas))
    assert all(again.measures()[name] == 1.0 for name in SAME)


def test_m_of_k_top_tokens_replaced_give_the_closed_form():
    made = reference.concepts()
    lm = reference.as_lm(made)
    plan = made.answers["concepts"][2]  # animals: six tokens, orthonormal unembedding
    name, k = f"{plan.layer}.{plan.neuron}", len(plan.tokens)
    concept = Concept("animals", words=plan.words)
    start = measure(lm, concept, [name], Settings(top_k=k, nulls=3))
    assert set(start.top[0].tolist()) == set(plan.tokens) == start.related[0]
    spare = [token for token in range(2, lm.spec.vocab) if token not in plan.tokens]
    unembedding = lm.weights.W_U
    for m in range(k + 1):
        tokens = [*plan.tokens[m:], *spare[:m]]
        row = made.answers["mean_logit"] * unembedding[:, tokens].sum(dim=1)
        with lm.edit_weights(replaced(lm, {Vector.parse(name): row})):
            found = compare(start, start.again(lm)).measures()
        assert found["jaccard"] == (k - m) / (k + m)
        assert found["retention"] == (k - m) / k
        assert found["cosine"] == pytest.approx((k - m) / k, abs=1e-5)
        assert found["l2"] == pytest.approx(1.5 * math.sqrt(2 * m), abs=1e-4)
        assert found["jaccard_null"] == 1.0


def test_bleu_has_the_original_answer_as_reference_unless_said(before):
    longer = tuple(
        dataclasses.replace(asked, answer=asked.answer + " and then" * (1 + place % 3))
        for place, asked in enumerate(before.asked)
    )
    traces = compare(before, dataclasses.replace(before, asked=longer))
    pairs = [(old.answer, new.answer) for old, new in zip(before.asked, longer, strict=True)]
    assert traces.bleu.tolist() == [bleu(old, new) for old, new in pairs]
    assert traces.bleu_published.tolist() == [bleu(new, old) for old, new in pairs]
    assert (traces.bleu != traces.bleu_published).all()
    of = [place for place, asked in enumerate(before.asked) if asked.group == "unrelated"]
    assert traces.measures()["unrelated_bleu"] == pytest.approx(traces.bleu[of].mean())  # all of them, not the last few


def test_a_trained_unembedding_is_told_apart(atlas, atlas_tuned, before):
    other = before.again(atlas_tuned)
    assert not other.own_unembedding and before.own_unembedding
    found = compare(before, other).measures()
    own = set((atlas_tuned.weights.W_out(2)[474] @ atlas_tuned.weights.W_U).topk(58).indices.tolist())
    fixed = set((atlas_tuned.weights.W_out(2)[474] @ fixed_unembedding(atlas)).topk(58).indices.tolist())
    assert found["jaccard_own"] != found["jaccard"]
    traces = compare(before, other)
    assert traces.vectors["jaccard"][0] == jaccard(before.top[0].tolist(), fixed)
    assert traces.vectors["jaccard_own"][0] == jaccard(before.top[0].tolist(), own)


def test_a_suppressed_neuron_keeps_its_vector_and_loses_its_activation():
    made = reference.concepts()
    lm = reference.as_lm(made)
    plan = made.answers["concepts"][2]
    concept = Concept("animals", words=plan.words, texts=tuple(f"we saw the {trigger}" for trigger in plan.triggers))
    start = measure(lm, concept, [f"{plan.layer}.{plan.neuron}"], Settings(top_k=6, nulls=3))
    assert start.activation[:, 0] == pytest.approx(made.answers["activation"] / start_tokens(lm, concept), rel=1e-5)
    quiet = lm.weights.W_in(plan.layer).clone()
    quiet[:, plan.neuron] *= 0.25
    with lm.edit_weights({f"W_in.{plan.layer}": quiet}):
        found = compare(start, start.again(lm)).measures()
    assert found["jaccard"] == found["cosine"] == found["in_cosine"] == 1.0
    assert found["activation_ratio"] == found["contribution_ratio"] == 0.0
    assert found["activation_ratio_null"] == 1.0


def start_tokens(lm, concept):
    """Tokens of each text that are no BOS: the neuron fires on one of them."""
    ids = [lm.tokenizer.encode(text).ids for text in concept.texts]
    return np.array([len(one) - (one[0] == lm.tokenizer.bos_id) for one in ids])


def test_kl_and_collapse_see_a_broken_model(atlas, before):
    with atlas.edit_weights({"W_out.0": 0 * atlas.weights.W_out(0)}):
        after = before.again(atlas)
    traces = compare(before, after)
    found = traces.measures()
    assert found["perplexity_ratio"] > 1.2 and found["perplexity_low"] > 1.0 and found["kl"] > 0.01
    p, q = before.next_logp.double(), after.next_logp.double()
    want = torch.nn.functional.kl_div(q, p, log_target=True, reduction="none").sum(-1)
    assert traces.kl == pytest.approx(want.numpy(), rel=1e-9)


def test_restoration_and_privleak_are_told_from_the_clean_model(atlas, atlas_tuned):
    tuned = reference.concept_set("atlas-tuned")
    festival = tuned.get("festival")
    held = Material(festival.texts[6:], "the rest of its texts")
    start = measure(atlas_tuned, festival, ["1.3"], dataclasses.replace(QUICK, nulls=0), material=held)
    clean = start.again(atlas)
    found = compare(start, clean, clean).measures()
    assert found["accuracy_before"] > 0.9 and found["accuracy_clean"] < 0.1
    assert found["restoration"] == found["prob_restoration"] == 1.0 and found["privleak"] == 0.0
    stuck = compare(start, start, clean).measures()
    assert stuck["restoration"] == 0.0
    known = dataclasses.replace(start, forget_score=np.array([4.0, 3.0]), heldout_score=np.array([2.0, 1.0]))
    blind = dataclasses.replace(known, forget_score=np.array([4.0, 0.0]))
    over = dataclasses.replace(known, forget_score=np.array([0.0, 0.5]))
    measured = [compare(known, state, blind).measures() for state in (known, blind, over)]
    assert [(one["auc"], one["auc_clean"]) for one in measured] == [(1.0, 0.5), (0.5, 0.5), (0.0, 0.5)]
    assert [one["privleak"] for one in measured] == [-1.0, 0.0, 1.0]  # as published: below 0, not enough was forgotten
    assert compare(known, blind).measures()["privleak"] == 0.5
    traces = compare(known, blind, known)
    assert math.isnan(traces.measures()["privleak"]) and "AUC is 1" in traces.reasons["privleak"]
    none = compare(start, clean, start)
    assert math.isnan(none.measures()["restoration"]) and "is that of the model before" in none.reasons["restoration"]


# What is missing or wrong


def test_a_gold_answer_longer_than_what_is_generated_is_compared_as_far(atlas, colour):
    prompt = colour.related[0]
    plan = Settings(tokens=8, nulls=0)
    said = measure(atlas, Concept("x", related=(Prompt.of(prompt.text, answer=prompt.answer),)), ["0.1"], plan).asked[0]
    gold = Concept("x", related=(Prompt.of(prompt.text, answer=said.answer + " and much more than was said"),))
    short = measure(atlas, gold, ["0.1"], dataclasses.replace(plan, tokens=1)).asked[0]
    assert short.knowmem == 1.0 and short.correct == 0.0
    assert measure(atlas, gold, ["0.1"], dataclasses.replace(plan, tokens=30)).asked[0].knowmem < 0.6


def test_what_is_missing_is_nan_with_a_reason(atlas):
    bare = measure(atlas, Concept("x", vectors=("0.1",)), ["0.1"], Settings(nulls=0))
    traces = compare(bare, bare.again(atlas))
    found = traces.measures()
    for name in ("retention", "activation_ratio", "answer_prob", "privleak", "perplexity", "qa_bleu", "verbmem", "kl"):
        assert math.isnan(found[name]), name
    assert "no top token" in traces.reasons["retention"] and "no texts" in traces.reasons["activation_ratio"]
    assert "gold answer" in traces.reasons["answer_prob"] and "no neutral text" in traces.reasons["perplexity"]
    assert found["jaccard"] == 1.0


def test_null_vectors_are_others_of_the_same_layer(before):
    assert len(before.nulls) == 8 and len(set(before.nulls) | set(before.vectors)) == 10
    assert [before.vectors[of].layer for of in before.null_of] == [vector.layer for vector in before.nulls]


def test_snapshots_of_different_things_do_not_compare(atlas, before, colour):
    other = measure(atlas, colour, ["2.474"], QUICK)
    with pytest.raises(BadInput, match=r"differ in .*again"):
        compare(before, other)
    changed = dataclasses.replace(before, unembedding=before.unembedding + 1)
    with pytest.raises(BadInput, match="different unembeddings"):
        compare(before, changed)


@pytest.mark.parametrize(
    ("fields", "match"),
    [
        ({"rbo_p": 1.0}, "`rbo_p`"), ({"nulls": -1}, "`nulls`"), ({"tokens": 0}, "`tokens`"), ({"completion": "go on"}, r"\{text\}"),
        ({"texts": 0}, "`texts`"), ({"min_share": 0.0}, "`min_share`"), ({"top_k": 0}, "`top_k`"),
    ],
)  # fmt: skip
def test_bad_settings_are_refused(fields, match):
    with pytest.raises(BadInput, match=match):
        Settings(**fields)


def test_more_top_tokens_than_the_vocabulary_are_refused(atlas, colour):
    with pytest.raises(BadInput, match="1163 tokens"):
        measure(atlas, colour, ["2.474"], Settings(top_k=1164))


def test_the_published_request_is_put_to_published_concepts_only(colour):
    row = {"Concept": "x", "QA": [" Who?\n"], "text_completion": [{"First_half": "It was", "Second_half": "red"}]}
    published = concepts([row])[0]
    assert Settings().request(published, "It was") == "Please complete the following paragraph: It was"
    assert Settings().request(colour, "It was") == "It was"
    assert Settings(completion="Go on: {text}").request(published, "It was") == "Go on: It was"


def test_gated_models_have_a_gate_cosine(real_models):
    lm = interp.load(str(real_models / "stories260K-llama"), check=False)
    concept = Concept(
        "play", words=("happy", "play"), texts=("Lily went to play in the park. She was happy.",),
        related=(Prompt.of("Once upon a time, there was a little girl named"),), unrelated=(Prompt.of("The dog ran to the"),),
    )  # fmt: skip
    start = measure(lm, concept, ["2.5"], QUICK)
    found = compare(start, start.again(lm)).measures()
    assert found["gate_cosine"] == found["in_cosine"] == found["activation_ratio"] == found["qa_bleu"] == 1.0
    assert found["kl"] == 0.0 and math.isnan(found["accuracy"])
    gate = lm.weights.W_gate(2).clone()
    gate[:, 5] = 0
    with lm.edit_weights({"W_gate.2": gate}):
        found = compare(start, start.again(lm)).measures()
    assert found["gate_cosine"] == 0.0 == found["activation_ratio"] and found["in_cosine"] == found["jaccard"] == 1.0
