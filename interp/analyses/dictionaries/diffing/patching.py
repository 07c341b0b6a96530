"""Which latents carry what the tuned model does differently? It is given the base's activations plus some latents' share.

    h = x_base + sum over j in S of f_j (d_j tuned - d_j base)        the tuned model goes on from h
    recovered(S) = 1 - KL(patched with S || tuned) / KL(patched with nothing || tuned)

Decoder rows are those of raw activations. What the two decoders' biases differ by is no latent: it is a set of its own ("biases"), and
"all latents" together with it leaves only what the dictionary does not reconstruct: the base's error on the tuned reconstruction.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from interp.analyses.dictionaries.evaluation.ratios import ratio_ci
from interp.core.batch import At, Batch
from interp.core.dictionary import Codes, Dictionary
from interp.core.dictionary.kernels import bag
from interp.core.edit import replace
from interp.core.lm import LM
from interp.core.progress import track
from interp.core.site import Site
from interp.data import pack

BUDGET = 512
"""Tokens whose distributions over the vocabulary are held at once."""
PARTS = ("all", "first", "rest")
BIASES, SWAP, SWAPPED = "biases", "tuned reconstruction, base error", "base reconstruction, tuned error"
NOTHING = "nothing"


@dataclass(frozen=True, eq=False)
class Sets:
    """Named sets of latents, bool [latent] each; what is no set of latents goes by `NOTHING`, `BIASES`, `SWAP` and `SWAPPED`."""

    masks: Mapping[str, Tensor]

    @property
    def names(self) -> list[str]:
        """All cells, the controls that are no sets first and last."""
        return [NOTHING, *self.masks, BIASES, SWAP, SWAPPED]

    def sizes(self) -> list[int]:
        """Latents of each cell; 0 for what is no set of latents."""
        return [int(self.masks[name].sum()) if name in self.masks else 0 for name in self.names]


class Patcher:
    """Streams for the tuned model, from both models' raw rows and the codes of a crosscoder of them."""

    def __init__(self, dictionary: Dictionary) -> None:
        """For a crosscoder that writes views called base and tuned, of one width."""
        rows = {
            name: dictionary.decoder(name).detach().float() / dictionary.scalings[name].factor
            for name in ("base", "tuned")
        }
        self.dictionary, self.difference = dictionary, rows["tuned"] - rows["base"]
        bias = {name: dictionary.scalings[name].undo(dictionary.bias(name).detach().float()) for name in rows}
        self.bias = bias["tuned"] - bias["base"]

    def stream(self, name: str, sets: Sets, base: Tensor, tuned: Tensor, codes: Codes) -> Tensor:
        """What the tuned model is given in place of its own rows [row, d]."""
        if name in (SWAP, SWAPPED):
            made = self.dictionary.decode(codes)
            assert isinstance(made, dict)
            change = (made["tuned"] - made["base"]).float()
            return base.float() + change if name == SWAP else tuned.float() - change
        if name == BIASES:
            return base.float() + self.bias
        if name == NOTHING:
            return base.float()
        values = torch.where(sets.masks[name].to(codes.ids.device)[codes.ids], codes.values.float(), 0)
        return base.float() + bag(codes.ids, values, codes.offsets, self.difference)


@dataclass(frozen=True, eq=False)
class Patched:
    """KL divergences from the tuned model."""

    kl: np.ndarray
    """Sum over the counted tokens, nats [set, document, part]."""
    tokens: np.ndarray
    """Counted tokens [document, part]."""


def patch(
    base: LM,
    tuned: LM,
    dictionary: Dictionary,
    documents: Sequence[Tensor],
    sets: Sets,
    *,
    first: int = 10,
    skip: int = 0,
) -> Patched:
    """Patch every token from the `skip`-th on with each set; KL over these, over the `first` of each document, and over the rest."""
    sites = {view.name: Site.parse(view.site) for view in dictionary.config.writes}
    patcher, names = Patcher(dictionary), sets.names
    kl, tokens = np.zeros((len(names), len(documents), 3)), np.zeros((len(documents), 3), dtype=np.int64)
    parts = pack([len(document) for document in documents], BUDGET, order="longest first")
    for places in track(parts, "patching latents"):
        batch = Batch.padded([documents[place].tolist() for place in places])
        counted = batch.mask & (batch.position_ids >= skip)
        x = {"base": base.run(batch, capture=[sites["base"]], stop_after=sites["base"])[sites["base"]]}
        run = tuned.run(batch, capture=[sites["tuned"]])
        x["tuned"], shape = run[sites["tuned"]], run[sites["tuned"]].shape
        rows = {name: value[counted.to(value.device)].flatten(1).to(dictionary.device) for name, value in x.items()}
        codes = dictionary.codes(rows)
        assert run.logits is not None
        target = run.logits.float().log_softmax(dim=-1)
        early = counted & (batch.position_ids < skip + first)
        which = np.stack([counted.numpy(), early.numpy(), (counted & ~early).numpy()], axis=-1)  # [row, pos, part]
        tokens[places] = which.sum(axis=1)
        for number, name in enumerate(names):
            value = x["tuned"].float().clone()
            value[counted] = (
                patcher.stream(name, sets, rows["base"], rows["tuned"], codes).to(value).reshape(-1, *shape[2:])
            )
            logits = tuned.run(batch, edits=[replace(sites["tuned"], value, at=At.mask(counted))]).logits
            assert logits is not None
            off = divergence(logits, target).double().cpu().numpy()  # [row, pos]
            kl[number, places] = (off[..., None] * which).sum(axis=1)
    return Patched(kl, tokens)


def divergence(logits: Tensor, target: Tensor) -> Tensor:
    """KL(softmax of logits || target), nats [...], of logits and log probabilities [..., vocab]."""
    said = logits.float().log_softmax(dim=-1)
    return (said.exp() * (said - target)).sum(dim=-1)


def recovered(
    kl: np.ndarray, nothing: np.ndarray, *, clusters: "Sequence[int] | None" = None, level: float = 0.95
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """1 - sum(kl) / sum(nothing) of KL sums [set, document] and those without any latent [document], with its percentile interval.

    Documents (or whole `clusters` of them) are drawn, for both sums together. NaN where the models do not differ at all.
    """
    below = np.broadcast_to(nothing[:, None], kl.T.shape)
    share, low, high = ratio_ci(kl.T, below, clusters=clusters, level=level, name="latent patching")
    return 1 - share, 1 - high, 1 - low
