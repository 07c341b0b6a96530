"""A dictionary of which each process holds some latents; together they code as one.

    mine = Sliced.initialise(config, parallel, seed=0)        # this process's latents of what `Dictionary.initialise` would give
    codes = mine.encode(x)                                    # its codes; rows compete over all processes
    mine.decode(codes)                                        # the whole reconstruction, on every process
    mine.save("runs/sae")                                     # all write one dictionary, which `Dictionary.load` opens

Every process calls everything, with the same rows. For each batch of rows [n, d] what crosses between processes is n times d numbers a
written view, and with topk n times k scores; never codes or weights. It misleads where `digest` or `repr` are read: they are of the latents
that are here.
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...core.dictionary import Codes, Dictionary, DictionaryConfig, Scaling
from ...core.dictionary.coder import Activations
from ...core.dictionary.saved import KIND, parts
from ...core.errors import ArtifactError, BadInput
from .files import read, write
from .parallel import Parallel
from .slices import Piece, Slices


class Sliced(Dictionary):
    """This process's latents of a dictionary."""

    def __init__(
        self,
        config: DictionaryConfig,
        parallel: Parallel,
        *,
        scalings: Mapping[str, Scaling] | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> None:
        """`config` is that of the whole. Raises `BadInput` where its latents cannot be dealt."""
        slices = Slices(config, parallel.latents.size)
        super().__init__(slices.config(parallel.latents.rank), scalings=scalings, metadata=metadata)
        self.slices, self.parallel = slices, parallel

    @classmethod
    def initialise(cls, config: DictionaryConfig, parallel: Parallel, **options: Any) -> "Sliced":  # type: ignore[override]
        """Its latents of what `Dictionary.initialise` draws with the same options: whole, on the CPU, by one process after the other."""
        new = cls(config, parallel)
        for turn in range(parallel.size):
            if turn == parallel.rank:
                new.take(Dictionary.initialise(config, **options))
            parallel.barrier()
        return new

    @classmethod
    def load(cls, folder: "str | Path", parallel: Parallel) -> "Sliced":  # type: ignore[override]
        """Its latents of a saved dictionary, whoever saved it. Raises `ArtifactError`."""

        def pieces(meta: Mapping[str, Any]) -> Any:
            config = DictionaryConfig.from_dict(meta["config"])
            return Slices(config, parallel.latents.size).pieces(parallel.latents.rank)

        found = read(parallel, folder, pieces, kind=KIND)
        try:
            new = cls(DictionaryConfig.from_dict(found.meta["config"]), parallel, metadata=found.meta.get("metadata"))
            named = {
                view.name: (f"scaling.{view.name}.mean", f"scaling.{view.name}.factor") for view in new.config.views
            }
            new.scale_views(
                {name: Scaling(found.tensors[m], float(found.tensors[f])) for name, (m, f) in named.items()}
            )
            new.load_state_dict(
                {name: value for name, value in found.tensors.items() if not name.startswith("scaling.")}
            )
        except (KeyError, RuntimeError, TypeError) as error:
            raise ArtifactError(
                f"{Path(folder).name} is no dictionary that can be read: {error}. Save it anew."
            ) from None
        return new

    @property
    def pieces(self) -> dict[str, Piece]:
        """Which rows of each array of the whole dictionary are here, for those that are cut."""
        return self.slices.pieces(self.parallel.latents.rank)

    @property
    def whole(self) -> DictionaryConfig:
        """The configuration of all latents together."""
        return replace(self.slices.whole, dtype=self.config.dtype, k=self.config.k)

    @torch.no_grad()
    def take(self, whole: Dictionary) -> None:
        """Take over this process's part of the weights, the threshold and the scalings of a whole dictionary."""
        self.load_state_dict(self.slices.take(self.parallel.latents.rank, whole.state_dict()))
        self.scale_views(whole.scalings)

    def save(self, folder: "str | Path", *, overwrite: bool = False) -> Path:
        """Write the whole dictionary, each process its latents; returns the folder once it is there."""
        tensors, meta = parts(self)
        meta |= {"config": self.whole.to_dict()}
        return write(self.parallel, folder, tensors, meta, self.pieces, kind=KIND, overwrite=overwrite)

    def reconstruct(self, codes: "Tensor | Codes", x: "Activations | None" = None) -> dict[str, Tensor]:
        """What all processes write together, in normalised space, {view: [..., d]}."""
        out = {}
        for weight, bias, view in zip(self.decoders, self.biases, self.config.writes, strict=True):
            partial = self._written(codes, view, weight, self.config.range_of(view))
            out[view.name] = self.parallel.whole(partial) + bias
        if self.config.skip:
            if x is None:
                raise BadInput("this transcoder has a skip path: give `decode` what was encoded, too.")
            (read_,) = self.normalise(x).values()
            name = self.config.writes[0].name
            out[name] = out[name] + read_ @ self.skip_weight.mT
        return out

    def __repr__(self) -> str:
        here = f"{self.config.latents:,} of {self.whole.latents:,} latents here"
        return super().__repr__().replace("Dictionary(", "Sliced(").replace(f"{self.config.latents:,} latents", here)

    def _kept(self, codes: Tensor, view: str | None) -> Tensor:
        if self.config.activation != "topk":
            return super()._kept(codes, view)
        score = (codes * self.scale(view)).detach().flatten(0, -2)
        cut, ties = self.parallel.row_cut(score, int(self.config.k))
        equal = (score == cut[:, None]) & (score > 0)
        kept = (score > cut[:, None]) | (equal & (equal.cumsum(1) <= ties[:, None]))
        return kept.view(codes.shape)
