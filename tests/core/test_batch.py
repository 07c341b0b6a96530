import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from interp.core.batch import At, Batch
from interp.core.errors import BadInput, SpanError

ROWS = [[5, 6, 7, 8], [5, 6]]
rows = st.lists(st.lists(st.integers(0, 9), min_size=1, max_size=6), min_size=1, max_size=4)


def columns(where: torch.Tensor) -> list[list[int]]:
    return [row.nonzero().flatten().tolist() for row in where]


@given(rows=rows, side=st.sampled_from(["left", "right"]))
def test_padding_never_moves_a_token_within_its_row(rows: list[list[int]], side: str) -> None:
    batch = Batch.padded(rows, side=side)
    for row, ids in enumerate(rows):
        assert batch.tokens[row][batch.mask[row]].tolist() == ids
        assert batch.position_ids[row][batch.mask[row]].tolist() == list(range(len(ids)))
        assert batch.tokens[row, batch.last[row]] == ids[-1]


@given(rows=rows, position=st.integers(-3, 2))
def test_positions_select_the_same_tokens_whatever_the_padding(rows: list[list[int]], position: int) -> None:
    def selected(side: str) -> list[list[int]] | str:
        batch = Batch.padded(rows, side=side)
        try:
            where = At.index(position).resolve(batch)
        except BadInput as error:
            return str(error)
        return [batch.position_ids[row][where[row]].tolist() for row in range(len(rows))]

    left = selected("left")
    assert left == selected("right")
    if isinstance(left, list):
        assert left == [[range(len(ids))[position]] if -len(ids) <= position < len(ids) else [] for ids in rows]


def test_of_takes_ids_lists_tensors_and_batches() -> None:
    for tokens in ([1, 2, 3], [[1, 2, 3]], torch.tensor([1, 2, 3]), torch.tensor([[1, 2, 3]], dtype=torch.int32)):
        batch = Batch.of(tokens)
        assert batch.tokens.tolist() == [[1, 2, 3]] and batch.unpadded and batch.tokens.dtype == torch.int64
    assert Batch.of(batch) is batch


@pytest.mark.parametrize(
    "tokens",
    [[[1, 2], [3]], [], [[]], torch.zeros(1, 2, 3, dtype=torch.int64), torch.tensor([1.5]), torch.tensor([True])],
)
def test_what_are_not_tokens_is_refused(tokens: object) -> None:
    with pytest.raises(BadInput):
        Batch.of(tokens)  # type: ignore[arg-type]


def test_bad_masks_ids_and_spans_are_refused() -> None:
    tokens, mask = torch.tensor([[1, 2], [3, 4]]), torch.ones(2, 2, dtype=torch.bool)
    for changes in (
        {"mask": mask[:1]}, {"mask": mask.int()}, {"mask": torch.tensor([[True, True], [False, False]])}, {"ids": ("one",)},
        {"spans": {"s": torch.tensor([[0, 1]])}}, {"spans": {"s": torch.tensor([[0, 3], [0, 1]])}},
        {"spans": {"s": torch.tensor([[1, 1], [0, 1]])}},
    ):  # fmt: skip
        with pytest.raises(BadInput):
            Batch(**({"tokens": tokens, "mask": mask} | changes))  # type: ignore[arg-type]


def test_spans_resolve_row_by_row_and_never_onto_padding() -> None:
    tokens, mask = torch.arange(10).reshape(2, 5), torch.ones(2, 5, dtype=torch.bool)
    mask[0, 0] = False
    batch = Batch(tokens, mask, {"subject": torch.tensor([[1, 4], [2, 3]]), "rare": torch.tensor([[-1, -1], [1, 3]])})
    assert columns(At.span("subject").resolve(batch)) == [[1, 2, 3], [2]]
    assert columns(At.span("subject", "last").resolve(batch)) == [[3], [2]]
    assert columns(At.span("subject", "middle").resolve(batch)) == [[2], []]
    for part, expected in [("all", [1, 2]), ("first", [1]), ("last", [2]), ("middle", [])]:
        assert columns(At.span("rare", part).resolve(batch)) == [[], expected]
    with pytest.raises(SpanError, match="it has 'subject' or 'rare'"):
        At.span("object").resolve(batch)


def test_spans_that_lost_their_place_are_refused() -> None:
    """Spans of unpadded rows put on a left-padded batch would act beside the subject, in silence."""
    left = Batch.padded([[5, 6, 7, 8], [5, 6]], side="left")
    for span, why in [([[1, 3], [0, 2]], "padding"), ([[1, 3], [1, 3]], "padding"), ([[1, 3], [-1, 3]], "negative")]:
        with pytest.raises(SpanError, match=why):
            Batch(left.tokens, left.mask, {"subject": torch.tensor(span)})
    Batch(left.tokens, left.mask, {"subject": torch.tensor([[1, 3], [2, 4]])})


def test_padding_between_tokens_is_refused() -> None:
    tokens, mask = torch.arange(10).reshape(2, 5), torch.ones(2, 5, dtype=torch.bool)
    mask[0, 0] = mask[0, 4] = False  # at both ends is fine
    assert Batch(tokens, mask).position_ids.tolist() == [[0, 0, 1, 2, 2], [0, 1, 2, 3, 4]]
    mask[1, 2] = False
    with pytest.raises(BadInput, match="between its real tokens"):
        Batch(tokens, mask)


def test_tokens_masks_and_rows() -> None:
    batch = Batch.padded([[7, 1, 7], [7]], side="left", pad_id=7)
    assert columns(At.token(7).resolve(batch)) == [[0, 2], [2]]  # padding with the same id is not an occurrence
    assert columns(At.token(7, "first").resolve(batch)) == [[0], [2]]
    assert columns(At.token(7, "last").resolve(batch)) == [[2], [2]]
    assert columns(At.all().in_rows(-1).resolve(batch)) == [[], [2]]
    assert columns(At.mask(torch.ones(2, 3, dtype=torch.bool)).resolve(batch)) == [[0, 1, 2], [2]]
    with pytest.raises(BadInput, match="not in a batch of 2 rows"):
        At.all().in_rows(2).resolve(batch)
    with pytest.raises(BadInput, match="position mask"):
        At.mask(torch.ones(1, 3, dtype=torch.bool)).resolve(batch)
    with pytest.raises(BadInput, match="the longest has 3 tokens"):
        At.index(3).resolve(batch)


@pytest.mark.parametrize(
    "make", [lambda: At.span("s", "end"), lambda: At.token(1, "second"), lambda: Batch.padded(ROWS, side="up")]
)
def test_unknown_words_are_refused_with_the_legal_ones(make: object) -> None:
    with pytest.raises(BadInput, match="must be"):
        make()  # type: ignore[operator]


def test_digest_sees_order_padding_side_and_bos() -> None:
    digests = [
        Batch.padded(ROWS).digest(), Batch.padded(ROWS, side="left").digest(), Batch.padded(ROWS[::-1]).digest(),
        Batch.padded([[0, *row] for row in ROWS]).digest(), Batch.of([5, 6, 7, 8]).digest(),
    ]  # fmt: skip
    assert len(set(digests)) == 5 and digests[0] == Batch.padded(ROWS).digest()


def test_rows_and_repeat_keep_names_and_spans() -> None:
    batch = Batch(
        torch.arange(6).reshape(3, 2),
        torch.ones(3, 2, dtype=torch.bool),
        {"s": torch.tensor([[0, 1], [1, 2], [0, 2]])},
        ("a", "b", "c"),
    )
    part = batch.rows([2, 0])
    assert part.ids == ("c", "a") and part.spans["s"].tolist() == [[0, 2], [0, 1]]
    assert batch.rows(slice(1, None)).ids == ("b", "c") and batch.rows(1).ids == ("b",)
    assert batch.repeat(2).ids == ("a", "a", "b", "b", "c", "c")


def test_a_selector_describes_itself_apart_from_others() -> None:
    masks = [torch.tensor([[True, False]]), torch.tensor([[False, True]])]
    texts = [At.all(), At.last(), At.span("s"), At.span("s", "last"), *map(At.mask, masks), At.all().in_rows(0)]
    assert len({at.describe() for at in texts}) == len(texts)
