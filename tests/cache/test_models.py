"""The store on real models: tiny ones of the real classes, and the checkpoints where they are present."""

import pytest
import torch

from interp.cache import Store
from interp.core.batch import Batch
from interp.core.edit import scale
from tests.models.wrapped import lm

SITES = ["blocks.1.hook_resid_post", "blocks.2.attn.hook_z", "blocks.1.mlp.hook_post", "blocks.2.attn.hook_k"]


def texts(vocab: int, count: int = 12) -> list[torch.Tensor]:
    draw = torch.Generator().manual_seed(0)
    lengths = torch.randint(1, 40, (count,), generator=draw).tolist()
    return [torch.randint(0, vocab, (length,), generator=draw) for length in lengths]


@pytest.mark.parametrize("family", ["llama", "gpt_neo", "gemma2"])
@pytest.mark.parametrize("backend", ["transformer_lens", "nnsight"])
def test_stored_rows_are_those_of_a_run_alone(tmp_path, family, backend):
    model = lm(family, backend)
    documents = texts(model.spec.vocab)
    acts = Store(tmp_path, shard_bytes=4 * 32 * 90, forward_tokens=50).capture(model, documents, SITES)
    for index in (0, 5, 11):
        run = model.plain.run(documents[index][None], capture=SITES)
        for site in SITES:
            torch.testing.assert_close(acts[site].example(index), run[site][0], rtol=1e-5, atol=1e-5)
    assert acts["blocks.2.attn.hook_k"].shape[1:] == (model.spec.n_kv_heads, model.spec.d_head)


def test_backends_share_what_is_stored(tmp_path):
    documents, store = texts(lm("llama", "nnsight").spec.vocab), Store(tmp_path)
    assert not store.capture(lm("llama", "nnsight"), documents, SITES).hit
    assert store.capture(lm("llama", "transformer_lens"), documents, SITES).hit
    assert not store.capture(lm("llama", "nnsight", seed=1), documents, SITES).hit


def test_edited_weights_and_edited_runs_miss(tmp_path):
    model, store = lm("llama", "transformer_lens"), Store(tmp_path)
    batch = Batch.padded([row.tolist() for row in texts(model.spec.vocab)])
    clean = store.capture(model, batch, SITES[:1])
    name, weight = next((n, p) for n, p in model.module.named_parameters() if n.endswith("layers.0.mlp.up_proj.weight"))
    with model.edit_weights({name: weight * 1.1}):
        assert not store.capture(model, batch, SITES[:1]).hit
    assert store.capture(model, batch, SITES[:1]).hit
    ablated = store.capture(model, batch, SITES[:1], edits=[scale("blocks.0.attn.hook_z", 0.0, heads=[1])])
    assert not ablated.hit and not torch.allclose(ablated.tensor(), clean.tensor())


@pytest.mark.parametrize("name", ["stories260K-llama", "tinytalk-chat"])
def test_real_checkpoints(tmp_path, real_models, name):
    from interp.models.load import load

    model = load(real_models / name)
    documents = [row % model.spec.vocab for row in texts(300)]
    acts = Store(tmp_path).capture(model, documents, "blocks.1.hook_resid_post")
    run = model.run(documents[3][None], capture=["blocks.1.hook_resid_post"])
    torch.testing.assert_close(acts.example(3), run["blocks.1.hook_resid_post"][0], rtol=1e-4, atol=1e-4)
    assert (
        acts.model == name
        and Store(tmp_path).capture(load(real_models / name), documents, "blocks.1.hook_resid_post").hit
    )
