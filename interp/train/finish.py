"""The end of a training: thresholds from rows that were kept aside, what is measured with them, and everything written down."""

import math
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ..core.errors import ArtifactError
from ..core.manifest import Manifest
from .heldout import Heldout
from .learner import Learner
from .result import TrainingResult, assemble
from .threshold import calibrate

if TYPE_CHECKING:
    from .loop import Loop
    from .training import Trained

FEW = 1000
"""Rows kept aside below which a threshold set on them is called uncertain."""
MANY_DEAD = 0.5
"""Share of dead latents that is worth a warning."""


def finished(loop: "Loop", heldout: Heldout) -> "Trained":
    """Calibrated dictionaries and the result; written to the folder, where there is one."""
    from .training import Trained

    ends = [_end(learner, heldout) for learner in loop.learners]
    for learner, end in zip(loop.learners, ends, strict=True):
        loop.warnings += [text for text in _warnings(loop, learner, heldout) if text not in loop.warnings]
        learner.dictionary.requires_grad_(False)
        for parameter in learner.dictionary.parameters():
            parameter.grad = None
        learner.dictionary.metadata |= loop.data.metadata | {
            "tokens": loop.seen, "data": loop.data.digest, "training": loop.options.to_dict(), "l0": end["final_l0"],
            "fvu": end["final_fvu"], "threshold_running": learner.running.value.tolist(),
        }  # fmt: skip
    result = _result(loop, ends)
    for name, (early, late) in result.still_finding().items():
        loop.warnings.append(
            f"{name}: exclusive latents were still being found in the last fifth of the training ({early:,} before, {late:,} at the end). "
            "They are learned last: train longer before counting what one view has and another has not."
        )
    result.data.attrs["warnings"] = list(loop.warnings)
    dictionaries = tuple(learner.dictionary for learner in loop.learners)
    folder = _write(loop, result) if loop.kept is not None else None
    return Trained(dictionaries, result, folder)


def _end(learner: Learner, heldout: Heldout) -> dict[str, Any]:
    """Set the threshold; FVU and L0 with it, and L0 with the running one."""
    dictionary, config = learner.dictionary, learner.config
    names = [view.name for view in config.writes]
    end: dict[str, Any] = {"calibrated": {}, "final_l0_running": math.nan}
    if config.activation == "batchtopk":
        learner.adopt_threshold()
        end["final_l0_running"] = heldout.measure(dictionary)[1]
        if heldout.data.heldout_rows:
            keep = round(config.k * heldout.rows)
            sides: list[str | None] = list(names) if config.code_scale == "decoupled" else [None]
            found = [
                calibrate(partial(heldout.scores, dictionary, side), keep, heldout.parallel.world.sum_)
                for side in sides
            ]
            dictionary.threshold.copy_(torch.tensor(found, dtype=torch.float64))
            end["calibrated"] = dict(zip(names, found * (len(names) // len(found)), strict=True))
    end["final_fvu"], end["final_l0"] = heldout.measure(dictionary)
    return end


def _warnings(loop: "Loop", learner: Learner, heldout: Heldout) -> list[str]:
    found, label, config = [], learner.label, learner.config
    if config.dtype in ("bfloat16", "float16"):
        found.append(
            f"{label}: its weights were trained in {config.dtype}, which loses small steps and makes scores tie. Train in float32 and "
            "convert afterwards (`dictionary.to(torch.bfloat16)`)."
        )
    if config.activation == "batchtopk" and not loop.data.heldout_rows:
        found.append(
            f"{label}: no rows were kept aside, so its threshold is the running mean of training. Give TrainingData(heldout=0.05)."
        )
    elif config.activation == "batchtopk" and heldout.rows < FEW:
        found.append(
            f"{label}: its threshold rests on {heldout.rows:,} rows only. Keep more aside (TrainingData(heldout=...))."
        )
    if not loop.data.heldout_rows:
        found.append("no rows were kept aside: FVU and L0 are of rows that were trained on.")
    dead = learner.firing.dead(learner.dead_after)
    if dead is None and (never := learner.total(learner.firing.silent >= learner.firing.seen)):
        found.append(
            f"{label}: {never:,} of its {config.latents:,} latents were never on, and none is called dead, `dead_after` "
            f"({learner.dead_after:,} tokens) being longer than the training ({learner.firing.seen:,}). Lower it."
        )
    share = 0.0 if dead is None else learner.total(dead) / config.latents
    if share > MANY_DEAD:
        found.append(
            f"{label}: {share:.0%} of its {config.latents:,} latents are dead (not on for {learner.dead_after:,} tokens). Train "
            "fewer latents, longer, with a larger k or `auxiliary`, or with a lower `lr`."
        )
    if config.activation in ("relu", "jumprelu") and learner.objective.coefficient == 0:
        found.append(f"{label}: nothing made its codes sparse, `coefficient` being 0.")
    return found


def _result(loop: "Loop", ends: list[dict[str, Any]]) -> TrainingResult:
    views, terms = loop.records.views, loop.records.terms
    columns = {"fvu": views, "fvu_heldout": views, "threshold": views, "exclusive": views, "terms": terms}
    rows = []
    for row in loop.records.rows:
        plain = {name: value for name, value in row.items() if name != "seconds"}
        for name in columns.keys() & plain.keys():
            plain[name] = _table(plain[name], columns[name])
        rows.append(plain)
    end: dict[str, Any] = {name: _table([one[name] for one in ends], views) for name in ("final_fvu", "calibrated")}
    end |= {name: [one[name] for one in ends] for name in ("final_l0", "final_l0_running")}
    end["latents"] = np.array([learner.config.latents for learner in loop.learners], dtype=np.int64)
    labels = {"dictionary": [learner.label for learner in loop.learners], "view": views, "term": terms}
    attrs = {
        "tokens": loop.seen, "batch": loop.options.batch, "dead_after": loop.options.dead_tokens, "rows": loop.data.rows,
        "heldout_rows": loop.data.heldout_rows, "lr": [learner.lr for learner in loop.learners], "seconds": round(loop.seconds, 3),
        "warnings": list(loop.warnings),
    }  # fmt: skip
    config = loop.options.to_dict() | {"dictionaries": [learner.config.to_dict() for learner in loop.learners]}
    manifest = Manifest.of(
        None, analysis="Training", config=config, inputs={"data": loop.data.digest}, seeds={"seed": loop.options.seed},
        seconds=loop.seconds,
    )  # fmt: skip
    models = {
        (view.model, view.fingerprint) for learner in loop.learners for view in learner.config.views if view.model
    }
    if models:
        name, fingerprint = (" + ".join(part) for part in zip(*sorted(models), strict=True))
        manifest = replace(manifest, model={"name": name, "fingerprint": fingerprint})
    return TrainingResult(assemble(rows, end, labels, attrs), config=config, manifest=manifest)


def _table(found: list[dict[str, float]], names: list[str]) -> np.ndarray:
    """[dictionary, name], NaN where a dictionary has no such view or term."""
    return np.array([[one.get(name, math.nan) for name in names] for one in found], dtype=np.float64).reshape(
        len(found), len(names)
    )


def _write(loop: "Loop", result: TrainingResult) -> Path | None:
    """Dictionaries and the table beside the checkpoints; None, and a warning, where that fails: what was trained is still in memory."""
    assert loop.kept is not None
    folder = loop.kept.folder
    if not loop.parallel.main and loop.parallel.latents.size == 1:
        return folder
    places = dictionary_folders(folder, len(loop.learners))
    try:
        for learner, place in zip(loop.learners, places, strict=True):
            learner.dictionary.save(place, overwrite=place.exists())
        table = folder / "training"
        if loop.parallel.main:
            result.save(table, overwrite=table.exists())
    except ArtifactError as error:
        text = f"the dictionaries were not saved: {error} The last checkpoint is kept: the same call saves them."
        result.data.attrs["warnings"] = [*result.data.attrs["warnings"], text]
        loop.say(text)
        return None
    return folder


def dictionary_folders(folder: Path, count: int) -> list[Path]:
    """Where the dictionaries of a training are saved: `dictionary`, or `dictionary-1` and so on where there are several."""
    return [folder / "dictionary"] if count == 1 else [folder / f"dictionary-{place + 1}" for place in range(count)]
