"""SAELens: folders with `cfg.json` and `sae_weights.safetensors`, and its SAE objects, in both directions. Read in version 6.54.12.

    from interp.train import formats
    formats.write(sae, "exported", "sae_lens")        # SAE.load_from_disk("exported") encodes and decodes the same
    formats.read("exported")
    formats.code_units(sae)                           # what its codes there are multiples of: 1 [latent]

Read: standard, topk, jumprelu, gated, transcoder, skip_transcoder, jumprelu_transcoder, jumprelu_skip_transcoder; of training
checkpoints also batchtopk and matryoshka_batchtopk (both are saved as jumprelu once trained). A gated SAE opens latent j where
x·w_j + b_gate > 0 and gives relu(e^r x·w_j + b_mag). Multiply the gate by e^r > 0 and add b_mag - e^r b_gate on both sides: it opens
where e^r x·w_j + b_mag exceeds b_mag - e^r b_gate. That is a jumprelu with encoder e^r w, bias b_mag and this threshold, exactly.

`rescale_acts_by_decoder_norm` (topk) multiplies pre-activations by the norms of the decoder rows, and codes stay multiplied. Read,
these norms are moved into the encoder, so codes are SAELens'. Written, a topk dictionary whose latents compete by code times norm gets
rows of length 1 for the same reason: its codes there are ours times `code_units`. All other codes are the same.

Normalisation: `none`; `expected_average_only_in`, where the factor lies beside (`activation_scaler.json`, of a checkpoint) or is
given; `covariance_whitening`, where its matrices lie beside. Without them SAELens would encode rows of the wrong size without a word;
here that is refused. `layer_norm` and `constant_norm_rescale` divide each row by a number of its own, which no linear coder does:
refused.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import torch
from safetensors.torch import save_file
from torch import Tensor

from ...core.dictionary import Dictionary, DictionaryConfig, Scaling, View
from ...core.errors import BadInput, listing
from .parts import Tensors, dictionary_of, dtype_name, load_json, load_tensors, rows_of, unit_rows, whole
from .writing import aside, write_json

NAME = "sae_lens"
TAKES = ("factor",)
LOOKS_FOR = "cfg.json and sae_weights.safetensors"
CONFIG, WEIGHTS = "cfg.json", "sae_weights.safetensors"
SCALER, WHITENING = "activation_scaler.json", "activation_whitening.safetensors"
VERSION = "6.54.12"
TRANSCODERS = ("transcoder", "skip_transcoder", "jumprelu_transcoder", "jumprelu_skip_transcoder")
READS = ("standard", "topk", "jumprelu", "gated", "batchtopk", "matryoshka_batchtopk", *TRANSCODERS)
REFUSED = {
    "temporal": "its codes depend on earlier tokens, and a dictionary encodes each row alone",
    "matching_pursuit": "it encodes by repeated projection, not by one linear step",
    "abstopk": "its codes are signed, and codes here are positive",
}


@dataclass(frozen=True)
class Described:
    """What `cfg.json` says, old or new style, under one set of names."""

    architecture: str
    d_in: int
    d_sae: int
    d_out: int
    k: float
    rescale: bool
    centred: bool
    normalise: str
    nested: tuple[int, ...]
    about: dict[str, Any]


def recognise(folder: Path) -> bool:
    """Whether a folder looks like one."""
    return (folder / CONFIG).is_file() and (folder / WEIGHTS).is_file()


def read(folder: Path, *, factor: float | None = None) -> Dictionary:
    """Read a SAELens folder. `factor` is what rows were multiplied by in training, where the folder does not know it.

    Raises `BadInput` for an architecture or normalisation that cannot be read exactly, and for damaged weights.
    """
    config = load_json(folder / CONFIG)
    scaler = load_json(folder / SCALER) if (folder / SCALER).is_file() else {}
    whitening = load_tensors(folder / WHITENING) if (folder / WHITENING).is_file() else None
    tensors = load_tensors(folder / WEIGHTS)
    return convert(config, tensors, factor=factor or scaler.get("scaling_factor"), whitening=whitening)


def from_sae_lens(sae: Any, *, factor: float | None = None) -> Dictionary:
    """Of a SAELens SAE object (also one in training), whatever loader it came from. Raises as `read` does."""
    if not hasattr(sae, "state_dict") or not hasattr(getattr(sae, "cfg", None), "to_dict"):
        raise BadInput(
            f"from_sae_lens takes a SAELens SAE object; not a {type(sae).__name__}. For a folder use `read`."
        )
    state = {name: value.detach().cpu() for name, value in sae.state_dict().items()}
    return convert(dict(sae.cfg.to_dict()), Tensors(state, "the SAE object"), factor=factor)


def convert(
    config: Mapping[str, Any], tensors: Tensors, *, factor: float | None = None, whitening: Tensors | None = None
) -> Dictionary:
    """A configuration and a state dict of SAELens as a dictionary."""
    said = describe(config, tensors.where)
    encoder, b_enc, thresholds, threshold = _encoder(said, tensors)
    decoder, b_dec = tensors.take("W_dec", (said.d_sae, said.d_out)), tensors.take("b_dec", (said.d_out,))
    skip = tensors.take("W_skip", (said.d_out, said.d_in)) if "skip" in said.architecture else None
    if "scaling_factor" in tensors and not bool((tensors.take("scaling_factor", (said.d_sae,)) == 1).all()):
        raise BadInput(
            f"{tensors.where} has a finetuning scaling factor that is not 1, which SAELens dropped in version 6. Fold it into W_dec."
        )
    tensors.done()
    if said.rescale:
        encoder, b_enc, decoder, _ = unit_rows(encoder, b_enc, decoder)
    scaling = Scaling.none(said.d_in)
    if said.normalise == "covariance_whitening":
        encoder, b_enc, decoder, b_dec = _unwhitened(said, (encoder, b_enc, decoder, b_dec), whitening)
    elif said.normalise == "expected_average_only_in" and said.architecture not in TRANSCODERS:
        scaling = Scaling(torch.zeros(said.d_in), _factor(factor, tensors.where))
    activation = {"standard": "relu", "transcoder": "relu", "skip_transcoder": "relu", "topk": "topk"}.get(
        said.architecture, "jumprelu"
    )
    if said.architecture in ("batchtopk", "matryoshka_batchtopk"):
        activation = "batchtopk"
    reads, writes, family = _views(said)
    shape = DictionaryConfig(
        latents=said.d_sae, reads=(reads,), writes=(writes,), activation=activation, k=said.k, code_scale="none", centred=said.centred,
        skip=skip is not None, family=family, nested=said.nested, dtype=dtype_name([encoder, decoder]),
    )  # fmt: skip
    return dictionary_of(
        shape, encoders=[encoder], decoders=[decoder], b_enc=b_enc, biases=[b_dec], thresholds=thresholds, threshold=threshold,
        skip=skip, scalings={reads.name: scaling}, metadata=said.about,
    )  # fmt: skip


def describe(config: Mapping[str, Any], where: str) -> Described:
    """What a configuration says. Folders of before version 6 keep everything at the top and call things otherwise."""
    old = "metadata" not in config
    about = dict(config if old else config["metadata"] or {})
    architecture = str(config.get("architecture", "standard"))
    activation = config.get("activation_fn", config.get("activation_fn_str", "relu"))
    options = config.get("activation_fn_kwargs") or {}
    if old and activation == "topk":
        architecture = "topk"
    elif old and activation != "relu":
        raise BadInput(f"{where} has the activation {activation!r}; only relu and topk can be read.")
    if architecture in REFUSED:
        raise BadInput(
            f"{where} is a {architecture!r} SAE, which cannot be a dictionary here: {REFUSED[architecture]}."
        )
    if architecture not in READS:
        raise BadInput(f"{where} has the architecture {architecture!r}; can be read: {listing(READS)}.")
    if about.get("hook_head_index") is not None:
        raise BadInput(f"{where} reads head {about['hook_head_index']} alone; a view here is a whole site.")
    transcoder = architecture in TRANSCODERS
    normalise = config.get("normalize_activations", "none")
    normalise = {True: "expected_average_only_in", False: "none", None: "none"}.get(normalise, normalise)
    if normalise in ("layer_norm", "constant_norm_rescale"):
        raise BadInput(
            f"{where} normalises by {normalise!r}: each row is divided by a number of its own, which a linear coder cannot do. Normalise "
            "rows yourself and set it to 'none'."
        )
    if normalise not in ("none", "expected_average_only_in", "covariance_whitening"):
        raise BadInput(
            f"{where} normalises by {normalise!r}, which is unknown; can be read: none, expected_average_only_in, covariance_whitening."
        )
    d_in, d_sae = whole(config.get("d_in"), "d_in", where), whole(config.get("d_sae"), "d_sae", where)
    k = options.get("k", config.get("k", 1.0)) if architecture in ("topk", "batchtopk", "matryoshka_batchtopk") else 1.0
    training = architecture in ("batchtopk", "matryoshka_batchtopk")
    return Described(
        architecture, d_in, d_sae, whole(config.get("d_out"), "d_out", where) if transcoder else d_in, float(k),
        bool(config.get("rescale_acts_by_decoder_norm", training)), bool(config.get("apply_b_dec_to_input", not transcoder)),
        str(normalise), tuple(config.get("matryoshka_widths") or ()) if architecture.startswith("matryoshka") else (),
        _about(about, architecture, config),
    )  # fmt: skip


def _about(about: Mapping[str, Any], architecture: str, config: Mapping[str, Any]) -> dict[str, Any]:
    site = about.get("hook_name") or about.get("hook_point") or ""
    return {
        "format": NAME, "architecture": architecture, "model": about.get("model_name") or "", "site": site,
        "site_out": about.get("hook_name_out") or "", "context_size": about.get("context_size"), "bos": about.get("prepend_bos"),
        "reshape": config.get("reshape_activations") or "none", "version": about.get("sae_lens_version"),
    }  # fmt: skip


def _encoder(said: Described, tensors: Tensors) -> tuple[Tensor, Tensor, Tensor | None, float | None]:
    """Encoder rows [latent, d], biases, thresholds a latent (jumprelu) and one threshold (batchtopk)."""
    encoder = rows_of(tensors.take("W_enc", (said.d_in, said.d_sae)))
    if said.architecture == "gated":
        gate, bias, log_scale = (tensors.take(name, (said.d_sae,)).double() for name in ("b_gate", "b_mag", "r_mag"))
        scale = log_scale.exp()
        return (
            (encoder.double() * scale[:, None]).to(encoder),
            bias.to(encoder),
            (bias - scale * gate).to(encoder),
            None,
        )
    b_enc = tensors.take("b_enc", (said.d_sae,))
    if "jumprelu" in said.architecture:
        name = "log_threshold" if "log_threshold" in tensors else "threshold"
        found = tensors.take(name, (said.d_sae,), infinite=True)
        return encoder, b_enc, found.exp() if name == "log_threshold" else found, None
    if said.architecture in ("batchtopk", "matryoshka_batchtopk"):
        cut = tensors.number("topk_threshold")
        return encoder, b_enc, None, cut if cut > 0 else None
    return encoder, b_enc, None, None


def _factor(factor: float | None, where: str) -> float:
    if factor is None:
        raise BadInput(
            f"{where} was trained on rows scaled to a mean norm of sqrt(d) (expected_average_only_in), and the factor is not stored beside "
            "it. Give `factor=` (sqrt(d) over the mean norm of the rows); factor=1 takes rows as they are, as SAELens does."
        )
    if not (isinstance(factor, (int, float)) and math.isfinite(factor) and factor > 0):
        raise BadInput(f"`factor` must be a number above 0; not {factor!r}.")
    return float(factor)


def _unwhitened(
    said: Described, weights: tuple[Tensor, ...], stored: Tensors | None
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Fold z = (x - mean) M, x̂ = ẑ M⁻¹ + mean into (encoder, b_enc, decoder, b_dec), in float64."""
    if stored is None:
        raise BadInput(
            f"its rows were whitened in training, and {WHITENING} is not beside it. Read the checkpoint folder, or fold it in SAELens."
        )
    width = said.d_in
    mean, matrix = stored.take("mean", (width,)).double(), stored.take("matrix", (width, width)).double()
    back = stored.take("inverse_matrix", (width, width)).double()
    encoder, b_enc, decoder, b_dec = weights
    rows = encoder.double() @ matrix.mT
    shift = b_enc.double() if said.centred else b_enc.double() - rows @ mean
    return (
        rows.to(encoder),
        shift.to(encoder),
        (decoder.double() @ back).to(encoder),
        (b_dec.double() @ back + mean).to(encoder),
    )


def _views(said: Described) -> tuple[View, View, str]:
    site, model = said.about["site"], said.about["model"]
    reads = View("in", site=site, width=said.d_in, model=model)
    if said.architecture not in TRANSCODERS:
        return reads, reads, "sae"
    return reads, View("out", site=said.about["site_out"], width=said.d_out, model=model), "transcoder"


# --- writing -------------------------------------------------------------------------------------------------------------------------


def write(dictionary: Dictionary, folder: Path, *, overwrite: bool = False) -> Path:
    """Write a folder that `SAE.load_from_disk` reads; returns it. Scalings are folded; batchtopk becomes a jumprelu.

    Raises `BadInput` for what SAELens has no architecture for: several views, differences, transcoders with topk, decoupled codes.
    """
    config, state = described(dictionary)
    with aside(folder, overwrite=overwrite, replaces=(CONFIG, WEIGHTS)) as place:
        save_file(state, place / WEIGHTS)
        write_json(place / CONFIG, config)
    return folder


def to_sae_lens(dictionary: Dictionary, *, device: str = "cpu") -> Any:
    """The same as a SAELens SAE object. Raises as `write` does, and `BadInput` where SAELens is not installed."""
    library = library_of()
    config, state = described(dictionary)
    sae = library.SAE.from_dict({**config, "device": device})
    sae.load_state_dict(state)
    return sae


def library_of() -> Any:
    """The module `sae_lens`. Raises `BadInput` where it is not installed."""
    try:
        import sae_lens
    except ImportError:
        raise BadInput("SAELens is not installed here. Install it: `pip install sae-lens`.") from None
    return sae_lens


def code_units(dictionary: Dictionary) -> Tensor:
    """What exported codes are multiples of [latent]: 1, but for a topk dictionary whose latents compete by their decoder norms, and there
    these norms (in raw units)."""
    if dictionary.config.activation != "topk" or dictionary.config.code_scale == "none":
        return torch.ones(dictionary.latents)
    return dictionary.folded().scale().float().cpu()


def described(dictionary: Dictionary) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Configuration and tensors as SAELens keeps them."""
    shape = dictionary.config
    if len(shape.reads) > 1 or len(shape.writes) > 1:
        _refuse(f"it has the views {[view.name for view in shape.views]}, and an SAE there has one")
    reads, writes = shape.reads[0], shape.writes[0]
    transcoder = reads.name != writes.name or shape.skip
    for view in (reads, writes):
        if view.minus or view.offset:
            _refuse(
                f"the view {view.name!r} is a difference or an offset, and SAELens would read {view.site!r} as it is"
            )
    if transcoder and shape.activation == "topk":
        _refuse("it is a transcoder with topk, and SAELens has transcoders with relu and jumprelu")
    raw = dictionary.folded()
    encoder, decoder, b_enc, b_dec = raw.encoders[0].data, raw.decoders[0].data, raw.b_enc.data, raw.biases[0].data
    competes = raw.config.activation == "topk" and raw.config.code_scale != "none"
    if competes:
        encoder, b_enc, decoder, _ = unit_rows(encoder, b_enc, decoder)
    if transcoder and raw.config.centred:
        b_enc = b_enc - encoder @ b_dec
    state = {"W_enc": encoder.mT, "W_dec": decoder, "b_enc": b_enc, "b_dec": b_dec}
    if raw.config.activation == "jumprelu":
        state["threshold"] = raw.thresholds.data.nan_to_num(nan=math.inf, posinf=math.inf)
    if shape.skip:
        state["W_skip"] = raw.skip_weight.data
    state = {name: tensor.detach().cpu().float().contiguous().clone() for name, tensor in state.items()}
    rescaled = competes and bool(
        (decoder != 0).any(dim=1).all()
    )  # SAELens divides by the norms: one of 0 makes every row NaN
    config = _config(dictionary, _architecture(raw, transcoder), rescaled)
    return config, state


def _architecture(raw: Dictionary, transcoder: bool) -> str:
    kind = {"relu": "standard", "jumprelu": "jumprelu", "topk": "topk"}[raw.config.activation]
    if not transcoder:
        return kind
    middle = "skip_" if raw.config.skip else ""
    return ("jumprelu_" if kind == "jumprelu" else "") + middle + "transcoder"


def _config(dictionary: Dictionary, architecture: str, rescaled: bool) -> dict[str, Any]:
    shape, about = dictionary.config, dictionary.metadata
    reads, writes = shape.reads[0], shape.writes[0]
    metadata: dict[str, Any] = {
        "sae_lens_version": VERSION, "sae_lens_training_version": None, "model_name": reads.model or None,
        "hook_name": reads.site or None, "hook_head_index": None,
        "context_size": about.get("context_size"), "prepend_bos": about.get("bos"), "model_from_pretrained_kwargs": {},
        "interp_digest": dictionary.digest,
    }  # fmt: skip
    config: dict[str, Any] = {
        "architecture": architecture, "d_in": reads.width, "d_sae": shape.latents, "dtype": "float32", "device": "cpu",
        "apply_b_dec_to_input": shape.centred and architecture not in TRANSCODERS, "normalize_activations": "none",
        "reshape_activations": "hook_z" if reads.site.endswith("hook_z") and architecture not in TRANSCODERS else "none",
        "metadata": metadata,
    }  # fmt: skip
    if architecture == "topk":
        config |= {"k": int(shape.k), "rescale_acts_by_decoder_norm": rescaled}
    if architecture in TRANSCODERS:
        config["d_out"] = writes.width
        metadata["hook_name_out"] = writes.site or None
    return config


def _refuse(why: str) -> NoReturn:
    raise BadInput(f"this dictionary cannot be a SAELens folder: {why}. Keep it as a folder of interp (`save`).")
