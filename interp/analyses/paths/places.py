"""Where, in each row, a part is looked at: a role of the prompt instead of a column.

    all        every token                    last       the token that predicts
    S2         a named span                   S1.last    its last token (also first, middle)
    S1+1       the token after a span         label-2    two before it

Roles are worked out row by row, so prompts in which a name stands elsewhere are patched where it stands. Nothing is clipped: a role that
a row lacks, or a shift that leaves the row, is refused with the row's name.
"""

import re

import torch

from interp.core.batch import At, Batch
from interp.core.errors import BadInput, SpanError, listing
from interp.core.shapes import Mask

_SHIFT = re.compile(r"(.+?)([+-]\d+)")
_PART = re.compile(r"(.+)\.(all|first|middle|last)")


def where(batch: Batch, role: str) -> Mask:
    """The positions of a role, bool [row, pos]. Raises `SpanError` for a role that a row lacks, `BadInput` for a shift beyond the row."""
    name, part, shift = read(role, batch)
    if name == "all":
        mask = At.all().resolve(batch)
    elif name == "last":
        mask = At.last().resolve(batch)
    elif name in batch.spans:
        mask = At.span(name, part).resolve(batch)
    else:
        raise SpanError(f"the position {role!r}: there is no span {name!r}; there are {listing(roles_of(batch))}.")
    if shift:
        moved = torch.roll(mask, shift, dims=1) & batch.mask
        if bool((moved.sum(dim=1) != mask.sum(dim=1)).any()) or _wraps(mask, shift):
            raise BadInput(f"the position {role!r} lies outside of some prompt. Take a smaller shift of {name!r}.")
        mask = moved
    if bool((~mask.any(dim=1)).any()):
        row = int((~mask.any(dim=1)).nonzero()[0])
        raise SpanError(
            f"the prompt {batch.ids[row]!r} has no position {role!r}. Mark it in every prompt, or choose another role."
        )
    return mask


def roles_of(batch: Batch) -> list[str]:
    """Names that `where` knows for this batch, without parts and shifts."""
    return ["all", *dict.fromkeys([*batch.spans, "last"])]


def read(role: str, batch: Batch | None = None) -> tuple[str, str, int]:
    """(span, part, shift) of a role as it is written; a span that is called so as a whole is taken at its name."""
    if not role or role != role.strip():
        raise BadInput(f"a position must be named, such as last, S2, S1+1 or subject.last; not {role!r}.")
    if batch is not None and role in batch.spans:
        return role, "all", 0
    shift, part = 0, "all"
    if match := _SHIFT.fullmatch(role):
        role, shift = match[1], int(match[2])
    if match := _PART.fullmatch(role):
        role, part = match[1], match[2]
    return role, part, shift


def _wraps(mask: Mask, shift: int) -> bool:
    edge = mask[:, -shift:] if shift > 0 else mask[:, :-shift]
    return bool(edge.any())
