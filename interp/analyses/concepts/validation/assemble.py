"""What was measured, concept by concept, as one labelled dataset."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from interp.core.lm import LM

from .material import KINDS
from .result import ConceptValidationResult
from .trials import METRICS, Found

if TYPE_CHECKING:
    from .validate import ConceptValidation


def assemble(config: "ConceptValidation", lm: LM, found: Sequence[Found]) -> ConceptValidationResult:
    """The dataset of `ConceptValidationResult`; what a concept lacks (sizes, vectors, draws) is NaN or an empty string."""
    sizes = sorted({size for one in found for size in one.asked.sizes})
    places = [[sizes.index(size) for size in one.asked.sizes] for one in found]
    prompts, vectors, draws = sum(len(one.gold) for one in found), max(sizes), max(one.draws for one in found)
    doses, names = len(config.doses), [one.asked.concept.name for one in found]
    score = np.full((prompts, len(sizes), doses, len(METRICS)), np.nan)
    damaged = np.full((prompts, len(sizes), doses), "", dtype=object)
    null = np.full((len(found), draws, len(sizes), doses, len(KINDS), len(METRICS)), np.nan)
    rank: dict[str, Any] = {
        name: np.full((len(found), vectors), np.nan) for name in ("share", "norm", "null_norm")
    }  # fmt: skip
    name_of = np.full((len(found), vectors), "", dtype=object)
    noise = np.full((len(found), vectors, doses), np.nan)
    null_firing = np.full((len(found), len(KINDS), vectors), np.nan)
    fires = np.full((prompts, vectors), np.nan)
    row = 0
    for number, (one, at) in enumerate(zip(found, places, strict=True)):
        n, count = len(one.asked.vectors), len(one.gold)
        rows = slice(row, row + count)
        score[rows, at], damaged[rows, at] = one.score, one.damaged
        null[number, : one.draws, at] = one.null.swapaxes(0, 1)
        name_of[number, :n] = [str(vector) for vector in one.asked.vectors]
        for name, values in (("share", one.asked.shares), ("norm", one.norm), ("null_norm", one.null_norm)):
            rank[name][number, :n] = values
        noise[number, :n], null_firing[number, :, :n], fires[rows, :n] = one.noise, one.null_firing, one.firing
        row += count
    tokens = [(one, prompt) for one in found for prompt in one.asked.tokens]
    data = xr.Dataset(
        {
            "score": (("prompt", "size", "dose", "metric"), score),
            "base": (("prompt", "metric"), np.concatenate([one.base for one in found])),
            "null": (("concept", "draw", "size", "dose", "kind", "metric"), null),
            "answer_before": ("prompt", [text for one in found for text in one.original]),
            "answer_after": (("prompt", "size", "dose"), damaged.astype(str)),
            "coefficient": (("prompt", "vector"), fires),
            "name": (("concept", "vector"), name_of.astype(str)),
            **{name: (("concept", "vector"), values) for name, values in rank.items()},
            "noise": (("concept", "vector", "dose"), noise),
            "null_coefficient": (("concept", "kind", "vector"), null_firing),
            "draws": ("concept", [one.draws for one in found]),
            "weight_difference": ("concept", [one.difference for one in found]),
        },
        {
            "concept": names, "size": sizes, "dose": list(config.doses), "metric": list(METRICS), "kind": list(KINDS),
            "draw": np.arange(draws), "vector": np.arange(vectors),
            "prompt": [f"{one.asked.concept.name}/{place}" for one in found for place in range(len(one.gold))],
            "of": ("prompt", [one.asked.concept.name for one, _ in tokens]),
            "asks": ("prompt", [str(kind) for one in found for kind in one.asked.kinds]),
            "text": ("prompt", [prompt.prompt.text for _, prompt in tokens]),
            "answer": ("prompt", [prompt.prompt.answer or "" for _, prompt in tokens]),
            "gold": ("prompt", [gold for one in found for gold in one.gold]),
        },
        {
            "how": config.how, "main": config.doses[config.main], "tokens": config.tokens, "match": config.match,
            "reference": config.reference, "answers": config.answers, "noise_samples": config.noise_samples if config.noisy else 0,
            "d_model": lm.spec.d_model,
        },
    )  # fmt: skip
    return ConceptValidationResult(data)
