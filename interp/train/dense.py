"""The step by autograd: every activation and every loss, with dense codes. What the sparse step is held against, and what it does not do.

The loss is the one of `interp.train.step`. What that does not say:

Selection. `topk` keeps the k (rounded) largest scores of each row, `batchtopk` the k·rows (rounded) largest of the batch, where the score
is code · scale, and only positive ones; of equal ones at the cut those with the lowest numbers. With code_scale="decoupled" each written
view has a selection of its own, and a code may be kept for one view only. Gradients flow through the codes that were kept, not through the
scores.

Matryoshka (`nested` widths). Reconstruction and cross term are the mean over the nested dictionaries, each made of the first so many
latents of one and the same selection; the penalty counts every latent once (Bussmann et al. 2025, arXiv 2503.17547).

Dead latents. In each row the min(d / 2, number dead) dead latents with the largest score reconstruct, without bias, what the others left
over (detached, all views); the squared error is divided by the variance of what was left over in the batch. d is the largest width that
is written. Codes are taken before any threshold, so a dead jumprelu latent can come back; one that is never positive before it cannot.

`l0` by `step` is for jumprelu. By `tanh` it is the sum of tanh(4 · code · norm), norm as for `l1`, for any activation.

When it misleads. Codes, scores and their gradients are [row, latent] each: several times the memory and the time of the sparse step. A
batch of one row has no variance: then nothing is taught to dead latents.

    import torch
    from interp.core.dictionary import Dictionary, DictionaryConfig, View
    from interp.train.dense import dense_step
    from interp.train.step import Context, Objective
    view = View("in", width=8)
    sae = Dictionary.initialise(DictionaryConfig(16, (view,), (view,), activation="topk", k=2))
    outcome = dense_step(sae, {"in": torch.eye(8)}, Objective(), Context(k=2))
    outcome.loss, outcome.l0, sae.b_enc.grad.shape
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from ..core.dictionary import Dictionary
from ..core.dictionary.select import select_batch, select_topk
from ..core.errors import BadInput
from .activations import jumprelu, step
from .distributed.parallel import Parallel
from .step import Context, Objective, Outcome

TANH = 4.0
"""Steepness of the `tanh` penalty: a scaled code of 1/4 counts as 0.76 of a latent."""

Named = dict[str, Tensor]


def dense_step(dictionary: Dictionary, batch: Mapping[str, Tensor], objective: Objective, context: Context) -> Outcome:
    """One loss of normalised rows {view: [row, d]} and its gradients, which replace whatever was in `.grad`.

    With several processes everything is this process's share, to be summed. Raises `BadInput` for views that are missing or do not line up,
    and for an objective that this dictionary cannot have.
    """
    check_objective(dictionary, objective)
    rows = check_batch(dictionary, batch)
    parallel = context.parallel or Parallel.none()
    parameters = list(dictionary.parameters())
    batch = {view.name: batch[view.name].to(dictionary.dtype) for view in dictionary.config.views}
    with _trainable(parameters):
        total = max(1, parallel.total(rows))
        pre = _pre(dictionary, batch, parallel)
        kept = _select(dictionary, pre, objective, context, parallel, round(context.k * total))
        errors = [_errors(dictionary, batch, part, parallel) for part in _nested(dictionary, kept)]
        terms: Named = {"reconstruction": _mean([_reconstruction(e, objective, total) for e in errors])}
        loss = terms["reconstruction"]
        if objective.sparsity != "none":
            terms["sparsity"] = _sparsity(dictionary, pre, kept, objective, parallel) / total
            loss = loss + objective.coefficient * context.warmup * terms["sparsity"]
        if objective.difference:
            terms["difference"] = _mean([_cross(e, total) for e in errors])
            loss = loss + objective.difference * terms["difference"]
        if objective.auxiliary and context.dead is not None:
            terms["auxiliary"] = _auxiliary(dictionary, pre, errors[-1], context.dead, parallel, total)
            loss = loss + objective.auxiliary * terms["auxiliary"]
        found = torch.autograd.grad(loss, parameters, allow_unused=True)
    for parameter, gradient in zip(parameters, found, strict=True):
        parameter.grad = torch.zeros_like(parameter) if gradient is None else gradient.detach()
    fired = (kept.codes > 0).sum(0)
    return Outcome(
        loss=loss.detach(),
        terms={name: term.detach() for name, term in terms.items()},
        fired=fired,
        l0=parallel.whole(fired.sum()) / total,
        residual={name: error.detach().square().sum() for name, error in errors[-1].items()},
        cut=kept.cut,
        extra={} if kept.cuts is None else {"cuts": kept.cuts},
    )


@dataclass
class Kept:
    """The codes that are on."""

    codes: Tensor
    """[row, latent]; for any view, where the competition is decoupled."""
    views: Named | None = None
    """{view: [row, latent]}, where it is decoupled."""
    cut: float | None = None
    """The smallest score that was kept."""
    cuts: Tensor | None = None
    """The same for each written view, where it is decoupled, float64."""

    def of(self, view: str) -> Tensor:
        """What a view is reconstructed from, [row, latent]."""
        return self.codes if self.views is None else self.views[view]

    def first(self, latents: int) -> "Kept":
        """Of the first so many latents alone, the others being off."""
        views = None if self.views is None else {name: _first(codes, latents) for name, codes in self.views.items()}
        return Kept(_first(self.codes, latents), views)


def check_objective(dictionary: Dictionary, objective: Objective) -> None:
    """Raise `BadInput` for an objective that this dictionary cannot have."""
    config = dictionary.config
    if objective.sparsity == "l0" and objective.step == "step" and config.activation != "jumprelu":
        raise BadInput(
            f"sparsity='l0' counts what exceeds jumprelu thresholds; this dictionary is {config.activation!r}. Use sparsity='l1', "
            "step='tanh', or activation='jumprelu'."
        )
    if objective.group_weights:
        if len(objective.group_weights) != len(config.groups):
            raise BadInput(
                f"`group_weights` are {list(objective.group_weights)}, and the groups {[name for name, _ in config.groups]}. "
                "Give one weight for each."
            )
        if objective.sparsity == "none":
            raise BadInput(
                "`group_weights` weigh the sparsity penalty, and there is none. Set `sparsity` and `coefficient`."
            )
    if objective.difference:
        widths = [view.width for view in config.writes]
        if len(widths) != 2 or widths[0] != widths[1]:
            raise BadInput(
                f"`difference` is of the errors of two views of one width; this dictionary writes widths {widths}."
            )


def check_batch(dictionary: Dictionary, batch: Mapping[str, Tensor]) -> int:
    """How many rows there are. Raises `BadInput` for views that are missing, of another width, or of different rows."""
    rows: int | None = None
    for view in dictionary.config.views:
        if view.name not in batch:
            raise BadInput(f"the view {view.name!r} is missing from the batch; it has {list(batch)}.")
        x = batch[view.name]
        if x.ndim != 2 or x.shape[1] != view.width:
            raise BadInput(f"rows of view {view.name!r} must be [row, {view.width}]; not {list(x.shape)}.")
        if rows not in (None, len(x)):
            raise BadInput(
                f"the views have different rows: {rows} and {len(x)} (view {view.name!r}). They must be of the same tokens."
            )
        rows = len(x)
    assert rows is not None
    return rows


# --- codes -------------------------------------------------------------------------------------------------------------------------------


def _pre(dictionary: Dictionary, batch: Mapping[str, Tensor], parallel: Parallel) -> Tensor:
    """`Dictionary.pre`; where processes share the latents, the decoder bias that is subtracted collects all their gradients."""
    if parallel.latents.size == 1 or not dictionary.config.centred:
        return dictionary.pre(batch)
    total: Tensor = dictionary.b_enc
    for weight, view in zip(dictionary.encoders, dictionary.config.reads, strict=True):
        low, high = dictionary.config.range_of(view)
        part = parallel.spread(batch[view.name] - dictionary.bias(view.name)) @ weight.mT
        total = total + torch.nn.functional.pad(part, (low, dictionary.latents - high))
    return total


def _select(
    dictionary: Dictionary, pre: Tensor, objective: Objective, context: Context, parallel: Parallel, count: int
) -> Kept:
    """Codes by the rule of training. `count`: how many a batch keeps in all."""
    kind = dictionary.config.activation
    if kind == "jumprelu":
        return Kept(jumprelu(pre, dictionary.thresholds, objective.bandwidth))
    codes = pre.relu()
    if kind == "relu":
        return Kept(codes)
    decoupled = dictionary.config.code_scale == "decoupled"
    masks, cuts = [], []
    for name in [view.name for view in dictionary.config.writes] if decoupled else [None]:
        score = (codes * dictionary.scale(name)).detach()
        mask, cut = _largest_a_row(score, context.k, parallel) if kind == "topk" else _largest(score, count, parallel)
        masks.append(mask)
        cuts.append(cut)
    if not decoupled:
        return Kept(torch.where(masks[0], codes, 0), cut=cuts[0])
    named = zip(dictionary.config.writes, masks, strict=True)
    views = {view.name: torch.where(mask, codes, 0) for view, mask in named}
    together = torch.where(torch.stack(masks).any(0), codes, 0)
    return Kept(together, views, min(cuts), torch.tensor(cuts, dtype=torch.float64))


def _largest(score: Tensor, count: int, parallel: Parallel) -> tuple[Tensor, float]:
    """Which of the scores [row, latent] are the `count` largest positive ones of all processes, and the smallest of these."""
    if parallel.size > 1:
        value, ties = parallel.cut(score, max(1, count))
        equal = (score == value) & (score > 0)
        first = equal.flatten().cumsum(0).view_as(score) <= ties
        return ((score > value) & (score > 0)) | (equal & first), value
    found = select_batch(score, max(1, count))
    mask = torch.zeros_like(score, dtype=torch.bool)
    mask.view(-1)[found.flat] = True
    return mask, found.cut


def _largest_a_row(score: Tensor, k: float, parallel: Parallel) -> tuple[Tensor, float]:
    """Which of the scores [row, latent] are the k largest positive ones of their row, and the smallest of all these."""
    whole = max(1, round(k))
    if parallel.latents.size > 1:
        values, ties = parallel.row_cut(score, whole)
        equal = (score == values[:, None]) & (score > 0)
        mask = ((score > values[:, None]) & (score > 0)) | (equal & (equal.cumsum(1) <= ties[:, None]))
    else:
        best = select_topk(score, min(whole, score.shape[1]))[1]
        mask = torch.zeros_like(score, dtype=torch.bool).scatter_(1, best, True) & (score > 0)
    return mask, _smallest(score, mask)


def _smallest(score: Tensor, mask: Tensor) -> float:
    found = score[mask]
    return float(found.min()) if len(found) else 0.0


def _nested(dictionary: Dictionary, kept: Kept) -> Iterator[Kept]:
    for width in dictionary.config.nested[:-1]:
        yield kept.first(width)
    yield kept


def _first(codes: Tensor, latents: int) -> Tensor:
    return torch.nn.functional.pad(codes[:, :latents], (0, codes.shape[1] - latents))


# --- losses ------------------------------------------------------------------------------------------------------------------------------


def _written(dictionary: Dictionary, codes: Mapping[str, Tensor]) -> Named:
    """What codes {view: [row, latent]} write, without biases."""
    out = {}
    for weight, view in zip(dictionary.decoders, dictionary.config.writes, strict=True):
        low, high = dictionary.config.range_of(view)
        out[view.name] = codes[view.name][:, low:high] @ weight
    return out


def _errors(dictionary: Dictionary, batch: Mapping[str, Tensor], kept: Kept, parallel: Parallel) -> Named:
    """x - x̂ of each written view, [row, d]."""
    written = _written(dictionary, {view.name: kept.of(view.name) for view in dictionary.config.writes})
    errors = {name: batch[name] - parallel.whole(part) - dictionary.bias(name) for name, part in written.items()}
    if dictionary.config.skip:
        (name,) = errors
        errors[name] = errors[name] - batch[dictionary.config.reads[0].name] @ dictionary.skip_weight.mT
    return errors


def _reconstruction(errors: Named, objective: Objective, total: int) -> Tensor:
    if objective.reconstruction == "squared":
        return torch.stack([error.square().sum() for error in errors.values()]).sum() / total
    return torch.stack([error.norm(dim=1).sum() for error in errors.values()]).mean() / total


def _cross(errors: Named, total: int) -> Tensor:
    one, other = errors.values()
    return 2 * (one * other).sum() / total


def _weights(dictionary: Dictionary, objective: Objective) -> Tensor:
    """What the codes of each latent weigh in a penalty: norms of its decoder rows, [latent]."""
    norms = torch.stack(
        [dictionary.decoder(view.name).norm(dim=1) for view in dictionary.config.writes]
    )  # [view, latent]
    return norms.sum(0) if objective.penalty == "sum" else norms.norm(dim=0)


def _sparsity(dictionary: Dictionary, pre: Tensor, kept: Kept, objective: Objective, parallel: Parallel) -> Tensor:
    """The penalty, summed over rows."""
    if objective.sparsity == "l1":
        each = kept.codes.sum(0) * _weights(dictionary, objective)  # codes are never negative
    elif objective.step == "tanh":
        each = torch.tanh(TANH * kept.codes * _weights(dictionary, objective)).sum(0)
    else:
        each = step(pre, dictionary.thresholds, objective.bandwidth).sum(0)
    if objective.group_weights:
        sizes = torch.tensor([size for _, size in dictionary.config.groups], device=each.device)
        each = each * each.new_tensor(objective.group_weights).repeat_interleave(sizes)
    return parallel.whole(each.sum())


def _auxiliary(
    dictionary: Dictionary, pre: Tensor, errors: Named, dead: Tensor, parallel: Parallel, total: int
) -> Tensor:
    """What the dead latents leave of the residual, over its variance, []."""
    several = parallel.latents.size > 1
    number = int(parallel.whole(dead.sum()))
    if not number:
        return pre.new_zeros(())
    count = min(max(1, max(view.width for view in dictionary.config.writes) // 2), number)
    codes = torch.where(dead, pre.relu(), 0)
    score = (codes * dictionary.scale()).detach()
    mask = _largest_a_row(score, count, parallel)[0] if count < number or several else score > 0
    codes = torch.where(mask, codes, 0)
    written = _written(dictionary, {view.name: codes for view in dictionary.config.writes})
    left, variance = pre.new_zeros(()), pre.new_zeros(())
    for name, error in errors.items():
        residual = error.detach()
        mean = parallel.sum_(residual.sum(0)) / total
        variance = variance + (residual - mean).square().sum()
        left = left + (residual - parallel.whole(written[name])).square().sum()
    variance = parallel.sum_(variance)
    return left / variance if float(variance) > 0 else left * 0


def _mean(values: list[Tensor]) -> Tensor:
    return torch.stack(values).mean()


@contextmanager
def _trainable(parameters: list[torch.nn.Parameter]) -> Iterator[None]:
    """Parameters ask for gradients inside, whatever they did outside."""
    asked = [parameter.requires_grad for parameter in parameters]
    try:
        with torch.enable_grad():
            for parameter in parameters:
                parameter.requires_grad_(True)
            yield
    finally:
        for parameter, before in zip(parameters, asked, strict=True):
            parameter.requires_grad_(before)
