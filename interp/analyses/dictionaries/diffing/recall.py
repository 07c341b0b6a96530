"""Are latents of one model alone still being found when training ends?

They are learned last: a shared latent explains two models for the same place among the active ones, so a crosscoder whose FVU has stopped
moving may still have most of its exclusive latents before it. The training result counted them as it went; here the counts of one
dictionary are taken out of it, with what to say of them.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from interp.core.artifact import open_result
from interp.core.errors import BadInput


@dataclass(frozen=True, eq=False)
class Recall:
    """How many exclusive latents there were over training."""

    tokens: np.ndarray
    """Rows seen at each record, int64 [record]."""
    counts: np.ndarray
    """Living latents of the base alone and of the tuned model alone, [model, record]."""
    warning: str
    """What to say of it; empty where nothing was still being found."""


def recall_of(training: Any, dictionary: str = "") -> Recall:
    """Of a training result (or the folder of one); `dictionary` is its name in it, where it trained several.

    Raises `BadInput` where it is no training of a crosscoder of two models, or does not name one of several.
    """
    result: Any = open_result(training) if isinstance(training, str | Path) else training
    counts = result.exclusive() if hasattr(result, "exclusive") else None
    if counts is None or not {"base", "tuned"} <= {str(view) for view in counts["view"].values}:
        raise BadInput(
            f"{type(result).__name__} did not train a crosscoder of a base and a tuned model. Give that training's result."
        )
    names = [str(name) for name in counts["dictionary"].values]
    if dictionary not in names and len(names) > 1:
        raise BadInput(f"this training made {names}; say which, not {dictionary!r}.")
    name = dictionary if dictionary in names else names[0]
    one = counts.sel(dictionary=name, view=["base", "tuned"]).transpose("view", "step")
    found = result.still_finding().get(name)
    warning = ""
    if found is not None:
        warning = (
            f"latents of one model alone were still being found when training ended ({found[0]} of {found[1]} were there a fifth before): "
            "there are probably more. Train longer before counting them."
        )
    return Recall(result.data["tokens"].values, one.values.astype(np.float64), warning)
