"""Which head looks: every head of a model ranked by its readout on some prompts, and the one that is taken where none is named.

    A[to] - A[minus], the mean over prompts of `attention.Readout`, read off the patterns of one run of each prompt

It misleads as every maximum does: the largest of many heads is large by selection too. Measure what it does on other prompts.

    import interp
    from interp.analyses.channels import rank_readers
    lm, task = interp.load("atlas"), interp.reference.task("atlas", "ioi", 8)
    rank_readers(lm, task, to="IO", minus="S1").head(3)
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from interp.core.batch import Batch
from interp.core.errors import BadInput
from interp.core.lm import LM
from interp.core.shapes import Float
from interp.core.site import Site
from interp.core.stats import bootstrap_ci, holm, sign_flip_test
from interp.data.tokens import Answers, group_by_length, to_batch

from .attention import Readout, query_columns, seen_columns, span_mask, token_prompts
from .component import Head

if TYPE_CHECKING:
    import pandas as pd

PATTERN_BYTES = 128_000_000
"""Attention patterns that are held at once while readers are ranked."""


def head_attention(
    lm: LM, batch: Batch, spans: Sequence[str], *, query: str = "last"
) -> Float[Tensor, "row layer head span"]:
    """Attention of every head from `query` to each span, float64; NaN in layers whose window leaves a span out of sight."""
    at, spec = query_columns(batch, query), lm.spec
    where = torch.stack([span_mask(batch, name) for name in spans]).double()  # [span, row, pos]
    width = batch.tokens.shape[1]
    out = torch.full((len(batch), spec.n_layers, spec.n_heads, len(spans)), torch.nan, dtype=torch.float64)
    step = max(1, PATTERN_BYTES // (4 * spec.n_layers * spec.n_heads * width * width))
    for first in range(0, len(batch), step):
        rows = list(range(first, min(first + step, len(batch))))
        run = lm.run(batch.rows(rows), capture=[Site("pattern", layer) for layer in range(spec.n_layers)])
        for layer in range(spec.n_layers):
            pattern = run[Site("pattern", layer)].cpu()[torch.arange(len(rows)), :, at[rows]]  # [row, head, key]
            part = torch.einsum("rhk,srk->rhs", pattern.double(), where[:, rows])
            seen = (where.bool() & seen_columns(lm, layer, batch, at)).any(dim=2)[:, rows].all(dim=0)  # [row]
            out[rows, layer] = torch.where(seen[:, None, None], part, torch.nan)
    return out


def rank_readers(
    lm: LM,
    data: Any,
    *,
    to: str = "IO",
    minus: str = "S1",
    query: str = "last",
    bos: bool | None = None,
    answers: Answers = "single",
    level: float = 0.95,
    seed: int = 0,
) -> "pd.DataFrame":
    """Every head by its mean readout over the prompts (or clean prompts of pairs), largest first: how the mover head of a new checkpoint
    is found.

    Columns: name, layer, head, score, ci_lo, ci_hi (bootstrap over prompts, head by head), to, minus (mean attention), p_adjusted (sign
    flips, Holm over all heads), n. Heads that cannot see a span in every prompt come last, with NaN.
    """
    import pandas as pd

    spans = Readout(Head(0, 0), to, minus, query).spans
    prompts = token_prompts(lm, data, bos=bos, answers=answers)
    each = np.full((len(prompts), lm.spec.n_layers, lm.spec.n_heads, len(spans)), np.nan)
    for places in group_by_length(prompts).values():
        batch = to_batch([prompts[place] for place in places])
        each[places] = head_attention(lm, batch, spans, query=query).numpy()
    score = each[..., 0] - (each[..., 1] if minus else 0.0)  # [prompt, layer, head]
    score = np.where(np.isfinite(score).all(axis=0), score, np.nan)
    mean, low, high = bootstrap_ci(score, level=level, seed=seed, name="readers")
    p = holm(sign_flip_test(score, seed=seed, name="readers"))
    layer, head = (axis.ravel() for axis in np.indices(mean.shape))
    frame = pd.DataFrame(
        {
            "name": [f"{one}.{other}" for one, other in zip(layer, head, strict=True)], "layer": layer, "head": head,
            "score": mean.ravel(), "ci_lo": low.ravel(), "ci_hi": high.ravel(), "to": each[..., 0].mean(axis=0).ravel(),
            "minus": each[..., 1].mean(axis=0).ravel() if minus else np.zeros(mean.size), "p_adjusted": p.ravel(),
            "n": len(prompts),
        }
    )  # fmt: skip
    return frame.sort_values("score", ascending=False, kind="stable", na_position="last").reset_index(drop=True)


def best_reader(
    lm: LM, data: Any, *, first: int = 1, to: str = "IO", minus: str = "S1", **how: Any
) -> "tuple[str, float]":
    """The head with the largest readout in the layers from `first` on, and its p-value among all heads; `how` is that of `rank_readers`.

    Raises `BadInput` where no head there has a readout above 0.
    """
    table = rank_readers(lm, data, to=to, minus=minus, **how)
    table = table[(table["layer"] >= first) & (table["score"] > 0)]
    if not len(table):
        where, more = f"no head of {lm.spec.name} behind layer {first - 1} looks", f"more at {to!r} than at {minus!r}"
        raise BadInput(f"{where} {more if minus else f'at {to!r}'}. Name a reader, or other spans.")
    return str(table.iloc[0]["name"]), float(table.iloc[0]["p_adjusted"])
