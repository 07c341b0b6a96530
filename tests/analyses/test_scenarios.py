"""Scenario labels: the rule table, stub models whose evidence is known, and the split of a trace."""

import itertools
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import interp
from interp.analyses.scenarios import SCENARIOS, ScenarioLabels, alike, label_of
from interp.analyses.tracing import CausalTrace
from interp.core.artifact import open_result
from interp.core.batch import Batch
from interp.core.errors import BadInput
from interp.data import Prompt
from interp.models.reference.planted.wiring import word_tokenizer
from interp.models.tokenizer import HFTokenizer

PLACES = ("Rome", "Oslo", "Lima", "Quito")
NAMES = ("Mario", "Olaf", "Luz", "Pia")
WORDS = "was born in lives now comes from is a common name The mostly used it they this one It They This One and then"
VOCABULARY = list(dict.fromkeys([*WORDS.split(), *PLACES, *NAMES]))


class Stub:
    """A model whose answer is a function of the words: everything an analysis may ask of it."""

    def __init__(self, says) -> None:
        self.tokenizer = HFTokenizer(word_tokenizer(VOCABULARY, 32), "stub")
        self.spec = SimpleNamespace(n_ctx=32, vocab=len(VOCABULARY) + 2, name="stub", bytes_per_value=4)
        self.says, self.asked = says, 0

    def run(self, batch: Batch):
        logits = torch.zeros(len(batch), self.spec.vocab)
        self.asked += len(batch)
        for row, ids in enumerate(batch.tokens.tolist()):
            words = self.tokenizer.decode(ids).split()
            for rank, word in enumerate(self.says(words)):
                logits[row, VOCABULARY.index(word) + 2] = 20 - rank
        return SimpleNamespace(last_logits=logits)


def facts(views=None):
    texts = ("{} was born in", "{} lives now in", "{} comes from")
    return [
        Prompt.of(
            text.format(name), answer=place, subject=name,
            meta={"relation": "home"} | ({} if views is None else {"popularity": views}), id=f"{name}-{number}",
        )
        for name, place in zip(NAMES, PLACES, strict=True) for number, text in enumerate(texts)
    ]  # fmt: skip


def home(words):
    return next((place for name, place in zip(NAMES, PLACES, strict=True) if name in words), None)


def recalls(words):
    """Knows where people live, and nothing about names as such."""
    place = home(words)
    return [place] if place and "name" not in words else ["and", "then", "a"]


def by_name(words):
    """Goes by the name alone, whatever is asked."""
    return [home(words) or "and"]


def by_prompt(words):
    """Says the same of everybody."""
    return ["Rome"] if words[-1] in ("in", "from") and "name" not in words else ["and"]


def guesses(words):
    """Another place in every wording, with nothing behind it."""
    return {"born": ["Rome", "and", "a"], "lives": ["Oslo", "then", "in"], "comes": ["Lima", "was", "is"]}.get(
        next((word for word in words if word in ("born", "lives", "comes")), ""), ["used"]
    )


def test_the_rule_table():
    for fact, confident, heuristic, correct, popular in itertools.product(
        (True, False), (True, False, None), (True, False), (True, False), (True, False, None)
    ):
        got = label_of(fact=fact, confident=confident, heuristic=heuristic, correct=correct, popular=popular)
        if confident is None:
            want = "unassigned"
        elif not fact:
            want = "generic" if confident else "unassigned"
        elif not confident:
            want = "guesswork"
        elif heuristic:
            want = "heuristics"
        else:
            want = "exact recall" if correct and popular is not False else "unassigned"
        assert got == want and got in SCENARIOS


@pytest.mark.parametrize(
    ("says", "clues", "label"),
    [
        (by_name, ["name_bias"], "heuristics"), (by_prompt, ["prompt_bias"], "heuristics"), (recalls, [], "exact recall"),
        (guesses, ["prompt_bias"], "guesswork"),
    ],
)  # fmt: skip
def test_a_stub_model_is_seen_through(says, clues, label):
    found = ScenarioLabels().run(Stub(says), facts())
    assert set(found.data["label"].values) == {label} and found.counts()[label] == 12
    for name in ("name_bias", "prompt_bias", "overlap"):
        assert set(found.data[name].values.tolist()) == {name in clues}
    assert found.data["correct"].values.all() == (says in (by_name, recalls))
    assert found.data["wordings"].values.tolist() == [3] * 12 and np.isnan(found.data["popularity"].values).all()
    assert found.headline()[f"{label} (of 12)"] == 1.0


def test_words_that_the_subject_and_the_object_share():
    assert (
        alike("Lake Como", "Como") and alike("Japan Airlines", "Japanese") and alike("The Bank of England", "england")
    )
    assert not alike("Space Needle", "Seattle") and not alike("Al", "Al Gore") and not alike("Al", "Alabama")
    found = ScenarioLabels().run(
        Stub(lambda words: ["Rome"]), [Prompt.of("Rome was born in", answer="Rome", subject="Rome")]
    )
    assert found.data["overlap"].values.tolist() == [True]


def test_popularity_decides_where_it_is_said():
    assert set(ScenarioLabels().run(Stub(recalls), facts(views=5000)).data["label"].values) == {"exact recall"}
    assert set(ScenarioLabels().run(Stub(recalls), facts(views=50)).data["label"].values) == {"unassigned"}
    found = ScenarioLabels(popular=10).run(Stub(recalls), facts(views=50))
    assert set(found.data["label"].values) == {"exact recall"} and (found.data["popularity"].values == 50).all()


def test_wordings_come_from_the_data_and_few_of_them_decide_nothing():
    alone = facts()[:1]
    assert ScenarioLabels().run(Stub(recalls), alone).data["label"].values.tolist() == ["unassigned"]
    more = Prompt(
        alone[0].text,
        alone[0].answer,
        None,
        alone[0].spans,
        "more",
        {"paraphrases": ["Mario lives now in", "Mario comes from"]},
    )
    lm = Stub(recalls)
    found = ScenarioLabels().run(lm, [more])
    assert found.data["label"].values.tolist() == ["exact recall"] and found.data["wordings"].values.tolist() == [3]
    assert lm.asked == 3 + 2 + 3  # wordings, name prompts, blanks
    assert ScenarioLabels(paraphrases=1).run(Stub(recalls), facts()).data["wordings"].values.tolist() == [2] * 12


def test_running_text_is_generic_where_the_model_is_sure():
    text = [Prompt.of("This one was used and then")]
    assert ScenarioLabels().run(Stub(lambda words: ["it"]), text).counts()["generic"] == 1
    assert ScenarioLabels().run(Stub(lambda words: []), text).counts()["unassigned"] == 1


def test_options_and_data_are_checked():
    for options, match in (
        ({"agree": 0.0}, "agree"), ({"names": ("a name",)}, "hold {} once"), ({"top_k": 0}, "top_k"), ({"sure": 2.0}, "sure"),
    ):  # fmt: skip
        with pytest.raises(BadInput, match=match):
            ScenarioLabels(**options)
    with pytest.raises(BadInput, match="no prompts"):
        ScenarioLabels().run(Stub(recalls), [])
    with pytest.raises(BadInput, match="need prompts"):
        ScenarioLabels().run(Stub(recalls), ["Mario was born in"])


@pytest.fixture(scope="module")
def atlas():
    lm = interp.load("atlas")
    facts = [prompt for prompt in interp.reference.facts("atlas", 60) if prompt.meta["relation"] == "harvest"][:6]
    return lm, facts


def test_atlas_recalls_what_it_was_taught_and_a_trace_is_split_by_it(atlas, tmp_path):
    lm, facts = atlas
    found = ScenarioLabels()(lm, facts)
    assert found.counts()["exact recall"] >= 4 and not found.data["name_bias"].values.any()
    back = open_result(found.save(tmp_path / "labels"))
    assert type(back) is type(found) and back.data.identical(found.data) and back.counts() == found.counts()
    for theme in ("screen", "paper"):
        assert back.plot(theme=theme).data
    trace = CausalTrace(window=1, kinds=("mlp",), noise_samples=2)(lm, facts)
    parts = trace.split(found)
    assert sum(part.data.sizes["prompt"] for part in parts.values()) == 6 and set(parts) == set(
        found.data["label"].values
    )
    made_up = {str(name): "even" if number % 2 else "odd" for number, name in enumerate(trace.data["prompt"].values)}
    labelled = trace.with_labels(made_up)
    table = labelled.by_role(split="scenario")
    assert table["mean"].dims == ("scenario", "role", "kind", "layer") and table["scenario"].values.tolist() == [
        "even",
        "odd",
    ]
    for name, part in labelled.split("scenario").items():
        alone = part.by_role()
        assert np.allclose(table["mean"].sel(scenario=name, role=alone["role"].values), alone["mean"], equal_nan=True)
        assert int(table["prompts"].sel(scenario=name)) == part.n_known
        assert table["n"].sel(scenario=name, role="last subject").item() == part.n_known
    with pytest.raises(BadInput, match="have no label"):
        trace.with_labels({"other": "x"})
    with pytest.raises(BadInput, match="scenario"):
        labelled.split("scenarios")
    assert ScenarioLabels().cost(lm, facts).forwards > 6
