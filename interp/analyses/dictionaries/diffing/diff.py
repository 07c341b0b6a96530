"""The method: a crosscoder of two models, asked what they do not share. The essay is the package's."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
import torch

from interp.analyses.dictionaries.source import opened
from interp.analyses.streams import check_predictable
from interp.cache.gather import gather, identity, model_of
from interp.core.analysis import Comparison, Cost
from interp.core.dictionary import Dictionary
from interp.core.errors import BadInput, WrongModel, one_of
from interp.core.seed import numpy_generator
from interp.data import Corpus

from .assemble import Judged, assemble
from .delta import bins, change, extremes, relative_difference
from .labels import Thresholds, label
from .patching import Patched, Sets, patch
from .recall import Recall, recall_of
from .result import DiffResult
from .scaling import MODELS, Scaled
from .sets import sets_of
from .survey import Survey, spaced

if TYPE_CHECKING:
    from interp.core.lm import LM


ALIGNED = 0.7
"""Median cosine of shared latents' two decoder rows from which two models count as writing in one basis; ratios shrink by as much."""


@dataclass(frozen=True)
class ModelDiff(Comparison[DiffResult]):
    """What two models do not share, by a crosscoder of both: latents of one model alone, artifacts among them, and what they cause."""

    takes: ClassVar[str] = "text"

    dictionary: str = ""
    """Folder of a saved crosscoder of these two models (in Python also the dictionary itself)."""
    training: str = ""
    """Folder of its training result, where latents of one model alone were counted; empty: the one in the dictionary's folder."""
    tokens: int = 100_000
    """Tokens that latent scaling is done on, of documents drawn at random."""
    patch_tokens: int = 2000
    """Tokens of the documents that are patched; 0 leaves patching out."""
    tuned_only: float = 0.9
    """Relative difference of decoder norms from which a latent is the tuned model's alone."""
    base_only: float = 0.1
    """Relative difference up to which it is the base's alone."""
    extreme: int = 0
    """Take so many latents with the largest (and smallest) differences instead of those beyond the thresholds; 0 takes the thresholds."""
    ratio: Literal["auto", "free", "paper"] = "auto"
    """Which ratios judge: along the decoder, as published (`paper`); without a direction (`free`), which keeps its power in rotated bases
    and counts whatever else happens on the same tokens; `auto`: paper where shared latents point the same way in both models, else free."""
    decoupled: float = 0.5
    """Ratio of the reconstruction from which a latent is decoupled: other latents write it into the other model."""
    shrunk: float = 0.2
    """Ratio of the error from which a latent is shrunk: it is in the other model, and nothing writes it there."""
    valid: tuple[float, ...] = (-0.1, 2.0)
    """Ratios outside of this say nothing (the lower end matters to `paper` alone)."""
    least_on: int = 20
    """Tokens on which a latent must be on to be judged."""
    first: int = 10
    """How many tokens at the start of a document count as first in patching."""
    skip: int = 1
    """Tokens at the start of each document that are neither read nor patched: many models keep a huge activation there."""
    changed: tuple[float, ...] = (0.02, 0.05, 0.1, 0.2)
    """Shares of the living latents, those changed most (`change`: also latents of both models that write different things), to patch."""
    random_sets: int = 5
    """Sets of random shared latents that are patched as a baseline."""
    random_seed: int = 42
    """Of these sets, and of the baseline of the ratios."""
    shown: int = 30
    """Latents a side whose tokens, contexts and logit effects are kept."""
    examples: int = 5
    """Strongest contexts of a latent."""
    words: int = 8
    """Tokens and logit effects of a latent."""
    seed: int = 0
    """Of the documents that are drawn."""

    def __post_init__(self) -> None:
        one_of("ratio", self.ratio, ("auto", "free", "paper"))
        object.__setattr__(self, "valid", tuple(float(end) for end in self.valid))
        object.__setattr__(self, "changed", tuple(sorted({float(share) for share in self.changed})))
        if not all(0 < share <= 1 for share in self.changed):
            raise BadInput(f"`changed` are shares of the latents, above 0 and at most 1; not {list(self.changed)}.")
        if len(self.valid) != 2:
            raise BadInput(f"`valid` is two ends, such as -0.1,2; not {list(self.valid)}.")
        least = {
            "tokens": 1, "patch_tokens": 0, "extreme": 0, "first": 1, "skip": 0, "random_sets": 0, "shown": 0, "examples": 1, "words": 1,
        }  # fmt: skip
        for name, low in least.items():
            if getattr(self, name) < low:
                raise BadInput(f"`{name}` must be at least {low}; not {getattr(self, name)}.")
        if not 0 <= self.base_only <= 0.4 or not 0.6 <= self.tuned_only <= 1:
            raise BadInput(
                f"`base_only` lies from 0 to 0.4 and `tuned_only` from 0.6 to 1; not {self.base_only} and {self.tuned_only}."
            )
        _ = self.thresholds

    @property
    def thresholds(self) -> Thresholds:
        """Where ratios count as large."""
        return Thresholds(self.decoupled, self.shrunk, (self.valid[0], self.valid[1]), self.least_on)

    def check_models(self, lm: "LM", other: "LM", data: Any) -> None:
        """Refuse models that read different tokens, a dictionary that is not a crosscoder of exactly these two, and what is no corpus."""
        if lm.tokenizer.digest != other.tokenizer.digest:
            raise WrongModel(
                f"{lm.spec.name} and {other.spec.name} have different tokenizers, so their tokens do not stand for the same text."
            )
        for one in (lm, other):
            check_predictable(one, data)
        if max(data.lengths) <= self.skip:
            raise BadInput(
                f"no document has more than the {self.skip} tokens that are skipped. Give longer text, or a smaller `skip`."
            )
        check_crosscoder(opened(self.dictionary), lm, other)

    def cost(self, lm: "LM", other: "LM", data: Any = None) -> Cost:  # type: ignore[override]
        """A pass of both models to the site, and as many whole ones as there are sets over what is patched."""
        n = min(self.tokens, data.n_tokens)
        patched = min(self.patch_tokens, data.n_tokens)
        cells = 12 + self.random_sets + len(self.changed) * (1 + self.random_sets)
        dictionary = opened(self.dictionary)
        room = 8 * dictionary.latents * 4 * sum(view.width for view in dictionary.config.writes)
        return Cost(
            2.0 + cells, 2 * n + (cells + 2) * patched, room, "most of it patching" if cells * patched > n else ""
        )

    def compare(self, lm: "LM", other: "LM", data: Corpus, store: Any) -> DiffResult:
        """Read, bin, judge, patch."""
        dictionary = opened(self.dictionary)
        draw = numpy_generator(self.seed, "diff documents")
        mine = data.select(spaced(data.lengths, draw, self.tokens))
        rows = gather(dictionary.config.reads, [lm, other], mine, store, quiet=True)
        place = torch.cat([torch.arange(length) for length in mine.lengths])
        survey = Survey(dictionary, lm.spec.vocab, examples=self.examples)
        survey.run(rows, (place >= self.skip).nonzero()[:, 0], torch.cat(mine.documents))
        units = survey.units()
        scaled = survey.sums.finish({model: dictionary.decoder(model).cpu() for model in MODELS}, units=units)
        judged = self._judge(dictionary, scaled, units)
        sets, patched, places = self._patch(lm, other, dictionary, mine, judged)
        curve = self._recall()
        return DiffResult(assemble(self, survey, judged, (lm, other), mine, (sets, patched, places), curve))

    def _recall(self) -> Recall | None:
        beside = (
            Path(self.dictionary) / "training"
            if isinstance(self.dictionary, str | Path) and not self.training
            else None
        )
        if self.training:
            return recall_of(self.training)
        return recall_of(beside) if beside is not None and beside.is_dir() else None

    def _judge(self, dictionary: Dictionary, scaled: Scaled, units: dict[str, float]) -> Judged:
        norms = {model: norm.cpu().numpy() * units[model] for model, norm in dictionary.norms().items()}
        delta, alive = relative_difference(norms["base"], norms["tuned"]), scaled.active > 0
        if self.extreme:
            named = bins(delta, alive, tuned_only=1.0, base_only=0.0)
            named = np.where(np.isin(named, ("tuned only", "base only")), "other", named).astype("<U10")
            named[extremes(delta, alive, self.extreme)] = "tuned only"
            named[extremes(delta, alive & (named != "tuned only"), self.extreme, top=False)] = "base only"
        else:
            named = bins(delta, alive, tuned_only=self.tuned_only, base_only=self.base_only)
        cosine = alignment(dictionary, named == "shared")
        free = self.ratio == "free" or (self.ratio == "auto" and not cosine >= ALIGNED)
        labels = np.full(dictionary.latents, "", dtype="<U20")
        for side in MODELS:
            ratios = scaled.free(side) if free else scaled.nu(side)
            said = label(
                ratios[0],
                ratios[1],
                scaled.active,
                chance=scaled.chance(side) if free else None,
                thresholds=self.thresholds,
            )
            mine = named == f"{side} only"
            labels[mine] = said[mine]
        moved = change(*(dictionary.decoder(model) * units[model] for model in MODELS))
        return Judged(norms, delta, moved, named, labels, scaled, "free" if free else "paper", cosine)

    def _patch(
        self, lm: "LM", other: "LM", dictionary: Dictionary, data: Corpus, judged: Judged
    ) -> "tuple[Sets, Patched | None, list[int]]":
        scaled = judged.scaled
        ratios = scaled.free("tuned") if judged.ratio == "free" else scaled.nu("tuned")
        sets = sets_of(
            judged.bins, judged.labels, judged.delta, ratios,
            random=self.random_sets, seed=self.random_seed, changed=judged.change, shares=self.changed,
        )  # fmt: skip
        widths = {view.width for view in dictionary.config.writes}
        if not self.patch_tokens or len(widths) > 1:
            return sets, None, []
        draw = numpy_generator(self.seed, "diff patched documents")
        usable = [place for place, length in enumerate(data.lengths) if length > self.skip]
        places = [usable[one] for one in spaced([data.lengths[place] for place in usable], draw, self.patch_tokens)]
        documents = [data.documents[place] for place in places]
        return sets, patch(lm, other, dictionary, documents, sets, first=self.first, skip=self.skip), places

    def _recorded(self, lm: "LM", inputs: Any, compute: Callable[[], DiffResult]) -> DiffResult:
        return super()._recorded(lm, {**inputs, "dictionary": opened(self.dictionary)}, compute)


def alignment(dictionary: Dictionary, shared: np.ndarray) -> float:
    """Median cosine between the two decoder rows of shared latents; NaN where the widths differ or there are none."""
    base, tuned = (dictionary.decoder(model).detach().double().cpu() for model in MODELS)
    if base.shape != tuned.shape or not shared.any():
        return float("nan")
    keep = torch.from_numpy(shared)
    return float(torch.nn.functional.cosine_similarity(base[keep], tuned[keep], dim=1).median())


def check_crosscoder(dictionary: Dictionary, lm: "LM", other: "LM") -> None:
    """Refuse what is not a crosscoder that reads and writes the views base, of `lm`, and tuned, of `other`."""
    config = dictionary.config
    sides = [{view.name for view in side} for side in (config.reads, config.writes)]
    if sides != [set(MODELS), set(MODELS)]:
        raise BadInput(
            f"this dictionary reads {sorted(sides[0])} and writes {sorted(sides[1])}; comparing two models needs a crosscoder that "
            "reads and writes base and tuned. Train one: `interp train crosscoder BASE TUNED ...`."
        )
    if config.code_scale == "decoupled":
        raise BadInput(
            "the views of this crosscoder compete apart (code_scale='decoupled'), so a latent may be on for one model and off for the "
            "other: its code has no one value to scale or to patch. Train one with code_scale='sum'."
        )
    for view in config.writes:
        if view.offset or view.minus:
            raise BadInput(
                f"the view {view.name!r} is of {('a difference to ' + view.minus) if view.minus else 'another position'}; comparing two "
                "models needs each model's stream as it is at the token itself."
            )
    for view in config.writes:
        right = lm if view.name == "base" else other
        if identity(model_of(view, [lm, other])) != identity(right):
            raise WrongModel(
                f"the dictionary's view {view.name!r} is of {view.model}, which was given as the other model. Exchange the two: base first."
            )
