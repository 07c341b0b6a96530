"""Opening and closing a channel: one singular component of a head scaled or removed, in the weights or in a run.

The question. If component i of a head wrote half as much, or nothing, and all else stayed, what would change?

    OV' = OV - (1 - γ) s_i u_i v_iᵀ        γ = 0 removes the component, 1 leaves it, 2 doubles it, -1 turns it round

How. In the d_head coordinates between W_V and W_O a component is a projection,

    P_i = W_O v_i u_iᵀ W_V / s_i  [d_head, d_head],    W_V P_i W_O = s_i u_i v_iᵀ,    P_i P_i = P_i,    P_i P_j = 0,

so W_O' = (I - Σ (1 - γ_i) P_i) W_O is the whole edit. Values, keys and the head's own attention stay what they were, value heads that
several query heads share are not touched, and no matrix is factored anew. It is exact in folded coordinates too: P_i is made of folded
matrices, acts between W_V and W_O, and the raw W_O is what it acts on. A component of QK = W_Q W_Kᵀ is taken out of the query,
W_Q' = W_Q (I - Σ (1 - γ_i) P_i) with P_i = W_Kᵀ v_i u_iᵀ W_Q / s_i. The weights are put back bit for bit.

The same edit in a run is z' = z (I - Σ (1 - γ_i) P_i) (or q'), for positions of one's choice: `component_edit`.

Biases. What a head reads is `x W_V + b`, where b is b_V and, in folded coordinates, what the norm's own bias adds. `biases="keep"`: b still
writes b W_O, as if it had been moved into b_O before the edit; the edit takes exactly (x · u_i) s_i v_i from what each token gives.
`biases="edit"`: b is a value like others, and its part in the component is scaled along. Factoring W_V and W_O anew and leaving b_V
where it was does neither. In QK the query's constant part is kept or edited likewise; the key's stays as it is.

When it misleads
- γ = 0 also takes away what the component gives on average. Where that matters, compare with the other components of the same head.
- In rotary models a QK component belongs to one distance (`offset`); at other distances the same change of the query takes away
  something else. Norms on queries (Qwen 3, Gemma 3) would blow up what is left, so there QK is not edited.
- A norm behind attention (Gemma 2) divides by the length of the sum of all heads, which the edit changes: the direction is gone
  exactly, and the rest is rescaled.
- Names depend on the `Setting` (folded or raw). Below float32, rounding W_O leaves 2⁻⁹ of everything, which is no longer small against
  one component: the weight edit is refused there; `component_edit` rounds activations only.

Source. Merullo et al. 2024, "Talking Heads" (arXiv 2406.09519), section 3.2, who factor the edited OV anew.

    import interp
    lm = interp.load("atlas")
    with interp.edit_components(lm, {"1.3.0": 0.0, "1.3.1": 0.5}):
        lm.run("The river")
    lm.run("The river", edits=[component_edit(lm, "1.3.0", at=interp.At.last())])
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor

from interp.core.batch import At
from interp.core.edit import Edit
from interp.core.errors import BadInput, one_of
from interp.core.lm import LM
from interp.core.shapes import Float
from interp.core.site import Site

from ..component import Component, Head
from ..decompose import DEGENERATE, Components, exists
from ..factors import DEFAULT, Setting
from ..space import Space, Which

Names: TypeAlias = "str | Component | Head | Sequence[str | Component | Head] | Mapping[str, float]"
"""Components ("8.10.1"), or heads ("8.10": all of its components); a mapping gives each its own scale."""
Biases = Literal["keep", "edit"]
WIDE = ("float32", "float64")
_OPEN: list[tuple[int, str, Head]] = []
"""Which heads of which model have components edited in their weights just now."""


@dataclass(frozen=True, eq=False)
class Removal:
    """What is taken out of one head: `y - (y - constant) @ part`, y its z (or its q)."""

    head: Head
    part: Tensor
    """Σ (1 - γ_i) P_i [d_head, d_head], float64."""
    constant: Tensor
    """What is left alone [d_head], float64: the constant part of y with biases="keep", zeros with "edit"."""
    scales: "dict[str, float]"
    """γ of every component that is changed."""


@contextmanager
def edit_components(
    lm: LM,
    names: Names,
    *,
    scale: float = 0.0,
    keep_only: bool = False,
    which: Which = "ov",
    biases: Biases = "keep",
    setting: Setting = DEFAULT,
    offset: int | None = None,
) -> Iterator[dict[str, float]]:
    """Inside the block the named components are `scale` times what they were (a mapping gives each its own); gives the scale of every
    component that is changed.

    `keep_only` scales all *others* of the heads that are named, and leaves the named ones. Raises `BadInput` for components that do not
    exist or cannot be told apart from one that is scaled otherwise, weights below float32, biases that cannot be kept (see the essay), and
    a head that is being edited already: what is left of it has other components under the same names.
    """
    mine = [(id(lm), which, head) for head in _scales(lm, names, scale)]
    if again := sorted(head for _, _, head in set(mine) & set(_OPEN)):
        raise BadInput(
            f"components of head {again[0]} are being edited already, and those of what is left are numbered anew: {again[0]}.1 would be "
            "another. Name all of a head's components in one edit."
        )
    chosen = removals(
        lm, names, scale=scale, keep_only=keep_only, which=which, biases=biases, setting=setting, offset=offset
    )
    with lm.edit_weights(changed_weights(lm, chosen, which=which, biases=biases, setting=setting)):
        _OPEN.extend(mine)
        try:
            yield {name: value for one in chosen for name, value in one.scales.items()}
        finally:
            for one in mine:
                _OPEN.remove(one)


def component_edit(
    lm: LM,
    names: Names,
    *,
    scale: float = 0.0,
    keep_only: bool = False,
    which: Which = "ov",
    biases: Biases = "keep",
    setting: Setting = DEFAULT,
    offset: int | None = None,
    at: At = At("all"),
) -> Edit:
    """The same as an edit of z (or q) at positions `at`, for components of heads of one layer. At all positions it equals the weight edit.

    It is a function of what is there, so it goes with any other edits; being one, it cannot be cached, and `LM.resume` runs whole rows
    from its layer on. Raises what `edit_components` raises, but takes models in half precision, and refuses heads of several layers.
    """
    chosen = removals(
        lm, names, scale=scale, keep_only=keep_only, which=which, biases=biases, setting=setting, offset=offset
    )
    layers = sorted({one.head.layer for one in chosen} or {head.layer for head in _scales(lm, names, scale)})
    if len(layers) > 1:
        raise BadInput(
            f"these components lie in layers {layers}, and an edit acts in one. Make an edit for each layer."
        )
    return removing(lm, chosen, layers[0], which=which, at=at)


def removing(lm: LM, chosen: "Sequence[Removal]", layer: int, *, which: Which = "ov", at: At = At("all")) -> Edit:
    """The edit of a layer's z (or q) that carries out some removals in it."""
    part = torch.zeros(lm.spec.n_heads, lm.spec.d_head, lm.spec.d_head, dtype=torch.float64)
    constant = torch.zeros(lm.spec.n_heads, lm.spec.d_head, dtype=torch.float64)
    for one in chosen:
        part[one.head.head], constant[one.head.head] = one.part.cpu(), one.constant.cpu()
    heads = tuple(one.head.head for one in chosen)

    def remove(y: Tensor) -> Tensor:
        wide = y.double()  # [row, pos, head, d_head]
        gone = torch.einsum("rphi,hij->rphj", wide - constant.to(wide.device), part.to(wide.device))
        return (wide - gone).to(y.dtype)

    site = Site("z" if which == "ov" else "q", layer)
    return Edit(site, "call", remove, at, heads) if heads else Edit(site, "add", 0.0, at)


def removals(
    lm: LM,
    names: Names,
    *,
    scale: float = 0.0,
    keep_only: bool = False,
    which: Which = "ov",
    biases: Biases = "keep",
    setting: Setting = DEFAULT,
    offset: int | None = None,
) -> list[Removal]:
    """What is taken out of every head that is named, in its d_head coordinates; heads in which nothing changes are left out."""
    one_of("which", which, ["ov", "qk"])
    one_of("biases", biases, ["keep", "edit"])
    if setting.biases and biases == "keep":
        raise BadInput(
            "with Setting(biases=True) the constant is a part of the components themselves. Use biases='edit', or Setting(biases=False)."
        )
    if which == "qk" and "q" in lm.weights.norms:
        raise BadInput(
            f"{lm.spec.name} normalises its queries, so that what is left of one would grow as a component goes. Edit components of OV."
        )
    if keep_only and isinstance(names, Mapping):
        raise BadInput(
            f"keep_only=True leaves what is named as it is, so scales for it, {dict(names)!r}, mean nothing. Give names only; `scale` is "
            "that of the others."
        )
    found = []
    for head, given in _scales(lm, names, scale).items():
        space = Space.of(lm, head, which=which, setting=setting, offset=offset)
        values = _every(space.parts, head, given, scale if keep_only else None)  # [component]
        changed = [index for index, value in enumerate(values) if value != 1.0]
        if changed:
            part = space.part(torch.tensor([1.0 - value for value in values], dtype=torch.float64).diag())
            constant = constant_of(lm, head, which=which, biases=biases, setting=setting).to(part)
            _check_sinks(lm, head, which, constant @ part)
            scales = {f"{head}.{index}": values[index] for index in changed}
            found.append(Removal(head, part, constant, scales))
    return found


def constant_of(
    lm: LM, head: Head, *, which: Which = "ov", biases: Biases = "keep", setting: Setting = DEFAULT
) -> Float[Tensor, " d_head"]:
    """What an edit leaves alone of a head's z (or q): what is in it whatever is read, float64; zeros with biases="edit"."""
    folded = setting.folded and lm.weights.pre_norm
    if which == "ov":
        bias = lm.weights.b_V(head.layer, expand=True, folded=folded)
    else:
        bias = lm.weights.b_Q(head.layer, folded=folded)
    if bias is None or biases == "edit":
        return torch.zeros(lm.spec.d_head, dtype=torch.float64)
    return bias[head.head].double()


def changed_weights(
    lm: LM, chosen: Sequence[Removal], *, which: Which = "ov", biases: Biases = "keep", setting: Setting = DEFAULT
) -> dict[str, Tensor]:
    """Parameters with the removals carried out, as `LM.edit_weights` takes them. Raises `BadInput` where they cannot hold the edit."""
    if chosen and lm.spec.dtype not in WIDE:
        raise BadInput(
            f"the weights of {lm.spec.name} are {lm.spec.dtype}: rounding the edited ones would change the head by as much as a component "
            "may weigh. Load it with dtype='float32', or edit the run with `component_edit`."
        )
    change = _ov_weights if which == "ov" else _qk_weights
    return change(lm, chosen, biases, setting)


def _ov_weights(lm: LM, chosen: Sequence[Removal], biases: Biases, setting: Setting) -> dict[str, Tensor]:
    new: dict[str, Tensor] = {}
    kept: dict[int, Tensor] = {}
    for one in chosen:
        layer, head = one.head.layer, one.head.head
        weight = lm.weights.W_O(layer)[head].double()
        new[f"W_O.{layer}.{head}"] = weight - one.part @ weight
        kept[layer] = kept.get(layer, 0.0) + one.constant @ one.part @ weight  # what b still writes
    for layer, written in kept.items():
        if not bool(written.any()):
            continue
        bias = lm.weights.b_O(layer)
        if bias is None:
            raise BadInput(_no_bias(lm, "b_O", "what its heads write of their biases"))
        new[f"b_O.{layer}"] = bias.double() + written
    return new


def _qk_weights(lm: LM, chosen: Sequence[Removal], biases: Biases, setting: Setting) -> dict[str, Tensor]:
    new: dict[str, Tensor] = {}
    for one in chosen:
        layer, head = one.head.layer, one.head.head
        weight, bias = lm.weights.W_Q(layer)[head].double(), lm.weights.b_Q(layer)
        new[f"W_Q.{layer}.{head}"] = weight - weight @ one.part
        own = torch.zeros_like(one.constant) if bias is None else bias[head].double()
        # W_Q' has changed what the norm's bias makes of it; b_Q' = b_Q - (b_Q - constant) part makes the whole y - (y - constant) part
        added = (one.constant - own) @ one.part
        if not bool(added.any()):
            continue
        if bias is None:
            raise BadInput(_no_bias(lm, "b_Q", "what its queries have of the norm's bias"))
        new[f"b_Q.{layer}.{head}"] = own + added
    return new


def _no_bias(lm: LM, name: str, what: str) -> str:
    return (
        f"{lm.spec.name} has no {name} that could keep {what}. Use biases='edit', which scales it with the component, or edit the run with "
        "`component_edit`."
    )


def _check_sinks(lm: LM, head: Head, which: Which, kept: Tensor) -> None:
    if lm.spec.sinks and which == "ov" and bool(kept.any()):
        raise BadInput(
            f"head {head} of {lm.spec.name} gives a part of its attention to a sink, so what its bias writes is not the same at every "
            "token and cannot be kept. Use biases='edit'."
        )


def _scales(lm: LM, names: Any, scale: float) -> dict[Head, dict[int | None, float]]:
    """Scale of each component that is named, by head; None for all of a head."""
    if isinstance(names, str | Component | Head):
        names = [names]
    if not isinstance(names, Iterable):
        raise BadInput(f"{names!r} names no component. Write layer.head.component, as in '8.10.1', or several of them.")
    pairs = list(names.items()) if isinstance(names, Mapping) else [(name, scale) for name in names]
    if not pairs:
        raise BadInput("no component is named. Name some, as in {'8.10.1': 0.0}.")
    out: dict[Head, dict[int | None, float]] = {}
    for name, value in pairs:
        if (
            not isinstance(value, int | float)
            or isinstance(value, bool)
            or not torch.isfinite(torch.tensor(float(value)))
        ):
            raise BadInput(f"the scale of component {str(name)!r} must be a finite number; not {value!r}.")
        whole = isinstance(name, Head) or (isinstance(name, str) and name.count(".") == 1)
        one = Head.parse(name).check(lm) if whole else Component.parse(name).check(lm)
        head, index = (one, None) if isinstance(one, Head) else (one.owner, one.index)
        mine = out.setdefault(head, {})
        if index in mine or (mine and (None in mine or index is None)):
            raise BadInput(f"{str(name)!r} names a component that was named already. Name each once.")
        mine[index] = float(value)
    return out


def _every(parts: Components, head: Head, given: Mapping[int | None, float], others: float | None) -> list[float]:
    """The scale of each component of a head, [rank]; `others` is given to those that are not named, and 1 to those that are.

    Raises `BadInput` for components beyond the rank, and where components that cannot be told apart get different scales.
    """
    rank = int(parts.rank[0])
    named = set(range(rank)) if None in given else {index for index in given if index is not None}
    for index in sorted(named):
        exists(parts, Component(head.layer, head.head, index), 0)
    if not rank:
        exists(parts, Component(head.layer, head.head, 0), 0)
    rest = 1.0 if others is None else others
    scaled = {index: given.get(index, given.get(None, 1.0)) if others is None else 1.0 for index in named}
    values = [scaled.get(index, rest) for index in range(rank)]
    for index in range(rank):
        block = parts.block(0, index)
        if len({values[other] for other in block}) > 1:
            raise BadInput(
                f"components {block[0]} to {block[-1]} of head {head} have singular values that agree to {DEGENERATE:g}, so none of them "
                "is known by itself. Give all of them the same scale."
            )
    return values
