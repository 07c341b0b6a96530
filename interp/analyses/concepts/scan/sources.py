"""What is scanned: rows of numbers that are added to the residual stream, layer by layer.

    mlp     row j of W_out of every layer, `2.474`; in a mixture of experts of every expert, `2.e3.17`
    ov      what the singular components of every head's OV write, once along each sign, `8.10.1+` and `8.10.1-`
    rows    decoder rows of a dictionary file, by number, `17`

Where a family norms what an MLP gives before it is added (Gemma 2 and 3, OLMo 2), a row of W_out is not yet what is added: the norm's gain
multiplies it, entry by entry, and its scale depends on the token. Raw rows are the parameters as they stand; folded ones have the gain.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from interp.analyses.channels.component import known_heads
from interp.analyses.channels.decompose import decompose
from interp.core.errors import BadInput, UnsupportedArchitecture, listing
from interp.core.site import Site
from interp.data.reading import find_file

if TYPE_CHECKING:
    from interp.core.lm import LM

STEP = 8192
"""Rows that are handed on at once."""
DOWN = {"qwen3_moe": True, "gpt_oss": False}
"""Mixtures of experts with a proven layout: whether `experts.down_proj` is [expert, d_model, neuron], not [expert, neuron, d_model]."""


@dataclass(frozen=True)
class Part:
    """Some rows of one layer, with their names."""

    layer: int
    """-1 for rows of a file that names no layer."""
    rows: Tensor
    """[n, d_model], float32, as they are added to the stream (a view where that is possible)."""
    names: list[str]
    index: np.ndarray
    """[n], number of the neuron, component or latent."""
    expert: int = -1
    head: int = -1
    sign: int = 1


@dataclass
class Source:
    """Where rows come from, and what had to be left out."""

    lm: "LM"
    kind: str
    file: str | None = None
    folded: bool = False
    left_out: int = 0
    """Components that cannot be told from their neighbours, or that a head's rank does not have."""

    def check(self) -> None:
        """Refuse what cannot be read, before anything is computed. Raises `BadInput`, `UnsupportedArchitecture`."""
        if self.kind == "ov":
            known_heads(self.lm)
        elif self.kind == "rows":
            next(self._rows())
        elif self.lm.spec.experts:
            self._expert_rows(0)
        else:
            self.lm.weights.W_out(0)

    def parts(self) -> Iterator[Part]:
        """All rows, in order of layers, in parts of at most `STEP`."""
        self.left_out = 0
        found = {"mlp": self._mlp, "ov": self._ov, "rows": self._rows}[self.kind]()
        for part in found:
            if not bool(part.rows.isfinite().all()):
                raise BadInput(
                    f"layer {part.layer} of {self.lm.spec.name} has NaN or infinite numbers in what it writes. Is the checkpoint whole?"
                )
            yield part

    def _mlp(self) -> Iterator[Part]:
        for layer in range(self.lm.spec.n_layers):
            each = self._expert_rows(layer) if self.lm.spec.experts else [(-1, self.lm.weights.W_out(layer))]
            for expert, whole in each:
                label = f"{layer}." if expert < 0 else f"{layer}.e{expert}."
                for rows, index in _steps(whole.detach()):
                    yield Part(layer, self._added(rows, layer), [f"{label}{i}" for i in index], index, expert=expert)

    def _added(self, rows: Tensor, layer: int) -> Tensor:
        """Rows of W_out as they reach the stream: through the gain of the norm behind the MLP, where there is one and `folded`."""
        rows = rows.to(torch.promote_types(rows.dtype, torch.float32))
        return rows * self.lm.weights.norm("mlp_post", layer)[0] if self.folded and self.lm.spec.post_norm else rows

    def _expert_rows(self, layer: int) -> list[tuple[int, Tensor]]:
        """(expert, rows [neuron, d_model]) of a layer; expert -1 for a layer with one MLP."""
        spec = self.lm.spec
        if spec.family not in DOWN:
            raise UnsupportedArchitecture(
                f"{spec.name} ({spec.family}) has {spec.experts} experts a layer, and how their down projections are laid out is proven "
                f"for {listing(DOWN)} only. Scan `source='ov'`, or add the family with a test."
            )
        inside = {
            name: tensor for name, tensor in self.lm.weights.parameters().items() if f"layers.{layer}.mlp." in name
        }
        fused = [tensor for name, tensor in inside.items() if name.endswith("experts.down_proj")]
        if fused:
            return [(number, one.T if DOWN[spec.family] else one) for number, one in enumerate(fused[0])]
        plain = [tensor for name, tensor in inside.items() if name.endswith("mlp.down_proj.weight")]
        if not plain:
            raise UnsupportedArchitecture(
                f"layer {layer} of {spec.name} ({spec.family}) has no `experts.down_proj` and no `mlp.down_proj`: it has {listing(inside)}."
            )
        return [(-1, plain[0].T)]

    def _ov(self) -> Iterator[Part]:
        spec = self.lm.spec
        for layer in range(spec.n_layers):
            parts = decompose(self.lm, layer)
            for head in range(spec.n_heads):
                rank = int(parts.rank[head])
                alone = [i for i in range(rank) if len(parts.block(head, i)) == 1]
                self.left_out += spec.d_head - len(alone)
                if not alone:
                    continue
                index, rows = np.array(alone), parts.write[head, alone].float()
                for sign, mark in ((1, "+"), (-1, "-")):
                    names = [f"{layer}.{head}.{i}{mark}" for i in alone]
                    yield Part(layer, sign * rows, names, index, head=head, sign=sign)

    def _rows(self) -> Iterator[Part]:
        if self.file is None:
            raise BadInput("source='rows' needs `rows`, a file of decoder rows: sae_weights.safetensors, or .npy.")
        path = find_file(self.file)
        layer = self._layer(path) if path.is_dir() else -1
        for rows, index in _steps(_decoder(path, self.lm)):
            yield Part(layer, rows.float(), [str(i) for i in index], index)

    def _layer(self, folder: Path) -> int:
        """The layer that an SAE's own configuration names; -1 where it names none. Raises `BadInput` for one the model lacks."""
        try:
            config = json.loads((folder / "cfg.json").read_text(encoding="utf-8"))
            hook = config.get("hook_name") or config.get("metadata", {}).get("hook_name")
        except (OSError, ValueError, AttributeError):
            return -1
        if not hook:
            return -1
        try:
            layer = Site.parse(str(hook)).layer
        except KeyError:
            return -1
        if layer is not None and layer >= self.lm.spec.n_layers:
            raise BadInput(
                f"{folder.name} was trained at {hook!r}, and {self.lm.spec.name} has layers 0 to {self.lm.spec.n_layers - 1}: it "
                "belongs to another model."
            )
        return -1 if layer is None else layer


def _decoder(path: Path, lm: "LM") -> Tensor:
    """Decoder rows [latent, d_model] of a file. Raises `BadInput` for other names and shapes."""
    width = lm.spec.d_model
    if path.is_dir():
        held = [name for name in ("sae_weights.safetensors", "sae.safetensors") if (path / name).is_file()]
        if not held:
            raise BadInput(
                f"{path.name} holds no sae_weights.safetensors; it has {sorted(p.name for p in path.iterdir())[:12]}."
            )
        path = path / held[0]
    if path.suffix == ".npy":
        found, name = torch.from_numpy(np.load(path, allow_pickle=False)), "the array"
    elif path.suffix == ".safetensors":
        found, name = _tensor(path)
    else:
        raise BadInput(
            f"{path.name} is neither .safetensors nor .npy. Save the decoder's rows [latent, {width}] as one of them."
        )
    if found.ndim != 2:
        raise BadInput(
            f"{name} of {path.name} has shape {list(found.shape)}, and rows [latent, {width}] are needed. Of a dictionary over several "
            "layers, save one layer's rows."
        )
    if found.shape[1] != width:
        turned = " It looks transposed: save it as [latent, d_model]." if found.shape[0] == width else ""
        raise BadInput(
            f"{name} of {path.name} has rows of {found.shape[1]} numbers, and {lm.spec.name} a stream of {width}.{turned}"
        )
    return found


def _tensor(path: Path) -> tuple[Tensor, str]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:  # type: ignore[no-untyped-call]
            names: Any = list(file.keys())
            if "W_dec" in names:
                return file.get_tensor("W_dec"), "'W_dec'"
            if "decoder.weight" in names:
                return file.get_tensor("decoder.weight").T, "'decoder.weight', transposed,"
    except SafetensorError as error:
        raise BadInput(f"{path.name} cannot be read: {error}. Is it whole?") from None
    raise BadInput(
        f"{path.name} has neither 'W_dec' [latent, d_model] nor 'decoder.weight' [d_model, latent]; it has {listing(names)}."
    )


def _steps(whole: Tensor) -> Iterator[tuple[Tensor, np.ndarray]]:
    for start in range(0, len(whole), STEP):
        rows = whole[start : start + STEP]
        yield rows, np.arange(start, start + len(rows))
