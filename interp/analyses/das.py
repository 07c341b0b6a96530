"""Distributed alignment search: in which subspace of a site does a variable lie, so that swapping it swaps the answer?

    h' = h_base + (h_source - h_base) R R^T            R [d, k] with orthonormal columns, learned; nothing else learns

R is trained so that the base, with the source's part in the subspace, answers what the variable's new value demands (cross-entropy of the
target at the last token). What is reported is the interchange intervention accuracy (IIA) on held-out pairs, with everything that a
reader needs in order to believe it:

    none       nothing is swapped: how often the target comes out anyway
    full       the whole vector is swapped (k = d): every variable moves, not only the one in question
    random     a random subspace of k dimensions, several draws
    shuffled   a subspace trained for the wrong targets (shuffled over the pairs), scored on the right ones; NaN where all targets
               are one token, so that no order is wrong
    row, null  what the trained swap does with what the site's readers see of the subspace, and with what they do not, each alone
    span       the whole swap of the directions that the readers see of the subspace, however obliquely it cuts them

Source. Geiger et al. 2023 (DAS, arXiv 2303.02536); controls after Makelov, Lange & Nanda 2023, "Is This the Subspace You Are Looking
for?" (arXiv 2311.17030): a direction that mixes an axis nobody reads with an axis that is dormant moves the answer although neither
does so alone. Then `trained` is high while `row`, `span` *and* `null` are low: that is the subspace illusion, and `illusion()` says so (the
terms are in `interp.analyses.subspaces`). Where `row` is low and `span` high, the variable is read, and an unread copy of it was mixed in.

How. The reader of `mlp_post` is W_out, of `z` W_O, of the stream all later queries, keys, values, MLP inputs (norm gains folded in) and
the unembedding. A stream is usually read in every direction; then the null part has no dimensions and is reported as NaN.
Pairs are split by seed into training and test, repetitions of one pair on one side; the same seed gives the same numbers.

When it misleads
- High IIA says that a subspace suffices to *control* the answer, not that the model computes with it; compare `row`, `shuffled`, layers.
- With k near d, or few pairs, a random subspace does well too. Look at the margin over `random`.
- The interchange leaves the data: base and source parts may never occur together.

    import interp
    lm = interp.load("atlas")
    pairs = interp.reference.task("atlas", "facts", 60)
    found = interp.DAS(k=8, layers=(0,), position="subject", steps=20)(lm, pairs)
    found.table()            # layer: trained, none, full, random, shuffled, row, null
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from interp.core import edit
from interp.core.analysis import Analysis, Cost, Result
from interp.core.errors import BadInput, one_of
from interp.core.lm import LM
from interp.core.progress import track
from interp.core.seed import generator
from interp.core.site import Site, expand
from interp.core.stats import bootstrap_ci, random_subspace

from .subspaces import check_readers, readers_of, spanned, split
from .triples import TripleGroup, distinct, divided, floor_of, triple_groups

KINDS = ("resid_pre", "resid_mid", "resid_post", "attn_out", "mlp_out", "mlp_post", "z")
VARIANTS = ("trained", "none", "full", "random", "shuffled", "row", "span", "null")


class DASResult(Result):
    """Interchange accuracy of each layer's subspace and of its controls.

    data:
        hit      [layer, variant, pair]   1 where the answer is the target (means over draws for `random`); test pairs only; NaN where a
                                          variant has no dimensions
        gain     [layer, variant, pair]   log-probability of the target minus the untouched run's, nats
        rotation [layer, d, k]            the trained orthonormal basis
        row_dims, null_dims [layer]       dimensions in which the basis reaches into what the readers see, and out of it
        angle    [layer, k]               cosines of the principal angles between the basis and what the readers see
    coords: layer, variant, pair (ids). attrs: site kind, position, k, chance_floor (untouched hits over all pairs), trained_on.
    """

    figure: ClassVar[str] = "das"
    main: ClassVar[str] = "hit"

    def iia(self, level: float = 0.95) -> xr.Dataset:
        """Accuracy over test pairs with its bootstrap interval: mean, ci_lo, ci_hi [layer, variant]."""
        mean, low, high = bootstrap_ci(self.data["hit"], "pair", level=level)
        return xr.Dataset({"mean": mean, "ci_lo": low, "ci_hi": high})

    def table(self) -> Any:
        """IIA by layer (rows) and variant (columns), a pandas frame."""
        return self.iia()["mean"].transpose("layer", "variant").to_pandas()

    def illusion(self, margin: float = 0.3) -> xr.DataArray:
        """Layers [layer] where the trained subspace works and no part of it does: better than row, span and null by `margin`."""
        mean = self.iia()["mean"]
        parts = mean.sel(variant=["row", "span", "null"]).fillna(0.0).max("variant").values
        told = (mean.sel(variant="trained").values - parts > margin) & (self.data["null_dims"].values > 0)
        return xr.DataArray(told, {"layer": self.data["layer"].values}, ("layer",))

    def headline(self) -> dict[str, float]:
        """The best layer's accuracy, and that of the best control there."""
        mean = self.iia()["mean"]
        best = int(np.argmax(mean.sel(variant="trained").values))
        at = mean.isel(layer=best)
        layer = int(self.data["layer"].values[best])
        return {
            f"IIA at layer {layer}": float(at.sel(variant="trained")),
            "random subspace": float(at.sel(variant="random")),
            "what readers see of it": float(at.sel(variant="row")),
        }

    def thumbnail(self) -> xr.DataArray | None:
        """Variants by layers."""
        return self.iia()["mean"].transpose("variant", "layer")


@dataclass(frozen=True)
class DAS(Analysis[DASResult]):
    """Learn, layer by layer, the subspace of a site whose interchange gives the target; test it against its controls."""

    takes: ClassVar[str] = "pairs"

    kind: Literal["resid_pre", "resid_mid", "resid_post", "attn_out", "mlp_out", "mlp_post", "z"] = "resid_post"
    """Which site of each layer."""
    head: int | None = None
    """The head, for `z`: the subspace lies in that head's output."""
    layers: tuple[int, ...] = ()
    """Layers to search; none given means all."""
    position: str = "last"
    """Where: `last`, or a span's name (its last token). Source and base may have it in different columns."""
    k: int = 1
    """Dimensions of the subspace."""
    steps: int = 60
    """Training steps (Adam), each on one minibatch."""
    batch: int = 32
    """Pairs a step."""
    lr: float = 0.05
    """Learning rate on the unconstrained basis, whose orthonormal factor is R."""
    test_share: float = 0.5
    """Share of the pairs that is held out for every number that is reported."""
    draws: int = 5
    """Random subspaces."""
    answers: Literal["single", "first"] = "single"
    """Refuse answers of several tokens, or take their first token."""
    bos: bool | None = None
    """Put a BOS before each prompt; None follows the model's tokenizer."""
    seed: int = 0
    """Seed of the split, the start, the minibatches and the controls."""

    def __post_init__(self) -> None:
        one_of("kind", self.kind, KINDS)
        one_of("answers", self.answers, ["single", "first"])
        object.__setattr__(self, "layers", (self.layers,) if isinstance(self.layers, int) else tuple(self.layers))
        if len(set(self.layers)) < len(self.layers) or min(self.layers, default=0) < 0:
            raise BadInput(f"`layers` must name each layer once, counted from 0; not {list(self.layers)}.")
        for name in ("k", "steps", "batch", "draws"):
            if getattr(self, name) < 1:
                raise BadInput(f"`{name}` must be at least 1; not {getattr(self, name)}.")
        if not 0.0 < self.test_share < 1.0:
            raise BadInput(f"`test_share` must lie between 0 and 1; not {self.test_share}.")
        if not self.lr > 0:
            raise BadInput(f"`lr` must be positive; not {self.lr}.")
        if (self.head is None) == (self.kind == "z"):
            raise BadInput("`head` goes with kind='z', and z needs it: DAS searches the output of one head.")

    def check(self, lm: LM, data: Any) -> None:
        """Refuse layers, heads, sizes and pairs that do not fit (`UnknownSite`, `BadInput`, `SpanError`)."""
        sites = expand(self._sites(lm), lm.spec)
        check_readers(lm, sites)
        if self.head is not None and not 0 <= self.head < lm.spec.n_heads:
            raise BadInput(f"`head={self.head}`: {lm.spec.name} has heads 0 to {lm.spec.n_heads - 1}.")
        width = self._width(lm)
        if self.k > width:
            raise BadInput(f"`k={self.k}`: {sites[0]} has {width} dimensions. Take at most so many.")
        groups = triple_groups(lm, data, bos=self.bos, answers=self.answers)
        for group in groups:
            group.columns(self.position)
        if (total := len(distinct(groups))) < 4:
            raise BadInput(
                f"DAS needs at least 4 pairs that differ in their prompts, since half of them are held out; there are {total}. Give more."
            )

    def cost(self, lm: LM, data: Any = None) -> Cost:
        """Training is `steps` forward and backward passes of a batch, twice (once for the shuffled control), a layer."""
        groups = triple_groups(lm, data, bos=self.bos, answers=self.answers)
        width = max(group.base.tokens.shape[1] for group in groups)
        pairs = sum(len(group) for group in groups)
        passes = (
            len(self._sites(lm)) * (6.0 * self.steps * min(self.batch, pairs) + (self.draws + 5) * pairs) + 2 * pairs
        )
        held = self.batch * width * lm.spec.d_model * lm.spec.n_layers * 20 * lm.spec.bytes_per_value
        return Cost(passes, int(passes * width), held, "a backward pass counted as two forwards")

    def run(self, lm: LM, data: Any, store: Any = None) -> DASResult:
        """Train and test every layer."""
        groups = triple_groups(lm, data, bos=self.bos, answers=self.answers)
        train, test = self._parts(groups)
        if not train or not test:
            raise BadInput(f"`test_share={self.test_share}` leaves no pairs on one side. Give more pairs.")
        sites = self._sites(lm)
        found = [_Search(self, lm, site, train, test).run() for site in track(sites, "DAS", total=len(sites))]
        coords = {
            "layer": [site.layer for site in sites], "variant": list(VARIANTS),
            "pair": [name for group in test for name in group.ids],
        }  # fmt: skip
        columns: dict[str, Any] = {
            name: (("layer", "variant", "pair"), np.stack([one[name] for one in found])) for name in ("hit", "gain")
        }
        columns["rotation"] = (("layer", "d", "k"), np.stack([one["rotation"] for one in found]))
        columns["angle"] = (("layer", "k"), np.stack([one["angle"] for one in found]))
        columns |= {name: ("layer", [one[name] for one in found]) for name in ("row_dims", "null_dims")}
        attrs = {
            "kind": self.kind, "position": self.position, "k": self.k, "head": -1 if self.head is None else self.head,
            "chance_floor": floor_of(groups), "trained_on": sum(len(group) for group in train),
        }  # fmt: skip
        return DASResult(xr.Dataset(columns, coords, attrs))

    def _sites(self, lm: LM) -> list[Site]:
        return [Site(self.kind, layer) for layer in (self.layers or range(lm.spec.n_layers))]

    def _width(self, lm: LM) -> int:
        return {"mlp_post": lm.spec.d_mlp, "z": lm.spec.d_head}.get(self.kind, lm.spec.d_model)

    def _parts(self, groups: Sequence[TripleGroup]) -> tuple[list[TripleGroup], list[TripleGroup]]:
        """Training and test pairs, by a seeded draw over all of them; repetitions of a pair stay on one side."""
        held = max(1, round(len(distinct(groups)) * self.test_share))
        test, train = divided(groups, (held,), generator(self.seed, "das split"))
        return train, test


@dataclass
class _Search:
    """One site: training, controls, decomposition."""

    config: DAS
    lm: LM
    site: Site
    train: list[TripleGroup]
    test: list[TripleGroup]

    def run(self) -> dict[str, Any]:
        config, seed = self.config, self.config.seed
        width = config._width(self.lm)
        right = [group.target for group in self.train]
        trained = self._train(right, "trained")
        wrong = self._shuffled(right)
        shuffled = None if wrong is None else self._train(wrong, "shuffled")
        readers = readers_of(self.lm, self.site, config.head)  # [reader, d]
        row, null, cosines = split(trained, readers)
        span, unseen = spanned(row), spanned(null)
        draws = [
            random_subspace(config.k, width, seed, f"das random {self.site} {draw}") for draw in range(config.draws)
        ]
        bases: list[list[Tensor | None]] = [
            [trained], [None], [torch.eye(width)], list(draws), [] if shuffled is None else [shuffled],
            [row] if span.shape[1] else [], [span] if span.shape[1] else [], [null] if unseen.shape[1] else [],
        ]  # fmt: skip
        scores = [self._score(some) for some in bases]  # each [2, pair]
        return {
            "hit": np.stack([score[0] for score in scores]), "gain": np.stack([score[1] for score in scores]),
            "rotation": trained.double().numpy(), "angle": cosines.numpy(), "row_dims": span.shape[1], "null_dims": unseen.shape[1],
        }  # fmt: skip

    def _shuffled(self, right: list[Tensor]) -> list[Tensor] | None:
        """The targets in another order; None where all are the same, so that there is no other."""
        flat = torch.cat(right)
        if bool((flat == flat[0]).all()):
            return None
        order = torch.randperm(len(flat), generator=generator(self.config.seed, "das shuffled targets"))
        orders = (flat[order.roll(step)] for step in range(len(flat)))
        wrong = next(one for one in orders if not torch.equal(one, flat))
        return list(wrong.split([len(part) for part in right]))

    def _train(self, targets: list[Tensor], name: str) -> Tensor:
        config, width = self.config, self.config._width(self.lm)
        draw = generator(config.seed, "das start", name, self.site)
        raw = torch.randn(width, config.k, generator=draw).requires_grad_()
        adam = torch.optim.Adam([raw], lr=config.lr)
        sources = [self._source(group) for group in self.train]
        bases = [self._base(group) for group in self.train]
        sizes = torch.tensor([float(len(group)) for group in self.train])
        for _ in range(config.steps):
            place = int(torch.multinomial(sizes, 1, generator=draw))
            group = self.train[place]
            keep = torch.randperm(len(group), generator=draw)[: config.batch].tolist()
            basis = torch.linalg.qr(raw)[0]
            logits = self._swapped(group.rows(keep), sources[place][keep], basis, bases[place][keep], grad=True)
            loss = torch.nn.functional.cross_entropy(logits.float(), targets[place][keep].to(logits.device))
            adam.zero_grad()
            loss.backward()
            adam.step()
        return torch.linalg.qr(raw.detach())[0]

    def _source(self, group: TripleGroup) -> Tensor:
        """The source's values where the base has the position, [row, pos, ...]."""
        return group.moved(self.lm.run(group.source, capture=[self.site])[self.site], self.config.position)

    def _swapped(
        self, group: TripleGroup, source: Tensor, basis: Tensor, moving: Tensor, *, grad: bool = False
    ) -> Tensor:
        """Last logits [row, vocab] of the bases moved by `B B^T (source - base)`; the swap of a subspace where B is orthonormal."""
        config = self.config
        basis = basis.to(source.device, torch.float64)
        value = moving.double() + (source.double() - moving.double()) @ basis @ basis.T
        heads = None if config.head is None else [config.head]
        change = edit.replace(self.site, value.to(source.dtype), at=group.at(config.position), heads=heads)
        return self.lm.run(group.base, edits=[change], grad=grad).last_logits

    def _base(self, group: TripleGroup) -> Tensor:
        """The base's own values [row, pos, ...]."""
        return self.lm.run(group.base, capture=[self.site])[self.site]

    def _score(self, bases: "list[Tensor | None]") -> np.ndarray:
        """Hits and gains of the test pairs [2, pair], mean over the bases; NaN without any."""
        if not bases:
            return np.full((2, sum(len(group) for group in self.test)), np.nan)
        out = []
        for group in self.test:
            source, moving = self._source(group), self._base(group)
            untouched = self.lm.run(group.base).last_logits
            rows = []
            for basis in bases:
                logits = untouched if basis is None else self._swapped(group, source, basis, moving)
                hit = (logits.argmax(dim=-1).cpu() == group.target).double()
                rows.append(torch.stack([hit, _logprob(logits, group.target) - _logprob(untouched, group.target)]))
            out.append(torch.stack(rows).mean(dim=0))
        return torch.cat(out, dim=1).numpy()


def _logprob(logits: Tensor, target: Tensor) -> Tensor:
    """Log-probabilities of the targets, float64 [row]."""
    return logits.double().log_softmax(dim=-1).cpu().gather(1, target[:, None])[:, 0]
