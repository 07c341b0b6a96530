"""Channel results of any size from their schemas: random directions in a stream, and a few channels that are planted in them."""

from typing import Any

import numpy as np
import xarray as xr

from interp.analyses.channels.scoring.result import ChannelResult

from .fakes import rng, stamped

PLANTED = (
    ("Q", (1, 2), 1, (3, 1), 0.5),
    ("Q", (0, 3), 4, (2, 0), 0.42),
    ("K", (0, 1), 2, (1, 3), 0.45),
    ("V", (1, 0), 0, (2, 2), 0.4),
)
"""Kind, writer, component, reader, score."""


def channels(
    layers: int = 4,
    heads: int = 4,
    components: int = 8,
    *,
    width: int = 64,
    kinds: tuple[str, ...] = ("Q", "K", "V"),
    planted: tuple[Any, ...] = PLANTED,
    scores: bool = True,
    top: int = 40,
) -> ChannelResult:
    """Composition scores as random write directions have them, 1 / sqrt(width) on average, with channels planted among them."""
    draw = rng(21)
    spectrum = 0.93 ** np.arange(components) * draw.uniform(0.9, 1.1, (len(kinds), layers, heads, 1))
    spectrum = -np.sort(-spectrum * draw.uniform(0.7, 1.3, (len(kinds), layers, heads, components)))
    value = -np.sort(-3 * 0.9 ** np.arange(components) * draw.uniform(0.7, 1.3, (layers, heads, components)))
    pairs = (len(kinds), layers, heads, layers, heads)
    later = np.arange(layers)[None, :] > np.arange(layers)[:, None]  # [layer, reader_layer]
    hole = np.where(later, 0.0, np.nan)[None, :, None, :, None]
    if scores:
        spread = np.sqrt((spectrum**4).sum(-1) * 2) / (spectrum**2).sum(-1)  # of score**2 * n, from reader to reader
        shape = (1 / spread**2)[:, None, None, None]
        score = np.sqrt(draw.gamma(shape, 1 / (shape * width), (len(kinds), layers, heads, components, layers, heads)))
        score = (score + hole[:, :, :, None]).astype(np.float32)
        for kind, (layer, head), component, (reader_layer, reader_head), strength in planted:
            if kind in kinds and max(layer, reader_layer) < layers and max(head, reader_head) < heads:
                score[kinds.index(kind), layer, head, component, reader_layer, reader_head] = strength
        weight = value**2 / (value**2).sum(-1, keepdims=True)
        filled = np.nan_to_num(score, nan=-1.0)
        index = filled.argmax(3)
        best = np.take_along_axis(filled, index[:, :, :, None], 3)[:, :, :, 0] + hole
        mean, sd = score.mean(3), score.std(3, ddof=1)
        total = np.sqrt(np.einsum("klhcij,lhc->klhij", score.astype(float) ** 2, weight))
    else:
        index = draw.integers(0, components, pairs)
        best = (draw.gumbel(1.7, 0.16, pairs) / np.sqrt(width) + hole).astype(np.float32)
        for kind, (layer, head), component, (reader_layer, reader_head), strength in planted:
            best[kinds.index(kind), layer, head, reader_layer, reader_head] = strength
            index[kinds.index(kind), layer, head, reader_layer, reader_head] = component
        mean = np.full(pairs, 0.95 / np.sqrt(width), np.float32) + hole.astype(np.float32)
        sd, total = 0.2 * mean, 1.05 * mean
    others = (mean * components - best) / max(components - 1, 1)
    z = (best - others) / np.maximum(sd, 1e-6)
    index = np.where(np.isfinite(best), index, -1).astype(np.int16)
    dims = ("kind", "layer", "head", "reader_layer", "reader_head")
    gap = np.concatenate([value[..., :-1] / value[..., 1:], np.full((*value.shape[:2], 1), np.nan)], axis=-1)
    data: dict[str, Any] = {
        "total": (dims, total.astype(np.float32)), "best": (dims, best.astype(np.float32)), "best_component": (dims, index),
        "best_z": (dims, z.astype(np.float32)), "mean": (dims, mean.astype(np.float32)), "sd": (dims, sd.astype(np.float32)),
        "value": (("layer", "head", "component"), value), "gap": (("layer", "head", "component"), gap),
        "rank": (("layer", "head"), np.full((layers, heads), components)),
        "spectrum": (("kind", "reader_layer", "reader_head", "component"), spectrum),
    }  # fmt: skip
    if scores:
        data["score"] = ("kind", "layer", "head", "component", "reader_layer", "reader_head"), score
    order = np.argsort(-np.nan_to_num(best, nan=-1.0), axis=None)[:top]
    at = np.unravel_index(order, pairs)
    data |= {
        "top_score": ("channel", best[at].astype(np.float64)), "top_z": ("channel", z[at].astype(np.float64)),
        "top_p": ("channel", np.clip(np.exp(-((best[at] * np.sqrt(width)) ** 2) * 1.5), 1e-300, 1)),
        "top_kind": ("channel", np.array(kinds)[at[0]]), "top_layer": ("channel", at[1]), "top_head": ("channel", at[2]),
        "top_component": ("channel", index[at].astype(np.int64)), "top_reader_layer": ("channel", at[3]),
        "top_reader_head": ("channel", at[4]),
    }  # fmt: skip
    data |= {
        "top_other": ("channel", np.full(len(at[0]), -1)),
        "top_other_cosine": ("channel", np.full(len(at[0]), np.nan)),
    }
    edges = np.linspace(0, 40, 801)
    every = score if scores else best
    counts = np.stack([np.histogram((part[np.isfinite(part)] * np.sqrt(width)), edges)[0] for part in every])
    data["histogram"] = ("kind", "bin"), counts
    coords = {
        "kind": list(kinds), "layer": np.arange(layers), "head": np.arange(heads), "reader_layer": np.arange(layers),
        "reader_head": np.arange(heads), "component": np.arange(components), "bin_low": ("bin", edges[:-1]), "bin_high": ("bin", edges[1:]),
    }  # fmt: skip
    attrs = {
        "free": width - 1, "folded": True, "biases": False, "offsets": [], "n_heads": heads, "precision": "float64",
        "scores": "kept" if scores else "left out",
    }  # fmt: skip
    return stamped(ChannelResult(xr.Dataset(data, coords, attrs)), folded=True)


def steering(
    axes: int = 1,
    items: int = 2,
    *,
    prompts: int = 12,
    steps: int = 9,
    arms: tuple[str, ...] = ("channel", "same_head", "random_head"),
) -> Any:
    """A reader whose keys lie on a circle (on a line for one axis): the channel moves its query, the controls hardly do."""
    from interp.analyses.channels.steering.steer_result import SteeringResult

    ticks = np.linspace(-4, 4, steps)
    alpha = np.stack(np.meshgrid(*[ticks] * axes, indexing="ij"), -1).reshape(-1, axes)
    spans = ["IO", "S1"] if items == 2 else [f"item_{place}" for place in range(items)]
    turn = 2 * np.pi * np.arange(items) / items
    keys = np.stack([np.cos(turn), np.sin(turn), np.full(items, 0.1)], 1)[:, :axes]  # [span, axis]
    split = np.array(["ABB", "BAB"])[np.arange(prompts) % 2] if items == 2 else np.full(prompts, "")
    side = np.where(split == "BAB", -1.0, 1.0)
    strength = np.array([1.0 if arm == "channel" else 0.05 for arm in arms])
    logits = np.einsum("a,n,pk,sk->apsn", strength, side, alpha, keys) + rng(5).normal(0, 0.2, (prompts,))
    logits = logits + rng(6).normal(0, 0.15, (items, prompts))
    attention = np.exp(logits) / (1 + np.exp(logits).sum(2, keepdims=True))
    base = attention.mean((0, 1))
    outcome = np.stack(
        [
            attention[:, :, 0],
            np.log(attention[:, :, 0]),
            4 * (attention[:, :, 0] - attention[:, :, 1]),
            attention[:, :, 0] < 0.5,
        ],
        2,
    )
    metrics, names = ["prob", "logprob", "logit_diff", "rank"], ["2.0.1", "2.0.3", "1.3.0"][:axes]
    data = {
        "attention": (("arm", "point", "reader", "span", "prompt"), attention[:, :, None].astype(np.float32)),
        "outcome": (("arm", "point", "metric", "prompt"), outcome.astype(np.float32)),
        "choice": (("arm", "point", "prompt"), attention.argmax(2).astype(np.int16)),
        "base_attention": (("reader", "span", "prompt"), base[None]), "base_outcome": (("metric", "prompt"), outcome.mean((0, 1))),
        "base_choice": ("prompt", base.argmax(0).astype(np.int16)),
    }  # fmt: skip
    coords = {
        "arm": list(arms), "arm_kind": ("arm", list(arms)), "writes": ("arm", [" ".join(names), "2.0.7", "random in 2.0"][: len(arms)]),
        "reader": ["3.0"], "span": spans, "metric": metrics, "alpha": (("point", "axis"), alpha), "axis": names,
        "prompt": [f"p{i}" for i in range(prompts)], "split": ("prompt", split), "correct": ("prompt", np.zeros(prompts, dtype=int)),
        "known": ("prompt", np.ones(prompts, dtype=bool)), "answer": ("prompt", ["x"] * prompts),
    }  # fmt: skip
    attrs = {
        "mode": "replace", "position": "last", "layer": -1, "unit": "std", "sign_rule": "order=BAB",
        "split_by": "order" if items == 2 else "",
        "to": spans[0], "minus": spans[1], "measured_at": "last", "chosen": [],
    }  # fmt: skip
    return stamped(SteeringResult(xr.Dataset(data, coords, attrs)))
