"""Sites: the named tensors of a transformer.

One grammar everywhere, the one of TransformerLens: `blocks.6.hook_resid_post`, `blocks.9.attn.hook_z`, `hook_embed`. The same
names are accepted and printed by every function, file and axis of the workbench, whatever backend answers.

    Site.parse("blocks.6.hook_resid_post")            # Site(kind='resid_post', layer=6)
    expand(["blocks.*.hook_resid_post"], spec)        # one site a layer, in the order of the forward pass

What a name means is written once, in `KINDS`. Two meanings are worth knowing, because libraries differ on them:
`attn_out` and `mlp_out` are what is *added to the residual stream* (after the post-norm of Gemma 2/3 and OLMo 2), so that
`resid_post = resid_pre + attn_out + mlp_out` holds for every family; `q` and `k` are before rotary embedding and before any
query/key norm. In grouped-query models `k` and `v` have one entry a key/value head, not one a query head. `pattern` is over the
tokens only: where heads may attend to a learned sink too (`spec.sinks`), its rows sum to one minus the sink's share, and editing it
edits what is read from the tokens.
"""

import fnmatch
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache

from .errors import UnknownSite, hint
from .spec import ModelSpec


@dataclass(frozen=True)
class Kind:
    """What a family of sites is: how it is written, its axes after the batch, when it is computed, what it means."""

    template: str
    dims: tuple[str, ...]
    rank: int
    meaning: str
    aliases: tuple[str, ...] = ()


STREAM, HEAD, KV, NEURON = ("pos", "d_model"), ("pos", "head", "d_head"), ("pos", "kv_head", "d_head"), ("pos", "d_mlp")

KINDS: dict[str, Kind] = {
    "embed": Kind("hook_embed", STREAM, 0, "token embedding, as it enters the residual stream"),
    "pos_embed": Kind("hook_pos_embed", STREAM, 1, "learned position embedding"),
    "resid_pre": Kind(
        "blocks.{}.hook_resid_pre", STREAM, 2, "residual stream entering the block", ("blocks.{}.hook_in",)
    ),
    "q": Kind("blocks.{}.attn.hook_q", HEAD, 3, "queries, before rotary embedding and query norm"),
    "k": Kind("blocks.{}.attn.hook_k", KV, 4, "keys, before rotary embedding and key norm"),
    "v": Kind("blocks.{}.attn.hook_v", KV, 5, "values"),
    "pattern": Kind(
        "blocks.{}.attn.hook_pattern",
        ("head", "query", "key"),
        6,
        "attention probabilities; rows sum to 1, less what a sink takes",
    ),
    "z": Kind("blocks.{}.attn.hook_z", HEAD, 7, "pattern-weighted values, before W_O", ("blocks.{}.attn.o.hook_in",)),
    "attn_out": Kind("blocks.{}.hook_attn_out", STREAM, 8, "what attention adds to the residual stream"),
    "resid_mid": Kind("blocks.{}.hook_resid_mid", STREAM, 9, "residual stream between attention and MLP"),
    "mlp_pre": Kind("blocks.{}.mlp.hook_pre", NEURON, 10, "MLP (gate) pre-activations"),
    "mlp_pre_linear": Kind("blocks.{}.mlp.hook_pre_linear", NEURON, 11, "linear branch of a gated MLP"),
    "mlp_post": Kind("blocks.{}.mlp.hook_post", NEURON, 12, "neuron activations, the input of W_out"),
    "mlp_out": Kind("blocks.{}.hook_mlp_out", STREAM, 13, "what the MLP adds to the residual stream"),
    "resid_post": Kind(
        "blocks.{}.hook_resid_post", STREAM, 14, "residual stream leaving the block", ("blocks.{}.hook_out",)
    ),
    "final": Kind("ln_final.hook_out", STREAM, 15, "output of the final norm, the input of W_U"),
}

_LAYERED = re.compile(r"blocks\.(\d+|\*)\.(.+)")
_SPELLINGS = {
    spelling.replace("blocks.{}.", ""): (kind, spelling.startswith("blocks"))
    for kind, entry in KINDS.items()
    for spelling in (entry.template, *entry.aliases)
}


@dataclass(frozen=True)
class Site:
    """One named tensor of a model. `str(site)` is its TransformerLens name."""

    kind: str
    layer: int | None = None

    @classmethod
    def parse(cls, name: "str | Site") -> "Site":
        """Read a TransformerLens name. Raises `UnknownSite` with a suggestion for anything else."""
        if isinstance(name, Site):
            return name
        match = _LAYERED.fullmatch(name)
        spelling, layer = (match[2], match[1]) if match else (name, None)
        kind, layered = _SPELLINGS.get(spelling, ("", False))
        if not kind or layered != (layer is not None) or layer == "*":
            raise UnknownSite(_unknown(name, match))
        return cls(kind, int(layer) if layer is not None else None)

    @property
    def name(self) -> str:
        """The TransformerLens name, e.g. `blocks.6.hook_resid_post`."""
        return KINDS[self.kind].template.format(self.layer)

    @property
    def spellings(self) -> tuple[str, ...]:
        """Every name it may be written by, its own first."""
        kind = KINDS[self.kind]
        return tuple(template.format(self.layer) for template in (kind.template, *kind.aliases))

    @property
    def dims(self) -> tuple[str, ...]:
        """Axis names, batch first: `('batch', 'pos', 'd_model')`."""
        return ("batch", *KINDS[self.kind].dims)

    @property
    def meaning(self) -> str:
        """What the tensor is, in plain words."""
        return KINDS[self.kind].meaning

    @property
    def order(self) -> tuple[int, int]:
        """Sort key: when the forward pass computes it."""
        rank = KINDS[self.kind].rank
        if self.layer is None:
            return (-1, rank) if rank < 2 else (1 << 30, rank)
        return (self.layer, rank)

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True)
class SiteInfo:
    """A site of one particular model, with what a researcher asks before capturing it."""

    site: Site
    shape: tuple[int, ...]
    """Sizes per token, e.g. (12, 64); for the pattern (heads, context)."""
    bytes_per_token: int
    """At the model's dtype; for the pattern, at full context."""
    editable: bool = True
    """False where the backend can show the tensor but not change it."""


def sites_of(spec: ModelSpec) -> list[SiteInfo]:
    """Every site that a model of this specification has, in the order of the forward pass."""
    out = []
    for kind, entry in KINDS.items():
        if not _has(spec, kind):
            continue
        layers: Iterable[int | None] = range(spec.n_layers) if "{}" in entry.template else [None]
        sizes = {
            "d_model": spec.d_model, "head": spec.n_heads, "kv_head": spec.n_kv_heads, "d_head": spec.d_head,
            "d_mlp": spec.d_mlp, "query": 1, "key": spec.n_ctx,
        }  # fmt: skip
        shape = tuple(sizes[dim] for dim in entry.dims if dim != "pos")
        size = spec.bytes_per_value
        for axis in shape:
            size *= axis
        out += [SiteInfo(Site(kind, layer), shape, size) for layer in layers]
    return sorted(out, key=lambda info: info.site.order)


def expand(names: "str | Site | Sequence[str | Site]", spec: ModelSpec) -> list[Site]:
    """Turn names and `*` patterns into the sites of a model, without repeats, in forward order.

    Raises `UnknownSite` for a name that this model lacks and for a pattern that matches nothing.
    """
    have = _names(spec)
    found: dict[Site, None] = {}
    for name in [names] if isinstance(names, str | Site) else names:
        if isinstance(name, str) and any(sign in name for sign in "*?["):
            hits = [site for site in have.values() if any(fnmatch.fnmatchcase(key, name) for key in site.spellings)]
            if not hits:
                every = {re.sub(r"\.\d+\.", ".*.", key) for site in have.values() for key in site.spellings}
                near = hint(name, every)
                raise UnknownSite(
                    f"the pattern {name!r} matches no site of {spec.name}.{near} `interp sites MODEL` lists them."
                )
            found.update(dict.fromkeys(hits))
            continue
        site = Site.parse(name)
        if site.name not in have:
            raise UnknownSite(_absent(site, spec))
        found[site] = None
    return sorted(found, key=lambda site: site.order)


@lru_cache(maxsize=32)
def _names(spec: ModelSpec) -> dict[str, Site]:
    """Sites by name, worked out once a model: tracing asks for thousands of edits' sites."""
    return {info.site.name: info.site for info in sites_of(spec)}


def _has(spec: ModelSpec, kind: str) -> bool:
    if not spec.proven:
        return kind in spec.kinds
    absent = {
        "pos_embed": spec.positions != "learned",
        "resid_mid": spec.parallel,
        "mlp_pre_linear": not spec.gated or bool(spec.experts),
        "mlp_pre": bool(spec.experts),
        "mlp_post": bool(spec.experts),
    }
    return not absent.get(kind, False)


def _absent(site: Site, spec: ModelSpec) -> str:
    if site.layer is not None and not site.layer < spec.n_layers:
        last = spec.n_layers - 1
        return f"{site.name!r}: {spec.name} has layers 0 to {last}. Write a layer in that range."
    if not spec.proven:
        have = ", ".join(KINDS[kind].template.format("*") for kind in KINDS if kind in spec.kinds)
        return (
            f"{site.name!r}: {spec.name} has no such site, because {spec.family} is an unproven family: only its residual stream is named "
            f"({have}). Use these, or a model of a proven family."
        )
    experts = (
        f"its neurons lie in {spec.experts} experts, each of which sees only some tokens; `hook_mlp_out` is their sum"
    )
    why = {
        "mlp_pre": experts,
        "mlp_post": experts,
        "pos_embed": "its positions are not learned embeddings",
        "resid_mid": "its attention and MLP run in parallel",
        "mlp_pre_linear": experts if spec.experts else "its MLP is not gated",
    }.get(site.kind, "the backend does not offer it")
    return f"{site.name!r}: {spec.name} has no such site, because {why}. `interp sites MODEL` lists what it has."


def _unknown(name: str, match: re.Match[str] | None) -> str:
    layer = match[1] if match else "0"
    spellings = [entry.template.format(layer) for entry in KINDS.values()]
    return f"{name!r} is not a site.{hint(name, spellings)} `interp sites MODEL` lists every site of a model."
