"""The crosscoder of models: one code for the same tokens in two models, or in several checkpoints of one."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

from ...core.dictionary import DictionaryConfig, View
from ...core.errors import BadInput, one_of
from ...core.spec import ModelSpec
from .family import Family, Sites, named, site_of


@dataclass(frozen=True)
class Crosscoder(Family):
    """One code for the same tokens in several models: two, or more checkpoints of one."""

    expansion: float = 32.0
    k: float = 100.0
    names: tuple[str, ...] = ("base", "tuned")
    """What the models are called, in the order in which they are given."""
    site: str = ""
    """Site of every model; empty for the residual stream after the middle block."""
    other_site: str = ""
    """Site of the models after the first, where it is another one."""
    dedicated: float = 0.0
    """Share of the latents that only the first model has, and as many that only the second has; 0 for none, below 0.5. More exclusive
    latents are found, and some that are not: test them by latent scaling."""
    designated_shared: float = 0.0
    """Share of the latents, the first, whose penalty is `shared_penalty` times that of the others (relu, jumprelu). Their decoders are
    not tied."""
    shared_penalty: float = 0.1
    """That factor; no value is established."""

    family: ClassVar[str] = "crosscoder"

    def __post_init__(self) -> None:
        object.__setattr__(self, "names", tuple(self.names))
        if len(self.names) < 2 or len(set(self.names)) < len(self.names):
            raise BadInput(f"a crosscoder needs the different names of two or more models; not {list(self.names)}.")
        if not 0 <= self.dedicated < 0.5 or (self.dedicated and len(self.names) > 2):
            raise BadInput(
                f"`dedicated` is a share of at least 0 and below 0.5, for each of two models; not {self.dedicated} for {len(self.names)}."
            )
        if not 0 <= self.designated_shared < 1 or self.shared_penalty < 0:
            raise BadInput(
                f"`designated_shared` is a share from 0 to below 1, and `shared_penalty` is not negative; not {self.designated_shared} and "
                f"{self.shared_penalty}."
            )
        if self.designated_shared and self.dedicated:
            raise BadInput("`designated_shared` and `dedicated` are two ways to the same end. Give one of them.")
        if self.designated_shared and self.activation not in ("relu", "jumprelu"):
            raise BadInput(
                f"`designated_shared` latents have a lower penalty, and {self.activation!r} has none. Use activation 'relu' or 'jumprelu'."
            )

    @property
    def models(self) -> int:
        """How many models it needs."""
        return len(self.names)

    @property
    def group_weights(self) -> tuple[float, ...]:
        """Factors of the penalty for each group, for `Training(group_weights=...)`."""
        return (self.shared_penalty, 1.0) if self.designated_shared else ()

    def model_of(self, view: str) -> int:
        """Which of the models a view is of, 0 for the first."""
        one_of("view", view, self.names)
        return self.names.index(view)

    def sites(self, spec: ModelSpec, *others: ModelSpec) -> Sites:
        """A view for each model, by its name."""
        specs = [spec, *others, *[spec] * (len(self.names) - 1 - len(others))]
        wanted = [self.site, *[self.other_site or self.site] * (len(self.names) - 1)]
        return [(name, site_of(site, spec)) for name, site, spec in zip(self.names, wanted, specs, strict=True)]

    def config(self, views: Mapping[str, View]) -> DictionaryConfig:
        """The same views on both sides; with `dedicated`, each without the other's own latents."""
        found = named(views, list(self.names))
        size = self._size(views)
        if self.designated_shared:
            shared = max(1, round(self.designated_shared * size))
            return self._config(found, found, size, groups=(("shared", shared), ("rest", size - shared)))
        if not self.dedicated:
            return self._config(found, found, size)
        own = max(1, round(self.dedicated * size))
        if 2 * own >= size:
            raise BadInput(
                f"{own} latents for each model leave none of {size} to be shared. Lower `dedicated`, or raise `latents`."
            )
        first, second = self.names
        found = [replace(found[0], latents=(0, size - own)), replace(found[1], latents=(own, size))]
        groups = ((f"{first} only", own), ("shared", size - 2 * own), (f"{second} only", own))
        return self._config(found, found, size, groups=groups)
