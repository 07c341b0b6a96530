"""Checkpoints: from a name or a folder to weights that are known to be whole.

A checkpoint that is cut short, lacks a shard, belongs to another configuration or holds NaN loads without a word in most
libraries (missing weights become random numbers, surplus layers are dropped) and gives wrong numbers later. Here it is looked at
before and after loading, and refused with what to do. Nothing in a checkpoint is ever executed or unpickled.

    checkpoint = resolve("org/model@step3000")     # a hub name, a folder, or an embedded name
    checkpoint.validate()                          # config and safetensors headers: milliseconds, no weights read
    module = load_module(checkpoint, torch.float32, "cpu")

The order of the checks is the order in which a reader would want to hear of the trouble: the folder, the configuration, the
family, the files, the bytes, the names, the numbers.
"""

import json
import logging
import os
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

from interp.core.errors import BadInput, CheckpointError, InterpError, hint, listing
from interp.core.spec import BYTES

from . import shards
from .families import refuse_config

EMBEDDED = ("atlas", "atlas-tuned")
"""Names of the reference checkpoints that come with the package."""

_WANTED = [
    "config.json", "generation_config.json", "model*.safetensors", "model.safetensors.index.json", "tokenizer*",
    "special_tokens_map.json", "added_tokens.json", "vocab.json", "merges.txt", "*.model",
]  # fmt: skip
_PICKLED = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")
_CONVERT = (
    "Pickled weights are never loaded, because unpickling runs code. If you trust their source, convert them once: "
    "`AutoModelForCausalLM.from_pretrained(path).save_pretrained(new_path)` writes safetensors."
)
_DEQUANTISE = (
    "Write them out once in bfloat16, which takes four times the space: `AutoModelForCausalLM.from_pretrained(path, "
    "quantization_config=Mxfp4Config(dequantize=True), dtype='bfloat16').save_pretrained(new_path)`, and load new_path."
)
_HARMLESS = re.compile(
    r"(rotary_emb\.inv_freq|\.attn\.(attention\.)?(bias|masked_bias)|attention\.(bias|masked_bias))$"
)
"""Buffers that older checkpoints carry and that transformers computes itself."""


@dataclass(frozen=True)
class Checkpoint:
    """A folder that holds a model, and what to call it."""

    name: str
    """What results are labelled with: the caller's words without any machine path."""
    folder: Path
    """Where the files are."""
    revision: str | None = None
    """Branch, tag or commit, for a model of the hub."""

    def config(self) -> dict[str, Any]:
        """The content of config.json. Raises `CheckpointError` where it is missing or invalid."""
        path = self.folder / "config.json"
        if not path.is_file():
            if (self.folder / "adapter_config.json").is_file():
                raise CheckpointError(
                    f"{self.name}: this is an adapter, not a model. Merge it into its base model, save that, and load the result."
                )
            raise CheckpointError(
                f"{self.name}: the folder has no config.json. Give the folder that `save_pretrained` wrote."
            )
        try:
            config = json.loads(path.read_text(encoding="utf-8"))
        except (UnicodeDecodeError, json.JSONDecodeError) as error:
            raise CheckpointError(f"{self.name}: config.json is not valid JSON ({error}). Fetch it again.") from None
        if not isinstance(config, dict) or "model_type" not in config:
            raise CheckpointError(f"{self.name}: config.json names no `model_type`. Fetch it again.")
        return config

    def validate(self) -> None:
        """Check the configuration and every header, without reading weights. Raises `CheckpointError` and its kin."""
        config = self.config()
        refuse_config(SimpleNamespace(**config))  # type: ignore[arg-type]
        if quantised := config.get("quantization_config"):
            method = quantised.get("quant_method") if isinstance(quantised, dict) else None
            advice = _DEQUANTISE if method == "mxfp4" else "Load the unquantised model."
            raise CheckpointError(
                f"{self.name}: its weights are quantised{f' ({method})' if method else ''}, and reading them needs code of their format. "
                + advice
            )
        files = self._weight_files()
        for file in files:
            shards.check(file, self.name)
            self._refuse_coded(file)
        index = self.folder / shards.INDEX
        if index.is_file() and files[0].name != shards.SINGLE:
            shards.check_index(index, self.name)

    def _refuse_coded(self, file: Path) -> None:
        """Integers and 8-bit numbers mean something only with the scales of their format, which transformers may not ask for."""
        odd = {key: dtype for key, dtype in shards.coded(file, self.name).items() if not _HARMLESS.search(key)}
        if odd:
            kinds = ", ".join(sorted(set(odd.values())))
            raise CheckpointError(
                f"{self.name}: {_some(sorted(odd))} stored as {kinds}, which is quantised, though config.json does not say how. Load the "
                "unquantised model, or write its real values out in float32 or bfloat16 with the tool that quantised it."
            )

    def _weight_files(self) -> list[Path]:
        single, index = self.folder / shards.SINGLE, self.folder / shards.INDEX
        if single.is_file():
            return [single]
        if index.is_file():
            return shards.indexed(index, self.name)
        if parts := sorted(self.folder.glob("model-*-of-*.safetensors")):
            raise CheckpointError(
                f"{self.name}: {len(parts)} shards but no {shards.INDEX} that says what is where. Copy that file too."
            )
        others = sorted(path.name for path in self.folder.glob("*.safetensors"))
        if others:
            raise CheckpointError(
                f"{self.name}: no {shards.SINGLE}, only {listing(others[:5])}. Rename the weights if they are in transformers' layout."
            )
        if pickled := sorted(path.name for kind in _PICKLED for path in self.folder.glob(kind)):
            raise CheckpointError(f"{self.name}: only pickled weights ({listing(pickled[:3])}). {_CONVERT}")
        if any(self.folder.glob("*.gguf")):
            raise CheckpointError(f"{self.name}: only GGUF weights. Fetch the safetensors of the same model.")
        raise CheckpointError(f"{self.name}: the folder has no weights. Expected {shards.SINGLE} beside config.json.")


def resolve(name_or_path: "str | os.PathLike[str]", revision: str | None = None, *, weights: bool = True) -> Checkpoint:
    """Find a checkpoint: an embedded name, an existing folder, or a hub name (`org/model`, `org/model@revision`).

    Hub names are fetched into the hub's own cache (configuration, tokenizer, safetensors; nothing else; without `weights`, only the
    configuration).
    """
    text = os.fspath(name_or_path)
    if not text.strip():
        raise BadInput("the model's name is empty. Give a hub name, a folder, or " + listing(EMBEDDED) + ".")
    path = Path(text).expanduser()
    if text in EMBEDDED and not path.is_dir():
        if revision:
            raise BadInput(f"{text!r} comes with the package and has no revisions. Drop `revision={revision!r}`.")
        return Checkpoint(text, _embedded(text))
    if path.is_dir():
        if revision:
            raise BadInput(f"{text!r} is a folder and has no revisions. Drop `revision={revision!r}`.")
        return Checkpoint(path.resolve().name, path.resolve())
    if path.is_file():
        raise CheckpointError(f"{text!r} is a file. Give the folder that holds it, with config.json and the tokenizer.")
    if path.is_absolute() or text.startswith((".", "~")) or text.count("/") > 1 or "\\" in text:
        raise CheckpointError(f"no such folder: {text!r}.{_similar(path)} Check the path.")
    name, _, tag = text.partition("@")
    if tag and revision and tag != revision:
        raise BadInput(f"{text!r} names revision {tag!r}, and `revision={revision!r}` another. Give one of them.")
    return _from_hub(name, tag or revision, _WANTED if weights else ["config.json"])


def _similar(path: Path) -> str:
    if not path.parent.is_dir():
        return ""
    near = get_close_matches(path.name, [child.name for child in path.parent.iterdir() if child.is_dir()], n=3)
    return f" Beside it: {listing(near)}." if near else ""


def _embedded(name: str) -> Path:
    try:
        from . import reference

        folder = Path(reference.path(name))
    except (ImportError, AttributeError):
        raise CheckpointError(f"{name!r} is not in this installation. Install the package again, whole.") from None
    if not folder.is_dir():
        raise CheckpointError(f"{name!r} is not in this installation. `interp reference train` builds it.")
    return folder


def _from_hub(name: str, revision: str | None, wanted: list[str]) -> Checkpoint:
    from huggingface_hub import errors, snapshot_download

    label = name + (f"@{revision}" if revision else "")
    local = f" There is no folder {name!r} here either.{hint(name, EMBEDDED)}"
    try:
        folder = snapshot_download(name, revision=revision, allow_patterns=wanted)
    except errors.HFValidationError:
        raise CheckpointError(f"{name!r} is neither a folder nor a model name (`model` or `org/model`).") from None
    except errors.GatedRepoError:
        raise CheckpointError(
            f"{label}: access must be requested on its hub page, then log in with `hf auth login`."
        ) from None
    except errors.RevisionNotFoundError:
        raise CheckpointError(f"{name!r} has no revision {revision!r}. Its hub page lists branches and tags.") from None
    except errors.RepositoryNotFoundError:
        raise CheckpointError(
            f"the hub has no public model {name!r}.{local} Check the spelling, or log in if it is private."
        ) from None
    except (errors.OfflineModeIsEnabled, errors.LocalEntryNotFoundError):
        raise CheckpointError(
            f"{label} is not in the local cache and the hub cannot be reached.{local} Go online once, or give a folder."
        ) from None
    except (OSError, errors.HfHubHTTPError) as error:
        raise CheckpointError(f"{label} could not be fetched ({type(error).__name__}: {error}). Try again.") from None
    return Checkpoint(name, Path(folder), revision)


def load_config(checkpoint: Checkpoint) -> Any:
    """The transformers configuration of a checkpoint. Raises `CheckpointError` or `UnsupportedArchitecture`."""
    from transformers import AutoConfig

    checkpoint.config()
    try:
        config = AutoConfig.from_pretrained(checkpoint.folder, trust_remote_code=False, local_files_only=True)
        refuse_config(config)
    except InterpError:
        raise
    except Exception as error:  # every family validates in its own way
        refuse_config(SimpleNamespace(**checkpoint.config()))  # type: ignore[arg-type]
        raise CheckpointError(f"{checkpoint.name}: transformers refuses config.json ({_first_line(error)}).") from None
    return config


def load_module(checkpoint: Checkpoint, dtype: torch.dtype, device: torch.device) -> Any:
    """The plain transformers model of a checkpoint, in eval mode, every weight accounted for and finite.

    Raises `CheckpointError` for missing, surplus, misshapen or non-finite weights, which transformers lets pass.
    """
    from transformers import AutoModelForCausalLM

    config = load_config(checkpoint)
    options: dict[str, Any] = {"trust_remote_code": False, "local_files_only": True}
    try:
        with _quiet():
            loaded: Any = AutoModelForCausalLM.from_pretrained(
                checkpoint.folder, config=config, dtype=dtype, use_safetensors=True, output_loading_info=True, **options
            )
    except (RuntimeError, ValueError, OSError, KeyError, TypeError, AttributeError) as error:
        if "out of memory" in str(error).lower():
            raise
        raise CheckpointError(
            f"{checkpoint.name}: the weights do not fit config.json ({_first_line(error)}). Take both from the same save."
        ) from None
    module, report = loaded
    _account(checkpoint.name, report)
    check_finite(module, checkpoint.name)
    try:
        module = module.to(device)
    except torch.OutOfMemoryError:
        size = sum(p.numel() * p.element_size() for p in module.parameters()) / 1e9
        raise BadInput(
            f"{checkpoint.name} needs {size:.1f} GB for its weights and {device} has less free. Use device='cpu' or a smaller dtype."
        ) from None
    return module.eval().requires_grad_(False)


def _account(name: str, report: dict[str, Any]) -> None:
    """Refuse a checkpoint whose tensors are not exactly the model's."""
    misshapen = sorted(
        str(entry[0] if isinstance(entry, tuple) else entry) for entry in report.get("mismatched_keys", ())
    )
    missing = sorted(report.get("missing_keys", ()))
    surplus = sorted(key for key in report.get("unexpected_keys", ()) if not _HARMLESS.search(key))
    if misshapen:
        raise CheckpointError(
            f"{name}: {_some(misshapen)} of another shape than config.json says. Take both from the same save."
        )
    if missing:
        raise CheckpointError(
            f"{name}: {_some(missing)} missing; they would be random numbers. Save the model again, whole."
        )
    if surplus:
        raise CheckpointError(
            f"{name}: {_some(surplus)} that this configuration would drop. Check config.json (layers, heads, class)."
        )


def _some(keys: list[str]) -> str:
    shown = ", ".join(keys[:3]) + (", …" if len(keys) > 3 else "")
    return f"{len(keys)} weight{'s' if len(keys) > 1 else ''} ({shown})"


def check_finite(module: torch.nn.Module, name: str) -> None:
    """Raise `CheckpointError` naming the first parameter with NaN or infinite values."""
    for key, parameter in module.named_parameters():
        low, high = torch.aminmax(parameter.detach())  # NaN propagates; no copy of the weights is made
        if not bool(torch.isfinite(low) & torch.isfinite(high)):
            bad = int((~torch.isfinite(parameter.detach())).sum())
            raise CheckpointError(
                f"{name}: {key} holds {bad} NaN or infinite values of {parameter.numel()}. Training diverged, or the file "
                "is damaged: take an earlier checkpoint or another dtype."
            )


def stored_dtype(checkpoint: Checkpoint) -> torch.dtype:
    """The dtype that the checkpoint was saved in: config.json's word, else that of its first floating-point tensor."""
    config = checkpoint.config()
    word = str(config.get("dtype") or config.get("torch_dtype") or "").removeprefix("torch.")
    if word not in BYTES:
        word = shards.dtype_of(checkpoint._weight_files()[0], checkpoint.name)
    return getattr(torch, word)


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[0] if lines else type(error).__name__)[:300]


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence transformers' load report and progress bar: what they would say is checked here and raised."""
    from transformers.utils import logging as hf

    bars, level = hf.is_progress_bar_enabled(), hf.get_verbosity()
    hf.disable_progress_bar()
    hf.set_verbosity(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        hf.set_verbosity(level)
        if bars:
            hf.enable_progress_bar()
