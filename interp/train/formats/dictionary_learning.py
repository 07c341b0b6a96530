"""dictionary_learning (saprmarks and forks): `ae.pt`, a state dict, beside `config.json`. Read in commits 088e587, 5ebe376, 0ff8888.

    class                     rule                                        keys
    AutoEncoder               relu((x - bias) W + b)                      encoder.*, decoder.weight, bias
    AutoEncoderNew            relu(x W + b)                               encoder.*, decoder.*
    AutoEncoderTopK           k largest                                   encoder.*, decoder.weight, b_dec, k
    BatchTopKSAE              above one threshold                         the same and threshold
    MatryoshkaBatchTopKSAE    above one threshold                         W_enc, b_enc, W_dec, b_dec, k, threshold, group_sizes
    JumpReluAutoEncoder       above a threshold a latent                  W_enc, b_enc, W_dec, b_dec, threshold
    GatedAutoEncoder          relu(e^r x W + b_mag) if x W + b_gate > 0   *coder.weight, decoder_bias, r_mag, gate_bias, mag_bias

The last two give codes multiplied by the norms of their decoder rows; here these norms are moved into the encoder, so codes are theirs.
A threshold of -1 was never set: the dictionary is read, and refuses to encode until it is calibrated. `ae.pt` is read as tensors alone.
"""

from pathlib import Path
from typing import Any

from torch import Tensor

from ...core.dictionary import Dictionary, DictionaryConfig, View
from ...core.errors import BadInput, listing
from .parts import Tensors, dictionary_of, dtype_name, load_json, load_pickle, rows_of, unit_rows, whole

NAME = "dictionary_learning"
LOOKS_FOR = "ae.pt (and config.json)"
WEIGHTS, CONFIG = "ae.pt", "config.json"
CLASSES = (
    "AutoEncoder", "AutoEncoderNew", "AutoEncoderTopK", "BatchTopKSAE", "MatryoshkaBatchTopKSAE", "JumpReluAutoEncoder", "GatedAutoEncoder",
)  # fmt: skip
SITES = {
    "resid_post": "hook_resid_post",
    "mlp_out": "hook_mlp_out",
    "attention_out": "hook_attn_out",
    "attn_out": "hook_attn_out",
}


def recognise(folder: Path) -> bool:
    """Whether a folder looks like one."""
    return (folder / WEIGHTS).is_file()


def read(folder: Path) -> Dictionary:
    """Read a folder. Raises `BadInput` for a class that is not known, or weights that do not fit it."""
    tensors = load_pickle(folder / WEIGHTS)
    said = load_json(folder / CONFIG) if (folder / CONFIG).is_file() else {}
    trainer: dict[str, Any] = said.get("trainer") or {}
    kind = str(trainer.get("dict_class") or _guess(tensors))
    if kind not in CLASSES:
        raise BadInput(f"{tensors.where} is a {kind!r}; can be read: {listing(CLASSES)}.")
    weights, rule = _weights(tensors, kind)
    tensors.done()
    encoder, b_enc, decoder, b_dec, thresholds = weights
    for name, size in (("activation_dim", encoder.shape[1]), ("dict_size", encoder.shape[0])):
        if trainer.get(name, size) != size:
            raise BadInput(
                f"{tensors.where} has {name} {size}, and {CONFIG} says {trainer[name]}. They belong to different dictionaries."
            )
    view = View("in", site=_site(trainer), width=encoder.shape[1], model=str(trainer.get("lm_name") or ""))
    shape = DictionaryConfig(
        latents=encoder.shape[0], reads=(view,), writes=(view,), activation=rule["activation"], k=rule.get("k", 1.0), code_scale="none",
        nested=rule.get("nested", ()), centred=rule["centred"], dtype=dtype_name([encoder, decoder]),
    )  # fmt: skip
    about = {"format": NAME, "class": kind, "context_size": (said.get("buffer") or {}).get("ctx_len")}
    return dictionary_of(
        shape, encoders=[encoder], decoders=[decoder], b_enc=b_enc, biases=[b_dec], thresholds=thresholds,
        threshold=rule.get("threshold"), metadata=about,
    )  # fmt: skip


def _guess(tensors: Tensors) -> str:
    """The class, where only the weights are there. Raises `BadInput` where two classes have the same tensors."""
    if "group_sizes" in tensors:
        return "MatryoshkaBatchTopKSAE"
    if "r_mag" in tensors:
        return "GatedAutoEncoder"
    if "W_enc" in tensors:
        return "JumpReluAutoEncoder"
    if "k" in tensors:
        raise BadInput(
            f"{tensors.where} may be an AutoEncoderTopK or a BatchTopKSAE: {CONFIG}, which says so, is not beside it."
        )
    return "AutoEncoder" if "bias" in tensors else "AutoEncoderNew"


def _weights(
    tensors: Tensors, kind: str
) -> tuple[tuple[Tensor, Tensor, Tensor, Tensor, "Tensor | None"], dict[str, Any]]:
    """(encoder rows, b_enc, decoder rows, b_dec, thresholds) and the rule."""
    if kind in ("MatryoshkaBatchTopKSAE", "JumpReluAutoEncoder"):
        encoder = rows_of(tensors.take("W_enc", (None, None)))
        latents, width = encoder.shape
        decoder, b_dec = tensors.take("W_dec", (latents, width)), tensors.take("b_dec", (width,))
        b_enc = tensors.take("b_enc", (latents,))
        if kind == "MatryoshkaBatchTopKSAE":
            sizes = [int(size) for size in tensors.take("group_sizes", (None,))]
            nested = tuple(sum(sizes[: place + 1]) for place in range(len(sizes)))
            return (encoder, b_enc, decoder, b_dec, None), {**_one_threshold(tensors), "nested": nested}
        found = tensors.take("threshold", (latents,), infinite=True)
        encoder, b_enc, decoder, thresholds = unit_rows(encoder, b_enc, decoder, found)
        return (encoder, b_enc, decoder, b_dec, thresholds), {"activation": "jumprelu", "centred": False}
    encoder = tensors.take("encoder.weight", (None, None))
    latents, width = encoder.shape
    decoder = rows_of(tensors.take("decoder.weight", (width, latents)))
    if kind == "GatedAutoEncoder":
        gate, bias, log_scale = (tensors.take(name, (latents,)).double() for name in ("gate_bias", "mag_bias", "r_mag"))
        rows, shift, level = encoder.double() * log_scale.exp()[:, None], bias, bias - log_scale.exp() * gate
        rows, shift, unit, raised = unit_rows(rows, shift, decoder.double(), level)
        assert raised is not None
        made = tuple(part.to(encoder) for part in (rows, shift, unit, tensors.take("decoder_bias", (width,)), raised))
        return (made[0], made[1], made[2], made[3], made[4]), {"activation": "jumprelu", "centred": True}
    b_enc = tensors.take("encoder.bias", (latents,))
    if kind == "AutoEncoder":
        return (encoder, b_enc, decoder, tensors.take("bias", (width,)), None), {"activation": "relu", "centred": True}
    if kind == "AutoEncoderNew":
        return (encoder, b_enc, decoder, tensors.take("decoder.bias", (width,)), None), {
            "activation": "relu",
            "centred": False,
        }
    b_dec = tensors.take("b_dec", (width,))
    if kind == "BatchTopKSAE":
        return (encoder, b_enc, decoder, b_dec, None), _one_threshold(tensors)
    tensors.ignore("threshold")  # AutoEncoderTopK keeps one, but encodes by the k largest
    k = whole(tensors.number("k"), "k", tensors.where)
    return (encoder, b_enc, decoder, b_dec, None), {"activation": "topk", "k": k, "centred": True}


def _one_threshold(tensors: Tensors) -> dict[str, Any]:
    cut, k = tensors.number("threshold"), whole(tensors.number("k"), "k", tensors.where)
    return {"activation": "batchtopk", "k": k, "threshold": cut if cut >= 0 else None, "centred": True}


def _site(trainer: dict[str, Any]) -> str:
    """TransformerLens name of the site, empty where the configuration does not say it in a known word."""
    layer, said = trainer.get("layer"), str(trainer.get("submodule_name") or "resid_post")
    found = next((name for word, name in SITES.items() if said.startswith(word)), None)
    return f"blocks.{layer}.{found}" if found and isinstance(layer, int) else ""
