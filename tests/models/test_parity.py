"""Both backends and the plain engine are one model: the same numbers at every site, the same effect of every edit.

nnsight runs transformers' own forward pass, so it is held to the last bit. TransformerLens computes attention eagerly and LayerNorm
by its own code: equal but for rounding, which a run in float64 shows to be all there is.
"""

from functools import partial

import pytest
import torch
from torch import Tensor

from interp.core.batch import At, Batch
from interp.core.edit import add, freeze, replace, scale
from interp.core.site import Site
from interp.models.base import BaseLM
from interp.models.load import load, wrap
from tests import oracle
from tests.models.tiny import FAMILIES, tiny, tokens
from tests.models.wrapped import BACKENDS, lm, module, tokenizer

ATOL = {"transformer_lens": 4e-5, "nnsight": 0.0}
"""Of logits with a spread of about 5, in float32."""

both = pytest.mark.parametrize("backend", BACKENDS)
every = pytest.mark.parametrize("family", FAMILIES)


def ragged(side: str) -> Batch:
    return Batch.padded([tokens(1, n, seed=n)[0].tolist() for n in (14, 9, 11)], side=side)


def on_real(x: Tensor, site: Site | None, batch: Batch) -> Tensor:
    """The values of a tensor at real tokens only (real queries, for the pattern)."""
    if site is not None and site.kind == "pattern":
        return x.transpose(1, 2)[batch.mask]
    return x[batch.mask]


def agree(got: Tensor, want: Tensor, atol: float, what: object) -> None:
    assert got.shape == want.shape, what
    torch.testing.assert_close(got, want, rtol=0, atol=atol, msg=lambda text: f"{what}: {text}")


def one_layer(model: BaseLM) -> list[Site]:
    """Every kind of site, at layer 1 where it has layers."""
    return [info.site for info in model.sites() if info.site.layer in (None, 1)]


@both
@every
@pytest.mark.parametrize("side", ["left", "right"])
def test_every_site_has_the_same_numbers(family: str, backend: str, side: str) -> None:
    model, batch = lm(family, backend), ragged(side)
    sites = [info.site for info in model.sites()]
    got, want = model.run(batch, capture=sites), model.plain.run(batch, capture=sites)
    for site in sites:
        agree(on_real(got[site], site, batch), on_real(want[site], site, batch), ATOL[backend], site)
    agree(on_real(got.logits, None, batch), on_real(want.logits, None, batch), ATOL[backend], "logits")


@both
@every
def test_sites_have_the_shapes_that_they_announce(family: str, backend: str) -> None:
    model = lm(family, backend)
    run = model.run(tokens(), capture=[info.site for info in model.sites()])
    for info in model.sites():
        shape = list(info.shape)
        if info.site.kind == "pattern":
            shape = [shape[0], 14, 14]
        elif "pos" in info.site.dims:
            shape = [14, *shape]
        assert list(run[info.site].shape) == [2, *shape], info.site


@both
@every
def test_ablations_do_what_the_oracle_does(family: str, backend: str) -> None:
    model, batch = lm(family, backend), ragged("left")
    clean = model.run(batch).logits
    for site in one_layer(model):
        kind = "z" if site.kind == "pattern" else site.kind  # without any pattern there is nothing to weight together
        want = oracle.edited(module(family), [(kind, site.layer, torch.zeros_like)], batch.tokens, batch.mask)
        got = model.run(batch, edits=[scale(site, 0.0)])
        atol = ATOL[
            "transformer_lens" if site.kind == "pattern" else backend
        ]  # seeing the pattern takes eager attention
        agree(on_real(got.logits, None, batch), on_real(want, None, batch), atol, site)
        assert not torch.allclose(got.logits, clean, atol=1e-3), f"{site}: the edit did nothing"
        assert [fired.calls for fired in got.fired.values()] == [1]


@both
@every
def test_edits_of_some_positions_and_heads_agree_with_the_plain_engine(family: str, backend: str) -> None:
    model, batch = lm(family, backend), ragged("left")
    for site in one_layer(model):
        heads = [1] if {"head", "kv_head"} & set(site.dims) else None
        edits = [add(site, 0.3, at=At.index(2, -1), heads=heads)]
        got, want = model.run(batch, edits=edits), model.plain.run(batch, edits=edits)
        agree(on_real(got.logits, None, batch), on_real(want.logits, None, batch), ATOL[backend], site)
        assert not torch.equal(got.logits, model.run(batch).logits), site


@both
@every
def test_replacing_a_site_with_itself_changes_nothing(family: str, backend: str) -> None:
    model, batch = lm(family, backend), ragged("right")
    sites = [info.site for info in model.sites() if info.site.kind != "pattern"]
    clean = model.run(batch, capture=sites)
    assert torch.equal(model.run(batch, edits=freeze(sites, clean)).logits, clean.logits)
    assert torch.equal(model.run(batch, edits=[]).logits, clean.logits)
    patterns = [info.site for info in model.sites("pattern")]
    eager = model.run(
        batch, capture=patterns
    )  # nnsight attends eagerly where patterns are seen, and recomputes z from them
    again = model.run(batch, edits=freeze(patterns, eager)).logits
    agree(on_real(again, None, batch), on_real(eager.logits, None, batch), 3e-5, "pattern")


@both
@every
def test_the_last_residual_stream_carries_everything(family: str, backend: str) -> None:
    model = lm(family, backend)
    last = f"blocks.{model.spec.n_layers - 1}.hook_resid_post"
    clean = model.run(tokens(), capture=[last])
    patched = model.run(tokens(seed=1), edits=[replace(last, clean)])
    assert torch.equal(patched.logits, clean.logits)


@both
@every
def test_a_row_alone_equals_the_row_in_a_padded_batch(family: str, backend: str) -> None:
    model = lm(family, backend)
    rows = [tokens(1, n, seed=n)[0].tolist() for n in (14, 9)]
    alone = model.run(rows[1]).logits[0]
    for side in ("left", "right"):
        batch = Batch.padded(rows, side=side)
        agree(model.run(batch).logits[1][batch.mask[1]], alone, 4e-5, side)


@both
@every
def test_gradients_reach_every_site(family: str, backend: str) -> None:
    model = lm(family, backend)
    sites = [info.site for info in model.sites() if info.site.kind != "pattern"]
    run = model.run(tokens(), capture=sites, grad=True)
    want = model.plain.run(tokens(), capture=sites, grad=True)
    grads = torch.autograd.grad(run.logits[:, -1].sum(), [run[site] for site in sites])
    wants = torch.autograd.grad(want.logits[:, -1].sum(), [want[site] for site in sites])
    for site, grad, expected in zip(sites, grads, wants, strict=True):
        assert float(grad.abs().max()) > 0, site
        agree(grad, expected, 1e-3 * float(expected.abs().max()), site)
    assert all(parameter.grad is None for parameter in model.module.parameters())
    assert not model.run(tokens(), capture=sites[-1:])[sites[-1]].requires_grad


@both
@pytest.mark.parametrize(
    ("family", "size", "rel"), [("gpt2", 1e-4, 1e-3), ("gpt_neox", 1e-4, 1e-3), ("qwen3", 3e-3, 2e-2)]
)
def test_gradients_say_what_a_small_step_does(family: str, size: float, rel: float, backend: str) -> None:
    """In float64, except that transformers' RMSNorm and rotary embedding round to float32: there the step must be larger."""
    wide = tiny(family, dtype=torch.float64).requires_grad_(False)
    model = wrap(wide, tokenizer(), "wide", backend=backend)
    sites = [site for site in one_layer(model) if site.kind not in ("pattern", "pos_embed")]
    run = model.run(tokens(), capture=sites, grad=True)
    for site in sites:
        step = size * torch.randn(run[site].shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
        (grad,) = torch.autograd.grad(run.logits[:, -1, 3].sum(), run[site], retain_graph=True)
        ends = [
            oracle.edited(wide, [(site.kind, site.layer, partial(torch.add, way))], tokens()) for way in (step, -step)
        ]
        moved = float((ends[0] - ends[1])[:, -1, 3].sum() / 2)
        assert float((grad * step).sum()) == pytest.approx(moved, rel=rel), site


@both
@every
def test_a_pass_that_stops_early_gives_the_same_captures(family: str, backend: str) -> None:
    model = lm(family, backend)
    full = model.run(tokens(), capture=[info.site for info in model.sites()])
    for site in one_layer(model):
        run = model.run(tokens(), capture=[site], stop_after=site)
        assert run.logits is None
        agree(run[site], full[site], ATOL["transformer_lens"], site)
        assert model.run(tokens(), stop_after=site).logits is None


@pytest.mark.parametrize("family", ["gpt2", "gpt_neo", "gpt_neox"])
def test_in_float64_only_rounding_is_left(family: str) -> None:
    model = wrap(tiny(family, dtype=torch.float64).requires_grad_(False), tokenizer(), "wide")
    got, want = model.run(tokens()).logits, model.plain.run(tokens()).logits
    limit = (
        1e-11 if family == "gpt2" else 2e-5
    )  # the other two round attention to float32 inside transformers' own code
    agree(got, want, limit, family)


AWKWARD = [
    ("gpt2", {"layer_norm_epsilon": 0.3}), ("gpt2", {"scale_attn_by_inverse_layer_idx": True}), ("gpt_neo", {"layer_norm_epsilon": 0.3}),
    ("gpt_neox", {"layer_norm_eps": 0.3}), ("gpt_neox", {"use_parallel_residual": False}), ("gpt_neox", {"tie_word_embeddings": True}),
    ("llama", {"rms_norm_eps": 0.3}), ("llama", {"attention_bias": True, "mlp_bias": True, "tie_word_embeddings": True}),
    ("llama", {"num_key_value_heads": 4}), ("llama", {"num_key_value_heads": 1}), ("mistral", {"sliding_window": None}),
    ("qwen3", {"rms_norm_eps": 0.3}), ("gemma2", {"rms_norm_eps": 0.3}), ("olmo2", {"tie_word_embeddings": True}),
    ("phi3", {"sliding_window": None, "tie_word_embeddings": True}),
    ("phi3", {"rope_parameters": None, "rms_norm_eps": 0.3}),
    ("qwen3_moe", {"mlp_only_layers": None, "decoder_sparse_step": 2, "use_sliding_window": False, "norm_topk_prob": False}),
    ("qwen3_moe", {"attention_bias": True, "num_key_value_heads": 1, "tie_word_embeddings": True}),
    ("gpt_oss", {"attention_bias": False, "num_experts_per_tok": 1}), ("gpt_oss", {"num_key_value_heads": 4, "rms_norm_eps": 0.3}),
]  # fmt: skip


@both
@pytest.mark.parametrize(
    ("family", "options"), AWKWARD, ids=lambda value: "-".join(value) if isinstance(value, dict) else value
)
def test_options_that_a_reimplementation_may_forget(family: str, options: dict, backend: str) -> None:
    model, batch = lm(family, backend, **options), ragged("left")
    sites = [info.site for info in model.sites()]
    got, want = model.run(batch, capture=sites), model.plain.run(batch, capture=sites)
    for site in sites:
        agree(on_real(got[site], site, batch), on_real(want[site], site, batch), ATOL[backend], site)
    agree(on_real(got.logits, None, batch), on_real(want.logits, None, batch), ATOL[backend], "logits")
    for site in one_layer(model):
        edits = [scale(site, 0.0, at=At.last())]
        got, want = model.run(batch, edits=edits), model.plain.run(batch, edits=edits)
        agree(on_real(got.logits, None, batch), on_real(want.logits, None, batch), ATOL[backend], site)


@both
@pytest.mark.parametrize("name", ["stories260K-llama", "tinytalk-chat", "tinytalk-slang"])
def test_real_checkpoints(name: str, backend: str, real_models) -> None:
    model = load(real_models / name, backend=backend)
    batch = model.encode(["Once upon a time there was a little girl", "One day, Tom"])
    sites = [info.site for info in model.sites()]
    got, want = model.run(batch, capture=sites), model.plain.run(batch, capture=sites)
    for site in sites:
        a, b = on_real(got[site], site, batch), on_real(want[site], site, batch)
        agree(a, b, ATOL[backend] * max(1.0, float(b.abs().max())), site)
    logprobs = [on_real(run.logits, None, batch).log_softmax(-1) for run in (got, want)]
    agree(*logprobs, 1e-3 * bool(ATOL[backend]), "log-probabilities")
    assert int((logprobs[0].argmax(-1) != logprobs[1].argmax(-1)).sum()) == 0
    for site in one_layer(model):
        edits = [scale(site, 0.5, at=At.last())]
        got, want = model.run(batch, edits=edits), model.plain.run(batch, edits=edits)
        agree(got.last_logits.log_softmax(-1), want.last_logits.log_softmax(-1), 1e-3 * bool(ATOL[backend]), site)
