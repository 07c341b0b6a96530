"""Is partial recomputation right for this model? Found out on first use, for each dtype and attention implementation.

An architecture that silently ignores the cache it is given would make partial results wrong without an error. So four cells with large
effects are computed both partially and by an ordinary full forward pass: a change of the stream, a window of components, keys and
values, and a change of the stream past attention that is held. Where they disagree, the engine warns and falls one level down.
"""

import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from interp.core.batch import At
from interp.core.edit import Edit, add, replace, scale
from interp.core.seed import generator
from interp.core.site import Site

from .recording import PlainRecording, record

if TYPE_CHECKING:
    from .plain import PlainModel

LEVELS = ("grouped", "layer skip", "full")
Compute = Callable[..., Tensor]


def settle_level(plain: "PlainModel", base: PlainRecording, compute: Compute) -> None:
    """On first use for a dtype and attention implementation, lower `plain.resume_level` until random cells agree.

    `compute(plain, base, cells, positions, readout, level)` gives logits [cell, row, position, vocab] at a level.
    """
    use = (str(base.states[0].dtype), plain.implementation)
    if use in plain.checked:
        return
    plain.checked.add(use)
    row = base.batch.rows([0])
    while plain.resume_level != "full":
        held = ["blocks.*.attn.hook_z"] if plain.family.proven else []
        wrong = _mismatch(plain, record(plain, row, capture=held), compute)
        if not wrong:
            return
        lower = LEVELS[LEVELS.index(plain.resume_level) + 1]
        warnings.warn(
            f"partial recomputation of {plain.spec.name} at level {plain.resume_level!r} does not agree with the full forward "
            f"({use[0]}, {use[1]}): {wrong}. Falling back to {lower!r}: slower, still exact.",
            stacklevel=5,
        )
        plain.resume_level = lower


def probes(plain: "PlainModel", base: PlainRecording) -> list[list[Edit]]:
    """Random cells with large effects: a stream, a window of components, keys and values, a stream past held attention."""
    draw = generator(0, "resume self-check")
    n, width = plain.spec.n_layers, base.batch.tokens.shape[1]

    def place() -> tuple[int, At]:
        return int(torch.randint(n, (), generator=draw)), At.index(int(torch.randint(width, (), generator=draw)))

    layer, at = place()
    noise = torch.randn(plain.spec.d_model, generator=draw) * base.states[layer].float().std().cpu()
    stream = [add(Site("resid_pre", layer), noise, at=at)]
    layer, at = place()
    if not plain.family.proven:
        return [stream, [scale(Site("resid_post", layer), 3.0, at=at)], [add(Site("resid_pre", n - 1), noise, at=at)]]
    window = [scale(Site(kind, k), 3.0, at=at) for k in range(layer, n) for kind in ("attn_out", "mlp_out")]
    layer, _ = place()
    keys = [scale(Site(kind, layer), -2.0, at=At.index(0)) for kind in ("k", "v")]
    held = [add(Site("resid_pre", 0), noise, at=At.last())]
    held += [replace(Site("z", layer), base.run) for layer in range(n)]
    return [stream, window, keys, held]


def _mismatch(plain: "PlainModel", base: PlainRecording, compute: Compute) -> str:
    """What is wrong at the present level; empty where all probes agree with the full forward."""
    cells = probes(plain, base)
    want = compute(plain, base, cells, (-1,), None, "full").float()
    try:
        got = compute(plain, base, cells, (-1,), None, plain.resume_level).float()
    except Exception as problem:  # an architecture may refuse a partial call in any way it likes
        return f"{type(problem).__name__}: {problem}"
    assert base.run.logits is not None
    effect = float((want - base.run.logits[:, -1:].float()).abs().max())
    share, floor = (1e-3, 1e-5) if base.states[0].dtype in (torch.float32, torch.float64) else (0.1, 0.02)
    error = float((want - got).abs().max())
    if error <= share * effect + floor * float(want.abs().max()):
        return ""
    return f"logits differ by {error:.2g} where the effect is {effect:.2g}"
