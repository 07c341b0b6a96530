"""SAELens folders and objects, against SAELens' own encode and decode."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from interp.core.dictionary import Dictionary
from interp.core.errors import ArtifactError, BadInput
from interp.train import formats

from .conftest import LATENTS, WIDTH, drawn, same_codes

sae_lens = pytest.importorskip("sae_lens")
Make = Callable[..., Dictionary]
SAES = ["standard", "topk", "topk rescaled", "jumprelu", "gated"]
TRANSCODERS = ["transcoder", "skip_transcoder", "jumprelu_transcoder", "jumprelu_skip_transcoder"]


def theirs(kind: str, **fields: Any) -> Any:
    """A SAELens SAE with random weights, of decoder norms from 0.2 to 3."""
    architecture = kind.split()[0]
    config: dict[str, Any] = {
        "architecture": architecture, "d_in": WIDTH, "d_sae": LATENTS, "dtype": "float32", "device": "cpu",
        "apply_b_dec_to_input": architecture not in TRANSCODERS,
        "metadata": {"model_name": "toy", "hook_name": "blocks.1.hook_resid_post", "context_size": 32, "prepend_bos": True},
    }  # fmt: skip
    if architecture == "topk":
        config |= {"k": 6, "rescale_acts_by_decoder_norm": kind == "topk rescaled"}
    if architecture in TRANSCODERS:
        config["d_out"] = 7
    sae = sae_lens.SAE.from_dict(config | fields)
    for name, parameter in sae.named_parameters():
        parameter.data.copy_(drawn(*parameter.shape, name=name, scale=0.4))
    sae.W_dec.data.mul_(torch.linspace(0.2, 3.0, LATENTS)[:, None])
    return sae


def edge(sae: Any, x: Tensor) -> Tensor | None:
    """How far each pre-activation is from opening its latent, for the architectures with a threshold."""
    inside = sae.process_sae_in(x)
    if sae.cfg.architecture() == "gated":
        return inside @ sae.W_enc + sae.b_gate
    if hasattr(sae, "threshold"):
        return inside @ sae.W_enc + sae.b_enc - sae.threshold
    return None


@pytest.mark.parametrize("kind", SAES + TRANSCODERS)
@pytest.mark.parametrize("centred", [True, False])
def test_a_saved_sae_encodes_and_decodes_the_same(kind: str, centred: bool, rows: Tensor, tmp_path: Path) -> None:
    sae = theirs(kind, **({} if kind in TRANSCODERS else {"apply_b_dec_to_input": centred}))
    sae.save_model(tmp_path / "theirs")
    assert formats.recognise(tmp_path / "theirs") == "sae_lens"
    ours = formats.read(tmp_path / "theirs")
    with torch.no_grad():
        codes = sae.encode(rows)
        same_codes(ours.encode(rows), codes, edge(sae, rows))
        assert torch.allclose(ours(rows), sae(rows), atol=1e-5)
        if not ours.config.skip:
            assert torch.allclose(ours.decode(codes), sae.decode(codes), atol=1e-5)
    assert (ours.cfg.model_name, ours.cfg.hook_name, ours.cfg.hook_layer) == ("toy", "blocks.1.hook_resid_post", 1)
    again = formats.from_sae_lens(sae)
    assert torch.equal(again.encode(rows), ours.encode(rows))


def test_a_gated_sae_is_a_jumprelu(rows: Tensor) -> None:
    """Done by hand: encoder e^r w, bias b_mag, threshold b_mag - e^r b_gate; where that is below zero, relu alone decides."""
    sae = theirs("gated")
    ours = formats.from_sae_lens(sae)
    assert ours.config.activation == "jumprelu"
    level = sae.b_mag - sae.r_mag.exp() * sae.b_gate
    assert bool((level < 0).any()) and bool((level > 0).any())
    assert torch.allclose(ours.thresholds, level.clamp(min=0))
    pre = (rows - sae.b_dec) @ (sae.W_enc * sae.r_mag.exp()) + sae.b_mag
    by_hand = torch.where(pre > level, pre.relu(), 0)
    same_codes(by_hand.detach(), sae.encode(rows).detach(), edge(sae, rows))


@pytest.mark.parametrize("activation", ["relu", "topk", "batchtopk", "jumprelu"])
@pytest.mark.parametrize("scale", ["none", "sum"])
@pytest.mark.parametrize("centred", [True, False])
def test_ours_written_encodes_and_decodes_the_same(
    activation: str, scale: str, centred: bool, make: Make, rows: Tensor, tmp_path: Path
) -> None:
    ours = make(activation, code_scale=scale, centred=centred)
    formats.write(ours, tmp_path / "out")
    sae = sae_lens.SAE.load_from_disk(tmp_path / "out")
    assert sae.cfg.architecture() == {"relu": "standard", "topk": "topk"}.get(activation, "jumprelu")
    units = formats.code_units(ours)
    assert bool((units == 1).all()) == (activation != "topk" or scale == "none")
    with torch.no_grad():
        codes = ours.encode(rows)
        same_codes(codes * units, sae.encode(rows), edge(sae, rows))
        assert torch.allclose(ours.decode(codes), sae.decode(codes * units), atol=1e-5)
        assert torch.allclose(ours(rows), sae(rows), atol=2e-5)
        back = formats.read(tmp_path / "out")
        same_codes(back.encode(rows), sae.encode(rows), edge(sae, rows))
        assert torch.allclose(back(rows), sae(rows), atol=1e-5)
        same_codes(ours.folded().encode(rows), codes, edge(sae, rows))
        formats.write(ours.folded(), tmp_path / "folded")
        folded = sae_lens.SAE.load_from_disk(tmp_path / "folded")
        assert torch.allclose(folded.encode(rows), sae.encode(rows), atol=1e-5)
        assert torch.equal(formats.to_sae_lens(ours).encode(rows), sae.encode(rows))
    if activation in ("jumprelu", "topk") and (activation != "topk" or scale == "sum"):
        sae.fold_W_dec_norm()  # SAELens' own fold must not change what it selects
        assert torch.allclose(sae(rows), ours(rows), atol=2e-5)


@pytest.mark.parametrize("activation", ["relu", "batchtopk", "jumprelu"])
@pytest.mark.parametrize("skip", [True, False])
def test_transcoders_are_written(activation: str, skip: bool, make: Make, rows: Tensor, tmp_path: Path) -> None:
    ours = make(activation, family="transcoder", skip=skip)
    formats.write(ours, tmp_path / "out")
    sae = sae_lens.SAE.load_from_disk(tmp_path / "out")
    back = formats.read(tmp_path / "out")
    with torch.no_grad():
        same_codes(ours.encode(rows), sae.encode(rows), edge(sae, rows))
        assert torch.allclose(ours(rows), sae(rows), atol=1e-4) and torch.allclose(back(rows), sae(rows), atol=1e-4)
    assert [view.site for view in back.config.views] == [view.site for view in ours.config.views]


def test_an_sae_with_a_skip_path_becomes_a_transcoder(make: Make, rows: Tensor) -> None:
    ours = make("jumprelu", skip=True)
    sae = formats.to_sae_lens(ours)
    assert sae.cfg.architecture() == "jumprelu_skip_transcoder"
    with torch.no_grad():
        assert torch.allclose(ours(rows), sae(rows), atol=1e-4)


def test_a_threshold_in_double_precision_keeps_the_same_latents(make: Make) -> None:
    """One code exactly at the cut, one a step of float32 above it: rounding the cut may move the first only."""
    ours = make("batchtopk", scaled=False, code_scale="none")
    ours.threshold.fill_(0.1)  # not a float32
    ours.encoders[0].data.zero_()
    ours.b_enc.data.fill_(0.05)
    at = torch.tensor(0.1)
    ours.b_enc.data[0], ours.b_enc.data[1] = torch.nextafter(at, at + 1), torch.nextafter(at, at - 1)
    sae, x = formats.to_sae_lens(ours), torch.zeros(1, WIDTH)
    assert ours.encode(x).nonzero().tolist() == [[0, 0]] == sae.encode(x).nonzero().tolist()


@pytest.mark.parametrize("activation", ["topk", "batchtopk"])
def test_a_latent_without_decoder_harms_no_other(activation: str, make: Make, rows: Tensor) -> None:
    """SAELens divides topk codes by decoder norms: a norm of 0 would make every reconstruction NaN."""
    ours = make(activation)
    ours.decoders[0].data[3] = 0
    ours.b_enc.data[3] = 50.0  # it would win, did its code count
    sae = formats.to_sae_lens(ours)
    with torch.no_grad():
        assert torch.allclose(sae(rows), ours(rows), atol=2e-5)
        assert not bool((sae.encode(rows) > 1e-6)[:, 3].any()) and not bool(ours.encode(rows)[:, 3].any())


@pytest.mark.parametrize("dtype", ["bfloat16", "float64"])
def test_other_dtypes_lose_nothing(dtype: str, rows: Tensor, tmp_path: Path) -> None:
    sae = theirs("jumprelu").to(getattr(torch, dtype))
    sae.save_model(tmp_path)
    ours = formats.read(tmp_path)
    assert ours.config.dtype == ("float64" if dtype == "float64" else "float32")
    assert torch.equal(ours.W_dec, sae.W_dec.to(ours.dtype))
    wide = sae.to(ours.dtype)
    with torch.no_grad():
        same_codes(ours.encode(rows), wide.encode(rows.to(ours.dtype)), edge(wide, rows.to(ours.dtype)))


def test_z_sites_are_taken_by_heads_there(make: Make, tmp_path: Path, rows: Tensor) -> None:
    ours = formats.read(formats.write(make("jumprelu"), tmp_path / "a"), site="blocks.0.attn.hook_z")
    sae = sae_lens.SAE.load_from_disk(formats.write(ours, tmp_path / "b"))
    heads = rows.view(-1, 3, WIDTH // 3)
    with torch.no_grad():
        assert torch.allclose(sae.encode(heads), ours.encode(rows), atol=1e-5)
        assert torch.allclose(sae(heads).flatten(-2), ours(rows), atol=1e-5)
    assert formats.read(tmp_path / "b").metadata["reshape"] == "hook_z"


# --- normalisation -------------------------------------------------------------------------------------------------------------------


def test_the_factor_of_a_checkpoint_is_kept(rows: Tensor, tmp_path: Path) -> None:
    sae = theirs("jumprelu", normalize_activations="expected_average_only_in")
    sae.save_model(tmp_path)
    with pytest.raises(BadInput, match=r"factor is not stored beside it. Give `factor="):
        formats.read(tmp_path)
    given = formats.read(tmp_path, factor=0.25)
    (tmp_path / "activation_scaler.json").write_text(json.dumps({"scaling_factor": 0.25, "has_whitening": False}))
    found = formats.read(tmp_path)
    with torch.no_grad():
        scaled = sae.encode(rows * 0.25)
        assert torch.allclose(found.encode(rows), scaled, atol=1e-5) and torch.equal(
            given.encode(rows), found.encode(rows)
        )
        assert torch.allclose(found(rows), sae.decode(scaled) / 0.25, atol=1e-4)
        sae.fold_activation_norm_scaling_factor(0.25)
        assert torch.allclose(found(rows), sae(rows), atol=1e-4)


@pytest.mark.parametrize("kind", SAES)
@pytest.mark.parametrize("centred", [True, False])
def test_whitening_is_folded(kind: str, centred: bool, rows: Tensor, tmp_path: Path) -> None:
    from sae_lens.training.activation_scaler import ActivationScaler

    sae = theirs(kind, normalize_activations="covariance_whitening", apply_b_dec_to_input=centred)
    sae.save_model(tmp_path)
    with pytest.raises(BadInput, match=r"activation_whitening.safetensors is not beside it"):
        formats.read(tmp_path)
    scaler = ActivationScaler()
    scaler.estimate_whitening(WIDTH, iter([rows] * 2), n_batches_for_norm_estimate=2)
    scaler.save(str(tmp_path / "activation_scaler.json"))
    ours, white = formats.read(tmp_path), scaler.whitening
    margin = edge(sae, scaler.scale(rows))
    with torch.no_grad():
        same_codes(ours.encode(rows), sae.encode(scaler.scale(rows)), margin, atol=3e-5)
        sae.fold_activation_whitening(white.mean, white.matrix, white.inverse_matrix)
        assert torch.allclose(ours(rows), sae(rows), atol=1e-3)


@pytest.mark.parametrize("name", ["layer_norm", "constant_norm_rescale"])
def test_normalisations_by_row_are_refused(name: str, tmp_path: Path) -> None:
    theirs("standard", normalize_activations=name).save_model(tmp_path)
    with pytest.raises(BadInput, match=f"normalises by '{name}': each row is divided by a number of its own"):
        formats.read(tmp_path)


# --- configurations ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("architecture", ["temporal", "matching_pursuit", "abstopk"])
def test_what_no_linear_coder_can_do_is_refused_by_name(architecture: str, tmp_path: Path) -> None:
    theirs("standard").save_model(tmp_path)
    edit(tmp_path, architecture=architecture)
    with pytest.raises(BadInput, match=f"is a '{architecture}' SAE, which cannot be a dictionary here"):
        formats.read(tmp_path)
    edit(tmp_path, architecture="quantum")
    with pytest.raises(BadInput, match="architecture 'quantum'; can be read: 'standard'"):
        formats.read(tmp_path)


def edit(folder: Path, **changes: Any) -> None:
    path = folder / "cfg.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize("kind", ["standard", "topk"])
def test_folders_of_before_version_6_are_read_as_saelens_reads_them(kind: str, rows: Tensor, tmp_path: Path) -> None:
    theirs(kind).save_model(tmp_path)
    old: dict[str, Any] = {
        "d_in": WIDTH, "d_sae": LATENTS, "dtype": "torch.float32", "device": "cpu", "model_name": "gpt2-small",
        "hook_point": "blocks.8.hook_resid_pre", "normalize_activations": False, "context_size": 128, "architecture": "standard",
    }  # fmt: skip
    if kind == "topk":
        old |= {"activation_fn_str": "topk", "activation_fn_kwargs": {"k": 4}}
    (tmp_path / "cfg.json").write_text(json.dumps(old))
    sae, ours = sae_lens.SAE.load_from_disk(tmp_path), formats.read(tmp_path)
    assert torch.allclose(ours.encode(rows), sae.encode(rows), atol=1e-5)
    assert (ours.cfg.model_name, ours.cfg.hook_name) == ("gpt2-small", "blocks.8.hook_resid_pre")
    edit(tmp_path, activation_fn_str="tanh-relu")
    with pytest.raises(BadInput, match="activation 'tanh-relu'"):
        formats.read(tmp_path)


@pytest.mark.parametrize("architecture", ["batchtopk", "matryoshka_batchtopk"])
def test_training_checkpoints_keep_their_one_threshold(architecture: str, rows: Tensor, tmp_path: Path) -> None:
    from sae_lens.registry import get_sae_training_class

    kind, config = get_sae_training_class(architecture)
    widths = {"matryoshka_widths": [8, LATENTS]} if architecture.startswith("matr") else {}
    sae = kind(config(d_in=WIDTH, d_sae=LATENTS, k=4, decoder_init_norm=0.3, **widths))
    sae.W_enc.data.copy_(drawn(WIDTH, LATENTS, name="W_enc", scale=0.4))
    sae.W_dec.data.mul_(torch.linspace(0.5, 4.0, LATENTS)[:, None])
    sae.save_model(tmp_path / "early")
    early = formats.read(tmp_path / "early")
    with pytest.raises(BadInput, match="no threshold yet"):
        early.encode(rows)
    sae.topk_threshold.fill_(0.9)
    sae.save_model(tmp_path / "training")
    sae.save_inference_model(tmp_path / "inference")
    ours, final = formats.read(tmp_path / "training"), sae_lens.SAE.load_from_disk(tmp_path / "inference")
    assert (ours.config.activation, ours.config.k) == ("batchtopk", 4.0)
    assert ours.config.nested == (tuple(widths["matryoshka_widths"]) if widths else ())
    with torch.no_grad():
        same_codes(ours.encode(rows), final.encode(rows), edge(final, rows))
        assert torch.allclose(ours(rows), final(rows), atol=1e-5)


def test_damage_is_refused_by_name(tmp_path: Path) -> None:
    theirs("jumprelu").save_model(tmp_path)
    path = tmp_path / "sae_weights.safetensors"
    good = load_file(path)
    for change, message in (
        ({"W_enc": good["W_enc"].T.contiguous()}, r"'W_enc' of .* must have the shape \[12, 40\]; not \[40, 12\]"),
        ({"b_dec": good["b_dec"] * torch.nan}, "12 of the 12 entries of 'b_dec' in .* are not finite"),
        ({"extra": good["b_dec"].clone()}, r"also holds \['extra'\], which this reader does not know"),
        ({"threshold": None}, "has no tensor 'threshold'; it has"),
    ):
        save_file({name: value for name, value in (good | change).items() if value is not None}, path)
        with pytest.raises(BadInput, match=message):
            formats.read(tmp_path)
    path.write_bytes(b"nonsense")
    with pytest.raises(BadInput, match="no safetensors file that can be read"):
        formats.read(tmp_path)
    (tmp_path / "cfg.json").write_text("[1]")
    with pytest.raises(BadInput, match="must hold one JSON object; it holds a list"):
        formats.read(tmp_path)


def test_what_saelens_cannot_hold_is_not_written(make: Make, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="a transcoder with topk"):
        formats.write(make("topk", family="transcoder"), tmp_path / "a")
    ours = make("relu")
    formats.write(ours, tmp_path / "b")
    with pytest.raises(ArtifactError, match="b exists already"):
        formats.write(ours, tmp_path / "b")
    (tmp_path / "b" / "notes.txt").write_text("mine")
    with pytest.raises(ArtifactError, match=r"also holds .*notes.txt"):
        formats.write(ours, tmp_path / "b", overwrite=True)
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["b"]
    unset = make("batchtopk")
    unset.threshold.fill_(-torch.inf)
    with pytest.raises(BadInput, match="no threshold yet"):
        formats.write(unset, tmp_path / "c")
