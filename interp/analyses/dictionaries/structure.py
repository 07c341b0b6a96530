"""What the weights of a dictionary say by themselves, and whether a second training finds the same latents.

Structure. Latents that were split, or learned twice, show in the decoder: rows with a near twin. Latents that read one thing and write
another show between encoder and decoder. For each latent

    nearest    largest cosine of its decoder row with that of another latent
    agreement  cosine of its encoder row with its decoder row (of views that are read and written)

Nearest is held against random directions, twice: uniform ones, and ones with the second moments of the decoder rows themselves. Where
activations fill few of their dimensions the second is far above the first, and only what exceeds it is structure.

Consistency. Two dictionaries of one site, from two seeds, are matched latent by latent (|cos| of decoder rows, one to one, Hungarian
method). The mean is their MCC: 1, the same dictionary in another order. Its floor is what random directions of the same second moments
match. Latents that match are found whatever the seed; latents that do not are one way of many to put the same thing.

Source. Bricken et al. 2023 (nearest neighbours, encoder against decoder); Song et al. 2025, arXiv 2505.20254 (MCC as consistency of
features); Leask et al. 2025, arXiv 2502.04878 (decoder rows that are made of others). Several written views count as one long row.

When it misleads
- Latents that were never trained keep random rows, and pull MCC towards its floor: say which are `alive` (`evaluation.density() > 0`).
- |cos| takes a row and its opposite for the same. Cosine 1 does not mean that two latents are on at the same tokens.
- Consistency is not truth: two seeds can share a bias. Ground truth needs a world whose features are known (`recovery`).

    from interp.analyses.dictionaries.structure import consistency, structure
    from interp.core.dictionary import Dictionary, DictionaryConfig, View
    view = View("in", width=32)
    one, two = (Dictionary.initialise(DictionaryConfig(64, (view,), (view,)), seed=seed) for seed in (0, 1))
    structure(one).headline()
    consistency(one, two).headline()             # untrained: at the floor
"""

from collections.abc import Sequence
from time import perf_counter
from typing import Any, ClassVar

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from interp.core.analysis import Result
from interp.core.dictionary import Dictionary, View
from interp.core.errors import BadInput
from interp.core.manifest import Manifest
from interp.core.seed import generator
from interp.core.stats import random_directions

from .recovery import recovery
from .source import opened

MOST_MATCHED = 8192
"""Latents beyond which the one-to-one matching (time in the third power, memory in the second) is refused."""
TILE = 1 << 22
"""Cosines held at once."""


class DictionaryStructureResult(Result):
    """Cosines within one dictionary.

    data (dims latent, view):
        nearest [latent, view], twin [latent, view]     largest cosine with another decoder row of the view, and whose it is
        uniform, matched [latent, view]                 the same for as many random directions: uniform, and with the rows' second moments
        agreement [latent, view]                        encoder row with decoder row; NaN where a view is not both read and written
        norm [latent, view], bias [latent]              decoder norm (normalised space) and encoder bias
    NaN (twin: -1) where a latent does not write the view, or its row is zero.
    """

    figure: ClassVar[str] = "dictionary_structure"
    main: ClassVar[str] = "nearest"

    def twins(self, above: float = 0.9) -> float:
        """Share of decoder rows, all views together, with another row of at least this cosine; such latents come at least in pairs."""
        values = self.data["nearest"].values
        return float((values[np.isfinite(values)] >= above).mean())

    def headline(self) -> dict[str, float]:
        """Median nearest cosine, the same of random rows with these second moments, and median agreement of encoder and decoder."""
        found = {
            "nearest cosine, median": float(np.nanmedian(self.data["nearest"])),
            "of random rows": float(np.nanmedian(self.data["matched"])),
        }
        agreement = self.data["agreement"].values
        if np.isfinite(agreement).any():
            found["encoder · decoder, median"] = float(np.nanmedian(agreement))
        return found

    def report_lines(self) -> tuple[str, ...]:
        """A line a view."""
        out = []
        for view in self.data["view"].values:
            at = self.data.sel(view=view)
            nearest, uniform, matched = (
                np.nanquantile(at[name], [0.5, 0.95]) for name in ("nearest", "uniform", "matched")
            )
            agreement = at["agreement"].values
            both = f"; encoder · decoder {np.nanmedian(agreement):.3f}" if np.isfinite(agreement).any() else ""
            out.append(
                f"{view}: nearest cosine {nearest[0]:.3f} (95 % below {nearest[1]:.3f}), random rows {matched[0]:.3f} ({matched[1]:.3f}), "
                f"uniform {uniform[0]:.3f} ({uniform[1]:.3f}){both}"
            )
        out.append(f"{self.twins():.1%} of rows have a twin of cosine 0.9 or more")
        return tuple(out)

    def thumbnail(self) -> xr.DataArray | None:
        """Nearest cosines, sorted."""
        values = np.sort(self.data["nearest"].values[:, 0])[::-1]
        return xr.DataArray(values[np.isfinite(values)], dims="latent", name="nearest")


class ConsistencyResult(Result):
    """How two dictionaries correspond, latent by latent of the first.

    data:
        best, closest [first]             largest |cos| with a latent of the second, and which
        matched, match [first]            |cos| with the latent matched one to one, and which; 0 and -1 where none was left
        cosine [first, view]              cosine with the matched latent in each written view by itself; NaN where it has none
        back [second]                     largest |cos| with a latent of the first
        null_best, null_matched [draw, first]    the same with random directions of the second's second moments in its place
        alive_first [first], alive_second [second]    latents that took part; the rest are NaN (0 in `matched`)
    """

    figure: ClassVar[str] = "dictionary_consistency"
    main: ClassVar[str] = "matched"

    def mcc(self) -> float:
        """Mean |cos| of the matched pairs over the latents of the smaller dictionary, 0 to 1."""
        return self._mean(self.data["matched"].values)

    def null(self) -> float:
        """The same against random directions with the second moments of the second dictionary, mean of the draws."""
        return float(np.mean([self._mean(row) for row in self.data["null_matched"].values]))

    def share(self, above: float = 0.9) -> float:
        """Share of the first's latents with a latent in the second of at least this |cos|."""
        best = self.data["best"].values
        return float((best[np.isfinite(best)] >= above).mean())

    def headline(self) -> dict[str, float]:
        """MCC, its floor, and the share of latents found again (|cos| >= 0.9)."""
        return {"MCC": self.mcc(), "of random rows": self.null(), "found again": self.share()}

    def report_lines(self) -> tuple[str, ...]:
        """Both directions, and the latents that took part."""
        first, second = int(self.data["alive_first"].sum()), int(self.data["alive_second"].sum())
        places = self.data.attrs.get("places", [])
        null = float(np.nanmean(self.data["null_best"]))
        found = float(np.nanmean(self.data["best"])), float(np.nanmean(self.data["back"]))
        return (
            f"{first:,} of {self.data.sizes['first']:,} and {second:,} of {self.data.sizes['second']:,} latents took part",
            f"largest |cos|, mean: {found[0]:.3f} of the first in the second, {found[1]:.3f} back; {null:.3f} with random rows",
            f"found again: {self.share(0.7):.1%} at |cos| 0.7, {self.share(0.9):.1%} at 0.9, {self.share(0.95):.1%} at 0.95",
            *(
                f"not of one place: {place}; their directions only compare where both have one basis"
                for place in places
            ),
        )

    def thumbnail(self) -> xr.DataArray | None:
        """Matched |cos|, sorted."""
        return xr.DataArray(np.sort(self.data["matched"].values)[::-1], dims="latent", name="matched")

    def _mean(self, matched: np.ndarray) -> float:
        number = min(int(self.data["alive_first"].sum()), int(self.data["alive_second"].sum()))
        return float(matched[self.data["alive_first"].values].sum() / number)


def structure(dictionary: "str | Dictionary", *, seed: int = 0) -> DictionaryStructureResult:
    """Cosines within a dictionary (or a saved one's folder). `seed` names the random directions. Raises `BadInput` for all-zero rows."""
    began, coder = perf_counter(), opened(dictionary)
    views = [view.name for view in coder.config.writes]
    shape = (coder.latents, len(views))
    names = ("nearest", "uniform", "matched", "agreement", "norm")
    table = {name: np.full(shape, np.nan) for name in names}
    twin = np.full(shape, -1, dtype=np.int64)
    read = {view.name for view in coder.config.reads}
    for column, view in enumerate(coder.config.writes):
        low, high = coder.config.range_of(view)
        rows = coder.decoder(view.name)[low:high].detach().double().cpu()
        norms = rows.norm(dim=1)
        numbers = (norms > 0).nonzero()[:, 0]
        _check_rows(rows, len(numbers), view.name)
        unit = rows[numbers] / norms[numbers, None]
        place = (numbers + low).numpy()
        table["norm"][low:high, column] = norms.numpy()
        best, other = _nearest(unit)
        table["nearest"][place, column], twin[place, column] = best.numpy(), place[other.numpy()]
        uniform = random_directions(len(unit), unit.shape[1], seed, f"structure {view.name}").double()
        table["uniform"][place, column] = _nearest(uniform)[0].numpy()
        table["matched"][place, column] = _nearest(_alike(unit, seed, "structure", view.name))[0].numpy()
        if view.name in read:
            encoder = coder.encoder(view.name).detach().double().cpu()[place]
            agreement = torch.cosine_similarity(encoder, unit, dim=1)
            table["agreement"][place, column] = torch.where(encoder.norm(dim=1) > 0, agreement, torch.nan).numpy()
    columns = {name: (("latent", "view"), values) for name, values in table.items()}
    columns |= {"twin": (("latent", "view"), twin)}
    data = xr.Dataset(
        {**columns, "bias": ("latent", coder.b_enc.detach().float().cpu().numpy())},
        coords={"latent": np.arange(coder.latents), "view": views},
    )
    return DictionaryStructureResult(data, **_record("structure", {"dictionary": coder}, seed, began))


def consistency(
    first: "str | Dictionary",
    second: "str | Dictionary",
    *,
    alive: "tuple[Tensor | None, Tensor | None]" = (None, None),
    views: "Sequence[str] | None" = None,
    draws: int = 3,
    seed: int = 0,
) -> ConsistencyResult:
    """Match two dictionaries (or their folders), of two seeds, sizes or trainings, by their decoder rows.

    `alive` masks [latent] say which latents of each take part (all whose row is not zero by default); `views` which written views, all
    by default. `draws` sets of random directions give the floor. Raises `BadInput` for views or widths that differ, more latents
    than can be matched, and where none is alive.
    """
    began, coders = perf_counter(), (opened(first), opened(second))
    if draws < 1:
        raise BadInput(f"`draws` must be at least 1; not {draws}.")
    names = _shared(coders, views)
    rows = [torch.cat([coder.decoder(name).detach().double().cpu() for name in names], dim=1) for coder in coders]
    masks = [_mask(one, mask, place) for one, mask, place in zip(rows, alive, ("first", "second"), strict=True)]
    one, two = (these[mask] for these, mask in zip(rows, masks, strict=True))
    found = recovery(two, one)  # "features": the rows of the first; what detects them: those of the second
    numbers = masks[1].nonzero()[:, 0].numpy()
    place = masks[0].numpy()
    size = len(place)
    match = np.full(size, -1, dtype=np.int64)
    raw = found.data["match"].values
    match[place] = np.where(raw >= 0, numbers[np.maximum(raw, 0)], -1)
    nulls = [recovery(_alike(_unit(two), seed, "consistency", str(draw)), one) for draw in range(draws)]
    back = np.full(len(rows[1]), np.nan)
    back[masks[1].numpy()] = found.data["near"].values
    columns = {
        "best": ("first", _spread(found.data["best"].values, place, np.nan)),
        "closest": ("first", _spread(numbers[found.data["closest"].values], place, -1)),
        "matched": ("first", _spread(found.data["matched"].values, place, 0.0)), "match": ("first", match),
        "cosine": (("first", "view"), np.stack([_by_view(coders, name, match) for name in names], axis=1)),
        "back": ("second", back), "alive_first": ("first", place), "alive_second": ("second", masks[1].numpy()),
        "null_best": (("draw", "first"), np.stack([_spread(n.data["best"].values, place, np.nan) for n in nulls])),
        "null_matched": (("draw", "first"), np.stack([_spread(n.data["matched"].values, place, 0.0) for n in nulls])),
    }  # fmt: skip
    data = xr.Dataset(
        columns,
        {"first": np.arange(size), "second": np.arange(len(rows[1])), "view": names},
        {"places": _apart(coders, names)},
    )
    inputs = dict(zip(("first", "second"), coders, strict=True))
    return ConsistencyResult(data, **_record("consistency", inputs, seed, began, draws=draws, views=names))


def _shared(coders: tuple[Dictionary, Dictionary], views: "Sequence[str] | None") -> list[str]:
    """The written views that both have, with one width."""
    widths = [{view.name: view.width for view in coder.config.writes} for coder in coders]
    names = list(widths[0]) if views is None else list(views)
    for name in names:
        if name not in widths[0] or name not in widths[1] or (views is None and len(widths[0]) != len(widths[1])):
            raise BadInput(
                f"the dictionaries write the views {list(widths[0])} and {list(widths[1])}. Say which to compare: `views=[...]` of both."
            )
        if widths[0][name] != widths[1][name]:
            raise BadInput(
                f"view {name!r} has width {widths[0][name]} in one and {widths[1][name]} in the other: they are of different models."
            )
    if not names:
        raise BadInput("`views` is empty. Name at least one view that both dictionaries write.")
    return names


def _apart(coders: tuple[Dictionary, Dictionary], names: list[str]) -> list[str]:
    """The views that are of different sites or models in the two, in words."""
    out = []
    for name in names:
        one, two = (next(view for view in coder.config.writes if view.name == name) for coder in coders)
        known = one.fingerprint and two.fingerprint
        if one.site != two.site or (one.model, one.minus, one.offset) != (two.model, two.minus, two.offset):
            out.append(f"{name} is {_place(one)} and {_place(two)}")
        elif known and (one.fingerprint, one.minus_fingerprint) != (two.fingerprint, two.minus_fingerprint):
            out.append(f"{name} is {_place(one)} of different weights, or processed in another way on loading")
    return out


def _place(view: View) -> str:
    shift = f" {view.offset:+d}" if view.offset else ""
    return f"{view.model or 'a model without a name'} {f'- {view.minus} ' if view.minus else ''}{view.site or '(no site)'}{shift}"


def _mask(rows: Tensor, alive: Tensor | None, which: str) -> Tensor:
    if alive is not None and tuple(torch.as_tensor(alive).shape) != (len(rows),):
        raise BadInput(
            f"`alive` of the {which} dictionary must be [{len(rows)}]; not {list(torch.as_tensor(alive).shape)}."
        )
    mask = rows.norm(dim=1) > 0
    mask = mask if alive is None else mask & torch.as_tensor(alive).bool()
    count = int(mask.sum())
    if not 0 < count <= MOST_MATCHED:
        raise BadInput(
            f"{count:,} latents of the {which} dictionary take part; between 1 and {MOST_MATCHED:,} can be matched. Say by `alive` which."
        )
    return mask


def _by_view(coders: tuple[Dictionary, Dictionary], name: str, match: np.ndarray) -> np.ndarray:
    """Cosine of each latent of the first with its match, in one view."""
    one, two = (coder.decoder(name).detach().double().cpu() for coder in coders)
    there = torch.from_numpy(match >= 0)
    out = torch.full((len(one),), torch.nan, dtype=torch.float64)
    a, b = one[there], two[torch.from_numpy(match)[there]]
    size = a.norm(dim=1) * b.norm(dim=1)
    out[there] = torch.where(size > 0, (a * b).sum(dim=1) / size.clamp(min=1e-300), torch.nan)
    return out.numpy()


def _nearest(unit: Tensor) -> tuple[Tensor, Tensor]:
    """Largest cosine of each unit row with another one, and which; never more than a tile of cosines at once."""
    best, other = torch.full((len(unit),), torch.nan, dtype=torch.float64), torch.zeros(len(unit), dtype=torch.int64)
    step = max(1, TILE // len(unit))
    for start in range(0, len(unit), step):
        cosines = unit[start : start + step] @ unit.T
        here = torch.arange(len(cosines))
        cosines[here, here + start] = -torch.inf
        best[start : start + step], other[start : start + step] = cosines.max(dim=1)
    return best, other


def _alike(unit: Tensor, seed: int, *names: str) -> Tensor:
    """As many random unit rows, Gaussian with the second moments of these rows, then brought to length 1."""
    values, axes = torch.linalg.eigh(unit.T @ unit / len(unit))
    noise = torch.randn(unit.shape, generator=generator(seed, *names), dtype=torch.float64)
    return _unit(noise * values.clamp(min=0).sqrt() @ axes.T)


def _unit(rows: Tensor) -> Tensor:
    return rows / rows.norm(dim=1, keepdim=True)


def _spread(values: np.ndarray, place: np.ndarray, fill: float) -> np.ndarray:
    """Values of the latents that took part, at their numbers; `fill` elsewhere."""
    out = np.full(len(place), fill, dtype=values.dtype)
    out[place] = values
    return out


def _check_rows(rows: Tensor, count: int, view: str) -> None:
    if not bool(rows.isfinite().all()):
        raise BadInput(f"the decoder of view {view!r} holds values that are not finite. The training diverged.")
    if count < 2:
        raise BadInput(f"{count} decoder rows of view {view!r} are not zero; nearest rows need two.")


def _record(name: str, inputs: dict[str, Dictionary], seed: int, began: float, **config: Any) -> dict[str, Any]:
    manifest = Manifest.of(
        None, analysis=name, config=config, inputs=inputs, seeds={"seed": seed}, seconds=perf_counter() - began
    )
    return {"config": {**config, "seed": seed}, "manifest": manifest}
