"""Evaluation of dictionaries: exact where the answer is known, equal to plain hooks where it is not."""

from dataclasses import replace

import numpy as np
import pytest
import torch

import interp
import tests.oracle as oracle
from interp.analyses.dictionaries.evaluation import CrosscoderEvaluation, DictionaryEvaluation
from interp.analyses.dictionaries.evaluation.result import DictionaryEvaluationResult
from interp.cache.gather import view_of
from interp.core.artifact import open_result
from interp.core.dictionary import Scaling, View
from interp.core.dictionary.seen import sketch
from interp.core.errors import BadInput, WrongModel
from interp.models.load import wrap
from tests.analyses.test_lens import corpus_of
from tests.analyses.test_tracing import words
from tests.models.tiny import tiny, tokens

from .coders import drawn, identity, signed

LENGTHS = (9, 14, 9, 21)


@pytest.fixture(scope="module")
def rows():
    return [tokens(1, length, seed=place)[0] for place, length in enumerate(LENGTHS)]


@pytest.fixture(scope="module")
def text(atlas):
    return interp.data.corpus(interp.reference.text("atlas", 6), atlas.tokenizer, n_ctx=atlas.spec.n_ctx)


def test_an_identity_recovers_exactly_everything_and_zeros_exactly_nothing(atlas, text):
    text = text.select(slice(0, 2))
    for site in (
        "blocks.1.hook_resid_post",
        "blocks.2.hook_mlp_out",
        "blocks.1.attn.hook_z",
        "blocks.3.hook_resid_post",
    ):
        view = view_of(atlas, site)
        found = DictionaryEvaluation(dictionary=identity(view), batch_tokens=300)(atlas, text)
        nothing = identity(view)
        nothing.decoders[0].zero_()
        none = DictionaryEvaluation(dictionary=nothing, batch_tokens=300)(atlas, text)
        assert float(found.fvu()["mean"][0]) == 0.0 and float(found.data["slope"][0]) == pytest.approx(1.0, abs=1e-12)
        for metric in ("ce", "kl"):
            for baseline in ("zero", "mean"):
                assert found.recovered(metric, baseline)["mean"].values.tolist() == [1.0], (site, metric, baseline)
            assert none.recovered(metric)["mean"].values.tolist() == [0.0], (site, metric)
        assert np.array_equal(none.data["ce"].sel(condition="dictionary"), none.data["ce"].sel(condition="zero"))
        assert found.l0()["l0"] == view.width  # one sign of each component


def test_unexplained_variance_of_principal_components_is_what_they_leave(atlas, text):
    view = view_of(atlas, "blocks.2.hook_resid_post")
    site = interp.Site.parse(view.site)
    x = torch.cat([atlas.read([one], [site])[site][1:] for one in text.documents]).double()
    values, axes = torch.linalg.eigh((x - x.mean(0)).T @ (x - x.mean(0)))
    for rank in (1, 60):
        coder = signed((view,), axes[:, -rank:].T.float(), mean=x.mean(0).float())
        found = DictionaryEvaluation(dictionary=coder)(atlas, text)
        explained = float(values[-rank:].sum() / values.sum())
        assert float(found.fvu()["mean"][0]) == pytest.approx(1 - explained, abs=1e-6)
        assert float(found.data["slope"][0]) == pytest.approx(1.0, abs=1e-5)  # a projection does not shrink
    half = signed((view,), axes[:, -20:].T.float(), mean=x.mean(0).float())
    half.decoders[0].mul_(0.5)  # every reconstruction half as far from the mean: x regresses on it with slope 2
    assert float(DictionaryEvaluation(dictionary=half)(atlas, text).data["slope"][0]) == pytest.approx(2.0, abs=1e-4)


@pytest.mark.parametrize(("family", "site"), [("gpt2", "resid_post"), ("gemma2", "mlp_out"), ("llama", "z")])
def test_every_number_is_that_of_plain_hooks(rows, family, site):
    model = tiny(family)
    lm = wrap(model, words(), family)
    view = view_of(lm, str(interp.Site(site, 1)))
    coder = drawn((view,), (view,), centred=True)
    coder.scale_views({"in": Scaling(torch.linspace(-0.2, 0.3, view.width), 1.7)})
    found = DictionaryEvaluation(dictionary=coder, skip=2, massive=0, batch_tokens=20)(lm, corpus_of(rows))
    every = [oracle.capture(model, site, 1, row[None]).reshape(len(row), -1) for row in rows]
    hats = [reconstructed(coder, x) for x in every]
    x, hat = torch.cat([one[2:] for one in every]).double(), torch.cat([one[0][2:] for one in hats]).double()
    codes = torch.cat([one[1][2:] for one in hats])
    mean = x.mean(0)
    assert float(found.fvu()["mean"][0]) == pytest.approx(
        float((x - hat).square().sum() / (x - mean).square().sum()), rel=1e-4
    )
    legacy = ((x - hat).square().sum(1) / (x - mean).square().sum(1)).mean()
    expected = {
        "fvu_legacy": legacy, "mse": (x - hat).square().mean(), "norm_ratio": (hat.norm(dim=1) / x.norm(dim=1)).mean(),
        "cosine": torch.cosine_similarity(x, hat).mean(),
    }  # fmt: skip
    centred = hat - hat.mean(0)
    expected["slope"] = ((x - mean) * centred).sum() / centred.square().sum()
    whole, back = torch.cat(every).double(), torch.cat([one[0] for one in hats]).double()
    expected["fvu_all"] = (whole - back).square().sum() / (whole - whole.mean(0)).square().sum()
    for name, value in expected.items():
        assert float(found.data[name][0]) == pytest.approx(float(value), rel=1e-4), name
    assert found.l0()["l0"] == pytest.approx(float((codes != 0).sum(1).double().mean()))
    assert found.data["fires"].values.tolist() == (codes != 0).sum(0).tolist()
    assert np.allclose(found.data["largest_code"], codes.amax(0), atol=1e-4)
    for place, row in enumerate(rows):
        clean = oracle.logits(model, row[None])[0]
        shape = oracle.capture(model, site, 1, row[None]).shape
        values = {
            "dictionary": hats[place][0],
            "zero": torch.zeros_like(every[place]),
            "mean": mean.float().expand_as(every[place]),
        }
        for name, value in values.items():

            def put(old, value=value, shape=shape):
                new = old.clone()
                new[:, 2:] = value.reshape(shape)[:, 2:]
                return new

            after = oracle.edited(model, [(site, 1, put)], row[None])[0]
            loss, kl = scored(clean, after, row, 2)
            at = found.data.isel(document=place, replacement=0).sel(condition=name)
            assert float(at["ce"]) == pytest.approx(loss, rel=2e-4), (family, name)
            assert float(at["kl"]) == pytest.approx(kl, rel=2e-3, abs=1e-5), (family, name)


def reconstructed(coder, x):
    """The equations of the module, once more."""
    (scaling,) = coder.scalings.values()
    inner = (x - scaling.mean) * scaling.factor
    codes = ((inner - coder.biases[0]) @ coder.encoders[0].T + coder.b_enc).clamp(min=0)
    return (codes @ coder.decoders[0] + coder.biases[0]) / scaling.factor + scaling.mean, codes


def scored(clean, after, row, first):
    """Mean loss, and mean KL from clean, over predictions from `first` on."""
    p, q = (x[first:-1].double().log_softmax(-1) for x in (clean, after))
    return float(-q.gather(-1, row[first + 1 :, None]).mean()), float((p.exp() * (p - q)).sum(-1).mean())


def test_a_transcoder_is_read_in_one_place_and_replaces_another(rows):
    model = tiny("llama")
    lm = wrap(model, words(), "llama")
    read, write = view_of(lm, "blocks.2.hook_resid_mid", "in"), view_of(lm, "blocks.2.hook_mlp_out", "out")
    coder = drawn((read,), (write,), family="transcoder", skip=True)
    coder.skip_weight.copy_(torch.eye(write.width) * 0.1)
    found = DictionaryEvaluation(dictionary=coder)(lm, corpus_of(rows))
    assert found.data["view"].values.tolist() == ["out"] == found.data["replacement"].values.tolist()
    for place, row in enumerate(rows):
        x = oracle.capture(model, "resid_mid", 2, row[None])
        codes = (x @ coder.encoders[0].T + coder.b_enc).clamp(min=0)
        hat = codes @ coder.decoders[0] + coder.biases[0] + x @ coder.skip_weight.T

        def put(old, hat=hat):
            return torch.cat([old[:, :1], hat[:, 1:]], dim=1)

        after = oracle.edited(model, [("mlp_out", 2, put)], row[None])[0]
        loss, kl = scored(oracle.logits(model, row[None])[0], after, row, 1)
        at = found.data.isel(document=place, replacement=0).sel(condition="dictionary")
        assert float(at["ce"]) == pytest.approx(loss, rel=2e-4) and float(at["kl"]) == pytest.approx(kl, rel=2e-3)


@pytest.mark.parametrize("causal", [True, False])
def test_layers_are_replaced_together_in_order(rows, causal):
    """Causal: the second layer's codes see what the first became. Not causal: codes of the clean run."""
    model = tiny("gpt2")
    lm = wrap(model, words(), "gpt2")
    spans = {1: (0, 30), 2: (30, 64)}
    reads = tuple(
        replace(view_of(lm, f"blocks.{layer}.hook_resid_mid", f"in {layer}"), latents=spans[layer]) for layer in (1, 2)
    )
    first = (0, 30) if causal else (0, 64)  # a latent of the second layer may not write to the first
    writes = tuple(
        replace(view_of(lm, f"blocks.{layer}.hook_mlp_out", f"out {layer}"), latents=span) for layer, span in ((1, first), (2, (0, 64)))
    )  # fmt: skip
    coder = drawn(reads, writes)
    found = DictionaryEvaluation(dictionary=coder)(lm, corpus_of(rows))
    assert found.data["replacement"].values.tolist() == ["out 1", "out 2", "all together"]
    assert found.data.attrs["together"] == ("live" if causal else "clean")
    for place, row in enumerate(rows):
        mid = {layer: oracle.capture(model, "resid_mid", layer, row[None]) for layer in (1, 2)}
        if causal:
            hat = written(coder, mid, 0)
            half = [("mlp_out", 1, lambda old, hat=hat: torch.cat([old[:, :1], hat[:, 1:]], 1))]
            later = [oracle_under(model, half, kind, row) for kind in ("resid_pre", "attn_out")]
            mid[2] = later[0] + later[1]
        changes = [
            ("mlp_out", layer, lambda old, hat=written(coder, mid, side): torch.cat([old[:, :1], hat[:, 1:]], 1))
            for side, layer in enumerate((1, 2))
        ]
        after = oracle.edited(model, changes, row[None])[0]
        loss, kl = scored(oracle.logits(model, row[None])[0], after, row, 1)
        at = found.data.isel(document=place).sel(replacement="all together", condition="dictionary")
        assert float(at["ce"]) == pytest.approx(loss, rel=2e-4) and float(at["kl"]) == pytest.approx(kl, rel=2e-3)


def oracle_under(model, changes, kind, row):
    """A site of layer 2 while earlier sites are changed."""
    box = []
    oracle.edited(model, [*changes, (kind, 2, box.append)], row[None])
    return box[0]


def written(coder, mid, side):
    """Codes of two reading layers with ranges, decoded to one written view."""
    pre = torch.cat([mid[1] @ coder.encoders[0].T, mid[2] @ coder.encoders[1].T], dim=-1)
    codes = (pre + coder.b_enc).clamp(min=0)
    return codes[..., : len(coder.decoders[side])] @ coder.decoders[side] + coder.biases[side]


def test_two_models_are_each_replaced_in_their_own(atlas, atlas_tuned, text):
    views = tuple(
        view_of(lm, "blocks.2.hook_resid_post", name) for lm, name in ((atlas, "base"), (atlas_tuned, "tuned"))
    )
    few = text.select(slice(0, 2))
    coder = drawn(views, views, latents=96, seed=3)
    found = CrosscoderEvaluation(dictionary=coder)(atlas, atlas_tuned, few)
    assert found.data["replacement"].values.tolist() == ["base", "tuned"]
    for lm, name, view in ((atlas, "base", 0), (atlas_tuned, "tuned", 1)):
        row = few.documents[0]
        x = {
            view.name: one.run(row[None], capture=[view.site])[view.site]
            for one, view in zip((atlas, atlas_tuned), views, strict=True)
        }
        hat = coder.decode(coder.encode(x))[name]
        edit = interp.edit.replace(views[view].site, hat, at=interp.At.index(*range(1, len(row))))
        clean, after = lm.run(row[None]).logits[0], lm.run(row[None], edits=[edit]).logits[0]
        loss, kl = scored(clean, after, row, 1)
        at = found.data.isel(document=0).sel(replacement=name)
        assert float(at["ce"].sel(condition="dictionary")) == pytest.approx(loss, rel=1e-4)
        assert float(at["kl"].sel(condition="dictionary")) == pytest.approx(kl, rel=1e-3)
        assert float(at["ce"].sel(condition="clean")) == pytest.approx(scored(clean, clean, row, 1)[0], rel=1e-4)
    swapped = CrosscoderEvaluation(dictionary=coder)(atlas_tuned, atlas, few)  # views name their models by content
    assert np.allclose(swapped.data["ce"].sel(replacement="base"), found.data["ce"].sel(replacement="base"), atol=1e-5)
    with pytest.raises(BadInput, match=r"CrosscoderEvaluation"):
        DictionaryEvaluation(dictionary=coder)(atlas, few)
    with pytest.raises(BadInput, match="one model"):
        CrosscoderEvaluation(dictionary=identity(views[0]))(atlas, atlas_tuned, few)


def test_a_difference_is_put_on_top_of_the_other_model(atlas, atlas_tuned, text):
    view = view_of(atlas_tuned, "blocks.2.hook_resid_post", "difference", minus=atlas)
    few = text.select(slice(0, 2))
    found = CrosscoderEvaluation(dictionary=identity(view))(atlas, atlas_tuned, few)
    assert float(found.fvu()["mean"][0]) == 0.0 and found.data["model"].values.tolist() == [atlas_tuned.spec.name]
    assert float(found.recovered("kl")["mean"][0]) == pytest.approx(1.0, abs=1e-5)  # base + (tuned - base), rounded
    row = few.documents[0]
    base = atlas.run(row[None], capture=[view.site])[view.site]
    edit = interp.edit.replace(view.site, base, at=interp.At.index(*range(1, len(row))))
    loss, _ = scored(*(atlas_tuned.run(row[None], edits=edits).logits[0] for edits in ([], [edit])), row, 1)
    assert float(found.data["ce"].isel(document=0, replacement=0).sel(condition="zero")) == pytest.approx(
        loss, rel=1e-4
    )


def test_massive_and_first_tokens_are_left_alone_and_reported(rows):
    model = tiny("gpt2")
    lm = wrap(model, words(), "gpt2")
    big = 7  # a token with a huge embedding
    with torch.no_grad():
        model.transformer.wte.weight[big] *= 300
    lm = wrap(model, words(), "gpt2")
    docs = [row.clone() for row in rows]
    for row in docs:
        row[row == big] = 8
    docs[1][5] = docs[3][11] = big
    view = view_of(lm, "blocks.0.hook_resid_pre")
    coder = drawn((view,), (view,), centred=True)
    found = DictionaryEvaluation(dictionary=coder)(lm, corpus_of(docs))
    count = dict(zip(found.data["part"].values.tolist(), found.data["part_tokens"].values.tolist(), strict=True))
    assert count == {"evaluated": sum(LENGTHS) - 4 - 2, "first": 4, "massive": 2}
    assert found.data["tokens"].values.tolist() == [8, 12, 8, 19]
    with_them = DictionaryEvaluation(dictionary=coder, massive=0)(lm, corpus_of(docs))
    assert float(found.data["fvu_all"][0]) == pytest.approx(float(with_them.data["fvu_all"][0]))
    assert abs(float(found.fvu()["mean"][0]) - float(with_them.fvu()["mean"][0])) > 0.01
    x = torch.cat([oracle.capture(model, "resid_pre", 0, row[None])[0][1:] for row in docs]).double()
    x = x[x.norm(dim=1) < 20 * x.norm(dim=1).median()]
    assert float(found.data["total"].sum()) == pytest.approx(float((x - x.mean(0)).square().sum()), rel=1e-6)
    assert any("2 massive" in line for line in found.report_lines())


def test_a_random_dictionary_recovers_nothing_and_a_dead_one_says_so(atlas, text):
    view = view_of(atlas, "blocks.2.hook_resid_post")
    coder = drawn((view,), (view,), centred=True, latents=256)
    found = DictionaryEvaluation(dictionary=coder)(atlas, text)
    assert float(found.fvu()["mean"][0]) > 0.9 and float(found.recovered()["mean"][0]) < 0.2
    coder.b_enc.fill_(-1e4)
    dead = DictionaryEvaluation(dictionary=coder)(atlas, text)
    assert dead.dead() == 256 and dead.l0()["l0"] == 0 and any("NOT ONE" in line for line in dead.report_lines())


def test_what_nothing_depends_on_cannot_be_recovered(rows):
    model = tiny("gpt2")
    with torch.no_grad():  # the head reads nothing: every site may be anything
        model.lm_head.weight = torch.nn.Parameter(torch.zeros_like(model.lm_head.weight))
    lm = wrap(model, words(), "gpt2")
    view = view_of(lm, "blocks.1.hook_mlp_out")
    found = DictionaryEvaluation(dictionary=drawn((view,), (view,)))(lm, corpus_of(rows))
    assert np.isnan(found.recovered()["mean"][0]) and any("nothing to recover" in line for line in found.report_lines())


def test_intervals_resample_texts(atlas, text):
    view = view_of(atlas, "blocks.3.hook_mlp_out")
    coder = drawn((view,), (view,))
    found = DictionaryEvaluation(dictionary=coder)(atlas, text)
    fvu = found.fvu().isel(view=0)
    assert float(fvu["ci_lo"]) < float(fvu["mean"]) < float(fvu["ci_hi"])
    ratios = (found.data["error"] / found.data["total"]).values[:, 0]
    assert ratios.min() < float(fvu["ci_lo"]) and float(fvu["ci_hi"]) < ratios.max()
    one = DictionaryEvaluation(dictionary=coder)(atlas, text.select([0]))
    assert np.isnan(one.fvu()["ci_lo"][0]) and np.isfinite(one.fvu()["mean"][0])


def test_results_and_folders_survive(atlas, text, tmp_path):
    view = view_of(atlas, "blocks.2.hook_resid_post")
    coder = drawn((view,), (view,))
    coder.save(tmp_path / "sae")
    few = text.select(slice(0, 3))
    found = DictionaryEvaluation(dictionary=str(tmp_path / "sae"))(atlas, few, store=interp.Store(tmp_path / "store"))
    again = open_result(found.save(tmp_path / "result"))
    assert isinstance(again, DictionaryEvaluationResult) and again.report_lines() == found.report_lines()
    assert again.headline() == found.headline() and again.data.attrs["dictionary"] == coder.digest[:8]
    alone = DictionaryEvaluation(dictionary=coder)(atlas, few)
    assert np.allclose(alone.data["ce"], found.data["ce"], atol=1e-6)
    assert alone.manifest.inputs == found.manifest.inputs  # by content, not by folder
    coder.b_enc.add_(0.1)
    assert (
        DictionaryEvaluation(dictionary=coder)(atlas, few).manifest.inputs["dictionary"]
        != found.manifest.inputs["dictionary"]
    )


def test_text_that_it_was_trained_on_is_said(atlas, text):
    view = view_of(atlas, "blocks.2.hook_resid_post")
    coder, few = drawn((view,), (view,)), text.select(slice(0, 2))
    for data, known in (
        (few, -1),
        (few, 1),
        (text.select(slice(0, 4)), 0.5),
        (text.select([1]), 1),
        (text.select([2]), 0),
    ):
        found = DictionaryEvaluation(dictionary=coder)(atlas, data)
        assert found.data.attrs["trained_on"] == known
        assert any("was trained on" in line for line in found.report_lines()) == (known > 0)
        coder.metadata["corpus_sketch"] = sketch(few.documents)


def test_bad_input_is_refused(atlas, atlas_tuned, text):
    view = view_of(atlas, "blocks.2.hook_resid_post")
    run = DictionaryEvaluation(dictionary=identity(view))
    with pytest.raises(WrongModel, match="atlas"):
        run(atlas_tuned, text)
    for bad, match in (({"skip": -1}, "skip"), ({"massive": 0.5}, "massive"), ({"batch_tokens": 0}, "batch_tokens")):
        with pytest.raises(BadInput, match=match):
            DictionaryEvaluation(dictionary="x", **bad)
    with pytest.raises(BadInput, match="has no site"):
        DictionaryEvaluation(dictionary=identity(View("toy", width=8)))(atlas, text)
    with pytest.raises(BadInput, match="has width 64"):
        DictionaryEvaluation(dictionary=identity(replace(view, width=64)))(atlas, text)
    with pytest.raises(BadInput, match="does not have"):
        DictionaryEvaluation(dictionary=identity(replace(view, site="blocks.9.hook_resid_post")))(atlas, text)
    with pytest.raises(BadInput, match="behind the last layer"):
        DictionaryEvaluation(dictionary=identity(view_of(atlas, "ln_final.hook_out")))(atlas, text)
    with pytest.raises(BadInput, match="needs a corpus"):
        run(atlas, ["text"])
    with pytest.raises(BadInput, match="first 500"):
        DictionaryEvaluation(dictionary=identity(view), skip=500)(atlas, text)
    with pytest.raises(BadInput, match="dictionary` is missing"):
        DictionaryEvaluation(dictionary="")(atlas, text)


def test_a_view_of_the_token_before_is_read_and_put_back_there(rows):
    """Codes at a token come from the one before; what is written with an offset is put where it came from."""
    model = tiny("gpt2")
    lm = wrap(model, words(), "gpt2")
    before = replace(view_of(lm, "blocks.1.hook_resid_post", "before"), offset=-1)
    now = view_of(lm, "blocks.1.hook_mlp_out", "now")
    coder = drawn((before,), (now, before))
    found = DictionaryEvaluation(dictionary=coder)(lm, corpus_of(rows))
    assert found.data["tokens"].values.tolist() == [length - 1 for length in LENGTHS]  # the first token has none before
    for place, row in enumerate(rows):
        x = oracle.capture(model, "resid_post", 1, row[None])[0]
        codes = (x[:-1] @ coder.encoders[0].T + coder.b_enc).clamp(min=0)  # of tokens 1, 2, ...
        hats = [codes @ weight + bias for weight, bias in zip(coder.decoders, coder.biases, strict=True)]
        x_now = oracle.capture(model, "mlp_out", 1, row[None])[0][1:]
        for column, (target, hat) in enumerate(((x_now, hats[0]), (x[:-1], hats[1]))):
            error = float((target.double() - hat.double()).square().sum())
            assert float(found.data["error"][place, column]) == pytest.approx(error, rel=1e-4)
        for name, kind, where, hat in (
            ("now", "mlp_out", slice(1, None), hats[0]),
            ("before", "resid_post", slice(0, -1), hats[1]),
        ):

            def put(old, where=where, hat=hat):
                new = old.clone()
                new[0, where] = hat
                return new

            loss, _ = scored(*(oracle.edited(model, edits, row[None])[0] for edits in ([], [(kind, 1, put)])), row, 1)
            at = found.data.isel(document=place).sel(replacement=name, condition="dictionary")
            assert float(at["ce"]) == pytest.approx(loss, rel=2e-4), name


def test_the_threshold_of_inference_counts_not_the_k_of_training(atlas, text):
    view = view_of(atlas, "blocks.2.hook_resid_post")
    coder = drawn((view,), (view,), activation="batchtopk", k=4.0, code_scale="sum", centred=True)
    coder.threshold.fill_(6.0)
    found = DictionaryEvaluation(dictionary=coder)(atlas, text)
    site = interp.Site.parse(view.site)
    x = torch.cat([atlas.read([one], [site])[site][1:] for one in text.documents])
    codes = ((x - coder.biases[0]) @ coder.encoders[0].T + coder.b_enc).clamp(min=0)
    on = (codes * coder.decoders[0].norm(dim=1) > 6.0).sum(1).double().mean()
    assert found.l0()["l0"] == pytest.approx(float(on), rel=1e-3) and abs(float(on) - 4) > 1
    assert any("batchtopk, 4 asked for" in line for line in found.report_lines())


def test_a_real_model_gets_back_more_the_more_components_are_kept(real_models, tmp_path, capsys):
    from interp.cli import main

    lm = interp.load(real_models / "stories260K-llama")
    story = "Once upon a time there was a little girl named Lily. She loved to play outside in the park with her dog. "
    text = interp.data.corpus([story, story.replace("Lily", "Tom").replace("girl", "boy")], lm.tokenizer, n_ctx=64)
    view = view_of(lm, "blocks.2.hook_resid_post")
    site = interp.Site.parse(view.site)
    x = torch.cat([lm.read([one], [site])[site][1:] for one in text.documents]).double()
    axes = torch.linalg.eigh((x - x.mean(0)).T @ (x - x.mean(0))).eigenvectors
    shares = []
    for rank in (2, 16, 40, view.width):
        coder = signed((view,), axes[:, -rank:].T.float(), mean=x.mean(0).float())
        shares.append(float(DictionaryEvaluation(dictionary=coder)(lm, text).recovered("kl", "mean")["mean"][0]))
    assert shares == sorted(shares) and shares[0] < 0.5 and shares[-1] == pytest.approx(1.0, abs=1e-4)
    coder.save(tmp_path / "whole")
    (tmp_path / "text.txt").write_text(story)
    options = [
        "--dictionary",
        str(tmp_path / "whole"),
        "--text",
        str(tmp_path / "text.txt"),
        "-o",
        str(tmp_path / "out"),
    ]
    with pytest.raises(SystemExit) as left:
        main(["dictionary-eval", str(real_models / "stories260K-llama"), *options])
    assert left.value.code in (0, None)
    said = capsys.readouterr().out
    assert "loss recovered: 1" in said and "FVU" in said
    assert isinstance(open_result(tmp_path / "out"), DictionaryEvaluationResult)
