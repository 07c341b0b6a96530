"""The fidelity check passes for every family on both backends, and catches each of the ways a wrapper can be wrong."""

import time
from dataclasses import replace

import pytest
import torch

from interp.core.errors import EditDidNotFire
from interp.models.fidelity import TOLERANCE, fidelity
from interp.models.load import wrap

from .tiny import FAMILIES, tiny, tiny_tokenizer


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(tiny_tokenizer(tmp_path_factory.mktemp("tokenizer")))


def lm_of(model_type, tokenizer, backend="transformer_lens", **options):
    return wrap(tiny(model_type, vocab_size=len(tokenizer), **options), tokenizer, model_type, backend=backend)


@pytest.mark.parametrize("backend", ["transformer_lens", "nnsight"])
@pytest.mark.parametrize("model_type", FAMILIES)
def test_every_family_agrees_with_transformers(model_type, backend, tokenizer):
    lm = lm_of(model_type, tokenizer, backend)
    found = fidelity(lm)
    assert found.ok, found.line
    assert not found.silent and len(found.acting) + len(found.skipped) == len({info.site.kind for info in lm.sites()})
    assert max(found.logits, found.log_probs) < 5e-5 and max(found.batch, found.left, found.right) < 5e-5, found.line
    assert found.line.endswith(": ok") and found.to_dict()["ok"] is True


def test_it_is_quick(tokenizer):
    lm = lm_of("llama", tokenizer)
    start = time.process_time()
    lm.fidelity()
    assert time.process_time() - start < 2


def test_bfloat16_has_its_own_tolerance(tokenizer):
    found = fidelity(lm_of("llama", tokenizer, dtype=torch.bfloat16))
    assert found.ok, found.line
    assert found.tolerance == TOLERANCE["bfloat16"] and found.logits > 1e-4


class Wrong:
    """An LM whose `run` is tampered with."""

    def __init__(self, lm, tamper):
        self._lm, self._tamper = lm, tamper

    def __getattr__(self, name):
        return getattr(self._lm, name)

    def run(self, tokens, **options):
        return self._tamper(self._lm, tokens, options)


def test_a_shifted_logit_is_caught(tokenizer):
    def tamper(lm, tokens, options):
        run = lm.run(tokens, **options)
        return replace(run, logits=run.logits + 0.01 * torch.arange(run.logits.shape[-1]))

    found = fidelity(Wrong(lm_of("gpt2", tokenizer), tamper))
    assert not found.ok and "logits differ" in found.line and "NOT OK" in found.line


def test_a_mask_that_is_ignored_is_caught(tokenizer):
    def tamper(lm, tokens, options):
        return lm.run(replace(tokens, mask=torch.ones_like(tokens.mask)), **options)

    found = fidelity(Wrong(lm_of("llama", tokenizer), tamper))
    assert [word for word in found.problems if "left padding" in word] and found.left > 0.1 and found.right < 1e-4


def test_an_edit_that_is_dropped_is_caught(tokenizer):
    def tamper(lm, tokens, options):
        return lm.run(tokens, **{**options, "edits": [e for e in options.get("edits", ()) if e.site.kind != "z"]})

    found = fidelity(Wrong(lm_of("gpt2", tokenizer), tamper))
    assert found.failing == ("z",) and "perturbing z" in found.line


def test_an_edit_that_raises_is_caught(tokenizer):
    def tamper(lm, tokens, options):
        if any(e.site.kind == "mlp_post" for e in options.get("edits", ())):
            raise EditDidNotFire("nothing")
        return lm.run(tokens, **options)

    assert fidelity(Wrong(lm_of("gpt2", tokenizer), tamper)).failing == ("mlp_post",)


def test_a_wrong_stream_is_caught(tokenizer):
    def tamper(lm, tokens, options):
        run = lm.run(tokens, **options)
        kept = {site: x.flip(-1) if site.layer == 2 else x for site, x in run.captured.items()}
        return replace(run, captured=kept)

    found = fidelity(Wrong(lm_of("gpt2", tokenizer), tamper))
    assert "residual stream after layer 2" in found.line


def test_wrong_claims_are_caught(tokenizer):
    lm = lm_of("llama", tokenizer)
    lm.spec = replace(lm.spec, dtype="float64", attention="eager" if lm.spec.attention == "sdpa" else "sdpa")
    assert len(fidelity(lm).claims) == 2


def test_nan_is_never_ok(tokenizer):
    found = fidelity(lm_of("gpt2", tokenizer))
    assert not replace(found, logits=float("nan")).ok


def test_a_silent_site_is_told_apart_from_a_broken_one():
    from interp.models import reference

    found = fidelity(reference.as_lm(reference.induction()))  # its MLPs are zero
    assert found.ok and {"mlp_pre", "mlp_post"} <= set(found.silent)
