"""The value an edit writes: what, added at the subject's last token, makes the model say the target.

    minimise over d:   mean over contexts of -ln P(target | value + d) / tokens        (or P(target) itself, to lower it)
                       + kl_factor KL(before || after) on "{subject} is a"             the subject stays what it is
                       + weight_decay |d| / |v|^2
    after each Adam step   |d| <= clamp_factor |v|                                     v: the value as it is in the bare prompt

(Meng et al. 2022, section 3.1, equation 4; the weight decay divides by the squared norm of v but takes the plain norm of d, as the
published program does. It writes the last step's d; here the step in which the target is likeliest is kept, since on small
models a large step size oscillates.) Many requests are optimised side by side, each with its own d; they do not see each other.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from interp.core.batch import At, Batch
from interp.core.edit import add
from interp.core.errors import BadInput, InterpError, listing, one_of
from interp.core.lm import LM
from interp.core.site import Site
from interp.data.tokens import tokenize

from .contexts import Item, Rows, about, rows_of, sample_prefixes
from .editors import Editor, Request


@dataclass(frozen=True)
class ValueEditor(Editor):
    """What the editors share that first look for a value and then write it to a key."""

    key: Literal["bare", "mean"] = "mean"
    """The key that gets the value: the bare prompt's, or the mean over the prompt and its prefixes. The same key in every place."""
    steps: int = 20
    """Adam steps on the value."""
    lr: float = 0.5
    """Adam's step size, in the units of the value."""
    clamp_factor: float = 4.0
    """Largest norm of the change, as a multiple of the value's own norm."""
    weight_decay: float = 0.5
    """Weight of |d| / |v|^2."""
    kl_factor: float = 0.0625
    """Weight of the KL divergence on the essence prompt: 0.0625 in the released settings, 1 in a released command line."""
    essence: str = "{} is a"
    """The prompt on which the subject should stay what it is."""
    stop_loss: float = 0.05
    """Stop once the loss of the target is below this."""
    until_top: bool = False
    """Stop as soon as the target is the top token in every context (most probable early stopping)."""
    prefixes: tuple[str, ...] | None = None
    """Texts put before the prompt; None samples ten by the seed, () uses the bare prompt only."""

    def __post_init__(self) -> None:
        one_of("key", self.key, ["bare", "mean"])
        if self.steps < 1:
            raise BadInput(f"`steps` must be at least 1; not {self.steps}.")
        for name in ("lr", "clamp_factor"):
            if not getattr(self, name) > 0:
                raise BadInput(f"`{name}` must be positive; not {getattr(self, name)}.")
        for name in ("weight_decay", "kl_factor", "stop_loss"):
            if not getattr(self, name) >= 0:
                raise BadInput(f"`{name}` must be 0 or more; not {getattr(self, name)}.")
        about(self.essence, "x")
        if self.prefixes is not None:
            object.__setattr__(self, "prefixes", tuple(self.prefixes))

    def contexts(self, lm: LM, requests: Sequence[Request], seed: int) -> tuple[Rows, tuple[str, ...]]:
        """The rows that values and keys are of, and the prefixes among them."""
        prefixes = sample_prefixes(lm, seed=seed) if self.prefixes is None else self.prefixes
        return rows_of(lm, requests, prefixes), prefixes

    def averaged(self, rows: Rows, values: Tensor) -> Tensor:
        """`values` [row, ...] averaged over the contexts that `key` names, [request, ...], float64."""
        return rows.by_owner(values.double().cpu(), rows.bare if self.key == "bare" else None)


@dataclass(frozen=True, eq=False)
class Values:
    """What was found for each request."""

    change: Tensor
    """d, float64 [request, d_model]."""
    size: Tensor
    """|v|, the norm of the value before, [request]."""
    log: dict[str, Any]
    """`loss` [step][request], `target_loss` [request] of what is kept, `updates` [request]."""


def find_values(lm: LM, requests: Sequence[Request], rows: Rows, site: Site, config: ValueEditor) -> Values:
    """Optimise what is added to `site` at the subject's last token of `rows`, for every request."""
    both, n = _with_essence(lm, requests, rows, config), len(requests)
    where = At.mask(torch.nn.functional.one_hot(both.last_subject, both.batch.tokens.shape[1]).bool())
    with torch.no_grad():
        before = lm.run(both.batch, capture=[site], edits=both.edits)
    value = both.at_subject(before[site]).float()  # [row, d_model]
    size = rows.by_owner(value[: len(rows)].norm(dim=-1).cpu(), rows.bare)  # [request]
    essence = torch.arange(len(rows), len(both))
    calm = before.last_logits[essence].float().log_softmax(dim=-1)  # [request, vocab]
    change = torch.zeros(n, lm.spec.d_model, requires_grad=True)
    adam = torch.optim.Adam([change], lr=config.lr)
    losses: list[list[float]] = []
    updates, active = [0] * n, torch.ones(n, dtype=torch.bool)
    best, kept = torch.full((n,), torch.inf), torch.zeros(n, lm.spec.d_model)
    for step in range(config.steps + 1):
        edits = [*both.edits, add(site, change[both.owner][:, None], at=where)]
        run = lm.run(both.batch, edits=edits, grad=True)
        wanted, reached = target_loss(requests, both, run.logits, len(rows))
        after = run.last_logits[essence].float().log_softmax(dim=-1)
        drift = (calm.exp() * (calm - after)).sum(dim=-1)  # [request]
        norm = change.norm(dim=-1)
        total = wanted + config.kl_factor * drift.cpu() + config.weight_decay * norm / size**2
        losses.append([float(one) for one in total.detach()])
        done = (wanted.detach() < config.stop_loss) | (reached & config.until_top)
        better = active & ((wanted.detach() < best) | done)
        best = torch.where(better, wanted.detach(), best)
        kept = torch.where(better[:, None], change.detach(), kept)
        active = active & ~done
        if step == config.steps or not bool(active.any()):
            break
        held = change.detach().clone()
        (change.grad,) = torch.autograd.grad(total.sum(), [change])
        if not step:  # where nothing reads the value (the last layer, before the last token) no step can help
            active = active & (change.grad.norm(dim=-1) > 0)
        adam.step()
        with torch.no_grad():
            shrink = (config.clamp_factor * size / change.norm(dim=-1).clamp(min=1e-12)).clamp(max=1.0)
            change.copy_(torch.where(active[:, None], change * shrink[:, None], held))
        updates = [count + int(now) for count, now in zip(updates, active, strict=True)]
    log = {"loss": losses, "target_loss": best.tolist(), "updates": updates}
    return Values(kept.double(), size, log)


def _with_essence(lm: LM, requests: Sequence[Request], rows: Rows, config: ValueEditor) -> Rows:
    """The contexts, and behind them one essence prompt a request, without noise and without a target."""
    items = [Item(tokenize(about(config.essence, one.subject), lm.tokenizer), (), i) for i, one in enumerate(requests)]
    calm = Rows.of(items, lm.spec.d_model)
    width = max(rows.batch.tokens.shape[1], calm.batch.tokens.shape[1])
    parts = [(one, width - one.batch.tokens.shape[1]) for one in (rows, calm)]

    def joined(pieces: list[Tensor], fill: int) -> Tensor:
        pad = [torch.nn.functional.pad(x, (0, extra), value=fill) for x, (_, extra) in zip(pieces, parts, strict=True)]
        return torch.cat(pad)

    batch = Batch(
        joined([one.batch.tokens for one, _ in parts], 0),
        joined([one.batch.mask for one, _ in parts], False),
        {"subject": torch.cat([one.batch.spans["subject"] for one, _ in parts])},
    )
    noise = None
    if rows.noise is not None:
        noise = torch.zeros(len(batch), width, lm.spec.d_model)
        noise[: len(rows), : rows.noise.shape[1]] = rows.noise
    owner, bare = torch.cat([rows.owner, calm.owner]), torch.cat([rows.bare, torch.zeros(len(calm), dtype=torch.bool)])
    return Rows(batch, joined([one.targets for one, _ in parts], -1), owner, bare, noise)


def target_loss(requests: Sequence[Request], rows: Rows, logits: Any, n_rows: int) -> tuple[Tensor, Tensor]:
    """Loss of each request's target over its contexts, and whether all (raise) or none (lower) of them have it on top; [request].

    Raises `InterpError` where a loss is no number: no step could be taken from there, and what was taken so far is not to be trusted.
    """
    found, top, row = rows.token_logprobs(logits)
    found, top, row = found.cpu(), top.cpu(), row.cpu()
    per_row = found.new_zeros(n_rows).index_add(0, row, found)
    length = torch.tensor([len(one.ids) for one in requests])
    owner = rows.owner[:n_rows]
    raises = torch.tensor([one.objective == "raise" for one in requests])
    each = torch.where(raises[owner], -per_row / length[owner], per_row.exp())
    count = torch.bincount(owner).to(each.dtype)
    loss = each.new_zeros(len(requests)).index_add(0, owner, each) / count
    if bad := [one.prompt.text for one, fine in zip(requests, torch.isfinite(loss).tolist(), strict=True) if not fine]:
        raise InterpError(
            f"the loss of {listing(bad)} is not a finite number: the model overflows there, or did so after a step. Use a smaller `lr` "
            "or a wider dtype; if it is so before any step, look at the model's logits for these prompts."
        )
    whole = torch.zeros(n_rows, dtype=torch.int64).index_add(0, row, top.long()) == length[owner]
    share = torch.zeros(len(requests)).index_add(0, owner, whole.float()) / count
    return loss, torch.where(raises, share == 1, share == 0)
