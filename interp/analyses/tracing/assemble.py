"""The traces of all prompts side by side, padded along `pos`; and a batch of them as plain arrays for the disk."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from ..readout import METRICS
from .jobs import Job, unique_ids
from .result import TraceResult
from .sweep import Trace

if TYPE_CHECKING:
    from interp.core.lm import LM

    from .trace import CausalTrace

GRID = ("direction", "prompt", "kind", "pos", "layer", "metric")
ARRAYS = ("score", "base", "low", "high", "control")


def assemble(
    config: "CausalTrace", lm: "LM", jobs: Sequence[Job], traces: Sequence[Trace], sigma: float, resumed: float
) -> TraceResult:
    """One result of all prompts, in the order of the data."""
    width, prompts, n_layers = max(len(job.tokens) for job in jobs), len(jobs), lm.spec.n_layers
    shape = (len(config.direction), prompts, len(config.kinds), width, n_layers)
    score, control = np.full((*shape, len(METRICS)), np.nan), np.full((*shape, len(METRICS)), np.nan)
    noise = np.full((*shape, len(METRICS), config.draws), np.nan) if config.keep_noise_rows else np.empty(0)
    role, token = (np.full((prompts, width), "", dtype=object) for _ in range(2))
    for index, (job, trace) in enumerate(zip(jobs, traces, strict=True)):
        length = len(job.tokens)
        for number, direction in enumerate(config.direction):
            mean, before = _mean(trace, number, direction)
            score[number, index, :, :length] = mean
            if trace.control.size:
                control[number, index, :, :length] = before + trace.control[number]
            if noise.size:
                noise[number, index, :, :length] = np.moveaxis(trace.score[number], -2, -1)
        role[index, :length] = job.roles
        token[index, :length] = job.tokens.labels
    data: dict[str, Any] = {
        "score": (GRID, score),
        "low": (("prompt", "metric"), np.stack([_average(trace.low) for trace in traces])),
        "high": (("prompt", "metric"), np.stack([trace.high for trace in traces])),
        "role": (("prompt", "pos"), role.astype(str)),
        "token": (("prompt", "pos"), token.astype(str)),
        "n_pos": ("prompt", [len(job.tokens) for job in jobs]),
    }
    if config.controls:
        data["control"] = (GRID, control)
    if config.keep_noise_rows:
        data["score_noise"] = ((*GRID, "noise"), noise)
        low = np.stack([trace.low for trace in traces])  # [prompt, noise, metric]
        data["low_noise"] = (("prompt", "metric", "noise"), np.moveaxis(low, 1, -1))
    table = xr.Dataset(data, _coords(config, lm, jobs, traces, width), _attrs(config, jobs, traces, sigma, resumed))
    if len(config.direction) == 1:  # one map needs no axis for it
        table = table.isel(direction=0)
    return TraceResult(table)


def pack(traces: Sequence[Trace]) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """A batch of traces, which have equal shapes, as arrays and JSON values."""
    arrays = {name: np.stack([getattr(trace, name) for trace in traces]) for name in ARRAYS}
    arrays["restored"] = np.array([trace.restored for trace in traces])
    values = [
        {"answer": list(t.answer), "foil": t.foil, "foil_given": t.foil_given, "predicted": list(t.predicted)} for t in traces
    ]  # fmt: skip
    return arrays, {"traces": values}


def unpack(arrays: dict[str, np.ndarray], values: dict[str, Any]) -> list[Trace]:
    """What `pack` was given."""
    return [
        Trace(
            **{name: arrays[name][index] for name in ARRAYS}, answer=tuple(one["answer"]), foil=one["foil"],
            foil_given=one["foil_given"], predicted=tuple(one["predicted"]), restored=float(arrays["restored"][index]),
        )
        for index, one in enumerate(values["traces"])
    ]  # fmt: skip


def _mean(trace: Trace, number: int, direction: str) -> tuple[np.ndarray, np.ndarray]:
    """Scores averaged over the draws [kind, pos, layer, metric], and that of the run that is changed [metric].

    All rows of a clean run are one run, so noising is counted from its single score: a cell that changes nothing has that score to the
    last bit, whatever rounding the larger batch adds.
    """
    if direction == "denoise":
        return _average(trace.score[number]), _average(trace.low)
    return trace.high + _average(trace.score[number] - trace.base[number]), trace.high


def _average(values: np.ndarray) -> np.ndarray:
    """The mean over draws, the last axis but one; a cell that equals another draw by draw has the same mean to the last bit."""
    return np.add.reduce(np.moveaxis(values, -2, 0), axis=0) / values.shape[-2]


def _coords(
    config: "CausalTrace", lm: "LM", jobs: Sequence[Job], traces: Sequence[Trace], width: int
) -> dict[str, Any]:
    def labels(ids: Sequence[int]) -> str:
        return "".join(lm.tokenizer.label(token) for token in ids)

    return {
        "direction": list(config.direction),
        "prompt": unique_ids([job.tokens.id for job in jobs]),
        "kind": list(config.kinds),
        "pos": np.arange(width),
        "layer": np.arange(lm.spec.n_layers),
        "metric": list(METRICS),
        "known": ("prompt", [trace.predicted == trace.answer for trace in traces]),
        "answer": ("prompt", [labels(trace.answer) for trace in traces]),
        "answer_tokens": ("prompt", [len(trace.answer) for trace in traces]),
        "foil": ("prompt", [labels([trace.foil]) if trace.foil >= 0 else "" for trace in traces]),
        "foil_given": ("prompt", [trace.foil_given for trace in traces]),
        "predicted": ("prompt", [labels(trace.predicted) for trace in traces]),
        "subject": ("prompt", [job.subject for job in jobs]),
    }


def _attrs(
    config: "CausalTrace", jobs: Sequence[Job], traces: Sequence[Trace], sigma: float, resumed: float
) -> dict[str, Any]:
    attrs: dict[str, Any] = {
        "sigma": sigma,
        "noise": config.noise,
        "corruption": config.corruption,
        "noise_samples": config.draws,
        "window": config.window,
        "window_rule": config.window_rule,
        "answers": config.answers,
        "resume_difference": resumed,
        "restored_difference": max((t.restored for t in traces if np.isfinite(t.restored)), default=float("nan")),
    }
    if config.corruption == "mean":
        attrs["mean_of"] = config.mean_of
    if notes := sorted({note for job in jobs for note in job.tokens.notes}):
        attrs["notes"] = notes
    return attrs
