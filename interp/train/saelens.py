"""SAEs by SAELens' own trainer, on our rows: the same cache, normalisation, held-out rows, table and dictionary, another optimiser loop.

    config = DictionaryConfig(latents=1024, reads=(view,), writes=(view,), activation="batchtopk", k=32)
    trained = train_with_sae_lens(data, config, Training(tokens=2_000_000))
    trained.dictionary, trained.result
    train_with_sae_lens(data, config, training, architecture="gated")           # what only SAELens trains

relu becomes its standard architecture (l1), jumprelu, topk, batchtopk theirs of that name, batchtopk with `nested` widths its
Matryoshka. Its trainer (version 6.54.12) takes an iterator of rows [row, d] and knows nothing else of data, so it is given ours,
normalised; the weights come back as they are and the scaling is kept with them. What differs from `Training`: weights begin by
SAELens' rules, drawn from torch's global generator (seeded here, and put back); the auxiliary loss has no variance in its denominator
and weight 1 (0 where `auxiliary` is 0); dead latents are counted in steps. A batchtopk threshold is set on held-out rows, as with our
trainer; SAELens' running mean, which begins at zero and stays too low for a while, is kept in the metadata.

Nothing is kept on the way: a training that is interrupted begins anew. Options that it does not have are refused by name.
"""

import contextlib
import io
import math
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from time import perf_counter
from types import SimpleNamespace
from typing import Any, cast

import torch
from torch import Tensor

from ..core.dictionary import Dictionary, DictionaryConfig, Scaling
from ..core.errors import BadInput, Diverged, one_of
from .data import TrainingData
from .distributed import Parallel
from .finish import finished
from .formats.parts import Tensors, dictionary_of, rows_of
from .formats.sae_lens import convert, library_of
from .heldout import Heldout
from .loop import MOST_HELD_OUT, check, named
from .schedule import law
from .training import Trained, Training

ARCHITECTURES = ("standard", "gated", "topk", "batchtopk", "matryoshka_batchtopk", "jumprelu")
NOT_THERE: dict[str, object] = {
    "k_start": 0.0, "clip": 1.0, "reconstruction": "squared", "group_weights": (), "difference": 0.0,
}  # fmt: skip
"""Options that its trainer does not have, and what it does."""
VIEW_TERMS = "reconstruction"


def train_with_sae_lens(
    data: TrainingData,
    configs: "DictionaryConfig | Sequence[DictionaryConfig]",
    training: "Training | None" = None,
    *,
    architecture: str = "",
    folder: "str | Path | None" = None,
    say: "Callable[[str], None] | None" = None,
) -> Trained:
    """Train SAEs of one view, one after the other, with SAELens' trainer; what comes out is as from `Training`.

    `architecture` is one of SAELens' where the configuration's activation does not tell (`gated`, which gives a jumprelu dictionary).
    Raises `BadInput` where SAELens is not installed or cannot train it, and `Diverged` where a loss is not finite.
    """
    library = library_of()
    several = (configs,) if isinstance(configs, DictionaryConfig) else tuple(configs)
    options = (training or Training()).settled(data)
    check(options, data, several)
    for config in several:
        _check(config, options, architecture)
    place = _folder(folder)
    scalings, runs = data.scalings(options.normalise), []
    for config, label in zip(several, named(several), strict=True):
        if say is not None:
            say(f"{label}: SAELens {library.__version__}, learning rate {options.lr or law(config.latents):.3g}")
        runs.append(_run(data, config, options, architecture or _architecture(config), label, scalings))
    for run in runs:
        run.dictionary.metadata["trainer"] = f"sae_lens {library.__version__}"
    exact = Heldout(data, min(MOST_HELD_OUT, max(options.tokens // 20, 1 << 14)), Parallel.none())
    _look(runs, exact)
    loop = SimpleNamespace(
        learners=runs, options=options, data=data, seen=_steps(options) * options.batch, seconds=sum(run.seconds for run in runs),
        warnings=[], records=_records(runs), kept=None if place is None else SimpleNamespace(folder=place), parallel=Parallel.none(),
        say=say or (lambda text: None),
    )  # fmt: skip
    return finished(cast(Any, loop), exact)


@dataclass(eq=False)
class Run:
    """One SAE that was trained: what the end of a training asks of a learner."""

    dictionary: Dictionary
    label: str
    lr: float
    objective: Any
    dead_after: int
    dead: Tensor
    """Bool [latent]."""
    running: SimpleNamespace
    """`value`, the running threshold."""
    seconds: float
    rows: list[dict[str, Any]] = field(default_factory=list)

    @property
    def config(self) -> DictionaryConfig:
        """What it is."""
        return self.dictionary.config

    @property
    def firing(self) -> Any:
        """Which latents are dead."""
        return SimpleNamespace(dead=lambda after: self.dead)

    def total(self, which: Tensor) -> int:
        """How many."""
        return int(which.sum())

    def adopt_threshold(self) -> None:
        """Its threshold is the running one already."""


def _run(
    data: TrainingData,
    config: DictionaryConfig,
    options: Training,
    architecture: str,
    label: str,
    scalings: Any,
) -> Run:
    name, scaling = config.reads[0].name, scalings[config.reads[0].name]
    lr, steps = options.lr or law(config.latents), _steps(options)
    warm, cool = (round(share * steps) for share in (options.warmup, options.decay))
    window = max(1, math.ceil(options.dead_tokens / options.batch))
    devices = [options.device] if options.device.startswith("cuda") else []
    variance = float(data.moments(name).var.sum()) * scaling.factor**2
    with torch.random.fork_rng(devices=devices), warnings.catch_warnings():
        torch.manual_seed(options.seed)
        warnings.simplefilter("ignore")  # its schedulers warn about how they call torch's
        sae = _sae(config, options, architecture, steps)
        from sae_lens.config import SAETrainerConfig

        settings = SAETrainerConfig(
            total_training_samples=steps * options.batch, train_batch_size_samples=options.batch, lr=lr, lr_end=lr,
            lr_warm_up_steps=warm if warm > 1 else 0, lr_decay_steps=min(cool, steps - max(warm, 1)), adam_beta1=options.beta1,
            adam_beta2=options.beta2, device=options.device, dead_feature_window=window,
        )  # fmt: skip
        trainer = _watched()(cfg=settings, sae=sae, data_provider=_rows(data, name, scaling, options))
        trainer.watch(options.watch_tokens, variance, name)
        began = perf_counter()
        with contextlib.nullcontext() if sys.stderr.isatty() else contextlib.redirect_stderr(io.StringIO()):
            trainer.fit()
    seconds = perf_counter() - began
    _refuse_broken(trainer, label, lr)
    dictionary, running = _dictionary(sae, config, scaling, name, architecture)
    for row in trainer.rows:
        row["k"] = config.k if "topk" in architecture else math.nan
    return Run(
        dictionary, label, lr, options.objective(config.activation), options.dead_tokens, trainer.dead_neurons.cpu(),
        SimpleNamespace(value=running), seconds, trainer.rows,
    )  # fmt: skip


def _rows(data: TrainingData, name: str, scaling: Scaling, options: Training) -> Iterator[Tensor]:
    """Normalised rows [batch, d] without end, in the order in which our own trainer sees them."""
    moved = Scaling(scaling.mean.to(options.device), scaling.factor)
    for batch in data.batches(options.batch, seed=options.seed):
        yield moved.apply(batch[name].to(options.device))


def _sae(config: DictionaryConfig, options: Training, architecture: str, steps: int) -> Any:
    """A SAELens SAE before its first step."""
    from sae_lens.registry import get_sae_training_class

    kind, settings = get_sae_training_class(architecture)
    warm = round(options.sparsity_warmup * steps)
    said: dict[str, Any] = {
        "d_in": config.reads[0].width, "d_sae": config.latents, "apply_b_dec_to_input": config.centred,
        "decoder_init_norm": options.init_norm or 0.1, "device": options.device,
    }  # fmt: skip
    if architecture in ("standard", "gated"):
        said |= {"l1_coefficient": options.coefficient, "l1_warm_up_steps": warm}
    elif architecture == "jumprelu":
        said |= {
            "l0_coefficient": options.coefficient, "l0_warm_up_steps": warm, "jumprelu_bandwidth": options.bandwidth,
            "jumprelu_sparsity_loss_mode": options.count,
        }  # fmt: skip
    else:
        said |= {
            "k": int(config.k) if architecture == "topk" else config.k, "aux_loss_coefficient": float(options.auxiliary > 0),
            "rescale_acts_by_decoder_norm": config.code_scale != "none",
        }  # fmt: skip
        said |= {} if architecture == "topk" else {"topk_threshold_lr": 1 - options.threshold_memory}
        said |= {"matryoshka_widths": list(config.nested)} if config.nested else {}
    return kind(settings(**said))


def _watched() -> type:
    """SAELens' trainer, which also writes down what our table holds."""
    from sae_lens.training.sae_trainer import SAETrainer

    class Watched(SAETrainer):  # type: ignore[misc]
        def watch(self, every: int, variance: float, view: str) -> None:
            self.every, self.variance, self.view = every, variance, view
            self.rows: list[dict[str, Any]] = []
            self.began, self.count = perf_counter(), 0
            self.sums: dict[str, float] = {}

        def step(self, batch: Tensor) -> Any:
            before, total = self.n_training_samples, self.cfg.total_training_samples
            rate = self.optimizer.param_groups[0]["lr"]
            output = super().step(batch)
            found = {name: value.detach() for name, value in output.losses.items()}
            found |= {"loss": output.loss.detach(), "l0": output.feature_acts.bool().float().sum(-1).mean()}
            for name, value in found.items():
                self.sums[name] = self.sums.get(name, 0.0) + float(value)
            self.count += 1
            reached = self.n_training_samples
            if reached >= total or reached // self.every > before // self.every:
                self.take(rate)
            return output

        def take(self, rate: float) -> None:
            means = {name: value / self.count for name, value in self.sums.items()}
            dead, latents = int(self.dead_neurons.sum()), self.sae.cfg.d_sae
            silent = int((self.n_forward_passes_since_fired >= self.count).sum())
            threshold = {self.view: float(self.sae.topk_threshold)} if hasattr(self.sae, "topk_threshold") else {}
            now = perf_counter()
            rows, step = self.count * self.cfg.train_batch_size_samples, self.n_training_steps + 1
            self.rows.append({
                "step": step, "tokens": self.n_training_samples, "tokens_per_second": rows / max(now - self.began, 1e-9),
                "loss": means.pop("loss"), "l0": means.pop("l0"), "gradient_norm": math.nan, "lr": rate, "k": math.nan, "dead": dead,
                "alive": 1 - dead / latents, "silent": silent, "fallback": 0, "fvu": {self.view: means["mse_loss"] / self.variance},
                "fvu_heldout": {}, "l0_heldout": math.nan, "threshold": threshold,
                "terms": {VIEW_TERMS if name == "mse_loss" else name.removesuffix("_loss"): value for name, value in means.items()},
            })  # fmt: skip
            self.began, self.sums, self.count = now, {}, 0

    return Watched


def _dictionary(
    sae: Any, config: DictionaryConfig, scaling: Scaling, name: str, architecture: str
) -> tuple[Dictionary, Tensor]:
    """The weights as they were trained, and the running threshold."""
    state = {key: value.detach().cpu() for key, value in sae.state_dict().items()}
    unset = torch.tensor([-math.inf], dtype=torch.float64)
    if architecture == "gated":
        made = convert({**sae.cfg.to_dict(), "metadata": {}}, Tensors(state, "the gated SAE"))
        shape = replace(config, activation="jumprelu", code_scale="none")
        new = Dictionary(shape, scalings={name: scaling})
        new.load_state_dict(made.state_dict())
        return new, unset
    new = dictionary_of(
        config, encoders=[rows_of(state["W_enc"])], decoders=[state["W_dec"]], b_enc=state["b_enc"], biases=[state["b_dec"]],
        thresholds=state.get("threshold"), scalings={name: scaling},
    )  # fmt: skip
    if "topk_threshold" in state and float(state["topk_threshold"]) > 0:
        new.threshold.fill_(float(state["topk_threshold"]))
    return new, new.threshold.clone()


def _records(runs: Sequence[Run]) -> Any:
    """The table of all: one row for each time, each entry a list over the dictionaries."""
    rows = []
    for together in zip(*(run.rows for run in runs), strict=True):
        row = {name: together[0][name] for name in ("step", "tokens", "tokens_per_second")}
        rows.append(row | {name: [one[name] for one in together] for name in together[0] if name not in row})
    views = list(dict.fromkeys(run.config.writes[0].name for run in runs))
    terms = list(dict.fromkeys(term for row in rows for one in row["terms"] for term in one))
    return SimpleNamespace(rows=rows, views=views, terms=terms)


def _look(runs: Sequence[Run], heldout: Heldout) -> None:
    """FVU and L0 on held-out rows at the last record, where a dictionary can encode already."""
    for run in runs:
        if run.config.activation != "batchtopk" or bool(run.dictionary.threshold.isfinite().all()):
            fvu, l0 = heldout.measure(run.dictionary)
            run.rows[-1]["fvu_heldout"].update(fvu)
            run.rows[-1]["l0_heldout"] = l0


def _refuse_broken(trainer: Any, label: str, lr: float) -> None:
    bad = next((row for row in trainer.rows if not math.isfinite(row["loss"])), None)
    if bad is not None:
        raise Diverged(
            f"{label}: the loss was not finite between the record at {bad['tokens']:,} tokens and the one before. Lower `lr` "
            f"(now {lr:.3g})."
        )


def _steps(options: Training) -> int:
    return math.ceil(options.tokens / options.batch)


def _architecture(config: DictionaryConfig) -> str:
    if config.nested:
        return "matryoshka_batchtopk"
    return {"relu": "standard"}.get(config.activation, config.activation)


def _check(config: DictionaryConfig, options: Training, architecture: str) -> None:
    """Refuse what SAELens cannot train, by name."""
    if architecture:
        one_of("architecture", architecture, ARCHITECTURES)
        fits = ("relu", "jumprelu") if architecture == "gated" else ()
        if architecture != _architecture(config) and config.activation not in fits:
            raise BadInput(
                f"a {config.activation!r} dictionary is no {architecture!r} SAE. Configure it so, or leave `architecture` out."
            )
    why = ""
    if len(config.views) > 1:
        why = f"the views {[view.name for view in config.views]}; an SAE has one"
    elif config.skip:
        why = "a skip path"
    elif config.code_scale in ("mixed", "decoupled"):
        why = f"code_scale={config.code_scale!r}; SAELens competes by codes, or codes times decoder norms"
    elif config.nested and config.activation != "batchtopk":
        why = f"nested widths with {config.activation!r}; SAELens has them for batchtopk"
    elif config.dtype != "float32":
        why = f"weights of dtype {config.dtype!r}; train in float32"
    if why:
        raise BadInput(f"SAELens cannot train this dictionary, which has {why}. Use our own trainer.")
    for name, value in NOT_THERE.items():
        if getattr(options, name) not in (value, getattr(Training, name)):  # a default that nobody chose is no wish
            raise BadInput(
                f"SAELens' trainer has no `{name}` (it does {value!r}); not {getattr(options, name)!r}. Use our own trainer."
            )
    wanted = {"relu": ("auto", "l1"), "jumprelu": ("auto", "l0")}.get(config.activation, ("auto", "none"))
    if options.sparsity not in wanted:
        raise BadInput(f"SAELens trains {config.activation!r} with sparsity {wanted[-1]!r}; not {options.sparsity!r}.")


def _folder(folder: "str | Path | None") -> Path | None:
    """Where to save, which must be free: nothing that was interrupted can go on."""
    if folder is None:
        return None
    place = Path(folder)
    if place.exists() and (not place.is_dir() or any(place.iterdir())):
        raise BadInput(
            f"{place.name!r} is not empty, and a training by SAELens cannot go on where one stopped. Give a new folder."
        )
    return place
