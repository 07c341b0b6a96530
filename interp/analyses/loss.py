"""Loss by position: how well does the model predict, and does more context help?

The question. A model that uses its context predicts the 500th token of a document better than the 50th. The curve of the negative
log-likelihood (NLL) over positions is the first sanity check of a checkpoint, the alarm for a collapsed edit, and, as the drop between
an early and a late position, a measure of in-context learning:

    nll[d, p]  = -ln P(token p of document d | tokens before it)      nats
    perplexity = exp(mean of all nll)
    gain       = mean nll at an early position - mean nll at a late one      (larger is better)

Entropy of the predicted distribution stands beside it: a model that is calibrated has the same mean entropy as loss.

Source. Olsson et al. 2022, "In-context Learning and Induction Heads" (arXiv 2209.11895), for the gain (their score has the other sign).
Deviation: positions that few documents reach are kept, with their count, not cut off.

When it misleads
- Pieces that were cut out of longer texts lack their context, so early positions look worse than they are: see `Corpus`.
- Late positions are averages over the *long* documents only; compare positions within documents that reach both (`gain` does).
- Pieces of one text are not independent, so intervals resample whole texts. With a single text they resample its pieces, and are too
  narrow.
- Loss on text from another distribution, or from a generated probe, says little about a model; compare checkpoints, not families.

    import interp
    lm = interp.load("atlas")
    text = interp.data.corpus("corpus.txt", lm.tokenizer, n_ctx=lm.spec.n_ctx)
    loss = interp.LossByPosition()(lm, text)
    loss.perplexity(), loss.by_position(), loss.gain()
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
import xarray as xr

from interp.core.analysis import Analysis, Cost, Result
from interp.core.errors import BadInput
from interp.core.progress import track
from interp.core.site import Site
from interp.core.stats import bootstrap_ci
from interp.data import pack

from .streams import POSITIONS, check_predictable, clusters_of, streams, token_scores

if TYPE_CHECKING:
    from interp.core.lm import LM


class LossResult(Result):
    """Loss of every token of every document.

    data (dims document, pos; documents shorter than the longest are padded with NaN):
        nll      [document, pos]    nats; NaN at position 0, which nothing precedes
        entropy  [document, pos]    nats, of the distribution that predicted the token at pos
        top1     [document, pos]    1 where the token was the most probable one, else 0
    coords: document (ids), pos (0...), text along document (which text each is a piece of). attrs: bos.
    """

    figure: ClassVar[str] = "loss"
    main: ClassVar[str] = "nll"

    def mean(self, level: float = 0.95) -> dict[str, float]:
        """Mean loss in nats a token, with its interval bootstrapped over texts, and the number of tokens."""
        values = self.data["nll"].values
        known = np.isfinite(values)
        groups = clusters_of(self.data)
        labels = np.arange(len(values)) if groups is None else np.asarray(groups)
        each = np.broadcast_to(labels[:, None], values.shape)[known].tolist()
        mean, low, high = bootstrap_ci(values[known], level=level, name="loss", clusters=each)
        return {"nll": float(mean), "ci_lo": float(low), "ci_hi": float(high), "n": float(known.sum())}

    def perplexity(self, level: float = 0.95) -> dict[str, float]:
        """exp(mean loss), with its interval."""
        return {name: float(np.exp(value)) for name, value in self.mean(level).items() if name != "n"}

    def by_position(self, level: float = 0.95, *, bins: int | None = None) -> xr.Dataset:
        """Mean loss at each position: mean, ci_lo, ci_hi, entropy and n (documents that reach it) [pos].

        With `bins`, neighbouring positions are taken together, in at most so many groups that widen as context grows: each document's
        mean over the group first, then the documents. `pos` is then the group's geometric centre.
        """
        values, entropy = self.data["nll"].values, self.data["entropy"].values
        keep = np.flatnonzero(np.isfinite(values).any(axis=0))
        places, values, entropy = keep.astype(float), values[:, keep], entropy[:, keep]
        if bins is not None and bins < len(keep):
            groups = np.split(np.arange(len(keep)), _cuts(len(keep), bins))
            places = np.array([np.exp(np.log(keep[group]).mean()) for group in groups])
            values, entropy = (
                np.stack([_nanmean(table[:, group]) for group in groups], axis=1) for table in (values, entropy)
            )
        mean, low, high = bootstrap_ci(values, level=level, clusters=clusters_of(self.data))
        columns = {
            "mean": mean, "ci_lo": low, "ci_hi": high,
            "entropy": np.nanmean(entropy, axis=0), "n": np.isfinite(values).sum(axis=0),
        }  # fmt: skip
        pos = keep if len(places) == len(keep) else places
        return xr.Dataset({name: ("pos", column) for name, column in columns.items()}, coords={"pos": pos})

    def gain(self, early: int | None = None, late: int | None = None, level: float = 0.95) -> dict[str, float]:
        """How much lower the loss is around the late position than around the early one, in documents that reach both.

        Around = within an eighth of the position. By default late is the last position that half of the documents reach, and early a
        tenth of it. Positive: context helps. Raises `BadInput` where no document reaches the late position.
        """
        values = self.data["nll"].values
        reach = np.isfinite(values).sum(axis=1)
        late = int(np.median(reach)) if late is None else late
        early = max(1, late // 10) if early is None else early
        if not 0 < early < late:
            raise BadInput(f"`early` and `late` must be positions with 0 < early < late; not {early} and {late}.")
        both, groups = values[reach >= late], clusters_of(self.data)
        if not len(both):
            raise BadInput(f"no document reaches position {late}; the longest has {int(reach.max())} predicted tokens.")
        drop = _around(both, early) - _around(both, late)
        _, low, high = bootstrap_ci(
            drop, level=level, clusters=None if groups is None else np.asarray(groups)[reach >= late].tolist()
        )
        found = {"gain": float(drop.mean()), "ci_lo": float(low), "ci_hi": float(high), "n": float(len(drop))}
        return found | {"early": float(early), "late": float(late)}

    def headline(self) -> dict[str, float]:
        """Loss, perplexity, and the share of tokens that were the model's first guess."""
        return {
            "loss, nats a token": self.mean()["nll"],
            "perplexity": self.perplexity()["nll"],
            "first guess right": float(np.nanmean(self.data["top1"].values)),
        }

    def thumbnail(self) -> xr.DataArray | None:
        """The mean curve."""
        return self.by_position()["mean"].rename("nll")


@dataclass(frozen=True)
class LossByPosition(Analysis[LossResult]):
    """Loss, entropy and first-guess accuracy of every token of a corpus."""

    batch_tokens: int = 4096
    """Tokens in one forward pass, where nothing is read from a store."""

    def __post_init__(self) -> None:
        if self.batch_tokens < 1:
            raise BadInput(f"`batch_tokens` must be at least 1; not {self.batch_tokens}.")

    def check(self, lm: "LM", data: Any) -> None:
        """A corpus whose documents fit the context and hold two tokens or more somewhere."""
        check_predictable(lm, data)

    def cost(self, lm: "LM", data: Any = None) -> Cost:
        """One forward pass over the corpus, or none where the store has its last residual stream."""
        room = max(self.batch_tokens, *data.lengths) * lm.spec.d_model * 8 + POSITIONS * lm.spec.vocab * 8
        return Cost(float(len(pack(data.lengths, self.batch_tokens))), data.n_tokens, room)

    def run(self, lm: "LM", data: Any, store: Any) -> LossResult:
        """Read the last residual stream, score it document by document; only three numbers a token are kept."""
        shape = (len(data), max(data.lengths))
        scores = {name: np.full(shape, np.nan, dtype=np.float32) for name in ("nll", "entropy", "top1")}
        last = Site("resid_post", lm.spec.n_layers - 1)
        documents = streams(lm, data, [last], store, budget=self.batch_tokens)
        for place, read in track(documents, "loss by position", total=len(data)):
            for here, logp, target in token_scores(lm, read[last], data.documents[place]):
                columns = slice(here.start + 1, here.stop + 1)
                scores["nll"][place, columns] = -logp.gather(-1, target[:, None])[:, 0].cpu().numpy()
                scores["entropy"][place, columns] = (
                    -torch.special.xlogy(logp.exp(), logp.exp()).sum(dim=-1).cpu().numpy()
                )
                scores["top1"][place, columns] = (logp.argmax(dim=-1) == target).cpu().numpy()
        dims = ("document", "pos")
        coords = {"document": list(data.ids), "pos": np.arange(shape[1]), "text": ("document", list(data.texts))}
        return LossResult(
            xr.Dataset({name: (dims, values) for name, values in scores.items()}, coords, {"bos": data.bos})
        )


def _around(values: np.ndarray, position: int) -> np.ndarray:
    half = max(1, position // 8)
    return np.nanmean(values[:, max(1, position - half) : position + half + 1], axis=1)


def _cuts(count: int, bins: int) -> np.ndarray:
    """Where to cut `count` positions, counted from 1, into at most `bins` groups of equal ratio."""
    edges = np.unique(np.round(np.geomspace(1, count + 1, bins + 1)).astype(int))
    return edges[1:-1] - 1


def _nanmean(values: np.ndarray) -> np.ndarray:
    """Mean of each row's known entries, NaN for a row without any."""
    known = np.isfinite(values)
    with np.errstate(invalid="ignore"):
        return np.where(known, values, 0.0).sum(axis=1) / known.sum(axis=1)
