"""Small results built from the schemas of the result classes: no model, any size, numbers that look like something."""

from typing import Any

import numpy as np
import xarray as xr

from interp.analyses.heads import SCORES, HeadResult
from interp.analyses.lens import LensResult
from interp.analyses.loss import LossResult
from interp.analyses.shares import ShareResult
from interp.analyses.tracing import TraceResult
from interp.analyses.weight_stats import MEASURES, WeightResult
from interp.core.analysis import Result
from interp.core.manifest import Manifest

TOKENS = ["<bos>", "␣The", "␣An", "dor", "mere", "␣lies", "␣in", "␣the", "␣The", "␣of"]
ROLE = [
    "bos",
    "before",
    "first subject",
    "middle subject",
    "last subject",
    "first after",
    "further",
    "further",
    "further",
    "last",
]


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def stamped(result: Result, **config: Any) -> Any:
    """With a manifest that is the same whatever the code, so that figures of it can be compared byte by byte."""
    result.config = dict(config)
    result.manifest = Manifest(
        interp="0.1.0",
        model={"name": "atlas", "fingerprint": "607a30d2" * 4},
        config=dict(config),
        inputs={"data": "c0ffee"},
    )
    return result


def trace(
    prompts: int = 4,
    layers: int = 8,
    known: int | None = None,
    width: int = 10,
    kinds: tuple[str, ...] = ("hidden", "mlp", "attn"),
) -> TraceResult:
    """A fact that is written at the subject's end by early MLPs and moved to the last token by late attention."""
    pos, layer = np.arange(width), np.arange(layers)
    subject = np.exp(-(((pos - 4) / 0.7) ** 2))[:, None] * np.exp(-(((layer - 0.25 * layers) / (0.25 * layers)) ** 2))
    last = np.exp(-(((pos - (width - 1)) / 0.6) ** 2))[:, None] * np.exp(
        -(((layer - 0.8 * layers) / (0.2 * layers)) ** 2)
    )
    shape = {
        "hidden": 0.6 * subject + 0.7 * last,
        "mlp": 0.5 * subject - 0.04 * last,
        "attn": 0.45 * last + 0.02 * subject,
    }
    maps = np.stack([shape.get(kind, 0.2 * subject) for kind in kinds])  # [kind, pos, layer]
    noise = rng(1).normal(0, 0.03, (prompts, *maps.shape))
    effect = np.where(pos[:, None] < 2, 0.0, maps[None] + noise)  # nothing before the subject
    metrics = ["prob", "logprob", "logit_diff", "rank"]
    scale = np.array([1.0, 4.0, 8.0, -30.0])
    low = np.tile(np.array([0.04, -3.0, -1.0, 40.0]), (prompts, 1))
    high = low + 0.8 * scale
    score = low[:, None, None, None] + effect[..., None] * scale
    names = np.array((TOKENS * 999)[:width]) if width > len(TOKENS) else np.array(TOKENS[:width])
    role = np.array(ROLE[:width] if width <= len(ROLE) else [*ROLE[:-1], *["further"] * (width - len(ROLE)), "last"])
    known_rows = np.arange(prompts) < (prompts - 1 if known is None else known)
    data = {
        "score": (("prompt", "kind", "pos", "layer", "metric"), score),
        "low": (("prompt", "metric"), low), "high": (("prompt", "metric"), high),
        "role": (("prompt", "pos"), np.tile(role, (prompts, 1))), "token": (("prompt", "pos"), np.tile(names, (prompts, 1))),
        "n_pos": ("prompt", np.full(prompts, width)),
    }  # fmt: skip
    coords = {
        "prompt": [f"kingdom-{index}" for index in range(prompts)], "kind": list(kinds), "pos": pos, "layer": layer, "metric": metrics,
        "known": ("prompt", known_rows), "answer": ("prompt", ["␣Marlow"] * prompts), "foil": ("prompt", ["␣Esk"] * prompts),
        "predicted": ("prompt", ["␣Marlow"] * prompts), "foil_given": ("prompt", np.zeros(prompts, dtype=bool)),
    }  # fmt: skip
    return stamped(
        TraceResult(xr.Dataset(data, coords=coords, attrs={"sigma": 0.1, "noise": 3.0, "window": 2})), window=2
    )


def lens(documents: int = 12, layers: int = 8) -> LensResult:
    depth = np.arange(layers + 1)
    gone = np.exp(-depth / layers * 3) - np.exp(-3.0)
    jitter = rng(2).uniform(0.8, 1.2, (documents, 1))
    agree = 1 / (1 + np.exp(-(depth - 0.6 * layers) * 1.1))
    agree[-1] = 1.0
    columns = {
        "nll": 2.4 + 12 * gone * jitter,
        "kl": 11 * gone * jitter,
        "agree": np.clip(agree * (1.05 - 0.1 * jitter), 0, 1),
    }
    columns["agree"][:, -1] = 1.0
    coords = {
        "document": [f"text-{i}" for i in range(documents)],
        "depth": depth,
        "tokens": ("document", np.full(documents, 31)),
    }
    coords["text"] = ("document", np.arange(documents))
    return stamped(LensResult(xr.Dataset({k: (("document", "depth"), v) for k, v in columns.items()}, coords)))


def heads(sequences: int = 6, layers: int = 8, count: int = 8) -> HeadResult:
    score = rng(3).beta(0.6, 8, (sequences, len(SCORES), layers, count))
    score[:, SCORES.index("previous"), min(2, layers - 1), 1 % count] = 0.93
    score[:, SCORES.index("induction"), min(5, layers - 1), 3 % count] = 0.81
    score[:, SCORES.index("entropy")] = rng(4).uniform(0.2, 3.0, (sequences, layers, count))
    period = np.tile([16, 24, 32], sequences)[:sequences]
    chance = np.tile(np.array([0.02, 0.02, 0.02, 0.02, 0.02, np.nan]), (sequences, 1))
    data = {
        "score": (("sequence", "metric", "layer", "head"), score), "chance": (("sequence", "metric"), chance),
        "entropy_max": ("sequence", np.full(sequences, 3.6)), "first_loss": ("sequence", rng(5).uniform(5.8, 6.2, sequences)),
        "second_loss": ("sequence", rng(6).uniform(0.4, 0.8, sequences)),
        "copying": (("layer", "head"), rng(7).uniform(-1, 1, (layers, count))),
    }  # fmt: skip
    coords = {
        "sequence": [f"{p}-{i}" for i, p in enumerate(period)], "metric": list(SCORES), "layer": np.arange(layers),
        "head": np.arange(count), "period": ("sequence", period),
    }  # fmt: skip
    return stamped(HeadResult(xr.Dataset(data, coords, {"bos": True, "kind": "words"})))


def loss(documents: int = 20, width: int = 200) -> LossResult:
    pos = np.arange(width)
    nll = 2.2 + 4 / np.sqrt(1 + pos) + rng(8).normal(0, 0.6, (documents, width))
    nll[:, 0] = np.nan
    for row, length in enumerate(rng(9).integers(width // 2, width + 1, documents)):
        nll[row, length:] = np.nan
    parts = {"nll": nll, "entropy": nll * 0.9, "top1": (nll < 2.3).astype(float)}
    data = {name: (("document", "pos"), values.astype(np.float32)) for name, values in parts.items()}
    coords = {
        "document": [f"text-{i}" for i in range(documents)],
        "pos": pos,
        "text": ("document", np.arange(documents)),
    }
    return stamped(LossResult(xr.Dataset(data, coords, {"bos": True})))


def weights(layers: int = 8, vocab: int = 300) -> WeightResult:
    kinds = ["W_Q", "W_K", "W_V", "W_O", "W_in", "W_gate", "W_out"]
    depth = np.arange(layers)
    base = {"frobenius": 14.0, "spectral": 4.0, "stable_rank": 12.0, "effective_rank": 50.0}
    data: dict[str, Any] = {
        name: (("matrix", "layer"), value * (1 + 0.05 * np.arange(7)[:, None] + 0.04 * depth + rng(10).normal(0, 0.05, (7, layers))))
        for name, value in base.items()
    }  # fmt: skip
    data |= {f"table_{name}": ("table", [base[name], base[name] * 1.2]) for name in MEASURES}
    data |= {
        "null": ("matrix", np.full(7, 60.0)),
        "row_norm": (("table", "token"), rng(11).uniform(0.8, 2, (2, vocab))),
    }
    coords = {"matrix": kinds, "layer": depth, "table": ["W_E", "W_U"], "token": np.arange(vocab)}
    return stamped(WeightResult(xr.Dataset(data, coords, {"tied": True})))


def shares(documents: int = 12, layers: int = 8) -> ShareResult:
    depth = np.arange(layers)
    both = np.stack([0.3 + 0.2 * np.exp(-depth / 3), 0.55 - 0.03 * depth])
    share = both * rng(12).uniform(0.9, 1.1, (documents, 1, 1))
    norm = (10 + 4 * depth) * rng(13).uniform(0.9, 1.1, (documents, 1))
    coords = {"document": [f"text-{i}" for i in range(documents)], "part": ["attn", "mlp"], "layer": depth}
    coords["text"] = ("document", np.arange(documents))
    data = {"share": (("document", "part", "layer"), share), "norm": (("document", "layer"), norm)}
    data["tokens"] = ("document", np.full(documents, 31))
    return stamped(ShareResult(xr.Dataset(data, coords, {"skip": 1})))


def everything(layers: int = 8) -> dict[str, Result]:
    return {
        "lens": lens(layers=layers), "tracing": trace(layers=layers), "heads": heads(layers=layers), "shares": shares(layers=layers),
        "weights": weights(layers=layers),
    }  # fmt: skip
