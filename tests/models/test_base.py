"""What every backend shares: reading the input, refusing what cannot be meant, weights, fingerprint."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor

from interp.core.batch import At, Batch
from interp.core.edit import add, freeze, replace, scale
from interp.core.errors import BadInput, CaptureEmpty, EditDidNotFire, UnknownSite
from interp.core.lm import LM
from interp.core.run import Tape
from interp.core.site import Site
from interp.models.base import BaseLM
from interp.models.load import wrap
from interp.models.tracer import TracerLM
from tests import oracle
from tests.models.tiny import tiny, tokens
from tests.models.wrapped import BACKENDS, lm, module, tokenizer

RESID = "blocks.1.hook_resid_post"
both = pytest.mark.parametrize("backend", BACKENDS)


@pytest.fixture(params=BACKENDS)
def model(request: pytest.FixtureRequest) -> BaseLM:
    return lm("llama", request.param)


def test_it_is_an_lm(model: BaseLM) -> None:
    contract: LM = model
    assert contract.spec.backend == model.backend and contract.tokenizer.name == "tiny"
    assert repr(model).startswith(
        "LM(tiny-llama · llama · 4 layers × 32 · 4 heads over 2 K/V · vocabulary 160 · float32 on cpu"
    )


def test_sites_are_listed_and_filtered(model: BaseLM) -> None:
    assert [info.site.name for info in model.sites("hook_z")] == [f"blocks.{layer}.attn.hook_z" for layer in range(4)]
    assert len(model.sites()) == 4 * 13 + 2 and model.sites("nothing like it") == []
    assert all(info.editable for info in model.sites())


def test_every_way_of_giving_tokens_means_the_same(model: BaseLM) -> None:
    ids = tokens(1, 6)
    want = model.run(ids).logits
    for given in (ids[0], ids[0].tolist(), ids.tolist(), Batch.of(ids), ids.to(torch.int32)):
        assert torch.equal(model.run(given).logits, want)


def test_texts_are_encoded_with_the_models_own_tokenizer() -> None:
    model = wrap(tiny("gpt2", vocab_size=tokenizer().vocab), tokenizer(), "words")
    texts = ["The Eiffel Tower", "one two three four five"]
    batch = model.encode(texts)
    assert [len(row) for row in batch.mask] == [batch.tokens.shape[1]] * 2 and not batch.unpadded
    for row, text in enumerate(texts):
        ids = tokenizer().encode(text).ids
        assert tuple(batch.tokens[row][batch.mask[row]].tolist()) == ids
        torch.testing.assert_close(model.run(text).last_logits[0], model.run(texts).last_logits[row], rtol=0, atol=2e-5)
    with_bos = model.encode("one", bos=True)
    assert (
        with_bos.tokens[0, 0] == tokenizer().bos_id
        and with_bos.tokens.shape[1] == model.encode("one").tokens.shape[1] + 1
    )
    with pytest.raises(BadInput, match="has no tokens"):
        model.run("")
    with pytest.raises(BadInput, match="no texts"):
        model.encode([])


def test_ids_beyond_the_vocabulary_are_refused(model: BaseLM) -> None:
    for bad in (160, -1):
        with pytest.raises(BadInput, match=f"token id {bad} is not in the vocabulary of tiny-llama"):
            model.run([1, bad])
    with pytest.raises(BadInput, match="160"):
        model.read([torch.tensor([160])], [Site.parse(RESID)])


def test_prompts_longer_than_the_context_are_refused(model: BaseLM) -> None:
    assert model.run(tokens(1, 64)).logits.shape[1] == 64
    with pytest.raises(BadInput, match=r"65 tokens is longer than the context of tiny-llama \(64\)"):
        model.run(tokens(1, 65))
    padded = Batch.padded([[1] * 60, [2]], side="left")
    wide = Batch(
        torch.cat([torch.zeros(2, 9, dtype=torch.int64), padded.tokens], 1),
        torch.cat([torch.zeros(2, 9).bool(), padded.mask], 1),
    )
    assert model.run(wide).logits.shape == (2, 69, 160), "padding is no context"


def test_a_mistyped_site_is_met_with_a_suggestion(model: BaseLM) -> None:
    with pytest.raises(UnknownSite, match=r"Did you mean .*'blocks.1.hook_resid_post'"):
        model.run(tokens(), capture="blocks.1.hook_resid_pots")
    with pytest.raises(UnknownSite, match="layers 0 to 3"):
        model.run(tokens(), edits=[scale("blocks.4.attn.hook_z", 0.0)])
    with pytest.raises(UnknownSite, match="not learned embeddings"):
        model.run(tokens(), capture="hook_pos_embed")
    with pytest.raises(UnknownSite, match="matches no site"):
        model.run(tokens(), capture="blocks.*.hook_nothing")
    with pytest.raises(UnknownSite):
        model.run(tokens(), stop_after="hook_rot_q")


def test_an_edit_that_did_not_fire_raises(model: BaseLM) -> None:
    nowhere = torch.zeros(2, 14, dtype=torch.bool)
    with pytest.raises(EditDidNotFire, match="changed nothing"):
        model.run(tokens(), edits=[scale(RESID, 0.0, at=At.mask(nowhere))])
    with pytest.raises(BadInput, match="position 14 is in no row"):
        model.run(tokens(), edits=[scale(RESID, 0.0, at=At.index(14))])


def test_a_site_that_is_never_reached_raises(monkeypatch: pytest.MonkeyPatch) -> None:
    model = lm("llama", "nnsight")
    monkeypatch.setattr(TracerLM, "_forward", lambda self, tape, stop_after: None)
    with pytest.raises(CaptureEmpty, match=RESID):
        model.run(tokens(), capture=RESID)


def test_what_lies_behind_the_stop_is_refused(model: BaseLM) -> None:
    with pytest.raises(BadInput, match=r"blocks.2.*comes after `stop_after`"):
        model.run(tokens(), capture="blocks.2.hook_mlp_out", stop_after=RESID)
    with pytest.raises(BadInput, match="comes after"):
        model.run(tokens(), edits=[scale("ln_final.hook_out", 0.0)], stop_after=RESID)
    with pytest.raises(CaptureEmpty, match="stopped before the logits"):
        _ = model.run(tokens(), stop_after=RESID).last_logits


def test_nested_lists_of_edits_are_refused_with_the_way_out(model: BaseLM) -> None:
    run = model.run(tokens(), capture=RESID)
    with pytest.raises(BadInput, match=r"unpack lists with `\*`"):
        model.run(tokens(), edits=[freeze([RESID], run)])  # type: ignore[list-item]


def boom(x: Tensor) -> Tensor:
    raise KeyError("an error of the user's own function")


def everything(model: BaseLM) -> list[Any]:
    inner = getattr(model, "bridge", None) or model._inner  # type: ignore[attr-defined]
    return [model.module, inner]


def test_hooks_before_are_hooks_after_also_on_exceptions(model: BaseLM) -> None:
    from interp.core.edit import call

    before = [oracle.hook_count(part) for part in everything(model)]
    clean = model.run(tokens(), capture="blocks.*").logits
    with pytest.raises(KeyError, match="own function"):
        model.run(tokens(), edits=[call(RESID, boom)])
    with pytest.raises(BadInput):
        model.run(tokens(), edits=[replace(RESID, torch.zeros(7))])
    model.run(tokens(), capture="blocks.*", stop_after="blocks.3.hook_resid_post")
    assert [oracle.hook_count(part) for part in everything(model)] == before
    assert torch.equal(model.run(tokens(), capture="blocks.*").logits, clean)


def test_a_run_leaves_no_trace_in_the_weights(model: BaseLM) -> None:
    before = model.fingerprint()
    model.run(tokens(), capture="*", edits=[add(RESID, 1.0)], grad=True).logits.sum().backward()
    assert model.fingerprint() == before and all(parameter.grad is None for parameter in model.module.parameters())


def test_learnable_edits_get_gradients(model: BaseLM) -> None:
    value = torch.zeros(32, requires_grad=True)
    model.run(tokens(), edits=[add(RESID, value)], grad=True).logits.sum().backward()
    assert value.grad is not None and float(value.grad.abs().max()) > 0


@pytest.mark.parametrize("change", ["weight", "last bit", "config", "dtype"])
def test_the_fingerprint_is_of_every_byte(change: str) -> None:
    first, other = tiny("gpt2"), tiny("gpt2")
    prints = [wrap(m, tokenizer(), "m", backend="nnsight").fingerprint() for m in (first, other)]
    assert prints[0] == prints[1] and len(prints[0]) == 32
    if change == "weight":
        other.transformer.h[3].mlp.c_proj.bias.data[5] += 1e-6
    elif change == "last bit":
        other.transformer.wpe.weight.data.view(torch.int32)[63, 31] ^= 1
    elif change == "config":
        other.config.layer_norm_epsilon = 2e-5
    else:
        other = other.to(torch.bfloat16)
    assert wrap(other, tokenizer(), "another name", backend="nnsight").fingerprint() != prints[0]


def test_the_fingerprint_does_not_depend_on_the_backend_or_the_past() -> None:
    model = lm("gpt2", "transformer_lens")
    before = model.fingerprint()
    model.run(tokens())
    assert model.fingerprint() == before == lm("gpt2", "nnsight").fingerprint()


@both
@pytest.mark.parametrize("family", ["gpt2", "gpt_neox", "llama", "gemma2"])
def test_weight_edits_reach_both_modules_and_are_taken_back(family: str, backend: str) -> None:
    model = lm(family, backend)
    clean, before = model.run(tokens()).logits, model.fingerprint()
    for key in ("W_Q.1", "W_V.1", "W_O.1.0", "W_out.2", "W_in.0"):
        view = getattr(model.weights, key.split(".")[0])(int(key.split(".")[1]))
        view = view[0] if key.count(".") == 2 else view
        with model.edit_weights({key: view.flip(-1)}):
            changed = copy.deepcopy(model.module)
            edited = model.run(tokens()).logits
            torch.testing.assert_close(edited, oracle.logits(changed, tokens()), rtol=0, atol=4e-5, msg=key)
            assert torch.equal(model.plain.run(tokens()).logits, oracle.logits(changed, tokens()))
        assert not torch.allclose(edited, clean, atol=1e-3), key
        assert torch.equal(model.run(tokens()).logits, clean)
    with pytest.raises(RuntimeError, match="inside"), model.edit_weights({"W_V.1": 0 * model.weights.W_V(1)}):
        raise RuntimeError("inside")
    assert torch.equal(model.run(tokens()).logits, clean) and model.fingerprint() == before


@both
@pytest.mark.parametrize("family", ["gpt2", "gpt_neox", "gpt_neo"])
def test_training_the_borrowed_model_shows_at_once(family: str, backend: str) -> None:
    """Parameters changed behind our back, by an optimiser for instance: every in-place change is noticed."""
    own = copy.deepcopy(module(family)).requires_grad_(True)
    model = wrap(own, tokenizer(), "in training", backend=backend)
    before = model.run(tokens()).logits
    optimiser = torch.optim.SGD(own.parameters(), lr=0.01)
    own(tokens()).logits.square().mean().backward()
    optimiser.step()
    after = model.run(tokens()).logits
    torch.testing.assert_close(after, oracle.logits(own, tokens()), rtol=0, atol=4e-5)
    assert not torch.allclose(after, before, atol=1e-3)
    assert all(parameter.requires_grad for parameter in own.parameters()), "the model is only borrowed"


def test_record_and_resume_go_by_the_plain_model(model: BaseLM) -> None:
    edit = scale("blocks.2.hook_mlp_out", 0.0, at=At.last())
    base = model.record(tokens())
    got = model.resume(base, [[edit], []], positions=[-1])
    torch.testing.assert_close(got[0, :, 0], model.run(tokens(), edits=[edit]).last_logits, rtol=0, atol=4e-5)
    torch.testing.assert_close(got[1, :, 0], model.run(tokens()).last_logits, rtol=0, atol=4e-5)
    with pytest.raises(BadInput, match="what `record` gave"):
        model.resume(model.run(tokens()), [[edit]])  # type: ignore[arg-type]
    documents = [tokens(1, n)[0] for n in (5, 9)]
    read = model.read(documents, [RESID])[Site.parse(RESID)]
    want = [model.run(document, capture=RESID)[RESID][0] for document in documents]
    torch.testing.assert_close(read, torch.cat(want), rtol=0, atol=2e-5)


def test_the_fidelity_line_says_ok(model: BaseLM) -> None:
    line = str(model.fidelity())
    assert line.endswith("ok") and "sites act" in line


def test_a_backend_without_a_primitive_says_so() -> None:
    bare = BaseLM(module("gpt2"), tokenizer(), lm("gpt2", "nnsight").spec)
    with pytest.raises(NotImplementedError):
        bare._forward(Tape(Batch.of(tokens())), None)
