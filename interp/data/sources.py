"""Where texts come from: files and folders as (name, text), each with the rule that cut it into texts."""

import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from interp.core.errors import BadInput, hint, listing

from .reading import find_file, json_records, read_text

END_OF_TEXT = "<|endoftext|>"
RULES = ("auto", "whole", "line", "blank")

Named = Iterable[tuple[str, str]]


def read_texts(source: "str | Path", *, split: str, field: str, subset: str | None) -> tuple[Named, str]:
    """(name, text) of a file or folder, lazily, and the rule in words."""
    path = find_file(source)
    if path.is_dir():
        return _folder(path, split, field, subset)
    if path.suffix in (".jsonl", ".json"):
        return _json_texts(path, field), f"JSON records, field {field!r} (or plain strings)"
    return _text_file(path, split)


def _text_file(path: Path, split: str) -> tuple[Named, str]:
    parts, rule = split_text(read_text(path), split, str(path))
    return ((f"{path.stem}:{i}" if len(parts) > 1 else path.stem, part) for i, part in enumerate(parts)), rule


def split_text(text: str, split: str, what: str) -> tuple[list[str], str]:
    """A file's text as texts. Line ends around a separator do not belong to the texts."""
    if split == "":
        raise BadInput(f"`split` is empty. Use {listing(RULES)}, or the separator itself.")
    if split == "auto":
        split = END_OF_TEXT if END_OF_TEXT in text else "whole"
    if split == "whole":
        return [text], "one text a file"
    if split == "line":
        return [line for line in text.splitlines() if line.strip()], "one text a line"
    if split == "blank":
        return [part for part in re.split(r"\n[^\S\n]*\n\s*", text) if part.strip()], "texts between blank lines"
    if split not in text:
        raise BadInput(
            f"the separator {split!r} does not occur in {what}. `split` is {listing(RULES)}, or a separator.{hint(split, RULES)}"
        )
    return [part.strip("\r\n") for part in text.split(split) if part.strip()], f"texts between {split!r}"


def _json_texts(path: Path, field: str) -> Iterator[tuple[str, str]]:
    for number, (line, record) in enumerate(json_records(path)):
        text = record
        if isinstance(record, dict):
            if field not in record:
                have = listing(record) if record else "none"
                raise BadInput(f"{path}, line {line}: field {field!r} is missing; it has {have}. Pass field=...")
            text = record[field]
        if not isinstance(text, str):
            raise BadInput(f"{path}, line {line}: the text is {type(text).__name__} {str(text)[:60]!r}, not a string.")
        yield f"{path.stem}:{number}", text


def _folder(path: Path, split: str, field: str, subset: str | None) -> tuple[Named, str]:
    if (path / "dataset_dict.json").exists() or (path / "dataset_info.json").exists():
        return _datasets_folder(path, field, subset)
    files = sorted(path.glob("*.txt"))
    if not files:
        have = sorted(p.name for p in path.iterdir())[:12]
        raise BadInput(
            f"{path} holds no .txt file and is no `datasets` folder (save_to_disk); it has {listing(have) if have else 'nothing'}."
        )
    read = [_text_file(file, split) for file in files]
    rules = " / ".join(dict.fromkeys(rule for _, rule in read))
    return (item for named, _ in read for item in named), f"{len(files)} .txt files, {rules}"


def _datasets_folder(path: Path, field: str, subset: str | None) -> tuple[Named, str]:
    try:
        import datasets
    except ImportError:
        raise BadInput(f"{path} is a Hugging Face datasets folder; reading it needs `pip install datasets`.") from None
    try:
        data: Any = datasets.load_from_disk(str(path))
    except Exception as error:  # damage shows as any of a dozen types
        raise BadInput(f"{path} cannot be read as a Hugging Face datasets folder: {error}") from error
    if isinstance(data, datasets.DatasetDict):
        subset = next(iter(data)) if subset is None and len(data) == 1 else subset
        if subset not in data:
            raise BadInput(f"`subset` must be one of {listing(data)} of {path}; not {subset!r}.{hint(subset, data)}")
        data = data[subset]
    elif subset is not None:
        raise BadInput(f"{path} has no subsets; leave `subset` out instead of {subset!r}.")
    if field not in data.column_names:
        raise BadInput(
            f"{path} has no column {field!r}; it has {listing(data.column_names)}.{hint(field, data.column_names)}"
        )
    name = subset or path.name
    rows = enumerate(data.select_columns([field]))
    return ((f"{name}:{i}", row[field]) for i, row in rows), f"a datasets folder, column {field!r}"
