"""Logit lens: at which depth is the prediction made?

The question. Read the residual stream after every block as if it were the last: through the model's own final norm, unembedding and
soft cap. How far is that from the final distribution, and how well does it predict the next token?

    p_l      = softmax(unembed(norm(resid after block l)))
    nll_l    = -ln p_l(next token)              kl_l = KL(p_final || p_l)              agree_l = [argmax p_l = argmax p_final]

Depth 0 is the embedding, depth L the model itself (kl 0, agreement 1, by construction exactly). Two summaries: the first depth whose mean
agreement reaches one half, and the area under the KL curve over depth, in nats.

Source. nostalgebraist 2020, "interpreting GPT: the logit lens"; Belrose et al. 2023 (arXiv 2303.08112) for why it misleads.

How. No norm or head is written again: the run is recorded once and its *last* residual stream replaced by an earlier one, which makes the
model itself read it out. So soft caps and logit scales of any family are right.

When it misleads
- Early layers need not write in the basis that the unembedding reads: a high KL there says that the lens does not fit, not that nothing
  is known. Use the curve between checkpoints of one run; do not compare families.
- Agreement with the final layer is not correctness; look at the loss beside it.

    import interp
    lm = interp.load("atlas")
    text = interp.data.corpus(interp.data.neutral_text(), lm.tokenizer, n_ctx=lm.spec.n_ctx)
    lens = interp.LogitLens()(lm, text)
    lens.by_depth(), lens.half_depth()
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from interp.core.analysis import Analysis, Cost, Result
from interp.core.batch import Batch
from interp.core.edit import replace
from interp.core.errors import BadInput
from interp.core.progress import track
from interp.core.site import Site
from interp.core.stats import bootstrap_ci
from interp.data import Corpus

from .batches import check_corpus, clusters_of

if TYPE_CHECKING:
    from interp.core.lm import LM

MEASURES = ("nll", "kl", "agree")


class LensResult(Result):
    """Lens readings of every document.

    data: nll, kl, agree [document, depth]   mean over the document's predicted tokens; nats, nats, share.
    coords: document (ids), depth (0 = embedding, l = after block l - 1); along document tokens (how many were read) and text (which text
    each is a piece of).
    """

    figure: ClassVar[str] = "lens"
    main: ClassVar[str] = "kl"

    def by_depth(self, level: float = 0.95) -> xr.Dataset:
        """Means over tokens, intervals over texts: mean, ci_lo, ci_hi [measure, depth]."""
        tokens, groups = self.data["tokens"].values, clusters_of(self.data)
        labels = np.repeat(np.arange(len(tokens)) if groups is None else groups, tokens).tolist()
        stack = np.stack([self.data[name].values for name in MEASURES], axis=1)  # [document, measure, depth]
        found = bootstrap_ci(np.repeat(stack, tokens, axis=0), level=level, name="lens", clusters=labels)
        dims = ("measure", "depth")
        columns = {name: (dims, part) for name, part in zip(("mean", "ci_lo", "ci_hi"), found, strict=True)}
        return xr.Dataset(columns, {"measure": list(MEASURES), "depth": self.data["depth"].values})

    def half_depth(self) -> int:
        """The first depth at which the lens agrees with the final layer on at least half of the tokens."""
        return int(np.argmax(self._mean("agree").values >= 0.5))

    def kl_area(self) -> float:
        """Area under the mean KL curve, over depth scaled to [0, 1], in nats."""
        kl = self._mean("kl").values
        return float(np.trapezoid(kl, dx=1 / (len(kl) - 1)))

    def headline(self) -> dict[str, float]:
        """The depth from which the lens agrees with the model more often than not, area under KL, final loss."""
        return {
            f"depth where half agrees (of {self.data.sizes['depth'] - 1})": float(self.half_depth()),
            "area under KL, nats": self.kl_area(),
            "final loss, nats a token": float(self._mean("nll")[-1]),
        }

    def thumbnail(self) -> xr.DataArray | None:
        """Mean KL over depth."""
        return self._mean("kl")

    def _mean(self, name: str) -> xr.DataArray:
        """The mean over tokens at each depth."""
        return self.data[name].weighted(self.data["tokens"]).mean("document").rename(name)


@dataclass(frozen=True)
class LogitLens(Analysis[LensResult]):
    """Loss, KL and agreement of every depth's residual stream, read through the model's own head."""

    batch_tokens: int = 1024
    """Tokens that are read out at once; each needs a row of the vocabulary."""

    def __post_init__(self) -> None:
        if self.batch_tokens < 2:
            raise BadInput(f"`batch_tokens` must be at least 2; not {self.batch_tokens}.")

    def check(self, lm: "LM", data: Any) -> None:
        """A corpus that fits the model and has a document of two tokens or more."""
        check_corpus(lm, data)
        if max(data.lengths) < 2:
            raise BadInput(
                "every document of the corpus is one token long: there is nothing to predict. Bring longer text."
            )

    def cost(self, lm: "LM", data: Any = None) -> Cost:
        """One forward pass over the corpus and a readout a layer."""
        used = len(list(_groups(data, self.batch_tokens)))
        return Cost(
            used,
            data.n_tokens,
            self.batch_tokens * lm.spec.vocab * 12,
            f"and {lm.spec.n_layers} readouts of the vocabulary each",
        )

    def run(self, lm: "LM", data: Any, store: Any) -> LensResult:
        """Record each batch of equally long documents once; read every depth out."""
        n_layers = lm.spec.n_layers
        last = Site("resid_post", n_layers - 1)
        depths = [Site("resid_pre", 0), *(Site("resid_post", layer) for layer in range(n_layers - 1))]
        keep = [place for place, length in enumerate(data.lengths) if length > 1]
        table = {name: np.full((len(data), n_layers + 1), np.nan) for name in MEASURES}
        for places in track(list(_groups(data, self.batch_tokens)), "logit lens"):
            batch = Batch.of(torch.stack([data.documents[place] for place in places]))
            base = lm.record(batch, capture=depths)
            assert base.run.logits is not None
            final = base.run.logits[:, :-1].float().log_softmax(dim=-1)  # [document, pos, vocab]
            positions = range(batch.tokens.shape[1] - 1)
            for depth, site in enumerate([*depths, last]):
                if site == last:
                    logp = final
                else:
                    cell = [replace(last, base.run[site])]
                    logp = lm.resume(base, [cell], positions=positions)[0].float().log_softmax(dim=-1)
                for name, values in _read(logp, final, batch.tokens[:, 1:].to(logp.device)).items():
                    table[name][places, depth] = values
        dims = ("document", "depth")
        columns = {name: (dims, values[keep]) for name, values in table.items()}
        coords = {
            "document": [data.ids[place] for place in keep],
            "depth": np.arange(n_layers + 1),
            "tokens": ("document", [data.lengths[place] - 1 for place in keep]),
            "text": ("document", [data.texts[place] for place in keep]),
        }
        return LensResult(xr.Dataset(columns, coords))


def _read(logp: Tensor, final: Tensor, target: Tensor) -> dict[str, np.ndarray]:
    """Means over positions of log-probabilities [document, pos, vocab] against the final ones and the true tokens."""
    nll = -logp.gather(-1, target[..., None])[..., 0]
    kl = (final.exp() * (final - logp)).sum(dim=-1)
    agree = (logp.argmax(dim=-1) == final.argmax(dim=-1)).float()
    return {name: values.mean(dim=1).cpu().numpy() for name, values in (("nll", nll), ("kl", kl), ("agree", agree))}


def _groups(data: Corpus, budget: int) -> Iterator[list[int]]:
    """Places of equally long documents (two tokens or more), at most `budget` tokens a group, or one document."""
    by_length: dict[int, list[int]] = {}
    for place, length in enumerate(data.lengths):
        if length > 1:
            by_length.setdefault(length, []).append(place)
    for length, places in sorted(by_length.items()):
        rows = max(1, budget // length)
        yield from (places[start : start + rows] for start in range(0, len(places), rows))
