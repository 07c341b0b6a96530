"""Every view is the tensor that the forward pass uses: what is recomputed from it equals what plain hooks see. Edits leave no trace."""

import copy

import pytest
import torch
from torch import Tensor

from interp.core.errors import BadInput, InterpError, UnsupportedArchitecture
from interp.models.families import family_of, spec_of
from interp.models.weights import Weights, edit_weights, fold_norms

from .tiny import FAMILIES, tiny, tokens

LAYER = 1
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
        return getattr(self.layer.mlp, "act", None) or self.layer.mlp.act_fn


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
    config, layer_norm = module.config, model_type.startswith("gpt")
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
    inner = plus(bare(second) @ w.W_in(LAYER, folded=True), w.b_in(LAYER, folded=True))
    path = {"gpt2": "c_fc", "gpt_neo": "c_fc", "gpt_neox": "dense_h_to_4h"}.get(model_type, "up_proj")
    assert close(inner, seen.io[f"mlp.{path}"][1], 2e-5)


@pytest.mark.parametrize("model_type", PRE_NORM)
def test_folding_in_place_leaves_log_probs_alone(model_type):
    module = tiny(model_type).double()  # in float32 GPT-Neo's own rounding (2e-5) would hide an error of 1e-5
    folded = copy.deepcopy(module)
    w = views_of(module)
    with torch.no_grad():
        before = module(tokens()).logits.log_softmax(-1)
        assert fold_norms(folded, family_of(folded.config)) is folded
        exact = model_type.startswith("gpt")  # RMS norms compute in float32 even here
        assert (folded(tokens()).logits.log_softmax(-1) - before).abs().max() < (1e-12 if exact else 1e-5)
        assert torch.equal(module(tokens()).logits.log_softmax(-1), before)  # the original shares nothing with the copy
    again = views_of(folded)
    for name in ("W_Q", "W_K", "W_V", "W_in", "b_V", "b_in"):
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


# -- edits -------------------------------------------------------------------------------------------------------------


def snapshot(module) -> dict[str, Tensor]:
    return {name: parameter.detach().clone() for name, parameter in module.named_parameters()}


def unchanged(module, before: dict[str, Tensor]) -> bool:
    now = dict(module.named_parameters())
    return now.keys() == before.keys() and all(torch.equal(now[name], old) for name, old in before.items())


@pytest.mark.parametrize("model_type", FAMILIES)
def test_every_view_can_be_edited_and_comes_back(model_type):
    module = tiny(model_type)
    w, before = views_of(module), snapshot(module)
    with torch.no_grad():
        clean = module(tokens()).logits
    for name in ("W_Q", "W_K", "W_V", "W_O", "W_in", "W_gate", "W_out", "b_Q", "b_V", "b_O", "b_in", "b_out"):
        view = w.raw(name, 2)
        if view is None:
            with pytest.raises(BadInput, match="no"), edit_weights(module, {f"{name}.2": torch.zeros(1)}):
                pass
            continue
        new = torch.randn(view.shape, generator=torch.Generator().manual_seed(1))
        others = {key: w.raw(key, 2).clone() for key in ("W_Q", "W_K", "W_V", "W_O", "W_in", "W_out") if key != name}
        with edit_weights(module, {f"{name}.2": new}), torch.no_grad():
            assert torch.equal(w.raw(name, 2), new), name
            assert all(torch.equal(w.raw(key, 2), old) for key, old in others.items()), name
            if name != "b_K":
                assert not torch.equal(module(tokens()).logits, clean), name
        assert unchanged(module, before), name
    with torch.no_grad():
        assert torch.equal(module(tokens()).logits, clean)


def test_parts_of_views():
    module = tiny("gpt2", tie_word_embeddings=False)
    w, before = views_of(module), snapshot(module)
    changes = {
        "W_O.1.3": torch.ones(8, 32), ("W_out", 2, 17): torch.ones(32), "W_in.0.5": torch.ones(32), "b_Q.1.2": torch.ones(8),
        "W_E.50": torch.ones(32), "W_U.7": torch.ones(32), "W_pos.3": torch.ones(32), "b_in.0.5": torch.tensor(2.0),
    }  # fmt: skip
    with edit_weights(module, changes):
        assert (
            bool((w.W_O(1)[3] == 1).all()) and bool((w.W_out(2)[17] == 1).all()) and bool((w.W_in(0)[:, 5] == 1).all())
        )
        assert bool((w.b_Q(1)[2] == 1).all()) and bool((w.W_E[50] == 1).all()) and bool((w.W_U[:, 7] == 1).all())
        assert bool((w.W_pos[3] == 1).all()) and float(w.b_in(0)[5]) == 2
        changed = sum(int((now != before[name]).sum()) for name, now in module.named_parameters())
        assert changed == 8 * 32 + 5 * 32 + 8 + 1
    assert unchanged(module, before)


def test_an_exception_restores_and_passes_through():
    module = tiny("llama")
    before = snapshot(module)
    with pytest.raises(ZeroDivisionError), edit_weights(module, {"W_out.1": torch.zeros(48, 32)}):
        raise ZeroDivisionError
    assert unchanged(module, before)


def test_edits_nest():
    module = tiny("gpt2")
    before = snapshot(module)
    name = "transformer.h.1.mlp.c_proj.weight"
    with edit_weights(module, {name: torch.zeros(128, 32)}):
        with edit_weights(module, {"W_out.1.4": torch.ones(32)}):
            assert float(module.get_parameter(name).detach().sum()) == 32
        assert not module.get_parameter(name).any()
    assert unchanged(module, before)


def test_values_that_are_views_of_the_model_are_taken_before_anything_changes():
    module = tiny("gpt_neox")
    w, before = views_of(module), snapshot(module)
    old_q, old_k = w.W_Q(1).clone(), w.W_K(1).clone()
    with edit_weights(module, {"W_Q.1": w.W_K(1), "W_K.1": w.W_Q(1)}):
        assert torch.equal(w.W_Q(1), old_k) and torch.equal(w.W_K(1), old_q)
    assert unchanged(module, before)


@pytest.mark.parametrize("model_type", ["gpt2", "qwen3"])
def test_tied_embeddings_are_edited_by_their_own_name_only(model_type):
    module = tiny(model_type)
    owner = "transformer.wte.weight" if model_type == "gpt2" else "model.embed_tokens.weight"
    before = snapshot(module)
    for key in ("W_E", "W_U", "W_E.3", "lm_head.weight"):
        with pytest.raises(BadInput, match=owner), edit_weights(module, {key: torch.zeros(1)}):
            pass
    with edit_weights(module, {owner: torch.ones(160, 32)}):
        assert bool((views_of(module).W_U == 1).all()) and module.lm_head.weight is module.get_parameter(owner)
    assert unchanged(module, before) and module.lm_head.weight is module.get_parameter(owner)


def test_the_embedding_of_gemma_is_edited_as_it_enters_the_stream():
    module = tiny("gemma2", tie_word_embeddings=False)
    w, before = views_of(module), snapshot(module)
    with edit_weights(module, {"W_E.5": torch.full((32,), 3.0)}):
        assert torch.allclose(w.W_E[5], torch.tensor(3.0)) and not torch.allclose(
            module.model.embed_tokens.weight[5], torch.tensor(3.0)
        )
    assert unchanged(module, before)


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"W_out.9": torch.zeros(128, 32)}, "layers 0 to 3"),
        ({"W_otu.1": torch.zeros(128, 32)}, "Did you mean"),
        ({"W_out": torch.zeros(128, 32)}, "W_out.LAYER"),
        ({"W_out.x": torch.zeros(128, 32)}, "cannot be read"),
        ({"b_O.1.2": torch.zeros(1)}, "cannot be read"),
        ({"W_O.1.4": torch.zeros(8, 32)}, "heads 0 to 3"),
        ({"W_out.1": torch.zeros(32, 128)}, r"\(128, 32\)"),
        ({"transformer.h.1.mlp.c_proj.weight": torch.zeros(3)}, r"\(128, 32\)"),
        ({"W_gate.1": torch.zeros(3)}, "no W_gate"),
        ({"W_out.1": torch.zeros(128, 32), "W_out.1.3": torch.ones(32)}, "overlaps"),
    ],
)
def test_edits_that_cannot_be_meant(changes, match):
    module = tiny("gpt2")
    before = snapshot(module)
    with pytest.raises(BadInput, match=match), edit_weights(module, changes):
        raise AssertionError("must not get here")
    assert unchanged(module, before)


def test_nan_and_negative_zero_come_back_too():
    module = tiny("gpt2")
    weight = module.transformer.h[0].mlp.c_proj.weight
    with torch.no_grad():
        weight[0, 0], weight[0, 1] = float("nan"), -0.0
    raw = weight.detach().clone().view(torch.uint8)
    with edit_weights(module, {"W_out.0": torch.zeros(128, 32)}):
        pass
    assert torch.equal(weight.detach().view(torch.uint8), raw)


def test_someone_else_replacing_the_parameter_is_told():
    module = tiny("gpt2")
    with pytest.raises(InterpError, match="not what it was"), edit_weights(module, {"W_out.0": torch.zeros(128, 32)}):
        module.transformer.h[0].mlp.c_proj.weight = torch.nn.Parameter(torch.ones(128, 32))


def test_many_edits_leave_the_model_bit_identical():
    """The aliasing bug of a published benchmark: each 'restored' copy kept all earlier noises."""
    module = tiny("gpt2")
    before = snapshot(module)
    for neuron in range(20):
        noise = torch.randn(32, generator=torch.Generator().manual_seed(neuron))
        with edit_weights(module, {("W_out", 1, neuron): views_of(module).W_out(1)[neuron] + noise}):
            assert not unchanged(module, before)
    assert unchanged(module, before)
