"""Edits: what to change, where, and how.

An edit is a site x positions x operation. The model is only borrowed: an edit lives for one run and leaves no trace.

    replace("blocks.3.hook_resid_post", clean, at=At.span("subject", "last"))   # activation patching
    scale("blocks.5.attn.hook_z", 0.0, heads=[4])                               # ablate a head
    add("hook_embed", noise, at=At.span("subject"))                             # ROME's corruption
    freeze(["blocks.2.hook_mlp_out"], corrupted)                                # severed tracing, path patching

Whether an edit really acted is counted; one that acted nowhere is an error (see `run`).
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, TypeAlias

import numpy as np
import torch
from torch import Tensor

from .batch import At, Batch
from .errors import BadInput, one_of
from .shapes import Float, Mask
from .site import Site

if TYPE_CHECKING:
    from .run import Run

Value: TypeAlias = "Tensor | float | Callable[[Tensor], Tensor]"
Op = Literal["replace", "add", "scale", "project", "swap", "mask", "call"]
OPS = ("replace", "add", "scale", "project", "swap", "mask", "call")


@dataclass(frozen=True, eq=False)
class Edit:
    """One change to one site. The functions below build the usual ones."""

    site: Site
    op: Op
    value: Value
    """Broadcasts against the site's tensor [batch, pos, ...]; a full [batch, pos, ...] value is aligned position by position."""
    at: At = field(default_factory=lambda: At("all"))
    heads: tuple[int, ...] | None = None
    """Only these heads (key/value heads for k and v), where the site has a head axis."""
    basis: Tensor | None = None
    """Columns spanning the subspace of `swap` and `project`, orthonormal, [d, k]."""
    strength: Tensor | None = None
    """Interpolation weight of `mask`, 0 = untouched, 1 = replaced; may require gradients."""
    may_not_fire: bool = False
    """Allow the edit to act nowhere."""

    def __post_init__(self) -> None:
        one_of("op", self.op, OPS)
        object.__setattr__(self, "site", Site.parse(self.site))
        if self.heads is not None and not {"head", "kv_head"} & set(self.site.dims):
            raise BadInput(f"`heads={list(self.heads)}`: {self.site} has no head axis. Drop `heads`.")
        if self.heads is not None and not self.heads:
            raise BadInput(f"`heads=[]` names no head of {self.site}. Name at least one, or drop the edit.")
        if self.op == "call" and not callable(self.value):
            raise BadInput("an edit by `call` needs a function from tensor to tensor.")
        if self.op != "call" and callable(self.value):
            raise BadInput(f"the value of {self.op!r} must be a number or a tensor. Use `call` for a function.")
        if self.op != "call" and not isinstance(self.value, Tensor):
            object.__setattr__(self, "value", _number(self.value, self.op, self.site))
        if not isinstance(self.at, At):
            raise BadInput(f"`at={self.at!r}`: positions are given by `At`, such as At.last() or At.span('subject').")
        if self.op in ("project", "swap") and self.basis is None:
            raise BadInput(f"{self.op!r} needs a `basis` of shape [d, k].")

    @property
    def pos_axis(self) -> int:
        """Axis of the site's tensor that positions index (queries, for the pattern)."""
        dims = self.site.dims
        return dims.index("query") if "query" in dims else dims.index("pos")

    def where(self, batch: Batch) -> Mask:
        """The positions that this edit changes."""
        return self.at.resolve(batch)

    def apply(self, x: Float[Tensor, "..."], where: Mask, start: int = 0) -> Float[Tensor, "..."]:
        """The changed tensor; `x` itself is left alone.

        `x` is the site's tensor, or its positions from `start` on; `where` is the bool mask [batch, pos] over *all* positions.
        """
        full = where.shape[1]
        where = where[:, start:]
        shape = [1] * x.ndim
        shape[0], shape[self.pos_axis] = where.shape
        select = where.reshape(shape)
        if self.heads is not None:
            select = select & self._head_mask(x)
        new = self._new(x, self._value(x, full, start))
        if new.shape != x.shape:
            raise BadInput(
                f"the value of the edit at {self.site} makes {tuple(new.shape)} of {tuple(x.shape)}. Give it the site's shape."
            )
        return torch.where(select, new.to(x.dtype), x)

    def digest(self) -> str:
        """Content hash (16 hex digits) for cache keys and manifests. Refuses functions, which have no content."""
        if callable(self.value):
            raise BadInput(f"the edit at {self.site} is a function; its effect cannot be cached. Pass tensors instead.")
        parts = [self.site.name, self.op, self.at.describe(), str(self.heads)]
        content = hashlib.sha256("|".join(parts).encode())
        for item in (self.value, self.basis, self.strength):
            if isinstance(item, Tensor):
                content.update(str((tuple(item.shape), item.dtype)).encode())
                content.update(item.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
            else:
                content.update(repr(item).encode())
        return content.hexdigest()[:16]

    def describe(self) -> str:
        """`replace at blocks.3.hook_resid_post, span('subject', 'last')`."""
        heads = f", heads {list(self.heads)}" if self.heads is not None else ""
        return f"{self.op} at {self.site}, {self.at.describe()}{heads}"

    def _head_mask(self, x: Tensor) -> Tensor:
        axis = next(i for i, dim in enumerate(self.site.dims) if dim in ("head", "kv_head"))
        n = x.shape[axis]
        assert self.heads is not None
        if bad := [head for head in self.heads if not 0 <= head < n]:
            raise BadInput(f"heads {bad} are not at {self.site}, which has heads 0 to {n - 1}.")
        mask = torch.zeros(n, dtype=torch.bool, device=x.device)
        mask[list(self.heads)] = True
        shape = [1] * x.ndim
        shape[axis] = n
        return mask.reshape(shape)

    def _value(self, x: Tensor, full: int, start: int) -> Tensor | float:
        value = self.value
        if not isinstance(value, Tensor):
            return 0.0 if callable(value) else value
        axis = self.pos_axis - x.ndim  # counted from the end, so that a value without a batch axis works
        if value.ndim >= -axis and value.shape[axis] == full and start:
            value = value.narrow(axis, start, full - start)
        if not _fits(value.shape, x.shape):
            raise BadInput(
                f"the value of the edit at {self.site} is {tuple(value.shape)}, which does not broadcast to {tuple(x.shape)}. "
                "Give it the site's shape."
            )
        return value.to(device=x.device, dtype=torch.promote_types(value.dtype, x.dtype))

    def _new(self, x: Tensor, value: Tensor | float) -> Tensor:
        match self.op:
            case "replace":
                return value.expand_as(x) if isinstance(value, Tensor) else torch.full_like(x, value)
            case "add":
                return x + value
            case "scale":
                return x * value
            case "mask":
                target = value if isinstance(value, Tensor) else torch.full_like(x, value)
                strength = x.new_ones(()) if self.strength is None else self.strength.to(x.device)
                return torch.lerp(x.to(target.dtype), target, strength.to(target.dtype))  # exact at 0 and at 1
            case "call":
                assert callable(self.value)
                new = self.value(x.clone())  # it may write into what it is given
                if not isinstance(new, Tensor):
                    raise BadInput(
                        f"the function at {self.site} gave {type(new).__name__}, not a tensor. Return the new value."
                    )
                return new
        basis = self.basis
        assert basis is not None
        if basis.shape[0] != x.shape[-1]:
            raise BadInput(
                f"the basis of the edit at {self.site} has {basis.shape[0]} rows; the site's last axis has {x.shape[-1]}. Give it [d, k]."
            )
        wide = torch.promote_types(x.dtype, torch.float32)  # a basis in half precision is not orthonormal
        basis, x = basis.to(x.device, wide), x.to(wide)
        return x + (value - x) @ basis @ basis.T  # the subspace's part of x gives way to that of `value`


def _take(value: "Value | Run", site: Site) -> Value:
    captured = getattr(value, "captured", None)
    return value if captured is None else value[site]  # type: ignore[index, return-value]


def replace(
    site: "Site | str", value: "Tensor | float | Run", *, at: At = At("all"), heads: Sequence[int] | None = None
) -> Edit:
    """Put `value` (a tensor, a number, or a run that captured the site) in place of the activation."""
    site = Site.parse(site)
    return Edit(site, "replace", _take(value, site), at, _heads(heads))


def add(site: "Site | str", value: Tensor | float, *, at: At = At("all"), heads: Sequence[int] | None = None) -> Edit:
    """Add `value` to the activation."""
    return Edit(Site.parse(site), "add", value, at, _heads(heads))


def scale(site: "Site | str", factor: float, *, at: At = At("all"), heads: Sequence[int] | None = None) -> Edit:
    """Multiply the activation by `factor`; 0 ablates."""
    return Edit(Site.parse(site), "scale", factor, at, _heads(heads))


def project_out(site: "Site | str", basis: Tensor, *, at: At = At("all"), toward: Tensor | float = 0.0) -> Edit:
    """Remove the subspace spanned by the columns of `basis` [d, k] (orthonormalised here), putting `toward`'s part there."""
    return Edit(Site.parse(site), "project", toward, at, basis=_orthonormal(basis))


def swap(site: "Site | str", value: "Tensor | Run", basis: Tensor, *, at: At = At("all")) -> Edit:
    """Replace only the part of the activation that lies in the span of `basis` [d, k] by that of `value`."""
    site = Site.parse(site)
    return Edit(site, "swap", _take(value, site), at, basis=_orthonormal(basis))


def mask(
    site: "Site | str",
    value: "Tensor | float | Run",
    strength: Tensor,
    *,
    at: At = At("all"),
    heads: Sequence[int] | None = None,
) -> Edit:
    """Interpolate towards `value` by `strength` in [0, 1], which may be a learnable tensor."""
    site = Site.parse(site)
    return Edit(site, "mask", _take(value, site), at, _heads(heads), strength=strength)


def call(site: "Site | str", function: Callable[[Tensor], Tensor], *, at: At = At("all")) -> Edit:
    """Apply a function of your own to the activation. Such edits cannot be cached."""
    return Edit(Site.parse(site), "call", function, at)


def freeze(sites: "Sequence[Site | str]", run: "Run", *, at: At = At("all")) -> list[Edit]:
    """Hold sites at the values that `run` captured: the freeze set of path patching and of severed tracing."""
    return [replace(site, run, at=at) for site in sites]


def _number(value: object, op: str, site: Site) -> float:
    """A plain number, from Python or numpy. Anything else has no meaning here that could not be wrong."""
    if isinstance(value, int | float):
        return value
    if isinstance(value, np.generic) and np.isrealobj(value) and np.issubdtype(value.dtype, np.number):
        return float(value)
    raise BadInput(
        f"the value of {op!r} at {site} must be a number or a tensor; not {type(value).__name__}. Use `torch.as_tensor(value)`."
    )


def _fits(value: torch.Size, x: torch.Size) -> bool:
    """Whether `value` broadcasts to exactly `x`."""
    return len(value) <= len(x) and all(a in (1, b) for a, b in zip(reversed(value), reversed(x), strict=False))


def _heads(heads: Sequence[int] | None) -> tuple[int, ...] | None:
    return None if heads is None else tuple(int(head) for head in heads)


def _orthonormal(basis: Float[Tensor, "..."]) -> Float[Tensor, "d k"]:
    basis = basis[:, None] if basis.ndim == 1 else basis
    if basis.shape[1] == 0 or not bool(torch.isfinite(basis).all()):
        raise BadInput(f"the basis of shape {tuple(basis.shape)} has no columns, or values that are not finite.")
    q, r = torch.linalg.qr(basis.double())
    if basis.shape[1] > basis.shape[0] or bool((r.diagonal().abs() <= 1e-10 * r.abs().max()).any()):
        raise BadInput(
            f"the basis of shape {tuple(basis.shape)} has zero or linearly dependent columns. Drop the redundant ones."
        )
    return q.to(basis.dtype)
