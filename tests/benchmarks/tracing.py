"""Causal tracing: partial recomputation against the original protocol.

The baseline is what the ROME code does for each cell (layer, position): one forward pass of S corrupted rows and one clean row, all
positions' logits, with a hook that copies the clean row's activation. GPT-2-small shape, random weights, 24 tokens, 10 noise samples.
The baseline is timed on randomly drawn cells and multiplied by the number of cells; ours computes every cell, the recordings included.
As in the method, cells before the subject are not run at all: their effect is 0. Compared: the probability of the clean run's top
token, at the drawn cells.
"""

import statistics
from typing import Any

import torch
from torch import Tensor

from interp.core.batch import At
from interp.core.edit import Edit, add, replace
from interp.core.site import Site
from interp.models.plain import PlainModel
from tests.benchmarks import Row, cpu

WIDTH, SAMPLES, DRAWN, WINDOW = 24, 10, 6, 10


def rows(quick: bool = False) -> list[Row]:
    """Residual stream and MLP windows, with the subject at tokens 3-5 and 12-14; `quick` leaves the first out."""
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    model = GPT2LMHeadModel(GPT2Config()).eval()
    plain = PlainModel(model)
    ids = torch.randint(50257, (1, WIDTH))
    plain.resume(plain.record(ids), [[]])  # the self-check, once per session
    return [
        _compare(model, plain, ids, kind, low) for low in ((12,) if quick else (3, 12)) for kind in ("resid", "mlp")
    ]


def _compare(model: Any, plain: PlainModel, ids: Tensor, kind: str, low: int) -> Row:
    noise = torch.zeros(SAMPLES, WIDTH, 768)
    noise[:, low : low + 3] = 3 * 0.02 * torch.randn(SAMPLES, 3, 768)
    n = plain.spec.n_layers
    grid = [(layer, t) for layer in range(n) for t in range(WIDTH)]
    sites = [[Site("resid_post", layer)] if kind == "resid" else _window(layer, n) for layer, _ in grid]
    with torch.no_grad():
        answer = int(model(ids).logits[0, -1].argmax())
    drawn = [index for index in torch.randperm(len(grid)).tolist() if grid[index][1] >= low][:DRAWN]
    slow, want = [], {}

    def naive(index: int) -> None:
        want[index] = rome(model, ids, noise, sites[index], grid[index][1])[1:, answer].mean()

    def ours() -> Tensor:
        wanted = sorted({site for part in sites for site in part}, key=lambda site: site.order)
        clean = plain.run(ids, capture=wanted)
        corrupt = [add("hook_embed", noise, at=At.index(*range(low, low + 3)))]
        base = plain.record(ids.expand(SAMPLES, -1), edits=corrupt)
        single = {(site, t): replace(site, clean, at=At.index(t)) for site in wanted for t in range(WIDTH)}
        cells: list[list[Edit]] = [  # nothing differs before the subject, so those cells restore nothing
            [single[site, t] for site in part] if t >= low else [] for part, (_, t) in zip(sites, grid, strict=True)
        ]
        return plain.resume(base, cells, readout=lambda logits, _: logits.softmax(-1)[..., [answer]])

    naive(drawn[0])
    box: list[Tensor] = []
    slow += [cpu(lambda i=i: naive(i)) for i in drawn[: DRAWN // 2]]
    fast = cpu(lambda: box.append(ours()))
    slow += [cpu(lambda i=i: naive(i)) for i in drawn[DRAWN // 2 :]]
    got = box[0][:, :, 0, 0].mean(dim=1)  # [cell]
    difference = max(abs(float(got[index] - value)) for index, value in want.items())
    one = statistics.median(slow)
    return Row(
        f"{'residual stream' if kind == 'resid' else 'MLP window of 10'}, subject at {low}-{low + 2}",
        "one full forward a cell (ROME)",
        one * len(grid) / fast,
        (max(slow) - min(slow)) / 2 / one,
        difference,
        f"{len(grid)} cells in {fast:.1f} s; effect range {float(got.max() - got.min()):.1e}; baseline from {DRAWN} cells",
    )


def _window(layer: int, n: int) -> list[Site]:
    return [Site("mlp_out", k) for k in range(max(0, layer - WINDOW // 2), min(n, layer + WINDOW // 2))]


@torch.no_grad()
def rome(model: Any, ids: Tensor, noise: Tensor, sites: list[Site], t: int) -> Tensor:
    """Probabilities [row, vocab] at the last position; row 0 is clean and gives its activations at `t` to the others."""

    def corrupt(_m: Any, _a: Any, out: Tensor) -> Tensor:
        out = out.clone()
        out[1:] += noise
        return out

    def restore(_m: Any, _a: Any, out: Any) -> Any:
        hidden = (out[0] if isinstance(out, tuple) else out).clone()
        hidden[1:, t] = hidden[0, t]
        return (hidden, *out[1:]) if isinstance(out, tuple) else hidden

    blocks = model.transformer.h
    handles = [model.transformer.wte.register_forward_hook(corrupt)]
    for site in sites:
        module = blocks[site.layer] if site.kind == "resid_post" else blocks[site.layer].mlp
        handles.append(module.register_forward_hook(restore))
    try:
        return model(ids.expand(len(noise) + 1, -1)).logits[:, -1].softmax(-1)
    finally:
        for handle in handles:
            handle.remove()
