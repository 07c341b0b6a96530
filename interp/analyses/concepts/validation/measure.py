"""How a damaged model answers: the target's probability, whether it is still the first choice, and the distance from the original.

    prob, logprob     of the target: the gold answer (all of its tokens), or where there is none the original model's first token
    accuracy          1 where every token of the target is the top one
    kl                KL(original || damaged) of the next token at the end of the prompt, nats

All are computed in float64 from the model's logits.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from interp.core.edit import Edit
from interp.core.lm import LM, Recording
from interp.core.shapes import Float
from interp.core.site import Site

from ..vectors import Vector
from .material import Asked, Group, groups_of

MEASURED = ("prob", "logprob", "accuracy", "kl")
"""What is read off the logits, in the order of the last axis."""


class Meter:
    """Measures one group of rows, under edits of the run or as the weights are now. The original model's values are taken at the start;
    `record` keeps what `resumed` needs."""

    def __init__(self, lm: LM, group: Group, *, record: bool = True) -> None:
        self.lm, self.group = lm, group
        self.base: Recording | None = lm.record(group.batch) if record else None
        logits = self.base.run.logits if self.base is not None else lm.run(group.batch).logits
        assert logits is not None
        self.original = logits[:, list(group.positions)].double().log_softmax(dim=-1)  # [row, token, vocab]
        self.targets = group.targets.to(logits.device)

    def before(self) -> Float[Tensor, "row measured"]:
        """The original model's values, float64, in the order of `MEASURED`."""
        return self._whole(self._read(self.original, torch.arange(len(self.targets)), normed=True)[None])[0]

    def resumed(self, cells: Sequence[Sequence[Edit]]) -> Float[Tensor, "cell row measured"]:
        """Values under each cell of edits, recomputing only what they can change; exactly the original's without an edit."""
        assert self.base is not None
        return self._whole(
            self.lm.resume(self.base, cells, positions=list(self.group.positions), readout=self._readout)
        )

    def now(self) -> Float[Tensor, "row measured"]:
        """Values of the model with its weights as they are now."""
        logits = self._logits()
        return self._whole(self._read(logits, torch.arange(len(self.targets)))[None])[0]

    def divergence(self) -> Float[Tensor, "row token"]:
        """KL(original || model as it is now) where each token of the target is predicted, nats, float64."""
        now = self._logits().double().log_softmax(dim=-1)
        return _kl(self.original, now).cpu()

    def _logits(self) -> Tensor:
        logits = self.lm.run(self.group.batch).logits
        assert logits is not None
        return logits[:, list(self.group.positions)]

    def _readout(self, logits: Tensor, rows: Tensor) -> Tensor:
        """Every target token's log-probability and rank at whichever positions are read, and the distance from the prompt's end."""
        return self._read(logits, rows)

    def _read(self, logits: Tensor, rows: Tensor, *, normed: bool = False) -> Tensor:
        rows = rows.to(self.targets.device)
        logprobs = logits if normed else logits.double().log_softmax(dim=-1)  # [n, position, vocab]
        wanted = self.targets[rows][:, None].expand(-1, logprobs.shape[1], -1)  # [n, position, token]
        hit = logprobs.argmax(dim=-1, keepdim=True) == wanted
        far = _kl(self.original[rows][:, :1], logprobs)[..., None]
        return torch.cat([logprobs.gather(-1, wanted), hit.double(), far], dim=-1)

    def _whole(self, values: Tensor) -> Tensor:
        """The measures [cell, row, measured] of values [cell, row, position, 2 tokens + 1]: each token where it is predicted."""
        count = self.targets.shape[1]
        logprob = values[..., :count].diagonal(dim1=-2, dim2=-1).sum(dim=-1)
        hit = values[..., count : 2 * count].diagonal(dim1=-2, dim2=-1).amin(dim=-1)
        return torch.stack([logprob.exp(), logprob, hit, values[..., 0, -1]], dim=-1).cpu()


def _kl(original: Tensor, other: Tensor) -> Tensor:
    """KL of log-probabilities [..., vocab]; a token that the original excludes adds nothing."""
    return torch.where(original > -torch.inf, original.exp() * (original - other), 0.0).sum(dim=-1)


@torch.no_grad()
def targets_of(lm: LM, asked: Asked, batch_tokens: int) -> tuple[list[tuple[int, ...]], list[bool]]:
    """The tokens that each prompt is scored on, and whether they are a gold answer (else the model's own first token)."""
    targets: list[tuple[int, ...]] = []
    for tokens in asked.tokens:
        ids = tokens.answer_ids
        targets.append(ids[:1] if tokens.answers == "first" else ids)
    gold = [bool(ids) for ids in targets]
    own = [tokens.ids if not known else () for tokens, known in zip(asked.tokens, gold, strict=True)]
    for group in groups_of(own, [(0,) if ids else () for ids in own], batch_tokens):
        first = lm.run(group.batch).last_logits.argmax(dim=-1).tolist()
        for place, token in zip(group.places, first, strict=True):
            targets[place] = (token,)
    return targets, gold


@torch.no_grad()
def coefficients(lm: LM, asked: Asked, batch_tokens: int) -> dict[int, Float[Tensor, "prompt neuron"]]:
    """Mean |m_j| over the tokens of each prompt, for every neuron of the layers that matter, float32."""
    sites = [Site("mlp_post", layer) for layer in asked.layers]
    found = {layer: torch.zeros(len(asked.tokens), lm.spec.d_mlp) for layer in asked.layers}
    for group in groups_of([one.ids for one in asked.tokens], [(0,)] * len(asked.tokens), batch_tokens):
        run = lm.run(group.batch, capture=sites, stop_after=sites[-1])
        for layer, site in zip(asked.layers, sites, strict=True):
            found[layer][list(group.places)] = run[site].float().abs().mean(dim=1).cpu()
    return found


def firing(coefficient: dict[int, Tensor], vectors: Sequence[Vector]) -> Float[Tensor, "prompt vector"]:
    """Mean |m_j| of some vectors in each prompt."""
    return torch.stack([coefficient[one.layer][:, one.index] for one in vectors], dim=1)
