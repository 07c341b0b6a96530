"""What running text shows of a model: its residual streams, how much of them its MLPs write, and its loss; and how far streams have moved.

drift = mean over tokens of |h' - h| / |h|      cosine = mean over tokens of cos(h', h)      share = mean of |mlp_out| / |resid_post|
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from interp.core.lm import LM
from interp.core.site import Site
from interp.data import Corpus

from ..streams import check_predictable, streams, token_scores


@dataclass(frozen=True, eq=False)
class States:
    """One model on one text."""

    stream: tuple[Tensor, ...]
    """The residual stream after each layer of each document, [layer, token, d_model]."""
    share: np.ndarray
    """Mean over tokens of the MLP's norm over the stream's, [document, layer]."""
    nll: np.ndarray
    """Mean loss in nats a token, [document]; NaN for a document of one token."""

    def against(self, first: "States") -> tuple[np.ndarray, np.ndarray]:
        """Mean relative change of the stream and mean cosine with what it was, each [document, layer]."""
        pairs = [(now.double(), then.double()) for now, then in zip(self.stream, first.stream, strict=True)]
        drift = [((now - then).norm(dim=-1) / then.norm(dim=-1)).mean(dim=-1) for now, then in pairs]
        cosine = [torch.cosine_similarity(now, then, dim=-1).mean(dim=-1) for now, then in pairs]
        return torch.stack(drift).numpy(), torch.stack(cosine).numpy()


@torch.no_grad()
def states(lm: LM, text: Corpus) -> States:
    """Read the text with the model as it is now; never from a store. Raises `BadInput` for text without a token to predict."""
    check_predictable(lm, text)
    layers = range(lm.spec.n_layers)
    wanted = [*(Site("resid_post", layer) for layer in layers), *(Site("mlp_out", layer) for layer in layers)]
    held: dict[int, Tensor] = {}
    share, nll = np.zeros((len(text), len(layers))), np.full(len(text), np.nan)
    for place, found in streams(lm, text, wanted):
        stream = torch.stack([found[site] for site in wanted[: len(layers)]])  # [layer, token, d_model]
        written = torch.stack([found[site] for site in wanted[len(layers) :]])
        share[place] = (written.double().norm(dim=-1) / stream.double().norm(dim=-1)).mean(dim=-1).cpu().numpy()
        tokens = text.documents[place]
        losses = [
            -logp.gather(-1, came[:, None]).double().cpu() for _, logp, came in token_scores(lm, stream[-1], tokens)
        ]
        if losses:
            nll[place] = float(torch.cat(losses).mean())
        held[place] = stream.cpu().clone()
    return States(tuple(held[place] for place in range(len(text))), share, nll)
