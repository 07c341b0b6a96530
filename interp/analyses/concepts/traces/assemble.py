"""Comparisons of several concepts as one labelled dataset."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import xarray as xr

from interp.core.lm import LM

from .comparison import INTRINSIC, Traces
from .rankings import NOTHING
from .snapshot import Asked, Snapshot

SHOWN = 30
"""Top tokens of a vector that are kept as words, before and after."""


def assemble(lm: LM, found: Sequence[Traces], changes: xr.Dataset) -> xr.Dataset:
    """The dataset that `UnlearningResult` documents."""
    first = found[0]
    states = ["before", "after"] + (["clean"] if first.clean else [])
    columns: dict[str, Any] = {}
    coords: dict[str, Any] = {"state": states}
    for part in (_values(found), _vectors(lm, found, states), _prompts(found, states), _texts(found, states)):
        columns |= part[0]
        coords |= part[1]
    for name, values in changes.data_vars.items():
        columns[f"weight_{name}"] = (values.dims, values.values)
    coords |= {str(name): values.values for name, values in changes.coords.items()}
    before, settings = first.before, first.before.settings
    attrs = {
        "before": before.name, "after": first.after.name, "clean": first.clean.name if first.clean else "",
        "top_k": int(before.top.shape[1]), "rbo_p": settings.rbo_p, "min_share": settings.min_share,
        "unembedding_trained": not first.after.own_unembedding, "heldout": before.material.heldout_is,
        "neutral": before.material.neutral_is, "privleak": "relative to the clean model" if first.clean else "difference of AUC",
        "weight_floor": float(changes.attrs.get("floor", 0.0)), "reasons": _reasons(found),
    }  # fmt: skip
    return xr.Dataset(columns, coords, attrs)


def _reasons(found: Sequence[Traces]) -> dict[str, str]:
    """Why measures are NaN, by measure, or by concept and measure where only some concepts lack it."""
    names = [traces.before.concept.name for traces in found]
    told: dict[tuple[str, str], list[str]] = {}
    for name, traces in zip(names, found, strict=True):
        for measure, why in traces.reasons.items():
            if measure != "perplexity" or traces is found[0]:  # neutral text is read once, for all
                told.setdefault((measure, why), []).append(name)
    out: dict[str, str] = {}
    for (measure, why), of in told.items():
        out |= {measure: why} if of == names or measure == "perplexity" else {f"{name}: {measure}": why for name in of}
    return out


def _values(found: Sequence[Traces]) -> tuple[dict[str, Any], dict[str, Any]]:
    rows = [traces.measures() for traces in found]
    first, *later = rows
    if later:  # neutral text is read once, for all
        for name in (
            "perplexity",
            "perplexity_before",
            "perplexity_clean",
            "perplexity_ratio",
            "perplexity_low",
            "perplexity_high",
        ):
            for row in later:
                if name in first:
                    row[name] = first[name]
    table = [[row[name] for name in first] for row in rows]
    concepts = [traces.before.concept.name for traces in found]
    return {"value": (("concept", "measure"), table)}, {"concept": concepts, "measure": list(first)}


def _vectors(lm: LM, found: Sequence[Traces], states: Sequence[str]) -> tuple[dict[str, Any], dict[str, Any]]:
    ids, concept, name, null, named = [], [], [], [], list[str]()
    for traces in found:
        state = traces.before
        for place, vector in enumerate((*state.vectors, *state.nulls)):
            is_null = place >= len(state.vectors)
            beside = state.vectors[state.null_of[place - len(state.vectors)]] if is_null else vector
            ids.append(f"{state.concept.name}/{beside}" + (f"/{vector}" if is_null else ""))
            concept.append(state.concept.name)
            name.append(str(vector))
            null.append(is_null)
            if not is_null:
                named.append(ids[-1])
    trace = np.concatenate([np.stack([traces.vectors[one] for one in INTRINSIC], axis=1) for traces in found])
    by_state = [[_state(traces, one) for traces in found] for one in states]
    norm = [np.concatenate([state.rows.norm(dim=-1).numpy() for state in row]) for row in by_state]
    active = [
        np.concatenate(
            [state.activation.mean(axis=0) if len(state.activation) else np.full(state.count, np.nan) for state in row]
        )
        for row in by_state
    ]
    tops = [_labels(lm, row) for row in by_state]
    return {
        "trace": (("vector", "trace_measure"), trace), "norm": (("state", "vector"), norm), "activation": (("state", "vector"), active),
        "token": (("state", "named", "rank"), [labels for labels, _ in tops]),
        "token_related": (("state", "named", "rank"), [related for _, related in tops]),
    }, {
        "vector": ids, "vector_concept": ("vector", concept), "vector_name": ("vector", name), "null": ("vector", null),
        "trace_measure": list(INTRINSIC), "named": named,
    }  # fmt: skip


def _labels(lm: LM, states: Sequence[Snapshot]) -> tuple[np.ndarray, np.ndarray]:
    """The first top tokens of every named vector as words, and whether each belongs to the concept, [named, rank]."""
    words, related = [], []
    for state in states:
        for place in range(len(state.vectors)):
            ids = state.top[place, :SHOWN].tolist()
            words.append([lm.tokenizer.label(token) if token != NOTHING else "" for token in ids])
            related.append([token in state.related[place] for token in ids])
    return np.array(words), np.array(related)


def _prompts(found: Sequence[Traces], states: Sequence[str]) -> tuple[dict[str, Any], dict[str, Any]]:
    rows: list[tuple[str, str, list[Asked]]] = []  # id, concept, what each model made of the prompt
    for traces in found:
        name = traces.before.concept.name
        for place, asked in enumerate(zip(*(_state(traces, state).asked for state in states), strict=True)):
            rows.append((f"{name}/{asked[0].group}/{place}", name, list(asked)))
    groups = [asked[0].group for *_, asked in rows]
    kl = np.full(len(rows), np.nan)
    kl[[place for place, group in enumerate(groups) if group == "unrelated"]] = np.concatenate(
        [traces.kl for traces in found]
    )
    columns: dict[str, Any] = {
        "bleu": ("prompt", np.concatenate([traces.bleu for traces in found])),
        "bleu_published": ("prompt", np.concatenate([traces.bleu_published for traces in found])),
        "rouge": ("prompt", np.concatenate([traces.rouge for traces in found])), "kl": ("prompt", kl),
    }  # fmt: skip
    for name in ("prob", "correct", "knowmem", "answer"):
        values = [[getattr(asked[place], name) for *_, asked in rows] for place in range(len(states))]
        columns[name] = (("state", "prompt"), np.array(values, dtype=str if name == "answer" else float))
    return columns, {
        "prompt": [row[0] for row in rows], "prompt_concept": ("prompt", np.array([row[1] for row in rows], dtype=str)),
        "group": ("prompt", np.array(groups, dtype=str)),
        "question": ("prompt", np.array([asked[0].prompt.text for *_, asked in rows], dtype=str)),
        "gold": ("prompt", np.array([asked[0].prompt.answer or "" for *_, asked in rows], dtype=str)),
    }  # fmt: skip


def _texts(found: Sequence[Traces], states: Sequence[str]) -> tuple[dict[str, Any], dict[str, Any]]:
    def every(name: str) -> np.ndarray:
        return np.stack([np.concatenate([getattr(_state(traces, one), name) for traces in found]) for one in states])

    texts = [(traces.before.concept.name, place) for traces in found for place in range(len(traces.before.verbmem))]
    heldout = [
        (traces.before.concept.name, place) for traces in found for place in range(len(traces.before.heldout_score))
    ]
    return {
        "verbmem": (("state", "text"), every("verbmem")), "forget_score": (("state", "text"), every("forget_score")),
        "heldout_score": (("state", "heldout"), every("heldout_score")), "nll": (("state", "document"), every("neutral_nll")),
        "tokens": ("document", found[0].before.neutral_tokens),
    }, {
        "text": [f"{name}/{place}" for name, place in texts],
        "text_concept": ("text", np.array([name for name, _ in texts], dtype=str)),
        "heldout": [f"{name}/{place}" for name, place in heldout],
        "heldout_concept": ("heldout", np.array([name for name, _ in heldout], dtype=str)),
        "document": list(range(len(found[0].before.neutral_tokens))),
    }  # fmt: skip


def _state(traces: Traces, name: str) -> Snapshot:
    state: Snapshot = getattr(traces, name)
    return state
