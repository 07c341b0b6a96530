"""The encoder of the sparse step: one dense product, of which only the codes that are on are kept.

    import torch
    from interp.core.dictionary import Dictionary, DictionaryConfig, View
    from interp.train.distributed import Parallel
    from interp.train.encode import encode
    view = View("in", width=8)
    sae = Dictionary.initialise(DictionaryConfig(16, (view,), (view,), activation="topk", k=2))
    found = encode(sae, [torch.eye(8) - sae.b_dec], k=2, parallel=Parallel.none(), dead=torch.tensor([3, 5]), most=1)
    found.on.ids, found.on.values        # the codes that are on
    found.dead                           # what the dead latents would say, for the auxiliary loss

The pre-activations [row, latent] are the only dense thing there is. They are made in tiles of rows where they would be too large (`HELD`),
and written over in the next step. A batch's cut is exact across tiles and across processes: each tile gives all that is not below a bar,
and the cut is made among these. Scores are codes times the dictionary's scale; what is kept is the code.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from ..core.dictionary import Dictionary
from ..core.dictionary import select as pick
from ..core.dictionary.select import active_count, select_topk
from .screen import Screen, can_screen, screened_batch, screened_rows

if TYPE_CHECKING:
    from .distributed.parallel import Parallel

HELD = {"cpu": 2**26}
"""Pre-activations that exist at once: 256 MB in float32."""
WIDE = 2**30
"""The same on other devices."""

DENSE = 4
"""Dead latents, relative to those that may speak in a row, up to which products with all of them are faster than with those that speak."""
FEW = 4
"""There must be so many times more latents than dead ones, for the dead ones to be multiplied apart where the rest is screened."""

_scratch: "WeakKeyDictionary[Dictionary, Tensor]" = WeakKeyDictionary()


@dataclass(frozen=True)
class Entries:
    """Codes in compressed rows."""

    ids: Tensor
    """Latents [on], rising or in any order within a row."""
    values: Tensor
    """Codes [on], above zero, unscaled."""
    offsets: Tensor
    """int64 [row + 1]."""
    of: Tensor
    """Row of each, int64 [on]."""

    @classmethod
    def of_rows(cls, rows: int, of: Tensor, ids: Tensor, values: Tensor) -> "Entries":
        """From entries whose rows do not fall."""
        counts = torch.bincount(of, minlength=rows)
        return cls(ids, values, torch.cat([counts.new_zeros(1), counts.cumsum(0)]), of)

    def within(self, low: int, high: int) -> tuple["Entries", "Tensor | None"]:
        """Those of latents [low, high), numbered from `low`, and which they are (None: all)."""
        rows = len(self.offsets) - 1
        places = ((self.ids >= low) & (self.ids < high)).nonzero().flatten()
        if len(places) == len(self.ids):
            return (self if low == 0 else Entries(self.ids - low, self.values, self.offsets, self.of)), None
        return Entries.of_rows(rows, self.of[places], self.ids[places] - low, self.values[places]), places


@dataclass(frozen=True)
class Block:
    """Codes of a few latents, dense."""

    latents: Tensor
    """Which, int64 [some]."""
    codes: Tensor
    """[row, some]; zero where off."""


@dataclass(frozen=True)
class Encoded:
    """What came out of the encoder."""

    on: Entries
    dead: "Entries | Block | None"
    """The largest codes of dead latents, if these were asked for: dense where most of them are among the largest."""
    cut: float
    """The smallest scaled code that is on; 0 for none."""
    fallback: int
    """Whole selections for which the hint was of no use, or rows that a screen did not certify."""


def encode(
    dictionary: Dictionary,
    inputs: Sequence[Tensor],
    *,
    k: float,
    parallel: "Parallel",
    hint: float | None = None,
    dead: Tensor | None = None,
    most: int = 0,
    screen: bool | None = None,
) -> Encoded:
    """Select the codes of a batch. `dead` [some] are latents of which the `most` largest positive codes of each row are given besides.

    `screen`: see `screen`; by default where bfloat16 is fast. Raises `BadInput` for NaN.
    """
    product = _Product(dictionary, inputs)
    scale = None if dictionary.config.code_scale == "none" else dictionary.scale().detach().to(product.wide)
    few = dead is None or len(dead) * FEW <= dictionary.latents
    product.screen = Screen(dictionary, inputs, scale) if few and can_screen(dictionary, screen) else None
    if dictionary.config.activation == "topk":
        on, cut, fallback = _rows(product, max(1, round(k)), scale, parallel)
    else:
        count = active_count(k, parallel.total(product.rows))
        on, cut, fallback = _batch(product, count, hint, scale, parallel)
    return Encoded(on, None if dead is None else _dead(product, dead, most, scale, parallel), cut, fallback)


class _Product:
    """Pre-activations, tile by tile; if there is one tile it is multiplied once."""

    def __init__(self, dictionary: Dictionary, inputs: Sequence[Tensor]) -> None:
        self.dictionary, self.inputs = dictionary, inputs
        self.rows, self.latents = len(inputs[0]), dictionary.latents
        self.wide = torch.promote_types(dictionary.dtype, torch.float32)
        held = HELD.get(dictionary.device.type, WIDE)
        self.tile = max(1, min(self.rows, held // self.latents))
        self.done = -1
        self.screen: Screen | None = None

    def some(self, rows: Tensor) -> Tensor:
        """Pre-activations of a few rows, [some, latent]."""
        out = torch.empty(len(rows), self.latents, dtype=self.dictionary.dtype, device=rows.device)
        self._multiply(rows, out)
        return out

    def columns(self, latents: Tensor) -> Iterator[tuple[int, Tensor]]:
        """Pre-activations [tile, some] of some latents, with the number of the first row; from the whole product, if that was made."""
        step = max(1, pick.TILE.get(latents.device.type, pick.WIDE) // max(1, len(latents)))
        if self.screen is None:
            for start, tile in self.tiles():
                for first in range(0, len(tile), step):
                    yield start + first, tile[first : first + step].index_select(1, latents)
            return
        weights = [weight.detach()[latents].T for weight in self.dictionary.encoders]
        for first in range(0, self.rows, step):
            parts = [x[first : first + step] @ weight for x, weight in zip(self.inputs, weights, strict=True)]
            yield first, torch.stack(parts).sum(dim=0) + self.dictionary.b_enc.detach()[latents]

    def tiles(self) -> Iterator[tuple[int, Tensor]]:
        """Rows of pre-activations [tile, latent] with the number of the first. One is good until the next."""
        out = self._space()
        for start in range(0, self.rows, self.tile):
            stop = min(start + self.tile, self.rows)
            part = out[: stop - start]
            if self.done != start:
                self._multiply(slice(start, stop), part)
                self.done = start
            yield start, part

    def _multiply(self, rows: "slice | Tensor", out: Tensor) -> None:
        dictionary, config = self.dictionary, self.dictionary.config
        begun = False
        for x, weight, view in zip(self.inputs, dictionary.encoders, config.reads, strict=True):
            low, high = config.range_of(view)
            if not begun and high - low == self.latents:
                torch.addmm(dictionary.b_enc.detach(), x[rows], weight.detach().T, out=out)
            else:
                if not begun:
                    out.copy_(dictionary.b_enc.detach().expand_as(out))
                out[:, low:high].addmm_(x[rows], weight.detach().T)
            begun = True

    def _space(self) -> Tensor:
        """Memory of the step before, if it fits: a fresh one costs as much as the selection."""
        like = self.dictionary.b_enc
        held = _scratch.get(self.dictionary)
        if (
            held is None
            or held.shape != (self.tile, self.latents)
            or held.dtype != like.dtype
            or held.device != like.device
        ):
            held = torch.empty(self.tile, self.latents, dtype=like.dtype, device=like.device)
            _scratch[self.dictionary] = held
        return held


def _rows(product: _Product, k: int, scale: Tensor | None, parallel: "Parallel") -> tuple[Entries, float, int]:
    """The k largest of each row, over processes that share the latents too."""
    most = min(k, product.latents)
    if product.screen is not None:
        score, best, code, again = _screened(product, product.screen, most, scale)
    else:
        again, shape = 0, (product.rows, most)
        score = torch.empty(shape, dtype=product.wide, device=product.inputs[0].device)
        code, best = torch.empty_like(score, dtype=product.dictionary.dtype), torch.empty_like(score, dtype=torch.int64)
        for start, tile in product.tiles():
            rows = slice(start, start + len(tile))
            score[rows], best[rows] = select_topk(tile, most, scale=scale)
            torch.gather(tile, 1, best[rows], out=code[rows])
    on = _winners(score, k, parallel)
    row = torch.arange(len(score), device=score.device)[:, None].expand_as(best)
    entries = Entries.of_rows(product.rows, row[on], best[on], code[on])
    return entries, float(score[on].min()) if len(entries.ids) else 0.0, again


def _winners(score: Tensor, k: int, parallel: "Parallel") -> Tensor:
    """Which of the scores [row, at most k] (falling, the k largest that are here) are among the k largest of their row."""
    if parallel.latents.size == 1:
        return score > 0
    cut, ties = parallel.row_cut(score, k)
    equal = (score == cut[:, None]) & (score > 0)
    return (score > cut[:, None]) | (equal & (equal.cumsum(1) <= ties[:, None]))


def _screened(product: _Product, screen: Screen, k: int, scale: Tensor | None) -> tuple[Tensor, Tensor, Tensor, int]:
    """Scores, latents and codes [row, k] from bounds, and how many rows were not certified and are multiplied out."""
    found = screened_rows(screen, k)
    score, best, code = found.scores, found.ids, found.codes
    again = (~found.certified).nonzero().flatten()
    for rows in again.split(product.tile):
        tile = product.some(rows)
        score[rows], best[rows] = select_topk(tile, k, scale=scale)
        code[rows] = tile.gather(1, best[rows])
    return score, best, code, len(again)


def _batch(
    product: _Product, count: int, hint: float | None, scale: Tensor | None, parallel: "Parallel"
) -> tuple[Entries, float, int]:
    """The `count` largest of the whole batch, over tiles and processes."""
    hinted = hint is not None and hint > 0
    if hinted and product.screen is not None and parallel.size == 1:
        done = _screened_batch(product, product.screen, count, float(hint or 0), scale)
        if done is not None:
            return done
    product.screen = None
    found = _above(product, pick.MARGIN * float(hint or 0), scale, pick.CROWD * count) if hinted else None
    useful = found is not None and len(found[0]) >= count
    if parallel.size > 1:
        enough = int(parallel.world.sum_(torch.tensor(0 if found is None else len(found[0])))) >= count
        useful = parallel.agree(found is not None, every=True) and enough
    if not useful:
        tops = [pick.maxima(tile, scale=scale) for _, tile in product.tiles()]
        bar = pick.bar_of(torch.cat(tops), count) if tops else 0.0
        found = _above(product, bar, scale, None)
    assert found is not None
    flat, scores, codes = found
    if parallel.size == 1:
        kept = pick.chosen(flat, scores, count)
        keep, cut = torch.searchsorted(flat, kept.flat), kept.cut
    else:
        cut, ties = parallel.cut(scores, count)
        above = scores > cut
        above[(scores == cut).nonzero().flatten()[:ties]] = True
        keep = above.nonzero().flatten()
    flat, codes = flat[keep], codes[keep]
    of = flat.div(product.latents, rounding_mode="floor")
    return Entries.of_rows(product.rows, of, flat - of * product.latents, codes), cut, int(hinted and not useful)


def _screened_batch(
    product: _Product, screen: Screen, count: int, hint: float, scale: Tensor | None
) -> tuple[Entries, float, int] | None:
    """The same, from bounds; rows with a score that is as good as equal to the cut are multiplied out. None: nothing is certain."""
    found = screened_batch(screen, count, hint)
    if found is None:
        return None
    flat, score, code, rows = found
    of = flat.div(product.latents, rounding_mode="floor")
    keep = ~torch.isin(of, rows)
    parts = [(flat[keep], score[keep], code[keep])]
    for some in rows.split(product.tile):
        tile = product.some(some)
        more = pick.candidates(tile, pick.MARGIN * hint, scale=scale)
        assert more is not None
        place = more[0].div(product.latents, rounding_mode="floor")
        parts.append((more[0] + (some[place] - place) * product.latents, more[1], tile.view(-1)[more[0]]))
    flat, score, code = (torch.cat(column) for column in zip(*parts, strict=True))
    flat, order = flat.sort()
    kept = pick.chosen(flat, score[order], count)
    place = torch.searchsorted(flat, kept.flat)
    of = kept.flat.div(product.latents, rounding_mode="floor")
    ids = kept.flat - of * product.latents
    return Entries.of_rows(product.rows, of, ids, code[order][place]), kept.cut, len(rows)


def _above(
    product: _Product, bar: float, scale: Tensor | None, most: int | None
) -> tuple[Tensor, Tensor, Tensor] | None:
    """Everything above zero and not below the bar: numbers in the flattened batch, scores, codes; None if that is more than `most`."""
    parts = []
    for start, tile in product.tiles():
        found = pick.candidates(tile, bar, scale=scale, most=most)
        if found is None:
            return None
        flat, score = found
        parts.append((flat + start * product.latents, score, tile.view(-1)[flat]))
    if not parts:
        none = product.inputs[0].new_zeros(0)
        return torch.zeros_like(none, dtype=torch.int64), none.to(product.wide), none
    flat, score, code = (torch.cat(column) for column in zip(*parts, strict=True))
    return flat, score, code


def _dead(product: _Product, dead: Tensor, most: int, scale: Tensor | None, parallel: "Parallel") -> "Entries | Block":
    """The `most` largest positive codes of each row among the dead latents."""
    if parallel.latents.size > 1:
        return _shared_dead(product, dead, most, scale, parallel)
    weight = None if scale is None else scale[dead]
    block = product.inputs[0].new_zeros(product.rows, len(dead)) if len(dead) <= DENSE * most else None
    of, ids, values = [], [], []
    for start, code in product.columns(dead):
        place = torch.arange(len(dead), device=dead.device).expand_as(code)
        score = code if weight is None else code * weight
        if len(dead) > most:
            score, place = select_topk(score, most)
            code = code.gather(1, place)
        on = score > 0
        if block is not None:
            block[start : start + len(code)].scatter_(1, place, torch.where(on, code, 0))
        else:
            of.append(on.nonzero()[:, 0] + start)
            ids.append(dead[place[on]])
            values.append(code[on])
    return Block(dead, block) if block is not None else _entries(product, of, ids, values)


def _shared_dead(product: _Product, dead: Tensor, most: int, scale: Tensor | None, parallel: "Parallel") -> Entries:
    """The same where other processes have other dead latents, and this one perhaps none."""
    shape = product.rows, min(most, len(dead))
    score = torch.zeros(shape, dtype=product.wide, device=dead.device)
    place, codes = torch.zeros_like(score, dtype=torch.int64), torch.zeros_like(score, dtype=product.dictionary.dtype)
    for start, code in product.columns(dead) if len(dead) else ():
        rows = slice(start, start + len(code))
        score[rows], place[rows] = select_topk(code, shape[1], scale=None if scale is None else scale[dead])
        codes[rows] = code.gather(1, place[rows])
    on = _winners(score, most, parallel)
    row = torch.arange(product.rows, device=dead.device)[:, None].expand_as(place)
    return Entries.of_rows(product.rows, row[on], dead[place[on]], codes[on])


def _entries(product: _Product, of: list[Tensor], ids: list[Tensor], values: list[Tensor]) -> Entries:
    none = product.inputs[0].new_zeros(0)
    whole = torch.zeros_like(none, dtype=torch.int64)
    return Entries.of_rows(product.rows, torch.cat([whole, *of]), torch.cat([whole, *ids]), torch.cat([none, *values]))
