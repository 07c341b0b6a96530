"""Cases on activation patching: the asymmetry of its two directions, its identities, and nothing found where nothing is."""

from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np

from interp.models import reference

if TYPE_CHECKING:
    from interp.analyses.patching import PatchingResult

WORDS = ("amber", "brook", "cedar", "delta", "frost", "grove", "haven", "inlet", "jetty", "knoll", "larch", "marsh")


@cache
def patched_gates(kind: Any) -> "PatchingResult":
    """Heads and MLPs of a hand-wired gate, patched in both directions."""
    from interp.analyses.patching import ActivationPatching
    from interp.models.reference.planted.gates import gate_pairs, gates

    config = ActivationPatching(kinds=("z", "resid_post"), over=("layer head", "layer"))
    return config(reference.as_lm(gates(kind=kind)), gate_pairs(8))


def gates_are_told_apart() -> tuple[bool, str]:
    """Two heads that are both needed, and two that replace each other: each direction finds one kind only, and wholly."""
    off = 0.0
    for kind, wanted in (("and", (0.0, 1.0)), ("or", (1.0, 0.0))):
        share = patched_gates(kind).normalised(kind="z").sel(layer=0, head=[0, 1]).transpose("direction", ...)
        off = max(off, float(np.abs(share.values - np.reshape(wanted, (2, 1, 1))).max()))
    return off < 1e-3, f"AND by noise, OR by denoising: {off:.0e} off"


def streams_are_the_other_run() -> tuple[bool, str]:
    """The whole stream of any layer put in gives the other run; nothing put in, exactly nothing."""
    found = patched_gates("and")
    off = float(np.abs(found.normalised(kind="resid_post") - 1).max())
    nothing = float(found.data.attrs["nothing_difference"])
    return off < 1e-5 and nothing == 0.0, f"share {off:.0e} off 1 at every depth, {nothing:g} for nothing"


def no_heads() -> tuple[bool, str]:
    """Heads of random weights on pairs of an induction task: after Holm's correction, none carries an answer."""
    from interp.analyses.patching import ActivationPatching
    from interp.data import Prompt, PromptPair

    pairs = []
    for index in range(12):
        a, b, c, d = (WORDS[(index + step) % len(WORDS)] for step in (0, 1, 2, 5))
        clean = Prompt.of(f"ember {a} {b} {c} {d} {a}", answer=b, foil=d)
        pairs.append(PromptPair(clean, Prompt.of(f"ember {c} {b} {a} {d} {a}", answer=d, foil=b)))
    found, planted = (
        ActivationPatching(kinds=("z",), over=("layer head",))(reference.as_lm(reference.induction(null=null)), pairs)
        for null in (True, False)
    )
    false = int(found.significant(known=False)["significant"].sum())
    true = int(planted.significant()["significant"].sum())
    return false == 0 and true == 4, f"{false} of 16 in random weights, {true} of the 4 planted"
