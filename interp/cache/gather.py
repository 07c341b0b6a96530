"""From the views of a dictionary to rows in the store: which model each belongs to, and the captures that give them.

    view = view_of(lm, "blocks.2.hook_resid_post")                    # what a dictionary remembers of where it reads
    rows = gather([view], [lm], corpus, store)                        # {view name: rows}, captured if they were not there

A view names its model by the content of its weights. A dictionary is never run on another model by accident: it would give numbers, and
none of them would mean anything.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from ..core.dictionary import View
from ..core.errors import BadInput, WrongModel
from ..core.lm import LM
from ..core.site import Site, sites_of
from .store import Store
from .views import DifferenceView, FlatView, OffsetView


def identity(lm: LM) -> str:
    """What a view remembers of a model: its weights and how they were processed on loading."""
    return f"{lm.fingerprint()} {lm.spec.processing}"


def view_of(lm: LM, site: "str | Site", name: str = "in", *, minus: "LM | None" = None, offset: int = 0) -> View:
    """A view of a model's site, or of the difference of two models there. Raises `UnknownSite`."""
    shapes = {info.site: info.shape for info in sites_of(lm.spec)}
    parsed = Site.parse(site)
    if parsed not in shapes or (minus is not None and parsed not in {info.site for info in sites_of(minus.spec)}):
        from ..core.site import expand

        expand([parsed], lm.spec if parsed not in shapes or minus is None else minus.spec)  # raises, with hints
    shape = [size for size in shapes[parsed] if isinstance(size, int)]
    width = 1
    for size in shape:
        width *= size
    return View(
        name, site=parsed.name, width=width, model=lm.spec.name, fingerprint=identity(lm), offset=offset,
        minus="" if minus is None else minus.spec.name, minus_fingerprint="" if minus is None else identity(minus),
    )  # fmt: skip


def gather(
    views: Sequence[View],
    models: Sequence[LM],
    what: Any,
    store: "Store | None" = None,
    *,
    dtype: Any = None,
    quiet: bool = False,
) -> dict[str, Any]:
    """Rows of each view by name, [row, d], of the same tokens; each model is captured once for all its sites.

    Raises `WrongModel` where a view is of none of the models, and what `Store.capture` raises.
    """
    store = Store() if store is None else store
    wanted: dict[int, tuple[LM, list[str]]] = {}
    for view in views:
        for lm in _models_of(view, models):
            sites = wanted.setdefault(id(lm), (lm, []))[1]
            if view.site not in sites:
                sites.append(view.site)
    captured = {key: store.capture(lm, what, sites, dtype=dtype, quiet=quiet) for key, (lm, sites) in wanted.items()}
    return {view.name: _rows(view, models, captured) for view in views}


def model_of(view: View, models: Sequence[LM]) -> LM:
    """Which of the models a view is of. Raises `WrongModel` for none."""
    return _match(view, view.model, view.fingerprint, models)


def _models_of(view: View, models: Sequence[LM]) -> list[LM]:
    if not view.site:
        raise BadInput(
            f"view {view.name!r} is of no model's site, so there is nothing to capture for it. Give its rows."
        )
    first = model_of(view, models)
    return [first, _match(view, view.minus, view.minus_fingerprint, models)] if view.minus else [first]


def _match(view: View, name: str, fingerprint: str, models: Sequence[LM]) -> LM:
    if not fingerprint and not name and len(models) > 1:
        raise WrongModel(
            f"the dictionary does not say which model its view {view.name!r} is of, and {len(models)} are given. Name them where it is "
            "imported: `interp dictionary import ... --model BASE,TUNED`."
        )
    for lm in models:
        if identity(lm) == fingerprint or (not fingerprint and name in ("", lm.spec.name)):
            return lm
    have = [f"{lm.spec.name} ({identity(lm)[:8]}, {lm.spec.processing})" for lm in models]
    raise WrongModel(
        f"the dictionary's view {view.name!r} ({view.site}) is of {name or 'a model'} ({fingerprint[:8] or 'weights not recorded'}, "
        f"{fingerprint.partition(' ')[2] or 'raw'}); given is {', '.join(have)}. Load that checkpoint, processed in that way, or train a "
        "dictionary on this one."
    )


def _rows(view: View, models: Sequence[LM], captured: dict[int, Any]) -> Any:
    owners = _models_of(view, models)
    parts = [captured[id(lm)][view.site] for lm in owners]
    parts = [part if len(part.row_shape) == 1 else FlatView(part) for part in parts]
    if {part.row_shape for part in parts} != {(view.width,)}:
        found = sorted({part.row_shape for part in parts})
        raise WrongModel(f"view {view.name!r} has width {view.width}; {view.site} has {found}. This is another model.")
    if len(parts) == 2 and parts[0].rows_digest != parts[1].rows_digest:
        raise BadInput(
            f"{owners[0].spec.name} and {owners[1].spec.name} read these texts as different tokens, so their rows cannot be subtracted."
        )
    rows = DifferenceView(*parts) if len(parts) == 2 else parts[0]
    return OffsetView(rows, view.offset) if view.offset else rows


def renamed(view: View, name: str) -> View:
    """The same place under another name."""
    return replace(view, name=name)
