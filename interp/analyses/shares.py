"""Write shares: how much of the residual stream does each sublayer write?

    attn[l] = mean_t |attn_out[l, t]| / |resid_post[l, t]|            mlp[l] = mean_t |mlp_out[l, t]| / |resid_post[l, t]|

with the Euclidean norm, and `norm[l]`, the mean of |resid_post| itself, whose growth with depth is half of the story. A layer that writes
a large share has the say there; a layer whose share jumps after an edit or a fine-tuning is where to look first (it is the "importance"
that Gupta et al. 2024 follow through sequential edits, "Norm Growth and Rank in Sequential Model Editing").

When it misleads
- The norm is not the effect: a write along a direction that nobody reads counts in full, and shares do not add up to 1, because writes
  may cancel or point the same way.
- The first token of a row is an attention sink in many models, with a norm hundreds of times the others'; `skip` leaves it out.
- Streams grow with depth in pre-norm models, so late shares are small by construction. Compare a layer with itself across checkpoints.

    import interp
    from interp.analyses.shares import WriteShares
    lm = interp.load("atlas")
    text = interp.data.corpus(interp.reference.text("atlas"), lm.tokenizer, n_ctx=lm.spec.n_ctx)
    shares = WriteShares()(lm, text)
    shares.by_layer()["mean"].sel(part="mlp")
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
from interp.data import Corpus, pack

from .streams import check_corpus, clusters_of, streams

if TYPE_CHECKING:
    from interp.core.lm import LM

PARTS = ("attn", "mlp")


class ShareResult(Result):
    """Write shares of every document.

    data:
        share  [document, part, layer]   mean over the document's tokens; part is attn or mlp
        norm   [document, layer]         mean norm of resid_post
        tokens [document]                how many tokens were read
    coords: document (ids), part, layer, text along document (which text each is a piece of). attrs: skip.
    """

    figure: ClassVar[str] = "shares"
    main: ClassVar[str] = "share"

    def by_layer(self, level: float = 0.95) -> xr.Dataset:
        """Means over documents: mean, ci_lo, ci_hi [part, layer]."""
        mean, low, high = bootstrap_ci(self.data["share"], "document", level=level, clusters=clusters_of(self.data))
        return xr.Dataset({"mean": mean, "ci_lo": low, "ci_hi": high})

    def headline(self) -> dict[str, float]:
        """The largest mean share of each part, with its layer, and how much the stream grows."""
        mean, norm = self.data["share"].mean("document"), self.data["norm"].mean("document").values
        top = {str(part): mean.sel(part=part).values for part in mean["part"].values}
        named = {
            f"largest {part} share: layer {int(values.argmax())}": float(values.max()) for part, values in top.items()
        }
        return {**named, "stream norm, last / first layer": float(norm[-1] / norm[0])}

    def thumbnail(self) -> xr.DataArray | None:
        """Shares, parts by layers."""
        return self.data["share"].mean("document")


@dataclass(frozen=True)
class WriteShares(Analysis[ShareResult]):
    """The share of the residual stream that attention and MLP of each layer write, on a corpus."""

    skip: int = 1
    """Tokens at the start of each document that are left out (attention sinks)."""
    batch_tokens: int = 1024
    """Tokens read at once; all layers' streams and outputs are in memory for them."""

    def __post_init__(self) -> None:
        if self.skip < 0 or self.batch_tokens < 1:
            raise BadInput(
                f"`skip` must not be negative and `batch_tokens` at least 1; not {self.skip}, {self.batch_tokens}."
            )

    def check(self, lm: "LM", data: Any) -> None:
        """A corpus that fits the model, with a document longer than what is skipped."""
        check_corpus(lm, data)
        if max(data.lengths) <= self.skip:
            raise BadInput(
                f"no document of the corpus is longer than the {self.skip} tokens skipped. Bring longer text."
            )

    def cost(self, lm: "LM", data: Any = None) -> Cost:
        """One forward pass over the corpus, without the unembedding."""
        room = self.batch_tokens * lm.spec.d_model * lm.spec.n_layers * 3 * lm.spec.bytes_per_value
        return Cost(float(len(pack(data.lengths, self.batch_tokens))), data.n_tokens, room)

    def run(self, lm: "LM", data: Corpus, store: Any) -> ShareResult:
        """Read the corpus, a few documents at a time; only norms are kept."""
        keep = [place for place, length in enumerate(data.lengths) if length > self.skip]
        layers = range(lm.spec.n_layers)
        share, norm = np.zeros((len(keep), len(PARTS), len(layers))), np.zeros((len(keep), len(layers)))
        sites = [Site(kind, layer) for layer in layers for kind in ("attn_out", "mlp_out", "resid_post")]
        row_of = {place: row for row, place in enumerate(keep)}
        documents = streams(lm, data, sites, store, budget=self.batch_tokens)
        for place, read in track(documents, "write shares", total=len(data)):
            if place not in row_of:
                continue
            row = row_of[place]
            size = {site: x[self.skip :].float().norm(dim=-1).cpu() for site, x in read.items()}  # [token]
            for layer in layers:
                stream = size[Site("resid_post", layer)]
                norm[row, layer] = float(stream.mean())
                for index, kind in enumerate(("attn_out", "mlp_out")):
                    share[row, index, layer] = float(torch.nan_to_num(size[Site(kind, layer)] / stream).mean())
        coords = {
            "document": [data.ids[place] for place in keep], "part": list(PARTS), "layer": np.arange(len(layers)),
            "text": ("document", [data.texts[place] for place in keep]),
        }  # fmt: skip
        columns: dict[str, Any] = {
            "share": (("document", "part", "layer"), share), "norm": (("document", "layer"), norm),
            "tokens": ("document", [data.lengths[place] - self.skip for place in keep]),
        }  # fmt: skip
        return ShareResult(xr.Dataset(columns, coords, {"skip": self.skip}))
