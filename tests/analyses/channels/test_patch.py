"""Channel patching: planted channels carry the whole answer and nothing else does, numbers are plain hooks', and every refusal."""

import numpy as np
import pytest
import torch

import interp
import tests.oracle as oracle
from interp.analyses.channels.steering.patch import ChannelPatching
from interp.analyses.channels.steering.patch_job import other_answer
from interp.analyses.pairs import pair_groups, token_pairs
from interp.core.artifact import open_result
from interp.core.errors import BadInput, SpanError
from interp.data import Prompt, PromptPair
from interp.models import reference
from tests.analyses.channels.wired_steering import component, coordinate, illusory, last, steered

OTHERS = tuple(f"0.1.{index}" for index in range(16) if index not in (2, 5))


@pytest.fixture(scope="module")
def task(atlas):
    return reference.task("atlas", "ioi", 12)


@pytest.fixture(scope="module")
def pointer():
    return reference.as_lm(reference.pointer()), reference.pointer_pairs(8)


def exchanged(pointer, components, **options):
    lm, pairs = pointer
    return ChannelPatching(components=components, readers=("1.4",), **{"draws": 9, **options})(lm, pairs)


# -- planted -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("site", ["head", "stream"])
def test_the_planted_channel_carries_the_whole_answer(pointer, site):
    found = exchanged(pointer, ("0.1.2", "0.1.5"), site=site, direction="both", draws=19)
    for direction in ("noise", "denoise"):
        fldd = found.fldd(direction=direction)
        assert np.allclose(fldd["mean"].sel(variant=["channel", "head", "stream"]), 2.0, atol=1e-5)
        assert (
            np.allclose(fldd["ratio"].sel(variant="channel"), 2.0, atol=1e-5)
            and float(fldd["mean"].sel(variant="none")) == 0
        )
        for among in ("two", "candidates", "all"):
            share = found.interchange(among, direction=direction)["mean"]
            assert float(share.sel(variant="channel")) == 1.0 and float(share.sel(variant="none")) == 0.0
    tests = found.controls().set_index(["control", "direction"])
    assert (tests["p_rank"] == tests["smallest_p"]).all() and (tests["p_pairs"] < 0.005).all()
    assert (tests["value"] > 1.99).all() and (tests["control_best"] < 1.7).all()
    assert (tests.loc["same_head"]["control_best"].abs() < 1e-5).all(), (
        "the other components are read, and nothing comes of it"
    )
    table = found.table().set_index("what")
    assert abs(table["fldd"]["same_head"]) < 1e-5 and table["fldd"]["random"] < 0.3


def test_half_the_channel_carries_part_and_its_other_components_nothing(pointer):
    half, rest = exchanged(pointer, ("0.1.2",)), exchanged(pointer, OTHERS)
    assert 0.3 < half.fldd()["mean"].sel(variant="channel") < 1.7
    assert abs(float(rest.fldd()["mean"].sel(variant="channel"))) < 1e-5
    assert float(rest.interchange("two")["mean"].sel(variant="channel")) == 0.0
    assert rest.data.attrs["draws"]["same_head"] == 0 and "2 components" in rest.data.attrs["absent"]["same_head 0"]


def test_what_is_significant_beats_every_draw_and_the_rest_is_not(pointer):
    """One kind of control and one direction: 39 draws allow 0.025, twice."""
    for components, told in ((("0.1.2", "0.1.5"), True), (("0.1.3", "0.1.7"), False)):
        tests = exchanged(pointer, components, draws=39).controls()
        assert bool(tests["significant"].all()) == told and bool(tests["significant"].any()) == told


@pytest.mark.parametrize("site", ["head", "stream"])
def test_nothing_is_found_in_random_weights(site):
    lm = reference.as_lm(reference.pointer(null=True))
    found = ChannelPatching(components=("0.1.2",), readers=("1.4",), site=site, draws=15)(
        lm, reference.pointer_pairs(14)
    )
    for measure in ("fldd", "interchange", "readout"):
        assert not found.controls(measure, known=False, drop=True)["significant"].any(), measure


def test_a_channel_that_tells_the_prompts_apart_separates_them(pointer):
    found = exchanged(pointer, ("0.1.2", "0.1.5"), draws=1)
    table = found.separability()
    clean, corrupted = (found.data["coordinate"].sel(side=side).values for side in ("clean", "corrupted"))
    for row in range(2):
        assert np.isclose(table["zero"][row], np.mean(np.sign(clean[row]) != np.sign(corrupted[row])))
    made = np.array(reference.pointer().answers["alpha"])  # [slot, 2], up to signs
    for number, pair in enumerate(reference.pointer_pairs(8)):
        for side, there in (("clean", clean), ("corrupted", corrupted)):
            want = made[getattr(pair, side).meta["slot"]]
            assert np.allclose(np.abs(there[:, number]), np.abs(want), atol=1e-3)


def test_the_subspace_illusion_is_told():
    lm, pairs = illusory()
    options = {"components": ("0.0.0",), "readers": ("1.0",), "spans": ("pen", "cup"), "draws": 3}
    stream = ChannelPatching(site="stream", **options)(lm, pairs)
    fldd = stream.fldd()["mean"]
    assert float(fldd.sel(variant="channel")) > 1.5 and stream.illusion()
    assert np.abs(fldd.sel(variant=["row", "span", "null"])).max() < 1e-4
    head = ChannelPatching(**options)(lm, pairs)
    assert abs(float(head.fldd()["mean"].sel(variant="channel"))) < 1e-6, "the head itself wrote none of it"
    with pytest.raises(BadInput, match="site='stream'"):
        head.illusion()


def test_a_channel_that_is_read_is_no_illusion(pointer):
    found = exchanged(pointer, ("0.1.2", "0.1.5"), site="stream", draws=1)
    assert not found.illusion() and np.allclose(found.fldd()["mean"].sel(variant=["row", "span"]), 2.0, atol=1e-4)
    assert np.isnan(found.fldd()["mean"].sel(variant="null"))


# -- against plain hooks -----------------------------------------------------------------------------------------------


def differences(logits, group):
    rows = torch.arange(len(logits))
    return (logits[rows, group.answer] - logits[rows, group.foil]).numpy()


@pytest.mark.parametrize("direction", ["noise", "denoise"])
def test_heads_are_what_plain_hooks_give(atlas, task, direction):
    names = ("0.1.0", "0.1.3", "2.2.1")
    found = ChannelPatching(components=names, readers=("3.1",), direction=direction, draws=0, folded=False)(
        atlas, task[:4]
    )
    module = atlas.module
    vs = [component(module, *map(int, name.split("."))) for name in names]
    for group in pair_groups(atlas, task[:4])[:2]:
        base, source = (group.clean.tokens, group.corrupted.tokens)[:: 1 if direction == "noise" else -1]
        heads = ((0, 1), (0, 1), (2, 2))
        targets = [coordinate(module, *head, v, source)[:, -1] for head, v in zip(heads, vs, strict=True)]
        writers = [(0, 1, [(vs[0], targets[0]), (vs[1], targets[1])]), (2, 2, [(vs[2], targets[2])])]
        logits, look = steered(module, base, writers, last(base), (3, 1))
        ours = (
            found.data["score"]
            .sel(variant="channel", direction=direction, metric="logit_diff")
            .values[list(group.index)]
        )
        assert np.abs(ours - differences(logits, group)).max() < 2e-3
        mine = found.data["attention"].sel(variant="channel", direction=direction, reader="3.1", span="IO").values
        column = group.clean.spans["IO"][:, :1]
        assert np.abs(mine[list(group.index)] - look.gather(1, column)[:, 0].numpy()).max() < 1e-4
        hits = found.data["hit"].sel(variant="channel", direction=direction, among="all").values[list(group.index)]
        want = group.foil if direction == "noise" else group.answer
        assert (hits == (logits.argmax(dim=-1) == want).numpy()).all()


@pytest.mark.parametrize("name", ["atlas", "tinytalk-slang"])
def test_streams_are_what_plain_hooks_give(request, name):
    if name == "atlas":
        lm = request.getfixturevalue("atlas")
        pairs = request.getfixturevalue("task")[:4]
        spans = ("IO", "S1")
    else:
        lm = interp.load(str(request.getfixturevalue("real_models") / name), check=False)
        text = "The {} and the {} were in the big house and then the {} said to the"
        pairs = [
            PromptPair(
                Prompt.of(text.format(a, b, a), one=(4, 4 + len(a)), answer=b, foil=a),
                Prompt.of(text.format(a, b, b), one=(4, 4 + len(a)), answer=a, foil=b),
            )
            for a, b in (("dog", "cat"), ("cat", "dog"))
        ]
        spans = ("one",)
    layer, reader = lm.spec.n_layers - 1, (lm.spec.n_layers - 1, 1)
    found = ChannelPatching(
        components=("0.1.0", "1.0.1"), readers=(f"{reader[0]}.{reader[1]}",), site="stream", spans=spans, draws=2, folded=False,
        answers="first",
    )(lm, pairs)  # fmt: skip
    vs = torch.stack([component(lm.module, 0, 1, 0), component(lm.module, 1, 0, 1)])
    basis = torch.linalg.qr(vs.T).Q
    for group in pair_groups(lm, pairs, answers="first"):
        clean, other = group.clean.tokens, oracle.capture(lm.module, "resid_pre", layer, group.corrupted.tokens)

        def change(x, other=other):
            x = x.clone()
            x[:, -1] += ((other - x).double() @ basis @ basis.T)[:, -1].float()
            return x

        logits = oracle.edited(lm.module, [("resid_pre", layer, change)], clean)[:, -1]
        ours = (
            found.data["score"].sel(variant="channel", direction="noise", metric="logit_diff").values[list(group.index)]
        )
        assert np.abs(ours - differences(logits, group)).max() < 2e-3
        whole = oracle.edited(
            lm.module, [("resid_pre", layer, lambda x, other=other: torch.cat([x[:, :-1], other[:, -1:]], 1))], clean
        )
        theirs = (
            found.data["score"].sel(variant="stream", direction="noise", metric="logit_diff").values[list(group.index)]
        )
        assert np.abs(theirs - differences(whole[:, -1], group)).max() < 2e-3


# -- the result --------------------------------------------------------------------------------------------------------


def test_the_measures_are_those_of_the_scores(atlas, task):
    found = ChannelPatching(components=("0.1.0",), readers=("1.3",), direction="both", draws=2, max_rows=2)(
        atlas, task[:3]
    )
    data = found.data.sel(metric="logit_diff")
    for direction in ("noise", "denoise"):
        base, patched = (data["score"].sel(variant=name, direction=direction).values for name in ("none", "head"))
        share = (base - patched) / base
        fldd = found.fldd(direction=direction).sel(variant="head")
        assert np.isclose(float(fldd["mean"]), share.mean()) and np.isclose(
            float(fldd["ratio"]), 1 - patched.mean() / base.mean()
        )
        two = found.interchange("two", direction=direction)["mean"].sel(variant="head")
        assert np.isclose(float(two), np.mean(np.sign(patched) != np.sign(base)))
        look = found.data["attention"].sel(variant="head", direction=direction, reader="1.3")
        before = found.data["attention"].sel(variant="none", direction=direction, reader="1.3")
        moved = (look - before).sel(span="IO") - (look - before).sel(span="S1")
        assert np.isclose(float(found.readout(direction=direction)["mean"].sel(variant="head")), float(moved.mean()))
    other = ChannelPatching(components=("0.1.0",), readers=("1.3",), direction="both", draws=2)(atlas, task[:3])
    assert np.allclose(found.data["control_score"].values, other.data["control_score"].values, atol=2e-3), (
        "batches do not matter"
    )
    assert found.data.sizes["index"] == 32 and len(found.separability()) == 1


def test_it_survives_the_disk_and_has_its_numbers(atlas, task, tmp_path):
    found = interp.ChannelPatching(site="stream", draws=2)(atlas, task[:4])
    assert found.data.attrs["chosen"] == ["components", "readers"]
    again = open_result(found.save(tmp_path / "p"))
    assert again.data.identical(found.data) and again.headline() == found.headline() and len(found.headline()) == 3
    assert again.thumbnail() is not None and len(again.report_lines()) == 1 + 7 + 2
    assert ChannelPatching().cost(atlas, task).forwards > 0


# -- refusals ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"components": ("1.2",)}, "does not name a component"),
        ({"components": ("3.0.0",), "readers": ("3.1",)}, "does not come after"),
        ({"components": ("2.0.0",), "layer": 1}, "does not come after"),
        ({"layer": 0}, "nothing writes before"),
        ({"layer": 9}, "layers 0 to 3"),
        ({"components": ("0.0.0",), "readers": ("1.0",), "layer": 3}, "comes before `layer=3`"),
        ({"components": ("3.0.0",)}, "no head of atlas behind layer 3"),
        ({"site": "z"}, "'head' or 'stream'"),
        ({"direction": "up"}, "'noise', 'denoise' or 'both'"),
        ({"into": "X"}, "'Q', 'K' or 'V'"),
        ({"draws": -1}, "not negative"),
        ({"readers": ("3.1", "3.1")}, "each of its entries once"),
        ({"spans": ("nowhere",)}, "nowhere"),
        ({"position": "nowhere"}, "nowhere"),
    ],
)
def test_refusals(atlas, task, options, said):
    with pytest.raises((BadInput, SpanError), match=said):
        ChannelPatching(**options)(atlas, task[:4])


def test_weak_pairs_are_refused_or_dropped(pointer):
    found = exchanged(pointer, ("0.1.2",), draws=1)
    with pytest.raises(BadInput, match=r"8 of 8 pairs .* lower the tolerance"):
        found.fldd(tolerance=1e3)
    found.data["score"].loc[{"variant": "none", "pair": found.data["pair"].values[0], "metric": "logit_diff"}] = 0.01
    with pytest.raises(BadInput, match="1 of 8 pairs"):
        found.fldd()
    assert int(found.fldd(drop=True)["n"][0]) == 7


def test_the_reader_that_is_chosen_can_hear_and_stands_behind_the_patch(atlas, task):
    """The head with the largest readout of all is in layer 1."""
    for options, first in (({"components": ("1.0.0",)}, 2), ({"components": ("0.0.0",), "layer": 3}, 3)):
        found = ChannelPatching(draws=0, **options)(atlas, task[:2])
        assert int(found.data["reader"].values[0][0]) >= first and found.data.attrs["chosen"] == ["readers"]


def test_no_fraction_is_taken_of_a_mean_of_nothing(pointer):
    """Right in half of the pairs and as wrong in the others: every LD is large, and their mean is 0."""
    found = exchanged(pointer, ("0.1.2",), draws=2)
    there = found.data["score"].loc[{"metric": "logit_diff"}]
    there[...] = np.array([1.0, -1.0] * 4)
    there.loc[{"variant": "channel"}] = 0.3
    fldd = found.fldd()
    assert np.isclose(float(fldd["mean"].sel(variant="channel")), 1.0) and fldd["ratio"].isnull().all()
    assert found.table()["fldd"].isna().all() and np.isnan(found.headline()["FLDD (ratio of means)"])


def test_where_no_candidates_are_on_offer_others_are_compared(pointer):
    found = exchanged(pointer, ("0.1.2", "0.1.5"), draws=3)
    whole = found.controls("interchange", among="candidates")
    for name in ("hit", "control_hit"):
        found.data[name].loc[{"among": "candidates", "pair": found.data["pair"].values[:3]}] = np.nan
    some = found.controls("interchange", among="candidates")
    assert (some["draws"] == whole["draws"]).all() and (some["value"] == 1.0).all()
    found.data["hit"].loc[{"among": "candidates"}] = np.nan
    with pytest.raises(BadInput, match="among='candidates'"):
        found.controls("interchange", among="candidates")


def test_a_pair_must_say_two_answers(atlas):
    pair = PromptPair(
        Prompt.of("the red one went", one="red", answer="home"), Prompt.of("the red one was", one="red", answer="home")
    )
    with pytest.raises(BadInput, match="two different answers"):
        other_answer(token_pairs(atlas, [pair], answers="first")[0])
    with pytest.raises(BadInput, match="needs pairs"):
        ChannelPatching()(atlas, [pair.clean])
