"""Where value vectors fire: exactly where they were planted, as plain hooks see it, and in a scrambled model by chance only."""

import dataclasses

import numpy as np
import pytest

import interp
import tests.oracle as oracle
from interp.analyses.concepts.firing import ConceptFiring
from interp.analyses.concepts.firing.ranking import Ranks, auc_interval, best_cut, exchange_p, wins
from interp.cache import Store
from interp.core.artifact import open_result
from interp.core.errors import BadInput, InterpError, UnknownSite
from interp.data.concepts import Concepts, concepts
from interp.models import reference
from interp.models.load import wrap
from tests.analyses.test_tracing import words
from tests.models.tiny import tiny

OTHER = "the a of and in we saw she went to near his old big then with for at on it".split()  # noqa: SIM905


def planted_texts(made, n=12):
    """Texts of eight words for each planted concept, every one with exactly one of its triggers."""
    draw, rows = np.random.default_rng(0), []
    for concept in reference.concepts().answers["concepts"]:
        texts = []
        for number in range(n):
            words = draw.choice(OTHER, 8).tolist()
            words[draw.integers(8)] = concept.triggers[number % 2]
            texts.append(" ".join(words))
        rows.append({"Concept": concept.name, "words": list(concept.words), "texts": texts})
    return concepts(rows)


@pytest.fixture(scope="module")
def planted():
    made = reference.concepts()
    lm = reference.as_lm(made)
    data = planted_texts(made)
    return made, lm, data, ConceptFiring()(lm, data)


@pytest.fixture(scope="module")
def known(atlas):
    return atlas, reference.concept_set("atlas", n=2, texts=40)


def test_planted_neurons_fire_on_their_triggers_and_nowhere_else(planted):
    made, _, data, found = planted
    by_name = {concept.name: concept for concept in made.answers["concepts"]}
    assert dict((concept, vector) for vector, concept in found.pairs) == {
        name: f"{concept.layer}.{concept.neuron}" for name, concept in by_name.items()
    }
    labels = found.data["label"].values[found.data["token_id"].values]
    for vector, name in found.pairs:
        values = found.data["coefficient"].sel(vector=vector).values
        on = np.isin(labels, by_name[name].triggers)
        assert on.sum() == len(data.get(name).texts)
        assert np.allclose(values[on], made.answers["activation"], atol=1e-4) and (values[~on] == 0).all()
        assert (found.data["ahead"].sel(vector=vector).values[on] == 0).all()  # nothing in its layer writes more there
        dense = found.density().sel(vector=vector)
        assert float(dense["above"]) == float(dense["nonzero"]) == on.mean()
        assert float(dense["leading"]) == pytest.approx(on.mean())


def test_planted_neurons_tell_their_texts_from_others_and_others_do_not(planted):
    _, _, _, found = planted
    for measure in ("max", "mean"):
        said = found.selectivity(measure)
        for vector, name in found.pairs:
            at = said.sel(vector=vector, concept=name)
            assert float(at["auc"]) == float(at["accuracy"]) == float(at["ci_lo"]) == 1 and float(at["p_holm"]) < 0.01
            assert float(at["null_share"]) < 0.1 and float(at["null_hi"]) < 0.95 and int(at["sign"]) == 1
    off = found.data["auc"].sel(measure="max").values[~found.data["own"].values]
    assert (off <= 0.5).all()  # silent on other concepts' texts
    assert float(found.data["auc"].sel(measure="token").where(found.data["own"]).min()) > 0.55
    top = found.contexts("1.23", 4)
    assert set(top["token"]) <= {"forge", "mine"} and top["text"].is_unique and "[" in top["context"][0]
    assert found.headline()["median held-out AUC"] == 1
    assert any("1.23 for metals" in line for line in found.report_lines())


def test_in_a_scrambled_model_nothing_fires_for_a_concept(planted):
    lm, data = reference.as_lm(reference.concepts(null=True)), planted[2]
    found = ConceptFiring(vectors=("0.7", "1.23", "1.31", "2.4"))(lm, data)
    assert len(found.pairs) == 16  # named by hand, each is looked at for every concept
    said = found.selectivity("mean")
    chosen = (said["p_holm"] < 0.05) & (said["null_share"] < 0.05)
    assert int(chosen.sum()) == 0 and abs(float(said["auc"].mean()) - 0.5) < 0.1


def test_coefficients_are_those_of_plain_hooks(known):
    lm, data = known
    found = ConceptFiring(vectors=("2.474", "1.362"), concept=("colour",), neurons=5)(lm, data).data
    for text in (0, 7):
        ids = lm.encode([data[0].texts[text]]).tokens
        mine = found["token_text"].values == text
        assert found["source"].values[text] == data[0].name and mine.sum() == ids.shape[1] - 1  # without the BOS
        for row, (layer, neuron) in enumerate(((1, 362), (2, 474))):
            m = oracle.capture(lm.module, "mlp_post", layer, ids)[0, 1:]
            stream = oracle.capture(lm.module, "resid_post", layer, ids)[0, 1:]
            v = lm.module.transformer.h[layer].mlp.c_proj.weight.detach()
            writes = m.abs() * v.norm(dim=1)
            assert np.allclose(found["coefficient"].values[row, mine], m[:, neuron], atol=1e-5)
            share = (writes[:, neuron] / stream.norm(dim=1)).numpy()
            assert np.allclose(found["stream_share"].values[row, mine], share, rtol=1e-3)
            ahead = (writes > writes[:, neuron, None] * (1 + 1e-5)).sum(1).numpy()
            assert np.abs(found["ahead"].values[row, mine] - ahead).max() <= 1


def test_atlas_fires_its_colour_vector_on_colours(known):
    lm, data = known
    found = ConceptFiring(neurons=100)(lm, data)
    row = found.summary().set_index("concept").loc["colour"]
    assert row["vector"] == "2.474" and row["auc"] > 0.97 and row["null_share"] < 0.05 and row["p_holm"] < 0.01
    words = data.get("colour").words
    nexts = [context.partition("]")[2].split(".")[0].split() for context in found.contexts("2.474", 8)["context"]]
    assert (
        sum(bool(set(after) & {word.strip() for word in words}) for after in nexts) >= 6
    )  # it fires before the colour


def test_nothing_depends_on_the_store_or_the_batch(known, tmp_path):
    lm, data = known
    asked = {"concept": ("colour", "craft"), "vectors": ("2.474",), "neurons": 10}
    plain = ConceptFiring(**asked)(lm, data)
    stored = ConceptFiring(**asked)(lm, data, store=Store(tmp_path / "store"))
    small = ConceptFiring(**asked, batch_tokens=64)(lm, data)
    for other in (stored, small):
        assert np.allclose(plain.data["coefficient"], other.data["coefficient"], atol=1e-5)
        assert np.allclose(plain.data["null_auc"], other.data["null_auc"], atol=1e-3)
    plain.save(tmp_path / "result")
    again = open_result(tmp_path / "result")
    assert again.data.identical(plain.data) and again.summary().equals(plain.summary())


def test_a_text_of_two_concepts_is_one_text(known):
    lm, data = known
    mixed = Concepts(data[:2])
    shared = concepts(
        [{"Concept": one.name, "texts": [*one.texts[:12], *data[2].texts[:6]]} for one in mixed]
        + [{"Concept": "third", "texts": list(data[3].texts[:12])}]
    )
    found = ConceptFiring(vectors=("1.3",), neurons=3)(lm, shared).data
    assert found.sizes["text"] == 12 + 12 + 6 + 12
    both = found["member"].values[:, :2].all(axis=1)
    assert both.sum() == 6 and set(found["source"].values[both]) == {f"{mixed[0].name} + {mixed[1].name}"}
    assert abs(int(found["held_out"].values[both].sum()) - 3) <= 1


def test_further_text_is_what_a_single_concept_is_held_against(known, tmp_path):
    lm, data = known
    (tmp_path / "prose.txt").write_text("\n".join(data.get("harvest").texts[:20]))
    alone = Concepts([data.get("colour")])
    found = ConceptFiring(corpus=str(tmp_path / "prose.txt"), corpus_split="line", corpus_texts=15, neurons=5)(
        lm, alone
    )
    assert (found.data["source"].values == str(tmp_path / "prose.txt")).sum() in (0, 15)
    assert int((~found.data["member"].values).sum()) == 15 and found.summary()["auc"][0] > 0.95


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"concept": ("colours",)}, "no concept is called 'colours'"),
        ({"concept": ("bare",)}, "'bare' has no texts.*'colour'"),
        ({"concept": ("lone",)}, "'lone' has 1 different text"),
        ({"concept": ("colour",), "vectors": ("9.1",)}, "9.1 is not in atlas"),
        ({"concept": ("colour",), "vectors": ("x",)}, "'x' names no value vector"),
        ({"vectors": ("1.1",), "n": 2}, "`n=2`"),
        ({"neurons": -1}, "`neurons` must be at least 0"),
        ({"concept": ("colour",), "corpus": "no-such-file.txt"}, "no-such-file"),
    ],
)
def test_bad_input_is_refused(known, options, said):
    lm, data = known
    given = Concepts(
        [
            data.get("colour"),
            *concepts([{"Concept": "bare", "words": ["red"]}, {"Concept": "lone", "texts": ["one text."]}]),
        ]
    )
    with pytest.raises(InterpError, match=said):
        ConceptFiring(**options)(lm, given)


def test_there_must_be_something_to_compare_with(known):
    lm, data = known
    for given, said in (
        (Concepts([data.get("colour")]), "0 of the texts are not about 'colour'"),
        (["red"], "needs concepts with texts; not list"),
        (
            concepts([{"Concept": "a", "texts": list("pqrst")}, {"Concept": "b", "texts": list("uvwxy")}]),
            "neither `words` nor",
        ),
    ):
        with pytest.raises(BadInput, match=said):
            ConceptFiring()(lm, given)
    with pytest.raises(BadInput, match="`vector` must be one of"):
        ConceptFiring(vectors=("1.1",), neurons=1)(lm, data[:2]).contexts("1.2")


def test_experts_are_refused_by_name():
    lm = wrap(tiny("qwen3_moe"), words(), "moe")
    data = concepts([{"Concept": name, "texts": [f"{name} {i}" for i in range(5)]} for name in ("one", "two")])
    with pytest.raises(UnknownSite, match="6 experts"):
        ConceptFiring(vectors=())(lm, data)


def test_real_checkpoints_fire_downwards_too(real_models):
    """In stories260K, 1.3 goes far below zero where other neurons do: the sign is chosen, and scored on other texts."""
    lm = interp.load(str(real_models / "stories260K-llama"), check=False)
    quoted = [
        f'"Come here," said the {who}. "I am {how}."'
        for who in ("dog", "cat", "boy", "girl")
        for how in ("sad", "red", "big")
    ]
    plain = [
        f"The {who} was very {how} that day." for who in ("dog", "cat", "boy", "girl") for how in ("sad", "red", "big")
    ]
    data = concepts([{"Concept": "speech", "texts": quoted}, {"Concept": "telling", "texts": plain}])
    found = ConceptFiring(vectors=("1.3",), neurons=20)(lm, data)
    signs = found.data["sign"].sel(measure="mean", vector="1.3").values
    assert sorted(signs.tolist()) == [-1, 1]  # what is high on the one is low on the other
    assert float(found.data["coefficient"].min()) < 0 and found.data["auc"].sel(measure="mean").notnull().all()
    assert found.contexts("1.3", 3, end="bottom")["coefficient"].iloc[0] == pytest.approx(
        float(found.data["coefficient"].min())
    )


# The statistics, by hand


def by_pairs(inside, outside):
    return np.mean([(a > b) + 0.5 * (a == b) for a in inside for b in outside])


def test_areas_and_their_intervals_are_those_of_all_pairs():
    draw = np.random.default_rng(1)
    owner = np.repeat(np.arange(9), draw.integers(1, 6, 9))
    scores = draw.integers(0, 5, (len(owner), 2)).astype(float)
    inside = np.arange(9) < 4
    ranks = Ranks.of(scores, owner, 9)
    for column in (0, 1):
        want = by_pairs(scores[inside[owner], column], scores[~inside[owner], column])
        assert ranks.auc(inside)[column] == pytest.approx(want)
        table, mine, others = wins(scores[:, column], owner, inside)
        found = auc_interval(table, mine, others, level=0.95, n=500, seed=0, name="t")
        assert found.estimate == pytest.approx(want) and found.low < want < found.high
    assert np.isnan(ranks.auc(np.zeros(9, dtype=bool))).all()


def test_exchanging_texts_finds_what_is_there_and_nothing_else():
    draw = np.random.default_rng(2)
    inside = np.arange(40) < 12
    apart = draw.normal(0, 1, (40, 1)) + 2.0 * inside[:, None]
    p = [
        float(exchange_p(Ranks.of(x, np.arange(40), 40), inside, n=999, seed=0, name="t")[0])
        for x in (apart, apart[::-1])
    ]
    assert p[0] < 0.01 < 0.9 < p[1]
    flat = [
        float(exchange_p(Ranks.of(draw.normal(size=(40, 1)), np.arange(40), 40), inside, n=199, seed=k, name="t")[0])
        for k in range(60)
    ]
    assert 0.3 < np.mean(flat) < 0.7


def test_the_best_cut_is_the_best_there_is():
    draw = np.random.default_rng(3)
    scores, inside = draw.integers(0, 6, 30).astype(float), draw.random(30) < 0.5
    found = best_cut(scores, inside)
    every = [((scores > t)[inside].mean() + (scores <= t)[~inside].mean()) / 2 for t in np.arange(-1, 7) + 0.5]
    assert found.accuracy == pytest.approx(max(every))
    assert (
        (scores > found.threshold)[inside].mean() + (scores <= found.threshold)[~inside].mean()
    ) / 2 == pytest.approx(found.accuracy)


def test_texts_that_differ_in_spaces_or_capitals_are_one_text(known):
    """One of them on either half would be scored on what the sign and the threshold were chosen by."""
    lm, data = known
    colour, craft = data.get("colour"), data.get("craft")
    often = tuple(form for text in colour.texts[:6] for form in (text, f"{text} ", f" {text}", text.replace(" ", "  ")))
    fires = ConceptFiring(concept=("colour",), neurons=0)(
        lm, Concepts([dataclasses.replace(colour, texts=often), dataclasses.replace(craft, texts=craft.texts[:6])])
    )
    assert int(fires.data["member"].sum()) == 6 and fires.data.sizes["text"] == 12


def test_numbers_that_overflow_have_no_ranks(known):
    """NaN would be larger than nothing, and p the smallest there is."""
    lm, data = known
    small = Concepts([dataclasses.replace(one, texts=one.texts[:4]) for one in data])
    with lm.edit_weights({"W_in.2": lm.weights.W_in(2) * 1e38}), pytest.raises(BadInput, match="infinite or NaN"):
        ConceptFiring(concept=("colour",), neurons=0)(lm, small)
