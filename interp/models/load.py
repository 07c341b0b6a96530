"""From a name or a folder to a language model that every method can ask.

    lm = interp.load("gpt2")                                          # a hub name
    lm = interp.load("org/model@step3000", dtype="bfloat16")          # a revision
    lm = interp.load("runs/last-night", backend="nnsight")            # a folder that save_pretrained wrote
    lm = interp.load("atlas", folded=True)                            # a model that comes with the package, norms folded
    lm = wrap(model, tokenizer, "my model")                           # a transformers model that is already in memory

Nothing in a checkpoint is executed or unpickled. What cannot be read, or is not whole, is refused with what to do
(`interp.models.checkpoint`); what cannot be run here (device, dtype, architecture) is refused with what can.
"""

import os
import warnings
from contextlib import AbstractContextManager
from typing import Any, Literal

import torch

from interp.core.errors import BadInput, UnsupportedArchitecture, listing, one_of
from interp.core.spec import BYTES, ModelSpec

from .base import BaseLM
from .checkpoint import Checkpoint, load_config, load_module, resolve, stored_dtype
from .families import FAMILIES, family_of, spec_of
from .tokenizer import HFTokenizer, load_tokenizer
from .weights import fold_norms

BACKENDS = ("transformer_lens", "nnsight")
Backend = Literal["transformer_lens", "nnsight"]


def load(
    name_or_path: "str | os.PathLike[str]",
    *,
    backend: Backend = "transformer_lens",
    device: "str | torch.device" = "auto",
    dtype: "str | torch.dtype" = "auto",
    revision: str | None = None,
    folded: bool = False,
    remote: bool | str = False,
    check: bool = True,
) -> BaseLM:
    """Load a model by embedded name, hub name (`org/model`, `org/model@revision`) or folder.

    `device="auto"` takes CUDA, then MPS, then the CPU; `dtype="auto"` the checkpoint's own (float32 instead of float16 on a CPU).
    `folded=True` folds the norms' gains and biases into the weights that read through them. `remote` runs the model on NDIF
    (nnsight only; see `interp.models.remote`). `check` compares the loaded model with plain transformers on a few rows; the line is in
    its repr, and a disagreement is a warning. Raises `CheckpointError`, `UnsupportedArchitecture` or `BadInput`, saying what to do.
    """
    one_of("backend", backend, BACKENDS)
    if remote:
        from .remote import connect

        if backend != "nnsight" or folded or dtype != "auto" or device != "auto":
            raise BadInput(
                "a remote model runs with backend='nnsight' and as it is served. Drop `device`, `dtype` and `folded`."
            )
        return connect(os.fspath(name_or_path), remote=remote, revision=revision)
    place = pick_device(device)
    named = pick_dtype(dtype, place)
    checkpoint = resolve(name_or_path, revision)
    checkpoint.validate()
    with _own_randomness(place):
        module = load_module(checkpoint, named or _stored(checkpoint, place), place)
    rows = module.get_input_embeddings().weight.shape[0]
    tokenizer = load_tokenizer(checkpoint.folder, checkpoint.name, rows=rows)
    lm = wrap(module, tokenizer, checkpoint.name, backend=backend, folded=folded, revision=checkpoint.revision)
    if check and not lm.fidelity().ok:
        warnings.warn(
            f"{checkpoint.name} does not answer as plain transformers does: {lm.fidelity().line}", stacklevel=2
        )
    return lm


def wrap(
    module: Any,
    tokenizer: Any,
    name: str,
    *,
    backend: Backend = "transformer_lens",
    folded: bool = False,
    revision: str | None = None,
) -> BaseLM:
    """A language model around a transformers model in memory (in eval mode) and its fast tokenizer.

    The module is borrowed and its parameters are shared, so training it further shows at once; `folded=True` changes it for good.
    """
    one_of("backend", backend, BACKENDS)
    if module.training:
        raise BadInput(
            f"{name} is in training mode, so dropout would make every run different. Call `model.eval()` first."
        )
    _refuse_quantised(module, name)
    family = family_of(module)
    if folded:
        if next(module.parameters()).element_size() < 4:
            warnings.warn(
                f"{name}: folding rounds 16-bit weights once more; load it with dtype='float32'.", stacklevel=3
            )
        fold_norms(module, family)
    known = tokenizer if isinstance(tokenizer, HFTokenizer) else HFTokenizer(tokenizer, name)
    processing = "folded" if folded else "raw"
    spec = spec_of(module.config, module, name, backend=backend, processing=processing, revision=revision)
    with _own_randomness(module.device):
        if backend == "nnsight" or not family.proven:
            from .tracer import TracerLM

            lm = TracerLM(module, known, spec)
            if not family.proven:
                _take_unproven(lm)
            return lm
        from .bridge import BridgeLM

        return BridgeLM(module, known, spec)


def _refuse_quantised(module: torch.nn.Module, name: str) -> None:
    """Weights that are integers, 8-bit numbers or packed are not what the forward pass multiplies by, so none of them can be read."""
    odd = {key: str(p.dtype).removeprefix("torch.") for key, p in module.named_parameters()}
    odd = {key: dtype for key, dtype in odd.items() if dtype not in BYTES}
    for key, buffer in module.named_buffers():  # GPTQ, AWQ and their kin keep codes and scales in buffers
        kind = str(buffer.dtype).removeprefix("torch.")
        if "weight" in key.rpartition(".")[2] and kind not in (*BYTES, "bool"):
            odd[key] = kind
    for key, part in module.named_modules():  # the weight of a packed linear layer is a method
        if callable(getattr(part, "weight", None)) and not isinstance(part.weight, torch.Tensor):
            odd.setdefault(f"{key}.weight", "packed")
    if odd:
        first, kinds = next(iter(odd)), ", ".join(sorted(set(odd.values())))
        raise BadInput(
            f"{name} has {len(odd)} weights of type {kinds} ({first}, …): it is quantised, and its weights are not the numbers that it "
            f"computes with. Load the unquantised model, or call `model.dequantize()` where it has one; legal types: {listing(BYTES)}."
        )


def _take_unproven(lm: BaseLM) -> None:
    """Prove what can be proven of a model whose family is in no table, and say what it has."""
    from .generic import prove

    prove(lm)
    kinds = ", ".join(lm.spec.kinds)
    warnings.warn(
        f"{lm.spec.name}: {lm.spec.family} is an unproven family. Only its residual stream is named, as far as it was understood by "
        f"watching it run and passed the checks on random rows (sites: {kinds}); it has no heads, neurons or weight views, nnsight answers "
        "whatever the backend asked for, and sweeps recompute whole layers.",
        stacklevel=4,
    )


def _own_randomness(device: torch.device) -> AbstractContextManager[None]:
    """New modules draw weights that nobody keeps; inside the block that leaves the caller's random numbers as they were."""
    return torch.random.fork_rng(devices=[device] if device.type == "cuda" else [])


def spec_of_checkpoint(name_or_path: "str | os.PathLike[str]", revision: str | None = None) -> ModelSpec:
    """The shape and conventions of a checkpoint, from its config.json alone: no weights are read, none are fetched.

    Raises `CheckpointError` or `UnsupportedArchitecture`, as `load` does; the latter too for an unproven family, whose sites are found
    by running it.
    """
    from transformers import AutoModelForCausalLM

    checkpoint = resolve(name_or_path, revision, weights=False)
    config = load_config(checkpoint)
    if config.model_type not in FAMILIES:
        raise UnsupportedArchitecture(
            f"{checkpoint.name}: {config.model_type} is an unproven family, and what sites it has is found by running it. Load it "
            "(`interp.load`) and ask `lm.sites()`."
        )
    with torch.device("meta"):
        module = AutoModelForCausalLM.from_config(config, dtype=config.dtype or torch.float32)
    return spec_of(config, module, checkpoint.name, backend=BACKENDS[0], revision=checkpoint.revision)


def devices() -> list[str]:
    """The devices of this machine, best first."""
    found = [f"cuda:{index}" for index in range(torch.cuda.device_count())] if torch.cuda.is_available() else []
    if torch.backends.mps.is_available():
        found.append("mps")
    return [*found, "cpu"]


def pick_device(device: "str | torch.device") -> torch.device:
    """The device that is meant. Raises `BadInput` with those that are there."""
    have = devices()
    if str(device) == "auto":
        return torch.device(have[0])
    word = (
        "cuda:0"
        if str(device) == "cuda"
        else str(device).removesuffix(":0")
        if str(device).startswith(("cpu", "mps"))
        else str(device)
    )
    if word not in have:
        raise BadInput(
            f"there is no device {str(device)!r} here; there is {listing(have)}. Use one of these, or 'auto'."
        )
    return torch.device(word)


def pick_dtype(dtype: "str | torch.dtype", device: torch.device) -> torch.dtype | None:
    """The dtype that is meant, None for the checkpoint's own. Raises `BadInput` where the device lacks it."""
    word = str(dtype).removeprefix("torch.")
    one_of("dtype", word, ["auto", *BYTES])
    if word == "auto":
        return None
    lacking = (word == "float64" and device.type == "mps") or (
        word == "bfloat16" and device.type == "cuda" and not torch.cuda.is_bf16_supported(including_emulation=False)
    )
    if lacking:
        raise BadInput(f"{device} has no {word}. Use dtype='float32', or another device.")
    return getattr(torch, word)


def _stored(checkpoint: Checkpoint, device: torch.device) -> torch.dtype:
    dtype = stored_dtype(checkpoint)
    if dtype == torch.float16 and device.type == "cpu":
        warnings.warn(
            f"{checkpoint.name} is stored in float16, which a CPU computes slowly and coarsely: loaded in float32.",
            stacklevel=4,
        )
        return torch.float32
    return pick_dtype(dtype, device) or dtype
