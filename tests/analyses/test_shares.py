"""Write shares: norms by plain hooks; a silenced sublayer writes nothing."""

import numpy as np
import pytest
import torch

import tests.oracle as oracle
from interp.analyses.shares import WriteShares
from interp.core.artifact import open_result
from interp.core.errors import BadInput
from interp.models.load import wrap
from tests.models.tiny import tiny, tokens

from .test_lens import corpus_of
from .test_tracing import words


@pytest.mark.parametrize("family", ["gpt2", "gemma2", "gpt_neox"])
def test_shares_equal_plain_hooks(family):
    model = tiny(family)
    lm = wrap(model, words(), family)
    rows = [tokens(1, length, seed=length)[0] for length in (9, 14, 1)]
    found = WriteShares(batch_tokens=12)(lm, corpus_of(rows))
    assert found.data["document"].values.tolist() == ["0", "1"]
    for place, row in enumerate(rows[:2]):
        for layer in range(4):
            stream, attn, mlp = (oracle.capture(model, kind, layer, row[None])[0, 1:].norm(dim=-1)
                                 for kind in ("resid_post", "attn_out", "mlp_out"))  # fmt: skip
            at = found.data.isel(document=place).sel(layer=layer)
            assert float(at["share"].sel(part="attn")) == pytest.approx(float((attn / stream).mean()), rel=1e-4)
            assert float(at["share"].sel(part="mlp")) == pytest.approx(float((mlp / stream).mean()), rel=1e-4)
            assert float(at["norm"]) == pytest.approx(float(stream.mean()), rel=1e-4)


def test_a_silenced_layer_writes_nothing_and_a_doubled_one_more():
    lm = wrap(tiny("llama"), words(), "llama")
    data = corpus_of(tokens(3, 12))
    before = WriteShares()(lm, data).by_layer()["mean"].sel(part="mlp").values
    name = "model.layers.2.mlp.down_proj.weight"
    weight = dict(lm.module.named_parameters())[name].detach().clone()
    for factor in (0.0, 2.0):
        with lm.edit_weights({name: factor * weight}):
            after = WriteShares()(lm, data).by_layer()["mean"].sel(part="mlp").values
        assert np.allclose(after[:2], before[:2], rtol=1e-5)
        assert after[2] == 0.0 if factor == 0 else after[2] > before[2]


def test_it_is_saved_said_and_refuses(tmp_path):
    lm = wrap(tiny("gpt2"), words(), "gpt2")
    data = corpus_of(tokens(4, 10))
    found = WriteShares()(lm, data)
    assert open_result(found.save(tmp_path / "shares")).data.identical(found.data)
    assert (
        WriteShares().cost(lm, data).tokens == 40 and len(found.headline()) == 3 and len(found._repr_html_()) < 30_000
    )
    with pytest.raises(BadInput, match="skip"):
        WriteShares(skip=-1)
    with pytest.raises(BadInput, match="longer than the 1"):
        WriteShares()(lm, corpus_of([torch.tensor([5])]))
