"""Tuning: gradients are autograd's own, and after the block nothing of it is left, whatever happened inside."""

from typing import Any

import pytest
import torch
from torch import Tensor

from interp.core.batch import Batch
from interp.core.edit import scale
from interp.core.errors import BadInput, InterpError
from interp.models.load import load, wrap
from tests.models.others import other
from tests.models.test_weight_edits import snapshot, unchanged
from tests.models.tiny import FAMILIES, tiny, tokens
from tests.models.wrapped import BACKENDS, lm, tokenizer

every = pytest.mark.parametrize("family", FAMILIES)


def ragged(side: str) -> Batch:
    return Batch.padded([tokens(1, n, seed=n)[0].tolist() for n in (12, 7)], side=side)


def nll(logits: Tensor, batch: Batch) -> Tensor:
    """Mean negative log-likelihood of each real token after the first of its row."""
    real = batch.mask[:, 1:] & batch.mask[:, :-1]
    logprobs = logits[:, :-1].log_softmax(dim=-1).gather(2, batch.tokens[:, 1:, None])[..., 0]
    return -logprobs[real].mean()


def left(model: Any) -> None:
    """Nothing of a block is left."""
    assert all(p.grad is None and not p.requires_grad for p in model.module.parameters())
    assert not any(part.training for part in model.module.modules())
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in model.module.modules())


@every
def test_gradients_are_those_of_the_bare_model_row_by_row(family: str) -> None:
    """With padding on the left: the bare model sees each row alone, without any."""
    model, batch = lm(family, "transformer_lens"), ragged("left")
    before = snapshot(model.module)
    bare = tiny(family)
    total, count = torch.zeros(()), 0
    for row, mask in zip(batch.tokens, batch.mask, strict=True):
        ids = row[mask][None]
        logprobs = bare(input_ids=ids, use_cache=False).logits[0, :-1].log_softmax(dim=-1)
        total = total - logprobs.gather(1, ids[0, 1:, None]).sum()
        count += ids.shape[1] - 1
    (total / count).backward()
    want = {name: parameter.grad for name, parameter in bare.named_parameters()}
    with model.tuning("*") as tuning:
        logits = tuning.logits(batch)
        assert logits.dtype == torch.float32 and logits.shape[:2] == batch.tokens.shape
        nll(logits, batch).backward()
        assert set(tuning.parameters) == set(want)
        for name, parameter in tuning.parameters.items():
            assert parameter.is_leaf and parameter.requires_grad
            if want[name] is None:  # an expert layer's parameter that no token reaches
                assert parameter.grad is None or not parameter.grad.any(), name
                continue
            atol = 1e-5 + 2e-4 * float(want[name].abs().max())
            torch.testing.assert_close(
                parameter.grad, want[name], rtol=0, atol=atol, msg=lambda text, n=name: f"{n}: {text}"
            )
    assert unchanged(model.module, before)
    left(model)


@pytest.mark.parametrize("family", ["gpt2", "gpt_neox"])
def test_gradients_say_what_a_small_step_does(family: str) -> None:
    """Central differences in float64, for two numbers of two parameters."""
    model = wrap(tiny(family, dtype=torch.float64).requires_grad_(False), tokenizer(), "wide", backend="nnsight")
    batch, size = ragged("right"), 1e-5
    with model.tuning() as tuning:
        assert tuning.logits(batch).dtype == torch.float64
        nll(tuning.logits(batch), batch).backward()
        for name in [*tuning.parameters][3:40:9]:
            parameter, place = tuning.parameters[name], (1,) * tuning.parameters[name].ndim
            losses = []
            for step in (size, -2 * size):
                with torch.no_grad():
                    parameter[place] += step
                losses.append(float(nll(tuning.logits(batch).detach(), batch)))
            with torch.no_grad():
                parameter[place] += size
            assert (losses[0] - losses[1]) / (2 * size) == pytest.approx(
                float(parameter.grad[place]), rel=1e-4, abs=1e-9
            )


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("family", ["gpt2", "gpt_neox", "qwen3"])
def test_what_is_trained_is_seen_by_all_and_gone_after(family: str, backend: str) -> None:
    model, batch = lm(family, backend), ragged("right")
    before, print_, clean = snapshot(model.module), model.fingerprint(), model.run(batch).logits
    with model.tuning() as tuning:
        first = float(nll(tuning.logits(batch).detach(), batch))
        optimiser = torch.optim.Adam(tuning.parameters.values(), lr=3e-3)
        for _ in range(5):
            optimiser.zero_grad()
            loss = nll(tuning.logits(batch), batch)
            loss.backward()
            optimiser.step()
        assert float(nll(tuning.logits(batch).detach(), batch)) < first - 0.05
        inside, values, mark = model.run(batch).logits, tuning.values(), model.fingerprint()
        assert mark != print_ and not inside.requires_grad
        torch.testing.assert_close(inside[batch.mask], tuning.logits(batch).detach()[batch.mask], rtol=0, atol=1e-4)
        written = model.generate([[5, 6, 7]], 5)
        assert not any(value.requires_grad for value in values.values())
    assert unchanged(model.module, before) and model.fingerprint() == print_
    assert torch.equal(model.run(batch).logits, clean)
    left(model)
    with model.edit_weights(values):
        assert model.fingerprint() == mark and torch.equal(model.run(batch).logits, inside)
        assert model.generate([[5, 6, 7]], 5) == written
    assert unchanged(model.module, before)


def test_by_default_all_weights_of_the_layers_and_nothing_else() -> None:
    for family in FAMILIES:
        model = lm(family, "nnsight")
        layers = {id(p) for p in model.module.get_submodule(model.family.layers).parameters()}
        with model.tuning() as tuning:
            assert {id(p) for p in tuning.parameters.values()} == layers
            assert sum(p.requires_grad for p in model.module.parameters()) == len(layers)
        left(model)


def test_names_and_patterns() -> None:
    model = lm("gpt2", "nnsight")
    with model.tuning(["transformer.h.1.mlp.c_proj.weight", "transformer.h.*.ln_1.bias"]) as tuning:
        assert list(tuning.parameters)[:2] == ["transformer.h.0.ln_1.bias", "transformer.h.1.ln_1.bias"]
        assert len(tuning.parameters) == 5 and "5 parameters, 4,224 numbers" in repr(tuning)
        tuning.logits(tokens()).sum().backward()
        assert model.module.transformer.h[2].mlp.c_proj.weight.grad is None
    with model.tuning("transformer.wte.weight") as tuning:
        tuning.logits(tokens()).logsumexp(-1).sum().backward()
        assert model.module.lm_head.weight is tuning.parameters["transformer.wte.weight"]
    left(model)


@pytest.mark.parametrize(
    ("named", "match"),
    [
        ("transformer.h.1.mlp.c_porj.weight", r"Did you mean .*c_proj"),
        (["*.mlp.*", "*.experts.*"], r"no parameter is called '\*.experts.\*'"),
        ("lm_head.weight", "tied: tune it as 'transformer.wte.weight'"),
        ([], "nothing to tune"),
    ],
)
def test_names_that_are_nobodys(named: Any, match: str) -> None:
    model = lm("gpt2", "transformer_lens")
    with pytest.raises(BadInput, match=match), model.tuning(named):
        raise AssertionError("must not get here")
    left(model)


def test_an_exception_restores_everything() -> None:
    model = lm("gpt_neox", "transformer_lens")
    before, clean = snapshot(model.module), model.run(tokens()).logits
    with pytest.raises(ZeroDivisionError), model.tuning() as tuning:
        tuning.logits(tokens()).sum().backward()
        with torch.no_grad():
            for parameter in tuning.parameters.values():
                parameter.fill_(float("nan"))
        raise ZeroDivisionError
    assert unchanged(model.module, before) and torch.equal(model.run(tokens()).logits, clean)
    left(model)


def test_inside_a_weight_edit_it_begins_and_ends_there() -> None:
    model = lm("llama", "transformer_lens")
    before = snapshot(model.module)
    with model.edit_weights({"W_out.1": torch.zeros(48, 32)}):
        edited = snapshot(model.module)
        with model.tuning("*.mlp.*") as tuning:
            weight = tuning.parameters["model.layers.1.mlp.down_proj.weight"]
            assert not weight.any()
            with torch.no_grad():
                weight.add_(1.0)
                tuning.parameters["model.layers.0.mlp.down_proj.weight"].zero_()
        assert unchanged(model.module, edited)
    assert unchanged(model.module, before)


def test_a_weight_edit_inside_a_block_ends_inside_it() -> None:
    model = lm("llama", "transformer_lens")
    before = snapshot(model.module)
    with model.tuning() as tuning:
        with torch.no_grad():
            tuning.parameters["model.layers.1.mlp.down_proj.weight"].fill_(2.0)
        with model.edit_weights({"W_out.1": torch.zeros(48, 32)}):
            assert not tuning.parameters["model.layers.1.mlp.down_proj.weight"].any()
        assert bool((tuning.parameters["model.layers.1.mlp.down_proj.weight"] == 2.0).all())
    assert unchanged(model.module, before)


def test_captures_are_in_the_graph() -> None:
    model = lm("qwen3", "transformer_lens")
    site = "blocks.2.hook_resid_post"
    with model.tuning() as tuning:
        run = tuning.run(tokens(), capture=site, edits=[scale("blocks.0.hook_mlp_out", 2.0)])
        run[site].square().mean().backward()
        names = {name for name, p in tuning.parameters.items() if p.grad is not None}
        assert names == {name for name in tuning.parameters if not name.startswith("model.layers.3.")}
    want = model.plain.run(tokens(), capture=site, edits=[scale("blocks.0.hook_mlp_out", 2.0)])
    assert torch.equal(run[site].detach(), want[site])
    left(model)


def test_a_recording_of_other_weights_is_not_resumed() -> None:
    model = lm("gpt2", "nnsight")
    recording = model.record(tokens())
    with model.tuning() as tuning:
        with torch.no_grad():
            next(iter(tuning.parameters.values())).add_(1e-3)
        with pytest.raises(InterpError, match="weights changed"):
            model.resume(recording, [[scale("blocks.1.hook_mlp_out", 0.0)]])


def test_a_second_block_is_refused_also_through_the_other_backend() -> None:
    one, two = lm("gpt2", "nnsight"), lm("gpt2", "transformer_lens")
    assert one.module is two.module
    for model in (one, two):
        with one.tuning(), pytest.raises(BadInput, match="being tuned already"), model.tuning():
            raise AssertionError("must not get here")
    left(one)


def test_after_the_block_it_gives_nothing_more() -> None:
    model = lm("gpt2", "nnsight")
    with model.tuning() as tuning:
        pass
    for ask in (lambda: tuning.logits(tokens()), tuning.values):
        with pytest.raises(BadInput, match="has ended"):
            ask()


def test_training_mode_is_refused_and_put_back() -> None:
    model = lm("gpt2", "nnsight")
    with model.tuning() as tuning:
        model.module.transformer.h[1].train()
        with pytest.raises(BadInput, match="dropout"):
            tuning.logits(tokens())
    left(model)


def test_another_tensor_in_a_parameters_place_is_told_and_put_back() -> None:
    model = lm("gpt2", "transformer_lens")
    before, clean = snapshot(model.module), model.run(tokens()).logits
    weight = model.module.transformer.h[1].mlp.c_proj.weight
    home = weight.data_ptr()
    with model.tuning() as tuning:
        weight.data = torch.zeros(128, 32)
        with pytest.raises(BadInput, match=r"h.1.mlp.c_proj.weight.*in place"):
            tuning.logits(tokens())
    assert weight.data_ptr() == home and unchanged(model.module, before)
    assert torch.equal(model.run(tokens()).logits, clean)


def test_a_change_of_what_is_not_tuned_is_told() -> None:
    model = wrap(tiny("gpt2").requires_grad_(False), tokenizer(), "tiny", backend="nnsight")
    with pytest.raises(InterpError, match=r"wte\.weight was changed"), model.tuning(), torch.no_grad():
        model.module.transformer.wte.weight[0, 0] += 1


def test_a_wrapped_model_that_is_being_trained_stays_as_it_was() -> None:
    made = tiny("gpt2")
    grads = {name: torch.ones_like(p) for name, p in made.named_parameters()}
    for name, parameter in made.named_parameters():
        parameter.grad = grads[name]
    model = wrap(made, tokenizer(), "mine", backend="nnsight")
    with model.tuning("*.mlp.*") as tuning:
        assert not made.transformer.wte.weight.requires_grad
        tuning.logits(tokens()).sum().backward()
    for name, parameter in made.named_parameters():
        assert parameter.requires_grad and parameter.grad is grads[name] and bool((parameter.grad == 1).all())


def test_models_below_float32_are_refused() -> None:
    model = wrap(tiny("gpt2", dtype=torch.bfloat16).requires_grad_(False), tokenizer(), "coarse", backend="nnsight")
    with pytest.raises(BadInput, match=r"coarse is in bfloat16.*dtype='float32'"), model.tuning():
        raise AssertionError("must not get here")


def test_an_unproven_family_is_tuned_too() -> None:
    with pytest.warns(UserWarning, match="unproven"):
        model = wrap(other("opt"), tokenizer(), "opt")
    before, batch = snapshot(model.module), ragged("left")
    with model.tuning() as tuning:
        assert all(name.startswith(f"{model.family.layers}.") for name in tuning.parameters)
        nll(tuning.logits(batch), batch).backward()
        assert all(bool(torch.isfinite(p.grad).all()) for p in tuning.parameters.values() if p.grad is not None)
    assert unchanged(model.module, before)
    left(model)


def test_dropout_is_off() -> None:
    model = wrap(
        tiny("gpt2", resid_pdrop=0.5, attn_pdrop=0.5).requires_grad_(False), tokenizer(), "drop", backend="nnsight"
    )
    with model.tuning() as tuning:
        assert torch.equal(tuning.logits(tokens()), tuning.logits(tokens()))


@pytest.mark.parametrize("name", ["stories260K-llama"])
def test_a_real_checkpoint_learns_a_sentence_and_forgets_it(real_models, name: str) -> None:
    model = load(real_models / name, backend="nnsight", check=False)
    batch = model.encode(["The cat painted the moon green and sang to it."])
    print_, clean = model.fingerprint(), model.run(batch).logits
    with model.tuning("*.mlp.*") as tuning:
        optimiser = torch.optim.Adam(tuning.parameters.values(), lr=2e-3)
        first = float(nll(tuning.logits(batch).detach(), batch))
        for _ in range(12):
            optimiser.zero_grad()
            nll(tuning.logits(batch), batch).backward()
            optimiser.step()
        assert float(nll(tuning.logits(batch).detach(), batch)) < 0.5 * first
    assert model.fingerprint() == print_ and torch.equal(model.run(batch).logits, clean)
