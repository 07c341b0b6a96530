"""Whatever SAELens' own loaders read becomes a dictionary: the one that our readers give for the same files. Its loaders fetch from a
hub; here the fetching is replaced by files of this machine."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from interp.core.dictionary import Dictionary
from interp.train import formats

from . import test_dictionary_learning as learning
from . import test_gemma_scope as gemma
from .conftest import LATENTS, WIDTH, same_codes

sae_lens = pytest.importorskip("sae_lens")


def loaded(loader: str, place: str, monkeypatch: pytest.MonkeyPatch, root: Path, **overrides: Any) -> Any:
    """The SAE object that `SAE.from_pretrained` would make of local files."""
    from sae_lens.loading import pretrained_sae_loaders as loaders

    def fetched(repo_id: str, filename: str, subfolder: str = "", **_: Any) -> str:
        return str(root / subfolder / filename)

    monkeypatch.setattr(loaders, "hf_hub_download", fetched)
    config, state, _ = getattr(loaders, loader)("org/gemma-scope-2b-pt-res", place, cfg_overrides=overrides or None)
    sae = sae_lens.SAE.from_dict(loaders.handle_config_defaulting(config))
    sae.load_state_dict({name: value.contiguous() for name, value in state.items()})
    return sae


@pytest.mark.parametrize(
    "kind",
    [
        "AutoEncoder",
        "AutoEncoderTopK",
        "BatchTopKSAE",
        "MatryoshkaBatchTopKSAE",
        "JumpReluAutoEncoder",
        "GatedAutoEncoder",
    ],
)
def test_dictionary_learning(kind: str, rows: Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = {
        "dict_class": kind,
        "layer": 3,
        "lm_name": "org/toy",
        "activation_dim": WIDTH,
        "dict_size": LATENTS,
        "k": 4,
    }
    folder = learning.folder(tmp_path / "ae", learning.CASES[kind], **trainer)
    sae = loaded("dictionary_learning_sae_huggingface_loader_1", "ae", monkeypatch, tmp_path)
    through, ours = formats.from_sae_lens(sae), formats.read(folder)
    scaled = kind in (
        "JumpReluAutoEncoder",
        "GatedAutoEncoder",
    )  # there codes are multiplied by decoder norms, in SAELens not
    units = sae.W_dec.norm(dim=1) if scaled else torch.ones(LATENTS)
    margin = learning.by_hand(kind, learning.CASES[kind], rows)[2]
    with torch.no_grad():
        same_codes(through.encode(rows), sae.encode(rows), margin)
        same_codes(ours.encode(rows), sae.encode(rows) * units, margin)
        assert torch.allclose(ours(rows), sae(rows), atol=2e-5) and torch.allclose(through(rows), sae(rows), atol=2e-5)
    assert through.cfg.hook_name == ours.cfg.hook_name == "blocks.3.hook_resid_post"


def test_gemma_scope(rows: Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = "layer_20/width_16k/average_l0_71"
    folder = gemma.folder(tmp_path / "gemma-scope-2b-pt-res" / place)
    sae = loaded(
        "gemma_2_sae_huggingface_loader",
        place,
        monkeypatch,
        tmp_path / "gemma-scope-2b-pt-res",
        d_in=WIDTH,
        d_sae=LATENTS,
    )
    through, ours = formats.from_sae_lens(sae), formats.read(folder)
    with torch.no_grad():
        for one in (through, ours):
            same_codes(one.encode(rows), sae.encode(rows), gemma.by_hand(rows)[1])
            assert torch.allclose(one(rows), sae(rows), atol=2e-5)
    assert [(one.cfg.model_name, one.cfg.hook_name) for one in (through, ours)] == [
        ("gemma-2-2b", "blocks.20.hook_resid_post")
    ] * 2


def test_a_folder_read_by_a_release_saves_as_ours(
    rows: Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`SAE.from_pretrained` in full, on a release of folders in SAELens' own format."""
    from sae_lens.loading import pretrained_sae_loaders as loaders

    sae = sae_lens.SAE.from_dict(
        {
            "architecture": "standard",
            "d_in": WIDTH,
            "d_sae": LATENTS,
            "metadata": {"hook_name": "blocks.1.hook_mlp_out"},
        }
    )
    sae.save_model(tmp_path / "sae")
    (tmp_path / "index.json").write_text(json.dumps({}))

    def fetched(repo_id: str, filename: str, **_: Any) -> str:
        path = tmp_path / filename
        if not path.is_file():
            raise loaders.EntryNotFoundError("no such file")
        return str(path)

    monkeypatch.setattr(loaders, "hf_hub_download", fetched)
    found = formats.from_sae_lens(sae_lens.SAE.from_pretrained("org/release", "sae"))
    found.save(tmp_path / "ours")
    with torch.no_grad():
        assert torch.allclose(Dictionary.load(tmp_path / "ours").encode(rows), sae.encode(rows), atol=1e-5)
