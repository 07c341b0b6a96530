"""Folding norms into the weights that read through them, in place, so that the model computes the same without their gains.

    module = copy.deepcopy(lm.module)
    fold_norms(module, family)           # log-probs are what they were; every folded norm is now plain normalisation

The equations and what they leave alone are in the package's essay; the parameters become the views that `folded=True` gave. A bias
is added to a linear layer that had none where the norm has one (GPT-Neo's projections, every LayerNorm model's unembedding); a
tied unembedding is untied first, because only the copy that reads may change. Post-norms, query and key norms stay as they are.

In 16 bits the folded parameters are rounded once more: fold in float32.
"""

from typing import Any

import torch
from torch import Tensor, nn

from interp.core.errors import UnsupportedArchitecture

from ..families import Family


@torch.no_grad()
def fold_norms(module: nn.Module, family: Family) -> nn.Module:
    """Fold every norm before attention, MLP and unembedding of `module`, which is changed and given back.

    Raises `UnsupportedArchitecture` for families that do not normalise before attention and MLP (OLMo 2), and for unproven ones.
    """
    if not family.proven:
        raise UnsupportedArchitecture(
            f"{family.model_type} is an unproven family, so nobody has checked what its norms are read by. Load it with folded=False."
        )
    if not {"attn", "mlp"} <= set(family.norms):
        raise UnsupportedArchitecture(
            f"{family.model_type} normalises after its sublayers, not before: nothing can be folded. Load it with folded=False."
        )
    n_layers = len(module.get_submodule(family.layers))  # type: ignore[arg-type]
    readers = {"attn": ("q", "k", "v"), "mlp": ("mlp_pre", "mlp_pre_linear") if family.gated else ("mlp_pre",)}
    for layer in range(n_layers):
        for which, kinds in readers.items():
            norm = module.get_submodule(family.layer_path(layer, family.norms[which]))
            if which == "mlp" and family.experts:
                _fold_experts(norm, module.get_submodule(family.layer_path(layer)), family)
                continue
            paths = dict.fromkeys(family.taps[kind].path for kind in kinds)  # a fused projection once
            _fold(norm, [module.get_submodule(family.layer_path(layer, path)) for path in paths], family)
    head: Any = module.get_submodule(family.head)
    embed: Any = module.get_submodule(family.embed)
    if head.weight is embed.weight:
        head.weight = nn.Parameter(embed.weight.detach().clone(), requires_grad=embed.weight.requires_grad)
        module.config.tie_word_embeddings = False  # type: ignore[union-attr]
    _fold(module.get_submodule(family.final), [head], family)
    return module


def _fold(norm: Any, linears: list[Any], family: Family) -> None:
    weight, shift = norm.weight, getattr(norm, "bias", None)
    gain = 1.0 + weight if gain_plus_one(family) else weight
    for linear in linears:
        matrix, bias = fold(oriented(linear), linear.bias, gain, shift, centre=family.norm == "layer")
        linear.weight.copy_(matrix.T if isinstance(linear, nn.Linear) else matrix)
        if bias is None:
            continue
        if linear.bias is None:
            linear.bias = nn.Parameter(bias.to(weight.dtype), requires_grad=bool(weight.requires_grad))
        else:
            linear.bias.copy_(bias)
    weight.fill_(0.0 if gain_plus_one(family) else 1.0)
    if shift is not None:
        shift.zero_()


def _fold_experts(norm: Any, layer: nn.Module, family: Family) -> None:
    """The gain of an RMSNorm into the router and the experts of a layer, or into its one MLP where it has no experts."""
    inside = dict(layer.named_parameters())
    for name, axis in family.experts.items():
        if name in inside:
            parameter = inside[name]
            gain = norm.weight.double().reshape([-1 if at == axis else 1 for at in range(parameter.ndim)])
            parameter.copy_(gain * parameter.double())
    norm.weight.fill_(1.0)


def oriented(linear: Any) -> Tensor:
    """A linear layer's matrix as [in, out], whether it is a `Linear` ([out, in]) or GPT-2's `Conv1D` ([in, out])."""
    weight = linear.weight.detach()
    return weight.T if isinstance(linear, nn.Linear) else weight


def gain_plus_one(family: Family) -> bool:
    """Whether the norms of a family multiply by `1 + weight`."""
    return family.model_type.startswith("gemma")


def fold(
    matrix: Tensor, bias: Tensor | None, gain: Tensor, shift: Tensor | None, *, centre: bool
) -> tuple[Tensor, Tensor | None]:
    """The norm's gain and bias folded into a matrix [d_model, out] that reads through it; `centre` for LayerNorm.

    Computed in float64, given in the matrix's dtype, float32 at least.
    """
    dtype = torch.promote_types(matrix.dtype, torch.float32)
    wide = gain.double()[:, None] * matrix.double()
    if shift is not None:
        moved = shift.double() @ matrix.double()
        bias = (moved if bias is None else bias.double() + moved).to(dtype)
    if centre:
        wide = wide - wide.mean(dim=0)
    return wide.to(dtype), bias if bias is None else bias.to(dtype)
