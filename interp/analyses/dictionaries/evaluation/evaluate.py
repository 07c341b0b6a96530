"""The two methods: a dictionary of one model, and a dictionary of two."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import xarray as xr

from interp.analyses.dictionaries.source import opened
from interp.analyses.streams import check_predictable
from interp.core.analysis import Analysis, Comparison, Cost
from interp.core.dictionary.seen import share_seen
from interp.core.errors import BadInput
from interp.data import Corpus, pack

from .measure import Measured, measure
from .places import Place, Places
from .replace import CONDITIONS, is_causal
from .result import DictionaryEvaluationResult
from .tokens import PARTS, Tokens, survey

if TYPE_CHECKING:
    from interp.core.lm import LM


@dataclass(frozen=True)
class _Options:
    """What both have."""

    dictionary: str
    """Folder of a saved dictionary; in Python, a `Dictionary` will do."""
    skip: int = 1
    """Tokens at the start of each document that are neither evaluated nor replaced: many models keep a huge activation there."""
    massive: float = 20.0
    """A token whose norm in some view is above so many medians is left out like the first ones, and reported; 0 keeps all."""
    batch_tokens: int = 2048
    """Tokens that are encoded and run at once."""

    def __post_init__(self) -> None:
        if self.skip < 0 or self.batch_tokens < 1:
            raise BadInput(
                f"`skip` must not be negative and `batch_tokens` at least 1; not {self.skip} and {self.batch_tokens}."
            )
        if not (self.massive == 0 or 1 < self.massive < float("inf")):
            raise BadInput(f"`massive` is in median norms: above 1, or 0 to keep every token; not {self.massive}.")


@dataclass(frozen=True)
class DictionaryEvaluation(_Options, Analysis[DictionaryEvaluationResult]):
    """How well a dictionary reconstructs the activations of the model it reads, and what the model loses when it runs on them."""

    takes: ClassVar[str] = "text"

    def check(self, lm: "LM", data: Any) -> None:
        """A corpus that fits the model, and a dictionary of this very model."""
        _check(self, [lm], data)

    def cost(self, lm: "LM", data: Any = None) -> Cost:
        """One pass to read, one to record, and part of one for each replacement and condition."""
        return _cost(self, [lm], data)

    def run(self, lm: "LM", data: Corpus, store: Any) -> DictionaryEvaluationResult:
        """Read, encode, replace, score."""
        return _evaluated(self, [lm], data, store)

    def _recorded(
        self, lm: "LM", inputs: Any, compute: Callable[[], DictionaryEvaluationResult]
    ) -> DictionaryEvaluationResult:
        return super()._recorded(lm, {**inputs, "dictionary": opened(self.dictionary)}, compute)


@dataclass(frozen=True)
class CrosscoderEvaluation(_Options, Comparison[DictionaryEvaluationResult]):
    """The same for a dictionary of two models: both read the text, and each model's view is replaced in that model."""

    takes: ClassVar[str] = "text"

    def check_models(self, lm: "LM", other: "LM", data: Any) -> None:
        """A corpus that fits both models, one tokenizer, and a dictionary of these very models."""
        if lm.tokenizer.digest != other.tokenizer.digest:
            raise BadInput(
                f"{lm.spec.name} and {other.spec.name} have different tokenizers, so their tokens do not stand for the same text."
            )
        _check(self, [lm, other], data)

    def cost(self, lm: "LM", other: "LM", data: Any = None) -> Cost:  # type: ignore[override]
        """One pass to read, one to record, and part of one for each replacement and condition, of both models."""
        return _cost(self, [lm, other], data)

    def compare(self, lm: "LM", other: "LM", data: Corpus, store: Any) -> DictionaryEvaluationResult:
        """Read, encode, replace in each, score."""
        return _evaluated(self, [lm, other], data, store)

    def _recorded(
        self, lm: "LM", inputs: Any, compute: Callable[[], DictionaryEvaluationResult]
    ) -> DictionaryEvaluationResult:
        return super()._recorded(lm, {**inputs, "dictionary": opened(self.dictionary)}, compute)


def _check(options: _Options, lms: "list[LM]", data: Any) -> None:
    for lm in lms:
        check_predictable(lm, data)
    places = Places.of(opened(options.dictionary), lms)
    late = [place.name for place in places.writes if place.site.kind == "final"]
    if late:
        raise BadInput(
            f"the views {late} are written behind the last layer, where nothing but the unembedding follows. Evaluate dictionaries of the "
            "residual stream (resid_post of the last layer), or read its FVU off the training result."
        )


def _cost(options: _Options, lms: "list[LM]", data: Any) -> Cost:
    places = Places.of(opened(options.dictionary), lms)
    passes = float(len(pack(data.lengths, options.batch_tokens)))
    cells = sum(3 * (1 + (len(places.written_in(number)) > 1)) for number in range(len(lms)))
    room = options.batch_tokens * (places.dictionary.latents * 8 + sum(lm.spec.d_model * 64 for lm in lms))
    return Cost(passes * (2 * len(lms) + cells), data.n_tokens * (2 * len(lms) + cells), room, "at most")


def _evaluated(options: _Options, lms: "list[LM]", data: Corpus, store: Any) -> DictionaryEvaluationResult:
    places = Places.of(opened(options.dictionary), lms)
    tokens = survey(places, lms, data, store, skip=options.skip, massive=options.massive, budget=options.batch_tokens)
    for place in places.writes:
        if not tokens.medians[place.name] > 0:
            raise BadInput(
                f"the activations of view {place.name!r} ({place.site}) are zero at most tokens; there is nothing to explain."
            )
    found = measure(places, lms, data, tokens, skip=options.skip, budget=options.batch_tokens)
    if not (found.total.sum(axis=0) > 0).all():
        raise BadInput("the activations of a view are the same at every token; FVU has no meaning. Bring more text.")
    return DictionaryEvaluationResult(_assemble(options, places, tokens, found, data))


def _assemble(options: _Options, places: Places, tokens: Tokens, found: Measured, data: Corpus) -> xr.Dataset:
    dictionary = places.dictionary
    views = [place.name for place in places.writes]
    numbers = [found.views[name].numbers() for name in views]
    parts = {
        name: np.stack([found.views[view].part[name].numpy() for view in views], axis=1) for name in ("error", "energy")
    }
    fires = found.latents.fires.numpy()
    document = ("document", "replacement", "condition")
    columns: dict[str, Any] = {
        "error": (("document", "view"), found.error), "total": (("document", "view"), found.total),
        "on": ("document", found.on), "tokens": ("document", np.array([(one == 0).sum() for one in tokens.part])),
        "ce": (document, found.ce), "kl": (document, found.kl), "predictions": ("document", found.predictions),
        **{name: ("view", np.array([one[name] for one in numbers])) for name in numbers[0]},
        "part_tokens": ("part", np.array([tokens.counts[part] for part in PARTS])),
        **{f"part_{name}": (("part", "view"), values) for name, values in parts.items()},
        "fires": ("latent", fires),
        "mean_code": ("latent", np.where(fires > 0, found.latents.total.numpy() / np.maximum(fires, 1), 0.0)),
        "largest_code": ("latent", found.latents.largest.numpy()),
        "decoder_norm": (("latent", "view"), np.stack([_norms(places, place) for place in places.writes], axis=1)),
    }  # fmt: skip
    targets = found.targets
    coords = {
        "document": list(data.ids), "text": ("document", list(data.texts)), "view": views,
        "site": ("view", [place.site.name for place in places.writes]),
        "view_model": ("view", [place.view.model for place in places.writes]),
        "replacement": [name for _, name, _ in targets],
        "model": ("replacement", [written[0].view.model for _, _, written in targets]),
        "condition": list(CONDITIONS), "part": list(PARTS), "latent": np.arange(dictionary.latents),
    }  # fmt: skip
    several = [written for _, _, written in targets if len(written) > 1]
    together = "" if not several else "live" if is_causal(places, several[0]) else "clean"
    config = dictionary.config
    seen = share_seen(dictionary.metadata.get("corpus_sketch", []), data.documents)
    attrs = {
        "activation": config.activation, "k": float(config.k), "family": config.family, "together": together,
        "skip": options.skip, "massive": float(options.massive), "dictionary": dictionary.digest[:8],
        "trained_on": -1.0 if seen is None else seen,
    }  # fmt: skip
    return xr.Dataset(columns, coords, attrs)


def _norms(places: Places, place: Place) -> np.ndarray:
    """Decoder norms [latent] in normalised space, NaN where the latent does not write the view."""
    dictionary = places.dictionary
    low, high = dictionary.config.range_of(place.view)
    norms = np.full(dictionary.latents, np.nan, dtype=np.float32)
    norms[low:high] = dictionary.decoder(place.name)[low:high].float().norm(dim=1).cpu().numpy()
    return norms
