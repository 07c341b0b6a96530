"""Weight statistics: matrices whose spectrum is known, and parameters taken from plain modules."""

import numpy as np
import pytest
import torch

from interp.analyses.weight_stats import WeightStats, measures
from interp.core.artifact import open_result
from interp.core.errors import CheckpointError
from interp.models.load import wrap
from tests.models.tiny import tiny

from .test_tracing import words


def test_matrices_with_a_known_spectrum():
    left, right = torch.randn(12, 1, generator=torch.Generator().manual_seed(0)), torch.ones(1, 7)
    one = measures(left @ right)
    assert one["stable_rank"] == pytest.approx(1, abs=1e-5) and one["effective_rank"] == pytest.approx(1, abs=1e-3)
    assert one["frobenius"] == pytest.approx(one["spectral"], rel=1e-5)
    eye = measures(3 * torch.eye(8))
    assert eye["stable_rank"] == pytest.approx(8) and eye["effective_rank"] == pytest.approx(8)
    assert eye["spectral"] == pytest.approx(3) and eye["frobenius"] == pytest.approx(3 * 8**0.5)
    two = measures(torch.diag(torch.tensor([2.0, 1.0, 1.0])))
    p = np.array([0.5, 0.25, 0.25])
    assert two["stable_rank"] == pytest.approx(6 / 4) and two["effective_rank"] == pytest.approx(
        np.exp(-(p * np.log(p)).sum())
    )
    assert set(measures(torch.zeros(3, 3)).values()) == {0.0}


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_parameters_are_those_of_the_plain_module(family):
    model = tiny(family)
    found = WeightStats()(wrap(model, words(), family))
    for layer in range(4):
        if family == "gpt2":
            block = model.transformer.h[layer]
            q, k, v = block.attn.c_attn.weight.split(32, dim=1)
            parts = {"W_Q": q, "W_K": k, "W_V": v, "W_O": block.attn.c_proj.weight, "W_in": block.mlp.c_fc.weight,
                     "W_out": block.mlp.c_proj.weight}  # fmt: skip
        else:
            attn, mlp = model.model.layers[layer].self_attn, model.model.layers[layer].mlp
            parts = {"W_Q": attn.q_proj.weight, "W_K": attn.k_proj.weight, "W_V": attn.v_proj.weight, "W_O": attn.o_proj.weight,
                     "W_in": mlp.up_proj.weight, "W_gate": mlp.gate_proj.weight, "W_out": mlp.down_proj.weight}  # fmt: skip
        assert set(found.data["matrix"].values) == set(parts)
        for name, matrix in parts.items():
            at, matrix = found.data.sel(matrix=name, layer=layer), matrix.detach()
            assert float(at["frobenius"]) == pytest.approx(float(matrix.norm()), rel=1e-5)
            assert float(at["spectral"]) == pytest.approx(float(torch.linalg.matrix_norm(matrix, 2)), rel=1e-5)
    embed = model.get_input_embeddings().weight
    assert np.allclose(found.data["row_norm"].sel(table="W_E"), embed.detach().norm(dim=1), rtol=1e-5)
    assert found.data["row_norm"].sizes["token"] == len(embed) and bool(found.data.attrs["tied"]) == (family == "gpt2")


def test_a_planted_low_rank_matrix_stands_out_and_random_ones_do_not():
    lm = wrap(tiny("gpt2"), words(), "gpt2")
    plain = WeightStats()(lm)
    share = (plain.data["effective_rank"] / plain.data["null"]).values
    assert np.nanmin(share) > 0.9 and np.nanmax(share) < 1.1
    name = "transformer.h.2.mlp.c_proj.weight"
    matrix = dict(lm.module.named_parameters())[name].detach()
    u, s, v = torch.linalg.svd(matrix, full_matrices=False)
    with lm.edit_weights({name: (u[:, :2] * s[:2]) @ v[:2]}):
        found = WeightStats()(lm)
    ranks = (found.data["effective_rank"] / found.data["null"]).sel(matrix="W_out").values
    assert int(ranks.argmin()) == 2 and ranks[2] < 0.1
    assert WeightStats()(lm).data["frobenius"].equals(plain.data["frobenius"])


def test_nan_weights_are_refused_by_name():
    model = tiny("gpt2")
    lm = wrap(model, words(), "gpt2")
    with torch.no_grad():
        model.transformer.h[1].mlp.c_fc.weight[0, 0] = float("nan")
    with pytest.raises(CheckpointError, match="W_in of layer 1"):
        WeightStats()(lm)


def test_folding_changes_what_reads_only():
    lm = wrap(tiny("llama"), words(), "llama")
    raw, folded = WeightStats()(lm), WeightStats(folded=True)(lm)
    same = raw.data["frobenius"].values == folded.data["frobenius"].values
    kept = [str(name) for name, row in zip(raw.data["matrix"].values, same, strict=True) if row.all()]
    assert kept == ["W_O", "W_out"]


def test_it_is_saved_and_says_its_cost(tmp_path):
    lm = wrap(tiny("gpt2"), words(), "gpt2")
    found = WeightStats()(lm)
    assert open_result(found.save(tmp_path / "weights")).data.identical(found.data)
    assert WeightStats().cost(lm).forwards == 0 and len(found.headline()) == 3 and len(found._repr_html_()) < 30_000


@pytest.mark.parametrize("family", ["qwen3_moe", "gpt_oss"])
def test_a_mixture_of_experts_has_the_matrices_of_its_attention(family):
    from interp.figures import depth
    from tests.models.wrapped import lm

    result = WeightStats()(lm(family, "nnsight"), None)
    assert list(result.data["matrix"].values) == ["W_Q", "W_K", "W_V", "W_O"]
    assert not bool(result.data["stable_rank"].isnull().any()) and len(depth.strips({"weights": result})) == 2
