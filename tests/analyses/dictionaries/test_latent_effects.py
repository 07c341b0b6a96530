"""Changing latents: exactly what plain hooks make of it, nothing where no code changes, and more than the controls where it was planted."""

import numpy as np
import pytest
import torch

import interp
import tests.oracle as oracle
from interp.analyses.dictionaries.effects import LatentEffect, ablate, clamp, steer
from interp.analyses.dictionaries.effects.editing import moved
from interp.analyses.dictionaries.effects.material import Seen, alike
from interp.cache.gather import view_of
from interp.core.batch import At
from interp.core.dictionary import Dictionary, DictionaryConfig, Scaling
from interp.core.errors import BadInput
from interp.data import corpus
from interp.models import reference
from tests.analyses.dictionaries.planted_latents import planted_world, random_dictionary

SITE = "blocks.1.hook_resid_post"


@pytest.fixture(scope="module")
def planted():
    return planted_world(n=8, latents=12, factor=2.0)


@pytest.fixture(scope="module")
def text(atlas):
    return corpus([one[:80] for one in interp.reference.text("atlas", 4)], atlas.tokenizer, n_ctx=atlas.spec.n_ctx)


def hooked(lm, kind, layer, ids, change):
    """Logits of plain transformers with `change` of a site's [batch, pos, d]."""
    with torch.no_grad(), oracle.at(lm.module, kind, layer, change):
        return lm.module(ids).logits


def test_edits_are_what_plain_hooks_do(atlas, text):
    dictionary = random_dictionary(atlas, SITE)
    dictionary.scale_views({"in": Scaling(torch.full((atlas.spec.d_model,), 0.1), 0.5)})
    ids = text.documents[0][None]
    x = oracle.capture(atlas.module, "resid_post", 1, ids)
    codes = dictionary.encode(x)
    latents = codes[0, 1:].amax(dim=0).argsort(descending=True)[:2].tolist()
    rows = dictionary.W_dec[latents] / 0.5
    now = codes[..., latents]
    cases = [
        (ablate(dictionary, latents), -now), (clamp(dictionary, {latents[0]: 2.0, latents[1]: 0.0}), torch.tensor([2.0, 0.0]) - now),
        (steer(dictionary, {latents[0]: 3.0, latents[1]: -1.0}), torch.tensor([3.0, -1.0]).expand_as(now)),
    ]  # fmt: skip
    for edit, change in cases:
        expected = hooked(atlas, "resid_post", 1, ids, lambda x, change=change: x + change @ rows)
        assert torch.allclose(atlas.run(ids, edits=[edit]).logits, expected, atol=2e-3)
        assert float((expected - atlas.run(ids).logits).abs().max()) > 1e-2
    reconstructed = x + (-now) @ rows  # the error is kept: what is left is not the reconstruction
    assert not torch.allclose(reconstructed, dictionary.decode(codes), atol=1e-2)
    last = atlas.run(ids, edits=[ablate(dictionary, latents, at=At.last())]).logits
    assert torch.equal(last[:, :-1], atlas.run(ids).logits[:, :-1])
    written = atlas.generate("The king", 5, edits=[steer(dictionary, {latents[0]: 20.0})])
    assert len(written.ids[0]) > 0


def test_where_no_code_changes_nothing_changes_bit_for_bit(atlas, text):
    dictionary = random_dictionary(atlas, SITE)
    dictionary.b_enc.data[7] = -1e6  # never on
    ids = text.documents[1][None]
    clean = atlas.run(ids).logits
    assert torch.equal(atlas.run(ids, edits=[ablate(dictionary, [7])]).logits, clean)
    assert torch.equal(atlas.run(ids, edits=[clamp(dictionary, {7: 0.0})]).logits, clean)
    assert torch.equal(atlas.run(ids, edits=[steer(dictionary, {3: 0.0})]).logits, clean)


def test_effects_are_those_of_the_edits(atlas, text):
    dictionary = random_dictionary(atlas, SITE)
    latent = int(
        dictionary.encode(oracle.capture(atlas.module, "resid_post", 1, text.documents[0][None]))[0, 1:]
        .sum(dim=0)
        .argmax()
    )
    found = LatentEffect(dictionary=dictionary, latent=(latent,), draws=2, strength=(0.5, 1.0))(atlas, text)
    steered = LatentEffect(dictionary=dictionary, latent=(latent,), how="steer", unit="code", strength=(4.0,), draws=2)(
        atlas, text
    )
    for place, document in enumerate(text.documents):
        ids = document[None]
        keep = At.mask(torch.arange(len(document))[None] > 0)  # the BOS is left alone
        clean = atlas.run(ids).logits.float().log_softmax(-1)[0, 1:]
        for result, edit in (
            (found.data.sel(strength=1.0), ablate(dictionary, [latent], at=keep)),
            (steered.data.sel(strength=4.0), steer(dictionary, {latent: 4.0}, at=keep)),
        ):
            new = atlas.run(ids, edits=[edit]).logits.float().log_softmax(-1)[0, 1:]
            kl = (clean.exp() * (clean - new)).sum(-1).mean()
            nll = -new[:-1].gather(-1, document[2:, None]).mean()
            here = result["outcome"].isel(set=0, arm=0, document=place)
            assert float(here.sel(measure="kl")) == pytest.approx(float(kl), abs=2e-5)
            assert float(here.sel(measure="nll")) == pytest.approx(float(nll), abs=1e-4)
    assert steered.data["changed"].item() == 1 and steered.data["shift"].item() == pytest.approx(4.0, rel=1e-4)
    half, whole = (found.data["shift"].sel(strength=one).item() for one in (0.5, 1.0))
    assert whole == pytest.approx(2 * half, rel=1e-4)
    gain = steered.data["gain"].isel(set=0, strength=0)
    assert (gain.sel(end="gains").values >= 0).all() and (gain.sel(end="loses").values <= 0).all()


def test_planted_latents_do_what_was_planted(planted, tmp_path):
    lm, dictionary, concepts, data = planted
    found = LatentEffect(dictionary=dictionary, latent=(0,), how="steer", draws=2)(lm, data)
    gains = [token for token, _ in found.words()["gains"]][: len(concepts[0].words)]
    assert set(gains) == set(concepts[0].words)
    word = concepts[0].words[0]
    prompts = [interp.Prompt.of(f"we saw the {trigger}", answer=word, foil="fox") for trigger in concepts[0].triggers]
    prompts += [interp.Prompt.of("we saw the old zoo", answer="fox", foil=word)]
    both = LatentEffect(dictionary=dictionary, latent=(0, 1), separate=True, measure="answer", draws=2)(lm, prompts)
    change = both.change("logit_diff").isel(arm=0, strength=0).values  # [set, document]
    assert (change[0, :2] < -10).all() and change[1, 2] < -10  # each takes its own concept's words away,
    assert (change[0, 2], change[1, 0], change[1, 1]) == (0, 0, 0)  # and nothing of the other's
    assert (np.abs(both.change("logit_diff")[:, :, both.data["kind"].values == "other latents"].values) < 0.1).all()
    both.save(tmp_path / "result")
    again = interp.open(tmp_path / "result")
    assert (
        again.data.identical(both.data)
        and again.report_lines() == both.report_lines()
        and again.headline() == both.headline()
    )
    assert "ablate 0" in again.report_lines()[0] and len(again._repr_html_()) < 30_000


def test_random_latents_do_no_more_than_others(atlas, text):
    """Their decoder rows are three times as long as those of the others: compared at one length, they rank anywhere among these."""
    dictionary = random_dictionary(atlas, SITE, latents=64)
    latents = (5, 9, 14, 23, 31, 40)
    dictionary.decoders[0].data[list(latents)] *= 3
    found = LatentEffect(
        dictionary=dictionary, latent=latents, how="steer", unit="code", strength=(0.7,), separate=True, draws=4
    )(atlas, text.select(range(2)))
    said = found.effect_of("kl")
    share = said["share"].sel(kind="other latents").values
    assert 0.35 < share.mean() < 0.85 and share.max() > 0.5  # 0.6 on average, 0.2 if lengths were not matched
    assert np.isfinite(said["ci_lo"].values).all() and (found.data["outcome"].sel(measure="kl").values > 0).all()
    reach = round(float(share[0, 0]) * 5) - 1
    assert f"; {reach} of 4 as much)" in found.report_lines()[0]
    assert float(found.data["control_density"].max()) <= 1 and "the other latents at" in " ".join(found.report_lines())


def test_small_divergences_are_not_lost_in_rounding(atlas, text):
    dictionary = random_dictionary(atlas, SITE)
    found = LatentEffect(dictionary=dictionary, latent=(3,), how="steer", unit="code", strength=(1e-3, 1e-2), draws=1)(
        atlas, text.select(range(2))
    )
    small, large = found.data["outcome"].sel(measure="kl").isel(set=0, arm=0).values
    assert (small > 0).all() and large / small == pytest.approx(100, rel=0.05)


def test_what_is_changed_keeps_the_precision_of_the_activation():
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(5, 4, generator=draw, dtype=torch.float64)
    change, rows = torch.randn(5, 2, generator=draw), torch.randn(2, 4, generator=draw)
    expected = x + change.double() @ rows.double()
    assert torch.allclose(moved(x, change, rows), expected, atol=1e-14)
    assert moved(x.bfloat16(), change, rows).dtype == torch.bfloat16


def test_edits_of_one_site_follow_one_another_and_go_on_in_generation(atlas, text):
    dictionary, site = random_dictionary(atlas, SITE), interp.Site.parse(SITE)
    ids = text.documents[0][None]
    x = oracle.capture(atlas.module, "resid_post", 1, ids)
    a, b = dictionary.encode(x)[0, 1:].amax(dim=0).argsort(descending=True)[:2].tolist()
    y = x + 3.0 * dictionary.W_dec[a]
    y = y + (1.0 - dictionary.encode(y)[..., [b]]) @ dictionary.W_dec[[b]]
    edits = [steer(dictionary, {a: 3.0}), clamp(dictionary, {b: 1.0})]
    assert torch.allclose(atlas.run(ids, edits=edits, capture=[site])[site], y, atol=1e-4)
    edits = [clamp(dictionary, {a: 6.0})]
    written = torch.as_tensor(atlas.generate("The king", 4, edits=edits).ids[0])
    whole = torch.cat([atlas.encode("The king").tokens[0], written])[None]
    told = atlas.run(whole, edits=edits).logits[0].argmax(dim=-1)
    assert told[-len(written) - 1 : -1].tolist() == written.tolist()  # every token was written with its code set


def test_dictionaries_that_write_elsewhere_than_they_read(atlas, text):
    transcoder = random_dictionary(atlas, "blocks.2.hook_mlp_out", read="blocks.2.hook_resid_mid", family="transcoder")
    with pytest.raises(BadInput, match="LatentEffect"):
        ablate(transcoder, [3])
    ids = text.documents[0][None]
    site = interp.Site.parse("blocks.2.hook_resid_mid")
    codes = transcoder.encode(atlas.run(ids, capture=[site])[site])[0]
    latent = int(codes[1:].sum(dim=0).argmax())
    found = LatentEffect(dictionary=transcoder, latent=(latent,), draws=2)(atlas, text)
    shift = -codes[:, latent, None] * transcoder.W_dec[latent]
    shift[0] = 0
    new = hooked(atlas, "mlp_out", 2, ids, lambda x: x + shift).float().log_softmax(-1)[0, 1:]
    clean = atlas.run(ids).logits.float().log_softmax(-1)[0, 1:]
    kl = (clean.exp() * (clean - new)).sum(-1).mean()
    assert float(found.data["outcome"].isel(set=0, strength=0, arm=0, document=0).sel(measure="kl")) == pytest.approx(
        float(kl), abs=2e-5
    )
    assert torch.equal(atlas.run(ids, edits=[steer(transcoder, {latent: 0.0})]).logits, atlas.run(ids).logits)


def test_a_crosscoder_changes_the_model_of_its_view(atlas, atlas_tuned, text):
    views = tuple(view_of(lm, SITE, name) for name, lm in (("base", atlas), ("tuned", atlas_tuned)))
    config = DictionaryConfig(32, views, views, activation="topk", k=6, centred=False, family="crosscoder")
    dictionary = Dictionary.initialise(config, norm=1.0)
    dictionary.scale_views({"tuned": Scaling(torch.zeros(views[1].width), 0.5)})
    ids = text.documents[0][None]
    read = {
        name: oracle.capture(lm.module, "resid_post", 1, ids) for name, lm in (("base", atlas), ("tuned", atlas_tuned))
    }
    codes = dictionary.encode(read)[0]
    latent = int(codes[1:].sum(dim=0).argmax())
    shift = -codes[:, latent, None] * dictionary.decoder("tuned")[latent] / 0.5
    shift[0] = 0
    found = LatentEffect(dictionary=dictionary, latent=(latent,), view="tuned", draws=1)(
        atlas, text.select(range(1)), others=[atlas_tuned]
    )
    new = hooked(atlas_tuned, "resid_post", 1, ids, lambda x: x + shift).double().log_softmax(-1)[0, 1:]
    clean = atlas_tuned.run(ids).logits.double().log_softmax(-1)[0, 1:]
    kl = (clean.exp() * (clean - new)).sum(-1).mean()
    here = found.data["outcome"].isel(set=0, strength=0, arm=0, document=0)
    assert float(here.sel(measure="kl")) == pytest.approx(float(kl), rel=1e-3)
    with pytest.raises(BadInput, match="view"):
        LatentEffect(dictionary=dictionary, latent=(latent,))(atlas, text, others=[atlas_tuned])


def test_controls_are_latents_that_are_on_about_as_often():
    seen = Seen(np.array([0, 1000, 990, 5, 1010, 4, 6, 980]), np.ones(8), 2000)
    drawn = alike(seen, (1, 3), 1, np.random.default_rng(0))
    assert drawn.shape == (1, 2) and not set(drawn.ravel()) & {0, 1, 3}
    wide = Seen(np.array([10**5, *([1000] * 12), *([2] * 12)]), np.ones(25), 10**6)
    assert (alike(wide, (1,), 5, np.random.default_rng(0)) <= 12).all()
    assert (alike(wide, (24,), 5, np.random.default_rng(0)) > 12).all()
    with pytest.raises(BadInput, match="draws"):
        alike(seen, (1,), 9, np.random.default_rng(0))


def test_bad_input_is_refused_by_name(planted, atlas, text):
    lm, dictionary, _, data = planted
    for options, message in [
        ({"latent": ()}, "name one latent"), ({"latent": (99,)}, "numbered from 0"), ({"latent": (1, 1)}, "once"),
        ({"latent": (0,), "view": "tuned"}, "no written view"), ({"latent": (0,), "draws": 50}, "controls"),
    ]:  # fmt: skip
        with pytest.raises(BadInput, match=message):
            LatentEffect(dictionary=dictionary, **options)(lm, data)
    for options, message in [
        ({"how": "boost"}, "how"), ({"strength": ()}, "strength"), ({"strength": (0.0,)}, "strength"),
        ({"positions": "first"}, "positions"), ({"positions": "last"}, "no loss can move"),
        ({"measure": "mood"}, "measure"), ({"draws": 0}, "draws"), ({"unit": "sd"}, "unit"), ({"strength": (1, 1)}, "twice"),
    ]:  # fmt: skip
        with pytest.raises(BadInput, match=message):
            LatentEffect(dictionary=dictionary, latent=(0,), **options)
    quiet = corpus(["we saw the old", "she went to the big"], lm.tokenizer)
    with pytest.raises(BadInput, match="never on"):
        LatentEffect(dictionary=dictionary, latent=(0,))(lm, quiet)
    with pytest.raises(BadInput, match="unit='code'"):
        LatentEffect(dictionary=dictionary, latent=(0,), how="steer")(lm, quiet)
    with pytest.raises(BadInput, match="prompts with answers"):
        LatentEffect(dictionary=dictionary, latent=(0,), measure="answer")(lm, data)
    with pytest.raises(BadInput, match="finite"):
        steer(dictionary, {0: float("nan")})
    assert LatentEffect(dictionary=dictionary, latent=(0,)).takes == "text"
    assert LatentEffect(dictionary=dictionary, latent=(0,), measure="answer").takes == "prompts"


def test_facts_and_a_real_checkpoint(atlas, stories):
    dictionary = random_dictionary(atlas, SITE)
    facts = reference.facts("atlas", 6)
    found = LatentEffect(
        dictionary=dictionary, latent=(2,), how="steer", unit="code", strength=(8.0,), measure="answer", draws=2
    )(atlas, facts)
    prompt = interp.data.tokens.tokenize(facts[0], atlas.tokenizer, answers="first")
    ids = torch.tensor([prompt.ids])
    shift = 8.0 * dictionary.W_dec[2] * (torch.arange(len(prompt.ids)) >= int(prompt.bos))[:, None]
    expected = hooked(atlas, "resid_post", 1, ids, lambda x: x + shift)[0, -1].log_softmax(-1)[prompt.answer_id]
    here = found.data["outcome"].isel(set=0, strength=0, arm=0, document=0)
    assert float(here.sel(measure="logprob")) == pytest.approx(float(expected), abs=1e-4)
    assert found.data["outcome"].sel(measure="logit_diff").isnull().all()  # no foils
    lm = stories
    data = corpus(
        ["Once upon a time there was a dog.", "The cat was sad. She ran home."], lm.tokenizer, n_ctx=lm.spec.n_ctx
    )
    made = random_dictionary(lm, "blocks.2.hook_resid_post", latents=32, k=4)
    real = LatentEffect(dictionary=made, latent=(3,), how="clamp", unit="code", strength=(2.0,), draws=2)(lm, data)
    ids = data.documents[0][None]
    x = oracle.capture(lm.module, "resid_post", 2, ids)
    change = (2.0 - made.encode(x)[..., 3:4]) * made.W_dec[3]
    change[:, : int(data.bos)] = 0
    new = hooked(lm, "resid_post", 2, ids, lambda x: x + change).float().log_softmax(-1)[0, int(data.bos) :]
    clean = lm.run(ids).logits.float().log_softmax(-1)[0, int(data.bos) :]
    kl = (clean.exp() * (clean - new)).sum(-1).mean()
    assert float(real.data["outcome"].isel(set=0, strength=0, arm=0, document=0).sel(measure="kl")) == pytest.approx(
        float(kl), abs=2e-5
    )
