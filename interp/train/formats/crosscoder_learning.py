"""crosscoder_learning (science-of-finetuning): the state dict of a CrossCoder or BatchTopKCrossCoder over two or more views.

    encoder.weight [view, d, latent], encoder.bias [latent], decoder.weight [view, latent, d], decoder.bias [view, d]
    code_normalization_id (1 crosscoder, 2 sae, 3 mixed, 4 none, 5 decoupled), and of BatchTopK: k, threshold

Read in commit 49c3a91. Latents compete by code times a norm of their decoder rows, the code that is kept is unscaled: as here. A
`threshold` of -1 is one that was never set (checkpoints of the first 1000 steps), with which every positive code would be on: it stays
unset, and encoding is refused until it is calibrated. Prefixes of torch.compile (`_orig_mod.`) are dropped. Later versions can keep a
normaliser of the activations among the weights: refused, as every tensor that is not named above.
Two views are called base and tuned, in the library's order (index 0 is the base model); name them otherwise with `names=`.
"""

from pathlib import Path

import torch
from torch import Tensor

from ...core.dictionary import Dictionary, DictionaryConfig, View
from ...core.errors import BadInput
from .parts import Tensors, dictionary_of, dtype_name, load_json, load_pickle, load_tensors, rows_of, whole

NAME = "crosscoder_learning"
TAKES = ("names",)
LOOKS_FOR = (
    "one .pt file, or model.safetensors, with encoder.weight [view, d, latent] and decoder.weight [view, latent, d]"
)
SCALES = {1: "sum", 2: "concat", 3: "mixed", 4: "none", 5: "decoupled"}


def recognise(folder: Path) -> bool:
    """Whether a folder holds one: looks into the file."""
    path = _weights(folder)
    if path is None:
        return False
    try:
        tensors = _load(path)
    except BadInput:
        return False
    return "encoder.weight" in tensors and tensors.found["encoder.weight"].ndim == 3


def read(folder: Path, *, names: tuple[str, ...] = ()) -> Dictionary:
    """Read a state dict. Raises `BadInput` for tensors that are missing, of other shapes or not known."""
    path = _weights(folder)
    if path is None:
        raise BadInput(f"{folder.name!r} holds no single .pt file and no model.safetensors.")
    tensors = _load(path)
    weight = tensors.take("encoder.weight", (None, None, None))
    views, width, latents = weight.shape
    decoder = _decoder(tensors, (views, latents, width))
    b_enc, biases = tensors.take("encoder.bias", (latents,)), tensors.take("decoder.bias", (views, width))
    scale = _scale(tensors)
    _check_mixed(folder, scale)
    batch = "k" in tensors
    k = whole(tensors.number("k"), "k", tensors.where) if batch else 1.0
    threshold = _threshold(tensors, views if scale == "decoupled" else 1) if batch else None
    tensors.done()
    called = names or (("base", "tuned") if views == 2 else tuple(f"view {place}" for place in range(views)))
    if len(called) != views:
        raise BadInput(f"{tensors.where} has {views} views; `names` are {list(called)}.")
    places = tuple(View(name, width=width) for name in called)
    shape = DictionaryConfig(
        latents=latents, reads=places, writes=places, activation="batchtopk" if batch else "relu", k=k,
        code_scale=scale if batch or scale != "decoupled" else "sum", centred=False, family="crosscoder",
        dtype=dtype_name([weight, decoder]),
    )  # fmt: skip
    return dictionary_of(
        shape, encoders=[rows_of(part) for part in weight], decoders=list(decoder), b_enc=b_enc, biases=list(biases), threshold=threshold,
        metadata={"format": NAME, "file": path.name},
    )  # fmt: skip


def _weights(folder: Path) -> Path | None:
    if (folder / "model.safetensors").is_file():
        return folder / "model.safetensors"
    pickled = sorted(folder.glob("*.pt"))
    return pickled[0] if len(pickled) == 1 else None


def _load(path: Path) -> Tensors:
    if path.suffix == ".pt":
        return load_pickle(path)
    found = load_tensors(path)
    return Tensors({name.replace("_orig_mod.", ""): value for name, value in found.found.items()}, found.where)


def _decoder(tensors: Tensors, shape: tuple[int, int, int]) -> Tensor:
    """[view, latent, d]; decoders kept as embedding bags have a tensor a view."""
    if "decoder.weight" in tensors:
        return tensors.take("decoder.weight", shape)
    return torch.stack([tensors.take(f"decoder.layers.{place}.weight", shape[1:]) for place in range(shape[0])])


def _scale(tensors: Tensors) -> str:
    if "code_normalization_id" not in tensors:
        return "sum"  # what the library had before it had a choice
    number = int(tensors.number("code_normalization_id"))
    if number not in SCALES:
        raise BadInput(f"{tensors.where} has code_normalization_id {number}; known are {SCALES}.")
    return SCALES[number]


def _check_mixed(folder: Path, scale: str) -> None:
    """Refuse mixed code norms of other weights than 1 and 0.1."""
    path = folder / "config.json"
    if scale != "mixed" or not path.is_file():
        return
    said = load_json(path)
    weights = said.get("code_normalization_alpha_sae", 1.0), said.get("code_normalization_alpha_cc", 0.1)
    if weights != (1.0, 0.1):
        raise BadInput(f"{folder.name!r} mixes code norms by {weights}; only (1.0, 0.1) can be read.")


def _threshold(tensors: Tensors, views: int) -> list[float] | None:
    """None where any was never set."""
    cut = (
        tensors.take("threshold", (views,) if tensors.found["threshold"].ndim else ())
        if "threshold" in tensors
        else None
    )
    if cut is None or bool((cut < 0).any()):
        return None
    return [float(value) for value in cut.reshape(-1)]
