"""Steering: planted regions are found and nothing else is, every point is what plain hooks give, and every refusal."""

import numpy as np
import pytest
import torch

import interp
import tests.oracle as oracle
from interp.analyses.channels.attention import prompt_groups
from interp.analyses.channels.component import Component, Head
from interp.analyses.channels.factors import Setting, ov
from interp.analyses.channels.steering.along import Spaces, set_coordinates
from interp.analyses.channels.steering.arms import Missing, control
from interp.analyses.channels.steering.steer import ChannelSteering
from interp.core.artifact import open_result
from interp.core.errors import BadInput, SpanError
from interp.core.site import Site
from interp.models import reference
from tests.analyses.channels.wired_steering import component, coordinate, factors, last, steered

RAW = {"unit": "raw", "folded": False, "sign": "svd"}


@pytest.fixture(scope="module")
def task(atlas):
    return reference.task("atlas", "ioi", 12)


@pytest.fixture(scope="module")
def pointer():
    made = reference.pointer()
    return made, reference.as_lm(made), reference.pointer_pairs(7)


def along_pointer(pointer, *components, **options):
    _, lm, pairs = pointer
    return ChannelSteering(components=components, readers=("1.4",), **{"reach": (2,), "steps": (5,), **options})(
        lm, pairs
    )


# -- planted -----------------------------------------------------------------------------------------------------------


def test_one_component_reaches_two_items_and_two_reach_all(pointer):
    made, _, _ = pointer
    names = {f"item_{item}" for item in range(7)}
    for index, which in zip(made.answers["components"], "AB", strict=True):
        found = along_pointer(pointer, f"0.1.{index}", steps=(3,))
        want = {f"item_{item}" for item in made.answers["reachable"][which]}
        assert found.reachable() == want and set(found.regions().values.tolist()) - {-1} == {
            int(name[-1]) for name in want
        }
        for arm in ("same_head", "random_head"):
            assert found.reachable(arm) == set(), arm
    both = along_pointer(pointer, "0.1.2", "0.1.5", reach=(3,), steps=(5,), controls=("same_head",))
    assert both.reachable() == names and both.regions().dims == ("axis_0", "axis_1")
    assert both.reachable("same_head") == set()
    line = along_pointer(pointer, "0.1.2", "0.1.5", diagonal=True, controls=())
    assert len(line.reachable()) == 2 and line.regions().dims == ("axis_0",), "any line through 0 reaches two"


def test_regions_are_those_of_the_planted_geometry(pointer):
    """At each point of the plane the nearest key's angle wins, wherever no two keys are about as near."""
    made, _, _ = pointer
    alphas = (-1.5, -0.7, 0.4, 1.2)
    found = along_pointer(pointer, "0.1.2", "0.1.5", alphas=alphas, unit="raw", sign="svd", controls=())
    angles = torch.tensor(made.answers["angles"])
    keys = torch.stack([angles.cos(), angles.sin()], dim=1)  # [item, 2]
    lm = pointer[1]
    space = Spaces(lm, Setting())
    turn = [
        float((space.named(f"0.1.{index}").write @ write.double()).sign())
        for index, write in zip(made.answers["components"], made.answers["write"], strict=True)
    ]
    region = found.regions(margin=0.05)
    checked = 0
    for row, x in enumerate(alphas):
        for column, y in enumerate(alphas):
            scores = keys @ torch.tensor([x * turn[0], y * turn[1]])
            first, second = scores.sort(descending=True).values[:2].tolist()
            if first - second > 0.1:
                assert int(region[row, column]) == int(scores.argmax()), (x, y)
                checked += 1
    assert checked >= 10
    assert float(found.values("accuracy").mean()) < 0.6, "the model now says what it is pointed at, right or wrong"


def test_steering_decides_the_answer_where_it_decides_the_attention(pointer):
    found = along_pointer(pointer, "0.1.2", "0.1.5", reach=(3,), steps=(5,), controls=())
    region = found.regions().values.ravel()
    choice = found.data["choice"].sel(arm="channel").values  # [point, prompt]
    for place in np.flatnonzero(region >= 0):
        looked = found.data["attention"].sel(arm="channel").values[place, 0].mean(axis=1)
        if looked.max() > 0.9:
            assert (choice[place] == region[place]).all()
    base = found.base("accuracy")
    assert float(base.mean()) == 1.0 and float(found.base("top1").mean()) == 1.0


def test_a_pointer_to_places_moves_the_two_orders_apart(pointer):
    """0.1.2 points at the first or the last item, whoever is named there: more for the one is less for the other."""
    _, lm, pairs = pointer
    prompts = []
    for number, pair in enumerate(pairs):
        first, last_one = (pair.clean.spans[f"item_{place}"] for place in (0, 6))
        spans = {"IO": first, "S1": last_one} if number % 2 else {"IO": last_one, "S1": first}
        meta = {"order": ("BAB", "ABB")[number % 2]}
        prompts.append(interp.Prompt(pair.clean.text, pair.clean.answer, pair.clean.foil, spans, meta=meta))
    options = {"readers": ("1.4",), "reach": (3,), "steps": (5,), "unit": "raw"}
    found = ChannelSteering(components=("0.1.2",), **options)(lm, prompts)
    slopes = found.slopes()["mean"]
    assert found.opposed() and slopes.sel(arm="channel").prod() < 0 and found.data.attrs["sign_rule"] == "order=BAB"
    for arm in ("same_head", "random_head"):
        assert not found.opposed(arm=arm) and np.abs(slopes.sel(arm=arm)).max() < 1e-5
    one = found.curve().sel(split="ABB")["mean"].values
    assert np.allclose(one, -found.curve().sel(split="BAB")["mean"].values, atol=1e-4) and abs(one[0]) > 0.9
    assert not ChannelSteering(components=("0.1.5",), controls=(), **options)(lm, prompts).opposed()


def test_nothing_is_reached_in_random_weights():
    lm = reference.as_lm(reference.pointer(null=True))
    found = ChannelSteering(components=("0.1.2",), readers=("1.4",), reach=(3,), steps=(3,), draws=3)(
        lm, reference.pointer_pairs(7)
    )
    span = {arm: float(np.ptp(found.values().sel(arm=arm).mean("prompt").values)) for arm in found.arms}
    channel = span.pop("channel")
    assert channel < 2 * max(span.values()), "the channel does no more than its controls"
    assert not found.opposed()


# -- against plain hooks -----------------------------------------------------------------------------------------------


def groups_of(lm, task):
    return prompt_groups(lm, task)


@pytest.mark.parametrize("mode", ["replace", "coordinate", "add"])
def test_points_are_what_plain_hooks_give(atlas, task, mode):
    """Two components of one head and one of a later layer; the second has already heard what the first was made to say."""
    names, alphas, reader = ("0.1.0", "0.1.3", "2.2.1"), (-1.5, 2.0), (3, 1)
    found = ChannelSteering(components=names, readers=("3.0", "3.1"), mode=mode, alphas=alphas, controls=(), **RAW)(
        atlas, task[:4]
    )
    module = atlas.module
    vs = [component(module, *map(int, name.split("."))) for name in names]
    for group in groups_of(atlas, task[:4])[:1]:
        ids, rows = group.batch.tokens, list(group.index)
        for point in (1, 6):
            alpha = found.data["alpha"].values[point]
            moves = [(v, float(one)) for v, one in zip(vs, alpha, strict=True)]
            if mode == "add":
                total = sum(one * v for v, one in moves).float()

                def push(x, total=total, ids=ids):
                    return torch.where(last(ids)[..., None], x + total, x)

                with oracle.at(module, "resid_pre", 3, push), oracle.eager(module), torch.no_grad():
                    out = module(ids, output_attentions=True, use_cache=False)
                logits, look = out.logits[:, -1], out.attentions[3][:, 1, -1]
            else:
                writers = [(0, 1, moves[:2]), (2, 2, moves[2:])]
                logits, look = steered(module, ids, writers, last(ids), reader, whole=mode == "replace")
            want = logits.gather(1, group.answer[:, None]) - logits.gather(1, group.foil[:, None])
            ours = found.values("logit_diff").sel(arm="channel").values[point][rows]
            assert np.abs(ours - want[:, 0].numpy()).max() < 2e-3
            for span in ("IO", "S1"):
                column = group.batch.spans[span][:, 0]
                there = found.values(span, reader="3.1").sel(arm="channel").values[point][rows]
                assert np.abs(there - look.gather(1, column[:, None])[:, 0].numpy()).max() < 1e-4


def test_units_and_signs_are_those_of_the_head_itself(atlas, task):
    found = ChannelSteering(components=("0.1.0", "2.2.1"), readers=("3.1",), steps=(1,), folded=False)(atlas, task)
    assert found.data.attrs["sign_rule"] == "order=BAB" and found.data.attrs["split_by"] == "order"
    for column, name in enumerate(("0.1.0", "2.2.1")):
        layer, head, index = map(int, name.split("."))
        v = component(atlas.module, layer, head, index)
        mine = np.full(len(task), np.nan)
        for group in groups_of(atlas, task):
            mine[list(group.index)] = (
                coordinate(atlas.module, layer, head, v, group.batch.tokens)[:, -1].detach().numpy()
            )
        turn = np.sign(mine[found.data["split"].values == "BAB"].mean())
        assert np.allclose(found.data["coordinate"].values[0, column], turn * mine, atol=1e-5)
        assert np.isclose(found.data["scale"].values[0, column], mine.std(), rtol=1e-4)
        assert found.data["sign"].values[0, column] == turn and found.data["sign_mean"].values[0, column] > 0
    kept = ChannelSteering(components=("0.1.0",), readers=("3.1",), steps=(1,), sign="svd", controls=())(atlas, task)
    assert kept.data["sign"].values.tolist() == [[1.0]] and kept.data.attrs["sign_rule"] == "svd"


def test_a_head_set_to_its_own_coordinate_changes_nothing(atlas, task):
    space = Spaces(atlas, Setting())
    axis = space.named("1.2.3")
    group = groups_of(atlas, task)[0]
    base = atlas.record(group.batch, capture=[Site("z", 1)])
    own = axis.coordinate(base.run[Site("z", 1)][:, -1:, 2])  # [row, 1]
    cells = set_coordinates(atlas, base, [[(axis, own)], [(axis, own + 1)]], last(group.batch.tokens))
    found = atlas.resume(base, cells)[:, :, 0]
    assert torch.equal(found[0], base.run.last_logits) and not torch.equal(found[1], found[0])
    one = ChannelSteering(
        components=("1.2.3",),
        readers=("3.1",),
        mode="coordinate",
        alphas=(float(own[0, 0]),),
        controls=(),
        **{**RAW, "folded": True},
    )(atlas, [task[group.index[0]]])
    assert abs(float(one.values("logit_diff").squeeze()) - float(one.base("logit_diff").squeeze())) < 1e-4


@pytest.mark.parametrize("position", ["S2"])
def test_other_positions_too(atlas, task, position):
    found = ChannelSteering(
        components=("1.2.0",), readers=("3.1",), mode="coordinate", position=position, alphas=(3.0,), controls=(), **RAW
    )(atlas, task[:4])
    v = component(atlas.module, 1, 2, 0)
    for group in groups_of(atlas, task[:4]):
        ids, place = group.batch.tokens, group.batch.spans[position][:, 0]
        where = torch.zeros_like(ids, dtype=torch.bool)
        where[torch.arange(len(ids)), place] = True
        _, look = steered(atlas.module, ids, [(1, 2, [(v, 3.0)])], where, (3, 1))
        ours = found.values("IO").values[0, 0, list(group.index)]
        assert np.abs(ours - look.gather(1, group.batch.spans["IO"][:, :1])[:, 0].numpy()).max() < 1e-4


@pytest.mark.parametrize("name", ["stories260K-llama", "tinytalk-chat"])
def test_real_checkpoints(real_models, name):
    lm = interp.load(str(real_models / name), check=False)
    prompts = [
        interp.Prompt.of(f"The {a} and the {b} were in the big house and the", one=f"The {a}", two=f"the {b}")
        for a, b in (("dog", "cat"), ("cat", "dog"), ("boy", "girl"))
    ]
    reader = (lm.spec.n_layers - 1, lm.spec.n_heads - 1)
    writer = (lm.spec.n_layers - 2, 1)
    found = ChannelSteering(
        components=(f"{writer[0]}.1.0",),
        readers=(f"{reader[0]}.{reader[1]}",),
        spans=("one", "two"),
        alphas=(-2.0, 0.5),
        **RAW,
    )(lm, prompts)
    assert len(found.arms) == 4 and not found.data.attrs["absent"]
    v = component(lm.module, *writer, 0)
    for group in prompt_groups(lm, prompts):
        ids = group.batch.tokens
        _, look = steered(lm.module, ids, [(*writer, [(v, -2.0)])], last(ids), reader, whole=True)
        for row, place in enumerate(group.index):
            start, end = group.batch.spans["one"][row].tolist()
            ours = float(found.values("one").sel(arm="channel").values[0, place])
            assert abs(ours - float(look[row, start:end].sum())) < 1e-4


# -- the grid, the arms, the result ------------------------------------------------------------------------------------


def test_the_order_of_the_grid_and_batches_do_not_matter(atlas, task):
    options = {"components": ("0.1.0", "1.2.1"), "readers": ("2.0",), "controls": ("same_head",)}
    one = ChannelSteering(alphas=(-2.0, 1.0), **options)(atlas, task[:2])
    other = ChannelSteering(alphas=(1.0, -2.0), max_rows=1, **options)(atlas, task[:2])
    for outcome in ("score", "logit_diff", "accuracy"):
        first, second = (found.grid(found.values(outcome, reader="2.0")) for found in (one, other))
        again = second.sel(axis_0=first["axis_0"].values, axis_1=first["axis_1"].values)
        assert np.allclose(first.values, again.values, atol=1e-3), outcome
    for axis, hold in ((0, 1.0), (1, 1.0), (0, -0.5)):  # -0.5 lies between the two
        mine, again = (found.curve(axis=axis, hold=hold) for found in (one, other))
        assert mine["alpha"].values.tolist() == [-2.0, 1.0] == again["alpha"].values.tolist()
        assert np.allclose(mine["mean"].values, again["mean"].values, atol=1e-4)


def test_the_controls_are_what_they_say(atlas):
    space = Spaces(atlas, Setting())
    chosen = [Component.parse(name) for name in ("1.2.0", "1.2.4", "0.3.1")]
    other = control(space, chosen, "same_head", draw=0, seed=0)
    assert [axis.head for axis in other] == [Head(1, 2), Head(1, 2), Head(0, 3)]
    assert not {axis.name for axis in other} & {str(one) for one in chosen}
    names = [tuple(axis.name for axis in control(space, chosen, "same_head", draw=draw, seed=0)) for draw in range(5)]
    assert len(set(names)) == 5
    spread = control(space, chosen, "random_direction", draw=1, seed=0)
    gram = torch.stack([axis.write for axis in spread[:2]])
    assert torch.allclose(gram @ gram.T, torch.eye(2).double(), atol=1e-9)
    for axis in (*other, *spread):
        out = ov(atlas, axis.head.layer).right[axis.head.head]
        assert torch.allclose(axis.put @ out, axis.write, atol=1e-6) and abs(float(axis.put @ axis.take) - 1) < 1e-6
        inside = space.writes(axis.head)
        assert torch.allclose(inside.T @ (inside @ axis.write), axis.write, atol=1e-8), "in the head's write space"
    strangers = control(space, chosen, "random_head", draw=0, seed=0)
    assert [axis.head.layer for axis in strangers] == [1, 1, 0] and strangers[0].head == strangers[1].head != Head(1, 2)
    with pytest.raises(Missing, match="3 other heads"):
        control(space, chosen[:1], "random_head", draw=3, seed=0)


def test_slopes_are_those_of_the_curves(atlas, task):
    found = ChannelSteering(
        readers=("1.3",), components=("0.1.0",), mode="coordinate", reach=(8,), steps=(5,), controls=()
    )(atlas, task[:6])
    slopes, curve = found.slopes(), found.curve()
    for kind in ("ABB", "BAB"):
        line = np.polyfit(curve["alpha"].values, curve["mean"].sel(split=kind).values, 1)
        assert np.isclose(line[0], float(slopes["mean"].sel(arm="channel", split=kind)), atol=1e-6)
        assert int(curve["n"].sel(split=kind)) == 3


def test_it_survives_the_disk_and_has_its_numbers(atlas, task, tmp_path):
    found = interp.ChannelSteering(steps=(3,), mode="add")(atlas, task[:4])
    assert found.data.attrs["chosen"] == ["components", "readers"] and found.data.attrs["layer"] >= 1
    again = open_result(found.save(tmp_path / "s"))
    assert again.data.identical(found.data) and again.headline() == found.headline() and len(found.headline()) == 3
    assert again.thumbnail() is not None and len(again.report_lines()) == 1 + len(found.arms)
    assert again.to_frame()["attention"].between(0, 1).all()
    assert ChannelSteering(steps=(3,)).cost(atlas, task).forwards > 0


def test_items_and_candidates_of_lists(atlas):
    lists = reference.task("atlas", "laundry_list", 4)
    found = ChannelSteering(components=("1.2.0",), readers=("3.1",), steps=(3,), controls=())(atlas, lists)
    assert (
        found.data["span"].values.tolist() == [f"item_{place}" for place in range(4)]
        and found.data.attrs["split_by"] == ""
    )
    assert found.data["correct"].values.tolist() == [pair.clean.meta["missing"] for pair in lists]
    assert set(np.unique(found.data["choice"].values)) <= set(range(4))


# -- refusals ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"components": ("1.2",)}, "does not name a component"),
        ({"components": 5}, "must be names"),
        ({"components": ("1.2.0",) * 2}, "each of its entries once"),
        ({"components": ("0.0.0", "0.0.1", "0.0.2", "0.0.3")}, "at most 3"),
        ({"components": ("1.2.99",)}, "components 0 to 31"),
        ({"components": ("3.0.0",), "readers": ("3.1",)}, "does not come after"),
        ({"readers": ("9.0",)}, "layers 0 to 3"),
        ({"readers": ("1.1",), "components": ("0.0.0",), "mode": "add", "layer": 2}, "comes before `layer=2`"),
        ({"layer": 1}, "Leave it out"),
        ({"mode": "push"}, "'replace', 'coordinate' or 'add'"),
        ({"components": ("0.0.0",), "steps": (3, 3)}, "2 entries for 1 axes"),
        ({"alphas": (1.0, 1.0)}, "each there once"),
        ({"reach": (0.0,)}, "must be positive"),
        ({"sign": "BAB"}, "order=BAB"),
        ({"sign": "order=CAB"}, "'ABB' or 'BAB'"),
        ({"split": "colour"}, "'colour'"),
        ({"to": "IO", "minus": "IO"}, "both 'IO'"),
        ({"spans": ("IO", "nowhere")}, "nowhere"),
        ({"position": "nowhere"}, "nowhere"),
        ({"controls": ("same",)}, "'same_head', 'random_direction' or 'random_head'"),
        (
            {"components": ("0.1.0",), "readers": ("3.1",), "controls": ("random_head",), "draws": 9},
            "no control 'random_head 3'",
        ),
    ],
)
def test_refusals(atlas, task, options, said):
    with pytest.raises((BadInput, SpanError), match=said):
        ChannelSteering(**options)(atlas, task[:4])


@pytest.mark.parametrize("options", [{"position": "nowhere"}, {"measured_at": "nowhere"}, {"spans": ("IO", "nowhere")}])
def test_places_are_checked_before_anything_is_run(atlas, task, options):
    with pytest.raises(SpanError, match="nowhere"):
        ChannelSteering(components=("0.1.0",), readers=("3.1",), **options).check(atlas, task[:2])


def test_the_reader_that_is_chosen_can_hear_also_with_long_answers(atlas, task):
    """The head with the largest readout of all is in layer 1."""
    prompts = [interp.Prompt(pair.clean.text, " a very long answer", None, pair.clean.spans) for pair in task[:2]]
    for options, first in (({"components": ("1.0.0",)}, 2), ({"components": ("0.0.0",), "mode": "add", "layer": 3}, 3)):
        found = ChannelSteering(answers="first", alphas=(1.0,), controls=(), unit="raw", **options)(atlas, prompts)
        assert int(found.data["reader"].values[0][0]) >= first
    with pytest.raises(BadInput, match="no head of atlas behind layer 3"):
        ChannelSteering(components=("3.0.0",))(atlas, task[:2])


def test_prompts_without_spans_or_spread_are_refused(atlas, task):
    with pytest.raises(SpanError, match="Name them"):
        ChannelSteering()(atlas, [interp.Prompt.of("One two three", one="One", two="two")])
    with pytest.raises(BadInput, match="no unit"):
        ChannelSteering(components=("0.1.0",), readers=("3.1",))(atlas, [task[0]])


def test_the_spread_of_rounding_is_no_unit(atlas, task):
    """A head that says the same always, and nothing of it along the component: what is measured there is float32's."""
    take = Spaces(atlas, Setting(folded=False)).named("0.1.0").take
    bias = atlas.weights.b_V(0).clone()
    bias[1] = (torch.ones_like(take) - take * take.sum() / take.square().sum()).float()
    silent = atlas.edit_weights({"W_V.0.1": 1e-9 * atlas.weights.W_V(0)[1], "b_V.0": bias})
    with silent, pytest.raises(BadInput, match="no unit"):
        ChannelSteering(components=("0.1.0",), readers=("3.1",), folded=False, controls=())(atlas, task[:4])


def test_what_a_head_cannot_write_is_refused(atlas):
    space = Spaces(atlas, Setting())
    outside = torch.linalg.svd(factors(atlas.module, 0, 1)[1])[2][-1]
    with pytest.raises(BadInput, match="to rounding only"):
        space.axis("elsewhere", Head(0, 1), outside)
