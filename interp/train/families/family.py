"""What all families of dictionaries have in common: their options, and how sizes, sites and views are looked up."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from ...core.dictionary import DictionaryConfig, View
from ...core.errors import BadInput
from ...core.site import Site
from ...core.spec import ModelSpec

Sites = list[tuple[str, Site]]


@dataclass(frozen=True)
class Family(ABC):
    """What all families can be asked for."""

    latents: int = 0
    """Latents in all; 0 for `expansion` times the width of the widest view (in families with latents of each layer: for each layer)."""
    expansion: float = 16.0
    """Latents over width, where `latents` is 0."""
    activation: str = "batchtopk"
    """Which latents are on: `relu` (with an L1 penalty), `topk`, `batchtopk` or `jumprelu` (with an L0 penalty)."""
    k: float = 32.0
    """Latents that are on in a row, for topk and, on average, batchtopk."""
    code_scale: str = "sum"
    """What makes latents compete: the code times the `sum` of its decoder norms over views, their norm together (`concat`), `mixed`, a
    competition for each view (`decoupled`), or the code alone (`none`). The first three are one for a single view."""
    nested: tuple[float, ...] = ()
    """Sizes of nested dictionaries that must reconstruct alone (Matryoshka): shares of all latents where at most 1, else numbers."""

    family: ClassVar[str] = ""
    """The name that a configuration carries."""

    @abstractmethod
    def sites(self, spec: ModelSpec, *others: ModelSpec) -> Sites:
        """(view name, site) of every view. `others`: of the second and further models, where they differ."""

    @abstractmethod
    def config(self, views: Mapping[str, View]) -> DictionaryConfig:
        """The configuration over these views {name: View}. Raises `BadInput` for missing views and sizes that cannot be."""

    def model_of(self, view: str) -> int:
        """Which of the models a view is of, 0 for the first."""
        del view
        return 0

    def offset_of(self, view: str) -> int:
        """By how many tokens a view is shifted; -1 is the token before."""
        del view
        return 0

    @property
    def models(self) -> int:
        """How many models it needs."""
        return 1

    @property
    def group_weights(self) -> tuple[float, ...]:
        """Factors of the penalty for each group, for `Training(group_weights=...)`."""
        return ()

    def _size(self, views: Mapping[str, View], layers: int = 1) -> int:
        size = self.latents or round(self.expansion * max(view.width for view in views.values())) * layers
        if size < layers:
            raise BadInput(f"{size} latents are too few for {layers} groups. Raise `latents` or `expansion`.")
        return size

    def _config(self, reads: "list[View]", writes: "list[View]", latents: int, **options: Any) -> DictionaryConfig:
        nested = sorted({round(width * latents) if width <= 1 else int(width) for width in self.nested})
        if nested and nested[-1] != latents:
            nested.append(latents)
        if nested and any(view.latents is not None for view in (*reads, *writes)):
            raise BadInput(
                "`nested` makes the first latents reconstruct every view alone, and here they belong to some views only. Drop `nested`, or "
                "let all latents read and write all views."
            )
        base: dict[str, Any] = {
            "activation": self.activation, "k": self.k, "code_scale": self.code_scale, "nested": nested, "family": self.family,
            "centred": False,
        }  # fmt: skip
        return DictionaryConfig(latents, tuple(reads), tuple(writes), **(base | options))


def site_of(name: str, spec: ModelSpec) -> Site:
    """The site by this name; the residual stream after the middle block for none."""
    return Site.parse(name) if name else Site("resid_post", spec.n_layers // 2)


def layer_of(layer: int | None, spec: ModelSpec) -> int:
    """A block that the model has; the middle one for None. Raises `BadInput` for others."""
    found = spec.n_layers // 2 if layer is None else layer
    if not 0 <= found < spec.n_layers:
        raise BadInput(f"there is no block {layer}: this model has {spec.n_layers}, from 0 to {spec.n_layers - 1}.")
    return found


def before_mlp(layer: int, spec: ModelSpec) -> Site:
    """The residual stream before the MLP of a block."""
    return Site("resid_pre" if spec.parallel else "resid_mid", layer)


def named(views: Mapping[str, View], names: list[str]) -> list[View]:
    """The views by these names, and no others."""
    if sorted(views) != sorted(names) or any(views[name].name != name for name in names):
        told = {name: view.name for name, view in views.items()}
        raise BadInput(f"this family has the views {names}; not {told}. Ask `sites` for what it needs.")
    return [views[name] for name in names]
