"""The training step of topk and batchtopk dictionaries, written out: one dense product, everything else at the cost of what is on.

    import torch
    from interp.core.dictionary import Dictionary, DictionaryConfig, View
    from interp.train.sparse import sparse_step
    from interp.train.step import Context, Objective
    view = View("in", width=8)
    sae = Dictionary.initialise(DictionaryConfig(16, (view,), (view,), activation="batchtopk", k=2))
    first = sparse_step(sae, {"in": torch.eye(8)}, Objective(), Context(k=2))
    first.loss, first.l0, sae.b_enc.grad.shape
    sparse_step(sae, {"in": torch.eye(8)}, Objective(), Context(k=2, cut=first.cut))    # the same, sooner

Dense autograd multiplies [row, latent] by [latent, d] five times a step (encoder, decoder, the codes' gradient, two weights' gradients).
With 32 of 16,384 codes on, all but the first are products with 0.2 % of the entries:

    pre = x W_enc^T + b      select      x̂ = bag(codes, W_dec) + b_dec      g = dL/dx̂
    dcode = g · W_dec where on      dW_dec = codes^T g      dW_enc = dcode^T x      (bags over the entries sorted by latent)

The scale of the codes (decoder norms) only decides which codes are on. What is kept is the code itself, and gradients flow through it
alone: none reaches a decoder row through its norm. That is also what dense autograd gives, as a selection has no derivative.

Nested (Matryoshka) dictionaries: the codes of each ring between two widths are decoded once; reconstructions of the prefixes are running
sums, and a code's gradient is the sum of those of all prefixes that contain it. The auxiliary loss selects among dead latents in the same
pre-activations and goes through the same products; its entries join those of the main loss before they are sorted.

No gradient of the codes is ever dense, sums have a fixed order (no atomics), and `.grad` is written in place where it exists. A step of one
process gives its share of the batch's loss and gradients (see `distributed`). When it misleads: it does not; but where more than about one
code in eight is on (k large, few latents) it is no faster than dense products.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..core.dictionary import Dictionary, View
from ..core.dictionary.kernels import bag, bag_rows_grad, bag_values_grad, by_latent, sums_by_latent
from ..core.errors import BadInput
from .dense import check_batch, check_objective
from .distributed.parallel import Parallel
from .encode import Block, Encoded, Entries, encode
from .step import Context, Objective, Outcome


def applies(dictionary: Dictionary, objective: Objective) -> bool:
    """Whether this step is for them: topk or batchtopk, one competition, no penalty on the codes."""
    config = dictionary.config
    return (
        config.activation in ("topk", "batchtopk")
        and config.code_scale != "decoupled"
        and (objective.sparsity == "none" or objective.coefficient == 0)
    )


@torch.no_grad()
def sparse_step(
    dictionary: Dictionary,
    batch: Mapping[str, Tensor],
    objective: Objective,
    context: Context,
    *,
    screen: bool | None = None,
) -> Outcome:
    """One loss and its gradients, which replace whatever was in `.grad`.

    `screen`: whether the encoder looks for candidates in bfloat16 first (`screen`); None: where bfloat16 has instructions of its own.
    Raises `BadInput` where the step does not apply, and for NaN.
    """
    if not applies(dictionary, objective):
        raise BadInput(
            f"the sparse step is for topk and batchtopk without a penalty; not {dictionary.config.activation!r} with code_scale="
            f"{dictionary.config.code_scale!r} and sparsity={objective.sparsity!r}. Use `interp.train.step.step`, which chooses."
        )
    check_objective(dictionary, objective)
    check_batch(dictionary, batch)
    config, parallel = dictionary.config, context.parallel or Parallel.none()
    biases = {view.name: bias.detach() for view, bias in zip(config.writes, dictionary.biases, strict=True)}
    given = {view.name: batch[view.name].to(dictionary.dtype) for view in config.views}
    inputs = [given[v.name] - biases[v.name] if config.centred else given[v.name] for v in config.reads]
    rows = max(1, parallel.total(len(inputs[0])))
    dead, most = _dead(dictionary, objective, context, parallel)
    encoded = encode(
        dictionary, inputs, k=context.k, parallel=parallel, hint=context.cut, dead=dead, most=most, screen=screen
    )
    decoded = _decode(dictionary, encoded.on, given, parallel)
    terms, gradients, errors = _reconstruction(dictionary, decoded, batch, objective=objective, rows=rows)
    auxiliary = (
        None
        if encoded.dead is None
        else _auxiliary(dictionary, encoded.dead, errors, objective=objective, rows=rows, parallel=parallel)
    )
    if objective.auxiliary and context.dead is not None:
        terms["auxiliary"] = torch.zeros_like(terms["reconstruction"]) if auxiliary is None else auxiliary.loss
    weights = {"reconstruction": 1.0, "difference": objective.difference, "auxiliary": objective.auxiliary}
    loss = torch.stack([weights[name] * term for name, term in terms.items()]).sum()
    _backward(dictionary, encoded, gradients, auxiliary=auxiliary, inputs=inputs, given=given, parallel=parallel)
    wide = _wide(dictionary)
    return Outcome(
        loss=loss.to(wide),
        terms={name: term.to(wide) for name, term in terms.items()},
        fired=torch.bincount(encoded.on.ids, minlength=dictionary.latents),
        l0=parallel.latents.sum_(torch.tensor(len(encoded.on.ids) / rows, device=loss.device)),
        residual={name: _squares(error).to(wide) for name, error in errors.items()},
        cut=encoded.cut,
        fallback=encoded.fallback,
    )


@dataclass(frozen=True)
class _Auxiliary:
    loss: Tensor
    codes: "Entries | Block"
    """Of the dead latents."""
    gradients: dict[str, Tensor]
    """Of the weighted loss by the reconstruction of the residual {view: [row, d]}."""


def _dead(
    dictionary: Dictionary, objective: Objective, context: Context, parallel: Parallel
) -> tuple[Tensor | None, int]:
    """Numbers of dead latents, and how many of all there are may speak in a row: half the width of the widest view."""
    if not objective.auxiliary or context.dead is None:
        return None, 0
    dead = context.dead.to(dictionary.device).nonzero().flatten()
    most = max(1, max(view.width for view in dictionary.config.writes) // 2)
    count = len(dead)
    if parallel.latents.size > 1:
        count = int(parallel.latents.sum_(torch.tensor(count)))
    return (dead, min(most, count)) if count else (None, 0)


def _decode(
    dictionary: Dictionary, on: Entries, given: Mapping[str, Tensor], parallel: Parallel
) -> dict[str, list[Tensor]]:
    """Reconstructions {written view: one [row, d] a nested width}."""
    out: dict[str, list[Tensor]] = {}
    for weight, bias, view in zip(dictionary.decoders, dictionary.biases, dictionary.config.writes, strict=True):
        total = bias.detach().to(_wide(dictionary))
        if dictionary.config.skip:
            total = total + given[dictionary.config.reads[0].name] @ dictionary.skip_weight.detach().T
        out[view.name] = []
        for low, high in _rings(dictionary):
            part = _part(dictionary, on, view, (low, high))
            if part is not None:
                entries, _, first = part
                said = bag(entries.ids, entries.values, entries.offsets, weight[first : first + high - low])
                total = total + parallel.latents.sum_(said)
            out[view.name].append(total.expand(len(on.offsets) - 1, view.width))
    return out


def _rings(dictionary: Dictionary) -> list[tuple[int, int]]:
    """Latents [low, high) between one nested width and the next."""
    widths = dictionary.config.nested or (dictionary.latents,)
    return list(zip((0, *widths[:-1]), widths, strict=True))


def _part(
    dictionary: Dictionary, entries: Entries, view: View, ring: tuple[int, int]
) -> tuple[Entries, Tensor | None, int] | None:
    """Entries of a ring that a view has, numbered from its first; which these are; and the row of the weights they begin at."""
    start, stop = dictionary.config.range_of(view)
    low, high = max(start, ring[0]), min(stop, ring[1])
    if low >= high:
        return None
    return (*entries.within(low, high), low - start)


def _reconstruction(
    dictionary: Dictionary,
    decoded: Mapping[str, list[Tensor]],
    batch: Mapping[str, Tensor],
    *,
    objective: Objective,
    rows: int,
) -> tuple[dict[str, Tensor], dict[str, list[Tensor]], dict[str, Tensor]]:
    """The terms; for each view and ring the gradient [row, d] of the loss by what the ring's codes add; and x̂ - x of all rings."""
    wide, names = _wide(dictionary), list(decoded)
    prefixes = len(decoded[names[0]])
    zero = torch.zeros((), dtype=torch.float64, device=dictionary.device)
    terms = {"reconstruction": zero, **({"difference": zero} if objective.difference else {})}
    gradients: dict[str, list[Tensor]] = {name: [] for name in names}
    whole: dict[str, Tensor] = {}
    for place in reversed(range(prefixes)):
        errors = {name: decoded[name][place] - batch[name].to(wide) for name in names}
        whole = whole or errors
        for name, error in errors.items():
            gradient, term = _error(error, objective, rows * prefixes, len(names))
            terms["reconstruction"] = terms["reconstruction"] + term
            if objective.difference:
                other = errors[names[1 - names.index(name)]]
                gradient = gradient + other * (2 * objective.difference / (rows * prefixes))
                product = (error * other).sum(dtype=torch.float64) / (rows * prefixes)
                terms["difference"] = terms["difference"] + product  # once from each side: 2 e_1 · e_2
            gradients[name].insert(0, gradient + gradients[name][0] if gradients[name] else gradient)
    return terms, gradients, whole


def _error(error: Tensor, objective: Objective, count: int, views: int) -> tuple[Tensor, Tensor]:
    """Gradient by the reconstruction, and the term."""
    if objective.reconstruction == "squared":
        return error * (2 / count), _squares(error) / count
    size = error.norm(dim=1, keepdim=True)
    safe = torch.where(size > 0, size, torch.ones_like(size))
    return error / (safe * (count * views)), size.sum(dtype=torch.float64) / (count * views)


def _auxiliary(
    dictionary: Dictionary,
    dead: "Entries | Block",
    errors: Mapping[str, Tensor],
    *,
    objective: Objective,
    rows: int,
    parallel: Parallel,
) -> _Auxiliary | None:
    """What the dead latents make of the residual, over the residual's variance in the batch."""
    wide, config = _wide(dictionary), dictionary.config
    spread = torch.zeros(1, dtype=torch.float64, device=dictionary.device)
    for error in errors.values():
        mean = parallel.sum_(error.sum(dim=0, dtype=torch.float64)) / rows
        spread += _squares(error - mean.to(wide))
    spread = parallel.sum_(spread)[0]
    if not float(spread) > 0:
        return None
    loss, gradients = torch.zeros_like(spread), {}
    for weight, view in zip(dictionary.decoders, config.writes, strict=True):
        if isinstance(dead, Block):
            places, rows_of = _inside(dead, config.range_of(view))
            said = dead.codes[:, places] @ weight.detach()[rows_of]
        else:
            part = _part(dictionary, dead, view, (0, dictionary.latents))
            assert part is not None
            said = bag(part[0].ids, part[0].values, part[0].offsets, weight)
        missed = parallel.latents.sum_(said).to(wide) + errors[view.name]  # the residual is x - x̂
        loss = loss + _squares(missed) / spread
        gradients[view.name] = missed * (2 * objective.auxiliary / spread).to(wide)
    return _Auxiliary(loss, dead, gradients)


def _backward(
    dictionary: Dictionary, encoded: Encoded, gradients: Mapping[str, list[Tensor]], *, auxiliary: _Auxiliary | None,
    inputs: list[Tensor], given: Mapping[str, Tensor], parallel: Parallel,
) -> None:  # fmt: skip
    """All gradients of weights from those of the reconstructions."""
    config, on = dictionary.config, encoded.on
    rows, rings = len(inputs[0]), _rings(dictionary)
    slopes = _slopes(dictionary, on, gradients, rings)
    ids, values, of = on.ids, on.values, on.of
    ring = torch.bucketize(ids, torch.tensor([high for _, high in rings], device=ids.device), right=True)
    shifted = of + ring * rows if len(rings) > 1 else of  # the row, in the gradients of all rings below one another
    joined = auxiliary is not None and isinstance(auxiliary.codes, Entries)
    if auxiliary is not None and isinstance(auxiliary.codes, Entries):
        dead = auxiliary.codes
        more = _slopes(dictionary, dead, {n: [g] for n, g in auxiliary.gradients.items()}, [(0, dictionary.latents)])
        ids, values, of, slopes = (
            torch.cat(pair) for pair in ((ids, dead.ids), (values, dead.values), (of, dead.of), (slopes, more))
        )
        shifted = torch.cat([shifted, dead.of + len(rings) * rows])
    order = by_latent(ids, dictionary.latents)
    for weight, bias, view in zip(dictionary.decoders, dictionary.biases, config.writes, strict=True):
        tables = [
            *gradients[view.name],
            *([auxiliary.gradients[view.name]] if auxiliary is not None and joined else []),
        ]
        table = (torch.cat(tables) if len(tables) > 1 else tables[0]).to(weight.dtype)
        bag_rows_grad(table, shifted, values, order, latents=config.range_of(view), out=_grad(weight))
        _grad(bias).copy_(gradients[view.name][0].sum(dim=0))
    for x, weight, view in zip(inputs, dictionary.encoders, config.reads, strict=True):
        bag_rows_grad(x, of, slopes, order, latents=config.range_of(view), out=_grad(weight))
    _grad(dictionary.b_enc).copy_(sums_by_latent(slopes, order))
    if auxiliary is not None and isinstance(auxiliary.codes, Block):
        _add_block(dictionary, auxiliary.codes, auxiliary.gradients, inputs)
    if config.skip:
        read, written = config.reads[0].name, config.writes[0].name
        _grad(dictionary.skip_weight).copy_(gradients[written][0].to(dictionary.dtype).T @ given[read])
    if config.centred:
        names = [view.name for view in config.writes]
        for weight, view in zip(dictionary.encoders, config.reads, strict=True):
            low, high = config.range_of(view)
            read_ = parallel.latents.sum_(_grad(dictionary.b_enc)[low:high] @ weight.detach())
            _grad(dictionary.biases[names.index(view.name)]).sub_(read_)


def _add_block(dictionary: Dictionary, dead: Block, gradients: Mapping[str, Tensor], inputs: list[Tensor]) -> None:
    """Add the gradients that a few dead latents get from the auxiliary loss, by products with all of them."""
    config, slopes = dictionary.config, torch.zeros_like(dead.codes)
    for weight, view in zip(dictionary.decoders, config.writes, strict=True):
        places, rows_of = _inside(dead, config.range_of(view))
        gradient = gradients[view.name].to(weight.dtype)
        slopes[:, places] += gradient @ weight.detach()[rows_of].T
        _grad(weight)[rows_of] += dead.codes[:, places].T @ gradient
    slopes *= dead.codes > 0
    for x, weight, view in zip(inputs, dictionary.encoders, config.reads, strict=True):
        places, rows_of = _inside(dead, config.range_of(view))
        _grad(weight)[rows_of] += slopes[:, places].T @ x
    _grad(dictionary.b_enc)[dead.latents] += slopes.sum(dim=0)


def _inside(block: Block, span: tuple[int, int]) -> "tuple[slice | Tensor, Tensor]":
    """Which columns of a block are latents of a range, and the rows of the range's weights they are."""
    low, high = span
    inside = (block.latents >= low) & (block.latents < high)
    if bool(inside.all()):
        return slice(None), block.latents - low
    places = inside.nonzero().flatten()
    return places, block.latents[places] - low


def _slopes(
    dictionary: Dictionary, entries: Entries, gradients: Mapping[str, list[Tensor]], rings: list[tuple[int, int]]
) -> Tensor:
    """The gradient of the loss by each code that is on [on]."""
    out = torch.zeros_like(entries.values)
    for weight, view in zip(dictionary.decoders, dictionary.config.writes, strict=True):
        for place, ring in enumerate(rings):
            part = _part(dictionary, entries, view, ring)
            if part is None:
                continue
            some, places, first = part
            found = bag_values_grad(
                gradients[view.name][place], weight.detach()[first:], some.ids, some.offsets, some.of
            )
            if places is None:
                out += found
            else:
                out[places] += found
    return out


def _grad(parameter: nn.Parameter) -> Tensor:
    """Where a gradient is written: over the one of the step before."""
    if parameter.grad is None or parameter.grad.shape != parameter.shape or parameter.grad.dtype != parameter.dtype:
        parameter.grad = torch.zeros_like(parameter)
    return parameter.grad


def _squares(rows: Tensor) -> Tensor:
    """Sum of all squares, float64; without a second matrix of them."""
    return torch.linalg.vector_norm(rows, dim=1).double().square().sum()


def _wide(dictionary: Dictionary) -> torch.dtype:
    """Errors are in float32 at least."""
    return torch.promote_types(dictionary.dtype, torch.float32)
