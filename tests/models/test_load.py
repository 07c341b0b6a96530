"""From a name to a model: options, refusals, folding, and nothing heavier than asked for."""

import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import interp
from interp.core.edit import scale
from interp.core.errors import BadInput, CheckpointError, UnsupportedArchitecture
from interp.models.bridge import BridgeLM
from interp.models.load import devices, load, pick_device, pick_dtype, spec_of_checkpoint, wrap
from interp.models.tracer import TracerLM
from tests import oracle
from tests.models.tiny import EXPERTS, FAMILIES, tiny, tiny_checkpoint, tokens
from tests.models.wrapped import BACKENDS, module, tokenizer


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_checkpoint(tmp_path_factory.mktemp("models"), "gpt2")


def test_load_gives_the_backend_that_was_asked_for(folder: Path) -> None:
    assert isinstance(load(folder), BridgeLM) and isinstance(load(str(folder), backend="nnsight"), TracerLM)
    assert interp.load is load
    model = load(folder, backend="nnsight")
    assert (
        model.spec.name == "tiny-gpt2" and model.spec.revision is None and str(folder) not in str(model.spec.to_dict())
    )
    assert model.run("The Eiffel Tower").logits.shape[-1] == model.spec.vocab
    with pytest.raises(BadInput, match=r"`backend` must be one of .*Did you mean 'nnsight'"):
        load(folder, backend="nnsigth")  # type: ignore[arg-type]


@pytest.mark.parametrize("backend", BACKENDS)
def test_loading_leaves_the_process_as_it_was(folder: Path, backend: str) -> None:
    torch.manual_seed(7)
    want = torch.rand(3)
    torch.manual_seed(7)
    before = torch.get_default_dtype(), torch.is_grad_enabled(), torch.get_num_threads()
    model = load(folder, backend=backend, dtype="bfloat16")  # type: ignore[arg-type]
    model.run(tokens()), model.fidelity(again=True)
    assert (torch.get_default_dtype(), torch.is_grad_enabled(), torch.get_num_threads()) == before
    assert torch.equal(torch.rand(3), want), "the caller's random numbers moved"
    assert not hasattr(object, "save")


def test_a_loaded_model_is_frozen(folder: Path) -> None:
    model = load(folder)
    assert not any(parameter.requires_grad for parameter in model.module.parameters())
    assert model.run([1, 2], capture="hook_embed", grad=True)["hook_embed"].requires_grad


def test_dtypes(folder: Path, tmp_path: Path) -> None:
    assert load(folder).spec.dtype == "float32"
    for dtype in ("bfloat16", torch.bfloat16, "torch.bfloat16"):
        assert load(folder, dtype=dtype, backend="nnsight").spec.dtype == "bfloat16"
    with pytest.raises(BadInput, match=r"'float32'.*not 'float31'"):
        load(folder, dtype="float31")
    half = Path(shutil.copytree(folder, tmp_path / "half"))
    weights = {key: value.half() for key, value in load_file(half / "model.safetensors").items()}
    save_file(weights, half / "model.safetensors", {"format": "pt"})
    (half / "config.json").write_text((half / "config.json").read_text().replace('"float32"', '"float16"'))
    with pytest.warns(UserWarning, match="stored in float16.*loaded in float32"):
        assert load(half, device="cpu").spec.dtype == "float32"
    assert load(half, dtype="float16", device="cpu", backend="nnsight").spec.dtype == "float16"


def test_devices() -> None:
    assert devices()[-1] == "cpu" and str(pick_device("auto")) == devices()[0]
    assert pick_device("cpu") == pick_device("cpu:0") == pick_device(torch.device("cpu"))
    for absent in ("cuda:99", "tpu", "cud"):
        with pytest.raises(BadInput, match=r"there is .*'cpu'.*'auto'"):
            pick_device(absent)
    if not torch.cuda.is_available():
        with pytest.raises(BadInput, match="no device 'cuda' here"):
            pick_device("cuda")
    with pytest.raises(BadInput, match="mps has no float64"):
        pick_dtype("float64", torch.device("mps"))
    assert pick_dtype("auto", torch.device("cpu")) is None


def test_what_is_wrong_is_said_before_anything_is_loaded(folder: Path, tmp_path: Path) -> None:
    for name in ("tokenizer.json", "tokenizer_config.json"):
        broken = Path(shutil.copytree(folder, tmp_path / name))
        (broken / "tokenizer.json").unlink()
        with pytest.raises(CheckpointError, match="no tokenizer"):
            load(broken)
    with pytest.raises(CheckpointError, match="Beside it: 'tiny-gpt2'"):
        load(folder.parent / "tiny-gpt")


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("family", [name for name in FAMILIES if name != "olmo2"])
def test_folded_norms_compute_the_same(family: str, backend: str) -> None:
    raw = module(family)
    model = wrap(tiny(family).requires_grad_(False), tokenizer(), "folded", backend=backend, folded=True)
    assert model.spec.processing == "folded" and "folded" in repr(model) and not model.spec.tied
    want = oracle.logits(raw, tokens()).log_softmax(-1)
    got = model.run(tokens()).logits.log_softmax(-1)
    torch.testing.assert_close(got, want, rtol=0, atol=2e-4)
    edits = [scale("blocks.1.hook_mlp_out", 0.0)]
    want = oracle.edited(raw, [("mlp_out", 1, torch.zeros_like)], tokens()).log_softmax(-1)
    torch.testing.assert_close(model.run(tokens(), edits=edits).logits.log_softmax(-1), want, rtol=0, atol=2e-4)


def test_folding_is_refused_where_it_is_not_exact(folder: Path) -> None:
    with pytest.raises(UnsupportedArchitecture, match="olmo2"):
        wrap(tiny("olmo2"), tokenizer(), "m", folded=True)
    with pytest.warns(UserWarning, match="rounds 16-bit weights"):
        load(folder, dtype="bfloat16", folded=True)
    assert load(folder, folded=True).fingerprint() != load(folder).fingerprint()


@torch.no_grad()
def test_a_quantised_model_is_refused() -> None:
    """8-bit codes, codes in buffers, and packed linear layers whose `weight` is a method."""
    coded = tiny("llama")
    coded.model.layers[1].mlp.up_proj.weight.data = coded.model.layers[1].mlp.up_proj.weight.to(torch.float8_e4m3fn)
    with pytest.raises(
        BadInput, match=r"1 weights of type float8_e4m3fn \(model.layers.1.mlp.up_proj.weight.*dequantize\(\)"
    ):
        wrap(coded, tokenizer(), "m")

    class Packed(torch.nn.Module):
        def weight(self) -> torch.Tensor:
            return torch.zeros(1)

    class Codes(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("qweight", torch.zeros(4, 4, dtype=torch.int32))

    grouped = tiny("llama")
    grouped.model.layers[1].self_attn.q_proj = Codes()
    with pytest.raises(BadInput, match=r"1 weights of type int32 \(model.layers.1.self_attn.q_proj.qweight"):
        wrap(grouped, tokenizer(), "m")

    packed = tiny("llama")
    packed.model.layers[0].mlp.up_proj = Packed()
    with pytest.raises(BadInput, match=r"type packed \(model.layers.0.mlp.up_proj.weight.*Load the unquantised model"):
        wrap(packed, tokenizer(), "m")


def test_a_model_in_training_mode_is_refused() -> None:
    with pytest.raises(BadInput, match=r"model.eval\(\)"):
        wrap(tiny("gpt2").train(), tokenizer(), "m")
    with pytest.raises(UnsupportedArchitecture, match="'bert' are not supported"):
        own = tiny("gpt2")
        own.config.model_type = "bert"
        wrap(own, tokenizer(), "m")


def test_importing_interp_loads_no_backend() -> None:
    heavy = "{'transformer_lens', 'nnsight', 'transformers', 'torch', 'plotly'}"
    code = f"import sys, interp; assert not {heavy} & set(sys.modules), {heavy} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
    code = (
        "import sys; from interp.models.load import load; assert not {'transformer_lens', 'nnsight'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("name", ["atlas", "atlas-tuned"])
def test_the_embedded_checkpoints_load(name: str) -> None:
    try:
        model = load(name)
    except CheckpointError:
        pytest.skip("the reference checkpoints are not built yet")
    assert model.spec.name == name and model.fidelity().ok


def test_planted_models_are_models() -> None:
    from interp.models import reference

    planted = reference.induction()
    for backend in BACKENDS:
        model = reference.as_lm(planted, backend=backend)
        assert model.spec.family == "gpt2" and model.run([1, 2, 3]).logits is not None


@pytest.mark.parametrize("name", ["phi3", *EXPERTS])
def test_fused_and_expert_checkpoints_load_from_a_folder(name: str, tmp_path: Path) -> None:
    folder = tiny_checkpoint(tmp_path, name)
    model = load(folder, backend="nnsight")
    assert model.fidelity().ok and model.spec.family == name
    cold = spec_of_checkpoint(folder)
    assert replace(cold, device="cpu", backend="nnsight") == model.spec
    assert cold.experts == (6 if name in EXPERTS else 0) and cold.sinks == (name == "gpt_oss")
    if name == "gpt_oss":  # transformers keeps its norms in float32, beside float16 for the rest
        assert load(folder, backend="nnsight", dtype="float16", device="cpu").fidelity().ok
