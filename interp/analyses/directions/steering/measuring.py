"""What adding vectors at a site does to neutral texts: the target tokens, the judge's score, and everything else."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from interp.core.edit import Edit, add
from interp.core.lm import LM
from interp.core.progress import track
from interp.core.site import Site

from ..base import Direction
from .material import Rows

MEASURES = ("logprob", "logit", "judge", "kl", "kl_clean", "kl_rest", "nll")
PART = 32
"""Positions whose logits are held at once."""
CELLS = 16
"""Cells that are resumed at once."""


class Meter:
    """Runs rows once, and reads what edits do to them."""

    def __init__(self, lm: LM, rows: Rows, targets: Sequence[int], judge: Direction, capture: Sequence[Site]) -> None:
        """Record the rows, and take the clean distributions. `capture`: sites whose clean activations are kept as well."""
        self.lm, self.rows, self.judge = lm, rows, judge
        self.targets = torch.tensor(list(targets))
        self.last = Site("resid_post", lm.spec.n_layers - 1)
        self.tokens = [rows.batch(group) for group in rows.groups]
        sites = sorted({*capture, self.last}, key=lambda site: site.order)
        self.bases = [lm.record(batch, capture=sites) for batch in self.tokens]
        streams = [base.run[self.last] for base in self.bases]
        self.logp = [lm.unembed(stream).float().log_softmax(dim=-1) for stream in streams]
        self.clean = self._ordered([self._read(group, stream[None]) for group, stream in enumerate(streams)])[0]

    def activations(self, site: Site) -> Tensor:
        """Clean activations of all counted tokens at a site, float64 [token, d]."""
        parts = [base.run[site][:, self.rows.start :].reshape(-1, base.run[site].shape[-1]) for base in self.bases]
        return torch.cat(parts).double().cpu()

    def measure(self, cells: Sequence[Sequence[Edit]], name: str = "steering") -> np.ndarray:
        """What each cell of edits gives, float64 [cell, measure, row]."""
        found = []
        for start in track(range(0, len(cells), CELLS), name):
            part = cells[start : start + CELLS]
            streams = [self.lm.resume_sites(base, part, [self.last])[self.last] for base in self.bases]
            found.append(self._ordered([self._read(group, stream) for group, stream in enumerate(streams)]))
        return np.concatenate(found)

    def _ordered(self, groups: Sequence[np.ndarray]) -> np.ndarray:
        """Groups [cell, measure, row of the group] as one array [cell, measure, row]."""
        out = np.empty((*groups[0].shape[:2], len(self.rows)))
        for places, values in zip(self.rows.groups, groups, strict=True):
            out[:, :, list(places)] = values
        return out

    def _read(self, group: int, streams: Tensor) -> np.ndarray:
        """Means over a row's counted positions [cell, measure, row] of last residual streams [cell, row, pos, d_model]."""
        first = self.rows.start
        tokens = self.tokens[group].tokens
        clean = self.logp[group][:, first:]
        followers = tokens[:, first + 1 :].to(clean.device)
        out = np.empty((len(streams), len(MEASURES), len(tokens)))
        step = max(1, PART // clean.shape[1])
        for row in range(0, len(tokens), step):
            here = slice(row, row + step)
            before = _Clean(clean[here], self.targets)
            for cell, stream in enumerate(streams[:, :, first:]):
                found = self._measures(stream[here], before, followers[here])
                out[cell, :, here] = found.cpu().numpy()
        return out

    def _measures(self, stream: Tensor, clean: "_Clean", followers: Tensor) -> Tensor:
        """[measure, row] of streams [row, pos, d_model] beside clean distributions of the same positions.

        What goes over the vocabulary is float32, summed pairwise, in forms that are exactly 0 where nothing changed.
        """
        logp = self.lm.unembed(stream).float().log_softmax(dim=-1)
        ids = self.targets.to(logp.device)
        chosen = logp[..., ids].double()
        p, gain = logp.exp(), logp - clean.logp
        kl = (p * gain).sum(dim=-1).double()
        rest = _mass(p.index_fill_(-1, ids, 0.0))
        inside = (clean.chosen.exp() * (clean.chosen - chosen)).sum(dim=-1)
        outside = -gain.mul_(clean.others).sum(dim=-1).double()
        kl_rest = outside / clean.rest.exp() - clean.rest + rest
        nll = -logp[:, :-1].gather(-1, followers[..., None])[..., 0].double()
        logit = chosen.mean(dim=-1) - logp.sum(dim=-1).double() / logp.shape[-1]
        judge = stream.double() @ self.judge.vector.to(stream.device) + self.judge.bias
        target = chosen.logsumexp(dim=-1)
        target = target - torch.logaddexp(target, rest)  # exact where the targets have almost all of the probability
        each = [target, logit, judge, kl, inside + outside, kl_rest]
        return torch.stack([*(one.mean(dim=-1) for one in each), nll.mean(dim=-1)])


class _Clean:
    """What is needed of clean log-probabilities [row, pos, vocab] beside every cell."""

    def __init__(self, logp: Tensor, targets: Tensor) -> None:
        ids = targets.to(logp.device)
        self.logp, self.chosen = logp, logp[..., ids].double()
        self.others = logp.exp().index_fill_(-1, ids, 0.0)
        self.rest = _mass(self.others)


def _mass(p: Tensor) -> Tensor:
    """Log of the probability of all that is left in p [..., vocab], float64."""
    return p.sum(dim=-1).double().clamp(min=1e-38).log()


def cells_of(site: Site, shifts: Sequence[Tensor]) -> list[list[Edit]]:
    """One cell a shift [d]: add it at the site, at every token."""
    return [[add(site, shift.float())] for shift in shifts]
