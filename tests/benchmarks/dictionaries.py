"""Training steps of dictionaries: ours beside SAELens' trainer, beside dense autograd, and beside the encoder's product alone.

A step is forward, backward, gradient clipping and Adam, on rows that are low rank plus noise (no latent is dead, unless the row says
so). SAELens' step is `SAETrainer.step` with the same initial weights and rows; the difference that is compared is that of the gradients of
one step, relative to their length, over all weights. Dense autograd is a plain program with fused Adam. The encoder's product alone is the
bound of any step that must look at every latent; what is given is the part of our step that it takes. Peak memory is what a fresh process
holds beyond its state before the first step. dictionary_learning and eai-sparsify are compared where they can be imported (they are no
dependency; `PYTHONPATH` may name a folder with their wheels).
"""

import importlib.util
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from interp.core.dictionary import Dictionary, DictionaryConfig, View
from interp.core.dictionary.kernels import select_batch
from interp.core.seed import generator
from interp.core.topk import fast_bfloat16
from interp.train.sparse import sparse_step
from interp.train.step import Context, Objective
from tests.benchmarks import Row, interleaved, ratio
from tests.benchmarks.concepts import _kilobytes

FULL = {"d": 768, "m": 16384, "k": 32, "rows": 2048}
QUICK = {"d": 256, "m": 4096, "k": 16, "rows": 512}


def rows(quick: bool = False) -> list[Row]:
    """All comparisons; `quick` at a smaller size, with shorter products, for which selections and Adam weigh more."""
    size = QUICK if quick else FULL
    found = [_saelens(kind, size) for kind in ("topk", "batchtopk")]
    found += [_saelens("topk", size, dead=size["m"] // 8), *_others(size)]
    found += [_autograd("topk", size, views=1), _autograd("batchtopk", size, views=2)]
    found += [_bound(kind, size, views) for kind, views in (("topk", 1), ("batchtopk", 1), ("batchtopk", 2))]
    return [*found, _selection(size), _screened(size), _memory(size)]


class Ours:
    """A dictionary, an optimizer and one batch."""

    def __init__(
        self, kind: str, size: dict[str, int], views: int = 1, dead: int = 0, screen: bool | None = None
    ) -> None:
        names = [View(f"view {number}", width=size["d"]) for number in range(views)]
        config = DictionaryConfig(size["m"], tuple(names), tuple(names), kind, size["k"], centred=views == 1)
        self.dictionary = Dictionary.initialise(config).requires_grad_(True)
        self.batch = {view.name: drawn(size, number) for number, view in enumerate(names)}
        self.objective = Objective(auxiliary=1 / 32 if dead else 0.0)
        mask = torch.arange(size["m"]) >= size["m"] - dead
        self.context = Context(k=size["k"], dead=mask if dead else None)
        self.screen = screen

        self.optimizer = torch.optim.Adam(self.dictionary.parameters(), lr=1e-4, fused=True)

    def gradients(self) -> dict[str, Tensor]:
        """Of the weights as they are."""
        outcome = sparse_step(self.dictionary, self.batch, self.objective, self.context, screen=self.screen)
        self.context.cut = outcome.cut
        return {name: parameter.grad for name, parameter in self.dictionary.named_parameters()}

    def step(self) -> None:
        """One whole step."""
        grads = list(self.gradients().values())
        norm = torch.nn.utils.get_total_norm(grads)
        torch._foreach_mul_(grads, (1 / (norm + 1e-6)).clamp(max=1.0))
        self.optimizer.step()


def drawn(size: dict[str, int], number: int = 0) -> Tensor:
    """Rows [row, d]: 64 directions and noise."""
    draw = generator(0, "benchmark", "dictionaries", number)
    low = torch.randn(size["rows"], 64, generator=draw) @ torch.randn(64, size["d"], generator=draw) / 8
    return low + 0.3 * torch.randn(size["rows"], size["d"], generator=draw)


def named(size: dict[str, int]) -> str:
    """A size in words."""
    return f"{size['m']:,} latents, d {size['d']}, k {size['k']}, {size['rows']:,} rows"


def _took(times: list[list[float]]) -> str:
    return f"{1000 * min(times[1]):.0f} ms against {1000 * min(times[0]):.0f} ms"


def _theirs(kind: str, ours: Ours, size: dict[str, int], dead: int) -> Any:
    from sae_lens import BatchTopKTrainingSAE, BatchTopKTrainingSAEConfig, TopKTrainingSAE, TopKTrainingSAEConfig
    from sae_lens.config import SAETrainerConfig
    from sae_lens.training.sae_trainer import SAETrainer

    made = {
        "topk": (TopKTrainingSAE, TopKTrainingSAEConfig),
        "batchtopk": (BatchTopKTrainingSAE, BatchTopKTrainingSAEConfig),
    }
    cls, config = made[kind]
    sae = cls(config(d_in=size["d"], d_sae=size["m"], k=size["k"]))
    with torch.no_grad():
        sae.W_enc.copy_(ours.dictionary.encoders[0].T)
        sae.W_dec.copy_(ours.dictionary.decoders[0])
        sae.b_enc.copy_(ours.dictionary.b_enc)
        sae.b_dec.copy_(ours.dictionary.biases[0])
    options = SAETrainerConfig(10**9, size["rows"], lr=1e-4, lr_end=1e-4)
    trainer = SAETrainer(cfg=options, sae=sae, data_provider=iter(()))
    if dead:
        trainer.n_forward_passes_since_fired[size["m"] - dead :] = 10**6
    return trainer


def _saelens(kind: str, size: dict[str, int], dead: int = 0) -> Row:
    ours = Ours(kind, size, dead=dead)
    (rows,) = ours.batch.values()
    trainer = _theirs(kind, ours, size, dead)
    difference = 0.0 if dead else _difference(ours, trainer.sae, rows)

    def theirs() -> None:
        if dead:  # the ones that fire in the meantime would wake up
            trainer.n_forward_passes_since_fired[size["m"] - dead :] = 10**6
        trainer.step(rows)

    times = interleaved([theirs, ours.step], repeats=3)
    what = f"{kind} step" + (f", {dead:,} dead latents" if dead else "")
    note = "losses for dead latents differ, gradients are not compared" if dead else "gradients"
    return Row(f"{what}: {named(size)}", "SAELens SAETrainer.step", *ratio(*times), difference,
               f"{note}; {_took(times)}")  # fmt: skip


def _difference(ours: Ours, sae: Any, rows: Tensor) -> float:
    from sae_lens.saes.sae import TrainStepInput

    given = TrainStepInput(
        sae_in=rows, coefficients={}, dead_neuron_mask=None, n_training_steps=0, is_logging_step=False
    )
    sae.training_forward_pass(given).loss.backward()
    found = ours.gradients()
    pairs = [
        (found["encoders.0"].T, sae.W_enc.grad), (found["decoders.0"], sae.W_dec.grad), (found["b_enc"], sae.b_enc.grad),
        (found["biases.0"], sae.b_dec.grad),
    ]  # fmt: skip
    difference = max(float((mine - theirs).norm() / theirs.norm()) for mine, theirs in pairs)
    sae.zero_grad()
    return difference


def _autograd(kind: str, size: dict[str, int], views: int) -> Row:
    """A plain program: dense codes, `backward()`, fused Adam."""
    ours = Ours(kind, size, views)
    plain = {name: p.detach().clone().requires_grad_(True) for name, p in ours.dictionary.named_parameters()}
    optimizer = torch.optim.Adam(plain.values(), lr=1e-4, fused=True)
    batch = list(ours.batch.values())

    def gradients() -> dict[str, Tensor]:
        optimizer.zero_grad()
        pre = plain["b_enc"]
        for number, x in enumerate(batch):
            pre = pre + (x - plain["biases.0"] if views == 1 else x) @ plain[f"encoders.{number}"].T
        with torch.no_grad():
            score = pre * sum(plain[f"decoders.{number}"].norm(dim=1) for number in range(views))
            if kind == "topk":
                mask = torch.zeros_like(score).scatter_(1, score.topk(size["k"], dim=1, sorted=False).indices, 1.0)
            else:
                best = score.flatten().topk(size["k"] * size["rows"], sorted=False).indices
                mask = torch.zeros_like(score).flatten().index_fill_(0, best, 1.0).view_as(score)
        codes = pre.relu() * mask
        errors = [codes @ plain[f"decoders.{n}"] + plain[f"biases.{n}"] - x for n, x in enumerate(batch)]
        sum(error.square().sum(dim=1).mean() for error in errors).backward()
        return {name: weight.grad for name, weight in plain.items()}

    def step() -> None:
        gradients()
        torch.nn.utils.clip_grad_norm_(plain.values(), 1.0)
        optimizer.step()

    mine, theirs = ours.gradients(), gradients()
    difference = max(float((mine[name] - theirs[name]).norm() / theirs[name].norm()) for name in mine)
    times = interleaved([step, ours.step], repeats=3)
    what = f"{kind} step" if views == 1 else f"crosscoder of {views} views, {kind} step"
    return Row(f"{what}: {named(size)}", "dense autograd, fused Adam", *ratio(*times), difference,
               f"gradients; {_took(times)}")  # fmt: skip


def _others(size: dict[str, int]) -> list[Row]:
    found = []
    if importlib.util.find_spec("dictionary_learning"):
        found.append(_dictionary_learning(size))
    if importlib.util.find_spec("sparsify"):
        found.append(_sparsify(size))
    return found


def _sparsify(size: dict[str, int]) -> Row:
    """Their `SparseCoder` with what their trainer does after it, but for keeping decoder rows at length 1; on a CPU without Triton."""
    from sparsify import SparseCoder, SparseCoderConfig

    ours = Ours("topk", size)
    (rows,) = ours.batch.values()
    coder = SparseCoder(size["d"], SparseCoderConfig(num_latents=size["m"], k=size["k"], normalize_decoder=False))
    with torch.no_grad():
        coder.encoder.weight.copy_(ours.dictionary.encoders[0])
        coder.W_dec.copy_(ours.dictionary.decoders[0])
    optimizer = torch.optim.Adam(coder.parameters(), lr=1e-4, fused=True)
    variance = (rows - rows.mean(dim=0)).square().sum()

    def gradients() -> list[Tensor]:
        optimizer.zero_grad()
        (coder(rows).fvu * variance / len(rows)).backward()  # the same units as ours
        return [coder.encoder.weight.grad, coder.W_dec.grad, coder.encoder.bias.grad, coder.b_dec.grad]

    def step() -> None:
        gradients()
        torch.nn.utils.clip_grad_norm_(coder.parameters(), 1.0)
        optimizer.step()

    mine, theirs = ours.gradients(), gradients()
    names = ("encoders.0", "decoders.0", "b_enc", "biases.0")
    difference = max(float((mine[n] - t).norm() / t.norm()) for n, t in zip(names, theirs, strict=True))
    times = interleaved([step, ours.step], repeats=3)
    return Row(f"topk step: {named(size)}", "eai-sparsify SparseCoder, fused Adam", *ratio(*times), difference,
               f"gradients; {_took(times)}")  # fmt: skip


def _dictionary_learning(size: dict[str, int]) -> Row:
    """Their BatchTopK trainer's `update`; it also keeps decoder rows at length 1, so gradients are not compared."""
    from dictionary_learning.trainers.batch_top_k import BatchTopKTrainer

    ours = Ours("batchtopk", size)
    (rows,) = ours.batch.values()
    trainer = BatchTopKTrainer(
        steps=10**6,
        activation_dim=size["d"],
        dict_size=size["m"],
        k=size["k"],
        layer=0,
        lm_name="none",
        lr=1e-4,
        device="cpu",
    )
    count = iter(range(1, 10**6))
    times = interleaved([lambda: trainer.update(next(count), rows), ours.step], repeats=3)
    return Row(f"batchtopk step: {named(size)}", "dictionary_learning BatchTopKTrainer", *ratio(*times), 0.0,
               f"other initial weights, nothing is compared; {_took(times)}")  # fmt: skip


def _bound(kind: str, size: dict[str, int], views: int) -> Row:
    ours = Ours(kind, size, views)
    out = torch.empty(size["rows"], size["m"])
    pairs = list(zip(ours.batch.values(), ours.dictionary.encoders, strict=True))

    @torch.no_grad()
    def product() -> None:
        torch.mm(pairs[0][0], pairs[0][1].T, out=out)
        for x, weight in pairs[1:]:
            out.addmm_(x, weight.T)

    times = interleaved([product, ours.step], repeats=5)
    what = f"{kind} step" if views == 1 else f"crosscoder of {views} views, {kind} step"
    return Row(f"{what}: {named(size)}", "the encoder's product alone", *ratio(*times), 0.0,
               f"the part of a step that is this product, {1000 * min(times[0]):.0f} ms; nothing is compared")  # fmt: skip


def _selection(size: dict[str, int]) -> Row:
    scores = torch.randn(size["rows"], size["m"], generator=generator(0, "benchmark", "selection"))
    count = size["k"] * size["rows"]
    before = select_batch(scores, count)
    times = interleaved(
        [lambda: scores.flatten().topk(count), lambda: select_batch(scores, count, before.cut)], repeats=5
    )
    without = interleaved([lambda: scores.flatten().topk(count), lambda: select_batch(scores, count)], repeats=3)
    wrong = int((scores.flatten().topk(count).indices.sort().values != before.flat).sum())
    return Row(f"batchtopk selection: {named(size)}", "torch.topk of the flat scores", *ratio(*times), float(wrong),
               f"entries that differ; {ratio(*without)[0]:.1f}x without the cut of the step before")  # fmt: skip


def _screened(size: dict[str, int]) -> Row:
    exact, screened = Ours("topk", size, screen=False), Ours("topk", size, screen=True)
    mine, theirs = screened.gradients(), exact.gradients()
    difference = max(float((mine[name] - theirs[name]).norm() / theirs[name].norm()) for name in mine)
    times = interleaved([exact.step, screened.step], repeats=3)
    outcome = sparse_step(screened.dictionary, screened.batch, screened.objective, screened.context, screen=True)
    (x,), weight = exact.batch.values(), exact.dictionary.encoders[0].detach()
    a, b = x.bfloat16(), weight.bfloat16()
    bare = interleaved([lambda: x @ weight.T, lambda: a @ b.T], repeats=3)
    chosen = "chosen" if fast_bfloat16(x.device) else "not chosen"
    note = f"gradients; {outcome.fallback} rows not certified; bfloat16 product {ratio(*bare)[0]:.2f}x float32: {chosen} here"
    return Row(f"topk step, screened: {named(size)}", "the same step, not screened", *ratio(*times), difference, note)


def _memory(size: dict[str, int]) -> Row:
    """Megabytes beyond what was there before, theirs over ours."""
    quick = "quick" if size is QUICK else "full"
    held = {name: _peak(name, quick) for name in ("saelens", "topk", "batchtopk")}
    note = ", ".join(f"{name} {megabytes:,.0f} MB" for name, megabytes in held.items())
    return Row(f"peak memory of a step: {named(size)}", "SAELens SAETrainer.step, topk", held["saelens"] / held["topk"], 0.0, 0.0,
               f"{note}, with gradients and Adam's moments")  # fmt: skip


def _peak(name: str, size: str) -> float:
    """Runs in a process of its own: resident memory only ever has one highest mark."""
    found = subprocess.run([sys.executable, "-m", __name__, name, size], capture_output=True, text=True, check=True)
    return float(found.stdout)


def _once(name: str, size: dict[str, int]) -> float:
    torch.set_num_threads(1)
    kind = "topk" if name == "saelens" else name
    torch.randn(64, 64) @ torch.randn(64, 64)
    ours = Ours(kind, size)
    step: Callable[[], Any] = ours.step
    if name == "saelens":
        (rows,) = ours.batch.values()
        trainer = _theirs(kind, ours, size, 0)
        del ours
        step = lambda: trainer.step(rows)  # noqa: E731
    before = _kilobytes("VmRSS")
    step(), step()
    return (_kilobytes("VmHWM") - before) / 1024


if __name__ == "__main__":
    sys.stdout.write(f"{_once(sys.argv[1], QUICK if sys.argv[2] == 'quick' else FULL):.1f}")
