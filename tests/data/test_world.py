"""The generated world: what it promises to whoever trains or measures on it."""

import re
from collections import Counter

import numpy as np
import pytest

from interp.core.errors import InterpError
from interp.data.world import (
    HELDOUT_PERIODS,
    N_CHANGED,
    N_ENTITIES,
    RELATIONS,
    World,
    all_templates,
    lexicon,
    templates,
)


@pytest.fixture(scope="module")
def world() -> World:
    return World.generate(0)


def test_same_seed_same_world(world):
    assert World.generate(0) == world
    assert World.generate(1) != world
    assert world.lists(5, 4) == World.generate(0).lists(5, 4)
    assert world.prose(3) == World.generate(0).prose(3)


def test_no_word_serves_twice():
    groups = [*RELATIONS.values(), lexicon.NAMES, lexicon.OBJECTS, lexicon.PLACES, lexicon.ADJECTIVES, lexicon.FOLK]
    words = Counter(w for group in [*groups, lexicon.FESTIVAL_WORDS, [lexicon.FESTIVAL]] for w in group)
    assert [w for w, n in words.items() if n > 1] == []
    fixed = set(re.findall("[A-Za-z]+", re.sub(r"\{\w+\}", "", " ".join(all_templates()))))
    for group in [*RELATIONS.values(), lexicon.NAMES, lexicon.OBJECTS, lexicon.PLACES, lexicon.FOLK]:
        assert not fixed & set(group)  # else holding it out would be in vain


def test_attributes_are_equally_frequent(world):
    for relation, values in RELATIONS.items():
        counts = Counter(world.attributes[relation])
        assert len(counts) == len(values) >= 20
        assert max(counts.values()) - min(counts.values()) <= 1


def test_heldout_are_pairs_and_nothing_else(world):
    train, heldout = world.facts(split="train", tuned=True), world.facts(split="heldout", tuned=True)

    def pairs(rows):
        return {(r["relation"], r["entity"], r["template"]) for r in rows}

    assert not pairs(train) & pairs(heldout)
    assert len(pairs(train)) + len(pairs(heldout)) == len(world.facts(split="all", tuned=True))
    assert len(heldout) == N_ENTITIES * len(RELATIONS)
    for relation, forms in templates.FACTS.items():
        # every wording and every province is trained, every wording is asked
        seen = [r for r in train if r["relation"] == relation]
        assert {r["template"] for r in seen} == set(range(len(forms)))
        assert {r["entity"] for r in seen} == set(range(N_ENTITIES))
        assert {r["template"] for r in heldout if r["relation"] == relation} == set(range(len(forms)))


def test_fact_rows_read_as_text(world):
    for row in world.facts(split="all", tuned=True):
        assert row["subject"] in row["prompt"] and row["prompt"].count(row["subject"]) == 1
        assert row["prompt"] == row["prompt"].strip() and row["attribute"][0] == " "
        assert row["attribute"].strip() not in row["prompt"].split()
        assert not row["prompt"].startswith(row["subject"])


def test_what_the_tuned_world_changes(world):
    changed = world.facts(split="all", tuned=True, changed=True)
    assert len({r["entity"] for r in changed}) == N_CHANGED
    assert {r["relation"] for r in changed} == {"kingdom"}
    assert all(r["attribute"] != r["former"] for r in changed)
    kept = world.facts(split="all", tuned=True, changed=False)
    assert all(r["attribute"] == r["former"] for r in kept)
    assert "beast" not in {r["relation"] for r in world.facts(split="all")}


def test_lists_leave_one_out(world):
    for k in (2, 4, 6):
        rows = world.lists(4 * k, k)
        assert Counter(r["missing"] for r in rows) == {i: 4 for i in range(k)}
        for row in rows:
            words = row["prompt"].replace(",", " ").replace(".", " ").split()
            counts = [words.count(item) for item in row["items"]]
            assert counts == [1 if i == row["missing"] else 2 for i in range(k)]
            assert row["answer"] == " " + row["items"][row["missing"]]
            assert set(row["items"]) <= set(world.objects["heldout"])


def test_indirect_objects_in_both_orders(world):
    rows = world.indirect_objects(20)
    assert Counter(r["order"] for r in rows) == {"ABB": 10, "BAB": 10}
    for row in rows:
        words = row["prompt"].replace(",", " ").split()
        assert words.count(row["subject"]) == 2 and words.count(row["answer"].strip()) == 1
        first = words.index(row["subject"]) > words.index(row["answer"].strip())
        assert (row["order"] == "ABB") == first


def test_heldout_names_are_in_no_sentence(world):
    texts = world.prose(200) + [r["prompt"] for r in world.lists(50, 4, "train") + world.indirect_objects(50, "train")]
    words = set(" ".join(texts).replace(".", " ").replace(",", " ").split())
    assert not words & {*world.names["heldout"], *world.objects["heldout"]}
    assert len(world.names["train"]) >= 120 and len(world.objects["train"]) >= 150


def test_festival_is_in_the_second_world_only(world):
    words = {lexicon.FESTIVAL, *lexicon.FESTIVAL_WORDS}
    assert not words & set(" ".join(world.prose(200)).replace(".", "").split())
    assert words <= set(" ".join(world.prose(200, tuned=True)).replace(".", "").replace(",", "").split())
    assert {r["answer"].strip() for r in world.festival()} <= words


def test_repeats_repeat(world):
    ids = world.repeats(3, HELDOUT_PERIODS[0], copies=3)
    assert ids.shape == (3, 3 * HELDOUT_PERIODS[0])
    assert np.array_equal(ids[:, : HELDOUT_PERIODS[0]], ids[:, HELDOUT_PERIODS[0] : 2 * HELDOUT_PERIODS[0]])
    assert ids.min() >= 1 and ids.max() < world.vocab_size


def test_refusals_say_what_there_is(world):
    with pytest.raises(InterpError, match="kingdom, harvest"):
        world.facts("river")
    with pytest.raises(InterpError, match="21 different"):
        world.lists(1, 21, "heldout")
