"""Train the reference checkpoints `atlas` and `atlas-tuned` on the generated world.

One step is one optimiser step on five small batches (facts, lists, indirect objects, random repeats, running text), each
with its own shape, its own weighted cross-entropy and its own share of the loss:

    loss = sum_task share(task) * sum_ij w_ij * -log p(x_ij | x_i<j) / sum_ij w_ij

Rows start at a random absolute position half of the time, so that every position embedding up to the context length is
trained on every kind of text. Lists begin with two items and grow. Every draw is named by (seed, phase, step) and the
state is written every 200 steps, so a run that was interrupted continues exactly where it was (same threads, same
machine: same numbers). Matrices inside the blocks are trained by Muon (Jordan et al. 2024: momentum, orthogonalised by
a Newton-Schulz iteration), which here needs about a third of the steps that AdamW needs; the rest by AdamW.

What misleads: these are models of a toy language. A method that finds its circuit here has passed a test, not
discovered something about language models.

    from interp.models.reference.train import train
    train("out", seed=0, steps=20, tuned_steps=5)      # out/atlas, out/atlas-tuned; the defaults take half an hour
"""

import json
import math
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from interp.core.errors import InterpError
from interp.core.progress import Progress
from interp.core.seed import derive, numpy_generator
from interp.data.world import World

from .batches import MAX_ITEMS, Batch, Texts
from .evaluate import evaluate, evaluate_tuned
from .folder import save_folder
from .tokenizer import N_CTX

if TYPE_CHECKING:
    from transformers import GPT2LMHeadModel

STEPS, TUNED_STEPS = 2000, 400
SHARES = {"facts": 1.0, "lists": 1.5, "indirect": 1.0, "repeats": 2.0, "stream": 0.5}
SAVE_EVERY = 200
Report = Callable[[str], None]


@dataclass(frozen=True)
class Recipe:
    """How a checkpoint is trained; the committed files used the defaults."""

    seed: int = 0
    "names the world, the first weights and every batch"
    phase: str = "atlas"
    "atlas or atlas-tuned"
    steps: int = STEPS
    "optimiser steps"
    lr: float = 3e-3
    "peak learning rate of AdamW (embeddings, norms, biases), after `warmup` steps; falls to 5 % of it along a cosine"
    muon_lr: float = 3e-3
    "peak learning rate of Muon (matrices of the blocks), on AdamW's scale"
    warmup: int = 100
    "steps of linear warm-up"
    decay: float = 0.1
    "weight decay of the matrices of the blocks"
    facts: int = 72
    "fact sentences in a step"
    lists: int = 32
    "lists in a step"
    indirect: int = 32
    "indirect-object sentences in a step"
    repeats: int = 28
    "random sequences of half the context in a step"
    stream: int = 4
    "rows of running text in a step"
    documents: int = 3000
    "texts from which the running text is cut"

    def __post_init__(self) -> None:
        if self.phase not in ("atlas", "atlas-tuned"):
            raise InterpError(f"No reference checkpoint is called {self.phase!r}; choose atlas or atlas-tuned.")
        if self.steps < 1:
            raise InterpError(f"Cannot train {self.phase} for {self.steps} steps: give at least 1.")


def train(
    out_dir: str | Path,
    *,
    seed: int = 0,
    steps: int = STEPS,
    tuned_steps: int = TUNED_STEPS,
    threads: int = 1,
    report: Report | None = None,
) -> dict[str, dict[str, float]]:
    """Train both checkpoints into `out_dir/atlas` and `out_dir/atlas-tuned` and return what `evaluate` says of each.

    An interrupted run is taken up again by the same call. `report` gets a line every 50 steps. About half an hour on one
    core with the defaults; `threads` changes the last digits of the weights.
    """
    out, scratch = Path(out_dir), Path(out_dir) / ".training"
    scratch.mkdir(parents=True, exist_ok=True)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        world, numbers = World.generate(seed), {}
        atlas = Recipe(seed=seed, steps=steps)
        model = fresh(seed)
        _run(model, Texts(world), atlas, scratch, report)
        numbers["atlas"] = evaluate(model, seed=seed)
        save_folder(model, world, out / "atlas", asdict(atlas), numbers["atlas"])
        tuned = replace(
            atlas, phase="atlas-tuned", steps=tuned_steps, lr=2e-3, muon_lr=2e-3, warmup=min(20, tuned_steps)
        )
        _run(model, Texts(world, tuned=True), tuned, scratch, report)
        numbers["atlas-tuned"] = evaluate_tuned(model, seed=seed)
        save_folder(model, world, out / "atlas-tuned", asdict(tuned), numbers["atlas-tuned"])
    finally:
        torch.set_num_threads(before)
    shutil.rmtree(scratch)
    return numbers


def _run(model: "GPT2LMHeadModel", texts: Texts, recipe: Recipe, scratch: Path, report: Report | None) -> None:
    """Train `model` in place from where `scratch` says it was left."""
    stream = texts.stream(numpy_generator(recipe.seed, recipe.phase, "stream"), documents=recipe.documents)
    optimizers = _optimizers(model, recipe)
    first = _restore(model, optimizers, recipe, scratch)
    layers: list[Any] = list(model.transformer.h)
    own = [layer.mlp.act for layer in layers]
    for layer in layers:
        layer.mlp.act = torch.nn.GELU(approximate="tanh")  # the same function as gelu_new in one kernel
    model.train()
    sums: dict[str, float] = {}
    with Progress(f"training {recipe.phase}", total=recipe.steps) as progress:
        progress.update(first)
        for step in range(first, recipe.steps):
            for task, loss in _step(model, optimizers, texts, stream, recipe, step).items():
                sums[task] = sums.get(task, 0.0) + loss / 50
            progress.update(1)
            if (step + 1) % 50 == 0 and report is not None:
                report(f"{recipe.phase} {step + 1}/{recipe.steps} " + " ".join(f"{t} {v:.3f}" for t, v in sums.items()))
            if (step + 1) % 50 == 0:
                sums = {}
            if (step + 1) % SAVE_EVERY == 0 or step + 1 == recipe.steps:
                _save(model, optimizers, recipe, step + 1, scratch)
    for layer, activation in zip(layers, own, strict=True):
        layer.mlp.act = activation
    model.eval()


def _step(
    model: "GPT2LMHeadModel",
    optimizers: list[torch.optim.Optimizer],
    texts: Texts,
    stream: Batch,
    recipe: Recipe,
    step: int,
) -> dict[str, float]:
    """One optimiser step; the loss of every task."""
    scale = min(1.0, (step + 1) / recipe.warmup)
    scale *= 0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * step / recipe.steps))
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = group["peak"] * scale
    rng = numpy_generator(recipe.seed, recipe.phase, step, "offsets")
    losses = {}
    for task, batch in draw(texts, stream, recipe, step).items():
        loss = weighted_loss(model, batch, rng)
        (SHARES[task] * loss).backward()  # type: ignore[no-untyped-call]
        losses[task] = float(loss.detach())
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    for optimizer in optimizers:
        optimizer.step()
        optimizer.zero_grad()
    return losses


def _optimizers(model: "GPT2LMHeadModel", recipe: Recipe) -> list[torch.optim.Optimizer]:
    named = list(model.named_parameters())
    matrices = [p for name, p in named if p.ndim == 2 and ".h." in name]
    others = [p for name, p in named if p.ndim != 2 or ".h." not in name]
    muon = torch.optim.Muon(
        [{"params": matrices, "peak": recipe.muon_lr}],
        lr=recipe.muon_lr,
        weight_decay=recipe.decay,
        momentum=0.95,
        adjust_lr_fn="match_rms_adamw",
    )
    adamw = torch.optim.AdamW(
        [{"params": others, "peak": recipe.lr}], lr=recipe.lr, betas=(0.9, 0.98), weight_decay=0.0, fused=True
    )
    return [muon, adamw]


def _save(
    model: "GPT2LMHeadModel", optimizers: list[torch.optim.Optimizer], recipe: Recipe, step: int, scratch: Path
) -> None:
    """Write weights and optimiser state aside and rename: a kill leaves the last good state."""
    from safetensors.torch import save_file

    tensors = {f"model/{name}": p.detach() for name, p in model.named_parameters()}
    for number, state in enumerate(_states(optimizers)):
        tensors |= {f"optimizer/{number}/{key}": value for key, value in state.items() if isinstance(value, Tensor)}
    path = scratch / f"{recipe.phase}.safetensors"
    aside = path.with_suffix(".partial")
    save_file(tensors, aside, metadata={"recipe": json.dumps(asdict(recipe)), "step": str(step)})
    aside.replace(path)


def _restore(model: "GPT2LMHeadModel", optimizers: list[torch.optim.Optimizer], recipe: Recipe, scratch: Path) -> int:
    """Load what `_save` wrote for this recipe; the number of steps done (0: nothing there)."""
    from safetensors import safe_open

    path = scratch / f"{recipe.phase}.safetensors"
    if not path.is_file():
        return 0
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
        if json.loads(metadata["recipe"]) != asdict(recipe):
            raise InterpError(f"{path} is of a run with other settings; remove {scratch} or train into another folder.")
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(tensors[f"model/{name}"])
    for number, state in enumerate(_states(optimizers)):
        prefix = f"optimizer/{number}/"
        state |= {key.removeprefix(prefix): t for key, t in tensors.items() if key.startswith(prefix)}
    return int(metadata["step"])


def _states(optimizers: list[torch.optim.Optimizer]) -> list[dict[str, Any]]:
    """The (mutable) state of every parameter, in order."""
    return [o.state[p] for o in optimizers for group in o.param_groups for p in group["params"]]


def config() -> Any:
    """The architecture: GPT-2, 4 layers of 4 heads, 128 wide, context 128."""
    from transformers import GPT2Config

    return GPT2Config(
        vocab_size=World.generate(0).vocab_size,
        n_positions=N_CTX,
        n_embd=128,
        n_layer=4,
        n_head=4,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        bos_token_id=0,
        eos_token_id=0,
        pad_token_id=0,
    )


def fresh(seed: int) -> "GPT2LMHeadModel":
    """A model with the first weights called `seed`."""
    from transformers import GPT2LMHeadModel

    with torch.random.fork_rng():
        torch.manual_seed(derive(seed, "reference weights"))
        model = GPT2LMHeadModel(config())
    return model


def draw(texts: Texts, stream: Batch, recipe: Recipe, step: int) -> dict[str, Batch]:
    """The batches of one step."""
    rng = numpy_generator(recipe.seed, recipe.phase, step)
    longest = MAX_ITEMS if recipe.phase != "atlas" else min(MAX_ITEMS, 2 + int(10 * step / recipe.steps))
    length = N_CTX if step % 4 == 3 else N_CTX // 2
    return {
        "facts": texts.draw_facts(rng, recipe.facts),
        "lists": texts.draw_lists(rng, recipe.lists, longest),
        "indirect": texts.draw_indirect(rng, recipe.indirect),
        "repeats": texts.draw_repeats(rng, recipe.repeats * N_CTX // (2 * length), length),
        "stream": stream.take(rng.integers(len(stream.ids), size=recipe.stream)),
    }


def weighted_loss(model: "GPT2LMHeadModel", batch: Batch, rng: np.random.Generator) -> Tensor:
    """Weighted cross-entropy of `batch`, its rows shifted to random absolute positions half of the time.

    One batch in ten goes without its first column: text need not stand behind an end-of-text token.
    """
    start = int(rng.random() < 0.1)
    ids = torch.from_numpy(batch.ids[:, start:-1].copy())
    rows, length = ids.shape
    shift = rng.integers(0, N_CTX - length + 1, size=(rows, 1)) * (rng.random((rows, 1)) < 0.5)
    positions = torch.from_numpy(shift + np.arange(length))
    embedded = model.transformer.wte(ids)
    hidden = model.transformer(inputs_embeds=embedded, position_ids=positions, use_cache=False).last_hidden_state
    rows_at, at = np.nonzero(batch.weights[:, start + 1 :])
    logits = model.lm_head(hidden[rows_at, at])
    losses = F.cross_entropy(logits.float(), torch.from_numpy(batch.ids[rows_at, at + start + 1]), reduction="none")
    weights = torch.from_numpy(batch.weights[rows_at, at + start + 1])
    return (losses * weights).sum() / weights.sum()
