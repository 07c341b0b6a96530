"""Pooled activations against plain hooks, text by text; what cannot be pooled is refused."""

import pytest
import torch

from interp.analyses.directions import gather
from interp.cache import Store
from interp.core.batch import At
from interp.core.edit import scale
from interp.core.errors import BadInput, UnknownSite
from interp.data import Prompt, labelled
from tests import oracle

TEXTS = ["Once upon a time there was a dog.", "Hi", "The cat sat on the mat and it was very, very happy."]


@pytest.mark.parametrize("pool", ["last", "mean", "each"])
def test_texts_of_any_length_are_pooled_as_plain_hooks_would(stories, pool):
    found = gather(stories, TEXTS, ["hook_embed", "blocks.*.hook_resid_post"], pool=pool)
    for place, text in enumerate(TEXTS):
        encoding = stories.tokenizer.encode(text)
        assert encoding.bos  # so that leaving it out of means is tested
        ids = torch.tensor([encoding.ids])
        states = oracle.capture(stories.module, "resid_post", 2, ids)[0]
        want = {"last": states[-1:], "mean": states[1:].mean(dim=0, keepdim=True), "each": states[1:]}[pool]
        got = found["blocks.2.hook_resid_post"][found.rows == place]
        assert got.shape == want.shape
        assert torch.allclose(got, want, atol=2e-5)


def test_heads_are_flattened_or_chosen(stories):
    site = "blocks.1.attn.hook_z"
    every, some = gather(stories, TEXTS, site), gather(stories, TEXTS, site, heads=[3, 1])
    d_head = stories.spec.d_head
    whole = every[site].reshape(len(TEXTS), stories.spec.n_heads, d_head)
    assert torch.equal(some[site], whole[:, [3, 1]].flatten(1))


def test_a_span_is_the_mean_of_its_tokens(atlas):
    prompt = Prompt.of("The painted shield of Ryvethun was", subject="Ryvethun")
    found = gather(atlas, [prompt], "blocks.0.hook_resid_post", pool="subject")
    ids = torch.tensor([found.tokens[0].ids])
    states = oracle.capture(atlas.module, "resid_post", 0, ids)[0]
    assert torch.allclose(
        found["blocks.0.hook_resid_post"][0], states[slice(*found.tokens[0].spans["subject"])].mean(dim=0), atol=2e-5
    )


def test_the_store_and_padded_runs_give_the_same(stories):
    sites = ["blocks.0.hook_mlp_out", "blocks.3.hook_resid_post"]
    read = gather(stories, TEXTS, sites, pool="mean")
    stored, padded = (
        gather(stories, TEXTS, sites, pool="mean", store=Store()),
        gather(stories, TEXTS, sites, pool="mean", edits=lambda _: []),
    )
    for site in sites:
        assert torch.equal(stored[site], read[site])
        assert torch.allclose(padded[site], read[site], atol=2e-5)


def test_edits_act(stories):
    halved = gather(
        stories,
        TEXTS,
        "blocks.3.hook_resid_post",
        edits=lambda batch: [scale("blocks.3.hook_resid_post", 0.5, at=At.all())],
    )
    whole = gather(stories, TEXTS, "blocks.3.hook_resid_post")
    assert torch.allclose(2 * halved.values[halved.sites[0]], whole.values[whole.sites[0]], atol=1e-4)


def test_what_cannot_be_gathered_is_refused(stories, atlas):
    with pytest.raises(BadInput, match="'first' is neither in the text"):
        gather(stories, TEXTS, "hook_embed", pool="first")
    with pytest.raises(BadInput, match="patterns"):
        gather(stories, TEXTS, "blocks.0.attn.hook_pattern")
    with pytest.raises(BadInput, match="heads=\\[9\\]"):
        gather(stories, TEXTS, "blocks.0.attn.hook_z", heads=[9])
    with pytest.raises(BadInput, match="no head axis"):
        gather(stories, TEXTS, "hook_embed", heads=[0])
    with pytest.raises(BadInput, match="list of texts"):
        gather(stories, "one text", "hook_embed")
    with pytest.raises(UnknownSite):
        gather(stories, TEXTS, "blocks.99.hook_resid_post")
    with pytest.raises(BadInput, match="context"):
        gather(atlas, ["The lake is blue. " * 200], "hook_embed")


def test_labels_follow_their_texts():
    texts = labelled(positive=["a b", "c"], negative=["d e f"])
    assert texts.labels == (True, False, True)
