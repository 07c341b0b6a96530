"""The loop: batches to learners, a record now and then, a checkpoint now and then, and what is done when something goes wrong."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..core.dictionary import Dictionary, DictionaryConfig, Scaling, View
from ..core.errors import ArtifactError, BadInput, listing
from .checkpoint import Checkpoints, is_full
from .data import TrainingData
from .finish import finished
from .heldout import Heldout
from .interrupt import Interrupt
from .learner import Learner
from .progress import Live
from .records import Records
from .trouble import diverged

if TYPE_CHECKING:
    from .distributed import Parallel, Piece
    from .training import Trained, Training

LOOK = 16
"""Steps between two looks for NaN where looking means to wait for the device."""
FEW_HELD_OUT, MANY_HELD_OUT = 256, 4096
"""Rows that are looked at while training goes on: a thousandth of it, between these."""
MOST_HELD_OUT = 1 << 20
"""Rows that a threshold is set on, at most."""
CONSTANT = 1e-12
"""Variance relative to the mean square at which rows are all the same but for rounding."""


class Loop:
    """One training, from the first row to the last, or from its last checkpoint."""

    def __init__(
        self,
        options: "Training",
        data: TrainingData,
        configs: Sequence[DictionaryConfig],
        folder: "str | Path | None",
        parallel: "Parallel | None",
        say: Callable[[str], None] | None,
    ) -> None:
        from .distributed import Parallel

        self.options, self.data, self.configs = options, data, configs
        self.parallel = parallel or Parallel.none()
        self.say = say if say is not None and self.parallel.main else lambda text: None
        check(options, data, configs)
        self.kept = None if folder is None else Checkpoints(Path(folder), options.keep, self.parallel)
        self.device = options.device if self.parallel.size == 1 else self.parallel.device
        self.identity = {
            "training": options.identity(), "dictionaries": [config.to_dict() for config in configs], "data": data.digest,
        }  # fmt: skip
        self.parallel.same(self.identity, "options, dictionaries or data")
        self.seen, self.number, self.seconds = 0, 0, 0.0
        self.warnings: list[str] = []
        scalings = data.scalings(options.normalise)
        variances = {name: float(data.moments(name).var.sum()) * one.factor**2 for name, one in scalings.items()}
        schedule, labels = options.schedule(), named(configs)
        self.learners = [
            Learner(
                begin(config, options, data, scalings, self.parallel),
                label,
                options,
                schedule,
                variances=variances,
                device=self.device,
            )
            for config, label in zip(configs, labels, strict=True)
        ]
        self.scalings = {name: Scaling(one.mean.to(self.device), one.factor) for name, one in scalings.items()}
        share = {} if self.parallel.rows.size == 1 else {"share": self.parallel.share}
        self.batches = data.batches(
            options.batch, seed=options.seed, device=self.device, prefetch=self.device != "cpu", **share
        )
        quick = min(data.heldout_rows, max(FEW_HELD_OUT, min(MANY_HELD_OUT, options.tokens // 1000)))
        self.records = Records(self.learners, Heldout(data, quick, self.parallel) if quick else None)

    def run(self) -> "Trained":
        """Train, then set thresholds and measure on rows that were kept aside."""
        if self.kept is not None:
            self._restore()
        for learner in self.learners:
            self.say(
                f"{learner.label}: learning rate {learner.lr:.3g}"
                + ("" if self.options.lr else " (2e-4 sqrt(16384 / latents))")
            )
        with Interrupt(self.kept is not None) as interrupt, Live("training", self.options.tokens, self.seen) as live:
            self._train(live, interrupt)
        exact = Heldout(self.data, min(MOST_HELD_OUT, max(self.options.tokens // 20, 1 << 14)), self.parallel)
        return finished(self, exact)

    def _train(self, live: Live, interrupt: Interrupt) -> None:
        total, watch, save = self.options.tokens, self.options.watch_tokens, self.options.save_tokens
        rows, batches = self.options.batch, iter(self.batches)
        began, saved = perf_counter(), self.seen
        while self.seen < total:
            before = self.seen
            self._step(next(batches))
            done = self.seen >= total
            live.update(rows, self.records.now)
            if done or self.seen // watch > before // watch:
                for learner in self.learners:
                    self._look(learner)
                self.seconds += perf_counter() - began
                self._record()
                began = perf_counter()
            stop = self.parallel.agree(interrupt.came is not None)
            if self.kept is not None and (done or stop or self.seen // save > before // save):
                for learner in self.learners:
                    self._look(learner)
                self.seconds += perf_counter() - began
                saved = self._save(saved)
                began = perf_counter()
            if stop:
                self.say(f"interrupted at {self.seen:,} of {total:,} tokens; the same call goes on from {saved:,}.")
                interrupt.leave()
                raise KeyboardInterrupt  # the signal came to another process

    def _step(self, raw: Mapping[str, Tensor]) -> None:
        batch = {name: self.scalings[name].apply(rows) for name, rows in raw.items()}
        self.number += 1
        for learner in self.learners:
            dtype = learner.dictionary.dtype
            own = batch if dtype == torch.float32 else {name: x.to(dtype) for name, x in batch.items()}
            try:
                learner.step(own, self.seen, self.options.batch, self.number, self.parallel)
            except BadInput as error:  # a selection among scores that are not finite
                found = diverged(learner, self.number, batch=own, data=self.data, kept=self.kept)
                raise (found or error) from None
            if self.device == "cpu" or self.number % LOOK == 0:
                self._look(learner, own)
        self.seen += self.options.batch

    def _record(self) -> None:
        for learner in self.learners:
            if learner.config.activation == "batchtopk":
                learner.adopt_threshold()
        self.records.take(self.number, self.seen, self.seconds)
        for text in self.records.alarms():
            if text not in self.warnings:
                self.warnings.append(text)
                self.say(text)

    def _look(self, learner: Learner, batch: "Mapping[str, Tensor] | None" = None) -> None:
        """Stop where a number of a step was not finite: Adam has spoiled the weights by then, so nothing is kept of them."""
        if learner.sums.broken():
            found = diverged(learner, self.number, batch=batch or {}, data=self.data, kept=self.kept)
            assert found is not None
            raise found

    # --- checkpoints ---------------------------------------------------------------------------------------------------------------

    def _save(self, last: int) -> int:
        """Keep everything. Where that fails the training goes on, with the checkpoint before. Returns the tokens of the last good one."""
        assert self.kept is not None
        tensors: dict[str, Tensor] = {}
        values: dict[str, Any] = {
            "identity": self.identity, "seen": self.seen, "number": self.number, "seconds": self.seconds, "learners": [],
            "cursor": self.batches.state_dict(), "records": self.records.rows, "warnings": self.warnings, "torch": torch.__version__,
            "threads": torch.get_num_threads(),
        }  # fmt: skip
        for place, learner in enumerate(self.learners):
            own, plain = learner.state()
            tensors |= {f"{place}.{name}": value for name, value in own.items()}
            values["learners"].append(plain)
        try:
            self.kept.write(self.seen, tensors, values, self._pieces())
        except ArtifactError as error:
            why = "the disk is full" if is_full(error) else str(error)
            kept = f"the one at {last:,} tokens is kept" if last else "there is none yet"
            text = f"no checkpoint at {self.seen:,} tokens: {why}; {kept}. The training goes on."
            self.warnings.append(text)
            self.say(text)
            return last
        return self.seen

    def _pieces(self) -> "dict[str, Piece]":
        """Which rows of the arrays of a checkpoint are here; empty where all are."""
        return {
            f"{place}.{name}": piece for place, one in enumerate(self.learners) for name, piece in one.pieces().items()
        }

    def _restore(self) -> None:
        assert self.kept is not None
        state = self.kept.last(self.identity, self._pieces())
        if state is None:
            return
        meta = state.meta
        self.seen, self.number, self.seconds = int(meta["seen"]), int(meta["number"]), float(meta["seconds"])
        self.records.rows, self.warnings = list(meta["records"]), list(meta["warnings"])
        for place, (learner, plain) in enumerate(zip(self.learners, meta["learners"], strict=True)):
            prefix = f"{place}."
            own = {name.removeprefix(prefix): value for name, value in state.tensors.items() if name.startswith(prefix)}
            learner.restore(own, plain)
        self.batches.load_state_dict(meta["cursor"])
        self.say(f"going on at {self.seen:,} of {self.options.tokens:,} tokens")
        now = {"torch": torch.__version__, "threads": torch.get_num_threads()}
        if differs := [
            f"{name} {meta[name]}, not {value}" for name, value in now.items() if meta.get(name, value) != value
        ]:
            self.say(f"it was begun with {' and '.join(differs)}: numbers may differ in their last digits")


def begin(
    config: DictionaryConfig,
    options: "Training",
    data: TrainingData,
    scalings: Mapping[str, Scaling],
    parallel: "Parallel",
) -> Dictionary:
    """A dictionary (this process's latents) before its first step: random directions, decoder biases at the mean of what is written."""
    from .distributed import Sliced

    several = len(config.writes) > 1
    norm = 0.1 if config.activation not in ("topk", "batchtopk") else 1.0 if several else 0.7
    means = {view.name: scalings[view.name].apply(data.moments(view.name).mean.float()) for view in config.writes}
    chosen: dict[str, Any] = {
        "seed": options.seed, "norm": options.init_norm or norm, "biases": means,
        "scalings": {view.name: scalings[view.name] for view in config.views},
    }  # fmt: skip
    return (
        Dictionary.initialise(config, **chosen)
        if parallel.latents.size == 1
        else Sliced.initialise(config, parallel, **chosen)
    )


def check(options: "Training", data: TrainingData, configs: Sequence[DictionaryConfig]) -> None:
    """Refuse what does not fit together before anything is computed."""
    if options.batch > data.rows:
        raise BadInput(
            f"a batch of {options.batch:,} rows, and there are {data.rows:,} to learn from. Lower `batch`, or give more rows."
        )
    try:
        torch.empty(0, device=options.device)
    except (RuntimeError, AssertionError) as error:
        raise BadInput(
            f"`device` {options.device!r} cannot be used here: {str(error).splitlines()[0]} Give 'cpu'."
        ) from None
    for config in configs:
        for view in config.views:
            if view.name not in data.views:
                raise BadInput(
                    f"the dictionary has a view {view.name!r}; the data have {list(data.views)}. Name the views alike."
                )
            _same_place(view, data.views[view.name])
            width = data.views[view.name].row_shape[0]
            if width != view.width:
                label = data.views[view.name].label
                raise BadInput(
                    f"view {view.name!r} of the dictionary has width {view.width}, and its rows ({label}) {width}. Is this the right "
                    "model and site?"
                )
            moments = data.moments(view.name)
            if not float(moments.var.sum()) > CONSTANT * float(moments.rms_norm) ** 2:
                raise BadInput(
                    f"view {view.name!r} ({data.views[view.name].label}) is the same in every row, so there is nothing to learn of it. Is "
                    "this the right site?"
                )
        if (
            options.k_start
            and config.activation in ("topk", "batchtopk")
            and not config.k <= options.k_start <= config.latents
        ):
            raise BadInput(
                f"`k_start` falls to k: it must lie between k ({config.k:g}) and the {config.latents:,} latents; not {options.k_start:g}."
            )
    kinds = {config.activation for config in configs}
    if options.k_start and not kinds & {"topk", "batchtopk"}:
        raise BadInput(
            f"`k_start` is of topk and batchtopk dictionaries; these are {listing(sorted(kinds))}. Leave it out."
        )
    if options.coefficient and all(options.objective(kind).sparsity == "none" for kind in kinds):
        raise BadInput(
            f"`coefficient` {options.coefficient:g} is the weight of a penalty, and nothing is penalised: {listing(sorted(kinds))} "
            "dictionaries have none of their own. Leave it out, or give `sparsity`."
        )


def _same_place(view: View, rows: Any) -> None:
    """Refuse rows of the activation store that are of another site than the dictionary says they are."""
    if view.site and (sites := set(_sites(rows))) and sites != {view.site}:
        raise BadInput(
            f"view {view.name!r} of the dictionary is {view.site}, and its rows are {rows.label}. Give the rows of that site."
        )


def _sites(rows: Any) -> Iterator[str]:
    """Names of the stored sites that a view is made of; none for rows in memory."""
    if (site := getattr(rows, "site", None)) is not None:
        yield site.name
    for part in ("view", "left", "right"):
        if (inner := getattr(rows, part, None)) is not None:
            yield from _sites(inner)


def named(configs: Sequence[DictionaryConfig]) -> list[str]:
    """A name for each: its family, and whatever of latents, activation, k and scale tells it from the others."""
    telling = [
        name
        for name in ("latents", "activation", "k", "code_scale", "nested", "dtype")
        if len({str(getattr(config, name)) for config in configs}) > 1
    ]
    found = []
    for config in configs:
        parts = [config.family]
        for name in telling:
            value = getattr(config, name)
            parts.append(f"{name} {value:g}" if isinstance(value, int | float) else str(value))
        found.append(" ".join(parts))
    return [
        name if found.count(name) == 1 else f"{name} ({1 + found[:place].count(name)})"
        for place, name in enumerate(found)
    ]
