"""Channels: every component of every head against every later head, as products of thin factors and in the usual ways.

GPT-2-small shape, random weights: 144 heads, 9,504 pairs of heads in order, queries, keys and values, 64 components each. Ours is the whole
path from the heads' factors to tables, list and histogram (singular value decompositions in float64, products in float32). The baselines
are timed on drawn heads or pairs and multiplied by their number:

    SVDs of OV                one SVD of each d x d matrix, float64 as ours
    d x d readers             every SVD known; for each pair and kind M, `V @ M` and its row norms (and: M once a reader)
    explicit components       for each pair and kind the SVD of OV, and `(s u vᵀ) @ M` for each component
    composition_scores        of TransformerLens, whole heads only, one kind; it computes all pairs of layers, ours those in order
    the bare product          [768, 768] @ [768, 768] as often as there are tiles: what no program can do without

Then one pair of layers of an 8B model (32 heads over 8 shared ones, d_head 128, d_model 4,096), the shared products of grouped queries
against one product a head, and what all 496 pairs of layers would take.
"""

import statistics
from typing import Any

import torch
from torch import Tensor

from interp.analyses.channels.decompose import components
from interp.analyses.channels.factors import Factors
from interp.analyses.channels.scoring.engine import Readers, Writers, moved, weighed
from interp.analyses.channels.scoring.tally import Tally
from interp.core.seed import generator
from tests.benchmarks import Row, cpu, interleaved, ratio

LAYERS, HEADS, D, H = 12, 12, 768, 64
TILES = LAYERS * (LAYERS - 1) // 2
PAIRS = TILES * HEADS**2
KINDS = ("Q", "K", "V")
Layer = tuple[Factors, Factors]


def rows(quick: bool = False) -> list[Row]:
    """All comparisons; `quick` leaves out the 8B model and the whole run on a model."""
    model = [(_draw(layer, "ov"), _draw(layer, "qk")) for layer in range(LAYERS)]
    found = [_decompositions(model), _bare(model), *_slow(model), _transformer_lens(model)]
    return found if quick else [*found, _whole_run(), *_large()]


def _draw(layer: int, name: str, *, heads: int = HEADS, groups: int = 0, d: int = D, h: int = H) -> Factors:
    """Random factors of a layer, float64, whose sides fall off as trained ones do; keys or values shared where `groups` says so."""
    draw = generator(0, "benchmark", name, layer)
    fall = torch.linspace(1.0, 0.2, h)
    left = torch.randn(groups or heads, d, h, generator=draw) * fall
    right = torch.randn(heads, h, d, generator=draw) * fall[:, None]
    return Factors(left.double().repeat_interleave(heads // (groups or heads), dim=0), right.double())


def _layer(ov: Factors, qk: Factors) -> tuple[Writers, dict[str, Readers]]:
    said, heard = moved(ov, d_model=D, groups=HEADS)
    found = {**weighed(qk, d_model=D, groups=HEADS), "V": heard}
    return said.to(torch.float32), {kind: found[kind].to(torch.float32) for kind in KINDS}


def _all(model: list[Layer], kinds: tuple[str, ...] = KINDS, *, held: bool = False) -> Tally:
    """What `Channels.run` does, from factors."""
    tally = Tally(
        kinds=len(kinds), layers=LAYERS, heads=HEADS, components=H, free=D, top=200, rank_by="score", held=held, dtype=torch.float32
    )  # fmt: skip
    written, values = torch.empty(LAYERS, HEADS, H, D), torch.empty(LAYERS, HEADS, H, dtype=torch.float64)
    for layer, (ov, qk) in enumerate(model):
        said, heard = _layer(ov, qk)
        for index, kind in enumerate(kinds):
            tally.take(index, written[:layer], values[:layer], 0, layer, heard[kind])
        written[layer], values[layer] = said.directions, said.values
    return tally


def _decompositions(model: list[Layer]) -> Row:
    drawn = [model[3][0].matrix(5), model[9][0].matrix(1)]
    kept: list[Any] = [None]

    def ours() -> None:
        kept[0] = [components(ov) for ov, _ in model]

    slow = [cpu(lambda whole=whole: torch.linalg.svd(whole)) for whole in drawn]
    quick = [cpu(ours) for _ in range(3)]
    wanted = torch.linalg.svdvals(drawn[0])[:H]
    one = statistics.median(slow)
    return Row(
        f"{LAYERS * HEADS} decompositions of OV",
        "one SVD of each d x d matrix",
        one * LAYERS * HEADS / statistics.median(quick),
        _spread(slow) + _spread(quick),
        float((kept[0][3].values[5] - wanted).abs().max() / wanted[0]),
        f"in {statistics.median(quick):.2f} s; {len(drawn)} of the others timed, {one:.2f} s each; singular values compared, relative",
    )


def _bare(model: list[Layer]) -> Row:
    a, b = torch.randn(2, HEADS * H, D, generator=generator(0, "benchmark bare"))

    def products() -> None:
        for _ in range(TILES * len(KINDS)):
            a @ b

    times = interleaved([products, lambda: _all(model)], repeats=3)
    flops = 2 * TILES * len(KINDS) * D * (HEADS * H) ** 2
    speed = flops / statistics.median(times[0]) / 1e9
    took = statistics.median(times[1])
    return Row(
        f"{PAIRS:,} pairs x 3 kinds x {H} components",
        f"the bare product, {TILES * len(KINDS)} times",
        *ratio(*times),
        _difference(model),
        f"in {took:.2f} s, {flops / 1e9:.0f} GFLOP; bare at {speed:.0f} GFLOP/s; compared with float64 by d x d matrices",
    )


def _difference(model: list[Layer]) -> float:
    """Component scores of a few pairs against explicit float64 matrices."""
    table = _all(model, held=True).scores
    assert table is not None
    worst = 0.0
    for early, a, late, b in ((0, 3, 11, 7), (4, 0, 5, 11), (8, 6, 10, 2)):
        write = components(model[early][0]).write[a]
        for index, kind in enumerate(KINDS):
            m = _reader(model[late], b, kind, torch.float64)
            want = (write @ m).norm(dim=1) / m.norm()
            worst = max(worst, float((torch.from_numpy(table[index, early, a, :, late, b]) - want).abs().max()))
    return worst


def _slow(model: list[Layer]) -> list[Row]:
    """The two usual programs, on drawn pairs."""
    drawn = [(0, 3, 11, 7, "Q"), (4, 0, 5, 11, "K"), (8, 6, 10, 2, "V"), (2, 9, 7, 4, "Q")]
    writes = {pair: components(model[pair[0]][0]).write[pair[1]].float() for pair in drawn}
    form, pair_times, naive, took = [], [], [], []
    for early, a, late, b, kind in drawn * 3:
        form.append(cpu(lambda late=late, b=b, kind=kind: _reader(model[late], b, kind).norm()))
        m, v = _reader(model[late], b, kind), writes[early, a, late, b, kind]
        pair_times.append(cpu(lambda v=v, m=m: (v @ m).norm(dim=1) / m.norm()))
    for early, a, late, b, kind in drawn[:2]:
        took.append(cpu(lambda: _all(model)))
        ov, m = model[early][0].matrix(a).float(), _reader(model[late], b, kind)
        naive.append(_naive(ov, m))
    ours = statistics.median(took)
    each = statistics.median(pair_times) * PAIRS * len(KINDS)
    cached = each + statistics.median(form) * PAIRS * len(KINDS)
    once = each + statistics.median(form) * (LAYERS - 1) * HEADS * len(KINDS)
    explicit = statistics.median(naive) * PAIRS * len(KINDS)
    name = f"{PAIRS:,} pairs x 3 kinds x {H} components"
    one, m = drawn[0], _reader(model[drawn[0][2]], drawn[0][3], drawn[0][4])
    said = _layer(*model[one[0]])[0].score(_layer(*model[one[2]])[1][one[4]])[one[1], :, one[3]]
    apart = float((said - (writes[one] @ m).norm(dim=1) / m.norm()).abs().max())
    return [
        Row(name, "d x d readers, SVDs known", cached / ours, _spread(pair_times) + _spread(took), apart,
            f"in {ours:.2f} s against {cached:.0f} s, from {len(pair_times)} drawn pairs; {once / ours:.1f}x with M formed once a reader"),
        Row(name, "an SVD a pair, explicit components", explicit / ours, _spread(naive) + _spread(took), apart,
            f"against {explicit / 3600:.1f} hours, from {len(naive)} drawn pairs and 4 components of each"),
    ]  # fmt: skip


def _naive(ov: Tensor, m: Tensor, count: int = 4) -> float:
    """Seconds of one pair: SVD, and every component as a matrix; `count` of the components are timed."""
    kept: list[Any] = []
    decomposed = cpu(lambda: kept.append(torch.linalg.svd(ov)))
    u, s, vt = kept[0]

    def part(index: int) -> Tensor:
        whole = s[index] * u[:, index, None] * vt[index]
        return (whole @ m).norm() / (whole.norm() * m.norm())

    return decomposed + cpu(lambda: [part(index) for index in range(count)]) * H / count


def _transformer_lens(model: list[Layer]) -> Row:
    """Whole heads, queries: their program on drawn pairs of layers, 12 x 12 heads each."""
    from transformer_lens import FactoredMatrix
    from transformer_lens.utilities.matrix import composition_scores

    drawn = [(0, 5), (3, 9), (7, 11)]
    kept: dict[tuple[int, int], Tensor] = {}

    def theirs(early: int, late: int) -> None:
        left, right = (FactoredMatrix(one.left.float(), one.right.float()) for one in (model[early][0], model[late][1]))
        kept[early, late] = composition_scores(left, right, broadcast_dims=True)

    theirs(*drawn[0])
    slow, quick, tally = [], [], _all(model, ("Q",))
    for pair in drawn:
        slow.append(cpu(lambda pair=pair: theirs(*pair)))
        quick.append(cpu(lambda: _all(model, ("Q",))))
    whole = statistics.median(slow) * LAYERS**2
    apart = max(float((torch.from_numpy(tally.pair["total"][0, e, :, r]) - kept[e, r]).abs().max()) for e, r in drawn)
    took = statistics.median(quick)
    return Row(
        "whole heads, queries, all else computed too",
        "TransformerLens composition_scores, one kind",
        whole / took,
        _spread(slow) + _spread(quick),
        apart,
        f"in {took:.2f} s against {whole:.1f} s, from {len(drawn)} of their {LAYERS**2} pairs of layers",
    )


def _whole_run() -> Row:
    """`Channels()` on a model: with folding, p-values and the other coordinates of what is reported."""
    from transformers import GPT2Config, GPT2LMHeadModel

    from interp.analyses.channels import Channels
    from interp.models.load import wrap
    from tests.models.wrapped import tokenizer

    torch.manual_seed(0)
    lm = wrap(GPT2LMHeadModel(GPT2Config()).eval(), tokenizer(), "gpt2-small shape", backend="nnsight")
    a, b = torch.randn(2, HEADS * H, D, generator=generator(0, "benchmark bare"))

    def products() -> None:
        for _ in range(TILES * len(KINDS)):
            a @ b

    times = interleaved([products, lambda: Channels().run(lm, None, None)], repeats=3)
    raw = [cpu(lambda: Channels(folded=False).run(lm, None, None)) for _ in range(2)]
    result, double = Channels().run(lm, None, None), Channels(precision="float64").run(lm, None, None)
    return Row(
        "Channels() on a model, everything",
        f"the bare product, {TILES * len(KINDS)} times",
        *ratio(*times),
        float(abs(result.data["score"] - double.data["score"]).max()),
        f"in {statistics.median(times[1]):.2f} s, raw weights in {min(raw):.2f} s; compared with its own float64",
    )


def _large() -> list[Row]:
    """One pair of layers of an 8B model."""
    heads, groups, d, h, layers = 32, 8, 4096, 128, 32
    said = moved(_draw(0, "large writer", heads=heads, d=d, h=h), d_model=d, groups=heads)[0].to(torch.float32)
    shared = _draw(1, "large reader", heads=heads, groups=groups, d=d, h=h)
    kept: dict[str, Tensor] = {}
    once = moved(shared, d_model=d, groups=groups)[1].to(torch.float32)
    apart = moved(shared, d_model=d, groups=heads)[1].to(torch.float32)
    setup = cpu(lambda: moved(shared, d_model=d, groups=groups))
    said.score(once)
    slow, quick = [], []
    for _ in range(2):
        slow.append(cpu(lambda: kept.update(apart=said.score(apart))))
        quick.append(cpu(lambda: kept.update(once=said.score(once))))
    one, other = statistics.median(slow), statistics.median(quick)
    tile = one + 2 * other  # Q has a product a head; K and V share theirs
    whole = layers * (layers - 1) // 2 * tile + layers * 3 * setup
    worst = float((kept["apart"] - kept["once"]).abs().max())
    return [
        Row("8B shape, one pair of layers, K or V", "one product a query head", *ratio(slow, quick), worst,
            f"{other:.2f} s against {one:.2f} s, {2 * d * (heads * h) ** 2 / one / 1e9:.0f} GFLOP/s"),
        Row("8B shape, one pair of layers, Q, K and V", "one product a query head", 3 * one / tile, _spread(slow), worst,
            f"all {layers * (layers - 1) // 2} pairs of layers, decompositions included: {whole:,.0f} core-seconds, by extrapolation"),
    ]  # fmt: skip


def _reader(layer: Layer, head: int, kind: str, dtype: torch.dtype = torch.float32) -> Tensor:
    """M of one head, [d, d]."""
    factors = layer[0] if kind == "V" else layer[1]
    whole = factors.left[head].to(dtype) @ factors.right[head].to(dtype)
    return whole.T if kind == "K" else whole


def _spread(times: list[float]) -> float:
    return (max(times) - min(times)) / 2 / statistics.median(times)
