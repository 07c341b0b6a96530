"""What a latent writes towards the output, in words: its decoder rows times the unembedding, the final norm folded in."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from interp.cache.gather import model_of
from interp.core.dictionary import Dictionary, View
from interp.core.lm import LM
from interp.core.site import Site
from interp.core.topk import Moments, topk

ADDED = ("embed", "pos_embed", "resid_pre", "resid_mid", "resid_post", "attn_out", "mlp_out")
"""Kinds of sites whose vectors are (added to) the residual stream."""
BINS = 50


@dataclass(frozen=True, eq=False)
class LogitEffects:
    """What each of some latents promotes and demotes, by view that it writes."""

    views: tuple[str, ...]
    ids: np.ndarray
    """Tokens [latent, view, end, rank]: promoted (0) and demoted (1), the furthest first; -1 where a latent does not write a view."""
    values: np.ndarray
    """Change of their logits per unit of code, before the final norm divides by the stream's size; NaN where nothing is written."""
    z: np.ndarray
    """The same in standard deviations of the row's logits over the vocabulary, from their mean."""
    counts: np.ndarray
    """Tokens by logit [latent, view, bin]."""
    edges: np.ndarray
    """Limits of the bins [latent, view, edge]."""


def logit_effects(dictionary: Dictionary, models: Sequence[LM], latents: Sequence[int], words: int) -> LogitEffects:
    """Logit effects of `latents`, `words` at each end. Views whose vectors do not reach the residual stream by a known matrix have none."""
    views = [view for view in dictionary.config.writes if _writes(model_of(view, models), view)]
    words = min([words, *(model_of(view, models).spec.vocab for view in views)])
    shape = (len(latents), len(views), 2, words)
    ids, values, z = np.full(shape, -1), np.full(shape, np.nan), np.full(shape, np.nan)
    counts, edges = np.zeros((*shape[:2], BINS), dtype=np.int64), np.full((*shape[:2], BINS + 1), np.nan)
    for column, view in enumerate(views):
        lm = model_of(view, models)
        table = lm.weights.unembedding(folded=True)[0].detach().float().cpu()
        rows = to_stream(lm, view, raw_rows(dictionary, view.name, latents))
        on = (rows != 0).any(dim=1).numpy()
        if not on.any() or not latents:
            continue
        top = topk(rows, table, words, signed=True)
        mean, spread = (part.numpy()[:, None] for part in Moments(table).of(rows))
        for end, sign in enumerate((1.0, -1.0)):
            found = sign * top.values[end].double().numpy()
            ids[on, column, end] = top.ids[end].numpy()[on]
            values[on, column, end] = found[on]
            z[on, column, end] = ((found - mean) / np.maximum(spread, 1e-30))[on]
        for place in np.flatnonzero(on):
            counts[place, column], edges[place, column] = np.histogram((rows[place] @ table).numpy(), BINS)
    return LogitEffects(tuple(view.name for view in views), ids, values, z, counts, edges)


def raw_rows(dictionary: Dictionary, view: str, latents: Sequence[int]) -> Tensor:
    """What a unit of code writes in a view [latent, d], in raw activations, float32 on the CPU."""
    rows = dictionary.decoder(view)[torch.as_tensor(list(latents), dtype=torch.int64, device=dictionary.device)]
    return (rows.detach().float() / dictionary.scalings[view].factor).cpu()


def to_stream(lm: LM, view: View, rows: Tensor) -> Tensor:
    """Vectors of a view [row, d] as what they add to the residual stream [row, d_model]."""
    site = Site.parse(view.site)
    if site.kind == "mlp_post":
        return rows @ lm.weights.W_out(site.layer).detach().float().cpu()
    if site.kind == "z":
        return rows @ lm.weights.W_O(site.layer).detach().float().cpu().flatten(0, 1)
    return rows


def _writes(lm: LM, view: View) -> bool:
    kind = Site.parse(view.site).kind if view.site else ""
    return kind in ADDED or (kind in ("mlp_post", "z") and not lm.spec.post_norm)
