"""An independent oracle: plain `register_forward_hook`s, one function a question, nothing imported from `interp`.

It knows the module tree of each family by its own means, reads and writes tensors in the conventions that the workbench promises
(docs of `interp.core.site`), and is deliberately slow and simple.
"""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

Change = Callable[[Tensor], Tensor]


def body(model: nn.Module) -> tuple[Any, Any, Any]:
    """Embedding, decoder layers and final norm of a model."""
    kind = model.config.model_type
    if kind in ("gpt2", "gpt_neo"):
        return model.transformer.wte, model.transformer.h, model.transformer.ln_f
    if kind == "gpt_neox":
        return model.gpt_neox.embed_in, model.gpt_neox.layers, model.gpt_neox.final_layer_norm
    return model.model.embed_tokens, model.model.layers, model.model.norm


def attention_of(model: nn.Module, layer: int) -> Any:
    block = body(model)[1][layer]
    return {
        "gpt2": lambda: block.attn,
        "gpt_neo": lambda: block.attn.attention,
        "gpt_neox": lambda: block.attention,
    }.get(model.config.model_type, lambda: block.self_attn)()


def head_dim(model: nn.Module) -> int:
    config = model.config
    return getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads


def locate(
    model: nn.Module, kind: str, layer: int | None
) -> tuple[nn.Module, str, Change, Callable[[Tensor, Tensor], Tensor]]:
    """(module, 'in' | 'out', read the site from the module's tensor, write it back) for one site."""
    family, d = model.config.model_type, head_dim(model)
    embed, layers, final = body(model)

    def same(x: Tensor) -> Tensor:
        return x

    def put(x: Tensor, new: Tensor) -> Tensor:
        return new

    def split(x: Tensor) -> Tensor:
        return x.reshape(*x.shape[:-1], -1, d)

    def join(x: Tensor, new: Tensor) -> Tensor:
        return new.reshape(x.shape)

    if layer is None:
        module = {"embed": embed, "final": final}.get(kind)
        return (model.transformer.wpe if kind == "pos_embed" else module), "out", same, put
    block, attention = layers[layer], attention_of(model, layer)
    if kind in ("resid_pre", "resid_post"):
        return block, "in" if kind == "resid_pre" else "out", same, put
    if kind in "qkv":
        index = "qkv".index(kind)
        if family == "gpt2":
            width = model.config.hidden_size
            low, high = index * width, (index + 1) * width
            return (
                attention.c_attn, "out", lambda x: split(x[..., low:high]),
                lambda x, new: torch.cat([x[..., :low], new.flatten(-2), x[..., high:]], -1),
            )  # fmt: skip
        if family == "gpt_neox":

            def write(x: Tensor, new: Tensor) -> Tensor:
                y = x.clone().reshape(*x.shape[:-1], -1, 3 * d)
                y[..., index * d : (index + 1) * d] = new
                return y.reshape(x.shape)

            return (
                attention.query_key_value, "out",
                lambda x: x.reshape(*x.shape[:-1], -1, 3 * d)[..., index * d : (index + 1) * d], write,
            )  # fmt: skip
        if family == "phi3":
            wide = model.config.num_attention_heads * d
            narrow = model.config.num_key_value_heads * d
            low = (0, wide, wide + narrow)[index]
            high = (wide, wide + narrow, wide + 2 * narrow)[index]
            return (
                attention.qkv_proj, "out", lambda x: split(x[..., low:high]),
                lambda x, new: torch.cat([x[..., :low], new.flatten(-2), x[..., high:]], -1),
            )  # fmt: skip
        return getattr(attention, f"{kind}_proj"), "out", split, join
    if kind == "z":
        name = {"gpt2": "c_proj", "gpt_neo": "out_proj", "gpt_neox": "dense"}.get(family, "o_proj")
        return getattr(attention, name), "in", split, join
    sandwich = family in ("gemma2", "gemma3_text", "olmo2")
    if kind == "attn_out":
        module = block.post_attention_layernorm if sandwich else (block.attn if family == "gpt_neo" else attention)
        return module, "out", same, put
    if kind == "mlp_out":
        return block.post_feedforward_layernorm if sandwich else block.mlp, "out", same, put
    if family == "phi3" and kind != "mlp_post":
        half = model.config.intermediate_size
        if kind == "mlp_pre":
            return (
                block.mlp.gate_up_proj, "out", lambda x: x[..., :half],
                lambda x, new: torch.cat([new, x[..., half:]], -1),
            )  # fmt: skip
        return (
            block.mlp.gate_up_proj, "out", lambda x: x[..., half:], lambda x, new: torch.cat([x[..., :half], new], -1)
        )  # fmt: skip
    up, gate, down = {
        "gpt2": ("c_fc", "c_fc", "c_proj"), "gpt_neo": ("c_fc", "c_fc", "c_proj"),
        "gpt_neox": ("dense_h_to_4h", "dense_h_to_4h", "dense_4h_to_h"),
    }.get(family, ("up_proj", "gate_proj", "down_proj"))  # fmt: skip
    name, side = {"mlp_pre": (gate, "out"), "mlp_pre_linear": (up, "out"), "mlp_post": (down, "in")}[kind]
    return getattr(block.mlp, name), side, same, put


@contextlib.contextmanager
def at(model: nn.Module, kind: str, layer: int | None, act: Callable[[Tensor], Tensor | None]) -> Iterator[None]:
    """Show the site's tensor to `act`; what `act` returns, if anything, takes its place."""
    module, side, read, write = locate(model, kind, layer)

    def change(x: Tensor) -> Tensor | None:
        new = act(read(x))
        return None if new is None else write(x, new)

    def pre(_module: nn.Module, args: tuple[Any, ...]) -> Any:
        new = change(args[0])
        return None if new is None else (new, *args[1:])

    def post(_module: nn.Module, _args: Any, out: Any) -> Any:
        new = change(out[0] if isinstance(out, tuple) else out)
        return None if new is None else ((new, *out[1:]) if isinstance(out, tuple) else new)

    handle = module.register_forward_pre_hook(pre) if side == "in" else module.register_forward_hook(post)
    try:
        yield
    finally:
        handle.remove()


@torch.no_grad()
def logits(model: nn.Module, ids: Tensor, mask: Tensor | None = None) -> Tensor:
    """Logits [batch, pos, vocab], positions counted per row."""
    if mask is None:
        positions = torch.arange(ids.shape[1], device=ids.device).expand_as(ids)
        return model(ids, position_ids=positions, use_cache=False).logits
    positions = (mask.long().cumsum(1) - 1).clamp(min=0)
    return model(ids, attention_mask=mask.long(), position_ids=positions, use_cache=False).logits


def capture(model: nn.Module, kind: str, layer: int | None, ids: Tensor, mask: Tensor | None = None) -> Tensor:
    """The site's tensor in an ordinary forward pass."""
    if kind == "resid_mid":
        return capture(model, "resid_pre", layer, ids, mask) + capture(model, "attn_out", layer, ids, mask)
    if kind == "pattern":
        assert mask is None and layer is not None
        with eager(model), torch.no_grad():
            return model(ids, output_attentions=True, use_cache=False).attentions[layer]
    seen: list[Tensor] = []

    def keep(x: Tensor) -> None:
        seen.append(x.detach().clone())

    with at(model, kind, layer, keep):
        logits(model, ids, mask)
    assert len(seen) == 1
    return seen[0]


def edited(
    model: nn.Module, changes: list[tuple[str, int | None, Change]], ids: Tensor, mask: Tensor | None = None
) -> Tensor:
    """Logits with sites replaced by `change(site)`; at `resid_mid` by adding the difference to what attention writes."""
    with contextlib.ExitStack() as stack:
        for kind, layer, change in changes:
            if kind != "resid_mid":
                stack.enter_context(at(model, kind, layer, change))
                continue
            box: list[Tensor] = []

            def remember(x: Tensor, box: list[Tensor] = box) -> None:
                box.append(x)

            def shift(x: Tensor, box: list[Tensor] = box, change: Change = change) -> Tensor:
                return change(box[-1] + x) - box[-1]

            stack.enter_context(at(model, "resid_pre", layer, remember))
            stack.enter_context(at(model, "attn_out", layer, shift))
        return logits(model, ids, mask)


@contextlib.contextmanager
def eager(model: nn.Module) -> Iterator[None]:
    """The model under eager attention."""
    before = model.config._attn_implementation
    model.config._attn_implementation = "eager"
    try:
        yield
    finally:
        model.config._attn_implementation = before


def hook_count(model: nn.Module) -> int:
    """All forward and forward-pre hooks in the module tree."""
    return sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules())
