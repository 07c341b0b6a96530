"""Rows that are not simply a stored site: in memory, differences, neighbours, heads; and whose they are."""

from typing import Any

import numpy as np
import pytest
import torch

import interp
from interp.cache import Batches, DifferenceView, FlatView, MemoryView, OffsetView, RowView, Store
from interp.cache.gather import gather, model_of, renamed, view_of
from interp.core.dictionary import View
from interp.core.errors import BadInput, UnknownSite, WrongModel

SITE = "blocks.2.hook_resid_post"


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return Store(tmp_path_factory.mktemp("views"))


@pytest.fixture(scope="module")
def text(atlas: Any) -> Any:
    return interp.data.corpus(interp.reference.text("atlas", 12), atlas.tokenizer, n_ctx=atlas.spec.n_ctx)


def test_rows_in_memory_are_drawn_like_stored_ones() -> None:
    rows = torch.randn(50, 4, generator=torch.Generator().manual_seed(0))
    view = MemoryView(rows, "toy")
    assert isinstance(view, RowView)
    assert torch.equal(view.take(torch.tensor([3, 1, 3])), rows[[3, 1, 3]])
    assert np.allclose(view.stats.mean, rows.double().mean(0), atol=1e-6)
    drawn = torch.cat(list(Batches(view, 8, seed=1)))
    assert torch.equal(drawn.sort(0).values, rows.sort(0).values)
    assert view.key == MemoryView(rows.clone()).key != MemoryView(rows + 1).key
    with pytest.raises(BadInput, match="floating-point"):
        MemoryView(torch.zeros(3, 2, dtype=torch.int64))


def test_a_difference_is_row_by_row() -> None:
    left, right = torch.randn(30, 4), torch.randn(30, 4)
    view = DifferenceView(MemoryView(left, "a"), MemoryView(right, "b"))
    assert torch.equal(view.take(torch.arange(30)), left - right)
    assert np.allclose(view.stats.mean, (left - right).double().mean(0), atol=1e-6)
    with pytest.raises(BadInput, match="cannot be subtracted"):
        DifferenceView(MemoryView(left), MemoryView(torch.randn(31, 4)))


def test_neighbours_stay_in_their_document(atlas: Any, store: Store, text: Any) -> None:
    acts = store.capture(atlas, text, SITE)
    view = OffsetView(acts[SITE], -1)
    every = view.take(torch.arange(len(view)))
    rows = acts.tensor()
    starts = set(acts.offsets[:-1].tolist())
    for number in range(len(view)):
        want = torch.zeros(rows.shape[1]) if number in starts else rows[number - 1]
        assert torch.equal(every[number], want)


def test_heads_become_vectors(atlas: Any, store: Store, text: Any) -> None:
    acts = store.capture(atlas, text, "blocks.1.attn.hook_z")
    view = FlatView(acts.only)
    assert torch.equal(view.take(torch.arange(5)), acts.rows(0, 5).flatten(1))
    assert view.stats.mean.shape == (128,)


def test_views_find_their_model_by_its_weights(atlas: Any, atlas_tuned: Any, store: Store, text: Any) -> None:
    base, tuned = view_of(atlas, SITE, "base"), view_of(atlas_tuned, SITE, "tuned")
    change = view_of(atlas_tuned, SITE, "change", minus=atlas, offset=-1)
    rows = gather([base, tuned, change], [atlas_tuned, atlas], text, store, quiet=True)
    number = torch.arange(1, 5)
    assert torch.equal(rows["base"].take(number), store.capture(atlas, text, SITE).only.take(number))
    want = rows["tuned"].take(number - 1) - rows["base"].take(number - 1)
    assert torch.equal(rows["change"].take(number), want)
    assert model_of(tuned, [atlas, atlas_tuned]) is atlas_tuned
    assert renamed(tuned, "x").place == tuned.place
    with pytest.raises(WrongModel, match=r"is of atlas \("):
        gather([base], [atlas_tuned], text, store)


def test_sites_are_checked(atlas: Any) -> None:
    with pytest.raises(UnknownSite, match="layers 0 to 3"):
        view_of(atlas, "blocks.9.hook_resid_post")
    assert view_of(atlas, "blocks.0.attn.hook_z").width == 128


def test_a_view_of_no_site_has_nothing_to_capture(atlas: Any, store: Store, text: Any) -> None:
    with pytest.raises(BadInput, match="of no model's site"):
        gather([View("toy", width=4)], [atlas], text, store)
