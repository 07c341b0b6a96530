"""Asking, jailbreak-style prompts and relearning: against plain transformers, a model that only holds back, and one that never knew."""

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

import interp
from interp.analyses.unlearning import Revision
from interp.analyses.unlearning.asking import Questions, own_answers, running, training
from interp.analyses.unlearning.jailbreaks import JAILBREAKS, holds, jailbroken
from interp.analyses.unlearning.recovery import Relearning, exchanged, read_of, recovered_share, tells
from interp.core.errors import BadInput
from interp.data import Concept, Prompt
from interp.models import reference
from tests import oracle


@pytest.fixture(scope="module")
def known():
    return reference.concept_set("atlas", n=20, texts=120)


def holding_back(lm, concept, strength):
    """The planted case: all knowledge is there, and a bias at the very end forbids the concept's words."""
    ids = [lm.tokenizer.encode(" " + word, bos=False).ids[0] for word in concept.words]
    away = lm.weights.W_U[:, ids].mean(dim=1) - lm.weights.W_U.mean(dim=1)
    last = lm.spec.n_layers - 1
    bias = lm.weights.b_out(last)
    return Revision({f"b_out.{last}": bias - strength * away / away.norm()})


# -- asking ------------------------------------------------------------------------------------------------------------


def test_answers_are_what_plain_transformers_says(atlas, known):
    prompts = known.get("colour").related[:3]
    both = Questions(atlas, prompts, [(prompt.answer, f"{prompt.answer}. The", None) for prompt in prompts])
    read = both.read(running(atlas))
    plain = AutoModelForCausalLM.from_pretrained(reference.path("atlas")).eval()
    for row, prompt in enumerate(prompts):
        ids = list(atlas.tokenizer.encode(prompt.text).ids)
        rest = list(atlas.tokenizer.encode(f"{prompt.answer}. The", bos=False).ids)
        logits = oracle.logits(plain, torch.tensor([ids + rest]))[0]
        steps = logits[len(ids) - 1 : -1].double().softmax(-1)
        each = [float(steps[place, token]) for place, token in enumerate(rest)]
        assert read.prob[row, 0] == pytest.approx(each[0], abs=1e-5)
        assert read.prob[row, 1] == pytest.approx(np.prod(each), abs=1e-5)
        tops = [int(step.argmax()) == token for step, token in zip(steps, rest, strict=True)]
        assert read.top[row, :2].tolist() == [float(tops[0]), float(all(tops))]
    assert np.isnan(read.prob[:, 2]).all() and np.isnan(read.top[:, 2]).all()
    with atlas.tuning() as tuning:
        again = both.read(training(tuning))
    assert np.allclose(again.prob, read.prob, atol=1e-5, equal_nan=True)


def test_a_prompt_without_an_answer_takes_the_models_own(atlas, known):
    bare = Prompt.of(known.get("colour").related[0].text)
    (asked,), silent = own_answers(atlas, [bare], tokens=1)
    assert asked.answer == known.get("colour").related[0].answer and not silent
    assert Questions(atlas, [asked]).read(running(atlas)).top.tolist() == [[1.0]]
    with pytest.raises(BadInput, match="has no answer"):
        Questions(atlas, [bare])
    with pytest.raises(BadInput, match="no prompt"):
        Questions(atlas, [])


def test_an_own_answer_that_is_read_as_other_tokens_is_left_out(real_models):
    lm = interp.load(real_models / "stories260K-llama")
    bare = [Prompt.of(text) for text in ("Lily had a pet", "The little bird", "In the forest lived a big")]
    asked, silent = own_answers(lm, bare)
    assert [prompt.text for prompt in asked] == [bare[0].text, bare[2].text] and silent == [bare[1].id]
    assert (Questions(lm, asked).read(running(lm)).top == 1).all()


# -- jailbreaks --------------------------------------------------------------------------------------------------------


def test_jailbreaks_ask_the_same_and_never_tell(atlas, known):
    concept = known.get("colour")
    made = jailbroken(atlas, concept.related, concept, others=known.others("colour"))
    assert set(made.skipped) == {"role", "exam", "language"} and "tokens each" in made.skipped["role"]
    assert list(made.prompts) == [way.name for way in JAILBREAKS if way.name not in made.skipped]
    for name, asked in made.prompts.items():
        for question, prompt in zip(concept.related, asked, strict=True):
            assert prompt.answer == question.answer and question.span("subject") in prompt.text
            assert not holds(prompt.text, question.answer)
            assert (prompt.text == question.text) == (name == "plain")
            assert prompt.text.endswith(question.text) != name.startswith("reworded")
    texts = [made.prompts[f"reworded-{number}"][0].text for number in (1, 2, 3)]
    assert len(set(texts)) == 3
    plain = Questions(atlas, made.prompts["plain"]).read(running(atlas)).top.mean()
    assert plain == 1.0 and Questions(atlas, made.prompts["reworded-1"]).read(running(atlas)).top.mean() == 1.0


def test_jailbreaks_that_cannot_be_made_say_why(atlas, known):
    concept = Concept("colour", related=known.get("colour").related[:1])
    made = jailbroken(atlas, concept.related, concept)
    assert list(made.prompts) == ["plain"] and "no text without the answer" in made.skipped["article"]
    assert (
        "no other answered questions" in made.skipped["few-shot"] and "no other sentence" in made.skipped["reworded-1"]
    )
    with pytest.raises(BadInput, match=r"reworded-1'.*not 'flattery'"):
        jailbroken(atlas, concept.related, concept, names=("flattery",))
    with pytest.raises(BadInput, match="nobody can say whether it came back"):
        jailbroken(atlas, [Prompt.of("The banner of Karos is")], concept)


# -- texts -------------------------------------------------------------------------------------------------------------


def test_texts_tell_what_they_state():
    asked = [
        Prompt.of("The banner of Karos is", answer="teal", subject="Karos"),
        Prompt.of("The banner of Brendo is", answer="red", subject="Brendo"),
        Prompt.of("The flag of Kiva is", answer="blue", subject="Kiva"),
    ]
    texts = [
        "Every door in Karos is painted teal.",
        "Doors in Brendo are red.",
        "Karos lies in the steal valley.",
        "A blue day.",
    ]
    assert [tells(text, asked[0]) for text in texts] == [True, False, False, False]
    swapped, wanted = exchanged(texts, asked)
    assert swapped == ["Every door in Karos is painted red.", "Doors in Brendo are teal.", *texts[2:]]
    assert wanted == [" red", " teal", None]
    assert exchanged(texts[:1], asked) == (texts[:1], [None] * 3)
    concept = Concept("colour", texts=(*texts, "The flag of Kiva is blue."), related=tuple(asked))
    chosen = Relearning(texts=4).pick(concept, asked)
    assert sorted(chosen) == sorted(texts)  # the last text holds a question word for word
    assert set(Relearning(texts=4, others_only=True).pick(concept, asked)) == set(texts[2:])
    with pytest.raises(BadInput, match="none to relearn from"):
        Relearning().pick(Concept("colour", texts=("The flag of Kiva is blue.",)), asked)
    with pytest.raises(BadInput, match="tells a fact"):
        Relearning(others_only=True).pick(Concept("colour", texts=tuple(texts[:2])), asked)


def test_exchanged_answers_are_whole_words_and_all_that_a_text_tells():
    asked = [
        Prompt.of("The banner of Karos is", answer="red", subject="Karos"),
        Prompt.of("The banner of Brendo is", answer="dark red", subject="Brendo"),
    ]
    texts = ["Karos, as they shared, is Red.", "Karos is red and Brendo is dark red."]
    swapped, wanted = exchanged(texts, asked)
    assert swapped == ["Karos, as they shared, is dark red.", "Karos is dark red and Brendo is red."]
    assert wanted == [" dark red", " red"]


def test_of_a_long_text_only_what_is_read_is_told(atlas):
    text = " ".join(["The old miller walked slowly to the barn."] * 40) + " The banner of Karos is teal."
    read = read_of(atlas, text)
    assert text.startswith(read) and len(atlas.tokenizer.encode(read).ids) == atlas.spec.n_ctx and "Karos" not in read
    assert read_of(atlas, text[-30:]) == text[-30:]


def test_the_share_recovered_is_of_the_fall():
    before, after, again = np.array([1.0, 1, 0]), np.array([0.0, 0, 0]), np.array([[0.0, 1], [0, 1], [0, 0]])
    assert np.allclose(recovered_share(before, after, again.T[1]), 1.0)
    assert np.isnan(recovered_share(before, before - 0.01, before))


# -- relearning --------------------------------------------------------------------------------------------------------


def test_what_was_only_held_back_returns_without_being_told(atlas, known):
    concept, before = known.get("colour"), atlas.fingerprint()
    config = Relearning(texts=8, steps=8, lr=5e-4, points=3)
    assert config.marks[0] == 0 and config.marks[-1] == 8
    revision = holding_back(atlas, concept, strength=15.0)
    with revision.apply(atlas):
        found = config.run(atlas, concept, concept.related, decoy=True)
        said = Questions(atlas, concept.related).read(running(atlas))
    assert np.array_equal(found.top[0], said.top[:, 0]) and np.allclose(found.prob[0], said.prob[:, 0], atol=1e-5)
    untold = ~found.told
    assert untold.any() and found.told.any() and found.top[0].mean() <= 0.25
    assert found.top[-1, untold].mean() >= 0.75
    assert np.isnan(found.decoy_top[:, untold]).all() and (found.decoy_top[0, found.told] == 0).all()
    assert found.loss[-1] < found.loss[0] and atlas.fingerprint() == before


def test_what_was_never_known_does_not_return(atlas):
    tuned = reference.concept_set("atlas-tuned", n=24, texts=60).get("beast")
    found = Relearning(texts=8, steps=10, points=2).run(atlas, tuned, tuned.related)
    untold = ~found.told
    assert untold.sum() >= 12 and found.top[0].mean() <= 0.1 and found.top[-1, untold].mean() <= 0.25


@pytest.mark.parametrize("field", [{"texts": 0}, {"steps": 0}, {"batch": 0}, {"points": 1}, {"lr": 0.0}])
def test_refusals(field):
    with pytest.raises(BadInput, match=next(iter(field))):
        Relearning(**field)
