"""Scores, nulls and deciding latents as one labelled dataset."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.sparse as sp
import xarray as xr

from interp.data import Labelled, TokenPrompt

from ...directions.crossval import Plan
from ...directions.folds import describe_groups
from ..source import described
from .features import FeatureSet
from .measures import MEASURES
from .reading import Read
from .result import LatentClassificationResult
from .study import Study

if TYPE_CHECKING:
    from interp.core.dictionary import Dictionary
    from interp.core.lm import LM

    from .classify import LatentClassification

SHOWN = 4
"""Tokens that are named of a deciding latent."""


def assemble(
    options: "LatentClassification", dictionary: "Dictionary", lm: "LM", data: Labelled, tokens: Sequence[TokenPrompt], plan: Plan,
    read: Read, sets: Sequence[FeatureSet], found: Study,
) -> LatentClassificationResult:  # fmt: skip
    """The result."""
    cell = ("feature", "probe")
    columns: dict[str, Any] = {
        "score": ((*cell, "example"), found.score),
        "null": (("measure", *cell, "shuffle"), found.null),
        "strength": (cell, found.strength),
    }
    columns |= _deciders(options, lm, plan, read, [one for one in sets if one.family == "latents"], found)
    coords = {
        "feature": [*(one.name for one in sets), "larger class"], "probe": list(options.probes), "measure": list(MEASURES),
        "family": ("feature", [*(one.family for one in sets), "none"]), "width": ("feature", [*(_width(one.x) for one in sets), 0]),
        "decided": [one.name for one in sets if one.family == "latents"],
        "example": np.arange(len(data)), "label": ("example", plan.yes), "fold": ("example", plan.folds),
        "group": ("example", plan.groups), "length": ("example", np.diff(read.starts)),
        "text": ("example", [text.prompt.text for text in tokens]),
    }  # fmt: skip
    attrs = {
        "data": data.name, "design": describe_groups(plan.yes, plan.groups.tolist()), "folds": options.folds, "loose": found.loose,
        "skip_first": options.skip_first, "latents": dictionary.latents, "dictionary": described(dictionary),
        "on": float(read.codes.nnz / max(1, read.codes.shape[0])),
    }  # fmt: skip
    return LatentClassificationResult(xr.Dataset(columns, coords, attrs))


def _width(x: Any) -> int:
    """Features that are not zero in all texts."""
    return int((np.asarray(abs(x).sum(axis=0)).ravel() > 0).sum())


def _deciders(
    options: "LatentClassification", lm: "LM", plan: Plan, read: Read, sets: Sequence[FeatureSet], found: Study
) -> dict[str, Any]:
    """The latents with the largest weights, of each set and probe."""
    top = min(options.top, read.codes.shape[1])
    shape = (len(sets), len(options.probes), top)
    latent, weight = np.full(shape, -1), np.full(shape, np.nan)
    rates, fires = np.full((2, *shape), np.nan), np.full(shape, "", dtype=object)
    codes = read.codes.tocsc()
    for row, given in enumerate(sets):
        on = given.x > 0
        share = [np.asarray(on[rows].sum(axis=0)).ravel() / rows.sum() for rows in (plan.yes, ~plan.yes)]
        for column, probe in enumerate(options.probes):
            weights = found.weights[given.name, probe]
            order = np.argsort(-np.abs(weights), kind="stable")[:top]
            order = order[weights[order] != 0]
            here = (row, column, slice(0, len(order)))
            latent[here], weight[here] = order, weights[order]
            rates[0][here], rates[1][here] = share[0][order], share[1][order]
            fires[here] = [_tokens(codes, int(one), read.ids, lm) for one in order]
    dims = ("decided", "probe", "rank")
    return {
        "latent": (dims, latent), "weight": (dims, weight), "on_yes": (dims, rates[0]), "on_no": (dims, rates[1]),
        "fires": (dims, fires.astype(str)),
    }  # fmt: skip


def _tokens(codes: sp.csc_matrix, latent: int, ids: np.ndarray, lm: "LM") -> str:
    """The tokens that have most of a latent's codes in these texts, with their shares."""
    column = slice(codes.indptr[latent], codes.indptr[latent + 1])
    seen, place = np.unique(ids[codes.indices[column]], return_inverse=True)
    total = np.bincount(place, codes.data[column], minlength=len(seen))
    best = np.argsort(-total, kind="stable")[:SHOWN]
    return ", ".join(f"{lm.tokenizer.label(int(seen[one]))} {total[one] / total.sum():.0%}" for one in best)
