"""Views of a model's parameters by name. The conventions are in the package's essay."""

from typing import Any

import torch
from einops import rearrange
from torch import Tensor, nn

from interp.core.errors import BadInput, hint, listing
from interp.core.spec import ModelSpec

from ..families import Family, Tap
from .folding import fold, gain_plus_one, oriented
from .rotary import rotation

HEADED = ("W_Q", "W_K", "W_V", "W_O", "b_Q", "b_K", "b_V")
LAYERED = (*HEADED, "b_O", "W_in", "W_gate", "W_out", "b_in", "b_gate", "b_out")
GLOBAL = ("W_E", "W_pos", "W_U", "b_U")
NORM_OF = {
    "W_Q": "attn", "W_K": "attn", "W_V": "attn", "b_Q": "attn", "b_K": "attn", "b_V": "attn",
    "W_in": "mlp", "W_gate": "mlp", "b_in": "mlp", "b_gate": "mlp", "W_U": "final", "b_U": "final",
}  # fmt: skip
"""Which norm stands between the residual stream and what reads it."""


class Weights:
    """Views of one model's parameters. See the package for conventions."""

    def __init__(self, module: nn.Module, family: Family, spec: ModelSpec) -> None:
        self.module, self.family, self.spec = module, family, spec

    def _refuse_unproven(self, name: str) -> None:
        if not self.family.proven:
            raise BadInput(
                f"{name}: {self.spec.family} is an unproven family, whose weights nobody has named. Use transformers' own parameters "
                "(`lm.module.named_parameters()`); `lm.unembed` reads a stream out, and `lm.edit_weights` takes their names."
            )
        if next(self.module.parameters()).is_meta:
            raise BadInput(f"{name} needs the weights of {self.spec.name} on this machine. Load it without `remote`.")

    @property
    def W_E(self) -> Tensor:
        """Token embedding as it enters the residual stream, [vocab, d_model]."""
        self._refuse_unproven("W_E")
        table = self._parameter(self.family.embed, "weight")
        scale = self.embed_scale
        return table if scale is None else table * scale

    @property
    def W_pos(self) -> Tensor | None:
        """Learned position embedding [position, d_model]; None for rotary models."""
        self._refuse_unproven("W_pos")
        return self._parameter(self.family.pos_embed, "weight") if self.family.pos_embed else None

    @property
    def W_U(self) -> Tensor:
        """Unembedding [d_model, vocab]; its input is the output of the final norm."""
        self._refuse_unproven("W_U")
        return self._parameter(self.family.head, "weight").T

    @property
    def b_U(self) -> Tensor | None:
        """Bias of the unembedding [vocab]."""
        self._refuse_unproven("b_U")
        return self._parameter(self.family.head, "bias")

    def unembedding(self, *, folded: bool = False) -> tuple[Tensor, Tensor | None]:
        """W_U and b_U, with the final norm folded in if asked for."""
        return self._folded_pair("final", self.W_U, self.b_U) if folded else (self.W_U, self.b_U)

    def W_Q(self, layer: int | None = None, *, folded: bool = False) -> Tensor:
        """Queries, [head, d_model, d_head]."""
        return self._get("W_Q", layer, folded=folded)

    def W_K(self, layer: int | None = None, *, expand: bool = False, folded: bool = False) -> Tensor:
        """Keys, [kv_head, d_model, d_head]; with `expand`, [head, d_model, d_head]."""
        return self._get("W_K", layer, folded=folded, expand=expand)

    def W_V(self, layer: int | None = None, *, expand: bool = False, folded: bool = False) -> Tensor:
        """Values, [kv_head, d_model, d_head]; with `expand`, [head, d_model, d_head]."""
        return self._get("W_V", layer, folded=folded, expand=expand)

    def W_O(self, layer: int | None = None) -> Tensor:
        """Attention output, [head, d_head, d_model]."""
        return self._get("W_O", layer)

    def W_in(self, layer: int | None = None, *, folded: bool = False) -> Tensor:
        """MLP input (the linear branch where there is a gate), [d_model, d_mlp]."""
        return self._get("W_in", layer, folded=folded)

    def W_gate(self, layer: int | None = None, *, folded: bool = False) -> Tensor | None:
        """The MLP's gate branch, [d_model, d_mlp]; None where there is no gate."""
        return self._get("W_gate", layer, folded=folded)

    def W_out(self, layer: int | None = None) -> Tensor:
        """MLP output, [d_mlp, d_model]; row j is the value vector of neuron j."""
        return self._get("W_out", layer)

    def b_Q(self, layer: int | None = None, *, folded: bool = False) -> Tensor | None:
        """[head, d_head]."""
        return self._get("b_Q", layer, folded=folded)

    def b_K(self, layer: int | None = None, *, expand: bool = False, folded: bool = False) -> Tensor | None:
        """[kv_head, d_head]; with `expand`, [head, d_head]."""
        return self._get("b_K", layer, folded=folded, expand=expand)

    def b_V(self, layer: int | None = None, *, expand: bool = False, folded: bool = False) -> Tensor | None:
        """[kv_head, d_head]; with `expand`, [head, d_head]."""
        return self._get("b_V", layer, folded=folded, expand=expand)

    def b_O(self, layer: int | None = None) -> Tensor | None:
        """[d_model]."""
        return self._get("b_O", layer)

    def b_in(self, layer: int | None = None, *, folded: bool = False) -> Tensor | None:
        """[d_mlp]."""
        return self._get("b_in", layer, folded=folded)

    def b_gate(self, layer: int | None = None, *, folded: bool = False) -> Tensor | None:
        """[d_mlp]."""
        return self._get("b_gate", layer, folded=folded)

    def b_out(self, layer: int | None = None) -> Tensor | None:
        """[d_model]."""
        return self._get("b_out", layer)

    def norm(self, which: str, layer: int | None = None) -> tuple[Tensor, Tensor | None]:
        """Gain and bias of a norm as they act (Gemma's gain is `1 + weight`).

        `which` is 'final' or, with a layer, what the norm precedes or follows: 'attn', 'mlp', 'attn_post', 'mlp_post', 'q', 'k'.
        """
        self._refuse_unproven(f"the norm {which!r}")
        legal = ["final"] if layer is None else list(self.family.norms)
        if which not in legal:
            where = "without a layer" if layer is None else "in its layers"
            raise BadInput(f"{self.spec.family} has no norm {which!r} {where}; it has {listing(legal)}.")
        path = (
            self.family.final if layer is None else self.family.layer_path(self.layer(layer), self.family.norms[which])
        )
        weight = self._parameter(path, "weight")
        return (1.0 + weight if gain_plus_one(self.family) else weight), self._parameter(path, "bias")

    def rotation(self, layer: int, offset: int) -> Tensor:
        """What rotary positions put between a query and the key `offset` tokens before it, [d_head, d_head], float64.

        `score(q_i, k_j) = scale · q_i R(i - j) k_jᵀ` for queries and keys as the sites `q`, `k` have them, after the norms that some
        families give them. See `interp.models.weights.rotary`. Raises `BadInput` for models without rotary positions (`lm.spec.positions`),
        and for offsets that are negative, no whole numbers, or beyond the context.
        """
        self._refuse_unproven(f"the rotation of offset {offset!r}")
        return rotation(self.module, self.family, self.spec, self.layer(layer), offset)

    @property
    def pre_norm(self) -> bool:
        """Whether attention and MLP read the stream through a norm (they do, but in OLMo 2)."""
        self._refuse_unproven("the norms")
        return "attn" in self.family.norms

    @property
    def norms(self) -> tuple[str, ...]:
        """Names of the norms in a layer, as `norm` takes them."""
        self._refuse_unproven("the norms")
        return tuple(self.family.norms)

    @property
    def embed_scale(self) -> Tensor | None:
        """What the embedding module multiplies its table by (Gemma), in the table's dtype; None elsewhere."""
        scale = getattr(self.module.get_submodule(self.family.embed), "embed_scale", None)
        return None if scale is None else scale.to(self._parameter(self.family.embed, "weight").dtype)

    def parameters(self) -> dict[str, Tensor]:
        """Every parameter by its name in the plain transformers model, as `edit_weights` takes them; tied matrices once."""
        return {name: parameter.detach() for name, parameter in self.module.named_parameters()}

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(
            f"weights have no {name!r}.{hint(name, [*LAYERED, *GLOBAL])} There are {', '.join((*LAYERED, *GLOBAL))}."
        )

    def __repr__(self) -> str:
        return f"Weights({self.spec.short}): {', '.join((*GLOBAL, *LAYERED))}"

    # The rest is how a name finds its parameter.

    def _get(self, name: str, layer: int | None, *, folded: bool = False, expand: bool = False) -> Any:
        if layer is None:
            each = [self._get(name, index, folded=folded, expand=expand) for index in range(self.spec.n_layers)]
            return None if any(view is None for view in each) else torch.stack(each)
        view = self._folded(name, self.layer(layer)) if folded else self.raw(name, self.layer(layer))
        if expand and view is not None:  # query head i reads key/value head i // (heads / kv_heads)
            view = view.repeat_interleave(self.spec.n_heads // self.spec.n_kv_heads, dim=0)
        return view

    def raw(self, name: str, layer: int | None = None) -> Tensor | None:
        """The unfolded view called `name`, None where the model has no such tensor; shares memory with its parameter."""
        if name in GLOBAL:
            return getattr(self, name)
        tap = self._tap(name)
        if tap is None or layer is None:
            return None
        path = self.family.layer_path(layer, tap.path)
        if name.startswith("b"):
            return self._shape(name, tap, self._parameter(path, "bias"))
        return self._shape(name, tap, oriented(self.module.get_submodule(path)))

    def _folded(self, name: str, layer: int) -> Tensor | None:
        tap = self._tap(name)
        if name not in NORM_OF:
            raise BadInput(f"{name} writes to the residual stream; no norm can be folded into it. Drop `folded`.")
        if tap is None:
            return None
        path = self.family.layer_path(layer, tap.path)
        linear = self.module.get_submodule(path)
        matrix, bias = self._folded_pair(NORM_OF[name], oriented(linear), self._parameter(path, "bias"), layer)
        return self._shape(name, tap, bias if name.startswith("b") else matrix)

    def _folded_pair(
        self, which: str, matrix: Tensor, bias: Tensor | None, layer: int | None = None
    ) -> tuple[Tensor, Tensor | None]:
        if layer is not None and which not in self.family.norms:
            raise BadInput(
                f"{self.spec.family} has no norm before its {which}; there is nothing to fold. Drop `folded` (W_U can be folded)."
            )
        gain, shift = self.norm(which, layer)
        return fold(matrix, bias, gain, shift, centre=self.family.norm == "layer")

    def _tap(self, name: str) -> Tap | None:
        """The site whose module holds the parameter."""
        self._refuse_unproven(name)
        taps = self.family.taps
        if name[2:] in ("Q", "K", "V"):
            return taps[name[2:].lower()]
        if self.family.experts and name[2:] in ("in", "gate", "out"):
            raise BadInput(
                f"{name}: a layer of {self.spec.name} has {self.spec.experts} experts, and not one MLP with one {name}. Use transformers' "
                f"own parameters, one row an expert: {self.family.layer_path(0, 'mlp.experts')}.gate_up_proj and .down_proj."
            )
        if name[2:] == "gate":
            return taps["mlp_pre"] if self.family.gated else None
        kinds = {"O": "z", "in": "mlp_pre_linear" if self.family.gated else "mlp_pre", "out": "mlp_post"}
        return taps[kinds[name[2:]]]

    def _shape(self, name: str, tap: Tap, flat: Tensor | None) -> Tensor | None:
        if flat is None:
            return None
        if name in ("W_Q", "W_K", "W_V"):
            return rearrange(tap.take(flat, self.spec), "d_model head d_head -> head d_model d_head")
        if name == "W_O":
            return rearrange(flat, "(head d_head) d_model -> head d_head d_model", d_head=self.spec.d_head)
        if name in ("W_out", "b_O", "b_out"):
            return flat  # z and mlp_post are inputs of their module: the tap says nothing about its output
        return tap.take(flat, self.spec)

    def _parameter(self, path: str | None, which: str) -> Any:
        found = getattr(self.module.get_submodule(path), which, None) if path else None
        return None if found is None else found.detach()

    def layer(self, layer: int) -> int:
        """The layer's number, counted from the end where it is negative. Raises `BadInput` beyond the last."""
        if not -self.spec.n_layers <= layer < self.spec.n_layers:
            raise BadInput(f"layer {layer} is not in {self.spec.name}, which has layers 0 to {self.spec.n_layers - 1}.")
        return layer % self.spec.n_layers
