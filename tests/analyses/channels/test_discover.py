"""Circuits from weights: planted channels and nothing else, nothing in null models, path patching beside it, and what is refused."""

import numpy as np
import pytest
import torch
from scipy import stats

import interp
from interp import Prompt, PromptPair
from interp.analyses.channels import Setting, decompose, reader
from interp.analyses.channels.component import Head
from interp.analyses.channels.discovery.discover import ChannelCircuit
from interp.analyses.channels.discovery.result import IOI_HEADS, recovered
from interp.analyses.channels.discovery.walk import Bench, Node, Rule, examine
from interp.analyses.paths import PathPatching
from interp.core.errors import BadInput
from interp.core.seed import generator
from interp.models import reference
from tests.models.wrapped import lm as tiny_lm

from . import by_hand

SPEAKS = PromptPair(Prompt("one cue two goal three stop"), Prompt("one red two goal three stop"))
"""The planted Q channel acts on the clean prompt: 0.1.5 says `cue` to the query of 1.2."""


def names(result):
    return [str(name) for name in result.data["edge"].values]


# ---------------------------------------------------------------- planted channels


@pytest.mark.parametrize("channel", reference.channels().answers["channels"])
def test_a_planted_channel_is_found_from_both_ends_and_nothing_else(planted, channel):
    writer = "{}.{}.{}".format(*channel.writer, channel.component)
    to = "{}.{}".format(*channel.reader)
    down, up = ChannelCircuit(start=writer)(planted), ChannelCircuit(start=to)(planted)
    assert names(down) == names(up) == [f"{writer}>{channel.kind}:{to}"]
    assert down.data["step"].values.tolist() == [1] and up.data["step"].values.tolist() == [-1]
    score = reference.channels().answers["score"]
    for result in (down, up):
        (row,) = result.edges().to_dict("records")
        assert row["score"] == pytest.approx(score, abs=1e-6) and row["over"] == pytest.approx(
            score * 127**0.5, abs=1e-4
        )
        assert row["z_readers"] > 3  # nobody else reads it
        assert row["z"] > 10 and row["log10_adjusted"] < -100 and row["log10_null"] < -100
        assert row["value"] == pytest.approx(4096 * 0.8**channel.component, rel=1e-5)  # the gain of the norm is 4096
        assert row["gap"] == pytest.approx(1.25, rel=1e-4)
    assert down.heads()[["layer", "head"]].values.tolist() == [list(channel.reader)]
    assert up.heads()[["layer", "head"]].values.tolist() == [list(channel.writer)]
    through = {"V": f"{to}.0"}.get(channel.kind, "")
    assert str(up.data["through"].values[0]) == through
    if through:
        assert float(up.data["cosine"][0]) == pytest.approx(1, abs=1e-6)
        inner = ChannelCircuit(start=through, direction="upstream")(planted)  # from the component that reads
        assert names(inner) == [f"{writer}>V:{through}"] and float(inner.data["score"][0]) == pytest.approx(1, abs=1e-6)


def test_without_a_start_it_begins_at_the_strongest_channel(planted):
    found = ChannelCircuit()(planted)
    assert names(found) == ["0.3.2>K:1.6"] and found.start == "0.3.2" and found.data["step"].values.tolist() == [0]
    assert found.families().loc["start", "tests"] == 3 * 64 * 17 and found.families().loc["start", "kept"] == 1
    assert "channels from 0.3.2" in next(iter(found.headline()))


@pytest.mark.parametrize(
    "options", [{}, {"null": "analytic"}, {"null": "shuffle", "draws": 13}, {"correction": "bh"}, {"folded": False}]
)
def test_a_null_model_gives_nothing(null, options, tmp_path):
    found = ChannelCircuit(**options)(null)
    assert names(found) == [] and found.start == "" and len(found.edges()) == len(found.heads()) == 0
    assert "nowhere" in next(iter(found.headline())) and any(
        "nowhere to start" in line for line in found.report_lines()
    )
    found.save(tmp_path / "none")
    assert len(interp.open(tmp_path / "none").edges()) == 0


@pytest.mark.parametrize("start", ["0.1", "1.2", "1.0.0"])
def test_a_null_model_gives_nothing_from_any_start(null, start):
    assert names(ChannelCircuit(start=start, null="analytic")(null)) == []


def test_the_analytic_null_alone_takes_a_shared_subspace_for_channels(planted):
    """All heads use the same 63 of 127 dimensions; only the null that knows it leaves the planted channels alone."""
    loose, strict = (
        ChannelCircuit(null=null, start=start)(planted) for null, start in (("analytic", "1.0"), ("shared", "1.0"))
    )
    assert names(strict) == ["0.4.9>V:1.0"] and len(names(loose)) > 1
    row = strict.families().iloc[0]
    assert row["passed_p"] > row["passed_both"] > row["passed_null"] == row["kept"] == 1


def test_scores_and_projections_are_those_of_full_matrices(planted):
    ov, qk = by_hand.matrices(planted.module, folded=True)
    write = by_hand.writes(ov, 16)
    found = ChannelCircuit(start="1.0", alpha=0.999, z=0.0, null="analytic", most=10_000, whole=False)(planted)
    table = found.edges()
    assert len(table) > 20
    for _, row in table.iterrows():
        head, index = (int(word) for word in row["source"].split(".")[1:])
        m = by_hand.reads(ov[1, 0], qk[1, 0], row["kind"])
        assert row["score"] == pytest.approx(float(by_hand.component_scores(write[0, head], m)[index]), abs=1e-6)
        if row["kind"] == "V":
            read = torch.linalg.svd(ov[1, 0]).U.T[:16]
            assert row["cosine"] == pytest.approx(float((read @ write[0, head, index]).abs().max()), abs=1e-6)


def test_the_limit_on_channels_is_said(planted):
    wide = ChannelCircuit(start="1.0", alpha=0.5, z=0.0, null="analytic", most=3, direction="upstream", depth=1)(
        planted
    )
    assert len(names(wide)) == 3 and wide.data["kept"].values.tolist() == [3]
    cut = int(wide.data["cut"].sum())
    assert cut > 0 and any(f"{cut} channels beyond the 3" in line for line in wide.report_lines())
    full = ChannelCircuit(start="1.0", alpha=0.5, z=0.0, null="analytic", most=500, direction="upstream", depth=1)(
        planted
    )
    assert set(names(wide)) < set(names(full)) and not full.data["cut"].values.any()


def chain():
    """Three layers of random heads; 0.1.3 writes what 1.5.2 reads as value, and that writes what 2.4 reads as query."""
    from transformers import GPT2Config, GPT2LMHeadModel

    from interp.models.load import wrap

    d, heads, h = 128, 8, 16
    sizes = {"n_embd": d, "n_layer": 3, "n_head": heads, "n_positions": 32, "vocab_size": 18}
    with torch.random.fork_rng(devices=[]):
        module = GPT2LMHeadModel(GPT2Config(**sizes, bos_token_id=0, eos_token_id=0)).eval()
    draw = generator(0, "chain")

    def rows(first=None):
        x = torch.randn(h, d, generator=draw, dtype=torch.float64)
        x -= x.mean(dim=1, keepdim=True)
        at, vector = first or (0, x[0])
        order = [at, *(row for row in range(h) if row != at)]
        x[at] = vector
        q = torch.linalg.qr(x[order].T)
        return (q.Q * q.R.diagonal().sign()).T[torch.tensor(order).argsort()]

    s = 0.8 ** torch.arange(h, dtype=torch.float64)
    parts = {(layer, head): {name: rows() for name in "abuv"} for layer in range(3) for head in range(heads)}
    parts[1, 5]["v"] = rows((2, parts[2, 4]["a"][0]))
    parts[0, 1]["v"] = rows((3, parts[1, 5]["u"][2]))
    with torch.no_grad():
        for (layer, head), p in parts.items():
            attn = module.transformer.h[layer].attn
            for third, name in enumerate("abu"):
                attn.c_attn.weight[:, third * d + head * h : third * d + (head + 1) * h] = (
                    p[name].T * s.sqrt()
                ).float()
            attn.c_proj.weight[head * h : (head + 1) * h] = (s.sqrt()[:, None] * p["v"]).float()
    return wrap(module.requires_grad_(False), reference.channels().tokenizer, "chain")


@pytest.fixture(scope="module")
def chained():
    return chain()


@pytest.mark.parametrize("null", ["shared", "analytic", "shuffle"])
def test_a_chain_of_two_channels_is_walked_both_ways(chained, null):
    lm = chained
    down = ChannelCircuit(start="0.1.3", null=null)(lm)
    assert names(down) == ["0.1.3>V:1.5", "1.5.2>Q:2.4"] and down.data["step"].values.tolist() == [1, 2]
    assert down.data["through"].values.tolist() == ["1.5.2", ""] and float(down.data["cosine"][0]) == pytest.approx(
        1, abs=1e-5
    )
    up = ChannelCircuit(start="2.4", null=null)(lm)
    assert names(up) == ["1.5.2>Q:2.4", "0.1.3>V:1.5.2"] and up.data["step"].values.tolist() == [-1, -2]
    assert up.heads()[["layer", "head", "step"]].values.tolist() == [[0, 1, -2], [1, 5, -1]]


def test_a_chain_is_walked_from_its_middle_and_no_further_than_asked(chained):
    lm = chained
    middle = ChannelCircuit(start="1.5.2")(lm)
    assert names(middle) == ["0.1.3>V:1.5.2", "1.5.2>Q:2.4"] and middle.data["step"].values.tolist() == [-1, 1]
    assert names(ChannelCircuit(start="0.1.3", depth=1)(lm)) == ["0.1.3>V:1.5"]
    assert names(ChannelCircuit(start="0.1.3", kinds=("Q", "K"))(lm)) == []
    assert (
        middle.recovered({"all": [(0, 1), (2, 4)], "none": [(1, 1)]})["recall"] == 1
    )  # 1.1, beside the start, is out of reach


# ---------------------------------------------------------------- whole heads and blocks


def test_the_induction_pair_is_one_block_that_speaks_to_the_keys():
    lm = reference.as_lm(reference.induction())
    for start in ("1.0", "0.0", ""):
        found = ChannelCircuit(start=start)(lm)
        assert names(found) == ["0.0.0-31>K:1.0"]  # 32 equal singular values: one node
        assert np.isnan(found.data["z"].values[0]) and found.families().iloc[0]["unjudged"] == 3
    assert names(ChannelCircuit()(reference.as_lm(reference.induction(null=True)))) == []
    with pytest.raises(BadInput, match="cannot be told from its neighbours"):
        ChannelCircuit(start="0.0.3")(lm)


def test_the_previous_token_head_of_atlas_speaks_to_its_induction_heads_with_all_it_has(atlas):
    found = ChannelCircuit()(atlas)
    assert set(names(found)) == {"0.2>K:1.1", "0.2>K:1.2"}
    heads = interp.HeadScores(sequences=2, periods=(16,))(atlas)
    assert heads.top("previous", 1)[["layer", "head"]].values.tolist() == [[0, 2]]
    assert sorted(heads.top("induction", 2)[["layer", "head"]].values.tolist()) == [[1, 1], [1, 2]]
    alone = ChannelCircuit(start="1.1", direction="upstream", whole=False)(atlas)
    assert names(alone) == []  # no component of it stands out, as of 4.11 towards 5.5 in GPT-2
    assert alone.families().iloc[0]["passed_p"] > 10


def test_a_whole_head_is_not_named_beside_its_own_component(planted):
    bench = Bench(planted)
    target = next(target for target in bench.targets(Node(Head(1, 2))) if target.kind == "Q")
    step = examine(bench, [(None, target)], Rule(z=3.0, null="analytic"))
    sources = [edge.source.name for edge in step.kept]
    assert "0.1.5" in sources and "0.1" not in sources
    assert step.tests == 8 * 17


# ---------------------------------------------------------------- rotary and grouped-query models


def test_rotary_models_at_a_distance_or_by_value():
    plan = reference.rotary_channels()
    lm, offset = reference.as_lm(plan), plan.answers["offset"]
    value = ChannelCircuit(start="0.4.9")(lm)
    assert set(names(value)) == {f"0.4.9>V:{layer}.{head}" for layer, head in _pairs(plan.answers["group"])}
    assert any("left out" in line for line in value.report_lines())
    query = ChannelCircuit(start="0.1.5", offsets=(offset,))(lm)
    assert names(query) == [f"0.1.5>Q@{offset}:1.2"]
    assert names(ChannelCircuit(start="1.2", offsets=(offset,), direction="upstream")(lm)) == [f"0.1.5>Q@{offset}:1.2"]
    with pytest.raises(BadInput, match="another matrix at every distance"):
        ChannelCircuit(start="1.2", kinds=("Q",))(lm)


def test_a_window_that_ends_before_the_distance_is_no_reader():
    lm = tiny_lm("mistral", "nnsight")
    near, far = (
        ChannelCircuit(start="3.1", direction="upstream", depth=1, offsets=(offset,), null="analytic")(lm)
        for offset in (4, 5)
    )
    assert int(near.data["tests"][0]) == 3 * int(far.data["tests"][0])  # V is read at any distance
    assert {target.kind for target in Bench(lm, offsets=(5,)).targets(Node(Head(3, 1)))} == {"V"}
    assert bool(reader(lm, 3, "Q", offset=5).side.isnan().all())
    assert bool(reader(lm, 3, "Q", offset=5).spectrum.isnan().all())


def _pairs(group):
    return [tuple(one) if isinstance(one, tuple | list) else (1, one) for one in group]


def test_the_real_checkpoint(real_models, tmp_path):
    lm = interp.load(str(real_models / "stories260K-llama"), check=False)
    found = ChannelCircuit(start="3.0", depth=1)(lm)
    assert set(found.data["kind"].values.tolist()) <= {"V"} and (found.data["tests"] > 0).all()
    near = ChannelCircuit(start="3.0", direction="upstream", offsets=(1,), kinds=("Q", "K"), depth=1)(lm)
    assert set(near.data["kind"].values.tolist()) <= {"Q@1", "K@1"}
    near.save(tmp_path / "near")
    assert interp.open(tmp_path / "near").edges().equals(near.edges())


# ---------------------------------------------------------------- path patching


def test_the_planted_writer_agrees_with_its_path_and_loses_it_when_the_component_is_removed(planted):
    """Doing the intervention: without the component, the writer says nothing more of `cue` to the reader's query."""
    config = ChannelCircuit(start="1.2", direction="upstream", agree=True, kinds=("Q",))
    found = config(planted, [SPEAKS])
    assert names(found) == ["0.1.5>Q:1.2"]
    table = found.agreement(top=1)
    assert (
        table["receiver"].tolist() == ["Q:1.2"] and table["overlap"].tolist() == [1] and table["heads"].tolist() == [8]
    )
    assert table["p_overlap"][0] == pytest.approx(1 / 8)
    direct = PathPatching(receivers=("q:1.2",))(planted, [SPEAKS]).effects().isel(receiver=0, role=0)
    np.testing.assert_allclose(
        found.data["path_effect"].isel(receiver=0, layer=0).values, direct.sel(layer=0).values, atol=1e-9
    )
    assert found.data["path_effect"].isel(layer=1).isnull().all()
    parts = decompose(planted, 0, Setting(folded=False))
    write = parts.write[1, 5].float()
    ov = planted.weights.W_O(0)[1]
    with planted.edit_weights({"W_O.0.1": ov - ov @ write[:, None] @ write[None]}):
        after = config(planted, [SPEAKS])
    before, now = (abs(float(one.data["path_effect"].sel(layer=0, head=1).mean())) for one in (found, after))
    assert before > 1e-3 and now < 0.05 * before
    assert names(after) == []


def test_agreement_with_paths_on_indirect_objects(atlas, tmp_path):
    pairs = reference.task("atlas", "ioi", 8)
    found = ChannelCircuit(start="3.3", direction="upstream", depth=1, agree=True, kinds=("Q", "K"))(atlas, pairs)
    assert names(found) == ["2.1.1>Q:3.3"]
    assert found.data["path_effect"].sizes == {"receiver": 2, "pair": 8, "layer": 4, "head": 4}
    for measure in ("best", "total", "loud"):
        table = found.agreement(measure=measure)
        assert table["receiver"].tolist() == ["Q:3.3", "K:3.3", "all"] and table["heads"].tolist() == [12, 12, 24]
        assert (table["rho"].abs() <= 1).all() and ((table["p"] > 0) & (table["p"] <= 1)).all()
        score = found.data[measure].sel(receiver="Q:3.3").values[:3].ravel()
        effect = np.abs(found.data["path_effect"].sel(receiver="Q:3.3").values[found.data["known"].values].mean(axis=0))
        rho = stats.spearmanr(score, effect[:3].ravel())
        assert table["rho"][0] == pytest.approx(rho.statistic) and table["p"][0] == pytest.approx(rho.pvalue, abs=0.03)
    ov, qk = by_hand.matrices(atlas.module, folded=True)
    whole = float(by_hand.head_score(ov[2, 1], qk[3, 3]))
    assert float(found.data["total"].sel(receiver="Q:3.3", layer=2, head=1)) == pytest.approx(whole, abs=1e-6)
    loud = float((ov[2, 1] @ qk[3, 3]).norm() / qk[3, 3].norm())
    assert float(found.data["loud"].sel(receiver="Q:3.3", layer=2, head=1)) == pytest.approx(loud, abs=1e-5)
    found.save(tmp_path / "agree")
    again = interp.open(tmp_path / "agree")
    assert again.agreement(n=99).equals(found.agreement(n=99)) and again.headline() == found.headline()
    assert any("rho" in line for line in again.report_lines()) and "path patching" in again._repr_html_()
    with pytest.raises(BadInput, match="'best', 'total' or 'loud'"):
        found.agreement(measure="score")


def test_what_is_found_in_the_weights_of_atlas_is_what_carries_induction(atlas):
    """0.2 into the keys of 1.1 and 1.2: of all 16 pairs of heads these two matter, where the earlier copy's predecessor is changed."""
    pairs = []
    for one in reference.task("atlas", "induction", 8):
        clean = one.clean
        start, end = clean.spans["first"]
        said = (clean.text[start:end].strip(), clean.answer.strip())
        other = next(word.strip() for word in clean.meta["candidates"] if word.strip() not in said)
        moved = len(other) - (end - start)
        spans = {"first": (start, end + moved), "after": tuple(place + moved for place in clean.spans["after"])}
        text = clean.text[:start] + other + clean.text[end:]
        pairs.append(PromptPair(clean, Prompt(text, spans=spans, answer=clean.foil, foil=clean.answer)))
    config = ChannelCircuit(
        start="1.1", direction="upstream", kinds=("K",), agree=True, into=("1.0", "1.2", "1.3"), at="after"
    )
    found = config(atlas, pairs)
    linked = [
        str(found.data["receiver"].values[a]) + f" {b}.{c}" for a, b, c in np.argwhere(found.data["linked"].values)
    ]
    assert linked == ["K:1.1 0.2", "K:1.2 0.2"]
    row = found.agreement(top=2, measure="total").iloc[-1]
    assert row["receiver"] == "all" and row["heads"] == 16 and row["linked"] == 2
    assert row["effect_linked"] > 4 and row["effect_rest"] < 0.2 and row["p_linked"] == pytest.approx(1 / 120)
    assert row["overlap"] == 2 and row["p_overlap"] == pytest.approx(1 / 120)
    every = found.agreement(n=99)
    assert "K:1.1" in every["receiver"].tolist() and np.isnan(every["effect_linked"][1])
    assert "agreement" in found.families().index and "all" in next(name for name in found.headline() if "rank" in name)


def test_a_broadcast_is_told_from_a_channel(real_models):
    """Nearly all heads of layer 1 read one component of layer 0: significant, outstanding in its head, and not private at all."""
    lm = interp.load(str(real_models / "tinytalk-slang"), check=False)
    first = ChannelCircuit(start="0.10.0", direction="downstream", depth=1, most=100, kinds=("K",))(lm).edges()
    first = first[first["destination"].str.startswith("1.")]
    assert len(first) > 8 and (first["z"] > 4).all() and (first["z_readers"] < 3).all()
    row = first.iloc[0]
    _, head = map(int, row["destination"].split("."))
    side = reader(lm, 1, "K").side
    score = (decompose(lm, 0).write[10, 0] @ side).norm(dim=-1).numpy()
    others = np.delete(score, head)
    assert row["z_readers"] == pytest.approx((score[head] - others.mean()) / others.std(ddof=1), rel=1e-6)


def test_grouped_keys_are_patched_as_the_group(real_models):
    lm = tiny_lm("llama", "transformer_lens")
    ids = [Prompt(lm.tokenizer.decode([5, 6, 7, 8, 9])), Prompt(lm.tokenizer.decode([5, 6, 10, 8, 9]))]
    found = ChannelCircuit(start="1.0", direction="upstream", agree=True)(lm, [PromptPair(*ids)])
    assert found.data["receiver"].values.tolist() == ["V:1.0"] and found.data["path_effect"].sizes["pair"] == 1


# ---------------------------------------------------------------- known heads


def test_precision_and_recall_of_known_heads(planted):
    among = [(layer, head) for layer in range(9) for head in range(12)]
    found = recovered([(7, 9), (8, 6), (8, 10), (8, 3), (1, 1)], IOI_HEADS, among=among)
    assert found["precision"] == pytest.approx(4 / 5) and found["found"] == 5
    assert found["known"] == 17 and found["recall"] == pytest.approx(4 / 17)  # movers lie above layer 8
    assert found["roles"]["inhibition"] == 0.75 and np.isnan(found["roles"]["mover"])
    assert found["p"] == pytest.approx(stats.hypergeom.sf(3, 108, 17, 5))
    with pytest.raises(BadInput, match="not `among`"):
        recovered([(9, 9)], IOI_HEADS, among=among)
    nobody = recovered([], IOI_HEADS, among=among)
    assert np.isnan(nobody["precision"]) and nobody["recall"] == 0 and nobody["p"] == 1
    mine = ChannelCircuit(start="1.2")(planted).recovered({"writer": [(0, 1)], "reader": [(1, 2)]})
    assert mine["precision"] == mine["recall"] == 1 and mine["among"] == 8 and mine["known"] == 1


def test_the_known_heads_of_gpt2():
    try:
        lm = interp.load("gpt2")
    except Exception as why:  # the weights are the user's own
        pytest.skip(f"gpt2 is not on this machine: {type(why).__name__}")
    for folded in (True, False):
        found = ChannelCircuit(start="9.9", direction="upstream", kinds=("Q",), folded=folded)(lm)
        scores = found.recovered(IOI_HEADS)
        assert scores["roles"]["inhibition"] >= 0.5 and scores["p"] < 0.01


# ---------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"start": "9"}, "neither a component"),
        ({"start": "a.b"}, "layer.head"),
        ({"direction": "sideways"}, "'both', 'upstream' or 'downstream'"),
        ({"depth": 0}, "`depth` must be at least 1"),
        ({"kinds": ("O",)}, "'Q', 'K' or 'V'"),
        ({"kinds": ()}, "one or more of Q, K and V"),
        ({"kinds": ("Q", "Q")}, "once"),
        ({"alpha": 0.0}, "between 0 and 1"),
        ({"z": -1.0}, "0 or more"),
        ({"z": float("nan")}, "0 or more"),
        ({"correction": "bonferroni"}, "'holm' or 'bh'"),
        ({"null": "rotation"}, "'shared', 'analytic' or 'shuffle'"),
        ({"most": 0}, "`most` must be at least 1"),
        ({"into": ("1.0",)}, "agree=True"),
        ({"offsets": (1, 1)}, "different distances"),
        ({"offsets": (-1,)}, "0 or more tokens"),
        ({"into": ("1",), "agree": True}, "layer.head"),
        ({"at": " last"}, "position must be named"),
    ],
)
def test_bad_options(options, words):
    with pytest.raises(BadInput, match=words):
        ChannelCircuit(**options)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"start": "0.1", "direction": "upstream"}, "the first layer"),
        ({"start": "1.2.0", "direction": "downstream"}, "the last layer"),
        ({"start": "2.0"}, "layers 0 to 1"),
        ({"start": "1.2.16"}, "components 0 to 15"),
        ({"offsets": (1,)}, "rotary"),
        ({"null": "shuffle", "draws": 12}, "12 shuffles of 8 heads never.*draws=13 or more"),
        ({"start": "0.1", "agree": True}, "the first layer"),
        ({"start": "1.2", "agree": True}, "no pairs"),
        ({"start": "1.2", "agree": True, "into": ("0.1",)}, "the first layer"),
    ],
)
def test_bad_starts(planted, options, words):
    with pytest.raises(BadInput, match=words):
        ChannelCircuit(**options)(planted)


def test_data_without_agree_are_refused_and_results_without_pairs_have_no_agreement(planted):
    with pytest.raises(BadInput, match="agree=True"):
        ChannelCircuit(start="1.2")(planted, [SPEAKS])
    with pytest.raises(BadInput, match="no path was patched"):
        ChannelCircuit(start="1.2")(planted).agreement()
    assert ChannelCircuit().takes == "weights" and ChannelCircuit(agree=True).takes == "pairs"


def test_the_cost_is_said(planted, atlas):
    assert ChannelCircuit().cost(planted).forwards == 0 and "no forward pass" in ChannelCircuit().cost(planted).note
    cost = ChannelCircuit(start="3.3", agree=True).cost(atlas, reference.task("atlas", "ioi", 4))
    assert cost.forwards > 0 and "path patching" in cost.note


def test_too_many_pairs_are_refused(planted, monkeypatch):
    monkeypatch.setattr("interp.analyses.channels.discovery.discover.LARGEST", 100)
    with pytest.raises(BadInput, match="too many to compare at once"):
        ChannelCircuit()(planted)
    assert names(ChannelCircuit(start="1.2")(planted)) == ["0.1.5>Q:1.2"]
