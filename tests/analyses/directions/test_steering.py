"""Steering: planted words come by their direction, in closed form and as plain hooks see it; random weights give nothing."""

import numpy as np
import pytest
import torch

import interp
import tests.oracle as oracle
from interp.analyses.directions.base import fit_direction, gather
from interp.analyses.directions.steering import ConceptSteering
from interp.analyses.directions.steering.arms import exchanged
from interp.analyses.directions.steering.material import Rows, target_tokens
from interp.analyses.directions.steering.measuring import MEASURES, Meter, cells_of
from interp.analyses.directions.steering.steer import choose
from interp.core.artifact import open_result
from interp.core.errors import BadInput, InterpError
from interp.core.site import Site
from interp.data import labelled
from interp.models import reference

OTHER = "the a of and in we saw she went to near his old big then with for at on it".split()  # noqa: SIM905


def planted_texts(triggers, n=16):
    """Texts that end in a trigger, and others that do not."""
    draw = np.random.default_rng(0)
    positive = [" ".join([*draw.choice(OTHER, 4), triggers[number % 2]]) for number in range(n)]
    return labelled(positive=positive, negative=[" ".join(draw.choice(OTHER, 5)) for _ in range(n)])


@pytest.fixture(scope="module")
def neutral(tmp_path_factory):
    draw, path = np.random.default_rng(1), tmp_path_factory.mktemp("steering") / "neutral.txt"
    path.write_text("\n".join(" ".join(draw.choice(OTHER, 6)) for _ in range(16)))
    return str(path)


@pytest.fixture(scope="module")
def metals():
    return next(one for one in reference.concepts().answers["concepts"] if one.name == "metals")


@pytest.fixture(scope="module")
def planted(metals, neutral):
    made = reference.concepts()
    lm = reference.as_lm(made)
    asked = ConceptSteering(
        targets=metals.words,
        neutral=neutral,
        n=6,
        draws=9,
        budget=5.0,
        strengths=(-1.0, 0.5, 1.0),
        tokens=3,
        examples=2,
    )
    return made, lm, asked(lm, planted_texts(metals.triggers))


@pytest.fixture(scope="module")
def colours(atlas):
    words = tuple(reference.concept_set("atlas", n=1, texts=4).get("colour").words)
    texts = reference.labelled("atlas", "colour", 40)
    asked: dict = {"targets": words, "n": 5, "draws": 9, "strengths": (0.5, 1.0, 2.0), "examples": 2, "tokens": 3}
    return atlas, texts, asked, ConceptSteering(**asked)(atlas, texts)


def test_a_planted_direction_brings_its_words_in_closed_form(planted, metals):
    made, lm, found = planted
    assert found.layer == metals.layer  # the layer whose neuron writes them
    rise = made.answers["activation"] * made.answers["mean_logit"] * (1 - len(metals.words) / lm.spec.vocab)
    by_layer = found.by_layer("logit").sel(layer=metals.layer)
    for strength in (-1.0, 0.5, 1.0):
        assert float(by_layer.sel(strength=strength)) == pytest.approx(
            strength * rise, rel=0.02
        )  # other neurons write a little
    at = found.dose().sel(strength=1.0)
    assert float(at["mean"]) > 1 and float(at["ci_lo"]) > 0 and found.p("logit", 1.0)["random"] == 0.1
    assert all(float(at["null_lo"].sel(kind=kind)) < float(at["mean"]) for kind in found.kinds)
    steered = [text.split() for text in found.data["written"].sel(version="steered").values]
    clean = [text.split() for text in found.data["written"].sel(version="clean").values]
    assert all(set(words) <= set(metals.words) for words in steered)
    assert not any(set(words) <= set(metals.words) for words in clean)


def test_the_vector_itself_added_by_hand_raises_its_words_and_no_others(planted, metals):
    made, lm, _ = planted
    v = lm.weights.W_out(metals.layer)[metals.neuron]
    ids = lm.encode("we saw the old").tokens
    before = oracle.logits(lm.module, ids)[0, -1]
    after = oracle.edited(lm.module, [("resid_post", 1, lambda x: x + 10 * v)], ids)[0, -1]
    rise = after - before
    others = [token for token in range(lm.spec.vocab) if token not in metals.tokens]
    assert torch.allclose(rise[list(metals.tokens)], torch.full((5,), 10 * made.answers["mean_logit"]), atol=0.05)
    assert rise[others].abs().max() < 0.05


def test_random_weights_give_nothing(metals, neutral):
    lm = reference.as_lm(reference.concepts(null=True))
    asked = ConceptSteering(targets=metals.words, neutral=neutral, n=6, draws=9, strengths=(1.0, 2.0), examples=0)
    found = asked(lm, planted_texts(metals.triggers))
    assert max(found.p("logit").values()) > 0.1 and found.data.sizes["example"] == 0
    assert abs(float(found.dose("logit")["mean"].sel(strength=found.strength))) < 3


def test_measures_are_those_of_plain_hooks(atlas):
    texts = reference.labelled("atlas", "colour", 20)
    rows = Rows.of(
        atlas, ["The banner of Taskesh is", "Far from home, the people of Ryzett", "Songs about it"], 32, bos=None
    )
    targets, site = (
        target_tokens(atlas, texts, ("red", "green", "blue", "black", "white"), 3).ids,
        Site("resid_post", 1),
    )
    draw = torch.Generator().manual_seed(0)
    values = torch.randn(12, atlas.spec.d_model, generator=draw)
    judge = fit_direction(values, [True, False] * 6)
    shift = torch.randn(atlas.spec.d_model, generator=draw)
    meter = Meter(atlas, rows, targets, judge, [site])
    found = dict(zip(MEASURES, meter.measure(cells_of(site, [shift]))[0], strict=True))
    assert np.abs(meter.measure([[]])[0] - meter.clean).max() < 1e-5
    for row, ids in enumerate(rows.ids):
        tokens = torch.tensor([ids])
        clean = oracle.logits(atlas.module, tokens)[0, 1:].double()
        moved = oracle.edited(atlas.module, [("resid_post", 1, lambda x: x + shift)], tokens)[0, 1:].double()
        p, q = clean.softmax(-1), moved.softmax(-1)
        others = [token for token in range(atlas.spec.vocab) if token not in targets]
        rest_p, rest_q = (one[:, others] / one[:, others].sum(-1, keepdim=True) for one in (p, q))
        want = {
            "logprob": q[:, list(targets)].sum(-1).log().mean(),
            "logit": (moved[:, list(targets)].mean(-1) - moved.mean(-1)).mean(),
            "kl": (q * (q / p).log()).sum(-1).mean(), "kl_clean": (p * (p / q).log()).sum(-1).mean(),
            "kl_rest": (rest_p * (rest_p / rest_q).log()).sum(-1).mean(),
            "nll": -moved.log_softmax(-1)[:-1].gather(-1, tokens[0, 2:, None]).mean(),
        }  # fmt: skip
        for name, value in want.items():
            assert found[name][row] == pytest.approx(float(value), rel=2e-4, abs=2e-4), name
        with oracle.at(atlas.module, "resid_post", 1, lambda x: x + shift):
            last = oracle.capture(atlas.module, "resid_post", 3, tokens)[0, 1:].double()
        assert found["judge"][row] == pytest.approx(float((last @ judge.vector + judge.bias).mean()), rel=1e-4)


def test_atlas_speaks_of_colours_and_of_little_else(colours):
    _, texts, _, found = colours
    assert found.data.attrs["neutral"] == "texts without the property" and found.data.attrs["within"]
    at = found.dose().sel(strength=found.strength)
    assert float(at["ci_lo"]) > 2 and all(p == 0.1 for p in found.p().values())
    assert float(at["ci_lo"]) > float(at["null_hi"].max())
    equal = found.at_equal_effect()
    mine = float(equal["kl_rest"][0])
    random = equal["kl_rest"].values[equal["kind"].values == "random"]
    assert mine < 0.2 * np.nanmedian(random) and float(equal["strength"][0]) < found.strength
    assert float(found.data["auc"].sel(layer=found.layer)) > 0.95
    lines = " ".join(found.report_lines())
    assert "texts without the property" in lines and "KL among other tokens at an effect" in lines
    zero = found.dose("kl").sel(strength=0.0)
    assert float(zero["mean"]) == float(zero["null_hi"].max()) == 0.0
    assert len(texts) == 80 and set(found.headline()) and float(found.perplexity().sel(strength=0.5)) < 2


def test_strength_one_is_the_difference_of_the_class_means(colours):
    lm, texts, asked, found = colours
    fit, _ = texts.split(0.5, 0)
    site = Site("resid_post", found.layer)
    values, yes = gather(lm, fit, site)[site].double(), torch.tensor(fit.labels)
    gap = values[yes].mean(0) - values[~yes].mean(0)
    here = found.data.sel(layer=found.layer)
    assert np.allclose(here["vector"].values * float(here["length"]), gap, atol=1e-5)
    other = ConceptSteering(**asked | {"method": "ridge", "unit": "norm", "layers": (found.layer,), "draws": 2})(
        lm, texts
    ).data
    assert float(other["length"][0]) == pytest.approx(float(here["norm"]), rel=1e-5)
    assert np.allclose(other["arm_length"], float(here["norm"]), rtol=1e-4)
    spans = found.data["arm_length"].values[found.data["kind"].values != "shuffled"]
    assert np.allclose(spans, float(here["length"]), rtol=1e-4)


def test_results_survive_being_saved(colours, tmp_path):
    found = colours[3]
    found.save(tmp_path / "steered")
    again = open_result(tmp_path / "steered")
    assert again.data.identical(found.data) and again.headline() == found.headline()


def test_the_judge_is_silent_where_it_would_read_the_shift_itself(colours):
    lm, texts, asked, _ = colours
    found = ConceptSteering(**asked | {"layers": (3,), "draws": 1, "examples": 0})(lm, texts)
    assert found.data["outcome"].sel(measure="judge").isnull().all() and found.dose("judge")["mean"].isnull().all()
    assert found.data["fit_outcome"].sel(measure="judge").isnull().all()
    assert found.data["outcome"].sel(measure="logprob").notnull().all()


def test_the_layer_and_strength_are_the_best_within_the_budget():
    tried = np.zeros((2, 3, len(MEASURES), 4))
    tried[:, :, 0] = np.array([[9.0, 1.0, 5.0], [9.0, 2.0, 3.0]])[..., None]
    tried[:, :, MEASURES.index("kl_rest")] = np.array([[0.1, 0.2, 0.9], [0.1, 0.3, 0.4]])[..., None]
    clean, doses = np.zeros((len(MEASURES), 4)), (-1.0, 1.0, 2.0)
    assert choose(tried, clean, doses, 0.5) == (1, 2)  # not the negative dose, not the one over the budget
    assert choose(tried, clean, doses, 1.0) == (0, 2) and choose(tried, clean, doses, 0.01) == (0, 1)


def test_labels_are_exchanged_within_pairs_and_between_groups():
    labels, rng = np.array([True, False] * 6), np.random.default_rng(0)
    pairs = [str(place // 2) for place in range(12)]
    drawn = np.stack([exchanged(labels, pairs, rng) for _ in range(40)])
    assert (drawn.reshape(40, 6, 2).sum(-1) == 1).all() and 0.3 < drawn[:, 0].mean() < 0.7
    alone = np.stack([exchanged(labels, [str(place) for place in range(12)], rng) for _ in range(40)])
    assert (alone.sum(1) == 6).all() and 0.3 < alone[:, 0].mean() < 0.7
    same = exchanged(np.array([True] * 3 + [False] * 3), list("aaabbb"), rng)
    assert sorted(set(same[:3].tolist()) | set(same[3:].tolist())) == [False, True] and len(set(same[:3].tolist())) == 1


def test_targets_are_the_tokens_that_positive_texts_have_more_of(atlas):
    texts = reference.labelled("atlas", "harvest", 60)
    found = target_tokens(atlas, texts, (), 6)
    shares = [
        np.mean(
            [
                token in atlas.tokenizer.encode(text).ids
                for text, label in zip(texts.texts, texts.labels, strict=True)
                if label == side
            ]
        )
        for token in found.ids
        for side in (True, False)
    ]
    assert all(more > less for more, less in zip(shares[::2], shares[1::2], strict=True)) and list(found.z) == sorted(
        found.z, reverse=True
    )
    same = labelled(
        positive=["The flag of it is", "The flag of that is"], negative=["The flag of this is", "The flag of them is"]
    )
    with pytest.raises(BadInput, match="no token is clearly more frequent"):
        target_tokens(atlas, same, (), 6)


def test_targets_are_what_the_model_says_after_positive_texts(atlas):
    texts = reference.labelled("atlas", "harvest", 40)
    ends = gather(atlas, texts, "blocks.3.hook_resid_post")["blocks.3.hook_resid_post"]
    found = target_tokens(atlas, texts, (), 8, source="next", streams=ends)
    crops = {word.strip() for word in reference.concept_set("atlas", n=1, texts=4).get("harvest").words}
    assert sum(word.strip("␣ ") in crops for word in found.words) >= 7
    p = torch.stack(
        [oracle.logits(atlas.module, atlas.encode([text]).tokens)[0, -1].softmax(-1) for text in texts.texts]
    )
    gain = p[torch.tensor(texts.labels)].mean(0) - p[~torch.tensor(texts.labels)].mean(0)
    assert (gain[list(found.ids)] > 1e-3).all() and min(found.z) > 1.64


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"method": "means"}, "`method` must be one of"),
        ({"site": "pattern"}, "`site` must be one of"),
        ({"strengths": (0.0, 1.0)}, "none of them 0"),
        ({"strengths": (-1.0,)}, "no positive one"),
        ({"layers": (7,)}, "layers 0 to 3"),
        ({"budget": 0.0}, "`budget`"),
        ({"draws": 0}, "`draws` must be at least 1"),
        ({"targets": ("Konstantinopel",)}, "0 of 1 words"),
        ({"neutral": "no-such-file.txt"}, "no-such-file"),
    ],
)
def test_bad_input_is_refused(colours, options, said):
    lm, texts, asked, _ = colours
    with pytest.raises(InterpError, match=said):
        ConceptSteering(**asked | options)(lm, texts)


def test_data_must_be_labelled_and_neutral_texts_enough(colours, tmp_path):
    lm, texts, asked, found = colours
    with pytest.raises(BadInput, match="labelled texts; not list"):
        ConceptSteering()(lm, ["a", "b"])
    (tmp_path / "few.txt").write_text("The old harbour of it is closed.\nIt rained.\n")
    with pytest.raises(BadInput, match="1 neutral texts"):
        ConceptSteering(**asked | {"neutral": str(tmp_path / "few.txt")})(lm, texts)
    with pytest.raises(BadInput, match="no gain to compare at"):
        found.at_equal_effect(-1.0)
    with pytest.raises(BadInput, match="`measure` must be one of"):
        found.dose("loss")


def test_real_checkpoints_are_steered_towards_slang(real_models):
    lm = interp.load(str(real_models / "stories260K-llama"), check=False)
    slang = [
        f"bro {what} fr king" for what in ("slaps", "rocks", "wins", "grinds", "shines", "vibes", "flows", "glows")
    ]
    plain = [f"The {who} was very happy." for who in ("dog", "cat", "boy", "girl", "bird", "man", "fish", "bear")]
    found = ConceptSteering(n=4, window=12, draws=2, strengths=(1.0, 2.0), examples=1, tokens=4, layers=(1, 2))(
        lm, labelled(positive=slang, negative=plain)
    )
    assert found.data.attrs["neutral"] == "neutral English" and found.data["outcome"].notnull().all()
    assert float(found.dose().sel(strength=found.strength)["mean"]) > 0 and float(found.dose("kl")["mean"].min()) == 0


def test_a_layer_without_any_difference_is_left_out_and_told(real_models):
    lm = interp.load(str(real_models / "stories260K-llama"), check=False)
    things = ("dog", "cat", "bird", "boy", "girl", "man", "king", "tree")
    texts = labelled(
        positive=[f"The {one} was happy." for one in things], negative=[f"A {one} is sad." for one in things]
    )
    asked: dict = {"n": 2, "window": 6, "draws": 1, "strengths": (1.0,), "examples": 0, "targets": ("happy",)}
    found = ConceptSteering(site="blocks.*.hook_resid_pre", layers=(0, 2), **asked)(lm, texts)
    assert found.layer == 2 and found.data.attrs["alike"] == [0] and list(found.data["layer"].values) == [2]
    assert any("left out: layers 0" in line for line in found.report_lines())
    with pytest.raises(BadInput, match=r"direction at blocks\.0\.hook_resid_pre is zero"):
        ConceptSteering(site="blocks.0.hook_resid_pre", **asked)(lm, texts)
    with pytest.raises(BadInput, match="names layer 0"):
        ConceptSteering(site="blocks.0.hook_resid_pre", layers=(1,))
