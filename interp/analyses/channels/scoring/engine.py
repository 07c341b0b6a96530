"""Every component of every head against every later head, as matrix products of thin factors.

A component that writes along the unit vector v scores |v M| / |M|_F into a reader with matrix M (the essay of `factors`). With
M = left @ right and right @ rightᵀ = R Rᵀ that is |v side|, side = left R / |M|_F of shape [d_model, d_head]. So the scores of all heads of
one layer into all heads of another are one product, squares, and sums over groups of d_head columns:

    [head * component, d_model] @ [d_model, head * d_head]  ->  [head, component, head]

Where key and value heads are shared by g query heads, the left factors of K and V are shared too: left = B T with orthonormal B, so
`v B` is computed once a shared head and `(v B) (T R / |M|_F)`, d_head by d_head, once a query head: nearly g times less work in K and V.

Nothing here needs a model: `Writers` and `Readers` are made of `Factors` (`moved`, `weighed`), that is of plain tensors.

    from interp.analyses.channels import Setting, read_layer, write_layer
    early, late = write_layer(lm, 0), read_layer(lm, 3, ("Q", "K", "V"))
    early.score(late["K"]).shape                    # [head of layer 0, component, head of layer 3]
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
import xarray as xr
from einops import rearrange
from torch import Tensor

from interp.core.errors import BadInput, one_of

from ..component import Component, Head
from ..decompose import ROUNDING, single
from ..factors import DEFAULT, KINDS, Factors, Setting, ov, qk, reaches

if TYPE_CHECKING:
    from interp.core.lm import LM

TILE = 8_000_000
"""Bytes of a product that are held at once: few enough to stay in the cache, and enough to run at the speed of one large product."""

PRECISIONS = {"float32": torch.float32, "float64": torch.float64}
"""Of products; singular values and statistics are float64 always."""


@dataclass(frozen=True)
class Readers:
    """How the heads of one layer read through one input: `|x M| / |M|_F` = `|x base turn|`, per head."""

    base: Tensor
    """[d_model, group, d_head]; one group a head, or one for all query heads that share keys and values."""
    turn: Tensor | None
    """[group, d_head, heads of the group * d_head] where there are fewer groups than heads."""
    spectrum: Tensor
    """Singular values of M [head, d_head], float64; NaN for heads whose window ends before the distance."""

    @property
    def norm(self) -> Tensor:
        """|M|_F [head]."""
        return self.spectrum.square().sum(-1).sqrt()

    @property
    def known(self) -> Tensor:
        """Which heads read anything, [head]."""
        return self.norm > 0

    def to(self, dtype: torch.dtype, device: "str | torch.device" = "cpu") -> "Readers":
        """The same in another precision, on another device; the spectrum stays as it is."""
        turn = None if self.turn is None else self.turn.to(device, dtype)
        return Readers(self.base.to(device, dtype).contiguous(), turn, self.spectrum)

    def unread(self) -> "Readers":
        """The same heads, none of which reads."""
        return Readers(self.base, self.turn, torch.full_like(self.spectrum, torch.nan))

    def only(self, head: int) -> "Readers":
        """One of the heads."""
        own = self.spectrum[head : head + 1]
        if self.turn is None:
            return Readers(self.base[:, head : head + 1], None, own)
        size = own.shape[1]
        group, place = divmod(head, len(self.spectrum) // len(self.turn))
        turn = self.turn[group, :, place * size : (place + 1) * size]
        return Readers((self.base[:, group] @ turn)[:, None], None, own)


@dataclass(frozen=True)
class Writers:
    """What the components of heads write, of one layer or of several, one after the other."""

    directions: Tensor
    """Unit rows [head, component, d_model]; zeros where a head has no such component. Signs are arbitrary."""
    values: Tensor
    """Singular values [head, component], float64; 0 beyond the rank."""

    @property
    def known(self) -> Tensor:
        """Which components there are, [head, component]."""
        return self.values > 0

    def to(self, dtype: torch.dtype, device: "str | torch.device" = "cpu") -> "Writers":
        """The same in another precision, on another device; the singular values stay as they are."""
        return Writers(self.directions.to(device, dtype), self.values)

    def only(self, head: int, component: int) -> "Writers":
        """One component."""
        place = slice(head, head + 1), slice(component, component + 1)
        return Writers(self.directions[place], self.values[place])

    def score(self, readers: Readers, *, tile: int = TILE) -> Tensor:
        """Composition scores [writer head, component, reader head] in the factors' precision, on the CPU; NaN where either is nothing.

        `tile`: bytes of the product that are held at once. Raises `BadInput` for scores that are not finite.
        """
        heads = len(self.directions)
        rows = rearrange(self.directions, "head component d -> (head component) d")
        base = rearrange(readers.base, "d group h -> d (group h)")
        step = min(len(rows), max(1, tile // (readers.spectrum.numel() * rows.element_size())))
        held, parts = rows.new_empty(step, base.shape[1]), []
        for start in range(0, len(rows), step):
            part = rows[start : start + step]
            parts.append(_lengths(torch.mm(part, base, out=held[: len(part)]), readers))
        scores = rearrange(torch.cat(parts), "(head component) reader -> head component reader", head=heads).cpu()
        known = self.known.cpu()[:, :, None] & readers.known.cpu()
        if not bool(scores.isfinite().logical_or(~known).all()):
            raise BadInput(
                "scores are not finite: a direction or a reader holds NaN or infinite numbers. Is the checkpoint whole?"
            )
        return scores.masked_fill(~known, torch.nan)


def _lengths(read: Tensor, readers: Readers) -> Tensor:
    """|row| of each reader head's part [row, head], of rows times the base [row, group * d_head]."""
    size = readers.spectrum.shape[1]
    if readers.turn is None:
        return torch.linalg.vector_norm(rearrange(read, "row (head h) -> row head h", h=size), dim=-1)
    turned = rearrange(read, "row (group h) -> group row h", h=size) @ readers.turn
    lengths = torch.linalg.vector_norm(rearrange(turned, "group row (head h) -> group row head h", h=size), dim=-1)
    return rearrange(lengths, "group row head -> row (group head)")


def moved(factors: Factors, *, d_model: int, groups: int) -> tuple[Writers, Readers]:
    """What a layer's heads write, and how they read as V; `factors` is OV, `groups` the number of value heads.

    The components are those of `decompose.components`, without what is not needed here: sides that are read, and signs.
    """
    left, right = factors.left[:, :d_model], torch.linalg.qr(factors.right.mT)
    own = _triangle(factors.left)
    _, s, vt = torch.linalg.svd(own @ right.R.mT)
    rank = (s > s[:, :1] * s.shape[1] * ROUNDING) & (s > 0)
    directions = torch.where(rank[..., None], vt, torch.zeros_like(vt)) @ right.Q.mT
    plain = factors.left.shape[1] == d_model
    readers = _readers(left, own if plain else _triangle(left), right.R, groups, s if plain else None)
    return Writers(directions, s * rank), readers


def weighed(factors: Factors, *, d_model: int, groups: int) -> dict[str, Readers]:
    """How a layer's heads read as Q and K; `factors` is QK, `groups` the number of key heads."""
    query, key = factors.left, factors.right.mT
    triangles = _triangle(query), _triangle(key)
    streams = query[:, :d_model], key[:, :d_model]
    if query.shape[1] == d_model:
        first = _readers(query, *triangles, len(query))
        return {"Q": first, "K": _readers(key, triangles[1], triangles[0], groups, first.spectrum)}
    return {
        "Q": _readers(streams[0], _triangle(streams[0]), triangles[1], len(query)),
        "K": _readers(streams[1], _triangle(streams[1]), triangles[0], groups),
    }


def _triangle(tall: Tensor) -> Tensor:
    """R of tall = Q R: `|x Rᵀ|` = `|x tallᵀ|`."""
    return torch.linalg.qr(tall, mode="r").R


def _readers(left: Tensor, own: Tensor, other: Tensor, groups: int, spectrum: Tensor | None = None) -> Readers:
    """Readers of `left @ right`, given the triangles of left and of rightᵀ; with `groups` left factors that heads share."""
    if spectrum is None:
        spectrum = torch.linalg.svdvals(own @ other.mT)
    norm = spectrum.square().sum(-1).sqrt()
    turn = other.mT * torch.where(norm > 0, 1 / norm, torch.zeros_like(norm))[:, None, None]  # zero only if M is
    share = len(left) // groups
    if share == 1:
        return Readers(rearrange(left @ turn, "head d h -> d head h"), None, spectrum)
    first = left[::share]
    if not torch.equal(first.repeat_interleave(share, dim=0), left):
        raise BadInput(f"{len(left)} heads in {groups} groups do not share their factors. Give one group a head.")
    base, triangle = torch.linalg.qr(first)
    turn = triangle.repeat_interleave(share, dim=0) @ turn
    turn = rearrange(turn, "(group head) k h -> group k (head h)", group=groups)
    return Readers(rearrange(base, "group d h -> d group h"), turn, spectrum)


def write_layer(lm: "LM", layer: int, setting: Setting = DEFAULT) -> Writers:
    """What the heads of a layer write, float64."""
    return moved(ov(lm, layer, setting), d_model=lm.spec.d_model, groups=lm.spec.n_kv_heads)[0]


def read_layer(
    lm: "LM", layer: int, kinds: Iterable[str], setting: Setting = DEFAULT, *, offset: int | None = None
) -> dict[str, Readers]:
    """How the heads of a layer read, float64, for each of `kinds`.

    A head whose window ends before `offset` does not read there. Raises `BadInput` as `qk` does.
    """
    spec, wanted = lm.spec, tuple(kinds)
    for kind in wanted:
        one_of("kind", kind, KINDS)
    if offset is not None and set(wanted) <= {"V"}:
        raise BadInput(f"values are read alike at every distance; leave out offset={offset!r} for kind 'V'.")
    found: dict[str, Readers] = {}
    if {"Q", "K"} & set(wanted):
        found = weighed(qk(lm, layer, setting, offset=offset), d_model=spec.d_model, groups=spec.n_kv_heads)
        if not reaches(lm, layer, offset):
            found = {kind: readers.unread() for kind, readers in found.items()}
    if "V" in wanted:
        found["V"] = moved(ov(lm, layer, setting), d_model=spec.d_model, groups=spec.n_kv_heads)[1]
    return {kind: found[kind] for kind in wanted}


def scores_into(
    lm: "LM", reader: "str | Head", *, kind: str, setting: Setting = DEFAULT, offset: int | None = None
) -> xr.DataArray:
    """Scores of every earlier component into one input of one head, [layer, head, component], float64; NaN where there is none.

    Raises `BadInput` for a head of the first layer, into which nothing is written.
    """
    head = Head.parse(reader).check(lm)
    if head.layer == 0:
        raise BadInput(f"no head writes into {str(head)!r}: it is in the first layer. Name a head of a later layer.")
    into = read_layer(lm, head.layer, [kind], setting, offset=offset)[kind].only(head.head)
    layers = [write_layer(lm, layer, setting).score(into)[..., 0].numpy() for layer in range(head.layer)]
    return xr.DataArray(np.stack(layers), dims=("layer", "head", "component"), name="score")


def scores_of(
    lm: "LM", writer: "str | Component", *, kind: str, setting: Setting = DEFAULT, offset: int | None = None
) -> xr.DataArray:
    """Scores of one component into every later head, [reader_layer, reader_head], float64; NaN where a head does not read.

    Raises `BadInput` for a component beyond its head's rank, one that cannot be told from its neighbours, and of the last layer.
    """
    name = Component.parse(writer).check(lm)
    later = range(name.layer + 1, lm.spec.n_layers)
    if not later:
        raise BadInput(
            f"no head reads what {str(name)!r} writes: it is in the last layer. Name one of an earlier layer."
        )
    single(lm, name, setting)  # refuses what does not exist, and what cannot be told from its neighbours
    one = write_layer(lm, name.layer, setting).only(name.head, name.index)
    rows = [one.score(read_layer(lm, layer, [kind], setting, offset=offset)[kind])[0, 0].numpy() for layer in later]
    return xr.DataArray(
        np.stack(rows), {"reader_layer": list(later)}, dims=("reader_layer", "reader_head"), name="score"
    )
