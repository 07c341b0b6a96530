"""Two processes take the very steps of one: by rows, by latents, with dead latents that are taught and batches that do not divide."""

from functools import cache

import pytest
import torch

from interp.cache import Batches, MemoryView
from interp.core.dictionary import Dictionary, DictionaryConfig, View
from interp.core.seed import generator
from interp.train.dead import Firing
from interp.train.distributed import Parallel, Sliced
from interp.train.step import Context, Objective, step

from .world import together

ROWS, BATCH, WIDTH, LATENTS = 203, 51, 12, 48
BASE, TUNED = View("base", width=WIDTH), View("tuned", width=WIDTH)
CONFIGS = {
    "topk": DictionaryConfig(LATENTS, (BASE,), (BASE,), activation="topk", k=4),
    "batchtopk": DictionaryConfig(LATENTS, (BASE, TUNED), (BASE, TUNED), activation="batchtopk", k=3.3, centred=False, family="crosscoder"),
    "nested": DictionaryConfig(LATENTS, (BASE,), (BASE,), activation="batchtopk", k=4, nested=(12, 48)),
    "groups": DictionaryConfig(
        LATENTS, (View("base", width=WIDTH, latents=(0, 40)), View("tuned", width=WIDTH, latents=(8, 48))),
        (View("base", width=WIDTH, latents=(0, 40)), View("tuned", width=WIDTH, latents=(8, 48))),
        groups=(("base", 8), ("shared", 32), ("tuned", 8)), activation="topk", k=4, centred=False,
    ),
    "decoupled": DictionaryConfig(
        LATENTS, (BASE, TUNED), (BASE, TUNED), activation="batchtopk", k=4, code_scale="decoupled", centred=False,
    ),
    "relu": DictionaryConfig(LATENTS, (BASE,), (BASE,), activation="relu"),
    "skip": DictionaryConfig(LATENTS, (BASE,), (TUNED,), activation="topk", k=4, centred=False, skip=True),
}  # fmt: skip


def data(dtype):
    draw = generator(0, "rows")
    features = torch.randn(20, WIDTH, generator=draw, dtype=torch.float64)
    rows = {}
    for name in ("base", "tuned"):
        on = torch.rand(ROWS, 20, generator=draw) < 0.15
        rows[name] = ((on * torch.rand(ROWS, 20, generator=draw, dtype=torch.float64)) @ features).to(dtype)
        rows[name][50:60] = rows[name][50]  # equal rows have equal scores, and cuts that tie
    return {name: MemoryView(x, name) for name, x in rows.items()}


def train(parallel, name, dtype=torch.float32, epochs=4):
    """A few steps; losses, counts and the dictionary at the end, with the latents of all processes."""
    config = CONFIGS[name]
    made = (
        Sliced.initialise(config, parallel, seed=1, norm=0.5)
        if parallel.latents.size > 1
        else Dictionary.initialise(config, seed=1, norm=0.5)
    )
    made = made.to(dtype)
    objective = Objective(sparsity="l1", coefficient=0.05) if config.activation == "relu" else Objective(auxiliary=0.25)
    optimizer = torch.optim.Adam(made.parameters(), lr=3e-3)
    firing, cut, curve = Firing(made.latents), None, []
    views = {view.name: data(dtype)[view.name] for view in config.views}
    for batch in Batches(views, BATCH, seed=3, epochs=epochs, share=parallel.share):
        rows = parallel.total(len(next(iter(batch.values()))))
        context = Context(k=config.k, dead=firing.dead(100), cut=cut, parallel=None if parallel.size == 1 else parallel)
        outcome = step(made, batch, objective, context)
        optimizer.step()
        firing.update(outcome.fired, rows)
        cut = outcome.cut
        dead = parallel.latents.sum_((firing.silent >= 100).sum())
        auxiliary = float(outcome.terms.get("auxiliary", 0))
        curve.append(
            [float(outcome.loss), float(outcome.l0), float(dead), auxiliary, *map(float, outcome.residual.values())]
        )
    weights = {key: value.detach().clone() for key, value in made.state_dict().items()}
    if parallel.latents.size > 1:
        spans = {f"encoders.{at}": config.range_of(view) for at, view in enumerate(config.reads)}
        spans |= {f"decoders.{at}": config.range_of(view) for at, view in enumerate(config.writes)} | {"b_enc": None}
        for key, span in spans.items():
            most = max(len(made.slices.piece(rank, span)) for rank in range(parallel.latents.size))
            pad = weights[key].new_zeros(most, *weights[key].shape[1:])
            pad[: len(weights[key])] = weights[key]
            parts = parallel.latents.gather(pad)
            whole = [part[: len(made.slices.piece(rank, span))] for rank, part in enumerate(parts)]
            weights[key] = made.slices.join(whole, span)
    return torch.tensor(curve, dtype=torch.float64), weights


def check(expected, found, tolerance, *, dead=True):
    curve, weights = expected
    assert len(curve) == 16 and (not dead or (curve[:, 2] > 0).sum() > 4)  # some latents were dead, and were taught
    assert not dead or (curve[:, 3] > 0).sum() > 4
    for other, theirs in found:
        assert torch.equal(other, found[0][0])
        assert torch.allclose(other[:, 1], curve[:, 1], rtol=1e-6)  # a mean of counts, in float32
        other, same = (torch.cat([one[:, :1], one[:, 2:]], dim=1) for one in (other, curve))
        assert torch.allclose(other, same, rtol=tolerance, atol=tolerance)
        for key, value in weights.items():
            assert torch.allclose(theirs[key], value, rtol=10 * tolerance, atol=10 * tolerance), key


@cache
def alone(name, dtype=torch.float32):
    return train(Parallel.none(), name, dtype)


@pytest.mark.parametrize("latents", [1, 2], ids=["rows", "latents"])
@pytest.mark.parametrize("name", ["nested", "groups", "decoupled", "relu", "skip"])
def test_two_processes_learn_as_one_does(name, latents):
    found = together(train, name, torch.float64, latents=latents)
    check(alone(name, torch.float64), found, 1e-9, dead=name != "relu")


@pytest.mark.parametrize("latents", [1, 2], ids=["rows", "latents"])
@pytest.mark.parametrize("name", ["topk", "batchtopk"])
def test_and_in_float32_to_its_digits(name, latents):
    check(alone(name), together(train, name, latents=latents), 1e-5)


def test_rows_and_latents_at_once():
    found = together(train, "batchtopk", torch.float64, size=4, latents=2)
    check(alone("batchtopk", torch.float64), found, 1e-9)


@pytest.mark.parametrize("latents", [1, 2], ids=["rows", "latents"])
def test_where_the_encoder_screens_too(latents, monkeypatch):
    plain = alone("topk")
    monkeypatch.setattr("interp.train.encode.can_screen", lambda dictionary, wanted: True)
    check(plain, together(train, "topk", latents=latents), 1e-5)
