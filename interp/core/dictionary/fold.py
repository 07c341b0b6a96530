"""Fold a dictionary's scalings into its weights, so that it takes raw activations as they are.

With x_n = (x - mean) c:  encoder' = c encoder,  decoder' = decoder / c,  bias' = bias / c + mean,  and where nothing is subtracted before
the encoder, b_enc' = b_enc - c mean · encoder. Pre-activations, and so codes, stay. A threshold on code times scale becomes one on the
code alone, threshold / scale, because the scale (a sum of decoder norms) is fixed now and would otherwise change with the units.
Weights in half precision become float32: multiplied and rounded to half again, they would be those of another dictionary.
"""

from copy import deepcopy
from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from ..errors import BadInput

if TYPE_CHECKING:
    from .coder import Dictionary


@torch.no_grad()
def folded(dictionary: "Dictionary") -> "Dictionary":
    """See `Dictionary.folded`. Raises `BadInput` for decoupled competitions, which one threshold a latent cannot express."""
    from .coder import Dictionary

    if dictionary.b_enc.element_size() < 4:
        dictionary = deepcopy(dictionary).float()
    config = dictionary.config
    if config.code_scale == "decoupled":
        raise BadInput(
            "a dictionary whose views compete apart (code_scale='decoupled') cannot be folded into one threshold a latent."
        )
    rule, scale, units = config.activation, "none", torch.ones(dictionary.latents, dtype=torch.float64)
    if rule == "batchtopk":
        rule = "jumprelu"
    elif rule == "topk" and config.code_scale != "none":
        if len(config.writes) == 1:
            scale = config.code_scale  # all norms change by one factor, and the order stays
        else:
            units = dictionary.scale().double().cpu().clamp(min=torch.finfo(torch.float64).tiny)
    new = Dictionary(replace(config, activation=rule, code_scale=scale), metadata=dictionary.metadata).to(
        dictionary.device
    )
    units = units.to(dictionary.device)
    shift = dictionary.b_enc.detach().double().clone()  # of float64 weights .double() would be the parameter itself
    for fresh, old, view in zip(new.encoders, dictionary.encoders, config.reads, strict=True):
        low, high = config.range_of(view)
        scaling = dictionary.scalings[view.name]
        rows = old.double() * scaling.factor
        fresh.copy_(rows * units[low:high, None])
        if not config.centred:
            shift[low:high] -= rows @ scaling.mean.double().to(rows)
    new.b_enc.copy_(shift * units)
    for place, view in enumerate(config.writes):
        low, high = config.range_of(view)
        scaling = dictionary.scalings[view.name]
        new.decoders[place].copy_(dictionary.decoders[place].double() / scaling.factor / units[low:high, None])
        new.biases[place].copy_(dictionary.biases[place].double() / scaling.factor + scaling.mean.double().to(units))
    if config.activation == "batchtopk":
        one = dictionary._calibrated().to(units)
        competes = dictionary.scale().double()
        new.thresholds.copy_(
            torch.where(competes > 0, one / competes, torch.inf)
        )  # a code times nothing never exceeds it
    elif config.activation == "jumprelu":
        new.thresholds.copy_(dictionary.thresholds)
    if config.skip:
        read, write = dictionary.scalings[config.reads[0].name], dictionary.scalings[config.writes[0].name]
        weight = dictionary.skip_weight.double() * read.factor / write.factor
        new.skip_weight.copy_(weight)
        moved = weight @ read.mean.double().to(weight)
        new.biases[0].sub_(moved.to(new.biases[0].dtype))
        if config.centred:  # the bias is also what the encoder subtracts
            new.b_enc.sub_((new.encoders[0].double() @ moved).to(new.b_enc.dtype))
    return new
