"""The TransformerLens backend: a `TransformerBridge` around a copy of the model that shares its parameters.

    lm = interp.load("gpt2")                          # this backend is the default
    lm.bridge                                         # the TransformerBridge itself, for anything TransformerLens offers

A bridge runs transformers' own layers with a hook point at every intermediate tensor and computes attention itself, so that
scores and patterns can be read and edited. TransformerLens ignores a hook name that does not exist; here every site is resolved to
its hook point once, when the model is loaded, and a pass in which a hooked site was computed not exactly once is an error.

Two things the bridge does not do by itself:
- GPT-Neo's pattern: its hook point shows the probabilities after they were used, so an edit there changes nothing. The
  dropout module that the probabilities really pass through is hooked instead.
- Weight edits: a bridge holds copies of GPT-NeoX's fused query-key-value weights (GPT-2's are views). They are brought up to date
  before a pass whenever the fused weights changed, noticed by PyTorch's version counters, and by their first row and column.

Hooks are attached for one pass and removed one by one; hooks of yours on `lm.bridge` stay and act before ours.
"""

import copy
from collections.abc import Callable
from typing import Any

import torch
from einops import rearrange
from torch import Tensor, nn

from interp.core.errors import UnsupportedArchitecture
from interp.core.run import Tape
from interp.core.site import Site, sites_of
from interp.core.spec import ModelSpec

from .base import BaseLM
from .hooks import Stop
from .tokenizer import HFTokenizer


class BridgeLM(BaseLM):
    """A language model answered by TransformerLens."""

    backend = "transformer_lens"

    def __init__(self, module: Any, tokenizer: HFTokenizer, spec: ModelSpec) -> None:
        _refuse_odd(module, spec.name)
        super().__init__(module, tokenizer, spec)
        inner = copy.deepcopy(module, memo={id(parameter): parameter for parameter in module.parameters()})
        inner.set_attn_implementation("eager")
        sites = [info.site for info in sites_of(self.spec)]
        by_tap = {site: inner.get_submodule(self.family.path(site)) for site in sites if site.kind in self._by_tap}
        self.bridge = _build(inner)
        points: dict[str, nn.Module] = self.bridge.hook_dict
        if absent := [site.name for site in sites if site not in by_tap and site.name not in points]:
            raise UnsupportedArchitecture(
                f"TransformerLens has no hook {absent[0]!r} for {spec.family}. Load {spec.name} with backend='nnsight'."
            )
        self._points = {site: by_tap.get(site) or points[site.name] for site in sites}
        self._fused = [part for block in self.bridge.blocks for part in _copied(block.attn)]

    @property
    def _by_tap(self) -> set[str]:
        """Kinds that are hooked at transformers' own module, because the bridge's hook point comes too late to edit."""
        return {"pattern"} & set(self.family.taps)

    def _forward(self, tape: Tape, stop_after: Site | None) -> Tensor | None:
        self._refresh()
        sites = tape.sites
        calls = dict.fromkeys(sites, 0)
        handles = [
            self._points[site].register_forward_hook(self._hook(site, tape, calls, stop_after)) for site in sites
        ]
        if stop_after is not None and stop_after not in calls:
            handles.append(self._points[stop_after].register_forward_hook(_stop))
        batch, device = tape.batch, self.module.device
        mask = None if batch.unpadded else batch.mask.long().to(device)
        try:
            logits = self.bridge(
                batch.tokens.to(device),
                attention_mask=mask,
                position_ids=batch.position_ids.to(device),
                use_cache=False,
            )
        except Stop:
            logits = None
        finally:
            for handle in handles:
                handle.remove()
        for site, count in calls.items():
            if count > 1:
                raise RuntimeError(
                    f"TransformerLens computed {site} {count} times in one pass; its edits cannot be trusted."
                )
        return logits

    def _hook(
        self, site: Site, tape: Tape, calls: dict[Site, int], stop_after: Site | None
    ) -> Callable[..., Tensor | None]:
        split = bool({"head", "kv_head"} & set(site.dims)) and site.kind != "pattern"
        width = self.spec.d_head

        def hook(_module: nn.Module, _args: Any, raw: Tensor) -> Tensor | None:
            calls[site] += 1
            flat = split and raw.ndim == 3
            x = rearrange(raw, "b p (h d) -> b p h d", d=width) if flat else raw  # [batch, pos, head, d_head]
            new = tape(site, x)
            if site == stop_after:
                raise Stop
            if new is x:
                return None
            return rearrange(new, "b p h d -> b p (h d)") if flat else new

        return hook

    def _refresh(self, changed: bool = False) -> None:
        for part in self._fused:
            if changed or part.stale:
                part.renew()


def _refuse_odd(module: nn.Module, name: str) -> None:
    """Variants of supported families that TransformerLens computes wrongly, or cannot take apart."""
    config: Any = module.config
    half = next(module.parameters()).dtype in (torch.bfloat16, torch.float16)
    odd = {
        "gpt2": not getattr(config, "scale_attn_weights", True) and "unscaled attention scores (`scale_attn_weights`)",
        "olmo2": half and "half precision, in which its norms of queries and keys give float32",
        "gpt_neox": not getattr(config, "attention_bias", True) and "attention without biases (`attention_bias`)",
    }
    if what := odd.get(config.model_type):
        raise UnsupportedArchitecture(
            f"{name} has {what}, which TransformerLens does not compute. Load it with backend='nnsight'."
        )


def _stop(*_: Any) -> None:
    raise Stop


def _build(inner: Any) -> Any:
    from transformer_lens.model_bridge.sources import build_bridge_from_module

    shared = {id(parameter) for parameter in inner.parameters()}
    bridge = build_bridge_from_module(inner, type(inner).__name__, hf_config=inner.config)
    for parameter in bridge.original_model.parameters():
        if id(parameter) not in shared:  # the bridge's own splits of fused weights, born trainable
            parameter.requires_grad_(False)
    return bridge.eval()


class _Part:
    """The three projections that a bridge cut out of one fused projection, by copying."""

    def __init__(self, attention: Any) -> None:
        self.attention = attention
        self.fused = attention.qkv.original_component
        self.see()

    def see(self) -> None:
        """Remember what the fused weights are now."""
        self.seen, self.sample = self.version, [edge.clone() for edge in self._edges()]

    @property
    def version(self) -> tuple[int, ...]:
        """Changes with every in-place change of the fused weights that PyTorch counts."""
        return tuple(parameter._version for parameter in self.fused.parameters())

    @property
    def stale(self) -> bool:
        """Whether the fused weights changed. Changes through `.data` are not counted; they show in the first row and column."""
        if self.version != self.seen:
            return True
        return not all(torch.equal(now, then) for now, then in zip(self._edges(), self.sample, strict=True))

    def _edges(self) -> list[Tensor]:
        """First row and column of the fused matrix [head * 3 * d_head, d_model], and its bias: any head, any direction."""
        weight, *bias = (parameter.detach() for parameter in self.fused.parameters())
        return [weight[0], weight[:, 0], *bias]

    @torch.no_grad()
    def renew(self) -> None:
        """Cut again."""
        fresh = self.attention.split_qkv_matrix(self.attention.original_component)
        for name, new in zip(("q", "k", "v"), fresh, strict=True):
            old = getattr(self.attention, name).original_component
            for target, source in zip(old.parameters(), new.parameters(), strict=True):
                target.copy_(source)
        self.see()


def _copied(attention: Any) -> list[_Part]:
    """The part of a block's attention that must be renewed after a weight edit: none where nothing is fused or copied."""
    if "qkv" not in getattr(attention, "submodules", {}):
        return []
    part = _Part(attention)
    storage = {parameter.untyped_storage().data_ptr() for parameter in part.fused.parameters()}
    cut = [p for name in ("q", "k", "v") for p in getattr(attention, name).original_component.parameters()]
    return [] if all(p.untyped_storage().data_ptr() in storage for p in cut) else [part]
