"""circuit-tracer: a cross-layer transcoder (CLT), two safetensors files a layer. Read in commit 05774bb, in both directions.

    W_enc_{i}.safetensors    W_enc_i [latent, d], b_enc_i [latent], b_dec_i [d], threshold_i [latent] where it is jumprelu
    W_dec_{i}.safetensors    W_dec_i [latent, layers - i, d]: what the latents of layer i write to layers i, i + 1, ...
    config.yaml              model_name, model_kind, feature_input_hook, feature_output_hook

Latents are in groups by layer. Layer i is read by group i, and written by groups 0 to i. `in 0`, `in 1`, ... are what is read,
`out 0`, ... what is written. Skip weights (W_skip_i) are a path from each layer to itself, which dictionaries of several views do not
have: refused.
"""

import re
from itertools import pairwise
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from ...core.dictionary import Dictionary, DictionaryConfig, View
from ...core.errors import BadInput
from .parts import Tensors, dictionary_of, dtype_name, load_tensors
from .writing import aside

NAME = "circuit_tracer"
LOOKS_FOR = "W_enc_0.safetensors and W_dec_0.safetensors, and so on for each layer"
CONFIG = "config.yaml"
READ_HOOK, WRITTEN_HOOK = "hook_resid_mid", "hook_mlp_out"


def recognise(folder: Path) -> bool:
    """Whether a folder looks like one."""
    return (folder / "W_enc_0.safetensors").is_file() and (folder / "W_dec_0.safetensors").is_file()


def read(folder: Path) -> Dictionary:
    """Read a folder. Raises `BadInput` where a layer is missing or does not fit the others."""
    layers = _count(folder)
    encoders: list[Tensor] = []
    b_enc, biases, thresholds, decoders = [], [], [], []
    for layer in range(layers):
        tensors = load_tensors(folder / f"W_enc_{layer}.safetensors")
        if f"W_skip_{layer}" in tensors:
            raise BadInput(f"{tensors.where} has skip weights, which a dictionary of several views cannot hold.")
        encoders.append(tensors.take(f"W_enc_{layer}", (None, encoders[0].shape[1] if encoders else None)))
        size, width = encoders[-1].shape
        b_enc.append(tensors.take(f"b_enc_{layer}", (size,)))
        biases.append(tensors.take(f"b_dec_{layer}", (width,)))
        if f"threshold_{layer}" in tensors:
            thresholds.append(_nonnegative(tensors.take(f"threshold_{layer}", (size,), infinite=True), tensors))
        tensors.done()
        written = load_tensors(folder / f"W_dec_{layer}.safetensors")
        decoders.append(written.take(f"W_dec_{layer}", (size, layers - layer, width)))
        written.done()
    if len(thresholds) not in (0, layers):
        raise BadInput(
            f"{folder.name!r} has thresholds for {len(thresholds)} of its {layers} layers; all or none must have them."
        )
    shape = _config(
        folder, [tuple(rows.shape) for rows in encoders], bool(thresholds), dtype_name([*encoders, *decoders])
    )
    return dictionary_of(
        shape, encoders=encoders, b_enc=torch.cat(b_enc), biases=biases, thresholds=torch.cat(thresholds) if thresholds else None,
        decoders=[torch.cat([decoders[group][:, layer - group] for group in range(layer + 1)]) for layer in range(layers)],
        metadata={"format": NAME},
    )  # fmt: skip


def write(dictionary: Dictionary, folder: Path, *, overwrite: bool = False) -> Path:
    """Write a folder that circuit-tracer's `load_clt` reads; returns it. Scalings are folded; batchtopk becomes a threshold a latent.

    Raises `BadInput` for what is not a weakly causal CLT of groups of one size, or keeps its k largest.
    """
    sizes = _check(dictionary)
    raw = dictionary.folded()
    layers, size = len(sizes), sizes[0]
    files: dict[str, dict[str, Tensor]] = {}
    for layer in range(layers):
        low, high = layer * size, (layer + 1) * size
        rows = {
            f"W_enc_{layer}": raw.encoders[layer],
            f"b_enc_{layer}": raw.b_enc[low:high],
            f"b_dec_{layer}": raw.biases[layer],
        }
        if raw.config.activation == "jumprelu":
            rows[f"threshold_{layer}"] = raw.thresholds[low:high].nan_to_num(nan=torch.inf, posinf=torch.inf)
        files[f"W_enc_{layer}.safetensors"] = rows
        targets = torch.stack(
            [raw.decoders[target][low:high] for target in range(layer, layers)], dim=1
        )  # [latent, target, d]
        files[f"W_dec_{layer}.safetensors"] = {f"W_dec_{layer}": targets}
    model, hooks = dictionary.config.reads[0].model, (_hook(dictionary.config.reads), _hook(dictionary.config.writes))
    about = (
        f'model_name: "{model}"\nmodel_kind: cross_layer_transcoder\nfeature_input_hook: {hooks[0] or READ_HOOK}\n'
        f"feature_output_hook: {hooks[1] or WRITTEN_HOOK}\n"
    )
    with aside(folder, overwrite=overwrite, replaces=(*files, CONFIG)) as place:
        for name, tensors in files.items():
            save_file(
                {key: value.detach().cpu().float().contiguous().clone() for key, value in tensors.items()}, place / name
            )
        (place / CONFIG).write_text(about, encoding="utf-8")
    return folder


def _count(folder: Path) -> int:
    found: dict[str, set[int]] = {"W_enc": set(), "W_dec": set()}
    for path in folder.glob("W_*.safetensors"):
        if match := re.fullmatch(r"(W_enc|W_dec)_(\d+)\.safetensors", path.name):
            found[match[1]].add(int(match[2]))
    layers = max((*found["W_enc"], *found["W_dec"], -1)) + 1
    absent = [f"{kind}_{layer}.safetensors" for kind in found for layer in range(layers) if layer not in found[kind]]
    if absent or not layers:
        raise BadInput(f"{folder.name!r} lacks {absent or ['W_enc_0.safetensors']}. Is the download complete?")
    return layers


def _nonnegative(thresholds: Tensor, tensors: Tensors) -> Tensor:
    """circuit-tracer's jumprelu has no relu in it: below zero it would let negative codes through."""
    if bool((thresholds < 0).any()):
        raise BadInput(
            f"{tensors.where} has thresholds below 0, with which codes may be negative; codes here are positive."
        )
    return thresholds


def _config(folder: Path, sizes: list[tuple[int, ...]], jumps: bool, dtype: str) -> DictionaryConfig:
    said = _said(folder)
    model, read_hook, written_hook = (
        said.get("model_name", ""),
        said.get("feature_input_hook", ""),
        said.get("feature_output_hook", ""),
    )
    latents, bounds = sum(size for size, _ in sizes), [0]
    for size, _ in sizes:
        bounds.append(bounds[-1] + size)
    reads, writes = [], []
    for layer, (_, width) in enumerate(sizes):
        site, site_out = (f"blocks.{layer}.{hook}" if hook else "" for hook in (read_hook, written_hook))
        reads.append(
            View(f"in {layer}", site=site, width=width, model=model, latents=(bounds[layer], bounds[layer + 1]))
        )
        writes.append(View(f"out {layer}", site=site_out, width=width, model=model, latents=(0, bounds[layer + 1])))
    return DictionaryConfig(
        latents=latents, reads=tuple(reads), writes=tuple(writes), activation="jumprelu" if jumps else "relu", k=1.0, code_scale="none",
        groups=tuple((f"layer {layer}", size) for layer, (size, _) in enumerate(sizes)), centred=False,
        family="cross-layer transcoder", dtype=dtype,
    )  # fmt: skip


def _said(folder: Path) -> dict[str, str]:
    """The plain `key: value` lines of config.yaml."""
    path = folder / CONFIG
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    pairs = (re.fullmatch(r"(\w+):\s*[\"']?([^\"'#]*?)[\"']?\s*", line) for line in lines)
    return {match[1]: match[2] for match in pairs if match}


def _check(dictionary: Dictionary) -> list[int]:
    """Group sizes of a weakly causal CLT. Raises `BadInput` for anything else, and says what."""
    shape = dictionary.config
    layers = len(shape.reads)
    sizes = [high - low for low, high in map(shape.range_of, shape.reads)]
    bounds = [sum(sizes[:place]) for place in range(layers + 1)]
    why = ""
    if len(shape.writes) != layers or [shape.range_of(view) for view in shape.reads] != list(pairwise(bounds)):
        why = "each layer must be read by a group of latents of its own, in order"
    elif [shape.range_of(view) for view in shape.writes] != [(0, bound) for bound in bounds[1:]]:
        why = "each layer must be written by its own group and all earlier ones"
    elif len(set(sizes)) > 1:
        why = f"all layers must have the same number of latents; these have {sizes}"
    elif shape.activation == "topk" or shape.centred or shape.skip:
        why = "it must be relu, jumprelu or batchtopk, not centred, without skip"
    elif len({view.width for view in (*shape.reads, *shape.writes)}) > 1:
        why = "all layers must have one width"
    elif any(view.minus or view.offset for view in shape.views):
        why = "its views must be plain sites"
    if why:
        raise BadInput(f"this dictionary cannot be a CLT of circuit-tracer: {why}.")
    return sizes


def _hook(views: tuple[View, ...]) -> str:
    """The hook that all views share behind their layer, empty where they name none. Raises `BadInput` where they differ."""
    hooks = {re.sub(rf"^blocks\.{layer}\.", "", view.site) for layer, view in enumerate(views)}
    if len(hooks) > 1:
        raise BadInput(
            f"circuit-tracer takes one kind of site for all layers; these views are of {sorted(view.site for view in views)}."
        )
    return hooks.pop()
