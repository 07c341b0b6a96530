"""CLT folders of circuit-tracer, laid out as its source does (commit 05774bb), against its coding written out by hand; both ways."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from interp.core.dictionary import Dictionary, DictionaryConfig, Scaling, View
from interp.core.errors import BadInput
from interp.train import formats

from .conftest import WIDTH, drawn, fill, same_codes

LAYERS, SIZE = 3, 10
ABOUT = 'model_name: "org/toy"\nmodel_kind: cross_layer_transcoder\nfeature_input_hook: hook_resid_mid\nfeature_output_hook: hook_mlp_out\n'


def folder(path: Path, *, thresholds: bool = True) -> Path:
    path.mkdir(exist_ok=True)
    for layer in range(LAYERS):
        rows = {
            f"W_enc_{layer}": drawn(SIZE, WIDTH, name=f"e{layer}", scale=0.4), f"b_enc_{layer}": drawn(SIZE, name=f"b{layer}", scale=0.4),
            f"b_dec_{layer}": drawn(WIDTH, name=f"o{layer}"),
        }  # fmt: skip
        if thresholds:
            rows[f"threshold_{layer}"] = drawn(SIZE, name=f"t{layer}").abs()
        save_file(rows, path / f"W_enc_{layer}.safetensors")
        save_file(
            {f"W_dec_{layer}": drawn(SIZE, LAYERS - layer, WIDTH, name=f"d{layer}")},
            path / f"W_dec_{layer}.safetensors",
        )
    (path / "config.yaml").write_text(ABOUT)
    return path


def by_hand(path: Path, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(features [layer, row, latent], reconstruction [layer, row, d], distance to the threshold) as circuit-tracer computes them."""
    encoders = [load_file(path / f"W_enc_{layer}.safetensors") for layer in range(LAYERS)]
    decoders = [load_file(path / f"W_dec_{layer}.safetensors")[f"W_dec_{layer}"] for layer in range(LAYERS)]
    pre = torch.stack([x[i] @ encoders[i][f"W_enc_{i}"].T + encoders[i][f"b_enc_{i}"] for i in range(LAYERS)])
    level = torch.stack([encoders[i].get(f"threshold_{i}", torch.zeros(SIZE)) for i in range(LAYERS)])[:, None]
    features = pre * (pre > level)
    output = torch.stack([encoders[i][f"b_dec_{i}"].expand(x.shape[1], -1) for i in range(LAYERS)]).clone()
    for layer in range(LAYERS):
        for target in range(layer, LAYERS):
            output[target] += features[layer] @ decoders[layer][:, target - layer]
    return features, output, pre - level


@pytest.mark.parametrize("thresholds", [True, False])
def test_it_encodes_and_decodes_as_there(thresholds: bool, tmp_path: Path) -> None:
    path = folder(tmp_path / "clt", thresholds=thresholds)
    assert formats.recognise(path) == "circuit_tracer"
    ours, x = formats.read(path), drawn(LAYERS, 32, WIDTH)
    features, output, margin = by_hand(path, x)
    codes = ours.encode({f"in {layer}": x[layer] for layer in range(LAYERS)})
    same_codes(codes, torch.cat(list(features), dim=1), torch.cat(list(margin), dim=1))
    found = ours.decode(codes)
    for layer in range(LAYERS):
        assert torch.allclose(found[f"out {layer}"], output[layer], atol=2e-5)
    assert (
        ours.config.reads[1].site == "blocks.1.hook_resid_mid" and ours.config.writes[2].site == "blocks.2.hook_mlp_out"
    )
    with pytest.raises(BadInput, match="`site` names one place"):
        formats.read(path, site="blocks.1.hook_resid_mid")
    assert ours.config.group("layer 1") == (SIZE, 2 * SIZE) and ours.config.reads[0].model == "org/toy"
    formats.write(ours, tmp_path / "again", "circuit_tracer")
    for file in path.iterdir():
        if file.suffix == ".safetensors":
            before, after = load_file(file), load_file(tmp_path / "again" / file.name)
            assert set(before) == set(after) and all(torch.equal(before[name], after[name]) for name in before)
    assert (tmp_path / "again" / "config.yaml").read_text() == ABOUT


def clt(activation: str, sizes: tuple[int, ...] = (SIZE,) * LAYERS, **fields: object) -> Dictionary:
    bounds = [sum(sizes[:place]) for place in range(len(sizes) + 1)]
    reads = tuple(
        View(f"in {i}", site=f"blocks.{i}.hook_resid_mid", width=WIDTH, latents=(bounds[i], bounds[i + 1]))
        for i in range(len(sizes))
    )
    writes = tuple(
        View(f"out {i}", site=f"blocks.{i}.hook_mlp_out", width=WIDTH, latents=(0, bounds[i + 1]))
        for i in range(len(sizes))
    )
    config = DictionaryConfig(
        bounds[-1], reads, writes, activation=activation, k=4, centred=False, family="clt", **fields  # type: ignore[arg-type]
    )  # fmt: skip
    new = fill(Dictionary(config))
    new.scale_views({view.name: Scaling(drawn(WIDTH, name=view.name), 0.4 + i) for i, view in enumerate(config.views)})
    return new


@pytest.mark.parametrize("activation", ["relu", "jumprelu", "batchtopk"])
def test_ours_written_encodes_the_same_there(activation: str, tmp_path: Path) -> None:
    ours, x = clt(activation), drawn(LAYERS, 32, WIDTH, scale=2.0)
    features, output, margin = by_hand(formats.write(ours, tmp_path / "clt", "circuit_tracer"), x)
    views = {f"in {layer}": x[layer] for layer in range(LAYERS)}
    if activation == "relu":
        features = features.relu()
    same_codes(ours.encode(views), torch.cat(list(features), dim=1), torch.cat(list(margin), dim=1))
    for layer in range(LAYERS):
        assert torch.allclose(ours(views)[f"out {layer}"], output[layer], atol=1e-4, rtol=1e-4)


def test_refusals(tmp_path: Path, make: Callable[..., Dictionary]) -> None:
    path = folder(tmp_path / "clt")
    last = path / "W_enc_2.safetensors"
    good = load_file(last)
    for changes, message in (
        ({"W_skip_2": torch.eye(WIDTH)}, "has skip weights"),
        ({"threshold_2": -good["threshold_2"]}, "thresholds below 0"),
        ({"threshold_2": None}, "thresholds for 2 of its 3 layers"),
        ({"b_dec_2": torch.ones(5)}, r"'b_dec_2' of .* must have the shape \[12\]; not \[5\]"),
    ):
        save_file({name: value for name, value in (good | changes).items() if value is not None}, last)
        with pytest.raises(BadInput, match=message):
            formats.read(path)
    (path / "W_dec_1.safetensors").unlink()
    with pytest.raises(BadInput, match=r"lacks \['W_dec_1.safetensors'\]"):
        formats.read(path)
    for dictionary, message in (
        (make("relu"), "not centred"),
        (clt("topk"), "it must be relu, jumprelu or batchtopk"),
        (clt("relu", (4, 5, 6)), r"the same number of latents; these have \[4, 5, 6\]"),
    ):
        with pytest.raises(BadInput, match=message):
            formats.write(dictionary, tmp_path / "no", "circuit_tracer")
