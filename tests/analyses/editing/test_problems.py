"""Editing problems: targets, noise, paraphrases and neighbours are what they say."""

import dataclasses

import pytest
import torch

import interp
from interp.analyses.editing import PROBLEMS, Request, measure, presets, probe, requests_for
from interp.analyses.editing.problems import false_answer, noised_answer
from interp.analyses.editing.prompts import in_world, neighbours, paraphrases
from interp.core.errors import BadInput, SpanError
from interp.data import Prompt
from interp.data.world import World


@pytest.fixture(scope="module")
def lm():
    return interp.load("atlas")


@pytest.fixture(scope="module")
def facts():
    return interp.reference.facts("atlas", 3)


@pytest.mark.parametrize("problem", PROBLEMS)
def test_targets_and_objectives(lm, facts, problem):
    requests = requests_for(lm, facts, problem, draws=3)
    assert len(requests) + len(requests.skipped) == len(facts)
    for request in requests:
        true = next(fact.answer for fact in facts if fact.id == request.id)
        assert (request.target == true) == (PROBLEMS[problem].target == "true")
        assert request.objective == ("lower" if problem == "fact_erasure" else "raise")
        assert (request.noise is not None) == (problem == "fact_forcing")
        assert request.problem == problem and len(request.paraphrases) == len(request.neighbours) == 1
    again = requests_for(lm, facts[:1], problem, draws=3)
    assert again[0].target == requests[0].target


def test_tracing_reversal_targets_are_what_the_noised_model_says_and_no_part_of_the_prompt(lm, facts):
    requests = requests_for(lm, facts, "tracing_reversal")
    for request in requests:
        assert len(request.ids) == 1 and request.target not in request.prompt.text
        assert request.target != request.prompt.answer
    tokens = requests[0].tokens(lm)
    assert noised_answer(lm, tokens, torch.full((9, lm.spec.d_model), 1e-9)) == tokens.answer_ids  # the truth


def test_an_answer_that_survives_the_noise_is_listed_not_dropped_silently(lm, facts):
    with pytest.raises(BadInput, match="survives 10 draws"):
        requests_for(lm, facts[:1], "tracing_reversal", noise=1e-6)
    foiled = [Prompt.of("The main crop of Zozdashud is", answer=" rice", foil=" rye", subject="Zozdashud", id="a")]
    lonely = Prompt.of("The main crop of Crivik is", answer=" rice", subject="Crivik", id="b")
    requests = requests_for(lm, [*foiled, lonely], "error_injection")
    assert [one.target for one in requests] == [" rye"]
    assert len(requests.skipped) == 1 and requests.skipped[0].startswith("b: no false answer")


def test_forcing_noise_is_drawn_apart_for_editing_and_evaluation(lm, facts):
    request = requests_for(lm, facts[:2], "fact_forcing", draws=4)[0]
    start, end = request.tokens(lm).spans["subject"]
    assert request.noise.shape == (4, end - start + 4, lm.spec.d_model) == request.held_noise.shape
    assert not torch.equal(request.noise, request.held_noise)
    quiet = measure(lm, probe(lm, Request.of(lm, request.prompt), essence=None))
    assert quiet.rewrite > 0.9 > 0.6 > measure(lm, probe(lm, request, essence=None)).rewrite


def test_world_paraphrases_ask_the_same_and_neighbours_somebody_else(lm, facts):
    world = World.generate()
    for fact in facts:
        relation, entity = fact.meta["relation"], fact.meta["entity"]
        for one in paraphrases(fact, count=3):
            assert one.text != fact.text and one.answer == fact.answer and one.span("subject") == fact.span("subject")
            assert one.meta["template"] != world.heldout[relation][entity] and in_world(one)
        near = neighbours(fact, count=3)
        assert len({one.span("subject") for one in near} | {fact.span("subject")}) == 4
        assert all(one.answer == fact.answer and one.meta["relation"] == relation for one in near)
        predicted = lm.run(lm.encode([one.text for one in near])).last_logits.argmax(-1)
        assert [lm.tokenizer.decode([int(token)]) for token in predicted] == [one.answer for one in near]
    assert neighbours(facts[0], seed=1) != neighbours(facts[0], seed=0) == neighbours(facts[0], seed=0)


def test_prompts_of_other_sources():
    meta = {
        "relation_id": "P1",
        "paraphrase_prompts": ["Noise. Rome, in", "Rome is in"],
        "neighborhood_prompts": ["Oslo lies in"],
    }
    rome = Prompt.of("Rome lies in", answer=" Italy", subject="Rome", meta=meta)
    assert [one.text for one in paraphrases(rome, count=1)] == ["Noise. Rome, in"]
    assert (
        paraphrases(rome, count=2)[0].span("subject") == "Rome" and neighbours(rome, count=5)[0].text == "Oslo lies in"
    )
    others = [
        Prompt.of("Bergen lies in", answer=" Norway", subject="Bergen", meta={"relation_id": "P1"}),
        Prompt.of("Oslo borders", answer=" Sweden", subject="Oslo", meta={"relation_id": "P2"}),
    ]
    plain = Prompt.of("Oslo lies in", answer=" Norway", subject="Oslo", meta={"relation_id": "P1"})
    assert [one.text for one in neighbours(plain, [plain, *others], count=3)] == ["Bergen lies in"]
    assert paraphrases(plain, [plain, *others]) == ()
    assert false_answer(rome, [rome, *others]) == " Norway"
    with pytest.raises(BadInput, match="list of texts"):
        paraphrases(Prompt.of("Oslo lies in", subject="Oslo", meta={"paraphrases": "Oslo is in"}))


def test_bad_input(lm, facts):
    with pytest.raises(BadInput, match="error_injection"):
        requests_for(lm, facts, "error injection")
    with pytest.raises(BadInput, match="no facts"):
        requests_for(lm, [], "fact_erasure")
    with pytest.raises(BadInput, match="no answer"):
        requests_for(lm, [Prompt.of("The main crop of Crivik is", subject="Crivik")], "fact_erasure")
    with pytest.raises(SpanError, match="no subject"):
        requests_for(lm, [Prompt.of("The main crop of Crivik is", answer=" rice")], "fact_erasure")
    with pytest.raises(BadInput, match="draws"):
        requests_for(lm, facts, "fact_forcing", draws=0)
    with pytest.raises(SpanError, match="last token"):
        Request.of(lm, Prompt.of("The main crop is", answer=" rice"))


def test_a_false_answer_is_false_and_noise_has_a_place(lm, facts):
    for given in ({"foil": " rice"}, {"meta": {"target_new": {"str": "rice"}}}):
        with pytest.raises(BadInput, match="true one"):
            false_answer(Prompt.of("The main crop of Crivik is", answer=" rice", subject="Crivik", **given))
    forced = requests_for(lm, facts[:1], "fact_forcing", draws=1, n_paraphrases=0)[0]
    unmarked = dataclasses.replace(forced, paraphrases=(Prompt.of("What grows there is"),))
    with pytest.raises(BadInput, match="marks no subject"):
        probe(lm, unmarked, essence=None)  # its score would be that of the quiet model
    with pytest.raises(BadInput, match="held_noise"):
        dataclasses.replace(forced, noise=None)


def test_presets_are_the_papers():
    found = presets("fact_forcing")
    assert list(found) == ["FT-1", "FT-5", "ROME", "MEMIT"]
    assert (found["FT-5"].window, found["FT-5"].steps, found["FT-5"].clamp) == (5, 50, 1e-4)
    assert found["ROME"].lr == 0.05 and presets("error_injection")["ROME"].lr == 0.5
    assert presets("fact_erasure")["FT-1"].clamp == 1e-5 and presets("fact_erasure", "small")["FT-1"].relative
    with pytest.raises(BadInput, match="small"):
        presets("fact_erasure", "tiny")
