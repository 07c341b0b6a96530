"""What minibatches can be drawn from besides a stored site: rows in memory, the difference of two models, and neighbours of a token.

    MemoryView(tensor, "toy")                       # rows that come from no model, or fit in memory
    DifferenceView(tuned[site], base[site])         # tuned - base, row by row, in float32
    OffsetView(base[site], -1)                      # for every token the one before; zeros where its document has none

Each answers what `Batches` asks of a stored site: how many rows, of which tokens (`rows_digest`), and `take` these.
"""

from collections.abc import Iterable
from functools import cached_property
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from ..core.digest import digest_of
from ..core.errors import BadInput
from .moments import Moments

CHUNK = 1 << 14


@runtime_checkable
class RowView(Protocol):
    """Rows that can be drawn by number; `SiteActivations` and every class here."""

    @property
    def key(self) -> str:
        """Content key of the rows."""
        ...

    @property
    def rows_digest(self) -> str:
        """Of which tokens they are."""
        ...

    @property
    def label(self) -> str:
        """What they are, for people."""
        ...

    @property
    def row_shape(self) -> tuple[int, ...]:
        """Of one row."""
        ...

    @property
    def row_bytes(self) -> int:
        """Bytes of one row."""
        ...

    @property
    def complete(self) -> bool:
        """Whether every row is there."""
        ...

    @property
    def stats(self) -> Moments:
        """Running statistics."""
        ...

    def __len__(self) -> int: ...
    def take(self, index: Tensor) -> Tensor:
        """Rows by number."""
        ...


class MemoryView:
    """Rows in memory [row, ...]. Views of the same `rows` (any label: a digest, a name) line up."""

    complete = True

    def __init__(self, tensor: Tensor, label: str = "memory", *, rows: str | None = None) -> None:
        if tensor.ndim < 2 or not tensor.is_floating_point():
            raise BadInput(f"rows must be floating-point numbers [row, ...]; not {tensor.dtype} {list(tensor.shape)}.")
        self.tensor, self.label = tensor.detach().cpu(), label
        self.rows_digest = rows or f"{len(tensor)} rows in memory"

    @cached_property
    def key(self) -> str:
        """Content hash."""
        return digest_of(self.tensor)

    @property
    def row_shape(self) -> tuple[int, ...]:
        """Of one row."""
        return tuple(self.tensor.shape[1:])

    @property
    def row_bytes(self) -> int:
        """Bytes of one row."""
        return self.tensor[0].numel() * self.tensor.element_size()

    def __len__(self) -> int:
        return len(self.tensor)

    def take(self, index: Tensor) -> Tensor:
        """Rows by number."""
        return self.tensor.index_select(0, index)

    @cached_property
    def stats(self) -> Moments:
        """Mean and variance per component."""
        return moments((self.tensor,), self.row_shape)


class DifferenceView:
    """Rows of one view minus the rows of another, of the same tokens; float32."""

    def __init__(self, left: Any, right: Any) -> None:
        if left.rows_digest != right.rows_digest or left.row_shape != right.row_shape:
            raise BadInput(
                f"{left.label} {list(left.row_shape)} and {right.label} {list(right.row_shape)} cannot be subtracted: their rows are of "
                "different tokens, or of different shapes."
            )
        self.left, self.right, self.label = left, right, f"{left.label} - {right.label}"
        self.rows_digest, self.row_shape = left.rows_digest, left.row_shape

    @property
    def key(self) -> str:
        """Content key."""
        return f"{self.left.key}-{self.right.key}"

    @property
    def complete(self) -> bool:
        """Whether both are."""
        return bool(self.left.complete and self.right.complete)

    @property
    def row_bytes(self) -> int:
        """Bytes of one row that are read."""
        return int(self.left.row_bytes + self.right.row_bytes)

    def __len__(self) -> int:
        return len(self.left)

    def take(self, index: Tensor) -> Tensor:
        """Rows by number."""
        return self.left.take(index).float() - self.right.take(index).float()

    @cached_property
    def stats(self) -> Moments:
        """Mean and variance per component; reads all rows once."""
        return moments(chunks(self), self.row_shape)


class OffsetView:
    """For each token the row `offset` tokens further on in the same document; zeros where there is none."""

    def __init__(self, view: Any, offset: int) -> None:
        self.view, self.offset, self.label = view, int(offset), f"{view.label} {offset:+d}"
        self.rows_digest, self.row_shape, self.row_bytes = view.rows_digest, view.row_shape, view.row_bytes
        self.owner = owner_of(view)
        if self.owner is None:
            raise BadInput(f"{view.label} has no documents, so its rows have no neighbours. Shift them yourself.")

    @property
    def key(self) -> str:
        """Content key."""
        return f"{self.view.key}@{self.offset:+d}"

    @property
    def complete(self) -> bool:
        """Whether the view is."""
        return bool(self.view.complete)

    def __len__(self) -> int:
        return len(self.view)

    def known(self, index: Tensor) -> Tensor:
        """Which of the rows have a neighbour in their document, bool."""
        document, _ = self.owner.position(index)
        there = index + self.offset
        inside: Tensor = (there >= self.owner.offsets[document]) & (there < self.owner.offsets[document + 1])
        return inside

    def take(self, index: Tensor) -> Tensor:
        """Rows by number."""
        inside = self.known(index)
        found = self.view.take(torch.where(inside, index + self.offset, index))
        found[~inside] = 0
        return found

    @cached_property
    def stats(self) -> Moments:
        """Mean and variance per component; reads all rows once."""
        return moments(chunks(self), self.row_shape)


def chunks(view: Any, numbers: "Tensor | None" = None, size: int = CHUNK) -> Iterable[Tensor]:
    """Rows of a view in order, or the numbered ones, so many at a time."""
    numbers = torch.arange(len(view)) if numbers is None else numbers
    for start in range(0, len(numbers), size):
        yield view.take(numbers[start : start + size])


def moments(parts: Iterable[Tensor], shape: tuple[int, ...]) -> Moments:
    """Running statistics of rows that come in parts."""
    found = Moments.empty(shape)
    for part in parts:
        found.add(np.ascontiguousarray(part.float().numpy()))
    return found


class FlatView:
    """Rows of several axes (heads) as vectors."""

    def __init__(self, view: Any) -> None:
        self.view, self.label, self.key, self.rows_digest = view, view.label, view.key, view.rows_digest
        self.row_shape, self.row_bytes = (int(np.prod(view.row_shape)),), view.row_bytes

    @property
    def complete(self) -> bool:
        """Whether the view is."""
        return bool(self.view.complete)

    def __len__(self) -> int:
        return len(self.view)

    def take(self, index: Tensor) -> Tensor:
        """Rows by number, [row, d]."""
        return torch.as_tensor(self.view.take(index)).flatten(1)

    @property
    def stats(self) -> Moments:
        """Mean and variance per component."""
        found = self.view.stats
        return Moments(found.count, found.total.reshape(-1), found.squares.reshape(-1))


def owner_of(view: Any) -> Any:
    """The capture that a view's rows are of, which knows documents and tokens; None for rows in memory."""
    while view is not None and getattr(view, "owner", None) is None:
        view = getattr(view, "view", None) or getattr(view, "left", None)
    return None if view is None else view.owner
