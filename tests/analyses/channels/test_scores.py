"""Channels against full matrices of the plain modules' parameters, on planted channels and on what refuses to be scored."""

import numpy as np
import pytest
import torch

import interp
from interp.analyses.channels import (
    Channels,
    Setting,
    scores_into,
    scores_of,
)
from interp.analyses.channels.nulls import log10_tail
from interp.core.errors import BadInput
from interp.core.stats import holm
from interp.models import reference
from tests.models.wrapped import lm as tiny_lm

from . import by_hand

EXACT = Channels(precision="float64")


def compare(lm, result, *, folded, within, offset=None):
    """The largest difference of component and of whole scores from those of full matrices, over every fourth pair of heads."""
    ov, qk = by_hand.matrices(lm.module, folded=folded, offset=offset)
    spec, worst, write = lm.spec, [0.0, 0.0], by_hand.writes(ov, lm.spec.d_head)
    labels = [str(label) for label in result.data["kind"].values]
    score, total = (
        {label: result.data[name].sel(kind=label).values for label in labels} for name in ("score", "total")
    )
    for label in labels:
        for late in range(1, spec.n_layers):
            for early in range(late):
                for n in range(spec.n_heads**2):
                    if (n + late + early) % 4:
                        continue
                    a, b = divmod(n, spec.n_heads)
                    m = by_hand.reads(ov[late, b], qk[late, b], label[0])
                    want = by_hand.component_scores(write[early, a], m).numpy()
                    worst[0] = max(worst[0], float(np.abs(score[label][early, a, :, late, b] - want).max()))
                    whole = float(by_hand.head_score(ov[early, a], m))
                    worst[1] = max(worst[1], abs(float(total[label][early, a, late, b]) - whole))
    assert max(worst) < within and max(worst) > 0


@pytest.mark.parametrize("folded", [True, False])
def test_scores_are_those_of_full_matrices(atlas, folded):
    # folded views are rounded to float32, so the plain float64 arithmetic of the oracle is that far away
    compare(atlas, Channels(precision="float64", folded=folded)(atlas), folded=folded, within=5e-7 if folded else 1e-10)
    compare(atlas, Channels(folded=folded)(atlas), folded=folded, within=5e-7)


@pytest.mark.parametrize("folded", [True, False])
def test_grouped_queries_and_rotation_on_a_real_checkpoint(story, folded):
    result = Channels(precision="float64", folded=folded, offsets=(3,))(story)
    assert list(result.data["kind"].values) == ["Q@3", "K@3", "V"] and result.data.attrs["n_kv_heads"] == 4
    # the model's own frequencies are float32, and so are the angles that it turns by
    compare(story, result, folded=folded, within=5e-7 if folded else 1e-7, offset=3)
    short = Channels(folded=folded, offsets=(3,))(story)
    for name in ("score", "total"):
        assert float(np.abs(short.data[name] - result.data[name]).max()) < 1e-6


def test_distance_zero_is_no_rotation(story):
    result = Channels(precision="float64", folded=False, offsets=(0,))(story)
    compare(story, result, folded=False, within=1e-10, offset=0)


@pytest.mark.parametrize("kind", ["Q", "K", "V"])
def test_biases_add_a_row_that_is_read_and_never_written(atlas, kind):
    from interp.analyses.channels import ov, qk

    setting = Setting(folded=False, biases=True)
    result = Channels(kinds=(kind,), folded=False, biases=True, precision="float64")(atlas)
    plain = Channels(kinds=(kind,), folded=False, precision="float64")(atlas)
    writer, read = ov(atlas, 1, setting), ov(atlas, 3, setting) if kind == "V" else qk(atlas, 3, setting)
    for a, b in ((0, 1), (2, 3)):
        m = read.matrix(b)
        m = (m.T if kind == "K" else m)[: atlas.spec.d_model]
        _, s, vt = torch.linalg.svd(writer.matrix(a))
        want = (vt[: atlas.spec.d_head] @ m).norm(dim=-1) / m.norm()
        at = {"layer": 1, "head": a, "reader_layer": 3, "reader_head": b, "kind": kind}
        assert np.allclose(result.data["score"].sel(at), want, atol=1e-10)
        assert np.allclose(result.data["value"].sel(layer=1, head=a), s[: atlas.spec.d_head], atol=1e-10)
        assert np.allclose(
            result.data["spectrum"].sel(kind=kind, reader_layer=3, reader_head=b), torch.linalg.svdvals(m)[:32]
        )
    assert float(np.abs(result.data["score"] - plain.data["score"]).max()) > 1e-3


def test_nothing_reads_what_is_written_later(atlas):
    data = Channels()(atlas).data
    late = data["reader_layer"] > data["layer"]
    for name in ("total", "best", "mean", "sd", "score"):
        assert bool((data[name].notnull() == late).all()), name
    assert bool(((data["best_component"] >= 0) == late).all())


def test_the_identities_on_a_models_own_factors(atlas):
    data, n = EXACT(atlas).data, 127
    s, score = data["value"], data["score"]
    whole = ((s**2 * score**2).sum("component") / (s**2).sum("component")) ** 0.5
    known = data["total"].notnull()
    assert float(np.abs(whole - data["total"]).where(known).max()) < 1e-12
    ceiling = data["spectrum"].isel(component=0) / (data["spectrum"] ** 2).sum("component") ** 0.5
    assert bool((score <= ceiling + 1e-12).where(score.notnull(), True).all())
    from interp.analyses.channels import Writers, read_layer

    basis = torch.linalg.qr(torch.eye(128, dtype=torch.float64) - 1 / 128).Q[:, :n].mT  # what a LayerNorm leaves
    for readers in read_layer(atlas, 2, ("Q", "K", "V")).values():
        found = Writers(basis[None], torch.ones(1, n)).score(readers)[0]
        assert np.allclose(n * found.square().mean(0), 1, atol=1e-9)
    assert EXACT(atlas).null() == pytest.approx(n**-0.5)


def test_summaries_say_what_the_single_scores_say(atlas):
    result = EXACT(atlas)
    data = result.data
    known = data["total"].notnull()
    score = data["score"].where(data["score"].notnull(), -1.0)
    assert bool((score.max("component") == data["best"]).where(known, True).all())
    assert bool((score.argmax("component") == data["best_component"]).where(known, True).all())
    assert np.allclose(data["score"].mean("component", skipna=False), data["mean"], equal_nan=True)
    assert np.allclose(data["score"].std("component", ddof=1, skipna=False), data["sd"], equal_nan=True)
    flat = np.sort(data["score"].values[np.isfinite(data["score"].values)])[::-1]
    assert np.array_equal(data["top_score"].values, flat[:200]) and data.attrs["scored"] == len(flat)
    places = [
        data[f"top_{name}"].values for name in ("kind", "layer", "head", "component", "reader_layer", "reader_head")
    ]
    for row in range(0, 200, 17):
        kind, layer, head, component, reader_layer, reader_head = (place[row] for place in places)
        assert (
            float(data["score"].sel(kind=kind).values[layer, head, component, reader_layer, reader_head]) == flat[row]
        )
    edges = np.append(data["bin_low"].values, data["bin_high"].values[-1])
    for kind in "QKV":
        one = data["score"].sel(kind=kind).values
        want, _ = np.histogram(one[np.isfinite(one)] * 127**0.5, edges)
        assert np.array_equal(want, data["histogram"].sel(kind=kind))


def test_streamed_and_kept_are_bit_for_bit_the_same(atlas, monkeypatch):
    kept, streamed = Channels()(atlas), Channels(most=0)(atlas)
    assert "score" not in streamed.data and "not kept: 24,576 scores are more than 0" in streamed.data.attrs["scores"]
    for name in streamed.data.variables:
        assert streamed.data[name].equals(kept.data[name]), name
    layer = 4 * 32 * 128 * 4
    for held, at_once in (
        (1, 1 << 20),
        (2 * layer, 1),
        (3 * layer, 1),
    ):  # one layer of write directions at a time, two, three
        monkeypatch.setattr("interp.analyses.channels.scoring.channels.HELD", held)
        monkeypatch.setattr("interp.analyses.channels.scoring.tally.AT_ONCE", at_once)
        blocks = Channels()(atlas)
        for name in blocks.data.variables:
            if blocks.data[name].dtype.kind == "f":
                assert np.allclose(blocks.data[name], kept.data[name], atol=1e-6, equal_nan=True), name
            else:
                assert blocks.data[name].equals(kept.data[name]) or name.startswith("top_"), name


def test_planted_channels_are_the_strongest(planted):
    answers = reference.channels().answers
    for rank_by in ("score", "z"):
        result = Channels(rank_by=rank_by)(planted)
        first = result.channels(3)
        want = {
            (f"{c.writer[0]}.{c.writer[1]}.{c.component}", f"{c.reader[0]}.{c.reader[1]}", c.kind)
            for c in answers["channels"]
        }
        assert set(zip(first["writer"], first["reader"], first["kind"], strict=True)) == want
        assert np.allclose(first["score"], answers["score"], atol=1e-4) and bool((first["z"] > 15).all())
        assert bool((first["other_cosine"] > 0.999).all())
    # the stream's free half has 63 dimensions (see `wiring`); against these, the three stand out and nothing else does
    score = result.data["score"].values
    weights = result.data["spectrum"].sel(kind="Q", reader_layer=1, reader_head=0).values ** 2
    p = 10 ** log10_tail(np.minimum(score, 0.6), weights / weights.sum(), 63)
    assert int((holm(p) < 0.01).sum()) == 3
    others = score[np.isfinite(score) & (score < 0.5)]
    assert np.sqrt((others**2).mean()) == pytest.approx(answers["null"], rel=0.02)
    # the whole heads' scores hardly show them
    assert result.data["total"].sel(kind="K").values[0, 3, 1, 6] < 2.5 * answers["null"]


def test_nothing_stands_out_where_nothing_is_planted():
    lm = reference.as_lm(reference.channels(null=True))
    result = Channels()(lm)
    assert len(result.significant(0.01)) == 0 and len(result.significant(0.05, "bh")) == 0
    assert float(result.data["top_score"][0]) < 2 * result.null()
    known = result.data["score"].values
    known = known[np.isfinite(known)]
    assert np.sqrt((known**2).mean()) == pytest.approx(result.null(), rel=0.02)
    assert float(result.data["top_p"].min()) * len(known) > 0.01  # the least p-value is that of so many draws
    listed = result.data["top_p"].values
    assert np.median(listed) < 0.2  # and the strongest are not ordinary either


def test_significance_counts_every_score(planted):
    result = Channels(top=40)(planted)
    p = np.sort(result.data["top_p"].values)
    table = result.significant(0.9999)
    assert np.allclose(table["p_adjusted"], np.maximum.accumulate(p * (3072 - np.arange(40)))[: len(table)])
    assert len(result.significant(0.9999, "bh")) >= len(table) >= len(result.significant(1e-30)) >= 3
    for row in (0, 5, 39):
        channel = result.channels(40).iloc[row]
        assert channel["p"] == pytest.approx(
            float(result.p_value(channel["score"], channel["reader"], kind=channel["kind"])), rel=1e-9
        )
    one = result.p_value([0.1, 0.3, np.nan], "1.2", kind="Q")
    assert 0 < one[1] < one[0] < 1 and np.isnan(one[2])


def test_one_reader_and_one_writer_alone(atlas, story):
    for lm, kinds in ((atlas, ("Q", "K", "V")), (story, ("V",))):
        result = EXACT(lm)
        for kind in kinds:
            assert np.allclose(result.into("2.1", kind=kind), scores_into(lm, "2.1", kind=kind), atol=1e-12)
            assert np.allclose(result.of("1.2.3", kind=kind), scores_of(lm, "1.2.3", kind=kind), atol=1e-12)
            assert result.into("2.1", kind=kind).dims == ("layer", "head", "component")
            assert result.of("1.2.3", kind=kind).dims == ("reader_layer", "reader_head")
    with pytest.raises(BadInput, match=r"no head writes into '0.1'"):
        result.into("0.1", kind="V")
    with pytest.raises(BadInput, match=r"no head writes into '0.1'"):
        scores_into(story, "0.1", kind="V")
    with pytest.raises(BadInput, match=r"no head reads what '4.1.0' writes"):
        result.of("4.1.0", kind="V")
    with pytest.raises(BadInput, match=r"no head reads what '4.1.0' writes"):
        scores_of(story, "4.1.0", kind="V")
    with pytest.raises(BadInput, match=r"`kind` must be one of 'V'; not 'Q'"):
        result.into("2.1", kind="Q")
    with pytest.raises(BadInput, match=r"Compute these alone with `scores_into\(lm, reader, kind=...\)`"):
        Channels(most=0)(atlas).into("2.1", kind="Q")
    with pytest.raises(BadInput, match=r"'9\.9\.1' is not in this result"):
        result.of("9.9.1", kind="V")


def test_rotary_models_are_scored_at_stated_distances_only(story):
    result = Channels()(story)
    assert list(result.data["kind"].values) == ["V"] and any(
        "only V was scored" in line for line in result.report_lines()
    )
    assert not any("only V" in line for line in Channels(offsets=(1,))(story).report_lines())
    with pytest.raises(BadInput, match=r"QK is another matrix at every distance. Give distances"):
        Channels(kinds=("Q",))(story)
    with pytest.raises(BadInput, match=r"offsets=\(1,\); *|leave out offsets=\(1,\)"):
        Channels(kinds=("V",), offsets=(1,))(story)
    with pytest.raises(BadInput, match="beyond the context"):
        Channels(offsets=(1, 99999))(story)


def test_a_window_ends_before_a_distance():
    lm = tiny_lm("qwen3", "nnsight")  # windows of 5 tokens in layers 0 and 2
    near, far = Channels(offsets=(4,))(lm).data, Channels(offsets=(5,))(lm).data
    assert bool(near["total"].sel(layer=0, reader_layer=[1, 2, 3]).notnull().all())
    kinds = far["total"].sel(layer=0)
    assert bool(kinds.sel(kind=["Q@5", "K@5"], reader_layer=2).isnull().all())
    assert bool(
        kinds.sel(kind=["Q@5", "K@5"], reader_layer=[1, 3]).notnull().all()
        and kinds.sel(kind="V", reader_layer=2).notnull().all()
    )


@pytest.mark.parametrize("family", ["gpt_neo", "gpt_neox", "gemma2", "olmo2", "phi3", "gpt_oss"])
def test_every_kind_of_family_is_scored(family):
    lm = tiny_lm(family, "nnsight")
    offsets = (2,) if lm.spec.positions == "rotary" else ()
    for folded in (True, False):
        result = Channels(offsets=offsets, folded=folded, precision="float64")(lm)
        assert result.data.sizes["kind"] == 3 and bool(
            result.data["total"].sel(layer=0, reader_layer=3).notnull().all()
        )
        for kind in result.data["kind"].values:  # the shared products of grouped queries against one reader alone
            offset = None if "@" not in kind else 2
            alone = scores_into(lm, "3.3", kind=kind[0], setting=Setting(folded), offset=offset)
            assert np.allclose(result.into("3.3", kind=kind), alone, atol=1e-12)


def test_heads_of_one_dimension_and_one_shared_head():
    thin = tiny_lm("gpt2", "nnsight", n_head=32)
    result = Channels(precision="float64")(thin)
    compare(thin, result, folded=True, within=5e-7)
    assert (
        result.data.sizes["component"] == 1
        and bool(result.data["best_z"].isnull().all())
        and len(result.headline()) == 2
    )
    known = result.data["total"].notnull()
    assert float(np.abs(result.data["best"] - result.data["total"]).where(known).max()) < 1e-12
    shared = tiny_lm("llama", "nnsight", num_key_value_heads=1)
    compare(shared, Channels(precision="float64", offsets=(2,))(shared), folded=True, within=5e-7, offset=2)


def test_what_has_no_component_is_said(planted):
    zero = torch.zeros_like(planted.weights.W_O(0)[2])
    low = planted.weights.W_O(0)[6].clone()
    low[10:] = 0
    with planted.edit_weights(
        {"W_O.0.2": zero, "W_O.0.6": low, "W_Q.1.3": torch.zeros_like(planted.weights.W_Q(1)[3])}
    ):
        result = Channels()(planted)
    assert result.data["rank"].values[0].tolist() == [16, 16, 0, 16, 16, 16, 10, 16]
    assert any(
        "1 heads write nothing, 1 have fewer than 16 components: 22 have no score" in line
        for line in result.report_lines()
    )
    first = result.data["score"].sel(layer=0, reader_layer=1)
    assert bool(first.sel(head=2).isnull().all() and first.sel(head=6, component=slice(10, None)).isnull().all())
    assert bool(
        first.sel(kind=["Q", "K"], reader_head=3).isnull().all()
        and first.sel(kind="V", reader_head=3, head=0).notnull().all()
    )
    assert result.data.attrs["scored"] == (16 * 6 + 10) * (8 + 7 + 7) and bool(result.data["top_p"].notnull().all())
    with pytest.raises(BadInput, match=r"there is no component '0.6.12': head 0.6 has rank 10"):
        result.of("0.6.12", kind="Q")
    with pytest.raises(BadInput, match=r"head '1.3' reads nothing as Q"):
        result.p_value(0.1, "1.3", kind="Q")


def test_components_that_cannot_be_told_apart_are_marked(planted):
    o = planted.weights.W_O(0)[1].clone()
    o[4] *= float(o[5].norm() / o[4].norm()) * 1.25**0.5 / 1.25**0.5
    v = planted.weights.W_V(0)[1].clone()
    v[:, 4] *= float(v[:, 5].norm() / v[:, 4].norm())
    with planted.edit_weights({"W_O.0.1": o, "W_V.0.1": v}):
        result = Channels()(planted)
        rows = result.channels(500)
    pair = rows[rows["writer"].isin(["0.1.4", "0.1.5"])]
    assert len(pair) and not pair["alone"].any() and bool((pair["gap"] < 1.001).all())
    assert rows[~rows["writer"].isin(["0.1.4", "0.1.5"])]["alone"].all()
    assert any("only their common subspace" in line for line in result.report_lines())


def test_nan_is_loud(planted):
    bad = planted.weights.W_V(1)[2].clone()
    bad[3, 3] = float("nan")
    with planted.edit_weights({"W_V.1.2": bad}), pytest.raises(BadInput, match=r"NaN or infinite numbers in head 1.2"):
        Channels()(planted)


def test_models_and_data_that_it_refuses(atlas, real_models):
    with pytest.raises(BadInput, match="has one layer, and channels are from heads to heads of later layers"):
        Channels()(tiny_lm("gpt2", "nnsight", n_layer=1))
    with pytest.raises(BadInput, match="they take no data, and were given a list"):
        Channels()(atlas, [1])
    with pytest.raises(BadInput, match="for models with rotary positions; atlas has one QK"):
        Channels(offsets=(1,))(atlas)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"kinds": ("Q", "O")}, "`kinds` must be one of 'Q', 'K' or 'V'; not 'O'"),
        ({"kinds": ()}, "must name one or more"),
        ({"kinds": ("Q", "Q")}, "each once"),
        ({"offsets": (-1,)}, "0 or more tokens"),
        ({"offsets": (1, 1)}, "different distances"),
        ({"offsets": (True,)}, "different distances"),
        ({"precision": "bfloat16"}, "`precision` must be one of"),
        ({"rank_by": "p"}, "`rank_by` must be one of"),
        ({"top": 0}, "`top` must be at least 1"),
        ({"most": -1}, "`most` at least 0"),
    ],
)
def test_options_are_checked(options, said):
    with pytest.raises(BadInput, match=said):
        Channels(**options)


def test_it_is_saved_and_says_its_cost(atlas, story, tmp_path):
    for lm, method in ((atlas, Channels()), (story, Channels(offsets=(1, 2), most=0, top=30))):
        result = method(lm)
        back = interp.open(result.save(tmp_path / lm.spec.name))
        assert back.data.identical(result.data) and type(back) is type(result)
        assert back.channels().equals(result.channels()) and back.headline() == result.headline()
        assert back.report_lines() == result.report_lines() and len(result.report_lines()) >= 11
        assert len(result._repr_html_()) < 30_000 and len(result.headline()) == 3
        frame = result.to_frame()
        assert len(frame) == int(result.data["best"].notnull().sum()) and frame["best"].notna().all()
        cost = method.cost(lm)
        assert cost.forwards == 0 and "floating-point operations" in cost.note and cost.bytes > 0
    rows, d = 4 * 32, 128
    flops = 3 * 2 * rows * d * rows * 6  # three kinds, six pairs of layers
    assert f"{flops:.2g} floating" in Channels().cost(atlas).note


def test_windows_that_end_before_a_distance_are_said():
    lines = Channels(kinds=("Q",), offsets=(4, 5))(tiny_lm("mistral", "nnsight")).report_lines()
    assert "Q@5: 4 of 4 layers do not read so far back; their windows end before." in lines
    assert not any("Q@4:" in line for line in lines)


def test_heads_wider_than_the_stream_are_refused():
    with pytest.raises(BadInput, match=r"heads of .* are wider \(40\) than its stream \(32\)"):
        Channels()(tiny_lm("llama", "nnsight", head_dim=40))


def test_a_list_of_less_than_nothing_is_refused(planted):
    found = Channels(top=3)(planted)
    assert len(found.channels(0)) == 0 and len(found.channels(9)) == 3
    with pytest.raises(BadInput, match="0 channels or more; not -1"):
        found.channels(-1)
