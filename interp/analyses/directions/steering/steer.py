"""Steering: add a concept's direction to the activations, and see whether the model says what belongs to the concept.

The question. A direction that tells texts with a property from texts without need not be one that the model uses. Put it there by hand,
in texts that have nothing to do with the property, and read what changes:

    x  ->  x + s * length * u        at every token of one site; u the direction at length 1, s the strength

Units. Nothing is normalised silently: `unit="difference"` makes `length` the distance of the two class means at that site (for
method "mean", s = 1 adds exactly the mean of yes less the mean of no); `unit="norm"` the mean length of activations there; `unit="raw"` 1.
All methods share that length; it is in the result (`length`, and `gap` and `norm` beside it).

    logprob    ln P(the next token is a target), over the positions of neutral texts     targets: words that are named, or those that
    logit      mean logit of the targets less that of all tokens                         the model says after positive texts
    judge      score of a second direction, fitted at the last residual stream
    kl         KL(steered || clean); kl_clean: KL(clean || steered); kl_rest: the latter among all tokens that are no targets
    nll        loss of the neutral texts' own next tokens

Choice and report. Labelled texts fall into two halves by group, neutral texts too. On the first, directions are fitted, targets found, and
the layer and strength chosen: the largest gain in logprob whose `kl_rest` stays within `budget`. On the second, everything is reported.

Three controls at the same layer, `draws` each: any direction of the same length (`random`); one of the same length in which neutral
activations vary, as much as they do (`span`); and the whole procedure on exchanged labels, with unit "difference" its length included
(`shuffled`). p is a rank among them, 1 / (draws + 1) at least. Side effects compare at an equal effect (`at_equal_effect`): who moves
more may break more.

Source. Turner et al. 2023 (arXiv 2308.10248), Rimsky et al. 2024 (arXiv 2312.06681) for differences of means that are added; Zou et al.
2023 (arXiv 2310.01405) for PCA; Monroe et al. 2008 for the log odds of words. Deviations: controls, held-out choice, both KLs.

When it misleads
- Pooling: a direction fitted on last tokens ("last") is added at all tokens. If it says "a colour comes next", that is true of one of them.
- `judge` moves by itself: what is added to the stream is still in it at the end, whether or not the model acts on it. `logprob` is the
  outcome; `judge` says that the shift arrives.
- Targets that are found are those of the fit's texts: `next` are tokens that follow their ends, which means most where texts break off
  before an answer; `texts` are their own words, which favour a model that repeats. Name `targets` where answers are known.
- Large strengths are far from all activations: everything changes, in any direction. Look at `kl_rest` and at what is written.
- Any large shift makes the distribution flatter, and so rare words likelier: a gain in `logprob` says nothing without its controls.

    import interp
    lm = interp.load("atlas")
    texts = interp.models.reference.labelled("atlas", "colour", 40)
    words = tuple(interp.models.reference.concept_set("atlas").get("colour").words)
    steered = interp.ConceptSteering(targets=words, draws=3, strengths=(1.0, 2.0), n=6)(lm, texts)
    steered.dose(), steered.at_equal_effect()
"""

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from interp.core.analysis import Analysis, Cost
from interp.core.errors import BadInput, listing, one_of
from interp.core.lm import LM
from interp.core.site import KINDS, Site, expand
from interp.data import Labelled

from ...concepts.firing.ranking import Ranks
from ..base import METHODS, Direction, NoDifference, fit_direction, gather
from .arms import NULLS, class_gap, null_shifts
from .material import Targets, neutral_rows, target_tokens
from .measuring import MEASURES, Meter, cells_of
from .result import ConceptSteeringResult

STREAMS = tuple(kind for kind, entry in KINDS.items() if entry.dims == ("pos", "d_model") and "{}" in entry.template)
UNITS = ("difference", "norm", "raw")


@dataclass(frozen=True)
class ConceptSteering(Analysis[ConceptSteeringResult]):
    """Add a concept's direction at a site of neutral texts, over strengths, beside directions of the same length."""

    takes: ClassVar[str] = "labelled"

    method: Literal["mean", "lda", "ridge", "logistic", "pca"] = "mean"
    """How the direction is fitted: difference of class means, Fisher's, ridge or logistic probe, or first principal component."""
    site: str = "resid_post"
    """Kind of site (resid_pre, attn_out, resid_mid, mlp_out or resid_post), or a name such as blocks.3.hook_resid_post, or with * for 3."""
    layers: tuple[int, ...] = ()
    """Layers among which one is chosen; by default all but the last."""
    pool: str = "last"
    """Tokens of a labelled text that make its vector: last, or mean over all."""
    penalty: float = 0.1
    """Penalty a row, of ridge and logistic."""
    strengths: tuple[float, ...] = (-1.0, 0.5, 1.0, 2.0, 4.0)
    """Multiples of the unit; 0, the clean run, is always there."""
    unit: Literal["difference", "norm", "raw"] = "difference"
    """Length of strength 1: distance of the class means at the site, mean length of its activations, or 1."""
    targets: tuple[str, ...] = ()
    """Words that steering should bring about. By default they are found on the texts of the fit."""
    found: Literal["next", "texts"] = "next"
    """How: tokens that the model itself finds likelier after positive texts than after negative ones, or that those texts have more of."""
    n_targets: int = 10
    """How many of those, at most."""
    neutral: str = ""
    """A file of neutral texts, one a line. By default plain English, or, where the tokenizer has no words for it, the negative texts."""
    n: int = 10
    """Neutral texts on either half, at most. Time grows with n * window * strengths * (layers + 3 * draws)."""
    window: int = 32
    """Tokens of a neutral text that are read."""
    budget: float = 0.5
    """Largest mean `kl_rest` (nats a token) of the strength that is chosen."""
    draws: int = 19
    """Directions of each control. The smallest p-value is 1 / (draws + 1)."""
    share: float = 0.5
    """Share of the labelled groups that directions are fitted on."""
    examples: int = 4
    """Neutral texts that are written on, clean and steered."""
    tokens: int = 16
    """Tokens that are written."""
    bos: bool | None = None
    """Put a BOS before each text; None follows the model's tokenizer."""
    seed: int = 0
    """Seed of the split and of the controls."""

    def __post_init__(self) -> None:
        one_of("method", self.method, METHODS)
        if "." in self.site:
            parsed = Site.parse(self.site.replace("*", "0"))
            if parsed.layer is not None and "*" not in self.site:
                if self.layers not in ((), (parsed.layer,), parsed.layer):
                    raise BadInput(
                        f"`site={self.site!r}` names layer {parsed.layer} and `layers` {self.layers}. Give one of them."
                    )
                object.__setattr__(self, "layers", (parsed.layer,))
            object.__setattr__(self, "site", parsed.kind)
        one_of("site", self.site, STREAMS)
        one_of("unit", self.unit, UNITS)
        one_of("found", self.found, ["next", "texts"])
        one_of("pool", self.pool, ["last", "mean"])
        for name, least in (("n_targets", 1), ("n", 2), ("window", 3), ("draws", 1), ("examples", 0), ("tokens", 1)):
            if getattr(self, name) < least:
                raise BadInput(f"`{name}` must be at least {least}; not {getattr(self, name)}.")
        for name in ("layers", "strengths", "targets"):
            value = getattr(self, name)
            object.__setattr__(self, name, (value,) if isinstance(value, str | int | float) else tuple(value))
        doses = np.asarray(self.strengths, dtype=float)
        if (
            not len(doses)
            or not np.isfinite(doses).all()
            or (doses == 0).any()
            or len(set(self.strengths)) < len(doses)
        ):
            raise BadInput(
                f"`strengths` must be finite, different, and none of them 0 (the clean run is always there); not {list(self.strengths)}."
            )
        if not (doses > 0).any():
            raise BadInput(
                f"`strengths` {list(self.strengths)} has no positive one: none leads towards the property. Add one."
            )
        if not self.budget > 0:
            raise BadInput(f"`budget` is a KL in nats above 0; not {self.budget}.")
        object.__setattr__(self, "strengths", tuple(sorted(float(dose) for dose in self.strengths)))

    def check(self, lm: LM, data: Any) -> None:
        """Refuse data that are not labelled texts, layers that the model lacks, and sites behind which nothing is read."""
        if not isinstance(data, Labelled):
            raise BadInput(
                f"steering needs labelled texts; not {type(data).__name__}. Make them with `interp.data.labelled(...)`."
            )
        data.split(self.share, self.seed)
        self._sites(lm)

    def cost(self, lm: LM, data: Any = None) -> Cost:
        """Labelled texts once; neutral texts once a layer and strength, and once a control and strength."""
        layers, doses = len(self._sites(lm)), len(self.strengths)
        cells = layers * doses + (1 + len(NULLS) * self.draws) * doses
        rows = self.n * self.window
        tokens = (
            cells * rows + 2 * rows + (sum(len(text.split()) * 2 for text in data.texts) if data is not None else 0)
        )
        held = rows * lm.spec.vocab * 4 + 16 * rows * lm.spec.d_model * 4
        return Cost(float(cells * self.n), int(tokens), held, f"{cells} cells of {self.n} neutral texts")

    def run(self, lm: LM, data: Any, store: Any = None) -> ConceptSteeringResult:
        """Fit on one half, choose there, report on the other."""
        fit, held = data.split(self.share, self.seed)
        near, far, what = neutral_rows(lm, self.neutral, fit, held, n=self.n, window=self.window, bos=self.bos)
        sites = self._sites(lm)
        last = Site("resid_post", lm.spec.n_layers - 1)
        wanted = sorted({*sites, last}, key=lambda site: site.order)
        fitted = gather(lm, fit, wanted, pool=self.pool, bos=self.bos, store=store)
        tested = gather(lm, held, wanted, pool=self.pool, bos=self.bos, store=store)
        directions = self._directions(fit, fitted, sites, last)
        alike, sites = (
            [site for site in sites if site not in directions],
            [site for site in sites if site in directions],
        )
        targets = self._targets(lm, fit, fitted, last, store)
        meter = Meter(lm, near, targets.ids, directions[last], sites)
        lengths = _Lengths(self.unit, fitted, fit, meter, sites)
        cells = [
            cell
            for site in sites
            for cell in cells_of(site, [dose * lengths.of[site] * directions[site].unit for dose in self.strengths])
        ]
        tried = meter.measure(cells, "choosing").reshape(len(sites), len(self.strengths), len(MEASURES), -1)
        row, dose = choose(tried, meter.clean, self.strengths, self.budget)
        site = sites[row]
        final = Meter(lm, far, targets.ids, directions[last], [site])
        shifts = torch.stack([lengths.of[site] * directions[site].unit])
        near_by = meter.activations(site)
        shifts = torch.cat(
            [shifts, *(self._null(kind, fitted[site], fit, near_by, lengths.of[site]) for kind in NULLS)]
        )
        every = [strength * shift for shift in shifts for strength in self.strengths]
        outcome = final.measure(cells_of(site, every)).reshape(len(shifts), len(self.strengths), len(MEASURES), -1)
        blind = site.order >= last.order  # the judge reads what was added itself
        for values in (
            outcome[:, :, MEASURES.index("judge")],
            *([] if not blind else [tried[row, :, MEASURES.index("judge")]]),
        ):
            values[...] = np.nan if blind else values
        prompts, written = self._write(lm, final, site, self.strengths[dose] * shifts)
        auc = [_auc(directions[one].score(tested[one]).numpy(), held.labels) for one in sites]
        base = {
            "outcome": (("arm", "strength", "measure", "prompt"), outcome), "clean": (("measure", "prompt"), final.clean),
            "fit_outcome": (("layer", "strength", "measure", "fit_prompt"), tried),
            "fit_clean": (("measure", "fit_prompt"), meter.clean),
            "vector": (("layer", "d_model"), torch.stack([directions[one].unit for one in sites]).numpy()),
            "length": ("layer", [lengths.of[one] for one in sites]), "gap": ("layer", [lengths.gap[one] for one in sites]),
            "norm": ("layer", [lengths.norm[one] for one in sites]), "auc": ("layer", auc),
            "arm_length": ("arm", shifts.norm(dim=1).numpy()),
            "written": (("version", "example"), np.array(written, dtype=str).reshape(3, -1)),
        }  # fmt: skip
        coords = _coords(self, lm, sites, targets, prompts, len(final.rows), len(meter.rows))
        attrs = {
            "layer": int(site.layer or 0), "strength": float(self.strengths[dose]), "unit": self.unit, "method": self.method,
            "site": self.site, "budget": self.budget, "neutral": what, "pool": self.pool, "data": data.name, "seed": self.seed,
            "named": bool(self.targets), "found": self.found, "short": near.short + far.short,
            "alike": [int(site.layer or 0) for site in alike], "within": bool(_within(tried, self.budget)[row, dose]),
        }  # fmt: skip
        return ConceptSteeringResult(xr.Dataset(base, coords, attrs))

    def _sites(self, lm: LM) -> list[Site]:
        layers = self.layers or tuple(range(max(1, lm.spec.n_layers - 1)))
        if bad := [layer for layer in layers if not 0 <= layer < lm.spec.n_layers]:
            raise BadInput(f"`layers` {listing(bad)}: {lm.spec.name} has layers 0 to {lm.spec.n_layers - 1}.")
        return expand([Site(self.site, layer) for layer in sorted(set(layers))], lm.spec)

    def _directions(self, fit: Labelled, fitted: Any, sites: list[Site], last: Site) -> dict[Site, Direction]:
        """A direction a site, but for those where the classes do not differ; refuses where that leaves none, or no judge."""
        out, refused = {}, None
        for site in fitted.sites:
            try:
                out[site] = fit_direction(
                    fitted[site], fit.labels, self.method, groups=fit.groups, strength=self.penalty, site=site
                )
            except NoDifference as error:
                refused = error
        if refused is not None and (last not in out or not any(site in out for site in sites)):
            raise refused
        return out

    def _targets(self, lm: LM, fit: Labelled, fitted: Any, last: Site, store: Any) -> Targets:
        ends = fitted[last] if self.pool == "last" else None
        if ends is None and self.found == "next" and not self.targets:
            ends = gather(lm, fit, [last], pool="last", bos=self.bos, store=store)[last]
        return target_tokens(lm, fit, self.targets, self.n_targets, source=self.found, streams=ends)

    def _null(self, kind: str, values: Tensor, fit: Labelled, activations: Tensor, length: float) -> Tensor:
        return null_shifts(
            kind, values, fit.labels, fit.groups, activations, method=self.method, penalty=self.penalty, draws=self.draws,
            length=length, own=self.unit == "difference", seed=self.seed,
        )  # fmt: skip

    def _write(self, lm: LM, meter: Meter, site: Site, shifts: Tensor) -> tuple[list[str], list[list[str]]]:
        """Prompts and what is written on: clean, steered, and with the first random direction."""
        room = lm.spec.n_ctx - self.tokens
        prompts = [list(ids)[: max(room, 1)] for ids in meter.rows.ids[: self.examples]]
        if not prompts or room < 1:
            return [], [[], [], []]
        edits: list[Any] = [(), *(cells_of(site, [shift])[0] for shift in shifts[:2])]
        texts = [list(lm.generate(prompts, self.tokens, edits=cell).texts) for cell in edits]
        return [lm.tokenizer.decode(ids[meter.rows.start :]) for ids in prompts], texts


class _Lengths:
    """The length of strength 1 at each site, with the distances and lengths that it may be."""

    def __init__(self, unit: str, fitted: Any, fit: Labelled, meter: Meter, sites: list[Site]) -> None:
        self.gap = {site: class_gap(fitted[site], fit.labels) for site in sites}
        self.norm = {site: float(meter.activations(site).norm(dim=1).mean()) for site in sites}
        self.of = {"difference": self.gap, "norm": self.norm, "raw": dict.fromkeys(sites, 1.0)}[unit]


def choose(tried: np.ndarray, clean: np.ndarray, strengths: tuple[float, ...], budget: float) -> tuple[int, int]:
    """(layer, strength), by place: the largest gain in logprob of outcomes [layer, strength, measure, row] within the budget.

    Where no positive strength is within it, the one with the smallest `kl_rest`.
    """
    place = MEASURES.index("logprob")
    gain = (tried[:, :, place] - clean[place]).mean(axis=-1)
    positive = np.asarray(strengths) > 0
    fine = _within(tried, budget) & positive
    cost = tried[:, :, MEASURES.index("kl_rest")].mean(axis=-1)
    value = np.where(fine, gain, -np.inf) if fine.any() else np.where(positive, -cost, -np.inf)
    row, dose = np.unravel_index(int(np.argmax(value)), value.shape)
    return int(row), int(dose)


def _within(tried: np.ndarray, budget: float) -> np.ndarray:
    return np.asarray(tried[:, :, MEASURES.index("kl_rest")].mean(axis=-1) <= budget)


def _auc(scores: np.ndarray, labels: Any) -> float:
    ranks = Ranks.of(scores[:, None], np.arange(len(scores)), len(scores))
    return float(ranks.auc(np.asarray(labels))[0])


def _coords(
    config: ConceptSteering, lm: LM, sites: list[Site], targets: Targets, prompts: list[str], held: int, near: int
) -> dict[str, Any]:
    kinds = ["direction", *(kind for kind in NULLS for _ in range(config.draws))]
    return {
        "arm": np.arange(len(kinds)), "kind": ("arm", kinds), "strength": list(config.strengths), "measure": list(MEASURES),
        "prompt": np.arange(held), "fit_prompt": np.arange(near), "layer": [site.layer for site in sites],
        "target": list(range(len(targets.ids))), "target_id": ("target", list(targets.ids)), "z": ("target", list(targets.z)),
        "word": ("target", [lm.tokenizer.label(token) for token in targets.ids]), "version": ["clean", "steered", "random"],
        "example": np.arange(len(prompts)), "text": ("example", np.array(prompts, dtype=str)),
    }  # fmt: skip
