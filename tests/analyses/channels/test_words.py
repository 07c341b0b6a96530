"""Component words: what is planted is found, what is not is not, and every number is a plain product of whole matrices."""

import numpy as np
import pytest
import torch

import interp.analyses.channels.words as module
from interp.analyses.channels import Setting, decompose, single
from interp.analyses.channels.words import ComponentWords
from interp.core.artifact import open_result
from interp.core.errors import BadInput
from interp.models import reference
from interp.models.load import load, wrap
from tests.analyses.test_tracing import words
from tests.models.tiny import VOCAB, tiny


def test_the_planted_component_reads_its_cue_and_nothing_else_has_words(planted):
    found = ComponentWords(components=("0.1.5", "0.1.0", "0.2.3"), k=3, null="head")(planted)
    side = next(side for side, read in found.words("0.1.5").items() if side.startswith("reads") and read[0] == "cue")
    assert found.beyond() == [("0.1.5", side)]
    assert abs(float(found.data["value"].sel(component="0.1.5", side=side)[0])) == pytest.approx(128**0.5, rel=1e-4)
    assert f"0.1.5 {side} cue, over chance" in found.headline()
    assert np.allclose(found.data["position"].sel(end="reads"), 0, atol=1e-3)
    assert found.data["position"].sel(end="writes").isnull().all()


def test_the_planted_reader_looks_for_its_goal(planted):
    found = ComponentWords(components=("1.2.0", "1.2.1"), which="qk", k=2)(planted)
    assert [(name, side.split()[0]) for name, side in found.beyond()] == [("1.2.0", "keys")]
    side = found.beyond()[0][1]
    assert found.words("1.2.0")[side][0] == "goal"


@pytest.mark.parametrize("null", ["random", "head"])
def test_in_random_weights_p_values_are_even(null):
    lm = reference.as_lm(reference.channels(null=True))
    names = tuple(f"0.{head}.{index}" for head in range(2, 6) for index in range(16))
    p = ComponentWords(components=names, k=1, draws=200, null=null)(lm).data["p"].values
    for alpha in (0.05, 0.1, 0.2):
        assert float((p <= alpha).mean()) == pytest.approx(alpha, abs=0.05)


# Against whole matrices


def normed(model, table):
    """Embeddings through the norm, without gain: the module's own norm with its parameters put aside."""
    x = table.detach().double()
    if model.config.model_type in ("gpt2", "gpt_neo", "gpt_neox"):
        x = x - x.mean(-1, keepdim=True)
    return x / x.square().mean(-1, keepdim=True).sqrt()


@pytest.mark.parametrize("family", ["gpt2", "llama", "gemma3_text", "olmo2", "gpt_neox"])
@pytest.mark.parametrize("folded", [True, False])
def test_values_are_products_with_whole_tables(family, folded, monkeypatch):
    monkeypatch.setattr(module, "TILE", 8 * 32 * 37)  # 37 tokens a tile
    model = tiny(family)
    lm = wrap(model, words(), family)
    found = ComponentWords(components=("1.2.1", "0.0.3"), k=5, folded=folded, draws=20)(lm)
    for name in ("1.2.1", "0.0.3"):
        part = single(lm, name, Setting(folded=folded))
        W_U, _ = lm.weights.unembedding(folded=True)
        written = part.write @ W_U.double()
        written = written - written.mean()
        table = lm.weights.W_E.double()
        heard = table if family == "olmo2" else normed(model, table)
        u = part.read
        if not folded and family != "olmo2":
            u = u * lm.weights.norm("attn", part.component.layer)[0].double()
        read = heard @ u
        for end, whole in (("writes", written), ("reads", read)):
            for sign, descending in (("+", True), ("-", False)):
                order = whole.argsort(descending=descending)[:5]
                here = found.data.sel(component=name, side=f"{end} {sign}")
                assert here["token_id"].values.tolist() == order.tolist()
                assert np.allclose(here["value"], whole[order].numpy(), rtol=1e-4, atol=1e-5)
                assert here["token"].values[0] == lm.tokenizer.label(int(order[0]))
        if lm.weights.W_pos is not None:
            assert np.allclose(
                found.data["position"].sel(component=name, end="reads"),
                (normed(model, lm.weights.W_pos) @ u).numpy(), atol=1e-6,
            )  # fmt: skip
    assert ("position" in found.data) == (family == "gpt2")


def test_a_component_is_what_its_words_say(planted):
    """The intervention: an embedding goes in at the read end, s times its value comes out at the write end."""
    lm = wrap(tiny("gpt2"), words(), "gpt2")
    name = "0.2.0"
    found = ComponentWords(components=(name,), k=1)(lm).data.sel(component=name)
    token = int(found["token_id"].sel(side="reads +")[0])
    x = normed(lm.module, lm.weights.W_E[token][None])[0]
    W_V, W_O = lm.weights.W_V(0, folded=True)[2].double(), lm.weights.W_O(0)[2].double()
    part = single(lm, name)
    out = x @ W_V @ W_O
    moved = float(out @ part.write)
    assert moved == pytest.approx(float(found["value"].sel(side="reads +")[0]) * float(found["singular"]), rel=1e-5)
    assert moved > 0  # and so it writes what `writes +` says
    best = int(found["token_id"].sel(side="writes +")[0])
    W_U = lm.weights.unembedding(folded=True)[0].double()
    logits = moved * part.write @ W_U
    assert int(logits.argmax()) == best


def test_enough_draws_are_taken_that_words_can_be_beyond_chance(planted):
    n = ComponentWords().n
    names = tuple(f"0.1.{index}" for index in range(n - 1))
    found = ComponentWords(components=("0.2.0", *names), k=1)(planted)
    assert found.data["p"].size / (2 + found.data.sizes["draw"]) < 0.05 and len(found.report_lines()) == 4 * n
    few = ComponentWords(components=("0.2.0", *names), k=1, draws=100)(planted)
    assert not few.beyond()
    assert few.report_lines()[-1] == "with 32 sides, no p can fall below 0.16: take 320 draws or more."


def test_a_direction_is_compared_with_its_own_opposite_too():
    """Where both ends of every direction reach as far, the farthest of all is no rarer than one in draws + 1."""
    lm = wrap(tiny("llama"), words(), "llama")
    table = lm.weights.W_E.clone()
    table[1::2] = -table[::2]
    with lm.edit_weights({"W_E": table}):
        data = ComponentWords(components=("1.1.0",), draws=4)(lm).data
    reads = data["p"].sel(component="1.1.0").values[-2:]
    assert reads[0] == reads[1] and float(reads[0]) * 5 == pytest.approx(round(float(reads[0]) * 5))


def test_the_null_is_what_random_directions_reach():
    lm = wrap(tiny("llama"), words(), "llama")
    found = ComponentWords(components=("1.1.0",), draws=300, null="head")(lm).data
    heard, rows = normed(lm.module, lm.weights.W_E), decompose(lm, 1, heads=[1]).read[0]
    draw = torch.randn(4000, len(rows), generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    largest = ((draw / draw.norm(dim=-1, keepdim=True)) @ rows @ heard.T).amax(dim=-1)
    mine = found["null"].sel(component="1.1.0", end="reads").values
    assert mine.mean() == pytest.approx(float(largest.mean()), rel=0.04)
    value = float(found["value"].sel(component="1.1.0", side="reads +")[0])
    share = float((largest >= value).double().mean())
    assert float(found["p"].sel(component="1.1.0", side="reads +")) == pytest.approx(share, abs=0.06)


# Names, defaults, refusals


def test_defaults_are_the_ends_of_the_strongest_channels(tmp_path):
    lm = reference.load("atlas")
    found = ComponentWords(n=3, k=4, draws=150)(lm)
    assert found.data.sizes["component"] == 3 and found.data["position"].shape == (3, 2, lm.spec.n_ctx)
    kept = open_result(found.save(tmp_path / "words"))
    assert kept.data.identical(found.data) and kept.table().equals(found.table())
    assert len(found.report_lines()) == 12 and len(found.headline()) == 3 and len(found._repr_html_()) < 30_000
    readers = ComponentWords(n=2, which="qk", k=4, draws=20)(lm).data["component"].values.tolist()
    assert len(set(readers)) == 2 and all(name.endswith(".0") for name in readers)
    assert ComponentWords().cost(lm).forwards == 0
    assert found.table("none")["p"].le(found.table()["p"]).all()


def test_real_checkpoints_have_words_one_can_read(real_models):
    lm = load(real_models / "stories260K-llama", check=False)
    found = ComponentWords(components=("0.1.7",), k=6, draws=20)(lm)
    assert all(word and "\ufffd" not in word for side in found.words("0.1.7").values() for word in side)
    single_bytes = ComponentWords(components=("4.6.0",), which="qk", offset=1, k=512, draws=20)(lm).words("4.6.0")[
        "keys +"
    ]
    assert "0x84" in single_bytes and len(single_bytes) == 512  # bytes that are no character say which byte they are
    found = ComponentWords(components=("2.3.0",), k=3, draws=20)(load(real_models / "tinytalk-chat", check=False))
    assert found.data.sizes["side"] == 4 and found.data.attrs["vocabulary"] == 15751


def test_rows_that_no_text_reaches_are_left_out_and_said():
    lm = wrap(tiny("gpt2", vocab_size=VOCAB + 8), words(), "gpt2")
    found = ComponentWords(components=("0.0.0",), k=VOCAB)(lm)
    assert found.data.attrs["left_out"] == 8 and int(found.data["token_id"].max()) == VOCAB - 1
    with pytest.raises(BadInput, match=f"vocabulary of {VOCAB}"):
        ComponentWords(components=("0.0.0",), k=VOCAB + 1)(lm)


def test_what_cannot_be_named_is_refused():
    lm = wrap(tiny("gpt2"), words(), "gpt2")
    for options, match in (
        ({"components": ("0.9.0",)}, "is not in"),
        ({"components": ("0.0.8",)}, "has components 0 to 7"),
        ({"components": ("0.0",)}, "does not name a component"),
        ({"components": ("0.0.0",), "which": "qk", "offset": 3}, "for models with rotary positions"),
        ({"components": ("0.0.0",), "offset": 3}, "leave out offset"),
    ):
        with pytest.raises(BadInput, match=match):
            ComponentWords(**options)(lm)
    with pytest.raises(BadInput, match="another matrix at every distance"):
        ComponentWords(components=("0.0.0",), which="qk")(wrap(tiny("llama"), words(), "llama"))
    with pytest.raises(BadInput, match="takes no data"):
        ComponentWords(components=("0.0.0",))(lm, ["a text"])
    with pytest.raises(BadInput, match="one layer"):
        ComponentWords()(wrap(tiny("gpt2", n_layer=1), words(), "one"))
    for options in (
        {"which": "vo"},
        {"k": 0},
        {"components": ()},
        {"null": "none"},
        {"components": ("0.0.0", "0.0.0")},
    ):
        with pytest.raises(BadInput):
            ComponentWords(**options)


def test_components_that_cannot_be_told_apart_are_refused_by_name():
    model = tiny("gpt2")
    attention, d = model.transformer.h[0].attn, 8
    with torch.no_grad():  # head 0 of layer 0: OV of equal singular values, on the free dimensions
        gain = model.transformer.h[0].ln_1.weight
        basis = torch.linalg.qr(torch.eye(32) - 1 / 32).Q[:, :d]
        attention.c_attn.weight[:, 64 : 64 + d] = basis / gain[:, None]
        attention.c_proj.weight[:d] = basis.T
    lm = wrap(model, words(), "alike")
    with pytest.raises(BadInput, match=r"'0\.0\.2' cannot be told"):
        ComponentWords(components=("0.0.2",))(lm)
    with torch.no_grad():
        attention.c_proj.weight[:d] = 0
    with pytest.raises(BadInput, match="is zero"):
        ComponentWords(components=("0.0.0",))(wrap(model, words(), "silent"))


def test_defaults_leave_out_what_cannot_be_told_apart(planted):
    parts = decompose(planted, 1, which="qk", heads=[2])
    root = parts.values[0].clone()
    root[1] = root[0]
    root = root.sqrt()
    alike = {"W_Q.1.2": parts.read[0].T * root, "W_K.1.2": parts.write[0].T * root}
    options = {"which": "qk", "n": 4, "k": 2, "draws": 500}
    assert "1.2.0" in ComponentWords(**options)(planted).data["component"].values
    with planted.edit_weights(alike):
        names = ComponentWords(**options)(planted).data["component"].values
        assert len(names) == 4 and "1.2.0" not in names
        with pytest.raises(BadInput, match=r"'1\.2\.0' cannot be told"):
            ComponentWords(components=("1.2.0",), which="qk")(planted)
