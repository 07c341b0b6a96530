"""Did a dictionary find the features that made its rows? For synthetic worlds, where these are known.

The question. Reconstruction says nothing about that: a dictionary with a low error may have split, merged or absorbed features.
With |cos| the absolute cosine of a decoder row with a true direction, over latents that are alive:

    MCC          mean over features of the |cos| of the latent matched to each, one to one, with the largest sum (Hungarian method)
    MMCS         mean over features of the largest |cos|; several features may have the same latent
    recovered    share of features whose largest |cos| exceeds a threshold (0.9)
    uniqueness   different features that are nearest to some latent, over the number of latents; over the number of features: coverage
    precision, recall, F1   of each latent's being on, as a detector of the feature nearest to it
    absorption   of the rows in which a parent and its child are on, the share where the latent nearest to the parent is silent

Source. MMCS: Sharkey et al. 2022; MCC as consistency of features: Song et al. 2025 (arXiv 2505.20254); absorption: Chanin et al. 2024
(arXiv 2409.14507), here with the hierarchy known instead of probed. Matching by `scipy.optimize.linear_sum_assignment`.

How. A feature that no latent is left for counts as 0 in MCC, so a few good latents do not make a good dictionary. `chance` gives what as
many random directions score: in few dimensions that is not small (MMCS 0.47 for 96 latents in 32 dimensions).

When it misleads
- Uniqueness of m latents for n features cannot exceed n / m: read coverage beside it.
- MCC and MMCS are about directions. A latent with the right direction that is on at the wrong time has cosine 1 and a bad F1.
- Two features closer to each other than the threshold cannot be told apart by it. Absorption is of one latent: where a parent has two
  latents, one for each kind of row, both look as if they absorbed.

    from interp.analyses.dictionaries.recovery import recovery
    from interp.data.features import FeatureWorld
    world = FeatureWorld(features=48, width=32)
    found = recovery(world.directions[:40], world.directions)        # a dictionary that has 40 of 48
    found.mcc(), found.mmcs(), found.recovered(), found.alive
"""

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
import xarray as xr
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from interp.core.analysis import Result
from interp.core.dictionary import Codes
from interp.core.errors import BadInput
from interp.core.stats import random_directions

ROWS = 4096
"""Rows whose codes are looked at together."""


class RecoveryResult(Result):
    """How true features and latents correspond.

    data:
        best, cosine [feature]     largest |cos| with a latent that is alive, and the cosine itself
        closest [feature]          that latent
        match, matched [feature]   latent of the one-to-one matching (-1: none was left) and its |cos| (0)
        chance [feature]           largest |cos| with as many random directions
        alive [latent]             whether it is on in any row (without codes: whether its decoder row is not zero)
        nearest, near [latent]     the feature with the largest |cos|, and that; -1 and NaN for latents that are dead
        precision, recall, f1, density [latent]     as a detector of that feature; NaN where never on (or no codes were given)
        parent [feature]           -1 for none
        together, silent [feature]  rows in which a child and its parent are on, and those of them where the parent's latent is silent
    """

    main: ClassVar[str] = "best"

    def mcc(self) -> float:
        """Mean |cos| of the one-to-one matching, 0 to 1; features without a latent count as 0."""
        return float(self.data["matched"].mean())

    def mmcs(self) -> float:
        """Mean over features of the largest |cos|, 0 to 1."""
        return float(self.data["best"].mean())

    def chance(self) -> float:
        """The same for as many random directions."""
        return float(self.data["chance"].mean())

    def recovered(self, threshold: float = 0.9) -> float:
        """Share of features whose largest |cos| exceeds `threshold`."""
        return float((self.data["best"] > threshold).mean())

    @property
    def alive(self) -> int:
        """How many latents are alive."""
        return int(self.data["alive"].sum())

    def uniqueness(self) -> float:
        """Different features among those nearest to latents, over the number of latents alive; NaN for none."""
        return self._distinct() / self.alive if self.alive else float("nan")

    def coverage(self) -> float:
        """The same over the number of features."""
        return self._distinct() / self.data.sizes["feature"]

    def f1(self) -> float:
        """Mean F1 of the latents matched one to one, as detectors of their nearest feature; 0 for one that is never on."""
        latents = self.data["match"].values
        if not np.isfinite(self.data["density"]).any():
            raise BadInput("without codes nothing is known about when latents are on. Give `codes` and `truth`.")
        return (
            float(np.nan_to_num(self.data["f1"].values[latents[latents >= 0]]).mean()) if (latents >= 0).any() else 0.0
        )

    def absorption(self) -> float:
        """Share of rows with a parent and its child on where the parent's latent is silent, over all pairs; NaN without such rows."""
        together = float(self.data["together"].sum())
        return float(self.data["silent"].sum()) / together if together else float("nan")

    def headline(self) -> dict[str, float]:
        """MCC, the share of features recovered (|cos| > 0.9), and latents alive."""
        return {"MCC": self.mcc(), "recovered": self.recovered(), "alive": float(self.alive)}

    def report_lines(self) -> tuple[str, ...]:
        """The other numbers, in words."""
        sizes = self.data.sizes
        lines = [
            f"{sizes['feature']} features, {sizes['latent']} latents, {self.alive} alive",
            f"largest |cos| {self.mmcs():.3f} on average; {self.chance():.3f} for as many random directions",
            f"latents are nearest to {self._distinct()} different features: {self.uniqueness():.2f} a latent, {self.coverage():.2f} of all",
        ]
        if np.isfinite(self.data["density"]).any():
            lines.append(f"F1 of matched latents {self.f1():.3f}")
        if float(self.data["together"].sum()):
            lines.append(f"absorption {self.absorption():.3f}")
        return tuple(lines)

    def _distinct(self) -> int:
        return len(np.unique(self.data["nearest"].values[self.data["alive"].values]))


def recovery(
    decoder: Tensor,
    directions: Tensor,
    *,
    codes: "Tensor | Codes | None" = None,
    truth: Tensor | None = None,
    parent: Tensor | None = None,
    alive: Tensor | None = None,
    seed: int = 0,
) -> RecoveryResult:
    """Hold the decoder rows [latent, d] of a dictionary against the directions [feature, d] that made its rows.

    `codes` [row, latent] of the dictionary and `truth` [row, feature] (0 where a feature is off) of the same rows say which latents are
    alive and how well they detect; `parent` [feature] (-1: none) asks for absorption. `alive` [latent] overrides what the codes say.
    `seed` names the random directions of `chance`.
    Raises `BadInput` for sizes that do not fit, and where a direction is zero or a number is not finite.
    """
    rows, true = _checked(decoder, directions, codes, truth, parent, alive)
    codes = None if codes is None else codes.to("cpu")
    truth, parent, alive = (None if given is None else given.to("cpu") for given in (truth, parent, alive))
    has = rows.norm(dim=1) > 0
    seen = None if codes is None else _Seen.of(codes, len(rows))
    living = has & (alive if alive is not None else has if seen is None else seen.on > 0)
    cosines = torch.zeros(len(rows), len(true), dtype=torch.float64)
    cosines[living] = _unit(rows[living]) @ _unit(true).T
    size = cosines.abs()  # [latent, feature]
    best, closest = size.max(dim=0)
    match = _matching(size, living)
    matched = torch.where(match >= 0, size[match.clamp(min=0), torch.arange(len(true))], 0.0)
    near, nearest = size.max(dim=1)
    nearest[~living], near[~living] = -1, torch.nan
    number = int(living.sum())
    random = (_unit(random_directions(max(number, 1), rows.shape[1], seed, "recovery").double()) @ _unit(true).T).abs()
    parents = torch.full((len(true),), -1) if parent is None else parent.to(torch.int64)
    feature, latent = ("feature",), ("latent",)
    data: dict[str, Any] = {
        "best": (feature, best.numpy()),
        "cosine": (feature, cosines[closest, torch.arange(len(true))].numpy()),
        "closest": (feature, closest.numpy()),
        "match": (feature, match.numpy()),
        "matched": (feature, matched.numpy()),
        "chance": (feature, random.max(dim=0).values.numpy() if number else np.zeros(len(true))),
        "parent": (feature, parents.numpy()),
        "alive": (latent, living.numpy()),
        "nearest": (latent, nearest.numpy()),
        "near": (latent, near.numpy()),
    }
    data |= {name: (latent, values) for name, values in _detection(codes, truth, nearest, seen).items()}
    data |= {name: (feature, values) for name, values in _absorption(codes, truth, parents, closest).items()}
    sizes = {"latents": len(rows), "features": len(true), "rows": 0 if codes is None else len(codes)}
    return RecoveryResult(xr.Dataset(data), config={"seed": seed, **sizes})


def _matching(size: Tensor, living: Tensor) -> Tensor:
    """The latent of each feature in the one-to-one matching with the largest sum, -1 where none is left; int64 [feature]."""
    match = torch.full((size.shape[1],), -1)
    numbers = living.nonzero()[:, 0]
    if len(numbers):
        latents, features = linear_sum_assignment(-size[numbers].numpy())
        match[torch.from_numpy(features)] = numbers[torch.from_numpy(latents)]
    return match


@dataclass(frozen=True)
class _Seen:
    """Rows in which each latent is on, int64 [latent]."""

    on: Tensor

    @classmethod
    def of(cls, codes: "Tensor | Codes", latents: int) -> "_Seen":
        if isinstance(codes, Codes):
            return cls(torch.bincount(codes.ids, minlength=latents))
        return cls((codes != 0).sum(dim=0))


def _blocks(codes: "Tensor | Codes", truth: Tensor) -> "list[tuple[int, int]]":
    return [(start, min(start + ROWS, len(codes))) for start in range(0, len(truth), ROWS)]


def _on(codes: "Tensor | Codes", start: int, stop: int) -> Tensor:
    """Which latents are on, bool [row, latent]."""
    return (codes.rows(start, stop).dense() if isinstance(codes, Codes) else codes[start:stop]) != 0


def _detection(
    codes: "Tensor | Codes | None", truth: Tensor | None, nearest: Tensor, seen: "_Seen | None"
) -> dict[str, np.ndarray]:
    """Precision, recall, F1 and density of each latent, NaN where it is never on."""
    if codes is None or truth is None or seen is None:
        return {name: np.full(len(nearest), np.nan) for name in ("precision", "recall", "f1", "density")}
    place = nearest.clamp(min=0)
    hits = torch.zeros(len(nearest), dtype=torch.int64)
    for start, stop in _blocks(codes, truth):
        hits += (_on(codes, start, stop) & (truth[start:stop] != 0)[:, place]).sum(dim=0)
    present = (truth != 0).sum(dim=0)[place]
    found = {
        "precision": hits.double() / seen.on,
        "recall": hits.double() / present,
        "f1": 2 * hits.double() / (seen.on + present),
    }
    silent = (seen.on == 0) | (nearest < 0)
    return {name: values.masked_fill(silent, torch.nan).numpy() for name, values in found.items()} | {
        "density": (seen.on.double() / len(truth)).numpy()
    }


def _absorption(
    codes: "Tensor | Codes | None", truth: Tensor | None, parents: Tensor, closest: Tensor
) -> dict[str, np.ndarray]:
    """Rows in which each child is on with its parent, and those of them in which the parent's latent is silent."""
    together, silent = (torch.zeros(len(parents), dtype=torch.int64) for _ in range(2))
    children = (parents >= 0).nonzero()[:, 0]
    if codes is not None and truth is not None and len(children):
        for start, stop in _blocks(codes, truth):
            on = truth[start:stop] != 0
            both = on[:, children] & on[:, parents[children]]
            together[children] += both.sum(dim=0)
            silent[children] += (both & ~_on(codes, start, stop)[:, closest[parents[children]]]).sum(dim=0)
    return {"together": together.numpy(), "silent": silent.numpy()}


def _unit(rows: Tensor) -> Tensor:
    return rows / rows.norm(dim=1, keepdim=True)


def _checked(
    decoder: Tensor, directions: Tensor, codes: "Tensor | Codes | None", truth: Tensor | None,
    parent: Tensor | None, alive: Tensor | None,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Decoder rows and directions in float64 on the CPU."""
    rows, true = (tensor.detach().double().cpu() for tensor in (decoder, directions))
    if rows.shape[1] != true.shape[1]:
        raise BadInput(
            f"the decoder rows have {rows.shape[1]} components and the directions {true.shape[1]}. Are they of the same view?"
        )
    if not bool(rows.isfinite().all()) or not bool(true.isfinite().all()) or not bool((true.norm(dim=1) > 0).all()):
        raise BadInput("decoder rows and directions must be finite, and no direction zero.")
    if truth is not None and codes is None:
        raise BadInput("`truth` says when features are on; give the dictionary's `codes` of the same rows as well.")
    latents = None if codes is None else codes.latents if isinstance(codes, Codes) else codes.shape[1]
    for name, size, wanted in (
        ("codes", latents, len(rows)),
        ("truth", None if truth is None else truth.shape[1], len(true)),
        ("parent", None if parent is None else len(parent), len(true)),
        ("alive", None if alive is None else len(alive), len(rows)),
        ("truth rows", None if truth is None or codes is None else len(truth), 0 if codes is None else len(codes)),
    ):
        if size is not None and size != wanted:
            raise BadInput(
                f"`{name}` has {size} entries where {wanted} belong. Give those of the same dictionary and rows."
            )
    if parent is not None and not bool(((parent >= -1) & (parent < len(true))).all()):
        raise BadInput(
            f"`parent` holds numbers of features, 0 to {len(true) - 1}, or -1 for none; not {sorted(set(parent.tolist()))}."
        )
    return rows, true
