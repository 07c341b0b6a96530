"""Corpora: running text as documents of token ids, cut, hashed and packed by rules that are written down.

A document is what a model reads at once: it begins with a BOS if the policy says so, is at most `n_ctx` tokens long and attends only to
itself. A longer text is cut into several documents (`long="split"`), kept up to the first cut ("truncate") or refused ("refuse"). The
ids of its pieces are `name#0`, `name#1`, ...; a BOS is put before each.

`digest()` is a hash of every token id, every boundary and the order: two corpora with the same digest are the same data.

It misleads when pieces are taken for independent samples (they are not: resample by text, `Corpus.texts`), and when loss by position
is read off pieces (their first tokens lack the context that the text had).

    from interp.data import corpus
    data = corpus("wikitext.txt", lm.tokenizer, n_ctx=lm.spec.n_ctx, limit_tokens=100_000)
    data                                    # Corpus(…: 391 documents, 100,000 tokens, BOS, …)
    data.blocks(128)                        # Int[block, pos], documents joined with a separator, for trainers that want it
    corpus(["One text.", "Another."], lm.tokenizer)
"""

import hashlib
from bisect import bisect_left, insort
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import torch

from interp.core.errors import BadInput, one_of
from interp.core.lm import Tokenizer
from interp.core.shapes import Int, Tensor

from .prompts import check_text
from .sources import read_texts

Long = Literal["split", "truncate", "refuse"]


@dataclass(frozen=True, eq=False, repr=False)
class Corpus:
    """Documents of token ids. Build one with `corpus(...)`, or `Corpus.from_ids` for ids that are there already."""

    documents: tuple[Tensor, ...]
    """Token ids, int64 [token] each."""
    ids: tuple[str, ...]
    """A name a document."""
    source: str
    """Where the texts came from, without machine paths."""
    bos: bool
    """Whether every document begins with a BOS that the text does not contain."""
    separator: int | None = None
    """Token put between texts by `blocks`; the tokenizer's BOS where it has one."""
    texts: tuple[int, ...] = ()
    """Which text each document is a piece of."""
    notes: tuple[str, ...] = field(default_factory=tuple)
    """The rules that were applied, and what was cut or left out."""

    def __post_init__(self) -> None:
        if not self.documents:
            raise BadInput(f"the corpus {self.source!r} has no documents. Give at least one text.")
        if len(self.ids) != len(self.documents) or len(set(self.ids)) != len(self.ids):
            raise BadInput(
                f"a corpus of {len(self.documents)} documents needs as many different ids; not {len(set(self.ids))}."
            )
        for name, document in zip(self.ids, self.documents, strict=True):
            if document.ndim != 1 or document.dtype != torch.int64 or len(document) == 0:
                raise BadInput(
                    f"document {name!r} must be token ids, int64 [token]; not {document.dtype} {tuple(document.shape)}."
                )
        if not self.texts:
            object.__setattr__(self, "texts", tuple(range(len(self.documents))))

    @classmethod
    def from_ids(
        cls,
        documents: "Iterable[Sequence[int] | Tensor]",
        *,
        ids: Sequence[str] | None = None,
        source: str = "ids",
        bos: bool = False,
        separator: int | None = None,
    ) -> "Corpus":
        """A corpus of ids that are there already, taken as they are."""
        rows = tuple(torch.as_tensor(document, dtype=torch.int64).clone() for document in documents)
        return cls(rows, tuple(ids or (str(i) for i in range(len(rows)))), source, bos, separator)

    def __len__(self) -> int:
        return len(self.documents)

    def __repr__(self) -> str:
        bos = "BOS" if self.bos else "no BOS"
        return f"Corpus({self.source}: {len(self):,} documents, {self.n_tokens:,} tokens, {bos}, {self.digest()[:8]})"

    @property
    def lengths(self) -> tuple[int, ...]:
        """Tokens of each document, BOS counted."""
        return tuple(len(document) for document in self.documents)

    @property
    def n_tokens(self) -> int:
        """All tokens, BOS counted."""
        return sum(self.lengths)

    def digest(self) -> str:
        """Content hash (32 hex digits) of token ids, boundaries, order and BOS policy. Names do not count: a renamed file is the same."""
        content = hashlib.sha256(f"corpus-1 bos={self.bos}".encode())
        for document in self.documents:
            content.update(f"\x1e{len(document)}\x1f".encode())
            content.update(document.contiguous().numpy().tobytes())
        return content.hexdigest()[:32]

    def select(self, index: "slice | Sequence[int]") -> "Corpus":
        """Some of the documents, in the order given."""
        keep = list(range(len(self)))[index] if isinstance(index, slice) else [int(i) for i in index]
        documents, ids = tuple(self.documents[i] for i in keep), tuple(self.ids[i] for i in keep)
        texts = tuple(self.texts[i] for i in keep)
        return Corpus(documents, ids, self.source, self.bos, self.separator, texts, self.notes)

    def blocks(self, length: int) -> Int[Tensor, "block pos"]:
        """All texts in one stream, cut into rows of `length`; what is left over is dropped.

        Between two texts stands the separator once (the BOS of the next text, where documents have one); pieces of one text are joined
        again without it. Rows therefore mix texts: for peers' trainers, not for measuring.
        """
        if length < 1:
            raise BadInput(f"`length` of a block must be at least 1; not {length}.")
        stream: list[Tensor] = []
        for place, document in enumerate(self.documents):
            continues = place > 0 and self.texts[place] == self.texts[place - 1]
            if continues and self.bos:
                document = document[1:]
            elif not continues and not self.bos and place > 0 and self.separator is not None:
                stream.append(torch.tensor([self.separator]))
            stream.append(document)
        tokens = torch.cat(stream)  # [token]
        if len(tokens) < length:
            raise BadInput(
                f"the corpus has {len(tokens)} tokens, less than one block of {length}. Ask for shorter blocks."
            )
        n_blocks = len(tokens) // length
        return tokens[: n_blocks * length].reshape(n_blocks, length)


def corpus(
    source: "str | Path | Iterable[str]",
    tokenizer: Tokenizer,
    *,
    n_ctx: int | None = None,
    long: Long = "split",
    bos: bool | None = None,
    limit_tokens: int | None = None,
    split: str = "auto",
    field: str = "text",
    subset: str | None = None,
) -> Corpus:
    """Texts as a `Corpus`: a list of strings, a text file, JSONL, a JSON list, a folder of .txt, a Hugging Face `datasets` folder.

    `split` says where one text of a .txt file ends: "auto" (at <|endoftext|> where there is one, else nowhere), "whole", "line",
    "blank" (blank lines), or the separator itself. `field` is the JSON field or dataset column, `subset` the split of a dataset.
    `limit_tokens` stops reading there (the last document is cut to fit). `bos=None` follows the tokenizer.
    """
    one_of("long", long, ["split", "truncate", "refuse"])
    use_bos = tokenizer.default_bos if bos is None else bos
    if use_bos and tokenizer.bos_id is None:
        raise BadInput(f"{tokenizer.name} has no BOS token. Pass bos=False.")
    for name, value, least in (("n_ctx", n_ctx, 2), ("limit_tokens", limit_tokens, 2)):
        if value is not None and value < least:
            raise BadInput(f"`{name}` must be at least {least}; not {value}.")
    if isinstance(source, str | Path):
        named, rule = read_texts(source, split=split, field=field, subset=subset)
        label = Path(source).name
    else:
        named, rule = ((str(i), text) for i, text in enumerate(source)), "a list of texts"
        label = "texts"
    return _tokenise(named, tokenizer, label, rule, use_bos, n_ctx, long, limit_tokens)


def _tokenise(
    named: Iterable[tuple[str, str]],
    tokenizer: Tokenizer,
    label: str,
    rule: str,
    bos: bool,
    n_ctx: int | None,
    long: Long,
    limit: int | None,
) -> Corpus:
    documents: list[Tensor] = []
    ids: list[str] = []
    texts: list[int] = []
    n_text = n_blank = n_cut = total = 0
    for name, text in named:
        if isinstance(text, str) and not text.strip():
            n_blank += 1
            continue
        check_text(text, f"text {name!r} of {label}")
        pieces = list(_pieces(tokenizer, text, bos, n_ctx))
        if len(pieces) > 1:
            if long == "refuse":
                n_tokens = sum(map(len, pieces)) - (len(pieces) - 1) * bos
                raise BadInput(
                    f"text {name!r} of {label} is {n_tokens:,} tokens, the context is {n_ctx}. "
                    "Shorten it, or pass long='split' or 'truncate'."
                )
            n_cut += 1
        for number, piece in enumerate(pieces[:1] if long == "truncate" else pieces):
            piece = piece if limit is None else piece[: limit - total]
            if len(piece) > bos:
                documents.append(piece)
                ids.append(f"{name}#{number}" if len(pieces) > 1 else name)
                texts.append(n_text)
                total += len(piece)
        n_text += 1
        if limit is not None and total + bos >= limit:
            break
    cut = {"split": "cut into pieces", "truncate": "cut short"}
    notes = [f"read as {rule}"]
    notes += [f"{n_cut} of {n_text} texts longer than {n_ctx} tokens were {cut[long]}"] if n_cut else []
    notes += [f"{n_blank} blank texts were left out"] if n_blank else []
    notes += [f"limited to {limit} tokens"] if limit is not None else []
    if not documents:
        raise BadInput(f"{label} holds no text ({n_blank} blank ones). Give at least one text with a word in it.")
    return Corpus(tuple(documents), tuple(ids), label, bos, tokenizer.bos_id, tuple(texts), tuple(notes))


def _pieces(tokenizer: Tokenizer, text: str, bos: bool, n_ctx: int | None) -> Iterator[Tensor]:
    """The ids of a text in pieces of at most `n_ctx`, each with its BOS."""
    body = torch.tensor(tokenizer.encode(text, bos=False).ids, dtype=torch.int64)
    if bos and len(body) and body[0] == tokenizer.bos_id:
        raise BadInput(
            f"the text {text[:60]!r} begins with the BOS itself and bos=True would double it. Split at it (`split=`), or bos=False."
        )
    room = max(len(body), 1) if n_ctx is None else n_ctx - bos
    for piece in body.split(room):
        yield torch.cat([torch.tensor([tokenizer.bos_id]), piece]) if bos else piece


def pack(lengths: Sequence[int], budget: int, *, order: Literal["kept", "longest first"] = "kept") -> list[list[int]]:
    """Documents shared out to forward passes of at most `budget` tokens: lists of places in `lengths`, deterministic.

    "kept" fills one pass after the other in the order given, so that rows come out in order; "longest first" puts each document
    where it fits most tightly, which needs fewer passes. A document longer than the budget is a pass of its own.
    """
    one_of("order", order, ["kept", "longest first"])
    if budget < 1 or any(length < 1 for length in lengths):
        raise BadInput(f"`budget` and all lengths must be at least 1; not {budget} and {min(lengths, default=1)}.")
    passes: list[list[int]] = []
    if order == "kept":
        room = 0
        for place, length in enumerate(lengths):
            if length > room or not passes:
                passes.append([])
                room = budget
            passes[-1].append(place)
            room -= length
        return passes
    rooms: list[tuple[int, int]] = []  # (tokens left, number of the pass), sorted
    for place in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        at = bisect_left(rooms, (lengths[place], 0))
        if at == len(rooms):
            passes.append([])
            left, number = budget, len(passes) - 1
        else:
            left, number = rooms.pop(at)
        passes[number].append(place)
        insort(rooms, (left - lengths[place], number))
    return [sorted(members) for members in passes]
