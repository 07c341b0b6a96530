"""Gemma Scope: `params.npz` with W_enc, W_dec, b_enc, b_dec and a threshold a latent (Lieberum et al. 2024, arXiv 2408.05147).

A jumprelu SAE that does not subtract its decoder bias. The file says nothing about what was read; the path it was downloaded to does
(`gemma-scope-2b-pt-res/layer_20/width_16k/average_l0_71`). Where that does not speak either, name model and site when reading.
SAEs of the embedding were trained on rows that were not yet multiplied by sqrt(d): a scaling of 1/sqrt(d) is kept with them.
"""

import re
from pathlib import Path

import numpy as np
import torch

from ...core.dictionary import Dictionary, DictionaryConfig, Scaling, View
from ...core.errors import BadInput
from .parts import Tensors, dictionary_of, dtype_name, rows_of

NAME = "gemma_scope"
LOOKS_FOR = "params.npz"
WEIGHTS = "params.npz"
SITES = {"res": "hook_resid_post", "mlp": "hook_mlp_out", "att": "attn.hook_z"}


def recognise(folder: Path) -> bool:
    """Whether a folder looks like one."""
    return (folder / WEIGHTS).is_file()


def read(folder: Path) -> Dictionary:
    """Read a folder. Raises `BadInput` for arrays that are missing, of other shapes or not finite; nothing is unpickled."""
    where = f"{folder.name}/{WEIGHTS}"
    try:
        with np.load(folder / WEIGHTS, allow_pickle=False) as arrays:
            found = {_key(key): torch.from_numpy(np.ascontiguousarray(arrays[key])) for key in arrays.files}
    except (OSError, ValueError, TypeError, EOFError) as error:
        raise BadInput(f"{where} is no archive of plain arrays that can be read: {error}.") from None
    tensors = Tensors(found, where)
    encoder = rows_of(tensors.take("W_enc", (None, None)))
    latents, width = encoder.shape
    decoder = tensors.take("W_dec", (latents, None))
    b_enc, thresholds = tensors.take("b_enc", (latents,)), tensors.take("threshold", (latents,), infinite=True)
    b_dec = tensors.take("b_dec", (decoder.shape[1],))
    tensors.done()
    reads, writes, embedding = _views(folder, width, decoder.shape[1])
    shape = DictionaryConfig(
        latents=latents, reads=(reads,), writes=(writes,), activation="jumprelu", code_scale="none", centred=False, k=1.0,
        family="sae" if reads == writes else "transcoder", dtype=dtype_name([encoder, decoder]),
    )  # fmt: skip
    scaling = {"in": Scaling(torch.zeros(width), width**-0.5)} if embedding else None
    about = {"format": NAME, "folder": "/".join(_parts(folder))}
    return dictionary_of(
        shape, encoders=[encoder], decoders=[decoder], b_enc=b_enc, biases=[b_dec], thresholds=thresholds, scalings=scaling, metadata=about
    )  # fmt: skip


def _key(key: str) -> str:
    return f"W_{key[2:]}" if key.startswith("w_") else key


def _parts(folder: Path) -> tuple[str, ...]:
    """The part of the path that speaks, from the release on."""
    parts = folder.parts
    start = next((place for place, part in enumerate(parts) if "gemma-scope" in part), max(0, len(parts) - 1))
    return parts[start:]


def _views(folder: Path, d_in: int, d_out: int) -> tuple[View, View, bool]:
    parts = _parts(folder)
    release = re.search(r"gemma-scope-(\d+b)-(pt|it)-(\w+)", parts[0])
    layer = re.search(r"layer_(\d+)", "/".join(parts))
    model, kind = (f"gemma-2-{release[1]}{'-it' if release[2] == 'it' else ''}", release[3]) if release else ("", "")
    embedding = kind == "res" and any(part.startswith("embedding") for part in parts)
    site = "hook_embed" if embedding else f"blocks.{layer[1]}.{SITES[kind]}" if layer and kind in SITES else ""
    reads = View("in", site=site, width=d_in, model=model)
    if kind != "transcoders" and d_in == d_out:
        return reads, reads, embedding
    return reads, View("out", site=f"blocks.{layer[1]}.hook_mlp_out" if layer else "", width=d_out, model=model), False
