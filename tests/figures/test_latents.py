"""Cards, searches and effects of latents as figures: what is drawn is what the result holds."""

import numpy as np
import pytest

from interp.analyses.dictionaries.effects import LatentEffect
from interp.analyses.dictionaries.latents import Latents
from interp.core.errors import BadInput
from interp.figures import latent_effects, latents
from interp.figures.sentences import shade_quantity
from interp.figures.shrink import BUDGET, size
from tests.analyses.dictionaries.planted_latents import planted_world


@pytest.fixture(scope="module")
def world():
    lm, dictionary, _, data = planted_world(n=40, latents=8)
    found = Latents(dictionary=dictionary, latent=(0, 1), search=("forge", "zoo"), draws=99)(lm, data)
    effect = LatentEffect(dictionary=dictionary, latent=(0, 1), separate=True, draws=2)(lm, data.select(range(8)))
    return found, effect


@pytest.mark.parametrize("theme", ["screen", "paper"])
def test_a_card_shows_codes_words_and_text(world, theme):
    found, _ = world
    figure = latents.plot(found, latent=0, n=3, theme=theme)
    codes, words = figure.data[0], figure.data[1]
    assert int(np.sum(codes.y)) == int(found.data["count"].sel(latent=0).sum())
    assert "iron" in words.text and max(words.x) == pytest.approx(found.card(0)["words"]["in"]["promoted"][0]["z"])
    bold = [note.text for note in figure.layout.annotations if note.name == "token" and note.text.startswith("<b>")]
    assert len(bold) == 3 + 5 and set(bold) <= {"<b>forge</b>", "<b>mine</b>"}
    assert len(figure.layout.shapes) >= 8 and size(figure) < BUDGET
    assert (figure.layout.title.text is None) == (theme == "paper")
    assert any("manifest" not in note.text and found.manifest.hash in note.text for note in figure.layout.annotations)


def test_a_search_shows_what_is_beyond_chance(world):
    found, _ = world
    figure = found.plot(by="search")
    table = found.searched()
    sure, other = figure.data
    assert len(sure.x) == int((table["p_holm"] < 0.05).sum()) and len(sure.x) + len(other.x) == len(table)
    assert max(sure.x) == pytest.approx(table["auc"].max())
    assert any("tested on all texts" in note.text for note in figure.layout.annotations)


def test_effects_stand_beside_their_controls(world):
    _, effect = world
    figure = effect.plot(theme="paper")
    names = [trace.name for trace in figure.data]
    assert names == ["other latents", "random directions", "the latents, 95 %"] * 2
    assert np.allclose(figure.data[2].y, effect.effect_of("kl")["mean"].values.ravel())
    assert len(figure.data[0].x) == 2 * 2
    assert len(latent_effects.plot(effect, measures=("nll",)).data) == 3


def test_bad_input_is_refused(world):
    found, effect = world
    for options, message in [
        ({"latent": 5}, "latent"), ({"by": "map"}, "by"), ({"n": 0}, "`n`"), ({"view": "out"}, "view"), ({"theme": "dark"}, "theme"),
    ]:  # fmt: skip
        with pytest.raises(BadInput, match=message):
            latents.plot(found, **options)
    with pytest.raises(BadInput, match="measures"):
        effect.plot(measures=("logprob",))
    with pytest.raises(BadInput, match="empty"):
        effect.plot(measures=())
    assert shade_quantity(0.0) == "rgb(255, 255, 255)"
