"""Rows that are sums of known sparse features: the ground truth that a dictionary can be held against.

    row = sum over features i of c_i d_i + noise        c_i = z_i a_i,  z_i in {0, 1},  a_i = |magnitude + magnitude_spread * normal|

The unit directions d_i repel one another (`spread`); z_i says whether feature i is on. Three worlds, which are told apart by what they
do to a coder that may not look at them (see `interp.analyses.dictionaries.recovery`):

    independent   every feature for itself, with one probability or with a Zipf law
    pairs         features 2i and 2i+1 have correlation `pairs`; one may be written as part of the other
    hierarchy     the first `parents` features have `children` children each, of which one at most is on, and only with its parent:
                  a parent whose children are all known need not be written where one of them is on (absorption)

Every draw has the name of its seed: `rows(n, seed)` and `codes(n, seed)` are two sides of one draw.

    from interp.data.features import FeatureWorld
    world = FeatureWorld(features=48, width=32, probability=0.05)
    rows, codes = world.rows(1000, seed=1), world.codes(1000, seed=1)
    (rows - codes @ world.directions).abs().max(), (codes > 0).float().sum(1).mean(), world.l0
"""

from dataclasses import dataclass
from functools import cached_property

import torch

from interp.core.errors import BadInput
from interp.core.seed import generator
from interp.core.shapes import Float, Int, Tensor

from .directions import spread


@dataclass(frozen=True)
class FeatureWorld:
    """A synthetic world of sparse features in one space."""

    features: int = 48
    """How many there are."""
    width: int = 32
    """Components of a row."""
    probability: float = 0.05
    """How often a feature is on, on average over the features (in a hierarchy: over the parents)."""
    zipf: float = 0.0
    """Exponent of a Zipf law: feature number i is on in proportion to 1 / (i + 1)^zipf. 0 for one probability."""
    magnitude: float = 1.0
    """Mean value of a feature that is on."""
    magnitude_spread: float = 0.2
    """Standard deviation of that value."""
    noise: float = 0.0
    """Standard deviation of normal noise on every component."""
    pairs: float = 0.0
    """Correlation of features 2i and 2i+1, 0 to 1: with this probability the second is on exactly where the first is."""
    parents: int = 0
    """How many of the first features have children; 0 for no hierarchy."""
    children: int = 3
    """Children of each parent; they follow the parents in order."""
    child_probability: float = 0.6
    """Probability that one child is on where its parent is; it is each of them equally often."""
    seed: int = 0
    """Names the directions and all draws."""

    def __post_init__(self) -> None:
        if self.features < 1 or self.width < 1:
            raise BadInput(f"a world needs features and a width; not {self.features} and {self.width}.")
        for name in ("probability", "pairs", "child_probability"):
            value = getattr(self, name)
            if not 0 <= value <= 1:
                raise BadInput(f"`{name}` must lie in [0, 1]; not {value}.")
        for name in ("zipf", "magnitude", "magnitude_spread", "noise"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise BadInput(f"`{name}` must be a finite number of at least 0; not {getattr(self, name)}.")
        if self.pairs and (self.parents or self.zipf or self.features % 2):
            raise BadInput(
                "`pairs` needs an even number of features of one probability, without a hierarchy. Drop one of them."
            )
        if self.parents < 0 or (self.parents and self.children < 1):
            raise BadInput(f"a hierarchy needs parents with children; not {self.parents} with {self.children}.")
        if self.parents and self.parents * (1 + self.children) != self.features:
            raise BadInput(
                f"{self.parents} parents with {self.children} children each are {self.parents * (1 + self.children)} features, not "
                f"{self.features}. Say features={self.parents * (1 + self.children)}."
            )
        if float(self._chances.max()) > 1:
            raise BadInput(
                f"with zipf={self.zipf} the first feature would be on with probability {float(self._chances[0]):.3g}. "
                f"Give a `probability` of at most {self.probability / float(self._chances[0]):.3g}."
            )

    @cached_property
    def directions(self) -> Float[Tensor, "feature d"]:
        """The unit direction of each feature, float32."""
        return spread(self.features, self.width, self.seed, "world")

    @cached_property
    def parent(self) -> Int[Tensor, " feature"]:
        """The parent of each feature, -1 for none."""
        found = torch.full((self.features,), -1)
        if self.parents:
            found[self.parents :] = torch.arange(self.parents).repeat_interleave(self.children)
        return found

    @cached_property
    def probabilities(self) -> Float[Tensor, " feature"]:
        """How often each feature is on, float64."""
        if not self.parents:
            return self._chances
        child = self._chances * self.child_probability / self.children
        return torch.cat([self._chances, child.repeat_interleave(self.children)])

    @property
    def l0(self) -> float:
        """How many features are on in a row, on average."""
        return float(self.probabilities.sum())

    def codes(self, n: int, seed: int = 0) -> Float[Tensor, "row feature"]:
        """The values of the features in `n` rows of the draw called `seed`, float32; 0 where a feature is off."""
        if n < 1:
            raise BadInput(f"`n` must be at least one row; not {n}.")
        draw = generator(self.seed, "codes", seed, n)
        on = self._on(n, draw)
        size = torch.randn(n, self.features, generator=draw).mul_(self.magnitude_spread).add_(self.magnitude).abs_()
        return size.mul_(on)

    def rows(self, n: int, seed: int = 0) -> Float[Tensor, "row d"]:
        """`n` rows of the draw called `seed`, float32: `codes(n, seed) @ directions`, and noise."""
        rows = self.codes(n, seed) @ self.directions
        if self.noise:
            rows += self.noise * torch.randn(n, self.width, generator=generator(self.seed, "noise", seed, n))
        return rows

    @cached_property
    def _chances(self) -> Tensor:
        """How often each feature that is drawn for itself is on, float64 (in a hierarchy: each parent)."""
        rank = torch.arange(1, (self.parents or self.features) + 1, dtype=torch.float64)
        share = rank**-self.zipf
        return self.probability * share / share.mean()

    def _on(self, n: int, draw: torch.Generator) -> Tensor:
        chances = self._chances.float()
        on = torch.rand(n, len(chances), generator=draw) < chances  # [n, features or parents]
        if self.parents:
            # which child, `children` for none; where the parent is on
            none = torch.rand(n, self.parents, generator=draw) >= self.child_probability
            which = torch.randint(self.children, (n, self.parents), generator=draw).masked_fill_(
                none | ~on, self.children
            )
            child = which[:, :, None] == torch.arange(self.children)  # [n, parent, child]
            return torch.cat([on, child.flatten(1)], dim=1)
        if self.pairs:
            same = torch.rand(n, self.features // 2, generator=draw) < self.pairs
            on[:, 1::2] = torch.where(same, on[:, ::2], on[:, 1::2])
        return on
