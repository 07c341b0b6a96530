"""Families of one model whose latents are all alike: SAE, transcoder, crosscoder of neighbouring tokens, SAE of a difference."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

from ...core.dictionary import DictionaryConfig, View
from ...core.errors import BadInput, one_of
from ...core.site import Site
from ...core.spec import ModelSpec
from .family import Family, Sites, before_mlp, layer_of, named, site_of


@dataclass(frozen=True)
class SAE(Family):
    """A sparse autoencoder of one site."""

    site: str = ""
    """What it reads and writes, e.g. `blocks.6.hook_resid_post`; empty for the residual stream after the middle block."""

    family: ClassVar[str] = "sae"

    def sites(self, spec: ModelSpec, *others: ModelSpec) -> Sites:
        """One view, `in`."""
        return [("in", site_of(self.site, spec))]

    def config(self, views: Mapping[str, View]) -> DictionaryConfig:
        """One view on both sides; its bias is subtracted first."""
        (view,) = named(views, ["in"])
        return self._config([view], [view], self._size(views), centred=True)


@dataclass(frozen=True)
class Transcoder(Family):
    """What an MLP adds to the stream, as a sparse function of the stream before it."""

    layer: int | None = None
    """Block of the MLP; None for the middle one."""
    skip: bool = False
    """A linear path besides, which leaves to the latents what is not linear."""
    reads: str = ""
    """Site that is read; empty for the stream before the MLP (`hook_resid_mid`; `hook_resid_pre` where attention runs beside it)."""
    writes: str = ""
    """Site that is written; empty for `hook_mlp_out` of the block."""

    family: ClassVar[str] = "transcoder"

    def sites(self, spec: ModelSpec, *others: ModelSpec) -> Sites:
        """Views `in` and `out`."""
        layer = layer_of(self.layer, spec)
        read = Site.parse(self.reads) if self.reads else before_mlp(layer, spec)
        return [("in", read), ("out", Site.parse(self.writes) if self.writes else Site("mlp_out", layer))]

    def config(self, views: Mapping[str, View]) -> DictionaryConfig:
        """One view in, another out; `latents` by the wider one."""
        read, written = named(views, ["in", "out"])
        return self._config([read], [written], self._size(views), skip=self.skip)


@dataclass(frozen=True)
class TokenCrosscoder(Family):
    """One code for neighbouring tokens at a site of one model (a temporal crosscoder)."""

    site: str = ""
    """What is read and written at each token; empty for the residual stream after the middle block."""
    offsets: tuple[int, ...] = (-1, 0)
    """The tokens, counted from the present one: -1 is the one before."""

    family: ClassVar[str] = "token crosscoder"

    def __post_init__(self) -> None:
        object.__setattr__(self, "offsets", tuple(int(offset) for offset in self.offsets))
        if len(self.offsets) < 2 or len(set(self.offsets)) < len(self.offsets):
            raise BadInput(f"`offsets` are two or more different numbers of tokens; not {list(self.offsets)}.")

    def offset_of(self, view: str) -> int:
        """By how many tokens a view is shifted; -1 is the token before."""
        one_of("view", view, self._names)
        return self.offsets[self._names.index(view)]

    def sites(self, spec: ModelSpec, *others: ModelSpec) -> Sites:
        """Views `token -1`, `token +0`, ..."""
        return [(name, site_of(self.site, spec)) for name in self._names]

    def config(self, views: Mapping[str, View]) -> DictionaryConfig:
        """The same views on both sides, each with its offset."""
        found = [replace(view, offset=self.offset_of(view.name)) for view in named(views, self._names)]
        return self._config(found, found, self._size(views))

    @property
    def _names(self) -> list[str]:
        return [f"token {offset:+d}" for offset in self.offsets]


@dataclass(frozen=True)
class DifferenceSAE(Family):
    """A sparse autoencoder of what tuning changed: the tuned model's activations minus the base model's, at one site of one width."""

    names: tuple[str, ...] = ("base", "tuned")
    """What the two models are called; the first is subtracted from the second."""
    site: str = ""
    """Site of both; empty for the residual stream after the middle block."""

    family: ClassVar[str] = "difference sae"

    @property
    def models(self) -> int:
        """How many models it needs."""
        return 2

    def model_of(self, view: str) -> int:
        """The second; the first is what is subtracted."""
        del view
        return 1

    def sites(self, spec: ModelSpec, *others: ModelSpec) -> Sites:
        """One view, `difference`, of both models."""
        return [("difference", site_of(self.site, spec))]

    def config(self, views: Mapping[str, View]) -> DictionaryConfig:
        """One view on both sides. Raises `BadInput` where it does not say what is subtracted."""
        (view,) = named(views, ["difference"])
        if not view.minus:
            view = replace(view, model=view.model or self.names[1], minus=self.names[0])
        return self._config([view], [view], self._size(views), centred=True)
