"""Model diffing on two synthetic models whose differences are known: what norms alone say, what latent scaling makes of it, and patching.

Not times but answers: `ratio` is the measured number, `baseline` what is expected of it, `max difference` by how much it falls short of
the expected range (0: within). The large world has 112 concepts in 64 dimensions, 12 of them the tuned model's alone; every row is a
crosscoder trained on 1.5 to 2 million rows. `--quick` keeps the L1 and the BatchTopK row of one seed, in the small world of the tests.
"""

import time

import numpy as np
import torch

from interp.analyses.dictionaries.diffing.patching import NOTHING, Patcher, Sets, divergence
from interp.core.seed import generator
from interp.data.features import PairWorld
from tests.analyses.dictionaries.pair_worlds import Found, found, trained
from tests.benchmarks import Row

STEPS, BATCH, LATENTS = 1500, 1024, 256
ROWS = 1 << 17


def rows(quick: bool = False) -> list[Row]:
    """All experiments."""
    if quick:
        return _artifacts(0, small=True) + _batchtopk(0, small=True)
    out = list[Row]()
    for seed in (0, 1, 2):
        out += _artifacts(seed) + _batchtopk(seed)
    return [*out, *_late(), *_dedicated(), *_rotated(), *_patched()]


def _fit(world: PairWorld, *, steps: int = STEPS, **options: object) -> tuple[Found, float]:
    start = time.process_time()
    size = {"latents": LATENTS, "steps": steps, "batch": BATCH}
    if world.width == PairWorld.small().width:
        size = {"latents": 96, "steps": 2500, "batch": 512}
    made = trained(world.rows(ROWS, 1), **(size | {"k": world.mean_on} | options)).dictionary
    return found(world, made), time.process_time() - start


def _row(name: str, value: float, low: float, high: float, note: str) -> Row:
    off = max(low - value, value - high, 0.0)
    return Row(name, f"expected {low:g} to {high:g}", value, 0.0, off, note)


def _kinds(judged: Found, side: str = "tuned") -> str:
    kind = judged.kind[judged.exclusive(side)]
    return "/".join(str(int((kind == one).sum())) for one in ("shared", "weak", "dec", side, "none"))


def _artifacts(seed: int, *, small: bool = False) -> list[Row]:
    world = PairWorld.small(seed) if small else PairWorld(seed=seed)
    judged, seconds = _fit(world, activation="relu")
    chosen = judged.exclusive()
    said = f"shared/weak/dec/tuned/none {_kinds(judged)}, FVU {max(judged.fvu.values()):.3f}, {seconds:.0f} s"
    free, paper = judged.specific(), judged.specific(free=False)
    reconstruction, error = (np.abs(part) for part in judged.scaled.free())
    rows = [
        _row(f"L1, seed {seed}: precision by delta", judged.precision(chosen), 0.3, 0.75 if small else 0.65, said),
        _row(
            f"L1, seed {seed}: after scaling, free",
            judged.precision(free),
            0.9 if small else 0.95,
            1.0,
            f"{judged.concepts(free)} of {world.tuned} concepts",
        ),
        _row(
            f"L1, seed {seed}: after scaling, paper",
            judged.precision(paper),
            0.9 if small else 0.95,
            1.0,
            f"{judged.concepts(paper)} of {world.tuned} concepts",
        ),
    ]
    for kind, which, values, low, high in (
        ("dec", "reconstruction", reconstruction, 0.5, 1.1),
        ("weak", "error", error, 0.25, 0.45),
    ):
        mine = chosen & (judged.kind == kind)
        if mine.any():
            rows.append(
                _row(
                    f"L1, seed {seed}: {kind}, ratio of the {which}",
                    float(np.median(values[mine])),
                    low,
                    high,
                    f"{int(mine.sum())} latents",
                )
            )
    return rows


def _batchtopk(seed: int, *, small: bool = False) -> list[Row]:
    world = PairWorld.small(seed) if small else PairWorld(seed=seed)
    judged, seconds = _fit(world)
    chosen, living = judged.exclusive(), int(judged.alive.sum())
    said = f"shared/weak/dec/tuned/none {_kinds(judged)}, FVU {max(judged.fvu.values()):.3f}, {seconds:.0f} s"
    return [
        _row(f"BatchTopK, seed {seed}: precision by delta", judged.precision(chosen), 1.0, 1.0, said),
        _row(
            f"BatchTopK, seed {seed}: concepts of {world.tuned}",
            judged.concepts(chosen),
            world.tuned - 1,
            world.tuned,
            f"base only {judged.concepts(judged.exclusive('base'), 'base')}",
        ),
        _row(
            f"BatchTopK, seed {seed}: living latents",
            living,
            round(0.96 * world.concepts),
            round(1.08 * world.concepts),
            f"{world.concepts} concepts",
        ),
    ]


def _late() -> list[Row]:
    """With fewer places than concepts, exclusive latents come last."""
    world = PairWorld(seed=0)
    out = []
    for steps, low, high in ((1000, 0.0, 0.6), (3000, 0.8, 1.0)):
        judged, seconds = _fit(world, steps=steps, k=3.0)
        note = f"base {judged.recall(world, 'base'):.2f}, shared {judged.recall(world, 'shared'):.2f}, {seconds:.0f} s"
        out.append(_row(f"k 3, {steps} steps: recall of tuned", judged.recall(world, "tuned"), low, high, note))
    return out


def _dedicated() -> list[Row]:
    """Latents of their own: found sooner, with weak concepts among them, which scaling takes out."""
    world = PairWorld(seed=0)
    judged, seconds = _fit(world, steps=1000, k=3.0, dedicated=0.1)
    chosen, kept = judged.exclusive(), judged.specific()
    return [
        _row(
            "dedicated, k 3, 1000 steps: recall of tuned",
            judged.recall(world, "tuned"),
            0.6,
            1.0,
            f"{_kinds(judged)}, {seconds:.0f} s",
        ),
        _row("dedicated: precision by delta", judged.precision(chosen), 0.3, 0.9, "1 by construction says nothing"),
        _row("dedicated: after scaling", judged.precision(kept), 0.95, 1.0, f"{judged.concepts(kept)} of 12 concepts"),
    ]


def _rotated() -> list[Row]:
    """Two bases turned against each other: projections lose their power, slopes keep it."""
    out = []
    for cosine, high in ((0.6, 0.8), (0.0, 0.6)):
        judged, seconds = _fit(PairWorld(seed=0, cosine=cosine), activation="relu")
        free, paper = judged.specific(), judged.specific(free=False)
        out += [
            _row(
                f"cosine {cosine:g}: precision by delta",
                judged.precision(judged.exclusive()),
                0.3,
                0.65,
                f"{_kinds(judged)}, {seconds:.0f} s",
            ),
            _row(f"cosine {cosine:g}: after scaling, paper", judged.precision(paper), 0.3, high, "no power expected"),
            _row(
                f"cosine {cosine:g}: after scaling, free",
                judged.precision(free),
                0.95,
                1.0,
                f"{judged.concepts(free)} of 12 concepts",
            ),
        ]
    return out


def _patched() -> list[Row]:
    """The only difference is exclusive concepts: they explain it, half each."""
    world = PairWorld(seed=0, weak=0, dec=0, cosine=1.0)
    made = trained(world.rows(ROWS, 1), latents=LATENTS, k=world.mean_on, steps=STEPS, batch=BATCH).dictionary
    judged, x = found(world, made), world.rows(20_000, 7)
    readout = 0.6 * torch.randn(world.width, 50, generator=generator(0, "readout"))
    random = np.zeros(LATENTS, dtype=bool)
    random[np.flatnonzero(judged.named == "shared")[:12]] = True
    masks = {
        "12 shared": random,
        "tuned only": judged.exclusive(),
        "both": judged.exclusive() | judged.exclusive("base"),
    }
    sets, patcher, codes = (
        Sets({name: torch.from_numpy(mask) for name, mask in masks.items()}),
        Patcher(made),
        made.codes(x),
    )
    target = (x["tuned"] @ readout).log_softmax(dim=-1)
    kl = {
        name: float(divergence(patcher.stream(name, sets, x["base"], x["tuned"], codes) @ readout, target).mean())
        for name in (NOTHING, *masks)
    }
    return [
        _row(f"KL recovered, {name}", 1 - kl[name] / kl[NOTHING], low, high, f"KL {kl[name]:.4f} of {kl[NOTHING]:.4f}")
        for name, low, high in (("12 shared", -0.02, 0.02), ("tuned only", 0.35, 0.65), ("both", 0.97, 1.0))
    ]
