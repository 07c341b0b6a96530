"""Settings of the editors for each problem: the paper's, and ones that fit a small model.

`paper` is what Hase et al.'s program uses for GPT-J and GPT-2 XL. Step sizes and clamps are in units of weights and activations,
so on another model they are another edit: on `atlas` the paper's fine-tuning changes nothing (every weight stops at its clamp), and
its MEMIT stops half way. `small` measures fine-tuning in standard deviations of the edited matrix, and gives values more room; it was
chosen on `atlas`, by the rewrite and neighbourhood scores of four facts, and is no more than a start elsewhere.

    presets("error_injection", "small")["ROME"]
"""

from typing import Literal

from interp.core.errors import one_of

from .editors import Editor
from .finetune import HASE_FT, FineTuning
from .memit import MEMIT
from .problems import PROBLEMS
from .rome import ROME

SCALES = ("paper", "small")


def presets(problem: str, scale: Literal["paper", "small"] = "paper") -> dict[str, Editor]:
    """The editors of the paper's table for one problem, by name: FT-1, FT-5 (FT-3 for small models), ROME, MEMIT."""
    one_of("problem", problem, PROBLEMS)
    one_of("scale", scale, SCALES)
    if scale == "small":
        clamp = 0.05 if problem == "fact_erasure" else 0.1
        return {
            "FT-1": FineTuning(relative=True, lr=0.02, clamp=clamp),
            "FT-3": FineTuning(window=3, relative=True, lr=0.02, clamp=clamp / 2),
            "ROME": ROME(),
            "MEMIT": MEMIT(window=3, lr=0.2, clamp_factor=2.0, mom2_weight=100.0),
        }
    given = HASE_FT[problem]
    return {
        **{name: _trained(5 if name == "FT-5" else 1, **given[name]) for name in given},
        "ROME": ROME(lr=0.05, steps=25) if problem == "fact_forcing" else ROME(),
        "MEMIT": MEMIT(),
    }


def _trained(window: int, *, clamp: float, steps: int = 25) -> FineTuning:
    return FineTuning(window=window, clamp=clamp, steps=steps)
