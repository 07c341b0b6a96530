"""sparsify folders: files as its source lays them out (EleutherAI/sparsify, commit 001d98e), against its encode written out by hand."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from interp.core.errors import BadInput
from interp.train import formats

from .conftest import LATENTS, WIDTH, drawn, same_codes


def folder(path: Path, **said: Any) -> tuple[Path, dict[str, Tensor]]:
    path.mkdir(parents=True, exist_ok=True)
    state = {
        "encoder.weight": drawn(LATENTS, WIDTH, name="e", scale=0.4), "encoder.bias": drawn(LATENTS, name="b", scale=0.4),
        "W_dec": drawn(LATENTS, WIDTH, name="d"), "b_dec": drawn(WIDTH, name="o"),
    }  # fmt: skip
    if said.get("skip_connection"):
        state["W_skip"] = drawn(WIDTH, WIDTH, name="skip")
    save_file(state, path / "sae.safetensors")
    config = {
        "activation": "topk",
        "expansion_factor": 32,
        "normalize_decoder": True,
        "num_latents": LATENTS,
        "k": 5,
        "d_in": WIDTH,
    }
    (path / "cfg.json").write_text(json.dumps(config | {"multi_topk": False} | said))
    return path, state


@pytest.mark.parametrize("transcode", [False, True])
@pytest.mark.parametrize("skip", [False, True])
def test_it_encodes_as_there(transcode: bool, skip: bool, rows: Tensor, tmp_path: Path) -> None:
    path, state = folder(tmp_path / "layers.4", transcode=transcode, skip_connection=skip)
    assert formats.recognise(path) == "sparsify"
    ours = formats.read(path)
    inside = rows if transcode else rows - state["b_dec"]
    kept = (inside @ state["encoder.weight"].T + state["encoder.bias"]).relu().topk(5, dim=-1)
    codes = torch.zeros(len(rows), LATENTS).scatter(-1, kept.indices, kept.values)
    output = codes @ state["W_dec"] + state["b_dec"] + (rows @ state["W_skip"].T if skip else 0)
    same_codes(ours.encode(rows), codes)
    assert torch.allclose(ours(rows), output, atol=2e-5)
    assert ours.config.family == ("transcoder" if transcode else "sae")
    assert ours.config.reads[0].site == ("" if transcode else "blocks.4.hook_resid_post")


def test_widths_by_expansion_and_refusals(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.json").write_text('{"model": "org/toy"}')
    path, _ = folder(tmp_path / "run" / "embed_tokens")
    found = formats.read(path)
    assert (found.cfg.hook_name, found.cfg.model_name) == ("hook_embed", "org/toy")
    for said, message in (
        ({"activation": "groupmax"}, "activation 'groupmax'; only 'topk'"),
        ({"signed": True}, "signed codes"),
        ({"num_latents": 0, "expansion_factor": 3}, r"must have the shape \[36, 12\]; not \[40, 12\]"),
        ({"k": 0}, "'k' of .* must be a whole number above 0"),
        ({"n_targets": 3}, "n_targets=3, of a fork"),
    ):
        with pytest.raises(BadInput, match=message):
            formats.read(folder(path, **said)[0])
