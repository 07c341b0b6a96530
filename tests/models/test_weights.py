"""Every view is the tensor that the forward pass uses: what is recomputed from it equals what plain hooks see."""

import copy

import pytest
import torch
from torch import Tensor

from interp.core.errors import BadInput, UnsupportedArchitecture
from interp.models.families import family_of, spec_of
from interp.models.weights import Weights, edit_weights, fold_norms

from .tiny import EXPERTS, FAMILIES, tiny, tokens

LAYER = 1
LAYER_NORM = ("gpt2", "gpt_neo", "gpt_neox")
PRE_NORM = [name for name in FAMILIES if name != "olmo2"]


def views_of(module) -> Weights:
    return Weights(module, family_of(module.config), spec_of(module.config, module, "tiny"))


class Seen:
    """Inputs and outputs of one layer's modules in a plain forward pass, found by their transformers names only."""

    def __init__(self, module, model_type: str) -> None:
        self.type, config = model_type, module.config
        self.heads = config.num_attention_heads
        self.kv = getattr(config, "num_key_value_heads", None) or self.heads
        root = {"gpt2": "transformer.h", "gpt_neo": "transformer.h", "gpt_neox": "gpt_neox.layers"}.get(
            model_type, "model.layers"
        )
        self.layer = module.get_submodule(f"{root}.{LAYER}")
        self.io: dict[str, tuple[Tensor, Tensor]] = {}
        handles = [part.register_forward_hook(self.keep(name)) for name, part in self.layer.named_modules() if name]
        self.tokens = tokens()
        with torch.no_grad():
            self.logits = module(self.tokens).logits
        for handle in handles:
            handle.remove()

    def keep(self, name):
        def hook(_, args, output):
            if args and isinstance(args[0], Tensor):
                self.io[name] = (args[0], output[0] if isinstance(output, tuple) else output)

        return hook

    def qkv(self) -> tuple[Tensor, list[Tensor]]:
        """The input of the projections, and q, k, v [batch, pos, head, d_head], split as transformers splits them."""
        if self.type == "gpt2":
            x, fused = self.io["attn.c_attn"]
            return x, [part.view(*x.shape[:2], self.heads, -1) for part in fused.split(x.shape[-1], dim=2)]
        if self.type == "gpt_neox":
            x, fused = self.io["attention.query_key_value"]
            return x, list(fused.view(*x.shape[:2], self.heads, -1).chunk(3, dim=-1))
        if self.type == "phi3":
            x, fused = self.io["self_attn.qkv_proj"]
            sizes = [n * self.layer.self_attn.head_dim for n in (self.heads, self.kv, self.kv)]
            parts = zip(fused.split(sizes, dim=2), (self.heads, self.kv, self.kv), strict=True)
            return x, [part.reshape(*x.shape[:2], n, -1) for part, n in parts]
        name = "attn.attention" if self.type == "gpt_neo" else "self_attn"
        x = self.io[f"{name}.q_proj"][0]
        outs = [self.io[f"{name}.{part}_proj"][1] for part in "qkv"]
        return x, [out.view(*x.shape[:2], n, -1) for out, n in zip(outs, (self.heads, self.kv, self.kv), strict=True)]

    def o(self) -> tuple[Tensor, Tensor]:
        path = {"gpt2": "attn.c_proj", "gpt_neo": "attn.attention.out_proj", "gpt_neox": "attention.dense"}
        return self.io[path.get(self.type, "self_attn.o_proj")]

    def mlp(self) -> tuple[Tensor, Tensor]:
        return self.io["mlp"]

    @property
    def act(self):
        mlp = self.layer.mlp
        return getattr(mlp, "act", None) or getattr(mlp, "act_fn", None) or mlp.activation_fn


def close(a: Tensor, b: Tensor, tolerance: float = 1e-5) -> bool:
    assert a.shape == b.shape, (a.shape, b.shape)
    return float((a - b).abs().max()) <= tolerance * max(1.0, float(b.abs().max()))


def plus(x: Tensor, bias: Tensor | None) -> Tensor:
    return x if bias is None else x + bias


@pytest.mark.parametrize("model_type", FAMILIES)
def test_every_view_recomputes_what_the_model_computes(model_type):
    module = tiny(model_type)
    w, seen = views_of(module), Seen(module, model_type)
    x, parts = seen.qkv()
    for name, part in zip("QKV", parts, strict=True):
        made = torch.einsum("bpd,hdk->bphk", x, getattr(w, f"W_{name}")(LAYER))
        assert close(plus(made, getattr(w, f"b_{name}")(LAYER)), part), name
    z, attn_out = seen.o()
    z = z.view(*z.shape[:2], seen.heads, -1)
    assert close(plus(torch.einsum("bphk,hkd->bpd", z, w.W_O(LAYER)), w.b_O(LAYER)), attn_out)
    if model_type in EXPERTS:
        for view in ("W_in", "W_gate", "W_out", "b_in", "b_out"):
            with pytest.raises(BadInput, match=rf"{view}: .*6 experts.*mlp.experts.gate_up_proj"):
                getattr(w, view)(LAYER)
        return
    x, mlp_out = seen.mlp()
    inner = plus(x @ w.W_in(LAYER), w.b_in(LAYER))
    gate = w.W_gate(LAYER)
    inner = seen.act(inner) if gate is None else seen.act(plus(x @ gate, w.b_gate(LAYER))) * inner
    assert close(plus(inner @ w.W_out(LAYER), w.b_out(LAYER)), mlp_out)


@pytest.mark.parametrize("model_type", FAMILIES)
def test_embedding_and_unembedding_are_what_the_model_uses(model_type):
    module = tiny(model_type)
    w, kept = views_of(module), {}
    root = module.base_model
    hooks = [
        root.get_input_embeddings().register_forward_hook(lambda m, a, out: kept.update(embed=out)),
        module.lm_head.register_forward_hook(lambda m, a, out: kept.update(final=a[0], logits=out)),
    ]
    if model_type in ("gpt2", "gpt_neo"):
        hooks.append(root.wpe.register_forward_hook(lambda m, a, out: kept.update(pos=out)))
    with torch.no_grad():
        module(tokens())
    assert torch.equal(w.W_E[tokens()], kept["embed"])
    assert close(plus(kept["final"] @ w.W_U, w.b_U), kept["logits"])
    if "pos" in kept:
        assert torch.equal(w.W_pos[: tokens().shape[1]].expand_as(kept["pos"]), kept["pos"])
    else:
        assert w.W_pos is None
    for hook in hooks:
        hook.remove()


@pytest.mark.parametrize("model_type", ["llama", "gpt2"])
def test_stacked_and_expanded_views(model_type):
    module = tiny(model_type)
    w = views_of(module)
    heads, kv = 4, 4 if model_type == "gpt2" else 2
    assert w.W_Q().shape == (4, heads, 32, 8) and w.W_K().shape == (4, kv, 32, 8) and w.W_O().shape == (4, heads, 8, 32)
    assert torch.equal(w.W_V()[2], w.W_V(2)) and torch.equal(w.W_V(-2), w.W_V(2))
    wide = w.W_K(2, expand=True)
    assert wide.shape == (heads, 32, 8)
    assert all(torch.equal(wide[head], w.W_K(2)[head // (heads // kv)]) for head in range(heads))
    assert w.W_gate() is None if model_type == "gpt2" else w.W_gate().shape == (4, 32, 48)
    assert (w.b_K(expand=True) is None) == (model_type == "llama")


def test_expanded_heads_are_those_that_attention_uses():
    """Doubling one key/value head's values doubles exactly the outputs of the query heads that the expanded view gives it."""
    module = tiny("llama")
    w = views_of(module)
    before, _ = Seen(module, "llama").o()
    with edit_weights(module, {f"W_V.{LAYER}.1": 2 * w.W_V(LAYER)[1]}):
        after, _ = Seen(module, "llama").o()
        expanded = w.W_V(LAYER, expand=True)
    ratio = after.view(2, -1, 4, 8) / before.view(2, -1, 4, 8)
    doubled = [bool(close(ratio[:, :, head], torch.full_like(ratio[:, :, head], 2.0), 1e-3)) for head in range(4)]
    assert (
        doubled
        == [not torch.equal(expanded[head], w.W_V(LAYER, expand=True)[head]) for head in range(4)]
        == [False, False, True, True]
    )


@pytest.mark.parametrize("model_type", PRE_NORM)
def test_folded_views_read_the_bare_stream(model_type):
    module = tiny(model_type)
    w, seen = views_of(module), Seen(module, model_type)
    config, layer_norm = module.config, model_type in LAYER_NORM
    eps = (
        getattr(config, "layer_norm_epsilon", None)
        or getattr(config, "layer_norm_eps", None)
        or getattr(config, "rms_norm_eps", 0.0)
    )
    first, second = {"gpt2": ("ln_1", "ln_2"), "gpt_neo": ("ln_1", "ln_2")}.get(
        model_type,
        ("input_layernorm", "pre_feedforward_layernorm" if "gemma" in model_type else "post_attention_layernorm"),
    )

    def bare(name):
        x = seen.io[name][0].double()
        centred = x - x.mean(-1, keepdim=True) if layer_norm else x
        return (x / (centred.square().mean(-1, keepdim=True) + eps).sqrt()).float()  # not centred: the matrix does that

    x = bare(first)
    for name, part in zip("QKV", seen.qkv()[1], strict=True):
        made = torch.einsum("bpd,hdk->bphk", x, getattr(w, f"W_{name}")(LAYER, folded=True))
        assert close(plus(made, getattr(w, f"b_{name}")(LAYER, folded=True)), part, 2e-5), name
    if model_type in EXPERTS:
        return
    inner = plus(bare(second) @ w.W_in(LAYER, folded=True), w.b_in(LAYER, folded=True))
    path = {"gpt2": "c_fc", "gpt_neo": "c_fc", "gpt_neox": "dense_h_to_4h", "phi3": "gate_up_proj"}.get(
        model_type, "up_proj"
    )
    assert close(inner, seen.io[f"mlp.{path}"][1][..., -inner.shape[-1] :], 2e-5)


@pytest.mark.parametrize("model_type", PRE_NORM)
def test_folding_in_place_leaves_log_probs_alone(model_type):
    module = tiny(model_type).double()  # in float32 GPT-Neo's own rounding (2e-5) would hide an error of 1e-5
    folded = copy.deepcopy(module)
    w = views_of(module)
    with torch.no_grad():
        before = module(tokens()).logits.log_softmax(-1)
        assert fold_norms(folded, family_of(folded.config)) is folded
        exact = model_type in LAYER_NORM  # RMS norms compute in float32 even here
        assert (folded(tokens()).logits.log_softmax(-1) - before).abs().max() < (1e-12 if exact else 1e-5)
        assert torch.equal(module(tokens()).logits.log_softmax(-1), before)  # the original shares nothing with the copy
    again = views_of(folded)
    for name in ("W_Q", "W_K", "W_V", "b_V", *(() if model_type in EXPERTS else ("W_in", "b_in"))):
        want, got = getattr(w, name)(folded=True), getattr(again, name)()
        assert (want is None and got is None) or torch.equal(want, got), name
    matrix, bias = w.unembedding(folded=True)
    assert torch.equal(matrix, again.W_U) and (bias is None or torch.equal(bias, again.b_U))
    assert torch.equal(w.W_E, again.W_E) and not views_of(folded).spec.tied
    gain, shift = again.norm("attn", LAYER)
    assert torch.equal(gain, torch.ones_like(gain)) and (shift is None or not shift.any())


def test_folding_is_refused_where_nothing_is_normalised_before():
    module = tiny("olmo2")
    w = views_of(module)
    for name in ("W_Q", "W_in", "W_gate"):
        with pytest.raises(BadInput, match="no norm before its"):
            getattr(w, name)(0, folded=True)
    with pytest.raises(UnsupportedArchitecture, match="folded=False"):
        fold_norms(module, family_of(module.config))
    kept: dict[str, Tensor] = {}
    final = module.model.norm.register_forward_hook(lambda m, a, out: kept.update(x=a[0]))
    with torch.no_grad():
        logits = module(tokens()).logits
    final.remove()
    x = kept["x"]
    scale = (x.square().mean(-1, keepdim=True) + module.config.rms_norm_eps).sqrt()
    assert close((x / scale) @ w.unembedding(folded=True)[0], logits, 2e-5)


@pytest.mark.parametrize("model_type", ["gemma2", "gemma3_text"])
def test_the_gain_of_gemma_is_one_plus_its_weight(model_type):
    module = tiny(model_type)
    gain, bias = views_of(module).norm("attn", LAYER)
    assert torch.equal(gain, 1 + module.model.layers[LAYER].input_layernorm.weight) and bias is None
    final, _ = views_of(module).norm("final")
    assert torch.equal(final, 1 + module.model.norm.weight)


def test_half_precision_folds_to_float32():
    w = views_of(tiny("llama", dtype=torch.bfloat16))
    assert w.W_Q(0).dtype == torch.bfloat16 and w.W_Q(0, folded=True).dtype == torch.float32


@pytest.mark.parametrize(
    ("ask", "match"),
    [
        (lambda w: w.W_Z, "W_"),
        (lambda w: w.W_Q(9), "layers 0 to 3"),
        (lambda w: w.norm("mlp_post", 0), "'attn' or 'mlp'"),
        (lambda w: w.norm("attn"), "final"),
    ],
)
def test_refusals(ask, match):
    with pytest.raises((BadInput, AttributeError), match=match):
        ask(views_of(tiny("gpt2")))
