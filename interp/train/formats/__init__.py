"""Dictionaries of other libraries, read as ours; ours, written for them.

    from interp.train import formats
    formats.write(sae, "exported", "sae_lens")        # SAE.load_from_disk("exported") encodes the same
    formats.recognise("exported")                     # 'sae_lens': which library wrote it is read off its contents
    formats.read("exported", site="blocks.2.hook_resid_post")
    formats.FORMATS                                   # names, and what each looks for

`to_sae_lens(sae)` gives a SAELens object, for SAEBench and dashboards; `from_sae_lens(SAE.from_pretrained(...))` takes whatever its
loaders read (Gemma Scope, Llama Scope, ...).

A foreign file holds weights and, often, little about what they are for. So a reader takes every tensor by name and shape, and
refuses what it does not know, what is missing or not finite, and rules that a linear coder cannot express, by name. Where the file
does not say which model and site it belongs to, say so (`model=`, `site=`); without that the dictionary has no provenance, and whoever
applies it must know. Thresholds that were never set (-1 in dictionary_learning and crosscoder_learning) stay unset: such a dictionary
can be looked at, and refuses to encode until it is calibrated. Nothing is ever unpickled but tensors.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ...core.artifact import META
from ...core.dictionary import Dictionary, View
from ...core.errors import BadInput, one_of
from . import circuit_tracer, crosscoder_learning, dictionary_learning, gemma_scope, sae_lens, sparsify
from .sae_lens import code_units, from_sae_lens, to_sae_lens

__all__ = [
    "FORMATS",
    "WRITES",
    "code_units",
    "export",
    "from_sae_lens",
    "import_",
    "placed_by_view",
    "read",
    "recognise",
    "to_sae_lens",
    "write",
]

_READERS: dict[str, Any] = {
    module.NAME: module
    for module in (sae_lens, sparsify, dictionary_learning, gemma_scope, circuit_tracer, crosscoder_learning)
}
FORMATS: dict[str, str] = {
    "interp": f"{META} of a dictionary",
    **{name: module.LOOKS_FOR for name, module in _READERS.items()},
}
"""Names of formats, and what a folder of each holds."""
WRITES: tuple[str, ...] = tuple(name for name, module in _READERS.items() if hasattr(module, "write"))
"""Formats that dictionaries can be written in."""


def recognise(path: "str | Path") -> str:
    """The format of a folder, by what it holds. Raises `BadInput`, listing what was looked for."""
    folder = _folder(path)
    if (folder / META).is_file():
        return "interp"
    for name, module in _READERS.items():
        if module.recognise(folder):
            return name
    holds = sorted(entry.name for entry in folder.iterdir())
    looked = "\n".join(f"  {name}: {what}" for name, what in FORMATS.items())
    raise BadInput(
        f"{folder.name!r} is no dictionary that can be recognised; it holds {holds[:8]}{' ...' if len(holds) > 8 else ''}. "
        f"Looked for:\n{looked}\n"
        "Give the folder with these files, or say `format=`."
    )


def read(
    path: "str | Path",
    format: str = "auto",
    *,
    model: str = "",
    site: str = "",
    site_out: str = "",
    names: Sequence[str] = (),
    factor: float | None = None,
) -> Dictionary:
    """Read a dictionary, ours or another library's; `path` is its folder, or a file in it.

    `model` and `site` (of all views, where there are several; `site_out` for what a transcoder writes) name what the file does not
    say, or says otherwise; `names` are the views of a crosscoder, in order; `factor` is what rows of a SAELens folder were multiplied
    by. Raises `BadInput` for what cannot be read exactly.
    """
    folder = _folder(path)
    if format == "auto":
        format = recognise(folder)
    one_of("format", format, FORMATS)
    options: dict[str, Any] = {}
    if factor is not None:
        options["factor"] = factor
    if names:
        options["names"] = tuple(names)
    module = _READERS.get(format)
    takes = getattr(module, "TAKES", ())
    if odd := [name for name in options if name not in takes]:
        raise BadInput(f"a {format} folder has no use for {odd}; it takes {list(takes) or 'no options'}.")
    found: Dictionary = Dictionary.load(folder) if module is None else module.read(folder, **options)
    return _placed(found, model=model, site=site, site_out=site_out)


def write(dictionary: Dictionary, folder: "str | Path", format: str = "sae_lens", *, overwrite: bool = False) -> Path:
    """Write a dictionary in another library's format; returns the folder. Raises `BadInput` for what that library cannot hold."""
    one_of("format", format, WRITES)
    written: Path = _READERS[format].write(dictionary, Path(folder), overwrite=overwrite)
    return written


def export(dictionary: "str | Path | Dictionary", format: str, out: "str | Path", *, overwrite: bool = False) -> Path:
    """Write a saved dictionary (or one in another format) in another library's format; returns the folder."""
    return write(
        dictionary if isinstance(dictionary, Dictionary) else read(dictionary), out, format, overwrite=overwrite
    )


def import_(
    folder: "str | Path", out: "str | Path", *, format: str = "auto", overwrite: bool = False, **options: Any
) -> Dictionary:
    """Read a dictionary of another library and save it as ours; returns it. Options are those of `read`."""
    found = read(folder, format, **options)
    found.save(out, overwrite=overwrite)
    return found


def _folder(path: "str | Path") -> Path:
    folder = Path(path).expanduser()
    if folder.is_file():
        folder = folder.parent
    if not folder.is_dir():
        raise BadInput(f"there is no folder {str(path)!r}. Give the folder of a dictionary.")
    return folder


def placed_by_view(dictionary: Dictionary, models: Sequence[str]) -> Dictionary:
    """The same with a model for each view, in their order: that of a crosscoder of two models, say. Raises `BadInput` for another count."""
    views = [view.name for view in dictionary.config.views]
    if len(models) != len(views) or not all(models):
        raise BadInput(
            f"this dictionary has the views {views}, and {len(models)} models are named: {list(models)}. Name one for each view."
        )
    return _renamed(dictionary, {name: {"model": model} for name, model in zip(views, models, strict=True)})


def _placed(found: Dictionary, *, model: str, site: str, site_out: str) -> Dictionary:
    """With the model and site that the caller names."""
    shape = found.config
    read, written = ({view.name for view in side} for side in (shape.reads, shape.writes))
    if site_out and (len(written) > 1 or read == written):
        raise BadInput(
            "`site_out` is what a transcoder writes; this dictionary writes what it reads. Give `site` only."
        )
    if site and read != written and len(read) > 1:
        raise BadInput(
            f"`site` names one place; this dictionary has the views {[view.name for view in shape.views]}. Name the model only."
        )
    places = {view.name: site if view.name in read else site_out for view in shape.views}
    said = {name: {"model": model, "site": place} for name, place in places.items()}
    return _renamed(found, {name: {key: value for key, value in one.items() if value} for name, one in said.items()})


def _renamed(found: Dictionary, said: dict[str, dict[str, Any]]) -> Dictionary:
    """With other fields of its views. A fingerprint belongs to the model that was named before, and goes with it."""

    def view(old: View) -> View:
        new = said[old.name]
        return replace(old, **new | ({"fingerprint": ""} if new.get("model", old.model) != old.model else {}))

    shape = found.config
    found.config = replace(shape, reads=tuple(map(view, shape.reads)), writes=tuple(map(view, shape.writes)))
    return found
