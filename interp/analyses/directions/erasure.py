"""Concept erasure: take a concept out of the activations, and see whether anything still finds it, there and later, and what it costs.

The question. A probe reads a concept at a site. If the direction it reads is removed there in the forward pass, can a *fresh* probe still
find the concept, at the site, with a non-linear probe, or at later sites, where the model may have it from elsewhere? And is what it does
to the model's predictions more than removing any subspace of that rank does?

    x' = x - (x - m) A B^T          at every token of the text but a BOS; `erasers` says what A and B are

Half of the texts (groups whole) fit the eraser. The other half, erased in the forward pass, are what everything else is about:

    linear      a ridge probe trained and tested by cross-validation within the other half: knows nothing of the eraser's half
    nonlinear   the same on the features of a radial basis function kernel (its width the median distance)
    transfer    a ridge probe trained on the erased fit half, tested on the other: what INLP's paper tests
    shuffled    each with shuffled labels: the band in which an AUC means nothing
    KL, loss    in nats a token, on the other half and on neutral text, against random subspaces of the same rank

Source. Ravfogel et al. 2020 (INLP, arXiv 2004.07667); Belrose et al. 2023 (LEACE, arXiv 2306.03819). Deviation: the linear probe is
trained on texts that the eraser has not seen. LEACE leaves a linear probe of the fit half exactly nothing, by construction; what it leaves
on new texts is a question of how many texts there were.

How. Erasers are fitted on the fit half's pooled vectors, at the site; with `onwards`, at every later residual stream as well, each on what
the earlier ones left. `gap` is the distance of the class means after erasing as a share of that before. The state that the edited
forward pass has at the site is compared with the map applied by hand (`forward_difference`).

When it misleads
- Erasing the direction that one probe found leaves what another can find: `ridge` and `logistic` are projected out and often back at once.
- A concept that is gone at a site can be back later: attention fetches it from positions or streams that were fitted otherwise. With
  pool="last" the eraser knows the last token only, and is applied to all.
- A non-linear probe that finds what no linear one does is no failure of the method: it promises nothing else.
- AUCs below the band are signs of few texts: erasing on one half pushes the other half's class means past each other.
- A small KL is no proof that the concept did not matter; look at predictions that need it.

    import interp
    lm = interp.load("atlas")
    texts = interp.reference.labelled("atlas", "colour", 60)
    found = interp.ConceptErasure(site="blocks.1.hook_resid_post", methods=("mean", "leace"))(lm, texts)
    found.table()["auc"], found.costs()
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
import xarray as xr

from interp.core.analysis import Analysis, Cost
from interp.core.errors import BadInput, listing, one_of
from interp.core.progress import track
from interp.core.site import Site, expand
from interp.data import Labelled, corpus

from ..concepts.traces.settings import neutral_material
from .base import NoDifference
from .costs import token_costs
from .crossval import Held, Plan, choose_strength, held_out, indistinct
from .erasers import ERASERS, Eraser, fit_eraser, random_eraser, text_edits
from .erasure_result import ConceptErasureResult
from .folds import describe_groups, grouped_folds, shuffled_labels
from .gather import Gathered, gather, tokens_of
from .probes import check_labelled
from .words import kernel_features

if TYPE_CHECKING:
    from interp.core.lm import LM

LENGTH = 64
"""Tokens of a neutral document."""
PROBES = ("linear", "nonlinear", "transfer")


@dataclass(frozen=True)
class ConceptErasure(Analysis[ConceptErasureResult]):
    """Erase a concept at a site in several ways; look for it with fresh probes there and later; measure what it costs."""

    takes: ClassVar[str] = "labelled"

    site: str = ""
    """Where to erase; the residual stream after the middle block if not given."""
    methods: tuple[str, ...] = ("mean", "ridge", "inlp", "leace")
    """Of mean, lda, ridge, logistic, pca (their direction is projected out), inlp and leace."""
    rounds: int = 4
    """Directions that INLP removes."""
    onwards: bool = False
    """Erase at every later residual stream too."""
    pool: Literal["last", "mean"] = "last"
    """A text's vector: its last token or the mean over its tokens. Erased at every token either way."""
    strength: float = 0.1
    """Penalty of the probes that are erased, in units of one row's."""
    strengths: tuple[float, ...] = (0.01, 0.1, 1.0, 10.0)
    """Penalties that the fresh probes choose from."""
    folds: int = 5
    """Folds of the fresh probes, within the half that is held out."""
    inner: int = 3
    """Folds in which their penalties are chosen."""
    shuffles: int = 100
    """Shuffled label sets for the band in which nothing is found."""
    draws: int = 2
    """Random subspaces of each rank."""
    neutral: str = ""
    """A file of text on which the cost is measured beside the labelled texts. By default plain English that knows nothing, or, where the
    tokenizer has no words for it, texts of the fit half that lack the property."""
    documents: int = 12
    """Documents of it, each its first 64 tokens."""
    bos: bool | None = None
    """Put a BOS before each text; None follows the model's tokenizer."""
    seed: int = 0
    """Seed of the halves, folds, shuffles and random subspaces."""

    def __post_init__(self) -> None:
        for name in ("methods", "strengths"):
            value = getattr(self, name)
            object.__setattr__(self, name, (value,) if isinstance(value, str | int | float) else tuple(value))
        if not self.methods or len(set(self.methods)) < len(self.methods):
            raise BadInput(f"`methods` must name some of {listing(ERASERS)}, each once; not {list(self.methods)}.")
        for method in self.methods:
            one_of("methods", method, ERASERS)
        one_of("pool", self.pool, ("last", "mean"))
        for name, least in (("rounds", 1), ("folds", 2), ("inner", 2), ("shuffles", 1), ("draws", 1), ("documents", 1)):
            if getattr(self, name) < least:
                raise BadInput(f"`{name}` must be at least {least}; not {getattr(self, name)}.")
        if not self.strength > 0 or not self.strengths or not all(strength > 0 for strength in self.strengths):
            raise BadInput(
                f"`strength` and `strengths` must be positive; not {self.strength} and {list(self.strengths)}."
            )

    def check(self, lm: "LM", data: Any) -> None:
        """Refuse sites, texts and class sizes that do not fit (`UnknownSite`, `BadInput`)."""
        check_labelled(data)
        self._sites(lm)
        tokens_of(lm, data, bos=self.bos)
        self._halves(data)

    def cost(self, lm: "LM", data: Any = None) -> Cost:
        """Two passes over the texts (states, predictions) and one over the neutral ones for each eraser and random subspace."""
        tokens = tokens_of(lm, data, bos=self.bos)
        erasers = len(self.methods) + self.draws * len({self._rank(method) for method in self.methods}) + 1
        total = int(sum(map(len, tokens)) * 1.5 + self.documents * LENGTH) * erasers
        return Cost(float(erasers * (1.5 * len(tokens) + self.documents)), total, 512 * lm.spec.vocab * 8)

    def run(self, lm: "LM", data: Labelled, store: Any = None) -> ConceptErasureResult:
        """Fit on one half, look at the other, eraser by eraser."""
        fit, held, plan = self._halves(data)
        sites = self._sites(lm)
        clean = gather(lm, data, sites, pool=self.pool, bos=self.bos, store=store)
        work = _Work(self, lm, data, clean, fit, held, plan)
        erasers: dict[str, dict[Site, Eraser]] = {"none": {}}
        for method in self.methods:
            erasers[method] = work.fitted(method)
        for rank in sorted({next(iter(erasers[method].values())).rank for method in self.methods}):
            for draw in range(self.draws):
                erasers[f"random {rank}, {draw + 1}"] = work.random(rank, draw)
        found = {name: work.judge(erasers[name]) for name in track(list(erasers), "erasure", total=len(erasers))}
        return ConceptErasureResult(work.dataset(erasers, found))

    def _sites(self, lm: "LM") -> list[Site]:
        """Where to erase, and the later residual streams."""
        first = expand(self.site or f"blocks.{(lm.spec.n_layers - 1) // 2}.hook_resid_post", lm.spec)
        if len(first) != 1:
            raise BadInput(
                f"`site={self.site!r}` names {len(first)} sites. Erase at one; `onwards` erases at the later ones too."
            )
        streams = [Site("resid_post", layer) for layer in range(lm.spec.n_layers)]
        return [*first, *(site for site in streams if site.order > first[0].order)]

    def _rank(self, method: str) -> int:
        return self.rounds if method == "inlp" else 1

    def _halves(self, data: Labelled) -> tuple[np.ndarray, np.ndarray, Plan]:
        """Places of the texts that fit the eraser, of the others, and the folds of those."""
        yes = np.array(data.labels)
        half = grouped_folds(yes, data.groups, 2, seed=self.seed, name="halves")
        fit, held = np.flatnonzero(half == 0), np.flatnonzero(half == 1)
        groups = [data.groups[place] for place in held]
        return fit, held, Plan.of(yes[held], groups, self.folds, self.inner, self.seed)


@dataclass
class _Work:
    """One run: the clean states, the halves, and what every eraser is put through."""

    config: ConceptErasure
    lm: "LM"
    data: Labelled
    clean: Gathered
    fit: np.ndarray
    held: np.ndarray
    plan: Plan

    def __post_init__(self) -> None:
        config, plan = self.config, self.plan
        self.bos = self.clean.tokens[0].bos
        self.yes = np.array(self.data.labels)
        shuffled = shuffled_labels(
            plan.yes, plan.groups.tolist(), plan.folds, config.shuffles, seed=config.seed, name="shuffled"
        )
        self.targets = np.concatenate([plan.yes[None], shuffled])
        source: Any = config.neutral
        self.neutral = config.neutral
        if not source:
            spare = [self.data.texts[place] for place in self.fit if not self.yes[place]]
            source, self.neutral = neutral_material(self.lm, spare, config.documents)
            if self.neutral == "texts of the other concepts":
                self.neutral = "texts of the fit half without the property"
        length = min(LENGTH, self.lm.spec.n_ctx)
        text = corpus(
            source, self.lm.tokenizer, n_ctx=length, bos=config.bos, long="truncate" if not config.neutral else "split"
        )
        texts = [self.clean.tokens[place].ids for place in self.held]
        self.texts = {
            "texts": (texts, self.bos),
            "neutral": ([row.tolist() for row in text.documents[: config.documents]], text.bos),
        }
        self.before = {name: token_costs(self.lm, rows, bos) for name, (rows, bos) in self.texts.items()}

    @property
    def first(self) -> Site:
        return self.clean.sites[0]

    def fitted(self, method: str) -> dict[Site, Eraser]:
        """The method's eraser, at the site or at all of them."""
        config = self.config
        out: dict[Site, Eraser] = {}
        for site in self.clean.sites if config.onwards else self.clean.sites[:1]:
            rows = self._rows(out, site)
            groups = [self.data.groups[place] for place in self.fit]
            labels = self.yes[self.fit].tolist()
            try:
                out[site] = fit_eraser(
                    rows[self.fit], labels, method, groups=groups, rounds=config.rounds, strength=config.strength
                )
            except NoDifference as error:
                if site == self.first:
                    raise BadInput(f"{site}: {error}") from None
        return out

    def random(self, rank: int, draw: int) -> dict[Site, Eraser]:
        """Random subspaces in the same places."""
        out: dict[Site, Eraser] = {}
        for site in self.clean.sites if self.config.onwards else self.clean.sites[:1]:
            rows = self._rows(out, site)
            out[site] = random_eraser(rows[self.fit], rank, seed=self.config.seed, name=f"{site} {draw}")
        return out

    def _rows(self, erasers: dict[Site, Eraser], site: Site) -> np.ndarray:
        """States [text, d] at a site under erasers of earlier sites."""
        if not erasers:
            return self.clean[site].double().numpy()
        states = gather(
            self.lm, self.data, site, pool=self.config.pool, bos=self.config.bos, edits=text_edits(erasers, self.bos)
        )
        return states[site].double().numpy()

    def judge(self, erasers: dict[Site, Eraser]) -> dict[str, Any]:
        """Probes at every site, class means at the first, costs."""
        config = self.config
        states = self.clean
        if erasers:
            edits = text_edits(erasers, self.bos)
            states = gather(self.lm, self.data, list(self.clean.sites), pool=config.pool, bos=config.bos, edits=edits)
        probes = [self._probes(states[site].double().numpy()) for site in self.clean.sites]
        by_hand = self.clean[self.first].double().numpy()
        moved = erasers[self.first](by_hand) if erasers else by_hand
        out = {
            "score": np.stack([[held.score for held in one] for one in probes]),
            "null_auc": np.stack([[held.auc[1:] for held in one] for one in probes]),
            "gap": [self._gap(moved, half) / self._gap(by_hand, half) for half in (self.fit, self.held)],
            "forward_difference": float(
                np.abs(states[self.first].double().numpy() - moved).max() / np.abs(by_hand).max()
            ),
        }
        for name, (rows, bos) in self.texts.items():
            run = token_costs(self.lm, rows, bos, text_edits(erasers, bos)) if erasers else self.before[name]
            out[f"kl_{name}"], out[f"loss_{name}"] = run.kl, run.loss
        return out

    def _gap(self, x: np.ndarray, half: np.ndarray) -> float:
        rows, yes = x[half], self.yes[half]
        return float(np.linalg.norm(rows[yes].mean(axis=0) - rows[~yes].mean(axis=0)))

    def _probes(self, x: np.ndarray) -> list[Held]:
        """What each probe makes of the half that is held out."""
        config, held = self.config, x[self.held]
        if indistinct(held, self.plan):  # a kernel's width would be rounding
            return [Held.nothing(self.targets)] * len(PROBES)
        linear = held_out(held, self.targets, "ridge", self.plan, strengths=config.strengths)
        curved = held_out(
            kernel_features(held), self.targets, "ridge", self.plan, strengths=config.strengths, standardise=False
        )
        return [linear, curved, self._transfer(x)]

    def _transfer(self, x: np.ndarray) -> Held:
        """A probe of the fit half on the other; its null, the labels of the other half shuffled."""
        config, yes = self.config, self.yes[self.fit]
        groups = [self.data.groups[place] for place in self.fit]
        folds = grouped_folds(yes, groups, config.inner, seed=config.seed, name="transfer")
        strength = choose_strength(x[self.fit], yes, "ridge", folds, config.strengths)
        score = transferred(x[self.fit], yes, x[self.held], strength)
        return Held.of(score, self.targets, self.plan)

    def dataset(self, erasers: dict[str, dict[Site, Eraser]], found: dict[str, dict[str, Any]]) -> xr.Dataset:
        """All of it, labelled."""
        names, sites, stages = (
            list(erasers),
            self.clean.sites,
            [site for site in self.clean.sites if self.config.onwards or site == self.first],
        )
        widths = {site.name: self.clean[site].shape[1] for site in stages}
        ranks = [next(iter(parts.values())).rank if parts else 0 for parts in erasers.values()]
        sides = np.full((2, len(names), len(stages), max(widths.values()), max(ranks)), np.nan)
        centre = np.full((len(names), len(stages), max(widths.values())), np.nan)
        for row, parts in enumerate(erasers.values()):
            for column, site in enumerate(stages):
                if site in parts:
                    one = parts[site]
                    sides[0, row, column, : len(one.left), : one.rank] = one.left
                    sides[1, row, column, : len(one.left), : one.rank] = one.right
                    centre[row, column, : len(one.centre)] = one.centre
        cell = ("eraser", "site", "probe")
        columns: dict[str, Any] = {
            "score": ((*cell, "example"), np.stack([found[name]["score"] for name in names])),
            "null_auc": ((*cell, "shuffle"), np.stack([found[name]["null_auc"] for name in names])),
            "gap": (("eraser", "half"), np.array([found[name]["gap"] for name in names])),
            "left": (("eraser", "stage", "d", "k"), sides[0]), "right": (("eraser", "stage", "d", "k"), sides[1]),
            "centre": (("eraser", "stage", "d"), centre),
        }  # fmt: skip
        for kind, dim in (("texts", "example"), ("neutral", "document")):
            for what in ("kl", "loss"):
                columns[f"{what}_{kind}"] = (
                    ("eraser", dim),
                    np.stack([found[name][f"{what}_{kind}"] for name in names]),
                )
        coords = {
            "eraser": names, "site": [site.name for site in sites], "stage": [site.name for site in stages], "probe": list(PROBES),
            "half": ["fit", "held"], "rank": ("eraser", ranks), "label": ("example", self.plan.yes), "fold": ("example", self.plan.folds),
            "group": ("example", self.plan.groups), "text": ("example", [self.data.texts[place] for place in self.held]),
        }  # fmt: skip
        attrs = {
            "data": self.data.name, "design": describe_groups(self.yes, self.data.groups), "pool": self.config.pool, "widths": widths,
            "neutral": self.neutral, "fitted_on": len(self.fit), "bos": bool(self.bos), "onwards": self.config.onwards,
            "forward_difference": max(found[name]["forward_difference"] for name in names),
        }  # fmt: skip
        return xr.Dataset(columns, coords, attrs)


def transferred(x: np.ndarray, yes: np.ndarray, new: np.ndarray, strength: float) -> np.ndarray:
    """Signed scores [row] of `new` by a ridge probe of x; all 0 where x leaves a probe nothing."""
    from .base import fit_direction

    mean, spread = x.mean(axis=0), x.std(axis=0)
    if np.abs(x[yes].mean(axis=0) - x[~yes].mean(axis=0)).max() <= 1e-5 * max(float(spread.max()), 1e-300):
        return np.zeros(len(new))
    direction = fit_direction(x - mean, yes.tolist(), "ridge", strength=strength)
    return np.asarray(direction.score(new - mean).numpy())
