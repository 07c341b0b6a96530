"""What kinds of SAE find of known features, in three worlds: independent features, correlated pairs, a hierarchy.

A row is one kind in one world; times are whole trainings, compared with BatchTopK on the same rows. `max_difference` is how much lower the
mean absorption is than BatchTopK's (worlds without a hierarchy: how much higher the MCC). The note gives means over seeds: MCC, alive
latents, mean codes on a row, and absorption, which differs much from seed to seed.
"""

import statistics
from typing import Any

from interp.analyses.dictionaries.recovery import recovery
from interp.cache.views import MemoryView
from interp.core.dictionary import View
from interp.data.features import FeatureWorld
from interp.train.data import TrainingData
from interp.train.families import SAE
from interp.train.training import Training
from tests.benchmarks import Row, cpu, ratio

FULL: dict[str, Any] = {
    "features": 48,
    "width": 32,
    "steps": 2000,
    "batch": 1024,
    "rows": 1 << 19,
    "seeds": 3,
    "lr": 2e-3,
}
QUICK: dict[str, Any] = {
    "features": 24,
    "width": 16,
    "steps": 500,
    "batch": 256,
    "rows": 60_000,
    "seeds": 2,
    "lr": 6e-3,
}
KINDS = ("batchtopk", "l1", "jumprelu", "matryoshka")


def rows(quick: bool = False) -> list[Row]:
    """All kinds in all worlds; `quick` in smaller worlds, a bit more than a minute on one core."""
    size = QUICK if quick else FULL
    parents = size["features"] // 4
    worlds = {
        "independent": {},
        "pairs, rho 0.8": {"pairs": 0.8},
        "hierarchy": {"parents": parents, "children": 3, "probability": 0.15},
    }
    found = []
    _run(FeatureWorld(), "l1", size | {"steps": 10, "rows": 20_000}, 0)  # what is imported on first use is not counted
    for name, fields in worlds.items():
        world = FeatureWorld(features=size["features"], width=size["width"], **fields)
        runs = {kind: [_run(world, kind, size, seed) for seed in range(size["seeds"])] for kind in KINDS}
        for kind, own in runs.items():
            middle, spread = ratio([run["time"] for run in runs["batchtopk"]], [run["time"] for run in own])
            means = {key: statistics.mean(run[key] for run in own) for key in own[0]}
            gained = {key: means[key] - statistics.mean(run[key] for run in runs["batchtopk"]) for key in means}
            better = -gained["absorption"] if world.parents else gained["mcc"]
            note = f"MCC {means['mcc']:.3f}, {means['alive']:.0f} alive for {world.features}, L0 {means['l0']:.2f} of {world.l0:.2f}"
            if world.parents:
                note += ", absorption " + " ".join(f"{run['absorption']:.2f}" for run in own)
            found.append(Row(f"{name} · {kind}", "batchtopk", middle, spread, better, note))
    return found


def _run(world: FeatureWorld, kind: str, size: dict[str, Any], seed: int) -> dict[str, float]:
    options: dict[str, Any] = {
        "batchtopk": {"k": world.l0},
        "l1": {"activation": "relu"},
        "jumprelu": {"activation": "jumprelu"},
        "matryoshka": {"k": world.l0, "nested": (0.125, 0.3, 1)},
    }
    family = SAE(latents=2 * world.features, **options[kind])
    config = family.config({"in": View("in", width=world.width)})
    data = TrainingData({"in": MemoryView(world.rows(size["rows"], seed=1))})
    tokens = size["steps"] * size["batch"]
    training = Training(
        tokens=tokens, batch=size["batch"], lr=size["lr"] if "nested" in options[kind] or kind == "batchtopk" else 1e-2,
        coefficient={"l1": 0.5, "jumprelu": 1.0}.get(kind, 0.0), bandwidth=0.5, dead_after=20_000, watch=tokens, seed=seed,
    )  # fmt: skip
    trained: list[Any] = []
    time = cpu(lambda: trained.append(training(data, config)))
    dictionary = trained[0].dictionary
    codes = dictionary.codes(world.rows(50_000, seed=2))
    result = recovery(
        dictionary.W_dec, world.directions, codes=codes, truth=world.codes(50_000, seed=2), parent=world.parent
    )
    l0 = float(codes.counts().double().mean())
    return {"time": time, "mcc": result.mcc(), "alive": result.alive, "l0": l0, "absorption": result.absorption()}
