"""Selection against flat sorting, products against dense ones: equal sets on adversarial scores, equal gradients, the same on every run."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from interp.core.dictionary import kernels, select
from interp.core.dictionary.kernels import (
    bag,
    bag_rows_grad,
    bag_values_grad,
    by_latent,
    gathered_products,
    row_of,
    select_batch,
    select_topk,
    sums_by_latent,
)
from interp.core.errors import BadInput


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def flat_set(scores, count):
    """The reference: everything sorted, equal values by number, only what is above zero."""
    flat = scores.flatten()
    order = flat.argsort(descending=True, stable=True)[:count]
    return order[flat[order] > 0].sort().values


def small_scores(rows, latents, kind, seed):
    scores = draw(rows, latents, seed=seed)
    if kind == "coarse":  # many equal values
        scores = (scores * 2).round()
    elif kind == "one row":  # everything that counts is in one row, and in neighbouring latents
        scores[0] += 50
    elif kind == "one group":
        scores[:, :: max(1, latents // select.GROUP)] += 50
    elif kind == "zero":
        scores.zero_()
    elif kind == "negative":
        scores = -scores.abs()
    elif kind == "equal":
        scores.fill_(1.5)
    return scores


KINDS = ("plain", "coarse", "one row", "one group", "zero", "negative", "equal")


@settings(max_examples=120, deadline=None)
@given(
    rows=st.integers(1, 9),
    latents=st.sampled_from([1, 7, 16, 33, 160, 700, 1024]),
    kind=st.sampled_from(KINDS),
    share=st.floats(0.0, 1.0),
    hint=st.sampled_from([None, 0.0, 0.5, 1.0, 1.09, 3.0, 1e9]),
    seed=st.integers(0, 5),
)
def test_a_batch_keeps_the_set_of_the_flat_sort(rows, latents, kind, share, hint, seed):
    scores = small_scores(rows, latents, kind, seed)
    count = 1 + int(share * (scores.numel() - 1))
    want = flat_set(scores, count)
    cut = float(scores.flatten()[want].min()) if len(want) else 1.0
    found = select_batch(scores, count, None if hint is None else hint * cut)
    assert torch.equal(found.flat, want)
    assert torch.equal(found.values, scores.flatten()[want])
    assert found.cut == (cut if len(want) else 0.0)


@settings(max_examples=80, deadline=None)
@given(
    rows=st.integers(1, 9),
    latents=st.sampled_from([1, 7, 33, 160, 700, 1024]),
    kind=st.sampled_from(KINDS),
    share=st.floats(0.0, 1.0),
    seed=st.integers(0, 5),
)
def test_rows_keep_the_set_of_the_sort(rows, latents, kind, share, seed):
    scores = small_scores(rows, latents, kind, seed)
    k = 1 + int(share * min(40, latents - 1))
    values, ids = select_topk(scores, k)
    assert torch.equal(values, scores.gather(1, ids)) and (values.diff(dim=1) <= 0).all()
    order = scores.argsort(dim=1, descending=True, stable=True)[:, :k]
    on = values > 0
    assert torch.equal(values, scores.gather(1, order))
    assert torch.equal(ids[on], order[on])


def test_tiles_and_scales_change_nothing(monkeypatch):
    scores, scale = draw(37, 515), draw(515, seed=1).abs()
    whole, top = select_batch(scores * scale, 300), select_topk(scores * scale, 9)
    for entries in (1, 5 * 515, 10**9):
        monkeypatch.setitem(select.TILE, "cpu", entries)
        found = select_batch(scores, 300, scale=scale)
        assert torch.equal(found.flat, whole.flat) and torch.equal(found.values, whole.values) and not found.fell_back
        again = select_batch(scores, 300, whole.cut, scale=scale)
        assert torch.equal(again.flat, whole.flat) and not again.fell_back
        assert all(torch.equal(*pair) for pair in zip(select_topk(scores, 9, scale=scale), top, strict=True))


def test_a_useless_hint_is_reported():
    scores = draw(64, 512)
    cut = select_batch(scores, 500).cut
    assert not select_batch(scores, 500, cut * 1.05).fell_back
    assert select_batch(scores, 500, cut * 1.5).fell_back  # nothing near it is above nine tenths of it
    assert select_batch(scores, 500, 1e-6).fell_back  # half of all entries are
    assert not select_batch(scores, 500).fell_back


def test_scores_in_bfloat16_are_compared_as_they_are():
    scores = draw(20, 300).bfloat16()
    found = select_batch(scores, 111)
    assert found.values.dtype == torch.float32 and torch.equal(found.flat, flat_set(scores.float(), 111))
    assert torch.equal(select_topk(scores, 5)[0], scores.float().topk(5).values)


def test_what_has_no_largest_entry_is_refused():
    scores = draw(8, 640)
    scores[3, 77] = torch.nan
    for call in (lambda: select_topk(scores, 4), lambda: select_batch(scores, 4), lambda: select_batch(scores, 4, 1.0)):
        with pytest.raises(BadInput, match="NaN"):
            call()
    with pytest.raises(BadInput, match="k=9"):
        select_topk(draw(2, 8), 9)
    with pytest.raises(BadInput, match="at least 1"):
        select_batch(draw(2, 8), 0)


def entries(rows=23, latents=2100, d=12, dtype=torch.float64, seed=0):
    """Random codes with empty rows, repeated latents and latents that never fire, beside their dense form."""
    dense = draw(rows, latents, seed=seed).to(dtype)
    dense[draw(rows, latents, seed=seed + 1) < 2.2] = 0
    dense[4], dense[:, 7] = 0, 0
    row, ids = dense.nonzero(as_tuple=True)
    offsets = torch.cat([torch.zeros(1, dtype=torch.int64), torch.bincount(row, minlength=rows).cumsum(0)])
    weights = draw(latents, d, seed=seed + 2).to(dtype)
    return dense, ids, dense[row, ids], offsets, weights, draw(rows, d, seed=seed + 3).to(dtype)


@pytest.mark.parametrize(("dtype", "close"), [(torch.float64, 1e-13), (torch.float32, 1e-5), (torch.bfloat16, 4e-2)])
def test_products_are_the_dense_ones(dtype, close):
    dense, ids, values, offsets, weights, gradient = entries(dtype=dtype)
    near = dict(atol=close, rtol=close)
    exact = (dense.double(), weights.double(), gradient.double())
    torch.testing.assert_close(bag(ids, values, offsets, weights).double(), exact[0] @ exact[1], **near)
    of = row_of(offsets)
    want = (exact[2] @ exact[1].T)[of, ids]
    torch.testing.assert_close(bag_values_grad(gradient, weights, ids, offsets).double(), want, **near)
    torch.testing.assert_close(gathered_products(gradient, weights, ids, of).double(), want, **near)
    order = by_latent(ids, dense.shape[1])
    rows = bag_rows_grad(gradient, of, values, order)
    torch.testing.assert_close(rows.double(), exact[0].T @ exact[2], **near)
    part = bag_rows_grad(gradient, of, values, order, latents=(5, 1200), out=torch.full((1195, 12), 9.0).to(dtype))
    assert torch.equal(part, rows[5:1200])
    if dtype != torch.bfloat16:
        torch.testing.assert_close(sums_by_latent(values, order).double(), exact[0].sum(dim=0), **near)


def test_nothing_on_gives_zeros():
    none = torch.zeros(0, dtype=torch.int64)
    offsets, order = torch.zeros(4, dtype=torch.int64), by_latent(none, 5)
    assert torch.equal(bag(none, torch.zeros(0), offsets, torch.ones(5, 2)), torch.zeros(3, 2))
    assert bag_values_grad(torch.ones(3, 2), torch.ones(5, 2), none, offsets).shape == (0,)
    assert torch.equal(bag_rows_grad(torch.ones(3, 2), none, torch.zeros(0), order), torch.zeros(5, 2))
    assert torch.equal(sums_by_latent(torch.zeros(0), order), torch.zeros(5))


def test_a_device_without_dot_products_by_index_gathers(monkeypatch):
    _, ids, _, offsets, weights, gradient = entries()
    monkeypatch.setattr(kernels, "GATHERED", 40)
    want = bag_values_grad(gradient, weights, ids, offsets)
    torch.testing.assert_close(gathered_products(gradient, weights, ids, row_of(offsets)), want)
