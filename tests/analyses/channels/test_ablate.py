"""Component ablation: the planted pointer to its closed form, equal to surgery by hand and to edited weights, nothing in the null."""

import numpy as np
import pytest
import torch

import interp
from interp import ComponentAblation, Prompt
from interp.analyses.channels import (
    Observer,
    Readout,
    Setting,
    component_edit,
    decompose,
    edit_components,
    ov,
    prompt_groups,
)
from interp.core.errors import BadInput, SpanError
from interp.models import reference
from interp.models.load import wrap
from tests import oracle
from tests.analyses.channels.test_attention import asked
from tests.analyses.channels.test_editing import operated
from tests.models.tiny import tiny

NAMES = {"A": 2, "B": 5}


@pytest.fixture(scope="module")
def pointer():
    planted = reference.planted.pointer()
    return planted, reference.as_lm(planted)


@pytest.fixture(scope="module")
def taken(pointer):
    return ComponentAblation(strongest=1, controls=30)(pointer[1], asked())


@pytest.fixture(scope="module")
def task():
    return reference.task("atlas", "ioi", 4)


@pytest.fixture(scope="module")
def apart(atlas, task):
    return ComponentAblation(reader="2.3", writers=("0.1", "1.1"), controls=4, scales=(2.0,))(atlas, task)


def looks(planted, prompts, keep):
    """The pointer's attention to IO and S1, in closed form, with its two coordinates multiplied by `keep`; others are silent."""
    key = torch.tensor([[np.cos(angle), np.sin(angle)] for angle in planted.answers["angles"]])
    slots = torch.tensor([prompt.meta["slot"] for prompt in prompts])
    scores = planted.answers["gain"] * (key[slots] * torch.tensor(keep)) @ key.T  # [prompt, item]
    silent = len(prompts[0].text.split()) - 7
    share = scores.exp() / (scores.exp().sum(-1, keepdim=True) + silent)
    return torch.stack([share[range(len(slots)), slots], share[range(len(slots)), (slots + 3) % 7]], -1)


# -- the planted pointer --------------------------------------------------------------------------------------------------


def test_reader_and_writer_are_found(taken):
    assert taken.data.attrs["reader"] == "1.4" and taken.writers == ["0.1"] and taken.data.attrs["reader_p"] < 0.01
    assert taken.controls()["name"][0] == "0.1.2"


@pytest.mark.parametrize(("kind", "component", "scale", "keep"), [
    ("zero", "A", 0.0, (0.0, 1.0)), ("zero", "B", 0.0, (1.0, 0.0)), ("keep", "A", 0.0, (1.0, 0.0)),
    ("scale", "A", 0.5, (0.5, 1.0)), ("scale", "A", 2.0, (2.0, 1.0)),
])  # fmt: skip
def test_what_is_left_is_what_the_closed_form_says(pointer, taken, kind, component, scale, keep):
    data = taken.data
    chosen = (data["edit_kind"] == kind) & (data["component"] == NAMES[component]) & (data["scale"] == scale)
    assert int(chosen.sum()) == 1
    want = looks(pointer[0], asked(), keep).double().numpy()
    got = data["attention"].isel(edit=int(chosen.argmax())).values
    assert np.abs(got - want).max() < 1e-4
    score = data["score"].isel(edit=int(chosen.argmax())).values
    assert (
        np.allclose(score, got[:, 0] - got[:, 1])
        and np.abs(looks(pointer[0], asked(), (1, 1)).numpy() - got).max() > 4e-3
    )


def test_components_that_can_talk_but_do_not_change_nothing(taken):
    drop = taken.drop()
    silent = (drop["edit_kind"] == "zero") & ~drop["component"].isin([2, 5])
    assert int(silent.sum()) == 14 and float(drop["composition"][silent].min()) > 0.01
    assert float(np.abs(drop.isel(edit=silent.values)).max()) < 1e-3
    assert set(taken.drops("zero").sort_values("drop", ascending=False)["component"][:2]) == {2, 5}


def test_controls_and_agreement(taken):
    row = taken.controls().iloc[0]
    assert row["drop"] > 0.15 and row["others_p"] <= 2 / 16 and row["n_others"] == 15 and row["n_random"] == 30
    assert row["random_p"] < 0.2 and row["random"] < row["drop"] and row["head"] > row["drop"]
    only_first = taken.data.isel(edit=((taken.data["edit_kind"] == "keep") & (taken.data["component"] == 0)).values)
    assert abs(float(only_first["score"].mean())) < 1e-3  # uniform attention over all tokens
    agreement = taken.agreement(n=200).iloc[0]
    assert -1 <= agreement["ci_lo"] <= agreement["rho"] <= agreement["ci_hi"] <= 1 and agreement["n"] == 16
    assert taken.agreement(n=200).equals(taken.agreement(n=200))


def test_random_directions_lie_in_the_write_space_and_are_as_many(pointer, taken):
    lm = pointer[1]
    trials = ComponentAblation(reader="1.4", writers="0.1", controls=5).trials(lm, interp.analyses.channels.Head(1, 4))
    drawn = [one.removals[0].part for one in trials if one.kind == "random"]
    write, w_o = decompose(lm, 0).write[1], ov(lm, 0).right[1]
    for part in drawn:
        gone = part @ w_o  # what they take from a value, [d_head, d]
        assert torch.linalg.matrix_rank(gone, rtol=1e-6) == 1 and abs(float(part.trace()) - 1) < 1e-9
        direction = torch.linalg.svd(gone).Vh[0]
        assert abs(float((direction @ write.T).norm()) - 1) < 1e-9
    assert not torch.allclose(drawn[0], drawn[1]) and len(drawn) == 5


def test_in_the_null_nothing_is_found():
    lm = reference.as_lm(reference.planted.pointer(null=True))
    result = ComponentAblation(reader="1.4", writers=("0.1",), controls=0)(lm, asked())
    assert float(result.drops("zero")["p_adjusted"].min()) > 0.05
    assert np.isnan(result.controls()["random_p"][0])


# -- the same by other hands ----------------------------------------------------------------------------------------------


def test_a_surgeon_with_plain_transformers_sees_the_same(atlas, task):
    result = ComponentAblation(reader="2.3", writers=("1.1",), folded=False, controls=0)(atlas, task)
    for component in (0, 7):
        module = operated(atlas, 1, 1, component, False)
        chosen = (result.data["edit_kind"] == "zero") & (result.data["component"] == component)
        edited = result.data.isel(edit=int(chosen.argmax()))
        for group in prompt_groups(atlas, task):
            pattern = oracle.capture(module, "pattern", 2, group.batch.tokens)[:, 3, -1]
            logits = oracle.logits(module, group.batch.tokens)[:, -1]
            rows = torch.arange(len(pattern))
            io, s1 = (pattern[rows, group.batch.spans[name][:, 0]] for name in ("IO", "S1"))
            mine = edited.isel(prompt=list(group.index))
            assert np.allclose(mine["score"], io - s1, atol=1e-5)
            gap = logits[rows, group.answer] - logits[rows, group.foil]
            assert np.allclose(mine["outcome"].sel(metric="logit_diff"), gap, atol=1e-3)


def test_edited_weights_do_the_same_alone_and_together(atlas, task, apart):
    assert apart.data.attrs["weight_difference"] < 1e-5
    tops = {f"{row.writer}.{row.component}" for row in apart.components().groupby("writer").head(1).itertuples()}
    rest = {f"{head}.{index}" for head in ("0.1", "1.1") for index in range(1, atlas.spec.d_head)}
    for key, names, options in (
        (("zero", -1), tops, {}), (("keep", -1), tops, {"keep_only": True}), (("keep", 0), rest, {}), (("head", -1), ["0.1", "1.1"], {})
    ):  # fmt: skip
        both = apart.head("all")
        chosen = (both["edit_kind"] == key[0]) & (both["component"] == key[1])
        assert int(chosen.sum()) == 1
        with edit_components(atlas, list(names), **options):
            for group in prompt_groups(atlas, task):
                score = Observer(atlas, group.batch, Readout("2.3")).read([[]]).score[0]
                mine = both.isel(edit=int(chosen.argmax()), prompt=list(group.index))["score"]
                assert np.allclose(mine, score, atol=1e-5)


def test_where_the_reader_looks_from_only(atlas, task):
    result = ComponentAblation(reader="2.3", writers="1.1", at="query", controls=0, scales=())(atlas, task)
    assert "weight_difference" not in result.data.attrs
    group = prompt_groups(atlas, task)[0]
    site = "blocks.2.attn.hook_pattern"
    run = atlas.run(group.batch, capture=site, edits=[component_edit(atlas, "1.1.3", at=interp.At.last())])
    rows = torch.arange(len(group.batch))
    want = run[site][rows, 3, -1, group.batch.spans["IO"][:, 0]] - run[site][rows, 3, -1, group.batch.spans["S1"][:, 0]]
    chosen = (result.data["edit_kind"] == "zero") & (result.data["component"] == 3)
    mine = result.data.isel(edit=int(chosen.argmax()), prompt=list(group.index))
    assert np.allclose(mine["score"], want, atol=1e-5)
    assert np.allclose(
        mine["outcome"].sel(metric="logprob"), group.metrics(run.logits[:, -1:], rows)[:, 0, 1], atol=1e-4
    )


def test_batches_do_not_matter(atlas, task, apart):
    again = ComponentAblation(reader="2.3", writers="1.1", controls=4, scales=(2.0,), max_rows=1)(atlas, task)
    assert np.abs(again.data["score"].values - apart.head("1.1")["score"].values).max() < 1e-5
    assert again.data["prompt"].equals(apart.data["prompt"])
    assert list(apart.data["prompt"].values) == [pair.clean.id for pair in task]


def test_components_that_cannot_be_told_apart_go_together(atlas, task):
    left, right = (
        ov(atlas, 1, Setting(folded=False)).left[1].clone(),
        ov(atlas, 1, Setting(folded=False)).right[1].clone(),
    )
    u, s, vt = torch.linalg.svd(left @ right)
    s = s[: atlas.spec.d_head].clone()
    s[1] = s[0]
    with atlas.edit_weights({"W_O.1.1": torch.linalg.pinv(left) @ (u[:, : len(s)] * s) @ vt[: len(s)]}):
        result = ComponentAblation(reader="2.3", writers="1.1", folded=False, controls=2)(atlas, task[:3])
    table = result.components()
    assert len(table) == atlas.spec.d_head - 1
    assert table.set_index("component")["size"][0] == 2 and 1 not in set(table["component"])


# -- real checkpoints ------------------------------------------------------------------------------------------------------


def test_real_checkpoints_end_to_end(real_models):
    for name, text, first, second, writers in (
        ("tinytalk-chat", "Tom and Ana went to the park. Ana gave the ball to", "Tom", "Ana", 1),
        ("stories260K-llama", "Lily and Ben went to the park. Ben gave the ball to", "Lily", "Ben", 2),
    ):
        lm = interp.load(real_models / name, check=False)
        prompts = [
            Prompt.of(text.replace("park", place), IO=first, S1=second, occurrence={"S1": 0})
            for place in ("park", "shop")
        ]
        result = ComponentAblation(strongest=writers, controls=3, scales=(0.5,))(lm, prompts)
        attrs = result.data.attrs
        assert attrs["weight_difference"] < 1e-5 and ("offset" in attrs) == (lm.spec.positions == "rotary")
        assert attrs["offset"] > 3 if "offset" in attrs else True
        assert bool(np.isfinite(result.data["score"]).all())
        assert len(result.report_lines()) == 1 + 2 * writers + 4 * (writers > 1)
        assert float(np.abs(result.drop()).max()) > 1e-4


def test_half_precision_is_removed_in_the_run():
    lm = wrap(tiny("gpt2", dtype=torch.bfloat16), reference.channels().tokenizer, "gpt2")
    prompts = [Prompt.of("one cue two goal three stop", IO="cue", S1=other) for other in ("goal", "two")]
    result = ComponentAblation(reader="2.3", writers="1.1", controls=1, scales=())(lm, prompts)
    assert "weight_difference" not in result.data.attrs and float(np.abs(result.drop()).max()) > 0


# -- what a result is ---------------------------------------------------------------------------------------------------------


def test_it_is_saved_and_opened(apart, tmp_path):
    apart.save(tmp_path / "kept")
    again = interp.open(tmp_path / "kept")
    assert again.data.identical(apart.data) and again.headline() == apart.headline()
    assert again.report_lines() == apart.report_lines() and len(apart._repr_html_()) < 30_000


def test_tables_say_what_the_numbers_say(apart):
    table = apart.drops()
    assert set(table["edit_kind"]) == {"zero", "keep", "scale", "head"} and "random" in set(
        apart.data["edit_kind"].values
    )
    assert ((table["ci_lo"] <= table["drop"]) & (table["drop"] <= table["ci_hi"])).all()
    before = float(apart.data["score_before"].mean())
    assert np.allclose(table["share"] * before, table["drop"]) and np.allclose(table["after"], before - table["drop"])
    row = apart.components("logit_diff").iloc[0]
    chosen = (
        (apart.data["writer"] == row["writer"])
        & (apart.data["edit_kind"] == "zero")
        & (apart.data["component"] == row["component"])
    )
    change = (apart.data["outcome_before"] - apart.data["outcome"]).sel(metric="logit_diff")
    assert np.isclose(row["drop"], float(change.transpose("edit", "prompt").values[chosen.values].mean()))
    assert apart.thumbnail().shape == (2, 32) and next(iter(apart.headline())) == "2.3 on IO - S1"
    assert apart.components()["name"][0].startswith(apart.writers[0] + ".")
    known = apart.data["known"].values
    assert known.any() and apart.drop(known=True).sizes["prompt"] == int(known.sum())


def test_cost_is_said_before(atlas, task):
    small, large = (ComponentAblation(reader="2.3", writers="1.1", controls=n).cost(atlas, task) for n in (0, 50))
    assert 0 < small.forwards < large.forwards and "1 writers on 4 prompts" in large.note


# -- refusals -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kind": "z"}, "`kind` must be one of"),
        ({"at": "first"}, "`at` must be one of"),
        ({"biases": "drop"}, "`biases` must be one of"),
        ({"reader": "2.3.1"}, "does not name a head"),
        ({"writers": ("1.1", "1.1")}, "different heads"),
        ({"scales": (1.0,)}, "strengths besides 0"),
        ({"strongest": 0}, "must be at least 1"),
        ({"to": ""}, "`to` names the span"),
        ({"minus": "IO"}, "both 'IO'"),
    ],
)
def test_options_that_mean_nothing_are_refused(options, message):
    with pytest.raises(BadInput, match=message):
        ComponentAblation(**options)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"reader": "9.9"}, BadInput, "layers 0 to 3"),
        ({"reader": "3.1", "writers": ("8.10",)}, BadInput, "layers 0 to 3 and heads 0 to 3"),
        ({"reader": "1.1", "writers": ("0.1", "1.2", "2.0")}, BadInput, "cannot hear '1.2' or '2.0'"),
        ({"reader": "0.1"}, BadInput, "Name a later reader"),
        ({"writers": ("3.3",)}, BadInput, "no head of atlas behind layer 3"),
        ({"to": "giver"}, SpanError, "no span 'giver'; it has"),
        ({"offset": 3}, BadInput, "offset=3 is for queries and keys of rotary models"),
    ],
)
def test_what_does_not_fit_the_model_or_the_prompts_is_refused(atlas, task, options, error, message):
    with pytest.raises(error, match=message):
        ComponentAblation(**options)(atlas, task[:3])


def test_a_reader_is_looked_for_behind_the_writers_also_with_long_answers(atlas, task):
    prompts = [Prompt(pair.clean.text, " a very long answer", None, pair.clean.spans) for pair in task[:4]]
    result = ComponentAblation(writers="1.1", answers="first", controls=0, scales=())(atlas, prompts)
    assert result.data.attrs["reader"].split(".")[0] in ("2", "3")


def test_no_prompts_and_a_reader_that_weighs_nothing(atlas, task):
    with pytest.raises(BadInput, match="no prompts"):
        ComponentAblation()(atlas, [])
    with (
        atlas.edit_weights({"W_Q.2.3": torch.zeros(atlas.spec.d_model, atlas.spec.d_head)}),
        pytest.raises(BadInput, match=r"reader '2\.3' weighs nothing"),
    ):
        ComponentAblation(reader="2.3", writers="1.1")(atlas, task[:2])
