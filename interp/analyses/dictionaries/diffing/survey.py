"""One reading of the text through both models and the crosscoder: everything that is said of a latent besides its decoders."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor

from interp.core.dictionary import Codes, Dictionary
from interp.core.errors import BadInput
from interp.core.progress import Progress

from .scaling import MODELS, ScalingSums

ROWS = 4096
"""Rows that are encoded at once."""


class Survey:
    """Sums over the tokens of a corpus: latent scaling, reconstruction, which tokens a latent is on, and where it is strongest."""

    def __init__(self, dictionary: Dictionary, vocab: int, *, examples: int) -> None:
        """For a crosscoder of views called base and tuned; `examples` strongest rows a latent are kept."""
        widths = {view.name: view.width for view in dictionary.config.writes}
        self.dictionary, self.sums = dictionary, ScalingSums(dictionary.latents, widths)
        self.total = {model: torch.zeros(widths[model], dtype=torch.float64) for model in MODELS}
        self.energy, self.error = dict.fromkeys(MODELS, 0.0), dict.fromkeys(MODELS, 0.0)
        self.on = 0
        self.by_token = sp.csr_matrix((dictionary.latents, vocab))
        self.best = np.full((dictionary.latents, examples), -np.inf)
        self.where = np.full((dictionary.latents, examples), -1, dtype=np.int64)

    def run(self, rows: dict[str, Any], numbers: Tensor, tokens: Tensor) -> "Survey":
        """Read rows (by number, rising) of both views; `tokens` [row] are the ids of all rows."""
        with Progress("reading two models", len(numbers)) as progress:
            for part in numbers.split(ROWS):
                self.add({model: rows[model].take(part) for model in MODELS}, part, tokens[part])
                progress.update(len(part))
        return self

    def add(self, raw: dict[str, Tensor], numbers: Tensor, tokens: Tensor) -> None:
        """Take in raw rows [row, d] of both models. Raises `BadInput` where they are not finite."""
        raw = {model: rows.to(self.dictionary.device) for model, rows in raw.items()}
        for model, rows in raw.items():
            if not bool(rows.isfinite().all()):
                raise BadInput(
                    f"the {model} model's activations hold NaN or infinite values. Load it with dtype='float32'."
                )
        codes = self.dictionary.codes(raw)
        x, made = self.dictionary.normalise(raw), self.dictionary.reconstruct(codes)
        x, made = ({model: part[model].cpu() for model in MODELS} for part in (x, made))
        codes = codes.to("cpu")
        self.sums.add(codes, x, made)
        for model in MODELS:
            wide = x[model].double()
            self.total[model] += wide.sum(dim=0)
            self.energy[model] += float((wide**2).sum())
            self.error[model] += float(((wide - made[model].double()) ** 2).sum())
        self._tally(codes, numbers.numpy(), tokens.numpy())

    def _tally(self, codes: Codes, numbers: np.ndarray, tokens: np.ndarray) -> None:
        latent, value, row = codes.ids.numpy(), codes.values.double().numpy(), codes.row_of().numpy()
        self.on += len(latent)
        self.by_token = self.by_token + sp.csr_matrix((value, (latent, tokens[row])), shape=self.by_token.shape)
        order = np.lexsort((row, -value, latent))
        latent, value, row = latent[order], value[order], row[order]
        met, begins = np.unique(latent, return_index=True)
        rank = np.arange(len(latent)) - np.repeat(begins, np.diff(np.append(begins, len(latent))))
        n = self.best.shape[1]
        keep = rank < n
        place = np.searchsorted(met, latent[keep])
        best, where = np.full((len(met), n), -np.inf), np.full((len(met), n), -1, dtype=np.int64)
        best[place, rank[keep]], where[place, rank[keep]] = value[keep], numbers[row[keep]]
        best, where = np.hstack([self.best[met], best]), np.hstack([self.where[met], where])
        first = np.argsort(-best, axis=1, kind="stable")[:, :n]
        self.best[met], self.where[met] = np.take_along_axis(best, first, 1), np.take_along_axis(where, first, 1)

    def fvu(self) -> dict[str, float]:
        """Share of variance that is not reconstructed, of each model."""
        n = self.sums.rows
        spread = {model: self.energy[model] - float((self.total[model] ** 2).sum()) / n for model in MODELS}
        return {model: self.error[model] / spread[model] if spread[model] > 0 else float("nan") for model in MODELS}

    def units(self) -> dict[str, float]:
        """What brings both models' rows to one size: 1 where the dictionary does so, else (folded, or trained on raw rows) as measured.

        Without it the model whose activations are larger would own the latents.
        """
        scalings = self.dictionary.scalings
        if not all(scalings[model].trivial for model in MODELS):
            return dict.fromkeys(MODELS, 1.0)
        energy = {model: self.energy[model] / self.sums.rows for model in MODELS}
        return {
            model: (self.sums.mean["error", model].numel() / energy[model]) ** 0.5 if energy[model] > 0 else 1.0
            for model in MODELS
        }

    def tokens_of(self, latent: int, n: int) -> list[tuple[int, float]]:
        """The `n` tokens with the largest share of a latent's code, (id, share); fewer where it is on on fewer."""
        row = self.by_token.getrow(latent)
        order = np.lexsort((row.indices, -row.data))[:n]
        whole = float(row.data.sum())
        return [(int(row.indices[place]), float(row.data[place]) / whole) for place in order] if whole > 0 else []


def spaced(lengths: Sequence[int], draw: np.random.Generator, budget: int) -> list[int]:
    """Documents in a random order until they have `budget` tokens, at least one; rising. All, where there are fewer tokens."""
    order = draw.permutation(len(lengths))
    ends = np.cumsum(np.asarray(lengths)[order])
    return sorted(int(place) for place in order[: int(np.searchsorted(ends, budget, side="left")) + 1])
