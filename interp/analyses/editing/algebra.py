"""The closed forms, in float64 and in the convention `value = key @ W`, with W [d_mlp, d_model].

    rank one      D = (C^-1 k) r^T / (k^T C^-1 k)            so that (W + D)^T k = W^T k + r, and E|D^T k|^2 is least   (ROME)
    spread        D = (lc C + ln 1 + K^T K)^-1 K^T R         least |K D - R|^2 + lc tr(D^T C D) + ln |D|^2              (MEMIT, ENCORE)

K [request, d_mlp] are keys, R [request, d_model] what is still missing of the wanted values. The second is a ridge regression: `lc` holds
on to what ordinary keys get, `ln` to the norm of the weights (Gupta et al. 2025, "Lifelong Knowledge Editing requires Better
Regularization"). ROME's release divides by the bare prompt's k where u was made of averaged keys, so that the averaged key does not get
its value; here one key is used throughout.
"""

import torch
from torch import Tensor

from interp.core.errors import BadInput
from interp.core.shapes import Float


def rank_one(
    key: Float[Tensor, " d_mlp"], missing: Float[Tensor, " d_model"], solved: Float[Tensor, " d_mlp"]
) -> Float[Tensor, "d_mlp d_model"]:
    """The rank-one change that gives `key` what it is `missing`; `solved` is C^-1 key. Float64."""
    key, missing, solved = key.double(), missing.double(), solved.double()
    along = key @ solved
    if not torch.isfinite(along):
        raise BadInput(
            "the key, or what the second moments make of it, holds numbers that are not finite. Use a wider dtype."
        )
    if not float(along) > 0:
        raise BadInput(
            "the key is zero (no neuron fires at the subject's last token), so no change of W_out reaches it."
        )
    return torch.outer(solved, missing / along)


def spread(
    keys: Float[Tensor, "request d_mlp"],
    missing: Float[Tensor, "request d_model"],
    moment: Float[Tensor, "d_mlp d_mlp"],
    *,
    mom2_weight: float,
    norm_weight: float = 0.0,
) -> Float[Tensor, "d_mlp d_model"]:
    """The ridge solution D for all requests at once, float64. `moment` is C, both weights are 0 or more and not both 0."""
    if not (mom2_weight >= 0 and norm_weight >= 0 and mom2_weight + norm_weight > 0):
        raise BadInput(
            f"`mom2_weight` and `norm_weight` must be 0 or more, and not both 0; not {mom2_weight} and {norm_weight}."
        )
    keys, missing = keys.double(), missing.double()
    gram = mom2_weight * moment.double() + keys.T @ keys
    gram.diagonal().add_(norm_weight)
    factor, failed = torch.linalg.cholesky_ex(gram)
    if int(failed):
        raise BadInput(
            "the second moments have no inverse, and so has no edit a solution. Use damping, or a `norm_weight` above 0."
        )
    return torch.cholesky_solve(keys.T @ missing, factor)


def gradient(
    change: Float[Tensor, "d_mlp d_model"],
    keys: Float[Tensor, "request d_mlp"],
    missing: Float[Tensor, "request d_model"],
    moment: Float[Tensor, "d_mlp d_mlp"],
    *,
    mom2_weight: float,
    norm_weight: float = 0.0,
) -> Float[Tensor, "d_mlp d_model"]:
    """Gradient of `spread`'s objective at `change` (half of it): zero at the solution."""
    keys, missing = keys.double(), missing.double()
    return keys.T @ (keys @ change - missing) + mom2_weight * moment.double() @ change + norm_weight * change
