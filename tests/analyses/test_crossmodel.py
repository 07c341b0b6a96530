"""Cross-model patching: exact where only one component differs, a no-op on twins, refused between models of different bases."""

import copy

import numpy as np
import pytest
import torch

import interp
import tests.oracle as oracle
from interp.analyses.crossmodel import CrossModelPatching, basis_check
from interp.analyses.crossmodel.basis import linear_cka
from interp.analyses.crossmodel.cmap import _ratio
from interp.core.artifact import open_result
from interp.core.errors import BadInput, SpanError, WrongModel
from interp.data.prompts import Prompt, PromptPair
from interp.models import reference
from interp.models.load import wrap
from interp.models.reference.planted.wiring import word_tokenizer
from tests.models.tiny import VOCAB, tiny

HEADED = ("q", "k", "v", "pattern", "z")
ALL = ("q", "k", "v", "pattern", "z", "attn_out", "mlp_out", "resid_post")
METRIC = {name: place for place, name in enumerate(("prob", "logprob", "logit_diff", "rank"))}


def words():
    return word_tokenizer([f"w{token}" for token in range(2, VOCAB)], 64)


def prompts(n: int = 6) -> list[Prompt]:
    draw = torch.Generator().manual_seed(3)
    rows = torch.randint(2, VOCAB, (n, 7), generator=draw).tolist()
    return [
        Prompt.of(" ".join(f"w{token}" for token in row[: 5 + i % 2]), answer=f"w{row[6]}", id=f"{i}")
        for i, row in enumerate(rows)
    ]


def pair(family: str, change):
    """A model and a copy of it with `change(copy)` done to its weights."""
    base = tiny(family).requires_grad_(False)
    other = copy.deepcopy(base)
    with torch.no_grad():
        change(other)
    return wrap(base, words(), "base"), wrap(other, words(), "other")


def test_what_the_planted_pair_differs_in_recovers_everything_and_nothing_else_does():
    base, tuned = reference.sharpened()
    wanted = base.answers["recovered"]
    lms = [reference.as_lm(made) for made in (base, tuned)]
    data = [pair.clean for pair in base.answers["pairs"]][:8]
    for role in ("query_label", "last"):
        found = CrossModelPatching(kinds=HEADED, position=role, on_foreign="warn", min_alignment=-1.0)(*lms, data)
        table = found.recovered("accuracy").sel(direction="into first")["mean"]
        read_at = {"A": "first_label", "B": "query_label", "C": "last", "D": "last"}
        named = {head: name for name, head in base.answers["heads"].items()}
        mine = {f"{kind} {layer}.{head}" for kind, layer, head in wanted if read_at[named[layer, head]] == role}
        assert mine
        for component, value in zip(table["component"].values, table.values, strict=True):
            assert value == pytest.approx(float(component in mine), abs=1e-9), (role, component)


def test_output_patching_is_exact_where_only_the_last_position_reads():
    def change(model) -> None:
        model.transformer.h[3].attn.c_attn.weight[:, 8:16] *= (
            5.0  # the last layer: other positions do not matter any more
        )

    base, other = pair("gpt2", change)
    found = CrossModelPatching(kinds=ALL)(base, other, prompts())
    for way, end in (("into first", "second"), ("into second", "first")):
        for name in ("q 3.1", "pattern 3.1", "z 3.1", "attn_out 3"):
            off = found.data["score"].sel(direction=way, component=name) - found.data["alone"].sel(model=end)
            assert float(np.abs(off.sel(metric=["logprob", "logit_diff"])).max()) < 1e-4, (way, name)
    table = found.recovered("logit_diff") if _differ(found) else None
    if table is not None:
        assert np.allclose(table["mean"].sel(component="q 3.1"), 1.0, atol=1e-3)
        assert np.allclose(table["mean"].sel(component=["q 3.0", "k 3.1", "v 3.1", "mlp_out 2"]), 0.0, atol=1e-3)


def _differ(found) -> bool:
    gap = found.data["alone"].sel(metric="logit_diff").diff("model")
    return abs(float(gap.mean())) > 2 * float(gap.std(ddof=1)) / gap.sizes["prompt"] ** 0.5


def test_twins_change_nothing():
    base, other = pair("llama", lambda model: None)
    found = CrossModelPatching(kinds=("q", "k", "z", "resid_post"))(base, other, prompts(2))
    start = np.stack([found.data["alone"].values] * found.data.sizes["component"], axis=1)
    assert np.abs(found.data["score"].values - start).max() < 1e-5
    assert found.data["alignment"].values.min() > 0.999999 and found.data.attrs["barrier"] < 1e-9
    with pytest.raises(BadInput, match="standard error"):
        found.recovered("logprob")


@pytest.mark.parametrize("family", ["gpt2", "llama", "gpt_neox"])
def test_everything_together_gives_the_other_models_answers(family):
    draw = torch.Generator().manual_seed(5)

    def change(model) -> None:
        for name, parameter in model.named_parameters():
            if not any(
                part in name for part in ("wte", "wpe", "embed", "lm_head", "ln_f", "norm.weight", "final_layer_norm")
            ):
                parameter.add_(0.1 * parameter.std() * torch.randn(parameter.shape, generator=draw))

    base, other = pair(family, change)
    joint = tuple(f"{kind} {layer}" for kind in ("attn_out", "mlp_out") for layer in range(4))
    found = CrossModelPatching(kinds=("mlp_out",), joint=joint)(base, other, prompts(4))
    off = found.data["score"].sel(direction="into first", component="joint") - found.data["alone"].sel(model="second")
    assert float(np.abs(off.sel(metric=["logprob", "logit_diff"])).max()) < 1e-4


def test_cells_are_what_plain_hooks_give():
    base, other = pair("llama", lambda model: model.model.layers[1].self_attn.q_proj.weight.mul_(1.5))
    found = CrossModelPatching(kinds=("k", "z", "mlp_out"))(base, other, prompts(1))
    ids = base.encode(prompts(1)[0].text).tokens
    theirs = {kind: oracle.capture(other.module, kind, 2, ids) for kind in ("k", "mlp_out")}
    mine = oracle.capture(base.module, "z", 2, ids)

    def last(x: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        return torch.cat([x[:, :-1], value[:, -1:]], dim=1)

    def one_key(x: torch.Tensor) -> torch.Tensor:
        return torch.cat([theirs["k"][:, :, :1], x[:, :, 1:]], dim=2)

    answer = base.tokenizer.encode(prompts(1)[0].answer).ids[-1]
    for name, changes in {
        "mlp_out 2": [("mlp_out", 2, lambda x: last(x, theirs["mlp_out"]))],
        "k 2.0": [("k", 2, one_key), ("z", 2, lambda x: torch.cat([mine[:, :-1], x[:, -1:]], dim=1))],
    }.items():
        want = oracle.edited(base.module, changes, ids)[0, -1].double().log_softmax(-1)[answer]
        got = found.data["score"].sel(direction="into first", component=name, metric="logprob")
        assert float(got[0]) == pytest.approx(float(want), abs=1e-4), name


def rotated(model) -> None:
    """The same function in another basis: every reader and writer of a Llama's stream turned by one orthogonal matrix."""
    turn = torch.linalg.qr(torch.randn(32, 32, generator=torch.Generator().manual_seed(7)))[0]
    body = model.model
    for layer in body.layers:
        for reader in (layer.self_attn.q_proj, layer.self_attn.k_proj, layer.self_attn.v_proj):
            reader.weight.copy_(reader.weight * layer.input_layernorm.weight @ turn)
        for reader in (layer.mlp.gate_proj, layer.mlp.up_proj):
            reader.weight.copy_(reader.weight * layer.post_attention_layernorm.weight @ turn)
        for writer in (layer.self_attn.o_proj, layer.mlp.down_proj):
            writer.weight.copy_(turn.T @ writer.weight)
        layer.input_layernorm.weight.fill_(1.0)
        layer.post_attention_layernorm.weight.fill_(1.0)
    model.lm_head.weight.copy_(model.lm_head.weight * body.norm.weight @ turn)
    body.norm.weight.fill_(1.0)
    body.embed_tokens.weight.copy_(body.embed_tokens.weight @ turn)


def test_a_rotated_copy_is_refused_though_it_computes_the_same():
    base, other = pair("llama", rotated)
    text = prompts(1)[0].text
    assert torch.allclose(base.run(text).logits, other.run(text).logits, atol=1e-4)
    check = basis_check(base, other, [base.encode(prompt.text) for prompt in prompts()])
    assert check.cka.min() > 0.999 and np.abs(check.alignment).max() < 0.3 and not check.ok()
    with pytest.raises(WrongModel, match="do not write in the same basis"):
        CrossModelPatching()(base, other, prompts())
    with pytest.warns(UserWarning, match="do not write in the same basis"):
        CrossModelPatching(kinds=("mlp_out",), on_foreign="warn")(base, other, prompts(2))


def test_cka_is_one_for_rotations_and_nothing_for_noise():
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(60, 10, generator=draw).double()
    turn = torch.linalg.qr(torch.randn(10, 10, generator=draw).double())[0]
    assert linear_cka(x, 3 * x @ turn) == pytest.approx(1.0, abs=1e-9)
    noise = [linear_cka(x, torch.randn(60, 200, generator=draw).double()) for _ in range(20)]
    assert abs(np.mean(noise)) < 0.03


def test_atlas_gains_the_new_relation_from_its_tuned_copy(tmp_path):
    base, tuned = interp.load("atlas"), interp.load("atlas-tuned")
    beasts = [fact for fact in interp.reference.facts("atlas-tuned", 300) if fact.meta["relation"] == "beast"][:16]
    found = CrossModelPatching(kinds=("mlp_out", "resid_post"))(base, tuned, beasts)
    hits = found.values("accuracy")[1].mean("prompt")
    assert float(hits.sel(model="first")) < 0.2 and float(hits.sel(model="second")) > 0.9
    table = found.recovered("logprob").sel(direction="into first")
    assert float(table["mean"].sel(component="resid_post 3")) == pytest.approx(1.0, abs=0.2)
    assert open_result(found.save(tmp_path / "cmap")).data.identical(found.data)
    assert len(found.headline()) == 3 and len(found._repr_html_()) < 30_000


def test_the_real_pair_shares_a_basis(real_models):
    chat, slang = (interp.load(str(real_models / f"tinytalk-{name}")) for name in ("chat", "slang"))
    data = [Prompt.of("User: hello\nBot:", answer=" Hi"), Prompt.of("User: how are you?\nBot:", answer=" I")]
    found = CrossModelPatching(kinds=("attn_out", "mlp_out"), answers="first")(chat, slang, data)
    assert found.data["alignment"].values.min() > 0.25 and np.isfinite(found.data["score"]).all()


def test_the_interval_of_a_share_is_open_where_the_difference_may_be_nothing():
    """Ratios of resampled means whose denominator is 0 were NaN, and the interval with them."""
    mean, low, high = _ratio(np.array([[1.0, 1, 1, 0], [0, 0, 0, 1]]), np.array([1.0, 1, 1, 0]), 0.95)
    assert mean.tolist() == [1.0, pytest.approx(1 / 3)] and low.tolist() == [1.0, 0.0] and np.isfinite(high).all()
    _, low, high = _ratio(np.ones((1, 5)), np.array([5.0, -1, -1, 0.1, 0.1]), 0.95)
    assert low.tolist() == [-np.inf] and high.tolist() == [np.inf]
    draws = np.random.default_rng(0).normal(3.0, 1.0, (2, 400))
    _, low, high = _ratio(draws[:1], draws[1], 0.95)
    spread = (draws[0] - draws[1]).std() / draws[1].mean() / 20  # the delta method
    assert high[0] - low[0] == pytest.approx(2 * 1.96 * spread, rel=0.15)


def test_the_corrupted_answer_is_the_foil_of_a_pair():
    base, other = pair("llama", lambda model: model.model.layers[1].mlp.down_proj.weight.mul_(1.5))
    given = PromptPair(Prompt.of("w5 w9 w24 w42", answer="w17"), Prompt.of("w5 w9 w60 w42", answer="w30"))
    same = PromptPair(Prompt.of("w5 w9 w24 w42", answer="w17"), Prompt.of("w5 w9 w60 w42", answer="w17"))
    found = CrossModelPatching(kinds=("mlp_out",))(base, other, [given, same])
    assert found.data["foil"].values[0] == "w30" and found.data["foil"].values[1] not in ("w30", "w17")


def test_too_few_tokens_to_compare_are_refused():
    """CKA of fewer than four tokens is 0 / 0; of one token, centred, every cosine is 0, and twins seemed strangers."""
    base, other = pair("llama", lambda model: None)
    for texts in (["w5"], ["w5 w9 w7"], ["w5 w9 w7"] * 3, ["w5", "w6", "w7", "w8"]):
        with pytest.raises(BadInput, match="too few to tell"):
            CrossModelPatching(kinds=("z",))(base, other, [Prompt.of(text, answer="w17") for text in texts])


def test_bad_input_is_refused():
    base, other = pair("gpt2", lambda model: None)
    third = wrap(tiny("gpt2", n_layer=3), words(), "short")
    with pytest.raises(WrongModel, match="n_layers: 4 and 3"):
        CrossModelPatching()(base, third, prompts())
    tied, free = (wrap(tiny("llama", tie_word_embeddings=ties), words(), f"ties {ties}") for ties in (True, False))
    for lms in ((tied, free), (free, tied)):  # one way a KeyError, the other a barrier that was none
        with pytest.raises(WrongModel, match=r"only one of .* has 'lm_head.weight'"):
            CrossModelPatching()(*lms, prompts())
    with pytest.raises(BadInput, match="prompts with answers"):
        CrossModelPatching()(base, other, [Prompt.of("w3 w4")])
    with pytest.raises(SpanError, match="'subject'"):
        CrossModelPatching(position="subject")(base, other, prompts())
    with pytest.raises(BadInput, match=r"method\(lm, other, data\)"):
        CrossModelPatching()(base, prompts())
    with pytest.raises(BadInput, match="is a cosine"):
        CrossModelPatching(min_alignment=float("nan"))
    with pytest.raises(BadInput, match="joint"):
        CrossModelPatching(joint=("z 9.9",))(base, other, prompts())
    with pytest.raises(BadInput, match="each kind once"):
        CrossModelPatching(kinds=("q", "q"))
