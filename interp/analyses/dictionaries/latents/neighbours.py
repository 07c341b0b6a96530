"""Which other latents are near a latent: by direction of what they write, and by when they are on."""

from collections.abc import Sequence

import numpy as np
import torch

from interp.core.dictionary import Dictionary
from interp.core.topk import topk

from .tally import Firings, Tally

LEAST = 5
"""Tokens on which a latent must be on for a correlation to be told."""


def by_decoder(dictionary: Dictionary, latents: Sequence[int], count: int) -> tuple[np.ndarray, np.ndarray]:
    """The latents whose decoder rows (of all written views together, normalised space) have the largest cosine: ids and cosines.

    [latent, rank]; -1 and NaN for latents that write nothing.
    """
    parts = [dictionary.decoder(view.name).detach().float().cpu() for view in dictionary.config.writes]
    rows = torch.cat(parts, dim=1)  # [latent, d of all views]
    rows = rows / rows.norm(dim=1, keepdim=True).clamp(min=1e-30)
    count = min(count, dictionary.latents - 1)
    ids, values = np.full((len(latents), max(count, 0)), -1), np.full((len(latents), max(count, 0)), np.nan)
    if count < 1 or not latents:
        return ids, values
    mine = torch.as_tensor(list(latents), dtype=torch.int64)
    top = topk(rows[mine], rows.T, count + 1)
    for place, latent in enumerate(latents):
        if bool(rows[latent].any()):
            keep = (top.ids[place] != latent).nonzero().flatten()[:count]
            ids[place], values[place] = top.ids[place][keep].numpy(), top.values[place][keep].numpy()
    return ids, values


def by_firing(
    firings: Firings, tally: Tally, places: Sequence[int], count: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The latents whose codes correlate most: ids, Pearson correlations over all tokens, and on which share of its tokens both are on.

    [latent, rank], for the chosen latents at `places`; -1 and NaN where fewer are on at all.
    """
    n = max(1, int(tally.rows.sum()))
    total, square, on = tally.total.sum(axis=0), tally.square.sum(axis=0), tally.count.sum(axis=0)
    spread = np.sqrt(np.maximum(square / n - (total / n) ** 2, 0))
    count = min(count, len(total) - 1)
    shape = (len(places), max(count, 0))
    ids, r, share = np.full(shape, -1), np.full(shape, np.nan), np.full(shape, np.nan)
    for row, place in enumerate(places):
        latent = firings.chosen[place]
        known = (on >= LEAST) & (spread > 1e-12)
        if not known[latent] or count < 1:
            continue
        covariance = firings.product[place] / n - total[latent] / n * total / n
        found = np.full(len(total), -np.inf)
        found[known] = covariance[known] / (spread[latent] * spread[known])
        found[latent] = -np.inf
        best = np.argsort(-found, kind="stable")[:count]
        best = best[np.isfinite(found[best]) & (firings.both[place][best] > 0)]
        ids[row, : len(best)], r[row, : len(best)] = best, found[best]
        share[row, : len(best)] = firings.both[place][best] / on[latent]
    return ids, r, share
