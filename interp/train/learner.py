"""One dictionary that is being trained: its weights, optimizer, counters and numbers, and how all of these are kept and put back."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..core.dictionary import Dictionary
from ..core.dictionary.saved import parts
from .dead import Firing
from .distributed import Piece, Sliced
from .schedule import law
from .step import Context, Outcome, step
from .sums import Sums
from .threshold import RunningThreshold

if TYPE_CHECKING:
    from .distributed import Parallel
    from .schedule import Schedule
    from .training import Training

EXCLUSIVE = 0.2
"""A latent is of one view only where its decoder norms in all others are at most this part of that view's."""


class Learner:
    """A dictionary on its way. All learners of a training see the same batches."""

    def __init__(
        self,
        dictionary: Dictionary,
        label: str,
        options: "Training",
        schedule: "Schedule",
        *,
        variances: Mapping[str, float],
        device: str,
    ) -> None:
        """`variances` of the rows of each view, over all components, in normalised space."""
        self.dictionary, self.label, self.options, self.schedule = dictionary.to(device), label, options, schedule
        self.dictionary.requires_grad_(True)
        self.config = dictionary.whole if isinstance(dictionary, Sliced) else dictionary.config
        self.variances = variances
        self.objective = options.objective(self.config.activation)
        self.lr = options.lr or law(self.config.latents)
        self.dead_after = options.dead_tokens
        self.optimizer = torch.optim.Adam(
            self.dictionary.parameters(), lr=self.lr, betas=(options.beta1, options.beta2), fused=True
        )
        self.firing = Firing(dictionary.latents, device)
        self.running = RunningThreshold(options.threshold_memory, self.dictionary.threshold.clone())
        self.sums, self.fallback = Sums(device), 0
        self.cut: float | None = None
        self.k, self.rate = self.config.k, 0.0

    def step(self, batch: Mapping[str, Tensor], seen: int, rows: int, number: int, parallel: "Parallel") -> Outcome:
        """One step, the `number`-th, on a batch of `rows` in normalised space, after `seen` rows."""
        k = self.schedule.k(seen, self.config.k)
        self.k = round(k) if self.config.activation == "topk" else k
        self.rate = self.lr * self.schedule.rate(seen, rows)
        context = Context(
            k=self.k,
            dead=self.firing.dead(self.dead_after),
            warmup=self.schedule.sparsity(seen, rows),
            cut=self.cut,
            parallel=None if parallel.size == 1 else parallel,
        )
        outcome = step(
            self.dictionary, {view.name: batch[view.name] for view in self.config.views}, self.objective, context
        )
        norm = self._clip(parallel)
        for group in self.optimizer.param_groups:
            group["lr"] = self.rate
        self.optimizer.step()
        self.firing.update(outcome.fired, rows)
        if outcome.cut is not None:
            self.cut = outcome.cut
            self.running.update(outcome.extra.get("cuts", outcome.cut))
        self.fallback += outcome.fallback
        values = {"loss": outcome.loss, "l0": outcome.l0, "gradient_norm": norm}
        values |= {f"term {name}": value for name, value in outcome.terms.items()}
        values |= {f"view {name}": value / rows for name, value in outcome.residual.items()}
        self.sums.add(number, values)
        return outcome

    def _clip(self, parallel: "Parallel") -> Tensor:
        """Scale all gradients so that their common length is at most `clip`; the length before."""
        grads = [parameter.grad for parameter in self.dictionary.parameters() if parameter.grad is not None]
        if parallel.latents.size > 1:
            kept = {id(p) for p in self.dictionary.biases} | {id(getattr(self.dictionary, "skip_weight", None))}
            mine = [p.grad for p in self.dictionary.parameters() if p.grad is not None and id(p) not in kept]
            norm = parallel.norm(
                mine, [p.grad for p in self.dictionary.parameters() if p.grad is not None and id(p) in kept]
            )
        else:
            norm = torch.nn.utils.get_total_norm(grads)
        if self.options.clip and (norm.device.type != "cpu" or float(norm) > self.options.clip):
            torch._foreach_mul_(grads, (self.options.clip / norm).clamp(max=1.0).to(grads[0].dtype))
        return norm

    def adopt_threshold(self) -> None:
        """Let the dictionary use the running threshold."""
        self.dictionary.threshold.copy_(self.running.value)

    @torch.no_grad()
    def exclusive(self) -> dict[str, int]:
        """Live latents of one written view only, counted for each."""
        norms = self.dictionary.norms()
        alive = self.firing.alive(self.dead_after)
        found = {}
        for name, own in norms.items():
            others = torch.stack([norm for other, norm in norms.items() if other != name]).amax(dim=0)
            found[name] = self.total((others <= EXCLUSIVE * own) & (own > 0) & alive)
        return found

    def total(self, mask: Tensor) -> int:
        """How many latents of a mask [latent] there are, on all processes that share the latents: every one of them has to ask."""
        count = mask.sum()
        return int(self.dictionary.parallel.latents.sum_(count) if isinstance(self.dictionary, Sliced) else count)

    def pieces(self) -> dict[str, Piece]:
        """Which rows of the arrays of `state` are here; empty where all are."""
        if not isinstance(self.dictionary, Sliced):
            return {}
        own = self.dictionary.pieces
        found = {f"dictionary.{name}": piece for name, piece in own.items()} | {"silent": own["b_enc"]}
        for place, (name, _) in enumerate(self.dictionary.named_parameters()):
            if name in own:
                found |= {f"optimizer.{place}.{moment}": own[name] for moment in ("exp_avg", "exp_avg_sq")}
        return found

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Tensors and JSON values of all that goes on."""
        weights, _ = parts(self.dictionary)
        tensors = {f"dictionary.{name}": value for name, value in weights.items()}
        for place, parameter in enumerate(self.dictionary.parameters()):
            for name, value in self.optimizer.state[parameter].items():
                tensors[f"optimizer.{place}.{name}"] = value
        tensors |= {
            "silent": self.firing.silent, "threshold": self.running.value, "sums.total": self.sums.total, "sums.first": self.sums.first,
        }  # fmt: skip
        values = {
            "config": self.config.to_dict(), "names": self.sums.names, "steps": self.sums.steps, "cut": self.cut, "fallback": self.fallback,
            "seen": self.firing.seen,
        }  # fmt: skip
        return tensors, values

    def restore(self, tensors: Mapping[str, Tensor], values: Mapping[str, Any]) -> None:
        """Put back what `state` gave."""
        device = self.dictionary.device
        weights = {
            name.removeprefix("dictionary."): value
            for name, value in tensors.items()
            if name.startswith("dictionary.") and not name.startswith("dictionary.scaling.")
        }
        self.dictionary.load_state_dict(weights)
        for place, parameter in enumerate(self.dictionary.parameters()):
            prefix = f"optimizer.{place}."
            found = {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
            self.optimizer.state[parameter] = {name: value.to(device) for name, value in found.items()}
        self.firing.silent, self.firing.seen = tensors["silent"].to(device), int(values["seen"])
        self.running.value = tensors["threshold"].to(device)
        self.sums.names, self.sums.steps = list(values["names"]), int(values["steps"])
        self.sums.total, self.sums.first = tensors["sums.total"].to(device), tensors["sums.first"].to(device)
        self.cut, self.fallback = values["cut"], int(values["fallback"])
