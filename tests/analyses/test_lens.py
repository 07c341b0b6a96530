"""The logit lens is the model's own readout: by plain modules, by cutting later layers out, and where the prediction is planted."""

import numpy as np
import pytest
import torch

import tests.oracle as oracle
from interp.analyses.lens import LogitLens
from interp.analyses.loss import LossByPosition
from interp.core.artifact import open_result
from interp.core.batch import Batch
from interp.core.edit import scale
from interp.core.errors import BadInput
from interp.data import Corpus
from interp.models.load import wrap
from interp.models.reference import as_lm
from interp.models.reference import planted as wired
from tests.models.tiny import FAMILIES, tiny, tokens

from .test_tracing import words


def corpus_of(rows, texts=None):
    rows = [row if isinstance(row, torch.Tensor) else torch.tensor(row) for row in rows]
    made = Corpus.from_ids(rows)
    return made if texts is None else Corpus(made.documents, made.ids, made.source, False, None, tuple(texts))


def readout(model, stream):
    """Final norm, head and soft cap, module by module."""
    norm = oracle.body(model)[2]
    logits = model.get_output_embeddings()(norm(stream))
    cap = getattr(model.config, "final_logit_softcapping", None)
    return logits if cap is None else cap * torch.tanh(logits / cap)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_depth_is_the_models_own_readout(family):
    model = tiny(family)
    lm = wrap(model, words(), family)
    ids = tokens(3, 12)
    found = LogitLens()(lm, corpus_of(ids))
    final = oracle.logits(model, ids)[:, :-1].log_softmax(-1)
    for depth in range(5):
        stream = oracle.capture(model, *(("resid_pre", 0) if depth == 0 else ("resid_post", depth - 1)), ids)
        with torch.no_grad():
            lens = readout(model, stream)[:, :-1].log_softmax(-1)
        nll = -lens.gather(-1, ids[:, 1:, None])[..., 0].mean(1)
        kl = torch.nn.functional.kl_div(lens, final, log_target=True, reduction="none").sum(-1).mean(1)
        agree = (lens.argmax(-1) == final.argmax(-1)).float().mean(1)
        at = found.data.sel(depth=depth)
        assert np.allclose(at["nll"], nll, atol=2e-4), (family, depth)
        assert np.allclose(at["kl"], kl, atol=2e-4), (family, depth)
        assert np.allclose(at["agree"], agree), (family, depth)


@pytest.mark.parametrize("family", ["gpt2", "gemma2", "olmo2"])
def test_the_lens_is_the_model_with_its_later_layers_cut_out(family):
    lm = wrap(tiny(family), words(), family)
    ids = tokens(2, 10)
    found = LogitLens()(lm, corpus_of(ids))
    for depth in range(4):
        cut = [scale(f"blocks.{layer}.hook_{part}_out", 0.0) for layer in range(depth, 4) for part in ("attn", "mlp")]
        logits = lm.run(Batch.of(ids), edits=cut).logits
        nll = torch.nn.functional.cross_entropy(logits[:, :-1].mT, ids[:, 1:], reduction="none").mean(1)
        assert np.allclose(found.data["nll"].sel(depth=depth), nll, atol=2e-4)


def test_the_planted_prediction_appears_at_its_layer():
    rows = wired.repeated(6, 20)
    found = LogitLens()(as_lm(wired.induction()), corpus_of(rows))
    loss = found.by_depth()["mean"].sel(measure="nll").values
    assert loss[:2] == pytest.approx(np.log(32), abs=1e-3)  # nothing is known before block 1, where head 1.0 writes
    assert loss[2] < loss[1] - 1.0
    null = LogitLens()(as_lm(wired.induction(null=True)), corpus_of(rows)).by_depth()["mean"].sel(measure="nll").values
    assert null[2] > null[0] - 0.5


def test_the_last_depth_is_the_model_and_summaries_follow():
    lm = wrap(tiny("llama"), words(), "llama")
    found = LogitLens()(lm, corpus_of(tokens(4, 14)))
    table = found.by_depth()["mean"].sel(depth=4)
    assert float(table.sel(measure="kl")) == 0.0 and float(table.sel(measure="agree")) == 1.0
    agree = found.data["agree"].mean("document").values
    assert agree[found.half_depth()] >= 0.5 and (agree[: found.half_depth()] < 0.5).all()
    kl = found.data["kl"].mean("document").values
    assert found.kl_area() == pytest.approx(np.trapezoid(kl, np.linspace(0, 1, 5)))
    assert (found.data["kl"].values >= -1e-6).all()


def test_documents_of_many_lengths_and_small_batches_change_nothing():
    lm = wrap(tiny("qwen3"), words(), "qwen3")
    rows = [*tokens(3, 9), *tokens(2, 14, seed=1), tokens(1, 1)[0], *tokens(1, 9, seed=2)]
    small, large = (LogitLens(batch_tokens=size)(lm, corpus_of(rows)) for size in (2, 4096))
    assert small.data["document"].values.tolist() == ["0", "1", "2", "3", "4", "6"]  # one token predicts nothing
    assert small.data["tokens"].values.tolist() == [8, 8, 8, 13, 13, 8]
    for name in ("nll", "kl"):
        assert np.allclose(small.data[name], large.data[name], atol=1e-5)
    loss = LossByPosition()(lm, corpus_of(rows)).mean()  # the same tokens, the same weights, the same number
    final = small.by_depth().sel(measure="nll", depth=4)
    assert float(final["mean"]) == pytest.approx(loss["nll"], abs=1e-5)
    assert float(final["mean"]) == pytest.approx(small.headline()["final loss, nats a token"])
    assert float(final["ci_lo"]) < loss["nll"] < float(final["ci_hi"])


def test_intervals_resample_texts_not_pieces():
    lm = wrap(tiny("gpt2"), words(), "gpt2")
    rows = [*tokens(2, 10), *tokens(2, 10)] * 4
    apart = LogitLens()(lm, corpus_of(rows)).by_depth()
    together = LogitLens()(lm, corpus_of(rows, texts=[0, 1, 0, 1] * 4)).by_depth()
    width = {name: (t["ci_hi"] - t["ci_lo"]).sel(measure="nll", depth=4) for name, t in (("a", apart), ("t", together))}
    assert float(width["t"]) > 1.5 * float(width["a"])


def test_it_is_saved_and_says_its_cost(tmp_path):
    lm = wrap(tiny("gpt2"), words(), "gpt2")
    data = corpus_of(tokens(4, 10))
    found = LogitLens()(lm, data)
    assert open_result(found.save(tmp_path / "lens")).data.identical(found.data)
    assert LogitLens().cost(lm, data).tokens == 40 and len(found.headline()) == 3
    assert len(found._repr_html_()) < 30_000


def test_refusals():
    lm = wrap(tiny("gpt2"), words(), "gpt2")
    for data, match in (("text", "corpus"), (corpus_of([[5]]), "one token"), (corpus_of([[5] * 65]), "context"),
                        (corpus_of([[5, 999]]), "vocabulary")):  # fmt: skip
        with pytest.raises(BadInput, match=match):
            LogitLens()(lm, data)
    with pytest.raises(BadInput, match="batch_tokens"):
        LogitLens(batch_tokens=1)
