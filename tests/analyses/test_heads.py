"""Head scores: the planted induction circuit to its exact values, nothing in the null, attention weights from plain transformers."""

import numpy as np
import pytest
import torch

from interp.analyses.heads import SCORES, HeadScores, copying_scores
from interp.core.artifact import open_result
from interp.core.errors import BadInput
from interp.data import repeated_tokens
from interp.models.load import wrap
from interp.models.reference import as_lm
from interp.models.reference import planted as wired
from tests.models.tiny import tiny

from .test_tracing import words


@pytest.fixture(scope="module")
def planted():
    return wired.induction()


@pytest.fixture(scope="module")
def lm(planted):
    return as_lm(planted)


@pytest.fixture(scope="module")
def scored(lm):
    return HeadScores(sequences=4, periods=(8, 12, 20))(lm)


@pytest.mark.parametrize("bos", [False, True])
def test_the_planted_heads_have_their_exact_scores(planted, lm, bos):
    probe = repeated_tokens(lm.tokenizer, n_sequences=4, periods=(20,), n_ctx=48, vocab=lm.spec.vocab, bos=bos)
    mean = HeadScores()(lm, probe).scores()["mean"]
    assert float(mean.sel(metric="previous", layer=0, head=0)) == pytest.approx(1.0, abs=1e-5)
    assert float(mean.sel(metric="induction", layer=1, head=0)) == pytest.approx(
        wired.prefix_score(20, bos=bos), abs=1e-5
    )
    for layer, head in planted.answers["inert"]:
        for metric in ("induction", "previous", "duplicate", "sink"):
            expected = wired.uniform_score(20, bos=bos)
            assert float(mean.sel(metric=metric, layer=layer, head=head)) == pytest.approx(expected, abs=1e-5)


def test_chance_is_what_uniform_heads_get(planted, scored):
    table = scored.scores()
    layer, head = planted.answers["inert"][-1]
    for metric in ("induction", "previous", "duplicate", "sink", "induction_awake"):
        got = float(table["mean"].sel(metric=metric, layer=layer, head=head))
        assert got == pytest.approx(float(table["chance"].sel(metric=metric)), abs=1e-5)
    entropy = float(table["mean"].sel(metric="entropy", layer=layer, head=head))
    assert entropy == pytest.approx(float(scored.data["entropy_max"].mean()), abs=1e-4)


def test_the_ability_stands_beside_the_scores(planted, scored):
    ratio = scored.copy_ratio()
    assert ratio["ratio"] < planted.answers["copy_ratio"] and ratio["period_gap"] < 0.05
    assert ratio["ci_lo"] <= ratio["ratio"] <= ratio["ci_hi"] + 1e-9
    assert scored.top("induction", 1)[["layer", "head"]].values.tolist() == [[1, 0]]
    assert scored.top("previous", 1)[["layer", "head"]].values.tolist() == [[0, 0]]
    assert {"induction: head 1.0", "previous: head 0.0", "copy ratio"} == set(scored.headline())


def test_only_the_copying_head_has_copying_eigenvalues(scored):
    copying = scored.data["copying"].values
    assert copying[1, 0] == pytest.approx(1.0, abs=1e-6)
    rest = copying.copy()
    rest[1, 0] = 0
    assert np.abs(rest).max() < 1e-6


def test_the_null_model_has_neither_head_nor_ability():
    found = HeadScores(sequences=4, periods=(12, 20))(as_lm(wired.induction(null=True)))
    assert float(found.scores()["mean"].sel(metric="induction").max()) < 0.2
    assert found.copy_ratio()["ratio"] > 0.7


def test_cutting_the_previous_token_head_takes_the_ability_away(lm, scored):
    """The score names heads 0.0 and 1.0; that they carry the copying is shown by taking one out."""
    from interp.core.edit import scale

    probe = HeadScores(sequences=4, periods=(20,)).data_for(lm)
    batch = next(iter(probe.by_period()))[1]
    whole = lm.run(batch).logits
    for head, hurts in ((0, True), (1, False)):
        cut = lm.run(batch, edits=[scale("blocks.0.attn.hook_z", 0.0, heads=[head])]).logits
        loss = torch.nn.functional.cross_entropy(cut[:, 20:-1].mT, batch.tokens[:, 21:])
        assert (float(loss) > 1.0) is hurts
        assert hurts or torch.allclose(cut, whole, atol=1e-4)


@pytest.mark.parametrize("family", ["gpt2", "gpt_neo", "llama", "gemma2", "gpt_oss"])
def test_scores_equal_those_of_plain_transformers(family):
    model = tiny(family, attention="eager")
    lm = wrap(model, words(), family)
    probe = repeated_tokens(lm.tokenizer, n_sequences=3, periods=(9,), n_ctx=64, vocab=lm.spec.vocab, bos=True)
    found = HeadScores()(lm, probe)
    batch = next(iter(probe.by_period()))[1]
    with torch.no_grad():
        out = model(batch.tokens, output_attentions=True, use_cache=False)
    for layer, pattern in enumerate(out.attentions):  # [row, head, query, key]
        each: dict[str, list[torch.Tensor]] = {name: [] for name in SCORES}
        for t in range(1 + 9, 1 + 17):
            row = pattern[:, :, t, : t + 1]
            each["induction"].append(row[..., t - 8])
            each["previous"].append(row[..., t - 1])
            each["duplicate"].append(row[..., t - 9])
            each["sink"].append(row[..., 0])
            each["induction_awake"].append(row[..., t - 8] / row[..., 1:].sum(-1))
            besides = (1 - row.sum(-1, keepdim=True)).clamp(min=0)  # the learned sink of GPT-OSS
            everything = torch.cat([row, besides], dim=-1) if family == "gpt_oss" else row
            each["entropy"].append(torch.distributions.Categorical(probs=everything).entropy())
        for name, values in each.items():
            got = found.data["score"].sel(metric=name, layer=layer).values
            assert np.abs(got - torch.stack(values).mean(0).numpy()).max() < 2e-5, (name, layer)
    nll = torch.nn.functional.cross_entropy(out.logits[:, :-1].mT, batch.tokens[:, 1:], reduction="none")
    assert np.allclose(found.data["first_loss"], nll[:, 1:9].mean(1), atol=1e-5)
    assert np.allclose(found.data["second_loss"], nll[:, 10:18].mean(1), atol=1e-5)


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_copying_eigenvalues_equal_those_of_the_whole_matrix(family):
    model = tiny(family)
    lm = wrap(model, words(), family)
    if family == "llama":
        gain, width, heads = model.model.norm.weight, 8, 4
        embed, head = model.model.embed_tokens.weight, (model.lm_head.weight * gain).T
        value = (model.model.layers[2].self_attn.v_proj.weight * model.model.layers[2].input_layernorm.weight).T
        out = model.model.layers[2].self_attn.o_proj.weight.T
        values = [
            value[:, (i // 2) * width : (i // 2 + 1) * width] for i in range(heads)
        ]  # two query heads a key/value head
    else:
        gain, width, heads = model.transformer.ln_f.weight, 8, 4
        table = (model.lm_head.weight * gain).T
        embed, head = model.transformer.wte.weight, table - table.mean(dim=0)
        block = model.transformer.h[2]
        value = block.ln_1.weight[:, None] * block.attn.c_attn.weight[:, 64:]
        value, out = value - value.mean(dim=0), block.attn.c_proj.weight
        values = [value[:, i * width : (i + 1) * width] for i in range(heads)]
    for i in range(heads):
        centred = (head - head.mean(dim=1, keepdim=True)).double()  # over the vocabulary
        whole = (
            embed.double() @ values[i].double() @ out[i * width : (i + 1) * width].double() @ centred
        )  # [vocab, vocab]
        eigen = torch.linalg.eigvals(whole.detach())
        expected = float(eigen.real.sum() / eigen.abs().sum())
        assert copying_scores(lm)[2, i] == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("family", ["gpt_neox", "llama"])
def test_what_changes_no_probability_changes_no_copying_score(family):
    """A shift of all logits by the same, and a norm's gain moved into the values that read it."""
    model = tiny(family)
    lm = wrap(model, words(), family)
    ids = torch.randint(2, 60, (2, 9), generator=torch.Generator().manual_seed(0))
    before, logp = copying_scores(lm), lm.run(ids).logits.log_softmax(-1)
    with torch.no_grad():
        head = model.lm_head
        head.weight += 0.5 * torch.randn(head.weight.shape[1], generator=torch.Generator().manual_seed(1))
        if family == "llama":
            for block in model.model.layers:
                gain = block.input_layernorm.weight
                for name in ("q_proj", "k_proj", "v_proj"):
                    getattr(block.self_attn, name).weight *= gain
                gain.fill_(1.0)
    lm = wrap(model, words(), family)
    assert torch.allclose(lm.run(ids).logits.log_softmax(-1), logp, atol=1e-4)
    assert np.abs(copying_scores(lm) - before).max() < 1e-4


def test_the_heads_that_score_on_atlas_are_those_without_which_it_does_not_copy():
    """Scores are checked by intervening: each named head is cut out, and so is the least of its layer."""
    import interp

    lm = interp.load("atlas")
    analysis = HeadScores(sequences=4, periods=(16, 32))
    found, batches = analysis(lm), list(analysis.data_for(lm).by_period())
    assert found.copy_ratio()["ratio"] < 0.01
    mean = found.scores()["mean"]

    def loss(layer: int | None = None, head: int = 0) -> float:
        cut = [interp.edit.scale(f"blocks.{layer}.attn.hook_z", 0.0, heads=[head])] if layer is not None else []
        each = []
        for period, batch in batches:
            logits = lm.run(batch, edits=cut).logits[:, period + 1 : -1]
            each.append(float(torch.nn.functional.cross_entropy(logits.mT, batch.tokens[:, period + 2 :])))
        return float(np.mean(each))

    whole = loss()
    assert whole < 0.02
    for metric, hurt in (("previous", 4.0), ("induction", 1.0)):
        layer, head, *_ = (int(x) for x in found.top(metric, 1)[["layer", "head"]].values[0])
        control = int(mean.sel(metric=metric, layer=layer).values.argmin())
        assert float(mean.sel(metric=metric, layer=layer, head=head)) > 0.5
        assert loss(layer, head) > whole + hurt, metric
        assert loss(layer, control) < whole + 0.1, metric


def test_memory_limits_change_nothing(monkeypatch, lm, scored):
    monkeypatch.setattr("interp.analyses.heads.PATTERN_BYTES", 1)
    again = HeadScores(sequences=4, periods=(8, 12, 20))(lm)
    assert np.allclose(again.data["score"], scored.data["score"], atol=1e-6)
    assert again.data["sequence"].values.tolist() == scored.data["sequence"].values.tolist()


def test_it_is_saved_said_and_seeded(lm, scored, tmp_path):
    assert open_result(scored.save(tmp_path / "heads")).data.identical(scored.data)
    assert len(scored._repr_html_()) < 30_000
    cost = HeadScores(sequences=4, periods=(8, 12, 20)).cost(lm)
    assert cost.tokens == 4 * 2 * (8 + 12 + 20)
    null = as_lm(wired.induction(null=True))
    same, other = (HeadScores(sequences=2, periods=(8,), seed=seed)(null).data["first_loss"].values for seed in (0, 1))
    assert np.array_equal(same, HeadScores(sequences=2, periods=(8,))(null).data["first_loss"].values)
    assert not np.array_equal(same, other)


def test_refusals(lm, scored):
    with pytest.raises(BadInput, match="sequences"):
        HeadScores(sequences=0)
    with pytest.raises(BadInput, match="repeated_tokens"):
        HeadScores()(lm, "text")
    with pytest.raises(BadInput, match="induction"):
        scored.top("inductoin")
    with pytest.raises(BadInput, match="fit"):
        HeadScores(periods=(40,))(lm)


@pytest.mark.parametrize("model_type", ["olmo2", "gemma2", "gpt_neox"])
def test_copying_takes_the_norms_of_a_family_as_they_are(model_type):
    """The direct path from embedding to logits, by the modules themselves: norms held at scale 1, attention on the token itself."""
    module = tiny(model_type)
    lm = wrap(module, words(), model_type)
    found = copying_scores(lm)
    weights, layer = lm.weights, 1
    gain_in = weights.norm("attn", layer)[0].double() if weights.pre_norm else torch.ones(lm.spec.d_model).double()
    gain_out = (
        weights.norm("attn_post", layer)[0].double() if lm.spec.post_norm else torch.ones(lm.spec.d_model).double()
    )
    values, outputs = weights.W_V(layer, expand=True).double(), weights.W_O(layer).double()
    embed, unembed = weights.W_E.double(), weights.W_U.double()
    if lm.spec.norm == "layer":
        embed = embed - embed.mean(dim=1, keepdim=True)
        outputs = outputs - outputs.mean(dim=-1, keepdim=True)
    for head in range(lm.spec.n_heads):
        path = (
            (embed * gain_in) @ values[head] @ (outputs[head] * gain_out * weights.norm("final")[0].double()) @ unembed
        )
        eigen = torch.linalg.eigvals(path - path.mean(dim=1, keepdim=True))
        assert found[layer, head] == pytest.approx(float(eigen.real.sum() / eigen.abs().sum()), abs=1e-6)


def test_a_learned_sink_takes_nothing_from_the_awake_score():
    module = tiny("gpt_oss", layer_types=["full_attention"] * 4)
    lm = wrap(module, words(), "sinks")
    probe = repeated_tokens(lm.tokenizer, n_sequences=3, periods=(9,), n_ctx=64, vocab=lm.spec.vocab, bos=True)
    name = "model.layers.0.self_attn.sinks"
    both = [HeadScores()(lm, probe).data]
    with lm.edit_weights({name: torch.full((4,), -1e4)}):
        both.append(HeadScores()(lm, probe).data)
    taken, whole = (data["score"].sel(layer=0) for data in both)
    assert float((whole.sel(metric="induction") - taken.sel(metric="induction")).max()) > 1e-3
    np.testing.assert_allclose(taken.sel(metric="induction_awake"), whole.sel(metric="induction_awake"), atol=1e-5)
    assert float(both[0]["score"].sel(metric="entropy").max()) <= float(both[0]["entropy_max"].max())
