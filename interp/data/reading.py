"""Files as texts and records, with the place of everything that is wrong in them: file, line, byte.

Nothing here knows what the texts are for. UTF-8 only (a byte-order mark is skipped); NUL bytes mean that the file is no text at all.
JSON comes as one record a line (JSONL) or as one list; both report line numbers.

    for line, record in json_records(Path("facts.jsonl")): ...
    text = read_text(Path("corpus.txt"))
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from interp.core.errors import BadInput, listing


def find_file(path: "str | Path") -> Path:
    """The path, which must exist."""
    found = Path(path).expanduser()
    if not found.exists():
        where = found.parent
        near = sorted(p.name for p in where.iterdir())[:12] if where.is_dir() else []
        what = f" {str(where)!r} holds {listing(near)}." if near else f" There is no folder {str(where)!r} either."
        raise BadInput(f"no such file: {str(path)!r}.{what}")
    return found


def read_text(path: Path) -> str:
    """A whole UTF-8 file. Empty, blank or binary files are refused, with the offset of the first bad byte."""
    data = path.read_bytes()
    if not data.strip():
        raise BadInput(f"{path} is empty ({len(data)} bytes). Give a file with text in it.")
    return decode(data, path, 0)


def decode(data: bytes, path: Path, offset: int) -> str:
    """Bytes of a file from `offset` on as text, or `BadInput` with the place of what is not."""
    if (place := data.find(b"\0")) >= 0:
        utf16 = " (UTF-16? Save it as UTF-8.)" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else ""
        raise BadInput(f"{path} is not text: a NUL byte at byte {offset + place}.{utf16} Give a UTF-8 text file.")
    try:
        return data.decode("utf-8-sig" if offset == 0 else "utf-8")
    except UnicodeDecodeError as error:
        start = offset + error.start + (3 if offset == 0 and data.startswith(b"\xef\xbb\xbf") else 0)
        raise BadInput(
            f"{path} is not UTF-8 text: byte {start} is 0x{error.object[error.start]:02x}. Save it as UTF-8."
        ) from None


def json_records(path: Path) -> Iterator[tuple[int, Any]]:
    """(line number, record) of a JSONL file, or of a file that is one JSON list. Told apart by the first character."""
    with path.open("rb") as file:
        start = file.read(4096).removeprefix(b"\xef\xbb\xbf").lstrip()
    if path.suffix != ".jsonl" and start.startswith(b"["):
        yield from _list_items(path, read_text(path))
        return
    empty, offset = True, 0
    with path.open("rb") as file:
        for number, raw in enumerate(file, 1):
            line = decode(raw, path, offset).strip()
            offset += len(raw)
            if not line:
                continue
            empty = False
            try:
                yield number, json.loads(line)
            except json.JSONDecodeError as error:
                raise BadInput(
                    f"{path}, line {number}: not JSON ({error.msg} at character {error.colno}): {line[:80]!r}. "
                    "Give one record a line, or one list [...] of records."
                ) from None
    if empty:
        raise BadInput(f"{path} is empty. Give one JSON record a line, or one list of records.")


def _list_items(path: Path, text: str) -> Iterator[tuple[int, Any]]:
    """Items of the JSON list that `text` is, each with the line it begins on."""
    decoder = json.JSONDecoder()
    place, line, counted = text.index("[") + 1, 1, 0

    def skip(place: int, chars: str) -> int:
        while place < len(text) and text[place] in chars:
            place += 1
        return place

    place = skip(place, " \t\r\n")
    while text[place : place + 1] != "]":
        line, counted = line + text.count("\n", counted, place), place
        try:
            item, place = decoder.raw_decode(text, place)
        except json.JSONDecodeError as error:
            raise BadInput(f"{path}, line {error.lineno}: not JSON ({error.msg} at character {error.colno}).") from None
        yield line, item
        place = skip(place, " \t\r\n")
        if text[place : place + 1] not in (",", "]"):
            number = 1 + text.count("\n", 0, place)
            raise BadInput(f"{path}, line {number}: the list is cut short or lacks a comma. Is the file whole?")
        if text[place] == ",":
            place = skip(place + 1, " \t\r\n")
