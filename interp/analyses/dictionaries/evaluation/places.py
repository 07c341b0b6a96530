"""Where a dictionary's views are in the models at hand, and the rows that it reads there."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from torch import Tensor

from interp.cache.gather import model_of
from interp.core.dictionary import Dictionary, View
from interp.core.errors import BadInput
from interp.core.site import Site

if TYPE_CHECKING:
    from interp.core.lm import LM

Read = Mapping[Site, Tensor]
"""Activations of one model: [..., token, ...] by site."""


@dataclass(frozen=True)
class Place:
    """A view, and where its rows come from."""

    view: View
    site: Site
    model: int
    """Which of the models, counted from 0."""
    minus: int | None = None
    """Which model's rows are subtracted."""

    @property
    def name(self) -> str:
        """The view's name."""
        return self.view.name

    def flat(self, read: Sequence[Read], model: int) -> Tensor:
        """The site in one model, components flattened: [..., token, d], float32 at least."""
        x = read[model][self.site]
        lead = x.ndim - len(self.site.dims) + 2
        wide = x.reshape(*x.shape[:lead], -1)
        return wide.float() if wide.element_size() < 4 else wide

    def rows(self, read: Sequence[Read]) -> Tensor:
        """The view's rows [..., token, d]: the site, less the other model's where it is a difference, shifted by its offset."""
        x = self.flat(read, self.model)
        if self.minus is not None:
            x = x - self.flat(read, self.minus).to(x.device)
        return x.roll(-self.view.offset, dims=-2)

    def known(self, length: int) -> slice:
        """The tokens of a document of `length` at which `rows` are rows of the document (a shift runs out of it at one end)."""
        return slice(max(0, -self.view.offset), max(0, min(length, length - self.view.offset)))


@dataclass(frozen=True)
class Places:
    """Every view of a dictionary in one or two models."""

    dictionary: Dictionary
    reads: tuple[Place, ...]
    writes: tuple[Place, ...]
    models: int

    @classmethod
    def of(cls, dictionary: Dictionary, lms: "Sequence[LM]") -> "Places":
        """Find them. Raises `WrongModel` for views of another model, `BadInput` for other sites or widths, and too many or few models."""
        made = {}
        for view in dictionary.config.views:
            if not view.site:
                raise BadInput(
                    f"the view {view.name!r} has no site: its rows came from no model, so there is nothing to run. "
                    "Compare such a dictionary with what generated its rows (`interp.analyses.dictionaries.recovery`)."
                )
        numbers = _numbers(dictionary, lms)
        for view in dictionary.config.views:
            site, (model, minus) = Site.parse(view.site), numbers[view.name]
            for lm in [lms[number] for number in (model, minus) if number is not None]:
                _check_width(lm, view, site)
            made[view.name] = Place(view, site, model, minus)
        config = dictionary.config
        reads, writes = (tuple(made[view.name] for view in side) for side in (config.reads, config.writes))
        return cls(dictionary, reads, writes, len(lms))

    @property
    def every(self) -> tuple[Place, ...]:
        """Each view once."""
        names = {place.name for place in self.reads}
        return (*self.reads, *(place for place in self.writes if place.name not in names))

    def sites(self, model: int) -> list[Site]:
        """What has to be captured of one model, in the order of the forward pass."""
        found = {place.site for place in self.every if model in (place.model, place.minus)}
        return sorted(found, key=lambda site: site.order)

    def written_in(self, model: int) -> list[Place]:
        """The written views of one model, in the order of the forward pass."""
        return sorted((place for place in self.writes if place.model == model), key=lambda place: place.site.order)


def _numbers(dictionary: Dictionary, lms: "Sequence[LM]") -> dict[str, tuple[int, int | None]]:
    """Of each view by name: the number of its model, and of the one that is subtracted."""
    found: dict[str, tuple[int, int | None]] = {}
    asked: dict[tuple[str, str], None] = {}
    for view in dictionary.config.views:
        asked[view.model, view.fingerprint] = None
        if view.minus:
            asked[view.minus, view.minus_fingerprint] = None
    names = [name or "a model without a name" for name, _ in asked]
    if len(asked) > len(lms):
        raise BadInput(
            f"this dictionary reads {len(asked)} models, {names}, and {len(lms)} was given. Evaluate it with both: "
            "`CrosscoderEvaluation(dictionary=...)(base, tuned, text)`, `interp crosscoder-eval BASE TUNED`."
        )
    if len(asked) < len(lms):
        raise BadInput(
            f"this dictionary reads one model, {names[0]!r}, and two were given. "
            "Use `DictionaryEvaluation`, `interp dictionary-eval MODEL`."
        )
    for view in dictionary.config.views:
        first = _number(view, lms)
        second = replace(view, model=view.minus, fingerprint=view.minus_fingerprint) if view.minus else None
        found[view.name] = first, None if second is None else _number(second, lms)
    used = {number for pair in found.values() for number in pair if number is not None}
    if len(used) < len(lms):
        raise BadInput(f"this dictionary reads {names}, and these are one and the same of the models given. Give both.")
    return found


def _number(view: View, lms: "Sequence[LM]") -> int:
    owner = model_of(view, lms)
    return next(number for number, lm in enumerate(lms) if lm is owner)


def _check_width(lm: "LM", view: View, site: Site) -> None:
    shape = next((info.shape for info in lm.sites() if info.site == site), None)
    if shape is None or site.kind == "pattern":
        raise BadInput(
            f"the view {view.name!r} is of {view.site}, which {lm.spec.name} ({lm.spec.n_layers} layers) does not have as vectors."
        )
    if math.prod(shape) != view.width:
        raise BadInput(
            f"the view {view.name!r} has width {view.width}; {site} of {lm.spec.name} has {math.prod(shape)}. "
            "Give the model that it was trained on."
        )
