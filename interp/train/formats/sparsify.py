"""sparsify (EleutherAI): `sae.safetensors` beside `cfg.json`, in a folder called after the hookpoint. Read in commit 001d98e.

    SAE           k largest of relu((x - b_dec) W + b);   decoded by W_dec [latent, d], b_dec
    transcoder    the same without b_dec before the encoder, with another target, and W_skip x where it has a skip path

`groupmax` keeps one latent a group of neighbours, `signed` codes are not positive: both are refused. The folder name says which module was
read (`layers.5`); that of a residual stream becomes a site, others stay open: name them when reading.
"""

import re
from pathlib import Path

from ...core.dictionary import Dictionary, DictionaryConfig, View
from ...core.errors import BadInput
from .parts import dictionary_of, dtype_name, load_json, load_tensors, whole

NAME = "sparsify"
LOOKS_FOR = "cfg.json and sae.safetensors"
CONFIG, WEIGHTS = "cfg.json", "sae.safetensors"


def recognise(folder: Path) -> bool:
    """Whether a folder looks like one."""
    return (folder / CONFIG).is_file() and (folder / WEIGHTS).is_file()


def read(folder: Path) -> Dictionary:
    """Read a folder. Raises `BadInput` for rules that cannot be read exactly, and for weights that do not fit."""
    said, tensors = load_json(folder / CONFIG), load_tensors(folder / WEIGHTS)
    if said.get("activation", "topk") != "topk":
        raise BadInput(f"{tensors.where} has the activation {said['activation']!r}; only 'topk' can be read.")
    if said.get("signed"):
        raise BadInput(f"{tensors.where} has signed codes; codes here are positive.")
    for option in ("n_targets", "n_sources", "encoder_rank", "embed_skip"):
        if said.get(option):
            raise BadInput(
                f"{tensors.where} was made with {option}={said[option]!r}, of a fork whose layout is not read."
            )
    width = whole(said.get("d_in"), "d_in", tensors.where)
    latents = said.get("num_latents") or width * whole(said.get("expansion_factor"), "expansion_factor", tensors.where)
    latents = whole(latents, "num_latents", tensors.where)
    transcoder = bool(said.get("transcode"))
    encoder, b_enc = tensors.take("encoder.weight", (latents, width)), tensors.take("encoder.bias", (latents,))
    decoder, b_dec = tensors.take("W_dec", (latents, width)), tensors.take("b_dec", (width,))
    skip = tensors.take("W_skip", (width, width)) if said.get("skip_connection") else None
    tensors.done()
    reads = View("in", site="" if transcoder else _site(folder.name), width=width, model=_model(folder))
    writes = View("out", width=width, model=reads.model) if transcoder else reads
    shape = DictionaryConfig(
        latents=latents, reads=(reads,), writes=(writes,), activation="topk", k=whole(said.get("k"), "k", tensors.where), code_scale="none",
        centred=not transcoder, skip=skip is not None, family="transcoder" if transcoder else "sae", dtype=dtype_name([encoder, decoder]),
    )  # fmt: skip
    about = {"format": NAME, "hookpoint": folder.name}
    return dictionary_of(
        shape, encoders=[encoder], decoders=[decoder], b_enc=b_enc, biases=[b_dec], skip=skip, metadata=about
    )


def _site(hookpoint: str) -> str:
    """TransformerLens name of `layers.5`, `h.5` or `embed_tokens`; empty for others."""
    if hookpoint in ("embed_tokens", "wte"):
        return "hook_embed"
    found = re.fullmatch(r"(?:.*\.)?(?:layers|h)[._](\d+)", hookpoint)
    return f"blocks.{found[1]}.hook_resid_post" if found else ""


def _model(folder: Path) -> str:
    """The model of the run, which lies beside the hookpoints."""
    path = folder.parent / "config.json"
    return str(load_json(path).get("model") or "") if path.is_file() else ""
