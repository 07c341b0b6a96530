"""Concept directions: at which layers can a property of texts be read off the activations, along which vector, and is it the model's doing?

The question. Texts have a yes or a no each (polite or not, on colours or on something else). For a site and a method, `base` fits a
vector w and a threshold; here is what they are worth on texts that they have not seen:

    AUC(site, fit) = P(w . x of a yes > w . x of a no), both held out by k-fold cross-validation

and beside it what the same number is where there is nothing to find, or no model is needed:

    shuffled    the same pipeline, penalty chosen anew, with the labels shuffled (in pairs: flipped within the pair): band and p-value
    random      random directions, their sign learned
    words       a ridge probe on the counts of the text's tokens: does the concept need the model at all?
    hook_embed  the first site by default: the tokens' embeddings, before any layer

Selectivity is accuracy minus that of shuffled labels. p-values are corrected over the sites (Holm).

Source. Probes: Alain & Bengio 2016 (arXiv 1610.01644). Controls: Hewitt & Liang 2019 (arXiv 1909.03368). Differences of means: Marks &
Tegmark 2023 (arXiv 2310.06824). Components of differences within pairs: Zou et al. 2023 (arXiv 2310.01405). Deviation: penalties are
chosen by cross-validation inside each fold, and AUC compares rows of one fold only, since folds have directions of their own.

How. Pairs and equal texts are never torn apart by a fold (`folds`). With more features than rows a penalised probe is legal, and fits its
own rows whatever the labels: `fitted_auc` and `fitted_null` show it, and only held-out numbers count. Unpenalised ones are refused.
Intervals draw groups anew and know nothing of the folds' draw. The vectors that are kept are fitted on all texts.

When it misleads
- That a probe reads something does not show that the model uses it: steer, or erase (`ConceptErasure`), and see.
- If a bag of words does as well, the site says no more than the text does. Pairs of texts that differ in meaning only are the remedy.
- The best of many sites is chosen with its own held-out score: quote the corrected p, or the whole curve.
- `pool="last"` sees the last token of the embedding only, and the model's habits at that token (a full stop) everywhere else. Where
  texts, or the two of each pair, all have the same values (`hook_embed` of one full stop), AUC is 1/2 and there is no direction.

    import interp
    lm = interp.load("atlas")
    texts = interp.reference.labelled("atlas", "colour", 30)
    found = interp.ConceptDirections(methods=("mean", "ridge"), shuffles=100)(lm, texts)
    found.curves()["auc"], found.words()        # [site, fit]; the bag of words
    found.direction("blocks.1.hook_resid_post", "ridge").unit
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
import torch
import xarray as xr

from interp.core.analysis import Analysis, Cost
from interp.core.errors import BadInput, listing, one_of
from interp.core.progress import track
from interp.core.site import Site, expand
from interp.core.stats import random_directions
from interp.data import Labelled

from .base import METHODS, Direction, Gathered, NoDifference, fit_direction, gather
from .crossval import Held, Plan, choose_strength, held_out, indistinct
from .folds import describe_groups, shuffled_labels
from .gather import tokens_of
from .result import ConceptDirectionsResult
from .words import bag_of_words

if TYPE_CHECKING:
    from interp.core.lm import LM


@dataclass(frozen=True)
class ConceptDirections(Analysis[ConceptDirectionsResult]):
    """Fit directions at every site by every method, and score them held out, beside what chance and the words alone give."""

    takes: ClassVar[str] = "labelled"

    sites: tuple[str, ...] = ()
    """Sites or patterns; none given means the embedding and the residual stream after every block."""
    methods: tuple[str, ...] = ("mean", "ridge", "logistic", "pca")
    """Of mean, lda, ridge, logistic, pca."""
    pool: Literal["last", "mean"] = "last"
    """A text's vector: its last token, which has read all the others, or the mean over its tokens (BOS left out)."""
    heads: tuple[int, ...] = ()
    """Only these heads, at sites that have heads; none given means all, flattened."""
    folds: int = 5
    """Parts that are held out in turn."""
    inner: int = 3
    """Folds within the training rows, in which the penalty is chosen."""
    strengths: tuple[float, ...] = (0.01, 0.1, 1.0, 10.0)
    """Penalties to choose from, in units of one row's: ridge has alpha = strength * rows, logistic C = 1 / (strength * rows)."""
    shuffles: int = 200
    """Shuffled label sets. The smallest p-value is 1 / (shuffles + 1), times the number of sites."""
    refits: int = 20
    """Shuffled label sets for logistic, which must be refitted for each: its smallest p-value is 1 / (refits + 1), times the sites."""
    randoms: int = 100
    """Random directions a site."""
    bos: bool | None = None
    """Put a BOS before each text; None follows the model's tokenizer."""
    seed: int = 0
    """Seed of folds, shuffles and random directions."""

    def __post_init__(self) -> None:
        for name in ("sites", "methods", "heads", "strengths"):
            value = getattr(self, name)
            object.__setattr__(self, name, (value,) if isinstance(value, str | int | float) else tuple(value))
        if not self.methods or len(set(self.methods)) < len(self.methods):
            raise BadInput(f"`methods` must name some of {listing(METHODS)}, each once; not {list(self.methods)}.")
        for method in self.methods:
            one_of("methods", method, METHODS)
        one_of("pool", self.pool, ("last", "mean"))
        for name, least in (("folds", 2), ("inner", 2), ("shuffles", 1), ("refits", 1), ("randoms", 1)):
            if getattr(self, name) < least:
                raise BadInput(f"`{name}` must be at least {least}; not {getattr(self, name)}.")
        if not self.strengths or not all(strength > 0 for strength in self.strengths):
            raise BadInput(
                f"`strengths` must be positive; not {list(self.strengths)}. "
                "Without a penalty, a probe with more features than rows fits any labels."
            )

    def check(self, lm: "LM", data: Any) -> None:
        """Refuse sites, texts and class sizes that do not fit (`UnknownSite`, `BadInput`)."""
        check_labelled(data)
        found = expand(self._sites(lm), lm.spec)
        tokens_of(lm, data, bos=self.bos)
        self._plan(data)
        if "lda" in self.methods:
            shapes = {info.site: info.shape for info in lm.sites() if info.site in found}
            width = max(
                int(np.prod(shapes[site][-1:] + ((len(self.heads),) if self.heads else shapes[site][:-1])))
                for site in found
            )
            rows = len(data) - -(-len(data) // self.folds)
            if rows - 2 < width:
                raise BadInput(
                    f"methods 'lda' inverts a covariance of {width} features, and {rows} rows of a training fold do not determine it. "
                    "Leave it out (ridge is its penalised form), or give more texts."
                )

    def cost(self, lm: "LM", data: Any = None) -> Cost:
        """One forward pass over the texts; the fits take the rest of the time."""
        tokens = tokens_of(lm, data, bos=self.bos)
        total, sites = sum(map(len, tokens)), expand(self._sites(lm), lm.spec)
        fits = (
            len(sites)
            * self.folds
            * (self.refits + 1)
            * (self.inner * len(self.strengths) + 1)
            * ("logistic" in self.methods)
        )
        held = len(sites) * max(map(len, tokens)) * lm.spec.d_model * 4 + len(sites) * len(tokens) * lm.spec.d_model * 4
        return Cost(float(len(tokens)), total, held, f"{fits:,} logistic fits" if fits else "")

    def run(self, lm: "LM", data: Labelled, store: Any = None) -> ConceptDirectionsResult:
        """Gather once; then site by site and method by method."""
        plan = self._plan(data)
        gathered = gather(
            lm, data, self._sites(lm), pool=self.pool, heads=self.heads or None, bos=self.bos, store=store
        )
        targets = np.concatenate([plan.yes[None], self._shuffled(plan, self.shuffles)])
        alike = [site for site in gathered.sites if indistinct(gathered[site].double().numpy(), plan)]
        if len(alike) == len(gathered.sites):
            raise BadInput(
                f"all texts, or the two of each pair, have the same values at {listing(map(str, alike))} (pool={self.pool!r}), so there is "
                "no direction. Take another site, or pool='mean'."
            )
        cells = {
            (site, method): self._cell(gathered, site, method, plan, targets)
            for site in track(gathered.sites, "directions", total=len(gathered.sites))
            for method in self.methods
        }
        randoms = np.stack([self._random(gathered, site, plan) for site in gathered.sites])
        words = held_out(
            bag_of_words(gathered.tokens), targets, "ridge", plan, strengths=self.strengths, standardise=False
        )
        data_set = self._dataset(data, gathered, plan, cells, randoms, words)
        return ConceptDirectionsResult(data_set.assign_attrs(alike=[site.name for site in alike]))

    def _sites(self, lm: "LM") -> list[str]:
        return list(self.sites) or [
            "hook_embed",
            *(f"blocks.{layer}.hook_resid_post" for layer in range(lm.spec.n_layers)),
        ]

    def _plan(self, data: Labelled) -> Plan:
        return Plan.of(np.array(data.labels), data.groups, self.folds, self.inner, self.seed)

    def _shuffled(self, plan: Plan, n: int) -> np.ndarray:
        return shuffled_labels(plan.yes, plan.groups.tolist(), plan.folds, n, seed=self.seed, name="shuffled labels")

    def _cell(
        self, gathered: Gathered, site: Site, method: Any, plan: Plan, targets: np.ndarray
    ) -> tuple[Direction, Held]:
        """The direction of all texts, and the held-out scores of those of the folds."""
        x = gathered[site].double().numpy()
        strength = self.strengths[0]
        if method in ("ridge", "logistic"):
            strength = choose_strength(x, plan.yes, method, plan.folds, self.strengths)
        labels, groups = plan.yes.tolist(), plan.groups.tolist()
        try:
            whole = fit_direction(x, labels, method, groups=groups, strength=strength, site=site)
        except NoDifference:  # one site of several: it scores 1/2, and its direction is refused when asked for
            whole = Direction(torch.zeros(x.shape[1], dtype=torch.float64), 0.0, 0.0, method, site)
        some = targets[: self.refits + 1] if method == "logistic" else targets
        return whole, held_out(x, some, method, plan, strengths=self.strengths)

    def _random(self, gathered: Gathered, site: Site, plan: Plan) -> np.ndarray:
        x = gathered[site].double().numpy()
        given = random_directions(self.randoms, x.shape[1], self.seed, f"random {site}").double().numpy().T
        return held_out(x, np.tile(plan.yes, (self.randoms, 1)), "given", plan, given=given).auc

    def _dataset(
        self, data: Labelled, gathered: Gathered, plan: Plan, cells: dict[Any, tuple[Direction, Held]], randoms: np.ndarray,
        words: Held,
    ) -> xr.Dataset:  # fmt: skip
        sites, width = gathered.sites, max(values.shape[1] for values in gathered.values.values())

        def table(read: Any, size: int | None = None) -> np.ndarray:
            shape = (len(sites), len(self.methods)) + (() if size is None else (size,))
            out = np.full(shape, np.nan)
            for place, site in enumerate(sites):
                for column, method in enumerate(self.methods):
                    value = read(*cells[site, method])
                    out[place, column] = (
                        value if size is None else np.pad(value, (0, size - len(value)), constant_values=np.nan)
                    )
            return out

        cell, n = ("site", "fit"), self.shuffles if set(self.methods) - {"logistic"} else self.refits
        n = max(n, self.refits) if "logistic" in self.methods else n
        columns: dict[str, Any] = {
            "score": ((*cell, "example"), table(lambda _, held: held.score, len(data))),
            "null_auc": ((*cell, "shuffle"), table(lambda _, held: held.auc[1:], n)),
            "null_accuracy": ((*cell, "shuffle"), table(lambda _, held: held.accuracy[1:], n)),
            "fitted_auc": (cell, table(lambda _, held: held.fitted[0])),
            "fitted_null": (cell, table(lambda _, held: held.fitted[1:].mean())),
            "vector": ((*cell, "d"), table(lambda whole, _: whole.vector.numpy(), width)),
            "bias": (cell, table(lambda whole, _: whole.bias)),
            "scale": (cell, table(lambda whole, _: whole.scale)),
            "strength": (cell, table(lambda whole, _: np.nan if whole.strength is None else whole.strength)),
            "random_auc": (("site", "random"), randoms),
            "words_score": ("example", words.score),
            "words_null": ("word_shuffle", words.auc[1:]),
        }  # fmt: skip
        coords = {
            "site": [site.name for site in sites], "fit": list(self.methods), "example": np.arange(len(data)),
            "label": ("example", plan.yes), "fold": ("example", plan.folds), "group": ("example", plan.groups),
            "text": ("example", [text.prompt.text for text in gathered.tokens]),
        }  # fmt: skip
        attrs = {
            "data": data.name, "design": describe_groups(plan.yes, plan.groups.tolist()), "pool": self.pool, "folds": self.folds,
            "heads": list(self.heads), "shapes": {site.name: list(gathered.shapes[site]) for site in sites},
            "widths": {site.name: gathered[site].shape[1] for site in sites}, "rows": int((plan.folds != 0).sum()),
        }  # fmt: skip
        return xr.Dataset(columns, coords, attrs)


def check_labelled(data: object) -> None:
    """Raise `BadInput` unless `data` are labelled texts."""
    if not isinstance(data, Labelled):
        raise BadInput(
            f"this method needs labelled texts; not a {type(data).__name__}. "
            "Read them with `interp.data.labelled(positive=..., negative=...)`."
        )
