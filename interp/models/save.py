"""A model as it is now, written as a Hugging Face folder: weight edits become a checkpoint.

    with lm.edit_weights({"W_out.3": new}):
        lm.save("runs/edited")
    interp.load("runs/edited")                    # or AutoModelForCausalLM.from_pretrained

Weights are safetensors in the model's own dtype; tied weights stay one tensor; the tokenizer adds a BOS where it did (`add_bos_token`).
Everything is written aside, read back as `interp.load` reads it and compared with the model bit for bit, and only then put in place.
So a folder either is the model or is not there, and a model that its architecture cannot hold (norms folded into biases that a
checkpoint of its family has no room for) is refused here rather than where it is loaded.
"""

import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from interp.core.errors import ArtifactError, BadInput, CheckpointError, InterpError

from .base import numbers_of, settings_of
from .checkpoint import Checkpoint, _quiet, load_module
from .generic import _gap, _limit, _rows
from .tokenizer import load_tokenizer
from .weights.edits import _same

if TYPE_CHECKING:
    from .base import BaseLM


def save(lm: "BaseLM", folder: "str | os.PathLike[str]", *, overwrite: bool = False) -> Path:
    """Write config, weights and tokenizer, as `LM.save`; gives the folder back.

    Raises `ArtifactError` where something is there already (with `overwrite`, where that is no model), `BadInput` for a model that does
    not come back as it is.
    """
    target = Path(folder).expanduser().resolve()
    _refuse_occupied(target, overwrite)
    target.parent.mkdir(parents=True, exist_ok=True)
    aside = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    try:
        _write(lm, aside)
        _compare(lm, aside)
        _put(aside, target)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return target


def _refuse_occupied(target: Path, overwrite: bool) -> None:
    if target.is_file():
        raise ArtifactError(f"{target.name!r} is a file. Give a folder to write the model into.")
    if not target.is_dir() or not any(target.iterdir()):
        return
    if not overwrite:
        raise ArtifactError(
            f"the folder {target.name!r} is not empty. Give another one, or overwrite=True to replace the model in it."
        )
    if not (target / "config.json").is_file():
        raise ArtifactError(
            f"the folder {target.name!r} holds something that is no model, which is not replaced. Give another one."
        )


def _write(lm: "BaseLM", aside: Path) -> None:
    module: Any = lm.module
    tokenizer: Any = lm.tokenizer
    try:
        with _quiet():
            module.save_pretrained(aside, safe_serialization=True)
    except (ValueError, RuntimeError) as error:
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise BadInput(f"transformers cannot save {lm.spec.name}: {reason[0][:300]}") from error
    tokenizer.fast.save_pretrained(aside)
    _ask_for_bos(aside / "tokenizer_config.json", tokenizer.default_bos)
    for path in aside.iterdir():
        path.chmod(0o644)
    aside.chmod(0o755)


def _ask_for_bos(file: Path, bos: bool) -> None:
    """Say what `load_tokenizer` reads: transformers does not write it for every class."""
    settings = json.loads(file.read_text(encoding="utf-8"))
    settings["add_bos_token"] = bos
    file.write_text(json.dumps(settings, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _compare(lm: "BaseLM", aside: Path) -> None:
    """Raise `BadInput` unless what was written loads as the very same model and tokenizer."""
    module: Any = lm.module
    name = lm.spec.name
    checkpoint = Checkpoint(name, aside)
    try:
        checkpoint.validate()
        again = load_module(checkpoint, next(module.parameters()).dtype, torch.device("cpu"))
    except CheckpointError as error:
        more = (
            " It was loaded with folded=True: save the model as it is without folding."
            if lm.spec.processing != "raw"
            else ""
        )
        raise BadInput(f"{name} cannot be written as a checkpoint of its family: {error}{more}") from error
    have, want = dict(numbers_of(again)), dict(numbers_of(module))
    if odd := sorted(set(have) ^ set(want)):
        raise BadInput(f"{name} has other weights when it is loaded again ({odd[0]}), so a checkpoint cannot hold it.")
    for key, tensor in want.items():
        if have[key].dtype != tensor.dtype or not _same(have[key].detach(), tensor.detach().cpu()):
            raise BadInput(
                f"{name}: {key} is not the same when it is loaded again, so a checkpoint cannot hold this model."
            )
    then, now = (json.loads(json.dumps(settings_of(one), default=str)) for one in (again, module))
    if odd := sorted(key for key in {*then, *now} if then.get(key) != now.get(key)):
        raise BadInput(
            f"{name}: its configuration is another one when it is loaded again ({odd[0]}: {now.get(odd[0])!r}, then "
            f"{then.get(odd[0])!r}), so a checkpoint cannot hold this model."
        )
    ids = _rows(module, "save")
    with torch.no_grad():
        was, will = (one(input_ids=ids.to(one.device), use_cache=False).logits.cpu() for one in (module, again))
    if not _gap(was, will) <= _limit(was):
        raise BadInput(
            f"{name} gives other logits when it is loaded again (by {_gap(was, will):.1e}), though its weights are the same: its modules "
            "are not those of its configuration, so a checkpoint cannot hold this model."
        )
    rows = again.get_input_embeddings().weight.shape[0]
    read = load_tokenizer(aside, name, rows=rows)
    own: Any = lm.tokenizer
    if read.digest != own.digest:
        raise InterpError(f"the tokenizer of {name} is another one when it is read again. Report this checkpoint.")


def _put(aside: Path, target: Path) -> None:
    """Put the written folder in place of what is there."""
    if not target.is_dir():
        aside.rename(target)
        return
    old = aside.with_name(aside.name + "-old")
    target.rename(old)
    try:
        aside.rename(target)
    except OSError:
        old.rename(target)
        raise
    shutil.rmtree(old)
