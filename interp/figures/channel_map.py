"""The map of channels that one can click through: a page of its own, without a network or a library.

    result = interp.Channels()(lm)
    interp.figures.channel_map.save(result, "map.html")        # or: interp channels MODEL --figure map.html

Click a pair of heads: its components' scores with what random directions would give, and the writer's singular values. Click a component:
every head that could read it. The address of the page names what is shown (`map.html#Q/8.10/9.9/1`), so it can be sent, and the browser's
back button works. Numbers travel in one or two bytes each; what a model of this size leaves out is said at the foot of the page.
"""

import base64
import html
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from interp.core.errors import BadInput

from . import channel_null
from .export import write_page
from .theme import QUANTITY

if TYPE_CHECKING:
    from interp.analyses.channels.scoring.result import ChannelResult

EXACT = 300_000
"""Pairs of heads, over all kinds, up to which every measure is there, in two bytes each."""
MOST_SCORES = 4_000_000
"""Scores of single components, at most; of larger models each pair keeps its strongest."""
FEWEST_KEPT = 4
LISTED = 16
LEVELS = (0.025, 0.975, 0.01)
"""Ends of the band of random directions, and how often a head of random components passes the dotted line."""
SAID = {"Q": "query", "K": "key", "V": "value"}
ORDER = ("kind", "layer", "head", "reader_layer", "reader_head")


def page(result: "ChannelResult", words: Any = None) -> str:
    """The page. `words` is a result of ComponentWords, or texts by component: `{"8.10.1": [("writes", ["red", "blue"])]}`."""
    data = json.dumps(_content(result, words), separators=(",", ":"), ensure_ascii=False).replace("<", "\\u003c")
    template = (Path(__file__).with_name("channel_map.html")).read_text(encoding="utf-8")
    name = str(result.manifest.model.get("name", "model"))
    return template.replace("{{ title }}", f"Channels of {html.escape(name)}").replace("{{ data }}", data)


def save(result: "ChannelResult", path: str | Path, words: Any = None) -> Path:
    """Write the page to a file ending in .html. Raises `BadInput` for another ending or a missing folder."""
    return write_page(page(result, words), path)


def _content(result: "ChannelResult", words: Any) -> dict[str, Any]:
    """Everything the page knows, as plain JSON."""
    data, kinds = result.data, [str(kind) for kind in result.data["kind"].values]
    layers, heads = data["layer"].values.tolist(), data["head"].values.tolist()
    best = _pairs(data["best"].transpose(*ORDER).values)
    exact = best.size <= EXACT
    width = 2 if exact else 1
    notes = [] if exact else ["whole heads and z are left out for a model of this size; scores are exact to 1 %"]
    index = _pairs(data["best_component"].transpose(*ORDER).values).astype(np.float64)
    content: dict[str, Any] = {
        "kinds": kinds, "said": [_said(kind) for kind in kinds], "layers": layers, "heads": heads,
        "components": data.sizes["component"], "root": float(np.sqrt(data.attrs["free"])), "ramp": QUANTITY,
        "best": _pack(best, width, root=not exact), "index": _whole(np.where(index < 0, np.nan, index)),
        "value": _pack(data["value"].transpose("layer", "head", "component").values, 2),
        "band": _bands(result), "top": _top(result, kinds, layers, heads), "line": result.manifest.line, "about": _about(result),
    }  # fmt: skip
    if exact:
        content["total"] = _pack(_pairs(data["total"].transpose(*ORDER).values), 2)
        content["z"] = _pack(_pairs(data["best_z"].transpose(*ORDER).values), 2)
    content |= _scores(result, best.size, notes)
    content["note"] = "; ".join(notes)
    if words is not None:
        content["words"] = _words(words)
    return content


def _scores(result: "ChannelResult", pairs: int, notes: list[str]) -> dict[str, Any]:
    """Scores of single components: all, or the strongest of each pair with their numbers."""
    if "score" not in result.data:
        notes.append("scores of single components are not in this result")
        return {"kept": 0}
    many = result.data.sizes["component"]
    kept = min(many, MOST_SCORES // max(pairs, 1))
    if kept < FEWEST_KEPT and kept < many:
        notes.append("scores of single components are left out for a model of this size")
        return {"kept": 0}
    every = _pairs(result.data["score"].transpose(*ORDER, "component").values).reshape(-1, many)
    width = 2 if every.size <= EXACT else 1
    if width == 1:
        notes.append("scores of components are exact to about 1 %")
    if kept == many:
        return {"kept": many, "score": _pack(every, width, root=width == 1)}
    order = np.argsort(-np.nan_to_num(every, nan=-1.0), axis=1, kind="stable")[:, :kept]
    chosen = np.take_along_axis(every, order, 1)
    place = np.where(np.isfinite(chosen), order, np.nan)
    return {"kept": kept, "score": _pack(chosen, width, root=width == 1), "place": _whole(place)}


def _pairs(values: np.ndarray) -> np.ndarray:
    """Values [kind, layer, head, reader_layer, reader_head, ...] of later readers only, [kind, pair, ...], in the page's order."""
    kinds, layers = values.shape[:2]
    parts = [values[:, layer, :, layer + 1 :].reshape(kinds, -1, *values.shape[5:]) for layer in range(layers)]
    return np.concatenate(parts, axis=1)


def _pack(values: np.ndarray, width: int, *, root: bool = False) -> dict[str, Any]:
    """Numbers as codes of `width` bytes between the least (0 for roots) and the largest; the last code is for NaN."""
    flat = np.asarray(values, dtype=np.float64).ravel()
    known = np.isfinite(flat)
    low = 0.0 if root else min(0.0, float(flat[known].min(initial=0.0)))
    high = float(flat[known].max(initial=0.0))
    top = 2 ** (8 * width) - 2
    share = np.where(known, (np.nan_to_num(flat) - low) / ((high - low) or 1.0), 0.0)
    codes = np.rint((np.sqrt(share) if root else share) * top)
    return _encoded(np.where(known, codes, top + 1), width) | {"low": low, "high": high, "root": root}


def _whole(values: np.ndarray) -> dict[str, Any]:
    """Whole numbers from 0 as they are, in as few bytes as hold them; NaN is the last code."""
    flat = np.asarray(values, dtype=np.float64).ravel()
    width = 1 if np.nanmax(flat, initial=0.0) < 255 else 2
    return _encoded(np.where(np.isfinite(flat), flat, 2 ** (8 * width) - 1), width) | {"whole": True}


def _encoded(codes: np.ndarray, width: int) -> dict[str, Any]:
    raw = codes.astype("<u1" if width == 1 else "<u2").tobytes()
    return {"data": base64.b64encode(raw).decode(), "bytes": width}


def _bands(result: "ChannelResult") -> list[list[list[float | None]]]:
    """Ends of the band of random directions, and the bound of a whole head, [kind][reader][3], in units of a random direction."""
    spectrum = result.data["spectrum"].transpose("kind", "reader_layer", "reader_head", "component").values
    n = int(result.data.attrs["free"])
    many = max(1, int(result.data["rank"].max()))
    levels = (LEVELS[0], LEVELS[1], 1 - LEVELS[2] / many)
    ends = channel_null.quantiles(levels, spectrum, n) * np.sqrt(n)
    flat = ends.reshape(len(ends), -1, 3)
    return [[[round(v, 4) if np.isfinite(v) else None for v in row] for row in part] for part in flat.tolist()]


def _top(result: "ChannelResult", kinds: list[str], layers: list[int], heads: list[int]) -> list[list[float]]:
    """The strongest channels: kind, writer, component, reader, score; heads by their place."""
    data = result.data.isel(channel=slice(LISTED))

    def place(layer: Any, head: Any) -> int:
        return layers.index(int(layer)) * len(heads) + heads.index(int(head))

    names = ("kind", "layer", "head", "component", "reader_layer", "reader_head", "score")
    columns = [data[f"top_{name}"].values for name in names]
    return [
        [kinds.index(str(kind)), place(layer, head), int(component), place(to_layer, to_head), round(float(score), 5)]
        for kind, layer, head, component, to_layer, to_head, score in zip(*columns, strict=True)
    ]


def _said(kind: str) -> str:
    word, _, offset = kind.partition("@")
    return SAID.get(word, kind) + (f" at distance {offset}" if offset else "")


def _about(result: "ChannelResult") -> str:
    sizes, attrs = result.data.sizes, result.data.attrs
    name = result.manifest.model.get("name", "")
    how = "gains folded in" if attrs.get("folded") else "raw weights"
    return f"{name} · {sizes['layer']} × {sizes['head']} heads · {how} · a random direction scores {attrs['free'] ** -0.5:.4f}"


def _words(words: Any) -> dict[str, list[tuple[str, list[str]]]]:
    """Texts by component, from a dictionary or from a result of ComponentWords."""
    if hasattr(words, "words") and "token" in getattr(words, "data", {}):
        names = [str(name) for name in words.data["component"].values]
        return {name: list(words.words(name).items()) for name in names}
    if isinstance(words, dict):
        return {
            str(name): [(str(label), [str(word) for word in row]) for label, row in rows]
            for name, rows in words.items()
        }
    raise BadInput(
        f"`words` must be a result of ComponentWords or a dictionary of texts by component, not {type(words).__name__}."
    )
