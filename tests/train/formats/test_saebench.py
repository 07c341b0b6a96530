"""What SAEBench asks of an SAE that is not SAELens' own: the members of its BaseSAE (custom_saes/base_sae.py, as kept in d0rbu/SAEBench
commit 0b78def) and what its loader does to `cfg` (general_utils._standardize_sae_cfg), written out here: it is not installed."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from interp.core.dictionary import Dictionary
from interp.core.errors import BadInput
from interp.train import formats

from .conftest import LATENTS, WIDTH, drawn

Make = Callable[..., Dictionary]
FIELDS = (
    "model_name", "d_in", "d_sae", "hook_layer", "hook_name", "context_size", "hook_head_index", "metadata", "architecture",
    "apply_b_dec_to_input", "prepend_bos", "normalize_activations", "dtype", "device", "model_from_pretrained_kwargs", "dataset_path",
    "dataset_trust_remote_code", "seqpos_slice", "neuronpedia_id",
)  # fmt: skip
"""Of its CustomSAEConfig."""


@pytest.mark.parametrize("activation", ["relu", "topk", "batchtopk", "jumprelu"])
def test_a_folded_dictionary_is_a_custom_sae(activation: str, make: Make, rows: Tensor) -> None:
    own = make(activation)
    sae: Any = own.folded()
    assert sae.W_enc.shape == (sae.cfg.d_in, sae.cfg.d_sae) == (WIDTH, LATENTS)
    assert sae.W_dec.shape == (LATENTS, WIDTH) and sae.b_enc.shape == (LATENTS,) and sae.b_dec.shape == (WIDTH,)
    assert all(hasattr(sae.cfg, name) for name in FIELDS)
    assert (sae.cfg.hook_layer, sae.cfg.hook_name, sae.cfg.metadata.hook_name) == (2, *["blocks.2.hook_resid_post"] * 2)
    assert (sae.cfg.metadata.context_size, sae.cfg.metadata.prepend_bos) == (64, True)
    acts = rows.view(8, 32, WIDTH)  # [batch, position, d]
    codes = sae.encode(acts)
    assert codes.shape == (8, 32, LATENTS)
    assert torch.allclose(sae(acts.flatten(0, 1)).view_as(acts), sae.decode(codes), atol=1e-5)
    assert torch.allclose(sae(rows), own(rows), atol=2e-5)  # raw rows, and raw weights:
    assert torch.allclose(codes @ sae.W_dec + sae.b_dec, sae.decode(codes), atol=1e-4)


def test_what_it_writes_to_the_configuration_stays(make: Make) -> None:
    sae: Any = make("jumprelu")
    cfg = sae.cfg
    cfg.architecture_str, cfg.dataset_trust_remote_code = cfg.architecture, None
    assert sae.cfg is cfg and sae.cfg.architecture_str == "jumprelu"
    assert sae.to(torch.bfloat16) is sae and (sae.dtype, sae.cfg.dtype) == (torch.bfloat16, "bfloat16")
    assert sae.to(device="cpu", dtype=torch.float32).cfg.dtype == "float32"
    assert (sae.device, sae.cfg.device) == (torch.device("cpu"), "cpu")


def test_conversion_keeps_the_exact_threshold(make: Make, rows: Tensor) -> None:
    sae = make("batchtopk")
    sae.threshold.fill_(0.1)
    sae.to(torch.bfloat16)
    assert sae.threshold.dtype == torch.float64 and float(sae.threshold) == 0.1
    assert sae.encode(rows).dtype == torch.bfloat16


def test_other_layouts_name_what_they_have(make: Make) -> None:
    from interp.core.dictionary import DictionaryConfig, View

    views = (View("base", width=WIDTH), View("tuned", width=WIDTH))
    crosscoder = Dictionary(DictionaryConfig(LATENTS, views, views, k=4, centred=False))
    for name in ("W_enc", "W_dec", "b_dec", "cfg"):
        with pytest.raises(BadInput, match=f"`{name}` is of dictionaries with one view; this has"):
            getattr(crosscoder, name)


def test_as_an_object_of_saelens(make: Make, rows: Tensor) -> None:
    """`to_sae_lens` is the way for tools that need hooks, the error term or reshaping."""
    pytest.importorskip("sae_lens")
    own = make("jumprelu")
    sae = formats.to_sae_lens(own)
    assert sae.cfg.metadata.model_from_pretrained_kwargs == {} and sae.cfg.metadata.context_size == 64
    seen: list[Tensor] = []
    with torch.no_grad():
        sae.hook_sae_acts_post.register_forward_hook(lambda module, given, made: seen.append(made))
        assert torch.allclose(sae(rows), own(rows), atol=2e-5)
    assert torch.allclose(seen[0], own.encode(rows), atol=1e-5)
    assert formats.from_sae_lens(sae).encode(drawn(2, WIDTH)).shape == (2, LATENTS)
