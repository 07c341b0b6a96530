"""A SAE trained on a real checkpoint, on that model's own activations (taken by plain hooks), in SAELens: trained there, here and back."""

from pathlib import Path

import pytest
import torch

import interp
from interp.cache.views import MemoryView
from interp.core.dictionary import DictionaryConfig, View
from interp.train import formats
from interp.train.data import TrainingData
from interp.train.saelens import train_with_sae_lens
from interp.train.training import Training
from tests import oracle

from .conftest import same_codes

sae_lens = pytest.importorskip("sae_lens")
TEXT = (
    "Once upon a time there was a little girl who had a red ball. She liked to play with her dog in the big green park. "
    * 30
)


def test_a_real_checkpoint(real_models: Path, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    folder, layer = real_models / "stories260K-llama", 2
    lm = interp.load(str(folder))
    plain = AutoModelForCausalLM.from_pretrained(folder).eval()
    tokens = lm.tokenizer.encode(TEXT).ids
    ids = torch.tensor(tokens[: len(tokens) // 64 * 64]).view(-1, 64)
    with torch.no_grad():
        acts = oracle.capture(plain, "resid_post", layer, ids)
        assert torch.allclose(
            lm.run(ids, capture=[f"blocks.{layer}.hook_resid_post"])[f"blocks.{layer}.hook_resid_post"], acts, atol=1e-4
        )
    rows = acts.flatten(0, 1)
    view = View(
        "in",
        site=f"blocks.{layer}.hook_resid_post",
        width=rows.shape[1],
        model=lm.spec.name,
        fingerprint=lm.fingerprint(),
    )
    shape = DictionaryConfig(256, (view,), (view,), activation="batchtopk", k=8)
    options = Training(tokens=100 * 128, batch=128, lr=3e-3)
    ours = train_with_sae_lens(TrainingData({"in": MemoryView(rows, "acts")}), shape, options).dictionary
    sae = sae_lens.SAE.load_from_disk(formats.write(ours, tmp_path / "sae"))
    with torch.no_grad():
        margin = ((acts - sae.b_dec) @ sae.W_enc + sae.b_enc - sae.threshold) / acts.norm(dim=-1, keepdim=True)
        same_codes(ours.encode(acts), sae.encode(acts), margin)
        size = float(acts.abs().max())
        assert torch.allclose(ours(acts) / size, sae(acts) / size, atol=1e-5)
        error = (ours(rows) - rows).square().sum() / (rows - rows.mean(0)).square().sum()
    assert float(error) < 0.5
    back = formats.read(tmp_path / "sae")
    assert back.cfg.hook_name == view.site and back.cfg.model_name == lm.spec.name
