"""One step of training: what is minimised, what it depends on besides the weights, and what comes out.

    outcome = step(dictionary, {"in": rows}, Objective(auxiliary=1 / 32), Context(k=32))
    outcome.loss, outcome.fired                       # and every parameter has its gradient in `.grad`

Rows are in normalised space, {view: [row, d]}, of every view that is read or written. The loss of a batch is

    reconstruction + coefficient * warmup * sparsity + auxiliary * aux + difference * cross

reconstruction   `squared`: mean over rows of the sum over views and components of (x - x̂)²;  `norm`: mean over rows and views of |x - x̂|
sparsity         `l1`: mean over rows of sum_j weight_j |code_j| (decoder norms: their `sum` over views, or `concat`);  `l0`: expected
                 number of latents that are on, through a straight-through step (jumprelu)
aux              squared error of what the dead latents make of the residual, over the residual's own variance (Gao et al. 2024)
cross            mean over rows of 2 e_1 · e_2 for two views: with -1 the errors' difference is minimised, a difference-SAE's loss (with
                 `squared` only: |e_1| + |e_2| - 2 e_1 · e_2 has no minimum, it falls as both errors grow)

Two implementations give the same numbers: `dense` by autograd, for everything, and `sparse`, written out, for topk and batchtopk.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from torch import Tensor

from ..core.dictionary import Dictionary
from ..core.errors import BadInput, one_of

if TYPE_CHECKING:
    from .distributed.parallel import Parallel


@dataclass(frozen=True)
class Objective:
    """What is minimised."""

    reconstruction: str = "squared"
    """`squared` error, or the unsquared `norm` of it (crosscoders as published)."""
    sparsity: str = "none"
    """What is penalised besides: `none`, `l1` or `l0`."""
    coefficient: float = 0.0
    """How much; means different things for the two reconstructions."""
    penalty: str = "sum"
    """How a latent's decoder norms weigh its code: their `sum` over the views (makes latents exclusive to one) or `concat` (does not)."""
    group_weights: tuple[float, ...] = ()
    """The penalty of each group of latents times this; none given means 1."""
    auxiliary: float = 1 / 32
    """Weight of what dead latents are taught; 0 leaves them dead."""
    difference: float = 0.0
    """Weight of the cross term between the squared errors of two views, from -1 to 0."""
    bandwidth: float = 0.05
    """Width of the window in which a jumprelu threshold has a gradient."""
    step: str = "step"
    """What `l0` counts: `step` (a latent that is on), or `tanh` of its code, which counts weak ones less."""

    def __post_init__(self) -> None:
        one_of("reconstruction", self.reconstruction, ("squared", "norm"))
        one_of("sparsity", self.sparsity, ("none", "l1", "l0"))
        one_of("penalty", self.penalty, ("sum", "concat"))
        one_of("step", self.step, ("step", "tanh"))
        numbers = (self.coefficient, self.auxiliary, *self.group_weights)
        if (
            any(not 0 <= number < math.inf for number in numbers)
            or not 0 < self.bandwidth < math.inf
            or not -1 <= self.difference <= 0
        ):
            raise BadInput(
                f"`coefficient`, `auxiliary` and `group_weights` must be at least 0, `bandwidth` positive and `difference` from -1 to 0; "
                f"not {self.coefficient}, {self.auxiliary}, {self.group_weights}, {self.bandwidth} and {self.difference}."
            )
        if self.difference and self.reconstruction == "norm":
            raise BadInput(
                "`difference` belongs to the squared error: beside reconstruction='norm' the loss has no minimum, it falls without end as "
                "both errors grow. Say reconstruction='squared', or difference=0."
            )


@dataclass
class Context:
    """What a step depends on besides weights and rows."""

    k: float = 32.0
    """Latents a row, as annealed."""
    dead: Tensor | None = None
    """Bool [latent]: has not fired for long."""
    warmup: float = 1.0
    """What the sparsity coefficient is multiplied by."""
    cut: float | None = None
    """The smallest score that was kept in the step before: where to begin looking. Changes the time, never the result."""
    parallel: "Parallel | None" = None
    """The other processes."""


@dataclass
class Outcome:
    """What came out; gradients are in the parameters."""

    loss: Tensor
    """[], the sum."""
    terms: dict[str, Tensor]
    """Its parts, before their weights: reconstruction, sparsity, auxiliary, difference."""
    fired: Tensor
    """Rows in which each latent was on, int64 [latent]."""
    l0: Tensor
    """Mean number of latents that were on, []."""
    residual: dict[str, Tensor]
    """Sum over rows of the squared error of each view, []."""
    cut: float | None = None
    """The smallest code times scale that was kept (topk, batchtopk)."""
    fallback: int = 0
    """Selections that were done over in full."""
    extra: dict[str, Any] = field(default_factory=dict)
    """Anything else worth watching."""


def step(dictionary: Dictionary, batch: Mapping[str, Tensor], objective: Objective, context: Context) -> Outcome:
    """One loss and its gradients, which replace whatever was in `.grad`; of several processes that give their rows, those of all rows."""
    from .dense import dense_step
    from .distributed.combine import combine
    from .sparse import applies, sparse_step

    chosen = sparse_step if applies(dictionary, objective) else dense_step
    outcome = chosen(dictionary, batch, objective, context)
    if context.parallel is not None:
        combine(context.parallel, dictionary.parameters(), outcome)
    return outcome
