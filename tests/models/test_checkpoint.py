"""A checkpoint that is whole loads; every way of not being whole is a message that says what is wrong and what to do."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from interp.core.errors import BadInput, CheckpointError, UnsupportedArchitecture
from interp.models.checkpoint import check_finite, load_module, resolve, stored_dtype
from tests.models.tiny import FAMILIES, tiny, tiny_checkpoint

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_checkpoint(tmp_path_factory.mktemp("models"), "llama")


@pytest.fixture
def folder(original: Path, tmp_path: Path) -> Path:
    """A copy that may be damaged."""
    return Path(shutil.copytree(original, tmp_path / "llama-copy"))


def loaded(folder: Path):
    checkpoint = resolve(folder)
    checkpoint.validate()
    return load_module(checkpoint, stored_dtype(checkpoint), CPU)


def refused(folder: Path, *words: str) -> str:
    with pytest.raises(CheckpointError) as caught:
        loaded(folder)
    message = str(caught.value)
    assert message.startswith(folder.name) and message.endswith((".", "folder.", "safetensors."))
    for word in words:
        assert word in message, message
    return message


def change_config(folder: Path, **changes) -> None:
    path = folder / "config.json"
    config = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps({key: value for key, value in config.items() if value is not None}))


def change_weights(folder: Path, change) -> None:
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors", {"format": "pt"})


def shard(folder: Path) -> dict[str, str]:
    """Split the weights in two, as large checkpoints are."""
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names = sorted(weights)
    table = {}
    for index, part in enumerate((names[: len(names) // 2], names[len(names) // 2 :]), start=1):
        file = f"model-0000{index}-of-00002.safetensors"
        save_file({name: weights[name] for name in part}, folder / file, {"format": "pt"})
        table |= dict.fromkeys(part, file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": table}))
    return table


@pytest.mark.parametrize("family", FAMILIES)
def test_a_whole_checkpoint_of_every_family_loads_bit_for_bit(family: str, tmp_path: Path) -> None:
    folder = tiny_checkpoint(tmp_path, family)
    module = loaded(folder)
    made = tiny(family, vocab_size=module.config.vocab_size).state_dict()
    assert made.keys() == module.state_dict().keys()
    assert all(torch.equal(tensor, made[name]) for name, tensor in module.state_dict().items())
    assert not module.training and not any(parameter.requires_grad for parameter in module.parameters())


def test_shards_load(folder: Path) -> None:
    before = loaded(folder).state_dict()
    shard(folder)
    after = loaded(folder).state_dict()
    assert all(torch.equal(after[name], before[name]) for name in before)


def test_a_folder_without_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    refused(folder, "no weights", "model.safetensors")
    (folder / "consolidated.safetensors").write_bytes(b"")
    refused(folder, "consolidated.safetensors", "Rename")


def test_pickled_weights_are_refused_with_the_way_to_convert_them(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    torch.save({}, folder / "pytorch_model.bin")
    refused(folder, "pytorch_model.bin", "unpickling runs code", "save_pretrained")


def test_gguf_and_adapters_are_named_for_what_they_are(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "model.gguf").write_bytes(b"GGUF")
    refused(folder, "GGUF")
    (folder / "config.json").unlink()
    refused(folder, "no config.json")
    (folder / "adapter_config.json").write_text("{}")
    refused(folder, "adapter", "Merge")


@pytest.mark.parametrize("keep", [0, 5, 300, -1])
def test_truncated_weights(folder: Path, keep: int) -> None:
    file = folder / "model.safetensors"
    data = file.read_bytes()
    file.write_bytes(data[:keep])
    refused(folder, "model.safetensors", "again")
    file.write_bytes(data + b"\0")
    refused(folder, "bytes that its header does not know")


def test_a_damaged_header(folder: Path) -> None:
    file = folder / "model.safetensors"
    data = bytearray(file.read_bytes())
    data[9] ^= 0xFF
    file.write_bytes(bytes(data))
    refused(folder, "header", "damaged")
    file.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    refused(folder, "git lfs pull")


def test_a_header_whose_ranges_and_shapes_disagree(folder: Path) -> None:
    file = folder / "model.safetensors"
    data = file.read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    header["model.norm.weight"]["shape"] = [31]
    text = json.dumps(header).encode().ljust(length)
    file.write_bytes(len(text).to_bytes(8, "little") + text + data[8 + length :])
    refused(folder, "model.norm.weight", "128 bytes")


def test_missing_shards_and_damaged_indices(folder: Path) -> None:
    table = shard(folder)
    index = folder / "model.safetensors.index.json"
    first = folder / "model-00001-of-00002.safetensors"
    content = index.read_text()
    index.write_text(json.dumps({"weight_map": {**table, "model.extra.weight": first.name}}))
    refused(folder, "model.extra.weight", "missing")
    index.write_text("{")
    refused(folder, "index.json is damaged")
    index.unlink()
    refused(folder, "2 shards but no")
    index.write_text(content)
    first.unlink()
    refused(folder, "1 of 2 shards missing", first.name)


def test_missing_weights_are_never_silently_random(folder: Path) -> None:
    change_weights(folder, lambda weights: weights.pop("model.layers.1.mlp.up_proj.weight"))
    refused(folder, "model.layers.1.mlp.up_proj.weight", "missing", "random")


def test_surplus_layers_are_not_silently_dropped(folder: Path) -> None:
    change_config(folder, num_hidden_layers=3)
    refused(folder, "model.layers.3.", "would drop", "config.json")


def test_buffers_of_older_checkpoints_are_no_surplus(folder: Path) -> None:
    change_weights(
        folder, lambda weights: weights.update({"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(4)})
    )
    loaded(folder)


def test_weights_of_another_shape(folder: Path) -> None:
    change_config(folder, intermediate_size=40)
    refused(folder, "config.json", "same save")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_weights_that_are_not_numbers_are_named(folder: Path, value: float) -> None:
    def poison(weights) -> None:
        weights["model.layers.2.self_attn.q_proj.weight"][1, 3] = value

    change_weights(folder, poison)
    refused(folder, "model.layers.2.self_attn.q_proj.weight", "1 NaN or infinite")


def test_finite_weights_pass_in_every_dtype() -> None:
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        check_finite(tiny("gpt2", dtype=dtype), "m")


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", "\0\1"])
def test_a_configuration_that_cannot_be_read(folder: Path, text: str) -> None:
    (folder / "config.json").write_text(text)
    refused(folder, "config.json")


def test_a_configuration_that_transformers_refuses(folder: Path) -> None:
    change_config(folder, hidden_size="wide")
    refused(folder, "config.json")


def test_unsupported_architectures_list_what_works(folder: Path) -> None:
    change_config(folder, model_type="bert")
    with pytest.raises(UnsupportedArchitecture, match=r"'bert'.*gpt2.*olmo2"):
        loaded(folder)
    change_config(folder, model_type="homemade", auto_map={"AutoModelForCausalLM": "modeling.Evil"})
    (folder / "modeling.py").write_text("raise SystemExit('code of a checkpoint ran')")
    with pytest.raises(UnsupportedArchitecture, match="homemade"):
        loaded(folder)


def test_code_beside_a_known_architecture_is_never_run(folder: Path) -> None:
    (folder / "modeling.py").write_text("raise SystemExit('code of a checkpoint ran')")
    change_config(folder, auto_map={"AutoConfig": "modeling.Evil", "AutoModelForCausalLM": "modeling.Evil"})
    loaded(folder)


def test_quantised_weights(folder: Path) -> None:
    change_config(folder, quantization_config={"quant_method": "gptq"})
    refused(folder, "quantised (gptq)", "Load the unquantised model")
    change_config(folder, quantization_config={"quant_method": "mxfp4"})
    refused(folder, "quantised (mxfp4)", "Mxfp4Config(dequantize=True)", "save_pretrained(new_path)")


@pytest.mark.parametrize(("dtype", "said"), [(torch.int8, "I8"), (torch.float8_e4m3fn, "F8_E4M3")])
def test_quantised_weights_that_the_configuration_does_not_own_up_to(folder: Path, dtype, said: str) -> None:
    """transformers would cast the bare codes to floats, and every number would be wrong."""
    key = "model.layers.1.self_attn.v_proj.weight"
    change_weights(folder, lambda weights: weights.update({key: (10 * weights[key]).to(dtype)}))
    refused(folder, f"1 weight ({key}) stored as {said}", "does not say how", "Load the unquantised model")


def test_masks_and_positions_are_not_called_quantised(folder: Path) -> None:
    """Buffers that other checkpoints carry: whether the model knows them is the loader's question."""
    key = "model.layers.1.self_attn.v_proj.weight"
    buffers = {"model.position_ids": torch.arange(4)[None], "model.causal_mask": torch.ones(2, 2, dtype=torch.bool)}
    change_weights(folder, lambda weights: weights.update(buffers))
    resolve(folder).validate()
    refused(folder, "model.causal_mask, model.position_ids", "that this configuration would drop")
    change_weights(folder, lambda weights: weights.update({key: weights[key].long()}))
    refused(folder, f"1 weight ({key}) stored as I64", "quantised")


def test_the_stored_dtype_is_the_configurations_else_the_tensors(folder: Path) -> None:
    assert stored_dtype(resolve(folder)) == torch.float32
    change_weights(folder, lambda weights: weights.update({key: value.bfloat16() for key, value in weights.items()}))
    change_config(folder, dtype=None, torch_dtype=None)
    assert stored_dtype(resolve(folder)) == torch.bfloat16


@pytest.mark.parametrize(
    ("name", "error", "words"),
    [
        ("", BadInput, "empty"),
        ("./nowhere", CheckpointError, "no such folder"),
        ("a/b/c", CheckpointError, "no such folder"),
        ("not a model", CheckpointError, "neither a folder nor a model name"),
        ("org/model-that-is-not-cached", CheckpointError, "cannot be reached"),
        ("org/model@main", CheckpointError, "org/model@main"),
    ],
)
def test_names_that_lead_nowhere(name: str, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        resolve(name)


def test_paths_and_revisions(original: Path) -> None:
    assert resolve(original).name == "tiny-llama" and resolve(str(original) + "/").folder == original.resolve()
    with pytest.raises(CheckpointError, match=r"Beside it: 'tiny-llama'"):
        resolve(original.parent / "tiny-lama")
    with pytest.raises(CheckpointError, match="is a file"):
        resolve(original / "config.json")
    with pytest.raises(BadInput, match="has no revisions"):
        resolve(original, "main")
    with pytest.raises(BadInput, match="another"):
        resolve("org/model@a", "b")
