"""Tokens as every method passes them around: ids, which of them are real, and where the named spans lie.

Positions in an `Edit` are symbolic ("the last token of the subject"). They are resolved here, row by row, through the mask and the
spans of the batch, so that padding, ragged subjects or a leading BOS can never shift an edit onto the wrong token.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from .errors import BadInput, SpanError, listing
from .shapes import Int, Mask, Tokens


@dataclass(frozen=True, eq=False)
class Batch:
    """Rows of tokens. Padding is wherever `mask` is False and may be on either side."""

    tokens: Tensor
    """Token ids, int64 [batch, pos]."""
    mask: Tensor
    """True at real tokens, bool [batch, pos]."""
    spans: Mapping[str, Tensor] = field(default_factory=dict)
    """Named spans as [start, end) columns, int64 [batch, 2]; (-1, -1) where a row lacks one."""
    ids: tuple[str, ...] = ()
    """A name a row; defaults to the row numbers."""

    def __post_init__(self) -> None:
        if self.tokens.ndim != 2 or self.tokens.dtype not in (torch.int64, torch.int32):
            raise BadInput(
                f"tokens must be whole numbers shaped [batch, pos]; not {self.tokens.dtype} {tuple(self.tokens.shape)}."
            )
        if self.tokens.shape[1] == 0 or self.tokens.shape[0] == 0:
            raise BadInput(f"tokens are empty: {tuple(self.tokens.shape)}. Give at least one token.")
        if self.mask.shape != self.tokens.shape or self.mask.dtype != torch.bool:
            raise BadInput(
                f"the mask must be bool {tuple(self.tokens.shape)}; not {self.mask.dtype} {tuple(self.mask.shape)}."
            )
        if not bool(self.mask.any(dim=1).all()):
            raise BadInput("a row of the batch has no real token. Drop it.")
        if bool((self.last - self.mask.int().argmax(dim=1) + 1 != self.mask.sum(dim=1)).any()):
            raise BadInput(
                "a row has padding between its real tokens: sliding windows count columns, so it would not be what it is alone. "
                "Pad at the ends; to hide a token from attention, edit the pattern."
            )
        for name, span in self.spans.items():
            if span.shape != (len(self.tokens), 2):
                raise BadInput(
                    f"the span {name!r} must be [start, end) a row, {(len(self.tokens), 2)}; not {tuple(span.shape)}."
                )
            if bool((span[:, 1] > self.tokens.shape[1]).any() | ((span[:, 0] >= span[:, 1]) & (span[:, 0] >= 0)).any()):
                raise SpanError(f"the span {name!r} is empty or ends after column {self.tokens.shape[1]} in some row.")
            if bool(((span < 0).any(dim=1) & (span != -1).any(dim=1)).any()):
                raise SpanError(
                    f"the span {name!r} has a negative column. Count columns from 0; (-1, -1) means no span."
                )
            if bool((self._columns_of(span) & ~self.mask).any()):
                raise SpanError(
                    f"the span {name!r} lies on padding in some row. Spans are columns of the batch, padding counted: shift them by it."
                )
        if self.ids and len(self.ids) != len(self.tokens):
            raise BadInput(f"`ids` has {len(self.ids)} names for {len(self.tokens)} rows. Give one each.")
        if not self.ids:
            object.__setattr__(self, "ids", tuple(str(row) for row in range(len(self.tokens))))

    @classmethod
    def of(cls, tokens: "Batch | Tensor | Sequence[int] | Sequence[Sequence[int]]") -> "Batch":
        """A batch from ids without padding: a tensor or lists of equal length; a batch comes back as it is."""
        if isinstance(tokens, Batch):
            return tokens
        if not isinstance(tokens, Tensor):
            rows = [list(row) if isinstance(row, Sequence) else [row] for row in tokens]
            flat = bool(tokens) and not isinstance(tokens[0], Sequence)
            rows = [[int(i) for row in rows for i in row]] if flat else rows
            if len({len(row) for row in rows}) > 1:
                raise BadInput("rows of tokens differ in length. Use `Batch.padded(rows, side=...)` to pad them.")
            tokens = torch.tensor(rows, dtype=torch.int64)
        tokens = tokens[None] if tokens.ndim == 1 else tokens
        if tokens.numel() and (tokens.is_floating_point() or tokens.is_complex() or tokens.dtype == torch.bool):
            raise BadInput(f"tokens must be whole numbers; not {tokens.dtype}. Pass token ids.")
        return cls(tokens.to(torch.int64), torch.ones_like(tokens, dtype=torch.bool))

    @classmethod
    def padded(
        cls, rows: Sequence[Sequence[int]], *, side: str = "right", pad_id: int = 0, ids: tuple[str, ...] = ()
    ) -> "Batch":
        """A batch of rows of any lengths, padded on one side."""
        if side not in ("left", "right"):
            raise BadInput(f"`side` must be {listing(['left', 'right'])}; not {side!r}.")
        width = max((len(row) for row in rows), default=0)
        tokens = torch.full((len(rows), width), pad_id, dtype=torch.int64)
        mask = torch.zeros(len(rows), width, dtype=torch.bool)
        for index, row in enumerate(rows):
            where = slice(width - len(row), width) if side == "left" else slice(0, len(row))
            tokens[index, where] = torch.tensor(row, dtype=torch.int64)
            mask[index, where] = True
        return cls(tokens, mask, {}, ids)

    def _columns_of(self, span: Tensor) -> Tensor:
        """The columns of a span, bool [batch, pos]."""
        columns = torch.arange(self.tokens.shape[1], device=span.device)
        return ((columns >= span[:, :1]) & (columns < span[:, 1:])).to(self.mask.device)

    def __len__(self) -> int:
        return len(self.tokens)

    @property
    def position_ids(self) -> Tokens:
        """Position of each token in its own row, padding not counted, int64."""
        return (self.mask.long().cumsum(dim=1) - 1).clamp(min=0)

    @property
    def last(self) -> Int[Tensor, " batch"]:
        """Column of each row's last real token, int64."""
        columns = torch.arange(self.tokens.shape[1], device=self.mask.device)
        return (columns * self.mask).amax(dim=1)

    @property
    def unpadded(self) -> bool:
        """Whether every column of every row is a real token."""
        return bool(self.mask.all())

    def to(self, device: Any) -> "Batch":
        """The same batch on another device."""
        spans = {name: span.to(device) for name, span in self.spans.items()}
        return Batch(self.tokens.to(device), self.mask.to(device), spans, self.ids)

    def rows(self, index: Any) -> "Batch":
        """Some rows, by slice or list of row numbers."""
        keep = torch.arange(len(self))[index].reshape(-1)
        spans = {name: span[keep] for name, span in self.spans.items()}
        return Batch(self.tokens[keep], self.mask[keep], spans, tuple(self.ids[int(row)] for row in keep))

    def repeat(self, times: int) -> "Batch":
        """Each row `times` times, next to each other."""
        index = torch.arange(len(self)).repeat_interleave(times)
        return self.rows(index)

    def digest(self) -> str:
        """Content hash of ids and mask (32 hex digits). Padding side, order and BOS all change it."""
        content = hashlib.sha256(str(tuple(self.tokens.shape)).encode())
        content.update(self.tokens.to(torch.int64).cpu().contiguous().numpy().tobytes())
        content.update(self.mask.cpu().contiguous().numpy().tobytes())
        return content.hexdigest()[:32]


@dataclass(frozen=True, eq=False)
class At:
    """Where in each row an edit acts. Build one with the class methods; `resolve` gives the mask for a batch."""

    how: str
    arg: Any = None
    rows: tuple[int, ...] | None = None

    @classmethod
    def all(cls) -> "At":
        """Every real token."""
        return cls("all")

    @classmethod
    def index(cls, *positions: int) -> "At":
        """Positions within each row, padding not counted; negative ones count from the row's end."""
        return cls("index", positions)

    @classmethod
    def last(cls) -> "At":
        """The last real token of each row."""
        return cls("index", (-1,))

    @classmethod
    def span(cls, name: str, part: str = "all") -> "At":
        """A named span of each row; `part` is 'all', 'first', 'middle' or 'last'."""
        if part not in ("all", "first", "middle", "last"):
            raise BadInput(f"`part` must be {listing(['all', 'first', 'middle', 'last'])}; not {part!r}.")
        return cls("span", (name, part))

    @classmethod
    def token(cls, token_id: int, occurrence: str = "all") -> "At":
        """Where a token id occurs in each row: 'all', 'first' or 'last' of its occurrences."""
        if occurrence not in ("all", "first", "last"):
            raise BadInput(f"`occurrence` must be {listing(['all', 'first', 'last'])}; not {occurrence!r}.")
        return cls("token", (int(token_id), occurrence))

    @classmethod
    def mask(cls, mask: Tensor) -> "At":
        """Exactly where a bool mask [batch, pos] is True."""
        return cls("mask", mask.to(torch.bool))

    def in_rows(self, *rows: int) -> "At":
        """The same positions, in these rows of the batch only."""
        return At(self.how, self.arg, tuple(rows))

    def resolve(self, batch: Batch) -> Mask:
        """Where this selector selects. Padding is never selected."""
        where = getattr(self, f"_{self.how}")(batch) & batch.mask
        if self.rows is None:
            return where
        if bad := [row for row in self.rows if not -len(batch) <= row < len(batch)]:
            raise BadInput(f"rows {bad} are not in a batch of {len(batch)} rows.")
        keep = torch.zeros(len(batch), 1, dtype=torch.bool, device=where.device)
        keep[list(self.rows)] = True
        return where & keep

    def describe(self) -> str:
        """A short text for messages, manifests and cache keys."""
        if isinstance(self.arg, Tensor):
            data = self.arg.to(torch.uint8).cpu().contiguous()
            arg = hashlib.sha256(str(tuple(data.shape)).encode() + data.numpy().tobytes()).hexdigest()[:16]
        else:
            arg = repr(self.arg) if self.arg is not None else ""
        return f"{self.how}{arg}" + (f" in rows {list(self.rows)}" if self.rows is not None else "")

    def _all(self, batch: Batch) -> Tensor:
        return batch.mask

    def _index(self, batch: Batch) -> Tensor:
        length = batch.mask.sum(dim=1, keepdim=True)  # [batch, 1]
        place = batch.position_ids
        where = torch.zeros_like(batch.mask)
        for position in self.arg:
            target = position if position >= 0 else length + position
            hit = batch.mask & (place == target)
            if not bool(hit.any()):
                longest = int(length.max())
                raise BadInput(f"position {position} is in no row: the longest has {longest} tokens.")
            where |= hit
        return where

    def _span(self, batch: Batch) -> Tensor:
        name, part = self.arg
        if name not in batch.spans:
            have = listing(batch.spans) if batch.spans else "none"
            raise SpanError(f"the batch has no span {name!r}; it has {have}. Build it from prompts that mark the span.")
        start, end = batch.spans[name].to(batch.mask.device).unbind(dim=1)
        first, last = start, end - 1
        low = {"first": first, "last": last, "middle": first + 1, "all": start}[part]
        high = {"first": first + 1, "last": end, "middle": last, "all": end}[part]
        columns = torch.arange(batch.tokens.shape[1], device=batch.mask.device)
        return (columns >= low[:, None]) & (columns < high[:, None])

    def _token(self, batch: Batch) -> Tensor:
        token, occurrence = self.arg
        hit = (batch.tokens == token) & batch.mask
        if occurrence == "first":
            return hit & (hit.long().cumsum(dim=1) == 1)
        if occurrence == "last":
            return hit & (hit.flip(1).long().cumsum(dim=1).flip(1) == 1)
        return hit

    def _mask(self, batch: Batch) -> Tensor:
        if self.arg.shape != batch.tokens.shape:
            shape = tuple(batch.tokens.shape)
            raise BadInput(f"the position mask is {tuple(self.arg.shape)} but the batch is {shape}.")
        return self.arg.to(batch.mask.device, torch.bool)
