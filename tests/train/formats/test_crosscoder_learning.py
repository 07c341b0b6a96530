"""Crosscoder state dicts as science-of-finetuning/crosscoder_learning writes them (commit 49c3a91), against its coding done by hand."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from interp.core.errors import BadInput
from interp.train import formats

from .conftest import LATENTS, WIDTH, drawn, same_codes

NAMES = {1: "crosscoder", 2: "sae", 3: "mixed", 4: "none", 5: "decoupled"}


def state(views: int = 2, *, scale: int | None = 1, batch: bool = True) -> dict[str, Tensor]:
    found = {
        "encoder.weight": drawn(views, WIDTH, LATENTS, name="e", scale=0.4), "encoder.bias": drawn(LATENTS, name="b", scale=0.4),
        "decoder.weight": drawn(views, LATENTS, WIDTH, name="d", scale=0.3) * torch.linspace(0.3, 2, LATENTS)[:, None],
        "decoder.bias": drawn(views, WIDTH, name="o"),
    }  # fmt: skip
    if scale is not None:
        found["code_normalization_id"] = torch.tensor(scale)
    if batch:
        found |= {"k": torch.tensor(6, dtype=torch.int32), "threshold": torch.tensor([1.4, 2.0] if scale == 5 else 2.0)}
    return found


def scales(decoder: Tensor, kind: int) -> Tensor:
    """[view or 1, latent] as the library computes them."""
    norms = decoder.norm(dim=2)
    together, total = decoder.norm(dim=(0, 2))[None], norms.sum(dim=0, keepdim=True)
    return {1: total, 2: together, 3: together + 0.1 * total, 4: torch.ones(1, LATENTS), 5: norms}[kind]


@pytest.mark.parametrize("scale", NAMES)
def test_batchtopk_encodes_as_there(scale: int, tmp_path: Path) -> None:
    found = state(scale=scale)
    torch.save({f"_orig_mod.{name}": value for name, value in found.items()}, tmp_path / "ae_final.pt")
    assert formats.recognise(tmp_path) == "crosscoder_learning"
    ours = formats.read(tmp_path)
    assert ours.config.k == 6 and [view.name for view in ours.config.reads] == ["base", "tuned"]
    x = drawn(64, 2, WIDTH, scale=2.0)
    pre = torch.einsum("bld,ldf->bf", x, found["encoder.weight"]) + found["encoder.bias"]
    score = pre.relu()[:, None] * scales(found["decoder.weight"], scale)  # [row, view or 1, latent]
    margin = score - found["threshold"].reshape(-1, 1)
    kept = pre.relu()[:, None] * (margin > 0)  # what each view is written by
    codes = kept.amax(dim=1)
    same_codes(ours.encode(x), codes, margin.abs().amin(dim=1))
    output = ours(x)
    expected = torch.einsum("blf,lfd->bld", kept.expand(-1, 2, -1), found["decoder.weight"]) + found["decoder.bias"]
    assert torch.allclose(output["base"], expected[:, 0], atol=2e-5) and torch.allclose(
        output["tuned"], expected[:, 1], atol=2e-5
    )


def test_an_l1_crosscoder_is_relu(tmp_path: Path) -> None:
    found = state(views=3, batch=False, scale=None)
    save_file(found, tmp_path / "model.safetensors")
    ours = formats.read(tmp_path, names=("one", "two", "three"))
    assert ours.config.activation == "relu" and [view.name for view in ours.config.reads] == ["one", "two", "three"]
    x = drawn(16, 3, WIDTH)
    codes = (torch.einsum("bld,ldf->bf", x, found["encoder.weight"]) + found["encoder.bias"]).relu()
    same_codes(ours.encode({"one": x[:, 0], "two": x[:, 1], "three": x[:, 2]}), codes)
    assert [view.name for view in formats.read(tmp_path).config.reads] == ["view 0", "view 1", "view 2"]
    with pytest.raises(BadInput, match="has 3 views; `names` are"):
        formats.read(tmp_path, names=("a", "b"))


def test_views_are_placed_by_name(tmp_path: Path) -> None:
    torch.save(state(), tmp_path / "c.pt")
    found = formats.placed_by_view(formats.read(tmp_path, site="blocks.1.hook_resid_post"), ["one", "two"])
    assert [(view.name, view.model, view.site) for view in found.config.writes] == [
        ("base", "one", "blocks.1.hook_resid_post"), ("tuned", "two", "blocks.1.hook_resid_post"),
    ]  # fmt: skip
    assert found.config.reads == found.config.writes
    with pytest.raises(BadInput, match=r"has the views \['base', 'tuned'\], and 1 models are named"):
        formats.placed_by_view(found, ["one"])


@pytest.mark.parametrize("scale", [1, 5])
def test_minus_one_was_never_set(scale: int, tmp_path: Path) -> None:
    torch.save(
        state(scale=scale) | {"threshold": torch.tensor([-1.0, 2.0] if scale == 5 else -1.0)}, tmp_path / "ae.pt.pt"
    )
    ours = formats.read(tmp_path)
    assert set(ours.norms()) == {"base", "tuned"}
    with pytest.raises(BadInput, match="no threshold yet"):
        ours.encode(drawn(4, 2, WIDTH))


def test_decoders_kept_as_embedding_bags(tmp_path: Path) -> None:
    found = state()
    weight = found.pop("decoder.weight")
    bags = found | {f"decoder.layers.{place}.weight": rows for place, rows in enumerate(weight)}
    torch.save(bags, tmp_path / "c.pt")
    assert torch.equal(formats.read(tmp_path).decoder("tuned"), weight[1])


def test_refusals(tmp_path: Path) -> None:
    path = tmp_path / "c.pt"
    for changes, message in (
        ({"code_normalization_id": torch.tensor(9)}, "code_normalization_id 9; known are"),
        (
            {"decoder.weight": drawn(2, WIDTH, LATENTS)},
            r"'decoder.weight' of .* must have the shape \[2, 40, 12\]; not \[2, 12, 40\]",
        ),
        ({"normalizer.mean": torch.ones(2, WIDTH)}, r"also holds \['normalizer.mean'\]"),
        ({"encoder.bias": torch.full((LATENTS,), torch.nan)}, "40 of the 40 entries of 'encoder.bias'"),
    ):
        torch.save(state() | changes, path)
        with pytest.raises(BadInput, match=message):
            formats.read(tmp_path)
    torch.save(state(scale=3), path)
    (tmp_path / "config.json").write_text(json.dumps({"code_normalization_alpha_cc": 0.5}))
    with pytest.raises(BadInput, match=r"mixes code norms by \(1.0, 0.5\)"):
        formats.read(tmp_path)
