"""Families over the layers of one model: crosscoders, causal or not, and the cross-layer transcoder."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import accumulate, pairwise
from typing import ClassVar

from ...core.dictionary import DictionaryConfig, View
from ...core.errors import BadInput, one_of
from ...core.site import Site
from ...core.spec import ModelSpec
from .family import Family, Sites, before_mlp, layer_of


@dataclass(frozen=True)
class LayerCrosscoder(Family):
    """One code for several layers of one model."""

    k: float = 0.0
    """Latents that are on in a row, over all layers; 0 for 32, or 16 a reading layer where `causal`."""
    layers: tuple[int, ...] = ()
    """Blocks; empty for all."""
    kind: str = "resid_post"
    """What of them, e.g. `resid_post`, `mlp_out`."""
    causal: str = "no"
    """Whether latents belong to the layer that they read: `no` (all read and write all), `weak` (they write this layer and later ones) or
    `strict` (only later ones)."""

    family: ClassVar[str] = "layer crosscoder"

    def __post_init__(self) -> None:
        one_of("causal", self.causal, ("no", "weak", "strict"))
        object.__setattr__(self, "layers", _rising(self.layers))

    def sites(self, spec: ModelSpec, *others: ModelSpec) -> Sites:
        """Views `layer 0`, `layer 1`, ..."""
        layers = [layer_of(layer, spec) for layer in self.layers or range(spec.n_layers)]
        return [(f"layer {layer}", Site(self.kind, layer)) for layer in layers]

    def config(self, views: Mapping[str, View]) -> DictionaryConfig:
        """All views on both sides, or each layer read by its own latents and written by those of the layers before."""
        found = _by_layer(views, "layer", self.layers)
        if len(found) < 2:
            raise BadInput("a crosscoder of layers needs at least two of them. Add one to `layers`, or train an SAE.")
        if self.causal == "no":
            return self._config(found, found, self._size(views), k=self.k or 32.0)
        readers = found if self.causal == "weak" else found[:-1]
        size = self._size(views, len(readers))
        ends = _ends(size, len(readers))
        reads = [replace(view, latents=span) for view, span in zip(readers, pairwise(ends), strict=True)]
        writers = found if self.causal == "weak" else found[1:]
        writes = [replace(view, latents=(0, end)) for view, end in zip(writers, ends[1:], strict=True)]
        groups = tuple((view.name, high - low) for view, (low, high) in zip(readers, pairwise(ends), strict=True))
        return self._config(reads, writes, size, groups=groups, k=self.k or 16.0 * len(readers))


@dataclass(frozen=True)
class CrossLayerTranscoder(Family):
    """What every MLP adds to the stream, by latents that each read the stream before one MLP and write this and all later ones."""

    k: float = 0.0
    """Latents that are on in a row, over all layers; 0 for 16 a layer."""
    layers: tuple[int, ...] = ()
    """Blocks; empty for all."""

    family: ClassVar[str] = "cross-layer transcoder"

    def __post_init__(self) -> None:
        object.__setattr__(self, "layers", _rising(self.layers))

    def sites(self, spec: ModelSpec, *others: ModelSpec) -> Sites:
        """Views `in 0`, `out 0`, `in 1`, ..."""
        layers = [layer_of(layer, spec) for layer in self.layers or range(spec.n_layers)]
        sites = [((f"in {n}", before_mlp(n, spec)), (f"out {n}", Site("mlp_out", n))) for n in layers]
        return [entry for pair in sites for entry in pair]

    def config(self, views: Mapping[str, View]) -> DictionaryConfig:
        """The latents of a layer read its stream, and write its MLP and the later ones."""
        sources, targets = _by_layer(views, "in", self.layers), _by_layer(views, "out", self.layers)
        if [view.name[3:] for view in sources] != [view.name[4:] for view in targets]:
            raise BadInput(f"every layer needs a view `in n` and a view `out n`; there are {list(views)}.")
        size = self._size({view.name: view for view in sources}, len(sources))
        ends = _ends(size, len(sources))
        reads = [replace(view, latents=span) for view, span in zip(sources, pairwise(ends), strict=True)]
        writes = [replace(view, latents=(0, end)) for view, end in zip(targets, ends[1:], strict=True)]
        groups = tuple((view.name[3:], high - low) for view, (low, high) in zip(sources, pairwise(ends), strict=True))
        groups = tuple((f"layer {name}", number) for name, number in groups)
        return self._config(reads, writes, size, groups=groups, k=self.k or 16.0 * len(sources))


def _rising(layers: "tuple[int, ...]") -> tuple[int, ...]:
    found = tuple(int(layer) for layer in layers)
    if list(found) != sorted(set(found)):
        raise BadInput(f"`layers` must rise; not {list(found)}.")
    return found


def _by_layer(views: Mapping[str, View], word: str, layers: tuple[int, ...]) -> list[View]:
    """The views called `word n`, by layer."""
    numbers = [name.removeprefix(f"{word} ") for name in views if name.startswith(f"{word} ")]
    found = sorted(int(number) for number in numbers if number.isdigit())
    if not found or (layers and found != list(layers)):
        wanted = [f"{word} {layer}" for layer in layers] or [f"{word} 0", f"{word} 1", "..."]
        raise BadInput(f"this family has the views {wanted}; not {list(views)}. Ask `sites` for what it needs.")
    return [views[f"{word} {layer}"] for layer in found]


def _ends(latents: int, groups: int) -> list[int]:
    """Where groups of about equal size begin, and the last ends."""
    each, more = divmod(latents, groups)
    return list(accumulate([each + (place < more) for place in range(groups)], initial=0))
