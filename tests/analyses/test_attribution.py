"""Attribution patching: exact where it must be, found where it was planted, equal to plain autograd, honest where it fails."""

import numpy as np
import pytest
import torch

import interp
import tests.oracle as oracle
from interp.analyses.attribution import NODES, Attribution
from interp.analyses.attribution.backward import fractions, point
from interp.analyses.attribution.metric import Metric
from interp.analyses.attribution.reading import held_norms
from interp.analyses.pairs import pair_groups
from interp.core.edit import call
from interp.core.errors import BadInput, RaggedPair
from interp.core.site import Site
from interp.data import Prompt, PromptPair
from interp.models.load import load, wrap
from tests.models.tiny import tiny

from . import wired_attribution as wired
from .test_tracing import words


@pytest.fixture(scope="module")
def linear():
    return wired.linear(n_layers=2)


@pytest.fixture(scope="module")
def found(atlas):
    return Attribution(nodes="z", forms="noising")(atlas, wired.world_pairs(2))


# -- known answers -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("nodes", [kind for kind in NODES if kind not in ("q", "attn_out", "mlp_post")])
def test_it_is_exact_where_everything_is_linear(linear, nodes):
    """K5a: attention is frozen, MLPs are linear; every node, both forms, prompts of two lengths."""
    found = Attribution(nodes=nodes, verify=5000)(linear, wired.linear_pairs()[1:])
    assert np.isfinite(found.data["true"].values).sum() == np.isfinite(found.data["score"].values).sum() > 0
    assert float(abs(found.data["score"] - found.data["true"]).max()) < 1e-7
    moved = float(abs(found.data["true"]).max())
    assert moved == 0 if nodes in ("q", "k") else moved > 1  # scores are zero whatever the queries
    agree = found.agreement()
    assert np.isnan(agree["rho"]) if nodes in ("q", "k") else agree["rho"] > 0.999999  # nothing moves: nothing agrees


def test_direct_effects_sum_to_the_whole_without_norms(linear):
    """K5b: differences of what is written to the last stream, times the unembedding, are M(clean) - M(corrupted)."""
    pairs = wired.linear_pairs()
    found = Attribution(nodes="resid_post", verify=0)(linear, pairs)
    total = found.data["clean"] - found.data["corrupted"]
    last = found.data["score"].isel(layer=-1).sum("pos")
    assert float(abs(last - total).max()) < 1e-7


def test_saturated_attention_needs_the_fix():
    lm = wired.saturated()
    for nodes, case, place in (
        ("q", ("left right up", "left right down"), 2),
        ("k", ("left right fill", "weak right fill"), 0),
    ):
        one = Attribution(nodes=nodes, qk_fix=True)(lm, wired.pair(*case))
        at = {"form": "noising", "layer": 0, "head": 0, "pos": place}
        true, fixed, plain = (float(one.data[name].sel(at)[0]) for name in ("true", "score", "unfixed"))
        assert true == pytest.approx(3.0, abs=1e-3) and abs(plain) < 1e-2  # K5c, K5d
        assert fixed == pytest.approx(true, abs=1e-6)
        if nodes == "q":
            assert true == pytest.approx(3.0, abs=1e-6) and plain == pytest.approx(2.5e-7, rel=0.6)
    elsewhere = one.data["score"].where(one.data["pos"] != place, 0.0)
    assert float(abs(elsewhere).max()) == 0.0


def test_graddrop_finds_what_cancels_and_says_it_is_no_effect():
    one = Attribution(nodes="z", graddrop=True)(wired.cancelling(), wired.pair("zero", "three"))
    at = {"form": "noising", "layer": 0, "head": 0, "pos": 0}
    assert float(one.data["true"].sel(at)[0]) == pytest.approx(-2.005, abs=1e-3)  # K5e, as an effect: the loss of M
    assert float(one.data["score"].sel(at)[0]) == pytest.approx(0.0, abs=1e-6)
    assert float(one.data["dropped"].sel(at)[0]) == pytest.approx(1.5, abs=1e-6)
    assert (one.data["dropped"].values >= 0).all()


def test_graddrop_is_of_the_gradients_that_the_score_is_of():
    """With the fix a saturated query ranks by what it would do; with held norms, by slopes through held norms."""
    case = wired.pair("left right up", "left right down")
    one = Attribution(nodes="q", qk_fix=True, graddrop=True, verify=0)(wired.saturated(), case)
    assert one.data["dropped"].values[0, :, 0, 0, 2] == pytest.approx(
        3.0, abs=1e-3
    )  # the gradient of a query is 2.5e-7
    lm = wrap(tiny("gpt2", n_layer=2), words(), "gpt2")
    pair = PromptPair(Prompt.of("w5 w9 w23 w41 w7", answer="w17", foil="w30"), Prompt.of("w5 w9 w60 w41 w7"))
    group = pair_groups(lm, pair)[0]
    metric, site = Metric.of("logit_diff", group), Site("z", 0)
    for held in (True, False):
        found = Attribution(nodes="z", graddrop=True, freeze_norms=held, verify=0, forms="noising")(lm, pair)
        cut = [call(Site(kind, 1), lambda x: x.detach() + 0 * x) for kind in ("attn_out", "mlp_out")]
        grad = point(lm, group.clean, [site], metric, edits=[*cut, *(held_norms(lm) if held else [])]).grads[site]
        values = [lm.run(batch, capture=[site])[site].double() for batch in (group.clean, group.corrupted)]
        want = ((values[0] - values[1]) * grad.double()).sum(-1)[0].T.abs().numpy()  # L - 1 = 1
        assert np.abs(found.data["dropped"].values[0, 0, 0] - want).max() < 1e-4 * want.max()


def test_a_null_model_agrees_with_nothing():
    """The metric reads nothing: no effect, no correlation, no rank, and the bound is zero."""
    lm = wired.linear(n_layers=2)
    with torch.no_grad():
        lm.module.lm_head.weight.zero_()
    found = Attribution(nodes="z", bound=4, verify=4)(lm, wired.linear_pairs())
    assert float(abs(found.data["score"]).max()) == float(abs(found.data["true"]).max()) == 0.0
    agree = found.agreement()
    assert all(np.isnan(agree[name]) for name in ("rho", "r", "top", "slope")) and agree["pairs"] == 0
    assert float(found.bound().max()) == 0.0
    assert all(not value > 0 for name, value in found.headline().items() if "agree" in name or "rank" in name)


# -- against plain autograd --------------------------------------------------------------------------------------------


def by_hand(model, pair, kind, layer, ids, other, answer, foil):
    """(clean - corrupted) . gradient at the clean run, entry by entry, with plain hooks."""
    kept = []

    def leaf(x):
        kept.append(x.detach().clone().requires_grad_())
        return kept[-1]

    with torch.enable_grad(), oracle.at(model, kind, layer, leaf):
        logits = model(ids, use_cache=False).logits[0, -1]
        (logits[answer] - logits[foil]).backward()
    difference = kept[0].detach() - oracle.capture(model, kind, layer, other)
    return (difference * kept[0].grad)[0].double()


@pytest.mark.parametrize("name", ["atlas", "stories260K-llama", "tinytalk-chat"])
def test_scores_equal_plain_autograd(name, request):
    folder = name if name == "atlas" else request.getfixturevalue("real_models") / name
    lm = load(folder)
    if name == "atlas":
        pair = wired.world_pairs(1)[0]
    else:
        texts = [f"One day, Tom and Lily went to the park. {who} gave the ball to" for who in ("Tom", "Lily")]
        pair = PromptPair(Prompt.of(texts[0]), Prompt.of(texts[1]))
        if len({len(lm.encode(text).tokens[0]) for text in texts}) > 1:
            pair = PromptPair(Prompt.of("the cat and the dog"), Prompt.of("the dog and the dog"))
    group = pair_groups(lm, pair)[0]
    ids, other = group.clean.tokens, group.corrupted.tokens
    answer, foil = int(group.answer[0]), int(group.foil[0])
    for nodes in ("resid_post", "k", "neuron") if name == "stories260K-llama" else ("k",):
        found = Attribution(nodes=nodes, verify=0, forms="noising")(lm, pair)
        score = found.data["score"].sel(form="noising").values[0]
        for layer in (0, lm.spec.n_layers - 1):
            want = by_hand(lm.module, pair, "mlp_post" if nodes == "neuron" else nodes, layer, ids, other, answer, foil)
            want = (
                want.sum(dim=0)
                if nodes == "neuron"
                else want.sum(dim=-1).T
                if nodes in ("z", "k")
                else want.sum(dim=-1)
            )
            scale = max(1e-3, float(want.abs().max()))
            assert np.abs(score[layer] - want.numpy()).max() < 1e-3 * scale, (nodes, layer)


def test_true_effects_are_those_of_plain_hooks(atlas, found):
    group = pair_groups(atlas, wired.world_pairs(2))[0]
    ids, other = group.clean.tokens[:1], group.corrupted.tokens[:1]
    row, answer, foil = group.index[0], int(group.answer[0]), int(group.foil[0])
    clean = oracle.logits(atlas.module, ids)[0, -1]
    for layer, head, pos in ((0, 3, -1), (1, 2, -1), (2, 0, -2)):
        value = oracle.capture(atlas.module, "z", layer, other)
        place = range(ids.shape[1])[pos]

        def patch(x, value=value, head=head, place=place):
            x = x.clone()
            x[:, place, head] = value[:, place, head]
            return x

        logits = oracle.edited(atlas.module, [("z", layer, patch)], ids)[0, -1]
        want = float((clean[answer] - clean[foil]) - (logits[answer] - logits[foil]))
        got = float(found.data["true"].sel(form="noising", layer=layer, head=head, pos=place)[row])
        assert got == pytest.approx(want, abs=2e-4)


@pytest.mark.parametrize("family", ["gpt2", "gpt_neox", "qwen3"])
def test_held_norms_are_those_of_a_model_with_constant_scales(family):
    """Norms of the plain model replaced by their own output as a linear map of their input; nothing of ours in between."""
    model = tiny(family)
    lm = wrap(model, words(), family)
    pair = PromptPair(Prompt.of("w5 w9 w23 w41 w7", answer="w17", foil="w30"), Prompt.of("w5 w9 w60 w41 w7"))
    score, plain = (
        Attribution(nodes="mlp_out", verify=0, freeze_norms=held, forms="noising")(lm, pair).data["score"].values[0, 0]
        for held in (True, False)
    )
    group = pair_groups(lm, pair)[0]
    ids, other, answer, foil = group.clean.tokens, group.corrupted.tokens, int(group.answer[0]), int(group.foil[0])

    def held(module, args, out):
        x, y = args[0], out
        gain, shift = module.weight, getattr(module, "bias", None)
        centred = x - x.mean(-1, keepdim=True) if shift is not None else x
        size = centred.pow(2).mean(-1, keepdim=True) + getattr(module, "eps", getattr(module, "variance_epsilon", 0.0))
        linear = centred * size.rsqrt().detach() * gain
        return y.detach() + linear - linear.detach()

    norms = [
        module
        for name, module in model.named_modules()
        if "norm" in type(module).__name__.lower()
        and "_norm" not in name.rpartition(".")[2].replace("layer_norm", "").replace("layernorm", "")
    ]
    handles = [module.register_forward_hook(held) for module in norms]
    try:
        for layer in (0, 2):
            want = by_hand(model, pair, "mlp_out", layer, ids, other, answer, foil).sum(dim=-1).numpy()
            assert np.abs(score[layer] - want).max() < 1e-4 * max(1.0, np.abs(want).max())
            assert np.abs(plain[layer] - want).max() > 1e-3  # it does make a difference
    finally:
        for handle in handles:
            handle.remove()


# -- paths -------------------------------------------------------------------------------------------------------------


def test_integrated_gradients_are_complete_and_the_rules_converge_as_they_must():
    lm = wrap(tiny("gpt2", n_layer=2).double(), words(), "gpt2")
    pair = PromptPair(Prompt.of("w5 w9 w23 w41 w7", answer="w17", foil="w30"), Prompt.of("w5 w9 w60 w41 w7"))
    off = {}
    for rule in ("midpoint", "left"):
        for steps in (4, 16):
            one = Attribution(nodes="z", method="ig", rule=rule, steps=steps, verify=0)(lm, pair)
            off[rule, steps] = abs(float(one.completeness()["gap"].max()))
    assert 3.5 < off["left", 4] / off["left", 16] < 5 and 12 < off["midpoint", 4] / off["midpoint", 16] < 20
    each = Attribution(nodes="attn_out", method="ig", path="activations", steps=8, verify=0, forms="noising")(lm, pair)
    gap = each.completeness()["gap"]
    assert gap.sizes["stage"] == 2 and float(abs(gap).max()) < 1e-3 and float(abs(each.data["moved"]).min()) > 1e-3
    with pytest.raises(BadInput, match="method='ig'"):
        Attribution(nodes="z", verify=0)(lm, pair).completeness()
    assert (
        fractions("left", 2) == [0, 0.5]
        and fractions("right", 2) == [0.5, 1]
        and fractions("midpoint", 2) == [0.25, 0.75]
    )


# -- the result --------------------------------------------------------------------------------------------------------


def test_agreement_with_patching_on_a_trained_model(found):
    agree = found.agreement()
    assert agree["rho"] > 0.6 and agree["r"] > 0.8 and agree["top"] > 0.6 > 3 * agree["top_chance"]
    assert agree["rho_lo"] <= agree["rho"] <= agree["rho_hi"] and agree["pairs"] == 2
    assert set(found.top(3).columns) >= {"layer", "head", "pos", "magnitude", "true"}
    shuffled = found.data["true"].values.copy()
    rng = np.random.default_rng(0)
    flat = shuffled.reshape(len(shuffled), -1)
    for row in flat:
        known = np.isfinite(row) & (row != 0)
        row[known] = rng.permutation(row[known])
    found = type(found)(found.data.assign(true=(found.data["true"].dims, shuffled)))
    assert abs(found.agreement()["rho"]) < 0.3  # a map that has nothing to do with it


def test_nothing_happens_before_the_first_changed_token(found):
    same = (found.data["token"] == found.data["token_corrupted"]) & (found.data["token"] != "")
    before = same.cumprod("pos").astype(bool)
    assert bool(before.any())
    for name in ("score", "true"):
        assert float(abs(found.data[name]).where(before, 0.0).max()) == 0.0


def test_pairs_of_any_length_in_any_order_are_each_what_they_are_alone(atlas):
    pairs = wired.world_pairs(3)
    how = Attribution(nodes="z", verify=0, forms="noising")
    together = how(atlas, pairs[::-1])
    for place, pair in enumerate(pairs[::-1]):
        alone = how(atlas, pair).data
        width = alone.sizes["pos"]
        part = together.data["score"][place].isel(pos=slice(width)).values
        assert np.abs(part - alone["score"].values[0]).max() < 2e-4
        assert np.isnan(together.data["score"][place].isel(pos=slice(width, None)).values).all()
        assert str(together.data["pair"][place].values) == pair.id


def test_the_bound_holds_and_is_sharp_for_one_node(linear):
    pairs = wired.linear_pairs()[:2]
    full = Attribution(nodes="neuron", verify=5000, forms="noising")(linear, pairs)
    some = Attribution(nodes="neuron", verify=3, bound=40, forms="noising")(linear, pairs)
    left = full.data["true"].where(some.data["chosen"] == 0).sel(form="noising")
    worst = abs(left).max(("layer", "neuron"))
    size = np.sqrt((left**2).sum(("layer", "neuron")))
    bound = some.bound()
    assert (bound.values >= worst.values).all() and (bound.values < 2 * size.values).all()
    assert (some.data["chosen"].values == 2).sum() == (some.data["chosen"].values == 1).sum() == 2 * 3


def test_a_result_survives_the_disk(found, tmp_path):
    found.save(tmp_path / "a")
    again = interp.open(tmp_path / "a")
    assert again.agreement() == found.agreement() and again.headline() == found.headline()


def test_metrics_other_than_the_difference(atlas):
    pair = wired.world_pairs(1)[0]
    for metric in ("logprob",):
        one = Attribution(nodes="mlp_out", metric=metric, forms="noising")(atlas, pair)
        assert one.agreement()["cells"] > 10
        clean = float(one.data["clean"][0])
        assert clean <= 0 if metric == "logprob" else 0 <= clean <= 1


def test_what_cannot_be_meant_is_refused(atlas, linear):
    for options, match in (
        ({"nodes": "heads"}, "Did you mean|one of"), ({"qk_fix": True}, "softmax"), ({"nodes": "resid_post", "graddrop": True}, "stream"),
        ({"method": "ig", "graddrop": True}, "along a path"), ({"forms": ("noising", "noising")}, "once"), ({"bound": 1}, "spread"),
        ({"steps": 0}, "at least 1"), ({"metric": "rank"}, "logit_diff"), ({"rule": "trapezoid"}, "midpoint"),
    ):  # fmt: skip
        with pytest.raises(BadInput, match=match):
            Attribution(**options)
    with pytest.raises(BadInput, match="pairs"):
        Attribution()(atlas, interp.reference.facts("atlas", 2))
    with pytest.raises(RaggedPair):
        Attribution()(atlas, PromptPair(Prompt.of("Then Ines sat"), Prompt.of("Then Ines sat down there")))
    experts = wrap(tiny("qwen3_moe"), words(), "moe")
    pair = PromptPair(Prompt.of("w5 w9 w23"), Prompt.of("w5 w60 w23"))
    with pytest.raises(BadInput, match="experts"):
        Attribution(nodes="neuron")(experts, pair)
    with pytest.raises(BadInput, match="experts"):
        Attribution(freeze_norms=True)(experts, pair)
    with pytest.raises(BadInput, match="gemma2"):
        Attribution(freeze_norms=True)(wrap(tiny("gemma2"), words(), "gemma2"), pair)
    for options in ({}, {"bound": 2}):
        with pytest.raises(BadInput, match="verify=64"):
            Attribution(verify=0, forms="noising", **options)(linear, wired.linear_pairs()[2]).agreement()


@pytest.mark.parametrize("family", ["gemma2", "qwen3_moe"])
def test_the_fix_runs_and_agrees_in_odd_families(family):
    """Post-norms, experts, soft caps, windows, grouped heads, a pattern that is no registry's."""
    lm = wrap(tiny(family), words(), family)
    pair = PromptPair(Prompt.of("w5 w9 w23 w41 w7", answer="w17", foil="w30"), Prompt.of("w5 w9 w60 w41 w7"))
    for nodes in ("q", "k"):
        one = Attribution(nodes=nodes, qk_fix=True, forms="noising")(lm, pair)
        assert one.agreement()["rho"] > 0.5, (family, nodes)


def test_cost_is_said(atlas):
    cost = Attribution(nodes="z").cost(atlas, wired.world_pairs(2))
    assert cost.forwards > 10 and cost.tokens > 0 and "cells" in cost.note


def test_an_unproven_family_is_attributed_where_its_names_reach():
    """Granite is in no table: its stream has names, its heads have none."""
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.for_model(
        "granite", vocab_size=160, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=64, pad_token_id=0, bos_token_id=0, eos_token_id=0,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(config).eval()
    with pytest.warns(UserWarning, match="unproven"):
        lm = wrap(model, words(), "granite")
    pair = PromptPair(Prompt.of("w5 w9 w23 w41", answer="w17", foil="w30"), Prompt.of("w5 w60 w23 w41"))
    found = Attribution(nodes="resid_post", method="ig", steps=12, path="activations", forms="noising")(lm, pair)
    assert float(abs(found.completeness()["gap"]).max()) < 0.05 * float(abs(found.data["moved"]).max())
    with pytest.raises(BadInput, match="resid_post"):
        Attribution(nodes="z")(lm, pair)
    with pytest.raises(BadInput, match="not in the table"):
        interp.EdgeAttribution()(lm, pair)
