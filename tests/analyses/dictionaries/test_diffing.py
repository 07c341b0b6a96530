"""The comparison of two models: patching against plain hooks, a planted difference, twins, what is refused, and what is kept."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch

import interp
import tests.oracle as oracle
from interp.analyses.dictionaries.diffing import DiffResult, ModelDiff
from interp.analyses.dictionaries.diffing.delta import change
from interp.analyses.dictionaries.diffing.patching import NOTHING, SWAP
from interp.cache.gather import view_of
from interp.core.dictionary import Dictionary, DictionaryConfig
from interp.core.dictionary.scaling import Scaling
from interp.core.errors import BadInput, WrongModel
from interp.data import Corpus
from interp.models.load import wrap
from tests.models.tiny import VOCAB, tiny

from ..test_crossmodel import words
from .coders import drawn

SITE = "blocks.1.hook_resid_post"


def two(family: str = "gpt2"):
    """A model and a copy whose layers write something else."""
    base = tiny(family).requires_grad_(False)
    other = copy.deepcopy(base)
    draw = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for name, weight in other.named_parameters():
            if "mlp" in name:
                weight.add_(0.5 * weight.std() * torch.randn(weight.shape, generator=draw))
    return wrap(base, words(), "base"), wrap(other, words(), "tuned")


@pytest.fixture(scope="module")
def models():
    return two()


@pytest.fixture(scope="module")
def text():
    draw = torch.Generator().manual_seed(1)
    rows = [torch.randint(2, VOCAB, (6 + i % 3,), generator=draw) for i in range(9)]
    return Corpus.from_ids(rows, ids=[f"text {i}" for i in range(9)])


def apart(base, tuned) -> Dictionary:
    """Signed latents of either model's own, each of which reconstructs its model exactly."""
    d = base.spec.d_model
    views = tuple(
        type(view)(**{**vars(view), "latents": span})
        for view, span in ((view_of(base, SITE, "base"), (0, 2 * d)), (view_of(tuned, SITE, "tuned"), (2 * d, 4 * d)))
    )
    config = DictionaryConfig(
        4 * d, views, views, activation="relu", code_scale="none", centred=False, family="crosscoder"
    )
    made, signs = Dictionary(config), torch.cat([torch.eye(d), -torch.eye(d)])
    for weight in (*made.encoders, *made.decoders):
        weight.copy_(signs)
    return made


def shared(base, tuned, **options) -> Dictionary:
    views = view_of(base, SITE, "base"), view_of(tuned, SITE, "tuned")
    return drawn(views, views, **options)


def test_latents_of_either_model_alone_recover_everything_together(models, text):
    result = ModelDiff(dictionary=apart(*models), skip=0, least_on=1, shown=4)(*models, text)
    counts = result.counts()
    assert counts["tuned only"] + counts["base only"] + counts["dead"] == 4 * models[0].spec.d_model
    assert min(counts["tuned only"], counts["base only"]) > 50
    table = result.recovered()["recovered"]
    assert float(table.sel(set="both")) == pytest.approx(1.0, abs=1e-6) and float(table.sel(set=NOTHING)) == 0.0
    assert float(table.sel(set=SWAP)) == pytest.approx(1.0, abs=1e-6)
    assert max(result.data.attrs["fvu_base"], result.data.attrs["fvu_tuned"]) < 1e-10


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_patched_streams_give_what_plain_hooks_give(family, text):
    base, tuned = two(family)
    coder = shared(base, tuned)
    with torch.no_grad():
        coder.decoders[0][:20] = 0.0  # the first are the tuned model's alone
    result = ModelDiff(dictionary=coder, skip=1, first=2, random_sets=2, shown=3)(base, tuned, text)
    place = 4
    ids = text.documents[list(text.ids).index(str(result.data["document"].values[place]))][None]
    x = {
        "base": oracle.capture(base.module, "resid_post", 1, ids)[0],
        "tuned": oracle.capture(tuned.module, "resid_post", 1, ids)[0],
    }
    codes = coder.encode({name: rows[1:] for name, rows in x.items()})[:, :20]
    new = x["tuned"].clone()
    new[1:] = x["base"][1:] + codes @ (coder.decoder("tuned") - coder.decoder("base"))[:20]
    said = oracle.edited(tuned.module, [("resid_post", 1, lambda _: new[None])], ids)[0, 1:].double().log_softmax(-1)
    target = oracle.logits(tuned.module, ids)[0, 1:].double().log_softmax(-1)
    kl = (said.exp() * (said - target)).sum(-1)
    got = result.data["kl"].sel(set="tuned only").values[place]
    assert np.allclose(got, [float(kl.sum()), float(kl[:2].sum()), float(kl[2:].sum())], rtol=1e-4, atol=1e-6)
    assert result.data["patched"].values[place].tolist() == [len(kl), 2, len(kl) - 2]


def test_twins_have_nothing_to_recover(text):
    base, _ = two()
    twin = wrap(copy.deepcopy(base.module), words(), "base")
    views = view_of(base, SITE, "base"), view_of(twin, SITE, "tuned")
    coder = drawn(views, views)
    for side in (coder.encoders, coder.decoders, coder.biases):
        side[1].copy_(side[0])
    result = ModelDiff(dictionary=coder, skip=0)(base, twin, text)
    assert np.nanmax(np.abs(result.data["delta"].values - 0.5)) < 1e-6 and result.counts()["tuned only"] == 0
    assert np.abs(result.data["kl"].sel(set=NOTHING).values).max() < 1e-5
    living = result.data["bin"].values == "shared"
    assert np.allclose(result.data["nu"].values[..., living], 1.0, atol=1e-4)
    assert np.isnan(result.recovered()["recovered"].values).all() and "do not differ there" in result.report_lines()[-1]
    assert result.report_lines() and "no latent is near" in "".join(result.report_lines())


def test_tokens_contexts_and_densities_are_those_of_the_text(models, text):
    coder = shared(*models)
    with torch.no_grad():
        coder.decoders[0][:5] = 0.0
    result = ModelDiff(dictionary=coder, skip=0, patch_tokens=0, examples=3, words=4)(*models, text)
    x = {
        name: torch.cat([lm.run(row[None], capture=[SITE])[SITE][0] for row in text.documents])
        for name, lm in zip(("base", "tuned"), models, strict=True)
    }
    codes, tokens = coder.encode(x).double().numpy(), torch.cat(text.documents).numpy()
    assert result.data["on"].values.tolist() == (codes > 0).sum(axis=0).tolist()
    for place, latent in enumerate(result.data["shown"].values[:5]):
        column = codes[:, latent]
        shares = np.bincount(tokens, column, minlength=VOCAB) / column.sum()
        assert result.data["token"].values[place, 0] == models[0].tokenizer.label(int(shares.argmax()))
        assert result.data["token_share"].values[place, 0] == pytest.approx(shares.max(), rel=1e-5)
        assert np.allclose(result.data["code"].values[place], np.sort(column)[::-1][:3], rtol=1e-4)
        best = models[0].tokenizer.decode([int(tokens[column.argmax()])])
        assert f"«{best}»" in str(result.data["context"].values[place, 0])
    assert "nothing was patched" in result.report_lines()[-1]
    table = result.latents()
    assert len(table) == coder.latents and table["density"].to_numpy() == pytest.approx((codes > 0).mean(axis=0))


def test_the_most_extreme_latents_stand_in_for_thresholds(models, text):
    result = ModelDiff(dictionary=shared(*models), skip=0, extreme=6, random_sets=1)(*models, text)
    assert result.counts()["tuned only"] == result.counts()["base only"] == 6
    delta, named = result.data["delta"].values, result.data["bin"].values
    assert f"down to {delta[named == 'tuned only'].min():.2f} for tuned" in result.report_lines()[1]
    assert delta[named == "tuned only"].min() >= np.nanmax(delta[np.isin(named, ("shared", "other"))])


def test_results_survive_saving(models, text, tmp_path):
    result = ModelDiff(dictionary=shared(*models), skip=0, extreme=4, random_sets=1)(*models, text)
    result.save(tmp_path / "diff")
    again = interp.open(tmp_path / "diff")
    assert isinstance(again, DiffResult) and again.report_lines() == result.report_lines()
    assert (
        again.headline().keys() == result.headline().keys()
        and again.plot() is not None
        and again.plot(by="patching") is not None
    )


def test_a_folded_crosscoder_gives_the_deltas_and_ratios_of_the_one_it_was(models, text):
    coder = shared(*models)
    x = {
        name: torch.cat([lm.run(row[None], capture=[SITE])[SITE][0] for row in text.documents])
        for name, lm in zip(("base", "tuned"), models, strict=True)
    }
    sizes = {name: float((rows**2).sum(1).mean()) for name, rows in x.items()}
    d = {name: rows.shape[1] for name, rows in x.items()}
    coder.scale_views({name: Scaling(torch.zeros(d[name]), (d[name] / sizes[name]) ** 0.5) for name in x})
    method = {"skip": 0, "patch_tokens": 0, "ratio": "free", "extreme": 5}
    one, two_ = (ModelDiff(dictionary=which, **method)(*models, text).data for which in (coder, coder.folded()))
    for name in ("delta", "change", "nu", "free", "norm"):
        assert np.allclose(one[name].values, two_[name].values, rtol=1e-3, atol=1e-3, equal_nan=True), name
    assert one["label"].values.tolist() == two_["label"].values.tolist()


def test_change_sees_what_norms_do_not():
    base = torch.tensor([[1.0, 0.0], [1.0, 0.0], [1.0, 0.0], [0.0, 0.0], [0.0, 0.0]])
    tuned = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [0.0, 3.0], [0.0, 0.0]])
    assert np.allclose(change(base, tuned), [0.0, 2**0.5, 2.0, 1.0, np.nan], equal_nan=True)
    assert np.isnan(change(base[:, :1], tuned)).all()


def test_the_latents_changed_most_are_patched_beside_as_many_of_any(models, text):
    coder = shared(*models)
    with torch.no_grad():
        coder.decoders[1][3:].copy_(coder.decoders[0][3:])  # all but three write the same into both
        coder.decoders[1][:3].copy_(-coder.decoders[0][:3])
    result = ModelDiff(dictionary=coder, skip=0, changed=(0.01, 1.0), random_sets=2)(*models, text)
    living = result.data["bin"].values != "dead"
    moved = result.data["change"].values  # the two models' rows differ a little in size, and so do the decoders then
    assert moved[:2].min() > 1.8 and np.nanmax(moved[3:]) < 0.2 and living[:2].all()
    table = result.changed()
    assert table["latents"].tolist() == [max(1, round(0.01 * living.sum())), living.sum()]
    everything = float(result.recovered()["recovered"].sel(set="all latents"))
    assert table["recovered"].iloc[1] == pytest.approx(everything, abs=1e-6) == table["any"].iloc[1]
    assert result.data["shown_for"].values.tolist().count("changed") > 3
    assert {0, 1} <= set(result.data["shown"].values[result.data["shown_for"].values == "changed"][:3].tolist())
    assert "as many of any" in result.report_lines()[-1]


def test_what_cannot_be_compared_is_refused(models, text):
    base, tuned = models
    coder = shared(base, tuned)
    with pytest.raises(WrongModel, match="base first"):
        ModelDiff(dictionary=coder)(tuned, base, text)
    view = (view_of(base, SITE, "in"),)
    with pytest.raises(BadInput, match="train crosscoder"):
        ModelDiff(dictionary=drawn(view, view, family="sae"))(base, tuned, text)
    with pytest.raises(BadInput, match="compete apart"):
        ModelDiff(dictionary=shared(base, tuned, activation="topk", k=3, code_scale="decoupled"))(base, tuned, text)
    sides = view_of(base, SITE, "base"), view_of(tuned, SITE, "tuned")
    late = tuple(replace(view, offset=1) for view in sides)
    with pytest.raises(BadInput, match="as it is"):
        ModelDiff(dictionary=drawn(late, late))(base, tuned, text)
    with pytest.raises(BadInput, match="shares of the latents"):
        ModelDiff(dictionary=coder, changed=(0.0,))
    with pytest.raises(BadInput, match="corpus"):
        ModelDiff(dictionary=coder)(base, tuned, ["text"])
    with pytest.raises(WrongModel):
        ModelDiff(dictionary=coder)(base, two("llama")[1], text)
    with pytest.raises(BadInput, match="`dictionary` is missing"):
        ModelDiff()(base, tuned, text)
    with pytest.raises(BadInput, match="skipped"):
        ModelDiff(dictionary=coder, skip=50)(base, tuned, text)
    for options, said in (
        ({"ratio": "all"}, "ratio"),
        ({"tuned_only": 0.3}, "tuned_only"),
        ({"tokens": 0}, "tokens"),
        ({"valid": (1.0,)}, "two ends"),
    ):
        with pytest.raises(BadInput, match=said):
            ModelDiff(**options)
