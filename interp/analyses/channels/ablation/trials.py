"""What is removed when a writer is taken apart: each component, all but one, more and less of the strongest, random directions, the head.

A random direction r of the write space is a uniformly random unit combination of the head's write directions, r = Σ c_i v_i; what is
written along it is taken out, OV (I - r rᵀ), as many dimensions as the strongest component has. Like a component it is a rank-one part of
this head's write; unlike one it is read in no single direction, and its strength is a mixture of all.

    import interp
    from interp.analyses.channels import Head, reader
    lm = interp.load("atlas")
    trials = trials_of(lm, Head(0, 1), reader(lm, 1, "Q").side[3], controls=3)
    [(one.kind, one.component, one.composition) for one in trials]
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from interp.core.lm import LM
from interp.core.seed import generator
from interp.core.shapes import Float

from ..component import Head
from ..factors import DEFAULT, Setting
from ..scoring.engine import scores_into
from ..space import Space
from .editing import Biases, Removal, removals


@dataclass(frozen=True, eq=False)
class Trial:
    """One edit: of one writer, or of all of them together."""

    kind: str
    """zero, keep (the others are removed), scale, head (all components) or random (a direction of the write space)."""
    removals: tuple[Removal, ...]
    component: int = -1
    """The first (or only) component that it is about; -1 for none."""
    size: int = 1
    """Dimensions that are removed, or kept."""
    scale: float = 0.0
    draw: int = -1
    composition: float = float("nan")
    """Composition score of the components (or direction) with the reader's input."""
    value: float = float("nan")
    """Singular value."""

    @property
    def writer(self) -> str:
        """The head that is edited, or `all`."""
        return str(self.removals[0].head) if len(self.removals) == 1 else "all"


def strongest_writers(
    lm: LM, head: Head, n: int, *, kind: str = "Q", setting: Setting = DEFAULT, offset: int | None = None
) -> list[Head]:
    """The `n` earlier heads with the highest composition score of any of their components with one input of `head`."""
    scores = scores_into(lm, head, kind=kind, setting=setting, offset=offset)  # [layer, head, component]
    best = np.nan_to_num(scores.values, nan=-1.0).max(axis=-1)
    order = [place for place in np.argsort(-best, axis=None, kind="stable")[:n] if best.ravel()[place] > 0]
    return [Head(*map(int, np.unravel_index(int(place), best.shape))) for place in order]


def trials_of(
    lm: LM,
    writer: Head,
    side: Float[Tensor, "d_model d_head"],
    *,
    setting: Setting = DEFAULT,
    biases: Biases = "keep",
    scales: Sequence[float] = (),
    controls: int = 20,
    seed: int = 0,
) -> list[Trial]:
    """Every edit of one writer; `side` is how its reader listens (`Reader.side`). Raises what `removals` raises."""
    whole = removals(lm, str(writer), biases=biases, setting=setting)[0]
    space = Space.of(lm, writer, setting=setting)
    rank, write = space.rank, space.write
    values = space.parts.values[0, :rank]
    blocks = list(dict.fromkeys(space.parts.block(0, index) for index in range(rank)))

    def scaled(scales: dict[int, float]) -> tuple[Removal, ...]:
        loss = torch.tensor([1 - scales.get(index, 1.0) for index in range(rank)], dtype=torch.float64)
        return (
            Removal(writer, space.part(loss.diag()), whole.constant, {f"{writer}.{i}": to for i, to in scales.items()}),
        )

    def told(block: range) -> dict[str, Any]:
        weight = values[block.start : block.stop].square()
        score = (write[block.start : block.stop] @ side).square().sum(dim=-1)
        both = float(((weight * score).sum() / weight.sum()).sqrt())
        return {"component": block.start, "size": len(block), "composition": both, "value": float(values[block.start])}

    found = [Trial("zero", scaled(dict.fromkeys(block, 0.0)), **told(block)) for block in blocks]
    best = blocks[int(np.argmax([one.composition for one in found]))]
    for block in dict.fromkeys((best, blocks[0])):
        rest = [index for index in range(rank) if index not in block]
        found.append(Trial("keep", scaled(dict.fromkeys(rest, 0.0)), **told(block)))
    found += [Trial("scale", scaled(dict.fromkeys(best, to)), scale=to, **told(best)) for to in scales]
    found.append(Trial("head", (whole,), size=rank))
    draw, size = generator(seed, "write space", str(writer)), len(best)
    for number in range(controls):
        mixed = space.mixed(size, draw)  # [component, n]
        score = float((mixed.mT @ write @ side).norm() / size**0.5)
        one = Removal(writer, space.part(mixed @ mixed.mT), whole.constant, {})
        found.append(Trial("random", (one,), size=size, draw=number, composition=score))
    return found


def together(each: Sequence[Sequence[Trial]]) -> list[Trial]:
    """Edits of all writers at once, where there are several: their strongest components removed, only these kept, only their components
    0 kept, and the heads removed."""
    if len(each) < 2:
        return []
    joint: dict[tuple[str, int], list[Removal]] = {}
    for found in each:
        top = max((one for one in found if one.kind == "zero"), key=lambda one: one.composition).component
        wanted = {
            ("zero", -1): ("zero", top),
            ("keep", -1): ("keep", top),
            ("keep", 0): ("keep", 0),
            ("head", -1): ("head", -1),
        }
        for key, (kind, component) in wanted.items():
            one = next(one for one in found if one.kind == kind and one.component == component)
            joint.setdefault(key, []).extend(one.removals)
    return [Trial(kind, tuple(parts), component=component, size=0) for (kind, component), parts in joint.items()]
