"""Cuts, slices and files, each against doing it the plain way with everything in one place."""

import pytest
import torch

from interp.core.artifact import read_artifact, write_artifact
from interp.core.dictionary import Dictionary, DictionaryConfig, View
from interp.core.errors import ArtifactError, BadInput, RankLost
from interp.core.seed import generator
from interp.train.distributed import Parallel, Sliced, Slices, write

from .world import together


def scores(dtype, rows=6, latents=40):
    """Scores with ties, zeros and negative ones."""
    draw = torch.randn(rows, latents, generator=generator(0, "scores"), dtype=torch.float64)
    return (draw * 4).round().div(4).to(dtype)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("count", [1, 7, 30, 10_000])
def test_the_cut_is_that_of_sorting(dtype, count):
    values = scores(dtype)
    positive = values[values > 0].double().sort(descending=True).values
    expected = positive[min(count, len(positive)) - 1]
    cut, ties = Parallel.none().cut(values, count)
    assert cut == float(expected)
    assert int((values.double() > cut).sum()) + ties == min(count, len(positive))


def test_of_tiny_and_huge_numbers_too():
    values = torch.tensor([1e-45, 3e38, 1e-38, 2.0, torch.inf, 0.0, -1.0])
    falling = [torch.inf, 3e38, 2.0, 1e-38, 1e-45]
    for place, value in enumerate(torch.tensor(falling).tolist()):
        assert Parallel.none().cut(values, place + 1) == (value, 1)
    assert Parallel.none().cut(-values, 1) == (1.0, 1) and Parallel.none().cut(torch.zeros(0), 3) == (0.0, 0)
    with pytest.raises(BadInput, match="at least one"):
        Parallel.none().cut(values, 0)


def choose(parallel, by):
    """What of the scores each process keeps: of its rows, or of its latents."""
    found = {}
    for count in (1, 20, 47, 10_000):
        mine = scores(torch.float32).tensor_split(parallel.size, dim=0 if by == "rows" else 1)[parallel.rank]
        cut, ties = parallel.cut(mine, count)
        found[count] = (cut, int((mine > cut).sum()) + ties)
    mine = scores(torch.float32).tensor_split(parallel.size, dim=1)[parallel.rank]
    values, ties = parallel.row_cut(mine, 5)
    kept = (mine > values[:, None]).sum(1) + ties
    own = scores(torch.float32)
    return (
        found,
        values,
        kept,
        parallel.total(len(own) + parallel.rank),
        parallel.seed(parallel.rank + 7),
        parallel.part(5),
    )


def test_cuts_over_processes_keep_as_many_as_one_process_does():
    values = scores(torch.float32)
    positive = values[values > 0].sort(descending=True).values
    for by, latents in (("rows", 1), ("latents", 3)):
        found = together(choose, by, size=3, latents=latents)
        for count in (1, 20, 47, 10_000):
            wanted = min(count, len(positive))
            assert {one[0][count][0] for one in found} == {float(positive[wanted - 1])}
            assert sum(one[0][count][1] for one in found) == wanted
        if latents == 1:
            assert [one[3] for one in found] == [21] * 3 and [one[5] for one in found] == [(0, 1), (1, 3), (3, 5)]
            continue
        best = values.clamp(min=0).topk(5, dim=1).values
        assert all(torch.equal(one[1], best[:, -1]) for one in found)
        assert torch.equal(sum(one[2] for one in found), (best > 0).sum(1))
        assert [one[4] for one in found] == [7] * 3


def disagree(parallel):
    parallel.same({"seed": parallel.rank}, "seeds")


def test_different_commands_are_refused_by_name():
    assert all(
        isinstance(e, RankLost) and "different seeds: rank 0 differs from 1" in str(e) for e in together(disagree)
    )


def test_what_torchrun_did_not_say_is_refused(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "4")
    monkeypatch.delenv("RANK", raising=False)
    with pytest.raises(BadInput, match="RANK"):
        Parallel.from_environment()
    with pytest.raises(BadInput, match="divisor of 4"):
        Parallel.from_environment(latents=3)


VIEWS = (View("a", width=3, latents=(0, 20)), View("b", width=5, latents=(8, 30)))
CONFIG = DictionaryConfig(
    30, VIEWS, VIEWS, k=2, nested=(14, 30), groups=(("one", 8), ("both", 12), ("two", 10)), centred=False
)


@pytest.mark.parametrize("size", [1, 2, 4])
def test_slices_are_all_of_it_and_nothing_twice(size):
    slices = Slices(CONFIG, size)
    ids = [slices.ids(rank) for rank in range(size)]
    assert torch.equal(torch.cat(ids).sort().values, torch.arange(30))
    assert all(torch.equal(one, one.sort().values) for one in ids)
    for rank in range(size):
        config = slices.config(rank)
        assert config.latents == len(ids[rank]) and sum(count for _, count in config.groups) == config.latents
        for whole, mine in zip(CONFIG.writes, config.writes, strict=True):
            low, high = mine.latents
            inside = (ids[rank] >= whole.latents[0]) & (ids[rank] < whole.latents[1])
            assert inside.nonzero().flatten().tolist() == list(range(low, high))
        assert config.nested == tuple(int((ids[rank] < width).sum()) for width in CONFIG.nested)
        for name, span in {"encoders.0": (0, 20), "decoders.1": (8, 30), "b_enc": (0, 30)}.items():
            whole = torch.arange(span[0], span[1])
            assert slices.pieces(rank)[name].of(whole).tolist() == [
                i for i in ids[rank].tolist() if span[0] <= i < span[1]
            ]
    parts = [slices.piece(rank, (8, 30)).of(torch.arange(100, 122)) for rank in range(size)]
    assert torch.equal(slices.join(parts, (8, 30)), torch.arange(100, 122))


def test_groups_that_are_too_small_are_refused():
    with pytest.raises(BadInput, match="fewer than the 7 processes"):
        Slices(CONFIG, 7)


def code(parallel, folder):
    """Codes and reconstructions of a saved dictionary whose latents are shared, and what it looks like when it is saved again."""
    mine = Sliced.load(folder, parallel)
    x = {"a": torch.randn(2, 9, 3, generator=generator(0, "a")), "b": torch.randn(2, 9, 5, generator=generator(0, "b"))}
    codes = mine.encode(x)
    mine.save(folder.with_name("again"))
    return codes, mine.decode(codes), mine.decode(mine.codes({name: rows[0] for name, rows in x.items()}))


@pytest.mark.parametrize("activation", ["topk", "jumprelu"])
def test_a_shared_dictionary_codes_as_the_whole(tmp_path, activation):
    from dataclasses import replace

    whole = Dictionary.initialise(replace(CONFIG, activation=activation), norm=1.0)
    whole.save(tmp_path / "whole")
    found = together(code, tmp_path / "whole", latents=2)
    x = {"a": torch.randn(2, 9, 3, generator=generator(0, "a")), "b": torch.randn(2, 9, 5, generator=generator(0, "b"))}
    codes = whole.encode(x)
    slices = Slices(whole.config, 2)
    for rank, (mine, decoded, sparse) in enumerate(found):
        assert torch.allclose(mine, codes[..., slices.ids(rank)], atol=1e-6)
        for name, rows in whole.decode(codes).items():
            assert torch.allclose(decoded[name], rows, atol=1e-6) and torch.allclose(sparse[name], rows[0], atol=1e-6)
    again = Dictionary.load(tmp_path / "again")
    assert again.digest == whole.digest and again.config == whole.config


def spoiled(parallel, folder):
    """Process 1 has another number of rows than it should."""
    slices = Slices(CONFIG, 2)
    rows = len(slices.piece(parallel.rank)) - parallel.rank
    write(parallel, folder, {"b_enc": torch.zeros(rows)}, {}, {"b_enc": slices.piece(parallel.rank)}, kind="test")


def unwritable(parallel, folder):
    slices = Slices(CONFIG, 2)
    from interp.train.distributed.files import _Joint

    if parallel.rank == 1:

        def full(self, path):
            raise OSError(28, "No space left on device")

        _Joint._write = full
    write(
        parallel,
        folder,
        {"b_enc": torch.zeros(len(slices.piece(parallel.rank)))},
        {},
        {"b_enc": slices.piece(parallel.rank)},
        kind="test",
    )


def test_what_one_process_cannot_write_nobody_has_written(tmp_path):
    found = together(unwritable, tmp_path / "a", latents=2)
    assert all(isinstance(error, ArtifactError) for error in found) and "No space left" in str(found[1])
    assert "another process" in str(found[0]) and not list(tmp_path.iterdir())
    write_artifact(tmp_path / "a", {"b_enc": torch.ones(30)}, {}, kind="test")
    found = together(spoiled, tmp_path / "a", latents=2)  # it is there, and one of them has something else
    assert all(isinstance(error, ArtifactError) for error in found)
    assert torch.equal(read_artifact(tmp_path / "a").tensors["b_enc"], torch.ones(30))
