"""What has no channels, or is asked for what it has not, is refused in the caller's words, with what to do instead."""

import functools
import warnings

import pytest
import torch

from interp.analyses.channels import (
    Channels,
    Readout,
    Setting,
    component_edit,
    decompose,
    edit_components,
    free,
    ov,
    qk,
    reader,
    scores_into,
    scores_of,
    single,
    subspace,
)  # fmt: skip
from interp.analyses.channels.ablation.ablate import ComponentAblation
from interp.analyses.channels.discovery.discover import ChannelCircuit
from interp.analyses.channels.steering.patch import ChannelPatching
from interp.analyses.channels.steering.steer import ChannelSteering
from interp.analyses.channels.use.use import ChannelUse
from interp.analyses.channels.words import ComponentWords
from interp.core.errors import BadInput, UnsupportedArchitecture
from interp.models import reference
from interp.models.load import wrap
from tests.models.others import other
from tests.models.tiny import tiny

PAIRS = reference.pointer_pairs(3)
ASK = {
    "use": lambda writer, head: ChannelUse(writers=(writer,), readers=(head,)),
    "steer": lambda writer, head: ChannelSteering(components=(writer,), readers=(head,)),
    "patch": lambda writer, head: ChannelPatching(components=(writer,), readers=(head,)),
}
"""Methods that take components, readers and pairs."""


@functools.cache
def load(name: str, *options):
    tokenizer = reference.pointer().tokenizer
    if name in ("channels", "pointer", "rotary_channels"):
        return reference.as_lm(getattr(reference, name)())
    if name in ("falcon", "mamba"):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that it is unproven
            return wrap(other(name), tokenizer, name)
    return wrap(tiny(name, **dict(options)), tokenizer, name)


# -- models that have none ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["falcon", "mamba"])
def test_heads_that_nobody_named(name):
    """An unproven family, and one without attention."""
    lm = load(name)
    asked = [
        lambda: ov(lm, 0), lambda: qk(lm, 0), lambda: reader(lm, 1, "V"), lambda: decompose(lm, 0), lambda: single(lm, "0.0.0"),
        lambda: subspace(lm, ["0.0.0"]), lambda: scores_into(lm, "1.0", kind="V"), lambda: scores_of(lm, "0.0.0", kind="V"),
        lambda: edit_components(lm, "0.0.0").__enter__(), lambda: component_edit(lm, "0.0.0"), lambda: Channels()(lm),
        lambda: ChannelCircuit(start="0.0.0").check(lm, None), lambda: ComponentWords(components=("0.0.0",)).check(lm, None),
    ]  # fmt: skip
    for ask in asked:
        with pytest.raises(
            BadInput, match=rf"{name} is of an unproven family \({name}\).*Use a model of a proven family"
        ):
            ask()
    with pytest.raises(BadInput, match=f"channels are between heads, and {name}"):
        ASK["use"]("0.0.0", "1.0").check(lm, PAIRS)


def test_attention_to_another_text():
    with pytest.raises(UnsupportedArchitecture, match="cross-attention"):
        load("gpt2", ("add_cross_attention", True))


def test_one_layer():
    lm = load("gpt2", ("n_layer", 1))
    for one in (Channels(), ChannelCircuit(), ComponentWords()):
        with pytest.raises(BadInput, match="gpt2 has one layer"):
            one.check(lm, None)
    with pytest.raises(BadInput, match=r"'0\.1\.0' writes: it is in the last layer"):
        scores_of(lm, "0.1.0", kind="Q")


# -- shapes that are odd, and work ---------------------------------------------------------------------------------------


def test_one_key_and_value_head_for_all_queries():
    """Multi-query attention is what it is with the one head repeated."""
    shared = load("llama", ("num_key_value_heads", 1))
    plain = wrap(tiny("llama", num_key_value_heads=4), reference.pointer().tokenizer, "plain")
    weights = {}
    for layer in range(4):
        for name, repeated in (("W_Q", 1), ("W_K", 4), ("W_V", 4), ("W_O", 1)):
            own = getattr(shared.weights, name)(layer)
            weights[f"{name}.{layer}"] = own.repeat_interleave(repeated, dim=0)
        weights[f"model.layers.{layer}.input_layernorm.weight"] = shared.weights.norm("attn", layer)[0]
    one = Channels(offsets=(2,))(shared)
    with plain.edit_weights(weights):
        many = Channels(offsets=(2,))(plain)
        for which in ("ov", "qk"):
            at = None if which == "ov" else 2
            a, b = (decompose(lm, 1, which=which, offset=at) for lm in (shared, plain))
            torch.testing.assert_close(a.values, b.values, rtol=1e-9, atol=1e-12)
    for name in ("total", "best", "spectrum", "score"):
        got, want = (torch.from_numpy(result.data[name].values).nan_to_num() for result in (one, many))
        torch.testing.assert_close(got, want, rtol=0, atol=2e-6, msg=name)
    assert list(one.data["kind"].values) == ["Q@2", "K@2", "V"]


def test_heads_of_one_component():
    """A component is its head; nothing stands out among one."""
    lm = load("gpt2", ("n_embd", 4), ("n_head", 4))
    result = Channels(precision="float64")(lm)
    assert result.data["score"].shape[3] == 1
    both = (result.data["total"].values, result.data["score"].isel(component=0).values)
    total, score = (torch.from_numpy(one).nan_to_num() for one in both)
    torch.testing.assert_close(total, score, rtol=0, atol=1e-9)
    assert result.data["best_z"].isnull().all() and result.data["rank"].max() == 1
    for ask in (
        lambda: ChannelCircuit(start="0.1.0").check(lm, None), lambda: Channels(rank_by="z").check(lm, None),
    ):  # fmt: skip
        with pytest.raises(
            BadInput, match=r"heads of gpt2 have 1 component\(s\), and z compares one with two others.*Rank by score"
        ):
            ask()
    with pytest.raises(BadInput, match=r"components 0 to 0"):
        single(lm, "0.1.1")
    assert single(lm, "0.1.0").gap == (float("inf"), float("inf"))


# -- weights -------------------------------------------------------------------------------------------------------------


def test_heads_that_write_or_read_nothing():
    lm = load("channels")
    d, h = lm.spec.d_model, lm.spec.d_head
    with lm.edit_weights({"W_O.0.1": torch.zeros(h, d), "W_Q.1.2": torch.zeros(d, h)}):
        result = Channels()(lm)
        for name in ("best", "total", "score"):
            assert result.data[name].sel(layer=0, head=1).isnull().all(), name
            assert result.data[name].sel(kind="Q", reader_layer=1, reader_head=2).isnull().all(), name
            assert result.data[name].sel(kind="V", layer=0, head=2, reader_layer=1, reader_head=2).notnull().all(), name
        listed = result.channels(500)
        assert not listed["writer"].str.startswith("0.1.").any()
        assert not ((listed["reader"] == "1.2") & (listed["kind"] != "V")).any()
        assert int(result.data["rank"].sel(layer=0, head=1)) == 0
        for ask in (
            lambda: single(lm, "0.1.0"), lambda: edit_components(lm, "0.1.0").__enter__(), lambda: component_edit(lm, "0.1.0"),
            lambda: subspace(lm, ["0.1.0"]), lambda: ChannelCircuit(start="0.1.0")(lm),
            lambda: ComponentWords(components=("0.1.0",)).check(lm, None),
        ):  # fmt: skip
            with pytest.raises(BadInput, match=r"no component '0\.1\.0': the matrix of head 0\.1 is zero"):
                ask()
        with pytest.raises(BadInput, match=r"'0\.1\.0'.*head 0\.1 has rank 0"):
            result.of("0.1.0", kind="Q")
        with pytest.raises(BadInput, match=r"'1\.2' reads nothing as Q"):
            result.p_value(0.5, "1.2", kind="Q")


def test_heads_of_low_rank():
    lm = load("channels")
    low = lm.weights.W_O(0)[1].clone()
    low[4:] = 0.0
    with lm.edit_weights({"W_O.0.1": low}):
        result, parts = Channels()(lm), decompose(lm, 0)
        assert int(parts.rank[1]) == 4 == int(result.data["rank"].sel(layer=0, head=1))
        mine = result.data["score"].sel(layer=0, head=1, reader_layer=1)
        assert mine.isel(component=slice(4, None)).isnull().all() and mine.isel(component=slice(4)).notnull().all()
        for ask in (lambda: single(lm, "0.1.4"), lambda: edit_components(lm, "0.1.4").__enter__()):
            with pytest.raises(
                BadInput, match=r"no component '0\.1\.4': the matrix of head 0\.1 has rank 4: components 0 to 3"
            ):
                ask()


def test_components_that_cannot_be_told_apart():
    """Two equal singular values: one of the two has no direction, no score and no edit of its own; both together have."""
    lm = load("pointer")
    parts = decompose(lm, 0, Setting(folded=False))
    values = parts.values[1].clone()
    values[5] = values[4]
    root = values.sqrt()
    with lm.edit_weights({"W_V.0.1": parts.read[1].T * root, "W_O.0.1": root[:, None] * parts.write[1]}):
        result = Channels()(lm)
        asked = [
            lambda: single(lm, "0.1.5"), lambda: subspace(lm, ["0.1.5"]), lambda: scores_of(lm, "0.1.5", kind="Q"),
            lambda: result.of("0.1.5", kind="Q"), lambda: edit_components(lm, "0.1.5").__enter__(),
            lambda: component_edit(lm, {"0.1.4": 0.0, "0.1.5": 0.5}), lambda: ChannelCircuit(start="0.1.5")(lm),
            lambda: ComponentWords(components=("0.1.5",)).check(lm, None),
            *(lambda ask=ask: ask("0.1.5", "1.4")(lm, PAIRS) for ask in ASK.values()),
        ]  # fmt: skip
        for ask in asked:
            with pytest.raises(
                BadInput, match=r"cannot be told from|components 4 to 5 of head 0\.1 have singular values that agree"
            ):
                ask()
        listed = result.channels(200).set_index("writer")["alone"]
        assert not listed["0.1.5"].any() and listed["0.1.2"].all()
        both = subspace(lm, ["0.1.4", "0.1.5"])
        assert torch.allclose(both.T @ both, parts.write[1, 4:6].T @ parts.write[1, 4:6], atol=1e-5)
        with edit_components(lm, ["0.1.4", "0.1.5"]):
            assert int(decompose(lm, 0).rank[1]) == 14


def test_weights_that_are_not_numbers():
    lm = load("channels")
    for name, bad in (("W_V", torch.nan), ("W_K", torch.inf)):
        weight = getattr(lm.weights, name)(1)[6].clone()
        weight[3, 2] = bad
        with lm.edit_weights({f"{name}.1.6": weight}):
            asked = [lambda: Channels()(lm), lambda: ChannelCircuit(start="0.1.5")(lm)]
            asked.append((lambda: ov(lm, 1)) if name == "W_V" else (lambda: qk(lm, 1)))
            for ask in asked:
                with pytest.raises(
                    BadInput, match=r"planted-channels has NaN or infinite numbers in head 1\.6.*checkpoint whole"
                ):
                    ask()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_read_exactly_and_not_edited(dtype):
    """Weights of 16 bits are numbers like others: scores are those of the same numbers in float32."""
    half = wrap(tiny("llama", dtype=dtype), reference.pointer().tokenizer, "half")
    wide = wrap(tiny("llama", dtype=dtype).float(), reference.pointer().tokenizer, "wide")
    a, b = (Channels(offsets=(1,))(lm).data["score"].values for lm in (half, wide))
    torch.testing.assert_close(torch.from_numpy(a), torch.from_numpy(b), rtol=0, atol=1e-6, equal_nan=True)
    word = str(dtype).removeprefix("torch.")
    with pytest.raises(BadInput, match=rf"weights of half are {word}.*dtype='float32'.*component_edit"):
        edit_components(half, "0.0.0").__enter__()


# -- names ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("8.10.1", r"'8\.10\.1' is not in planted-pointer, which has layers 0 to 1 and heads 0 to 7"),
        ("0.8.0", r"'0\.8\.0' is not in planted-pointer"),
        ("0.1.99", r"'0\.1\.99': a head of planted-pointer has components 0 to 15"),
        ("0.1.x", r"'0\.1\.x' does not name a component"),
        ("x", r"'x' does not name a component\. Write layer\.head\.component"),
        ("", r"'' does not name a component"),
    ],
)
def test_components_that_are_not_there(name, said):
    lm = load("pointer")
    asked = [
        lambda: single(lm, name),
        lambda: subspace(lm, ["0.1.2", name]),
        lambda: edit_components(lm, name).__enter__(),
    ]
    asked += [lambda: component_edit(lm, {name: 0.5}), lambda: scores_of(lm, name, kind="Q")]
    asked += [lambda: ComponentWords(components=(name,)).check(lm, None)]
    asked += [lambda ask=ask: ask(name, "1.4").check(lm, PAIRS) for ask in ASK.values()]
    for ask in asked:
        with pytest.raises(BadInput, match=said):
            ask()


def test_a_head_where_a_component_is_needed():
    lm = load("pointer")
    with pytest.raises(BadInput, match=r"'8\.10\.1' is not in this result"):
        Channels()(lm).of("8.10.1", kind="Q")
    for ask in (
        lambda: single(lm, "0.1"), lambda: subspace(lm, ["0.1"]), lambda: scores_of(lm, "0.1", kind="Q"),
        lambda: ComponentWords(components=("0.1",)).check(lm, None), lambda: ASK["steer"]("0.1", "1.4"), lambda: ASK["patch"]("0.1", "1.4"),
    ):  # fmt: skip
        with pytest.raises(
            BadInput, match=r"'0\.1' does not name a component\. Write layer\.head\.component, as in '8\.10\.1'"
        ):
            ask()


@pytest.mark.parametrize("odd", [3, None, 0.5])
def test_names_that_are_no_text(odd):
    lm = load("pointer")
    asked = [lambda: single(lm, odd), lambda: edit_components(lm, odd).__enter__(), lambda: component_edit(lm, odd)]
    asked += [lambda: ChannelSteering(components=odd), lambda: ChannelPatching(readers=odd)]
    for ask in asked:
        with pytest.raises(BadInput, match=f"{odd}"):
            ask()


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("9.9", r"'9\.9' is not in planted-pointer, which has layers 0 to 1"),
        ("1.4.2", r"'1\.4\.2' does not name a head\. Write layer\.head"),
        ("y", r"'y' does not name a head"),
    ],
)
def test_readers_that_are_not_there(name, said):
    lm = load("pointer")
    asked = [lambda ask=ask: ask("0.1.2", name).check(lm, PAIRS) for ask in ASK.values()]
    asked += [lambda: scores_into(lm, name, kind="Q"), lambda: Readout(name, "item_0").head.check(lm)]
    asked += [lambda: ComponentAblation(reader=name, to="item_0", minus="item_1", writers=("0.1",)).check(lm, PAIRS)]
    for ask in asked:
        with pytest.raises(BadInput, match=said):
            ask()


# -- order ---------------------------------------------------------------------------------------------------------------


def test_readers_that_do_not_come_after_their_writer():
    lm = load("pointer")
    for ask in (ASK["steer"], ASK["patch"]):
        for head in ("0.4", "0.1"):
            with pytest.raises(BadInput, match=rf"reader {head} does not come after component '0\.1\.2'"):
                ask("0.1.2", head).check(lm, PAIRS)
        with pytest.raises(BadInput, match=r"reader 1\.4 does not come after component '1\.1\.0'"):
            ask("1.1.0", "1.4").check(lm, PAIRS)
    with pytest.raises(BadInput, match=r"no head writes to 0\.4"):
        ASK["use"]("0.1.2", "0.4").check(lm, PAIRS)
    with pytest.raises(BadInput, match=r"reader '1\.4' cannot hear '1\.1': a writer must be in an earlier layer"):
        ComponentAblation(reader="1.4", to="item_0", minus="item_1", writers=("1.1",)).check(lm, PAIRS)
    with pytest.raises(BadInput, match=r"no head writes into '0\.4': it is in the first layer"):
        scores_into(lm, "0.4", kind="Q")
    with pytest.raises(BadInput, match=r"no head reads what '1\.4\.0' writes: it is in the last layer"):
        scores_of(lm, "1.4.0", kind="V")
    result = Channels()(lm)
    for kind in "QKV":
        table = result.data["best"].sel(kind=kind).values  # [layer, head, reader_layer, reader_head]
        assert not torch.from_numpy(table[0, :, 1]).isnan().any()
        assert torch.from_numpy(table[1]).isnan().all() and torch.from_numpy(table[:, :, 0]).isnan().all()


# -- distances -----------------------------------------------------------------------------------------------------------


def test_distances_that_rotary_models_need_and_others_do_not_have():
    turned, plain = load("rotary_channels"), load("channels")
    for ask in (
        lambda: qk(turned, 1), lambda: reader(turned, 1, "Q"), lambda: reader(turned, 1, "K"), lambda: decompose(turned, 1, which="qk"),
        lambda: scores_into(turned, "1.2", kind="Q"), lambda: Channels(kinds=("Q",)).check(turned, None),
        lambda: Channels(kinds=("V", "K")).check(turned, None), lambda: ChannelCircuit(start="0.1.5", kinds=("Q",)).check(turned, None),
        lambda: ComponentWords(components=("0.1.5",), which="qk").check(turned, None),
        lambda: edit_components(turned, "1.2.0", which="qk").__enter__(),
    ):  # fmt: skip
        with pytest.raises(BadInput, match=r"planted-rotary-channels rotates queries and keys.*offsets?="):
            ask()
    for ask in (
        lambda: qk(plain, 1, offset=2), lambda: reader(plain, 1, "K", offset=2), lambda: Channels(offsets=(2,)).check(plain, None),
        lambda: decompose(plain, 1, which="qk", offset=2), lambda: ChannelCircuit(offsets=(2,)).check(plain, None),
    ):  # fmt: skip
        with pytest.raises(BadInput, match=r"2.*rotary positions; planted-channels has one QK"):
            ask()
    for odd in (1, "1", None):
        with pytest.raises(BadInput, match=rf"`offsets` must be several, as in offsets=\(1, 4\); not {odd!r}"):
            Channels(offsets=odd)
    with pytest.raises(BadInput, match="not 'Q'"):
        Channels(kinds="Q")
    assert list(Channels()(turned).data["kind"].values) == ["V"]  # what needs no distance


@pytest.mark.parametrize(
    ("odd", "said"), [(-1, "behind the query"), (32, "32 tokens before"), (1.5, "1.5 is no whole")]
)
def test_distances_that_are_none(odd, said):
    lm = load("rotary_channels")
    for ask in (lambda: qk(lm, 1, offset=odd), lambda: reader(lm, 1, "Q", offset=odd)):
        with pytest.raises(BadInput, match=said):
            ask()
    with pytest.raises(BadInput, match=rf"{odd}"):
        Channels(offsets=(odd,)).check(lm, None)


def test_coordinates_that_a_model_lacks_are_the_raw_ones():
    """OLMo 2 has no norm before its heads: folded weights differ from raw ones by what stands behind them."""
    lm = load("olmo2")
    raw, folded = (ov(lm, 1, Setting(folded)) for folded in (False, True))
    assert torch.equal(raw.left, folded.left) and not torch.equal(raw.right, folded.right)
    assert free(lm) == lm.spec.d_model
