"""From tallies and firings to labelled data: examples, histograms, logit effects, neighbours, and what a search found."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from interp.core.dictionary import Dictionary
from interp.core.lm import LM

from ..source import described
from .examples import Example, Windows, examples, windows
from .logits import logit_effects
from .neighbours import by_decoder, by_firing
from .reading import Chunk, columns
from .result import LatentsResult
from .tally import Firings, Tally
from .wanted import Searched

if TYPE_CHECKING:
    from .latents import Latents

BINS = 40
"""Bars of the histogram of codes."""
LEAST_SEEN = 3
"""Occurrences that a token must have to be named among those on which a latent fires."""

Arrays = dict[str, Any]


@dataclass(frozen=True, eq=False)
class Shown:
    """What is shown, and what is known of it."""

    latents: list[int]
    firings: Firings
    tally: Tally
    found: Searched | None
    text: "tuple[np.ndarray, Chunk] | None"


def named(dictionary: Any) -> str:
    """How results call the dictionary that was given: its folder, or its content hash."""
    return f"sha {dictionary.digest[:8]}" if isinstance(dictionary, Dictionary) else str(dictionary)


def assemble(
    options: "Latents", dictionary: Dictionary, models: Sequence[LM], lm: LM, data: Any, shown: Shown
) -> LatentsResult:
    """The result."""
    starts = np.cumsum([0, *data.lengths])
    tokens = np.concatenate([document.numpy() for document in data.documents])
    arrays: Arrays = _units(shown.tally)
    places = [shown.firings.chosen.index(latent) for latent in shown.latents]
    fired = [shown.firings.of(place) for place in places]
    arrays |= _examples(options, data, shown.latents, fired, starts, tokens)
    arrays |= _histograms(fired)
    arrays |= _fires_on(options, data, fired, starts, tokens)
    effects = logit_effects(dictionary, models, shown.latents, options.words)
    for name, values in (("word_id", effects.ids), ("word_logit", effects.values), ("word_z", effects.z)):
        arrays[name] = (("latent", "view", "end", "word"), values)
    arrays["logit_count"] = (("latent", "view", "logit_bin"), effects.counts)
    arrays["logit_edge"] = (("latent", "view", "logit_edge_number"), effects.edges)
    ids, cosines = by_decoder(dictionary, shown.latents, options.near)
    arrays |= {"near_latent": (("latent", "near"), ids), "near_cosine": (("latent", "near"), cosines)}
    ids, r, share = by_firing(shown.firings, shown.tally, places, options.near)
    for name, values in (("together_latent", ids), ("together_r", r), ("together_share", share)):
        arrays[name] = (("latent", "near"), values)
    if shown.found is not None:
        arrays |= _searched(shown.found)
    if shown.text is not None:
        arrays |= _texted(shown)
    coords: Arrays = {
        "latent": np.asarray(shown.latents, dtype=np.int64),
        "view": list(effects.views),
        "end": ["promoted", "demoted"],
    }
    if shown.found is not None:
        coords["query"] = list(shown.found.tested)
    arrays, entries = _labelled(arrays, lm)
    rows = int(shown.tally.rows.sum())
    attrs = {
        "rows": rows, "documents": len(data), "bos": int(options.bos), "source": data.source, "seed": options.seed,
        "picked": int(not options.latent), "dictionary": dictionary.digest, **_plain(dictionary),
    }  # fmt: skip
    return LatentsResult(xr.Dataset({**arrays, **entries}, coords, attrs))


def _plain(dictionary: Dictionary) -> dict[str, Any]:
    said = described(dictionary)
    sites = [view.site for view in dictionary.config.writes]
    written = [view.name for view in dictionary.config.writes]
    return {
        "family": said["family"],
        "latents": int(said["latents"]),
        "views": list(said["sites"]),
        "sites": sites,
        "written": written,
    }


def _units(tally: Tally) -> Arrays:
    total, count = tally.total.sum(axis=0), tally.count.sum(axis=0)
    return {
        "density": ("unit", tally.density), "largest": ("unit", tally.most),
        "mean_on": ("unit", np.where(count > 0, total / np.maximum(count, 1), np.nan)),
    }  # fmt: skip


def _examples(
    options: "Latents", data: Any, latents: list[int], fired: Any, starts: np.ndarray, tokens: np.ndarray
) -> Arrays:
    skip, most = int(data.bos and not options.bos), options.top + options.intervals * options.each
    shape, wide = (len(latents), most), (len(latents), most, 2 * options.window + 1)
    kind, document = np.full(shape, "", dtype=object), np.full(shape, "", dtype=object)
    value, low, high = (np.full(shape, np.nan) for _ in range(3))
    position, at = np.full(shape, -1), np.full(shape, -1)
    ids, codes = np.full(wide, -1), np.full(wide, np.nan, dtype=np.float32)
    for row, (latent, (rows, values)) in enumerate(zip(latents, fired, strict=True)):
        owner = np.searchsorted(starts, rows, side="right") - 1
        found: list[Example] = examples(
            rows, values, owner, data.texts, top=options.top, intervals=options.intervals, each=options.each, seed=options.seed,
            name=str(latent),
        )  # fmt: skip
        seen: Windows = windows(found, rows, values, tokens=tokens, starts=starts, skip=skip, window=options.window)
        size = len(found)
        ids[row, :size], codes[row, :size], at[row, :size] = seen.ids, seen.codes, seen.at
        for number, one in enumerate(found):
            place = int(np.searchsorted(starts, one.row, side="right")) - 1
            kind[row, number], document[row, number] = one.kind, data.ids[place]
            value[row, number], low[row, number], high[row, number] = one.value, one.low, one.high
            position[row, number] = one.row - starts[place]
    dims = ("latent", "example")
    arrays = {
        "kind": kind.astype(str),
        "document": document.astype(str),
        "value": value,
        "low": low,
        "high": high,
        "position": position,
        "at": at,
    }
    found_arrays: Arrays = {f"example_{name}": (dims, values) for name, values in arrays.items()}
    return found_arrays | {"window_id": ((*dims, "place"), ids), "window_code": ((*dims, "place"), codes)}


def _histograms(fired: Any) -> Arrays:
    """Tokens by code, for tokens on which a latent is on."""
    count, edge = np.zeros((len(fired), BINS), dtype=np.int64), np.full((len(fired), BINS + 1), np.nan)
    for row, (_, values) in enumerate(fired):
        if len(values):
            count[row], edge[row] = np.histogram(values, BINS, range=(0.0, float(values.max())))
    return {"count": (("latent", "bin"), count), "edge": (("latent", "edge_number"), edge)}


def _fires_on(options: "Latents", data: Any, fired: Any, starts: np.ndarray, tokens: np.ndarray) -> Arrays:
    """The tokens with the largest mean code, among those seen three times or more."""
    counted = np.ones(len(tokens), dtype=bool)
    if data.bos and not options.bos:
        counted[starts[:-1]] = False
    seen = np.bincount(tokens[counted])
    shape = (len(fired), min(options.words, len(seen)))
    ids, mean, share, times = (
        np.full(shape, -1),
        np.full(shape, np.nan),
        np.full(shape, np.nan),
        np.zeros(shape, dtype=np.int64),
    )
    for row, (rows, values) in enumerate(fired):
        total = np.bincount(tokens[rows], values, minlength=len(seen))
        on = np.bincount(tokens[rows], minlength=len(seen))
        known = (seen >= LEAST_SEEN) & (on > 0)
        score = np.where(known, total / np.maximum(seen, 1), -1.0)
        best = np.argsort(-score, kind="stable")[: shape[1]]
        best = best[score[best] > 0]
        size = len(best)
        ids[row, :size], mean[row, :size], share[row, :size] = best, score[best], on[best] / seen[best]
        times[row, :size] = seen[best]
    dims = ("latent", "token")
    return {
        "fires_id": (dims, ids),
        "fires_mean": (dims, mean),
        "fires_share": (dims, share),
        "fires_seen": (dims, times),
    }


def _searched(found: Searched) -> Arrays:
    dims = ("query", "candidate")
    columns_of = {
        "latent": found.ids,
        "difference": found.difference,
        "on": found.on,
        "off": found.off,
        "auc": found.auc,
        "p": found.p,
        "p_holm": found.p_holm,
    }
    return {f"search_{name}": (dims, values) for name, values in columns_of.items()} | {
        "search_hits": ("query", found.hits)
    }


def _texted(shown: Shown) -> Arrays:
    assert shown.text is not None
    score, chunk = shown.text
    codes = np.zeros((len(shown.latents), len(chunk.ids)), dtype=np.float32)
    place, row, value = columns(chunk.codes, shown.latents)
    codes[place, row] = value
    return {
        "text_score": ("latent", score[shown.latents]), "text_code": (("latent", "text_place"), codes),
        "text_id": ("text_place", chunk.ids),
    }  # fmt: skip


def _labelled(arrays: Arrays, lm: LM) -> tuple[Arrays, Arrays]:
    """Token ids as places in one table of the tokens that occur: their labels, and their text."""
    held = [name for name in arrays if name in ("window_id", "word_id", "fires_id", "text_id")]
    used = np.unique(np.concatenate([arrays[name][1].ravel() for name in held]))
    used = used[used >= 0]
    for name in held:
        dims, ids = arrays[name]
        arrays[name] = (dims, np.where(ids >= 0, np.searchsorted(used, ids), -1))
    entries: Arrays = {
        "token_id": ("entry", used), "token_label": ("entry", [lm.tokenizer.label(int(one)) for one in used]),
        "token_text": ("entry", [lm.tokenizer.decode([int(one)]) for one in used]),
    }  # fmt: skip
    return arrays, entries
