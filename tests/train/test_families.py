"""Families: which sites they ask for, and which latents may read and write what."""

from dataclasses import replace

import pytest

from interp.core.dictionary import Dictionary, View
from interp.core.errors import BadInput
from interp.core.options import options_of
from interp.train.families import (
    FAMILIES,
    SAE,
    Crosscoder,
    CrossLayerTranscoder,
    DifferenceSAE,
    LayerCrosscoder,
    TokenCrosscoder,
    Transcoder,
)


def views(*names: str, width: int = 8) -> dict[str, View]:
    return {name: View(name, width=width) for name in names}


def spans(config, side: str) -> dict[str, tuple[int, int]]:
    return {view.name: config.range_of(view) for view in getattr(config, side)}


def test_every_option_is_documented() -> None:
    for family in FAMILIES.values():
        assert all(option.help and not option.required for option in options_of(family))
        assert family.__doc__ and family.family


@pytest.mark.parametrize("name", sorted(FAMILIES))
def test_every_family_gives_a_dictionary_of_a_real_model(name: str, atlas) -> None:
    """Sites exist in the model; the configuration comes back from its own JSON; weights have the shape of the ranges."""
    family = FAMILIES[name](expansion=2.0)
    sites = family.sites(atlas.spec)
    known = {str(entry.site) for entry in atlas.sites()}
    given = {}
    for view, site in sites:
        assert str(site) in known
        given[view] = View(view, site=str(site), width=atlas.spec.d_model, model=str(family.model_of(view)))
        assert family.model_of(view) < family.models
    config = family.config(given)
    assert type(config).from_dict(config.to_dict()) == config
    assert config.family == family.family
    dictionary = Dictionary(config)
    for weight, view in zip(dictionary.decoders, config.writes, strict=True):
        low, high = config.range_of(view)
        assert weight.shape == (high - low, view.width)


def test_sae() -> None:
    config = SAE(latents=32, k=4, nested=(0.25, 16)).config(views("in"))
    assert config.latents == 32 and config.centred and config.nested == (8, 16, 32) and config.reads == config.writes
    assert SAE().config(views("in")).latents == 128
    with pytest.raises(BadInput, match="nested"):
        SAE(latents=32, k=4, nested=(64,)).config(views("in"))
    with pytest.raises(BadInput, match=r"\['in'\]"):
        SAE().config(views("other"))


def test_transcoder_sites(atlas) -> None:
    assert [(view, str(site)) for view, site in Transcoder(layer=1).sites(atlas.spec)] == [
        ("in", "blocks.1.hook_resid_mid"),
        ("out", "blocks.1.hook_mlp_out"),
    ]
    beside = replace(atlas.spec, parallel=True)
    assert str(Transcoder(layer=1).sites(beside)[0][1]) == "blocks.1.hook_resid_pre"
    with pytest.raises(BadInput, match="no block 99"):
        Transcoder(layer=99).sites(atlas.spec)
    config = Transcoder(skip=True).config({"in": View("in", width=8), "out": View("out", width=6)})
    assert config.skip and not config.centred and config.latents == 128


def test_crosscoder_of_models() -> None:
    config = Crosscoder(latents=100, k=10).config(views("base", "tuned"))
    assert spans(config, "reads") == spans(config, "writes") == {"base": (0, 100), "tuned": (0, 100)}
    three = Crosscoder(names=("start", "middle", "end"), latents=100, k=10)
    assert three.models == 3 and three.model_of("end") == 2
    assert len(three.config(views("start", "middle", "end")).reads) == 3


def test_dedicated_latents_are_ranges() -> None:
    config = Crosscoder(latents=100, k=10, dedicated=0.1).config(views("base", "tuned"))
    assert config.groups == (("base only", 10), ("shared", 80), ("tuned only", 10))
    assert spans(config, "reads") == spans(config, "writes") == {"base": (0, 90), "tuned": (10, 100)}
    dictionary = Dictionary.initialise(config)
    assert dictionary.norms()["tuned"][:10].tolist() == [0.0] * 10 and bool((dictionary.norms()["base"][:90] > 0).all())
    assert dictionary.norms()["base"][90:].tolist() == [0.0] * 10
    with pytest.raises(BadInput, match="two models"):
        Crosscoder(names=("a", "b", "c"), dedicated=0.1)
    with pytest.raises(BadInput, match=r"0\.5"):
        Crosscoder(dedicated=0.5)
    with pytest.raises(BadInput, match="Give one"):
        Crosscoder(dedicated=0.1, designated_shared=0.1, activation="relu")


def test_designated_shared_latents_have_their_penalty() -> None:
    family = Crosscoder(latents=100, activation="relu", designated_shared=0.2, shared_penalty=0.3)
    assert family.config(views("base", "tuned")).groups == (("shared", 20), ("rest", 80))
    assert family.group_weights == (0.3, 1.0) and Crosscoder().group_weights == ()
    with pytest.raises(BadInput, match="relu"):
        Crosscoder(designated_shared=0.2)


def test_layers_all_weak_and_strict() -> None:
    layers = views("layer 0", "layer 2", "layer 5")
    everything = LayerCrosscoder(latents=30, k=4).config(layers)
    assert set(spans(everything, "writes").values()) == {(0, 30)} and everything.k == 4
    assert LayerCrosscoder(causal="weak").config(layers).k == 48
    weak = LayerCrosscoder(latents=30, k=4, causal="weak").config(layers)
    assert spans(weak, "reads") == {"layer 0": (0, 10), "layer 2": (10, 20), "layer 5": (20, 30)}
    assert spans(weak, "writes") == {"layer 0": (0, 10), "layer 2": (0, 20), "layer 5": (0, 30)}
    strict = LayerCrosscoder(latents=31, k=4, causal="strict").config(layers)
    assert spans(strict, "reads") == {"layer 0": (0, 16), "layer 2": (16, 31)}
    assert spans(strict, "writes") == {"layer 2": (0, 16), "layer 5": (0, 31)}
    with pytest.raises(BadInput, match="at least two"):
        LayerCrosscoder().config(views("layer 0"))
    with pytest.raises(BadInput, match="layer 1"):
        LayerCrosscoder(layers=(0, 1)).config(layers)


def test_cross_layer_transcoder() -> None:
    family = CrossLayerTranscoder(expansion=2.0, k=6, layers=(1, 2, 3))
    config = family.config(views("in 1", "out 1", "in 2", "out 2", "in 3", "out 3"))
    assert config.latents == 48 and config.groups == (("layer 1", 16), ("layer 2", 16), ("layer 3", 16))
    assert spans(config, "reads") == {"in 1": (0, 16), "in 2": (16, 32), "in 3": (32, 48)}
    assert spans(config, "writes") == {"out 1": (0, 16), "out 2": (0, 32), "out 3": (0, 48)}
    assert sum(weight.numel() for weight in Dictionary(config).decoders) == 8 * 16 * (1 + 2 + 3)
    with pytest.raises(BadInput, match="out n"):
        CrossLayerTranscoder().config(views("in 1", "in 2", "out 1"))
    with pytest.raises(BadInput, match="rise"):
        CrossLayerTranscoder(layers=(2, 1))
    with pytest.raises(BadInput, match="belong to some views"):  # the first half would be latents of the first layers
        CrossLayerTranscoder(nested=(0.5, 1)).config(views("in 1", "out 1", "in 2", "out 2"))


def test_tokens_and_differences() -> None:
    family = TokenCrosscoder(offsets=(-2, 0), latents=16, k=2)
    config = family.config(views("token -2", "token +0"))
    assert [view.offset for view in config.reads] == [-2, 0] and config.reads == config.writes
    with pytest.raises(BadInput, match="different"):
        TokenCrosscoder(offsets=(0, 0))
    config = DifferenceSAE(latents=16, k=2).config(views("difference"))
    assert config.reads[0].minus == "base" and config.reads[0].model == "tuned" and DifferenceSAE().models == 2
