"""The matrices of heads as products of two thin factors, which is all that composition needs: nothing [d_model, d_model] is ever formed.

Row vectors, `x @ W`, h = d_head. A head moves `x OV` from one token to another and weighs a query x against a key y by `x QK yᵀ`:

    OV = W_V W_O  [d_model, d_model]        QK = W_Q R W_Kᵀ        both left [d_model, h] @ right [h, d_model]

R is the rotation between two positions in rotary models, for a distance that the caller states, and the identity elsewhere.
`Setting` says in which coordinates: raw parameters, or (by default) `folded`, in which a linear map really stands between two streams:

- the gain of the norm before the head is in W_Q, W_K and W_V; those of norms on queries and keys in W_Q and W_K; that of a norm after
  attention in W_O. What these norms divide by is a number for each token (and head), which no score depends on;
- a LayerNorm takes the mean out of the stream, so nothing that is read or written lies along (1, ..., 1): d_model - 1 free dimensions.

With `biases`, a constant 1 is appended to what a head reads: one more row for the biases in W_V, W_Q and W_K, so that a component may
also read the constant. b_O is not a part of any component: it is written whatever is read.

A reader is asked only how long `x M` is, M = QK for what enters its query (Q), QKᵀ for its key (K) and OV for its value (V). With
M = left @ right and right @ rightᵀ = R R ᵀ, that is the length of `x @ side`, `side = left R / |M|_F`, [d_model, h].

Source: Elhage et al. 2021, "A Mathematical Framework for Transformer Circuits" (composition); Merullo et al. 2024, "Talking Heads".

    from interp.analyses.channels import Setting, ov, reader
    ov(lm, 0).norm()                                # Frobenius norms of all heads of layer 0
    reader(lm, 3, "Q", Setting(folded=False)).side.shape
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from einops import rearrange
from torch import Tensor

from interp.core.errors import BadInput, one_of

from .component import known_heads

if TYPE_CHECKING:
    from interp.core.lm import LM

KINDS = ("Q", "K", "V")


@dataclass(frozen=True)
class Setting:
    """In which coordinates the weights are read."""

    folded: bool = True
    """Norm gains in the weights that read through them, and the mean taken out where the norm takes it out; else the raw parameters."""
    biases: bool = False
    """Append the biases of queries, keys and values as one more row, read by a constant 1."""


DEFAULT = Setting()


@dataclass(frozen=True)
class Factors:
    """Matrices of all heads of one layer, `left @ right`. float64."""

    left: Tensor
    """[head, d_model (+ 1 with biases), d_head]"""
    right: Tensor
    """[head, d_head, d_model (+ 1 with biases, where it is read)]"""

    @property
    def T(self) -> "Factors":
        """The transposed matrices."""
        return Factors(rearrange(self.right, "head h d -> head d h"), rearrange(self.left, "head d h -> head h d"))

    def norm(self) -> Tensor:
        """Frobenius norms [head]: the root of the trace of (leftᵀ left)(right rightᵀ)."""
        grams = self.left.mT @ self.left, self.right @ self.right.mT
        return torch.einsum("nij,nji->n", *grams).clamp(min=0).sqrt()

    def matrix(self, head: int) -> Tensor:
        """The whole matrix of one head [d_model, d_model], for looking at and for tests."""
        return self.left[head] @ self.right[head]


@dataclass(frozen=True)
class Reader:
    """How much of what is written each head of one layer reads, through one of its inputs."""

    side: Tensor
    """[head, d_model, d_head], float64: `|x @ side|` = |x M| / |M|_F. NaN for a head that does not read: its matrix is zero, or its window
    ends before the distance."""
    spectrum: Tensor
    """Singular values of M [head, d_head], falling; NaN where the window ends before the distance."""
    norm: Tensor
    """|M|_F [head]."""


def free(lm: "LM", setting: Setting = DEFAULT) -> int:
    """How many dimensions a write direction may lie in: d_model, less the mean where it is taken out."""
    return lm.spec.d_model - int(setting.folded and lm.spec.norm == "layer")


def ov(lm: "LM", layer: int, setting: Setting = DEFAULT) -> Factors:
    """What the heads of a layer move, OV = W_V W_O; value heads that are shared are repeated for each query head.

    Raises `BadInput` for weights that are not finite, and for a family whose weights are not named.
    """
    known_heads(lm)
    left = _wide(lm.weights.W_V(layer, expand=True, folded=_reads_folded(lm, setting)))
    right = _wide(lm.weights.W_O(layer))
    if setting.biases:
        left = _with_row(left, lm.weights.b_V(layer, expand=True, folded=_reads_folded(lm, setting)))
    if setting.folded and lm.spec.norm == "layer":
        right = right - right.mean(-1, keepdim=True)
    if setting.folded and lm.spec.post_norm:
        right = right * _wide(lm.weights.norm("attn_post", layer)[0])
    return _finite(Factors(left, right), lm, layer, "W_V or W_O")


def qk(lm: "LM", layer: int, setting: Setting = DEFAULT, *, offset: int | None = None) -> Factors:
    """How the heads of a layer weigh a query against a key, QK = W_Q R W_Kᵀ, without the 1/sqrt(d_head) of the scores.

    Rotary models need `offset`, the distance query - key that the rotation R is for; others take none. Raises `BadInput`.
    """
    known_heads(lm)
    _check_offset(lm, offset)
    folded = _reads_folded(lm, setting)
    query, key = _wide(lm.weights.W_Q(layer, folded=folded)), _wide(lm.weights.W_K(layer, expand=True, folded=folded))
    if setting.biases:
        query = _with_row(query, lm.weights.b_Q(layer, folded=folded))
        key = _with_row(key, lm.weights.b_K(layer, expand=True, folded=folded))
    if setting.folded:
        query, key = query * _head_gain(lm, layer, "q"), key * _head_gain(lm, layer, "k")
    if offset is not None:
        query = query @ lm.weights.rotation(layer, offset).to(query)
    return _finite(Factors(query, rearrange(key, "head d h -> head h d")), lm, layer, "W_Q or W_K")


def reader(lm: "LM", layer: int, kind: str, setting: Setting = DEFAULT, *, offset: int | None = None) -> Reader:
    """How the heads of a layer read: through their query (Q), key (K) or value (V). See `qk` for `offset`, which V does not take."""
    one_of("kind", kind, KINDS)
    if kind == "V" and offset is not None:
        raise BadInput(f"values are read alike at every distance; leave out offset={offset!r} for kind 'V'.")
    factors = ov(lm, layer, setting) if kind == "V" else qk(lm, layer, setting, offset=offset)
    found = reading(factors.T if kind == "K" else factors, lm.spec.d_model)
    if not reaches(lm, layer, offset):
        none = torch.full_like(found.spectrum, torch.nan)
        return Reader(torch.full_like(found.side, torch.nan), none, none[:, 0])
    return found


def reaches(lm: "LM", layer: int, offset: int | None) -> bool:
    """Whether a layer's queries see keys at this distance: its window, if it has one, is wider."""
    window = lm.spec.windows[layer] if lm.spec.windows else None
    return offset is None or window is None or offset < window


def reading(factors: Factors, d_model: int) -> Reader:
    """What `factors` make of a vector of the stream; the row of a constant, beyond `d_model`, does not read the stream."""
    left = factors.left[:, :d_model]
    triangle = torch.linalg.qr(factors.right.mT, mode="r").R  # right = Rᵀ Qᵀ, and Qᵀ keeps lengths
    side = left @ triangle.mT
    spectrum = torch.linalg.svdvals(torch.linalg.qr(left, mode="r").R @ triangle.mT)
    norm = spectrum.square().sum(-1).sqrt()
    scale = torch.where(norm > 0, norm, torch.full_like(norm, torch.nan))
    return Reader(side / scale[:, None, None], spectrum, norm)


def _reads_folded(lm: "LM", setting: Setting) -> bool:
    """Whether there is a norm before the heads that can be folded (OLMo 2 has none)."""
    return setting.folded and lm.weights.pre_norm


def _wide(weight: Tensor) -> Tensor:
    """float64, and never a view of the model: what is kept across a weight edit must not change with it."""
    return weight.detach().to(torch.float64, copy=True)


def _with_row(matrix: Tensor, bias: Tensor | None) -> Tensor:
    """[head, d_model + 1, d_head]: the bias as a last row, zeros where there is none."""
    row = torch.zeros_like(matrix[:, :1]) if bias is None else rearrange(_wide(bias), "head h -> head 1 h")
    return torch.cat([matrix, row], dim=1)


def _head_gain(lm: "LM", layer: int, which: str) -> Tensor | float:
    """The gain of the norm on queries or keys, [head or 1, 1, d_head]; 1 where there is no such norm."""
    if which not in lm.weights.norms:
        return 1.0
    gain, spec = _wide(lm.weights.norm(which, layer)[0]), lm.spec
    if len(gain) == spec.d_head:
        return gain[None, None]
    gain = rearrange(gain, "(head h) -> head 1 h", h=spec.d_head)  # over all heads at once (OLMo 2)
    return gain.repeat_interleave(spec.n_heads // len(gain), dim=0)


def _check_offset(lm: "LM", offset: int | None) -> None:
    rotary = lm.spec.positions == "rotary"
    if rotary and offset is None:
        raise BadInput(
            f"{lm.spec.name} rotates queries and keys by their positions, so QK is another matrix at every distance. Give the "
            "distance (`offset=1` is the token before), or look at kind 'V', which does not depend on it."
        )
    if not rotary and offset is not None:
        raise BadInput(
            f"offset={offset!r} is for models with rotary positions; {lm.spec.name} has one QK for all distances."
        )


def _finite(factors: Factors, lm: "LM", layer: int, names: str) -> Factors:
    bad = ~(factors.left.isfinite().all((1, 2)) & factors.right.isfinite().all((1, 2)))
    if bad.any():
        heads = ", ".join(f"{layer}.{head}" for head in bad.nonzero()[:, 0].tolist())
        raise BadInput(
            f"{names} of {lm.spec.name} has NaN or infinite numbers in head {heads}: no composition can be computed. "
            "Is the checkpoint whole?"
        )
    return factors
