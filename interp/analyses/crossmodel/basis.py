"""Do two models write in the same basis? Three numbers, because each is blind to something.

    cka        linear CKA of the two streams, layer by layer, without the bias of few tokens: 1 for the same geometry *in any basis*
    alignment  mean cosine of the two (centred) streams, token by token: 1 only in the same basis
    barrier    largest rise of the loss on the straight line between the two sets of weights above the line between the two losses, nats

A rotated copy has CKA 1, alignment about 0 and a barrier; a fine-tune has all three good. CKA is nearly saturated between trained models:
it is shown and decides nothing.

Sources. Kornblith et al. 2019 (CKA, arXiv 1905.00414); the estimator without bias: Song et al. 2012; linear barrier: Frankle et al. 2020
(arXiv 1912.05671).

    import interp
    from interp.analyses.crossmodel import basis_check
    base, other = interp.load("atlas"), interp.load("atlas-tuned")
    check = basis_check(base, other, [base.encode(fact.text) for fact in interp.reference.facts("atlas", 20)])
    check.alignment, check.barrier, check.ok()
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from interp.core.batch import Batch
from interp.core.errors import BadInput
from interp.core.lm import LM
from interp.core.seed import generator
from interp.core.shapes import Float
from interp.core.site import Site

MOST_TOKENS = 1500
"""Tokens compared by CKA, whose cost grows with their square."""
FEWEST_TOKENS = 4
"""The estimator of CKA is not defined below."""
POINTS = (0.0, 0.25, 0.5, 0.75, 1.0)
"""Where on the line between the weights the loss is taken."""


@dataclass(frozen=True, eq=False)
class BasisCheck:
    """How close two models' bases are."""

    cka: np.ndarray
    """[layer]."""
    alignment: np.ndarray
    """[layer]."""
    losses: np.ndarray
    """Mean next-token loss at each of `POINTS` between the first model's weights and the second's, nats."""

    @property
    def barrier(self) -> float:
        """The largest rise above the chord, nats; 0 where there is none."""
        chord = self.losses[0] + np.array(POINTS) * (self.losses[-1] - self.losses[0])
        return float(max(0.0, (self.losses - chord).max()))

    def ok(self, *, min_alignment: float = 0.25, max_barrier: float = 1.0) -> bool:
        """Whether patching between them means anything."""
        return bool(self.alignment.min() >= min_alignment and self.barrier <= max_barrier)

    def line(self) -> str:
        """The three numbers in words."""
        worst = int(self.alignment.argmin())
        return (
            f"alignment {self.alignment.min():.2f} (layer {worst}), CKA {self.cka.min():.2f} (layer {int(self.cka.argmin())}), "
            f"barrier {self.barrier:.2f} nats"
        )


def basis_check(lm: LM, other: LM, batches: Sequence[Batch], *, seed: int = 0) -> BasisCheck:
    """Compare the streams after every layer on batches without padding, and the losses on the line between the weights.

    Raises `BadInput` for fewer than `FEWEST_TOKENS` different contexts, or where no token has a next one.
    """
    prefixes = {
        tuple(row[:end]) for batch in batches for row in batch.tokens.tolist() for end in range(1, len(row) + 1)
    }
    if len(prefixes) < FEWEST_TOKENS or max(map(len, prefixes)) < 2:
        raise BadInput(
            f"these prompts have {len(prefixes)} tokens that differ in what they or their past are: too few to tell whether two models "
            f"write in the same basis. Give prompts with at least {FEWEST_TOKENS} together, one of them longer than one token."
        )
    sites = [Site("resid_post", layer) for layer in range(lm.spec.n_layers)]
    streams: list[list[Tensor]] = [[], []]  # per model: [layer, token, d_model] a batch
    for batch in batches:
        for place, model in enumerate((lm, other)):
            run = model.run(batch, capture=sites)
            streams[place].append(torch.stack([run[site].flatten(0, 1).double().cpu() for site in sites]))
    mine, theirs = (torch.cat(parts, dim=1) for parts in streams)
    order = torch.randperm(mine.shape[1], generator=generator(seed, "basis tokens"))[:MOST_TOKENS]
    cka = np.array([linear_cka(a[order], b[order]) for a, b in zip(mine, theirs, strict=True)])
    ours, others = (x - x.mean(dim=1, keepdim=True) for x in (mine, theirs))
    alignment = torch.nn.functional.cosine_similarity(ours, others, dim=-1).mean(dim=1).numpy()
    return BasisCheck(cka, alignment, _line(lm, other, batches))


def linear_cka(x: Float[Tensor, "token d"], y: Float[Tensor, "token e"]) -> float:
    """Linear CKA with the unbiased estimator of HSIC; at most 1, about 0 for independent data, however few the tokens (at least 4)."""
    k, m = (_hollow(z @ z.T) for z in (x, y))
    return float(_hsic(k, m) / (_hsic(k, k) * _hsic(m, m)).clamp_min(1e-300).sqrt())


def _hollow(gram: Tensor) -> Tensor:
    return gram - torch.diag(gram.diagonal())


def _hsic(k: Tensor, m: Tensor) -> Tensor:
    n = len(k)
    return (
        (k * m).sum() + k.sum() * m.sum() / ((n - 1) * (n - 2)) - 2 * (k.sum(dim=0) @ m.sum(dim=1)) / (n - 2)
    ) / (n * (n - 3))  # fmt: skip


def _line(lm: LM, other: LM, batches: Sequence[Batch]) -> np.ndarray:
    """Mean next-token loss between the two sets of weights."""
    ours, theirs = lm.weights.parameters(), other.weights.parameters()
    losses = [_loss(lm, batches)]
    for share in POINTS[1:-1]:
        mixed = {
            name: torch.lerp(x.float(), theirs[name].to(x.device).float(), share).to(x.dtype)
            for name, x in ours.items()
        }
        with lm.edit_weights(mixed):
            losses.append(_loss(lm, batches))
    return np.array([*losses, _loss(other, batches)])


def _loss(lm: LM, batches: Sequence[Batch]) -> float:
    total, count = 0.0, 0
    for batch in batches:
        logits = lm.run(batch).logits
        assert logits is not None
        logprob = logits[:, :-1].double().log_softmax(dim=-1).cpu()
        picked = logprob.gather(-1, batch.tokens[:, 1:, None].cpu())
        total, count = total - float(picked.sum()), count + picked.numel()
    return total / max(count, 1)
