"""Training data: what is held out, what is left out, what is refused, and that it comes the same every time."""

from typing import Any

import pytest
import torch

import interp
from interp.cache import MemoryView, OffsetView, Store
from interp.core.errors import BadInput
from interp.train.data import TrainingData

SITE = "blocks.2.hook_resid_post"


def memory(count: int = 640, width: int = 6) -> torch.Tensor:
    return torch.randn(count, width, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def acts(atlas: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    text = interp.data.corpus(interp.reference.text("atlas", 40), atlas.tokenizer, n_ctx=atlas.spec.n_ctx)
    return Store(tmp_path_factory.mktemp("data")).capture(atlas, text, SITE, quiet=True)


def test_documents_are_held_out_whole(acts: Any) -> None:
    data = TrainingData({"in": acts[SITE]}, heldout=0.2, skip_first=1)
    document, position = acts.position(torch.arange(len(acts)))
    assert not set(document[data.train].tolist()) & set(document[data.aside].tolist())
    assert not (data.train | data.aside)[position == 0].any()
    assert (data.train | data.aside)[position > 0].all()
    assert 0.2 <= data.heldout_rows / (data.rows + data.heldout_rows) < 0.3
    assert torch.equal(torch.cat([part["in"] for part in data.heldout(100)]), acts.tensor()[data.aside])
    assert TrainingData({"in": acts[SITE]}, heldout=0.2, skip_first=1).digest == data.digest
    assert TrainingData({"in": acts[SITE]}, heldout=0.2, skip_first=1, seed=1).digest != data.digest


def test_an_epoch_is_every_row_to_learn_from_once() -> None:
    rows = memory()
    data = TrainingData({"in": MemoryView(rows)}, heldout=0.1)
    batches = iter(data.batches(8, seed=3))
    seen = torch.cat([next(batches)["in"] for _ in range(data.rows // 8)])
    assert torch.equal(seen.sort(0).values, rows[data.train][: len(seen)].sort(0).values) or data.rows % 8
    assert len(seen.unique(dim=0)) == len(seen)


def test_normalised_rows_have_the_width_as_mean_square() -> None:
    data = TrainingData({"in": MemoryView(memory() * 7 + 3)}, heldout=0)
    for mode in ("norm", "centred"):
        rows = data.scalings(mode)["in"].apply(data.take(torch.arange(640))["in"])
        assert rows.double().square().sum(1).mean() == pytest.approx(6, rel=1e-5)
    assert data.scalings("none")["in"].trivial


def test_broken_rows_are_refused_by_number() -> None:
    rows = memory()
    rows[17, 2] = torch.nan
    rows[400, 0] = torch.inf
    with pytest.raises(BadInput, match=r"2 rows with NaN or infinite values, the first is row 17"):
        TrainingData({"in": MemoryView(rows)})


def test_a_broken_row_is_found_where_only_a_sample_is_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("interp.train.data.LOOKED_AT", 20)
    rows = memory()
    rows[639, 5] = torch.nan
    with pytest.raises(BadInput, match=r"1 rows with NaN or infinite values, the first is row 639"):
        TrainingData({"in": MemoryView(rows)})


def test_a_single_broken_row_among_many_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("interp.train.data.LOOKED_AT", 16)
    rows = memory()
    rows[333, 0] = torch.nan
    with pytest.raises(BadInput, match="row 333"):
        TrainingData({"in": MemoryView(rows)})


def test_first_tokens_that_are_left_out_are_not_counted_as_massive(acts: Any) -> None:
    rows = acts.tensor().clone()
    rows[acts.position(torch.arange(len(acts)))[1] == 0] *= 1000
    view = MemoryView(rows, rows=acts[SITE].rows_digest)
    assert TrainingData({"in": view}).massive == {"in": len(acts.offsets) - 1}
    data = TrainingData({"in": view, "same": acts[SITE]}, skip_first=1)  # documents are known from any view
    assert data.massive["in"] == 0
    assert data.looked["in"] == len(acts) - (len(acts.offsets) - 1)


def test_rows_without_a_neighbour_are_left_out(acts: Any) -> None:
    shifted = {"here": acts[SITE], "before": OffsetView(acts[SITE], -1), "after": OffsetView(acts[SITE], 2)}
    data = TrainingData(shifted, heldout=0.2)
    document, position = acts.position(torch.arange(len(acts)))
    ends = acts.offsets[document + 1] - acts.offsets[document]
    assert torch.equal(data.train | data.aside, (position >= 1) & (position < ends - 2))
    for part in data.heldout(100):
        assert all(bool(rows.any(dim=1).all()) for rows in part.values())


def test_massive_rows_are_counted_and_left_out() -> None:
    rows = memory()
    rows[5] *= 1000
    assert TrainingData({"in": MemoryView(rows)}).massive == {"in": 1}
    skipped = TrainingData({"in": MemoryView(rows)}, massive="skip", heldout=0)
    assert skipped.rows == 639
    assert not skipped.train[5]


def test_views_of_other_tokens_are_refused() -> None:
    with pytest.raises(BadInput, match="do not line up"):
        TrainingData({"a": MemoryView(memory()), "b": MemoryView(memory(641))})
    with pytest.raises(BadInput, match="needs documents"):
        TrainingData({"a": MemoryView(memory())}, skip_first=1)
    with pytest.raises(BadInput, match="heldout"):
        TrainingData({"a": MemoryView(memory())}, heldout=1.0)
    with pytest.raises(BadInput, match="zero in most rows"):
        TrainingData({"a": MemoryView(torch.zeros(20, 3))})
    with pytest.raises(BadInput, match="no view"):
        TrainingData({})
