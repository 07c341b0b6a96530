"""Who is able to talk to whom: composition scores of components with reader heads, computed where they are asked for.

    able = |v M| / |M|_F        v what the component writes, M the reader's QK (kind Q), QKᵀ (K) or OV (V)

`z` is the same in standard deviations from the mean of the writing head's other components, so a head that talks to everybody (along
the direction of a common mean, say) does not stand out with all it has.

This is the small table that methods on data need, for named writers or for the strongest channels; `Channels` is the whole map.

    from interp.analyses.channels.use.able import Ability
    table = Ability(lm)
    table.strongest(3, kinds=("V",))
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from einops import rearrange
from torch import Tensor

from interp.core.errors import BadInput, one_of

from ..component import Component, Head, many_components
from ..decompose import DEGENERATE, Components, decompose, single
from ..factors import DEFAULT, KINDS, Setting, reader
from ..nulls import outstanding

if TYPE_CHECKING:
    from interp.core.lm import LM

RANKINGS = ("z", "score")


@dataclass(frozen=True)
class Channel:
    """A writer, the head that reads it, and through which input."""

    writer: Component
    kind: str
    reader: Head

    def __post_init__(self) -> None:
        one_of("kind", self.kind, KINDS)
        if self.writer.layer >= self.reader.layer:
            raise BadInput(
                f"{self.writer} is in layer {self.writer.layer} and cannot be read by {self.reader} in layer {self.reader.layer}: what a "
                "head writes reaches later layers only. Name a reader in a later layer."
            )

    @property
    def link(self) -> str:
        """The reading side alone: `Q 9.9`."""
        return f"{self.kind} {self.reader}"

    def __str__(self) -> str:
        return f"{self.writer} {self.link}"


def writer_of(name: "str | Component | Head") -> Component | Head:
    """`"8.10"` as a head, `"8.10.1"` as a component. Raises `BadInput` for anything else."""
    if isinstance(name, Component | Head):
        return name
    if str(name).count(".") == 1:
        return Head.parse(name)
    return Component.parse(name)


class Ability:
    """Composition scores of one model in one setting; decompositions and readers are kept from one question to the next."""

    def __init__(self, lm: "LM", setting: Setting = DEFAULT, *, offset: int | None = None) -> None:
        """`offset`: the distance at which rotary models' Q and K are taken, the token before by default; other models take none."""
        if setting.biases:
            raise BadInput("the constant that biases read is on no channel; use a Setting without biases.")
        if offset is not None and lm.spec.positions != "rotary":
            raise BadInput(f"offset={offset!r} is for models with rotary positions; {lm.spec.name} has one QK for all.")
        self.lm, self.setting = lm, setting
        self.offset = (1 if offset is None else offset) if lm.spec.positions == "rotary" else None
        self._parts: dict[int, Components] = {}
        self._sides: dict[tuple[int, str], Tensor] = {}

    def parts(self, layer: int) -> Components:
        """Components of a layer's heads."""
        if layer not in self._parts:
            self._parts[layer] = decompose(self.lm, layer, self.setting)
        return self._parts[layer]

    def alone(self, layer: int) -> Tensor:
        """Which components are there and can be told from their neighbours, bool [head, component]."""
        s = self.parts(layer).values
        close = (s[:, :-1] - s[:, 1:]) <= DEGENERATE * s[:, :-1]
        none = torch.zeros_like(s[:, :1], dtype=torch.bool)
        return (s > 0) & ~torch.cat([none, close], 1) & ~(torch.cat([close, none], 1) & (s > 0))

    def scores(
        self, layer: int, kind: str, reader_layer: int, *, dtype: torch.dtype = torch.float64
    ) -> tuple[Tensor, Tensor]:
        """Scores of the components of a layer's heads with the heads of a later one, and their z, [head, component, reader head].

        NaN beyond a writer's rank and for a reader that is zero. `dtype` is that of the products.
        """
        if (reader_layer, kind) not in self._sides:
            offset = None if kind == "V" else self.offset
            self._sides[reader_layer, kind] = reader(self.lm, reader_layer, kind, self.setting, offset=offset).side
        side = self._sides[reader_layer, kind]
        read = rearrange(side, "reader d h -> d (reader h)").to(dtype)
        write = self.parts(layer).write
        product = rearrange(write, "head component d -> (head component) d").to(dtype) @ read
        squares = rearrange(product.square(), "row (reader h) -> row reader h", reader=len(side)).sum(dim=-1)
        score = rearrange(squares.sqrt(), "(head component) reader -> head component reader", head=len(write))
        return score, outstanding(score.movedim(1, -1)).movedim(-1, 1)

    def of(self, channels: Sequence[Channel]) -> tuple[list[float], list[float]]:
        """Score and z of each channel."""
        score, z = [float("nan")] * len(channels), [float("nan")] * len(channels)
        tiles: dict[tuple[int, str, int], list[int]] = {}
        for place, channel in enumerate(channels):
            tiles.setdefault((channel.writer.layer, channel.kind, channel.reader.layer), []).append(place)
        for tile, places in tiles.items():
            scores, apart = self.scores(*tile)
            for place in places:
                channel = channels[place]
                at = (channel.writer.head, channel.writer.index, channel.reader.head)
                score[place], z[place] = float(scores[at]), float(apart[at])
        return score, z

    def strongest(
        self,
        n: int,
        *,
        kinds: Sequence[str] = KINDS,
        writers: Iterable["Component | Head"] | None = None,
        readers: Iterable[Head] | None = None,
        by: str = "z",
    ) -> list[Channel]:
        """The `n` channels of highest z (or score) from components of `writers` to `readers`, all heads where None, best first.

        Components that cannot be told from their neighbours are left out. Raises `BadInput` where there is no pair in the right order.
        """
        one_of("rank_by", by, RANKINGS)
        spec = self.lm.spec
        if by == "z":
            many_components(self.lm)
        may_read = _heads(spec.n_layers, spec.n_heads, readers)
        may_write = {layer: self._may_write(layer, writers) for layer in range(spec.n_layers - 1)}
        found: list[tuple[float, Channel]] = []
        for layer, mine in may_write.items():
            for later in range(layer + 1, spec.n_layers):
                if not (mine.any() and may_read[later].any()):
                    continue
                for kind in kinds:
                    score, z = self.scores(layer, kind, later, dtype=torch.float32)  # a search; `of` says the numbers
                    value = (z if by == "z" else score).masked_fill(~mine[..., None], torch.nan)
                    found += _best(value[:, :, may_read[later]], n, layer, kind, later, may_read[later])
            found = sorted(found, key=lambda item: -item[0])[:n]
        if not found:
            raise BadInput(
                "no component of the writers is in a layer before one of the readers (and can be told from its neighbours). "
                "Name earlier writers or later readers."
            )
        return [channel for _, channel in found]

    def _may_write(self, layer: int, writers: Iterable["Component | Head"] | None) -> Tensor:
        alone = self.alone(layer)
        if writers is None:
            return alone
        named = torch.zeros_like(alone)
        for writer in writers:
            if writer.layer == layer:
                named[writer.head, writer.index if isinstance(writer, Component) else slice(None)] = True
        return named & alone


def named(lm: "LM", writers: Sequence[str], setting: Setting) -> list[Component | Head]:
    """Writers by name. Raises `BadInput` for those the model lacks, and for what `single` refuses or writes nothing."""
    found: list[Component | Head] = []
    for name in writers:
        writer = writer_of(name).check(lm)
        if isinstance(writer, Component):
            single(lm, writer, setting)
        elif not int(decompose(lm, writer.layer, setting, heads=[writer.head]).rank[0]):
            raise BadInput(f"head {name!r} writes nothing: its OV matrix is zero. Name another.")
        found.append(writer)
    return found


def _heads(n_layers: int, n_heads: int, heads: Iterable[Head] | None) -> Tensor:
    """bool [layer, head]"""
    mask = torch.zeros(n_layers, n_heads, dtype=torch.bool)
    if heads is None:
        return ~mask
    for head in heads:
        mask[head.layer, head.head] = True
    return mask


def _best(value: Tensor, n: int, layer: int, kind: str, later: int, readers: Tensor) -> list[tuple[float, Channel]]:
    """The `n` largest of values [head, component, reader head], NaN left out, as channels."""
    flat = value.masked_fill(value.isnan(), -torch.inf).flatten()
    top = flat.topk(min(n, flat.numel()))
    numbers = readers.nonzero()[:, 0].tolist()
    out = []
    for worth, place in zip(top.values.tolist(), top.indices.tolist(), strict=True):
        if worth > -torch.inf:
            rest, column = divmod(place, value.shape[2])
            head, index = divmod(rest, value.shape[1])
            out.append((worth, Channel(Component(layer, head, index), kind, Head(later, numbers[column]))))
    return out
