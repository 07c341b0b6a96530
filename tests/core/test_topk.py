"""The largest of each row, by tiles: the same sets as the whole product, order by value then id, bounds that hold, bad input refused."""

import pytest
import torch

from interp.core import topk as module
from interp.core.errors import BadInput
from interp.core.topk import Moments, exact, topk


def drawn(rows=70, d=48, vocab=1000, *, seed=0, spread=0.0):
    """Rows, and a table whose columns have very different lengths where `spread` is not 0."""
    draw = torch.Generator().manual_seed(seed)
    table = torch.randn(d, vocab, generator=draw) * torch.exp(spread * torch.randn(vocab, generator=draw))
    return torch.randn(rows, d, generator=draw), table


def sets(ids):
    return ids.sort(dim=-1).values


@pytest.mark.parametrize("screen", [False, True])
@pytest.mark.parametrize(
    ("k", "tile", "spread"), [(1, (32, 256), 0.0), (10, (16, 128), 0.7), (64, (70, 1000), 0.0), (200, (33, 300), 0.7)]
)
def test_sets_are_those_of_the_whole_product(screen, k, tile, spread):
    x, table = drawn(spread=spread)
    top, naive = topk(x, table, k, screen=screen, tile=tile), (x @ table).topk(k)
    assert torch.equal(sets(top.ids), sets(naive.indices)) and top.ids.dtype == torch.int64
    assert (top.values - naive.values).abs().max() < 1e-4 * naive.values.abs().max()
    assert (top.values.diff(dim=1) <= 0).all()
    assert torch.allclose((x @ table).gather(1, top.ids), top.values, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("layout", ["rows of the vocabulary", "tiles", "bfloat16", "float64"])
def test_a_table_in_any_form(layout):
    x, table = drawn()
    if layout == "bfloat16":
        table = table.bfloat16()
    if layout == "float64":
        x, table = x.double(), table.double()
    given = {
        "rows of the vocabulary": table.T.contiguous().T,
        "tiles": lambda: iter([table[:, :300], table[:, 300:301], table[:, 301:]]),
    }.get(layout, table)
    want = (x.double() @ table.double()).topk(9)
    for screen in (False, True):
        top = topk(x, given, 9, screen=screen, tile=(64, 200))
        assert torch.equal(top.ids, want.indices)
        assert top.values.dtype == (torch.float64 if layout == "float64" else torch.float32)


def test_equal_values_come_by_id_wherever_tiles_are_cut():
    x, table = drawn(rows=5, vocab=90)
    table = torch.cat([table, table[:, :60], table], dim=1)  # columns that are the same, far from each other
    x[3] = 0.0
    want = exact(x, table, 7)[1]
    assert want[3].tolist() == list(range(7))
    for screen in (False, True):
        for tile in ((5, 240), (2, 64), (1, 50)):
            top = topk(x, table, 7, screen=screen, tile=tile)
            assert torch.equal(top.ids, want) and top.fallback > 0


def test_what_the_screen_cannot_certify_is_done_exactly():
    draw = torch.Generator().manual_seed(1)
    x, base = torch.randn(20, 32, generator=draw), torch.randn(32, 1, generator=draw)
    table = base + 1e-4 * torch.randn(32, 400, generator=draw)  # all alike in bfloat16
    top = topk(x, table, 5, screen=True)
    assert top.fallback == 20
    assert torch.equal(top.ids, (x.double() @ table.double()).topk(5).indices)


def test_bounds_are_above_and_near():
    x, table = drawn(rows=40, d=64, vocab=500, spread=1.0)
    bound = module.bounded(x, side="row") @ module.bounded(table.T, side="column").T
    upper, truth = module.unrounded(bound).double(), x.double() @ table.double()
    size = x.double().norm(dim=1)[:, None] * table.double().norm(dim=0)
    assert (upper >= truth).all()
    assert ((upper - truth) / size).max() < 0.03  # of a product's largest possible size


@pytest.mark.parametrize("screen", [False, True])
def test_both_ends(screen):
    x, table = drawn()
    top, logits = topk(x, table, 6, signed=True, screen=screen, tile=(30, 256)), x @ table
    assert torch.equal(top.ids[0], logits.topk(6).indices) and torch.equal(top.ids[1], (-logits).topk(6).indices)
    assert torch.allclose(top.values[1], (-logits).topk(6).values, atol=1e-5)


def test_no_product_is_wider_than_a_tile(monkeypatch):
    seen, matmul = [], torch.Tensor.__matmul__

    def spied(a, b):
        product = matmul(a, b)
        seen.append(product.numel() * product.element_size())
        return product

    monkeypatch.setattr(torch.Tensor, "__matmul__", spied)
    x, table = drawn(rows=300, vocab=5000)
    top = topk(x, table, 10, tile=(64, 512))
    assert max(seen) == 64 * 512 * 4 and len(seen) == 50 + 10 * (top.fallback > 0)


def test_moments_are_those_of_the_whole_vocabulary():
    x, table = drawn()
    mean, spread = Moments(table + 3.0, tile=128).of(x)
    logits = x.double() @ (table + 3.0).double()
    assert torch.allclose(mean, logits.mean(dim=1), atol=1e-6)
    assert torch.allclose(spread, logits.std(dim=1, correction=0), rtol=1e-5)


def test_no_rows_give_no_rows():
    top = topk(torch.zeros(0, 48), drawn()[1], 3)
    assert top.values.shape == top.ids.shape == (0, 3) and top.fallback == 0


def test_bad_input_is_refused():
    x, table = drawn()
    broken = x.clone()
    broken[3, 4] = torch.nan
    holed = table.clone()
    holed[1, 999] = torch.inf
    cases = [
        ((broken, table, 3), {}, "`x` has NaN"), ((x, holed, 3), {}, "table has NaN"), ((x, table, 1001), {}, "vocabulary has 1000"),
        ((x, table.T, 3), {}, "Transpose"), ((x[0], table, 3), {}, "must be"), ((x, table, 0), {}, "at least 1"),
    ]  # fmt: skip
    for given, options, said in cases:
        with pytest.raises(BadInput, match=said):
            topk(*given, **options)
    torch.set_float32_matmul_precision("high")
    try:
        with pytest.raises(BadInput, match="'high' precision"):
            topk(x, table, 3)
    finally:
        torch.set_float32_matmul_precision("highest")


@pytest.mark.parametrize("screen", [False, True])
@pytest.mark.parametrize("tile", [(17, 64), (3, 7), (1, 129)])
def test_sets_do_not_depend_on_how_products_round(screen, tile):
    """A product's last digit depends on where in a tile it stands, so equal columns came out different."""
    draw = torch.Generator().manual_seed(3)
    for d in (8, 33, 128):
        x, table = torch.randn(17, d, generator=draw), torch.randn(d, 240, generator=draw)
        table = table[:, torch.randint(0, 240, (480,), generator=draw)]
        for k in (1, 5, 20):
            want, top = exact(x, table, k), topk(x, table, k, screen=screen, tile=tile)
            assert torch.equal(sets(top.ids), sets(want[1])), (d, k)
            assert torch.equal(exact(x, table, k, tile=tile[1])[1], want[1])


@pytest.mark.parametrize("screen", [False, True])
@pytest.mark.parametrize("scale", [1e-42, 1e-30, 1e-18, 1e18, 1e29])
def test_numbers_whose_squares_float32_cannot_hold(screen, scale):
    x, table = drawn(rows=20, d=64, vocab=3000, seed=5)
    for rows, columns in ((x * scale, table), (x, (table * scale).clamp(-1e30, 1e30))):
        top, truth = topk(rows, columns, 10, screen=screen), rows.double() @ columns.double()
        assert torch.equal(sets(top.ids), sets(truth.topk(10).indices))
        assert torch.allclose(top.values.double(), truth.gather(1, top.ids), rtol=1e-4, atol=1e-45)


def test_products_beyond_float32_are_refused():
    x, table = drawn(rows=2)
    for screen in (False, True):
        with pytest.raises(BadInput, match="beyond what float32 holds"):
            topk(x * 1e38, table * 1e3, 3, screen=screen)
        with pytest.raises(BadInput, match="beyond 1e"):
            topk(x, table * 1e37, 3, screen=screen)
