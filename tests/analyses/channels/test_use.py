"""Channel use: parts that sum, contributions that come true when the write is taken away by plain hooks, and channels that are silent."""

import numpy as np
import pytest
import torch

import interp
import tests.oracle as oracle
from interp.analyses.channels import Component, Head, ov
from interp.analyses.channels.use.able import Ability, Channel
from interp.analyses.channels.use.parts import Split
from interp.analyses.channels.use.use import ChannelUse
from interp.cache import Store
from interp.core.artifact import open_result
from interp.core.errors import BadInput, InterpError, SpanError
from interp.data import Corpus, Prompt
from interp.models import reference
from interp.models.load import load, wrap
from tests.analyses.test_tracing import words
from tests.models.tiny import FAMILIES, tiny, tokens

TEXTS = ["Once upon a time there was a little girl", "The big dog ran to the old house and sat"]


@pytest.fixture(scope="module")
def planted():
    return reference.channels()


@pytest.fixture(scope="module")
def wired(planted):
    return reference.as_lm(planted)


@pytest.fixture(scope="module")
def acting(planted, wired):
    """On the prompt that the Q channel acts on, one without its cue, and one without cue and goal."""
    prompts = [
        Prompt.of(planted.answers["prompt"], it="goal"),
        Prompt.of("one red two goal three stop", it="goal"),
        Prompt.of("one red two blue three stop", it="blue"),
    ]
    return ChannelUse(n=3, rank_by="score")(wired, prompts)


# What is planted


def test_the_planted_channel_is_found_and_used_more_than_anything_of_its_head(acting, planted):
    assert set(acting.data["channel"].values[acting.data["chosen"].values]) == {
        "0.1.5 Q 1.2",
        "0.3.2 K 1.6",
        "0.4.9 V 1.0",
    }
    assert np.allclose(acting.data["able"].values[:3], planted.answers["score"], atol=1e-3)
    one = acting.data.sel(channel="0.1.5 Q 1.2").isel(prompt=0)
    assert float(one["share"]) > 0.5
    assert acting.table().set_index("channel")["rank"]["0.1.5 Q 1.2"] == 1
    assert float(one["read"].sel(span="it")) == float(one["read"].max())


def test_the_planted_channel_writes_and_is_read_by_its_closed_form(acting, planted):
    module, s = planted.module, planted.answers["singular_values"]
    ids = torch.tensor(planted.tokenizer(planted.answers["prompt"])["input_ids"])
    x, later = (oracle.capture(module, "resid_pre", layer, ids[None])[0].double() for layer in (0, 1))
    W_V, W_O = (one.double() for one in head_of(module, 0, 1)[:2])
    U, _, Vh = torch.linalg.svd(W_V @ W_O)
    written = (x @ U[:, 5]).mean() * s[5]  # uniform attention; the sign is that of u and v together
    one = acting.data.sel(channel="0.1.5 Q 1.2").isel(prompt=0)
    assert abs(float(one["write"].sel(span="last"))) == pytest.approx(abs(float(written)), rel=1e-3)
    fused = module.transformer.h[1].attn.c_attn.weight.double()
    W_Q, W_K = fused[:, 32:48], fused[:, 160:176]
    a, scale, b = torch.linalg.svd(W_Q @ W_K.T)
    assert abs(float(Vh[5] @ a[:, 0])) == pytest.approx(1, abs=1e-4)
    score = written * (Vh[5] @ a[:, 0]) * scale[0] * (later @ b[0]) / 16**0.5
    want = score - score.mean()
    for span, column in (("it", planted.answers["goal"]), ("first", 0), ("last", len(ids) - 1)):
        assert float(one["read"].sel(span=span)) == pytest.approx(float(want[column]), rel=2e-3, abs=1e-5)
    assert float(one["size"]) == pytest.approx(float(want.std(correction=0)), rel=2e-3)


def test_what_is_able_and_not_written_is_silent(acting, wired):
    quiet = acting.data.sel(channel="0.1.5 Q 1.2")
    assert float(abs(quiet["size"]).isel(prompt=2)) < 1e-5 * float(quiet["size"].isel(prompt=0))
    assert abs(float(quiet["share"].isel(prompt=2))) < 1e-5 and float(quiet["loud"].isel(prompt=2)) < 1e-9
    alone = ChannelUse(writers=("0.1.5",), readers=("1.2",), kinds=("Q",), beside=False)(
        wired, "one red two blue three stop"
    )
    assert alone.silent() == ["0.1.5 Q 1.2"] and alone.headline()["silent of 1 channels"] == 1
    assert float(alone.data["able"][0]) > 0.59 and float(alone.data["total"][0, 0]) > 0


def test_in_random_weights_no_component_is_more_than_one_of_many():
    lm = reference.as_lm(reference.channels(null=True))
    found = ChannelUse(n=5)(lm, ["one cue two goal three stop", "red blue green one two cue"])
    assert float(found.relative().mean("prompt").sel(channel=found.data["chosen"]).max()) < 0.3
    assert float(abs(found.data["able_z"]).max()) < 6


# Doing the intervention, by plain hooks


def head_of(model, layer, head):
    """(W_V [d_model, d_head], W_O [d_head, d_model], norm before attention, its key/value head) from the modules themselves."""
    block, attention, d = oracle.body(model)[1][layer], oracle.attention_of(model, layer), oracle.head_dim(model)
    kind, mine = model.config.model_type, slice(head * d, (head + 1) * d)
    if kind == "gpt2":
        wide = model.config.n_embd
        return attention.c_attn.weight[:, 2 * wide :][:, mine], attention.c_proj.weight[mine], block.ln_1, head
    if kind == "gpt_neo":
        return attention.v_proj.weight[mine].T, attention.out_proj.weight[:, mine].T, block.ln_1, head
    if kind == "gpt_neox":
        fused = attention.query_key_value.weight.reshape(-1, 3, d, model.config.hidden_size)
        return fused[head, 2].T, attention.dense.weight[:, mine].T, block.input_layernorm, head
    group = head // (model.config.num_attention_heads // model.config.num_key_value_heads)
    value = attention.v_proj.weight[group * d : (group + 1) * d].T
    return value, attention.o_proj.weight[:, mine].T, block.input_layernorm, group


def component_written(model, writer, ids):
    """What one component of a head writes, [pos, d_model], by the full SVD of its folded matrix."""
    W_V, W_O, norm, _ = head_of(model, writer.layer, writer.head)
    centred = hasattr(norm, "bias")
    W = norm.weight.double()[:, None] * W_V.double()
    O = W_O.double() - W_O.double().mean(-1, keepdim=True) if centred else W_O.double()  # noqa: E741
    v = torch.linalg.svd((W - W.mean(0) if centred else W) @ O).Vh[writer.index]
    z = oracle.capture(model, "z", writer.layer, ids)[0, :, writer.head].double()
    return (z @ O @ v)[:, None] * v


def without(model, norm, x, gone):
    """A hook for a norm that takes `gone` [pos, d_model] out of what it reads, x, and keeps dividing by what it divides by now."""
    eps = getattr(norm, "eps", None) or norm.variance_epsilon
    apart = x - x.mean(-1, keepdim=True) if hasattr(norm, "bias") else x
    less = gone - gone.mean(-1, keepdim=True) if hasattr(norm, "bias") else gone
    change = less * norm.weight.double() / (apart.square().mean(-1, keepdim=True) + eps).sqrt()
    return norm.register_forward_hook(lambda _module, _args, out: (out.double() - change).to(out.dtype))


def changed_logs(model, channel, ids, *, queries):
    """Log-attention of the reader before less after its write is taken out of its query or keys alone, less the mean over keys."""
    reader, kind = channel.reader, channel.kind.lower()
    norm, group = head_of(model, reader.layer, reader.head)[2:]
    x = oracle.capture(model, "resid_pre", reader.layer, ids)[0].double()
    handle = without(model, norm, x, component_written(model, channel.writer, ids))
    with oracle.at(model, kind, reader.layer, (seen := []).append):
        oracle.logits(model, ids)
    handle.remove()
    place = reader.head if kind == "q" else group

    def put(old):
        new = old.clone()
        new[:, :, place] = seen[0][:, :, place]
        return new

    before = oracle.capture(model, "pattern", reader.layer, ids)[0, reader.head].double().log()
    with oracle.at(model, kind, reader.layer, put):
        after = oracle.capture(model, "pattern", reader.layer, ids)[0, reader.head].double().log()
    change = torch.where(before.isfinite(), before - after, torch.nan)[queries]  # [query, key]
    return change - change.nanmean(dim=-1, keepdim=True)


def taken(lm, channels, ids, query="last"):
    data = Corpus.from_ids([ids])
    writers, readers = ({str(getattr(one, name)) for one in channels} for name in ("writer", "reader"))
    return ChannelUse(writers=tuple(writers), readers=tuple(readers), beside=False, query=query)(lm, data)


def agrees(model, lm, channels, ids):
    """`read` and `size` are what taking the write away does to the reader."""
    found = taken(lm, channels, ids)
    for channel in channels:
        mine = found.data.sel(channel=str(channel)).isel(prompt=0)
        change = changed_logs(model, channel, ids[None], queries=[-1])[0]
        seen = change[change.isfinite()]
        size = max(float(found.data["total"].sel(link=channel.link)[0]), 1e-3)
        assert float(mine["read"].sel(span="last")) == pytest.approx(float(seen[-1]), abs=2e-5 * size + 2e-5)
        assert float(mine["size"]) == pytest.approx(float(seen.std(correction=0)), abs=2e-5 * size + 2e-5)
        if bool(change[0].isfinite()):
            assert float(mine["read"].sel(span="first")) == pytest.approx(float(change[0]), abs=2e-5 * size + 2e-5)


def channels_of(lm, *names):
    made = []
    for writer, kind, reader in (name.split() for name in names):
        made.append(Channel(Component.parse(writer), kind, Head.parse(reader)))
    return made


def test_taking_a_write_away_changes_atlas_as_said():
    lm = reference.load("atlas")
    channels = channels_of(lm, "1.0.1 K 2.2", "0.0.0 Q 3.1")
    ids = torch.tensor(lm.tokenizer.encode("Marlo and Petra went to the market and Petra").ids)
    agrees(lm.module, lm, channels, ids)


@pytest.mark.parametrize("name", ["stories260K-llama", "tinytalk-chat"])
def test_taking_a_write_away_changes_real_checkpoints_as_said(real_models, name):
    lm = load(real_models / name)
    ids = torch.tensor(lm.tokenizer.encode(TEXTS[1]).ids)
    channels = channels_of(lm, "0.6.6 K 3.3", "1.4.2 Q 2.5")
    agrees(lm.module, lm, channels, ids)
    found = ChannelUse(n=2, readers=("2.5",), query="all", beside=False)(lm, TEXTS)
    assert float(found.data["remainder"].max()) < 1e-5


@pytest.mark.parametrize("family", ["gpt_neox", "mistral"])
def test_taking_a_write_away_changes_tiny_models_as_said(family):
    model = tiny(family)
    lm = wrap(model, words(), family)
    channels = channels_of(lm, "0.1.2 Q 3.2", "1.3.0 K 2.1")
    agrees(model, lm, channels, tokens(1, 12)[0])


def test_taking_a_write_away_from_values_shortens_the_output_as_said():
    model = tiny("llama")
    lm, ids = wrap(model, words(), "llama"), tokens(1, 12)[0]
    (channel,) = channels_of(lm, "1.2.1 V 3.1")
    found = taken(lm, [channel], ids, query="all").data.sel(channel=str(channel)).isel(prompt=0)
    _, W_O, norm, group = head_of(model, 3, 1)
    x = oracle.capture(model, "resid_pre", 3, ids[None])[0].double()
    handle = without(model, norm, x, component_written(model, channel.writer, ids[None]))
    with oracle.at(model, "v", 3, (seen := []).append):
        oracle.logits(model, ids[None])
    handle.remove()
    pattern = oracle.capture(model, "pattern", 3, ids[None])[0, 1].double()
    value = oracle.capture(model, "v", 3, ids[None])[0, :, group].double()
    out, less = (
        pattern @ one @ W_O.double() for one in (value, value - seen[0][0, :, group].double())
    )  # [query, d_model]
    out, less = out[1:].detach(), less[1:].detach()
    along = (less * out).sum(-1) / out.norm(dim=-1)
    assert float(found["share"]) == pytest.approx(float(along.sum() / out.norm(dim=-1).sum()), abs=1e-5)
    assert float(found["size"]) == pytest.approx(float(less.norm(dim=-1).square().mean().sqrt()), rel=1e-4)


# Sums


@pytest.mark.parametrize(
    ("family", "query"), [("gpt2", "last"), *((name, "all") for name in FAMILIES if name != "gemma2")]
)
def test_parts_sum_to_the_reader_in_every_family(family, query):
    lm = wrap(tiny(family), words(), family)
    kinds = ("Q", "K") if lm.spec.sinks else ("Q", "K", "V")
    data = Corpus.from_ids([tokens(1, length, seed=length)[0] for length in (11, 7)])
    found = ChannelUse(n=3, kinds=kinds, readers=("2.1", "3.0"), query=query, beside=False)(lm, data)
    assert float(found.data["remainder"].max()) < 1e-5
    assert np.allclose(found.data["source_share"].sum("source"), 1.0, atol=1e-5)
    assert not found.data["share"].isnull().any()


@pytest.mark.parametrize(
    ("family", "folded"), [("gpt2", True), ("gpt2", False), ("gemma3_text", False), ("olmo2", True), ("olmo2", False)]
)
def test_components_of_a_head_sum_to_the_head(family, folded):
    lm = wrap(tiny(family), words(), family)
    data = Corpus.from_ids([tokens(1, 10)[0]])
    found = ChannelUse(writers=("0.1",), readers=("2.3",), n=1, folded=folded, query="all")(lm, data).data
    link = found["channel_link"].values[0]
    assert found.sizes["channel"] == lm.spec.d_head
    whole = found.sel(link=link, source="0.1").isel(prompt=0)
    assert float(found["share"].sum()) == pytest.approx(float(whole["source_share"]), abs=1e-6)
    assert np.allclose(found["read"].isel(prompt=0).sum("channel"), whole["source_read"], atol=1e-5)
    assert float(found["head_share"].sum()) == pytest.approx(1.0, abs=1e-5)
    assert found["able"].values.max() <= 1 and found.attrs["folded"] is folded


def test_rotations_are_made_once_a_layer(monkeypatch):
    lm, asked = wrap(tiny("llama"), words(), "llama"), []
    right = type(lm.weights).rotation
    monkeypatch.setattr(
        type(lm.weights),
        "rotation",
        lambda self, layer, offset: asked.append((layer, offset)) or right(self, layer, offset),
    )
    able = Ability(lm)
    split = Split(lm, able, channels_of(lm, "0.1.0 Q 2.1", "0.1.0 K 2.2", "0.1.0 Q 3.0"))
    for reader in split.readers.values():
        reader.factor = 0.3
    asked.clear()
    split.document(lm.read([tokens(1, 9)[0]], split.sites), [8], {"last": (8, 9)})
    assert sorted(asked) == [(layer, place) for layer in (2, 3) for place in range(9)]


def test_a_writer_that_is_not_accounted_for_is_noticed():
    lm = wrap(tiny("gpt2"), words(), "gpt2")
    split = Split(lm, Ability(lm), channels_of(lm, "0.1.0 Q 2.1"))
    ids = tokens(1, 9)[0]
    acts = lm.read([ids], split.sites)
    split.readers[Head(2, 1)].factor = 0.3
    split.document(acts, [8], {"last": (8, 9)})
    split._out[0] = split._out[0] * 1.01
    with pytest.raises(InterpError, match="should sum to its own"):
        split.document(acts, [8], {"last": (8, 9)})


def test_scores_that_are_capped_are_refused():
    lm = wrap(tiny("gemma2"), words(), "gemma2")
    with pytest.raises(InterpError, match="soft-capped"):
        ChannelUse(n=2, readers=("2.1",))(lm, Corpus.from_ids([tokens(1, 9)[0]]))


@pytest.mark.parametrize(
    ("family", "dtype", "bound"),
    [("gpt2", torch.float64, 1e-13), ("llama", torch.float64, 1e-6), ("gemma3_text", torch.bfloat16, 5e-2)],
)
def test_parts_sum_in_every_precision(family, dtype, bound):
    lm = wrap(tiny(family, dtype=dtype), words(), family)
    found = ChannelUse(n=3, beside=False)(lm, Corpus.from_ids([tokens(1, 11)[0]]))
    assert float(found.data["remainder"].max()) < bound
    assert np.allclose(found.data["source_share"].sum("source"), 1.0, atol=5 * bound)


def test_heads_of_one_dimension_have_one_component_to_rank_by_score():
    lm, data = wrap(tiny("gpt2", n_head=32), words(), "narrow"), Corpus.from_ids([tokens(1, 9)[0]])
    found = ChannelUse(n=3, rank_by="score")(lm, data)
    assert found.data.sizes["channel"] == 3 and np.allclose(found.data["head_share"], 1.0)
    with pytest.raises(BadInput, match="Rank by score"):
        ChannelUse(n=3)(lm, data)


def test_a_head_that_reads_nothing_is_refused_by_name_and_never_chosen():
    model = tiny("gpt2")
    with torch.no_grad():
        model.transformer.h[2].attn.c_attn.weight[:, 8:16] = 0  # queries of head 2.1
    lm, data = wrap(model, words(), "deaf"), Corpus.from_ids([tokens(1, 9)[0]])
    with pytest.raises(BadInput, match=r"Q 2\.1 reads nothing"):
        ChannelUse(writers=("0.1.0",), readers=("2.1",))(lm, data)
    found = ChannelUse(readers=("2.1",), n=4, beside=False)(lm, data)
    assert set(found.data["kind"].values) == {"V"}


# Ability, store, and the rest


def test_ability_is_that_of_whole_matrices():
    lm = wrap(tiny("llama"), words(), "llama")
    able = Ability(lm, offset=2)
    score, _ = able.of(channels_of(lm, "0.1.2 V 3.0", "1.2.1 K 2.3"))
    v = able.parts(0).write[1, 2]
    M = ov(lm, 3).matrix(0)
    assert score[0] == pytest.approx(float((v @ M).norm() / M.norm()), rel=1e-10)
    from interp.analyses.channels import qk

    M = qk(lm, 2, offset=2).matrix(3).T
    assert score[1] == pytest.approx(float((able.parts(1).write[2, 1] @ M).norm() / M.norm()), rel=1e-10)
    best = able.strongest(5, by="score")
    every = able.of(best)[0]
    assert every == sorted(every, reverse=True) and len(best) == 5


def test_the_store_gives_the_same_without_another_pass(tmp_path, monkeypatch):
    lm = wrap(tiny("gpt2"), words(), "gpt2")
    data, config, store = Corpus.from_ids([tokens(1, n, seed=n)[0] for n in (9, 12)]), ChannelUse(n=2), Store(tmp_path)
    live, stored = config(lm, data), config(lm, data, store=store)
    again = config(lm, data, store=store)
    assert stored.data.identical(again.data)
    for name in ("share", "read", "write", "source_share"):
        assert np.allclose(live.data[name], stored.data[name], atol=1e-5, equal_nan=True)
    monkeypatch.setattr(type(lm.plain), "read", None)  # nothing is read from the model any more
    assert config(lm, data, store=store).data.identical(again.data)


def test_the_result_is_a_table_and_survives_the_disk(acting, tmp_path):
    kept = open_result(acting.save(tmp_path / "use"))
    assert kept.data.identical(acting.data) and kept.table().equals(acting.table())
    table = acting.table(chosen=False)
    assert len(table) == 48 and {"able", "able_z", "part", "share", "ci_lo", "rank", "read it"} <= set(table.columns)
    found = acting.correlation(kind="Q")
    assert found["n"] == 16 and -1 <= found["ci_lo"] <= found["rho"] <= found["ci_hi"] <= 1
    sources = acting.sources("Q 1.2")
    assert sources["share"].sum() == pytest.approx(1.0, abs=1e-5)
    apart = acting.between("it", "last")
    assert np.allclose(apart, acting.data["read"].sel(span="it") - acting.data["read"].sel(span="last"))
    assert len(acting.headline()) == 3 and len(acting.report_lines()) == 4 and len(acting._repr_html_()) < 30_000
    with pytest.raises(BadInput, match="`span` must be one of"):
        acting.between("it", "IO")
    with pytest.raises(BadInput, match="`link` must be one of"):
        acting.sources("Q 9.9")


def test_tasks_bring_their_spans():
    lm, task = reference.load("atlas"), interp.reference.task("atlas", "ioi", n=2)
    found = ChannelUse(n=2, readers=("3.0",), beside=False)(lm, task)
    assert {"IO", "S1", "S2", "first", "last"} <= set(found.data["span"].values)
    assert ChannelUse(n=2).cost(lm, task).tokens > 0
    named = ChannelUse(n=2, readers=("3.0",), to=("IO",), query="S2", beside=False)(lm, task)
    assert named.data["span"].values.tolist() == ["IO"]


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"writers": ("1.1.0",), "readers": ("1.2",)}, "in layer 1 and cannot be read by 1.2 in layer 1"),
        ({"writers": ("3.1.0",)}, "no head reads 3.1.0"),
        ({"readers": ("0.1",)}, "no head writes to 0.1"),
        ({"readers": ("1.1",), "writers": ("2.0",)}, "in a layer before"),
        ({"writers": ("0.9.0",)}, "is not in"),
        ({"writers": ("0.1.99",)}, "has components 0 to 7"),
        ({"writers": ("head",)}, "does not name a component"),
        ({"offset": 2}, "for models with rotary positions"),
        ({"to": ("IO",)}, "has no span 'IO'"),
        ({"query": "S2"}, "has no span 'S2'"),
        ({"query": "first"}, "a single key"),
    ],
)
def test_bad_names_are_refused(options, match):
    lm = wrap(tiny("gpt2"), words(), "gpt2")
    with pytest.raises(BadInput, match=match):
        ChannelUse(**options)(lm, ["w5 w6 w7 w8"])


def test_bad_options_data_and_models_are_refused():
    for options in ({"kinds": ("X",)}, {"kinds": ()}, {"n": 0}, {"rank_by": "size"}, {"writers": ("0.1", "0.1")}):
        with pytest.raises(BadInput):
            ChannelUse(**options)
    lm = wrap(tiny("gpt2"), words(), "gpt2")
    for data in ([], [3], None):
        with pytest.raises(BadInput):
            ChannelUse()(lm, data)
    with pytest.raises(SpanError):
        ChannelUse(to=("IO",))(lm, "w5 w6")
    with pytest.raises(BadInput, match="one layer"):
        ChannelUse()(wrap(tiny("gpt2", n_layer=1), words(), "one"), "w5 w6")
    with pytest.raises(BadInput, match="learned sink"):
        ChannelUse()(wrap(tiny("gpt_oss"), words(), "oss"), "w5 w6")
