"""Training dictionaries: rows of activations in, sparse dictionaries, a table of what was measured and checkpoints out.

    data = TrainingData({"in": acts["blocks.2.hook_resid_post"]})
    view = View("in", site="blocks.2.hook_resid_post", width=128)
    config = DictionaryConfig(latents=1024, reads=(view,), writes=(view,), activation="batchtopk", k=32)
    trained = Training(tokens=2_000_000)(data, config, folder="runs/sae")
    trained.dictionary, trained.result                      # encode with the one, look at the other
    Training(tokens=2_000_000)(data, [config.with_k(16), config.with_k(64)])     # several on one pass over the data

How. Rows are normalised (a property of the view that is saved with the dictionary), the optimizer is Adam, gradients are clipped, the
learning rate rises, stays and falls. BatchTopK dictionaries are given their threshold afterwards, on rows that were kept aside
(`threshold`). Every span is in tokens (rows), so another batch size is the same training but for the noise of its steps.

Interrupted by Ctrl-C, SIGTERM or a full disk, the same call with the same `folder` goes on from the last checkpoint and ends with the very
bits that it would have ended with (on a CPU; a GPU whose kernels are deterministic).

When it misleads. FVU converges long before a dictionary does: latents of one view only are learned last (`TrainingResult.still_finding`).
A dictionary with a low FVU whose rows hold an attention sink has learned the sink: look at `TrainingData.massive`. The loss is in
normalised space, so its size says nothing across views or models.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..core.dictionary import Dictionary, DictionaryConfig
from ..core.errors import BadInput, one_of
from ..core.options import Option, options_of
from .data import TrainingData
from .result import TrainingResult
from .schedule import Schedule
from .step import Objective

if TYPE_CHECKING:
    from .distributed import Parallel

FEWEST_STEPS = 1000
"""Steps of a training whose length is not given, at least: a small text is read several times."""
NOT_IDENTITY = ("save_every", "keep")
"""Options that change no number, so that a training may go on with others."""


@dataclass(frozen=True)
class Training:
    """How dictionaries are trained. Call it with data and what to train."""

    tokens: int = 0
    """Rows to train on in all, in as many passes over the data as that takes; 0 for one pass, but at least 1,000 steps."""
    batch: int = 2048
    """Rows of one step."""
    lr: float = 0.0
    """Highest learning rate; 0 for the law 2e-4 sqrt(16384 / latents)."""
    beta1: float = 0.9
    """Adam's memory of gradients."""
    beta2: float = 0.999
    """Adam's memory of their squares."""
    warmup: float = 0.05
    """Share of the training in which the learning rate rises."""
    decay: float = 0.2
    """Last share of the training, in which the learning rate falls to zero."""
    clip: float = 1.0
    """Length to which longer gradients of a dictionary are cut; 0 for none."""
    k_start: float = 0.0
    """Latents a row at the beginning, falling to the dictionary's own k (helps crosscoders: 10 k); 0 to begin with that."""
    k_anneal: float = 0.1
    """First share of the training, in which k falls."""
    dead_after: int = 0
    """Tokens without firing after which a latent counts as dead and is taught by the auxiliary loss; 0 for a twentieth of the training, at
    most 10 million."""
    normalise: str = "norm"
    """How each view is brought to a common size: one factor (`norm`), its mean subtracted as well (`centred`), or `none`."""
    init_norm: float = 0.0
    """Decoder norm at the beginning; 0 for 0.1, or, of topk and batchtopk dictionaries (of which shorter ones leave
    more latents dead), 0.7, and 1 where they write several views."""
    reconstruction: str = "squared"
    """What is minimised: the `squared` error, or the unsquared `norm` of it (crosscoders as published)."""
    sparsity: str = "auto"
    """Penalty: `none`, `l1` on codes times decoder norms, `l0` for jumprelu; `auto` is l1 for relu, l0 for jumprelu, else none."""
    coefficient: float = 0.0
    """Weight of the penalty; a relu or jumprelu dictionary needs one."""
    sparsity_warmup: float = 0.05
    """First share of the training, in which that weight rises."""
    penalty: str = "sum"
    """How decoder norms weigh a code in the l1 penalty: their `sum` over views, or `concat`, the norm of all together."""
    group_weights: tuple[float, ...] = ()
    """Factors of the penalty for each group of latents; none for 1."""
    auxiliary: float = 1 / 32
    """Weight of the auxiliary loss by which dead latents are taught what is left over; 0 for none."""
    difference: float = 0.0
    """Weight of the cross term between the errors of two views, 0 to -1 (which makes it the loss of a difference-SAE)."""
    bandwidth: float = 0.05
    """Width of the window in which a jumprelu threshold has a gradient."""
    count: str = "step"
    """What `l0` counts: `step` (latents that are on), or `tanh` of their codes, which counts weak ones less."""
    threshold_memory: float = 0.9
    """Weight of what was before in the running batchtopk threshold, each step (0.999 elsewhere: it lags a thousand steps behind)."""
    seed: int = 0
    """Of the weights at the beginning and the order of the rows."""
    device: str = "cpu"
    """Where to compute: `cpu`, `cuda`, `cuda:1`."""
    watch: int = 0
    """Tokens between two records of the metrics; 0 for a hundredth of the training."""
    save_every: int = 0
    """Tokens between two checkpoints; 0 for a tenth of the training."""
    keep: int = 2
    """Checkpoints that are kept."""

    def __post_init__(self) -> None:
        one_of("normalise", self.normalise, ("norm", "centred", "none"))
        one_of("sparsity", self.sparsity, ("auto", "none", "l1", "l0"))
        object.__setattr__(self, "group_weights", tuple(float(weight) for weight in self.group_weights))
        for name, least in {"batch": 1, "keep": 1, "tokens": 0, "watch": 0, "save_every": 0, "dead_after": 0}.items():
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise BadInput(f"`{name}` must be a whole number, at least {least}; not {value!r}.")
        if isinstance(self.seed, bool) or not isinstance(self.seed, int):
            raise BadInput(f"`seed` must be a whole number; not {self.seed!r}.")
        for name in ("warmup", "decay", "k_anneal", "sparsity_warmup"):
            if not 0 <= getattr(self, name) <= 1:
                raise BadInput(f"`{name}` is a share of the training, from 0 to 1; not {getattr(self, name)}.")
        for name in ("beta1", "beta2", "threshold_memory"):
            if not 0 <= getattr(self, name) < 1:
                raise BadInput(f"`{name}` must lie in [0, 1); not {getattr(self, name)}.")
        for name in ("lr", "clip", "k_start", "init_norm", "coefficient"):
            if not 0 <= getattr(self, name) < math.inf:
                raise BadInput(f"`{name}` must be a number, at least 0; not {getattr(self, name)}.")
        if self.tokens and self.tokens < self.batch:
            raise BadInput(
                f"a training of {self.tokens:,} `tokens` is shorter than one `batch` of {self.batch:,}. Lower `batch`."
            )
        self.objective("relu")  # validates the rest

    def __call__(
        self,
        data: TrainingData,
        configs: "DictionaryConfig | Sequence[DictionaryConfig]",
        *,
        folder: "str | Path | None" = None,
        parallel: "Parallel | None" = None,
        say: "Callable[[str], None] | None" = None,
    ) -> "Trained":
        """Train one dictionary, or several on one pass over the data.

        `folder` keeps checkpoints, dictionaries and the table; where it holds an unfinished training with these options, that goes on.
        `parallel`: this process among several; `say` is told in words what is going on. Raises `BadInput` for what does not fit together
        and `Diverged` where a loss is not finite.
        """
        from .loop import Loop

        return Loop(self.settled(data), data, _several(configs), folder, parallel, say).run()

    def settled(self, data: TrainingData) -> "Training":
        """The same with the defaults that depend on the data written out."""
        return self if self.tokens else _replace(self, tokens=max(data.rows // self.batch, FEWEST_STEPS) * self.batch)

    def objective(self, activation: str) -> Objective:
        """What is minimised, for dictionaries of an activation."""
        auto = {"relu": "l1", "jumprelu": "l0"}.get(activation, "none")
        return Objective(
            reconstruction=self.reconstruction, sparsity=auto if self.sparsity == "auto" else self.sparsity, coefficient=self.coefficient,
            penalty=self.penalty, group_weights=self.group_weights, auxiliary=self.auxiliary, difference=self.difference,
            bandwidth=self.bandwidth, step=self.count,
        )  # fmt: skip

    def schedule(self) -> Schedule:
        """What changes on the way."""
        return Schedule(self.tokens, self.warmup, self.decay, self.k_start, self.k_anneal, self.sparsity_warmup)

    @property
    def dead_tokens(self) -> int:
        """Tokens without firing after which a latent is dead."""
        return self.dead_after or max(1, min(10_000_000, self.tokens // 20))

    @property
    def watch_tokens(self) -> int:
        """Tokens between two records."""
        return self.watch or max(self.batch, self.tokens // 100)

    @property
    def save_tokens(self) -> int:
        """Tokens between two checkpoints."""
        return self.save_every or max(self.batch, self.tokens // 10)

    def to_dict(self) -> dict[str, Any]:
        """The options as plain JSON values."""
        found = {entry.name: getattr(self, entry.name) for entry in fields(self)}
        return found | {"group_weights": list(self.group_weights)}

    def identity(self) -> dict[str, Any]:
        """Those that decide the numbers."""
        kind = self.device.partition(":")[0]  # which of several GPUs decides no number
        return {name: value for name, value in (self.to_dict() | {"device": kind}).items() if name not in NOT_IDENTITY}

    @classmethod
    def options(cls) -> list[Option]:
        """The options, each with its type, default and help."""
        return options_of(cls)


@dataclass(frozen=True, eq=False)
class Trained:
    """What a training gave."""

    dictionaries: tuple[Dictionary, ...]
    """In the order of the configurations, without gradients."""
    result: TrainingResult
    folder: Path | None
    """Where they were saved; None where nowhere."""

    @property
    def dictionary(self) -> Dictionary:
        """The only one. Raises `BadInput` where there are several."""
        if len(self.dictionaries) > 1:
            raise BadInput(f"{len(self.dictionaries)} dictionaries were trained: take one of `dictionaries`.")
        return self.dictionaries[0]


def _several(configs: "DictionaryConfig | Sequence[DictionaryConfig]") -> tuple[DictionaryConfig, ...]:
    found = (configs,) if isinstance(configs, DictionaryConfig) else tuple(configs)
    if not found or not all(isinstance(config, DictionaryConfig) for config in found):
        raise BadInput(f"what is trained is described by a DictionaryConfig or several; not {configs!r}.")
    return found


def _replace(options: Training, **changes: Any) -> Training:
    from dataclasses import replace

    return replace(options, **changes)
