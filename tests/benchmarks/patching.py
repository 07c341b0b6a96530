"""Activation patching: partial recomputation against TransformerLens' patching helpers and against a loop of nnsight traces.

GPT-2-small shape, random weights, a pair of 24 tokens that differ in tokens 3-5, one row. Every cell puts the clean activation into the
corrupted run and reads one logit difference. The baselines are timed on randomly drawn cells and multiplied by the number of cells;
ours computes every cell, both runs included. The TransformerLens model is a bridge around the same weights; its helpers are called as
they are, with a table of the drawn cells. Compared: the logit differences at the drawn cells.
"""

import copy
import io
import statistics
from collections.abc import Callable, Sequence
from contextlib import redirect_stderr
from typing import Any

import torch
from torch import Tensor

from interp.core.batch import At
from interp.core.edit import Edit, replace
from interp.core.site import Site
from interp.models.plain import PlainModel
from tests.benchmarks import Row, cpu

WIDTH, CHANGED, DRAWN, ANSWER, FOIL = 24, slice(3, 6), 8, 100, 200
Cell = tuple[int, ...]


def rows(quick: bool = False) -> list[Row]:
    """Residual stream by position, heads over all positions, heads by position; `quick` leaves the last out."""
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    model = GPT2LMHeadModel(GPT2Config()).eval()
    plain = PlainModel(model)
    clean = torch.randint(50257, (1, WIDTH))
    corrupted = clean.clone()
    corrupted[:, CHANGED] = torch.randint(50257, (1, 3))
    plain.resume(plain.record(clean), [[]])  # the self-check, once per session
    n, heads = plain.spec.n_layers, plain.spec.n_heads
    by_pos = [(layer, t) for layer in range(n) for t in range(WIDTH)]
    all_pos = [(layer, head) for layer in range(n) for head in range(heads)]
    each = [(layer, t, head) for layer in range(n) for t in range(WIDTH) for head in range(heads)]
    out = _compare("residual stream (layer, position)", "resid_pre", by_pos, plain, clean, corrupted)
    out += _compare("heads, all positions (layer, head)", "attn_head_out_all_pos", all_pos, plain, clean, corrupted)
    if not quick:
        out += _compare("heads (layer, position, head)", "attn_head_out_by_pos", each, plain, clean, corrupted)
    return out


def _compare(
    name: str, helper: str, cells: Sequence[Cell], plain: PlainModel, clean: Tensor, corrupted: Tensor
) -> list[Row]:
    drawn = [cells[index] for index in torch.randperm(len(cells)).tolist() if _changes(cells[index])][:DRAWN]
    box: list[Tensor] = []
    baselines = {f"TransformerLens get_act_patch_{helper}": _lens(plain.module, helper, clean, corrupted)}
    if helper == "resid_pre":
        baselines["a loop of nnsight traces"] = _traces(plain.module, clean, corrupted)
    for one in baselines.values():
        one(drawn[:1])
    slow = {key: ([cpu(lambda one=one: one(drawn[:1]))], []) for key, one in baselines.items()}
    fast = []
    for half in (drawn[: DRAWN // 2], drawn[DRAWN // 2 :]):
        for key, one in baselines.items():
            for cell in half:
                slow[key][0].append(cpu(lambda one=one, cell=cell, key=key: slow[key][1].append(one([cell]))))
        fast.append(cpu(lambda: box.append(_ours(plain, helper, cells, clean, corrupted))))
    quick, wide = statistics.median(fast), (max(fast) - min(fast)) / 2
    got = box[0]
    out = []
    for key, (times, values) in slow.items():
        one = statistics.median(times)
        want = torch.cat(values)
        mine = got[[cells.index(cell) for cell in drawn]]
        out.append(
            Row(name, f"{key}, {len(cells)} cells", one * len(cells) / quick, (max(times) - min(times)) / 2 / one + wide / quick,
                float((want - mine).abs().max()),
                f"in {quick:.1f} s; effect range {float(got.max() - got.min()):.1e}; baseline from {DRAWN} cells, {one:.2f} s each")
        )  # fmt: skip
    return out


def _changes(cell: Cell) -> bool:
    """Heads over all positions, or a position from the first changed token on."""
    return len(cell) == 2 or cell[1] >= CHANGED.start


def _ours(plain: PlainModel, helper: str, cells: Sequence[Cell], clean: Tensor, corrupted: Tensor) -> Tensor:
    """The logit difference of every cell."""
    kind = "resid_pre" if helper == "resid_pre" else "z"
    sites = [Site(kind, layer) for layer in range(plain.spec.n_layers)]
    run, base = plain.run(clean, capture=sites), plain.record(corrupted, capture=sites)
    edits: list[list[Edit]] = []
    for cell in cells:
        site = sites[cell[0]]
        if kind == "resid_pre":
            edits.append([replace(site, run, at=At.index(cell[1]))])
        elif len(cell) == 2:
            edits.append([replace(site, run, heads=[cell[1]])])
        else:
            edits.append([replace(site, run, at=At.index(cell[1]), heads=[cell[2]])])
    return plain.resume(base, edits, readout=lambda logits, _: _difference(logits)[..., None])[:, 0, 0, 0]


def _difference(logits: Tensor) -> Tensor:
    return logits[..., ANSWER] - logits[..., FOIL]


def _lens(model: Any, helper: str, clean: Tensor, corrupted: Tensor) -> Callable[[Sequence[Cell]], Tensor]:
    """TransformerLens' own helper over a table of cells."""
    import pandas as pd
    from transformer_lens import patching

    from interp.models.bridge import _build

    inner = copy.deepcopy(model, memo={id(p): p for p in model.parameters()})
    inner.set_attn_implementation("eager")
    bridge = _build(inner)
    function = getattr(patching, f"get_act_patch_{helper}")
    names = (
        ["layer", "pos"]
        if helper == "resid_pre"
        else ["layer", "head"]
        if "all" in helper
        else ["layer", "pos", "head"]
    )
    with torch.no_grad():
        cache = bridge.run_with_cache(clean)[1]

    def metric(logits: Tensor) -> Tensor:
        return _difference(logits[0, -1])

    @torch.no_grad()
    def patched(cells: Sequence[Cell]) -> Tensor:
        table = pd.DataFrame(cells, columns=names)
        with redirect_stderr(io.StringIO()):  # its progress bar
            return function(bridge, corrupted, cache, metric, index_df=table, index_axis_names=None)

    return patched


def _traces(model: Any, clean: Tensor, corrupted: Tensor) -> Callable[[Sequence[Cell]], Tensor]:
    """What one writes with nnsight: a trace a cell."""
    from interp.models.tracer import load_nnsight

    nnsight = load_nnsight()
    nn = nnsight.NNsight(copy.deepcopy(model, memo={id(p): p for p in model.parameters()}))
    run = PlainModel(model).run(clean, capture=["blocks.*.hook_resid_pre"])

    @torch.no_grad()
    def patched(cells: Sequence[Cell]) -> Tensor:
        return torch.stack([_difference(one(layer, t)[0, -1]) for layer, t in cells])

    def one(layer: int, t: int) -> Tensor:
        value, out = run[Site("resid_pre", layer)][:, t], []
        with nn.trace(input_ids=corrupted, use_cache=False):
            hidden = nn.transformer.h[layer].input.clone()
            hidden[:, t] = value
            nn.transformer.h[layer].input = hidden
            out.append(nn.output.logits)
        return out[0]

    return patched
