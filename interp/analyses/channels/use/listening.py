"""What one head makes of its stream, taken apart by who wrote it: exact, with norms held at what they were in the run.

A reader sees the stream x, a sum of what embeddings, heads and MLPs wrote, through a norm, and is bilinear beyond it. At the query i and
the key j, in row vectors (t is the token's own; g, R, r: gain of a norm on queries or keys, rotation, what that norm divides by):

    q_t = (s_t x_t W_Q + b_Q) ∘ g_Q / r_t · R_t        k_t likewise        score[i, j] = c q_i k_jᵀ
    v_t = s_t x_t W_V + b_V                            out[i] = Σ_j A[i, j] v_j W_O

Every number on the right is held but x. Then a write w is worth, at one pair of tokens,

    Q   c (s_i w_i W_Q ∘ g_Q / r_i R_i) k_jᵀ           K   c q_i (s_j w_j W_K ∘ g_K / r_j R_j)ᵀ
    V   A[i, j] (s_j w_j W_V W_O) · out[i] / |out[i]|

and the worths of all writers, with that of the biases, sum to the score (Q, K) or to |out[i]| (V). Of s, c and the rotation nothing is
written here again: `s_t` is the number that takes x W to the q, k, v that the model has, less biases; `c` is the number that takes the
products to the logarithms of the model's own pattern, up to a constant for each query. Both are fits that check what they fit, and a
model that reads in another way (soft-capped scores) is refused. Only the epsilon inside norms on queries and keys is left out.

A question about scores is a matrix D over queries and keys, the answer Σ D[i, j] worth[i, j]; so it is a linear function of the stream,
which `pull` carries back: one product with it gives every writer's part.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from einops import rearrange
from torch import Tensor

from interp.core.errors import InterpError
from interp.core.site import Site

from ..component import Head

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from interp.core.lm import LM

MISFIT = {"float64": 1e-4, "float32": 2e-4, "bfloat16": 0.1, "float16": 0.03}
"""Largest remainder of a fit, relative to what is fitted (norms compute in float32 in some families, whatever the dtype)."""
FAINT = 1e-30
"""Probabilities below this have lost digits, and their logarithms say nothing."""


@dataclass(frozen=True, eq=False)
class Heard:
    """One document at one head, float64; gained, normed and turned."""

    scale: Tensor
    """s [pos]"""
    q: Tensor
    """[pos, d_head]"""
    k: Tensor
    v: Tensor
    q_norm: Tensor
    """1 / r [pos]; ones where queries are not normed."""
    k_norm: Tensor
    product: Tensor
    """q kᵀ [query, key], before the factor c and the mask."""


class ReaderHead:
    """The reading side of one head, float64 on the CPU."""

    def __init__(
        self,
        lm: "LM",
        head: Head,
        *,
        projections: "Sequence[Tensor | None] | None" = None,
        turns: "dict[int, Tensor] | None" = None,
    ) -> None:
        """`projections` are those of its layer, where they are known already; `turns` rotations by layer, which heads may share."""
        self.lm, self.head = lm, head
        weights, spec, layer, at = lm.weights, lm.spec, head.layer, head.head
        self.group = at // (spec.n_heads // spec.n_kv_heads)
        places = (at, self.group, self.group)
        *matrices, b_Q, b_K, b_V = projections or projections_of(lm, layer)
        biases = b_Q, b_K, b_V
        self.W = torch.stack(
            [_wide(W[place]) for W, place in zip(matrices, places, strict=True) if W is not None]
        )  # [3, d_model, d_head]
        self.b = torch.stack(
            [
                torch.zeros(spec.d_head).double() if bias is None else _wide(bias[place])
                for bias, place in zip(biases, places, strict=True)
            ]
        )  # [3, d_head]
        self.gains = {letter: self._gain(letter) for letter in "qk"}
        self.W_O = _wide(weights.W_O(layer)[at])  # [d_head, d_model]
        if spec.post_norm:
            self.W_O = self.W_O * _wide(weights.norm("attn_post", layer)[0])
        self.window = spec.windows[layer]
        self.factor = float("nan")
        self._turns: dict[int, Tensor] = {} if turns is None else turns

    @property
    def sites(self) -> list[Site]:
        """What it is asked from."""
        return [Site(kind, self.head.layer) for kind in ("resid_pre", "q", "k", "v")]

    def visible(self, length: int) -> Tensor:
        """Which keys each query sees, bool [query, key]."""
        place = torch.arange(length)
        apart = place[:, None] - place
        return (apart >= 0) & (apart < (self.window or length))

    def hear(self, acts: "Mapping[Site, Tensor]") -> Heard:
        """What the head made of a document, from its activations [pos, ...]. Raises `InterpError` where it is not what the weights make."""
        x, q, k, v = (acts[site].double().cpu() for site in self.sites)
        mine = torch.stack([q[:, self.head.head], k[:, self.group], v[:, self.group]])  # [3, pos, d_head]
        scale = self._scale(x, mine)
        normed = [self._normed(letter, whole, one) for letter, whole, one in (("q", q, mine[0]), ("k", k, mine[1]))]
        turned = [self._turn(one[0]) for one in normed]
        return Heard(scale, turned[0], turned[1], mine[2], normed[0][1], normed[1][1], turned[0] @ turned[1].T)

    def calibrate(self, heard: Heard, pattern: Tensor) -> tuple[float, float, float]:
        """Sums that fit c to the model's own pattern A [query, key]: product², product · log A, (log A)², centred query by query."""
        wide = pattern.double().cpu()
        seen = self.visible(len(wide)) & (wide > FAINT)
        log = torch.where(seen, wide.clamp(min=FAINT).log(), 0.0)
        mine, theirs = centred(heard.product, seen), centred(log, seen)
        return float((mine * mine).sum()), float((mine * theirs).sum()), float((theirs * theirs).sum())

    def settle(self, sums: "Sequence[float]") -> None:
        """The factor c from the sums of `calibrate`. Raises `InterpError` where the model's scores are no multiple of the products."""
        ours, both, theirs = sums
        tiny = 1e-10 * max(theirs, 1.0)
        self.factor = both / ours if ours > tiny else self.lm.spec.d_head**-0.5  # a head without scores has no factor
        rest = max(theirs - (both * both / ours if ours > tiny else 0.0), 0.0)
        if rest**0.5 > MISFIT[self.lm.spec.dtype] * max(theirs, 1e-6) ** 0.5:
            raise InterpError(
                f"the attention scores of head {self.head} of {self.lm.spec.name} ({self.lm.spec.family}) are no multiple of the products "
                f"of its queries and keys (relative remainder {(rest / theirs) ** 0.5:.2g}); soft-capped scores (Gemma 2) are not. They do "
                "not split into what writers contribute. Use activation or path patching on this model."
            )

    def score(self, heard: Heard) -> Tensor:
        """Scores before the softmax [query, key]; keys that a query does not see are left in."""
        return self.factor * heard.product

    def pattern(self, heard: Heard) -> Tensor:
        """Attention probabilities [query, key]."""
        score = self.score(heard)
        return score.masked_fill(~self.visible(len(score)), -torch.inf).softmax(dim=-1)

    def aim(self, heard: Heard) -> tuple[Tensor, Tensor]:
        """The direction of what the head puts out at each query, as a vector of values [pos, d_head], and its length [pos]."""
        out = self.pattern(heard) @ heard.v @ self.W_O  # [pos, d_model]
        size = out.norm(dim=-1)
        unit = torch.where(size[:, None] > 0, out / size.clamp(min=1e-300)[:, None], 0.0)
        return unit @ self.W_O.T, size

    def read_in(self, kind: str, written: Tensor) -> Tensor:
        """Writes [..., d_model] through W_Q, W_K or W_V and the gain and centring of the norm before it, [..., d_head]."""
        return written @ self.W["QKV".index(kind)]

    def images(self, kind: str, heard: Heard, linear: Tensor) -> Tensor:
        """What writes become on the way to the score: from `read_in`'s [n, pos, d_head], parts of q and k (normed, turned) or of v."""
        image = heard.scale[:, None] * linear
        if kind == "V":
            return image
        return self._turn(image * self.gains[kind.lower()] * self._norms(kind, heard)[:, None])

    def worth(self, kind: str, heard: Heard, images: Tensor) -> Tensor:
        """What `images` contribute at each pair of tokens, [n, query, key]; 0 at keys that are not seen."""
        seen = self.visible(images.shape[1])
        if kind == "Q":
            return torch.where(seen, self.factor * images @ heard.k.T, 0.0)
        if kind == "K":
            return torch.where(seen, self.factor * heard.q @ images.mT, 0.0)
        return self.pattern(heard) * (self.aim(heard)[0] @ images.mT)

    def pull(self, kind: str, heard: Heard, D: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Questions D [n, query, key] as functions of the stream [n, pos, d_model]; the biases' part [n]; the whole answer [n]."""
        number = "QKV".index(kind)
        if kind == "Q":
            each, have = self.factor * D @ heard.k, heard.q
        elif kind == "K":
            each, have = self.factor * D.mT @ heard.q, heard.k
        else:
            each, have = (D * self.pattern(heard)).mT @ self.aim(heard)[0], heard.v
        whole = (each * have).sum(dim=(1, 2))
        if kind != "V":
            turned = torch.einsum("npe,phe->nph", each, self._table(len(have))) if self._rotary else each
            each = turned * self.gains[kind.lower()] * self._norms(kind, heard)[:, None]
        bias = (each * self.b[number]).sum(dim=(1, 2))
        return heard.scale[:, None] * (each @ self.W[number].T), bias, whole

    @property
    def _rotary(self) -> bool:
        return self.lm.spec.positions == "rotary"

    def _norms(self, kind: str, heard: Heard) -> Tensor:
        return heard.q_norm if kind == "Q" else heard.k_norm

    def _scale(self, x: Tensor, mine: Tensor) -> Tensor:
        image = torch.einsum("pd,ndh->nph", x, self.W)
        wanted = mine - self.b[:, None]
        size = (image * image).sum(dim=(0, 2))
        scale = torch.where(size > 0, (image * wanted).sum(dim=(0, 2)) / size.clamp(min=1e-300), 0.0)
        off = float((wanted - scale[:, None] * image).norm()) / max(float(wanted.norm()), 1e-300)
        if bool(size.any()) and off > MISFIT[self.lm.spec.dtype]:
            raise InterpError(
                f"queries, keys and values of head {self.head} of {self.lm.spec.name} are not what its norm and its weights make of the "
                f"stream (relative remainder {off:.2g}), so they cannot be split into what was written. Report this checkpoint."
            )
        return scale

    def _gain(self, letter: str) -> Tensor | float:
        """The gain of a norm on queries or keys, [d_head]."""
        if letter not in self.lm.weights.norms:
            return 1.0
        gain = _wide(self.lm.weights.norm(letter, self.head.layer)[0])
        width = self.lm.spec.d_head
        if len(gain) == width:
            return gain
        return gain.reshape(-1, width)[self.head.head if letter == "q" else self.group]  # over all heads (OLMo 2)

    def _normed(self, letter: str, whole: Tensor, mine: Tensor) -> tuple[Tensor, Tensor]:
        """Queries or keys [pos, d_head] after their norm and its gain, and what the norm multiplied them by [pos]."""
        if letter not in self.lm.weights.norms:
            return mine, torch.ones(len(mine), dtype=torch.float64)
        joint = len(self.lm.weights.norm(letter, self.head.layer)[0]) != self.lm.spec.d_head
        over = rearrange(whole, "pos head h -> pos (head h)") if joint else mine
        norm = over.square().mean(dim=-1).clamp(min=1e-300).rsqrt()
        return mine * norm[:, None] * self.gains[letter], norm

    def _table(self, length: int) -> Tensor:
        """R_t of the first positions, [pos, d_head, d_head]."""
        width = self.lm.spec.d_head
        known = self._turns.get(self.head.layer, torch.empty(0, width, width, dtype=torch.float64))
        if len(known) < length:
            get = self.lm.weights.rotation
            more = [get(self.head.layer, place).double().cpu() for place in range(len(known), length)]
            known = self._turns[self.head.layer] = torch.cat([known, torch.stack(more)])
        return known[:length]

    def _turn(self, x: Tensor) -> Tensor:
        """x [..., pos, d_head] turned by its positions."""
        return torch.einsum("...ph,phe->...pe", x, self._table(x.shape[-2])) if self._rotary else x


def projections_of(lm: "LM", layer: int) -> "list[Tensor | None]":
    """W_Q, W_K, W_V and their biases of a layer, all heads, with the norm before them folded in where there is one."""
    weights, folded = lm.weights, lm.weights.pre_norm
    views = weights.W_Q, weights.W_K, weights.W_V, weights.b_Q, weights.b_K, weights.b_V
    return [view(layer, folded=folded) for view in views]


def centred(x: Tensor, seen: Tensor) -> Tensor:
    """x [..., query, key] less its mean over the keys that are seen [query, key]; 0 elsewhere."""
    count = seen.sum(dim=-1, keepdim=True).clamp(min=1)
    held = torch.where(seen, x, 0.0)
    return torch.where(seen, held - held.sum(dim=-1, keepdim=True) / count, 0.0)


def _wide(weight: Tensor) -> Tensor:
    return weight.detach().double().cpu()
