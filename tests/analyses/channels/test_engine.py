"""Products of thin factors against full matrices, on plain random tensors."""

import numpy as np
import pytest
import torch

from interp.analyses.channels.decompose import components
from interp.analyses.channels.factors import Factors
from interp.analyses.channels.scoring.engine import Readers, Writers, moved, weighed
from interp.analyses.channels.scoring.tally import Top, tile_of
from interp.core.errors import BadInput
from interp.core.seed import generator

D, H, HEADS = 40, 6, 4


def draw(*shape, name=""):
    return torch.randn(*shape, generator=generator(0, "engine", name, *shape), dtype=torch.float64)


def heads(groups=HEADS, *, h=H, name="", d=D):
    """Factors of a layer whose left sides are shared by groups of heads."""
    left = draw(groups, d, h, name=f"{name} left").repeat_interleave(HEADS // groups, dim=0)
    return Factors(left, draw(HEADS, h, d, name=f"{name} right"))


def readers(factors, groups=HEADS, kind="Q"):
    """Kind Q reads through `factors`, K through their transpose, V through them as OV."""
    if kind == "V":
        return moved(factors, d_model=D, groups=groups)[1]
    return weighed(factors, d_model=D, groups=groups)[kind]


def writers(factors):
    return moved(factors, d_model=factors.right.shape[2], groups=len(factors.left))[0]


def whole(factors, head, kind):
    matrix = factors.matrix(head)
    return matrix.T if kind == "K" else matrix


@pytest.mark.parametrize("kind", ["Q", "K", "V"])
def test_a_component_scores_what_its_direction_does_whatever_its_strength(kind):
    ov, read = heads(name="ov"), heads(name="read")
    parts = components(ov)
    found = writers(ov).score(readers(read, kind=kind))
    for writer in range(HEADS):
        for reader in range(HEADS):
            m = whole(read, reader, kind)
            rank_one = (
                parts.values[writer, :, None, None] * parts.read[writer, :, :, None] * parts.write[writer, :, None]
            )
            want = (rank_one @ m).norm(dim=(1, 2)) / (rank_one.norm(dim=(1, 2)) * m.norm())
            assert torch.allclose(found[writer, :, reader], want, atol=1e-12)


@pytest.mark.parametrize("kind", ["Q", "K", "V"])
def test_the_whole_score_is_the_weighted_mean_square_and_the_trace_of_grams(kind):
    ov, read = heads(name="ov"), heads(name="read")
    said = writers(ov)
    total = tile_of(said.score(readers(read, kind=kind)), said.values).pair["total"]
    for writer in range(HEADS):
        for reader in range(HEADS):
            a, m = ov.matrix(writer), whole(read, reader, kind)
            assert float(total[writer, reader]) == pytest.approx(float((a @ m).norm() / a.norm() / m.norm()), abs=1e-12)
            one = Factors(m[:, :H], torch.linalg.lstsq(m[:, :H], m).solution) if kind == "K" else None
            left, right = (one.left, one.right) if one else (read.left[reader], read.right[reader])
            p = ov.right[writer] @ left
            grams = ov.left[writer].T @ ov.left[writer], right @ right.T
            square = torch.trace(p.T @ grams[0] @ p @ grams[1])
            assert float(total[writer, reader]) == pytest.approx(float(square.sqrt() / a.norm() / m.norm()), abs=1e-9)


def test_planted_orthogonal_and_ceiling():
    read = heads(name="read")
    spectrum = readers(read).spectrum
    u, s, _ = torch.linalg.svd(read.matrix(1))
    assert torch.allclose(spectrum[1], s[:H], atol=1e-12)
    rows = torch.stack([u[:, 0], u[:, 3], u[:, -1]])
    found = Writers(rows[None], torch.ones(1, 3)).score(readers(read))[0, :, 1]
    assert torch.allclose(found, torch.stack([s[0], s[3], 0 * s[0]]) / s.norm(), atol=1e-12)
    other = writers(heads(name="ov")).score(readers(read))
    assert bool((other.amax((0, 1)) <= spectrum[:, 0] / spectrum.norm(dim=1) + 1e-12).all())


def test_a_random_direction_scores_one_over_n_in_the_mean():
    read = readers(heads(name="read"))
    basis = torch.linalg.qr(
        draw(D, D, name="basis")
    ).Q.mT  # any orthonormal basis: its mean is the mean over the sphere
    found = Writers(basis[None], torch.ones(1, D)).score(read)[0]
    assert torch.allclose(D * found.square().mean(0), torch.ones(HEADS, dtype=torch.float64), atol=1e-12)
    rows = draw(4000, D, name="sphere")
    found = Writers((rows / rows.norm(dim=1, keepdim=True))[None], torch.ones(1, 4000)).score(read)[0]
    assert torch.allclose(D * found.square().mean(0), torch.ones(HEADS, dtype=torch.float64), atol=0.05)


@pytest.mark.parametrize("tile", [1, 5 * HEADS * H * 8, 1 << 20])
def test_tiles_of_any_size_give_the_same(tile):
    said, read = writers(heads(name="ov")), readers(heads(name="read"))
    assert torch.allclose(said.score(read, tile=tile), said.score(read), atol=1e-14)


@pytest.mark.parametrize("groups", [2, 1])
@pytest.mark.parametrize("kind", ["K", "V"])
def test_shared_keys_and_values_are_multiplied_once(groups, kind):
    said = writers(heads(name="ov"))
    shared = heads(groups, name="shared")
    given = shared.T if kind == "K" else shared  # the side that is shared is what the reader multiplies first
    apart, together = readers(given, HEADS, kind), readers(given, groups, kind)
    assert together.turn is not None and together.base.shape == (D, groups, H) and apart.turn is None
    assert torch.allclose(apart.spectrum, together.spectrum, atol=1e-12)
    assert torch.allclose(said.score(apart), said.score(together), atol=1e-13)
    short = [said.to(torch.float32).score(one.to(torch.float32)).double() for one in (apart, together)]
    assert float((short[0] - short[1]).abs().max()) < 1e-7 * 4
    assert float((short[1] - said.score(apart)).abs().max()) < 1e-6


def test_heads_that_do_not_share_are_not_taken_for_sharing():
    with pytest.raises(BadInput, match="4 heads in 2 groups do not share"):
        moved(heads(name="ov"), d_model=D, groups=2)


@pytest.mark.parametrize("kind", ["Q", "K", "V"])
def test_the_row_of_a_constant_is_not_written_to(kind):
    """With biases M has a row for the constant 1, which nothing writes: it adds nothing to the score and is in no norm."""
    read = heads(name="read")
    row = draw(HEADS, 1, H, name="bias")
    left = torch.cat([read.left, row], dim=1)
    right = read.right if kind == "V" else torch.cat([read.right, row.mT], dim=2)
    said = writers(heads(name="ov"))
    found = said.score(readers(Factors(left, right), kind=kind))
    for reader in range(HEADS):
        m = left[reader] @ right[reader]
        m = (m.T if kind == "K" else m)[:D]
        want = (said.directions @ m).norm(dim=-1) / m.norm()
        assert torch.allclose(found[:, :, reader], want, atol=1e-12)


def test_one_dimension_a_head():
    ov, read = heads(h=1, name="ov"), heads(h=1, name="read")
    said = writers(ov)
    tile = tile_of(said.score(readers(read)), said.values)
    want = torch.stack([(ov.right[:, 0] @ read.left[n, :, 0]).abs() / read.left[n].norm() for n in range(HEADS)], dim=1)
    want /= ov.right.norm(dim=(1, 2))[:, None]
    assert torch.allclose(tile.pair["best"], want, atol=1e-12) and torch.allclose(tile.pair["total"], want, atol=1e-12)
    assert bool(tile.z.isnan().all()) and bool(tile.pair["sd"].isnan().all()) and tile.alike == 0


def test_zero_heads_and_missing_components_have_no_score():
    ov, read = heads(name="ov"), heads(name="read")
    ov.right[1], read.left[2] = 0.0, 0.0
    ov.right[3, 4:] = ov.right[3, :2]  # rank 4
    said = writers(ov)
    for kind in ("Q", "K", "V"):
        tile = tile_of(said.score(readers(read, kind=kind)), said.values)
        known = tile.scores.isfinite()
        assert not bool(known[1].any() or known[:, :, 2].any() or known[3, 4:].any())
        assert int(known.sum()) == (2 * H + 4) * 3
        for name in ("total", "best", "mean", "sd", "best_z"):
            assert torch.equal(tile.pair[name].isfinite(), known.any(1)), name
        assert torch.equal(tile.pair["best_component"] >= 0, known.any(1))
    want = (ov.matrix(3) @ read.matrix(0)).norm() / ov.matrix(3).norm() / read.matrix(0).norm()
    assert float(tile.pair["total"][3, 0]) == pytest.approx(float(want), abs=1e-9)


def test_a_low_rank_layer_reads_as_its_full_matrix_does():
    read = heads(name="read")
    read.right[1, 3:] = 0.0
    said = writers(heads(name="ov"))
    want = (said.directions @ read.matrix(1)).norm(dim=-1) / read.matrix(1).norm()
    assert torch.allclose(said.score(readers(read, kind="V"))[:, :, 1], want, atol=1e-12)


def test_z_leaves_the_component_out():
    scores = draw(2, 5, 3, name="scores").abs()
    scores[0, 4] = torch.nan
    tile = tile_of(scores, torch.tensor([[1.0, 1, 1, 1, 0], [1, 1, 1, 1, 1]]))
    for head, count in ((0, 4), (1, 5)):
        for component in range(count):
            others = scores[head, [i for i in range(count) if i != component]]
            want = (scores[head, component] - others.mean(0)) / others.std(0)
            assert torch.allclose(tile.z[head, component], want, atol=1e-10)
        assert torch.allclose(tile.pair["mean"][head], scores[head, :count].mean(0))
        assert torch.allclose(tile.pair["sd"][head], scores[head, :count].std(0))
        best, index = scores[head, :count].max(0)
        assert torch.equal(tile.pair["best"][head], best) and torch.equal(tile.pair["best_component"][head], index)
        assert torch.equal(tile.pair["best_z"][head], tile.z[head].gather(0, index[None])[0])


def test_components_that_all_score_alike_have_no_z_and_are_counted():
    scores = torch.full((1, 6, 2), 0.3, dtype=torch.float64)
    scores[0, 2, 1] = 0.9
    tile = tile_of(scores, torch.ones(1, 6))
    assert tile.alike == 7 and int(tile.z.isfinite().sum()) == 5  # beside one that differs, the others have a spread


def test_numbers_that_are_not_finite_are_never_scored_silently():
    read = readers(heads(name="read"))
    said = writers(heads(name="ov"))
    said.directions[0, 0, 0] = torch.nan
    with pytest.raises(BadInput, match="scores are not finite"):
        said.score(read)
    assert bool(said.score(read.unread()).isnan().all()) and not bool(read.unread().known.any())
    broken = Readers(read.base.clone(), None, read.spectrum)
    broken.base[0, 2, 0] = torch.inf
    with pytest.raises(BadInput, match="scores are not finite"):
        writers(heads(name="ov")).score(broken)


def test_components_are_those_of_the_decomposition():
    ov = heads(name="ov")
    ov.right[3, 4:] = ov.right[3, :2]
    said, parts = writers(ov), components(ov)
    assert torch.equal(said.known, parts.values > 0) and torch.allclose(said.values, parts.values, atol=1e-13)
    alike = (said.directions * parts.write.nan_to_num(0.0)).sum(-1).abs()
    assert torch.allclose(alike, said.known.double(), atol=1e-12) and float(said.directions[3, 4:].abs().max()) == 0


@pytest.mark.parametrize("groups", [HEADS, 2])
def test_one_head_and_one_component_alone(groups):
    shared = heads(groups, name="shared")
    said, read = writers(heads(name="ov")), readers(shared, groups, "V")
    every = said.score(read)
    for head in range(HEADS):
        assert torch.allclose(said.only(2, 3).score(read.only(head)), every[2:3, 3:4, head : head + 1], atol=1e-13)


def test_the_strongest_do_not_depend_on_the_order_in_which_they_come():
    shape = (2, 3, 2, 4, 3, 2)  # kind, layer, head, component, reader layer, reader head
    scores = (draw(*shape, name="top") * 2).round()  # many ties
    scores[0, 1, 0, 2] = torch.nan
    tiles = [(kind, early, late) for kind in range(2) for late in range(3) for early in range(late)]
    lists = []
    for order in (tiles, tiles[::-1]):
        top = Top(7, shape)
        for kind, early, late in order:
            tile = scores[kind, early, :, :, late]
            top.offer(tile, (kind, early, late), tile + 1)
        lists.append(top)
    first, second = lists
    assert np.array_equal(first.ids, second.ids) and np.array_equal(first.values[0], first.keys + 1)
    known = [float(x) for kind, early, late in tiles for x in scores[kind, early, :, :, late].flatten() if x == x]
    assert first.keys.tolist() == sorted(known, reverse=True)[:7]
    assert all(
        float(scores[place]) == key
        for *place, key in zip(*first.places(), first.keys, strict=True)
        for place in [tuple(place)]
    )
    together = Top(7, shape)  # two layers of writers in one tile
    together.offer(scores[1, :2, :, :, 2].flatten(0, 1), (1, 0, 2))
    apart = Top(7, shape)
    for early in range(2):
        apart.offer(scores[1, early, :, :, 2], (1, early, 2))
    assert np.array_equal(together.ids, apart.ids)
    one = Top(7, shape)  # and a head at a time
    for early in range(2):
        for head in range(2):
            one.offer(scores[1, early, head : head + 1, :, 2], (1, early, 2), first=head)
    assert np.array_equal(one.ids, apart.ids)
