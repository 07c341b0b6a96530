"""Unproven families: a decoder that is in no table, understood by watching it run.

Most decoders are a list of layers that hand a residual stream from one to the next. Where a model is found to be that, its stream has
names and can be read and edited; heads, neurons and weights have none, because nobody has checked where they lie.

    family = observe(module)              # a Family with a tap for each kind of site that was found
    family.layers, family.final, list(family.taps)

What is watched in one pass over two random rows: a module list whose layers are each called once, in order, each taking exactly what
the layer before it gave (the stream); the input embedding; the module between the last layer and the unembedding (the final norm).
A kind of site is named only where its meaning holds on that pass: `embed` is what the embedding gives where the stream entering the
first layer is that plus something that is the same for every token (positions), and that stream itself where it depends on nothing
but the token (Granite scales its embedding first, BLOOM normalises it); `attn_out` and `mlp_out` are named where two modules of every
layer add up to what the layer adds.

What is then proven (`prove`, when a model is loaded), or the model is refused: no logit depends on a later token; a capture is what a
bare forward hook sees; a replacement by the same values changes no bit; noise at a site moves the logits just as far as noise put in by
bare hooks; a row answers alone as it does in a batch and padded on either side; and the stream after a layer carries everything: put
into another prompt's pass, it gives its own prompt's logits.

When this misleads: a check on random rows is no proof for all inputs; a family that matters to you deserves an entry in
`interp.models.families` and the parity tests.
"""

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise, product
from typing import TYPE_CHECKING, Any, NoReturn

import torch
from torch import Tensor, nn

from interp.core.batch import Batch
from interp.core.edit import replace
from interp.core.errors import UnsupportedArchitecture, listing
from interp.core.seed import generator
from interp.core.site import KINDS, Site
from interp.core.spec import ModelSpec

from .families import Family, Tap, ropes_of

if TYPE_CHECKING:
    from .base import BaseLM

ROWS, WIDTH = 2, 7
"""Rows and tokens of the pass that is watched; a stream is known by this shape."""
CLOSE = 1e-4
"""Differences that rounding explains in float32, relative to the largest value."""


def refuse_config(config: Any) -> None:
    """Raise `UnsupportedArchitecture` for a configuration that no decoder has: encoders, translators, several models in one."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES as DECODERS
    from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING_NAMES as ENCODERS

    kind = config.model_type
    if getattr(config, "is_encoder_decoder", False):
        _refuse(kind, "it has an encoder besides its decoder")
    if getattr(config, "text_config", None) or getattr(config, "vision_config", None):
        _refuse(kind, "it is several models in one. Load only its text model")
    if kind not in DECODERS:
        _refuse(kind, "transformers has no causal language model of this type")
    if kind in ENCODERS and not getattr(config, "is_decoder", False):
        _refuse(kind, "it is an encoder: each token sees those after it")
    if "longrope" in ropes_of(config):
        _refuse(kind, "its positions depend on the longest row of a batch (longrope)")


def observe(module: nn.Module) -> Family:
    """The family of a loaded model that is in no table. Raises `UnsupportedArchitecture` with what could not be understood."""
    config: Any = module.config
    refuse_config(config)
    kind = config.model_type
    embed, head = module.get_input_embeddings(), module.get_output_embeddings()  # type: ignore[operator]
    if embed is None or head is None:
        _refuse(kind, "it has no input or no output embeddings")
    names = {id(part): path for path, part in module.named_modules()}
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        ids = _rows(module, "observe")
        ids[1] = ids[0].roll(1)
        calls, logits = watch(module, ids)
        _refuse_lookahead(module, kind, ids, logits)
    layers, ends = _stream(module, kind, calls)
    taps = {"resid_pre": Tap("", "in"), "resid_post": Tap("", "out")}
    if _adds_positions(calls.get(names[id(embed)], []), ends[0][0]):
        taps["embed"] = Tap(names[id(embed)])
    elif _sees_tokens_only(ends[0][0]):
        taps["embed"] = Tap(f"{layers}.0", "in")
    final = _final(names[id(head)], calls, layers, ends[-1][1])
    if final:
        taps["final"] = Tap(final)
    if pair := _components(module, layers, calls, ends):
        taps |= {"attn_out": Tap(pair[0]), "mlp_out": Tap(pair[1])}
    # logits of all positions in every pass, so that what changes nothing changes no bit of them
    takes = frozenset(inspect.signature(module.forward).parameters) - {"logits_to_keep"}
    return Family(
        kind, layers, "", names[id(embed)], final, taps, head=names[id(head)], norm=_norm(module, final), gated=False,
        proven=False, level="layer skip", takes=takes,
        width=ends[0][0].shape[-1],
    )  # fmt: skip


@dataclass(frozen=True)
class Call:
    """One call of a module: its first tensor in, and its (first) tensor out."""

    order: int
    """When it ended."""
    taken: Tensor | None
    """What it takes first, or as `hidden_states`; None where that is no tensor."""
    given: Tensor | None
    """What it gives, alone or first in a tuple; None where that is no tensor."""


def watch(module: nn.Module, ids: Tensor) -> tuple[dict[str, list[Call]], Tensor]:
    """Every call of every submodule in one pass, by path, and the logits [row, pos, vocab]."""
    calls: dict[str, list[Call]] = {}
    count = iter(range(1 << 30))

    def keep(path: str) -> Callable[..., None]:
        def hook(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
            taken = args[0] if args else kwargs.get("hidden_states")
            given = out[0] if isinstance(out, tuple) and out else out
            ends = [x if isinstance(x, Tensor) else None for x in (taken, given)]
            calls.setdefault(path, []).append(Call(next(count), ends[0], ends[1]))

        return hook

    handles = [
        part.register_forward_hook(keep(path), with_kwargs=True) for path, part in module.named_modules() if path
    ]
    try:
        logits: Tensor = module(input_ids=ids, use_cache=False).logits
    finally:
        for handle in handles:
            handle.remove()
    return calls, logits


def _rows(module: nn.Module, name: str) -> Tensor:
    """Random ids [row, pos], no id twice in a row, none of them padding."""
    config: Any = module.config
    vocab = module.get_input_embeddings().weight.shape[0]  # type: ignore[operator]
    padding = getattr(config, "pad_token_id", None)
    pool = torch.tensor([token for token in range(min(3, vocab - 1), vocab) if token != padding])
    draw = generator(0, "unproven family", name)
    ids = torch.stack([pool[torch.randperm(len(pool), generator=draw)[:WIDTH]] for _ in range(ROWS)])
    return ids.to(next(module.parameters()).device)


def _refuse_lookahead(module: nn.Module, kind: str, ids: Tensor, logits: Tensor) -> None:
    other = ids.clone()
    other[:, -1] = ids[:, 1]
    changed: Tensor = module(input_ids=other, use_cache=False).logits
    if _gap(changed[:, :-1], logits[:, :-1]) > _limit(logits):
        _refuse(kind, "its logits depend on later tokens, so it is no causal language model")


def _stream(module: nn.Module, kind: str, calls: dict[str, list[Call]]) -> tuple[str, list[tuple[Tensor, Tensor]]]:
    """The path of the list of layers, and the stream before and after each."""
    found: list[tuple[str, list[tuple[Tensor, Tensor]]]] = []
    reasons: list[str] = []
    lists = {path: len(part) for path, part in module.named_modules() if isinstance(part, nn.ModuleList) and len(part)}
    outer = [path for path in lists if not any(path.startswith(f"{other}.") for other in lists)]
    for path in outer:
        each = [calls.get(f"{path}.{index}", []) for index in range(lists[path])]
        ends = _ends(each)
        if isinstance(ends, str):
            reasons.append(f"{path}: {ends}")
        else:
            found.append((path, ends))
    if len(found) != 1:
        what = (
            f"{len(found)} lists of layers ({listing([path for path, _ in found])})" if found else "no list of layers"
        )
        _refuse(kind, f"it has {what} that hand a stream on" + (f" ({'; '.join(reasons)})" if reasons else ""))
    return found[0]


def _ends(each: list[list[Call]]) -> "list[tuple[Tensor, Tensor]] | str":
    """What goes in and out of each layer, or why this is no list of layers."""
    if any(len(calls) != 1 for calls in each):
        return "not every layer is called once"
    ends = []
    for (call,) in each:
        if call.taken is None or call.given is None:
            return "a layer takes or gives something else than a hidden state"
        shapes = {tuple(call.taken.shape), tuple(call.given.shape)}
        if len(shapes) != 1 or call.taken.ndim != 3 or call.taken.shape[:2] != (ROWS, WIDTH):
            return f"a layer takes {tuple(call.taken.shape)} and gives {tuple(call.given.shape)}, not [row, pos, width] twice"
        ends.append((call.taken, call.given))
    if any(calls[0].order > later[0].order for calls, later in pairwise(each)):
        return "its layers are not called in order"
    if any(not torch.equal(a[1], b[0]) for a, b in pairwise(ends)):
        return "a layer does not take what the one before it gave"
    return ends


def _adds_positions(calls: list[Call], entering: Tensor) -> bool:
    """Whether the stream entering the first layer is the embedding plus what is the same in every row."""
    if len(calls) != 1 or calls[0].given is None or calls[0].given.shape != entering.shape:
        return False
    rest = entering.double() - calls[0].given.double()
    return _gap(rest[0], rest[1]) <= _limit(entering)


def _sees_tokens_only(entering: Tensor) -> bool:
    """Whether a token enters the first layer alike at every position; the second row is the first, moved on by one position."""
    return _gap(entering[1], entering[0].roll(1, 0)) <= _limit(entering)


def _final(head: str, calls: dict[str, list[Call]], layers: str, leaving: Tensor) -> str:
    """The module that takes the stream from the last layer and gives the unembedding its input; '' where there is none."""
    if len(calls.get(head, [])) != 1 or calls[head][0].taken is None:
        return ""
    wanted = calls[head][0].taken
    assert wanted is not None
    for path, each in calls.items():
        if len(each) != 1 or path == head or f"{path}.".startswith(f"{layers}.") or f"{layers}.".startswith(f"{path}."):
            continue
        (call,) = each
        both = (call.taken, leaving), (call.given, wanted)
        if wanted.shape == leaving.shape and all(a is not None and torch.equal(a, b) for a, b in both):
            return path
    return ""


def _components(
    module: nn.Module, layers: str, calls: dict[str, list[Call]], ends: list[tuple[Tensor, Tensor]]
) -> tuple[str, str] | None:
    """Paths of two modules in each layer whose outputs are what it adds to the stream, the attention first; None where unclear."""
    places = [path for path, _ in module.get_submodule(f"{layers}.0").named_modules() if path]
    shape = ends[0][0].shape

    def given(layer: int, path: str) -> Tensor | None:
        each = calls.get(f"{layers}.{layer}.{path}", [])
        return each[0].given if len(each) == 1 and each[0].given is not None and each[0].given.shape == shape else None

    places = sorted((path for path in places if given(0, path) is not None), key=lambda path: path.count("."))
    attending = [path for path in places if "att" in path.split(".")[-1].lower()]
    for attention, mlp in product(attending, places):
        if mlp in attending or mlp.startswith(f"{attention}."):
            continue
        if all(_sums(given(layer, attention), given(layer, mlp), *ends[layer]) for layer in range(len(ends))):
            return attention, mlp
    return None


def _sums(attention: Tensor | None, mlp: Tensor | None, before: Tensor, after: Tensor) -> bool:
    if attention is None or mlp is None or not bool(attention.any()) or not bool(mlp.any()):
        return False
    return _gap(before.double() + attention.double() + mlp.double(), after) <= _limit(after)


def _norm(module: nn.Module, final: str) -> Any:
    return "rms" if final and "rms" in type(module.get_submodule(final)).__name__.lower() else "layer"


def spec_of(config: Any, module: nn.Module, family: Family, **facts: Any) -> ModelSpec:
    """What is known of an unproven model. Sizes that its configuration does not give are 0; `kinds` are the sites it has."""
    parameter = next(module.parameters())
    embed: Any = module.get_input_embeddings()  # type: ignore[operator]
    layers: Any = module.get_submodule(family.layers)
    heads = _first(config, "num_attention_heads", "n_head", "n_heads") or 0
    return ModelSpec(
        family=family.model_type,
        n_layers=len(layers),
        n_heads=heads,
        n_kv_heads=_first(config, "num_key_value_heads", "num_kv_heads") or heads,
        d_model=family.width,
        d_head=_first(config, "head_dim") or (family.width // heads if heads else 0),
        d_mlp=_first(config, "intermediate_size", "ffn_dim", "n_inner") or 0,
        vocab=embed.weight.shape[0],
        n_ctx=_first(config, "max_position_embeddings", "n_positions", "max_seq_len", "seq_length") or CONTEXT,
        norm=family.norm,
        positions="other",
        gated=False,
        parallel=False,
        post_norm=False,
        windows=(None,) * len(layers),
        logit_softcap=None,
        dtype=str(parameter.dtype).removeprefix("torch."),
        device=str(parameter.device),
        attention=str(getattr(config, "_attn_implementation", None) or "eager"),
        kinds=tuple(kind for kind in KINDS if kind in family.taps),
        **facts,
    )


CONTEXT = 2048
"""Tokens that a row may have where the configuration names no limit."""


def _first(config: Any, *names: str) -> int | None:
    found = (getattr(config, name, None) for name in names)
    return next((value for value in found if isinstance(value, int) and value > 0), None)


@torch.no_grad()
def prove(lm: "BaseLM") -> None:
    """Check that what is named is what it is said to be. Raises `UnsupportedArchitecture` with what failed."""
    kind = lm.spec.family
    found = lm.fidelity()
    if found.silent or not found.ok:
        silent = [f"perturbing {site} moves nothing" for site in found.silent]
        _refuse(kind, "; ".join([*found.problems, *silent]))
    ids, others = _rows(lm.module, "prove"), _rows(lm.module, "others")
    last = lm.spec.n_layers - 1
    sites = [info.site for info in lm.sites() if info.site.layer in (None, 0, last // 2, last)]
    run = lm.run(Batch.of(ids), capture=sites)
    assert run.logits is not None
    if _gap(lm.unembed(run[Site("resid_post", last)]), run.logits) > _limit(run.logits):
        _refuse(kind, "what follows its layers reads more than the stream, so no stream can be read out")
    for site in sites:
        with _bare(lm, site) as seen:
            logits = lm.module(input_ids=ids.to(lm.module.device), use_cache=False).logits
        if not (len(seen) == 1 and torch.equal(seen[0], run[site])):
            _refuse(kind, f"{site} is not what a bare hook sees")
        if not torch.equal(logits, run.logits):
            _refuse(kind, "its logits differ from one pass to the next")
        again = lm.run(Batch.of(ids), edits=[replace(site, run)]).logits
        assert again is not None
        if not torch.equal(again, run.logits):
            _refuse(kind, f"replacing {site} by itself changes the logits by {_gap(again, run.logits):.1e}")
        if site.kind == "resid_post":
            carried = lm.run(Batch.of(others), edits=[replace(site, run)]).logits
            assert carried is not None
            if _gap(carried, run.logits) > _limit(run.logits):
                _refuse(kind, f"{site} does not carry everything: what follows reads something besides it")


@contextmanager
def _bare(lm: "BaseLM", site: Site) -> Iterator[list[Tensor]]:
    """What a forward hook of PyTorch itself sees at a site."""
    seen: list[Tensor] = []
    module, tap = lm.module.get_submodule(lm.family.path(site)), lm.family.taps[site.kind]

    def keep(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
        taken = args[0] if args else kwargs["hidden_states"]
        seen.append((taken if tap.side == "in" else out[0] if isinstance(out, tuple) else out).clone())

    handle = module.register_forward_hook(keep, with_kwargs=True)
    try:
        yield seen
    finally:
        handle.remove()


def _gap(a: Tensor, b: Tensor) -> float:
    return float((a.double() - b.double()).abs().max())


def _limit(x: Tensor) -> float:
    close = CLOSE if x.dtype in (torch.float32, torch.float64) else 5e-2
    return close * max(1.0, float(x.abs().max()))


def _refuse(kind: str, why: str) -> NoReturn:
    from .families import FAMILIES

    raise UnsupportedArchitecture(
        f"models of type {kind!r} are not supported: {why}. Those that are proven: {listing(FAMILIES)}; other decoders load where their "
        "layers are one list that hands a residual stream on."
    )
