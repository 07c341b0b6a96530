"""What edits do to predictions: divergence, loss or answers, and which tokens gain and lose."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from interp.core.batch import Batch
from interp.core.edit import Edit
from interp.core.lm import LM, Recording
from interp.core.site import Site

MEASURES = {"next": ("kl", "nll"), "answer": ("kl", "logprob", "logit_diff")}
PART = 64
"""Positions whose distributions over the vocabulary are held at once."""
CELLS = 8
"""Cells that are resumed at once."""


class Group:
    """Rows of one length, recorded once; each cell of edits resumes from that."""

    def __init__(
        self, lm: LM, batch: Batch, *, start: int, answers: Sequence[int], foils: Sequence[int], measure: str
    ) -> None:
        """`start` is the first position that counts; answers count at the last one only."""
        self.lm, self.batch, self.measure = lm, batch, measure
        self.last = Site("resid_post", lm.spec.n_layers - 1)
        self.base: Recording = lm.record(batch, capture=[self.last])
        length = batch.tokens.shape[1]
        self.positions = [length - 1] if measure == "answer" else list(range(start, length))
        self.answers, self.foils = torch.tensor(list(answers)), torch.tensor(list(foils))
        self.stream = self.base.run[self.last][:, self.positions]
        self.loss = torch.full(self.stream.shape[:2], torch.nan, dtype=torch.float64)
        if measure == "next":
            self.loss = self._losses()
        self.clean, _ = self._read(self.stream, keep=False)

    def outcomes(self, cells: Sequence[Sequence[Edit]], keep: int) -> tuple[np.ndarray, Tensor]:
        """Measures [cell, measure, row] and, of the first `keep` cells, the sum over positions of what each token gains [cell, vocab]."""
        found, gained = [], []
        for first in range(0, len(cells), CELLS):
            part = cells[first : first + CELLS]
            streams = self.lm.resume_sites(self.base, part, [self.last], at=self.positions)[self.last]
            for number, stream in enumerate(streams, start=first):
                values, gain = self._read(stream, keep=number < keep)
                found.append(values)
                gained += [gain] if number < keep else []
        vocab = self.lm.spec.vocab
        return np.stack(found), torch.stack(gained) if gained else torch.zeros(0, vocab, dtype=torch.float64)

    def _read(self, stream: Tensor, *, keep: bool) -> tuple[np.ndarray, Tensor]:
        """Measures [measure, row] of streams [row, pos, d_model], means over positions, and gains [vocab].

        Positions whose stream is the clean one, bit for bit, are not read out: nothing has changed there.
        """
        kl, nll = torch.zeros_like(self.loss), self.loss.clone()
        gain = torch.zeros(self.lm.spec.vocab, dtype=torch.float64)
        follow = self._followers().flatten()
        flat, clean = stream.flatten(0, 1), self.stream.flatten(0, 1)
        for places in (flat != clean).any(dim=-1).nonzero().flatten().split(PART):
            before, after = (self._logp(one[places]) for one in (clean, flat))
            at = places.cpu()
            kl.view(-1)[at] = (before.exp() * (before - after)).sum(dim=-1).cpu()
            if self.measure == "next":
                seen = follow[at]
                loss = -after.gather(-1, seen.clamp(min=0).to(after.device)[:, None])[:, 0].cpu()
                nll.view(-1)[at] = torch.where(seen >= 0, loss, torch.nan)
            if keep:
                gain += (after.exp() - before.exp()).sum(dim=0).cpu()
        out = np.full((len(MEASURES[self.measure]), len(stream)), np.nan)
        out[0] = kl.mean(dim=1).numpy()
        if self.measure == "answer":
            out[1:] = self._answered(stream[:, -1])
        elif nll.shape[1] > 1:
            out[1] = nll[:, :-1].mean(dim=1).numpy()
        return out, gain

    def _followers(self) -> Tensor:
        """The token after each position that counts [row, pos]; -1 after the last."""
        padded = torch.nn.functional.pad(self.batch.tokens, (0, 1), value=-1)
        return padded[:, [place + 1 for place in self.positions]].cpu()

    def _losses(self) -> Tensor:
        """The clean loss of the token after each position [row, pos]; NaN after the last."""
        flat, follow = self.stream.flatten(0, 1), self._followers().flatten()
        parts = [
            -self._logp(part).gather(-1, seen.clamp(min=0).to(part.device)[:, None])[:, 0].cpu()
            for part, seen in zip(flat.split(PART), follow.split(PART), strict=True)
        ]
        return torch.where(follow >= 0, torch.cat(parts), torch.nan).reshape(self.stream.shape[:2])

    def _logp(self, stream: Tensor) -> Tensor:
        """Log-probabilities in float64: in float32 a small divergence is lost in the rounding of its terms, and comes out below zero."""
        return self.lm.unembed(stream).double().log_softmax(dim=-1)

    def _answered(self, stream: Tensor) -> np.ndarray:
        """Log-probability of the answer and its logit less the foil's [2, row] (NaN without a foil)."""
        logits = self.lm.unembed(stream).double().cpu()  # [row, vocab]
        right = logits.gather(-1, self.answers[:, None])[:, 0]
        wrong = logits.gather(-1, self.foils.clamp(min=0)[:, None])[:, 0]
        contrast = torch.where(self.foils >= 0, right - wrong, torch.nan)
        return torch.stack([right - logits.logsumexp(dim=-1), contrast]).numpy()
