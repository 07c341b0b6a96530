"""Which latents are on: the largest scores of each row, or of a whole batch, without sorting what cannot be among them.

    import torch
    from interp.core.dictionary.select import select_batch, select_topk
    scores = torch.randn(8, 1000, generator=torch.Generator().manual_seed(0))
    values, ids = select_topk(scores, 32)                        # [row, 32], falling
    chosen = select_batch(scores, 32 * len(scores))              # chosen.flat rising, chosen.values, chosen.cut
    select_batch(scores, 32 * len(scores), hint=chosen.cut)      # the same, sooner

Both are exact. The k largest entries of a row lie in the k groups with the largest maxima, so one pass of maxima over groups of 16 leaves
a sixteenth to look at. Over a batch, the `count` largest entries are all at or above the `count`-th largest maximum of a group; and a cut
that is known to be a little too low (nine tenths of the last step's) does as well and costs no sort at all. Where it was not low enough,
and too few entries are above it, the maxima are sorted after all (`fell_back`): a hint changes the time, never the set.

Only what is above zero can be on. Of equal scores at the cut, those with the lowest numbers are taken: the same set on every device. A
`scale` [latent] multiplies the scores in passing, tile by tile, so that the scaled matrix is never held.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import BadInput

GROUP = 16
"""Entries of which only the largest is looked at first."""
MARGIN = 0.9
"""Where candidates begin, relative to the cut of the step before."""
CROWD = 8
"""Times the wanted number beyond which a hint is not used: the codes have grown so much that it saves nothing."""
TILE = {"cpu": 2**19}
"""Entries that are scored at once: 2 MB in float32, which stays in the cache."""
WIDE = 2**27
"""The same on other devices."""


@dataclass(frozen=True)
class Chosen:
    """The largest entries of a whole matrix of scores."""

    flat: Tensor
    """Their numbers in the flattened matrix, row * latents + latent, int64 [on], rising."""
    values: Tensor
    """Their (scaled) scores [on], all above zero."""
    cut: float
    """The smallest of them; 0 if there are none."""
    fell_back: bool
    """A hint was given, and was of no use."""


def active_count(k: float, rows: int) -> int:
    """How many codes of a batch of rows are on where k a row are on average."""
    return max(1, round(k * rows))


def select_topk(scores: Tensor, k: int, *, scale: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """The k largest entries of each row of scores [row, latent] (times `scale` [latent]): values and ids [row, k], falling.

    Of equal values above zero the lower ids come first and are kept; entries that are not above zero are never on, and come in any order.
    Raises `BadInput` for NaN and for k outside of 1 to the number of latents.
    """
    rows, latents = scores.shape
    if not 1 <= k <= latents:
        raise BadInput(f"k={k} latents of a row, and there are {latents}. Ask for 1 to {latents}.")
    values = torch.empty(rows, k, dtype=_scored(scores.dtype), device=scores.device)
    ids = torch.empty(rows, k, dtype=torch.int64, device=scores.device)
    for start, tile in _tiles(scores, scale):
        stop = start + len(tile)
        values[start:stop], ids[start:stop] = _topk(tile, k)
    if bool(values[:, 0].isnan().any()):
        raise BadInput(_NAN)
    return values, ids


def select_batch(scores: Tensor, count: int, hint: float | None = None, *, scale: Tensor | None = None) -> Chosen:
    """The `count` largest entries above zero of the whole matrix of scores [row, latent] (times `scale` [latent]).

    `hint` is the cut of the step before, of the same matrix or a similar one; without one the maxima of groups are sorted. Raises
    `BadInput` for NaN and for a count below 1.
    """
    if count < 1:
        raise BadInput(f"{count} entries of a batch cannot be on. Ask for at least 1.")
    hinted = hint is not None and hint > 0
    if hinted:
        found = candidates(scores, MARGIN * float(hint or 0), scale=scale, most=CROWD * count)
        if found is not None and len(found[0]) >= count:
            return chosen(*found, count)
    found = candidates(scores, bar_of(maxima(scores, scale=scale), count), scale=scale)
    assert found is not None
    return chosen(*found, count, hinted)


def maxima(scores: Tensor, *, scale: Tensor | None = None) -> Tensor:
    """The largest entry of each group of scores [row, latent]: [row, group]. Raises `BadInput` for NaN."""
    return torch.cat([_maxima(tile) for _, tile in _tiles(scores, scale)])


def bar_of(tops: Tensor, count: int) -> float:
    """A number that at least `count` entries reach, if so many are above zero: the `count`-th largest maximum; 0 for none."""
    if bool(tops.isnan().any()):
        raise BadInput(_NAN)
    flat = tops.flatten()
    return max(0.0, float(flat.topk(count, sorted=False).values.min())) if count <= len(flat) else 0.0


def candidates(
    scores: Tensor, bar: float, *, scale: Tensor | None = None, most: int | None = None
) -> "tuple[Tensor, Tensor] | None":
    """Every entry that is above zero and not below `bar`: numbers in the flattened matrix (rising) and scores.

    None as soon as there are more than `most`. Raises `BadInput` for NaN.
    """
    latents, held = scores.shape[1], 0
    numbers = [torch.zeros(0, dtype=torch.int64, device=scores.device)]
    values = [torch.zeros(0, dtype=_scored(scores.dtype), device=scores.device)]
    for start, tile in _tiles(scores, scale):
        tops = _maxima(tile)
        if bool(tops.isnan().any()):
            raise BadInput(_NAN)
        row, group = _at_least(tops, bar).nonzero(as_tuple=True)
        inside = _members(tile, row, group)
        place = _at_least(inside[1], bar).nonzero(as_tuple=True)
        numbers.append((row[:, None] * latents + inside[0])[place] + start * latents)
        values.append(inside[1][place])
        held += len(values[-1])
        if most is not None and held > most:
            return None
    flat, order = torch.cat(numbers).sort()
    return flat, torch.cat(values)[order]


def chosen(flat: Tensor, values: Tensor, count: int, fell_back: bool = False) -> Chosen:
    """The `count` largest of candidates (numbers rising): the lowest numbers, of those that are equal at the cut."""
    if len(flat) > count:
        cut = values.topk(count, sorted=False).values.min()
        keep, equal = values > cut, (values == cut).nonzero().flatten()
        keep[equal[: count - int(keep.sum())]] = True
        flat, values = flat[keep], values[keep]
    return Chosen(flat, values, float(values.min()) if len(values) else 0.0, fell_back)


def _topk(tile: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Values and ids [row, k] of a tile."""
    latents = tile.shape[1]
    more = min(k + 1, latents)  # the next one says whether the last is chosen by its value or by its id
    if 4 * more * GROUP > 3 * latents:
        value, ids = tile.topk(more, dim=1)
    else:
        value, ids = _grouped(tile, more)
    tied = ((value[:, 1:] == value[:, :-1]) & (value[:, 1:] > 0)).any(dim=1).nonzero().flatten()
    if len(tied):
        value[tied], ids[tied] = _ordered(tile[tied], value[tied], more)
    return value[:, :k], ids[:, :k]


def _grouped(tile: Tensor, more: int) -> tuple[Tensor, Tensor]:
    """The same through the groups with the largest maxima; latents beyond the last whole group are candidates besides."""
    groups = tile.shape[1] // GROUP
    body = tile[:, : groups * GROUP].view(len(tile), GROUP, groups)
    group = body.amax(dim=1).topk(more, dim=1, sorted=False).indices
    inside = body.gather(2, group[:, None].expand(-1, GROUP, -1)).flatten(1)
    if tile.shape[1] % GROUP:
        inside = torch.cat([inside, tile[:, groups * GROUP :]], dim=1)
    value, place = inside.topk(more, dim=1)
    ids = place.div(more, rounding_mode="floor") * groups + group.gather(1, place % more)
    alone = place - GROUP * more
    return value, torch.where(alone >= 0, groups * GROUP + alone, ids)


def _ordered(rows: Tensor, value: Tensor, more: int) -> tuple[Tensor, Tensor]:
    """The largest of a few rows, equal ones by rising id."""
    reach = rows >= value[:, -1:]
    if int(reach.sum(dim=1).max()) > 4 * more:
        order = rows.argsort(dim=1, descending=True, stable=True)[:, :more]
        return rows.gather(1, order), order
    widest = int(reach.sum(dim=1).max())
    ids = torch.where(reach, torch.arange(rows.shape[1], device=rows.device), rows.shape[1])
    ids = ids.topk(widest, dim=1, largest=False).values.sort(dim=1).values
    held = rows.gather(1, ids.clamp(max=rows.shape[1] - 1)).masked_fill(ids == rows.shape[1], -torch.inf)
    order = held.argsort(dim=1, descending=True, stable=True)[:, :more]
    return held.gather(1, order), ids.gather(1, order)


def _maxima(tile: Tensor) -> Tensor:
    """[row, group]: group g holds every latent that is g modulo the number of whole groups; what is left over forms one group each."""
    groups = tile.shape[1] // GROUP
    tops = tile[:, : groups * GROUP].view(len(tile), GROUP, groups).amax(dim=1)
    return torch.cat([tops, tile[:, groups * GROUP :]], dim=1) if tile.shape[1] % GROUP else tops


def _members(tile: Tensor, row: Tensor, group: Tensor) -> tuple[Tensor, Tensor]:
    """Ids and scores [hit, GROUP] of groups; a group of one latent has its id once, and -inf besides."""
    latents = tile.shape[1]
    groups = latents // GROUP
    ids = group[:, None] + groups * torch.arange(GROUP, device=tile.device)
    if latents % GROUP:
        alone = group >= groups
        ids[alone] = groups * GROUP + (group[alone] - groups)[:, None]
    values = tile.reshape(-1)[row[:, None] * latents + ids]
    if latents % GROUP:
        values[:, 1:] = values[:, 1:].masked_fill(alone[:, None], -torch.inf)
    return ids, values


def _at_least(values: Tensor, bar: float) -> Tensor:
    return values >= bar if bar > 0 else values > 0


def _tiles(scores: Tensor, scale: Tensor | None) -> Iterator[tuple[int, Tensor]]:
    """Rows of scaled scores with the number of the first, small enough to stay in the cache. A tile is good until the next one."""
    rows, latents = scores.shape
    step = max(1, TILE.get(scores.device.type, WIDE) // latents)
    wide = _scored(scores.dtype)
    held = None if scale is None else torch.empty(min(step, rows), latents, dtype=wide, device=scores.device)
    for start in range(0, rows, step):
        part = scores[start : start + step].to(wide)
        yield start, part if held is None or scale is None else torch.mul(part, scale, out=held[: len(part)])


def _scored(dtype: torch.dtype) -> torch.dtype:
    """Scores are compared in float32 at least."""
    return torch.promote_types(dtype, torch.float32)


_NAN = (
    "scores have NaN, and no largest entry. Look at the rows for numbers that are not finite, and at the learning rate."
)
