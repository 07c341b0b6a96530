"""Concepts: every value vector in the words of the vocabulary, by tiles with a running top k, beside all logits at once.

GPT-2-small shape, random weights: 768 numbers, 50,257 tokens, 3,072 value vectors a layer. The naive scan is the usual program, all
logits of some layers and then `torch.topk`; the product alone is the same without. Peak memory is what a fresh process holds beyond its
state before. Screening in bfloat16 pays only where the processor multiplies bfloat16: `topk` reads that off the hardware, and the row
says what it chose here.
"""

import subprocess
import sys
from pathlib import Path

import torch
from torch import Tensor

from interp.core.seed import generator
from interp.core.topk import Moments, fast_bfloat16, topk
from tests.benchmarks import Row, interleaved, ratio

D, VOCAB, ROWS, LAYERS = 768, 50257, 2048, 12
MLP = 3072


def rows(quick: bool = False) -> list[Row]:
    """All comparisons; `quick` with fewer vectors, and without the whole scan."""
    x, table = _drawn(512 if quick else ROWS)
    found = [
        _against(x, table, 10),
        _alone(x, table, 10),
        _against(x, table, 200),
        _alone(x, table, 200),
        _screened(x[:512], table),
    ]
    found += [_memory(), *([] if quick else [_whole()])]
    return found


def _drawn(many: int = ROWS) -> tuple[Tensor, Tensor]:
    """Value vectors, and a table as a model holds it: a row a token."""
    draw = generator(0, "benchmark", "concepts")
    table = torch.randn(VOCAB, D, generator=draw)
    return torch.randn(many, D, generator=draw), table.T


def _different(x: Tensor, table: Tensor, k: int, screen: bool | None = None) -> tuple[int, int]:
    """Rows whose set is another than by all logits at once, and rows that were done again."""
    top = topk(x, table, k, screen=screen)
    wrong = 0
    for part, mine in zip(x.split(256), top.ids.split(256), strict=True):
        naive = (part @ table).topk(k).indices
        wrong += int((naive.sort(dim=1).values != mine.sort(dim=1).values).any(dim=1).sum())
    return wrong, top.fallback


def _against(x: Tensor, table: Tensor, k: int) -> Row:
    times = interleaved([lambda: (x @ table).topk(k), lambda: topk(x, table, k)], repeats=5)
    wrong, again = _different(x, table, k)
    chosen = (
        "screened in bfloat16" if fast_bfloat16(x.device) else "float32, for this processor has no bfloat16 products"
    )
    return Row(f"{len(x):,} vectors, top {k}, as chosen here", "all logits, then topk", *ratio(*times), float(wrong),
               f"{chosen}; sets that differ compared, {again} rows done again")  # fmt: skip


def _alone(x: Tensor, table: Tensor, k: int) -> Row:
    times = interleaved([lambda: x @ table, lambda: topk(x, table, k, screen=False)], repeats=5)
    wrong, again = _different(x, table, k, screen=False)
    speed = 2 * len(x) * D * VOCAB / min(times[0]) / 1e9
    return Row(f"{len(x):,} vectors, top {k}, float32 tiles", "the product alone", *ratio(*times), float(wrong),
               f"product at {speed:.0f} GFLOP/s; {again} rows done again")  # fmt: skip


def _screened(x: Tensor, table: Tensor) -> Row:
    times = interleaved([lambda: (x @ table).topk(10), lambda: topk(x, table, 10, screen=True)], repeats=3)
    wrong, again = _different(x, table, 10, screen=True)
    a, b = x.bfloat16(), table.bfloat16()
    bare = interleaved([lambda: x @ table, lambda: a @ b], repeats=3)
    return Row(f"{len(x):,} vectors, top 10, screened", "all logits, then topk", *ratio(*times), float(wrong),
               f"the product alone in bfloat16 is {ratio(*bare)[0]:.2f}x float32 here; {again} rows done again")  # fmt: skip


def _memory() -> Row:
    """Megabytes beyond what was there before, naive over ours, for a layer of 3,072 vectors."""
    held = {name: _peak(name) for name in ("naive", "tiled", "screened", "moments")}
    return Row(f"peak memory of {MLP:,} vectors", "all logits, then topk", held["naive"] / held["tiled"], 0.0, 0.0,
               ", ".join(f"{name} {size:,.0f} MB" for name, size in held.items()))  # fmt: skip


def _peak(name: str) -> float:
    """Runs in a process of its own: resident memory only ever has one highest mark."""
    found = subprocess.run([sys.executable, "-m", __name__, name], capture_output=True, text=True, check=True)
    return float(found.stdout)


def _once(name: str) -> float:
    torch.set_num_threads(1)
    x, table = _drawn(MLP)
    topk(x[:8], table[:, :64], 4, screen=True), topk(x[:8], table[:, :64], 4)  # libraries take their memory first
    torch.randn(64, 64) @ torch.randn(64, 64)
    before = _kilobytes("VmRSS")
    kept = {
        "naive": lambda: (x @ table).topk(200),
        "tiled": lambda: topk(x, table, 200, screen=False),
        "screened": lambda: topk(x, table, 200, screen=True),
        "moments": lambda: Moments(table),
    }[name]()
    assert kept is not None
    return (_kilobytes("VmHWM") - before) / 1024


def _kilobytes(what: str) -> int:
    """What this program holds (VmRSS), or the most it has held (VmHWM); `ru_maxrss` begins with what its parent held."""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return int(status.split(f"{what}:")[1].split()[0])


def _whole() -> Row:
    """`ConceptScan()` of a model, everything, against the products alone of some of its layers."""
    from transformers import GPT2Config, GPT2LMHeadModel

    from interp.analyses.concepts.scan import ConceptScan
    from interp.models.load import wrap
    from tests.models.wrapped import tokenizer

    torch.manual_seed(0)
    lm = wrap(
        GPT2LMHeadModel(GPT2Config(n_layer=2)).eval(), tokenizer(), "2 layers of gpt2-small shape", backend="nnsight"
    )
    lm.tokenizer.vocab, before = VOCAB, lm.tokenizer.vocab  # type: ignore[misc]
    try:
        table = lm.weights.W_U
        layers = [lm.weights.W_out(layer) for layer in range(2)]
        times = interleaved(
            [lambda: [part @ table for whole in layers for part in whole.split(512)], lambda: ConceptScan()(lm)],
            repeats=3,
        )
    finally:
        lm.tokenizer.vocab = before  # type: ignore[misc]
    return Row("ConceptScan(), everything, 2 layers, top 200", "the product alone", *ratio(*times), 0.0,
               f"{min(times[1]):.1f} s, of which 1,000 random directions; {LAYERS} layers by extrapolation")  # fmt: skip


if __name__ == "__main__":
    sys.stdout.write(f"{_once(sys.argv[1]):.1f}")
