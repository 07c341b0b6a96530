"""Logit lens: at which depth is the prediction made?

The question. Read the residual stream after every block as if it were the last: through the model's own final norm, unembedding and
soft cap. How far is that from the final distribution, and how well does it predict the next token?

    p_l      = softmax(unembed(norm(resid after block l)))
    nll_l    = -ln p_l(next token)              kl_l = KL(p_final || p_l)              agree_l = [argmax p_l = argmax p_final]

Depth 0 is the embedding, depth L the model itself (kl 0, agreement 1, by construction exactly). Two summaries: the first depth whose mean
agreement reaches one half, and the area under the KL curve over depth, in nats.

Source. nostalgebraist 2020, "interpreting GPT: the logit lens"; Belrose et al. 2023 (arXiv 2303.08112) for why it misleads.

How. No norm or head is written again: `LM.unembed` lets the model itself read a stream out, so soft caps and logit scales of any family
are right. The streams come from the activation store where one is given, so a corpus that was captured once costs no forward pass.

When it misleads
- Early layers need not write in the basis that the unembedding reads: a high KL there says that the lens does not fit, not that nothing
  is known. Use the curve between checkpoints of one run; do not compare families.
- Agreement with the final layer is not correctness; look at the loss beside it.

    import interp
    lm = interp.load("atlas")
    text = interp.data.corpus(interp.reference.text("atlas"), lm.tokenizer, n_ctx=lm.spec.n_ctx)
    lens = interp.LogitLens()(lm, text)
    lens.by_depth(), lens.half_depth()
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import xarray as xr
from torch import Tensor

from interp.core.analysis import Analysis, Cost, Result
from interp.core.errors import BadInput
from interp.core.progress import track
from interp.core.site import Site
from interp.core.stats import bootstrap_ci
from interp.data import pack

from .streams import POSITIONS, check_predictable, clusters_of, streams, token_scores

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
    """Tokens in one forward pass, where nothing is read from a store; all layers' streams are held for them."""

    def __post_init__(self) -> None:
        if self.batch_tokens < 2:
            raise BadInput(f"`batch_tokens` must be at least 2; not {self.batch_tokens}.")

    def check(self, lm: "LM", data: Any) -> None:
        """A corpus that fits the model and has a document of two tokens or more."""
        check_predictable(lm, data)

    def cost(self, lm: "LM", data: Any = None) -> Cost:
        """One forward pass over the corpus (none where the store has its residual streams), and a readout a layer."""
        room = (
            self.batch_tokens * lm.spec.d_model * lm.spec.n_layers * lm.spec.bytes_per_value
            + POSITIONS * lm.spec.vocab * 12
        )
        note = f"and {lm.spec.n_layers + 1} readouts of the vocabulary"
        return Cost(float(len(pack(data.lengths, self.batch_tokens))), data.n_tokens, room, note)

    def run(self, lm: "LM", data: Any, store: Any) -> LensResult:
        """Read the residual streams, read every depth of each document out."""
        depths = [Site("resid_pre", 0), *(Site("resid_post", layer) for layer in range(lm.spec.n_layers))]
        table = {name: np.full((len(data), len(depths)), np.nan) for name in MEASURES}
        documents = streams(lm, data, depths, store, budget=self.batch_tokens)
        for place, read in track(documents, "logit lens", total=len(data)):
            if data.lengths[place] > 1:
                for name, values in _read(lm, [read[site] for site in depths], data.documents[place]).items():
                    table[name][place] = values
        keep = [place for place, length in enumerate(data.lengths) if length > 1]
        dims = ("document", "depth")
        columns = {name: (dims, values[keep]) for name, values in table.items()}
        coords = {
            "document": [data.ids[place] for place in keep],
            "depth": np.arange(len(depths)),
            "tokens": ("document", [data.lengths[place] - 1 for place in keep]),
            "text": ("document", [data.texts[place] for place in keep]),
        }
        return LensResult(xr.Dataset(columns, coords))


def _read(lm: "LM", depths: Sequence[Tensor], tokens: Tensor) -> dict[str, np.ndarray]:
    """Means over a document's predictions of the three measures at each depth, the last of which is the model itself."""
    sums = np.zeros((len(MEASURES), len(depths)))
    for here, final, target in token_scores(lm, depths[-1], tokens):
        for depth, stream in enumerate(depths):
            logp = final if depth == len(depths) - 1 else lm.unembed(stream[here]).float().log_softmax(dim=-1)
            nll = -logp.gather(-1, target[:, None]).sum()
            kl = (final.exp() * (final - logp)).sum()
            agree = (logp.argmax(dim=-1) == final.argmax(dim=-1)).sum()
            sums[:, depth] += [float(nll), float(kl), float(agree)]
    return dict(zip(MEASURES, sums / (len(tokens) - 1), strict=True))
