"""Direct logit attribution: sums to the logit or raises; every summand is what taking it out with the scale held takes away."""

from functools import cache

import numpy as np
import pytest
import torch

import interp
import tests.oracle as oracle
from interp.analyses.direct import DirectLogit
from interp.core.artifact import open_result
from interp.core.errors import BadInput, InterpError
from interp.data.prompts import Prompt, PromptPair
from interp.models import reference
from interp.models.base import BaseLM
from interp.models.load import wrap
from interp.models.reference.planted.wiring import word_tokenizer
from tests.models.tiny import FAMILIES, VOCAB, tiny

TEXTS = ["w5 w17 w90 w33 w8 w101", "w4 w4 w77 w12", "w150 w2 w61 w44 w9"]


@cache
def small(family: str, backend: str = "transformer_lens") -> BaseLM:
    words = word_tokenizer([f"w{token}" for token in range(2, VOCAB)], 64)
    return wrap(tiny(family), words, family, backend=backend)


def prompts() -> list[Prompt]:
    return [Prompt.of(text) for text in TEXTS]


@pytest.mark.parametrize("target", ["logit_diff", "logit"])
@pytest.mark.parametrize("family", FAMILIES)
def test_direct_logit_attributions_sum_to_the_logit(family, target):
    lm = small(family)
    found = DirectLogit(target=target)(lm, prompts()).data
    assert float(np.abs(found["remainder"]).max()) < 1e-4
    for row, text in enumerate(TEXTS):
        logits = lm.run(text).last_logits[0].double()
        cap = lm.spec.logit_softcap
        logits = torch.atanh(logits / cap) * cap if cap else logits
        best, second = logits.topk(2).values
        want = float(best - second if target == "logit_diff" else best)
        assert float(found["contribution"][row].sum()) == pytest.approx(want, abs=2e-4 if not cap else 5e-3)


def test_parts_are_what_plain_hooks_and_the_norms_formula_give():
    lm = interp.load("atlas")
    fact = interp.reference.facts("atlas", 1)[0]
    found = DirectLogit(target="logit")(lm, [fact]).data["contribution"].isel(prompt=0)
    model, ids = lm.module, lm.encode(fact.text).tokens
    state = {name: value.double() for name, value in model.state_dict().items()}
    stream = oracle.capture(model, "resid_post", 3, ids)[0, -1].double()
    scale = stream.var(correction=0).add(model.config.layer_norm_epsilon).sqrt()
    answer = int(oracle.logits(model, ids)[0, -1].argmax())
    direction = state["lm_head.weight"][answer]

    def direct(x: torch.Tensor) -> float:
        return float(((x - x.mean()) / scale * state["transformer.ln_f.weight"]) @ direction)

    for layer in range(4):
        z = oracle.capture(model, "z", layer, ids)[0, -1].double()  # [head, d_head]
        rows = state[f"transformer.h.{layer}.attn.c_proj.weight"].reshape(4, -1, 128)
        for head in range(4):
            assert float(found.sel(component=f"{layer}.{head}")) == pytest.approx(
                direct(z[head] @ rows[head]), abs=1e-4
            )
        mlp = oracle.capture(model, "mlp_out", layer, ids)[0, -1].double()
        assert float(found.sel(component=f"mlp {layer}")) == pytest.approx(direct(mlp), abs=1e-4)
        bias = state[f"transformer.h.{layer}.attn.c_proj.bias"]
        assert float(found.sel(component=f"attn {layer}")) == pytest.approx(direct(bias), abs=1e-4)
    assert float(found.sel(component="bias")) == pytest.approx(
        float(state["transformer.ln_f.bias"] @ direction), abs=1e-5
    )


def test_taking_a_component_out_of_the_normed_stream_takes_its_contribution():
    lm = small("llama", "nnsight")
    found = DirectLogit(target="logit")(lm, prompts()[:1]).data["contribution"].isel(prompt=0)
    run = lm.run(TEXTS[0], capture=["blocks.2.hook_mlp_out", "blocks.3.hook_resid_post", "ln_final.hook_out"])
    part = (
        run["blocks.2.hook_mlp_out"][:, -1] * run["ln_final.hook_out"][:, -1] / run["blocks.3.hook_resid_post"][:, -1]
    )
    edit = interp.edit.add("ln_final.hook_out", -part[:, None], at=interp.At.last())
    gone = lm.run(TEXTS[0], edits=[edit]).last_logits[0]
    answer = int(run.last_logits[0].argmax())
    assert float(run.last_logits[0, answer] - gone[answer]) == pytest.approx(
        float(found.sel(component="mlp 2")), abs=1e-4
    )


def test_the_planted_head_writes_the_answer_and_nothing_else_does():
    made = reference.induction()
    lm = reference.as_lm(made)
    words = "amber brook cedar delta ember amber brook cedar"
    found = DirectLogit()(lm, [Prompt.of(words, answer="delta", foil="brook")])
    layer, head = made.answers["induction"]
    assert float(found.heads()[layer, head]) == pytest.approx(12.0, rel=0.02)
    others = found.data["contribution"].isel(prompt=0).drop_sel(component=f"{layer}.{head}")
    assert float(np.abs(others).max()) < 0.05
    null = DirectLogit()(
        reference.as_lm(reference.induction(null=True)), [Prompt.of(words, answer="delta", foil="brook")]
    )
    assert float(null.data["total"][0]) != pytest.approx(12.0, rel=0.5)


def test_a_model_that_adds_something_unnamed_is_refused(monkeypatch):
    lm = small("gpt2")
    views = type(lm.weights)
    real = views.W_O
    monkeypatch.setattr(views, "W_O", lambda self, layer=None: real(self, layer) * 1.01)
    with pytest.raises(InterpError, match="should sum to what its attention adds"):
        DirectLogit()(lm, prompts())
    monkeypatch.setattr(views, "W_O", real)
    monkeypatch.setattr(views, "W_U", property(lambda self: self.module.lm_head.weight.detach().T * 1.01))
    with pytest.raises(InterpError, match="should sum to the model's logit"):
        DirectLogit()(lm, prompts())


def test_prompts_of_any_length_come_back_in_order_and_foils_of_pairs_count(tmp_path):
    lm = interp.load("atlas")
    facts = interp.reference.facts("atlas", 12)
    whole = DirectLogit(max_rows=3)(lm, facts)
    alone = [DirectLogit()(lm, [fact]).data["contribution"].values[0] for fact in facts]
    assert np.allclose(whole.data["contribution"], np.stack(alone), atol=1e-4)
    one, other = facts[0], next(fact for fact in facts if fact.answer != facts[0].answer)
    pair = DirectLogit()(lm, [PromptPair(one, other)])
    assert str(pair.data["foil"].values[0]).strip("␣") == other.answer.strip()
    assert open_result(whole.save(tmp_path / "direct")).data.identical(whole.data)
    assert len(whole.headline()) == 3 and DirectLogit().cost(lm, facts).forwards == 12
    layers = DirectLogit(parts="layers")(lm, facts)
    sums = whole.data["contribution"].groupby("kind").sum().sel(kind="head")
    attn = layers.data["contribution"].groupby("kind").sum().sel(kind="attn")
    assert np.allclose(sums + whole.data["contribution"].groupby("kind").sum().sel(kind="attn"), attn, atol=1e-4)
    with pytest.raises(BadInput, match="has no heads"):
        layers.heads()


def test_a_pair_with_one_answer_takes_the_best_wrong_token():
    lm = small("llama")
    same = PromptPair(Prompt.of("w5 w9 w24", answer="w17"), Prompt.of("w5 w9 w60", answer="w17"))
    found = DirectLogit()(lm, [same]).data
    assert found["answer"].values[0] == "w17" != found["foil"].values[0] and np.isfinite(found["total"]).all()


@pytest.mark.parametrize("family", ["gpt2", "gemma2", "gpt_oss"])
def test_sixteen_bits_sum_to_their_own_rounding(family):
    words = word_tokenizer([f"w{token}" for token in range(2, VOCAB)], 64)
    lm = wrap(tiny(family, dtype=torch.bfloat16), words, family)
    found = DirectLogit()(lm, prompts()[:1]).data
    assert float(np.abs(found["remainder"]).max()) < 0.01 * float(np.abs(found["contribution"]).max())


@pytest.mark.parametrize("name", ["stories260K-llama", "tinytalk-chat"])
def test_real_checkpoints_sum(real_models, name):
    lm = interp.load(str(real_models / name))
    found = DirectLogit()(lm, [Prompt.of("Once upon a time there was a little"), Prompt.of("The dog was very")])
    assert float(np.abs(found.data["remainder"]).max()) < 1e-4


def test_bad_input_is_refused():
    lm = small("gpt2")
    for data, words in ((None, "no prompts"), ([3], "takes prompts"), ([], "no prompts")):
        with pytest.raises(BadInput, match=words):
            DirectLogit()(lm, data)
    with pytest.raises(BadInput, match="max_rows"):
        DirectLogit(max_rows=0)
    with pytest.raises(BadInput, match="target"):
        DirectLogit(target="prob")
