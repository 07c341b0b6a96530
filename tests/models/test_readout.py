"""`unembed`: the model's own way from the last residual stream to the logits, on every family, and nothing left behind."""

import copy

import pytest
import torch

from interp.core.edit import replace
from interp.core.errors import BadInput
from interp.core.site import Site
from interp.models import readout
from interp.models.load import wrap
from interp.models.plain import PlainModel
from tests import oracle
from tests.models.tiny import FAMILIES, SDPA, tiny, tokens
from tests.models.wrapped import BACKENDS, lm, module, tokenizer

LAST = Site("resid_post", 3)
USES = [(name, "eager") for name in FAMILIES] + [(name, "sdpa") for name in SDPA]


@pytest.mark.parametrize(("family", "attention"), USES)
def test_the_last_stream_reads_out_as_the_logits(family: str, attention: str) -> None:
    model = tiny(family, attention=attention)
    plain, ids = PlainModel(model), tokens(3, 14)
    stream, want = oracle.capture(model, "resid_post", 3, ids), oracle.logits(model, ids)
    got = plain.unembed(stream)
    torch.testing.assert_close(got, want, rtol=0, atol=1e-5)  # matrix products of another shape round differently
    assert torch.equal(plain.unembed(stream), got), "twice is the same"
    for part in (stream[0], stream[:, -1], stream[0, 3], stream[:, :1]):  # any leading axes, or none
        assert plain.unembed(part).shape == (*part.shape[:-1], want.shape[-1])
    torch.testing.assert_close(plain.unembed(stream[0, 3]), want[0, 3], rtol=0, atol=1e-5)
    torch.testing.assert_close(plain.unembed(stream[1:, -1]), want[1:, -1], rtol=0, atol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_it_is_what_resuming_with_that_stream_gives(family: str) -> None:
    plain = PlainModel(tiny(family))
    base, stream = plain.record(tokens(2, 9)), torch.randn(2, 9, 32, generator=torch.Generator().manual_seed(1))
    want = plain.resume(base, [[replace(LAST, stream)]], positions=range(9))[0]
    torch.testing.assert_close(plain.unembed(stream), want, rtol=0, atol=1e-5)
    assert not torch.allclose(want, base.run.logits, atol=1e-2)


@pytest.mark.parametrize("family", FAMILIES)
def test_in_16_bits_it_is_the_logits_too(family: str) -> None:
    model = tiny(family, dtype=torch.bfloat16)
    plain, ids = PlainModel(model), tokens(2, 9)
    stream, want = oracle.capture(model, "resid_post", 3, ids), oracle.logits(model, ids)
    got = plain.unembed(stream)
    assert got.dtype == torch.bfloat16 and bool(got.isfinite().all())
    torch.testing.assert_close(got.float(), want.float(), rtol=0, atol=0.01 * float(want.float().abs().max()))
    assert torch.equal(plain.unembed(stream.double()), got), "a wider stream is rounded to the model's dtype first"


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("family", ["gpt2", "gpt_neox", "gemma2"])
def test_both_backends_read_out_alike(family: str, backend: str) -> None:
    model = lm(family, backend)
    run = model.run(tokens(2, 9), capture=LAST)
    torch.testing.assert_close(model.unembed(run[LAST]), run.logits, rtol=0, atol=4e-5)


@pytest.mark.parametrize("family", [name for name in FAMILIES if name != "olmo2"])
def test_a_folded_model_reads_out_its_own_stream(family: str) -> None:
    """In tied models the unembedding is another matrix than the embedding now, with a bias where the norm had one."""
    folded = wrap(copy.deepcopy(module(family)), tokenizer(), "folded", backend="nnsight", folded=True)
    run = folded.run(tokens(2, 9), capture=LAST)
    torch.testing.assert_close(folded.unembed(run[LAST]), run.logits, rtol=0, atol=1e-5)
    want = oracle.logits(module(family), tokens(2, 9)).log_softmax(-1)
    torch.testing.assert_close(folded.unembed(run[LAST]).log_softmax(-1), want, rtol=0, atol=2e-4)


def test_the_soft_cap_is_inside() -> None:
    plain = PlainModel(tiny("gemma2"))
    huge = 100 * torch.randn(50, 32, generator=torch.Generator().manual_seed(0))
    assert 2.5 < float(plain.unembed(huge).abs().max()) <= 3.0


def test_more_positions_than_are_read_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = PlainModel(tiny("llama"))
    stream = torch.randn(5, 7, 32, generator=torch.Generator().manual_seed(0))
    want = plain.unembed(stream)
    monkeypatch.setattr(readout, "ROWS", 8)  # four chunks, the last of them short
    torch.testing.assert_close(plain.unembed(stream), want, rtol=0, atol=1e-5)
    assert plain.unembed(stream[:0]).shape == (0, 7, want.shape[-1])


@pytest.mark.parametrize("family", FAMILIES)
def test_nothing_stays_behind_also_on_an_exception(family: str) -> None:
    model = tiny(family)
    plain, stream = PlainModel(model), torch.ones(3, 32)
    norm, hooks = model.get_submodule(plain.family.final), oracle.hook_count(model)

    def fail(*_: object) -> None:
        raise RuntimeError("in the middle")

    handle = norm.register_forward_hook(fail)
    for _ in range(2):  # the first time it also finds out what layers give
        with pytest.raises(RuntimeError, match="in the middle"):
            plain.unembed(stream)
    handle.remove()
    plain.unembed(stream)
    assert oracle.hook_count(model) == hooks
    assert not any("forward" in vars(part) for part in model.modules())
    assert torch.equal(plain.run(tokens()).logits, oracle.logits(model, tokens()))


def test_a_stream_of_another_width_is_refused() -> None:
    with pytest.raises(BadInput, match=r"\(2, 31\).*32"):
        PlainModel(tiny("gpt2")).unembed(torch.zeros(2, 31))


@pytest.mark.parametrize("family", FAMILIES)
def test_gradients_stay_out(family: str) -> None:
    stream = torch.ones(2, 32, requires_grad=True)
    assert not PlainModel(tiny(family)).unembed(stream).requires_grad
