"""The laundry list: rules that know and do not know the answer, on a model whose pointer is known; plain hooks; orders; refusals."""

from functools import cache

import numpy as np
import pytest
import torch
import xarray as xr

import interp
import tests.oracle as oracle
from interp.analyses.channels import Setting
from interp.analyses.channels.ablation.editing import component_edit
from interp.analyses.channels.decompose import single
from interp.analyses.channels.laundry.laundry import LaundryList
from interp.analyses.channels.laundry.lists import draw_lists
from interp.analyses.channels.laundry.result import LaundryResult
from interp.analyses.channels.laundry.rules import KNOWS, RULES, best_point, choose, regions
from interp.core.errors import BadInput
from interp.data import Lexicon
from tests.cli.running import run as command

SMALL = {
    "lengths": (3, 7),
    "prompts": 14,
    "points": 2,
    "orders": 6,
    "sets": 2,
    "gammas": (0.0, 1.0),
    "controls": ("same_head",),
}


@cache
def atlas():
    return interp.load("atlas"), interp.reference.lexicon("atlas", "laundry_list")


@cache
def drawn(items: int):
    """The lists of `on_atlas`."""
    return draw_lists(atlas()[0], items, n=14, lexicon=atlas()[1])


@cache
def on_atlas() -> LaundryResult:
    return LaundryList(**SMALL)(*atlas())


@cache
def loaded(folder: str):
    return interp.load(folder)


@cache
def planted(closed: bool):
    made = interp.reference.laundry(closed=closed)
    return made, interp.reference.as_lm(made), interp.reference.laundry_words()


@cache
def on_planted(closed: bool) -> LaundryResult:
    config = LaundryList(
        lengths=(7,), prompts=14 if closed else 28, reader="1.4", components=("0.1.2", "0.1.5") if closed else (), points=5, reach=2.0,
        orders=0, gammas=() if closed else (0.0, 3.0), controls=() if closed else ("same_head",),
    )  # fmt: skip
    return config(*planted(closed)[1:])


# ---------------------------------------------------------------- rules


def test_a_line_reaches_two_places_and_a_plane_all():
    """Keys on a circle: what a query can be made to look at most is the upper envelope of its scores."""
    keys = np.array([[np.cos(angle), np.sin(angle)] for angle in 2 * np.pi * np.arange(7) / 7 + 0.1])
    line = np.linspace(-3, 3, 7)[:, None] * np.array([[1.0, 0.0]])
    plane = np.array([[a, b] for a in np.linspace(-3, 3, 9) for b in np.linspace(-3, 3, 9)])
    for alphas, count in ((line, 2), (plane, 7)):
        scores = np.exp(4 * alphas @ keys.T)
        looks = np.broadcast_to(scores / scores.sum(1, keepdims=True), (5, len(alphas), 7))  # [prompt, point, item]
        region = regions(looks)
        assert (region >= 0).sum() == count
        for item in np.flatnonzero(region >= 0):
            assert scores[region[item]].argmax() == item
    assert (regions(np.full((5, 9, 7), 1 / 7)) == -1).all()


def test_rules_pick_what_they_know():
    """Two places; point 1 turns the reader to place 0, point 2 to place 1, point 3 answers best. The untouched run always looks at 0."""
    missing = np.array([0, 1] * 4)
    looks = np.tile(np.array([[0.6, 0.4], [0.9, 0.1], [0.2, 0.8], [0.5, 0.5]]), (8, 1, 1))
    says = np.log(np.tile(np.array([[0.2, 0.1], [0.2, 0.1], [0.1, 0.7], [0.1, 0.1]]), (8, 1, 1)))
    says[np.arange(8), 3, missing] = np.log(0.8)
    train, answered = np.arange(8) < 4, says.argmax(2)
    answered[1, 3] = answered[2, 0] = -1  # another token is best, though the right thing leads those listed
    answered[2, 1] = 0
    chosen, region = choose(
        looks, says, answered, missing=missing, unrepeated=np.where(missing == 1, 1, -1), train=train
    )
    picked = dict(zip(RULES, chosen.T.tolist(), strict=True))
    assert region.tolist() == [1, 2] and best_point(says, missing) == 3
    assert (
        picked["unsteered"] == [0] * 8 and picked["oracle region"] == [1, 2] * 4 and picked["single point"] == [3] * 8
    )
    assert (
        picked["oracle point"] == [3, 3] * 4 and picked["own attention"] == [1] * 8 and picked["own answer"] == [1] * 8
    )
    assert picked["self-consistent"] == [2] * 8 and picked["hindsight"] == [0, 2, 3, 3, 0, 3, 0, 3]
    assert picked["second list"] == [0, 2] * 4 and len(KNOWS) == len(RULES)  # unknown: untouched
    looks[:, :, 1] = 0.0
    chosen, region = choose(looks, says, answered, missing=missing, unrepeated=missing, train=train)
    assert region[1] == -1 and (chosen[missing == 1, RULES.index("oracle region")] == 0).all()


def test_rules_know_of_held_out_prompts_only_what_they_say_and_learn_nothing_from_them():
    rng, train = np.random.default_rng(0), np.arange(40) // 5 % 2 == 0
    missing = np.arange(40) % 5
    looks, says = rng.random((40, 9, 5)), np.log(rng.dirichlet(np.ones(5), (40, 9)))

    def picked(looks, says, missing):
        known = np.arange(40) % 5
        chosen, region = choose(looks, says, says.argmax(2), missing=missing, unrepeated=known, train=train)
        return dict(zip(RULES, chosen.T, strict=True)), region

    first, region = picked(looks, says, missing)
    others, same = picked(looks, says, np.where(train, missing, (missing + 1) % 5))  # other right answers
    told = {rule for rule in RULES if (first[rule] != others[rule]).any()}
    assert told == {rule for rule, knows in zip(RULES, KNOWS, strict=True) if knows in ("answer", "outcome")}
    looks[~train], says[~train] = rng.random((20, 9, 5)), np.log(rng.dirichlet(np.ones(5), (20, 9)))
    again, regions_again = picked(looks, says, missing)  # other held-out prompts
    assert (region == same).all() and (region == regions_again).all()
    for rule in RULES:
        assert (first[rule] == again[rule])[train].all()
    for rule in ("oracle region", "oracle point", "single point"):
        assert (first[rule] == again[rule]).all()


# ---------------------------------------------------------------- a pointer that knows nothing of the task


def test_only_who_knows_the_answer_gains_from_a_pointer_that_is_set_by_hand():
    found = on_planted(False)
    assert set(found.data["axis"].values) == {"0.1.2", "0.1.5"} and found.data.attrs["found"] == ["components"]
    lists = draw_lists(planted(False)[1], 7, n=14, lexicon=planted(False)[2])
    words = planted(False)[0].answers["told"]
    told = [words[one.meta["items"][0]] for one in lists.prompts]
    assert found.data["answered"].sel(length=7).values[:14].tolist() == told  # what the first word says
    table = found.steering().transpose("arm", "rule", "length").sel(arm="channel")
    for rule in ("oracle region", "oracle point", "hindsight", "second list"):
        assert (table["mean"].sel(rule=rule) == 1).all() and (table["gain_lo"].sel(rule=rule) > 0.3).all()
        assert (table["over_lo"].sel(rule=rule) > 0).all()
    for rule in ("single point", "own attention", "own answer", "self-consistent"):
        assert table["gain_lo"].sel(rule=rule, length=7) <= 0 and table["mean"].sel(rule=rule, length=7) < 0.35
    assert found.reachable().values.tolist() == [7] and (found.reachable("same_head") <= 1).all()
    control = found.steering()["gain"].sel(arm="same_head")
    assert (control.sel(rule="oracle region") == 0).all() and (control.sel(rule="hindsight") < 0.2).all()
    owners = found.owners(7)
    assert set(owners.values.ravel()) == {-1, *range(7)} and owners.sel(axis_0=0.0, axis_1=0.0) == -1
    for place, point in enumerate(found.data["region"].sel(arm="channel", length=7).values):
        a, b = found.data["alpha"].values[point]
        assert owners.sel(axis_0=a, axis_1=b) == place
    assert (found.owners(7, "same_head") == -1).all()


def test_a_pointer_without_size_points_nowhere_and_larger_ones_point_alike():
    table = on_planted(False).editing()
    assert (table["mean"].sel(gamma=0.0) <= 0.05).all() and (table["gain"].sel(gamma=3.0) == 0).all()


def test_a_closed_channel_gains_nothing_whatever_is_known():
    found = on_planted(True)
    table = found.steering().sel(arm="channel")
    assert (found.reachable() == 0).all() and (
        table["gain"].drop_sel(rule=["hindsight", "oracle point", "single point"]) == 0
    ).all()
    assert (table["mean"].sel(rule="hindsight") < 0.2).all()
    assert (found.data["attention"].max("item") - found.data["attention"].min("item") < 1e-6).all()
    with pytest.raises(BadInput, match="reads 0 components that can be told apart; 2 were asked for"):
        LaundryList(lengths=(3,), prompts=6, reader="1.4", orders=0)(*planted(True)[1:])


# ---------------------------------------------------------------- atlas


@pytest.mark.parametrize("mode", ["replace", "coordinate"])
def test_a_steered_point_is_what_plain_hooks_make_of_it(mode):
    lm, words = atlas()
    found = LaundryList(
        **SMALL
        | {
            "lengths": (4,),
            "prompts": 8,
            "reader": "3.3",
            "components": ("2.1.1", "1.2.0"),
            "mode": mode,
            "controls": (),
            "orders": 0,
            "gammas": (),
        }
    )(lm, words)
    data, lists = found.data, draw_lists(lm, 4, n=8, lexicon=words)
    module, point, row = lm.module, 3, 5
    changes = []
    for axis, alpha, size in zip(data["axis"].values, data["alpha"].values[point], data["size"].values, strict=True):
        one = single(lm, str(axis), Setting())
        layer, head = one.component.layer, one.component.head
        weight = module.state_dict()[f"transformer.h.{layer}.attn.c_proj.weight"].double().reshape(4, 32, 128)[head]
        weight = weight - weight.mean(1, keepdim=True)
        back, wanted = torch.linalg.pinv(weight), float(alpha * size)

        def change(z, head=head, weight=weight, back=back, v=one.write, wanted=wanted):
            new, own = z.clone(), z[:, -1, head].double()
            moved = torch.zeros_like(own) if mode == "replace" else own - (own @ weight @ v)[:, None] * (v @ back)
            new[:, -1, head] = (moved + wanted * (v @ back)).float()
            return new

        changes.append(("z", layer, change))
    ids = torch.tensor([lists.tokens[row].ids])
    logp = oracle.edited(module, changes, ids)[0, -1].double().log_softmax(-1)
    assert torch.allclose(
        logp[lists.candidates[row]], torch.tensor(data["steered_logprob"].values[0, 0, row, point]).double(), atol=2e-4
    )
    assert int(data["steered_answered"][0, 0, row, point]) == (
        lists.candidates[row].tolist().index(int(logp.argmax()))
        if int(logp.argmax()) in lists.candidates[row].tolist()
        else -1
    )
    with oracle.at(module, *changes[0]), oracle.at(module, *changes[1]):
        pattern = oracle.capture(module, "pattern", 3, ids)[0, 3, -1]
    columns = [lists.tokens[row].spans[f"item_{place}"][0] for place in range(4)]
    assert np.allclose(pattern[columns], data["steered_attention"].values[0, 0, row, point], atol=1e-5)
    plain = oracle.logits(module, ids)[0, -1].double().log_softmax(-1)
    assert np.allclose(plain[lists.candidates[row]], data["logprob"].values[0, row], atol=1e-4)


def test_atlas_lists_and_its_reader_is_the_head_that_looks_most_at_what_is_missing():
    lm, _ = atlas()
    found = on_atlas()
    assert found.accuracy()["mean"].values[0] == 1.0 and found.accuracy("listed")["mean"].values[1] > 0.6
    assert (found.accuracy()["ci_hi"] >= found.accuracy()["mean"]).all() and found.chance.values[0] == pytest.approx(
        1 / 3
    )
    assert found.by_place()["n"].sel(length=7).values.tolist() == [2] * 7 and np.isnan(
        found.by_place()["mean"].sel(length=3, item=5)
    )
    total = np.zeros((4, 4))
    for items in (3, 7):
        lists = drawn(items)
        rows = np.flatnonzero(LaundryList().train(lists))
        each = []
        for width in {len(lists.tokens[row].ids) for row in rows}:
            mine = [row for row in rows if len(lists.tokens[row].ids) == width]
            ids = torch.tensor([lists.tokens[row].ids for row in mine])
            seen = torch.stack([oracle.capture(lm.module, "pattern", layer, ids)[:, :, -1] for layer in range(4)])
            for number, row in enumerate(mine):
                columns = [lists.tokens[row].spans[f"item_{place}"][0] for place in range(items)]
                looks = seen[:, number, :, columns].numpy()
                right = looks[..., lists.missing[row]]
                each.append(right - (looks.sum(-1) - right) / (items - 1))
        total += np.mean(each, axis=0) / 2
    assert np.allclose(total, found.data["pointing"].mean("length"), atol=1e-5)
    layer, head = np.unravel_index(total[1:].argmax(), (3, 4))
    assert found.data.attrs["reader"] == f"{layer + 1}.{head}"
    assert (found.data["train"].sum("prompt") == [8, 7]).all()


def test_the_weight_edit_is_the_edit_of_the_run_and_one_changes_nothing():
    lm, _ = atlas()
    found = on_atlas()
    lists = drawn(3)
    group = lists.groups()[0]
    names = [str(name) for name in found.data["axis"].values]
    logits = lm.run(group.batch, edits=[component_edit(lm, names)]).last_logits
    logp = logits.double().log_softmax(-1).gather(1, lists.candidates[list(group.places)])
    assert np.allclose(found.data["edited_logprob"].values[0, 0, list(group.places), :3], logp, atol=2e-3)
    same = found.data["edited_logprob"].sel(gamma=1.0) - found.data["logprob"]
    assert float(np.nanmax(np.abs(same))) < 1e-3 and (found.editing()["gain"].sel(gamma=1.0) == 0).all()


def test_results_are_saved_and_said(tmp_path):
    found = on_atlas()
    again = interp.open(found.save(tmp_path / "laundry"))
    assert isinstance(again, LaundryResult) and again.data.identical(found.data)
    assert again.report_lines() == found.report_lines() and len(found.headline()) == 3
    lines = found.report_lines()
    assert len(lines) == 7 and "oracle region" in lines[1] and "own answer: model" in lines[-2]
    assert found.thumbnail().dims == ("length", "item") and len(found.to_frame()) == 14 * 10
    assert (
        interp.LaundryList is LaundryList
        and interp.LaundryResult is LaundryResult
        and found.looking()["mean"].shape == (2,)
    )
    cost = LaundryList(**SMALL).cost(*atlas())
    assert 100 < cost.forwards < 1000 and "8 grid points" in cost.note


# ---------------------------------------------------------------- bias and order, with known answers


def made(**columns: np.ndarray) -> LaundryResult:
    found = on_atlas().data.copy(deep=True)
    for name, values in columns.items():
        found[name] = (found[name].dims, values)
    return LaundryResult(found)


def test_a_model_that_always_says_the_last_thing_is_found_out():
    logprob = np.full((2, 14, 7), np.nan)
    logprob[0, :, :3], logprob[1] = -5.0, -5.0
    logprob[0, :, 2] = logprob[1, :, 6] = -1.0
    answered = np.tile([[2], [6]], (1, 14))
    table = made(logprob=logprob, answered=answered).bias().set_index("length")
    assert (
        (table["last"] == 1).all()
        and table["last_chance"].tolist() == pytest.approx([1 / 2, 1 / 6])
        and (table["first"] == 0).all()
    )
    assert 0 < table["recent"][7] < 0.5
    by_place = made(logprob=logprob, answered=answered).by_place("listed")["mean"]
    assert by_place.sel(length=7).values.tolist() == [0.0] * 6 + [1.0]


def test_variance_by_order_is_split_between_place_and_the_rest():
    places = on_atlas().data["order_missing"].values
    by_place = np.log(0.1 + 0.1 * np.maximum(places, 0))
    by_place[places < 0] = np.nan
    table = made(order_logprob=by_place).order().set_index("length")
    assert table["share"].tolist() == pytest.approx([1.0, 1.0]) and table["adjusted"].tolist() == pytest.approx(
        [1.0, 1.0]
    )
    assert table["expected"].tolist() == pytest.approx([2 / 5, 6 / 13]) and table["orders"].tolist() == [6, 14]
    rng = np.random.default_rng(0)
    noise = np.where(places < 0, np.nan, rng.normal(size=(4, *places.shape)))
    mean = np.mean([made(order_logprob=one).order("logprob")["adjusted"] for one in noise], axis=0)
    assert np.abs(mean).max() < 0.4
    flat = np.where(places < 0, np.nan, -1.0)
    assert np.isnan(made(order_logprob=flat).order()["share"]).all()


def test_orders_share_everything_else_and_are_measured():
    lm, _ = atlas()
    found, lists = on_atlas(), LaundryList(**SMALL | {"lengths": (3,)}).reordered(*atlas())
    assert (
        lists[3].prompts[0].meta["second"] == lists[3].prompts[5].meta["second"] != lists[3].prompts[6].meta["second"]
    )
    for row in (0, 7, 11):
        ids = torch.tensor([lists[3].tokens[row].ids])
        logp = oracle.logits(lm.module, ids)[0, -1].double().log_softmax(-1)[lists[3].tokens[row].answer_id]
        assert float(found.data["order_logprob"][0, row // 6, row % 6]) == pytest.approx(float(logp), abs=1e-4)
    assert np.isnan(found.data["order_logprob"][0, :, 6:]).all()


# ---------------------------------------------------------------- other models, refusals, command line


@pytest.mark.parametrize(("name", "pieces"), [("tinytalk-chat", 1), ("stories260K-llama", 9)])
def test_any_tokenizer_can_be_asked_without_steering(real_models, name, pieces):
    lm = loaded(str(real_models / name))
    found = LaundryList(lengths=(2, 3), prompts=6, axes=0, orders=6, sets=2, pieces=pieces)(lm)
    assert set(found.right().values.ravel()) <= {0.0, 1.0} and "chosen" not in found.data
    assert np.isfinite(found.data["attention"].sel(length=3).values[:, :3]).all() and len(found.report_lines()) == 3
    assert (found.right("listed") >= found.right()).all() and found.order()["length"].tolist() == [3]
    for method in (found.steering, found.reachable, found.editing):
        with pytest.raises(BadInput, match=r"nothing was steered|no weights were edited"):
            method()


def test_rotary_models_are_steered_at_the_distance_of_the_list(real_models):
    lm = loaded(str(real_models / "stories260K-llama"))
    found = LaundryList(lengths=(3,), prompts=6, points=2, axes=1, orders=0, gammas=(0.5,), pieces=9, controls=())(lm)
    assert found.data.attrs["offset"] > 5 and found.data.sizes["point"] == 3 and found.data.sizes["arm"] == 1
    assert np.isfinite(found.data["steered_logprob"]).all() and "over" not in found.steering()


def test_bad_input_is_refused():
    lm, words = atlas()
    for options, message in (
        ({"lengths": (1, 3)}, "2 or more; not"),
        ({"prompts": 12}, "prompts=16 or more"),
        ({"orders": -1}, "`orders` must be at least 0"),
        ({"axes": 4}, "at most 3"),
        ({"mode": "add"}, "`mode` must be one of"),
        ({"controls": ("random",)}, "`controls` must be one of"),
        ({"reach": 0.0}, "`reach` must be positive"),
        ({"components": ("2.1",)}, "does not name a component"),
        ({"lengths": (3, 3)}, "each of its entries once"),
    ):
        with pytest.raises(BadInput, match=message):
            LaundryList(**options)
    for options, data, message in (
        ({"lengths": (3, 21), "axes": 0}, words, "at most 20 items"),
        ({"lengths": (20,), "axes": 0}, words, "does not fit: .*the model's context is 128.*shorter `lengths`"),
        ({"components": ("2.1.1",), "reader": "2.0"}, words, "'2.1.1' does not come before the reader '2.0'"),
        ({"reader": "0.1"}, words, "no component comes before the reader '0.1'"),
        ({"reader": "9.9"}, words, "'9.9' is not in atlas"),
        ({}, [1], "takes a Lexicon of words, or nothing; not a list"),
    ):
        with pytest.raises(BadInput, match=message):
            LaundryList(**options)(lm, data)
    with pytest.raises(BadInput, match=r"7 of the 44 objects .* a reference checkpoint are interp.reference.lexicon"):
        LaundryList(lengths=(9,))(planted(False)[1])
    with pytest.raises(BadInput, match="no orders were tried"):
        LaundryResult(on_atlas().data.drop_vars(["order_logprob", "order_missing"])).order()
    with pytest.raises(BadInput, match="scoring"):
        on_atlas().right("first")
    assert isinstance(on_atlas().data, xr.Dataset) and isinstance(words, Lexicon)


def test_the_verb_brings_the_words_of_the_reference_world(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    outcome = command(
        capsys,
        "laundry",
        "atlas",
        "--lengths",
        "2,3",
        "--prompts",
        3,
        "--axes",
        0,
        "--orders",
        6,
        "--sets",
        1,
        "-o",
        "out",
    )
    assert outcome.code == 0, outcome.err
    assert "items  chance" in outcome.out and interp.open("out").lengths == [2, 3]
