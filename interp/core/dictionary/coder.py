"""The dictionary itself: a linear sparse coder over views, with the weights stored by rows of latents.

    pre[n, j]  =  b_enc[j]  +  sum over the views v that latent j reads of  (x_v[n] - m_v) · encoder_v[j]
    code       =  activation(pre)
    x̂_v[n]     =  b_v  +  sum over the latents j that write v of  code[n, j] decoder_v[j]

x is in normalised space (`scaling`); m_v is b_v where `centred`, else 0. An SAE reads and writes one view; a transcoder reads one and
writes another; a crosscoder reads and writes the same several. Latents outside of a view's range have no row in its weights.

    sae = Dictionary.load("runs/sae")
    codes = sae.encode(x)                     # [..., latent] of raw activations [..., d]
    x_hat = sae.decode(codes)                 # raw again
    sparse = sae.codes(rows)                  # Codes of [row, d], never dense beyond a tile
    sae.W_enc, sae.W_dec, sae.b_dec, sae.cfg  # as SAELens, SAEBench and dashboards expect them (one view)

Inference. `topk` keeps the k latents of a row with the largest code times `scale()`; `batchtopk` keeps what exceeds one threshold on the
same product, fixed after training, so that a row's codes do not depend on the other rows; `jumprelu` has a threshold a latent.
It misleads where activations of another model, layer or scale are given: widths are checked here, provenance by whoever holds the model.
"""

from collections.abc import Mapping
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from ..digest import digest_of
from ..errors import BadInput
from ..seed import generator
from .codes import Codes
from .config import DictionaryConfig, View
from .rows import Activations, by_view, finite
from .scaling import Scaling

TILE = 16 << 20
"""Pre-activations that `codes` holds at once."""


class Dictionary(nn.Module):
    """A sparse coder over views. Weights do not ask for gradients unless `requires_grad_(True)` is called (training does)."""

    def __init__(
        self,
        config: DictionaryConfig,
        *,
        scalings: Mapping[str, Scaling] | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> None:
        """All weights are zero; `initialise` draws them. `metadata` is JSON that goes along (what it was trained on)."""
        super().__init__()
        self.config, self.metadata = config, dict(metadata or {})
        dtype: torch.dtype = getattr(torch, config.dtype)
        sizes = [(high - low, view.width) for view in config.reads for low, high in [config.range_of(view)]]
        self.encoders = nn.ParameterList(torch.zeros(size, dtype=dtype) for size in sizes)
        sizes = [(high - low, view.width) for view in config.writes for low, high in [config.range_of(view)]]
        self.decoders = nn.ParameterList(torch.zeros(size, dtype=dtype) for size in sizes)
        self.biases = nn.ParameterList(torch.zeros(view.width, dtype=dtype) for view in config.writes)
        self.b_enc = nn.Parameter(torch.zeros(config.latents, dtype=dtype))
        if config.activation == "jumprelu":
            self.thresholds = nn.Parameter(torch.zeros(config.latents, dtype=dtype))
        if config.skip:
            self.skip_weight = nn.Parameter(torch.zeros(config.writes[0].width, config.reads[0].width, dtype=dtype))
        parts = len(config.writes) if config.code_scale == "decoupled" else 1
        self.register_buffer("threshold", torch.full((parts,), -torch.inf, dtype=torch.float64))
        self.threshold: Tensor
        self.scalings = {view.name: Scaling.none(view.width) for view in config.views}
        if scalings is not None:
            self.scale_views(scalings)
        self.requires_grad_(False)

    @classmethod
    def initialise(
        cls,
        config: DictionaryConfig,
        *,
        seed: int = 0,
        norm: float = 0.1,
        biases: Mapping[str, Tensor] | None = None,
        scalings: Mapping[str, Scaling] | None = None,
    ) -> "Dictionary":
        """Random directions of length `norm` as decoder rows, the same in all views of one width; the encoder begins as the decoder.

        A view that is only read begins with directions of its own. `biases` {written view: [d]} is in normalised space.
        """
        new = cls(config, scalings=scalings)
        rows: dict[tuple[str, int], Tensor] = {}
        written = {view.name for view in config.writes}
        for side, views in ((new.decoders, config.writes), (new.encoders, config.reads)):
            for weight, view in zip(side, views, strict=True):
                alone = "" if view.name in written else "read"
                if (alone, view.width) not in rows:
                    drawn = torch.randn(
                        config.latents, view.width, generator=generator(seed, "dictionary", alone, view.width)
                    )
                    rows[alone, view.width] = drawn / drawn.norm(dim=1, keepdim=True) * norm
                low, high = config.range_of(view)
                weight.data.copy_(rows[alone, view.width][low:high])
        for bias, view in zip(new.biases, config.writes, strict=True):
            if biases is not None and view.name in biases:
                bias.data.copy_(biases[view.name])
        if config.activation == "jumprelu":
            new.thresholds.data.fill_(0.01)
        return new

    # --- views ---------------------------------------------------------------------------------------------------------------------

    @property
    def latents(self) -> int:
        """How many latents there are."""
        return self.config.latents

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.b_enc.device

    @property
    def dtype(self) -> torch.dtype:
        """Of the weights."""
        return self.b_enc.dtype

    def scale_views(self, scalings: Mapping[str, Scaling]) -> None:
        """Set how views are normalised. Raises `BadInput` for names and widths that it does not have."""
        for name, scaling in scalings.items():
            view = self._view(name, self.config.views)
            if tuple(scaling.mean.shape) != (view.width,):
                raise BadInput(f"the mean of view {name!r} must be [{view.width}]; not {list(scaling.mean.shape)}.")
            self.scalings[name] = scaling

    def normalise(self, x: Activations, *, written: bool = False) -> dict[str, Tensor]:
        """Raw activations as {view: [..., d]} in normalised space: of the views that are read, or (`written`) reconstructed."""
        named = by_view(x, self.config.writes if written else self.config.reads)
        return {name: self.scalings[name].apply(rows).to(self.dtype) for name, rows in named.items()}

    def encoder(self, name: str) -> Tensor:
        """Encoder rows of a view [latent, d], zero for latents that do not read it."""
        return self._full(name, self.config.reads, self.encoders)

    def decoder(self, name: str) -> Tensor:
        """Decoder rows of a view [latent, d] in normalised space, zero for latents that do not write it."""
        return self._full(name, self.config.writes, self.decoders)

    def bias(self, name: str) -> Tensor:
        """Decoder bias of a view [d], normalised space."""
        return self.biases[[view.name for view in self.config.writes].index(self._view(name, self.config.writes).name)]

    def norms(self) -> dict[str, Tensor]:
        """Decoder norms {view: [latent]} in normalised space, the space in which norms of two views compare."""
        return {view.name: self.decoder(view.name).float().norm(dim=1) for view in self.config.writes}

    def scale(self, view: str | None = None) -> Tensor:
        """What codes are multiplied by when latents compete [latent]; of one view where the competition is `decoupled`."""
        kind = self.config.code_scale
        if kind == "none":
            return torch.ones(self.latents, dtype=self.dtype, device=self.device)
        if kind == "decoupled" and view is not None:
            return self.decoder(view).norm(dim=1)
        norms = torch.stack([self.decoder(entry.name).norm(dim=1) for entry in self.config.writes])  # [view, latent]
        together = norms.square().sum(dim=0).sqrt()
        return {"concat": together, "mixed": together + 0.1 * norms.sum(dim=0)}.get(kind, norms.sum(dim=0))

    def _apply(self, fn: Any, recurse: bool = True) -> "Dictionary":
        """Move or convert; the threshold stays float64, the configuration names the new dtype."""
        kept = self.threshold
        super()._apply(fn, recurse)
        self.threshold = kept.to(self.b_enc.device)
        self.config = replace(self.config, dtype=str(self.dtype).removeprefix("torch."))
        return self

    # --- coding --------------------------------------------------------------------------------------------------------------------

    def pre(self, normalised: Mapping[str, Tensor]) -> Tensor:
        """Pre-activations [..., latent] of normalised views."""
        names = [view.name for view in self.config.writes]
        total: Tensor | None = None
        for weight, view in zip(self.encoders, self.config.reads, strict=True):
            x = normalised[view.name]
            if self.config.centred:
                x = x - self.biases[names.index(view.name)]
            low, high = self.config.range_of(view)
            part = x @ weight.mT  # [..., high - low]
            if high - low < self.latents:
                part = nn.functional.pad(part, (low, self.latents - high))
            total = part if total is None else total + part
        assert total is not None
        return total + self.b_enc

    def activate(self, pre: Tensor) -> Tensor:
        """Codes [..., latent] of pre-activations, by the rule of inference."""
        kind = self.config.activation
        if kind == "jumprelu":
            return torch.where(pre > self.thresholds, pre.relu(), 0)
        codes = pre.relu()
        if kind == "relu":
            return codes
        kept = torch.zeros_like(codes, dtype=torch.bool)
        for view in self._competitions():
            kept |= self._kept(codes, view)
        return torch.where(kept, codes, 0)

    def _competitions(self) -> list[str | None]:
        return [view.name for view in self.config.writes] if self.config.code_scale == "decoupled" else [None]

    def _kept(self, codes: Tensor, view: str | None) -> Tensor:
        """Which codes [..., latent] win the competition (of one view, where it is decoupled)."""
        score = codes * self.scale(view)
        if self.config.activation == "topk":
            best = score.topk(int(self.config.k), dim=-1).indices
            return torch.zeros_like(score, dtype=torch.bool).scatter_(-1, best, True) & (score > 0)
        place = 0 if view is None else [entry.name for entry in self.config.writes].index(view)
        return score.double() > self._calibrated()[place]

    def _calibrated(self) -> Tensor:
        if bool(self.threshold.isinf().any()):
            raise BadInput(
                "this batchtopk dictionary has no threshold yet, so it cannot encode. Finish its training, or calibrate it on rows."
            )
        return self.threshold

    def encode(self, x: Activations) -> Tensor:
        """Codes [..., latent] of raw activations: [..., d], or {view: [..., d]} for several views ([..., view, d] where widths agree).

        Raises `BadInput` for rows that are not finite: NaN exceeds no threshold, so most rules would give codes of zero for it.
        """
        return self.activate(self.pre(finite(self.normalise(x))))

    @torch.no_grad()
    def codes(self, x: Activations) -> Codes:
        """Sparse codes of raw activations [row, d] (or {view: [row, d]}); dense ones exist for a tile of rows at a time."""
        named = by_view(x, self.config.reads)
        count = len(next(iter(named.values())))
        tile = max(1, TILE // self.latents)
        parts = []
        for start in range(0, max(count, 1), tile):
            part = {name: rows[start : start + tile] for name, rows in named.items()}
            parts.append(Codes.of(self.encode(part)))
        return Codes.cat(parts)

    def decode(self, codes: "Tensor | Codes", x: "Activations | None" = None) -> "Tensor | dict[str, Tensor]":
        """Raw reconstructions of codes [..., latent]: [..., d] of the one written view, or {view: [..., d]}.

        A dictionary with a `skip` path also needs what was read, `x`.
        """
        out = {name: self.scalings[name].undo(rows) for name, rows in self.reconstruct(codes, x).items()}
        return next(iter(out.values())) if len(self.config.writes) == 1 else out

    def reconstruct(self, codes: "Tensor | Codes", x: "Activations | None" = None) -> dict[str, Tensor]:
        """The same in normalised space, always {view: [..., d]}."""
        out = {}
        for weight, bias, view in zip(self.decoders, self.biases, self.config.writes, strict=True):
            low, high = self.config.range_of(view)
            out[view.name] = self._written(codes, view, weight, (low, high)) + bias
        if self.config.skip:
            if x is None:
                raise BadInput("this transcoder has a skip path: give `decode` what was encoded, too.")
            (read,) = self.normalise(x).values()
            name = self.config.writes[0].name
            out[name] = out[name] + read @ self.skip_weight.mT
        return out

    def _written(self, codes: "Tensor | Codes", view: View, weight: Tensor, span: tuple[int, int]) -> Tensor:
        low, high = span
        if isinstance(codes, Codes):
            values = codes.values.to(weight.dtype)
            inside = (codes.ids >= low) & (codes.ids < high)
            if self.config.code_scale == "decoupled":
                inside = inside & self._kept(codes.dense(), view.name)[codes.row_of(), codes.ids]
            ids = torch.where(inside, codes.ids - low, 0)
            values = torch.where(inside, values, 0)
            return nn.functional.embedding_bag(
                ids, weight, codes.offsets[:-1], mode="sum", per_sample_weights=values
            )  # [row, d]
        if self.config.code_scale == "decoupled":
            codes = torch.where(self._kept(codes, view.name), codes, 0)
        return codes[..., low:high].to(weight.dtype) @ weight

    def forward(self, x: Activations) -> "Tensor | dict[str, Tensor]":
        """decode(encode(x))."""
        return self.decode(self.encode(x), x)

    # --- what SAELens, SAEBench and dashboards expect ------------------------------------------------------------------------------

    @property
    def W_enc(self) -> Tensor:
        """[d, latent] of the only view that is read, normalised space."""
        self._single("W_enc", "encoder(view)")
        return self.encoders[0].mT

    @property
    def W_dec(self) -> Tensor:
        """[latent, d] of the only view that is written, normalised space."""
        self._single("W_dec", "decoder(view)")
        return self.decoders[0]

    @property
    def b_dec(self) -> Tensor:
        """[d] of the only view that is written, normalised space."""
        self._single("b_dec", "bias(view)")
        return self.biases[0]

    @property
    def cfg(self) -> SimpleNamespace:
        """What other tools ask a dictionary for: d_in, d_sae, model_name, hook_name, hook_layer, dtype, device, architecture, metadata."""
        self._single("cfg", "config")
        read = self.config.reads[0]
        parts = read.site.split(".")
        layer = int(parts[1]) if len(parts) > 1 and parts[1].isdigit() else 0
        about: dict[str, Any] = {
            "model_name": read.model, "hook_name": read.site, "hook_layer": layer, "hook_head_index": None, "seqpos_slice": (None,),
            "context_size": self.metadata.get("context_size"), "prepend_bos": self.metadata.get("bos"), "exclude_special_tokens": None,
            "model_from_pretrained_kwargs": {}, "dataset_path": "", "dataset_trust_remote_code": False, "neuronpedia_id": None,
        }  # fmt: skip
        said = about | {
            "d_in": read.width, "d_sae": self.latents, "d_out": self.config.writes[0].width, "architecture": self.config.activation,
            "dtype": self.config.dtype, "device": str(self.device), "normalize_activations": "none", "reshape_activations": "none",
            "apply_b_dec_to_input": self.config.centred, "metadata": SimpleNamespace(**(self.metadata | about)),
        }  # fmt: skip
        # one object, because SAEBench writes its own fields to it
        kept: SimpleNamespace = self.__dict__.setdefault("_cfg", SimpleNamespace())
        kept.__dict__.update(said)
        return kept

    def folded(self) -> "Dictionary":
        """The same dictionary for raw activations: scalings folded into the weights, the one threshold into one a latent.

        Codes and reconstructions are the same, but for rounding; decoder norms are not (they are then in raw units: read Delta before).
        Half precision becomes float32, and then they are those of `dictionary.float()`.
        With `topk` over several written views each code is multiplied by its scale, and its decoder rows divided by it.
        """
        from .fold import folded

        return folded(self)

    # --- bookkeeping ---------------------------------------------------------------------------------------------------------------

    @property
    def digest(self) -> str:
        """Content hash of configuration, weights, threshold and scalings; 32 hex digits."""
        scalings = {name: [scaling.mean, scaling.factor] for name, scaling in self.scalings.items()}
        return digest_of({"config": self.config.to_dict(), "state": dict(self.state_dict()), "scalings": scalings})

    def save(self, folder: Any, *, overwrite: bool = False) -> Any:
        """Write it as an artefact (whole or not there, checksummed); returns the folder."""
        from .saved import save

        return save(self, folder, overwrite=overwrite)

    @classmethod
    def load(cls, folder: Any) -> "Dictionary":
        """Read what `save` wrote. Raises `ArtifactError` for what is damaged or something else."""
        from .saved import load

        return load(folder)

    def __repr__(self) -> str:
        reads, writes = (", ".join(_shown(view) for view in side) for side in (self.config.reads, self.config.writes))
        rule = self.config.activation + (f" {self.config.k:g}" if "topk" in self.config.activation else "")
        arrow = reads if reads == writes else f"{reads} -> {writes}"
        return f"Dictionary({self.config.family} · {arrow} · {self.latents:,} latents · {rule} · sha {self.digest[:8]})"

    def _single(self, what: str, instead: str) -> None:
        if len(self.config.reads) > 1 or len(self.config.writes) > 1:
            names = [view.name for view in self.config.views]
            raise BadInput(f"`{what}` is of dictionaries with one view; this has {names}. Use `{instead}`.")

    def _view(self, name: str, views: tuple[View, ...]) -> View:
        for view in views:
            if view.name == name:
                return view
        raise BadInput(f"there is no view {name!r} here; there are {[view.name for view in views]}.")

    def _full(self, name: str, views: tuple[View, ...], weights: nn.ParameterList) -> Tensor:
        view = self._view(name, views)
        weight, (low, high) = weights[views.index(view)], self.config.range_of(view)
        return weight if high - low == self.latents else nn.functional.pad(weight, (0, 0, low, self.latents - high))


def _shown(view: View) -> str:
    head = f"{view.model}:" if view.model else ""
    return f"{head}{view.site or view.name}" + (f" - {view.minus}" if view.minus else "")
