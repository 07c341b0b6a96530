"""Tokenizers: text to ids and back, with an explicit BOS and honest character offsets.

Whether a BOS comes first changes every activation, and libraries decide it silently and differently. Here it is an argument, its
default is what the checkpoint's own tokenizer does or asks for (`add_bos_token`), and every result records it.

    tokenizer = load_tokenizer(folder, "gpt2", rows=50257)
    tokenizer.encode("The Space Needle").offsets      # ((0, 3), (4, 9), (10, 16)): the characters each token stands for
    tokenizer.label(262)                              # '␣the'

Offsets are tidied, so that byte-level and sentencepiece vocabularies agree: a token's range starts at its first visible character
(`␣Needle` is the six characters of the word), and the space that sentencepiece puts before a text, which is not in the text, is
an empty range. A character that takes several byte tokens gives each of them its range.
"""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from interp.core.errors import BadInput, CheckpointError, listing
from interp.core.lm import Encoding

_META = "▁"
_SIGNS = {" ": "␣", "\n": "⏎", "\t": "⇥", "\r": "␍"}


class HFTokenizer:
    """A fast tokenizer of transformers behind the workbench's contract (`interp.core.lm.Tokenizer`)."""

    def __init__(self, fast: Any, name: str, *, add_bos: bool = False) -> None:
        self.fast, self.name = fast, name
        backend = json.loads(fast.backend_tokenizer.to_str())
        self._state = {key: part for key, part in backend.items() if key not in ("truncation", "padding")}
        self._bytes = _alphabet() if "ByteLevel" in json.dumps(backend.get("decoder")) else None
        self._added = {int(token["id"]): str(token["content"]) for token in backend.get("added_tokens", [])}
        self.vocab = max(fast.get_vocab().values()) + 1
        self.bos_id: int | None = fast.bos_token_id
        self.eos_id: int | None = fast.eos_token_id
        self.pad_id: int = next(
            (i for i in (fast.pad_token_id, fast.eos_token_id, fast.bos_token_id) if i is not None), 0
        )
        self.default_bos = self.bos_id is not None and (add_bos or fast("a")["input_ids"][:1] == [self.bos_id])

    @property
    def digest(self) -> str:
        """Content hash of vocabulary, merges, normalisation and special tokens (32 hex digits)."""
        special = {"bos": self.bos_id, "eos": self.eos_id, "default_bos": self.default_bos, "vocab": self.vocab}
        content = json.dumps([self._state, special], sort_keys=True, ensure_ascii=True)
        return hashlib.sha256(content.encode()).hexdigest()[:32]

    def encode(self, text: str, *, bos: bool | None = None) -> Encoding:
        """Ids and offsets. `bos=None` follows `default_bos`; nothing else is added, nothing is cut off.

        A text that already begins with the BOS token gets no second one.
        """
        if not isinstance(text, str):
            raise BadInput(f"a text is needed; not {type(text).__name__}. Pass ids to `run` directly.")
        found = self.fast(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
        ids = [int(i) for i in found["input_ids"]]
        pieces = self.fast.convert_ids_to_tokens(ids)
        offsets = [_tidy(text, piece, *span) for piece, span in zip(pieces, found["offset_mapping"], strict=True)]
        wanted = self.default_bos if bos is None else bos
        written = bool(ids) and ids[0] == self.bos_id and text.startswith(str(self.fast.bos_token))
        if not wanted or (written and bos is None):
            return Encoding(tuple(ids), tuple(offsets), False)
        if self.bos_id is None:
            raise BadInput(f"{self.name} has no BOS token. Pass bos=False.")
        if written:
            raise BadInput(f"the text already begins with {self.fast.bos_token!r}. Remove it, or pass bos=False.")
        return Encoding((self.bos_id, *ids), ((0, 0), *offsets), True)

    def decode(self, ids: Sequence[int]) -> str:
        """Text of ids, special tokens included."""
        return str(
            self.fast.decode([int(i) for i in ids], skip_special_tokens=False, clean_up_tokenization_spaces=False)
        )

    def label(self, token_id: int) -> str:
        """One token for an axis or a table: `␣Paris`, `⏎`, `<s>`; bytes that are no character as `0xC3`."""
        token_id = int(token_id)
        if token_id in self._added:
            return self._added[token_id].replace(" ", "␣").replace("\n", "⏎")
        piece = self.fast.convert_ids_to_tokens(token_id) if 0 <= token_id < self.vocab else None
        if piece is None:
            return f"<{token_id}>"  # a row of the embedding that no text reaches
        if len(piece) == 6 and piece.startswith("<0x") and piece.endswith(">"):
            return _readable(bytes([int(piece[3:5], 16)]))
        if self._bytes is not None and all(sign in self._bytes for sign in piece):
            return _readable(bytes(self._bytes[sign] for sign in piece))
        return _readable(piece.replace(_META, " ").encode())

    def __repr__(self) -> str:
        return f"HFTokenizer({self.name}, {self.vocab:,} ids, BOS {'by default' if self.default_bos else 'not added'})"


def _tidy(text: str, piece: str, start: int, end: int) -> tuple[int, int]:
    """The characters of a token without leading blanks; empty for a blank that the text does not contain."""
    if piece == _META and not text[start:end].isspace():
        return start, start
    visible = text[start:end].lstrip()
    return (end - len(visible), end) if visible else (start, end)


def _readable(raw: bytes) -> str:
    try:
        text = raw.decode()
    except UnicodeDecodeError:
        return " ".join(f"0x{byte:02X}" for byte in raw)
    signs = [_SIGNS.get(sign) or (sign if sign.isprintable() else f"U+{ord(sign):04X}") for sign in text]
    return "".join(signs) or "∅"


def _alphabet() -> dict[str, int]:
    """The printable stand-ins that byte-level vocabularies use, as bytes: visible Latin-1 for itself, the rest from U+0100 on."""
    visible = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    hidden = [byte for byte in range(256) if byte not in visible]
    return {chr(byte): byte for byte in visible} | {chr(0x100 + index): byte for index, byte in enumerate(hidden)}


def load_tokenizer(folder: Path, name: str, *, rows: int) -> HFTokenizer:
    """The tokenizer of a checkpoint, checked against the embedding's number of rows.

    Raises `CheckpointError` where there is none, where it needs code, or where it does not belong to the model.
    """
    from transformers import AutoTokenizer

    kinds = ("tokenizer.json", "tokenizer.model", "vocab.json", "spiece.model", "sentencepiece.bpe.model")
    if not any((folder / kind).is_file() for kind in kinds):
        raise CheckpointError(
            f"{name}: no tokenizer in the folder (expected tokenizer.json). Copy it from the base model."
        )
    try:
        fast = AutoTokenizer.from_pretrained(folder, use_fast=True, trust_remote_code=False, local_files_only=True)
    except Exception as error:  # JSON, Rust and conversion errors of every kind
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise CheckpointError(
            f"{name}: the tokenizer cannot be read ({reason[0][:200]}). Copy it from the base model."
        ) from None
    if not getattr(fast, "is_fast", False):
        raise CheckpointError(
            f"{name}: the tokenizer has no fast form and so no offsets. Convert it to tokenizer.json."
        )
    tokenizer = HFTokenizer(fast, name, add_bos=_asks_for_bos(folder / "tokenizer_config.json"))
    special = set(fast.all_special_ids) | set(tokenizer._added)
    ordinary = [i for i in fast.get_vocab().values() if i not in special]
    ends = {
        kind: i for kind, i in (("BOS", tokenizer.bos_id), ("EOS", tokenizer.eos_id)) if i is not None and i >= rows
    }
    if max(ordinary, default=-1) >= rows or ends:
        what = f"its {listing(ends)} id {max(ends.values())}" if ends else f"ids up to {max(ordinary)}"
        raise CheckpointError(
            f"{name}: the tokenizer does not match the model: {what}, but the embedding has {rows} rows. "
            "Copy the tokenizer of the model that these weights come from."
        )
    return tokenizer


def _asks_for_bos(file: Path) -> bool:
    """`add_bos_token` of the tokenizer's own configuration, which transformers drops where there is a tokenizer.json."""
    try:
        return bool(json.loads(file.read_text(encoding="utf-8")).get("add_bos_token"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError, AttributeError):
        return False
