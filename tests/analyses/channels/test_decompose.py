"""Components against full matrices, and what has no direction of its own."""

import pytest
import torch

from interp.analyses.channels import Setting, decompose, free, ov, qk, reader, single, subspace
from interp.core.errors import BadInput
from interp.models import reference


@pytest.fixture(scope="module")
def lm():
    return reference.as_lm(reference.channels())


@pytest.mark.parametrize("folded", [True, False])
@pytest.mark.parametrize("which", ["ov", "qk"])
def test_components_are_the_full_svd(atlas, which, folded):
    setting = Setting(folded=folded)
    parts = decompose(atlas, 2, setting, which=which)
    factors = (ov if which == "ov" else qk)(atlas, 2, setting)
    for head in range(atlas.spec.n_heads):
        whole = factors.matrix(head)
        _, s, vt = torch.linalg.svd(whole)
        kept = atlas.spec.d_head
        assert torch.allclose(parts.values[head], s[:kept], atol=1e-12) and float(s[kept]) < 1e-12
        rebuilt = (parts.read[head].T * parts.values[head]) @ parts.write[head]
        assert torch.allclose(rebuilt, whole, atol=1e-13)
        alike = (parts.write[head] * vt[:kept]).sum(-1).abs()
        apart = torch.tensor([len(parts.block(head, index)) == 1 for index in range(kept)])
        assert torch.allclose(alike[apart], torch.ones(int(apart.sum()), dtype=alike.dtype), atol=1e-8)
        assert torch.equal(parts.write[head].abs().argmax(-1), parts.write[head].argmax(-1))  # the sign


def test_some_heads_are_those_heads(atlas):
    every, some = decompose(atlas, 1), decompose(atlas, 1, heads=[3, 0])
    assert torch.allclose(some.values, every.values[[3, 0]], atol=1e-14)
    assert torch.allclose(some.write, every.write[[3, 0]], atol=1e-9)


@pytest.mark.parametrize("kind", ["Q", "K", "V"])
@pytest.mark.parametrize("biases", [False, True])
def test_a_reader_measures_what_its_matrix_makes_of_a_vector(atlas, kind, biases):
    setting = Setting(biases=biases)
    seen = reader(atlas, 3, kind, setting)
    factors = ov(atlas, 3, setting) if kind == "V" else qk(atlas, 3, setting)
    for head in range(atlas.spec.n_heads):
        whole = factors.matrix(head)
        whole = (whole.T if kind == "K" else whole)[: atlas.spec.d_model]
        x = torch.randn(5, len(whole), generator=torch.Generator().manual_seed(head), dtype=torch.float64)
        assert torch.allclose((x @ whole).norm(dim=-1) / whole.norm(), (x @ seen.side[head]).norm(dim=-1), rtol=1e-10)
        assert torch.allclose(torch.linalg.svdvals(whole)[: atlas.spec.d_head], seen.spectrum[head], atol=1e-10)
        assert torch.allclose(whole.norm(), seen.norm[head])


def test_a_layernorm_takes_one_dimension(atlas):
    assert free(atlas) == atlas.spec.d_model - 1 and free(atlas, Setting(folded=False)) == atlas.spec.d_model
    parts, ones = decompose(atlas, 1), torch.ones(atlas.spec.d_model, dtype=torch.float64)
    assert float((parts.write @ ones).abs().max()) < 1e-10
    assert float((reader(atlas, 2, "Q").side.mT @ ones).abs().max()) < 1e-4  # folded views are float32


def test_what_cannot_be_told_apart_is_refused_by_name(lm):
    parts = decompose(lm, 0)
    core = parts.values[1].clone()
    core[5] = core[4]
    with lm.edit_weights(_rebuilt(lm, parts, 1, core)):
        assert decompose(lm, 0).block(1, 4) == range(4, 6) and decompose(lm, 0).block(1, 3) == range(3, 4)
        with pytest.raises(BadInput, match=r"'0.1.5' cannot be told from its neighbours: singular values 4 to 5"):
            single(lm, "0.1.5")
        with pytest.raises(BadInput, match=r"'0.1.5' cannot be told from 0.1.4"):
            subspace(lm, ["0.1.5", "0.1.0"])
        both = subspace(lm, ["0.1.4", "0.1.5"])
    assert torch.allclose(both.T @ both, parts.write[1, 4:6].T @ parts.write[1, 4:6], atol=1e-5)


def test_beyond_the_rank_there_is_nothing(lm):
    parts = decompose(lm, 0)
    core = parts.values[1].clone()
    core[10:] = 0
    with lm.edit_weights(_rebuilt(lm, parts, 1, core)):
        low = decompose(lm, 0)
        assert low.rank.tolist() == [16, 10, *[16] * 6] and low.write[1, 10:].isnan().all()
        assert float(low.gap[1, 9]) == float("inf") and low.gap[1, 10:].isnan().all()
        with pytest.raises(BadInput, match=r"no component '0.1.10'.*has rank 10: components 0 to 9"):
            single(lm, "0.1.10")
    with lm.edit_weights({"W_O.0.1": torch.zeros(16, lm.spec.d_model)}):
        assert decompose(lm, 0).rank[1] == 0
        with pytest.raises(BadInput, match=r"no component '0.1.0': the matrix of head 0.1 is zero"):
            single(lm, "0.1.0")
    with lm.edit_weights({"W_Q.1.2": torch.zeros(lm.spec.d_model, 16)}):
        seen = reader(lm, 1, "Q")
        assert seen.norm[2] == 0 and seen.side[2].isnan().all() and seen.side[3].isfinite().all()


def test_numbers_that_are_none_are_named(lm):
    gone = {"W_V.0.3": torch.full((lm.spec.d_model, 16), torch.nan)}
    with lm.edit_weights(gone), pytest.raises(BadInput, match=r"infinite numbers in head 0\.3"):
        decompose(lm, 0)


def test_a_component_alone(lm):
    parts, one = decompose(lm, 0), single(lm, "0.1.5")
    assert torch.allclose(one.write, parts.write[1, 5], atol=1e-9) and str(one.component) == "0.1.5"
    assert one.gap == pytest.approx((1 / 0.8, 1 / 0.8), rel=1e-5)
    assert single(lm, "0.1.0").gap[0] == float("inf") == single(lm, "0.1.15").gap[1]


def test_subspaces_refuse_what_spans_less(lm):
    assert subspace(lm, ["0.1.5", "0.3.2"]).shape == (2, lm.spec.d_model)
    for names in ([], ["0.1.5", "0.1.5"]):
        with pytest.raises(BadInput, match="each once"):
            subspace(lm, names)
    alike = {"W_O.0.3": lm.weights.W_O(0)[1], "W_V.0.3": lm.weights.W_V(0)[1]}
    with lm.edit_weights(alike), pytest.raises(BadInput, match="fewer than 2 dimensions"):
        subspace(lm, ["0.1.5", "0.3.5"])


def test_distances_are_for_rotary_models(lm):
    with pytest.raises(BadInput, match="offset=1 is for models with rotary positions"):
        qk(lm, 1, offset=1)
    with pytest.raises(BadInput, match="leave out offset=1"):
        decompose(lm, 1, offset=1)
    with pytest.raises(BadInput, match="leave out offset=2 for kind 'V'"):
        reader(lm, 1, "V", offset=2)
    with pytest.raises(BadInput, match="`kind` must be one of 'Q', 'K' or 'V'; not 'q'"):
        reader(lm, 1, "q")


def _rebuilt(lm, parts, head, values):
    """W_V and W_O of one head with other singular values (the planted model's norms have gain 1)."""
    root = values.sqrt()
    return {f"W_V.0.{head}": parts.read[head].T * root, f"W_O.0.{head}": root[:, None] * parts.write[head]}
