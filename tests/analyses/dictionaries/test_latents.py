"""Cards of latents: planted ones fire on their triggers and write their words; every number is that of dense codes."""

import numpy as np
import pytest
import torch

import interp
import tests.oracle as oracle
from interp.analyses.dictionaries.latents import Latents
from interp.analyses.dictionaries.latents.examples import examples, windows
from interp.cache import Store
from interp.cache.gather import view_of
from interp.core.dictionary import Dictionary, DictionaryConfig
from interp.core.errors import BadInput, InterpError, WrongModel
from interp.data import Corpus, corpus
from tests.analyses.dictionaries.planted_latents import planted_world, random_dictionary


@pytest.fixture(scope="module")
def planted():
    lm, dictionary, concepts, data = planted_world(factor=2.0)
    return lm, dictionary, concepts, data, Latents(dictionary=dictionary, latent=(0, 1, 4))(lm, data)


@pytest.fixture(scope="module")
def atlas_text(atlas):
    return corpus(interp.reference.text("atlas", 12), atlas.tokenizer, n_ctx=atlas.spec.n_ctx)


def test_planted_latents_fire_on_their_triggers_and_write_their_words(planted):
    lm, _, concepts, data, found = planted
    for latent, concept in enumerate(concepts):
        card = found.card(latent)
        assert {one["token"] for one in card["fires_on"]} == set(concept.triggers)
        assert all(one["share"] == 1 for one in card["fires_on"])
        count = sum(int(np.isin(document.numpy(), concept.trigger_tokens).sum()) for document in data.documents)
        assert card["density"] == pytest.approx(count / found.data.attrs["rows"]) and card["largest"] == pytest.approx(
            15, abs=0.2
        )
        promoted = [one["token"] for one in card["words"]["in"]["promoted"]]
        assert set(promoted[: len(concept.words)]) == set(concept.words)
        top = found.examples(latent, "top")
        assert set(top["token"]) == set(concept.triggers) and top["document"].is_unique and len(top) == 12
        logit = card["words"]["in"]["promoted"][0]["logit"]
        assert logit == pytest.approx(
            1.5 * float(lm.weights.norm("final")[0].mean()), rel=1e-3
        )  # raw units: the scaling is undone
    text = "\n".join(found.report_lines())
    assert "latent 0: on at 2.50% of tokens (15 of 600)" in text and "promotes  iron +" in text and "[forge]" in text


def test_every_number_is_that_of_dense_codes(atlas, atlas_text):
    dictionary = random_dictionary(atlas, "blocks.1.hook_resid_post")
    named = (3, 17, 40)
    found = Latents(dictionary=dictionary, latent=named, near=4, batch_tokens=100)(atlas, atlas_text)
    rows = torch.cat(
        [oracle.capture(atlas.module, "resid_post", 1, document[None])[0, 1:] for document in atlas_text.documents]
    )
    ids = np.concatenate([document[1:].numpy() for document in atlas_text.documents])
    dense = dictionary.encode(rows).double().numpy()
    assert len(dense) == found.data.attrs["rows"]
    assert np.allclose(found.data["density"], (dense > 0).mean(axis=0), atol=1e-3)
    assert np.allclose(found.data["largest"], dense.max(axis=0), atol=1e-4)
    with np.errstate(invalid="ignore"):
        r = np.corrcoef(dense.T)
    for row, latent in enumerate(named):
        values = dense[:, latent]
        assert np.allclose(np.sort(found.examples(latent, "top")["value"])[::-1][0], values.max(), atol=1e-4)
        assert abs(int(found.data["count"][row].sum()) - int((values > 0).sum())) <= 1
        best = next(one for one in np.argsort(-np.where(np.isfinite(r[latent]), r[latent], -2)) if one != latent)
        top, seen, share = found.card(latent)["together"][0]
        assert top == best and seen == pytest.approx(r[latent, best], abs=1e-3)
        assert share == pytest.approx(((values > 0) & (dense[:, top] > 0)).sum() / (values > 0).sum(), abs=0.01)
        first = found.card(latent)["fires_on"][0]
        token = next(one for one in np.unique(ids) if atlas.tokenizer.label(int(one)) == first["token"])
        assert (
            first["mean"] == pytest.approx(values[ids == token].mean(), abs=1e-3)
            and first["seen"] == (ids == token).sum()
        )
        cosines = torch.nn.functional.cosine_similarity(dictionary.W_dec[latent][None], dictionary.W_dec, dim=1)
        cosines[latent] = -2
        near = found.card(latent)["near"]
        assert near[0][0] == int(cosines.argmax()) and near[0][1] == pytest.approx(float(cosines.max()), abs=1e-5)
        _, codes, at = found.window_of(latent, 0)
        row_of = int(np.flatnonzero(np.isclose(values, codes[at], atol=1e-5))[0])
        assert np.allclose(np.nan_to_num(codes[at - 2 : at + 3]), values[row_of - 2 : row_of + 3], atol=1e-4) or at < 3


def test_logit_effects_are_the_folded_unembedding_of_raw_rows(atlas, atlas_text):
    dictionary = random_dictionary(atlas, "blocks.2.mlp.hook_post", latents=20)
    found = Latents(dictionary=dictionary, latent=(5,), words=7)(atlas, atlas_text)
    weight = dictionary.W_dec[5].double() @ atlas.module.transformer.h[2].mlp.c_proj.weight.double()
    gain = atlas.module.transformer.ln_f.weight.double()
    logits = ((weight - weight.mean()) * gain) @ atlas.module.lm_head.weight.double().T
    z = ((logits - logits.mean()) / logits.std(unbiased=False)).numpy()
    for end, order in (("promoted", np.argsort(-z)), ("demoted", np.argsort(z))):
        said = found.card(5)["words"]["in"][end]
        assert [one["token"] for one in said] == [atlas.tokenizer.label(int(one)) for one in order[:7]]
        # the folded unembedding leaves out what is common to all tokens' columns, so logits agree up to a constant
        assert np.allclose([one["z"] for one in said], z[order[:7]], atol=2e-2)
    assert int(found.data["logit_count"].sum()) == atlas.spec.vocab


def test_nothing_depends_on_the_store_or_the_parts(planted, atlas, atlas_text, tmp_path):
    dictionary = random_dictionary(atlas, "blocks.0.hook_mlp_out")
    plain = Latents(dictionary=dictionary, n=3)(atlas, atlas_text)
    small = Latents(dictionary=dictionary, n=3, batch_tokens=64)(atlas, atlas_text)
    stored = Latents(dictionary=dictionary, n=3)(atlas, atlas_text, store=Store(tmp_path / "store"))
    for other in (small, stored):
        assert other.latents == plain.latents
        for name in ("density", "largest", "count", "example_value", "together_r"):
            assert np.allclose(plain.data[name], other.data[name], atol=1e-3, equal_nan=True), name
    dictionary.save(tmp_path / "dictionary")
    saved = Latents(dictionary=str(tmp_path / "dictionary"), n=3)(atlas, atlas_text)
    assert saved.data.identical(plain.data)
    plain.save(tmp_path / "result")
    again = interp.open(tmp_path / "result")
    assert again.data.identical(plain.data) and again.report_lines() == plain.report_lines()
    assert 2000 < len(plain._repr_html_().encode()) < 30_000 and "latent " in plain._repr_html_()
    assert plain.to_frame() is not None and "dictionary" in plain.manifest.inputs


def test_a_text_shows_the_latents_that_are_on_in_it(planted):
    lm, dictionary, _, data, _ = planted
    found = Latents(dictionary=dictionary, passage="we saw the old zoo", n=2)(lm, data)
    assert found.latents[0] == 1  # picked by how much and how rarely they are on, not by number
    code = found.data["text_code"].sel(latent=1).values
    assert code.argmax() == len(code) - 1 and code.max() == pytest.approx(15, abs=0.2)


def test_crosscoders_have_logit_effects_in_every_view(atlas, atlas_tuned, atlas_text):
    views = tuple(
        view_of(lm, "blocks.1.hook_resid_post", name) for name, lm in (("base", atlas), ("tuned", atlas_tuned))
    )
    config = DictionaryConfig(32, views, views, activation="topk", k=4, centred=False, family="crosscoder")
    dictionary = Dictionary.initialise(config, norm=1.0)
    dictionary.decoders[1].data[7] = 0.0
    found = Latents(dictionary=dictionary, latent=(7, 8))(atlas, atlas_text, others=[atlas_tuned])
    words = found.card(8)["words"]
    assert list(words) == ["base", "tuned"] and words["base"]["promoted"] and words["tuned"]["promoted"]
    assert not found.card(7)["words"]["tuned"]["promoted"]  # it does not write that view
    for lm, view in ((atlas, "base"), (atlas_tuned, "tuned")):  # each by the unembedding of its own model
        logits = dictionary.decoder(view)[8] @ lm.weights.unembedding(folded=True)[0]
        told = found.data["word_logit"].sel(latent=8, view=view, end="promoted").values
        assert np.allclose(told, logits.sort(descending=True).values[: len(told)].detach(), atol=1e-5)
    one, other = (found.data["word_logit"].sel(latent=8, view=view).values for view in ("base", "tuned"))
    assert not np.allclose(one, other, atol=1e-3)
    rows = {
        name: torch.cat(
            [oracle.capture(lm.module, "resid_post", 1, document[None])[0, 1:] for document in atlas_text.documents]
        )
        for name, lm in (("base", atlas), ("tuned", atlas_tuned))
    }
    assert np.allclose(found.data["largest"], dictionary.encode(rows).amax(dim=0), atol=1e-3)
    with pytest.raises(WrongModel, match="tuned"):
        Latents(dictionary=dictionary, latent=(7,))(atlas, atlas_text)


def test_differences_and_shifts_are_read_as_they_were_trained(atlas, atlas_tuned, atlas_text):
    difference = view_of(atlas_tuned, "blocks.2.hook_resid_post", "in", minus=atlas, offset=-1)
    dictionary = Dictionary.initialise(
        DictionaryConfig(24, (difference,), (difference,), activation="topk", k=3), norm=1.0
    )
    found = Latents(dictionary=dictionary, n=2)(atlas, atlas_text, others=[atlas_tuned])
    largest = np.zeros(24)
    for document in atlas_text.documents:
        tuned, base = (oracle.capture(lm.module, "resid_post", 2, document[None])[0] for lm in (atlas_tuned, atlas))
        before = torch.cat([torch.zeros_like(base[:1]), (tuned - base)[:-1]])
        largest = np.maximum(largest, dictionary.encode(before)[1:].amax(dim=0).numpy())
    assert np.allclose(found.data["largest"], largest, atol=1e-3)


def test_examples_are_of_different_texts_and_of_every_quantile():
    rows, values = np.arange(100), np.arange(100.0) + 1
    found = examples(rows, values, rows // 10, list(range(10)), top=4, intervals=4, each=2, seed=0, name="x")
    top = [one.row for one in found if one.kind == "top"]
    assert top == [99, 89, 79, 69]  # the best of each text
    for quarter in range(4):
        mine = [one for one in found if one.kind == f"{quarter / 4:.3g}-{(quarter + 1) / 4:.3g}"]
        assert len(mine) == 2 and all(25 * quarter < one.value <= 25 * (quarter + 1) for one in mine)
        assert (mine[0].low, mine[0].high) == (25 * quarter + 1, 25 * (quarter + 1)) and mine[0].row // 10 != mine[
            1
        ].row // 10
    assert examples(rows[:0], values[:0], rows[:0], [0], top=3, intervals=2, each=1, seed=0, name="x") == []
    tokens, starts = np.arange(100) + 500, np.arange(0, 101, 10)
    seen = windows(found[:1], rows, values, tokens=tokens, starts=starts, skip=1, window=12)
    size = int((seen.ids[0] >= 0).sum())
    assert size == 10 and seen.ids[0][: seen.at[0] + 1].tolist() == list(
        range(590, 600)
    )  # no further than its document
    assert np.isnan(seen.codes[0][0]) and seen.codes[0][1:10].tolist() == values[91:].tolist()


def test_picks_say_what_they_pick(atlas, atlas_text):
    dictionary = random_dictionary(atlas, "blocks.1.hook_resid_post")
    density = Latents(dictionary=dictionary, n=3, order="dense")(atlas, atlas_text).data["density"].values
    alive = np.flatnonzero(density > 0)
    for order, best in (("dense", alive[np.argmax(density[alive])]), ("rare", alive[np.argmin(density[alive])])):
        assert best in Latents(dictionary=dictionary, n=3, order=order)(atlas, atlas_text).latents


def test_bad_input_is_refused_by_name(planted, atlas, atlas_text):
    lm, dictionary, _, data, _ = planted
    cases = [
        ({"latent": (99,)}, "numbered from 0"), ({"search": ("unheard",)}, "no single token"), ({"search": ("quince",)}, "are needed"),
        ({"passage": "near"}, "no latent is on"),
    ]  # fmt: skip
    silent = planted_world(n=4)[1]
    silent.b_enc.data.fill_(-1e6)
    for options, message in cases:
        given = silent if options.get("passage") else dictionary
        with pytest.raises(InterpError, match=message):
            Latents(dictionary=given, **options)(lm, data)
    with pytest.raises(BadInput, match="is on anywhere"):
        Latents(dictionary=silent)(lm, data)
    for options, message in [
        ({"order": "size"}, "order"), ({"n": 0}, "`n`"), ({"latent": (1, 1)}, "twice"), ({"search": ("a",), "passage": "b"}, "not both"),
        ({"draws": 3}, "draws"), ({"search": ("a", "a")}, "different"),
    ]:  # fmt: skip
        with pytest.raises(BadInput, match=message):
            Latents(dictionary=dictionary, **options)
    with pytest.raises(BadInput, match="missing"):
        Latents()(lm, data)
    with pytest.raises(WrongModel, match="Load that checkpoint"):
        Latents(dictionary=dictionary)(atlas, atlas_text)
    with pytest.raises(BadInput, match="corpus"):
        Latents(dictionary=dictionary)(lm, ["text"])
    with pytest.raises(BadInput, match="names no site"):
        view = interp.core.dictionary.View("in", width=lm.spec.d_model)
        Latents(dictionary=Dictionary.initialise(DictionaryConfig(8, (view,), (view,), k=2)))(lm, data)


def test_a_real_checkpoint_reads_as_plain_hooks_do(stories):
    lm = stories
    data = corpus(
        ["Once upon a time there was a little dog. It ran to the park and saw a red ball."],
        lm.tokenizer,
        n_ctx=lm.spec.n_ctx,
    )
    dictionary = random_dictionary(lm, "blocks.2.hook_resid_post", latents=32, k=4)
    found = Latents(dictionary=dictionary, n=3)(lm, data)
    rows = oracle.capture(lm.module, "resid_post", 2, data.documents[0][None])[0, int(data.bos) :]
    assert np.allclose(found.data["largest"], dictionary.encode(rows).amax(dim=0), atol=1e-4)
    assert len(found.report_lines()) > 3 and found.card(found.latents[0])["words"]["in"]["promoted"]


def test_documents_of_a_token_and_of_nothing_but_a_bos_do_no_harm(planted):
    lm, dictionary, _, _, _ = planted
    bos = lm.tokenizer.bos_id
    data = Corpus.from_ids([[bos], [bos, 5, lm.encode("forge", bos=False).tokens[0, 0]], [bos, 7]], bos=True)
    found = Latents(dictionary=dictionary, latent=(0,))(lm, data)
    assert found.data.attrs["rows"] == 3 and found.card(0)["density"] == pytest.approx(1 / 3)
    with_bos = Latents(dictionary=dictionary, latent=(0,), bos=True)(lm, data)
    assert with_bos.data.attrs["rows"] == 6
