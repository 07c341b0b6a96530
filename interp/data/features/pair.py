"""Two synthetic models whose differences are known: what a comparison of two models should find, and what should not fool it.

Both have the same concepts, each a direction a model. A concept is on in a share of the rows, independently of the others, and a row of a
model is the sum of its directions by how strong each concept is there:

    kind      in the base          in the tuned model      what it is
    shared    s                    s                       the same in both
    weak      r s                  s                       in both, weaker in the base: tempts a penalty to give up its base decoder
    dec       s', drawn apart      s                       in both, not in proportion: tempts a dictionary to use two latents
    tuned     0                    s                       new: only the tuned model has it
    base      s                    0                       lost: only the base has it

with s and s' uniform between 0.5 and 1.5. `cosine` is that of a concept's two directions: 1 for one basis, 0 for bases that
have nothing to do with one another; `base_width` gives the base another width altogether.

    from interp.data.features.pair import PairWorld
    world = PairWorld.small(seed=0)
    rows = world.rows(1000, seed=1)                 # {"base": [1000, 32], "tuned": [1000, 32]}
    world.kinds[:3], world.true_delta()[:3]
    world.identify(world.directions)[0][:3]         # the concept that each latent's decoder is, and its |cosine|
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from interp.core.errors import BadInput
from interp.core.seed import generator

from .directions import lean, spread

KINDS = ("shared", "weak", "dec", "tuned", "base")


@dataclass(frozen=True)
class PairWorld:
    """A pair of models with known concepts. The defaults are the large world; `PairWorld.small()` is the one for tests."""

    width: int = 64
    """Components of a row of the tuned model, and of the base unless `base_width` says otherwise."""
    shared: int = 64
    """Concepts of both models, equally strong."""
    weak: int = 12
    """Concepts of both models, weaker in the base."""
    dec: int = 12
    """Concepts of both models whose two strengths are drawn apart."""
    tuned: int = 12
    """Concepts of the tuned model alone."""
    base: int = 12
    """Concepts of the base alone."""
    share: float = 0.04
    """Share of the rows in which a concept is on."""
    ratios: tuple[float, ...] = (0.3, 0.4)
    """Strengths of weak concepts in the base, over those in the tuned model; they take turns."""
    cosine: float = 0.95
    """Between the two directions of a concept."""
    noise: float = 0.0
    """Standard deviation of what is added to every component, independently in the two models."""
    base_width: int = 0
    """Components of a row of the base; 0 for the tuned model's. With another width, `cosine` has no meaning and is not used."""
    seed: int = 0
    """Names the directions; rows have a seed of their own."""

    def __post_init__(self) -> None:
        if min(self.shared, self.weak, self.dec, self.tuned, self.base) < 0 or self.concepts < 1:
            raise BadInput(f"a world needs a concept, and no kind fewer than none; not {self._sizes()}.")
        if self.width < 2 or self.base_width < 0 or not 0 < self.share <= 1 or not 0 <= self.noise < float("inf"):
            raise BadInput(
                f"a world has a width of at least 2, a share above 0 and at most 1, and no negative noise; not {self.width}, "
                f"{self.base_width}, {self.share} and {self.noise}."
            )
        object.__setattr__(self, "ratios", tuple(float(ratio) for ratio in self.ratios))
        if not self.ratios or not all(0 < ratio < 1 for ratio in self.ratios):
            raise BadInput(f"`ratios` of weak concepts lie between 0 and 1; not {self.ratios}.")

    @classmethod
    def small(cls, seed: int = 0, **changes: object) -> "PairWorld":
        """32 components and 48 concepts, 24 of them shared: a world for tests."""
        world = cls(width=32, shared=24, weak=6, dec=6, tuned=6, base=6, share=0.05, ratios=(0.4,), seed=seed)
        return replace(world, **changes)  # type: ignore[arg-type]

    def _sizes(self) -> dict[str, int]:
        return {kind: int(getattr(self, kind)) for kind in KINDS}

    @property
    def concepts(self) -> int:
        """How many there are."""
        return sum(self._sizes().values())

    @property
    def mean_on(self) -> float:
        """Concepts that are on in a row, on average: the k that a dictionary should have."""
        return self.share * self.concepts

    @cached_property
    def kinds(self) -> np.ndarray:
        """Kind of each concept [concept], in the order of `KINDS`."""
        return np.repeat(list(KINDS), list(self._sizes().values()))

    @cached_property
    def ratio(self) -> np.ndarray:
        """Strength in the base over that in the tuned model [concept]: 1, r, 1 on average, 0, infinite."""
        out = np.ones(self.concepts)
        weak = np.flatnonzero(self.kinds == "weak")
        out[weak] = [self.ratios[place % len(self.ratios)] for place in range(len(weak))]
        out[self.kinds == "tuned"], out[self.kinds == "base"] = 0.0, np.inf
        return out

    def true_delta(self) -> np.ndarray:
        """What the relative difference of decoder norms would be with both directions learned at their strengths [concept]."""
        with np.errstate(divide="ignore"):
            return np.where(self.ratio <= 1, 1 - self.ratio / 2, 0.5 / self.ratio)

    @cached_property
    def directions(self) -> dict[str, Tensor]:
        """Unit vectors of the concepts, {"base", "tuned": [concept, width]}, float32; also of what a model does not have."""
        tuned = spread(self.concepts, self.width, self.seed, "pair")
        if self.base_width not in (0, self.width):
            return {"base": spread(self.concepts, self.base_width, self.seed, "pair", "base"), "tuned": tuned}
        return {"base": lean(tuned, self.cosine, self.seed, "pair"), "tuned": tuned}

    def strengths(self, n: int, seed: int = 0) -> dict[str, Tensor]:
        """How strong each concept is in `n` rows of each model, {"base", "tuned": [row, concept]}, float32."""
        if n < 1:
            raise BadInput(f"there are no {n} rows. Ask for at least one.")
        draw = generator(seed, "pair rows", self.seed)
        on = torch.rand(n, self.concepts, generator=draw) < self.share
        tuned = (0.5 + torch.rand(n, self.concepts, generator=draw)) * on
        apart = (0.5 + torch.rand(n, self.concepts, generator=draw)) * on
        kinds = torch.tensor([KINDS.index(kind) for kind in self.kinds])
        ratio = torch.from_numpy(np.where(np.isfinite(self.ratio), self.ratio, 1.0)).float()
        base = torch.where(kinds == KINDS.index("dec"), apart, tuned * ratio)
        return {"base": base, "tuned": tuned * (kinds != KINDS.index("base"))}

    def rows(self, n: int, seed: int = 0) -> dict[str, Tensor]:
        """`n` rows of each model, {"base", "tuned": [row, width]}, float32. Raises `BadInput` for no rows."""
        strengths = self.strengths(n, seed)
        draw = generator(seed, "pair noise", self.seed)
        out = {}
        for name in ("base", "tuned"):
            rows = strengths[name] @ self.directions[name]
            out[name] = rows + self.noise * torch.randn(rows.shape, generator=draw) if self.noise else rows
        return out

    def identify(self, decoders: Mapping[str, Tensor], *, least: float = 0.8) -> tuple[np.ndarray, np.ndarray]:
        """The concept that each latent's decoder is [latent], -1 where no |cosine| exceeds `least`, and that |cosine| [latent].

        A latent is looked up in the model in which its decoder {"base", "tuned": [latent, width]} is longer.
        """
        best = {}
        for name, rows in decoders.items():
            unit = rows.detach().double() / rows.detach().double().norm(dim=1, keepdim=True).clamp_min(1e-30)
            cosine, concept = (unit @ self.directions[name].double().T).abs().max(dim=1)
            best[name] = (cosine.numpy(), concept.numpy(), rows.detach().double().norm(dim=1).numpy())
        in_tuned = best["tuned"][2] >= best["base"][2]
        cosine, concept = (np.where(in_tuned, best["tuned"][place], best["base"][place]) for place in (0, 1))
        return np.where(cosine > least, concept, -1), cosine
