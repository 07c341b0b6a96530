"""Gemma Scope archives, laid out as released (and as SAELens 6.54.12 reads them), against jumprelu written out by hand."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from interp.core.errors import BadInput
from interp.train import formats

from .conftest import LATENTS, WIDTH, drawn, same_codes

ARRAYS = {
    "W_enc": drawn(WIDTH, LATENTS, name="e", scale=0.4).numpy(), "b_enc": drawn(LATENTS, name="b", scale=0.4).numpy(),
    "W_dec": drawn(LATENTS, WIDTH, name="d").numpy(), "b_dec": drawn(WIDTH, name="o").numpy(),
    "threshold": drawn(LATENTS, name="t").abs().numpy(),
}  # fmt: skip


def folder(path: Path, **changes: np.ndarray) -> Path:
    path.mkdir(parents=True, exist_ok=True)
    np.savez(path / "params.npz", **(ARRAYS | changes))
    return path


def by_hand(x: Tensor) -> tuple[Tensor, Tensor]:
    pre = x @ torch.from_numpy(ARRAYS["W_enc"]) + torch.from_numpy(ARRAYS["b_enc"])
    margin = pre - torch.from_numpy(ARRAYS["threshold"])
    return pre.relu() * (margin > 0), margin


def test_it_encodes_as_there_and_its_path_says_what_it_is(rows: Tensor, tmp_path: Path) -> None:
    path = folder(tmp_path / "gemma-scope-2b-pt-res" / "layer_20" / "width_16k" / "average_l0_71")
    assert formats.recognise(path) == "gemma_scope"
    ours = formats.read(path / "params.npz")
    codes, margin = by_hand(rows)
    same_codes(ours.encode(rows), codes, margin)
    assert torch.allclose(
        ours.decode(codes), codes @ torch.from_numpy(ARRAYS["W_dec"]) + torch.from_numpy(ARRAYS["b_dec"]), atol=1e-5
    )
    assert (ours.cfg.model_name, ours.cfg.hook_name) == ("gemma-2-2b", "blocks.20.hook_resid_post")
    for release, model, site in (
        ("gemma-scope-9b-it-mlp", "gemma-2-9b-it", "blocks.7.hook_mlp_out"),
        ("gemma-scope-27b-pt-att", "gemma-2-27b", "blocks.7.attn.hook_z"),
        ("somewhere", "", ""),
    ):
        view = formats.read(folder(tmp_path / release / "layer_7")).config.reads[0]
        assert (view.model, view.site) == (model, site)


def test_transcoders_and_embeddings(rows: Tensor, tmp_path: Path) -> None:
    ours = formats.read(folder(tmp_path / "gemma-scope-2b-pt-transcoders" / "layer_3"))
    assert ours.config.family == "transcoder" and ours.config.writes[0].site == "blocks.3.hook_mlp_out"
    ours = formats.read(folder(tmp_path / "gemma-scope-2b-pt-res" / "embedding" / "width_4k"))
    assert ours.cfg.hook_name == "hook_embed"
    codes, margin = by_hand(rows / WIDTH**0.5)
    same_codes(ours.encode(rows), codes, margin)


def test_refusals(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="12 of the 12 entries of 'b_dec'"):
        formats.read(folder(tmp_path, b_dec=np.full(WIDTH, np.nan, np.float32)))
    with pytest.raises(BadInput, match=r"'threshold' of .* must have the shape \[40\]; not \[1\]"):
        formats.read(folder(tmp_path, threshold=np.ones(1, np.float32)))
    with pytest.raises(BadInput, match="no archive of plain arrays"):
        formats.read(folder(tmp_path, b_dec=np.array([{"a": 1}], dtype=object)))
