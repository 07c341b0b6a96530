"""Which latents fire on a word: planted ones are found, chance is not, and every statistic is that of its definition."""

import numpy as np
import pytest
import torch

import interp
from interp.analyses.dictionaries.latents import Latents
from interp.analyses.dictionaries.latents.search import Tokens, auc, difference, p_values, shifted_sums
from interp.analyses.dictionaries.latents.wanted import halves
from interp.cache import MemoryView
from interp.cache.gather import view_of
from interp.core.dictionary import Dictionary, DictionaryConfig
from interp.core.errors import BadInput
from interp.core.seed import numpy_generator
from interp.data import Corpus, corpus
from interp.train.data import TrainingData
from interp.train.training import Training
from tests.analyses.dictionaries.planted_latents import planted_world, random_dictionary


@pytest.fixture(scope="module")
def planted():
    return planted_world(n=120)


def test_a_search_finds_the_planted_latent_of_a_word(planted):
    lm, dictionary, _, data = planted
    found = Latents(dictionary=dictionary, search=("forge", "zoo"), n=2, draws=199)(lm, data)
    assert found.data.attrs["picked"] == 1 and set(found.latents) <= set(range(dictionary.latents))
    for latent, word in ((0, "forge"), (1, "zoo")):
        table = found.searched(word).set_index("latent")
        assert table.loc[latent, "p_holm"] < 0.05 and table.loc[latent, "auc"] > 0.98
        assert table.loc[latent, "on"] == pytest.approx(15, abs=0.2) and table.loc[1 - latent, "p_holm"] > 0.5
    named = Latents(dictionary=dictionary, search=("forge",), latent=(0, 1), draws=99)(lm, data)
    assert list(named.searched()["latent"]) == [0, 1] and named.data.attrs["picked"] == 0
    hits = sum(int((document == lm.encode("forge", bos=False).tokens[0, 0]).sum()) for document in data.documents)
    assert int(named.data["search_hits"][0]) == hits  # named by hand, they are tested on all texts
    assert any("forge" in line and "AUC" in line for line in named.report_lines())
    with pytest.raises(BadInput, match="searched"):
        Latents(dictionary=dictionary, latent=(0,))(lm, data).searched()


def test_a_planted_latent_is_found_however_many_are_tested(planted):
    """With 24 tests and 19 rotations no corrected p could be below 1: there are as many rotations as the tests need."""
    lm, dictionary, _, data = planted
    found = Latents(dictionary=dictionary, search=("forge", "zoo", "we", "saw"), latent=tuple(range(6)), draws=19)(
        lm, data
    )
    p = found.searched("forge").set_index("latent")["p_holm"]
    assert p[0] < 0.05 and p[1] > 0.5


def test_latents_that_know_only_positions_fire_on_no_word(atlas):
    """Tokens are drawn independently of where they stand, so what reads positions alone is about none of them."""
    dictionary = random_dictionary(atlas, "hook_pos_embed", latents=128, k=8)
    words = [" king", " the", " of", " evening", " poet", " ate"]
    ids = [atlas.encode(word, bos=False).tokens[0, 0].item() for word in words]
    draw, bos = np.random.default_rng(0), atlas.tokenizer.bos_id
    rows = [[bos, *draw.choice(ids, 24).tolist()] for _ in range(60)]
    found = Latents(dictionary=dictionary, search=tuple(words), n=2, draws=399, candidates=8)(
        atlas, Corpus.from_ids(rows, bos=True)
    )
    p = found.data["search_p"].values
    assert p.shape == (6, 8) and np.isfinite(p).all()
    assert float(found.data["search_p_holm"].min()) > 0.03  # the least that 48 tests can have is 0.025
    assert 0.3 < p.mean() < 0.7 and (p < 0.05).mean() < 0.15
    assert abs(float(found.data["search_auc"].mean()) - 0.5) < 0.05


def test_the_statistics_are_those_of_their_definitions():
    draw = np.random.default_rng(1)
    dense = np.where(draw.random(400) < 0.3, draw.integers(1, 4, 400), 0).astype(float)  # with ties
    inside = draw.random(400) < 0.2
    rows = np.flatnonzero(dense)
    wins = (dense[inside][:, None] > dense[~inside]) + 0.5 * (dense[inside][:, None] == dense[~inside])
    how = {"count": 400, "hits": int(inside.sum())}
    assert auc(dense[rows], inside[rows], **how) == pytest.approx(wins.mean())
    expected = dense[inside].mean() - dense[~inside].mean()
    assert difference(dense.sum(), dense[inside].sum(), **how) == pytest.approx(expected)


def test_rotations_move_tokens_within_their_documents_only():
    starts = np.array([[1, 5], [6, 16], [17, 18]])  # rows 0, 5 and 16 do not count
    hits = np.array([2, 3, 17])
    tokens = Tokens(starts, hits)
    assert tokens.count == 15 and tokens.keep(np.array([0, 1, 5, 6, 16, 17, 18])).tolist() == [
        False,
        True,
        False,
        True,
        False,
        True,
        False,
    ]
    values = np.array([1.0, 10.0, 100.0, 1000.0, 7.0, 5.0])
    drawn = shifted_sums(tokens, [(np.array([1, 2, 3, 4, 10, 17]), values)], draws=200, seed=0, name="x")[:, 0]
    assert set(drawn) == {5.0 + pair for pair in (11.0, 110.0, 1100.0, 1001.0)}  # neighbours stay neighbours
    again = shifted_sums(tokens, [(np.array([1, 2, 3, 4, 10, 17]), values)], draws=200, seed=0, name="x")[:, 0]
    assert (drawn == again).all()
    assert p_values(np.array([1105.0]), drawn[:, None])[0] == pytest.approx((1 + (drawn == 1105).sum()) / 201)


def test_p_is_uniform_where_codes_know_nothing_of_the_word():
    p = []
    for seed in range(60):
        draw = np.random.default_rng(seed)
        spans = np.stack([np.arange(30) * 40, np.arange(1, 31) * 40], axis=1)
        hits = np.sort(draw.choice(1200, 50, replace=False))
        runs = np.repeat(draw.random(120) < 0.2, 10)  # codes that are on for stretches of ten tokens
        rows = np.flatnonzero(runs)
        values = draw.random(len(rows)) + 1
        tokens = Tokens(spans, hits)
        drawn = shifted_sums(tokens, [(rows, values)], draws=199, seed=seed, name="null")
        p.append(p_values(np.array([values[np.isin(rows, hits)].sum()]), drawn)[0])
    assert 0.35 < np.mean(p) < 0.65 and np.mean(np.array(p) < 0.05) < 0.13


def test_pieces_of_a_text_are_on_one_half():
    side = halves([0, 0, 1, 2, 2, 2, 3], numpy_generator(0, "x"))
    assert side[0] == side[1] and len(set(side[3:6])) == 1 and sorted(side[[0, 2, 3, 6]].tolist()) == [0, 0, 1, 1]
    assert sorted(halves([0, 0, 0, 0], numpy_generator(0, "x")).tolist()) == [0, 0, 1, 1]  # one text: its pieces


@pytest.fixture(scope="module")
def trained(atlas):
    """A dictionary of 256 latents, learned in a few seconds."""
    data = corpus(interp.reference.text("atlas", 40), atlas.tokenizer, n_ctx=atlas.spec.n_ctx)
    view = view_of(atlas, "blocks.2.hook_resid_post")
    site = interp.Site.parse(view.site)
    rows = torch.cat([atlas.read([document], [site])[site][1:] for document in data.documents])
    config = DictionaryConfig(256, (view,), (view,), activation="topk", k=8)
    made = Training(tokens=16_000, batch=256, lr=4e-3, warmup=0.02)(
        TrainingData({"in": MemoryView(rows, "in")}), config
    )
    assert isinstance(made.dictionary, Dictionary)
    return made.dictionary


def test_a_trained_dictionary_has_latents_for_words(atlas, trained):
    held = corpus(interp.reference.text("atlas", 80)[40:], atlas.tokenizer, n_ctx=atlas.spec.n_ctx)
    found = Latents(dictionary=trained, search=(" ate", " king"), n=4, candidates=6)(atlas, held)
    for word in (" ate", " king"):
        best = found.searched(word).iloc[0]
        assert best["p_holm"] < 0.05 and best["auc"] > 0.9 and best["on"] > 5 * best["off"]
