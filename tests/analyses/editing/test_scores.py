"""Scores of edits: the known answers (K8a), what is measured, and what an untouched model scores."""

import math

import pytest
import torch

import interp
from interp.analyses.editing import EditScores, Measured, Request, WeightChange, edit_scores, measure, overall, probe
from interp.analyses.editing.problems import requests_for
from interp.analyses.editing.scores import erase_score, essence_score, neighbourhood_score, rewrite_score
from interp.core.errors import BadInput
from interp.data import Prompt


@pytest.fixture(scope="module")
def lm():
    return interp.load("atlas")


@pytest.fixture(scope="module")
def request_of(lm):
    facts = interp.reference.facts("atlas", 3)
    return requests_for(lm, facts, "error_injection", n_paraphrases=2, n_neighbours=3)[0]


def test_known_answers():
    assert math.isclose(rewrite_score(0.2, 0.6), 0.5)
    assert math.isclose(erase_score(0.5, 0.1), 0.8)
    assert round(neighbourhood_score(0.3, 0.6), 4) == 0.5714
    assert rewrite_score(0.6, 0.2) == 2e-8 and erase_score(0.1, 0.5) == 0
    assert math.isnan(rewrite_score(1.0, 0.5)) and math.isnan(erase_score(0.0, 0.5))
    assert neighbourhood_score(0.0, 1.0) == neighbourhood_score(1.0, 0.0) == 0 and neighbourhood_score(0.4, 0.4) == 1
    assert essence_score(3.0, 2.0) == 1 and essence_score(3.0, 5.5) == 0.5 and essence_score(3.0, 100.0) == 0


def test_a_broken_model_scores_nothing_rather_than_its_floor():
    before, broken = (Measured(p, (p,), (p,), (p,), True, p) for p in (0.5, math.nan))
    for objective in ("raise", "lower"):
        found = edit_scores(before, broken, objective)
        parts = (found.rewrite, found.paraphrase, found.neighbourhood, found.essence, found.kept, found.harmonic)
        assert all(math.isnan(part) for part in parts), found


def test_overall_scores():
    assert math.isclose(overall((0.5, 1.0, 1.0)), 0.75) and math.isclose(overall((0.5, 1.0, 0.0), "arithmetic"), 0.5)
    assert overall((0.5, 1.0, 0.0)) == 0 and math.isnan(overall((0.5, float("nan"), 1.0)))
    with pytest.raises(BadInput, match="harmonic"):
        overall((1.0,), "geometric")


def test_scores_follow_the_objective():
    before = Measured(0.5, (0.5, 0.2), (0.3,), (0.8,), True, 3.0)
    after = Measured(0.1, (0.1, 0.1), (0.6,), (0.4,), False, 4.0)
    lowered = edit_scores(before, after, "lower")
    assert math.isclose(lowered.rewrite, 0.8) and math.isclose(lowered.paraphrase, 0.65)
    assert math.isclose(lowered.neighbourhood, 4 / 7) and math.isclose(lowered.essence, 0.8)
    assert math.isclose(lowered.kept, 0.5)
    assert math.isclose(lowered.harmonic, 3 / (1 / 0.8 + 1 / 0.65 + 7 / 4))
    assert edit_scores(before, after, "raise").rewrite == 2e-8


def test_what_is_measured_is_the_probability_of_the_target(lm, request_of):
    judge = probe(lm, request_of, essence="In {},", texts=3, tokens=6)
    found = measure(lm, judge)
    model = lm.module  # plain transformers, by hand

    def probability(text, ids):
        tokens = list(lm.tokenizer.encode(text).ids)
        total = 0.0
        for token in ids:
            total += float(model(torch.tensor([tokens])).logits[0, -1].double().log_softmax(-1)[token])
            tokens.append(token)
        return math.exp(total)

    assert math.isclose(found.rewrite, probability(request_of.prompt.text, request_of.ids), rel_tol=1e-3)
    for kind in ("paraphrase", "neighbour"):
        prompts = getattr(request_of, f"{kind}s")
        wanted = [probability(one.text, request_of.ids) for one in prompts]
        assert len(wanted) and torch.allclose(torch.tensor(getattr(found, kind)), torch.tensor(wanted), rtol=1e-3)
    own = [probability(one.text, lm.tokenizer.encode(one.answer, bos=False).ids) for one in request_of.neighbours]
    assert torch.allclose(torch.tensor(found.kept), torch.tensor(own), rtol=1e-3)
    texts = judge.essence
    assert texts is not None and texts.batch.tokens.shape[0] == 3
    ids = texts.batch.tokens[0].tolist()
    last = texts.targets[0][texts.targets[0] >= 0].tolist()
    start = lm.tokenizer.encode(f"In {request_of.subject},").ids
    assert tuple(ids[: len(start)]) == start and len(last) == 6
    assert 1 <= found.perplexity < 50


def test_targets_of_several_tokens_are_scored_whole(lm):
    prompt = Prompt.of("The main crop of Zozdashud is", answer=" rice and rye", subject="Zozdashud")
    request = Request.of(lm, prompt)
    assert len(request.ids) == 3
    found = measure(lm, probe(lm, request, essence=None))
    tokens = torch.tensor([[*lm.tokenizer.encode(prompt.text).ids, *request.ids]])
    logp = lm.module(tokens).logits[0].double().log_softmax(-1)
    first = tokens.shape[1] - 4
    wanted = sum(float(logp[first + i, token]) for i, token in enumerate(request.ids))
    assert math.isclose(math.log(found.rewrite), wanted, rel_tol=1e-4)
    assert math.isnan(found.perplexity) and found.neighbour == ()


def test_an_untouched_model_scores_nothing_gained_and_nothing_lost(lm, request_of):
    judge = probe(lm, request_of, essence="In {},", texts=2, tokens=4)
    before = measure(lm, judge)
    with WeightChange.none().apply(lm):
        same = edit_scores(before, measure(lm, judge))
    assert same == EditScores(2e-8, same.paraphrase, 1.0, 1.0, same.harmonic, same.arithmetic, 1.0, before, before)
    assert same.paraphrase == 2e-8 and same.harmonic < 1e-7 and math.isclose(same.arithmetic, 1 / 3, rel_tol=1e-6)


def test_probes_are_by_seed_and_refuse_nonsense(lm, request_of):
    one, again, other = (probe(lm, request_of, essence="In {},", seed=seed) for seed in (0, 0, 1))
    assert torch.equal(one.essence.batch.tokens, again.essence.batch.tokens)
    assert not torch.equal(one.essence.batch.tokens, other.essence.batch.tokens)
    with pytest.raises(BadInput, match="is a"):
        probe(lm, request_of, essence="no place for the subject")
    with pytest.raises(BadInput, match="texts"):
        probe(lm, request_of, texts=0)
