"""From a model and text to a dictionary in one call: what is planned, said, kept and refused."""

from pathlib import Path
from typing import Any

import pytest
import torch

import interp
from interp.cache import Store
from interp.cache.gather import identity
from interp.core.dictionary.seen import share_seen
from interp.core.errors import BadInput
from interp.train.families import FAMILIES
from interp.train.fitting import fit, plan
from interp.train.training import Training

SITE = "blocks.2.hook_resid_post"
SHORT = Training(tokens=600, batch=100)


@pytest.fixture(scope="module")
def text(atlas: Any) -> Any:
    return interp.data.corpus(interp.reference.text("atlas", 12), atlas.tokenizer, n_ctx=atlas.spec.n_ctx)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return Store(tmp_path_factory.mktemp("fitting"))


@pytest.mark.parametrize("name", list(FAMILIES))
def test_the_plan_counts_every_number(name: str, atlas: Any, atlas_tuned: Any, text: Any, store: Store) -> None:
    family = FAMILIES[name](latents=64, k=4)
    if name == "transcoder":
        family = FAMILIES[name](latents=64, k=4, skip=True)
    found = plan(family, [atlas, atlas_tuned][: family.models], text, store)
    made = interp.core.dictionary.Dictionary(found.config)
    assert found.parameters == sum(weight.numel() for weight in made.parameters())
    assert f"{found.parameters:,} parameters" in found.describe()
    assert found.rows == text.n_tokens


def test_what_comes_out_says_where_it_is_from(atlas: Any, text: Any, store: Store, tmp_path: Path) -> None:
    trained = fit(FAMILIES["sae"](site=SITE, latents=32, k=4), [atlas], text, SHORT, store=store, folder=tmp_path / "x")
    made = interp.open(tmp_path / "x" / "dictionary")
    (view,) = made.config.reads
    assert (view.site, view.fingerprint) == (SITE, identity(atlas))
    assert made.metadata["corpus_digest"] == text.digest()
    assert share_seen(made.metadata["corpus_sketch"], text.documents[:3]) == 1.0
    assert made.digest == trained.dictionary.digest


def test_massive_rows_are_told_with_a_cure_that_is_left(
    atlas: Any, text: Any, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("interp.train.fitting.MASSIVE", 2.0)
    monkeypatch.setattr("interp.train.data.MASSIVE", 1.2)
    family, said = FAMILIES["sae"](site=SITE, latents=32, k=4), []
    fit(family, [atlas], text, SHORT, store=store, say=said.append)
    fit(family, [atlas], text, SHORT, store=store, say=said.append, skip_first=1)
    fit(family, [atlas], text, SHORT, store=store, say=said.append, massive="skip")
    lines = [line for line in said if "attention sinks" in line]
    assert len(lines) == 3
    assert f"of {text.n_tokens:,} rows" in lines[0]
    assert "--skip-first 1 or --massive skip" in lines[0]
    assert f"of {text.n_tokens - len(text):,} rows" in lines[1]
    assert "skip-first" not in lines[1]
    assert "left out." in lines[2]


def test_several_with_different_weights_of_their_groups_are_refused(
    atlas: Any, atlas_tuned: Any, text: Any, store: Store
) -> None:
    options = {"site": SITE, "latents": 32, "activation": "relu"}
    two = [FAMILIES["crosscoder"](**options, designated_shared=share) for share in (0.0, 0.25)]
    with pytest.raises(BadInput, match="group"):
        fit(two, [atlas, atlas_tuned], text, SHORT, store=store)


def test_refusals(atlas: Any, atlas_tuned: Any, text: Any, store: Store) -> None:
    sae = FAMILIES["sae"](site=SITE, latents=32, k=4)
    with pytest.raises(BadInput, match="of 1 model; given are 2"):
        fit(sae, [atlas, atlas_tuned], text, SHORT, store=store)
    with pytest.raises(BadInput, match="no family"):
        fit([], [atlas], text, SHORT, store=store)
    with pytest.raises(BadInput, match="same sites"):
        fit([sae, FAMILIES["sae"](site="blocks.1.hook_resid_post", latents=32)], [atlas], text, SHORT, store=store)
    with pytest.raises(BadInput, match="`architecture`"):
        fit(sae, [atlas], text, SHORT, store=store, architecture="gated")
    with pytest.raises(BadInput, match="trainer"):
        fit(sae, [atlas], text, SHORT, store=store, trainer="other")
    assert torch.get_default_device() == torch.device("cpu")
