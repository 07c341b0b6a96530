"""What was found, as the labelled data of a result."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from interp.analyses.dictionaries.latents.logits import logit_effects
from interp.core.seed import numpy_generator
from interp.data import Corpus

from .labels import LABELS, same_number
from .patching import PARTS, Patched, Sets
from .recall import Recall
from .scaling import MODELS, SIDES, TARGETS, Scaled
from .survey import Survey

if TYPE_CHECKING:
    from interp.core.lm import LM

    from .diff import ModelDiff

AROUND = 9
"""Tokens shown on either side of a context."""


@dataclass(frozen=True, eq=False)
class Judged:
    """Latents with their bins and labels."""

    norms: dict[str, np.ndarray]
    """Decoder norms of both models [latent], normalised space."""
    delta: np.ndarray
    change: np.ndarray
    """Relative length of the difference of the two decoders [latent]."""
    bins: np.ndarray
    labels: np.ndarray
    """Of latents of one model alone; empty for all others."""
    scaled: Scaled
    ratio: str
    """Which ratios judged, free or paper."""
    cosine: float
    """Median cosine of shared latents' two decoder rows."""


def assemble(
    options: "ModelDiff",
    survey: Survey,
    judged: Judged,
    models: "tuple[LM, LM]",
    data: Corpus,
    patching: "tuple[Sets, Patched | None, list[int]]",
    curve: Recall | None,
) -> xr.Dataset:
    """The dataset that `DiffResult` documents."""
    dictionary, scaled = survey.dictionary, judged.scaled
    sets, patched, places = patching
    ratio = ("side", "target", "latent")
    columns: dict[str, Any] = {
        "norm": (("model", "latent"), np.stack([judged.norms[model] for model in MODELS]).astype(np.float64)),
        "delta": ("latent", judged.delta), "change": ("latent", judged.change),
        "bin": ("latent", judged.bins), "label": ("latent", judged.labels),
        "on": ("latent", scaled.active), "strength": ("latent", scaled.strength), "power": ("latent", scaled.power),
        "beta": (("side", "target", "model", "latent"), scaled.beta),
        "nu": (ratio, np.stack([scaled.nu(side) for side in SIDES])),
        "free": (ratio, np.stack([scaled.free(side) for side in SIDES])),
        "chance": (ratio, np.stack([scaled.chance(side) for side in SIDES])),
        "baseline": ("latent", _baseline(options, judged)),
    }  # fmt: skip
    coords: dict[str, Any] = {
        "latent": np.arange(dictionary.latents), "model": list(MODELS), "side": list(SIDES), "target": list(TARGETS),
    }  # fmt: skip
    kept = shown(judged, options.shown)
    latents = [latent for _, latent in kept]
    columns |= _words(options, survey, kept, models, data)
    coords |= {"shown": np.array(latents, dtype=np.int64), "shown_for": ("shown", [why for why, _ in kept])}
    if patched is not None:
        columns |= {"kl": (("set", "document", "part"), patched.kl), "patched": (("document", "part"), patched.tokens)}
        coords |= {
            "set": sets.names, "size": ("set", sets.sizes()), "part": list(PARTS),
            "document": [data.ids[place] for place in places], "text": ("document", [data.texts[place] for place in places]),
        }  # fmt: skip
    if curve is not None:
        columns["exclusive"] = (("model", "record"), curve.counts)
        coords["trained"] = ("record", curve.tokens)
    fvu = survey.fvu()
    views = {view.name: view for view in dictionary.config.writes}
    attrs = {
        "base": models[0].spec.name, "tuned": models[1].spec.name, "site": views["tuned"].site, "dictionary": dictionary.digest[:8],
        "tokens": scaled.rows, "l0": survey.on / scaled.rows, "fvu_base": fvu["base"], "fvu_tuned": fvu["tuned"],
        "ratio": judged.ratio, "cosine": judged.cosine, "extreme": options.extreme, "random_seed": options.random_seed,
        "warning": curve.warning if curve else "",
        "bounds": [options.base_only, 0.4, 0.6, options.tuned_only], "decoupled": options.decoupled, "shrunk": options.shrunk,
        "groups": [f"{name} {size}" for name, size in dictionary.config.groups],
    }  # fmt: skip
    return xr.Dataset(columns, coords, attrs)


def shown(judged: Judged, n: int) -> list[tuple[str, int]]:
    """Latents that are described, each with why, `n` a reason.

    "tuned", "base": those of each model alone, specific ones first, then by what they contribute there; a side with fewer is filled up with
    those that come nearest to it. "changed": the others that were changed most.
    """
    out: list[tuple[str, int]] = []
    order = {name: place for place, name in enumerate(LABELS)}
    for side in reversed(MODELS):
        weight = judged.scaled.power * judged.norms[side] ** 2
        mine = np.flatnonzero(judged.bins == f"{side} only").tolist()
        mine.sort(key=lambda latent: (order[str(judged.labels[latent])], -weight[latent]))
        leaning = judged.delta if side == "tuned" else 1 - judged.delta
        near = np.flatnonzero((judged.bins == "other") & (leaning > 0.6)).tolist()
        near.sort(key=lambda latent: -leaning[latent])
        out += [(side, latent) for latent in (mine + near)[:n]]
    have = {latent for _, latent in out}
    known = np.flatnonzero((judged.bins != "dead") & np.isfinite(judged.change))
    moved = [int(latent) for latent in known[np.argsort(-judged.change[known], kind="stable")] if latent not in have]
    return out + [("changed", latent) for latent in moved[:n]]


def _baseline(options: "ModelDiff", judged: Judged) -> np.ndarray:
    """As many random shared latents as are the tuned model's alone, bool [latent]."""
    pool = np.flatnonzero(judged.bins == "shared")
    draw = numpy_generator(options.random_seed, "random shared latents", 0)
    mask = np.zeros(len(judged.bins), dtype=bool)
    mask[same_number(pool, int((judged.bins == "tuned only").sum()), draw)] = True
    return mask


def _words(
    options: "ModelDiff", survey: Survey, kept: Sequence[tuple[str, int]], models: "tuple[LM, LM]", data: Corpus
) -> dict[str, Any]:
    """Tokens, contexts and logit effects of the latents that are described."""
    tokenizer, tokens = models[1].tokenizer, np.concatenate([document.numpy() for document in data.documents])
    starts = np.cumsum([0, *data.lengths])
    token, share = _empty(len(kept), options.words)
    context, code = _empty(len(kept), options.examples)
    for place, (_, latent) in enumerate(kept):
        for rank, (one, part) in enumerate(survey.tokens_of(latent, options.words)):
            token[place, rank], share[place, rank] = tokenizer.label(one), part
        for rank, (row, value) in enumerate(zip(survey.where[latent], survey.best[latent], strict=True)):
            if row >= 0:
                document = int(np.searchsorted(starts, row, side="right")) - 1
                low, high = (
                    max(int(starts[document]), int(row) - AROUND),
                    min(int(starts[document + 1]), int(row) + AROUND + 1),
                )
                parts = [
                    tokenizer.decode(tokens[a:b].tolist()) for a, b in ((low, row), (row, row + 1), (row + 1, high))
                ]
                context[place, rank], code[place, rank] = "{}«{}»{}".format(*parts), value
    effects = logit_effects(survey.dictionary, models, [latent for _, latent in kept], options.words)
    promoted, logit = _empty(len(kept), options.words)
    for place, (why, _) in enumerate(kept):
        view = "base" if why == "base" else "tuned"
        if view not in effects.views:
            continue
        for rank, one in enumerate(effects.ids[place, effects.views.index(view), 0]):
            if one >= 0:
                promoted[place, rank] = tokenizer.label(int(one))
                logit[place, rank] = effects.z[place, effects.views.index(view), 0, rank]
    return {
        "token": (("shown", "rank"), token), "token_share": (("shown", "rank"), share),
        "promoted": (("shown", "rank"), promoted), "promoted_z": (("shown", "rank"), logit),
        "context": (("shown", "example"), context), "code": (("shown", "example"), code),
    }  # fmt: skip


def _empty(rows: int, columns: int) -> tuple[np.ndarray, np.ndarray]:
    return np.full((rows, columns), "", dtype=object), np.full((rows, columns), np.nan)
