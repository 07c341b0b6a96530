"""Circuits: the planted tracker is found and judged as it must be, the null is not; floors, guards, refusals; and what ablation does."""

import json

import numpy as np
import pytest
import torch

import interp
import tests.oracle as oracle
from interp.analyses.circuits import PLANS, Circuit, CircuitDiscovery, CircuitEvaluation, CircuitResult, DiscoveryResult
from interp.analyses.circuits.bench import MEASURES, Bench, measure, sites_of
from interp.analyses.circuits.means import FEWEST, Means
from interp.analyses.circuits.measures import correct, pairs_of, random_circuits, removal, worth_of
from interp.analyses.pairs import pair_groups
from interp.analyses.paths import PathPatching
from interp.analyses.paths.places import where
from interp.core.errors import BadInput
from interp.core.site import Site
from interp.models import reference
from interp.models.reference.planted.tracker import tracker_pairs

PLAN = ("D@last>logits", "C@last>q:D", "B@query_label>v:C", "A@first_label>v:B")
WHOLE = "D@last=3.0,C@last=2.2,B@query_label=1.1,A@first_label=0.0"


@pytest.fixture(scope="module")
def made():
    return reference.tracker()


@pytest.fixture(scope="module")
def lm(made):
    return reference.as_lm(made)


@pytest.fixture(scope="module")
def pairs(made):
    return made.answers["pairs"][:12]


@pytest.fixture(scope="module")
def found(lm, pairs):
    return CircuitDiscovery(plan=PLAN)(lm, pairs)


@pytest.fixture(scope="module")
def judged(lm, pairs):
    return CircuitEvaluation(circuit=WHOLE, draws=4, random=3)(lm, pairs)


# -- the planted tracker -----------------------------------------------------------------------------------------------


def test_every_group_is_found_and_nothing_else(made, found):
    heads = {group.name: group.heads for group in found.circuit.groups}
    assert heads == {name: (head,) for name, head in made.answers["heads"].items()}
    assert {group.name: group.at for group in found.circuit.groups} == made.answers["roles"]
    share = found.mean("prob")["mean"] / 1.0  # clean probabilities are 1
    for step, (layer, head) in made.answers["heads"].items():
        part = share.sel(step=step).copy()
        assert abs(float(part.sel(layer=layer, head=head)) - 1) < 1e-5
        part.loc[{"layer": layer, "head": head}] = 0
        assert float(np.abs(part).max()) < 1e-6
    assert set(found.edges()["target"]) == {"logits", "D q:3.0", "C v:2.2", "B v:1.1"}
    assert np.allclose(found.edges()["effect"], found.headline()["logit_diff, clean - corrupted"], rtol=1e-4)


def test_the_planted_paths_score_minus_one(made, lm, pairs):
    """Known answer of the specification: -1 for the planted sender in its group, 0 for every other head."""
    for sender, receiver, at in (
        ("D", "logits", "last"),
        ("C", "q:3.0", "last"),
        ("B", "v:2.2", "query_label"),
        ("A", "v:1.1", "first_label"),
    ):
        score = PathPatching(receivers=receiver, at=at)(lm, pairs[:4]).relative().isel(receiver=0, role=0)
        layer, head = made.answers["heads"][sender]
        assert np.allclose(score.sel(layer=layer, head=head), -1, atol=1e-5)
        assert float(np.abs(score).sum(("layer", "head")).max()) < 1 + 1e-4


def test_the_whole_circuit_is_faithful_complete_and_minimal(judged):
    for measure_ in ("accuracy", "logit_diff"):
        f = judged.faithfulness(measure_)
        assert abs(f["value"] - 1) < 1e-6 and abs(f["minimal"] - 1) < 1e-6
        assert f["empty"] < 0.35 and f["random"] < 0.35 and abs(f["open"] - 1) < 1e-6
    gaps = judged.completeness()
    assert (gaps["gap"] == 0).all() and set(gaps["kind"]) == {"half", "group"} and len(gaps) == 4 + 4
    assert gaps["floor"].max() > 0.1
    table = judged.minimality()
    assert table["keep"].all() and (table["worth"] > 1).all()
    assert judged.minimal == judged.circuit


def test_a_missing_head_shows(lm, pairs):
    part = CircuitEvaluation(circuit=WHOLE.replace(",A@first_label=0.0", ""), draws=1, random=1)(lm, pairs)
    assert part.faithfulness()["value"] < 0.6  # three things are equally likely


def test_an_idle_head_is_thrown_out(lm, pairs):
    more = CircuitEvaluation(circuit=WHOLE.replace("D@last=3.0", "D@last=3.0+3.1+1.2"), draws=1, random=1)(lm, pairs)
    assert more.minimal == Circuit.parse(WHOLE)
    assert (
        dict(zip(more.minimality()["node"], more.minimality()["keep"], strict=True))["D 3.1"] is np.False_
        or not more.data["keep"].values.all()
    )


def test_a_copy_that_is_left_out_is_incomplete(pairs):
    double = reference.as_lm(reference.tracker(redundant=True))
    judged = CircuitEvaluation(circuit=WHOLE, draws=1, random=1)(double, pairs)
    assert judged.faithfulness()["value"] == 1.0
    gaps = judged.completeness().set_index("draw")["gap"]
    assert gaps["D"] > 0.5 and gaps["A"] == gaps["B"] == gaps["C"] == 0
    both = CircuitEvaluation(circuit=WHOLE.replace("D@last=3.0", "D@last=3.0+3.3"), draws=1, random=1)(double, pairs)
    assert both.completeness()["gap"].max() == 0
    assert (
        both.minimality().set_index("node").loc["D 3.0", "hidden"] == "D 3.3"
    )  # redundant heads are judged with the other gone
    assert both.data["keep"].values.all()


def test_nothing_is_found_where_nothing_is(pairs):
    null = reference.as_lm(reference.tracker(null=True))
    found = CircuitDiscovery(plan=PLAN)(null, pairs)
    assert len(found.circuit) == 0
    assert any("does not do this" in note for note in found.data.attrs["notes"])
    assert list(found.headline()) and not len(found.edges())


def test_a_position_before_the_change_is_said_to_hold_nothing(lm):
    task = tracker_pairs(10, corruption="query")
    found = CircuitDiscovery(plan=PLAN)(lm, task)
    assert [len(group.heads) for group in found.circuit.groups] == [1, 1, 1, 0]  # A says the same in both prompts
    assert any(note.startswith("A: nothing that reaches first_label differs") for note in found.data.attrs["notes"])


def test_discovery_and_evaluation_use_different_pairs(lm, made, tmp_path):
    whole = CircuitEvaluation(plan=PLAN, draws=1, random=1, minimal=False)(lm, made.answers["pairs"][:18])
    assert whole.data.sizes["prompt"] == 9 == whole.data.sizes["found"] and whole.data.attrs["discovered"]
    assert len(whole.circuit) == 4 and len(whole.edges()) == 4
    whole.save(tmp_path / "c")
    again = interp.open(tmp_path / "c")
    assert isinstance(again, CircuitResult) and again.data.equals(whole.data) and again.headline() == whole.headline()
    assert again.circuit == whole.circuit


def test_results_come_back(found, judged, tmp_path):
    found.save(tmp_path / "d")
    judged.save(tmp_path / "e")
    again = interp.open(tmp_path / "d")
    assert isinstance(again, DiscoveryResult) and again.data.equals(found.data) and again.circuit == found.circuit
    assert interp.open(tmp_path / "e").completeness().equals(judged.completeness())


# -- what ablation does ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def ioi(atlas):
    return of_one_length(atlas, 10)


def of_one_length(lm, n):
    """Pairs of the most common length: one batch."""
    task = reference.task("atlas", "ioi", n=6 * n)
    length = [len(lm.tokenizer.encode(pair.clean.text).ids) for pair in task]
    most = max(set(length), key=length.count)
    return [pair for pair, size in zip(task, length, strict=True) if size == most][:n]


def bench_of(lm, data, circuit, **options):
    groups = pair_groups(lm, data)
    means = Means.over(
        lm, groups, sites_of(lm, mlps=options.get("mlps", False)), roles=circuit.roles, by=options.pop("by", "role")
    )
    bench = Bench(lm, groups, circuit.roles, means=means, **options)
    for name, one in (("model", None), ("open", None), ("circuit", circuit)):
        bench.prepare(name, one)
    return bench, means, groups


def test_the_full_circuit_is_the_model_exactly(atlas, ioi):
    heads = "+".join(f"{layer}.{head}" for layer in range(4) for head in range(4))
    full = CircuitEvaluation(circuit=f"all@all={heads}", draws=1, random=1, minimal=False)(atlas, ioi[:6])
    score = full.data["score"]
    assert np.array_equal(score.sel(variant="circuit"), score.sel(variant="model"))
    assert full.accuracy("circuit") == full.accuracy("model") and full.faithfulness()["value"] == 1.0
    clean = CircuitEvaluation(circuit=f"all@last={heads}", elsewhere="clean", draws=1, random=1, minimal=False)(
        atlas, ioi[:6]
    )
    assert np.array_equal(clean.data["score"].sel(variant="circuit"), clean.data["score"].sel(variant="model"))


@pytest.mark.parametrize("elsewhere", ["mean", "clean"])
@pytest.mark.parametrize("mlps", [False, True])
def test_a_circuit_is_what_hooks_make_of_it(atlas, ioi, elsewhere, mlps):
    """Every head outside replaced by its mean, by plain hooks."""
    circuit = Circuit.parse("a@last=0.1+0.3+2.0,b@S2=0.0+1.2")
    bench, means, groups = bench_of(atlas, ioi, circuit, elsewhere=elsewhere, mlps=mlps)
    group = max(groups, key=len)
    masks = {role: where(group.clean, role) for role in circuit.roles}
    rest = ~(masks["last"] | masks["S2"])
    changes = []
    for site, kept in ((Site("z", layer), layer) for layer in range(4)):
        table = means.table(site, group.clean)
        gone = torch.zeros(table.shape[:3], dtype=torch.bool)
        for role, mask in masks.items():
            for head in range(4):
                if (kept, head) not in circuit.at(role):
                    gone[:, :, head] |= mask
        if elsewhere == "mean":
            gone |= rest[:, :, None]
        changes.append(("z", kept, lambda x, table=table, gone=gone: torch.where(gone[..., None], table, x)))
        if mlps and elsewhere == "mean":
            wide = means.table(Site("mlp_out", kept), group.clean)
            changes.append(("mlp_out", kept, lambda x, wide=wide: torch.where(rest[..., None], wide, x)))
    want = measure(oracle.edited(atlas.module, changes, group.clean.tokens)[:, -1], group.answer, group.foil)
    got = bench.scores("circuit", [frozenset()])[0][list(group.index)]
    assert np.abs(got[:, [0, 1, 2]] - want.numpy()[:, [0, 1, 2]]).max() < 1e-3
    moved = bench.scores("model", [frozenset()])[0][list(group.index)]
    assert np.abs(got - moved)[:, 2].max() > 0.1
    again = bench.scores("open", [bench.outside(circuit)])[0][list(group.index)]  # the same by another way
    assert np.abs(got[:, :3] - again[:, :3]).max() < 1e-3


def test_means_are_means(atlas, ioi):
    groups = pair_groups(atlas, ioi)
    site = Site("z", 1)
    means = Means.over(atlas, groups, [site], roles=("last",), by="role")
    every = [
        run[site][:, -1]
        for group in groups
        for run in (atlas.run(b, capture=[site]) for b in (group.clean, group.corrupted))
    ]
    table = means.table(site, groups[0].clean)
    assert torch.allclose(table[0, -1], torch.cat(every).mean(dim=0), atol=1e-5)
    first = torch.cat(
        [
            run[site][:, 0]
            for group in groups
            for run in (atlas.run(b, capture=[site]) for b in (group.clean, group.corrupted))
        ]
    )
    assert torch.allclose(table[0, 0], first.mean(dim=0), atol=1e-5)  # the sink is a class of its own
    names = means.classes(groups[0].clean)[0]
    assert (
        names[-1] == ("last", "last")
        and names[0] == ("first", "first")
        and any(fine.startswith("IO") or fine.startswith("S1") for _, fine in names)
    )
    rare = [
        name
        for name in {one for row in means.classes(groups[0].clean) for one in row}
        if means.count[(site, *name)] < FEWEST
    ]
    for pooled, fine in rare[:2]:  # a class with few prompts is not its own mean
        own = means.total[site, pooled, fine] / means.count[site, pooled, fine]
        assert means.count[site, pooled, fine] == sum(
            means.count[key] for key in means.count if key[:2] == (site, pooled)
        ) or not torch.equal(own, means._mean(site, pooled, fine))


def test_means_by_position_need_prompts_of_each_length(lm, atlas, ioi, pairs):
    with pytest.raises(BadInput, match="at least 8 prompts of each length"):
        CircuitEvaluation(circuit="a@last=0.1", means="position", draws=1, random=1)(atlas, ioi[:3])
    same = CircuitEvaluation(circuit=WHOLE, means="position", draws=1, random=2, minimal=False)(lm, pairs)
    assert abs(same.faithfulness()["value"] - 1) < 1e-6


def test_flat_logits_answer_nothing():
    logits = torch.zeros(2, 10)
    logits[1, 3] = 1.0
    found = measure(logits, torch.tensor([3, 3]), torch.tensor([4, 4]))
    assert found[:, MEASURES.index("top")].tolist() == [0.1, 1.0]
    assert correct(found.numpy(), "choice").tolist() == [0.5, 1.0]


# -- atlas and the real checkpoints ------------------------------------------------------------------------------------


def test_a_circuit_of_atlas_is_confirmed_by_ablation(atlas):
    task = of_one_length(atlas, 24)
    config = CircuitEvaluation(plan=PLANS["ioi"], accuracy="choice", draws=1, random=3, minimal=False)
    judged = config(atlas, task)
    f = judged.faithfulness("logit_diff")
    assert f["value"] > 0.7 > f["random"] and f["value"] > f["random_max"]
    circuit = judged.circuit
    assert 2 <= len(circuit) <= 10
    bench, _, _ = bench_of(atlas, task, circuit)
    loss = bench.scores("model", [frozenset(), removal(circuit, circuit.nodes)])[
        :, :, MEASURES.index("logit_diff")
    ].mean(axis=1)
    assert loss[1] < 0.5 * loss[0]  # without it the model does not do it
    others = [removal(one, one.nodes) for one in random_circuits(circuit, bench.every - circuit.at("last"), 4, seed=1)]
    kept = bench.scores("model", others)[:, :, MEASURES.index("logit_diff")].mean(axis=1)
    assert kept.min() > 0.6 * loss[0]  # and without as many others it does


def test_tinytalk_does_it_end_to_end(real_models):
    from interp.data import tasks

    chat = interp.load(str(real_models / "tinytalk-chat"))
    forms = {"ioi": ("When {a} and {b} were at the {place}, {s} gave the {object} to",)}
    task = tasks.named("ioi", chat.tokenizer, n=4, lexicon=tasks.Lexicon(templates=forms))
    plan = ("movers@last>logits",)
    config = CircuitEvaluation(plan=plan, select="top", top=(3,), accuracy="choice", draws=1, random=1, minimal=False)
    judged = config(chat, task)
    assert len(judged.circuit) == 3 and judged.data.sizes["prompt"] == 2
    assert np.isfinite(judged.data["score"]).all() and len(judged.headline()) >= 3


# -- minimality and the draws ------------------------------------------------------------------------------------------


def test_heads_that_share_a_layer_or_a_number_are_pairs():
    """The published program leaves out pairs that share a layer or a number; redundancy among those is then never seen."""
    nodes = [("g", 1, 2), ("g", 1, 3), ("g", 4, 2)]
    assert len(pairs_of(nodes)) == 3
    circuit = Circuit.of({"g": [(1, 2), (1, 3), (4, 2)]})

    def accuracy(sets):  # either of 1.2 and 1.3 will do, 4.2 is idle
        return np.array([0.9 if {("g", 1, 2), ("g", 1, 3)} - one else 0.3 for one in sets])

    found = worth_of(accuracy, circuit, share=0.34, threshold=0.01)
    assert found.keep == [True, True, False]
    assert found.hidden[0] == {("g", 1, 3)} and found.hidden[1] == {("g", 1, 2)}
    assert found.worth[0] == pytest.approx(2.0)

    def by_number(sets):  # the same with heads of one number
        return np.array([0.9 if {("g", 1, 2), ("g", 4, 2)} - one else 0.3 for one in sets])

    assert worth_of(by_number, circuit, share=0.34, threshold=0.01).keep == [True, False, True]


def test_the_division_by_zero_is_guarded():
    circuit = Circuit.of({"g": [(0, 0), (1, 1)]})
    needed = worth_of(
        lambda sets: np.array([0.0 if ("g", 0, 0) in one else 1.0 for one in sets]), circuit, share=0.5, threshold=0.01
    )
    assert needed.worth == [float("inf"), 0.0] and needed.keep == [True, False]
    dead = worth_of(lambda sets: np.zeros(len(sets)), circuit, share=0.5, threshold=0.01)
    assert np.isnan(dead.worth).all() and all(dead.keep)  # nothing shows that they are superfluous
    hidden = worth_of(
        lambda sets: np.array([1.0 if not one else 0.0 for one in sets]), circuit, share=0.5, threshold=0.01
    )
    assert hidden.worth == [float("inf")] * 2 and hidden.hidden == [frozenset()] * 2  # K gives way


def test_random_circuits_hold_every_head_once():
    circuit = Circuit.parse("a@last=0.0+1.1+2.2,b@last=0.1+0.2,c@S2=3.3")
    every = [(layer, head) for layer in range(4) for head in range(4)]
    drawn = random_circuits(circuit, every, 20, seed=0)
    for one in drawn:
        assert len(one.at("last")) == 5 and len(one.at("S2")) == 1
    assert len({str(one) for one in drawn}) == 20
    assert [str(one) for one in random_circuits(circuit, every, 20, seed=0)] == [str(one) for one in drawn]
    assert len(random_circuits(Circuit.of({"g": every}), every, 1, seed=0)[0]) == 16


# -- writing circuits down ---------------------------------------------------------------------------------------------


def test_a_circuit_is_its_text_and_its_json():
    text = "movers@last>logits=3.1+3.10, inhibition@S1+1>q:movers=2.0, none@S2"
    circuit = Circuit.parse(text)
    assert (
        str(circuit) == text and Circuit.parse(str(circuit)) == circuit and Circuit.parse(circuit.to_json()) == circuit
    )
    assert circuit.nodes == (("movers", 3, 1), ("movers", 3, 10), ("inhibition", 2, 0)) and len(circuit) == 3
    assert circuit.roles == ("last", "S1+1", "S2") and circuit["movers"].reads == "logits"
    assert circuit.without([("movers", 3, 1)]).at("last") == {(3, 10)} and len(circuit.keep(())) == 0
    assert Circuit.of({"a": [(1, 0)]}, at={"a": "S2"}) == Circuit.parse("a@S2=1.0")


def test_a_head_of_two_groups_at_one_place_goes_with_both():
    circuit = Circuit.parse("a@last=1.0+1.1,b@last=1.0")
    assert removal(circuit, [("a", 1, 0)]) == frozenset()
    assert removal(circuit, [("a", 1, 0), ("b", 1, 0)]) == {("last", (1, 0))}


def test_a_head_that_two_groups_share_is_needed_as_often_as_alone(lm, pairs):
    shared = CircuitEvaluation(circuit=f"{WHOLE},again@last=3.0", draws=1, random=1)(lm, pairs)
    table = shared.minimality().set_index("node")
    assert table.loc["D 3.0", "worth"] == table.loc["again 3.0", "worth"] > 1 and table["keep"].all()
    assert shared.minimal == shared.circuit and abs(shared.faithfulness()["minimal"] - 1) < 1e-6
    heads = dict(zip(shared.data["variant"].values.tolist(), shared.data["heads"].values.tolist(), strict=True))
    assert heads["circuit"] == heads["minimal"] == heads["random 0"] == 4  # counted once


def test_a_mean_of_few_prompts_is_the_prompt_itself_and_refused(lm, pairs):
    with pytest.raises(BadInput, match="at least 8 prompts, counting both of a pair; there are 6"):
        CircuitEvaluation(circuit=WHOLE, draws=1, random=1)(lm, pairs[:3])


@pytest.mark.parametrize("number", [-1, 1.7, True, "1"])
def test_numbers_of_heads_are_whole(number):
    with pytest.raises(BadInput, match=f"'movers' has the number {number!r}"):
        Circuit.of({"movers": [(number, 0)]})
    row = {"name": "movers", "at": "last", "heads": [[number, 0]], "reads": "", "into": ""}
    with pytest.raises(BadInput, match="Give layer and head as 0, 1"):
        Circuit.from_json(json.dumps({"groups": [row]}))


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("movers=3.1", "no group"),
        ("movers@last>logits=3", "layer.head"),
        ("movers@last>z:x=3.1", "read by"),
        ("movers@last>q=3.1", "read by"),
        ("a@last=1.1+1.1", "twice"),
        ("a@last=1.1,a@S2=1.2", "called the same"),
        ("{}", "JSON"),
    ],
)
def test_what_is_no_circuit_is_refused(text, match):
    with pytest.raises(BadInput, match=match):
        Circuit.parse(text)


@pytest.mark.parametrize(
    ("plan", "match"),
    [
        (("a@last",), "who reads it"),
        (("a@last>q:b",), "comes no earlier"),
        (("a@S2>logits",), "last token only"),
        (("a@last>logits", "b@S2>q:a"), "nothing gets there"),
        (("a@last>logits=1.1",), "names heads"),
    ],
)
def test_what_is_no_plan_is_refused(plan, match):
    with pytest.raises(BadInput, match=match):
        CircuitDiscovery(plan=plan)


def test_options_that_cannot_be_meant_are_refused(lm, atlas, pairs):
    for options, match in (
        ({"alpha": 0}, "alpha"), ({"least": 1}, "least"), ({"metric": "rank"}, "metric"), ({"select": "best"}, "select"),
        ({"plan": PLAN, "select": "top", "top": (1, 2)}, "2 numbers for 4 steps"),
    ):  # fmt: skip
        with pytest.raises(BadInput, match=match):
            CircuitDiscovery(**options)
    for options, match in (
        ({"random": 0}, "floor"), ({"share": 1}, "share"), ({"circuit": WHOLE, "plan": PLAN}, "not both"),
        ({"elsewhere": "zero"}, "elsewhere"),
    ):  # fmt: skip
        with pytest.raises(BadInput, match=match):
            CircuitEvaluation(**options)
    with pytest.raises(BadInput, match="no plan for planted-tracker"):
        CircuitDiscovery()(lm, pairs)
    with pytest.raises(BadInput, match="cannot be split"):
        CircuitEvaluation(plan=PLAN)(lm, pairs[:3])
    with pytest.raises(BadInput, match="layers 0 to 3"):
        CircuitEvaluation(circuit="a@last=7.0")(lm, pairs)
    with pytest.raises(BadInput, match="Bring at least"):
        CircuitDiscovery(plan=PLAN)(lm, pairs[:3])
    with pytest.raises(BadInput, match="same token"):
        CircuitEvaluation(circuit="a@last=1.1,b@query_label+2=1.0", draws=1, random=1)(lm, pairs)


def test_a_model_that_fails_has_nothing_to_be_faithful_to(pairs):
    null = reference.as_lm(reference.tracker(null=True))
    judged = CircuitEvaluation(circuit=WHOLE, draws=1, random=1, minimal=False)(null, pairs[:6])
    if judged.accuracy("model") == 0:
        with pytest.raises(BadInput, match="nothing to be faithful"):
            judged.faithfulness()
    assert list(judged.headline())


def test_what_it_costs_is_said_first(lm, pairs):
    assert (
        CircuitEvaluation(plan=PLAN).cost(lm, pairs).forwards
        > CircuitEvaluation(circuit=WHOLE).cost(lm, pairs).forwards
        > 24
    )
    assert CircuitDiscovery(plan=PLAN).cost(lm, pairs).forwards > 24
