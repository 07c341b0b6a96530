"""Selection in bfloat16 that is that of float32: a cheap product bounds every score, and only what could matter is computed.

    import torch
    from interp.core.dictionary import Dictionary, DictionaryConfig, View
    from interp.train.screen import Screen, screened_rows
    view = View("in", width=8)
    sae = Dictionary.initialise(DictionaryConfig(64, (view,), (view,), activation="topk", k=2))
    found = screened_rows(Screen(sae, [torch.eye(8)], sae.scale()), 2)     # scores, ids, codes [row, k]
    found.certified                                                        # [row]: this is what float32 gives

The product of `core.topk` in bfloat16, with two more columns, is not the pre-activation but a bound that none exceeds. The candidates
with the largest bounds are computed again in float32 (dot products by index), and the k largest of these are those of the row if

    the k-th score exceeds the largest bound that was left out, and the next score, by more than float32 products can be off.

A row for which that does not hold is multiplied out in float32, so screening changes the time and never a set. Over a batch: candidates
are all whose bound is not below nine tenths of the last step's cut; a row with a score that is within rounding of the new cut is multiplied
out, and the cut is made again; and if there are too few candidates, or the cut comes near that bar, the whole batch is.

When it misleads. It is of use only where bfloat16 products have instructions of their own (`core.topk.fast_bfloat16`), and on rows with
scores well apart; where `k` is a large part of the latents, most rows have near-ties and are multiplied out.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..core.dictionary import Dictionary
from ..core.dictionary import select as pick
from ..core.dictionary.kernels import bag_values_grad
from ..core.dictionary.select import select_topk
from ..core.topk import CLOSE, bounded, fast_bfloat16, unrounded

SPARE = 0.5
"""Candidates of a row beyond k, relative to k; 16 at least."""
DOUBT = 4.0
"""Rounding errors of float32 products that two scores must be apart: each of two ways to compute each of the two."""


def can_screen(dictionary: Dictionary, wanted: bool | None) -> bool:
    """Whether to: as wanted, or (None) where it pays; only for float32 weights and views that are read by every latent."""
    whole = all(view.latents in (None, (0, dictionary.latents)) for view in dictionary.config.reads)
    able = whole and dictionary.dtype == torch.float32
    return able and (fast_bfloat16(dictionary.device) if wanted is None else wanted)


@dataclass(frozen=True)
class Rows:
    """What screening made of each row."""

    scores: Tensor
    """[row, k], falling."""
    ids: Tensor
    codes: Tensor
    certified: Tensor
    """Bool [row]."""


class Screen:
    """Bounds of all scores [row, latent], tile by tile, and exact scores of some."""

    def __init__(self, dictionary: Dictionary, inputs: Sequence[Tensor], scale: Tensor | None) -> None:
        self.inputs, self.weights = list(inputs), [weight.detach() for weight in dictionary.encoders]
        self.bias, self.scale = dictionary.b_enc.detach(), scale
        x, w = (
            torch.cat(self.inputs, dim=1),
            torch.cat(self.weights, dim=1) if len(self.weights) > 1 else self.weights[0],
        )
        self.left, self.right = bounded(x, side="row"), bounded(w, side="column").T
        length = w.norm(dim=1) if scale is None else w.norm(dim=1) * scale
        spread = float((self.bias.abs() if scale is None else self.bias.abs() * scale).amax())
        self.doubt = DOUBT * CLOSE * (x.norm(dim=1) * length.amax() + spread)
        """By how much scores of a row may be off, several times over [row]."""
        self.raised = self.bias + 2.0**-20 * self.bias.abs()

    def bounds(self, rows: slice) -> Tensor:
        """Upper bounds of the pre-activations of some rows, [row, latent], float32; times the scale they are bounds of the scores.

        What `unrounded` and `raised` add covers the rounding of the sum and of that product, too.
        """
        return unrounded(self.left[rows] @ self.right).add_(self.raised)

    def codes(self, ids: Tensor, offsets: Tensor, of: Tensor) -> Tensor:
        """Pre-activations in float32 of entries [some]."""
        out = self.bias[ids]
        for x, weight in zip(self.inputs, self.weights, strict=True):
            out = out + bag_values_grad(x, weight, ids, offsets, of)
        return out

    def scored(self, codes: Tensor, ids: Tensor) -> Tensor:
        """Scores of codes."""
        return codes if self.scale is None else codes * self.scale[ids]

    def steps(self, device: str) -> range:
        """Where tiles of rows begin."""
        step = max(1, pick.TILE.get(device, pick.WIDE) * 16 // self.right.shape[1])
        return range(0, len(self.left), step)


def screened_rows(screen: Screen, k: int) -> Rows:
    """The k largest scores of each row."""
    latents, rows = screen.right.shape[1], len(screen.left)
    most = min(latents, k + 1 + max(16, int(SPARE * k)))
    steps = screen.steps(screen.left.device.type)
    ids, left_out = [], []
    for start in steps:
        tile = screen.bounds(slice(start, start + steps.step))
        bound, best = select_topk(tile, min(most + 1, latents), scale=screen.scale)
        ids.append(best[:, :most])
        left_out.append(bound[:, most] if most < latents else torch.full_like(bound[:, 0], -torch.inf))
    candidates = torch.cat(ids)
    offsets = torch.arange(rows + 1, device=candidates.device) * most
    of = torch.arange(rows, device=candidates.device).repeat_interleave(most)
    codes = screen.codes(candidates.flatten(), offsets, of)
    scores = screen.scored(codes, candidates.flatten()).view(rows, most)
    values, order = scores.topk(min(k + 1, most), dim=1)
    last = values[:, k - 1]
    certified = (last > screen.doubt) & (last - torch.cat(left_out) > screen.doubt)
    if most > k:
        certified &= last - values[:, k] > screen.doubt
    order = order[:, :k]
    return Rows(values[:, :k], candidates.gather(1, order), codes.view(rows, most).gather(1, order), certified)


def screened_batch(screen: Screen, count: int, hint: float) -> "tuple[Tensor, Tensor, Tensor, Tensor] | None":
    """Candidates for the `count` largest of a batch: numbers in the flattened batch, scores, codes, and the rows that are in doubt.

    Those rows are to be multiplied out before the cut is made. None: nothing is certain, do all of it without a screen.
    """
    bar, latents, rows = pick.MARGIN * hint, screen.right.shape[1], len(screen.left)
    parts = []
    steps = screen.steps(screen.left.device.type)
    for start in steps:
        tile = screen.bounds(slice(start, start + steps.step))
        found = pick.candidates(tile, bar, scale=screen.scale, most=pick.CROWD * count)
        if found is None:
            return None
        parts.append(found[0] + start * latents)
    flat = torch.cat(parts)
    if len(flat) < count:
        return None
    of = flat.div(latents, rounding_mode="floor")
    ids = flat - of * latents
    counts = torch.bincount(of, minlength=rows)
    codes = screen.codes(ids, torch.cat([counts.new_zeros(1), counts.cumsum(0)]), of)
    scores = screen.scored(codes, ids)
    cut = scores.topk(count, sorted=False).values.min()
    if float(cut) <= bar + float(screen.doubt.max()):
        return None
    near = (scores - cut).abs() <= screen.doubt[of] + screen.doubt.max()
    near &= scores != cut if int(near.sum()) == 1 else near  # the cut is near itself
    return flat, scores, codes, of[near].unique()
